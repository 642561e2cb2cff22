"""Targets of proofs: energies with independent exact draws, discrete ones with all states listed.

A target with draws at other temperatures too (`hot`) can prove parallel tempering, whose replicas
must all start from their own distributions.

    CONTINUOUS_TARGETS   Gaussians, a mixture, a banana, a funnel, an image, two that end where the
                         energy is not finite, and some on boxes, up to the walls
    DISCRETE_TARGETS     lattices with colorings and conditionals; networks of binary and of
                         categorical sites, whose first-order gains are not exact; two of them with
                         states at which the energy is nan
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot, softplus

from lowland.domain import Domain, binary, box, categorical, real
from lowland.energy import Energy, Function, Gibbs, energy_values, gibbs_of
from lowland.targets import Banana, Funnel, Gaussian, GaussianMixture, Ising, Potts

Draw = Callable[[int, torch.Generator, torch.dtype], Tensor]


class Target(NamedTuple):
    """An energy with independent exact draws.

    draw(count, generator, dtype) -> (count, *event); hot(temperature, count, generator, dtype): of
    exp(−E / T), where known; states: every state (S, *event), if discrete; holed: the energy
    is not finite outside the support.
    """

    energy: Energy
    draw: Draw
    hot: Callable[[float, int, torch.Generator, torch.dtype], Tensor] | None = None
    states: Tensor | None = None
    holed: bool = False

    def probabilities(self, temperature: float = 1.0) -> Tensor:
        """Return the probability of every state (S,), float64."""
        if self.states is None:
            raise ValueError(
                "the target came without its states; probabilities are those of a discrete target; "
                "give every state (S, *event)"
            )
        return (-energy_values(self.energy, self.states.double()) / temperature).softmax(0)


def uniform(count: int, dim: int, g: torch.Generator) -> Tensor:
    """Draw uniform numbers (count, dim), float64."""
    return torch.rand(count, dim, generator=g, device=g.device, dtype=torch.float64)


def normal(count: int, dim: int, g: torch.Generator) -> Tensor:
    """Draw standard normal numbers (count, dim), float64."""
    return torch.randn(count, dim, generator=g, device=g.device, dtype=torch.float64)


def target_at_temperatures(
    energy: Energy, hot: Callable[[float, int, torch.Generator], Tensor], **more: Any
) -> Target:
    """Make a target of draws at every temperature, in float64."""

    def draw(count: int, g: torch.Generator, dtype: torch.dtype) -> Tensor:
        return hot(1.0, count, g).to(dtype)

    return Target(energy, draw, lambda t, count, g, dtype: hot(t, count, g).to(dtype), **more)


def discrete_target(energy: Energy, states: Tensor | None = None) -> Target:
    """Make a target of a discrete energy whose states (all, unless given) can be listed."""
    if states is None:
        values = torch.arange(float(energy.domain.classes or 2))
        states = torch.cartesian_prod(*[values] * math.prod(energy.domain.shape)).view(
            -1, *energy.domain.shape
        )
    listed = states

    def hot(temperature: float, count: int, g: torch.Generator) -> Tensor:
        p = target.probabilities(temperature)
        rows = torch.multinomial(p.to(g.device), count, replacement=True, generator=g)
        return listed.to(g.device)[rows].double()

    target = target_at_temperatures(energy, hot, states=listed)
    return target


# --------------------------------------------------------------------------------------- continuous


def gaussian(mean: tuple[float, ...], covariance: Any, shape: tuple[int, ...] = ()) -> Target:
    """Make the target N(mean, T · covariance) of events of a shape."""
    density = Gaussian(mean, covariance)
    factor = torch.linalg.cholesky(torch.tensor(covariance, dtype=torch.float64))
    centre = torch.tensor(mean, dtype=torch.float64)

    def hot(t: float, count: int, g: torch.Generator) -> Tensor:
        x = centre.to(g.device) + math.sqrt(t) * normal(count, len(mean), g) @ factor.T.to(g.device)
        return x.view(-1, *(shape or (len(mean),)))

    if not shape:
        return target_at_temperatures(density, hot)
    energy = Function(lambda x: density.to(x.device)(x.flatten(1)), real(*shape))
    return target_at_temperatures(energy, hot)


def mixture(
    centres: tuple[tuple[float, ...], ...], scale: float, weights: tuple[float, ...]
) -> Target:
    """Make the target Σ w_k N(m_k, s² I).

    At T > 1 by rejection: (Σ p_k)^β ≤ Σ p_k^β, and p_k^β is a wider Gaussian.
    """
    density = GaussianMixture(centres, scale, weights)

    def hot(t: float, count: int, g: torch.Generator) -> Tensor:
        m = torch.tensor(centres, dtype=torch.float64, device=g.device)
        w = torch.tensor(weights, dtype=torch.float64, device=g.device)
        found = m.new_empty(0, m.shape[1])
        while len(found) < count:
            which = torch.multinomial(w ** (1 / t), count, replacement=True, generator=g)
            x = m[which] + scale * math.sqrt(t) * normal(count, m.shape[1], g)
            parts = w.log() - (x.unsqueeze(1) - m).square().sum(2) / (2 * scale**2)
            chance = (parts.logsumexp(1) / t - (parts / t).logsumexp(1)).exp()
            found = torch.cat([found, x[uniform(count, 1, g).squeeze(1) < chance]])
        return found[:count]

    return target_at_temperatures(density, hot)


def banana(scale: float, bend: float) -> Target:
    """Make a banana-shaped target. At T the ridge stays and both widths grow by √T."""

    def hot(t: float, count: int, g: torch.Generator) -> Tensor:
        first, second = (math.sqrt(t) * normal(count, 2, g)).unbind(1)
        first = scale * first
        return torch.stack([first, second + bend * (first.square() - scale**2)], 1)

    return target_at_temperatures(Banana(scale, bend), hot)


def funnel(dimension: int, scale: float) -> Target:
    """Make a funnel. At T: x | v ~ N(0, T e^v), and v ~ N(s² (d − 1)(T − 1) / 2, T s²)."""

    def hot(t: float, count: int, g: torch.Generator) -> Tensor:
        z = normal(count, dimension, g)
        v = scale**2 * (dimension - 1) * (t - 1) / 2 + scale * math.sqrt(t) * z[:, :1]
        return torch.cat([v, math.sqrt(t) * z[:, 1:] * (v / 2).exp()], 1)

    return target_at_temperatures(Funnel(dimension, scale), hot)


def cut_normal(centre: float, width: float, lo: float, hi: float, u: Tensor) -> Tensor:
    """Return the quantiles u of a normal distribution truncated to [lo, hi], float64."""
    a, b = (
        torch.special.ndtr(torch.tensor((w - centre) / width, dtype=torch.float64))
        for w in (lo, hi)
    )
    return (centre + width * torch.special.ndtri(a.to(u) + u * (b - a).to(u))).clamp(lo, hi)


MEAN, SD, LO, HI = 0.3, 0.8, -0.5, 1.0  # of the truncated Gaussian


def _truncated_gaussian() -> Target:
    energy = Function(lambda x: 0.5 * ((x - MEAN) / SD).square().sum(1), box(LO, HI, 2))
    return target_at_temperatures(
        energy,
        lambda t, count, g: cut_normal(MEAN, SD * math.sqrt(t), LO, HI, uniform(count, 2, g)),
    )


def _exponential() -> Target:
    def hot(t: float, count: int, g: torch.Generator) -> Tensor:
        return (-torch.log1p(uniform(count, 1, g) * math.expm1(-2 / t)) * t / 2).clamp(0, 1)

    return target_at_temperatures(Function(lambda x: (2 * x).sum(1), box(0.0, 1.0, 1)), hot)


def _flat() -> Target:
    energy = Function(lambda x: (0 * x).sum(1), box(-1.0, 1.0, 2))
    return target_at_temperatures(energy, lambda t, count, g: 2 * uniform(count, 2, g) - 1)


def _gamma() -> Target:
    """Gamma(3) about its mean, (x + 3)² e^{−x}: below −3 the energy is nan, its slope is not."""
    energy = Function(lambda x: (x - 2 * (x + 3).log()).sum(1), real(1))

    def draw(count: int, g: torch.Generator, dtype: torch.dtype) -> Tensor:
        return (-(1 - uniform(count, 3, g)).log().sum(1, keepdim=True) - 3).to(dtype)

    return Target(energy, draw, holed=True)


def _cut() -> Target:
    """A Gaussian plane that ends at x₀ = 0.5: beyond, the energy is nan, and so is its slope."""
    energy = Function(lambda x: 0.5 * x.square().sum(1) + 0 * (0.5 - x[:, 0]).sqrt(), real(2))

    def hot(t: float, count: int, g: torch.Generator) -> Tensor:
        first = cut_normal(0.0, math.sqrt(t), -30.0, 0.5, uniform(count, 1, g))
        return torch.cat([first, math.sqrt(t) * normal(count, 1, g)], 1)

    return target_at_temperatures(energy, hot, holed=True)


def _image() -> Target:
    """Return correlated pixels, (1, 4, 4), with covariance ρ^|i−k| ρ^|j−l| and unequal widths."""
    line = 0.6 ** (torch.arange(4.0).view(-1, 1) - torch.arange(4.0)).abs()
    spread = torch.linspace(0.6, 1.4, 16)
    covariance = torch.kron(line, line) * spread * spread.view(-1, 1)
    return gaussian(
        tuple(torch.linspace(-1, 1, 16).tolist()),
        ((covariance + covariance.T) / 2).tolist(),
        (1, 4, 4),
    )


CONTINUOUS_TARGETS: dict[str, Target] = {
    "gaussian": gaussian((1.0, -1.0), ((1.0, 0.8), (0.8, 1.5))),
    "mixture": mixture(((-1.0, 0.0), (1.5, 0.5)), 0.6, (1.0, 3.0)),
    "banana": banana(1.0, 0.7),
    "funnel": funnel(3, 1.0),
    "ten": gaussian(
        (0.0,) * 10, torch.diag(torch.linspace(0.5, 2.0, 10)).tolist()
    ),  # sees what two dimensions hide
    "image": _image(),
    "gamma": _gamma(),
    "cut": _cut(),
    "truncated": _truncated_gaussian(),
    "exponential": _exponential(),
    "flat": _flat(),
}

# ----------------------------------------------------------------------------------------- discrete


class Perceptron(Energy):
    """E(x) = −Σ_k a_k softplus(w_k · x + b_k): sites that meet in a network, so that first-order
    gains are not exact.
    """

    weights: Tensor
    signs: Tensor

    def __init__(self, domain: Domain, strength: float = 1.5) -> None:
        super().__init__(domain)
        g = torch.Generator().manual_seed(6)
        inputs = math.prod(domain.shape) * (domain.classes or 1)
        self.register_buffer(
            "weights", strength * torch.randn(inputs + 1, 5, generator=g, dtype=torch.float64)
        )
        self.register_buffer(
            "signs", torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0], dtype=torch.float64)
        )

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        return (
            self._hidden(x)
            if self.domain.kind == "binary"
            else self._hidden(one_hot(x.long(), self.domain.classes).to(x))
        )

    @property
    def gibbs(self) -> Gibbs | None:
        if self.domain.kind == "binary":
            return None
        return Gibbs(one_hot_energy=lambda z, c=None: self._hidden(z))

    def _hidden(self, z: Tensor) -> Tensor:
        weights = self.weights.to(z.dtype)
        return -softplus(z.flatten(1) @ weights[:-1] + weights[-1]) @ self.signs.to(z.dtype)


class NanAtCorner(Energy):
    """An energy that is nan where the first two sites are both 0."""

    def __init__(self, inner: Energy) -> None:
        super().__init__(inner.domain)
        self.inner = inner

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        return torch.where(x[:, :2].sum(1) < 0.5, math.nan, self.inner(x))

    @property
    def gibbs(self) -> Gibbs | None:
        inner = gibbs_of(self.inner).one_hot_energy
        if inner is None:
            return None
        return Gibbs(one_hot_energy=lambda z, c=None: self._hole(z, inner))

    @staticmethod
    def _hole(z: Tensor, inner: Callable[..., Tensor]) -> Tensor:
        return torch.where(z[:, :2, 0].sum(1) > 1.5, math.nan, inner(z))


def with_nan(inner: Energy) -> Target:
    """Make a target without the states at which `NanAtCorner` is nan."""
    every = discrete_target(inner).states
    assert every is not None
    return discrete_target(NanAtCorner(inner), every[every[:, :2].sum(1) > 0.5])._replace(
        holed=True
    )


DISCRETE_TARGETS: dict[str, Target] = {
    "lattice": discrete_target(Ising((2, 3), 0.25, 0.15)),  # an odd ring: three colours, no words
    "words": discrete_target(
        Ising((2, 4), 0.35, 0.2, periodic=False)
    ),  # 64 chains to a machine word, where samplers can
    "potts": discrete_target(Potts((2, 2), 3, 0.7, (0.0, 0.4, -0.3))),
    "bits": discrete_target(Perceptron(binary(6))),
    "classes": discrete_target(Perceptron(categorical(3, 4), 0.9)),
    "holed bits": with_nan(Perceptron(binary(6))),
    "holed classes": with_nan(Perceptron(categorical(3, 4), 0.9)),
}
TARGETS: dict[str, Target] = CONTINUOUS_TARGETS | DISCRETE_TARGETS
