"""Rank metrics of detectors: how well energies tell outliers from inliers.

All take energies of inliers and outliers, (N,) and (M,), low meaning likely, and call high-energy points outliers. Ranks are
exact: float64, ties counted half, no squashing of energies into [0, 1]. Non-finite energies are refused, not ranked.
"""

import math

import torch
from torch import Tensor

from lowland.energy import check_finite
from lowland.metrics.estimate import Estimate, mean, share


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


def aupr(inliers: Tensor, outliers: Tensor) -> Estimate:
    """Average precision with outliers as positives, Σ (R_k − R_{k−1}) P_k over distinct thresholds; no interpolation.

    The error is that of a logit interval, √(p (1 − p) / M), which ignores the inliers' share of it.
    Source: Boyd, Eng & Page (2013), https://doi.org/10.1007/978-3-642-40994-3_29
    """
    low, high = _checked(inliers, outliers)
    values = torch.cat([high, low])
    positive = torch.cat([torch.ones_like(high), torch.zeros_like(low)])
    order = values.argsort(descending=True)
    values, positive = values[order], positive[order]
    last = torch.ones(len(values), dtype=torch.bool)
    last[:-1] = values[1:] != values[:-1]  # the last of each group of ties
    hits = positive.cumsum(0)[last]
    called = torch.arange(1, len(values) + 1, dtype=torch.float64)[last]
    recall = hits / len(high)
    step = torch.diff(recall, prepend=recall.new_zeros(1))
    value = (step * hits / called).sum().item()
    return Estimate(value, math.sqrt(max(value * (1 - value), 0.0) / len(high)))


def fpr95(inliers: Tensor, outliers: Tensor) -> Estimate:
    """Share of outliers that pass as inliers at the threshold that lets at least 95 % of the inliers pass.

    (In the literature's words: inliers are the positives, and this is the false positive rate at 95 % recall.)
    """
    low, high = _checked(inliers, outliers)
    threshold = low.sort().values[math.ceil(0.95 * len(low)) - 1]
    return share(int((high <= threshold).sum()), len(high))


def energy_gap(inliers: Tensor, others: Tensor) -> Estimate:
    """mean E(others) − mean E(inliers), with the standard error of the difference."""
    low, high = _checked(inliers, others)
    a, b = mean(low), mean(high)
    return Estimate(b.value - a.value, math.hypot(a.error, b.error))


def _placements(reference: Tensor, values: Tensor) -> Tensor:
    """For each value the share of the reference below it, ties counted half."""
    ordered = reference.sort().values
    left = torch.searchsorted(ordered, values, right=False)
    right = torch.searchsorted(ordered, values, right=True)
    return (left + right).double() / (2 * len(reference))


def _checked(inliers: Tensor, outliers: Tensor) -> tuple[Tensor, Tensor]:
    for name, values in (("inlier energies", inliers), ("outlier energies", outliers)):
        if values.dim() != 1 or len(values) == 0:
            raise ValueError(f"{name} have shape {tuple(values.shape)}; a non-empty vector (N,) is needed; flatten them")
        check_finite(values, name)
    return inliers.detach().cpu().double(), outliers.detach().cpu().double()
