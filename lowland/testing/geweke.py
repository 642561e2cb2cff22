"""Geweke's joint-distribution test, on models whose prior and likelihood have exact draws."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from lowland.domain import Domain, binary, categorical, real
from lowland.energy import Energy, Gibbs
from lowland.testing.chains import AnySampler, Chains, seeded, worst
from lowland.testing.requirements import require


class Model(NamedTuple):
    """Exact draws of a prior and of a likelihood, and the posterior's energy given the data.

    prior(count, generator) -> θ; data(θ, generator) -> y.
    """

    posterior: Energy
    prior: Callable[[int, torch.Generator], Tensor]
    data: Callable[[Tensor, torch.Generator], Tensor]


class Rate(Energy):
    """θ = log λ of λ ~ Gamma(3, 1), y | λ ~ Poisson(λ): E(θ; y) = Σ_i 2 e^{θ_i} − (3 + y_i) θ_i."""

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        return (2 * x.exp() - (3 + c) * x).sum(1)


class Mixed(Energy):
    """Independent sites z and y | z ~ N(Σ_i w_i(z_i), 1).

        E(z; y) = Σ_i b_i(z_i) + (y − Σ_i w_i(z_i))² / 2

    Binary sites: w, b (sites,); categorical ones: (sites, K), and z may be one-hot floats.
    """

    def __init__(self, domain: Domain) -> None:
        super().__init__(domain)
        sites, classes = domain.shape[0], domain.classes or 1
        first, last = (
            torch.linspace(*ends, sites * classes, dtype=torch.float64).view(sites, classes)
            for ends in ((-1.6, 1.9), (0.9, -0.7))
        )
        self.weights, self.costs = first.cos() * 1.5, last
        self.is_binary = domain.kind == "binary"

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        if self.is_binary:
            return self._one_hot(x.unsqueeze(2), c)
        return self._one_hot(one_hot(x.long(), self.domain.classes).to(x), c)

    @property
    def gibbs(self) -> Gibbs | None:
        return None if self.is_binary else Gibbs(one_hot_energy=self._one_hot)

    def _one_hot(self, z: Tensor, c: Any = None) -> Tensor:
        w, b = self.weights.to(z), self.costs.to(z)
        return (z * b).flatten(1).sum(1) + 0.5 * (c - (z * w).flatten(1).sum(1)).square()

    def model(self) -> Model:
        def prior(count: int, g: torch.Generator) -> Tensor:
            logits = -self.costs
            if self.is_binary:
                logits = torch.cat([0 * logits, logits], 1)
            p = logits.softmax(1)
            return torch.multinomial(p, count, replacement=True, generator=g).T.double()

        def data(z: Tensor, g: torch.Generator) -> Tensor:
            weights = self.weights
            if self.is_binary:
                weights = torch.cat([0 * weights, weights], 1)
            mean = weights.gather(1, z.long().T).sum(0)
            return mean + torch.randn(len(z), generator=g, dtype=torch.float64)

        return Model(self, prior, data)


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
    sampler: AnySampler,
    kind: str = "real",
    *,
    dtype: torch.dtype = torch.float32,
    count: int = 20_000,
    rounds: int = 5,
    seed: int = 0,
) -> float:
    """Return the worst |z| of parameters and data after rounds of (sample θ | y, draw y | θ).

    From exact draws of (θ, y) both moves keep their joint distribution; a sampler that is wrong for
    some y drifts away from it. Every chain has its own data, bound as a condition. Source:
    Geweke (2004), https://doi.org/10.1198/016214504000001132
    """
    model, g = MODELS[kind], seeded(seed)
    start = theta = model.prior(count, g).to(dtype).double()
    first = y = model.data(theta, g)
    for _ in range(rounds):
        theta = (
            Chains(sampler, model.posterior.given(y.to(dtype)), theta.to(dtype), g).walk(2).double()
        )
        y = model.data(theta, g)
    require((theta != start).any(), "no chain moved: chains at rest prove nothing")
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
