"""Six distributions for `benchmarks.guides.samplers`, each hard in its own way, with what is known
of them
exactly.

gaussian   100 dimensions, widths from 1 to 1/30, turned at random: a diagonal metric cannot make it
           round
funnel     Neal's, 3 dimensions: the variance of two coordinates changes 4.5-fold with every
           deviation of the first
banana     a bent Gaussian in the plane
mixture    two Gaussians in 5 dimensions, 8 deviations apart, of mass 0.7 and 0.3
box        exp(−Σ r_i x_i) on [0, 1]^10, r from 2 to 20: most of the mass lies at the bounds
ising      16 × 16 spins on a torus at coupling 0.35 (order sets in at 0.44), energy known from the
           exact log Z
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lowland import box
from lowland.energy import Energy, Function
from lowland.targets import Banana, Funnel, Gaussian, GaussianMixture, Ising


class Truth(NamedTuple):
    """A mean that is known: of function(x, energies), over draws x (n, *event) and their energies
    (n,), gives (n,).
    """

    name: str
    function: Callable[[Tensor, Tensor], Tensor]
    value: float


class Target(NamedTuple):
    """watched: from draws (n, *event) to the quantities (n, q) whose effective draws are counted,
    beside the energy; hottest: temperature of the ladder's last temperature; longer: how many
    times the
    usual number of gradients a run takes."""

    name: str
    title: str
    energy: Energy
    truths: Sequence[Truth]
    watched: Callable[[Tensor], Tensor] = lambda x: x.flatten(1)
    hottest: float = 16.0
    longer: int = 1


def moments(
    name: str, pick: Callable[[Tensor], Tensor], mean: float, variance: float
) -> list[Truth]:
    """Mean and variance of pick(x) as two truths."""
    return [
        Truth(f"mean of {name}", lambda x, _: pick(x), mean),
        Truth(f"variance of {name}", lambda x, _: (pick(x) - mean) ** 2, variance),
    ]


def gaussian(dimension: int = 100, narrowest: float = 1 / 30) -> Target:
    g = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(dimension, dimension, generator=g, dtype=torch.float64))[0]
    widths = torch.logspace(0, math.log10(narrowest), dimension, dtype=torch.float64)
    covariance = (axes * widths**2) @ axes.T
    energy = Gaussian((0.0,) * dimension, ((covariance + covariance.T) / 2).tolist())
    turned = axes.float()
    some = torch.linspace(0, dimension - 1, min(10, dimension)).long()
    truths = [
        *moments("the widest axis", lambda x: x @ turned[:, 0], 0.0, 1.0),
        *moments("the narrowest axis", lambda x: x @ turned[:, -1], 0.0, narrowest**2),
        Truth("mean of the energy", lambda _, e: e, dimension / 2),
    ]
    title = f"Gaussian, {dimension}-d, widths 1 to 1/{1 / narrowest:.0f}, turned"
    return Target("gaussian", title, energy, truths, lambda x: x @ turned[:, some], longer=3)


def funnel(dimension: int = 3, scale: float = 1.5) -> Target:
    truths = [
        *moments("v", lambda x: x[:, 0], 0.0, scale**2),
        Truth(
            "share of the neck (v < −1 sd)", lambda x, _: (x[:, 0] < -scale).float(), normal_cdf(-1)
        ),
        Truth(
            "share of the mouth (v > 1 sd)", lambda x, _: (x[:, 0] > scale).float(), normal_cdf(-1)
        ),
    ]
    energy = Funnel(dimension, scale)
    return Target(
        "funnel", f"Funnel (Neal's), {dimension}-d, v ~ N(0, {scale:g}²)", energy, truths, longer=2
    )


def banana(scale: float = 2.0, bend: float = 0.5) -> Target:
    truths = [
        *moments("x₁", lambda x: x[:, 0], 0.0, scale**2),
        *moments("x₂", lambda x: x[:, 1], 0.0, 1 + 2 * bend**2 * scale**4),
    ]
    return Target(
        "banana", f"Banana, 2-d, width {scale:g}, bend {bend:g}", Banana(scale, bend), truths
    )


def mixture(dimension: int = 5, apart: float = 8.0) -> Target:
    left, right = -apart / 2, apart / 2
    rest = (0.0,) * (dimension - 1)
    energy = GaussianMixture(((left, *rest), (right, *rest)), 1.0, (0.7, 0.3))
    mean = 0.7 * left + 0.3 * right
    truths = [
        *moments("x₁", lambda x: x[:, 0], mean, 1 + 0.21 * apart**2),
        Truth(
            "mass of the small mode",
            lambda x, _: (x[:, 0] > 0).float(),
            0.7 * normal_cdf(left) + 0.3 * normal_cdf(right),
        ),
        *moments("x₂", lambda x: x[:, 1], 0.0, 1.0),
    ]
    return Target(
        "mixture",
        f"Mixture of two Gaussians {apart:g} sd apart, {dimension}-d, 70 : 30",
        energy,
        truths,
    )


def corner(dimension: int = 10) -> Target:
    rates = torch.linspace(2, 20, dimension)
    steepest = rates[-1].item()
    truths = [
        Truth("mean of the flattest", lambda x, _: x[:, 0], cut_exponential(2.0)[0]),
        Truth("mean of the steepest", lambda x, _: x[:, -1], cut_exponential(steepest)[0]),
        Truth(
            "mean square of the steepest", lambda x, _: x[:, -1] ** 2, cut_exponential(steepest)[1]
        ),
        Truth(
            "share of the steepest within 0.01 of the bound",
            lambda x, _: (x[:, -1] < 0.01).float(),
            math.expm1(-0.01 * steepest) / math.expm1(-steepest),
        ),
        Truth(
            "mean of the energy",
            lambda _, e: e,
            sum(r * cut_exponential(r)[0] for r in rates.tolist()),
        ),
    ]
    energy = Function(lambda x: x @ rates.to(x), box(0.0, 1.0, dimension))
    return Target("box", f"Box: exp(−Σ r x) on [0, 1]^{dimension}, r = 2 … 20", energy, truths)


def normal_cdf(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2))


def cut_exponential(rate: float) -> tuple[float, float]:
    """Mean and mean square of the density ∝ exp(−rate x) on [0, 1]."""
    inside, edge = -math.expm1(-rate), math.exp(-rate)
    mean = 1 / rate - edge / inside
    return mean, 2 * mean / rate - edge / inside


def energy_moments(lattice: Ising) -> tuple[float, float]:
    """Mean and variance of E under exp(−E), the first two derivatives of log Σ exp(−βE) at β =
    1.
    """
    beta = torch.ones((), dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(lattice.log_partition(beta), beta, create_graph=True)
    (second,) = torch.autograd.grad(first, beta)
    return -first.item(), second.item()


def ising(size: int = 16, coupling: float = 0.35) -> Target:
    energy = Ising((size, size), coupling)
    mean, variance = energy_moments(energy)
    truths = [
        Truth("mean of the energy", lambda _, e: e, mean),
        Truth("variance of the energy", lambda _, e: (e - mean) ** 2, variance),
        Truth("mean spin", lambda x, _: 2 * x.mean((1, 2)) - 1, 0.0),
    ]

    def watched(x: Tensor) -> Tensor:
        return torch.cat([x.mean((1, 2)).unsqueeze(1), x.flatten(1)[:, :: size * size // 4 + 1]], 1)

    return Target(
        "ising",
        f"Ising, {size} × {size} torus, coupling {coupling:g}",
        energy,
        truths,
        watched,
        2.0,
    )


TARGETS: dict[str, Callable[[], Target]] = {
    "gaussian": gaussian,
    "funnel": funnel,
    "banana": banana,
    "mixture": mixture,
    "box": corner,
    "ising": ising,
}
