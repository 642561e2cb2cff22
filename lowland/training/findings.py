"""Findings about a training run, their limits, and the series of logged numbers they are read
from.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal, NamedTuple

from lowland.training.settings import Plain

Level = Literal["good", "warn", "bad"]
Cure = Literal["rate", "step", "chains"]
Rows = Sequence[Plain]


class Finding(NamedTuple):
    """A verdict: its name, level (warn or bad), what is seen in one sentence, what to do in
    another, and the cure by training itself."""

    name: str
    level: Level
    sentence: str
    remedy: str
    cure: Cure = "rate"


@dataclass(frozen=True)
class Limits:
    """Thresholds of the checks. Gaps are in units of the standard deviation of the data's energies.

    gap_early is in units of energy: no
    sound run keeps such a gap, be it young; refused: shares of the proposals of chains.

    window: rows looked at; settle: rows at the start, and settle_again: rows after a cure, in which
    only numbers that no sound run shows are judged.
    """

    window: int = 20
    settle: int = 30
    settle_again: int = 5
    gap_warn: float = 3.0
    gap_bad: float = 8.0
    gap_runaway: float = 1000.0
    gap_early: float = 100.0
    refused_warn: float = 0.05
    refused_bad: float = 0.5
    energy_bad: float = 1e6
    gradient_warn: float = 30.0
    entropy_growth: float = 2.0
    movement_min: float = 1e-4
    acceptance_min: float = 0.001
    bound_warn: float = 0.3
    bound_bad: float = 0.95
    energy_std_min: float = 1e-4
    held_warn: float = 1.0
    reinit_warn: float = 2.0
    accuracy_max: float = 0.999
    diversity_warn: float = 0.3
    diversity_bad: float = 0.03


def worst(findings: Sequence[Finding]) -> Level:
    """Return the level of the worst finding; good when there is none."""
    levels = {finding.level for finding in findings}
    if "bad" in levels:
        return "bad"
    return "warn" if "warn" in levels else "good"


def series(rows: Rows, name: str) -> list[float]:
    """Return the finite values of a number in rows that hold it."""
    values = [float(row[name]) for row in rows if name in row]
    return [value for value in values if math.isfinite(value)]


def recent_median(rows: Rows, name: str) -> float:
    """Return the median of the last five rows, NaN if there is none."""
    values = series(rows[-5:], name)
    return median(values) if values else math.nan


def grade(bad: bool) -> Level:
    """Return the level of a finding."""
    return "bad" if bad else "warn"
