"""Restoring what was measured badly: the energy is the prior, the measurement a second energy (see
`posterior`).

Sampling from their sum gives not one answer but many: their mean is the best guess in mean square,
their spread says where the guess is worth nothing. Three ways lead there:

    restore        chains under E(x) + ‖A x − y‖² / 2σ², from draws of the prior if there are any
    split_gibbs_sample  down the levels of an energy of noise E(x, σ), the measurement held
    map_estimate    no draws: the one point of largest posterior density
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lowland.energy import Energy, check_points, lift, noise_of
from lowland.energy.checks import explain_dtype_errors
from lowland.samplers import Sampler, anneal
from lowland.samplers.diffusion import denoise
from lowland.samplers.loop import check_arguments
from lowland.tasks.inverse.operators import check_operator
from lowland.tasks.inverse.posterior import (
    ClampedEnergy,
    Likelihood,
    Measure,
    Restoration,
    check_measured,
    check_noise,
    seen,
)

NEAR = 1e-3  # noise at which prior samples are searched where the measurement has none


def importance_resample(
    prior_samples: Tensor,
    operator: Measure,
    y: Tensor,
    sigma: float,
    draws: int,
    generator: torch.Generator,
) -> Tensor:
    """For each measurement `draws` of the prior's samples that explain it, by importance resampling:
    indices (draws, B).

        w_ij ∝ exp(−β_j ‖A x_i − y_j‖² / 2σ²),      x_i draws of the prior

    β_j is the largest number up to 1 at which the weights are worth at least `draws` points
    (effective sample size); with enough prior samples it is 1 and the resampled points are draws of
    the posterior. Source: Gordon, Salmond & Smith (1993), https://doi.org/10.1049/ip-f-2.1993.0015;
    tempering after Del Moral et al. (2006)
    """
    loss = torch.cdist(
        y.flatten(1).double(), operator(prior_samples).flatten(1).double()
    ).square() / (2 * sigma**2)  # (B, N)
    loss -= loss.min(1, keepdim=True).values
    low, high = torch.zeros_like(loss[:, :1]), torch.ones_like(loss[:, :1])
    for _ in range(30):
        beta = (low + high) / 2
        weights = torch.softmax(-beta * loss, 1)
        enough = weights.square().sum(1, keepdim=True) * draws <= 1
        low, high = torch.where(enough, beta, low), torch.where(enough, high, beta)
    return torch.multinomial(
        torch.softmax(-low * loss, 1), draws, replacement=True, generator=generator
    ).T


def restore(
    prior: Energy,
    operator: Measure,
    y: Tensor,
    sigma: float,
    sampler: Sampler,
    *,
    generator: torch.Generator,
    steps: int = 500,
    draws: int = 1,
    start: Tensor | None = None,
    prior_samples: Tensor | None = None,
    temperatures: Sequence[float] = (1.0,),
    denoise_sigma: float = 0.0,
    progress: Callable[[int], object] | None = None,
) -> Restoration:
    """Draw from the posterior of x given y = A x + σ ε, `draws` chains for each row of y.

    prior: an energy of x alone, with an event shape; operator: any differentiable A; y (B,
    *measured); sigma: noise of the measurement; 0 holds what was seen through a Mask or a Stride
    exactly as it was, and chains move the hidden numbers alone, under E of them given the rest;
    start: (B, *event), where the chains begin; draws of the domain's starting law unless given;
    prior_samples (N, *event): draws of the prior instead, from which each chain takes one that explains its
    measurement (`importance_resample`), so that chains begin in the right mode and need not find it;
    temperatures: a path, prior / T + likelihood for each T, the steps divided evenly among them.
    Ending at 1 gives draws of the posterior as far as the chains mix; from hot to 1 they mix
    better; denoise_sigma: noise level of the data that the prior was trained on, removed from every
    draw by a last `denoise` (the prior is then that of noisy points, so draws are those of a smoothed
    posterior: good guesses, but biased where the measurement is finer than that noise).

    Raises ValueError for a sigma below 0, or of 0 with an operator that mixes numbers, measurements
    that are not finite, shapes that A cannot relate, and an energy of noise whose level is not
    bound.

    >>> import torch, lowland
    >>> from lowland.targets import Gaussian
    >>> from lowland.tasks import Identity
    >>> g = torch.Generator().manual_seed(0)
    >>> found = restore(Gaussian(), Identity(), torch.ones(1, 2), 1.0, lowland.MALA(0.3), generator=g, draws=500)
    >>> bool((found.mean - 0.5).abs().max() < 0.2)
    True
    """
    prior = lift(prior)
    _check(prior, y, sigma, draws, start, prior_samples, temperatures, denoise_sigma)
    check_arguments(steps, generator, y)
    wide = y.repeat(draws, *[1] * (y.dim() - 1))
    if prior_samples is not None:
        check_points(prior, prior_samples)
        check_operator(operator, prior_samples, y)
        chosen = importance_resample(
            denoise(prior, prior_samples, denoise_sigma),
            operator,
            y,
            sigma or NEAR,
            draws,
            generator,
        )
        x = prior_samples[chosen].flatten(0, 1)
    elif start is None:
        x = prior.domain.draw(draws * len(y), generator, dtype=y.dtype)
    else:
        x = start.repeat(draws, *[1] * (start.dim() - 1))
    check_operator(operator, x, y)
    if sigma:
        fit = Likelihood(operator, wide, sigma)
        with explain_dtype_errors(prior, x):
            x = anneal(
                [prior / t + fit for t in temperatures],
                sampler,
                x,
                steps,
                generator=generator,
                progress=progress,
            )[-1].x
        found = denoise(prior, x, denoise_sigma)
    else:
        hidden = ClampedEnergy(prior, *seen(operator, wide))
        u = hidden.restrict(x)
        check_points(prior, hidden.extend(u))
        with explain_dtype_errors(prior, u):
            u = anneal(
                [hidden / t for t in temperatures],
                sampler,
                u,
                steps,
                generator=generator,
                progress=progress,
            )[-1].x
        found = hidden.extend(hidden.restrict(denoise(prior, hidden.extend(u), denoise_sigma)))
    return Restoration.of(found.view(draws, len(y), *found.shape[1:]))


def _check(
    prior: Energy,
    y: Tensor,
    sigma: float,
    draws: int,
    start: Tensor | None,
    prior_samples: Tensor | None,
    temperatures: Sequence[float],
    denoise_sigma: float,
) -> None:
    check_noise(sigma)
    check_measured(y)
    if not 0 <= denoise_sigma < math.inf:
        raise ValueError(
            f"denoise_sigma is {denoise_sigma}; a noise level is finite and at least 0; 0 removes none"
        )
    if noise_of(prior):
        raise ValueError(
            f"{type(prior).__name__} is an energy of point and noise level; chains walk under one "
            "of the point alone; bind a level with energy.given(0.1), or follow all of them with "
            "split_gibbs_sample(...)"
        )
    if draws < 1:
        raise ValueError(
            f"draws is {draws}; at least 1 is needed; more give a better mean and a spread"
        )
    if prior_samples is not None and (start is not None or not len(prior_samples)):
        raise ValueError(
            f"{len(prior_samples)} prior samples came with {'no' if start is None else 'a'} start; "
            "chains begin at points of the one or at the other; pass prior samples, or "
            "a start"
        )
    rows = len(y) if start is None else len(start)
    if not temperatures or min(temperatures) <= 0 or rows != len(y):
        raise ValueError(
            f"temperatures are {temperatures} and start has {rows} rows for {len(y)} measurements; "
            "at least one T, all above 0, and one row each are needed; correct them"
        )
