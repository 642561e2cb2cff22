"""What people came for, with no training inside."""

from lowland.tasks.compose import compose, scale_of
from lowland.tasks.detect import Detector
from lowland.tasks.follow import follow, noise_levels
from lowland.tasks.generate import Generated, bind_noise, even_labels, flow, generate, jump
from lowland.tasks.operators import BlockAverage, Blur, Composed, Fourier, Identity, Mask, Operator, Projection, Stride
from lowland.tasks.peak import Peak, most_likely
from lowland.tasks.restore import Likelihood, Restoration, resample, restore

__all__ = [
    "BlockAverage",
    "Blur",
    "Composed",
    "Detector",
    "Fourier",
    "Generated",
    "Identity",
    "Likelihood",
    "Mask",
    "Operator",
    "Peak",
    "Projection",
    "Restoration",
    "Stride",
    "bind_noise",
    "compose",
    "even_labels",
    "flow",
    "follow",
    "generate",
    "jump",
    "most_likely",
    "noise_levels",
    "resample",
    "restore",
    "scale_of",
]
