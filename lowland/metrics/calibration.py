"""Conformal p-values with the false-alarm rates they guarantee, and calibration of classifiers.

If n calibration points and a new point are exchangeable (nothing was trained on them), then

    p = (1 + #{i : E_i ≥ E(x)}) / (n + 1)        satisfies        P(p ≤ α) ≤ α

for every energy. Source: Vovk, Gammerman & Shafer (2005), https://doi.org/10.1007/b106715

That is a mean over calibration sets. With one set, calling outliers above the r-th largest of n
energies raises false alarms at a random rate, Beta(r, n + 1 − r) or smaller where there are ties.
Its mean is r / (n + 1): r = ⌊α (n + 1)⌋ is the guarantee "marginal". The largest r whose 1 − δ
quantile is at most α holds for all but a share δ of sets: "training-conditional". Source: Vovk
(2012), https://arxiv.org/abs/1209.2673

Over a batch, p-values that share a calibration set allow Benjamini and Hochberg's choice, "fdr": a
bound on the expected share of inliers among the points called outliers. Source: Bates et al.
(2023), https://arxiv.org/abs/2104.08279
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lowland.metrics.inputs import Numbers, read_labels, read_numbers, read_vector
from lowland.scalars import read_integer, read_number

NUMPY_PRECISIONS = {"float16": torch.float16, "float32": torch.float32}  # all else is float64


def p_values(calibration: Numbers, energies: Numbers) -> Tensor:
    """Return conformal p-values (M,), float64, of energies (M,) against calibration ones (N,).

    Where the two have different precisions, both are rounded to the lower one, so that equal
    energies are equal numbers and count as ties. Raises ValueError for what is not a vector of
    finite numbers.

    >>> p_values(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.5, 9.0])).tolist()
    [0.5, 0.25]
    """
    known = read_vector("calibration energies", calibration, least=0)
    new = read_vector("energies", energies, least=0)
    coarser = max(_precision(calibration), _precision(energies), key=lambda t: torch.finfo(t).eps)
    ordered = known.to(coarser).double().sort().values
    below = torch.searchsorted(ordered, new.to(coarser).double())
    return (1 + len(ordered) - below).double() / (len(ordered) + 1)


def _precision(values: Numbers) -> torch.dtype:
    """Return the floating dtype of numbers; whole ones and lists count as float64."""
    if not isinstance(values, Tensor):
        return NUMPY_PRECISIONS.get(str(np.asarray(values).dtype), torch.float64)
    return values.dtype if values.is_floating_point() else torch.float64


def read_rate(what: str, value: float) -> float:
    """Return a rate in (0, 1) as a plain float; a float32 0.01 means the decimal 0.01.

    Raises ValueError for text, booleans, NaN and numbers outside (0, 1).

    >>> read_rate("alpha", np.float32(0.01))
    0.01
    """
    try:
        rate = read_number(what, value)
    except ValueError:
        rate = math.nan
    if not isinstance(value, float):
        decimal = float(f"{rate:.6g}")
        same = torch.tensor([rate, decimal], dtype=torch.float32)
        rate = decimal if same[0] == same[1] else rate
    if not 0 < rate < 1:
        raise ValueError(
            f"{what} is {value!r}; a false-alarm rate lies in (0, 1), and so does the chance to "
            "miss it; 0.05 is common"
        )
    return rate


GUARANTEES = ("marginal", "training-conditional", "fdr")


def calibration_size(alpha: float, guarantee: str = "marginal", delta: float = 0.05) -> int:
    """Return the fewest calibration points with which a guarantee lets any outlier be called.

    1/α − 1 for "marginal", where the smallest p-value is 1/(n + 1), and log δ / log(1 − α) for
    "training-conditional". With "fdr", 1/α − 1 serves if all of a batch are outliers; to find one
    among m takes m/α − 1.

    >>> calibration_size(0.05), calibration_size(0.05, "training-conditional")
    (19, 59)
    """
    alpha, delta = _read_rates(alpha, guarantee, delta)
    if guarantee == "training-conditional":
        return math.ceil(math.log(delta) / math.log1p(-alpha) - 1e-9)
    return math.ceil(1 / alpha - 1e-9) - 1


def alarm_ranks(count: int, alpha: float, guarantee: str = "marginal", delta: float = 0.05) -> int:
    """Return r: x is called an outlier if fewer than r of n = count energies reach its own.

    marginal: r = ⌊α (n + 1)⌋; training-conditional: the largest r with
    BetaQuantile(1 − δ; r, n + 1 − r) ≤ α. The p-value is then at most r / (n + 1). Raises
    ValueError where r is 0, for rates outside (0, 1) and for another guarantee.

    >>> alarm_ranks(1000, 0.05), alarm_ranks(1000, 0.05, "training-conditional")
    (50, 39)
    """
    count = read_integer("count", count, least=0)
    alpha, delta = _read_rates(alpha, guarantee, delta)
    need = calibration_size(alpha, guarantee, delta)
    if count < need:
        sure = f" with probability {1 - delta:g}" if guarantee == "training-conditional" else ""
        raise ValueError(
            f"{count} calibration energies cannot promise a false-alarm rate of {alpha}{sure}; at "
            f"least {need} are needed; bring more points or raise the rate"
        )
    if guarantee != "training-conditional":
        return int(alpha * (count + 1) + 1e-9)
    from scipy.stats import beta

    low, high = 1, count + 1  # the quantile rises with r: low keeps the promise, high does not
    while high - low > 1:
        middle = (low + high) // 2
        keeps = middle <= count and beta.ppf(1 - delta, middle, count + 1 - middle) <= alpha
        low, high = (middle, high) if keeps else (low, middle)
    return low


def benjamini_hochberg(p: Numbers, alpha: float) -> Tensor:
    """Return bool (M,): the p-values of a batch up to the largest p_(k) ≤ α k / M.

    If the p-values are conformal with one calibration set and the points independent, the expected
    share of inliers among those called is at most α. Raises ValueError for α outside (0, 1) and
    p-values outside [0, 1]. Source: Benjamini & Hochberg (1995),
    https://doi.org/10.1111/j.2517-6161.1995.tb02031.x

    >>> benjamini_hochberg(torch.tensor([0.03, 0.5, 0.001, 0.9]), 0.1).tolist()
    [True, False, True, False]
    """
    alpha, p = read_rate("alpha", alpha), _read_p_values(p)
    if not len(p):
        return torch.zeros(0, dtype=torch.bool)
    ordered = p.sort().values
    allowed = alpha * torch.arange(1, len(p) + 1, dtype=torch.float64) / len(p)
    passing = ordered[ordered <= allowed * (1 + 1e-12)]
    return p <= max(passing.tolist(), default=-1.0)


def _read_p_values(p: Numbers) -> Tensor:
    """Return p-values (M,) in float64; refuse numbers outside [0, 1]."""
    values = read_vector("p-values", p, least=0)
    if bool(((values < 0) | (values > 1)).any()):
        raise ValueError(
            f"p-values reach from {values.min().item():g} to {values.max().item():g}; a vector "
            "(M,) in [0, 1] is needed; pass those of one batch"
        )
    return values


def _read_rates(alpha: float, guarantee: str, delta: float) -> tuple[float, float]:
    """Return both rates as plain numbers; refuse an unknown guarantee."""
    alpha, delta = read_rate("alpha", alpha), read_rate("delta", delta)
    if guarantee not in GUARANTEES:
        raise ValueError(
            f"guarantee is {guarantee!r}; it is {', '.join(GUARANTEES[:-1])} or {GUARANTEES[-1]}; "
            "choose one"
        )
    return alpha, delta


class AlarmRate(NamedTuple):
    """Share of inliers called outliers at rate alpha, and the 95 % interval of a sound detector."""

    alpha: float
    value: float
    low: float
    high: float
    points: int

    @property
    def sound(self) -> bool:
        """Return True if the share lies in the interval."""
        return self.low <= self.value <= self.high


def false_alarms(p: Numbers, alpha: float, calibration: int | None = None) -> AlarmRate:
    """Measure the false-alarm rate of p-values (M,) of true inliers at a nominal rate alpha.

    The interval is the central 95 % of the share's distribution: binomial, or, when the number n of
    calibration points is passed, beta-binomial, because all points share one calibration set and
    ⌊alpha (n + 1)⌋ of its n + 1 ranks raise an alarm.
    """
    from scipy.stats import betabinom, binom

    alpha, p = read_rate("alpha", alpha), _read_p_values(p)
    if len(p) == 0:
        raise ValueError(
            "no p-values came; a share needs some; pass those of the inliers, one for each"
        )
    if calibration is not None:
        calibration = read_integer("calibration", calibration, least=1)
    share, count = (p <= alpha).double().mean().item(), len(p)
    distribution = binom(count, alpha)
    if calibration is not None:
        ranks = int(alpha * (calibration + 1) + 1e-9)
        if ranks == 0:
            return AlarmRate(alpha, share, 0.0, 0.0, count)
        distribution = betabinom(count, ranks, calibration + 1 - ranks)
    low, high = (float(distribution.ppf(tail)) / count for tail in (0.025, 0.975))
    return AlarmRate(alpha, share, low, high, count)


class Reliability(NamedTuple):
    """Expected calibration error; mean confidence and accuracy (0 if empty) and count per bin."""

    error: float
    confidence: Tensor
    accuracy: Tensor
    counts: Tensor


def reliability(probabilities: Numbers, labels: Numbers, bins: int = 15) -> Reliability:
    """Compute the calibration error of probabilities (N, K) against labels (N,).

        ECE = Σ_b (n_b / n) |mean accuracy in b − mean confidence in b|

    over bins b of equal width of the confidence max_k p_k; an edge belongs to the bin below it. On
    few points a perfect classifier has about Σ_b √(2 n_b p_b (1 − p_b) / π) / n, not 0. Raises
    ValueError if shapes do not match or rows are no probabilities. Source: Guo et al. (2017),
    https://arxiv.org/abs/1706.04599

    >>> p = torch.tensor([[0.75, 0.25], [0.75, 0.25], [0.25, 0.75], [0.25, 0.75]])
    >>> [reliability(p, torch.tensor([0, 0, 1, last])).error for last in (0, 1)]
    [0.0, 0.25]
    """
    p, bins = read_numbers("probabilities", probabilities).cpu(), read_integer("bins", bins)
    truth = read_labels("labels", labels)
    if p.dim() != 2 or len(truth) != len(p) or bins < 1:
        raise ValueError(
            f"probabilities {tuple(p.shape)}, labels {tuple(truth.shape)} and {bins} bins were "
            "given; one row of probabilities per label and a bin are needed; pass "
            "softmax(-class_energies) and the true labels"
        )
    if not bool((p >= 0).all() and ((p.sum(1) - 1).abs() < 1e-4).all()):
        raise ValueError(
            "some rows are no probabilities; they must be at least 0 and add up to 1; pass the "
            "softmax of logits"
        )
    read_labels("labels", truth, p.shape[1])
    sure, called = p.max(1)
    place = (torch.ceil(sure * bins).long() - 1).clamp(0, bins - 1)
    counts = torch.bincount(place, minlength=bins)
    total = counts.clamp_min(1).double()
    confidence = torch.bincount(place, sure, minlength=bins) / total
    accuracy = torch.bincount(place, (called == truth).double(), minlength=bins) / total
    error = float((counts.double() / len(p) * (accuracy - confidence).abs()).sum())
    return Reliability(error, confidence, accuracy, counts)
