"""Coverage against scikit-learn's neighbours, the two-sample test against the best that any
classifier can do.
"""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from contract.cases import seeded
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from lowland.metrics import Estimate, precision_recall, two_sample_accuracy
from lowland.testing import LIMIT, caught


def blobs(rows: int, seed: int, shift: float = 0.0, width: float = 1.0) -> Tensor:
    return shift + width * torch.randn(rows, 3, generator=seeded(seed))


def reached(points: Tensor, centres: Tensor, k: int) -> float:
    """The share of points within the k-th neighbour's distance of some centre, by scikit-learn."""
    reach = (
        NearestNeighbors(n_neighbors=k + 1)
        .fit(centres.numpy())
        .kneighbors(centres.numpy())[0][:, -1]
    )
    distances, which = (
        NearestNeighbors(n_neighbors=len(centres)).fit(centres.numpy()).kneighbors(points.numpy())
    )
    return float((distances <= reach[which]).any(1).mean())


@pytest.mark.parametrize("k", [1, 3, 10])
def test_precision_and_recall_are_those_of_sklearn(k: int) -> None:
    x, y = blobs(150, 0, 0.7, 0.8), blobs(1300, 1)
    found = precision_recall(x, y, k)
    assert found.precision.value == pytest.approx(reached(x, y, k))
    assert found.recall.value == pytest.approx(reached(y, x, k))
    p = found.precision.value
    assert found.precision.error == pytest.approx(math.sqrt(p * (1 - p) / 150))


def test_collapse_costs_recall_and_rubbish_costs_precision() -> None:
    data = torch.cat([blobs(300, 0), blobs(300, 1, 50.0)])
    half, extra = (
        blobs(300, 2),
        torch.cat([blobs(300, 3), blobs(300, 4, 50.0), blobs(600, 5, -90.0)]),
    )
    one_mode, with_rubbish = precision_recall(half, data), precision_recall(extra, data)
    assert one_mode.precision.value > 0.8
    assert one_mode.recall.value < 0.5
    assert with_rubbish.precision.value < 0.5
    assert with_rubbish.recall.value > 0.8
    for k in (0, 300):
        with pytest.raises(ValueError, match=r"k is .*;.*;"):
            precision_recall(half, data, k)


def off_the_half(test: Callable[..., Estimate]) -> float:
    """|z| of the accuracy on two draws of one law, of unequal sizes."""
    found = test(blobs(3000, 0), blobs(9000, 1), generator=seeded(2), steps=200)
    return abs(found.value - 0.5) / found.error


def off_the_best(test: Callable[..., Estimate]) -> float:
    """|z| of the accuracy on two normal laws at distance 1, against Φ(½): the best, which a linear
    classifier reaches.
    """
    x, y = blobs(20_000, 0), blobs(20_000, 1)
    y[:, 0] += 1.0
    found = test(x, y, generator=seeded(2), steps=400)
    best = 0.5 * (1 + math.erf(0.5 / math.sqrt(2)))
    assert found.error == pytest.approx(math.sqrt(found.value * (1 - found.value) / 20_000))
    return abs(found.value - best) / found.error


def test_the_two_sample_test_says_half_and_the_best() -> None:
    assert off_the_half(two_sample_accuracy) < LIMIT
    assert off_the_best(two_sample_accuracy) < LIMIT


def test_it_sees_what_a_linear_classifier_does_not() -> None:
    x, y = blobs(4000, 0), blobs(4000, 1, width=1.5)
    both, kind = torch.cat([x, y]).numpy(), [0] * 4000 + [1] * 4000
    assert LogisticRegression().fit(both, kind).score(both, kind) < 0.53
    assert two_sample_accuracy(x, y, generator=seeded(0)).value > 0.65


def test_planted_errors_are_caught() -> None:
    def not_cut(
        x: Tensor, y: Tensor, **more: Any
    ) -> Estimate:  # unequal sides: saying "the larger" is right too often
        both = min(len(x), len(y)) / (len(x) + len(y))
        found = two_sample_accuracy(x, y, **more)
        return Estimate(max(found.value, 1 - both), found.error)

    def on_seen_points(x: Tensor, y: Tensor, **more: Any) -> Estimate:
        return two_sample_accuracy(
            x[:30].repeat(20, 1), y[:30].repeat(20, 1), hidden=256, **{**more, "steps": 1000}
        )

    def blind(x: Tensor, y: Tensor, **more: Any) -> Estimate:
        return two_sample_accuracy(x[:, 1:], y[:, 1:], **more)

    assert caught(off_the_half, not_cut)
    assert caught(off_the_half, on_seen_points)
    assert caught(off_the_best, blind)


def test_same_generator_same_answer_and_refusals() -> None:
    x, y = blobs(100, 0), blobs(100, 1)
    first, second = (two_sample_accuracy(x, y, generator=seeded(3), steps=20) for _ in range(2))
    assert first == second
    for bad in ({"hidden": 0}, {"steps": 0}):
        with pytest.raises(ValueError, match=r";.*;"):
            two_sample_accuracy(x, y, generator=seeded(0), **bad)
    with pytest.raises(ValueError, match="at least 16 points"):
        two_sample_accuracy(x[:10], y, generator=seeded(0))
