"""Domains: the shape of one event and its support.

The domain is part of the energy and knows its walls: on a box, samplers reflect trajectories, which
keeps Metropolis-corrected samplers exact, because reflection preserves volume and
is its own inverse once the momentum is turned round.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any

import torch
from torch import Tensor

from lowland.scalars import read_integer, read_number

MAX_SIZE = 2**31  # of an axis, or values of a site


@dataclass(frozen=True)
class Domain:
    """Support and event shape of an energy, as `real`, `box`, `binary` and `categorical` build it.

    An empty shape stands for every event shape (as of a function lifted without a domain).

    kind: "real", "box", "binary" or "categorical"; shape: of one event, without the batch; lo, hi:
    the walls of a box; classes: the number of values of a categorical site (events then hold
    integers 0 ... classes-1).
    """

    kind: str
    shape: tuple[int, ...]
    lo: float = -inf
    hi: float = inf
    classes: int = 0

    def contains(self, x: Tensor) -> Tensor:
        """Tell which rows of x (B, *shape) lie in the support: a bool tensor (B,)."""
        if self.kind in ("real", "box"):
            inside = torch.isfinite(x) & (x >= self.lo) & (x <= self.hi)
        elif self.kind == "binary":
            inside = (x == 0) | (x == 1)
        else:
            inside = (x >= 0) & (x < self.classes) & (x == x.round())
        return inside.unsqueeze(-1).flatten(1).all(1)

    def reflect(self, x: Tensor, momentum: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Fold x back into the box as a billiard ball would travel; the momentum turns round once
        for each wall hit.

        On an unbounded domain both come back as they are. Any number of bounces is folded at once.
        """
        if self.kind != "box":
            return x, momentum
        width = self.hi - self.lo
        offset = torch.remainder(x - self.lo, 2 * width)
        back = offset > width
        folded = self.lo + torch.where(back, 2 * width - offset, offset)
        if momentum is not None:
            momentum = torch.where(back, -momentum, momentum)
        folded = folded.clamp(self.lo, self.hi)  # only removes the last rounding error
        return folded, momentum

    def project(self, x: Tensor) -> Tensor:
        """Return the nearest points of a box, every number clamped; x itself on other domains."""
        if self.kind != "box":
            return x
        return x.clamp(self.lo, self.hi)

    def elsewhere(self, x: Tensor) -> Tensor:
        """Move points (B, *shape) to other points of the support, in every number."""
        if self.kind == "real":
            return x + 1
        if self.kind == "box":
            width = self.hi - self.lo
            return self.lo + torch.remainder(x - self.lo + 0.37 * width, width)
        return torch.remainder(x + 1, self.hi + 1)

    def widen(self, margin: float) -> "Domain":
        """Return a box with its walls moved out by `margin`, and other domains as they are."""
        if self.kind != "box":
            return self
        return replace(self, lo=self.lo - margin, hi=self.hi + margin)

    def draw(
        self, count: int, generator: torch.Generator, *, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Draw starting points (count, *shape), uniform on bounded domains, standard normal on the
        real line; in torch's default dtype unless given.
        """
        dtype = dtype or torch.get_default_dtype()
        if not self.shape:
            raise ValueError(
                "the domain has no event shape to draw points of; it needs one; pass for example "
                "real(2)"
            )
        count = read_integer("count", count, least=0)
        shape, device = (count, *self.shape), generator.device
        if self.kind == "real":
            return torch.randn(shape, generator=generator, device=device, dtype=dtype)
        if self.kind == "box":
            u = torch.rand(shape, generator=generator, device=device, dtype=dtype)
            return self.lo + (self.hi - self.lo) * u
        high = max(self.classes, 2)  # binary domains name no number of classes
        return torch.randint(high, shape, generator=generator, device=device).to(dtype)

    def to_dict(self) -> dict[str, object]:
        """Return plain values for JSON, which `from_dict` reads; without infinite walls."""
        values: dict[str, object] = {"kind": self.kind, "shape": list(self.shape)}
        if self.kind != "real":
            values |= {"lo": self.lo, "hi": self.hi}
        if self.kind == "categorical":
            values["classes"] = self.classes
        return values

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "Domain":
        """Build a domain from the values that `to_dict` returned."""
        return Domain(**{**values, "shape": tuple(values["shape"])})


def _shape(sizes: tuple[int, ...], shape: Sequence[int] | None = None) -> tuple[int, ...]:
    """Return an event shape given as sizes one by one, or as one sequence called shape."""
    if shape is not None and sizes:
        raise ValueError(
            f"the sizes {sizes} came and shape = {shape}; an event has one shape; pass either"
        )
    shape = sizes if shape is None else tuple(shape)
    try:
        return tuple(read_integer("a size", size, least=1, most=MAX_SIZE) for size in shape)
    except ValueError:
        raise ValueError(
            f"the event shape is {shape}; it needs positive whole numbers; pass for example 2 or "
            "1, 28, 28"
        ) from None


def real(*sizes: int, shape: Sequence[int] | None = None) -> Domain:
    """Return the domain of all of R^shape.

    >>> real(2).kind
    'real'
    """
    return Domain("real", _shape(sizes, shape))


def box(lo: float, hi: float, *sizes: int, shape: Sequence[int] | None = None) -> Domain:
    """Return the closed box [lo, hi]^shape, of sizes one by one or of shape=(...).

    >>> box(0.0, 1.0, 1, 8, 8).reflect(torch.tensor([1.25]))[0].item()
    0.75
    >>> box(0, 1, shape=(3, 24, 24)) == box(0, 1, 3, 24, 24)
    True
    """
    try:
        low, high = read_number("lo", lo), read_number("hi", hi)
    except ValueError:
        low, high = 0.0, 0.0
    if not low < high:
        raise ValueError(
            f"the box is [{lo}, {hi}]; both walls must be finite and lo < hi; use real(...) "
            "without walls"
        )
    return Domain("box", _shape(sizes, shape), low, high)


def binary(*sizes: int, shape: Sequence[int] | None = None) -> Domain:
    """Return the domain {0, 1}^shape."""
    return Domain("binary", _shape(sizes, shape), 0.0, 1.0)


def categorical(classes: int, *sizes: int, shape: Sequence[int] | None = None) -> Domain:
    """Return the domain {0, ..., classes-1}^shape, one integer per site."""
    try:
        count = read_integer("classes", classes, least=2, most=MAX_SIZE)
    except ValueError:
        raise ValueError(
            f"a categorical domain has {classes!r} values; it needs at least 2; pass the number of "
            "classes"
        ) from None
    return Domain("categorical", _shape(sizes, shape), 0.0, float(count - 1), count)
