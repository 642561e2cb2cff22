"""What people came for, with no training inside."""

from lowland.tasks.composition.compose import (
    Level,
    Scale,
    anneal_composed,
    bounded,
    compose,
    corrected,
    sample_composed,
    scale_of,
)
from lowland.tasks.composition.edit import Edited, Interpolation, edit, interpolate
from lowland.tasks.composition.guidance import Attribute, Cleaned
from lowland.tasks.composition.predict import predict
from lowland.tasks.detection.detector import SCORES, Detector
from lowland.tasks.follow import follow, noise_levels
from lowland.tasks.generate import Generated, bind_noise, even_labels, flow, generate, jump
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
from lowland.tasks.purify import Purified, logits_of, purify

__all__ = [
    "SCORES",
    "Attribute",
    "BlockAverage",
    "Blur",
    "Cleaned",
    "Composed",
    "Detector",
    "Edited",
    "Fourier",
    "Generated",
    "Hidden",
    "Identity",
    "Interpolation",
    "Level",
    "Likelihood",
    "Linear",
    "Mask",
    "Operator",
    "Peak",
    "Projection",
    "Purified",
    "Restoration",
    "Scale",
    "Stride",
    "anneal_composed",
    "bind_noise",
    "bounded",
    "clean_draws",
    "compose",
    "corrected",
    "edit",
    "even_labels",
    "flow",
    "follow",
    "generate",
    "interpolate",
    "jump",
    "logits_of",
    "most_likely",
    "noise_levels",
    "predict",
    "progressive",
    "purify",
    "resample",
    "restore",
    "sample_composed",
    "scale_of",
]
