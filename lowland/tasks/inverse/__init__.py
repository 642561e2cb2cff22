"""Restore what was measured badly: operators, likelihoods, posterior draws, MAP estimates."""

from lowland.tasks.inverse.map import MAPEstimate, map_estimate
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
from lowland.tasks.inverse.posterior import ClampedEnergy, Likelihood, Restoration
from lowland.tasks.inverse.restore import importance_resample, restore
from lowland.tasks.inverse.split_gibbs import split_gibbs_sample

__all__ = [
    "BlockAverage",
    "Blur",
    "ClampedEnergy",
    "Composed",
    "Fourier",
    "Identity",
    "Likelihood",
    "Linear",
    "MAPEstimate",
    "Mask",
    "Operator",
    "Projection",
    "Restoration",
    "Stride",
    "importance_resample",
    "map_estimate",
    "restore",
    "split_gibbs_sample",
]
