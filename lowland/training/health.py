"""The training doctor: a pure function from logged numbers to findings, each with a sentence and a remedy.

Energy-based training dies in a handful of ways, and all of them show in numbers before they show in pictures:

    the gap E(samples) − E(data) leaves zero      the sampler cannot follow the energy, or has found holes in it
    the energies grow without bound               nothing holds their level
    the chains stop moving, or sit on the walls   the step is too small, or the score too large
    the gradient jumps                            the next update will throw the weights away
    a number is not finite                        it already has

`diagnose` looks at the last rows of the log and at nothing else, so that a resumed run finds what an uninterrupted one
would have found.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal, NamedTuple

Level = Literal["good", "warn", "bad"]
Rows = Sequence[Mapping[str, Any]]


class Finding(NamedTuple):
    """name of the check, level (warn or bad), what is seen in one sentence, what to do in another."""

    name: str
    level: Level
    sentence: str
    remedy: str


@dataclass(frozen=True)
class Limits:
    """When a number is worth a word. Gaps are in units of the spread (standard deviation) of the data's energies.

    window: rows looked at; settle: rows at the start in which only non-finite numbers are judged.
    """

    window: int = 20
    settle: int = 30
    gap_warn: float = 3.0
    gap_bad: float = 8.0
    energy_bad: float = 1e6
    gradient_warn: float = 30.0
    stuck: float = 1e-4
    border_warn: float = 0.3
    border_bad: float = 0.95


def diagnose(rows: Rows, limits: Limits | None = None) -> list[Finding]:
    """What is wrong, judging by the last rows of the log; an empty list when nothing is.

    Rows are mappings as `fit` logs them; a check whose numbers are missing is left out.

    >>> [f.name for f in diagnose([{"step": 10, "loss": math.nan, "nonfinite": 1}])]
    ['non-finite']
    """
    limits = limits or Limits()
    recent = list(rows)[-limits.window :]
    if not recent:
        return []
    found = [_nonfinite(recent)]
    if len(rows) > limits.settle:
        found += [check(recent, limits) for check in (_gap, _drift, _magnitude, _gradient, _movement, _border, _age)]
    return [finding for finding in found if finding is not None]


def worst(findings: Sequence[Finding]) -> Level:
    """The level of the worst finding; good when there is none."""
    levels = {finding.level for finding in findings}
    return "bad" if "bad" in levels else "warn" if "warn" in levels else "good"


def _series(rows: Rows, name: str) -> list[float]:
    values = [float(row[name]) for row in rows if name in row]
    return [value for value in values if math.isfinite(value)]


def _nonfinite(rows: Rows) -> Finding | None:
    last = rows[-1]
    count = int(last.get("nonfinite", 0))
    named = [key for key, value in last.items() if isinstance(value, float) and not math.isfinite(value)]
    if not count and not named:
        return None
    return Finding(
        "non-finite",
        "bad",
        f"{count} updates since the last row had a loss or gradient that is not finite and were not applied.",
        "Lower the learning rate, raise l2, or choose a smaller sampler step.",
    )


def _gap(rows: Rows, limits: Limits) -> Finding | None:
    gaps, spreads = _series(rows[-5:], "gap"), _series(rows[-5:], "spread")
    if not gaps or not spreads or min(spreads) <= 0:
        return None
    ratio = median(gaps) / median(spreads)
    if abs(ratio) < limits.gap_warn:
        return None
    level: Level = "bad" if abs(ratio) > limits.gap_bad else "warn"
    if ratio > 0:
        return Finding(
            "energy gap",
            level,
            f"Samples lie {ratio:.0f} spreads above the data in energy: the chains do not get down to where data are.",
            "Take more or larger sampler steps, or lower the learning rate.",
        )
    return Finding(
        "energy gap",
        level,
        f"Samples lie {-ratio:.0f} spreads below the data in energy: the chains have found holes that data do not fill.",
        "Lower the learning rate or raise l2; more chains fill holes sooner.",
    )


def _drift(rows: Rows, limits: Limits) -> Finding | None:
    gaps, spreads = _series(rows, "gap"), _series(rows, "spread")
    if len(gaps) < limits.window or not spreads:
        return None
    half = len(gaps) // 2
    change = abs(median(gaps[half:])) - abs(median(gaps[:half]))
    if change < limits.gap_warn / 2 * max(median(spreads), 1e-12):
        return None
    return Finding(
        "gap drift",
        "warn",
        f"The energy gap has moved {change:.3g} away from zero within the last {len(gaps)} rows.",
        "If it goes on, lower the learning rate or take more sampler steps.",
    )


def _magnitude(rows: Rows, limits: Limits) -> Finding | None:
    energies = _series(rows[-5:], "energy_data") + _series(rows[-5:], "energy_model")
    if not energies or max(map(abs, energies)) < limits.energy_bad:
        return None
    return Finding(
        "energy magnitude",
        "bad",
        f"Energies have reached {max(map(abs, energies)):.2g}: nothing holds their level.",
        "Raise l2, or use spectral norm.",
    )


def _gradient(rows: Rows, limits: Limits) -> Finding | None:
    norms = _series(rows, "gradient_norm")
    if len(norms) < 5 or norms[-1] < limits.gradient_warn * max(median(norms), 1e-12):
        return None
    return Finding(
        "gradient norm",
        "warn",
        f"The gradient norm is {norms[-1]:.3g}, {norms[-1] / median(norms):.0f} times its recent median.",
        "Set training.clip to about the median norm, or lower the learning rate.",
    )


def _movement(rows: Rows, limits: Limits) -> Finding | None:
    moves = _series(rows[-5:], "movement")
    if not moves or median(moves) > limits.stuck:
        return None
    return Finding(
        "chain movement",
        "warn",
        f"Chains move {median(moves):.1g} per update: they stand still and their samples do not renew.",
        "Raise the sampler's step size or noise.",
    )


def _border(rows: Rows, limits: Limits) -> Finding | None:
    shares, data = _series(rows[-5:], "border"), _series(rows[-5:], "border_data")
    if not shares:
        return None
    share, usual = median(shares), median(data) if data else 0.0
    if share - usual < limits.border_warn and share < max(limits.border_bad, usual + 0.02):
        return None
    return Finding(
        "border",
        "bad" if share > max(limits.border_bad, usual + 0.02) else "warn",
        f"{share:.0%} of the samples' numbers sit at the walls of the box; of the data's, {usual:.0%} do.",
        "Choose a smaller sampler step or clip: the score is throwing chains against the walls.",
    )


def _age(rows: Rows, limits: Limits) -> Finding | None:
    ages = _series(rows, "age")
    if len(ages) < limits.window or ages[-1] > 0 or rows[-1].get("step", 0) < 1:
        return None
    return Finding(
        "buffer age",
        "warn",
        "Chains in the buffer have age 0: every visit begins anew, so nothing persists.",
        "Lower objective.restart.",
    )
