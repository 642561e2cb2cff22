"""What people came for, with no training inside."""

from lowland.tasks.compose import compose, scale_of
from lowland.tasks.detect import Detector
from lowland.tasks.follow import follow, noise_levels
from lowland.tasks.generate import Generated, bind_noise, even_labels, flow, generate, jump
from lowland.tasks.restore import Identity, Likelihood, Mask, Restoration, resample, restore

__all__ = [
    "Detector",
    "Generated",
    "Identity",
    "Likelihood",
    "Mask",
    "Restoration",
    "bind_noise",
    "compose",
    "even_labels",
    "flow",
    "follow",
    "generate",
    "jump",
    "noise_levels",
    "resample",
    "restore",
    "scale_of",
]
