"""Checks by statistics: does a sampler keep the law it should? Each returns the worst |z|, to be
compared with `LIMIT`.

A sampler is anything with `init` and `step`, or a plain callable move(energy, x, steps, generator)
-> x. Draws of different chains are independent, so every standard error is that of independent
rows, with no autocorrelation.
"""

import dataclasses
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from lowland.domain import binary, categorical, real
from lowland.energy import Energy, Function, Gibbs, energy_values
from lowland.testing.chains import Chains, seeded, stationary, worst, z_scores
from lowland.testing.targets import CONTINUOUS, Target

SHARES = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.995)


def _features(x: Tensor, values: Tensor, cuts: Tensor) -> Tensor:
    """Moments (winsorised at the outer cuts, so that heavy tails keep the z-scores normal) and tail
    probabilities.
    """
    both = torch.cat([x.flatten(1), values.unsqueeze(1)], 1).double()
    clipped = both.clamp(cuts[0], cuts[-1])
    tails = (both.unsqueeze(2) > cuts.T.unsqueeze(0)).double().flatten(1)
    pair = (clipped[:, :1] * clipped[:, -2:-1]) if both.shape[1] > 2 else clipped[:, :0]
    return torch.cat([clipped, clipped.square(), pair, tails], 1)


def stationarity(
    sampler: Any,
    target: Target,
    *,
    dtype: torch.dtype = torch.float32,
    count: int = 20_000,
    steps: int = 12,
    seeds: Sequence[int] = (0, 1, 2),
) -> float:
    """Worst pooled |z| of moments, energies and tail probabilities after `steps` from exact draws,
    against the start.

    The differences f(x_steps) − f(x_0) are independent between chains and have mean zero if the law
    is left invariant.
    """
    pooled = []
    for seed in seeds:
        g = seeded(seed)
        other = target.draw(count, g, dtype)
        both = torch.cat(
            [other.flatten(1), energy_values(target.energy, other).unsqueeze(1)], 1
        ).double()
        cuts = both.quantile(both.new_tensor(SHARES), 0)
        chains = stationary(sampler, target, count, g, dtype)
        x, y = chains.x, chains.walk(steps)
        moved = (y != x).flatten(1).any(1).double().mean().item()
        assert moved > 0.3, (
            f"{moved:.0%} of the chains moved in {steps} steps: chains at rest prove nothing"
        )
        values = energy_values(target.energy, y)
        assert torch.isfinite(values).all(), "chains ended where the energy is not finite"
        difference = _features(y, values, cuts) - _features(
            x, energy_values(target.energy, x), cuts
        )
        pooled.append(z_scores(difference))
    return (torch.stack(pooled).sum(0) / math.sqrt(len(pooled))).abs().max().item()


def arrival(
    sampler: Any,
    target: Target,
    *,
    dtype: torch.dtype = torch.float32,
    count: int = 5_000,
    steps: int = 200,
    seed: int = 0,
) -> float:
    """Worst |z| between chains that all started at one point and ran for `steps`, and independent
    exact draws.

    A sampler may leave a law as it is and never get there: chains that stand still, or keep to a
    level set, do.
    """
    g = seeded(seed)
    exact = target.draw(count, g, dtype)
    start = target.draw(1, g, dtype)
    y = Chains(sampler, target.energy, start.repeat(count, *[1] * (start.dim() - 1)), g).walk(steps)
    values = [energy_values(target.energy, x) for x in (y, exact)]
    both = torch.cat([exact.flatten(1), values[1].unsqueeze(1)], 1).double()
    cuts = both.quantile(both.new_tensor(SHARES), 0)
    a, b = (_features(x, v, cuts) for x, v in zip((y, exact), values, strict=True))
    error = ((a.var(0) + b.var(0)) / count).sqrt().clamp(min=1e-300)
    return ((a.mean(0) - b.mean(0)) / error).abs().max().item()


# ------------------------------------------------------------------------------ Geweke's joint test


class Model(NamedTuple):
    """A prior with exact draws, a likelihood with exact draws, and the posterior's energy given the
    data as condition.
    """

    posterior: Energy
    prior: Any  # (count, generator) -> θ
    data: Any  # (θ, generator) -> y


