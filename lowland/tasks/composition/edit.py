"""Changing what is there: a picture moved towards an attribute, and a path of likely points between
two.

*Editing* is restoration in which the start is the measurement. What an edit shall keep, what it
shall gain and what it shall look like are three energies, and their sum is the law of the answer:

    E(x) + λ E_attr(x) + ‖x − x₀‖² / 2τ²

With an energy of noise the start is first buried to a middle level, σ_0, and dug out under E(x, σ)
+ λ E_attr(x, σ): what is finer than σ_0 is made anew, what is coarser is kept. Source: Meng et al.
(2022), SDEdit, https://arxiv.org/abs/2108.01073

*Interpolation* is a path of lowest energy, not a straight line: on a pass from one valley to
another it is pushed nowhere but along itself,

    ∇E(x(s))^⊥ = 0,      ^⊥: across the path

The string method finds one: every point of the path takes a step downhill, then all are dealt out
evenly along it again. Source: E, Ren & Vanden-Eijnden (2007), https://doi.org/10.1063/1.2720838;
its relative, the nudged elastic band: Jónsson, Mills & Jacobsen (1998),
https://doi.org/10.1142/9789812839664_0016
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lowland.energy import (
    Energy,
    check_finite,
    check_points,
    energy_values,
    frozen,
    lift,
    noise_of,
    score_alone,
)
from lowland.samplers import Sampler, normal_like
from lowland.samplers.kernel import per_row
from lowland.tasks.composition.compose import anneal_composed, sample_composed
from lowland.tasks.composition.guidance import at_level
from lowland.tasks.generate import check_whole
from lowland.tasks.inverse.map import map_estimate
from lowland.tasks.inverse.operators import Identity
from lowland.tasks.inverse.posterior import Likelihood

NOWHERE = 1e6  # a proximal_sigma so weak that it is none


class EditResult(NamedTuple):
    """draws (D, B, *event): edited points, one draw by descent; attribute (D, B): E_attr of them;
    before (B,): of the start.
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
    """Move points x (B, *event) towards an attribute: draws of E + weight E_attr + ‖x' − x‖² / 2
    pull², or its valley.

    energy, attribute: energies of x (`LabelGuidance` makes one of a classifier and a label); proximal_sigma: how
    far an edit may go, τ, None for as far as it likes; method: "sample" runs chains from x, with an
    accept step unless a sampler is named that has none, "map" goes straight down (one answer,
    and no telling how sure). sigmas: for an energy of noise, the levels from σ_0, to which x is
    buried, down; an attribute that takes a condition is bound to them too, and the proximal_sigma is ‖x' −
    x‖² / 2 (τ² + σ²).

    Raises ValueError for a weight or proximal_sigma that is not above 0, points outside the domain, an energy
    of noise without levels, and different domains.

    >>> from lowland.targets import Gaussian
    >>> g, right = torch.Generator().manual_seed(0), lift(lambda x: -x[:, 0])
    >>> edit(Gaussian(), torch.zeros(1, 2), right, proximal_sigma=1.0, method="map", generator=g).draws.round(decimals=2)
    tensor([[[0.5000, 0.0000]]])
    """
    energy, attribute = lift(energy), lift(attribute)
    noisy, far = noise_of(energy) is not None, NOWHERE if proximal_sigma is None else proximal_sigma
    fits = method == "sample" if noisy else method in ("sample", "map")
    sizes = 0 < weight < math.inf and 0 < far < math.inf and isinstance(draws, int) and draws >= 1
    if not (sizes and fits) or noisy != bool(len(sigmas)):
        raise ValueError(
            f"edit was given weight {weight}, proximal_sigma {proximal_sigma}, {draws} draws, {len(sigmas)} noise "
            f"levels, method {method!r} and an energy of {'noise' if noisy else 'x alone'}; "
            "weight, proximal_sigma and draws are above 0, and levels belong to an energy of noise, which "
            "is sampled; correct them, or bind a level with energy.given(sigma)"
        )
    check_points(energy, x)
    check_whole(energy)
    rows = torch.arange(len(x), device=x.device).repeat(draws)
    wanted, many = attribute.index_rows(rows), x[rows]
    if noisy:
        path = [
            energy.index_rows(rows).given(s)
            + weight * at_level(wanted, s)
            + Likelihood(Identity(), many, math.hypot(far, s))
            for s in sigmas
        ]
        start = many + sigmas[0] * normal_like(many, generator)
        found = anneal_composed(
            path, sigmas, start, steps, generator=generator, sampler=sampler, progress=progress
        ).x
        wanted, attribute = at_level(wanted, sigmas[-1]), at_level(attribute, sigmas[-1])
    else:
        whole = energy.index_rows(rows) + weight * wanted
        if method == "map":
            found = map_estimate(
                whole, Identity(), many, far, start=many, steps=steps, progress=progress
            ).x
        else:
            whole = whole + Likelihood(Identity(), many, far)
            found = sample_composed(
                whole, many, steps, generator=generator, sampler=sampler, progress=progress
            ).x
    after = energy_values(wanted, found, batch_size=len(found)).view(draws, len(x))
    return EditResult(
        found.view(draws, *x.shape), after, energy_values(attribute, x, batch_size=len(x))
    )


# ------------------------------------------------------------------------------------ interpolation


