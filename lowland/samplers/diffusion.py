"""From noise to data along a path of noise levels, with noise on the way or without.

Let p_σ be the distribution of the data with noise N(0, σ²) added, and E(x, σ) its energy. The score
−∇E(x, σ) points from a noisy point to the expected clean one, D = x + σ² score (Tweedie). Bound
over a ladder of levels, E is a path:

    sigmas = karras_sigmas(80, 0.01, 40);     path = [energy.given(sigma) for sigma in sigmas]

Three ways lead down: `anneal` (Langevin at each level, no more), `predictor_corrector` (a step from
level to level, then Langevin) and `probability_flow` (an ODE, no noise). All want x ~ p_σ at the
first level, for which N(0, σ²) serves where σ is far above the size of the data.

Here levels explode: x_σ = x_0 + σ ξ. A path that preserves the variance, x_t = α_t x_0 + √(1 −
α_t²) ξ, is the same path at another scale, x_t / α_t at σ_t = √(1 − α_t²) / α_t; `vp_to_ve` turns
it into this form.

Noise knows no walls. On a box, flow and chain run through them (`anneal` is reflected), nothing is
clamped, and points that end outside are counted.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from lowland.domain import Domain, real
from lowland.energy import (
    Energy,
    LabelCondition,
    Learner,
    Wrapper,
    check_gradient,
    check_independent,
    check_points,
    check_values,
    energy_values,
    freeze,
    freeze_all,
    labels_of,
    lift,
    score_alone,
)
from lowland.energy.capabilities import Condition, ConditionLike
from lowland.energy.gradient import call
from lowland.samplers.anneal import divide_steps, one_each
from lowland.samplers.doors import check_arguments
from lowland.samplers.kernel import CONTINUOUS, HasScore, Sampler, normal_like, per_row
from lowland.samplers.loop import run_chains
from lowland.scalars import read_integer, read_number


@dataclass(frozen=True, repr=False)
class DiffusionResult:
    """Points x (B, *event) at the noise level sigma, at which a path ended.

    diverged (B,): moves that were refused because they were not finite; a point with any is no
    draw, and was left where it last was finite; outside (B,): points that lie outside the domain;
    gradients: per point; acceptance: of the corrector, level by level.
    """

    x: Tensor
    sigma: float
    diverged: Tensor
    outside: Tensor
    num_grad_evals: float
    acceptance: tuple[float, ...] = ()

    def __repr__(self) -> str:
        lost, out = int((self.diverged > 0).sum()), int(self.outside.sum())
        notes = [f"{lost} met non-finite scores and are no draws"] * (lost > 0) + [
            f"{out} outside the domain"
        ] * (out > 0)
        return (
            f"DiffusionResult({len(self.x)} points of {tuple(self.x.shape[1:])} "
            f"at sigma {self.sigma:g}, "
            f"{self.num_grad_evals:g} gradients{''.join(', ' + note for note in notes)})"
        )


def karras_sigmas(high: float, low: float, count: int, rho: float = 7.0) -> tuple[float, ...]:
    """Return noise levels from high to low, closer together where they are small:

        σ_i = (high^{1/ρ} + i / (count − 1) · (low^{1/ρ} − high^{1/ρ}))^ρ,      i = 0 ... count − 1

    ρ = 1 spaces them evenly, ρ → ∞ by equal factors (see `geometric_schedule`).
    Source: Karras et al. (2022), equation 5, https://arxiv.org/abs/2206.00364

    >>> [round(sigma, 2) for sigma in karras_sigmas(80.0, 0.01, 5)]
    [80.0, 19.81, 3.46, 0.34, 0.01]
    """
    high, low, rho = (
        read_number(name, value, above=0)
        for name, value in (("high", high), ("low", low), ("rho", rho))
    )
    count = read_integer("count", count)
    if not (high > low and count >= 2):
        raise ValueError(
            f"{count} levels from {high} to {low} with rho {rho} were asked for; high > low > 0, "
            "rho > 0 and at least two levels are needed; correct them"
        )
    a, b = high ** (1 / rho), low ** (1 / rho)
    return (high, *((a + i / (count - 1) * (b - a)) ** rho for i in range(1, count - 1)), low)


def probability_flow(
    path: Sequence[Energy],
    sigmas: Sequence[float],
    x: Tensor,
    *,
    order: int = 2,
    denoise: bool = False,
    progress: Callable[[int], object] | None = None,
) -> DiffusionResult:
    """Carry points from p_σ at the first level to p_σ at the last, without noise:

        dx/dσ = −σ score(x, σ)

    order 1 is Euler's method, which is DDIM's deterministic step x' = D + (σ'/σ) (x − D); order 2
    is Heun's, which averages the slopes at both ends of a step. x (B, *event): draws of the first
    level; path: one energy per level; sigmas: falling, or rising to turn data into noise. denoise:
    from the last level on to σ = 0 by a last Euler step, to the expected clean point D. The error
    of the map falls with the first or second power of the number of levels; the first level's
    distribution is taken on trust. Cost: `order` gradients per step, one to denoise.

    Raises ValueError for levels that are not as many as energies, not above 0 or not in order, and
    scores that are not finite at x; where they become so later, the point stays and is counted.
    Source: Song et al. (2021), https://arxiv.org/abs/2011.13456; Heun's step: Karras et al. (2022),
    algorithm 1, https://arxiv.org/abs/2206.00364; DDIM: Song, Meng & Ermon (2021),
    https://arxiv.org/abs/2010.02502

    >>> import torch, lowland
    >>> normal = lowland.Function(lambda x, sigma: 0.5 * x.square().sum(1) / (1 + sigma**2))
    >>> sigmas = karras_sigmas(10.0, 0.1, 30)
    >>> path, x = [normal.given(s) for s in sigmas], torch.full((1, 1), 101.0**0.5)
    >>> probability_flow(path, sigmas, x, denoise=True)
    DiffusionResult(1 points of (1,) at sigma 0, 59 gradients)
    """
    if order not in (1, 2):
        raise ValueError(f"order is {order}; it is 1 (Euler, DDIM) or 2 (Heun); leave it out for 2")
    domain, free = _check_path(path, sigmas, x, denoise)
    diverged = torch.zeros(len(x), dtype=torch.long, device=x.device)
    with freeze_all(free) as free:
        for (energy, sigma), (ahead, below) in pairwise(zip(free, sigmas, strict=True)):
            h, slope = below - sigma, _slope(energy, sigma, x)
            y = x + h * slope
            if order == 2:
                y = x + h / 2 * (slope + _slope(ahead, below, y))
            x, diverged = _move_finite(x, y, diverged)
            if progress is not None:
                progress(1)
        if denoise:
            x, diverged = _move_finite(
                x, x - sigmas[-1] * _slope(free[-1], sigmas[-1], x), diverged
            )
    paid = order * (len(path) - 1) + denoise
    end = sigmas[-1] * (not denoise)
    return DiffusionResult(x, end, diverged, ~domain.contains(x), paid)


def predictor_corrector(
    path: Sequence[Energy],
    sigmas: Sequence[float],
    x: Tensor,
    correctors: Sampler | Sequence[Sampler],
    steps: int,
    *,
    generator: torch.Generator,
    denoise: bool = False,
    progress: Callable[[int], object] | None = None,
) -> DiffusionResult:
    """Draw along falling noise levels: at each, correct by a sampler of that level's
    distribution, then predict the next by

        x' = x + (σ² − σ'²) score(x, σ) + σ' √(σ² − σ'²) / σ · ξ,      ξ ~ N(0, I),

    the ancestral step: the distribution of x' given x and a clean point, at the expected clean
    point D. It is exact for levels close together; the corrector mends what wide ones leave, as far
    as its steps reach. x (B, *event): draws of the first level; path and sigmas: as for
    `probability_flow`, falling; correctors: one for all or one per level, see `scale_step_sizes`;
    steps: of the correctors in all, divided evenly among the levels (0 corrects nothing, which is
    ancestral sampling). denoise: from the last level to the expected clean point D; progress:
    called with 1 after each step of a corrector and each level. Cost: one gradient per level and
    those of the correctors' steps; predictions and the last step use the score that is there.

    Raises ValueError as `probability_flow` does, for rising levels, and for a corrector that keeps
    no score. Source: Song et al. (2021), algorithm 2 and appendix F,
    https://arxiv.org/abs/2011.13456

    >>> import torch, lowland
    >>> normal = lowland.Function(lambda x, sigma: 0.5 * x.square().sum(1) / (1 + sigma**2))
    >>> sigmas = karras_sigmas(10.0, 0.1, 20)
    >>> path = [normal.given(s) for s in sigmas]
    >>> correctors = lowland.samplers.scale_step_sizes(lowland.MALA(0.005), sigmas)
    >>> g = torch.Generator().manual_seed(0)
    >>> x = 10 * torch.randn(9, 1, generator=g)
    >>> predictor_corrector(path, sigmas, x, correctors, 40, generator=g, denoise=True)
    DiffusionResult(9 points of (1,) at sigma 0, 60 gradients)
    """
    samplers = one_each(correctors, path)
    steps = check_arguments(steps, generator, x)
    domain, free = _check_path(path, sigmas, x, denoise, rising=False)
    diverged, rates, paid = torch.zeros(len(x), dtype=torch.long, device=x.device), [], 0.0
    with freeze_all(free) as free:
        for k, share in enumerate(divide_steps(steps, len(path))):
            trace = run_chains(
                free[k], samplers[k], x, share, generator=generator, progress=progress
            )
            x, score = trace.x, _score_of(trace.state, samplers[k])
            diverged, paid = diverged + trace.diverged, paid + trace.num_grad_evals
            rates.append(trace.acceptance.mean())
            if k + 1 < len(path):
                x, diverged = _move_finite(
                    x, _ancestral(x, score, sigmas[k], sigmas[k + 1], generator), diverged
                )
            elif denoise:
                x, diverged = _move_finite(x, x + sigmas[-1] ** 2 * score, diverged)
            if progress is not None:
                progress(1)
    acceptance = tuple(torch.stack(rates).tolist())
    end = sigmas[-1] * (not denoise)
    return DiffusionResult(x, end, diverged, ~domain.contains(x), paid, acceptance)


def vp_to_ve(path: Sequence[Energy], alphas: Sequence[float]) -> tuple[list[Energy], list[float]]:
    """Turn a path that preserves the variance into one that explodes: the energies and the noise
    levels that this module takes.

        x_t = α_t x_0 + √(1 − α_t²) ξ      is x_t / α_t = x_0 + σ_t ξ, σ_t = √(1 − α_t²) / α_t

    path: E(x, t) bound at each time; alphas: α_t, rising to just below 1. The new energies take x_t
    / α_t, and so must the start: draws of N(0, 1) for a first α near 0 are divided by it. Where a
    path ends, points are data with noise σ_t.

    >>> from lowland.targets import Gaussian
    >>> path, sigmas = vp_to_ve([Gaussian(), Gaussian()], (0.6, 0.8))  # data N(0, I) stay N(0, I)
    >>> energy = path[0](torch.tensor([[5.0, 0.0]])).item()  # of N(0, 1 / 0.36)
    >>> [round(sigma, 4) for sigma in sigmas], energy
    ([1.3333, 0.75], 4.5)
    """
    if len(alphas) != len(path) or not all(0 < alpha < 1 for alpha in alphas):
        raise ValueError(
            f"{len(path)} energies came with alphas {list(alphas)}; one each is needed, above 0 "
            "and below 1; correct them"
        )
    energies = [
        Scaled(lift(energy), alpha, energy.domain)
        for energy, alpha in zip(path, alphas, strict=True)
    ]
    return list(energies), [math.sqrt(1 - alpha**2) / alpha for alpha in alphas]


class Scaled(Wrapper):
    """E(α x) as an energy of x, on a domain of its own."""

    def __init__(self, energy: Energy, alpha: float, domain: Domain) -> None:
        super().__init__(energy, domain)
        self.alpha = alpha

    def forward(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        return call(self.energy, self.alpha * x, c)

    def value_and_score(self, x: Tensor, c: ConditionLike = None) -> tuple[Tensor, Tensor]:
        value, score = call(self.energy.value_and_score, self.alpha * x, c)
        return value, self.alpha * score

    def score(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        return self.alpha * call(self.energy.score, self.alpha * x, c)

    @property
    def condition(self) -> Condition | None:
        """Hand on labels; a noise level is one of x only at α = 1."""
        if self.alpha == 1:
            return self.energy.condition
        labels = labels_of(self.energy)
        if labels is None:
            return None
        return LabelCondition(labels.classes, lambda x: labels.class_energies(self.alpha * x))

    @property
    def learner(self) -> Learner | None:
        return self.energy.learner if self.alpha == 1 else None


def _check_path(
    path: Sequence[Energy], sigmas: Sequence[float], x: Tensor, denoise: bool, rising: bool = True
) -> tuple[Domain, list[Energy]]:
    """Return the domain of the data and the energies without walls; raise ValueError for what is
    no path or does not fit x.
    """
    energies = [lift(energy) for energy in path]
    falls = all(a > b for a, b in pairwise(sigmas))
    rises = rising and not denoise and all(a < b for a, b in pairwise(sigmas))
    if (
        not energies
        or len(sigmas) != len(energies)
        or not all(0 < s < math.inf for s in sigmas)
        or not (falls or rises)
    ):
        allowed = "falling (or rising, unless denoise)" if rising else "falling"
        raise ValueError(
            f"{len(energies)} energies came with the noise levels {list(sigmas)}; there must be "
            f"one each, above 0 and {allowed}; see karras_sigmas(high, low, count)"
        )
    domain = energies[0].domain
    if domain.kind not in CONTINUOUS:
        raise ValueError(
            f"the domain is {domain.kind}; noise is added to real numbers; use anneal or "
            "simulated_annealing there"
        )
    free = [
        e if e.domain.kind == "real" else Scaled(e, 1.0, real(*e.domain.shape)) for e in energies
    ]
    check_points(free[0], x)
    check_values(
        energy_values(free[0], x, batch_size=len(x)), x
    )  # an energy may hold one row per chain
    with freeze(free[0]) as first:
        check_independent(first, x)
        check_gradient(first, x)
    return domain, free


def _slope(energy: Energy, sigma: float, x: Tensor) -> Tensor:
    """Compute dx/dσ = −σ score(x, σ), which is (x − D) / σ."""
    return -sigma * score_alone(energy, x)


def _ancestral(
    x: Tensor, score: Tensor, sigma: float, below: float, generator: torch.Generator
) -> Tensor:
    fall = sigma**2 - below**2
    return x + fall * score + below * math.sqrt(fall) / sigma * normal_like(x, generator)


def _move_finite(x: Tensor, y: Tensor, diverged: Tensor) -> tuple[Tensor, Tensor]:
    """Return y where it is finite, else x, and count the latter."""
    finite = torch.isfinite(y).flatten(1).all(1)
    return torch.where(per_row(finite, x), y, x), diverged + ~finite


def _score_of(state: Any, sampler: Sampler) -> Tensor:
    if not isinstance(state, HasScore):
        raise ValueError(
            f"{type(sampler).__name__} keeps no score of where its chains are; the predictor needs "
            "one; use Langevin or MALA"
        )
    return state.score
