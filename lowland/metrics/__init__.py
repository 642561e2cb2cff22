"""Pure functions from tensors to estimates, each with its standard error where one is known."""

from lowland.metrics.calibration import AlarmRate, false_alarms, p_values
from lowland.metrics.certificate import Direction, LogZ, bennett
from lowland.metrics.detection import aupr, auroc, energy_gap, fpr95
from lowland.metrics.estimate import Estimate, mean, share
from lowland.metrics.likelihood import BitsPerDim, Likelihood, bits_per_dim, dequantised, log_likelihood
from lowland.metrics.mcmc import autocorrelation, ess, mcse, rhat
from lowland.metrics.normaliser import log_z
from lowland.metrics.samples import class_entropy, frechet_distance, mmd, nearest, psnr
from lowland.metrics.traces import Summary, summary

__all__ = [
    "AlarmRate",
    "BitsPerDim",
    "Direction",
    "Estimate",
    "Likelihood",
    "LogZ",
    "Summary",
    "aupr",
    "auroc",
    "autocorrelation",
    "bennett",
    "bits_per_dim",
    "class_entropy",
    "dequantised",
    "energy_gap",
    "ess",
    "false_alarms",
    "fpr95",
    "frechet_distance",
    "log_likelihood",
    "log_z",
    "mcse",
    "mean",
    "mmd",
    "nearest",
    "p_values",
    "psnr",
    "rhat",
    "share",
    "summary",
]
