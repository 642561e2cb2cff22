"""Denoising: the expected clean point behind a noisy one, and draws of the clean points.

With p_σ the distribution of data with noise N(0, σ²) added, the expected clean point is

    D(x, σ) = x + σ² ∇ log p_σ(x) = x − σ² ∇E(x, σ)      (Tweedie's formula)
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from lowland.energy import Energy, check_gradient, freeze, lift, score_with_graph
from lowland.samplers.kernel import normal_like, per_row
from lowland.samplers.precision import Precision, autocast, resolve_precision


def denoise(
    energy: Energy | Callable[..., Tensor], x: Tensor, sigma: float | Tensor, *, check: bool = True
) -> Tensor:
    """Compute the expected clean points x + σ² ∇ log p_σ(x) behind noisy points x (B, *event).

    energy: that of points with noise N(0, σ²), such as `energy.given(sigma)`; sigma: one for all or
    one per row (B,); 0 returns x. Nothing is clamped. check: look whether an energy without slope
    cuts its graph, which waits for the device; in a loop once is enough. The result has a graph if
    x requires a gradient. Source: Miyasawa (1961); Tweedie's formula: Efron (2011),
    https://doi.org/10.1198/jasa.2011.tm11181; at the end of chains: Saremi & Hyvärinen (2019),
    https://jmlr.org/papers/v20/19-216.html

    >>> from lowland.targets import Gaussian
    >>> denoise(Gaussian(), torch.tensor([[1.0, -2.0]]), 0.5)
    tensor([[ 0.7500, -1.5000]])
    """
    if isinstance(sigma, (int, float)) and sigma == 0:
        return x
    energy = lift(energy)
    with freeze(energy) as energy:
        score = score_with_graph(energy, x)
        if check and not bool(score.any()):  # a mode, or an energy that cuts its graph
            check_gradient(energy, x)
        return _expect_clean(x, score, sigma)


def _expect_clean(x: Tensor, score: Tensor, sigma: float | Tensor) -> Tensor:
    return x + per_row(sigma**2, x) * score.to(x.dtype)


def sde_dpm_solver(
    energy: Energy,
    z: Tensor,
    sigmas: Sequence[float],
    *,
    generator: torch.Generator,
    precision: str = "auto",
    constrain: Callable[[float, Tensor], Tensor] | None = None,
) -> Tensor:
    """Draw clean points (B, *event) behind z = x + σ ξ along falling levels from that of z.

    With D = x + σ² score the expected clean point, w = 1 − σ'² / σ² and h = ln σ / σ', one step is

        x' = (1 − w) x + w (D + h / 2h₋ (D − D₋)) + σ' √w ξ

    the ancestral step with D extrapolated along the line through its last value D₋, a step h₋
    before: second order in the drift at one gradient a step. The last level ends at D. D is
    projected onto a box domain: the mean of points in a box lies in the box, and a network may say
    otherwise. precision: "float32", "bfloat16" or "auto", of the network alone; constrain: applied
    to the points of each level below the first, given that level and the points. Cost: a gradient
    per level. Source: Lu et al. (2022), SDE-DPM-Solver++(2M), https://arxiv.org/abs/2211.01095

    >>> import torch, lowland
    >>> normal = lowland.Function(lambda x, sigma: 0.5 * x.square().sum(1) / (1 + sigma**2))
    >>> g, sigmas = torch.Generator().manual_seed(0), lowland.samplers.karras_sigmas(1.0, 0.01, 20)
    >>> x = sde_dpm_solver(normal, torch.ones(4000, 1), sigmas, generator=g)  # of data N(0, 1)
    >>> bool((x.mean() - 0.5).abs() < 0.05), bool((x.var() - 0.5).abs() < 0.05)
    (True, True)
    """
    x, before, last = z, z, 0.0
    choice = resolve_precision(precision, energy.given(sigmas[0]), z).precision
    for sigma, below in pairwise(sigmas):
        first = sigma == sigmas[0]  # where the gradient is looked at; a GPU would wait each time
        clean = denoise_in_domain(energy, x, sigma, choice, check=first)
        h, w = math.log(sigma / below), 1 - (below / sigma) ** 2
        ahead = clean + h / (2 * last) * (clean - before) if last else clean
        x = (1 - w) * x + w * ahead + below * math.sqrt(w) * normal_like(x, generator)
        before, last = clean, h
        if constrain is not None:
            x = constrain(below, x)
    return denoise_in_domain(energy, x, sigmas[-1], choice)


def denoise_in_domain(
    energy: Energy, x: Tensor, sigma: float, precision: Precision, *, check: bool = True
) -> Tensor:
    """Compute expected clean points at a level of E(x, σ), projected onto the energy's domain.

    check: whether scores that are all zero are looked into.
    """
    bound = energy.given(sigma)
    with autocast(precision, x.device):
        if check:
            return energy.domain.project(denoise(bound, x, sigma))
        with freeze(bound) as still:
            clean = _expect_clean(x, score_with_graph(still, x), sigma)
        return energy.domain.project(clean)
