"""Visible sides of Boltzmann machines: how a domain enters the energy.

The visible units enter through features f (B, D), a term V, and the field y = W h (B, D):

    binary         f = x            V = −a·f                 x_i | y ~ coin of log-odds a_i + y_i
    categorical    f = one-hot x    V = −a·f                 x_i | y ~ softmax(a_i + y_i), K values
    real           f = (x − m) / σ  V = Σ (f − a)² / 2      x_i | y ~ N(m_i + σ_i (a_i + y_i), σ_i²)

with location m and scale σ, those of the data from the start of training on: whatever the units of
a column, a step of training means the same to it. A column that never changes has scale 1.

On a path from a product distribution to the machine, at β in [0, 1], both enter with weights 1 − β
and β, and the conditionals stay of their kind: log-odds and log-probabilities mix, and so do
precisions and precisions times means. A product distribution is a tuple of natural parameters (D,)
of the features: (log-odds,), (log-probabilities,) or ((mean − m) · σ / σ0², σ² / σ0²).
"""

import math
import warnings
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import one_hot, softplus

from lowland.domain import Domain
from lowland.energy import Energy, differentiate
from lowland.energy.scales import flat_columns, measure_columns
from lowland.nets.boltzmann.units import HALF_LOG_TAU, coins

Beta = float | Tensor  # one number, or one per row (B, 1)
Law = tuple[Tensor, ...]


class Machine(Protocol):
    """Parameters of a machine that its visible side uses, (D,) each: a, m, σ, mean features."""

    @property
    def visible_bias(self) -> Tensor: ...

    @property
    def location(self) -> Tensor: ...

    @property
    def sigma(self) -> Tensor: ...

    @property
    def visible_offset(self) -> Tensor: ...


class VisibleSide(Protocol):
    """Operations of a visible side on points x (B, *event), features f and fields y (B, D)."""

    size: int

    def features(self, machine: Machine, x: Tensor) -> Tensor: ...

    def origin(self, machine: Machine) -> Tensor:
        """Return a point (1, *event) whose features are small."""
        ...

    def term(self, machine: Machine, f: Tensor) -> Tensor:
        """Return V, (B,)."""
        ...

    def law_term(self, law: Law, f: Tensor) -> Tensor:
        """Return the term in place of V under a product distribution, up to a constant, (B,)."""
        ...

    def log_partition(self, machine: Machine, y: Tensor) -> Tensor:
        """Return log ∫ exp(f·y − V) over all x, (B,)."""
        ...

    def draw(
        self,
        machine: Machine,
        y: Tensor,
        generator: torch.Generator,
        beta: Beta = 1.0,
        law: Law | None = None,
    ) -> Tensor: ...

    def mean(self, machine: Machine, y: Tensor) -> Tensor: ...

    def rest(self) -> Tensor:
        """Return mean features (D,) at zero fields and biases."""
        ...

    def own_law(self, machine: Machine) -> Law:
        """Return the product distribution whose mean features are the machine's offsets."""
        ...

    def law_of(self, machine: Machine, base: Energy) -> Law | None:
        """Return the natural parameters of an energy of independent units; None for any other."""
        ...

    def init_from_data(self, machine: Machine, x: Tensor) -> None:
        """Set bias, scale and offset to those of independent units fitted to data x (N, *event)."""
        ...


class _Discrete:
    """Common part of binary and categorical units: everything is linear in the features."""

    shape: tuple[int, ...]

    def origin(self, machine: Machine) -> Tensor:
        return machine.visible_bias.new_zeros(1, *self.shape)

    def term(self, machine: Machine, f: Tensor) -> Tensor:
        with torch.autocast(f.device.type, enabled=False):  # one number per point: keep precision
            return -(f @ machine.visible_bias)

    def law_term(self, law: Law, f: Tensor) -> Tensor:
        return -(f @ law[0])

    @staticmethod
    def _logits(machine: Machine, y: Tensor, beta: Beta, law: Law | None) -> Tensor:
        own = y.add_(machine.visible_bias)
        if law is None:
            return own
        return own.mul_(beta).add_(law[0] * (1 - beta))

    @staticmethod
    def _law_of(base: Energy, shape: tuple[int, ...], kind: str, like: Tensor) -> Law | None:
        gibbs = base.gibbs
        if gibbs is None or gibbs.conditional is None or base.domain.kind != kind:
            return None
        x = torch.stack([like.new_zeros(shape), like.new_ones(shape)])
        logits = gibbs.conditional(x).flatten(1)
        return (logits[0],) if torch.equal(logits[0], logits[1]) else None


