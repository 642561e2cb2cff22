"""Robust accuracy: the minimum over several attacks, row by row.

A row is robust if no attack finds a point within ε at which its label is lost. The minimum is taken
row by row, not over mean accuracies. A model with noise is evaluated again with new noise at the
points found; a row then counts by its share of correct answers at the attack where that is least.
(The minimum of noisy shares is biased downwards, against the defence, by at most the noise of a
share.)
"""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowland.metrics.estimate import Estimate, mean
from lowland.robustness.carlini_wagner import CW
from lowland.robustness.pgd import PGD
from lowland.robustness.square import Square
from lowland.robustness.threat_model import (
    Attack,
    Bounds,
    Model,
    Norm,
    are_counts,
    check_attack,
    distance,
    eval_frozen,
)

TOLERANCE = 1e-5  # of ‖x' − x‖ ≤ ε in floating point; a share of ε where ε is above 1
MINIMUM = "minimum"


@dataclass(frozen=True)
class Robustness:
    """Correct answers of a classifier under several attacks.

    correct: by attack, "clean" first, the share (N,) of `evaluations` answers that were correct at
    the points found; seconds: by attack, per row; epsilon, norm: of the ball.
    """

    correct: dict[str, Tensor]
    seconds: dict[str, float]
    epsilon: float
    norm: Norm
    evaluations: int

    @property
    def minimum(self) -> Tensor:
        """The share (N,) of correct answers at the worst attack, the clean point among them."""
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
        return dataclasses.replace(
            self, correct=self.correct | other.correct, seconds=self.seconds | other.seconds
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "count": len(self.minimum),
            "epsilon": self.epsilon,
            "norm": self.norm,
            "evaluations": self.evaluations,
            "accuracy": {name: value.to_dict() for name, value in self.accuracy.items()},
            "majority": self.majority.to_dict(),
            "interval": list(self.interval),
            "seconds": self.seconds,
        }

    def __str__(self) -> str:
        low, high = self.interval
        head = f"accuracy of {len(self.minimum)} points, epsilon {self.epsilon:g} ({self.norm})"
        rows = [f"  {name:<24} {100 * value.value:6.1f} %" for name, value in self.accuracy.items()]
        tail = f"   [{100 * low:.1f}, {100 * high:.1f}] over all attacks, row by row"
        return "\n".join([head, *rows]) + tail


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

    Every call has its own noise if the model is noisy; batch: rows evaluated together.
    """
    share = torch.zeros(len(x), dtype=torch.float64)
    with eval_frozen(model) as model, torch.no_grad():
        for _ in range(evaluations):
            predicted = torch.cat([model(part).argmax(1) for part in x.split(batch)])
            share += (predicted == labels).double().cpu() / evaluations
    return share


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
    evaluations: int = 1,
    batch: int = 250,
    progress: Callable[[str], object] | None = None,
) -> Robustness:
    """Run every attack on every row of x (N, *event) with labels (N,) and measure the accuracy.

    model: a callable x -> logits (B, K); attacks: by name (see `standard_attacks`); evaluations:
    calls at each point found, 1 for a model without noise; batch: rows attacked together; progress:
    called with the name of each attack when it ends. Rows that are misclassified before any attack
    are attacked too, and stay lost in the minimum.

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
    check_attack(model, x, labels, epsilon, bounds)
    named = isinstance(attacks, Mapping) and bool(attacks) and not {"clean", MINIMUM} & set(attacks)
    if not named or not are_counts(evaluations, batch) or norm not in ("inf", "2"):
        raise ValueError(
            f"{len(attacks)} attacks in a {type(attacks).__name__}, {evaluations} evaluations, "
            f"batches of {batch} and norm {norm!r} were asked for; attacks by name, none called "
            f"'clean' or '{MINIMUM}', at least one of each, and norm 'inf' or '2' are needed; "
            "correct them"
        )
    x = x.detach()
    correct = {"clean": share_correct(model, x, labels, evaluations=evaluations, batch=batch)}
    seconds: dict[str, float] = {}
    for name, attack in attacks.items():
        start = time.perf_counter()
        parts = [
            attack(model, a, b, epsilon, generator=generator)
            for a, b in zip(x.split(batch), labels.split(batch), strict=True)
        ]
        seconds[name] = (time.perf_counter() - start) / len(x)
        found = torch.cat(parts)
        _check_budget(name, x, found, epsilon, norm, bounds)
        correct[name] = share_correct(model, found, labels, evaluations=evaluations, batch=batch)
        if progress is not None:
            progress(name)
    return Robustness(correct, seconds, epsilon, norm, evaluations)


def _check_budget(
    name: str, x: Tensor, found: Tensor, epsilon: float, norm: Norm, bounds: Bounds
) -> None:
    """Raise ValueError unless points lie in the ball around x and inside the bounds."""
    far, outside = math.inf, ""
    if found.shape == x.shape and bool(found.isfinite().all()):
        far = float(distance(x, found, norm).max())
        low, high = bounds or (-math.inf, math.inf)
        outside = " and outside the bounds" * bool((found < low).any() | (found > high).any())
    if far > epsilon + TOLERANCE * max(1.0, epsilon) or outside:
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
