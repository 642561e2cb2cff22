"""Checks of samplers that are not adjusted: the order of their bias, Langevin's exact moments."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lowland.domain import real
from lowland.energy import Energy, Function
from lowland.testing.chains import Chains, seeded, z_scores
from lowland.testing.requirements import require


def temperature_law(
    sampler: Any, step_size: float, temperature: float, *, count: int = 20_000, steps: int = 15
) -> float:
    """Return |z| of mean and variance of unadjusted Langevin on N(0, 1), as they are exactly.

    N(0, T / (1 − h/2)) is left invariant: x' = (1 − h) x + √(2hT) ξ keeps the variance
    v = (1 − h)² v + 2hT.
    """
    v = temperature / (1 - step_size / 2)
    bowl = Function(lambda x: 0.5 * x.square().sum(1), real(4))
    g = seeded(11)
    x = math.sqrt(v) * torch.randn(count, 4, generator=g)
    y = Chains(sampler, bowl, x, g).walk(steps).double().flatten()
    return max(abs(z_scores(y).item()), abs(z_scores(y.square(), v).item()))


def diffusion_law(sampler: Any, step_size: float, temperature: float = 1.0) -> float:
    """Return |z| of one step from 0 on E(x) = b·x against N(−h b, 2hT), that of x − h∇E + √(2hT) ξ.

    A Metropolis sampler accepts all of it: on a linear energy the proposal is exact.
    """
    slope = 0.7
    energy = Function(lambda x: (slope * x).sum(1), real(4))
    x = torch.zeros(20_000, 4)
    y = Chains(sampler, energy, x, seeded(5)).walk(1).double().flatten()
    require((y != 0).all(), "a proposal on a straight slope was refused")
    y = y + step_size * slope
    variance = 2 * step_size * temperature
    return max(abs(z_scores(y).item()), abs(z_scores(y.square(), variance).item()))


class Slope(NamedTuple):
    """The measured order of a bias in the step size, its standard error, and the biases."""

    order: float
    error: float
    biases: tuple[float, ...]

    def z(self, declared: int) -> float:
        """Return |measured − declared| in standard errors; infinite if the error is over 0.2."""
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
    """Regress log |bias| on log h, at step sizes that are fractions of the sampler's own.

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
        rule = sampler.replace(step_size=h)
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
    """E(x) = Σ x²/2 + e^{−x²}, with its gradient by hand, for speed."""

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        return self.value_and_score(x)[0]

    def value_and_score(self, x: Tensor, c: Any = None) -> tuple[Tensor, Tensor]:
        square = x.square()
        bump = (-square).exp()
        return (0.5 * square + bump).sum(1), (2 * bump - 1) * x


def _wave(x: Tensor) -> Tensor:
    return (1.75 * x).cos()


def _regression(t: Tensor, biases: Tensor) -> Slope:
    """Fit log |mean bias| (chains, steps) on t by weighted least squares."""
    mean = biases.mean(0)
    y, weights = mean.abs().log(), (mean / biases.std(0)).square() * len(biases)
    centred = t - (weights * t).sum() / weights.sum()
    spread = (weights * centred.square()).sum()
    return Slope(
        ((weights * centred * y).sum() / spread).item(), spread.rsqrt().item(), tuple(mean.tolist())
    )
