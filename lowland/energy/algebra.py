"""Energies and their algebra.

An energy maps points to numbers, low where points are likely:

    p(x) = exp(−E(x)) / Z,      E : (B, *event) → (B,)

Energies form an algebra, and most things people do with several models are expressions in it:

    a + b            both        p ∝ p_a · p_b                 (product of experts; conjunction)
    mixture(a, b)    either      p ∝ w_a e^{−a} + w_b e^{−b}   (sum of unnormalised densities)
    w * a, a / T     sharper or flatter: exp(−a / T) is a at temperature T
    a - b, -a        away from b; only together with something that confines
    a.given(c)       the condition bound: a function of x alone. Samplers never see a condition.

A new energy is a subclass of `Energy` with a `forward`; what else it may know, see `capabilities`.
"""

import copy
from collections.abc import Callable, Sequence
from typing import ClassVar, Self, cast

import torch
from torch import Tensor, nn

from lowland.domain import Domain, real
from lowland.energy import composition as known
from lowland.energy.capabilities import (
    Condition,
    ConditionLike,
    Gibbs,
    Latent,
    Learner,
    Paths,
)
from lowland.energy.gradient import by_autograd, call
from lowland.registry import Plain
from lowland.transfer import send


class Energy(nn.Module):
    """A function from points (B, *event) to energies (B,), with a domain.

    Subclass it and write `forward(x, c=None)`. Override `value_and_score(x, c=None)` or
    `score(x, c=None)` where the gradient is known without autograd; both run without a graph.

    domain: event shape and support; `real()` without sizes takes every shape. coercive: False for
    an energy that does not rise without bound far out.

    >>> import torch, lowland
    >>> bowl = lowland.Function(lambda x: 0.5 * x.square().sum(1))
    >>> (bowl + 2 * bowl)(torch.ones(3, 2))
    tensor([3., 3., 3.])
    """

    coercive: ClassVar[bool] = True
    __array_ufunc__ = None  # np.float64(2) * energy is an expression, no array

    def __init__(self, domain: Domain | Plain | None = None) -> None:
        super().__init__()
        if isinstance(domain, dict):
            domain = Domain.from_dict(domain)
        if domain is not None and not isinstance(domain, Domain):
            raise ValueError(
                f"the domain is a {type(domain).__name__}; it must be a Domain, which says where "
                "points live; pass for example real(2) or binary(784)"
            )
        self.domain = domain or real()
        self._row_names: tuple[str, ...] = ()

    def forward(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        """Return energies (B,) of points (B, *event); c: a condition for each row or for all."""
        raise NotImplementedError

    def value_and_score(self, x: Tensor, c: ConditionLike = None) -> tuple[Tensor, Tensor]:
        """Return energies (B,) and scores −∇E(x) (B, *event), detached."""
        return by_autograd(self, x, c)

    def score(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        """Return scores −∇E(x) (B, *event), detached."""
        return call(self.value_and_score, x, c)[1]

    @property
    def differentiates(self) -> bool:
        """Tell whether scores come from the energy itself rather than from autograd over all."""
        own = type(self)
        return own.value_and_score is not Energy.value_and_score or own.score is not Energy.score

    # ---- capabilities, None unless overridden

    @property
    def gibbs(self) -> Gibbs | None:
        return None

    @property
    def paths(self) -> Paths | None:
        return None

    @property
    def latent(self) -> Latent | None:
        return None

    @property
    def condition(self) -> Condition | None:
        return None

    @property
    def learner(self) -> Learner | None:
        return None

    # ---- chains

    def register_rows(self, name: str, rows: Tensor) -> None:
        """Register a buffer of one row per chain, or of a single row (or number) for all.

        It is not saved with the weights; `index_rows` picks its rows along with those of the batch.
        """
        self.register_buffer(name, rows, persistent=False)
        self._row_names = (*self._row_names, name)

    def index_rows(self, index: Tensor) -> Self:
        """Return the energy for the chains `index` (n,) of a batch; itself if it holds no rows."""
        present = {name: child for name, child in self._modules.items() if child is not None}
        children = {name: _index_child(child, index) for name, child in present.items()}
        same = all(child is present[name] for name, child in children.items())
        if same and not self._row_names:
            return self
        other = copy.copy(self)
        other._modules = {**self._modules, **children}
        other._buffers = dict(self._buffers)
        for name in self._row_names:
            rows = self._buffers[name]
            if rows is not None and rows.dim() and len(rows) > 1:
                other._buffers[name] = rows[index.to(rows.device)]
        return other

    # ---- algebra

    def given(self, c: ConditionLike) -> "Given":
        """Return the energy with its condition bound: labels (B,), soft labels (B, K), noise levels
        (B,), or one value for all.
        """
        return Given(self, c)

    def __add__(self, other: "Energy | Callable[..., Tensor]") -> "Energy":
        return self._add(other, 1.0)

    def __radd__(self, other: "Callable[..., Tensor] | float") -> "Energy":
        return self if type(other) is int and other == 0 else self._add(other, 1.0)

    def __sub__(self, other: "Energy | Callable[..., Tensor]") -> "Energy":
        return self._add(other, -1.0)

    def _add(self, other: object, weight: float) -> "Energy":
        if not callable(other):
            raise known.OperandError(
                f"{other!r} was added to an energy; expressions add energies and callables x -> "
                "(B,); leave a constant out, it changes no probability"
            )
        return _expression([self, lift(other)], [1.0, weight])

    def __mul__(self, weight: float) -> "Energy":
        return _expression([self], [known.read_factor("a weight", weight)])

    __rmul__ = __mul__

    def __truediv__(self, temperature: float) -> "Energy":
        number = known.read_factor("the temperature", temperature)
        if not number > 0:
            raise ValueError(
                f"the temperature is {temperature}; it must be above 0; use -energy to turn an "
                "energy over"
            )
        return _expression([self], [1.0 / number])

    def __neg__(self) -> "Energy":
        return _expression([self], [-1.0])


def _index_child(child: nn.Module, index: Tensor) -> nn.Module:
    if isinstance(child, Energy):
        return child.index_rows(index)
    if isinstance(child, nn.ModuleList):
        parts = [_index_child(part, index) for part in child]
        if any(a is not b for a, b in zip(parts, child, strict=True)):
            return nn.ModuleList(parts)
    return child


class Function(Energy):
    """Any callable (B, *event) → (B,) as an energy; an nn.Module keeps its weights.

    >>> import torch
    >>> Function(lambda x: x.abs().sum(1))(torch.tensor([[1.0, -2.0]]))
    tensor([3.])
    """

    def __init__(self, function: Callable[..., Tensor], domain: Domain | None = None) -> None:
        if not callable(function):
            raise ValueError(
                f"a {type(function).__name__} was given; Function takes a callable; pass x -> "
                "energies"
            )
        super().__init__(domain)
        self.function = function

    def forward(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        return call(self.function, x, c)


def lift(energy: Energy | Callable[..., Tensor]) -> Energy:
    """Return an energy as it is, any other callable as a `Function`."""
    return energy if isinstance(energy, Energy) else Function(energy)


class Combination(Energy):
    """Several energies on one domain with a weight each. Abstract base of sums and mixtures."""

    def __init__(self, energies: Sequence[Energy], weights: Sequence[float]) -> None:
        super().__init__(known.share_domain(e.domain for e in energies))
        self.energies = nn.ModuleList(energies)
        self.weights = tuple(weights)

    @property
    def parts(self) -> list[tuple[Energy, float]]:
        """Return all energies, each with its weight."""
        pairs = zip(self.energies, self.weights, strict=True)
        return [(cast(Energy, energy), weight) for energy, weight in pairs]

    @property
    def terms(self) -> list[tuple[Energy, float]]:
        """Return the energies whose weight is not 0, with it."""
        return [(energy, weight) for energy, weight in self.parts if weight]

    @property
    def bound(self) -> bool:
        """Tell whether a term has its condition bound, and would refuse another."""
        return any(isinstance(term, Given) for term, _ in self.terms)

    @property
    def differentiates(self) -> bool:
        return any(term.differentiates for term, _ in self.terms)

    @property
    def learner(self) -> Learner | None:
        return known.join_learners([term for term, _ in self.terms])

    @property
    def paths(self) -> Paths | None:
        return known.sum_paths(self.terms)

    @property
    def latent(self) -> Latent | None:
        return known.sum_latent(self.terms)


class Sum(Combination):
    """Weighted sum of energies, Σ w_k E_k, as `+ − * /` build it. Nested sums are
    flattened, so (a + b) − a / 2 is one sum of three terms.

    A term of weight 0 counts for nothing: it is not evaluated, not even where it is infinite.
    Raises ValueError when the domains differ.
    """

    def __init__(self, energies: Sequence[Energy], weights: Sequence[float] | None = None) -> None:
        super().__init__(*_flatten(energies, weights or [1.0] * len(energies)))

    def forward(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        terms = self.terms
        return _add_up(x, terms, [call(term, x, c) for term, _ in terms])

    def value_and_score(self, x: Tensor, c: ConditionLike = None) -> tuple[Tensor, Tensor]:
        """Return energies and scores of the terms, by autograd over all if none has its own."""
        if not self.differentiates:
            return by_autograd(self, x, c)
        terms = self.terms
        values, scores = zip(*(call(term.value_and_score, x, c) for term, _ in terms), strict=True)
        return _add_up(x, terms, values), _add_up(x, terms, scores)

    def score(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        if not self.differentiates:
            return by_autograd(self, x, c)[1]
        terms = self.terms
        return _add_up(x, terms, [call(term.score, x, c) for term, _ in terms])

    @property
    def gibbs(self) -> Gibbs | None:
        return known.sum_gibbs(self.terms)

    @property
    def condition(self) -> Condition | None:
        if self.bound:
            return None
        return known.sum_condition(self.terms)


def _add_up(x: Tensor, terms: Sequence[tuple[Energy, float]], values: Sequence[Tensor]) -> Tensor:
    if not terms:
        return x.new_zeros(len(x))
    return known.add_up([weight for _, weight in terms], values)


class Wrapper(Energy):
    """An energy made of another one, `energy`. Abstract: a wrapper hands on the capabilities that
    it overrides, and no other.
    """

    def __init__(self, energy: Energy, domain: Domain | None = None) -> None:
        super().__init__(domain or energy.domain)
        self.energy = energy


BOUND_ALREADY = (
    "a condition was passed to an energy that has one bound; pass x alone; bind only once"
)


class Given(Wrapper):
    """An energy with its condition bound: one row per point of a batch, or one for all."""

    c: Tensor

    def __init__(self, energy: Energy, c: ConditionLike) -> None:
        if isinstance(energy, Given) or (isinstance(energy, Combination) and energy.bound):
            raise ValueError(BOUND_ALREADY)
        super().__init__(energy)
        with torch.inference_mode(False):
            bound = known.read_condition(c)
            self.register_rows("c", bound.clone() if bound.is_inference() else bound)

    def forward(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        return self.energy(x, self.rows_for(x, c))

    def value_and_score(self, x: Tensor, c: ConditionLike = None) -> tuple[Tensor, Tensor]:
        return self.energy.value_and_score(x, self.rows_for(x, c))

    def score(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        return self.energy.score(x, self.rows_for(x, c))

    @property
    def differentiates(self) -> bool:
        return self.energy.differentiates

    @property
    def gibbs(self) -> Gibbs | None:
        return known.given_gibbs(self.energy.gibbs, self.rows_for)

    @property
    def latent(self) -> Latent | None:
        return known.given_latent(self.energy.latent, self.rows_for)

    @property
    def learner(self) -> Learner | None:
        return self.energy.learner

    def rows_for(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        """Return the condition with one row per point, in the dtype and on the device of x.

        Raises ValueError for a second condition c, and for rows that do not match.
        """
        if c is not None:
            raise ValueError(BOUND_ALREADY)
        bound = send(self.c.to(x.dtype) if self.c.is_floating_point() else self.c, x.device)
        if bound.dim() == 0:
            bound = bound.expand(len(x))
        elif len(bound) == 1:
            bound = bound.expand(len(x), *bound.shape[1:])
        elif len(bound) != len(x):
            raise ValueError(
                f"{len(x)} points met a condition of {len(bound)} rows; the condition needs one "
                "row per point or one row for all; bind it anew with energy.given(c)"
            )
        return bound


def _expression(energies: Sequence[Energy], weights: Sequence[float]) -> Energy:
    """Return Σ w_k E_k without terms of weight 0, an energy itself if it is all that is left."""
    terms = [pair for pair in zip(*_flatten(energies, weights), strict=True) if pair[1]]
    if (
        len(terms) == 1
        and terms[0][1] == 1
        and terms[0][0].domain == known.share_domain(e.domain for e in energies)
    ):
        return terms[0][0]
    return Sum(energies, weights)


def _flatten(
    energies: Sequence[Energy], weights: Sequence[float]
) -> tuple[list[Energy], list[float]]:
    """Return terms and weights with the terms of nested sums in the place of these."""
    terms: list[Energy] = []
    factors: list[float] = []
    for energy, weight in zip(energies, weights, strict=True):
        pairs = [(energy, weight)]
        if isinstance(energy, Sum):
            pairs = [(term, weight * w) for term, w in energy.parts]
        terms += [term for term, _ in pairs]
        factors += [factor for _, factor in pairs]
    return terms, factors
