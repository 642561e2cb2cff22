"""Objectives compare data with samples. One file per origin of the negatives."""

from lowland.objectives.contrastive import CD, PCD, Loss, ShortRunML, contrast
from lowland.objectives.score import DSM

__all__ = ["CD", "DSM", "PCD", "Loss", "ShortRunML", "contrast"]
