"""Laws with weights to learn, at their truth, where the gradient of an objective must vanish;
objectives with one line changed.

Each check gives the worst |z| over all weights (and log Z, where an objective learns it) of 200
independent batches; `off` moves the weights away from the truth.
"""

import math
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from lowland import Energy, binary, box, categorical, real
from lowland.nets.noise_models import NoisePartner
from lowland.objectives import Batch, Context, Objective
from lowland.targets import GaussianMixture
from lowland.testing import mutate, worst

DOUBLE = torch.float64


def planted(module: str, where: str, old: str, new: str) -> Any:
    """A copy of lowland.objectives.`module` in which `old`, in `where`, reads `new`; the registry
    is not told.
    """
    with mock.patch("lowland.registry.register", lambda kind: lambda cls: cls):
        return mutate(f"lowland.objectives.{module}", where, old, new)


def slopes(value: Tensor, energy: nn.Module) -> Tensor:
    """The gradient of a number in all weights, as one vector; what it does not depend on has slope
    0.
    """
    weights = [p for p in energy.parameters() if p.requires_grad]
    found = torch.autograd.grad(
        value, weights, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return torch.cat([g.flatten() for g in found])


Draw = Callable[[int, torch.Generator], Tensor]


def gradients(
    objective: Objective,
    energy: Energy,
    draw: Draw,
    log_z: float = 0.0,
    count: int = 200,
    rows: int = 300,
) -> Tensor:
    """Gradients (count, weights) on independent batches; the last is that of log Z, held at its
    truth, where it is learned.
    """
    g, learned = torch.Generator().manual_seed(0), nn.ModuleList([energy])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        partner = objective.make_partner(energy, draw(2000, torch.Generator().manual_seed(1)))
    if isinstance(partner, NoisePartner):
        nn.init.constant_(partner.log_z, log_z)
        learned.register_parameter("log_z", partner.log_z)
    found = []
    for _ in range(count):
        loss = objective.loss(energy, Batch(draw(rows, g)), Context(g, partner=partner))
        found.append(slopes(loss.value, learned))
    return torch.stack(found)


class Normal(Energy):
    """½ (x − m)ᵀ P (x − m): both learn."""

    def __init__(self, mean: Tensor, precision: Tensor) -> None:
        super().__init__(real(len(mean)))
        self.mean, self.precision = nn.Parameter(mean.clone()), nn.Parameter(precision.clone())

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        return 0.5 * ((x - self.mean) @ self.precision * (x - self.mean)).sum(1)


class Peaks(Energy):
    """−log Σ w_k N(m_k, s²), with means, shares and width to learn."""

    def __init__(self, means: Tensor, logits: Tensor, scale: float) -> None:
        super().__init__(real(means.shape[1]))
        self.means, self.logits = nn.Parameter(means.clone()), nn.Parameter(logits.clone())
        self.scale = nn.Parameter(torch.tensor(scale, dtype=DOUBLE))

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        square = (x.unsqueeze(1) - self.means).square().sum(2) / (2 * self.scale.square())
        return x.shape[1] * self.scale.log() - torch.logsumexp(
            self.logits.log_softmax(0) - square, 1
        )


class Slide(Energy):
    """Σ θ_i x_i + κ x_i² / 2 between walls."""

    def __init__(self, theta: Tensor, bow: float, lo: float, hi: float) -> None:
        super().__init__(box(lo, hi, len(theta)))
        self.theta, self.bow = (
            nn.Parameter(theta.clone()),
            nn.Parameter(torch.tensor(bow, dtype=DOUBLE)),
        )

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        return x @ self.theta + self.bow * x.square().sum(1) / 2


class Table(Energy):
    """One number for each state of a discrete domain."""

    def __init__(self, domain: Any, values: Tensor) -> None:
        super().__init__(domain)
        self.values = nn.Parameter(values.clone())
        self.radix = 2 if domain.kind == "binary" else domain.classes

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        places = self.radix ** torch.arange(x[0].numel() - 1, -1, -1)
        return self.values[(x.flatten(1).long() * places).sum(1)]


def states(energy: Energy) -> Tensor:
    """Every state of a discrete domain, (K^D, *event), in float64, in the order of `Table`."""
    domain = energy.domain
    values = 2 if domain.kind == "binary" else domain.classes
    count = math.prod(domain.shape)
    return torch.cartesian_prod(*[torch.arange(values, dtype=DOUBLE)] * count).view(
        -1, *domain.shape
    )


def law(energy: Energy) -> Tensor:
    """exp(−E)/Z of every state, by enumeration."""
    with torch.no_grad():
        return (-energy(states(energy))).softmax(0)


def drawn_from(energy: Energy) -> Draw:
    """Exact draws, by enumeration."""
    every, p = states(energy), law(energy)
    return lambda count, g: every[torch.multinomial(p, count, replacement=True, generator=g)]


COVARIANCE = torch.tensor([[1.0, 0.6, 0.0], [0.6, 2.0, -0.4], [0.0, -0.4, 0.5]], dtype=DOUBLE)
MEAN = torch.tensor([1.0, -0.5, 0.3], dtype=DOUBLE)


def at_the_gaussian(objective: Any, off: float = 1.0) -> float:
    """Mean and precision of N(m, C) in three dimensions."""
    factor = torch.linalg.cholesky(COVARIANCE)
    log_z = 1.5 * math.log(2 * math.pi) + float(factor.diagonal().log().sum())
    energy = Normal(MEAN, off * COVARIANCE.inverse())
    return worst(
        gradients(
            objective,
            energy,
            lambda n, g: MEAN + torch.randn(n, 3, generator=g, dtype=DOUBLE) @ factor.T,
            log_z,
        )
    )


def at_the_mixture(objective: Any, off: float = 1.0) -> float:
    """Means, shares and width of a mixture in the plane."""
    means, shares = ((-1.0, 0.0), (1.5, 0.5), (0.0, 1.0)), (1.0, 2.0, 3.0)
    target = GaussianMixture(means, 0.6, shares)
    energy = Peaks(
        torch.tensor(means, dtype=DOUBLE), torch.tensor(shares, dtype=DOUBLE).log(), 0.6 * off
    )
    return worst(
        gradients(objective, energy, lambda n, g: target.draw(n, g, DOUBLE), math.log(2 * math.pi))
    )


def between_walls(objective: Any, off: float = 1.0) -> float:
    """Slope and bow of a normal law cut off at the walls of [−1, 2]²."""
    theta, bow = torch.tensor([1.5, -0.7], dtype=DOUBLE), 0.8
    energy = Slide(off * theta, bow, -1.0, 2.0)
    low, high = (torch.special.ndtr((wall + theta / bow) * bow**0.5) for wall in (-1.0, 2.0))
    log_z = float(
        (theta.square() / (2 * bow) + 0.5 * math.log(2 * math.pi / bow) + (high - low).log()).sum()
    )

    def draw(count: int, g: torch.Generator) -> Tensor:
        u = torch.rand(count, 2, generator=g, dtype=DOUBLE)
        return torch.special.ndtri(low + (high - low) * u) / bow**0.5 - theta / bow

    return worst(gradients(objective, energy, draw, log_z))


def at_the_table(objective: Any, off: float = 1.0, classes: int = 2) -> float:
    """The energies of all states of three bits, or of two sites with three values."""
    domain = binary(3) if classes == 2 else categorical(classes, 2)
    values = torch.randn(
        8 if classes == 2 else classes**2, generator=torch.Generator().manual_seed(7), dtype=DOUBLE
    )
    log_z = float(torch.logsumexp(-off * values, 0))
    return worst(
        gradients(objective, Table(domain, off * values), drawn_from(Table(domain, values)), log_z)
    )


TRUTHS: dict[str, Callable[..., float]] = {
    "gaussian": at_the_gaussian,
    "mixture": at_the_mixture,
    "walls": between_walls,
}