class Binary(_Discrete):
    """x in {0, 1}^D."""

    def __init__(self, domain: Domain) -> None:
        self.shape = domain.shape
        self.size = math.prod(domain.shape)

    def features(self, machine: Machine, x: Tensor) -> Tensor:
        return x.flatten(1)

    def log_partition(self, machine: Machine, y: Tensor) -> Tensor:
        return softplus(y + machine.visible_bias).sum(1)

    def draw(
        self,
        machine: Machine,
        y: Tensor,
        generator: torch.Generator,
        beta: Beta = 1.0,
        law: Law | None = None,
    ) -> Tensor:
        return coins(self._logits(machine, y, beta, law), generator).view(-1, *self.shape)

    def mean(self, machine: Machine, y: Tensor) -> Tensor:
        return torch.sigmoid(y + machine.visible_bias).view(-1, *self.shape)

    def rest(self) -> Tensor:
        return torch.full((self.size,), 0.5)

    def own_law(self, machine: Machine) -> Law:
        return (torch.logit(machine.visible_offset.clamp(1e-4, 1 - 1e-4)),)

    def law_of(self, machine: Machine, base: Energy) -> Law | None:
        return self._law_of(base, self.shape, "binary", machine.visible_bias)

    def init_from_data(self, machine: Machine, x: Tensor) -> None:
        _check_binary_data(x)
        share = (x.flatten(1).double().sum(0) + 1) / (len(x) + 2)
        machine.visible_bias.copy_(torch.logit(share))
        machine.visible_offset.copy_(share)


class Categorical(_Discrete):
    """x in {0, ..., K−1}^n, as n · K one-hot features."""

    def __init__(self, domain: Domain) -> None:
        self.shape, self.classes = domain.shape, domain.classes
        self.size = math.prod(domain.shape) * domain.classes

    def features(self, machine: Machine, x: Tensor) -> Tensor:
        return one_hot(x.flatten(1).long(), self.classes).to(machine.visible_bias.dtype).flatten(1)

    def log_partition(self, machine: Machine, y: Tensor) -> Tensor:
        return self._sites(y + machine.visible_bias).logsumexp(2).sum(1)

    def draw(
        self,
        machine: Machine,
        y: Tensor,
        generator: torch.Generator,
        beta: Beta = 1.0,
        law: Law | None = None,
    ) -> Tensor:
        logits = self._logits(machine, y, beta, law)
        noise = torch.empty_like(logits).exponential_(generator=generator)
        return self._sites(logits - noise.log_()).argmax(2).to(y.dtype).view(-1, *self.shape)

    def mean(self, machine: Machine, y: Tensor) -> Tensor:
        """Return probabilities (B, *event, K)."""
        return self._sites(y + machine.visible_bias).softmax(2).view(-1, *self.shape, self.classes)

    def rest(self) -> Tensor:
        return torch.full((self.size,), 1 / self.classes)

    def own_law(self, machine: Machine) -> Law:
        return (machine.visible_offset.clamp_min(1e-4).log(),)

    def law_of(self, machine: Machine, base: Energy) -> Law | None:
        return self._law_of(base, self.shape, "categorical", machine.visible_bias)

    def init_from_data(self, machine: Machine, x: Tensor) -> None:
        x = x.flatten(1)
        if not bool(((x >= 0) & (x < self.classes) & (x == x.round())).all()):
            raise ValueError(
                f"the data reach from {x.min().item():g} to {x.max().item():g}; these units take "
                f"whole numbers from 0 to {self.classes - 1}; map them into that range"
            )
        counts = torch.stack([(x == k).double().sum(0) + 1 for k in range(self.classes)], 1)
        share = (counts / counts.sum(1, keepdim=True)).flatten()
        machine.visible_bias.copy_(share.log())
        machine.visible_offset.copy_(share)

    def _sites(self, logits: Tensor) -> Tensor:
        return logits.view(len(logits), -1, self.classes)


