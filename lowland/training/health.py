"""Health of a training run: findings from logged numbers, each with a sentence, a remedy and a
cure.

Energy-based training dies in a handful of ways, and all of them show in numbers before they show in
pictures:

    a number is not finite; energies run away     diverging
    a classifier forgets what it knew             diverging
    proposals are not finite and are refused      refused proposals
    the gap E(samples) − E(data) leaves zero      chains cannot follow the energy (discriminator
                                                  won), or found holes in it
    samples sit on the bounds                      saturated
    chains stop moving, or refuse every move      frozen chains
    the energies of all data become equal         energy collapse
    held-out data lie above training data         overfitting
    old chains lie above those begun anew         overfitting the buffer
    samples become alike                          mode loss

`diagnose` looks at the last rows of the log and at nothing else, so that a resumed run finds what
an uninterrupted one would have found. The cure is what a run does after rolling back: "rate" lowers
the learning rate, "step" shortens the sampler's step and lowers the rate, "chains" begins half of
the chains anew and lowers the rate. Trouble that comes back soon is in the weights already: it
then goes back further, to a checkpoint of half the way, and then to the start.
"""

import math
from collections.abc import Callable
from statistics import median

from lowland.training.findings import (
    Finding,
    Limits,
    Rows,
    grade,
    recent_median,
    series,
    worst,
)


def diagnose(rows: Rows, limits: Limits | None = None) -> list[Finding]:
    """Return what is wrong, judging by the last rows of the log; an empty list if nothing is.

    Rows are mappings as a log holds them; a check whose numbers are missing is left out. Rows
    marked `stale` were logged before the last cure: they say how long the run is, and nothing
    of how it is now.

    >>> [f.name for f in diagnose([{"step": 10, "loss": math.nan, "nonfinite": 1}])]
    ['diverging']
    """
    limits = limits or Limits()
    recent = [row for row in list(rows)[-limits.window :] if not row.get("stale")]
    if not recent:
        return []
    checks = ALWAYS
    if len(rows) > limits.settle and len(recent) >= limits.settle_again:
        checks += SETTLED
    else:
        checks += YOUNG
    results = [check(recent, limits) for check in checks]
    findings = [finding for finding in results if finding is not None]
    if worst(findings) != "bad":
        return findings
    # chains at the bounds explain what else is wrong
    return [f._replace(level="bad") if f.name == "saturated" else f for f in findings]


def _check_finite(rows: Rows, limits: Limits) -> Finding | None:
    last = rows[-1]
    count = int(last.get("nonfinite", 0))
    named = [
        k for k, value in last.items() if isinstance(value, float) and not math.isfinite(value)
    ]
    if not count and not named:
        return None
    names = f"; not finite: {', '.join(named)}." if named else "."
    return Finding(
        "diverging",
        "bad",
        f"{count} updates since the last row had a loss or gradient that is not finite and were "
        f"not applied{names}",
        "Lower the learning rate, raise l2, or choose a smaller sampler step.",
    )


def _check_magnitude(rows: Rows, limits: Limits) -> Finding | None:
    energies = series(rows[-5:], "energy_data") + series(rows[-5:], "energy_model")
    largest = max(map(abs, energies), default=0.0)
    if largest < limits.energy_bad:
        return None
    return Finding(
        "diverging",
        "bad",
        f"Energies have reached {largest:.2g}: nothing holds their level.",
        "Raise l2, lower the learning rate, or use spectral norm.",
    )


def _check_runaway(rows: Rows, limits: Limits) -> Finding | None:
    """Find a gap that no start explains, in two rows running."""
    last = [
        (row["gap"], row["energy_std"]) for row in rows[-2:] if {"gap", "energy_std"} <= set(row)
    ]
    ratios = [abs(gap) / std for gap, std in last if std > 0 and math.isfinite(gap)]
    if len(ratios) < 2 or min(ratios) < limits.gap_runaway:
        return None
    return Finding(
        "diverging",
        "bad",
        f"Samples and data are {min(ratios):.0f} standard deviations of the data's energies apart.",
        "Lower the learning rate or the sampler's step.",
        "step",
    )


