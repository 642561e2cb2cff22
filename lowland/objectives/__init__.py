"""Objectives compare data with samples. One file per origin of the negatives."""

from lowland.objectives.contrastive import CD, PCD, Loss, ShortRunML, contrast
from lowland.objectives.score import DSM
from lowland.objectives.wake_sleep import WakeSleep

__all__ = ["CD", "DSM", "PCD", "Loss", "ShortRunML", "WakeSleep", "contrast"]
