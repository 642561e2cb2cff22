"""What people came for, with no training inside."""

from lowland.tasks.compose import compose, scale_of
from lowland.tasks.detect import Detector
from lowland.tasks.restore import Identity, Mask, Restoration, likelihood, restore

__all__ = ["Detector", "Identity", "Mask", "Restoration", "compose", "likelihood", "restore", "scale_of"]
