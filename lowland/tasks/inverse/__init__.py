"""Restore what was measured badly: operators, likelihoods, posterior draws, MAP estimates."""

from lowland.tasks.inverse.map import Peak, most_likely
from lowland.tasks.inverse.operators import (
    BlockAverage,
    Blur,
    Composed,
    Fourier,
    Identity,
    Linear,
    Mask,
    Operator,
    Projection,
    Stride,
)
from lowland.tasks.inverse.posterior import Hidden, Likelihood, Restoration
from lowland.tasks.inverse.progressive import clean_draws, progressive
from lowland.tasks.inverse.restore import resample, restore

__all__ = [
    "BlockAverage",
    "Blur",
    "Composed",
    "Fourier",
    "Hidden",
    "Identity",
    "Likelihood",
    "Linear",
    "Mask",
    "Operator",
    "Peak",
    "Projection",
    "Restoration",
    "Stride",
    "clean_draws",
    "most_likely",
    "progressive",
    "resample",
    "restore",
]
