"""Detectors of outliers that read the energy of a trained run."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from torch import Tensor

from lowland.energy import Energy
from lowland.metrics import calibration_size
from lowland.run import RunError
from lowland.tasks import Detector
from lowland.tasks.detection.registry import get_outlier_score
from lowland.tasks.detection.scores import OutlierScore
from lowland.training.identity import read_hashes

if TYPE_CHECKING:
    from lowland.trained.model import Model

MAX_REFERENCE = 5000  # training points from which a score learns, at most


def energy_for(model: Model, score: OutlierScore) -> Energy:
    """Return the energy that a score reads: the marginal for scores of E(x), else as trained."""
    return model.marginal if score.reads == "energy" else model.energy


def fit_detector(
    model: Model, score: str = "energy", calibration: Tensor | None = None
) -> Detector:
    """Fit a detector of a run to its training points, calibrated on its calibration part or on
    points (N, *event), which must not be those of training: see `check_unseen`.
    """
    how = get_outlier_score(score)
    if calibration is None:
        calibration = model.data.calibration.x
    else:
        check_unseen(model, calibration)
    energy = energy_for(model, how)
    if not how.needs_reference:
        return Detector(energy, how).fit(calibration)
    known = model.data.train.take(slice(MAX_REFERENCE))
    return Detector(energy, how).fit(calibration, reference=known.x, labels=known.y)


def check_unseen(model: Model, *points: Tensor) -> None:
    """Raise RunError if calibration points were trained on; warn if a few were.

    points: (N, *event), in one or several forms of which the first that is known counts. A run
    keeps hashes of its training points. Data of few values repeat themselves: as large a share as
    of the run's own calibration part is no surprise.
    """
    known = read_hashes(model.run)
    if known is None or not isinstance(points[0], Tensor) or not len(points[0]):
        return
    forms = [x for x in points if x[:1].numel() == known.center.numel()]
    seen = max((int(known.find(x).sum()) for x in forms), default=0)
    repeated, held = known.chance.tolist()
    count = len(points[0])
    usual = (repeated + 1) / (held + 1)
    surprising = seen - count * usual
    if seen == 0 or (surprising <= 3 * (count * usual) ** 0.5 and repeated):
        return
    if surprising > max(0.02 * count, 3 * (count * usual) ** 0.5):
        raise RunError(
            f"{seen} of {count} calibration points were trained on; an energy is lower there, so "
            "the promised rate of false alarms would not hold; bring points that training has not "
            "seen, or leave them out for the calibration part of the run"
        )
    warnings.warn(
        f"{seen} of {count} calibration points were trained on; the promised rate of false alarms "
        "is for points that training has not seen: leave them out",
        stacklevel=3,
    )


def describe_promises(detector: Detector, delta: float = 0.05) -> str:
    """Describe how many calibration points a detector has, and the least rates they can promise."""
    n = detector.calibration_size
    rates = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
    sure = [a for a in rates if calibration_size(a, "training-conditional", delta) <= n]
    least = f"from {sure[0]:g}" if sure else "none"
    return (
        f"{n} calibration points: promises from {1 / (n + 1):.3g} on average over calibration "
        f"sets, {least} for {1 - delta:.0%} of them"
    )
