"""Structured prediction: many answers to one question, from an energy of question and answer
together.

Put question and answer side by side, as channels of a picture or entries of a vector, and train one
energy E([x, y]) on the pairs. With the question held it *is* the conditional energy,

    E(y | x) = E([x, y]) + log Z(x),      p(y | x) ∝ exp(−E([x, y])),

for the normaliser is the same for all answers. So nothing new has to be learned, any part of a
point may be the question, and to answer is to restore what a mask hides, without noise (`ClampedEnergy`).
Answers are draws, so there is a spread as well as a mean.

With an energy of noise, E([x, y], σ), answers come down the levels. At each the question has its
share of the noise, along one path of noise that ends at the question itself, x_σ' = x + (σ'/σ)²
(x_σ − x) + σ' √(1 − σ'²/σ²) ξ, the law of noise given the noise above. So every level is an energy
of the answer alone, E([x_σ, ·], σ), with chains that correct what the step from the level above got
wrong. An energy that was trained with noise on the answers alone, E(y | x, σ) (`question` of
NoiseUNet and DenoiserMLP), is shown the question as it is at every level: sharper answers sooner,
to that one kind of question. Source: LeCun et al. (2006), section 1.1,
http://yann.lecun.com/exdb/publis/pdf/lecun-06.pdf
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal, cast

import torch
from torch import Tensor

from lowland.energy import Energy, draw_start, frozen, given_channels, lift, noise_of
from lowland.samplers import Sampler, normal_like
from lowland.samplers.diffusion import sde_dpm_solver
from lowland.tasks.composition.compose import anneal_composed, sample_composed
from lowland.tasks.inverse.map import map_estimate
from lowland.tasks.inverse.operators import Identity, Mask
from lowland.tasks.inverse.posterior import ClampedEnergy, Restoration
from lowland.tasks.inverse.split_gibbs import split_gibbs_sample

NOWHERE = 1e6  # the σ of a measurement that says nothing
PART = 256  # answers that are made at a time


def conditional_sample(
    energy: Energy | Callable[..., Tensor],
    x: Tensor,
    known: Tensor,
    *,
    generator: torch.Generator,
    method: Literal["sample", "map", "denoise"] = "sample",
    sigmas: Sequence[float] = (),
    draws: int = 1,
    steps: int = 500,
    final: int = 50,
    sampler: Sampler | None = None,
    start: Tensor | None = None,
    progress: Callable[[int], object] | None = None,
) -> Restoration:
    """Answer: draw the numbers of x (B, *event) that are not known, given those that are, `draws`
    times for each row.

    energy: of whole points; known: bool, True where x is to be believed, agreeing with the event
    from the right (so (channels, 1, 1) tells channels apart); what x holds elsewhere is ignored.
    For an energy of x alone: steps of chains with an accept step, unless a sampler is named that
    has none, or, with method "map", of descent to one likely answer; both begin at start (B,
    *event), or at draws of the domain's starting law. For an energy of noise E([x, y], σ): sigmas,
    its falling levels, among which steps are divided, with final steps in the last
    (`anneal_composed`; noise knows no walls, nothing is clamped to a box); or, with method
    "denoise", a few gradients for each (`tasks.split_gibbs_sample`), which has a bias where question
    and answer are as wide as the noise, but finds fine pictures sooner; for an energy E(y | x, σ)
    it is one step a level (`sde_dpm_solver`), with no such bias. What is known comes back as it was,
    without spread.

    Raises ValueError for a mask that does not fit, holds everything, or is not the question of an
    energy that has one, levels that belong to no energy of noise, and descent with one that is.

    >>> from lowland.targets import Gaussian
    >>> both = Gaussian((0.0, 0.0), ((1.0, 0.8), (0.8, 1.0)))  # y given x is N(0.8 x, 0.36)
    >>> g, x = torch.Generator().manual_seed(0), torch.tensor([[2.0, 0.0]])
    >>> found = conditional_sample(both, x, torch.tensor([True, False]), generator=g, draws=500, steps=50)
    >>> bool((found.mean[0, 1] - 1.6).abs() < 0.2), bool((found.std[0, 1] - 0.6).abs() < 0.1), found.std[0, 0].item()
    (True, True, 0.0)
    """
    energy = lift(energy)
    noise = noise_of(energy)
    noisy = noise is not None
    fits = method in (("sample", "denoise") if noisy else ("sample", "map"))
    if draws < 1 or not fits or noisy != bool(len(sigmas)):
        raise ValueError(
            f"conditional_sample was given {draws} draws, method {method!r} and {len(sigmas)} noise levels "
            f"for an energy of {'noise' if noisy else 'x alone'}; draws are at least 1, and levels "
            "belong to an energy of noise, which is sampled ('sample' or 'denoise'); correct "
            "them, or bind a level with energy.given(sigma)"
        )
    own = None if noise is None else noise.target_mask
    if own is not None and not torch.equal(known.expand(x.shape[1:]), ~own.expand(x.shape[1:])):
        raise ValueError(
            "another mask came than the question of this energy, entries "
            f"{list(given_channels(energy))} along the first axis; it learned to answer that "
            "one alone; pass known = ~energy.condition.target_mask"
        )
    if method == "denoise" and own is not None:
        return _answers(_cleaned(energy, x, known, sigmas, draws, generator, progress), known)
    if method == "denoise":
        mask, high, low, levels = Mask(known), max(sigmas), min(sigmas), len(sigmas)
        shown, more = mask.A(x), {"generator": generator, "draws": draws, "progress": progress}
        found = split_gibbs_sample(
            energy,
            mask,
            shown,
            0.0,
            sigma_max=high,
            sigma_min=low,
            num_levels=levels,
            **cast(Any, more),
        )
        return _answers(found.draws, known)
    rows = torch.arange(len(x), device=x.device).repeat(draws)
    energy, seen = energy.index_rows(rows), Mask(known).A(x)[rows]
    if noisy:
        places = _noised(seen, sigmas, generator) if own is None else [seen] * len(sigmas)
        path = [
            ClampedEnergy(energy.given(sigma), known, there)
            for sigma, there in zip(sigmas, places, strict=True)
        ]
        held = path[-1]
        begun = seen + sigmas[0] * normal_like(seen, generator)
        if noise is not None and noise.start is not None:
            begun = noise.start(len(rows), sigmas[0], generator)
        begin = held.restrict(begun)
        u = anneal_composed(
            path,
            sigmas,
            begin,
            steps,
            generator=generator,
            final=final,
            sampler=sampler,
            progress=progress,
        ).x
        return _answers(held.extend(u).view(draws, *x.shape), known)
    held = ClampedEnergy(energy, known, seen)
    u = (
        held.domain.draw(len(rows), generator, dtype=x.dtype)
        if start is None
        else held.restrict(start[rows])
    )
    if method == "sample":
        u = sample_composed(
            held, u, steps, generator=generator, sampler=sampler, progress=progress
        ).x
    else:
        u = map_estimate(held, Identity(), u, NOWHERE, start=u, steps=steps, progress=progress).x
    return _answers(held.extend(u).view(draws, *x.shape), known)


def _cleaned(
    energy: Energy,
    x: Tensor,
    known: Tensor,
    sigmas: Sequence[float],
    draws: int,
    generator: torch.Generator,
    progress: Callable[[int], object] | None,
) -> Tensor:
    """Draws (D, B, *event) of an energy E(y | x, σ): answers that lose their noise step by step,
    questions as they are.
    """
    found = []
    with frozen(energy):
        for part in (torch.arange(draws * len(x), device=x.device) % len(x)).split(PART):
            seen = x[part]

            def hold(_: float, points: Tensor, seen: Tensor = seen) -> Tensor:
                return torch.where(known, seen, points)

            begin = hold(0.0, draw_start(energy, len(part), sigmas[0], generator, dtype=x.dtype))
            found.append(
                hold(
                    0.0,
                    sde_dpm_solver(
                        energy.index_rows(part), begin, sigmas, generator=generator, constrain=hold
                    ),
                )
            )
            if progress is not None:
                progress(len(part))
    return torch.cat(found).view(draws, *x.shape)


def _answers(draws: Tensor, known: Tensor) -> Restoration:
    """Draws with their mean and spread; what is known to the last bit in the mean, too."""
    found = Restoration.of(draws)
    return Restoration(
        torch.where(known, draws[0], found.mean), torch.where(known, 0.0, found.std), draws
    )


def _noised(x: Tensor, sigmas: Sequence[float], generator: torch.Generator) -> list[Tensor]:
    """x with noise of falling levels, along one path of noise; at the last, x itself."""
    places = [x + sigmas[0] * normal_like(x, generator)]
    for sigma, below in pairwise(sigmas):
        fresh = below * (1 - below**2 / sigma**2) ** 0.5 * normal_like(x, generator)
        places.append(x + (below / sigma) ** 2 * (places[-1] - x) + fresh)
    return [*places[:-1], x]
