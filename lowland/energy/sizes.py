"""Read the sizes, flags and names from which an energy is built, before anything is allocated."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

import torch
from torch import Tensor, nn

from lowland.memory import memory_bound
from lowland.registry import suggest
from lowland.scalars import read_integer

MAX_LAYERS = 64  # of one list of layers: plain networks of more do not train


def read_sizes(
    what: str,
    values: object,
    *,
    least: int | None = 1,
    count: int | None = None,
    empty: bool = False,
) -> tuple[int, ...]:
    """Return a list, tuple, array or tensor of whole numbers as a tuple of plain ints.

    least: of each number, if bounded; count: how many there must be, any number from 1 to 64 unless
    given; empty: whether there may be none. Raises ValueError for anything else.

    >>> import numpy as np
    >>> read_sizes("hidden", np.array([64, 32]))
    (64, 32)
    """
    entries = _list(values)
    wanted = f"{count} whole numbers" if count else "a list of whole numbers"
    if entries is None or (count is not None and len(entries) != count):
        raise ValueError(
            f"{what} is {_show(values)}; it must be {wanted}; pass for example "
            f"{(64,) * (count or 2)}"
        )
    if len(entries) > MAX_LAYERS or not (entries or empty):
        raise ValueError(
            f"{what} has {len(entries)} numbers; {0 if empty else 1} to {MAX_LAYERS} are allowed; "
            "make the list shorter or longer"
        )
    return tuple(read_integer(f"{what}[{i}]", n, least=least) for i, n in enumerate(entries))


def read_flag(what: str, value: object) -> bool:
    """Return True or False, Python's or NumPy's. Raises ValueError for anything else.

    >>> read_flag("centered", True)
    True
    """
    if isinstance(value, bool) or type(value).__name__ in ("bool_", "bool"):
        return bool(value)
    raise ValueError(f"{what} is {_show(value)}; it must be True or False; pass one of them")


def read_choice(what: str, value: object, allowed: Iterable[str]) -> str:
    """Return a name that is one of those allowed. Raises ValueError for any other.

    >>> read_choice("norm", "rms", ("none", "rms"))
    'rms'
    """
    names = list(allowed)
    if isinstance(value, str) and value in names:
        return str(value)
    advice = suggest(value, names, "choose one") if isinstance(value, str) else "choose one"
    raise ValueError(f"{what} is {_show(value)}; it must be one of {', '.join(names)}; {advice}")


def read_numbers(what: str, values: object, dims: int | None = None) -> Tensor:
    """Return nested lists, arrays or tensors of finite numbers as a tensor in float64.

    dims: of the tensor, any number above 0 unless given. Raises ValueError for booleans, texts,
    complex numbers, NaN and infinity, rows of different lengths, and other numbers of dimensions.

    >>> read_numbers("mean", (0, 1), 1)
    tensor([0., 1.], dtype=torch.float64)
    """
    try:
        found = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        found = None
    if found is not None and found.numel() and found.dim() == (dims or max(found.dim(), 1)):
        real = found.dtype != torch.bool and not found.is_complex()
        if real and bool(found.isfinite().all()):
            exact = torch.as_tensor(values, dtype=torch.float64)  # not by way of the default dtype
            return exact.detach()
    wanted = {1: "a list of numbers", 2: "a list of lists of numbers, equally long"}
    raise ValueError(
        f"{what} is {_show(values)}; it must be {wanted.get(dims or 1, 'numbers')}, all of them "
        "finite; pass such numbers"
    )


def parameter_dtype(energy: nn.Module) -> torch.dtype:
    """Return the dtype of the first parameter of an energy; torch's default for none.

    >>> parameter_dtype(nn.Linear(2, 1).double())
    torch.float64
    """
    return next((p.dtype for p in energy.parameters()), torch.get_default_dtype())


@contextmanager
def build_in_float32() -> Iterator[None]:
    """Build networks in float32, as data of recipes are, whatever torch's default dtype is.

    >>> with build_in_float32():
    ...     layer = nn.Linear(2, 1)
    >>> layer.weight.dtype
    torch.float32
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def check_memory(name: str, numbers: int) -> None:
    """Raise ValueError if an energy of so many parameters is too large for this machine's memory.

    Training holds four of each: weight, gradient and the two moments of Adam.

    >>> check_memory("MLP", 10**6)
    """
    size, memory = numbers * torch.get_default_dtype().itemsize, memory_bound()
    if 4 * size > memory:
        raise ValueError(
            f"{name} of these sizes has {numbers:,} parameters or more, {size:,} bytes; training "
            f"holds four of each and this machine has {memory:,} bytes; make the sizes smaller"
        )


def check_allocation(
    what: str, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str = "cpu"
) -> None:
    """Raise ValueError if a tensor would take more bytes than the memory of its device.

    >>> check_allocation("draws", (10, 4, 2), torch.float32)
    """
    size, place = math.prod(shape) * dtype.itemsize, torch.device(device)
    memory = torch.cuda.mem_get_info(place)[1] if place.type == "cuda" else memory_bound()
    if size > memory:
        raise ValueError(
            f"{what} would take {size:,} bytes; this machine has {memory:,}; ask for fewer"
        )


def _list(values: object) -> Sequence[object] | None:
    """Return the entries of a list, tuple, or array of one dimension; None for other values."""
    if isinstance(values, Tensor):
        return values.tolist() if values.dim() == 1 else None
    if isinstance(values, (str, bytes, dict)) or not isinstance(values, Iterable):
        return None
    try:
        return list(islice(values, 1000))
    except TypeError:  # an array without dimensions
        return None


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