class Interpolation(NamedTuple):
    """points (P, B, *event) from one end to the other and their energies (P, B); straight (P, B):
    those of the straight line.

    barrier (B,): the highest energy on the path above that of the higher end, 0 where there is
    nothing to cross.
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
    """A path of low energy from a to b (B, *event), both ends included and left as they are.

    points: P, on the path; it is as fine as they are: a pass between two of them is not seen.
    steps: of descent, each of length step_size · |∇E|, but never further than half the distance
    between neighbours; unless given, a step size is found for each row that neither crawls nor
    jumps. Of all paths on the way, the straight line among them, that of the lowest peak is
    returned, so its peak is never above the straight line's; which pass is found, of several,
    depends on that line. Points stay in a box domain.

    Raises ValueError for ends of different shapes, fewer than 3 points, points outside the domain
    or of no energy, and a domain without paths. Source: E, Ren & Vanden-Eijnden (2007), the
    simplified string method, https://doi.org/10.1063/1.2720838

    >>> ring = lift(lambda x: 4 * (x.norm(dim=1) - 1).square())
    >>> found = interpolate(ring, torch.tensor([[-1.0, 0.1]]), torch.tensor([[1.0, 0.1]]), 15)
    >>> bool(found.straight.max() > 3), bool(found.energies.max() < 0.1)
    (True, True)
    """
    energy = lift(energy)
    shapes = [tuple(getattr(end, "shape", ())) for end in (a, b)]
    whole = isinstance(points, int) and points >= 3 and isinstance(steps, int) and steps >= 0
    alike = shapes[0] == shapes[1] and len(shapes[0]) > 1
    if not (alike and whole) or not (step_size is None or 0 < step_size < math.inf):
        raise ValueError(
            f"ends of shape {shapes[0]} and {shapes[1]}, {points} points, {steps} steps and step "
            f"size {step_size} were given; the ends need one shape (B, *event), and there must be "
            "3 points and 0 steps or more; correct them"
        )
    for end in (a, b):
        check_points(energy, end)
    if energy.domain.kind not in ("real", "box"):
        raise ValueError(
            f"the domain is {energy.domain}; a path leads through real numbers or a box; use an "
            "energy of those"
        )
    a, b = a.detach(), b.detach().to(a)
    wide, rows = [points - 2, *a.shape], torch.arange(len(a), device=a.device).repeat(points)
    t = torch.linspace(0, 1, points, dtype=a.dtype, device=a.device).view(-1, *[1] * a.dim())
    path, many = a + t * (b - a), energy.index_rows(rows)
    inner = energy.index_rows(rows[: (points - 2) * len(a)])

    def heights(path: Tensor) -> Tensor:
        return energy_values(many, path.flatten(0, 1), batch_size=len(rows)).view(points, len(a))

    straight = lowest = heights(path)
    check_finite(straight[[0, -1]].T, "pairs of energies at the ends")
    best, pace = (
        path,
        torch.full(
            (len(a),), 1.0 if step_size is None else step_size, dtype=a.dtype, device=a.device
        ),
    )
    before = torch.full_like(pace, math.inf)
    with frozen(energy):
        for _ in range(steps):
            score = score_alone(inner, path[1:-1].flatten(0, 1)).view(wide)
            across = score - _along(path, score)
            force = across.flatten(2).square().sum((0, 2)).sqrt()
            if step_size is None:
                pace = torch.where(force <= before, 1.05 * pace, 0.5 * pace)
            before = force
            path = _dealt(
                energy, torch.cat([path[:1], path[1:-1] + _capped(path, pace, across), path[-1:]])
            )
            found = heights(path)
            lower = found.amax(0) < lowest.amax(0)
            best = torch.where(per_row(lower, a), path, best)
            lowest = torch.where(lower, found, lowest)
            if progress is not None:
                progress(1)
    return Interpolation(
        best, lowest, straight, lowest.amax(0) - torch.maximum(lowest[0], lowest[-1])
    )


def _along(path: Tensor, v: Tensor) -> Tensor:
    """The part of v (P − 2, B, *event) along the path, whose direction is that from one neighbour
    to the other.
    """
    tangent = (path[2:] - path[:-2]).flatten(2)
    tangent = tangent / tangent.norm(dim=2, keepdim=True).clamp_min(1e-30)
    return ((v.flatten(2) * tangent).sum(2, keepdim=True) * tangent).view(v.shape)


def _capped(path: Tensor, pace: Tensor, v: Tensor) -> Tensor:
    """pace · v (P − 2, B, *event), no step longer than half the mean distance of neighbours."""
    step = pace.view(1, -1, 1) * v.flatten(2)
    most = (path[1:] - path[:-1]).flatten(2).norm(dim=2).mean(0).view(1, -1, 1) / 2
    return (step * (most / step.norm(dim=2, keepdim=True).clamp_min(1e-30)).clamp(max=1.0)).view(
        v.shape
    )


def _dealt(energy: Energy, path: Tensor) -> Tensor:
    """The points dealt out evenly along the broken line through them, row by row, inside the walls
    of a box.
    """
    flat = path.flatten(2)
    lengths = (flat[1:] - flat[:-1]).norm(dim=2).clamp_min(1e-30)
    at = torch.cat([torch.zeros_like(lengths[:1]), lengths.cumsum(0)])
    wanted = (
        torch.linspace(0, 1, len(path), dtype=path.dtype, device=path.device).unsqueeze(1) * at[-1]
    )
    left = (
        torch.searchsorted(at.T.contiguous(), wanted.T.contiguous(), right=True)
        .T.sub(1)
        .clamp(0, len(path) - 2)
    )
    share = ((wanted - at.gather(0, left)) / lengths.gather(0, left)).clamp(0, 1).unsqueeze(2)
    index = left.unsqueeze(2).expand_as(flat)
    even = (1 - share) * flat.gather(0, index) + share * flat.gather(0, index + 1)
    even = energy.domain.reflect(even)[0]
    return torch.cat([path[:1], even[1:-1].view(path[1:-1].shape), path[-1:]])
