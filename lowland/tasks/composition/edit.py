"""Editing of points towards an attribute, and minimum-energy paths between two points.

*Editing* samples, or descends, a sum of three energies: of realistic points, of the attribute, and
of the distance to the original,

    E(x) + λ E_attr(x) + ‖x − x₀‖² / 2τ²

With an energy of noise the original is first given noise of a middle level, σ_0, and then denoised
under E(x, σ) + λ E_attr(x, σ): what is finer than σ_0 is drawn anew, what is coarser is kept.
Source: Meng et al. (2022), SDEdit, https://arxiv.org/abs/2108.01073

*Interpolation* is a path of lowest energy. On a minimum-energy path from one mode to another the
gradient has no part across the path,

    ∇E(x(s))^⊥ = 0

The string method finds one: every point takes a descent step, then all are spaced evenly along the
path again. Source: E, Ren & Vanden-Eijnden (2007), https://doi.org/10.1063/1.2720838; its relative,
the nudged elastic band: Jónsson, Mills & Jacobsen (1998),
https://doi.org/10.1142/9789812839664_0016
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lowland.devices import check_generator
from lowland.energy import (
    Energy,
    check_finite,
    check_gradient,
    check_points,
    energy_values,
    freeze,
    lift,
    noise_of,
    score_alone,
)
from lowland.energy.gradient import call
from lowland.energy.points import describe
from lowland.samplers import Sampler, normal_like
from lowland.samplers.kernel import CONTINUOUS, per_row
from lowland.scalars import MAX_STEPS, read_integer, read_number
from lowland.tasks.composition.compose import anneal_composed, sample_composed
from lowland.tasks.composition.guidance import bind_sigma
from lowland.tasks.generate import check_joint
from lowland.tasks.inverse.map import map_estimate
from lowland.tasks.inverse.operators import Identity
from lowland.tasks.inverse.posterior import UNINFORMATIVE_SIGMA, Likelihood
from lowland.tasks.settings import read_levels

MIN_TANGENT_LENGTH = 1e-30  # of a vector that is divided by its length


class EditResult(NamedTuple):
    """Edited points and their attribute energies.

    draws (D, B, *event): edited points, a single one by descent; attribute (D, B): their E_attr;
    before (B,): E_attr of the originals.
    """

    draws: Tensor
    attribute: Tensor
    before: Tensor


def edit(
    energy: Energy | Callable[..., Tensor],
    x: Tensor,
    attribute: Energy | Callable[..., Tensor],
    *,
    weight: float = 1.0,
    proximal_sigma: float | None = None,
    method: Literal["sample", "map"] = "sample",
    sigmas: Sequence[float] = (),
    generator: torch.Generator,
    sampler: Sampler | None = None,
    steps: int = 500,
    draws: int = 1,
    progress: Callable[[int], object] | None = None,
) -> EditResult:
    """Sample edits of points x (B, *event) from E + weight E_attr + ‖x' − x‖² / 2 proximal_sigma².

    energy, attribute: energies of x (`LabelGuidance` makes one of a classifier and a label);
    proximal_sigma: τ, how far an edit may move, None for any distance; method: "sample" runs chains
    from x, with an accept step unless `sampler` has none; "map" descends to one local minimum.
    sigmas: for an energy of noise, the levels from σ_0 down; an attribute that takes a noise level
    is bound to them too, and the last term is ‖x' − x‖² / 2 (τ² + σ²).

    Raises ValueError for a weight or proximal_sigma that is not above 0, points outside the domain,
    an energy of noise without levels, and different domains.

    >>> from lowland.targets import Gaussian
    >>> g, right = torch.Generator().manual_seed(0), lift(lambda x: -x[:, 0])
    >>> how = {"proximal_sigma": 1.0, "method": "map", "generator": g}
    >>> edit(Gaussian(), torch.zeros(1, 2), right, **how).draws.round(decimals=2)
    tensor([[[0.5000, 0.0000]]])
    """
    energy, attribute = lift(energy), lift(attribute)
    noisy = noise_of(energy) is not None
    tau = UNINFORMATIVE_SIGMA if proximal_sigma is None else proximal_sigma
    tau, weight = (
        read_number("proximal_sigma", tau, above=0),
        read_number("weight", weight, above=0),
    )
    draws, sigmas = read_integer("draws", draws, least=1), read_levels("sigmas", sigmas)
    fits = method == "sample" or (method == "map" and not noisy)
    if not fits or noisy != bool(sigmas):
        raise ValueError(
            f"edit was given {len(sigmas)} noise levels, method {method!r} and an energy of "
            f"{'noise' if noisy else 'x alone'}; levels belong to an energy of noise, which is "
            "sampled; correct them, or bind a level with energy.given(sigma)"
        )
    check_points(energy, x)
    check_generator(generator, x.device)
    check_joint(energy)
    if energy.domain.kind in CONTINUOUS:
        for part in (energy, attribute):
            check_gradient(bind_sigma(part, sigmas[0]) if sigmas else part, x)
    rows = torch.arange(len(x), device=x.device).repeat(draws)
    guide, originals = attribute.index_rows(rows), x[rows]
    if noisy:
        path = [
            energy.index_rows(rows).given(s)
            + weight * bind_sigma(guide, s)
            + Likelihood(Identity(), originals, math.hypot(tau, s))
            for s in sigmas
        ]
        start = originals + sigmas[0] * normal_like(originals, generator)
        found = anneal_composed(
            path, sigmas, start, steps, generator=generator, sampler=sampler, progress=progress
        ).x
        guide, attribute = bind_sigma(guide, sigmas[-1]), bind_sigma(attribute, sigmas[-1])
    elif method == "map":
        guided = energy.index_rows(rows) + weight * guide
        found = map_estimate(
            guided, Identity(), originals, tau, start=originals, steps=steps, progress=progress
        ).x
    else:
        proximity = Likelihood(Identity(), originals, tau)
        guided = energy.index_rows(rows) + weight * guide + proximity
        found = sample_composed(
            guided, originals, steps, generator=generator, sampler=sampler, progress=progress
        ).x
    after = energy_values(guide, found, batch_size=len(found)).view(draws, len(x))
    before = energy_values(attribute, x, batch_size=len(x))
    return EditResult(found.view(draws, *x.shape), after, before)


# ------------------------------------------------------------------------------------ interpolation


class Interpolation(NamedTuple):
    """A path of low energy between two points.

    points (P, B, *event): from one end to the other; energies (P, B): of the points; straight
    (P, B): energies of the straight line; barrier (B,): the highest energy on the path above that
    of the higher end.
    """

    points: Tensor
    energies: Tensor
    straight: Tensor
    barrier: Tensor


def interpolate(
    energy: Energy | Callable[..., Tensor],
    a: Tensor,
    b: Tensor,
    points: int = 9,
    *,
    steps: int = 500,
    step_size: float | None = None,
    progress: Callable[[int], object] | None = None,
) -> Interpolation:
    """Find a path of low energy from a to b (B, *event) by the string method; both ends stay fixed.

    points: P, on the path; a barrier between two of them is missed; steps: of descent, each of
    length step_size · |∇E|, at most half the distance between neighbours; step_size: unless given,
    adapted for each row. Of all paths on the way, the straight line among them, the one with the
    lowest maximum is returned; which of several barriers it crosses depends on the straight line.
    Points stay in a box domain.

    Raises ValueError for ends of different shapes, fewer than 3 points, points outside the domain
    or of non-finite energy, and a discrete domain. Source: E, Ren & Vanden-Eijnden (2007), the
    simplified string method, https://doi.org/10.1063/1.2720838

    >>> ring = lift(lambda x: 4 * (x.norm(dim=1) - 1).square())
    >>> found = interpolate(ring, torch.tensor([[-1.0, 0.1]]), torch.tensor([[1.0, 0.1]]), 15)
    >>> bool(found.straight.max() > 3), bool(found.energies.max() < 0.1)
    (True, True)
    """
    energy, steps = lift(energy), read_integer("steps", steps, least=0, most=MAX_STEPS)
    points = read_integer("points", points, least=3)
    if step_size is not None:
        step_size = read_number("step_size", step_size, above=0)
    _check_ends(energy, a, b)
    a, b = a.detach(), b.detach().to(a)
    check_gradient(energy, a)
    rows = torch.arange(len(a), device=a.device).repeat(points)
    t = torch.linspace(0, 1, points, dtype=a.dtype, device=a.device).view(-1, *[1] * a.dim())
    path, along = a + t * (b - a), energy.index_rows(rows)
    interior = energy.index_rows(rows[: (points - 2) * len(a)])

    straight = energy_values(along, path.flatten(0, 1), batch_size=len(rows))
    straight = lowest = straight.view(points, len(a))
    check_finite(straight[[0, -1]].T, "pairs of energies at the ends")
    best, size = path, torch.full_like(straight[0], step_size or 1.0, dtype=a.dtype)
    norm = torch.full_like(size, math.inf)
    with freeze(interior) as interior, freeze(along) as along:
        for _ in range(steps):
            score = score_alone(interior, path[1:-1].flatten(0, 1)).view(path[1:-1].shape)
            force = _project_across(path, score)
            norm_before, norm = norm, force.flatten(2).square().sum((0, 2)).sqrt()
            if step_size is None:
                size = torch.where(norm <= norm_before, 1.05 * size, 0.5 * size)
            moved = path[1:-1] + _cap_steps(path, size, force)
            path = _space_evenly(energy, torch.cat([path[:1], moved, path[-1:]]))
            with torch.no_grad():  # points were checked at the door: no device is waited for
                values = call(along, path.flatten(0, 1)).view(points, len(a)).to(lowest.dtype)
            lower = values.amax(0) < lowest.amax(0)
            best = torch.where(per_row(lower, a), path, best)
            lowest = torch.where(lower, values, lowest)
            if progress is not None:
                progress(1)
    barrier = lowest.amax(0) - torch.maximum(lowest[0], lowest[-1])
    return Interpolation(best, lowest, straight, barrier)


def _check_ends(energy: Energy, a: Tensor, b: Tensor) -> None:
    """Raise ValueError unless a path from a to b can be found."""
    tensors = isinstance(a, Tensor) and isinstance(b, Tensor)
    if not tensors or a.shape != b.shape or a.dim() < 2:
        raise ValueError(
            f"the ends are {describe(a)} and {describe(b)}; they need one shape (B, *event); "
            "correct them"
        )
    for end in (a, b):
        check_points(energy, end, sent=True)
    if energy.domain.kind not in ("real", "box"):
        raise ValueError(
            f"the domain is {energy.domain}; a path leads through real numbers or a box; use an "
            "energy of those"
        )


def _project_across(path: Tensor, v: Tensor) -> Tensor:
    """Remove from v (P − 2, B, *event) its part along the path, by central differences."""
    tangent = (path[2:] - path[:-2]).flatten(2)
    tangent = tangent / tangent.norm(dim=2, keepdim=True).clamp_min(MIN_TANGENT_LENGTH)
    along = (v.flatten(2) * tangent).sum(2, keepdim=True) * tangent
    return v - along.view(v.shape)


def _cap_steps(path: Tensor, size: Tensor, v: Tensor) -> Tensor:
    """Return size · v (P − 2, B, *event), at most half the mean distance of neighbours long."""
    step = size.view(1, -1, 1) * v.flatten(2)
    longest = (path[1:] - path[:-1]).flatten(2).norm(dim=2).mean(0).view(1, -1, 1) / 2
    ratio = longest / step.norm(dim=2, keepdim=True).clamp_min(MIN_TANGENT_LENGTH)
    return (step * ratio.clamp_max(1.0)).view(v.shape)


def _space_evenly(energy: Energy, path: Tensor) -> Tensor:
    """Move the points of a path (P, B, *event) to equal distances along it, inside the domain."""
    flat, last = path.flatten(2), len(path) - 1
    lengths = (flat[1:] - flat[:-1]).norm(dim=2).clamp_min(MIN_TANGENT_LENGTH)
    at = torch.cat([torch.zeros_like(lengths[:1]), lengths.cumsum(0)])
    share = torch.linspace(0, 1, len(path), dtype=path.dtype, device=path.device).unsqueeze(1)
    wanted = share * at[-1]
    left = torch.searchsorted(at.T.contiguous(), wanted.T.contiguous(), right=True).T
    left = (left - 1).clamp(0, last - 1)
    t = ((wanted - at.gather(0, left)) / lengths.gather(0, left)).clamp(0, 1).unsqueeze(2)
    index = left.unsqueeze(2).expand_as(flat)
    even = (1 - t) * flat.gather(0, index) + t * flat.gather(0, index + 1)
    even = energy.domain.reflect(even)[0]
    return torch.cat([path[:1], even[1:-1].view(path[1:-1].shape), path[-1:]])
