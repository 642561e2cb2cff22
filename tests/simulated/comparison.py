"""Compare what a computation gives on the simulated device with what it gives on the CPU."""

import dataclasses
import numbers
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

Run = Callable[[torch.device, torch.Generator], object]


def find_numbers(value: object, name: str = "result") -> Iterator[tuple[str, Tensor]]:
    """Yield all tensors and numbers within a result, with a name for each."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, numbers.Number):
        yield name, torch.tensor(float(value), dtype=torch.float64)  # type: ignore[arg-type]
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from find_numbers(part, f"{name}[{key!r}]")
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for place, part in enumerate(value):
            yield from find_numbers(part, f"{name}[{place}]")
    elif dataclasses.is_dataclass(value):
        for key, part in vars(value).items():
            yield from find_numbers(part, f"{name}.{key}")


def compare_devices(
    run: Run, sim: torch.device, *, tolerance: float = 1e-5, stay: bool = True
) -> None:
    """Raise AssertionError unless a computation gives the same numbers on the device as on the CPU,
    from generators of the same seed, and (with `stay`) leaves its tensors there.

    tolerance: relative and absolute, for kernels that add in another order on views.
    """
    here = dict(find_numbers(run(torch.device("cpu"), torch.Generator().manual_seed(1))))
    there = dict(find_numbers(run(sim, torch.Generator(sim).manual_seed(1))))
    assert here.keys() == there.keys()
    for name, wanted in here.items():
        found = there[name]
        assert not stay or not found.dim() or found.device == sim, f"{name} is on {found.device}"
        torch.testing.assert_close(
            found.detach().cpu(),
            wanted.detach(),
            rtol=tolerance,
            atol=tolerance,
            equal_nan=True,
            check_dtype=False,
            msg=lambda said, name=name: f"{name}: {said}",  # type: ignore[misc]
        )
