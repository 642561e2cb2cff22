"""Tasks: detection, restoration, composition, purification and sampling with a trained energy."""

from lowland.tasks.composition.compose import (
    Constant,
    EnergyStats,
    anneal_composed,
    compose,
    default_sampler,
    energy_stats,
    sample_composed,
    soft_not,
)
from lowland.tasks.composition.conditional import conditional_sample
from lowland.tasks.composition.edit import EditResult, Interpolation, edit, interpolate
from lowland.tasks.composition.guidance import DenoisedGuidance, LabelGuidance
from lowland.tasks.detection import OUTLIER_SCORES, Detector
from lowland.tasks.generate import (
    Samples,
    balanced_labels,
    bind_smallest_sigma,
    generate,
    generate_by_flow,
    generate_from_recipe,
    noise_levels,
)
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
from lowland.tasks.purify import PurifiedClassifier, as_classifier, purify

__all__ = [
    "OUTLIER_SCORES",
    "BlockAverage",
    "Blur",
    "ClampedEnergy",
    "Composed",
    "Constant",
    "DenoisedGuidance",
    "Detector",
    "EditResult",
    "EnergyStats",
    "Fourier",
    "Identity",
    "Interpolation",
    "LabelGuidance",
    "Likelihood",
    "Linear",
    "MAPEstimate",
    "Mask",
    "Operator",
    "Projection",
    "PurifiedClassifier",
    "Restoration",
    "Samples",
    "Stride",
    "anneal_composed",
    "as_classifier",
    "balanced_labels",
    "bind_smallest_sigma",
    "compose",
    "conditional_sample",
    "default_sampler",
    "edit",
    "energy_stats",
    "generate",
    "generate_by_flow",
    "generate_from_recipe",
    "importance_resample",
    "interpolate",
    "map_estimate",
    "noise_levels",
    "purify",
    "restore",
    "sample_composed",
    "soft_not",
    "split_gibbs_sample",
]
