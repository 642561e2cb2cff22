"""Robust accuracy: the minimum over several attacks, row by row.

A row is robust if no attack finds a point within ε at which its label is lost. The minimum is taken
row by row, not over mean accuracies. A model with noise, which two calls tell, is evaluated again
with new noise at the points found: a row counts by its share of correct answers, and the point
where that share is least is asked once more, because the least of several noisy shares lies below
every one of them. An attack that climbs a gradient proves nothing about a model that hides it; the
result says so.
"""

import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowland.devices import check_generator
from lowland.metrics.estimate import Estimate, mean
from lowland.plain import to_plain
from lowland.robustness.carlini_wagner import CW
from lowland.robustness.pgd import PGD
from lowland.robustness.square import Square
from lowland.robustness.threat_model import (
    Attack,
    Bounds,
    Gradient,
    Model,
    Norm,
    distance,
    eval_frozen,
    inspect_attack,
    read_bounds,
)
from lowland.scalars import read_integer, read_number

TOLERANCE = 1e-5  # of ‖x' − x‖ ≤ ε in floating point; a share of ε where ε is above 1
MINIMUM = "minimum"
NOISY_EVALUATIONS = 20  # answers at each point of a model that draws noise
ROUNDING = {"rtol": 1e-3, "atol": 1e-5}  # by which logits of the same points may differ
MEASURED = "saw their starting points only, and prove nothing; believe Square and TransferAttack"


@dataclass(frozen=True)
class Robustness:
    """Correct answers of a classifier under several attacks.

    correct: by attack, "clean" first, the share (N,) of `evaluations` answers that were correct at
    the points found; seconds: by attack, per row; epsilon, norm: of the ball; worst: for a model
    with noise, the share (N,) of fresh correct answers at the worst point of each row; gradient:
    that of the model at the points, "full", "zero" or "none".
    """

    correct: dict[str, Tensor]
    seconds: dict[str, float]
    epsilon: float
    norm: Norm
    evaluations: int
    worst: Tensor | None = None
    gradient: Gradient = "full"

    @property
    def noisy(self) -> bool:
        """Return True if the model gave different answers to the same points."""
        return self.worst is not None

    @property
    def minimum(self) -> Tensor:
        """The share (N,) of correct answers at the worst attack, the clean point among them; of
        fresh answers if the model is noisy.
        """
        if self.worst is not None:
            return self.worst
        return torch.stack(list(self.correct.values())).amin(0)

    @property
    def accuracy(self) -> dict[str, Estimate]:
        """Accuracy under each attack and under the minimum over attacks, with standard errors."""
        shares = self.correct | {MINIMUM: self.minimum}
        return {name: mean(share) for name, share in shares.items()}

    @property
    def majority(self) -> Estimate:
        """Share of rows with a majority of correct answers at every attack.

        Equal to the minimum for a model without noise.
        """
        return mean((self.minimum > 0.5).double())

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the minimum over attacks; no point even at 0 % and 100 %."""
        return wilson(float(self.minimum.double().mean()), len(self.minimum))

    def merge(self, other: "Robustness") -> "Robustness":
        """Return the attacks of both on the same rows.

        Raises ValueError for another ε, norm or number of rows.
        """
        alike = (self.epsilon, self.norm) == (other.epsilon, other.norm)
        if not alike or len(self.minimum) != len(other.minimum):
            raise ValueError(
                f"{len(self.minimum)} rows at {self.epsilon} and {len(other.minimum)} rows at "
                f"{other.epsilon} were to be merged; rows, epsilon and norm must be the same; "
                "attack the same points"
            )
        found = [one.minimum for one in (self, other)] if self.noisy or other.noisy else []
        return dataclasses.replace(
            self,
            correct=self.correct | other.correct,
            seconds=self.seconds | other.seconds,
            worst=torch.stack(found).amin(0) if found else None,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "count": len(self.minimum),
            "epsilon": self.epsilon,
            "norm": self.norm,
            "evaluations": self.evaluations,
            "noisy": self.noisy,
            "gradient": self.gradient,
            "accuracy": {name: value.to_dict() for name, value in self.accuracy.items()},
            "majority": self.majority.to_dict(),
            "interval": list(self.interval),
            "seconds": to_plain(self.seconds),
        }

    def __str__(self) -> str:
        low, high = self.interval
        head = f"accuracy of {len(self.minimum)} points, epsilon {self.epsilon:g} ({self.norm})"
        rows = [f"  {name:<24} {100 * value.value:6.1f} %" for name, value in self.accuracy.items()]
        tail = f"   [{100 * low:.1f}, {100 * high:.1f}] over all attacks, row by row"
        return "\n".join(["\n".join([head, *rows]) + tail, *self._notes()])

    def _notes(self) -> list[str]:
        """Return what a reader of the numbers has to know."""
        notes = []
        if self.noisy:
            notes.append(
                f"  the model is noisy: each point counts by the mean of {self.evaluations} answers"
            )
        if self.gradient != "full":
            which = "no gradient" if self.gradient == "none" else "only a gradient of zero"
            notes.append(f"  {which} reached the points: attacks that climb one {MEASURED}")
        return notes


def wilson(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """Compute an interval for a probability from the share of `count` trials that succeeded.

    Source: Wilson (1927), https://doi.org/10.1080/01621459.1927.10502953

    >>> [round(end, 3) for end in wilson(0.0, 100)]
    [0.0, 0.037]
    """
    centre, scale = share + z**2 / (2 * count), 1 + z**2 / count
    half = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def share_correct(
    model: Model, x: Tensor, labels: Tensor, *, evaluations: int = 1, batch: int = 250
) -> Tensor:
    """Compute the share (N,) of `evaluations` calls of the model on x that predict the label.

    Every call has its own noise if the model is noisy; batch: rows evaluated together. An answer
    that is NaN is wrong.
    """
    share = torch.zeros(len(x), dtype=torch.float64)
    for _ in range(evaluations):
        share += _are_correct(_answer(model, x, batch), labels) / evaluations
    return share


def _answer(model: Model, x: Tensor, batch: int) -> Tensor:
    """Return the logits (N, K) of one call of the model for each batch."""
    with eval_frozen(model) as view, torch.no_grad():
        return torch.cat([view(part) for part in x.split(batch)])


def _are_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Return 1 where logits (N, K) predict the label and are numbers, else 0, float64."""
    known = ~logits.isnan().any(1)
    return ((logits.argmax(1) == labels) & known).cpu().double()