class Gaussian:
    """x in R^D with standard deviations σ given the hidden units."""

    def __init__(self, domain: Domain) -> None:
        self.shape = domain.shape
        self.size = math.prod(domain.shape)

    def features(self, machine: Machine, x: Tensor) -> Tensor:
        return (x.flatten(1) - machine.location) / machine.sigma

    def origin(self, machine: Machine) -> Tensor:
        return machine.location.view(1, *self.shape)

    def term(self, machine: Machine, f: Tensor) -> Tensor:
        return 0.5 * (f - machine.visible_bias).square().sum(1)

    def law_term(self, law: Law, f: Tensor) -> Tensor:
        return (0.5 * law[1] * f.square() - law[0] * f).sum(1)

    def log_partition(self, machine: Machine, y: Tensor) -> Tensor:
        each = 0.5 * y.square() + y * machine.visible_bias
        return (each + machine.sigma.log() + HALF_LOG_TAU).sum(1)

    def draw(
        self,
        machine: Machine,
        y: Tensor,
        generator: torch.Generator,
        beta: Beta = 1.0,
        law: Law | None = None,
    ) -> Tensor:
        precision = torch.ones_like(machine.sigma)
        pull = y.add_(machine.visible_bias)
        if law is not None:
            precision, pull = beta + law[1] * (1 - beta), pull * beta + law[0] * (1 - beta)
        noise = torch.empty_like(y).normal_(generator=generator)
        f = pull / precision + noise / precision.sqrt()
        return self._points(machine, f)

    def mean(self, machine: Machine, y: Tensor) -> Tensor:
        return self._points(machine, machine.visible_bias + y)

    def _points(self, machine: Machine, f: Tensor) -> Tensor:
        return (machine.location + machine.sigma * f).view(-1, *self.shape)

    def rest(self) -> Tensor:
        return torch.zeros(self.size)

    def own_law(self, machine: Machine) -> Law:
        return machine.visible_offset, torch.ones_like(machine.sigma)

    def law_of(self, machine: Machine, base: Energy) -> Law | None:
        """Read off the score of a product of normals, which is linear, coordinate by coordinate:
        in the features, at points around the machine's location.
        """
        if base.domain.kind != "real":
            return None
        zero = machine.visible_bias.new_zeros(1, self.size)
        ramp = torch.linspace(-1.0, 2.0, self.size, dtype=zero.dtype, device=zero.device)
        f = torch.cat([zero, zero + 1, ramp.view_as(zero)])
        score = differentiate(base, self._points(machine, f))[1].flatten(1) * machine.sigma
        pull, precision = score[0], score[0] - score[1]
        product = torch.allclose(score[2], pull - precision * ramp, rtol=1e-4, atol=1e-4)
        if not product or not bool((precision > 0).all()):
            return None
        return pull, precision

    def init_from_data(self, machine: Machine, x: Tensor) -> None:
        _speak_of_gaussian_data(x)
        mean, scale = measure_columns(x)
        machine.location.copy_(mean.flatten())
        machine.sigma.copy_(scale.flatten())
        machine.visible_bias.zero_()
        machine.visible_offset.zero_()


def _speak_of_gaussian_data(x: Tensor) -> None:
    """Warn of columns that never change, and of data that hold nothing but 0 and 1."""
    flat = int(flat_columns(x).sum())
    if flat == x[0].numel():
        warnings.warn(
            f"none of the {flat} columns of the data ever changes; there is nothing to learn from "
            "them; check how the data were read",
            stacklevel=6,
        )
    elif flat:
        warnings.warn(
            f"{flat} of {x[0].numel()} columns of the data never change; they get scale 1, as "
            "their own is 0; leave them out if they mean nothing",
            stacklevel=6,
        )
    elif bool(((x == 0) | (x == 1)).all()):
        warnings.warn(
            "the data hold nothing but 0 and 1 and the machine has Gaussian units; binary units "
            "are made for such data; pass binary(...) as domain, or visible='binary'",
            stacklevel=6,
        )


def _check_binary_data(x: Tensor) -> None:
    """Raise ValueError unless data lie in [0, 1]: ones, zeros, or probabilities of a one."""
    if not bool(((x >= 0) & (x <= 1)).all()):
        raise ValueError(
            f"the data reach from {x.min().item():g} to {x.max().item():g}; binary units take 0 "
            "and 1, or probabilities of a one; binarize the data, or build the machine on real(...)"
        )


def visible_side(domain: Domain) -> VisibleSide:
    """Build the visible side for a domain; ValueError for a box, or a domain without a shape."""
    if not domain.shape:
        raise ValueError(
            "the domain has no event shape; a Boltzmann machine needs one; pass for example "
            "binary(784)"
        )
    kinds: dict[str, Callable[[Domain], VisibleSide]] = {
        "binary": Binary,
        "categorical": Categorical,
        "real": Gaussian,
    }
    if domain.kind not in kinds:
        raise ValueError(
            f"a Boltzmann machine was asked for on a domain that is {domain.kind}; it takes "
            "binary, categorical or real ones; binarize the data (data.binarize), or standardize "
            "them and drop the walls"
        )
    return kinds[domain.kind](domain)
