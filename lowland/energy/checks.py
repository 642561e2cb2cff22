"""The public door: what is refused, and in which words."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lowland.energy.algebra import Energy, Function, Sum, lift
from lowland.energy.gradient import check_shape


def check_energy(energy: Energy | Callable[..., Tensor], x: Tensor, c: Any = None) -> Energy:
    """The public door: lift a callable and make sure that it is an energy. Returns the Energy.

    Checks, on x (B, *event): floating point input of the domain's event shape inside its support, one number per point,
    same device and floating dtype, finite values, and independence: moving one row must not move the energy of another
    (batch norm in training mode and sums over the batch fail here). Weights, buffers and mode stay as they were.

    Raises ValueError in three clauses otherwise.

    >>> import torch
    >>> check_energy(lambda x: x.square().sum(), torch.ones(3, 2))
    Traceback (most recent call last):
        ...
    ValueError: the energy gave () for 3 points; it must give one number per point, shape (3,); sum over the event, ...
    """
    energy = lift(energy)
    check_points(energy, x)
    value = check_shape(_leaving_buffers(energy, x, c), x)
    check_values(value, x)
    check_independent(energy, x, c, value)
    return energy


def check_values(value: Tensor, x: Tensor) -> None:
    """Refuse energies that are not finite floating point numbers on the device of the points."""
    check_finite(value, "energies")
    if value.device != x.device or not value.is_floating_point():
        raise ValueError(
            f"energies are {value.dtype} on {value.device} for points on {x.device}; they must be floating point on the "
            f"device of the points; move the energy with .to(x.device)"
        )


WITNESSES = 8  # rows that suffice to see whether one moves another


def check_independent(energy: Energy, x: Tensor, c: Any = None, value: Tensor | None = None) -> None:
    """Refuse an energy in which moving the last point moves the energies of others.

    A few rows suffice, picked with their conditions by `energy.rows`; a plain function may hold rows that only it knows of and
    gets them all. value: the energies at x, if they are known.
    """
    if len(x) < 2:
        return
    plain = any(isinstance(part, Function) and not isinstance(part.function, nn.Module) for part in energy.modules())
    if not plain and c is None and len(x) > WITNESSES:
        index = torch.arange(len(x) - WITNESSES, len(x), device=x.device)
        energy, x, value = energy.rows(index), x[index], None
    value = _leaving_buffers(energy, x, c) if value is None else value
    moved = torch.cat([x[:-1], energy.domain.elsewhere(x[-1:])])
    again = _leaving_buffers(energy, moved, c)
    if not torch.allclose(value[:-1], again[:-1], rtol=1e-3, atol=1e-4):
        raise ValueError(
            "moving one point changed the energy of another; an energy treats every point by itself; put batch norm in "
            "eval mode or replace it, and sum over the event only"
        )


def _leaving_buffers(energy: Energy, x: Tensor, c: Any) -> Tensor:
    """Energies without a graph, in the module's present mode, its buffers put back as they were."""
    buffers = [(b, b.clone()) for b in energy.buffers()] if any(m.training for m in energy.modules()) else []
    with torch.no_grad():
        try:
            return energy(x) if c is None else energy(x, c)
        finally:
            for buffer, before in buffers:
                buffer.copy_(before)


def check_points(energy: Energy, x: Tensor) -> None:
    """Refuse points that the energy's domain cannot hold: dtype, event shape, non-finite values, outside the walls."""
    domain = energy.domain
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() < 1 or len(x) == 0:
        got = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"points came as {got}; a floating point tensor (B, *event) with B > 0 is needed; convert it")
    if domain.shape and tuple(x.shape[1:]) != domain.shape:
        raise ValueError(
            f"points have event shape {tuple(x.shape[1:])}; the energy takes {domain.shape}; reshape them, batch first"
        )
    check_finite(x, "points")
    outside = int((~domain.contains(x)).sum())
    if outside:
        raise ValueError(
            f"{outside} of {len(x)} points lie outside the domain; allowed is {domain}; clamp or rescale them first"
        )


def check_finite(values: Tensor, what: str) -> None:
    """Raise ValueError with a count if any row holds a non-finite number."""
    bad = int((~torch.isfinite(values)).flatten(1).any(1).sum()) if values.dim() > 1 else int((~values.isfinite()).sum())
    if bad:
        raise ValueError(f"{bad} of {len(values)} {what} are not finite; all must be; look for overflow or missing data")


def check_normalisable(energy: Energy) -> None:
    """Refuse −E on an unbounded domain: exp(E) has no normaliser there unless something confines it."""
    negative = isinstance(energy, Sum) and all(w <= 0 for w in energy.weights)
    if negative and energy.domain.kind == "real":
        raise ValueError(
            "a negated energy on an unbounded domain has no normaliser; it needs a confining partner or a box; "
            "add one, for example gaussian - energy, or use domain.box"
        )