class Rate(Energy):
    """θ = log λ of λ ~ Gamma(3, 1) and y | λ ~ Poisson(λ): E(θ; y) = 2 e^θ − (3 + y) θ, site by
    site.
    """

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        return (2 * x.exp() - (3 + c) * x).sum(1)


class Mixed(Energy):
    """z with independent sites and y | z ~ N(Σ_i w_i(z_i), 1): E(z; y) = Σ_i b_i(z_i) + (y − Σ_i
    w_i(z_i))² / 2.

    Binary sites: w, b (sites,); categorical ones: (sites, K), and z may be one-hot floats.
    """

    def __init__(self, domain: Any) -> None:
        super().__init__(domain)
        sites, classes = domain.shape[0], domain.classes or 1
        self.weights = (
            torch.linspace(-1.6, 1.9, sites * classes, dtype=torch.float64)
            .view(sites, classes)
            .cos()
            * 1.5
        )
        self.costs = torch.linspace(0.9, -0.7, sites * classes, dtype=torch.float64).view(
            sites, classes
        )

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        return self._one_hot(
            x.unsqueeze(2)
            if self.domain.kind == "binary"
            else one_hot(x.long(), self.domain.classes).to(x),
            c,
        )

    @property
    def gibbs(self) -> Gibbs | None:
        return None if self.domain.kind == "binary" else Gibbs(one_hot_energy=self._one_hot)

    def _one_hot(self, z: Tensor, c: Any = None) -> Tensor:
        w, b = self.weights.to(z), self.costs.to(z)
        return (z * b).flatten(1).sum(1) + 0.5 * (c - (z * w).flatten(1).sum(1)).square()

    def model(self) -> Model:
        def prior(count: int, g: torch.Generator) -> Tensor:
            logits = (
                torch.cat([0 * self.costs, -self.costs], 1)
                if self.domain.kind == "binary"
                else -self.costs
            )
            return torch.multinomial(
                logits.softmax(1), count, replacement=True, generator=g
            ).T.double()

        def data(z: Tensor, g: torch.Generator) -> Tensor:
            mean = z @ self.weights.squeeze(1) if self.domain.kind == "binary" else self._mean(z)
            return mean + torch.randn(len(z), generator=g, dtype=torch.float64)

        return Model(self, prior, data)

    def _mean(self, z: Tensor) -> Tensor:
        return self.weights.gather(1, z.long().T).sum(0)


def _rate() -> Model:
    def prior(count: int, g: torch.Generator) -> Tensor:
        u = torch.rand(3, count, 2, generator=g, dtype=torch.float64)
        return (-(1 - u).log()).sum(0).log()

    return Model(Rate(real(2)), prior, lambda theta, g: torch.poisson(theta.exp(), generator=g))


MODELS: dict[str, Model] = {
    "real": _rate(),
    "binary": Mixed(binary(5)).model(),
    "categorical": Mixed(categorical(3, 3)).model(),
}


def joint(
    sampler: Any,
    kind: str = "real",
    *,
    dtype: torch.dtype = torch.float32,
    count: int = 20_000,
    rounds: int = 5,
    seed: int = 0,
) -> float:
    """Geweke's joint-distribution test: worst |z| of parameters and data after rounds of (sample θ
    | y, draw y | θ).

    From exact draws of (θ, y) both moves keep their joint law; a sampler that bends the posterior
    for some y drifts away from it, and a little further every round. Every chain has its own data,
    bound as a condition. Source: Geweke (2004), https://doi.org/10.1198/016214504000001132
    """
    model, g = MODELS[kind], seeded(seed)
    start = theta = model.prior(count, g).to(dtype).double()
    first = y = model.data(theta, g)
    for _ in range(rounds):
        theta = (
            Chains(sampler, model.posterior.given(y.to(dtype)), theta.to(dtype), g).walk(2).double()
        )
        y = model.data(theta, g)
    assert (theta != start).any(), "no chain moved: chains at rest prove nothing"
    return worst(_joint_features(theta, y) - _joint_features(start, first))


