"""Statistical checks that a sampler leaves exp(−E) invariant; each returns its worst |z|.

A sampler is a Sampler or a callable move(energy, x, steps, generator) -> x. Draws of different
chains are independent, so every standard error is that of independent rows.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from lowland.energy import energy_values
from lowland.testing.chains import AnySampler, Chains, seeded, stationary, z_scores
from lowland.testing.requirements import require
from lowland.testing.targets import CONTINUOUS_TARGETS, Target

QUANTILES = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.995)


def _features(x: Tensor, values: Tensor, cuts: Tensor) -> Tensor:
    """Return moments, winsorised at the outer cuts for heavy tails, and tail probabilities."""
    both = torch.cat([x.flatten(1), values.unsqueeze(1)], 1).double()
    clipped = both.clamp(cuts[0], cuts[-1])
    tails = (both.unsqueeze(2) > cuts.T.unsqueeze(0)).double().flatten(1)
    pair = (clipped[:, :1] * clipped[:, -2:-1]) if both.shape[1] > 2 else clipped[:, :0]
    return torch.cat([clipped, clipped.square(), pair, tails], 1)


def stationarity(
    sampler: AnySampler,
    target: Target,
    *,
    dtype: torch.dtype = torch.float32,
    count: int = 20_000,
    steps: int = 12,
    seeds: Sequence[int] = (0, 1, 2),
) -> float:
    """Return the worst |z| of moments, energies and tails after `steps` from exact draws.

    The differences f(x_steps) − f(x_0) are independent between chains and have mean zero if the
    distribution is left invariant; z-scores are pooled over seeds.
    """
    pooled = []
    for seed in seeds:
        g = seeded(seed)
        other = target.draw(count, g, dtype)
        both = torch.cat(
            [other.flatten(1), energy_values(target.energy, other).unsqueeze(1)], 1
        ).double()
        cuts = both.quantile(both.new_tensor(QUANTILES), 0)
        chains = stationary(sampler, target, count, g, dtype)
        x, y = chains.x, chains.walk(steps)
        moved = (y != x).flatten(1).any(1).double().mean().item()
        require(
            moved > 0.3,
            f"{moved:.0%} of the chains moved in {steps} steps: chains at rest prove nothing",
        )
        require(torch.isfinite(y).all(), "chains ended at points that are not finite")
        values = energy_values(target.energy, y)
        require(torch.isfinite(values).all(), "chains ended where the energy is not finite")
        difference = _features(y, values, cuts) - _features(
            x, energy_values(target.energy, x), cuts
        )
        pooled.append(z_scores(difference))
    return (torch.stack(pooled).sum(0) / math.sqrt(len(pooled))).abs().max().item()


def arrival(
    sampler: AnySampler,
    target: Target,
    *,
    dtype: torch.dtype = torch.float32,
    count: int = 5_000,
    steps: int = 200,
    seed: int = 0,
) -> float:
    """Return the worst |z| between chains that ran for `steps` from one point, and exact draws.

    Chains that stand still, or stay on a contour, keep a distribution and never reach it.
    """
    g = seeded(seed)
    exact = target.draw(count, g, dtype)
    start = target.draw(1, g, dtype)
    y = Chains(sampler, target.energy, start.repeat(count, *[1] * (start.dim() - 1)), g).walk(steps)
    values = [energy_values(target.energy, x) for x in (y, exact)]
    both = torch.cat([exact.flatten(1), values[1].unsqueeze(1)], 1).double()
    cuts = both.quantile(both.new_tensor(QUANTILES), 0)
    a, b = (_features(x, v, cuts) for x, v in zip((y, exact), values, strict=True))
    error = ((a.var(0) + b.var(0)) / count).sqrt().clamp(min=1e-300)
    return ((a.mean(0) - b.mean(0)) / error).abs().max().item()


# -------------------------------------------------------------------------------------- enumeration


class Distance(NamedTuple):
    """Distance of counts from probabilities: total variation, and Pearson's statistic as z."""

    variation: float
    z: float


def distance(counts: Tensor, p: Tensor) -> Distance:
    """Compare counts (S,) of independent draws with probabilities.

    Cells of fewer than 10 expected draws are pooled. Σ (n_k − n p_k)² / n p_k is χ² of S − 1
    degrees of freedom; its cube root is normal. Source: Wilson & Hilferty (1931),
    https://doi.org/10.1073/pnas.17.12.684
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
    sampler: AnySampler,
    target: Target,
    *,
    dtype: torch.dtype = torch.float32,
    count: int = 20_000,
    steps: int = 12,
    seed: int = 0,
) -> Distance:
    """Compare chains after `steps` from exact draws with the list of all states."""
    assert target.states is not None
    y = stationary(sampler, target, count, seeded(seed), dtype).walk(steps)
    base = (target.energy.domain.classes or 2) ** torch.arange(y[0].numel())
    codes = [(x.flatten(1).long() * base).sum(1) for x in (target.states, y)]
    counts = torch.bincount(codes[1], minlength=int(codes[0].max()) + 1)
    require(counts[codes[0]].sum() == count, "chains ended at states outside the support")
    return distance(counts[codes[0]].double(), target.probabilities())


def walls(
    sampler: AnySampler,
    *,
    dtype: torch.dtype = torch.float64,
    count: int = 60_000,
    steps: int = 15,
    seed: int = 21,
) -> float:
    """Return the worst |z| of 12 bins of exp(−2x) on [0, 1], the outer ones 0.01 and 0.04 wide."""
    y = (
        stationary(sampler, CONTINUOUS_TARGETS["exponential"], count, seeded(seed), dtype)
        .walk(steps)
        .flatten()
    )
    edges = torch.tensor(
        [0, 0.01, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.99, 1.0], dtype=torch.float64
    )
    p = (torch.expm1(-2 * edges) / math.expm1(-2)).diff()
    require(((y >= 0) & (y <= 1)).all(), "chains left the box")
    counts = torch.stack([((y >= a) & (y < b)).sum() for a, b in pairwise(edges)])
    return ((counts - count * p) / (count * p * (1 - p)).sqrt()).abs().max().item()
