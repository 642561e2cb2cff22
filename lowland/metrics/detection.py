"""Rank metrics of detectors: how well energies tell outliers from inliers.

All take energies of inliers and outliers, (N,) and (M,), low meaning likely, and call high-energy
points outliers. Ranks are exact: float64, ties counted half, no squashing of energies into [0, 1].
Non-finite energies are refused, not ranked.

Every metric is a function of two tables of counts: how many inliers and how many outliers stand at
each distinct energy. A bootstrap draw changes the counts and not the energies, so one
implementation gives the value and its interval (`separation`).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lowland.energy import check_finite
from lowland.metrics.estimate import Estimate, mean, share

AT_ONCE = 4_000_000  # numbers of a bootstrap held together


class Interval(NamedTuple):
    """A number and the interval that holds it at the level asked for. Prints as `0.913 [0.905,
    0.921]`.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def to_dict(self) -> dict[str, float]:
        """{"value", "low", "high"} for JSON."""
        return {"value": self.value, "low": self.low, "high": self.high}


class Separation(NamedTuple):
    """How far outliers stand from inliers. base_rate: the share of outliers, which both AUPRs
    depend on.
    """

    auroc: Interval
    aupr_outliers: Interval
    aupr_inliers: Interval
    fpr95: Interval
    detection_error: Interval
    base_rate: float

    def to_dict(self) -> dict[str, dict[str, float] | float]:
        """Plain values for JSON."""
        return {
            name: value.to_dict() if isinstance(value, Interval) else value
            for name, value in self._asdict().items()
        }


def auroc(inliers: Tensor, outliers: Tensor) -> Estimate:
    """P(E_out > E_in) + ½ P(E_out = E_in), with DeLong's standard error.

    Source: DeLong, DeLong & Clarke-Pearson (1988), https://doi.org/10.2307/2531595

    >>> auroc(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0])).value
    0.875
    """
    low, high = _checked(inliers, outliers)
    above = _placements(low, high)  # per outlier: share of inliers below
    below = 1 - _placements(high, low)  # per inlier: share of outliers above
    variance = sum(v.var().item() / len(v) if len(v) > 1 else math.inf for v in (above, below))
    return Estimate(above.mean().item(), math.sqrt(variance))


def aupr(inliers: Tensor, outliers: Tensor, *, positive: str = "outliers") -> Estimate:
    """Average precision, Σ (R_k − R_{k−1}) P_k over distinct thresholds; no interpolation. Guessing
    gives the base rate.

    positive: "outliers", called at high energies, or "inliers", called at low ones. Its base rate
    is the share of the positives, so a number without the two counts says nothing. The error is
    that of a logit interval, √(p (1 − p) / M) of M positives, which ignores the other side's share
    of it. Raises ValueError for other positives. Source: Boyd, Eng & Page (2013),
    https://doi.org/10.1007/978-3-642-40994-3_29

    >>> aupr(torch.zeros(3), torch.zeros(1)).value, aupr(torch.zeros(3), torch.zeros(1), positive="inliers").value
    (0.25, 0.75)
    """
    if positive not in ("outliers", "inliers"):
        raise ValueError(
            f"positive is {positive!r}; it is 'outliers' or 'inliers'; choose whose precision is "
            "averaged"
        )
    metric = _aupr_outliers if positive == "outliers" else _aupr_inliers
    value = _value(metric, inliers, outliers)
    return Estimate(
        value,
        math.sqrt(
            max(value * (1 - value), 0.0) / len(outliers if positive == "outliers" else inliers)
        ),
    )


def fpr95(inliers: Tensor, outliers: Tensor) -> Estimate:
    """Share of outliers that pass as inliers at the threshold that lets at least 95 % of the
    inliers pass.

    (In the literature's words: inliers are the positives, and this is the false positive rate at 95
    % recall.)
    """
    value = _value(_fpr95, inliers, outliers)
    return share(round(value * len(outliers)), len(outliers))


def detection_error(inliers: Tensor, outliers: Tensor) -> Estimate:
    """min over thresholds t of ½ P(E_in > t) + ½ P(E_out ≤ t): how often the best threshold errs
    where both are as frequent.

    The threshold is the best for these very points, so few of them flatter. The error is binomial,
    at that threshold. Source: Liang, Li & Srikant (2018), https://arxiv.org/abs/1706.02690

    >>> detection_error(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0])).value
    0.25
    """
    low, high = _counts(*_checked(inliers, outliers))
    apart = low.cumsum(1) / low.sum(1) - high.cumsum(1) / high.sum(1)
    best = int(apart.argmax())
    false, missed = 1 - low[0, : best + 1].sum() / low.sum(), high[0, : best + 1].sum() / high.sum()
    variance = false * (1 - false) / low.sum() + missed * (1 - missed) / high.sum()
    return Estimate(float(_detection_error(low, high)), math.sqrt(float(variance)) / 2)


