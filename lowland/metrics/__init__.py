"""Pure functions from tensors to estimates, each with its standard error where one is known."""

from lowland.metrics.calibration import AlarmRate, Reliability, false_alarms, p_values, reliability
from lowland.metrics.certificate import Direction, LogZ, bennett
from lowland.metrics.detection import aupr, auroc, energy_gap, fpr95
from lowland.metrics.estimate import Estimate, mean, share
from lowland.metrics.likelihood import BitsPerDim, Likelihood, bits_per_dim, dequantised, log_likelihood
from lowland.metrics.mcmc import autocorrelation, ess, mcse, rhat
from lowland.metrics.normaliser import log_z
from lowland.metrics.samples import (
    Coverage,
    class_entropy,
    frechet_distance,
    mmd,
    nearest,
    precision_recall,
    psnr,
    two_sample_accuracy,
)
from lowland.metrics.stein import ksd
from lowland.metrics.traces import Summary, summary

__all__ = [
    "AlarmRate",
    "BitsPerDim",
    "Coverage",
    "Direction",
    "Estimate",
    "Likelihood",
    "LogZ",
    "Reliability",
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
    "ksd",
    "log_likelihood",
    "log_z",
    "mcse",
    "mean",
    "mmd",
    "nearest",
    "p_values",
    "precision_recall",
    "psnr",
    "reliability",
    "rhat",
    "share",
    "summary",
    "two_sample_accuracy",
]
