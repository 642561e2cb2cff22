"""The training doctor: a pure function from logged numbers to findings, each with a sentence, a
remedy and a cure.

Energy-based training dies in a handful of ways, and all of them show in numbers before they show in
pictures:

    a number is not finite; energies run away     diverging
    a classifier forgets what it knew             diverging
    the gap E(samples) − E(data) leaves zero      chains cannot follow the energy (discriminator
                                                  won), or found holes in it
    samples sit on the walls                      saturated
    chains stop moving, or refuse every move      frozen chains
    the energies of all data become equal         energy collapse
    held-out data lie above training data         overfitting
    old chains lie above those begun anew         overfitting the buffer
    samples become alike                          mode loss

`diagnose` looks at the last rows of the log and at nothing else, so that a resumed run finds what
an uninterrupted one would have found. The cure is what `fit` does after rolling back: "rate" lowers
the learning rate, "step" shortens the sampler's step and lowers the rate, "chains" begins half of
the chains anew and lowers the rate. Trouble that comes back soon is in the weights already: `fit`
then goes back further, to a checkpoint of half the way, and then to the start.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal, NamedTuple

Level = Literal["good", "warn", "bad"]
Cure = Literal["rate", "step", "chains"]
Rows = Sequence[Mapping[str, Any]]


class Finding(NamedTuple):
    """name of the verdict, level (warn or bad), what is seen in one sentence, what to do in
    another, what `fit` does itself.
    """

    name: str
    level: Level
    sentence: str
    remedy: str
    cure: Cure = "rate"


@dataclass(frozen=True)
class Limits:
    """When a number is worth a word. Gaps are in units of the spread (standard deviation) of the
    data's energies.

    window: rows looked at; settle: rows at the start, fresh: rows after a cure, in which only
    numbers that no sound run shows are judged.
    """

    window: int = 20
    settle: int = 30
    fresh: int = 5
    gap_warn: float = 3.0
    gap_bad: float = 8.0
    gap_wild: float = 1000.0
    energy_bad: float = 1e6
    gradient_warn: float = 30.0
    forgotten: float = 2.0
    stuck: float = 1e-4
    refused: float = 0.001
    border_warn: float = 0.3
    border_bad: float = 0.95
    flat: float = 1e-4
    held_warn: float = 1.0
    fresh_warn: float = 2.0
    told_apart: float = 0.999
    alike_warn: float = 0.3
    alike_bad: float = 0.03


def diagnose(rows: Rows, limits: Limits | None = None) -> list[Finding]:
    """What is wrong, judging by the last rows of the log; an empty list when nothing is.

    Rows are mappings as `fit` logs them; a check whose numbers are missing is left out. Rows marked
    `stale` were logged before the last cure: they say how long the run is, and nothing of how it is
    now.

    >>> [f.name for f in diagnose([{"step": 10, "loss": math.nan, "nonfinite": 1}])]
    ['diverging']
    """
    limits = limits or Limits()
    recent = [row for row in list(rows)[-limits.window :] if not row.get("stale")]
    if not recent:
        return []
    found = [
        _nonfinite(recent),
        _magnitude(recent, limits),
        _wild(recent, limits),
        _forgotten(recent, limits),
    ]
    if len(rows) > limits.settle and len(recent) >= limits.fresh:
        found += [check(recent, limits) for check in CHECKS]
    here = [finding for finding in found if finding is not None]
    if worst(here) == "bad":  # chains at the walls explain what else is wrong
        here = [
            finding._replace(level="bad") if finding.name == "saturated" else finding
            for finding in here
        ]
    return here


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
    named = [
        key for key, value in last.items() if isinstance(value, float) and not math.isfinite(value)
    ]
    if not count and not named:
        return None
    return Finding(
        "diverging",
        "bad",
        f"{count} updates since the last row had a loss or gradient that is not finite and were "
        "not applied" + (f"; not finite: {', '.join(named)}." if named else "."),
        "Lower the learning rate, raise l2, or choose a smaller sampler step.",
    )


def _magnitude(rows: Rows, limits: Limits) -> Finding | None:
    energies = _series(rows[-5:], "energy_data") + _series(rows[-5:], "energy_model")
    if not energies or max(map(abs, energies)) < limits.energy_bad:
        return None
    return Finding(
        "diverging",
        "bad",
        f"Energies have reached {max(map(abs, energies)):.2g}: nothing holds their level.",
        "Raise l2, or use spectral norm.",
    )


def _wild(rows: Rows, limits: Limits) -> Finding | None:
    """A gap that no start explains, in two rows running."""
    last = [
        (row["gap"], row["energy_std"]) for row in rows[-2:] if "gap" in row and "energy_std" in row
    ]
    ratios = [abs(gap) / spread for gap, spread in last if spread > 0 and math.isfinite(gap)]
    if len(ratios) < 2 or min(ratios) < limits.gap_wild:
        return None
    return Finding(
        "diverging",
        "bad",
        f"Samples and data are {min(ratios):.0f} spreads of the data's energies apart.",
        "Lower the learning rate or the sampler's step.",
        "step",
    )


def _forgotten(rows: Rows, limits: Limits) -> Finding | None:
    """Cross-entropy far above what it was a few rows ago; below half a nat it may double as it
    likes.
    """
    entropies = _series(rows, "cross_entropy")
    if len(entropies) < 6:
        return None
    best, now = max(min(entropies), 0.5), median(entropies[-3:])
    if now < limits.forgotten * best:
        return None
    return Finding(
        "diverging",
        "bad",
        f"The cross-entropy is {now:.3g}; it was {min(entropies):.3g}: the classifier has lost "
        "what it knew.",
        "Lower the learning rate, or choose a network with a norm.",
    )


def _gap(rows: Rows, limits: Limits) -> Finding | None:
    gaps, spreads = _series(rows[-5:], "gap"), _series(rows[-5:], "energy_std")
    if not gaps or not spreads or min(spreads) <= 0:
        return None
    ratio = median(gaps) / median(spreads)
    if abs(ratio) < limits.gap_warn:
        return None
    level: Level = "bad" if abs(ratio) > limits.gap_bad else "warn"
    if ratio > 0:
        return Finding(
            "discriminator won",
            level,
            f"Samples lie {ratio:.0f} spreads above the data in energy: the chains do not get down "
            "to where data are.",
            "Take more or larger sampler steps, or lower the learning rate.",
        )
    return Finding(
        "diverging",
        level,
        f"Samples lie {-ratio:.0f} spreads below the data in energy: the chains have found holes "
        "that data do not fill.",
        "Lower the learning rate or raise l2; more chains fill holes sooner.",
    )


def _told_apart(rows: Rows, limits: Limits) -> Finding | None:
    shares = (
        [] if "cross_entropy" in rows[-1] else _series(rows, "accuracy")
    )  # a classifier's accuracy is of labels
    if len(shares) < limits.window or min(shares) < limits.told_apart:
        return None
    return Finding(
        "discriminator won",
        "warn",
        f"Data and noise have been told apart in {min(shares):.2%} of the cases for {len(shares)} "
        "rows: no gradient is left.",
        "Choose a noise that is closer to the data, for example a flow, or a smaller learning "
        "rate.",
    )


def _drift(rows: Rows, limits: Limits) -> Finding | None:
    gaps, spreads = _series(rows, "gap"), _series(rows, "energy_std")
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


def _gradient(rows: Rows, limits: Limits) -> Finding | None:
    norms = _series(rows, "gradient_norm")
    if len(norms) < 5 or norms[-1] < limits.gradient_warn * max(median(norms), 1e-12):
        return None
    return Finding(
        "gradient norm",
        "warn",
        f"The gradient norm is {norms[-1]:.3g}, {norms[-1] / median(norms):.0f} times its recent "
        "median.",
        "Set training.grad_clip_norm to about the median norm, or lower the learning rate.",
    )


def _movement(rows: Rows, limits: Limits) -> Finding | None:
    moves, rates = _series(rows[-5:], "movement"), _series(rows[-5:], "acceptance")
    if rates and median(rates) < limits.refused:
        return Finding(
            "frozen chains",
            "bad",
            f"Chains refuse all but {median(rates):.1g} of their moves: their samples do not "
            "renew.",
            "Choose a smaller sampler step.",
            "step",
        )
    if not moves or median(moves) > limits.stuck:
        return None
    return Finding(
        "frozen chains",
        "warn",
        f"Chains move {median(moves):.1g} per update: they stand still and their samples do not "
        "renew.",
        "Raise the sampler's step size or noise.",
    )


def _border(rows: Rows, limits: Limits) -> Finding | None:
    shares, data = _series(rows[-5:], "bound_share"), _series(rows[-5:], "data_bound_share")
    if not shares:
        return None
    share, usual = median(shares), median(data) if data else 0.0
    if share - usual < limits.border_warn and share < max(limits.border_bad, usual + 0.02):
        return None
    return Finding(
        "saturated",
        "bad" if share > max(limits.border_bad, usual + 0.02) else "warn",
        f"{share:.0%} of the samples' numbers sit at the walls of the box; of the data's, "
        f"{usual:.0%} do.",
        "Choose a smaller sampler step or clip: the score is throwing chains against the walls.",
        "step",
    )


def _collapse(rows: Rows, limits: Limits) -> Finding | None:
    """All data at one energy: judged against the level of the energies, since their unit is
    free.
    """
    spreads, levels = (
        _series(rows[-5:], "energy_std"),
        [abs(e) for e in _series(rows[-5:], "energy_data")],
    )
    if not spreads or not levels or median(spreads) > limits.flat * max(median(levels), 1e-3):
        return None
    return Finding(
        "energy collapse",
        "bad",
        f"The energies of the data differ by {median(spreads):.1g} at a level of "
        f"{median(levels):.1g}: the energy is flat.",
        "Lower the learning rate, l2 or weight decay.",
    )


def _held(rows: Rows, limits: Limits) -> Finding | None:
    gaps = _series(rows, "held_gap")
    if not gaps or gaps[-1] < limits.held_warn:
        return None
    return Finding(
        "overfitting",
        "warn",
        f"Held-out data lie {gaps[-1]:.1f} spreads above the training data in energy.",
        "Stop earlier (training.select_by, training.patience), add noise or weight decay, or take "
        "a smaller network.",
    )


def _fresh(rows: Rows, limits: Limits) -> Finding | None:
    """Chains begun anew get lower in their first visit than chains that have walked for long."""
    gaps, spreads = _series(rows, "reinit_gap"), _series(rows, "energy_std")
    if len(gaps) < limits.window or median(gaps) > -limits.fresh_warn * max(median(spreads), 1e-12):
        return None
    return Finding(
        "overfitting the buffer",
        "warn",
        f"Chains begun anew lie {-median(gaps):.3g} below the old ones in energy: the buffer no "
        "longer follows the model.",
        "Raise objective.reinit_prob or the number of steps, or lower the learning rate.",
        "chains",
    )


def _alike(rows: Rows, limits: Limits) -> Finding | None:
    shares = _series(rows[-5:], "diversity")
    if not shares or median(shares) > limits.alike_warn:
        return None
    return Finding(
        "mode loss",
        "bad" if median(shares) < limits.alike_bad else "warn",
        f"The samples' total variance is {median(shares):.2g} of the data's: they are alike.",
        "Begin more chains anew (objective.reinit_prob), raise the temperature, or lower the "
        "learning rate.",
        "chains",
    )


def _age(rows: Rows, limits: Limits) -> Finding | None:
    ages = _series(rows, "age")
    if len(ages) < limits.window or ages[-1] > 0 or rows[-1].get("step", 0) < 1:
        return None
    return Finding(
        "buffer age",
        "warn",
        "Chains in the buffer have age 0: every visit begins anew, so nothing persists.",
        "Lower objective.reinit_prob.",
    )


# what explains a gap comes before the gap: the first bad finding is the one that is cured
CHECKS = (
    _border,
    _movement,
    _alike,
    _collapse,
    _gap,
    _told_apart,
    _drift,
    _gradient,
    _held,
    _fresh,
    _age,
)
