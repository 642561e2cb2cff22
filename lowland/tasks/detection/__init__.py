"""Detect outliers with an energy: scores and verdicts with a guarantee."""

from lowland.tasks.detection.detector import OUTLIER_SCORES, Detector

__all__ = ["OUTLIER_SCORES", "Detector"]