def _joint_features(theta: Tensor, y: Tensor) -> Tensor:
    y = y.view(len(y), -1)
    cuts = torch.cat(
        [y > level for level in (0.5, 1.5, 3.5, 6.5)]
        + [theta > level for level in (-0.5, 0.5, 1.5)],
        1,
    )
    return torch.cat(
        [
            theta,
            theta.square(),
            y,
            y.square().clamp(max=100),
            theta * y,
            theta[:, :1] * theta[:, 1:],
            cuts,
        ],
        1,
    )


# -------------------------------------------------------------------------------------- enumeration


class Distance(NamedTuple):
    """How far counts are from probabilities: total variation, and Pearson's statistic as a standard
    normal z.
    """

    variation: float
    z: float


def distance(counts: Tensor, p: Tensor) -> Distance:
    """Counts (S,) of independent draws against probabilities. Cells of fewer than 10 expected draws
    are pooled.

    Σ (n_k − n p_k)² / n p_k is χ² of S − 1 degrees of freedom; its cube root is normal (Wilson &
    Hilferty). Source: Wilson & Hilferty (1931), https://doi.org/10.1073/pnas.17.12.684
    """
    n = counts.sum()
    rare = n * p < 10
    observed, expected = (
        torch.cat([part[~rare], part[rare].sum().view(1)]) for part in (counts, n * p)
    )
    observed, expected = observed[expected > 0], expected[expected > 0]
    freedom = len(expected) - 1
    chi = ((observed - expected).square() / expected).sum().item()
    spread = 2 / (9 * freedom)
    return Distance(
        0.5 * (counts / n - p).abs().sum().item(),
        ((chi / freedom) ** (1 / 3) - 1 + spread) / math.sqrt(spread),
    )


def enumeration(
    sampler: Any,
    target: Target,
    *,
    dtype: torch.dtype = torch.float32,
    count: int = 20_000,
    steps: int = 12,
    seed: int = 0,
) -> Distance:
    """Chains that started from exact draws, after `steps`, against the list of all states."""
    assert target.states is not None
    y = stationary(sampler, target, count, seeded(seed), dtype).walk(steps)
    base = (target.energy.domain.classes or 2) ** torch.arange(y[0].numel())
    codes = [(x.flatten(1).long() * base).sum(1) for x in (target.states, y)]
    counts = torch.bincount(codes[1], minlength=int(codes[0].max()) + 1)
    assert counts[codes[0]].sum() == count, "chains ended at states outside the support"
    return distance(counts[codes[0]].double(), target.probabilities())


def walls(
    sampler: Any,
    *,
    dtype: torch.dtype = torch.float64,
    count: int = 60_000,
    steps: int = 15,
    seed: int = 21,
) -> float:
    """exp(−2x) on [0, 1] up to the walls: 12 bins, the outer ones 0.01 and 0.04 wide, with binomial
    errors.
    """
    y = (
        stationary(sampler, CONTINUOUS["exponential"], count, seeded(seed), dtype)
        .walk(steps)
        .flatten()
    )
    edges = torch.tensor(
        [0, 0.01, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.99, 1.0], dtype=torch.float64
    )
    p = (torch.expm1(-2 * edges) / math.expm1(-2)).diff()
    assert ((y >= 0) & (y <= 1)).all(), "chains left the box"
    counts = torch.stack([((y >= a) & (y < b)).sum() for a, b in pairwise(edges)])
    return ((counts - count * p) / (count * p * (1 - p)).sqrt()).abs().max().item()


# ---------------------------------------------------------------------- those that are not adjusted


def temperature_law(
    sampler: Any, step_size: float, temperature: float, *, count: int = 20_000, steps: int = 15
) -> float:
    """|z| of mean and variance of unadjusted Langevin on N(0, 1), which leaves N(0, T / (1 − h/2))
    invariant exactly.

    x' = (1 − h) x + √(2hT) ξ keeps the variance v = (1 − h)² v + 2hT.
    """
    v = temperature / (1 - step_size / 2)
    bowl = Function(lambda x: 0.5 * x.square().sum(1), real(4))
    g = seeded(11)
    x = math.sqrt(v) * torch.randn(count, 4, generator=g)
    y = Chains(sampler, bowl, x, g).walk(steps).double().flatten()
    return max(abs(z_scores(y).item()), abs(z_scores(y.square(), v).item()))


