"""Conditional sampling: some numbers of a point given the others, from a joint energy.

Concatenate question and answer, as channels of an image or entries of a vector, and train one
energy E([x, y]) on the pairs. With x fixed it is the conditional energy,

    E(y | x) = E([x, y]) + log Z(x),      p(y | x) ∝ exp(−E([x, y])),

because the normaliser is the same for all y. So any part of a point may be the condition, and
sampling the rest is inpainting without noise (`ClampedEnergy`). Source: LeCun et al. (2006),
section 1.1, http://yann.lecun.com/exdb/publis/pdf/lecun-06.pdf

With an energy of noise, E([x, y], σ), samples go down the levels. At each, x has its share of the
noise, along one path of noise that ends at x itself,

    x_σ' = x + (σ'/σ)² (x_σ − x) + σ' √(1 − σ'²/σ²) ξ,

the distribution of the noise given the noise above. So every level is an energy of y alone,
E([x_σ, ·], σ), with chains that correct the step from the level above. An energy that was trained
with noise on y alone, E(y | x, σ) (`conditioning_channels` of NoiseUNet and DenoiserMLP), is given
x without noise at every level: sharper samples sooner, for that one condition.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from lowland.devices import check_generator
from lowland.energy import Energy, check_points, draw_start, freeze, lift, noise_of
from lowland.samplers import Sampler, normal_like, sde_dpm_solver
from lowland.scalars import MAX_STEPS, read_integer
from lowland.tasks.composition.compose import anneal_composed, sample_composed
from lowland.tasks.inverse.map import map_estimate
from lowland.tasks.inverse.operators import Identity, Mask
from lowland.tasks.inverse.posterior import UNINFORMATIVE_SIGMA, ClampedEnergy, Restoration
from lowland.tasks.inverse.split_gibbs import split_gibbs_sample
from lowland.tasks.settings import read_levels

BATCH_SIZE = 256  # samples of E(y | x, σ) that are drawn at a time

Method = Literal["sample", "map", "denoise"]
Progress = Callable[[int], object] | None


def conditional_sample(
    energy: Energy | Callable[..., Tensor],
    x: Tensor,
    known: Tensor,
    *,
    generator: torch.Generator,
    method: Method = "sample",
    sigmas: Sequence[float] = (),
    draws: int = 1,
    steps: int = 500,
    final: int = 50,
    sampler: Sampler | None = None,
    start: Tensor | None = None,
    progress: Progress = None,
) -> Restoration:
    """Sample the unknown numbers of x (B, *event) given the known ones, `draws` times per row.

    energy: of whole points; known: bool, True where x is given, broadcast to the event from the
    right (so (channels, 1, 1) selects channels); what x holds elsewhere is ignored. Known numbers
    come back unchanged, with standard deviation 0.

    For an energy of x alone: method "sample", `steps` of chains with an accept step unless
    `sampler` has none, or "map", `steps` of descent to one mode; both from start (B, *event), or
    draws of the domain. For an energy of noise E([x, y], σ): sigmas, its falling levels, among
    which steps are divided, and final steps in the last (`anneal_composed`; nothing is clamped to a
    box); or method "denoise", a few gradients per level (`split_gibbs_sample`), with a bias where x
    and y are as wide as the noise, but fine images sooner. For an energy E(y | x, σ) "denoise"
    takes one step per level (`sde_dpm_solver`), with no such bias.

    Raises ValueError for a mask that does not fit, holds everything, or is not the condition an
    energy was trained for, levels without an energy of noise, and descent with one.

    >>> from lowland.targets import Gaussian
    >>> both = Gaussian((0.0, 0.0), ((1.0, 0.8), (0.8, 1.0)))  # y given x is N(0.8 x, 0.36)
    >>> g, known = torch.Generator().manual_seed(0), torch.tensor([True, False])
    >>> x = torch.tensor([[2.0, 0.0]])
    >>> found = conditional_sample(both, x, known, generator=g, draws=500, steps=50)
    >>> bool((found.mean[0, 1] - 1.6).abs() < 0.2), bool((found.std[0, 1] - 0.6).abs() < 0.1)
    (True, True)
    """
    energy, sigmas = lift(energy), read_levels("sigmas", sigmas)
    draws, steps, final = (
        read_integer("each of draws, steps and final", count, least=0, most=MAX_STEPS)
        for count in (draws, steps, final)
    )
    noise = noise_of(energy)
    _check(energy, method, draws, sigmas, x, known)
    check_generator(generator, x.device)
    known = known.to(x.device)
    if noise is None:
        samples = _sample_plain(
            energy, x, known, method, draws, steps, sampler, start, generator, progress
        )
    elif method == "denoise" and noise.target_mask is None:
        mask = Mask(known)
        samples = split_gibbs_sample(
            energy,
            mask,
            mask.A(x),
            0.0,
            sigma_max=max(sigmas),
            sigma_min=min(sigmas),
            num_levels=len(sigmas),
            generator=generator,
            draws=draws,
            progress=progress,
        ).draws
    elif method == "denoise":
        samples = _sample_by_denoising(energy, x, known, sigmas, draws, generator, progress)
    else:
        rows = torch.arange(len(x), device=x.device).repeat(draws)
        given = Mask(known).A(x)[rows]
        levels = [given] * len(sigmas)
        if noise.target_mask is None:
            levels = _add_noise(given, sigmas, generator)
        joint = energy.index_rows(rows)
        path = [
            ClampedEnergy(joint.given(sigma), known, values)
            for sigma, values in zip(sigmas, levels, strict=True)
        ]
        begin = given + sigmas[0] * normal_like(given, generator)
        if noise.start is not None:
            begin = noise.start(len(rows), sigmas[0], generator)
        u = anneal_composed(
            path,
            sigmas,
            path[-1].restrict(begin),
            steps,
            generator=generator,
            final=final,
            sampler=sampler,
            progress=progress,
        ).x
        samples = path[-1].extend(u).view(draws, *x.shape)
    found = Restoration.of(samples)
    mean, std = torch.where(known, samples[0], found.mean), torch.where(known, 0.0, found.std)
    return Restoration(mean, std, samples)


def _check(
    energy: Energy,
    method: Method,
    draws: int,
    sigmas: Sequence[float],
    x: Tensor,
    known: Tensor,
) -> None:
    """Raise ValueError for settings that do not fit the energy."""
    noise = noise_of(energy)
    check_points(energy, Mask(known).A(x), inside=False)
    fits = method in ("sample", "map" if noise is None else "denoise")
    if draws < 1 or not fits or (noise is not None) != bool(len(sigmas)):
        raise ValueError(
            f"conditional_sample was given {draws} draws, method {method!r} and {len(sigmas)} "
            f"noise levels for an energy of {'noise' if noise else 'x alone'}; draws are at least "
            "1, and levels belong to an energy of noise, which is sampled ('sample' or 'denoise'); "
            "correct them, or bind a level with energy.given(sigma)"
        )
    target = None if noise is None else noise.target_mask
    event = x.shape[1:]
    if (
        noise
        and target is not None
        and not torch.equal(known.cpu().expand(event), ~target.cpu().expand(event))
    ):
        raise ValueError(
            "another mask came than the question of this energy, entries "
            f"{list(noise.conditioning_channels)} along the first axis; it learned to answer that "
            "one alone; pass known = ~energy.condition.target_mask"
        )


def _sample_plain(
    energy: Energy,
    x: Tensor,
    known: Tensor,
    method: Method,
    draws: int,
    steps: int,
    sampler: Sampler | None,
    start: Tensor | None,
    generator: torch.Generator,
    progress: Progress,
) -> Tensor:
    """Return samples (D, B, *event) of an energy without noise levels, by chains or descent."""
    rows = torch.arange(len(x), device=x.device).repeat(draws)
    clamped = ClampedEnergy(energy.index_rows(rows), known, Mask(known).A(x)[rows])
    if start is None:
        u = clamped.domain.draw(len(rows), generator, dtype=x.dtype)
    else:
        u = clamped.restrict(start.to(x.device)[rows])
    if method == "sample":
        u = sample_composed(
            clamped, u, steps, generator=generator, sampler=sampler, progress=progress
        ).x
    else:
        u = map_estimate(
            clamped, Identity(), u, UNINFORMATIVE_SIGMA, start=u, steps=steps, progress=progress
        ).x
    return clamped.extend(u).view(draws, *x.shape)


def _sample_by_denoising(
    energy: Energy,
    x: Tensor,
    known: Tensor,
    sigmas: Sequence[float],
    draws: int,
    generator: torch.Generator,
    progress: Progress,
) -> Tensor:
    """Return samples (D, B, *event) of an energy E(y | x, σ), one denoising step per level."""
    parts = []
    with freeze(energy) as energy:
        for rows in (torch.arange(draws * len(x), device=x.device) % len(x)).split(BATCH_SIZE):

            def restore_known(_: float, points: Tensor, given: Tensor = x[rows]) -> Tensor:
                return torch.where(known, given, points)

            start = draw_start(energy, len(rows), sigmas[0], generator, dtype=x.dtype)
            y = sde_dpm_solver(
                energy.index_rows(rows),
                restore_known(0.0, start),
                sigmas,
                generator=generator,
                constrain=restore_known,
            )
            parts.append(restore_known(0.0, y))
            if progress is not None:
                progress(len(rows))
    return torch.cat(parts).view(draws, *x.shape)


def _add_noise(x: Tensor, sigmas: Sequence[float], generator: torch.Generator) -> list[Tensor]:
    """Return x with noise of falling levels along one path of noise, and x itself at the last."""
    path = [x + sigmas[0] * normal_like(x, generator)]
    for sigma, below in pairwise(sigmas):
        new = below * (1 - below**2 / sigma**2) ** 0.5 * normal_like(x, generator)
        path.append(x + (below / sigma) ** 2 * (path[-1] - x) + new)
    return [*path[:-1], x]
