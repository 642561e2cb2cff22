"""Declare, summarise and compare the cases of the golden record."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

Numbers = dict[str, float | list[float]]
Recorded = Mapping[str, float | list[float]]


class Tolerance(NamedTuple):
    """A largest relative difference, and the reason for it.

    The differences seen were measured on one machine with AVX-512, between its own instructions,
    those of AVX2 (ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2; MKL_CBWR=AVX2) and older ones
    (ATEN_CPU_CAPABILITY=default with ONEDNN_MAX_CPU_ISA=SSE41 MKL_CBWR=COMPATIBLE, or with
    MKL_CBWR=SSE4_2).
    """

    rtol: float
    reason: str


class Case(NamedTuple):
    """A computation that returns a few numbers, and how well they repeat on another CPU."""

    run: Callable[[], Numbers]
    tolerance: Tolerance


CASES: dict[str, Case] = {}


def add(name: str, run: Callable[[], Numbers], tolerance: Tolerance) -> None:
    """Add a case to `CASES`. Raises ValueError if the name is taken."""
    if name in CASES:
        raise ValueError(f"case {name!r} came twice; names are unique; choose another")
    CASES[name] = Case(run, tolerance)


def case(tolerance: Tolerance) -> Callable[[Callable[[], Numbers]], Callable[[], Numbers]]:
    """Add the decorated function to `CASES` under its own name."""

    def declare(run: Callable[[], Numbers]) -> Callable[[], Numbers]:
        add(run.__name__, run, tolerance)
        return run

    return declare


def seeded(seed: int = 0) -> torch.Generator:
    """Return a new CPU generator with a seed."""
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Draw standard normal numbers of a shape, in float64 before they are rounded to a dtype."""
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64).to(dtype)


def uniform(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Draw numbers between 0 and 1 of a shape, in float64 before they are rounded to a dtype."""
    return torch.rand(*shape, generator=seeded(seed), dtype=torch.float64).to(dtype)


def summarise(x: Tensor, shown: int = 3) -> list[float]:
    """Return mean and standard deviation of x, and a few numbers of its first row."""
    flat = x.detach().double()
    moments = [flat.mean().item(), flat.std(correction=0).item()]
    row = flat[0].flatten()
    places = torch.linspace(0, len(row) - 1, min(shown, len(row))).round().long()
    return moments + row[places].tolist()


def difference(found: Recorded, recorded: Recorded) -> float:
    """Return the largest difference, relative to the largest number of each entry.

    An entry that is missing, of another length or not finite differs by infinity.

    >>> difference({"a": [1.0, 0.0]}, {"a": [1.0, 0.01]})
    0.01
    """
    if found.keys() != recorded.keys():
        return math.inf
    return max(_entry_difference(found[name], recorded[name]) for name in recorded)


def _entry_difference(found: float | list[float], recorded: float | list[float]) -> float:
    now = found if isinstance(found, list) else [found]
    then = recorded if isinstance(recorded, list) else [recorded]
    if len(now) != len(then):
        return math.inf
    if not all(map(math.isfinite, [*now, *then])):
        return math.inf
    scale = max(map(abs, then), default=0.0) or 1.0
    return max((abs(a - b) for a, b in zip(now, then, strict=True)), default=0.0) / scale