def _check_early_gap(rows: Rows, limits: Limits) -> Finding | None:
    """Find a gap that stays wide in ten rows running, also where a run is young or short."""
    last = [row for row in rows[-10:] if {"gap", "energy_std"} <= set(row)]
    if len(last) < 10:
        return None
    gaps = [abs(float(row["gap"])) for row in last]
    ratios = [abs(float(row["gap"])) / max(float(row["energy_std"]), 1e-12) for row in last]
    if not (min(gaps) >= limits.gap_early and min(ratios) >= limits.gap_bad):
        return None
    return Finding(
        "wide gap",
        "warn",
        f"The energies of samples and data have been {min(gaps):.3g} to {max(gaps):.3g} apart for "
        "ten rows: the chains are nowhere near what the energy makes likely.",
        "Lower the learning rate, take more or smaller sampler steps, or a smaller energy.scale.",
    )


def _check_refused(rows: Rows, limits: Limits) -> Finding | None:
    """Find chains whose proposals are refused because they are not finite."""
    shares = [float(row.get("refused_share", 0.0)) for row in rows[-5:]]
    share = median(shares)
    if len(shares) < 2 or share < limits.refused_warn:
        return None
    return Finding(
        "refused proposals",
        grade(share >= limits.refused_bad),
        f"{share:.0%} of the chains' proposals were not finite and were refused: the energy or its "
        "gradient overflows where the sampler's steps lead.",
        "Choose a smaller sampler step, or lower the learning rate.",
        "step",
    )


def _check_entropy(rows: Rows, limits: Limits) -> Finding | None:
    """Find a cross-entropy far above what it was; below half a nat it may double as it likes."""
    entropies = series(rows, "cross_entropy")
    if len(entropies) < 6:
        return None
    best, now = max(min(entropies), 0.5), median(entropies[-3:])
    if now < limits.entropy_growth * best:
        return None
    return Finding(
        "diverging",
        "bad",
        f"The cross-entropy is {now:.3g}; it was {min(entropies):.3g}: the classifier has lost "
        "what it knew.",
        "Lower the learning rate, or choose a network with a norm.",
    )


def _check_gap(rows: Rows, limits: Limits) -> Finding | None:
    stds = series(rows[-5:], "energy_std")
    if not stds or min(stds) <= 0:
        return None
    ratio = recent_median(rows, "gap") / median(stds)
    if not abs(ratio) >= limits.gap_warn:
        return None
    level = grade(abs(ratio) > limits.gap_bad)
    if ratio > 0:
        return Finding(
            "discriminator won",
            level,
            f"Samples lie {ratio:.0f} standard deviations above the data in energy: the chains do "
            "not get down to where data are.",
            "Take more or larger sampler steps, or lower the learning rate.",
        )
    return Finding(
        "diverging",
        level,
        f"Samples lie {-ratio:.0f} standard deviations below the data in energy: the chains have "
        "found holes that data do not fill.",
        "Lower the learning rate or raise l2; more chains fill holes sooner.",
    )


def _check_accuracy(rows: Rows, limits: Limits) -> Finding | None:
    """Find noise that is told from data without effort; a classifier's accuracy is of labels."""
    if "cross_entropy" in rows[-1]:
        return None
    shares = series(rows, "accuracy")
    if len(shares) < limits.window or min(shares) < limits.accuracy_max:
        return None
    return Finding(
        "discriminator won",
        "warn",
        f"Data and noise have been told apart in {min(shares):.2%} of the cases for {len(shares)} "
        "rows: no gradient is left.",
        "Choose a noise that is closer to the data, for example a flow, or a smaller learning "
        "rate.",
    )


def _check_drift(rows: Rows, limits: Limits) -> Finding | None:
    gaps, stds = series(rows, "gap"), series(rows, "energy_std")
    if len(gaps) < limits.window or not stds:
        return None
    half = len(gaps) // 2
    change = abs(median(gaps[half:])) - abs(median(gaps[:half]))
    if change < limits.gap_warn / 2 * max(median(stds), 1e-12):
        return None
    return Finding(
        "gap drift",
        "warn",
        f"The energy gap has moved {change:.3g} away from zero within the last {len(gaps)} rows.",
        "If it goes on, lower the learning rate or take more sampler steps.",
    )


def _check_gradient(rows: Rows, limits: Limits) -> Finding | None:
    norms = series(rows, "gradient_norm")
    if len(norms) < 5 or norms[-1] < limits.gradient_warn * max(median(norms), 1e-12):
        return None
    return Finding(
        "gradient norm",
        "warn",
        f"The gradient norm is {norms[-1]:.3g}, {norms[-1] / median(norms):.0f} times its recent "
        "median.",
        "Set training.grad_clip_norm to about the median norm, or lower the learning rate.",
    )


