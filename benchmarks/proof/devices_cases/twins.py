"""The same draws on every device, so that results can be compared number by number.

Seeded alike, the generators of a CPU and of a GPU draw different numbers. Here every draw that is
asked of a device's generator is made by a CPU generator of the same seed, its twin, and carried
over; all else is computed where it would be.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lowland.nets import boltzmann

PRODUCTS = ("aten::mm", "aten::bmm", "aten::addmm", "aten::convolution")


class Twins(TorchDispatchMode):
    """Inside: draws are those of CPU generators; `strays` counts products of CPU tensors, which a
    computation on another device has no reason to make; one example may size a net.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.strays: dict[str, int] = {}
        self._twins: dict[int, tuple[torch.Generator, torch.Generator]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        generator = next(
            (v for v in (*args, *kwargs.values()) if isinstance(v, torch.Generator)), None
        )
        if generator is None or generator.device.type == "cpu":
            self._watch(func, args)
            return func(*args, **kwargs)
        return self._draw(func, args, kwargs, generator)

    def _watch(self, func: Any, args: tuple[Any, ...]) -> None:
        """Count a product of CPU tensors."""
        name = func._schema.name
        if name in PRODUCTS and self.device.type != "cpu":
            tensors = [x for x in args if isinstance(x, Tensor) and x.dim() > 1]
            if len(tensors[0]) > 1 and all(
                x.device.type == "cpu" and x.dtype != torch.float64 for x in tensors
            ):
                self.strays[name] = self.strays.get(name, 0) + 1

    def _draw(self, func: Any, args: Any, kwargs: Any, generator: torch.Generator) -> Any:
        """Make a draw on the CPU; write it where the device's would stand."""
        twin = self._twin_of(generator)
        target = args[0] if args and isinstance(args[0], Tensor) else None
        lowered = [self._lower(value, generator, twin) for value in args]
        named = {key: self._lower(value, generator, twin) for key, value in kwargs.items()}
        drawn = func(*lowered, **named)
        if target is not None and func._schema.name.endswith("_"):
            return target.copy_(drawn)
        return drawn.to(generator.device)

    def _twin_of(self, generator: torch.Generator) -> torch.Generator:
        if id(generator) not in self._twins:
            made = torch.Generator().manual_seed(generator.initial_seed())
            self._twins[id(generator)] = generator, made  # kept, so that no id is used again
        return self._twins[id(generator)][1]

    def _lower(self, value: Any, generator: torch.Generator, twin: torch.Generator) -> Any:
        if value is generator:
            return twin
        if isinstance(value, Tensor):
            return value.cpu()
        if isinstance(value, torch.device):
            return torch.device("cpu")
        return value


def _draw_coins(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Draw Bernoulli variables as a device other than the CPU does."""
    p = torch.sigmoid(logits)
    return torch.empty_like(p).uniform_(generator=generator).lt_(p)


@contextmanager
def draw_alike(device: torch.device) -> Iterator[Twins]:
    """Let a device draw what the CPU draws, and the CPU draw as every other device does."""
    with ExitStack() as stack:
        for module in (boltzmann.units, boltzmann.visible, boltzmann.dbm, boltzmann.dbn):
            stack.enter_context(patch.object(module, "coins", _draw_coins))
        yield stack.enter_context(Twins(device))
