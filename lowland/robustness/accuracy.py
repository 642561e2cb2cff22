"""How many points survive every attack, and whether the attacks are to be believed.

A row counts as robust if no attack of several finds a point within ε at which its label is lost:
the minimum over attacks, row by row, never the best attack's average. A model with noise is asked
again with fresh noise at what the attacks found; what then counts for a row is the share of the
answers that are right, at the attack where it is least. (The least of several noisy shares is
biased downwards, against the defence, by no more than the noise of a share.)

An attack that fails proves nothing, so `sanity` asks for the signs of a defence that only hides its
slopes; see Athalye, Carlini & Wagner (2018), https://arxiv.org/abs/1802.00420, and Carlini et al.
(2019), https://arxiv.org/abs/1902.06705
"""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lowland.metrics.estimate import Estimate, mean
from lowland.robustness.attacks import (
    CW,
    PGD,
    Attack,
    Bounds,
    Model,
    Norm,
    Square,
    are_counts,
    check_attack,
    distance,
    eval_frozen,
)

# by which a point may be further away than ε, for rounding; a share of ε where that is above 1
SLACK = 1e-5
MINIMUM = "minimum"


@dataclass(frozen=True)
class Robustness:
    """What attacks left of a classifier.

    right: by attack, "clean" first, the share (N,) of `evaluations` answers that were right at what
    the attack found; seconds: by attack, per row; epsilon, norm: of the ball.
    """

    right: dict[str, Tensor]
    seconds: dict[str, float]
    epsilon: float
    norm: Norm
    evaluations: int

    @property
    def minimum(self) -> Tensor:
        """(N,): the share that is right at the worst of all attacks, the clean point among them."""
        return torch.stack(list(self.right.values())).amin(0)

    @property
    def accuracy(self) -> dict[str, Estimate]:
        """The accuracy under each attack, and under the worst of them row by row, with standard
        errors.
        """
        return {name: mean(share) for name, share in (self.right | {MINIMUM: self.minimum}).items()}

    @property
    def majority(self) -> Estimate:
        """The share of rows that most answers get right at every attack: the same as the minimum
        for a model without noise.
        """
        return mean((self.minimum > 0.5).double())

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the minimum over attacks, after Wilson: it is no point at 0 % and 100 %
        either.
        """
        return wilson(float(self.minimum.double().mean()), len(self.minimum))

    def merge(self, other: "Robustness") -> "Robustness":
        """Both sets of attacks on the same rows."""
        if (self.epsilon, self.norm) != (other.epsilon, other.norm) or len(self.minimum) != len(
            other.minimum
        ):
            raise ValueError(
                f"{len(self.minimum)} rows at {self.epsilon} and {len(other.minimum)} rows at "
                f"{other.epsilon} were to be merged; rows, epsilon and norm must be the same; "
                "attack the same points"
            )
        return dataclasses.replace(
            self, right=self.right | other.right, seconds=self.seconds | other.seconds
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
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
        lines = [f"accuracy of {len(self.minimum)} points, epsilon {self.epsilon:g} ({self.norm})"]
        lines += [
            f"  {name:<24} {100 * value.value:6.1f} %" for name, value in self.accuracy.items()
        ]
        return (
            "\n".join(lines)
            + f"   [{100 * low:.1f}, {100 * high:.1f}] over all attacks, row by row"
        )


def wilson(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """An interval for a probability of which `share` of `count` trials came true.

    Source: Wilson (1927), https://doi.org/10.1080/01621459.1927.10502953

    >>> [round(end, 3) for end in wilson(0.0, 100)]
    [0.0, 0.037]
    """
    centre = share + z**2 / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return max(0.0, (centre - half) / (1 + z**2 / count)), min(
        1.0, (centre + half) / (1 + z**2 / count)
    )


def share_correct(
    model: Model, x: Tensor, labels: Tensor, *, evaluations: int = 1, batch: int = 250
) -> Tensor:
    """The share (N,) of `evaluations` calls, each with the model's own fresh noise, that give the
    label.
    """
    right = torch.zeros(len(x), dtype=torch.float64)
    with eval_frozen(model), torch.no_grad():
        for _ in range(evaluations):
            called = torch.cat([model(part).argmax(1) for part in x.split(batch)])
            right += (called == labels).double().cpu() / evaluations
    return right


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
    """Run every attack on every row x (N, *event) with labels (N,), and count what is still right.

    model: a callable x -> logits (B, K); attacks: by name (`lowland.robustness.standard_attacks`);
    evaluations: calls with fresh noise at each point found, 1 for a model without noise; batch:
    rows attacked together; progress: hears the name of each attack. Rows that are wrong before any
    attack are attacked too, and stay lost in the minimum.

    Raises ValueError for points outside the bounds, labels or shapes that do not fit, ε < 0, no
    attacks, and an attack that comes back with points outside the ball or the bounds: what it found
    is then no attack at this ε.

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
    right = {"clean": share_correct(model, x, labels, evaluations=evaluations, batch=batch)}
    seconds: dict[str, float] = {}
    for name, attack in attacks.items():
        began = time.perf_counter()
        parts = [
            attack(model, a, b, epsilon, generator=generator)
            for a, b in zip(x.split(batch), labels.split(batch), strict=True)
        ]
        seconds[name] = (time.perf_counter() - began) / len(x)
        found = torch.cat(parts)
        _check_budget(name, x, found, epsilon, norm, bounds)
        right[name] = share_correct(model, found, labels, evaluations=evaluations, batch=batch)
        if progress is not None:
            progress(name)
    return Robustness(right, seconds, epsilon, norm, evaluations)


