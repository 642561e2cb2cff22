"""Rank metrics of detectors, from energies of inliers (N,) and outliers (M,); low means likely.

Ranks are exact: float64, ties counted half. Non-finite energies are refused. Every metric is a
function of two tables: how many inliers and how many outliers have each distinct energy. A
bootstrap draw changes the counts alone, so one implementation gives value and interval.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lowland.metrics.estimate import Estimate, mean, share
from lowland.metrics.inputs import Numbers, draw_rows, read_vector
from lowland.scalars import read_integer, read_number

MAX_BOOTSTRAP_SIZE = 4_000_000  # numbers of a bootstrap in memory at once
Metric = Callable[[Tensor, Tensor], Tensor]


class Interval(NamedTuple):
    """A number with its confidence interval. Prints as `0.913 [0.905, 0.921]`."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def to_dict(self) -> dict[str, float]:
        """Return {"value", "low", "high"} for JSON."""
        return self._asdict()


class Separation(NamedTuple):
    """Rank metrics of one detector. base_rate: the share of outliers, on which AUPRs depend."""

    auroc: Interval
    aupr_outliers: Interval
    aupr_inliers: Interval
    fpr95: Interval
    detection_error: Interval
    base_rate: float

    def to_dict(self) -> dict[str, dict[str, float] | float]:
        """Return plain values for JSON."""
        intervals = {name: getattr(self, name).to_dict() for name in RANK_METRICS}
        return intervals | {"base_rate": self.base_rate}


def auroc(inliers: Numbers, outliers: Numbers) -> Estimate:
    """Return P(E_out > E_in) + ½ P(E_out = E_in), with DeLong's standard error.

    Source: DeLong, DeLong & Clarke-Pearson (1988), https://doi.org/10.2307/2531595

    >>> auroc(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0])).value
    0.875
    """
    low, high = _check_energies(inliers, outliers)
    above = _placements(low, high)  # per outlier: share of inliers below
    below = 1 - _placements(high, low)  # per inlier: share of outliers above
    variance = sum(v.var().item() / len(v) if len(v) > 1 else math.inf for v in (above, below))
    return Estimate(above.mean().item(), math.sqrt(variance))


def aupr(inliers: Numbers, outliers: Numbers, *, positive: str = "outliers") -> Estimate:
    """Return the average precision, Σ (R_k − R_{k−1}) P_k over distinct thresholds.

    positive: "outliers", called at high energies, or "inliers", called at low ones. Guessing gives
    the base rate, the share of the positives. The error is that of a logit interval,
    √(p (1 − p) / M) of M positives, without the other side's part. Raises ValueError for other
    positives. Source: Boyd, Eng & Page (2013), https://doi.org/10.1007/978-3-642-40994-3_29

    >>> aupr(torch.zeros(3), torch.zeros(1)).value
    0.25
    """
    if positive not in ("outliers", "inliers"):
        raise ValueError(
            f"positive is {positive!r}; it is 'outliers' or 'inliers'; choose whose precision is "
            "averaged"
        )
    metric = _aupr_outliers if positive == "outliers" else _aupr_inliers
    low, high = _check_energies(inliers, outliers)
    value = float(metric(*_counts(low, high)))
    count = len(high) if positive == "outliers" else len(low)
    return Estimate(value, math.sqrt(max(value * (1 - value), 0.0) / count))


def fpr95(inliers: Numbers, outliers: Numbers) -> Estimate:
    """Return the share of outliers that pass where at least 95 % of the inliers pass.

    With inliers as positives, this is the false positive rate at 95 % recall.
    """
    low, high = _check_energies(inliers, outliers)
    value = float(_fpr95(*_counts(low, high)))
    return share(round(value * len(high)), len(high))


def detection_error(inliers: Numbers, outliers: Numbers) -> Estimate:
    """Return min over thresholds t of ½ P(E_in > t) + ½ P(E_out ≤ t).

    The threshold is the best for these very points, so few of them flatter. The error is binomial,
    at that threshold. Source: Liang, Li & Srikant (2018), https://arxiv.org/abs/1706.02690

    >>> detection_error(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0])).value
    0.25
    """
    low, high = _counts(*_check_energies(inliers, outliers))
    best = int((low.cumsum(1) / low.sum(1) - high.cumsum(1) / high.sum(1)).argmax())
    false, missed = 1 - low[0, : best + 1].sum() / low.sum(), high[0, : best + 1].sum() / high.sum()
    variance = false * (1 - false) / low.sum() + missed * (1 - missed) / high.sum()
    return Estimate(float(_detection_error(low, high)), math.sqrt(float(variance)) / 2)


