"""Energies and their algebra.

An energy maps points to numbers, low where points are likely:

    p(x) = exp(−E(x)) / Z,      E : (B, *event) → (B,)

Energies form an algebra, and most things people do with several models are expressions in it:

    a + b            both        p ∝ p_a · p_b                 (product of experts; conjunction)
    mixture(a, b)    either p ∝ w_a e^{−a} + w_b e^{−b} (sum of unnormalised densities; disjunction)
    w * a, a / T     sharper or flatter: exp(−a / T) is a at temperature T
    a - b, -a        away from b; only together with something that confines
    a.given(c)       the condition bound: a function of x alone. Samplers never see a condition.

An energy may know more about itself than `forward` tells, and then samplers use it:

    analytic(x, c)      (energies, scores) without autograd, for an energy whose gradient is written
                        by hand
    slope(x, c)         the score alone, where that is cheaper than both
    relaxed(z, c)       categorical domains: energies of one-hot floats z (B, *event, K), with
                        forward(x) = relaxed(one_hot(x)); its gradient tells gradient-informed
                        samplers which change of a site pays
    colours, conditional(x, c)   discrete domains: a colouring of the sites, bool (n, *event), and
                        the law of each site given all others: log-odds (B, *event) if binary,
                        unnormalised log-probabilities (B, *event, K) if categorical
    sweep(x, sweeps, generator, beta=1.0, compiled=False)     its own block Gibbs under beta · E;
                                                              None where it has none
    bridge(base, betas)     its own path from a base to itself, whose rungs have sweeps of their
                            own; None where it has none
    tempered(betas, size)   R · size rows at R inverse temperatures as one energy, where β E itself
                            would be hard to sample
    hidden_side             the marginal energy of its hidden units, with the same Z, where they are
                            few enough to enumerate
    data_domain, complete(x, generator)     an energy of more units than data have: the domain of
                        data, and data with those units filled in
    apart                   True if batches judged one by one cost no more than judged together

and training asks it, if it can, to `prepare(x)` (see the data once, before the first update), to
`observe(x)` (follow the means of the data) and to `precondition()` (turn the gradients in `.grad`
into a better direction).
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from lowland.domain import Domain, real


class Energy(nn.Module):
    """A function from points (B, *event) to energies (B,), with a domain. Subclass it and write
    `forward(x, c=None)`.

    domain: event shape and support; `real()` without sizes takes every shape.

    >>> import torch, lowland
    >>> bowl = lowland.Function(lambda x: 0.5 * x.square().sum(1))
    >>> (bowl + 2 * bowl)(torch.ones(3, 2))
    tensor([3., 3., 3.])
    """

    def __init__(self, domain: Domain | dict[str, Any] | None = None) -> None:
        super().__init__()
        self.domain = Domain.from_dict(domain) if isinstance(domain, dict) else domain or real()

    analytic: ClassVar[Any] = None
    slope: ClassVar[Any] = None
    relaxed: ClassVar[Any] = None
    colours: ClassVar[Any] = None
    conditional: ClassVar[Any] = None
    sweep: ClassVar[Any] = None
    bridge: ClassVar[Any] = None
    tempered: ClassVar[Any] = None
    hidden_side: ClassVar[Any] = None
    data_domain: Any = None
    apart: ClassVar[bool] = False

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        """Energies (B,) of points (B, *event); c is a condition, one per row or one for all."""
        raise NotImplementedError

    def rows(self, index: Tensor) -> "Energy":
        """The energy for the chains `index` (n,) of a batch: conditions with one row per chain are
        picked along.

        An energy that holds one row per chain must override this; any other is its own.
        """
        return self

    def given(self, c: Any) -> "Given":
        """The energy with its condition bound: labels (B,), soft labels (B, K), noise levels, or
        one value for all.
        """
        return Given(self, c)

    def __add__(self, other: "Energy") -> "Sum":
        return Sum([self, other]) if isinstance(other, Energy) else NotImplemented

    def __sub__(self, other: "Energy") -> "Sum":
        return Sum([self, other], [1.0, -1.0]) if isinstance(other, Energy) else NotImplemented

    def __mul__(self, weight: float) -> "Sum":
        return Sum([self], [float(weight)]) if isinstance(weight, (int, float)) else NotImplemented

    __rmul__ = __mul__

    def __truediv__(self, temperature: float) -> "Sum":
        if not isinstance(temperature, (int, float)):
            return NotImplemented
        if not temperature > 0:
            raise ValueError(
                f"the temperature is {temperature}; it must be above 0; use -energy to turn an "
                "energy over"
            )
        return Sum([self], [1.0 / temperature])

    def __neg__(self) -> "Sum":
        return Sum([self], [-1.0])


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

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        return self.function(x) if c is None else self.function(x, c)


class Sum(Energy):
    """Σ w_k E_k: what `+ − * /` build. Nested sums are flattened, so (a + b) − a / 2 is one sum of
    three terms.

    Raises ValueError when the domains differ.
    """

    def __init__(self, energies: Sequence[Energy], weights: Sequence[float] | None = None) -> None:
        super().__init__(_common_domain(energies))
        weights = [1.0] * len(energies) if weights is None else list(weights)
        terms: list[Energy] = []
        factors: list[float] = []
        for energy, weight in zip(energies, weights, strict=True):
            if isinstance(energy, Sum):
                terms += [cast(Energy, term) for term in energy.energies]
                factors += [weight * w for w in energy.weights]
            else:
                terms.append(energy)
                factors.append(weight)
        self.energies: nn.ModuleList = nn.ModuleList(terms)
        self.weights: tuple[float, ...] = tuple(factors)

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        return self._total([energy(x, c) for energy in self.energies])

    def rows(self, index: Tensor) -> "Sum":
        return Sum([cast(Energy, energy).rows(index) for energy in self.energies], self.weights)

    @property
    def analytic(self) -> Any:
        """By the terms that know their gradient, and autograd for the others; autograd for all
        where none does.
        """
        return (
            self._analytic if any(energy.analytic is not None for energy in self.energies) else None
        )

    def _analytic(self, x: Tensor, c: Any = None) -> tuple[Tensor, Tensor]:
        from lowland.energy.gradient import differentiate

        values, scores = zip(*(differentiate(energy, x) for energy in self._bound(c)), strict=True)
        return self._total(values), self._total(scores)

    @property
    def slope(self) -> Any:
        return self._slope if any(energy.slope is not None for energy in self.energies) else None

    def _slope(self, x: Tensor, c: Any = None) -> Tensor:
        from lowland.energy.gradient import score_alone

        return self._total([score_alone(energy, x) for energy in self._bound(c)])

    def _bound(self, c: Any) -> list[Energy]:
        terms = [cast(Energy, energy) for energy in self.energies]
        return terms if c is None else [energy.given(c) for energy in terms]

    @property
    def relaxed(self) -> Any:
        return (
            self._relaxed if all(energy.relaxed is not None for energy in self.energies) else None
        )

    def _relaxed(self, z: Tensor, c: Any = None) -> Tensor:
        return self._total([cast(Energy, energy).relaxed(z, c) for energy in self.energies])

    @property
    def colours(self) -> Any:
        """The colouring of the terms, if all have the same one: sites of one colour must not meet
        in any term.
        """
        first = cast(Energy, self.energies[0]).colours
        same = first is not None and all(
            energy.colours is not None and torch.equal(cast(Tensor, energy.colours), first)
            for energy in self.energies
        )
        return first if same else None

    @property
    def conditional(self) -> Any:
        return (
            self._conditional
            if all(energy.conditional is not None for energy in self.energies)
            else None
        )

    def _conditional(self, x: Tensor, c: Any = None) -> Tensor:
        return self._total([cast(Energy, energy).conditional(x, c) for energy in self.energies])

    @property
    def sweep(self) -> Any:
        alone = len(self.energies) == 1 and cast(Energy, self.energies[0]).sweep is not None
        return self._sweep if alone else None

    def _sweep(
        self,
        x: Tensor,
        sweeps: int,
        generator: torch.Generator,
        beta: float = 1.0,
        compiled: bool = False,
    ) -> Any:
        inner = cast(Energy, self.energies[0])
        return inner.sweep(x, sweeps, generator, beta=beta * self.weights[0], compiled=compiled)

    def _total(self, values: Sequence[Tensor]) -> Tensor:
        weighted = [w * value for w, value in zip(self.weights, values, strict=True)]
        return torch.stack(weighted).sum(0) if len(weighted) > 1 else weighted[0]


class Mixture(Energy):
    """−log Σ w_k exp(−E_k): a mixture of the *unnormalised* densities.

    A component counts by w_k Z_k, so shift energies by their log Z (or calibrate them) when shares
    matter.
    """

    def __init__(self, energies: Sequence[Energy], weights: Sequence[float] | None = None) -> None:
        super().__init__(_common_domain(energies))
        self.weights = (
            tuple(weights) if weights is not None else (1.0 / len(energies),) * len(energies)
        )
        if len(self.weights) != len(energies) or min(self.weights) <= 0:
            raise ValueError(
                f"{len(energies)} energies were mixed with the weights {self.weights}; each needs "
                "one weight above 0; leave the weights out for equal ones"
            )
        self.energies = nn.ModuleList(energies)

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        values = torch.stack([energy(x, c) for energy in self.energies])
        shape = (-1,) + (1,) * (values.dim() - 1)
        log_weights = values.new_tensor(self.weights).log().view(shape)
        return -torch.logsumexp(log_weights - values, 0)

    def rows(self, index: Tensor) -> "Mixture":
        return Mixture([cast(Energy, energy).rows(index) for energy in self.energies], self.weights)


def mixture(*energies: Energy, weights: Sequence[float] | None = None) -> Mixture:
    """Either of several energies: −log Σ w_k exp(−E_k). Equal weights unless given.

    >>> import torch
    >>> left, right = (Function(lambda x, m=m: (x - m).square().sum(1)) for m in (-2.0, 2.0))
    >>> both = mixture(left, right)(torch.tensor([[-2.0], [2.0]]))
    >>> bool((both[0] - both[1]).abs() < 1e-6)
    True
    """
    return Mixture(energies, weights)


class Given(Energy):
    """An energy with its condition bound. A tensor with rows must have as many rows as the batch; a
    number serves all.
    """

    def __init__(self, energy: Energy, c: Any) -> None:
        super().__init__(energy.domain)
        self.energy = energy
        with torch.inference_mode(False):
            bound = (
                torch.as_tensor(c, dtype=torch.float64)
                if isinstance(c, float)
                else torch.as_tensor(c)
            )
            self.register_buffer(
                "c", bound.clone() if bound.is_inference() else bound, persistent=False
            )

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        return self.energy(x, self.condition(x, c))

    def rows(self, index: Tensor) -> "Given":
        bound = cast(Tensor, self.c)
        return Given(
            self.energy.rows(index), bound[index] if bound.dim() and len(bound) > 1 else bound
        )

    @property
    def analytic(self) -> Any:
        return self._bind("analytic")

    @property
    def slope(self) -> Any:
        return self._bind("slope")

    @property
    def relaxed(self) -> Any:
        return self._bind("relaxed")

    @property
    def colours(self) -> Any:
        return self.energy.colours

    @property
    def conditional(self) -> Any:
        return self._bind("conditional")

    @property
    def sweep(self) -> Any:
        inner = self.energy.sweep
        return (
            None
            if inner is None
            else lambda x, *args, **options: inner(x, *args, c=self.condition(x), **options)
        )

    def _bind(self, hook: str) -> Any:
        inner = getattr(self.energy, hook)
        return None if inner is None else lambda x, c=None: inner(x, self.condition(x, c))

    def condition(self, x: Tensor, c: Any = None) -> Tensor:
        """The condition with one row per point, in the dtype and on the device of x; c: a second
        one, which is refused.
        """
        if c is not None:
            raise ValueError(
                "a condition was passed to an energy that has one bound; pass x alone; bind only "
                "once"
            )
        bound = cast(Tensor, self.c)
        if bound.dim() == 0:
            bound = bound.expand(len(x))
        elif len(bound) == 1:
            bound = bound.expand(len(x), *bound.shape[1:])
        elif len(bound) != len(x):
            raise ValueError(
                f"{len(x)} points met a condition of {len(bound)} rows; the condition needs one "
                "row per point or one row for all; bind it anew with energy.given(c)"
            )
        return bound.to(x) if bound.is_floating_point() else bound.to(x.device)


def _common_domain(energies: Sequence[Energy]) -> Domain:
    if not energies:
        raise ValueError("no energy was given; an expression needs at least one; pass energies")
    found = {energy.domain for energy in energies if energy.domain != real()}
    if len(found) > 1:
        raise ValueError(
            f"energies on different domains were combined ({', '.join(map(str, found))}); all must "
            "share one domain; build them with the same domain"
        )
    return found.pop() if found else real()


def lift(energy: Energy | Callable[..., Tensor]) -> Energy:
    """An energy as it is; any other callable as a `Function`."""
    return energy if isinstance(energy, Energy) else Function(energy)
