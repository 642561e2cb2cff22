"""Thresholds with a guarantee: conformal p-values and the false-alarm rates they promise.

If n calibration points and a new point are exchangeable (nothing was trained on the calibration points), then

    p = (1 + #{i : E_i ≥ E(x)}) / (n + 1)        satisfies        P(p ≤ α) ≤ α

whatever the energy is. Source: Vovk, Gammerman & Shafer (2005), https://doi.org/10.1007/b106715

And of classifiers: whether what they call 90 % sure is right nine times in ten (`reliability`).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lowland.energy import check_finite


def p_values(calibration: Tensor, energies: Tensor) -> Tensor:
    """Conformal p-values (M,) in float64 of energies (M,) against calibration energies (N,).

    >>> p_values(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.5, 9.0])).tolist()
    [0.5, 0.25]
    """
    check_finite(calibration, "calibration energies")
    check_finite(energies, "energies")
    ordered = calibration.detach().cpu().double().sort().values
    at_least = len(ordered) - torch.searchsorted(ordered, energies.detach().cpu().double(), right=False)
    return (1 + at_least).double() / (len(ordered) + 1)


class AlarmRate(NamedTuple):
    """Share of points called outliers at a nominal rate, and the 95 % interval in which a sound detector's share lies."""

    nominal: float
    value: float
    low: float
    high: float
    points: int

    @property
    def sound(self) -> bool:
        """Whether the share lies in the interval."""
        return self.low <= self.value <= self.high


def false_alarms(p: Tensor, nominal: float, calibration: int | None = None) -> AlarmRate:
    """The false-alarm rate of p-values (M,) of true inliers at a nominal rate.

    The interval is the central 95 % of the share's law if p ≤ nominal happens with probability ⌊nominal (n+1)⌋ / (n+1)
    for each point: binomial, or beta-binomial when the number of calibration points n is passed, because all test
    points share one calibration set.
    """
    from scipy.stats import betabinom, binom

    if not 0 < nominal < 1 or len(p) == 0:
        raise ValueError(f"nominal is {nominal} over {len(p)} points; a rate in (0, 1) and points are needed; pass them")
    check_finite(p, "p-values")
    alarms, count = int((p <= nominal).sum()), len(p)
    law = binom(count, nominal)
    if calibration is not None:
        called = int(nominal * (calibration + 1) + 1e-9)  # ranks that raise an alarm
        if called == 0:
            return AlarmRate(nominal, alarms / count, 0.0, 0.0, count)
        law = betabinom(count, called, calibration + 1 - called)
    low, high = law.ppf(0.025), law.ppf(0.975)
    return AlarmRate(nominal, alarms / count, float(low) / count, float(high) / count, count)


class Reliability(NamedTuple):
    """Expected calibration error, and per bin of confidence: the mean confidence and accuracy (0 if empty) and the count."""

    error: float
    confidence: Tensor
    accuracy: Tensor
    counts: Tensor


def reliability(probabilities: Tensor, labels: Tensor, bins: int = 15) -> Reliability:
    """How far confidence is from accuracy, over `bins` bins of equal width of the confidence c = max_k p_k.

        ECE = Σ_b (n_b / n) |mean accuracy in b − mean confidence in b|

    It is never negative, so a perfect classifier scores above 0 on few points: about Σ_b √(2 n_b p_b (1 − p_b) / π) / n.
    probabilities: (N, K), rows that add up to 1; labels: (N,). A confidence on an edge belongs to the bin below it.
    Raises ValueError if they do not match or are no probabilities.
    Source: Guo et al. (2017), https://arxiv.org/abs/1706.04599

    >>> p = torch.tensor([[0.75, 0.25], [0.75, 0.25], [0.25, 0.75], [0.25, 0.75]])
    >>> reliability(p, torch.tensor([0, 0, 1, 0])).error, reliability(p, torch.tensor([0, 0, 1, 1])).error
    (0.0, 0.25)
    """
    p = probabilities.detach().double()
    if p.dim() != 2 or labels.shape != (len(p),) or len(p) == 0 or bins < 1:
        raise ValueError(
            f"probabilities {tuple(p.shape)}, labels {tuple(labels.shape)} and {bins} bins were given; one row of "
            f"probabilities per label and a bin are needed; pass softmax(-class_energies) and the true labels"
        )
    if not bool((p >= 0).all() and ((p.sum(1) - 1).abs() < 1e-4).all()):
        raise ValueError("some rows are no probabilities; they must be at least 0 and add up to 1; pass the softmax of logits")
    sure, called = p.max(1)
    place = (torch.ceil(sure * bins).long() - 1).clamp(0, bins - 1)
    counts = torch.bincount(place, minlength=bins)
    total = counts.clamp_min(1).double()
    confidence = torch.bincount(place, sure, minlength=bins) / total
    accuracy = torch.bincount(place, (called == labels).double(), minlength=bins) / total
    error = float((counts.double() / len(p) * (accuracy - confidence).abs()).sum())
    return Reliability(error, confidence, accuracy, counts)
