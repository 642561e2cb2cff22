"""The likelihood of a measurement as an energy, and posterior samples with their summaries.

For y = A x + σ ε with Gaussian noise, Bayes' rule is a sum of energies,

    E(x | y) = E(x) + ‖A x − y‖² / 2σ².

(The factor is 1 / 2σ², so the drift carries ∇‖·‖² / 2σ² and not twice that.) Without noise, σ = 0,
measured numbers are fixed, and the energy is one of the others alone (`ClampedEnergy`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lowland.energy import Energy, Gibbs, LabelCondition, NoiseCondition, Wrapper, check_finite
from lowland.energy.capabilities import Condition
from lowland.energy.gradient import call
from lowland.energy.points import describe
from lowland.scalars import read_number
from lowland.tasks.inverse.operators import Mask, Stride

Measure = Callable[[Tensor], Tensor]

UNINFORMATIVE_SIGMA = 1e6  # noise of a measurement that says nothing


class Likelihood(Energy):
    """The energy ‖A x − y‖² / 2σ² of points x (B, *event), for measurements y (B, *measured).

    >>> import torch
    >>> from lowland.tasks import Identity
    >>> Likelihood(Identity(), torch.ones(2, 3), 0.5)(torch.zeros(2, 3))
    tensor([6., 6.])
    """

    y: Tensor

    def __init__(self, operator: Measure, y: Tensor, sigma: float) -> None:
        super().__init__()
        check_measured(y)
        self.operator, self.sigma = operator, read_noise(sigma, zero=False)
        self.register_rows("y", y)

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        seen = self.operator(x)
        if seen.shape[1:] != self.y.shape[1:] or len(self.y) not in (1, len(seen)):
            raise ValueError(
                f"the operator gives {tuple(seen.shape)} for measurements {tuple(self.y.shape)}; "
                "one of the same shape for each point is needed; measure with that operator"
            )
        return (seen - self.y).square().flatten(1).sum(1) / (2 * self.sigma**2)


class ClampedEnergy(Wrapper):
    """The energy of the unknown numbers u (B, n) with the known ones clamped: E(x) with x = y where
    known and u elsewhere.

    known (*event) bool; y (B, *event): values of the known numbers, anything elsewhere. Samplers
    move u and nothing else.

    >>> import torch, lowland
    >>> bowl = lowland.Function(lambda x: x.square().sum(1), lowland.real(3))
    >>> known, y = torch.tensor([True, False, False]), torch.tensor([[2.0, 0.0, 0.0]])
    >>> clamped = ClampedEnergy(bowl, known, y)
    >>> clamped.domain.shape, clamped(torch.ones(1, 2)), clamped.extend(torch.ones(1, 2))
    ((2,), tensor([6.]), tensor([[2., 1., 1.]]))
    """

    places: Tensor
    y: Tensor

    def __init__(self, energy: Energy, known: Tensor, y: Tensor) -> None:
        check_measured(y)
        known = Mask(known).expand_to(y)
        if bool(known.all()):
            raise ValueError(
                "every number is known and sigma is 0; there is nothing to draw; hide some, or say "
                "the noise of the measurement"
            )
        places = (~known).flatten().nonzero().flatten()
        super().__init__(energy, replace(energy.domain, shape=(len(places),)))
        self.known = known
        self.register_rows("y", y)
        self.register_buffer("places", places, persistent=False)

    def extend(self, u: Tensor) -> Tensor:
        """Return points (B, *event) with unknown numbers u (B, n)."""
        y = self.y.to(u).expand(len(u), *self.y.shape[1:])
        return y.flatten(1).index_copy(1, self.places, u).view(y.shape)

    def restrict(self, x: Tensor) -> Tensor:
        """Return the unknown numbers (B, n) of points (B, *event)."""
        return x.flatten(1)[:, self.places]

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        return call(self.energy, self.extend(x), c)

    def value_and_score(self, x: Tensor, c: Any = None) -> tuple[Tensor, Tensor]:
        """Return energies (B,) and scores of the unknown numbers (B, n)."""
        value, score = call(self.energy.value_and_score, self.extend(x), c)
        return value, self.restrict(score)

    def score(self, x: Tensor, c: Any = None) -> Tensor:
        return self.restrict(call(self.energy.score, self.extend(x), c))

    @property
    def differentiates(self) -> bool:
        return self.energy.differentiates

    @property
    def gibbs(self) -> Gibbs | None:
        """Coloring and conditionals of the unknown sites."""
        inner = self.energy.gibbs
        if inner is None or inner.conditional is None:
            return None
        conditional, coloring = inner.conditional, inner.coloring
        if coloring is not None:
            coloring = coloring.flatten(1)[:, self.places.to(coloring.device)]
            coloring = coloring[coloring.any(1)]
        last_event_dim = -1 if self.domain.kind == "binary" else -2

        def restricted_conditional(u: Tensor, c: Any = None) -> Tensor:
            values = conditional(self.extend(u), c).flatten(1, last_event_dim)
            return values.index_select(1, self.places)

        return Gibbs(coloring, restricted_conditional)

    @property
    def condition(self) -> Condition | None:
        inner = self.energy.condition
        if isinstance(inner, LabelCondition):
            return LabelCondition(inner.classes, lambda u: inner.class_energies(self.extend(u)))
        return inner and NoiseCondition()


@dataclass(frozen=True)
class Restoration:
    """Posterior samples with their mean and standard deviation.

    mean, std (B, *event): over the samples; draws (D, B, *event): the samples.
    """

    mean: Tensor
    std: Tensor
    draws: Tensor

    @classmethod
    def of(cls, draws: Tensor) -> "Restoration":
        """Summarise samples (D, B, *event)."""
        return cls(draws.mean(0), draws.std(0, correction=0), draws)

    def to(self, device: torch.device | str) -> "Restoration":
        """Return the restoration with its tensors on a device."""
        return Restoration(self.mean.to(device), self.std.to(device), self.draws.to(device))

    def interval(self, level: float = 0.9) -> tuple[Tensor, Tensor]:
        """Compute the ends (B, *event) of credible intervals of probability `level` or more.

        Among D draws and the truth every order is equally likely if they have one distribution, so
        the truth lies between the i-th lowest and the i-th highest draw with probability (D + 1 −
        2i) / (D + 1), without ties. The narrowest such interval is taken. Raises ValueError for a
        level outside (0, 1), or above (D − 1) / (D + 1).

        >>> import torch
        >>> low, high = Restoration.of(torch.arange(19.0).view(19, 1, 1)).interval(0.9)
        >>> low.item(), high.item()
        (0.0, 18.0)
        """
        level = read_number("level", level)
        count, valid = len(self.draws), 0 < level < 1
        i = math.floor((count + 1) * (1 - level) / 2 + 1e-9) if valid else 0
        if i < 1:
            needed = math.ceil(2 / (1 - level) - 1 - 1e-9) if valid else 19
            raise ValueError(
                f"an interval of level {level} was asked of {count} draws; the level lies in (0, "
                f"1) and so many draws promise at most {max(count - 1, 0) / (count + 1):.3f}; take "
                f"{needed} draws or more, or a lower level"
            )
        ordered = self.draws.sort(0).values
        return ordered[i - 1], ordered[count - i]


def find_known(operator: Measure, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the known numbers (*event) bool of a Mask or Stride, and points (B, *event) with them.

    Raises ValueError for operators that mix numbers: without noise their posterior lives on a
    slanted plane.
    """
    if not isinstance(operator, (Mask, Stride)):
        raise ValueError(
            f"sigma is 0 and the operator is {type(operator).__name__}; without noise only numbers "
            "that were seen as they are can be held, through a Mask or a Stride; pass a small "
            "sigma, 0.01 for images"
        )
    points = operator.A_T(y)
    return operator.A_T(operator.A(torch.ones_like(points[:1])))[0] > 0, points


def read_noise(sigma: float, zero: bool = True) -> float:
    """Return a noise as a plain number.

    Raises ValueError for one below 0, infinite or nan, for what is no number, and for 0 unless
    `zero`.
    """
    try:
        value = read_number("sigma", sigma, least=0)
    except ValueError:
        value = -1.0
    if value < 0 or (value == 0 and not zero):
        exact = ", or 0 for what was seen through a Mask or a Stride" if zero else " here"
        raise ValueError(
            f"sigma is {sigma}; the noise of the measurement must be finite and above 0{exact}; "
            "0.05 is small for images"
        )
    return value


def check_measured(y: Tensor) -> None:
    """Raise ValueError unless y is a finite floating point tensor (B, *measured)."""
    if not isinstance(y, Tensor) or not y.is_floating_point() or y.dim() < 2 or len(y) == 0:
        raise ValueError(
            f"the measurements came as {describe(y)}; a floating point tensor (B, *measured) with "
            "B > 0 is needed; convert them"
        )
    check_finite(y, "measurements")
