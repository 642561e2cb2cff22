"""Ranks, sizes and batches: the numbers behind a detector's promise, against brute force and
scipy.
"""

import math

import pytest
import torch
from contract.cases import seeded
from scipy.stats import beta, false_discovery_control

from lowland.metrics import alarm_ranks, benjamini_hochberg, calibration_size, p_values


@pytest.mark.parametrize("delta", [0.01, 0.05, 0.5])
@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1, 0.3])
def test_the_conditional_rank_is_the_largest_that_keeps_the_promise(
    alpha: float, delta: float
) -> None:
    for count in (calibration_size(alpha, "training-conditional", delta), 500, 777, 5000):
        ranks = alarm_ranks(count, alpha, "training-conditional", delta)
        assert beta.ppf(1 - delta, ranks, count + 1 - ranks) <= alpha
        assert beta.ppf(1 - delta, ranks + 1, count - ranks) > alpha
        assert ranks <= alpha * count + 1


@pytest.mark.parametrize("guarantee", ["marginal", "training-conditional", "fdr"])
def test_the_size_asked_for_is_the_least_that_will_do(guarantee: str) -> None:
    for alpha in (0.001, 0.01, 0.05, 0.1, 0.25, 0.6):
        for delta in (0.001, 0.05, 0.4):
            size = calibration_size(alpha, guarantee, delta)
            assert alarm_ranks(size, alpha, guarantee, delta) >= 1
            if size > 1:
                with pytest.raises(ValueError, match=f"at least {size} are needed"):
                    alarm_ranks(size - 1, alpha, guarantee, delta)


def test_the_least_conditional_size_is_that_of_the_largest_of_n() -> None:
    """With r = 1 the threshold is the largest of n, whose level exceeds 1 − α with probability 1 −
    (1 − α)^n.
    """
    for alpha, delta in ((0.05, 0.05), (0.01, 0.05), (0.1, 0.2)):
        size = calibration_size(alpha, "training-conditional", delta)
        assert (1 - alpha) ** size <= delta < (1 - alpha) ** (size - 1)


def test_benjamini_hochberg_is_that_of_scipy() -> None:
    for seed in range(30):
        p = torch.rand(40, generator=seeded(seed), dtype=torch.float64) ** (1 + seed % 4)
        p = (50 * p).ceil() / 50 if seed % 2 else p
        for alpha in (0.05, 0.3):
            adjusted = torch.from_numpy(false_discovery_control(p.numpy()))
            assert torch.equal(benjamini_hochberg(p, alpha), adjusted <= alpha * (1 + 1e-12))
    assert benjamini_hochberg(torch.zeros(0), 0.1).shape == (0,)
    with pytest.raises(ValueError, match=r"vector \(M,\) in \[0, 1\]"):
        benjamini_hochberg(torch.tensor([0.1, 1.2]), 0.1)


def test_discrete_scores_keep_the_promise_exactly() -> None:
    """All calibration sets of 4 scores out of {0, 1, 2}, enumerated: no rank raises alarms more
    often than it says.
    """
    law = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    places = torch.cartesian_prod(*[torch.arange(3)] * 4)
    weights = law[places].prod(1)
    for ranks in range(1, 5):
        alarms = 0.0
        for row, weight in zip(places, weights, strict=True):
            called = p_values(row.double(), torch.arange(3.0)) * 5 < ranks + 0.5
            alarms += float(weight * law[called].sum())
        assert alarms <= ranks / 5 + 1e-12, ranks


@pytest.mark.parametrize(
    ("alpha", "delta"), [(0.0, 0.1), (1.0, 0.1), (0.1, 0.0), (0.1, 1.0), (math.nan, 0.1)]
)
def test_rates_outside_the_unit_interval_are_refused(alpha: float, delta: float) -> None:
    with pytest.raises(ValueError, match=r"lies in \(0, 1\)"):
        calibration_size(alpha, "training-conditional", delta)