def diffusion_law(sampler: Any, step_size: float, temperature: float = 1.0) -> float:
    """|z| of one step from 0 on E(x) = b·x against N(−h b, 2hT), the law of y = x − h ∇E + √(2hT)
    ξ.

    A Metropolis sampler accepts all of it: on a linear energy the proposal is exact.
    """
    slope = 0.7
    energy = Function(lambda x: (slope * x).sum(1), real(4))
    x = torch.zeros(20_000, 4)
    y = Chains(sampler, energy, x, seeded(5)).walk(1).double().flatten()
    assert (y != 0).all(), "a proposal on a straight slope was refused"
    y = y + step_size * slope
    return max(
        abs(z_scores(y).item()), abs(z_scores(y.square(), 2 * step_size * temperature).item())
    )


class Slope(NamedTuple):
    """The order of a bias in the step size, as measured, with its standard error, and the biases it
    comes from.
    """

    order: float
    error: float
    biases: tuple[float, ...]

    def z(self, declared: int) -> float:
        """|measured − declared| in standard errors; infinite if orders one apart could not be told
        apart.
        """
        return abs(self.order - declared) / self.error if self.error < 0.2 else math.inf


def order(
    sampler: Any,
    *,
    precision: float = 0.12,
    count: int = 20_000,
    fractions: Sequence[float] = (1.0, 0.7, 0.5),
    stretch: float = 1.0,
    patience: int = 2_000,
) -> Slope:
    """Regression of log |bias| on log h, for step sizes that are fractions of the sampler's own.

    The bias is that of ⟨cos 1.75 x⟩ under E(x) = x²/2 + e^{−x²}, whose truth is known by
    quadrature: two humps with bounded curvature, on which the leading terms of first- and of
    second-order schemes are large and the next ones small. The mean is taken over all chains, every
    `stretch` units of time, until the slope is known to `precision` (or patience is lost). Not
    Gaussian: there, second-order schemes may have no bias at all.
    """
    x = torch.linspace(-9, 9, 20_001, dtype=torch.float64)
    truth = ((-Humps()(x.unsqueeze(1))).softmax(0) * _wave(x)).sum()
    steps = [fraction * sampler.step_size for fraction in fractions]
    ladder = []
    for h in steps:
        g = seeded(1)
        rule = dataclasses.replace(sampler, step_size=h)
        ladder.append(Chains(rule, Humps(real(1)), torch.randn(count, 1, generator=g), g))
        ladder[-1].walk(math.ceil(12 / h))
    totals = [torch.zeros(count, dtype=torch.float64) for _ in steps]
    for visits in range(1, patience + 1):
        for h, chains, total in zip(steps, ladder, totals, strict=True):
            total += _wave(chains.walk(math.ceil(stretch / h)).squeeze(1)).double() - truth
        found = _regression(torch.tensor(steps).double().log(), torch.stack(totals, 1) / visits)
        if visits >= 20 and found.error < precision:
            break
    return found


class Humps(Energy):
    """E(x) = Σ x²/2 + e^{−x²}, its gradient by hand: this check is long."""

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        return self.value_and_score(x)[0]

    def value_and_score(self, x: Tensor, c: Any = None) -> tuple[Tensor, Tensor]:
        square = x.square()
        bump = (-square).exp()
        return (0.5 * square + bump).sum(1), (2 * bump - 1) * x


def _wave(x: Tensor) -> Tensor:
    return (1.75 * x).cos()


def _regression(t: Tensor, biases: Tensor) -> Slope:
    """Weighted least squares on t of log |mean bias| (chains, steps), with the errors that follow
    from the chains'.
    """
    mean = biases.mean(0)
    y, weights = mean.abs().log(), (mean / biases.std(0)).square() * len(biases)
    centred = t - (weights * t).sum() / weights.sum()
    spread = (weights * centred.square()).sum()
    return Slope(
        ((weights * centred * y).sum() / spread).item(), spread.rsqrt().item(), tuple(mean.tolist())
    )
