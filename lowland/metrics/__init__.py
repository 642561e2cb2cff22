"""Pure functions from tensors to estimates, each with its standard error where one is known."""

from lowland.metrics.calibration import (
    GUARANTEES,
    AlarmRate,
    Reliability,
    alarm_ranks,
    benjamini_hochberg,
    calibration_size,
    false_alarms,
    p_values,
    reliability,
)
from lowland.metrics.detection import (
    Interval,
    Separation,
    aupr,
    auroc,
    detection_error,
    energy_gap,
    fpr95,
    separation,
)
from lowland.metrics.estimate import Estimate, mean, share
from lowland.metrics.images import psnr, ssim
from lowland.metrics.likelihood import (
    BitsPerDim,
    LogLikelihood,
    bits_per_dim,
    dequantise,
    log_likelihood,
)
from lowland.metrics.log_z.bracket import log_z
from lowland.metrics.log_z.certificate import Direction, LogZ, bennett
from lowland.metrics.mcmc import autocorrelation, ess, mcse, rhat
from lowland.metrics.samples import (
    Coverage,
    class_entropy,
    frechet_distance,
    mmd,
    nearest,
    precision_recall,
    two_sample_accuracy,
)
from lowland.metrics.stein import ksd
from lowland.metrics.traces import Summary, summary

__all__ = [
    "GUARANTEES",
    "AlarmRate",
    "BitsPerDim",
    "Coverage",
    "Direction",
    "Estimate",
    "Interval",
    "LogLikelihood",
    "LogZ",
    "Reliability",
    "Separation",
    "Summary",
    "alarm_ranks",
    "aupr",
    "auroc",
    "autocorrelation",
    "benjamini_hochberg",
    "bennett",
    "bits_per_dim",
    "calibration_size",
    "class_entropy",
    "dequantise",
    "detection_error",
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
    "separation",
    "share",
    "ssim",
    "summary",
    "two_sample_accuracy",
]
