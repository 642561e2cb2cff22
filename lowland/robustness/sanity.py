"""Sanity checks: signs that attacks failed because gradients are masked, not because of robustness.

See Athalye, Carlini & Wagner (2018), https://arxiv.org/abs/1802.00420, and Carlini et al. (2019),
https://arxiv.org/abs/1902.06705
"""

import dataclasses
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from lowland.metrics.estimate import mean
from lowland.robustness.accuracy import Robustness, robust_accuracy
from lowland.robustness.pgd import PGD
from lowland.robustness.square import Square
from lowland.robustness.threat_model import Attack, Model, check_attack

MAX_SURVIVORS = 0.02  # of the rows, under an attack that may move anywhere


class SanityCheck(NamedTuple):
    """The result of one sanity check: its name, whether it passed, and the accuracies seen."""

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
    evaluations: int | None = None,
    found: Robustness | None = None,
) -> list[SanityCheck]:
    """Check on x (N, *event) with labels (N,) for signs of masked gradients; all pass if there are
    none.

    1. Accuracy falls with ε (0, ε/2, ε, 2ε and the whole box) and ends below chance, 1 / K.
    2. The unbounded attack, ε being the whole box, leaves at most 2 %.
    3. More steps of the attack (1, a quarter, all of them) never raise the accuracy.
    4. The black-box attack never beats the white-box attacks, row by row.

    "Falls" and "never" allow two standard errors of the paired difference. white_box: PGD of 40
    steps unless given; black_box: `Square` on images unless given, else check 4 is left out; found:
    a `Robustness` at this ε with an attack "square" and others, to be used for check 4.

    Raises ValueError without bounds, and as `robust_accuracy` does.
    """
    if bounds is None:
        raise ValueError(
            "sanity_checks was given no bounds; its last attack may move as far as they are apart; "
            "pass two numbers"
        )
    chance = 1 / check_attack(model, x, labels, epsilon, bounds)
    white_box = white_box or PGD(bounds=bounds)

    def survivors(attack: Attack, at: float) -> Tensor:
        return robust_accuracy(
            model,
            x,
            labels,
            at,
            {"it": attack},
            generator=generator,
            norm=white_box.norm,
            bounds=bounds,
            evaluations=evaluations,
        ).minimum

    reach = bounds[1] - bounds[0]
    if white_box.norm == "2":
        reach *= math.sqrt(x[0].numel())
    sizes = [0.0, *sorted({epsilon / 2, epsilon, min(2 * epsilon, reach)}), reach]
    curve = [survivors(white_box, size) for size in sizes]
    counts = sorted({1, max(white_box.steps // 4, 1), white_box.steps})
    climbs = [survivors(dataclasses.replace(white_box, steps=steps), epsilon) for steps in counts]
    end = float(curve[-1].mean())
    falls, unbounded = _falls(curve) and end < chance, end <= MAX_SURVIVORS
    at_sizes, at_counts = [f"{size:g}" for size in sizes], [f"{count:g}" for count in counts]
    checks = [
        SanityCheck("accuracy falls with epsilon", falls, _format(at_sizes, curve)),
        SanityCheck("the unbounded attack succeeds", unbounded, _format(at_sizes[-1:], curve[-1:])),
        SanityCheck(
            "more steps never help the defender", _falls(climbs), _format(at_counts, climbs)
        ),
    ]
    if found is not None and "square" in found.correct and len(found.correct) > 2:
        black = found.correct["square"]
        others = [s for name, s in found.correct.items() if name not in ("clean", "square")]
        white = torch.stack(others).amin(0)
    else:
        if found is None and black_box is None and x.dim() == 4 and white_box.norm == "inf":
            black_box = Square(bounds=bounds)
        if black_box is None:
            return checks
        black, white = survivors(black_box, epsilon), survivors(white_box, epsilon)
    pair = [black, white]
    evidence = _format(["black", "white"], pair)
    return [*checks, SanityCheck("black box never beats white box", _falls(pair), evidence)]


def _falls(shares: Sequence[Tensor]) -> bool:
    """Return True if no mean exceeds the one before by two standard errors of the difference."""
    steps = [mean(after - before) for before, after in pairwise(shares)]
    return all(step.value <= 2 * step.error + 1e-12 for step in steps)


def _format(places: Sequence[str], shares: Sequence[Tensor]) -> str:
    pairs = zip(places, shares, strict=True)
    return ", ".join(f"{100 * float(share.mean()):.1f} % at {place}" for place, share in pairs)
