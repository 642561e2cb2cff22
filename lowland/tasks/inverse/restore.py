"""Posterior sampling for inverse problems: an energy as prior, and another for the measurement.

The mean of posterior samples is the best estimate in mean square; their standard deviation shows
where it is uncertain. Three methods:

    restore               chains under E(x) + ‖A x − y‖² / 2σ², from samples of the prior if given
    split_gibbs_sample    down the levels of an energy of noise E(x, σ)
    map_estimate          no samples: a mode of the posterior
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lowland.devices import has_float64
from lowland.energy import Energy, check_finite, check_gradient, check_points, lift, noise_of
from lowland.energy.points import explain_mismatch
from lowland.metrics.distances import distances
from lowland.samplers import Sampler, anneal, denoise
from lowland.samplers.loop import check_arguments
from lowland.scalars import MAX_STEPS, read_integer, read_number
from lowland.tasks.inverse.checks import check_operator, check_slope, place_operator
from lowland.tasks.inverse.posterior import (
    ClampedEnergy,
    Likelihood,
    Measure,
    Restoration,
    check_measured,
    find_known,
    read_noise,
)
from lowland.tasks.settings import read_levels

MIN_SIGMA = 1e-3  # noise at which prior samples are weighed where the measurement has none
BISECTIONS = 30


def importance_resample(
    prior_samples: Tensor,
    operator: Measure,
    y: Tensor,
    sigma: float,
    draws: int,
    generator: torch.Generator,
) -> Tensor:
    """Draw indices (draws, B) of prior samples (N, *event) that explain measurements y (B, ...).

        w_ij ∝ exp(−β_j ‖A x_i − y_j‖² / 2σ²)

    β_j is the largest number up to 1 at which the effective sample size of the weights is at least
    `draws`; with enough prior samples it is 1, and the resampled points are posterior samples.
    Source: Gordon, Salmond & Smith (1993), https://doi.org/10.1049/ip-f-2.1993.0015; tempering
    after Del Moral et al. (2006)
    """
    sigma, draws = read_noise(sigma, zero=False), read_integer("draws", draws, least=1)
    predictions, measured = operator(prior_samples).flatten(1), y.flatten(1)
    check_finite(predictions, "measurements of prior samples")
    loss = distances(measured, predictions).square() / (2 * sigma**2)  # (B, N)
    loss -= loss.min(1, keepdim=True).values
    low, high = torch.zeros_like(loss[:, :1]), torch.ones_like(loss[:, :1])
    for _ in range(BISECTIONS):
        beta = (low + high) / 2
        weights = torch.softmax(-beta * loss, 1)
        enough = weights.square().sum(1, keepdim=True) * draws <= 1
        low, high = torch.where(enough, beta, low), torch.where(enough, high, beta)
    weights = torch.softmax(-low * loss, 1)
    if not has_float64(generator.device):
        weights = weights.float()
    weights = weights.to(generator.device)
    return torch.multinomial(weights, draws, replacement=True, generator=generator).T


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
    """Sample the posterior of x given y = A x + σ ε by `draws` chains for each row of y.

    prior: an energy of x alone, with an event shape; operator: any differentiable A; y (B,
    *measured); sigma: noise of the measurement; 0 keeps what was measured through a Mask or a
    Stride unchanged, and chains move the other numbers alone; start (B, *event): of the chains,
    draws of the domain unless given; prior_samples (N, *event): samples of the prior instead, from
    which each chain takes one that explains its measurement (`importance_resample`), so that it
    starts in the right mode; temperatures: the path prior / T + likelihood, among which the steps
    are divided evenly; ending at 1 it samples the posterior as far as chains mix; denoise_sigma:
    noise level of the data that the prior was trained on, removed from every sample by a last
    `denoise` (samples are then those of a smoothed posterior: good estimates, but biased where the
    measurement is finer than that noise).

    Raises ValueError for a sigma below 0, or of 0 with an operator that mixes numbers, measurements
    that are not finite, shapes that A cannot relate, and an energy of noise whose level is not
    bound.

    >>> import torch, lowland
    >>> from lowland.targets import Gaussian
    >>> from lowland.tasks import Identity
    >>> g, mala = torch.Generator().manual_seed(0), lowland.MALA(0.3)
    >>> y = torch.ones(1, 2)
    >>> found = restore(Gaussian(), Identity(), y, 1.0, mala, generator=g, draws=500)
    >>> bool((found.mean - 0.5).abs().max() < 0.2)
    True
    """
    prior, sigma = lift(prior), read_noise(sigma)
    draws, steps = read_integer("draws", draws), read_integer("steps", steps, most=MAX_STEPS)
    denoise_sigma = read_number("denoise_sigma", denoise_sigma, least=0)
    temperatures = read_levels("temperatures", temperatures, least_count=1)
    _check(prior, y, draws, start, prior_samples)
    check_arguments(steps, generator, y)
    operator = place_operator(operator, y.device)
    if prior_samples is not None:
        check_points(prior, prior_samples, sent=True)
        prior_samples = prior_samples.to(y.device)
        check_operator(operator, prior_samples, y)
        clean = denoise(prior, prior_samples, denoise_sigma)
        index = importance_resample(clean, operator, y, sigma or MIN_SIGMA, draws, generator)
        x = prior_samples[index].flatten(0, 1)
    elif start is None:
        x = prior.domain.draw(draws * len(y), generator, dtype=y.dtype)
    else:
        x = start.to(y.device).repeat(draws, *[1] * (start.dim() - 1))
    check_operator(operator, x, y)
    check_gradient(prior, x)
    if sigma:
        check_slope(operator, prior, x)

    def run(path: list[Energy], x: Tensor) -> Tensor:
        with explain_mismatch(prior, x):
            traces = anneal(path, sampler, x, steps, generator=generator, progress=progress)
        return traces[-1].x

    measured = y.repeat(draws, *[1] * (y.dim() - 1))
    if sigma:
        likelihood = Likelihood(operator, measured, sigma)
        x = denoise(prior, run([prior / t + likelihood for t in temperatures], x), denoise_sigma)
    else:
        clamped = ClampedEnergy(prior, *find_known(operator, measured))
        u = clamped.restrict(x)
        check_points(prior, clamped.extend(u))
        x = clamped.extend(run([clamped / t for t in temperatures], u))
        x = clamped.extend(clamped.restrict(denoise(prior, x, denoise_sigma)))
    return Restoration.of(x.view(draws, len(y), *x.shape[1:]))


def _check(
    prior: Energy, y: Tensor, draws: int, start: Tensor | None, prior_samples: Tensor | None
) -> None:
    """Raise ValueError for arguments of `restore` that do not fit each other."""
    check_measured(y)
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
            "chains begin at points of the one or at the other; pass prior samples, or a start"
        )
    if start is None:
        return
    check_points(prior, start)
    if len(start) != len(y):
        raise ValueError(
            f"start has {len(start)} rows for {len(y)} measurements; one row each is needed; match "
            "them"
        )