def separation(
    inliers: Numbers,
    outliers: Numbers,
    *,
    generator: torch.Generator,
    draws: int = 1000,
    confidence: float = 0.95,
) -> Separation:
    """Compute all rank metrics with bootstrap intervals, resampling inliers and outliers apart.

    The interval lies between the (1 − confidence)/2 and (1 + confidence)/2 quantiles of the draws.
    Where no outlier lies among the inliers every draw says 1, and so does the interval. Raises
    ValueError for energies that are empty or not finite, fewer than 2 draws, or a confidence
    outside (0, 1). Source: Efron & Tibshirani (1993), https://doi.org/10.1201/9780429246593

    >>> g = torch.Generator().manual_seed(0)
    >>> low, high = torch.randn(200, generator=g), 1 + torch.randn(100, generator=g)
    >>> found = separation(low, high, generator=g)
    >>> print(found.auroc, round(found.base_rate, 3))
    0.779 [0.722, 0.833] 0.333
    """
    draws = read_integer("draws", draws, least=0)
    confidence = read_number("confidence", confidence)
    if draws < 2 or not 0 < confidence < 1:
        raise ValueError(
            f"{draws} draws and confidence {confidence} were asked for; at least 2 draws and a "
            "confidence in (0, 1) are needed; correct them"
        )
    low, high = _check_energies(inliers, outliers)
    sides, groups = _places(low, high)
    total = len(low) + len(high)
    found: dict[str, list[Tensor]] = {name: [] for name in RANK_METRICS}
    size = max(MAX_BOOTSTRAP_SIZE // total, 1)
    for start in range(0, draws, size):
        many = min(size, draws - start)
        tables = [
            _tally(side[draw_rows(len(side), (many, len(side)), generator, side.device)], groups)
            for side in sides
        ]
        for name, metric in RANK_METRICS.items():
            found[name].append(metric(*tables))
    exact = _counts(low, high)
    tails = torch.tensor([(1 - confidence) / 2, (1 + confidence) / 2], dtype=torch.float64)
    intervals = {
        name: Interval(
            float(metric(*exact)), *torch.quantile(torch.cat(found[name]), tails).tolist()
        )
        for name, metric in RANK_METRICS.items()
    }
    return Separation(**intervals, base_rate=len(high) / total)


def energy_gap(inliers: Numbers, others: Numbers) -> Estimate:
    """Return mean E(others) − mean E(inliers) with the standard error of the difference."""
    low, high = _check_energies(inliers, others)
    a, b = mean(low), mean(high)
    return Estimate(b.value - a.value, math.hypot(a.error, b.error))


# ---- of counts: inliers a and outliers b (draws, G) at each of G rising energies -----------------


def _auroc(a: Tensor, b: Tensor) -> Tensor:
    below = a.cumsum(1) - a / 2
    return (b * below).sum(1) / (a.sum(1) * b.sum(1))


def _aupr_outliers(a: Tensor, b: Tensor) -> Tensor:
    return _precision(a.flip(1), b.flip(1))


def _aupr_inliers(a: Tensor, b: Tensor) -> Tensor:
    return _precision(b, a)


def _precision(others: Tensor, positives: Tensor) -> Tensor:
    """Return Σ (R_k − R_{k−1}) P_k, points called in the order in which they stand."""
    hits = positives.cumsum(1)
    called = hits + others.cumsum(1)
    return (positives * hits / called.clamp_min(1)).sum(1) / positives.sum(1)


def _fpr95(a: Tensor, b: Tensor) -> Tensor:
    need = torch.ceil(0.95 * a.sum(1, keepdim=True) - 1e-9)
    threshold = (a.cumsum(1) < need).sum(1, keepdim=True)
    return (b.cumsum(1).gather(1, threshold) / b.sum(1, keepdim=True)).squeeze(1)


def _detection_error(a: Tensor, b: Tensor) -> Tensor:
    apart = a.cumsum(1) / a.sum(1, keepdim=True) - b.cumsum(1) / b.sum(1, keepdim=True)
    return (1 - apart.amax(1).clamp_min(0)) / 2


RANK_METRICS: dict[str, Metric] = {
    "auroc": _auroc,
    "aupr_outliers": _aupr_outliers,
    "aupr_inliers": _aupr_inliers,
    "fpr95": _fpr95,
    "detection_error": _detection_error,
}


def _tally(places: Tensor, groups: int) -> Tensor:
    """Count each of the groups in every row of places (draws, N): (draws, groups), float64."""
    counts = torch.zeros(len(places), groups, dtype=torch.float64)
    return counts.scatter_add_(1, places, torch.ones(places.shape, dtype=torch.float64))


def _places(low: Tensor, high: Tensor) -> tuple[tuple[Tensor, Tensor], int]:
    """Return the place of every energy among the distinct ones, by side, and their number."""
    place = torch.unique(torch.cat([low, high]), return_inverse=True)[1]
    return (place[: len(low)], place[len(low) :]), int(place.max()) + 1


def _counts(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    (inliers, outliers), groups = _places(low, high)
    return _tally(inliers.unsqueeze(0), groups), _tally(outliers.unsqueeze(0), groups)


def _placements(reference: Tensor, values: Tensor) -> Tensor:
    """Return for each value the share of the reference below it, ties counted half."""
    ordered = reference.sort().values
    left = torch.searchsorted(ordered, values, right=False)
    right = torch.searchsorted(ordered, values, right=True)
    return (left + right).double() / (2 * len(reference))


def _check_energies(inliers: Numbers, outliers: Numbers) -> tuple[Tensor, Tensor]:
    """Return both as contiguous float64 vectors on the CPU; refuse empty and non-finite ones."""
    return read_vector("inlier energies", inliers), read_vector("outlier energies", outliers)
