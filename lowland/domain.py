"""Domains: the shape of one event and its support.

The domain is part of the energy. Samplers ask it where the walls are: on a box a trajectory is
reflected, which keeps Metropolis-corrected samplers exact, because reflection preserves volume and
is its own inverse once the momentum is turned round.
"""

from dataclasses import dataclass, replace
from math import inf, isfinite
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Domain:
    """Support and event shape of an energy. Build one with `real`, `box`, `binary` or
    `categorical`.

    An empty shape stands for every event shape (a function of x lifted without saying more).

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
        """Which rows of x (B, *shape) lie in the support: a bool tensor (B,)."""
        x = x.unsqueeze(1) if x.dim() == 1 else x
        if self.kind in ("real", "box"):
            inside = torch.isfinite(x) & (x >= self.lo) & (x <= self.hi)
        elif self.kind == "binary":
            inside = (x == 0) | (x == 1)
        else:
            inside = (x >= 0) & (x < self.classes) & (x == x.round())
        return inside.flatten(1).all(1)

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
        return folded.clamp(
            self.lo, self.hi
        ), momentum  # the clamp only removes the last rounding error

    def project(self, x: Tensor) -> Tensor:
        """Return the nearest points of a box, every number clamped; x itself on other domains."""
        return x.clamp(self.lo, self.hi) if self.kind == "box" else x

    def elsewhere(self, x: Tensor) -> Tensor:
        """Points (B, *shape) moved to other points of the support, every number of them."""
        if self.kind == "real":
            return x + 1
        if self.kind == "box":
            return self.lo + torch.remainder(
                x - self.lo + 0.37 * (self.hi - self.lo), self.hi - self.lo
            )
        return torch.remainder(x + 1, self.hi + 1)

    def widen(self, margin: float) -> "Domain":
        """A box with its walls moved out by `margin` on either side; other domains as they are."""
        return (
            replace(self, lo=self.lo - margin, hi=self.hi + margin) if self.kind == "box" else self
        )

    def draw(
        self, count: int, generator: torch.Generator, *, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Starting points (count, *shape): uniform on bounded domains, standard normal on the real
        line.
        """
        if not self.shape:
            raise ValueError(
                "the domain has no event shape to draw points of; it needs one; pass for example "
                "real(2)"
            )
        shape, device = (count, *self.shape), generator.device
        if self.kind == "real":
            return torch.randn(shape, generator=generator, device=device, dtype=dtype)
        if self.kind == "box":
            u = torch.rand(shape, generator=generator, device=device, dtype=dtype)
            return self.lo + (self.hi - self.lo) * u
        high = 2 if self.kind == "binary" else self.classes
        return torch.randint(high, shape, generator=generator, device=device).to(dtype)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` reads them back. Infinite walls are left out."""
        walls = {"lo": self.lo, "hi": self.hi} if self.kind != "real" else {}
        classes = {"classes": self.classes} if self.kind == "categorical" else {}
        return {"kind": self.kind, "shape": list(self.shape), **walls, **classes}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "Domain":
        """The inverse of `to_dict`."""
        return Domain(**{**values, "shape": tuple(values["shape"])})


def _shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    if not all(isinstance(n, int) and n > 0 for n in shape):
        raise ValueError(
            f"the event shape is {shape}; it needs positive whole numbers; pass for example 2 or "
            "1, 28, 28"
        )
    return tuple(shape)


def real(*shape: int) -> Domain:
    """All of R^shape.

    >>> real(2).kind
    'real'
    """
    return Domain("real", _shape(shape))


def box(lo: float, hi: float, *shape: int) -> Domain:
    """The closed box [lo, hi]^shape.

    >>> box(0.0, 1.0, 1, 8, 8).reflect(torch.tensor([1.25]))[0].item()
    0.75
    """
    if not (isfinite(lo) and isfinite(hi) and lo < hi):
        raise ValueError(
            f"the box is [{lo}, {hi}]; both walls must be finite and lo < hi; use real(...) "
            "without walls"
        )
    return Domain("box", _shape(shape), float(lo), float(hi))


def binary(*shape: int) -> Domain:
    """{0, 1}^shape."""
    return Domain("binary", _shape(shape), 0.0, 1.0)


def categorical(classes: int, *shape: int) -> Domain:
    """{0, ..., classes-1}^shape, one integer per site."""
    if classes < 2:
        raise ValueError(
            f"a categorical domain has {classes} values; it needs at least 2; pass the number of "
            "classes"
        )
    return Domain("categorical", _shape(shape), 0.0, float(classes - 1), classes)
