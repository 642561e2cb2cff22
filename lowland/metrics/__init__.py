"""Pure functions from tensors to estimates, each with its standard error where one is known."""

from lowland.metrics.calibration import AlarmRate, false_alarms, p_values
from lowland.metrics.detection import aupr, auroc, energy_gap, fpr95
from lowland.metrics.estimate import Estimate, mean, share
from lowland.metrics.samples import class_entropy, frechet_distance, mmd, nearest, psnr

__all__ = [
    "AlarmRate",
    "Estimate",
    "aupr",
    "auroc",
    "class_entropy",
    "energy_gap",
    "false_alarms",
    "fpr95",
    "frechet_distance",
    "mean",
    "mmd",
    "nearest",
    "p_values",
    "psnr",
    "share",
]