def _check_budget(
    name: str, x: Tensor, found: Tensor, epsilon: float, norm: Norm, bounds: Bounds
) -> None:
    shape = found.shape == x.shape and bool(found.isfinite().all())
    far = float(distance(x, found, norm).max()) if shape else math.inf
    out = (
        shape
        and bounds is not None
        and (float(found.min()) < bounds[0] or float(found.max()) > bounds[1])
    )
    if far > epsilon + SLACK * max(1.0, epsilon) or out:
        raise ValueError(
            f"attack {name!r} came back with points {far:g} "
            f"away{' and outside the bounds' if out else ''}; allowed are {epsilon:g} in norm "
            f"{norm} and bounds {bounds}; project what it finds, or count it at another epsilon"
        )


def standard_attacks(
    norm: Norm = "inf",
    *,
    steps: int = 40,
    restarts: int = 2,
    queries: int = 1000,
    bounds: Bounds = (0.0, 1.0),
) -> dict[str, Attack]:
    """The attacks on a model without noise, cheap ones first: FGSM, PGD, the CW loss, runners-up in
    turn, and Square or CW.

    For a model with noise take `PGD(..., eot=20, early_stop=False)` instead.
    """
    more: dict[str, Any] = {"norm": norm, "bounds": bounds}
    found: dict[str, Attack] = {
        "fgsm": PGD(steps=1, random_start=False, **more),
        "pgd": PGD(steps=steps, restarts=restarts, **more),
        "cw": PGD(steps=steps, restarts=restarts, loss="margin", **more),
        "targeted": PGD(steps=steps, restarts=3, loss="targeted", **more),
    }
    return found | (
        {"square": Square(queries, bounds=bounds)}
        if norm == "inf"
        else {"cw-nearest": CW(bounds=bounds)}
    )


class SanityCheck(NamedTuple):
    """A sanity check: its name, whether it holds, and what was seen."""

    name: str
    passed: bool
    evidence: str

    def __str__(self) -> str:
        return f"{'holds ' if self.passed else 'FAILS '} {self.name}: {self.evidence}"


def sanity_checks(
    model: Model,
    x: Tensor,
    labels: Tensor,
    epsilon: float,
    *,
    generator: torch.Generator,
    white_box: PGD | None = None,
    black_box: Attack | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    evaluations: int = 1,
    found: Robustness | None = None,
) -> list[SanityCheck]:
    """The signs by which a defence that only hides its slopes is known; each holds for one that is
    what it seems.

    accuracy falls with ε, here 0, ε/2, ε, 2ε and the whole box, nowhere to rise, and ends below
    that of a guess, 1 / K; the unbounded attack succeeds, ε being the whole box: no more than 2 %
    are left; more steps of the attack never help the defender: 1, a quarter, all of them; black box
    never beats white box: what Square leaves is no less than what the white attacks leave, row by
    row. "Nowhere" and "never" leave two standard errors of the paired difference. white: the attack
    (PGD of 40 steps unless given); black: one without slopes (`Square` on images unless given, else
    that check is left out); found: a `Robustness` at this ε with an attack "square" and others, not
    to attack again.
    """
    if bounds is None:
        raise ValueError(
            "sanity was given no bounds; its last attack may move as far as they are apart; pass "
            "two numbers"
        )
    guess = 1 / check_attack(model, x, labels, epsilon, bounds)
    white_box = white_box or PGD(bounds=bounds)
    whole = bounds[1] - bounds[0]

    def left(attack: Attack, at: float) -> Tensor:
        result = robust_accuracy(
            model,
            x,
            labels,
            at,
            {"it": attack},
            generator=generator,
            norm=white_box.norm,
            bounds=bounds,
            evaluations=evaluations,
        )
        return result.minimum

    reach = whole * (math.sqrt(x[0].numel()) if white_box.norm == "2" else 1.0)
    sizes = [0.0, *sorted({epsilon / 2, epsilon, min(2 * epsilon, reach)}), reach]
    curve = [left(white_box, size) for size in sizes]
    counts = sorted({1, max(white_box.steps // 4, 1), white_box.steps})
    climbs = [left(dataclasses.replace(white_box, steps=steps), epsilon) for steps in counts]
    end = float(curve[-1].mean())
    checks = [
        SanityCheck(
            "accuracy falls with epsilon", _falls(curve) and end < guess, _said(sizes, curve)
        ),
        SanityCheck("the unbounded attack succeeds", end <= 0.02, _said(sizes[-1:], curve[-1:])),
        SanityCheck("more steps never help the defender", _falls(climbs), _said(counts, climbs)),
    ]
    if found is None and black_box is None and x.dim() == 4 and white_box.norm == "inf":
        black_box = Square(bounds=bounds)
    if found is not None and "square" in found.right and len(found.right) > 2:
        dark = found.right["square"]
        light = torch.stack(
            [share for name, share in found.right.items() if name not in ("clean", "square")]
        ).amin(0)
    elif black_box is not None:
        dark, light = left(black_box, epsilon), left(white_box, epsilon)
    else:
        return checks
    return [
        *checks,
        SanityCheck(
            "black box never beats white box",
            _falls([dark, light]),
            _said(["black", "white"], [dark, light]),
        ),
    ]


def _falls(shares: Sequence[Tensor]) -> bool:
    """Whether no mean lies above the one before by more than two standard errors of their paired
    difference.
    """
    steps = [mean(after - before) for before, after in pairwise(shares)]
    return all(step.value <= 2 * step.error + 1e-12 for step in steps)


def _said(places: Sequence[Any], shares: Sequence[Tensor]) -> str:
    words = [place if isinstance(place, str) else f"{place:g}" for place in places]
    return ", ".join(
        f"{100 * float(share.mean()):.1f} % at {word}"
        for word, share in zip(words, shares, strict=True)
    )