def _evaluate_clean(
    model: Model, x: Tensor, labels: Tensor, evaluations: int | None, batch: int
) -> tuple[Tensor, int]:
    """Return the share (N,) of correct answers, and of how many answers: one, or 20 if two calls
    differ, unless a number was asked for.
    """
    if evaluations is not None:
        count = read_integer("evaluations", evaluations, least=1)
        return share_correct(model, x, labels, evaluations=count, batch=batch), count
    first, second = _answer(model, x, batch), _answer(model, x, batch)
    if torch.allclose(first, second, **ROUNDING, equal_nan=True):
        return _are_correct(first, labels), 1
    rest = share_correct(model, x, labels, evaluations=NOISY_EVALUATIONS - 2, batch=batch)
    twice = _are_correct(first, labels) + _are_correct(second, labels)
    total = rest * (NOISY_EVALUATIONS - 2) + twice
    return total / NOISY_EVALUATIONS, NOISY_EVALUATIONS


def robust_accuracy(
    model: Model,
    x: Tensor,
    labels: Tensor,
    epsilon: float,
    attacks: Mapping[str, Attack],
    *,
    generator: torch.Generator,
    norm: Norm = "inf",
    bounds: Bounds = (0.0, 1.0),
    evaluations: int | None = None,
    batch: int = 250,
    progress: Callable[[str], object] | None = None,
) -> Robustness:
    """Run every attack on every row of x (N, *event) with labels (N,) and measure the accuracy.

    model: a callable x -> logits (B, K); attacks: by name (see `standard_attacks`); evaluations:
    calls at each point found, unless given 1, or 20 if two calls of the model differ; batch: rows
    attacked together; progress: called with the name of each attack when it ends. Rows that are
    misclassified before any attack are attacked too, and stay lost in the minimum. Warns where no
    gradient reaches the points.

    Raises ValueError for points outside the bounds, labels or shapes that do not fit, ε < 0, no
    attacks, and an attack that returns points outside the ball or the bounds: they prove nothing at
    this ε.

    >>> import torch
    >>> two, g = lambda x: torch.cat([x, 1 - x], 1), torch.Generator().manual_seed(0)
    >>> x, y = torch.tensor([[0.4], [0.7], [0.9]]), torch.tensor([1, 0, 0])
    >>> print(robust_accuracy(two, x, y, 0.3, {"PGD": PGD()}, generator=g))
    accuracy of 3 points, epsilon 0.3 (inf)
      clean                     100.0 %
      PGD                        33.3 %
      minimum                    33.3 %   [6.1, 79.2] over all attacks, row by row
    """
    epsilon, bounds = read_number("epsilon", epsilon, least=0), read_bounds(bounds)
    batch = read_integer("batch", batch, least=1)
    gradient = inspect_attack(model, x, labels, epsilon, bounds)[1]
    named = isinstance(attacks, Mapping) and bool(attacks) and not {"clean", MINIMUM} & set(attacks)
    if not named or not all(map(callable, attacks.values())) or norm not in ("inf", "2"):
        raise ValueError(
            f"a {type(attacks).__name__} of attacks and norm {norm!r} were asked for; attacks by "
            f"name, none called 'clean' or '{MINIMUM}', at least one, and norm 'inf' or '2' are "
            "needed; correct them"
        )
    check_generator(generator, x.device)
    x = x.detach()
    clean, evaluations = _evaluate_clean(model, x, labels, evaluations, batch)
    correct, points = {"clean": clean}, [x]
    seconds: dict[str, float] = {}
    for name, attack in attacks.items():
        start = time.perf_counter()
        parts = [
            attack(model, a, b, epsilon, generator=generator)
            for a, b in zip(x.split(batch), labels.split(batch), strict=True)
        ]
        seconds[name] = (time.perf_counter() - start) / len(x)
        if not all(isinstance(part, Tensor) for part in parts):
            raise ValueError(
                f"attack {name!r} returned a {type(parts[0]).__name__}; points (B, *event) in a "
                "tensor are needed; return them"
            )
        found = torch.cat(parts)
        _check_budget(name, x, found, epsilon, norm, bounds)
        correct[name] = share_correct(model, found, labels, evaluations=evaluations, batch=batch)
        points.append(found)
        if progress is not None:
            progress(name)
    worst = _ask_again(model, points, labels, correct, evaluations, batch)
    _warn_of_gradient(gradient)
    return Robustness(correct, seconds, epsilon, norm, evaluations, worst, gradient)