def _check_movement(rows: Rows, limits: Limits) -> Finding | None:
    rate, moved = recent_median(rows, "acceptance"), recent_median(rows, "movement")
    if rate < limits.acceptance_min:
        return Finding(
            "frozen chains",
            "bad",
            f"Chains refuse all but {rate:.1g} of their moves: their samples do not renew.",
            "Choose a smaller sampler step.",
            "step",
        )
    if not moved <= limits.movement_min:
        return None
    return Finding(
        "frozen chains",
        "warn",
        f"Chains move {moved:.1g} per update: they stand still and their samples do not renew.",
        "Raise the sampler's step size or noise.",
    )


def _check_bounds(rows: Rows, limits: Limits) -> Finding | None:
    shares, data = series(rows[-5:], "bound_share"), series(rows[-5:], "data_bound_share")
    if not shares:
        return None
    share, usual = median(shares), median(data or [0.0])
    bad = share > max(limits.bound_bad, usual + 0.02)
    if share - usual < limits.bound_warn and share < max(limits.bound_bad, usual + 0.02):
        return None
    return Finding(
        "saturated",
        grade(bad),
        f"{share:.0%} of the samples' numbers sit at the bounds of the box; of the data's, "
        f"{usual:.0%} do.",
        "Choose a smaller sampler step or clip: the score is throwing chains against the bounds.",
        "step",
    )


def _check_collapse(rows: Rows, limits: Limits) -> Finding | None:
    """Find data all at one energy: relative to the level of the energies, whose unit is free."""
    std = recent_median(rows, "energy_std")
    levels = [abs(energy) for energy in series(rows[-5:], "energy_data")]
    if not levels or not std <= limits.energy_std_min * max(median(levels), 1e-3):
        return None
    return Finding(
        "energy collapse",
        "bad",
        f"The energies of the data differ by {std:.1g} at a level of {median(levels):.1g}: the "
        "energy is flat.",
        "Lower the learning rate, l2 or weight decay.",
    )


def _check_held_out(rows: Rows, limits: Limits) -> Finding | None:
    gaps = series(rows, "held_gap")
    if not gaps or gaps[-1] < limits.held_warn:
        return None
    return Finding(
        "overfitting",
        "warn",
        f"Held-out data lie {gaps[-1]:.1f} standard deviations above the training data in energy.",
        "Stop earlier (training.select_by, training.patience), add noise or weight decay, or take "
        "a smaller network.",
    )


def _check_reinitialized(rows: Rows, limits: Limits) -> Finding | None:
    """Find reinitialised chains that get lower in their first visit than old chains are."""
    gaps, stds = series(rows, "reinit_gap"), series(rows, "energy_std")
    if len(gaps) < limits.window or median(gaps) > -limits.reinit_warn * max(median(stds), 1e-12):
        return None
    return Finding(
        "overfitting the buffer",
        "warn",
        f"Chains begun anew lie {-median(gaps):.3g} below the old ones in energy: the buffer no "
        "longer follows the model.",
        "Raise objective.reinit_prob or the number of steps, or lower the learning rate.",
        "chains",
    )


def _check_diversity(rows: Rows, limits: Limits) -> Finding | None:
    share = recent_median(rows, "diversity")
    if not share <= limits.diversity_warn:
        return None
    return Finding(
        "mode loss",
        grade(share < limits.diversity_bad),
        f"The samples' total variance is {share:.2g} of the data's: they are alike.",
        "Begin more chains anew (objective.reinit_prob), raise the temperature, or lower the "
        "learning rate.",
        "chains",
    )


def _check_age(rows: Rows, limits: Limits) -> Finding | None:
    ages = series(rows, "age")
    if len(ages) < limits.window or ages[-1] > 0 or rows[-1].get("step", 0) < 1:
        return None
    return Finding(
        "buffer age",
        "warn",
        "Chains in the buffer have age 0: every visit begins anew, so nothing persists.",
        "Lower objective.reinit_prob.",
    )


Check = Callable[[Rows, Limits], Finding | None]
ALWAYS: tuple[Check, ...] = (
    _check_finite,
    _check_refused,
    _check_magnitude,
    _check_runaway,
    _check_entropy,
)
YOUNG: tuple[Check, ...] = (_check_early_gap,)
# what explains a gap comes before the gap: the first bad finding is the one that is cured
SETTLED: tuple[Check, ...] = (
    _check_bounds,
    _check_movement,
    _check_diversity,
    _check_collapse,
    _check_gap,
    _check_accuracy,
    _check_drift,
    _check_gradient,
    _check_held_out,
    _check_reinitialized,
    _check_age,
)
