"""Outlier detection with an energy: outlier scores, and verdicts with a guarantee."""

from lowland.tasks.detection.detector import Detector
from lowland.tasks.detection.registry import OUTLIER_SCORES
from lowland.tasks.detection.scores import OutlierScore

__all__ = ["OUTLIER_SCORES", "Detector", "OutlierScore"]