def _ask_again(
    model: Model,
    points: Sequence[Tensor],
    labels: Tensor,
    correct: Mapping[str, Tensor],
    evaluations: int,
    batch: int,
) -> Tensor | None:
    """Return the share (N,) of fresh correct answers at the worst point of each row; None for a
    model that always gave the same answer.
    """
    shares = torch.stack(list(correct.values()))
    if evaluations == 1 or not bool(((shares > 1e-9) & (shares < 1 - 1e-9)).any()):
        return None
    which = shares.argmin(0).to(labels.device)
    worst = torch.stack(list(points))[which, torch.arange(len(labels), device=labels.device)]
    return share_correct(model, worst, labels, evaluations=evaluations, batch=batch)


def _warn_of_gradient(gradient: Gradient) -> None:
    """Warn if no gradient reaches the points, or only zero."""
    if gradient != "full":
        which = "no gradient" if gradient == "none" else "only a gradient of zero"
        warnings.warn(
            f"the model lets {which} reach the points; attacks that climb one {MEASURED}",
            stacklevel=3,
        )


def _check_budget(
    name: str, x: Tensor, found: Tensor, epsilon: float, norm: Norm, bounds: Bounds
) -> None:
    """Raise ValueError unless points lie in the ball around x and inside the bounds."""
    far, outside = math.inf, ""
    if found.shape == x.shape and bool(found.isfinite().all()):
        far = float(distance(x, found, norm).max())
        low, high = bounds or (-math.inf, math.inf)
        outside = " and outside the bounds" * bool((found < low).any() | (found > high).any())
    rounding = max(TOLERANCE, 2 * torch.finfo(x.dtype).eps)
    if far > epsilon + rounding * max(1.0, epsilon) or outside:
        raise ValueError(
            f"attack {name!r} came back with points {far:g} away{outside}; allowed are "
            f"{epsilon:g} in norm {norm} and bounds {bounds}; project what it finds, or count it "
            "at another epsilon"
        )


def standard_attacks(
    norm: Norm = "inf",
    *,
    steps: int = 40,
    restarts: int = 2,
    queries: int = 1000,
    bounds: Bounds = (0.0, 1.0),
) -> dict[str, Attack]:
    """Return the attacks for a model without noise, cheap ones first.

    FGSM, PGD, PGD on the CW loss, targeted PGD, and Square (norm "inf") or CW (norm "2"). For a
    model with noise use `PGD(..., eot=20, early_stop=False)` instead.
    """
    common: dict[str, Any] = {"norm": norm, "bounds": bounds}
    attacks: dict[str, Attack] = {
        "fgsm": PGD(steps=1, random_start=False, **common),
        "pgd": PGD(steps=steps, restarts=restarts, **common),
        "cw": PGD(steps=steps, restarts=restarts, loss="margin", **common),
        "targeted": PGD(steps=steps, restarts=3, loss="targeted", **common),
    }
    if norm == "inf":
        return attacks | {"square": Square(queries, bounds=bounds)}
    return attacks | {"cw-nearest": CW(bounds=bounds)}