def separation(
    inliers: Tensor,
    outliers: Tensor,
    *,
    generator: torch.Generator,
    draws: int = 1000,
    level: float = 0.95,
) -> Separation:
    """All rank metrics with bootstrap intervals: inliers and outliers are drawn anew, each from
    their own, with replacement.

    The interval runs from the (1 − level)/2 to the (1 + level)/2 quantile of the draws. Where no
    outlier lies among the inliers every draw says 1, and so does the interval: it knows these
    points and no others. Raises ValueError for energies that are empty or not finite, fewer than 2
    draws, or a level outside (0, 1). Source: Efron & Tibshirani (1993),
    https://doi.org/10.1201/9780429246593

    >>> g = torch.Generator().manual_seed(0)
    >>> found = separation(torch.randn(200, generator=g), 1 + torch.randn(100, generator=g), generator=g)
    >>> print(found.auroc, round(found.base_rate, 3))
    0.779 [0.722, 0.833] 0.333
    """
    if draws < 2 or not 0 < level < 1:
        raise ValueError(
            f"{draws} draws and level {level} were asked for; at least 2 and a share in (0, 1) "
            "are; correct them"
        )
    low, high = _checked(inliers, outliers)
    place = torch.unique(torch.cat([low, high]), return_inverse=True)[1]
    sides, groups = (place[: len(low)], place[len(low) :]), int(place.max()) + 1
    found: dict[str, list[Tensor]] = {name: [] for name in METRICS}
    size = max(AT_ONCE // len(place), 1)
    for start in range(0, draws, size):
        many = min(size, draws - start)
        tables = [
            _tally(side[torch.randint(len(side), (many, len(side)), generator=generator)], groups)
            for side in sides
        ]
        for name, metric in METRICS.items():
            found[name].append(metric(*tables))
    exact = [_tally(side.unsqueeze(0), groups) for side in sides]
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    ends = {name: torch.quantile(torch.cat(parts), tails).tolist() for name, parts in found.items()}
    intervals: Any = {
        name: Interval(float(metric(*exact)), *ends[name]) for name, metric in METRICS.items()
    }
    return Separation(**intervals, base_rate=len(high) / len(place))


def energy_gap(inliers: Tensor, others: Tensor) -> Estimate:
    """mean E(others) − mean E(inliers), with the standard error of the difference."""
    low, high = _checked(inliers, others)
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
    """Σ (R_k − R_{k−1}) P_k where those in front are called first."""
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


METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "auroc": _auroc,
    "aupr_outliers": _aupr_outliers,
    "aupr_inliers": _aupr_inliers,
    "fpr95": _fpr95,
    "detection_error": _detection_error,
}


def _tally(places: Tensor, groups: int) -> Tensor:
    """How often each of the groups is named in every row of places (draws, N): (draws, groups)."""
    counts = torch.zeros(len(places), groups, dtype=torch.float64)
    return counts.scatter_add_(1, places, torch.ones(places.shape, dtype=torch.float64))


def _counts(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    place = torch.unique(torch.cat([low, high]), return_inverse=True)[1]
    groups = int(place.max()) + 1
    return _tally(place[: len(low)].unsqueeze(0), groups), _tally(
        place[len(low) :].unsqueeze(0), groups
    )


def _value(metric: Callable[[Tensor, Tensor], Tensor], inliers: Tensor, outliers: Tensor) -> float:
    return float(metric(*_counts(*_checked(inliers, outliers))))


def _placements(reference: Tensor, values: Tensor) -> Tensor:
    """For each value the share of the reference below it, ties counted half."""
    ordered = reference.sort().values
    left = torch.searchsorted(ordered, values, right=False)
    right = torch.searchsorted(ordered, values, right=True)
    return (left + right).double() / (2 * len(reference))


def _checked(inliers: Tensor, outliers: Tensor) -> tuple[Tensor, Tensor]:
    for name, values in (("inlier energies", inliers), ("outlier energies", outliers)):
        if values.dim() != 1 or len(values) == 0:
            raise ValueError(
                f"{name} have shape {tuple(values.shape)}; a non-empty vector (N,) is needed; "
                "flatten them"
            )
        check_finite(values, name)
    return inliers.detach().cpu().double(), outliers.detach().cpu().double()
