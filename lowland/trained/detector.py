"""Detectors of outliers that read the energy of a trained run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from lowland.energy import Energy
from lowland.metrics import calibration_size
from lowland.tasks import Detector
from lowland.tasks.detection.registry import get_outlier_score
from lowland.tasks.detection.scores import OutlierScore

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
    points (N, *event).
    """
    how = get_outlier_score(score)
    if calibration is None:
        calibration = model.data.calibration.x
    energy = energy_for(model, how)
    if not how.needs_reference:
        return Detector(energy, how).fit(calibration)
    known = model.data.train.take(slice(MAX_REFERENCE))
    return Detector(energy, how).fit(calibration, reference=known.x, labels=known.y)


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
