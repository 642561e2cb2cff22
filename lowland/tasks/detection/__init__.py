"""Detect outliers with an energy: scores and verdicts with a guarantee."""

from lowland.tasks.detection.detector import SCORES, Detector

__all__ = ["SCORES", "Detector"]
