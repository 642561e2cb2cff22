"""Metrics of what callers pass by mistake or by right: integers, half precision, lists, far points.

Each test holds one kind of fault: the right value, from NumPy and SciPy in float64, or a refusal in
three clauses.
"""

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from torch import Tensor

from lowland.metrics import (
    aupr,
    auroc,
    benjamini_hochberg,
    calibration_size,
    class_entropy,
    detection_error,
    energy_gap,
    false_alarms,
    fpr95,
    frechet_distance,
    ksd,
    log_likelihood,
    mmd,
    nearest,
    p_values,
    precision_recall,
    psnr,
    reliability,
    separation,
    ssim,
    two_sample_accuracy,
)
from lowland.metrics.distances import distances
from lowland.metrics.estimate import Estimate, mean, share
from lowland.plain import dump_json, to_plain
from lowland.targets import Gaussian

INTEGERS = (torch.uint8, torch.int16, torch.int32, torch.int64)
HALVES = (torch.float16, torch.bfloat16)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def refuse(call: Callable[[], object]) -> str:
    """Return the message of a refusal, which has three clauses."""
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value).count(";") >= 2, caught.value
    return str(caught.value)


def strict(text: str) -> object:
    """Parse JSON as a strict reader does."""

    def fail(constant: str) -> object:
        raise AssertionError(constant)

    return json.loads(text, parse_constant=fail)


# ---- images ------------------------------------------------------------------------------------


def test_errors_of_images_are_computed_in_float64_whatever_their_type() -> None:
    a, b = (torch.randint(256, (4, 3, 20, 30), generator=seeded(s)) for s in (0, 1))
    right = 10 * np.log10(255**2 / ((a - b).numpy() ** 2.0).mean((1, 2, 3))).mean()
    like = ssim(a.double(), b.double(), peak=255).value
    for dtype in (*INTEGERS, torch.float32, torch.float64, *HALVES):
        if dtype is torch.uint8 or dtype.is_floating_point or dtype is torch.int16:
            assert psnr(a.to(dtype), b.to(dtype), peak=255).value == pytest.approx(right, abs=0.02)
        assert ssim(a.to(dtype), b.to(dtype), peak=255).value == pytest.approx(like, abs=0.01)
    assert psnr(a.numpy(), b.tolist(), peak=np.float32(255)).value == pytest.approx(right)
    assert "peak=255" in refuse(lambda: psnr(a.to(torch.uint8), b.to(torch.uint8)))
    assert psnr(torch.ones(1, 4, dtype=torch.bool), torch.zeros(1, 4, dtype=torch.bool)).value == 0


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_images_that_cannot_be_compared_are_refused(metric: Callable[..., Estimate]) -> None:
    x = torch.rand(2, 1, 16, 16, generator=seeded(0))
    for bad in (math.nan, math.inf):
        broken = x.clone()
        broken[0, 0, 0, 0] = bad
        for pair in ((x, broken), (broken, x)):
            assert "1 of 2" in refuse(lambda pair=pair: metric(*pair))
    for other in (x[:1], x[:, :, :15], x[:0], x + 0j, "image", None, [[1.0], [1.0, 2.0]]):
        refuse(lambda other=other: metric(x, other))
    for peak in (0, -1.0, math.nan, "1", True):
        refuse(lambda peak=peak: metric(x, x + 0.1, peak=peak))


def test_one_image_and_equal_images_have_a_text_and_strict_json() -> None:
    x = torch.rand(1, 1, 16, 16, generator=seeded(0))
    for found in (psnr(x, x), psnr(x, 1 - x), ssim(x, x), ssim(x, 1 - x), mean(torch.ones(1))):
        assert "inf" in str(found) and "nan" not in str(found)
        strict(json.dumps(found.to_dict()))
    assert psnr(x, x).to_dict() == {"value": "inf", "error": "inf"}


# ---- energies and p-values ---------------------------------------------------------------------


@pytest.mark.parametrize("metric", [auroc, aupr, fpr95, detection_error, energy_gap])
def test_rank_metrics_read_any_type_and_any_array(metric: Callable[..., Estimate]) -> None:
    low, high = torch.tensor([0, 1, 200, 3]), torch.tensor([1, 2, 250])
    right = metric(low.double(), high.double())
    for dtype in (torch.uint8, torch.int16, torch.int64, torch.float16, torch.bfloat16):
        assert metric(low.to(dtype), high.to(dtype)) == right
    assert metric(low.tolist(), high.numpy()) == metric(low.numpy()[::-1], high.tolist()) == right
    flags = metric([False, False, True], [True, True])
    assert flags == metric(torch.tensor([0.0, 0.0, 1.0]), torch.ones(2))
    for bad in ([], [[1.0]], ["a"], None, 1.0, low + 0j, [math.nan], [math.inf], [10**400]):
        refuse(lambda bad=bad: metric(bad, high))
        refuse(lambda bad=bad: metric(low, bad))


@pytest.mark.parametrize("metric", [auroc, aupr, fpr95, detection_error, energy_gap])
def test_one_energy_on_a_side_prints_and_parses(metric: Callable[..., Estimate]) -> None:
    for low, high in (([0.0], [1.0, 2.0]), ([0.0, 1.0], [2.0]), ([0.0], [0.0])):
        found = metric(low, high)
        assert str(found)
        strict(json.dumps(found.to_dict()))


def test_p_values_of_two_precisions_are_those_of_the_lower() -> None:
    scores = torch.rand(50, dtype=torch.float64, generator=seeded(0)).round(decimals=1)
    right = p_values(scores, scores)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        assert torch.equal(p_values(scores, scores.to(dtype)), right)
        assert torch.equal(p_values(scores.to(dtype), scores), right)
    assert torch.equal(p_values(scores.numpy(), scores.numpy().astype(np.float32)), right)
    refuse(lambda: p_values(scores, torch.tensor([math.nan])))
    refuse(lambda: p_values(torch.tensor([math.inf]), scores))
    refuse(lambda: p_values(scores.view(5, 10), scores))


def test_rates_are_numbers_of_any_kind_and_nothing_else() -> None:
    for alpha in (0.01, np.float32(0.01), np.float64(0.01), torch.tensor(0.01), np.float16(0.01)):
        assert calibration_size(alpha) == 99, alpha
    p = torch.linspace(0, 1, 11)
    for bad in (0, 1, 0.0, -0.1, 2, math.nan, math.inf, "0.05", True, None, 0.05 + 0j):
        refuse(lambda bad=bad: calibration_size(bad))
        refuse(lambda bad=bad: benjamini_hochberg(p, bad))
        refuse(lambda bad=bad: false_alarms(p, bad))
    for bad in ([], [2.0], [-0.1], [math.nan], ["a"]):
        refuse(lambda bad=bad: false_alarms(bad, 0.05))
    assert benjamini_hochberg([0.001, 0.9], 0.1).tolist() == [True, False]
    refuse(lambda: separation([0.0], [1.0], generator=seeded(0), draws=2.5))
    refuse(lambda: separation([0.0], [1.0], generator=seeded(0), confidence="0.9"))


def test_labels_are_whole_numbers_of_the_classes() -> None:
    p, y = [[0.75, 0.25], [0.25, 0.75]], [0, 1]
    assert reliability(p, y).error == pytest.approx(0.25)
    assert reliability(np.float32(p), np.uint8(y)).error == pytest.approx(0.25)
    for bad in ([0, 2], [0.5, 1], [-1, 0], [0], ["a", "b"], [math.nan, 0]):
        refuse(lambda bad=bad: reliability(p, bad))
        if len(bad) > 1:
            refuse(lambda bad=bad: class_entropy(bad, 2))
    assert class_entropy(np.uint8([0, 1, 0, 1]), np.int64(2)) == 1.0
    for bad in ([], math.nan, [0.5]):
        refuse(lambda bad=bad: class_entropy(bad, 2))


# ---- points far from the origin ------------------------------------------------------------------


def far_points(seed: int, count: int, dims: int, dtype: torch.dtype) -> Tensor:
    """Two narrow clusters a million apart, and far from the origin."""
    x = torch.randn(count, dims, generator=seeded(seed), dtype=torch.float64) + 1000
    x[::2] += 1e6
    return x.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dims", [2, 40])
def test_distances_far_from_the_origin_are_those_of_scipy(dtype: torch.dtype, dims: int) -> None:
    x, y = far_points(0, 150, dims, dtype), far_points(1, 170, dims, dtype)
    right = cdist(x.double().numpy(), y.double().numpy())
    found, which = nearest(x, y)
    assert np.array_equal(which.numpy(), right.argmin(1))
    np.testing.assert_allclose(found.numpy(), right.min(1), rtol=1e-9)
    reach = [np.sort(cdist(p, p), 1)[:, 3] for p in (y.double().numpy(), x.double().numpy())]
    expected = [(d <= r).any(1).mean() for d, r in zip((right, right.T), reach, strict=True)]
    cover = precision_recall(x, y)
    assert [cover.precision.value, cover.recall.value] == pytest.approx(expected, abs=1e-12)


def test_products_are_taken_only_where_they_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lowland.metrics.distances.DIRECT_COST", 0)
    x, y = far_points(2, 60, 40, torch.float64), far_points(3, 50, 40, torch.float64)
    y[:5] = x[:5]
    right = cdist(x.numpy(), y.numpy())
    np.testing.assert_allclose(distances(x, y).numpy(), right, rtol=1e-8, atol=1e-12)


def test_a_shift_changes_no_comparison_of_samples() -> None:
    x, y = (torch.randn(80, 3, generator=seeded(s)).round(decimals=3) for s in (0, 1))
    y = y + 0.3
    moved = [(part * 4096).round() / 4096 + 4096 for part in (x, y)]  # exact in float32
    still = [part - 4096 for part in moved]
    assert mmd(*moved).value == pytest.approx(mmd(*still).value, rel=1e-9)
    assert frechet_distance(*moved) == pytest.approx(frechet_distance(*still), rel=1e-6)
    told = [two_sample_accuracy(*p, generator=seeded(2), steps=60).value for p in (moved, still)]
    assert told[0] == told[1]
    found = [
        ksd(Gaussian((c,) * 3, np.eye(3).tolist()), p[0].double()).value
        for c, p in ((4096.0, moved), (0.0, still))
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-6)


@pytest.mark.parametrize("metric", [mmd, frechet_distance, precision_recall, nearest])
def test_comparisons_read_integers_and_refuse_what_does_not_fit(
    metric: Callable[..., object],
) -> None:
    x, y = (torch.randint(256, (30, 2, 3), generator=seeded(s)) for s in (0, 1))
    right = metric(x.double(), y.double())
    for dtype in (torch.uint8, torch.int16, torch.int64, torch.bfloat16):
        found = metric(x.to(dtype), y.to(dtype))
        assert str(found) == str(right), dtype
    assert str(metric(x.numpy(), y.tolist())) == str(right)
    for bad in (y[:, :1], y[:0], y + 0j, "y", y.float().fill_(math.nan), 3.0):
        refuse(lambda bad=bad: metric(x, bad))


def test_two_samples_are_told_apart_in_any_default_dtype() -> None:
    x, y = (torch.randn(60, 2, generator=seeded(s)) for s in (0, 1))
    before = two_sample_accuracy(x, y, generator=seeded(2), steps=30)
    torch.set_default_dtype(torch.float64)
    try:
        assert two_sample_accuracy(x, y, generator=seeded(2), steps=30) == before
    finally:
        torch.set_default_dtype(torch.float32)


def test_constant_and_equal_sets_have_their_values() -> None:
    x = torch.full((20, 3), 7)
    assert mmd(x, x).value == 0 and frechet_distance(x, x) == 0
    assert precision_recall(x, x).precision.value == 1
    assert auroc(torch.ones(5), torch.ones(3)).value == 0.5
    assert share(0, 5) == (0, 0) and mean(torch.ones(3)) == (1, 0)
    assert two_sample_accuracy(x, x, generator=seeded(0), steps=5).value == 0.5


# ---- JSON --------------------------------------------------------------------------------------


def test_what_is_not_finite_is_a_text_in_json() -> None:
    values = {
        "a": [math.inf, -math.inf, math.nan, 1, 0.5, True, None, "x"],
        "b": (np.float32(0.5), np.int64(3), torch.tensor(2.0), np.bool_(True), np.float64("nan")),
    }
    assert strict(dump_json(values)) == {
        "a": ["inf", "-inf", "nan", 1, 0.5, True, None, "x"],
        "b": [0.5, 3, 2.0, True, "nan"],
    }
    assert to_plain(values) == strict(dump_json(values))


def test_a_likelihood_of_one_point_is_strict_json() -> None:
    found = log_likelihood(Gaussian(), torch.zeros(1, 2), np.float64(1.8378770664093453))
    assert found.value == pytest.approx(-1.8378770664093453)
    assert strict(json.dumps(found.to_dict()))["error"] == "inf"  # type: ignore[index]


@pytest.mark.parametrize(
    "values",
    [
        np.array([2**53 + 2, 2**53 + 1]),
        np.array([2**63 + 5, 1], dtype=np.uint64),
        torch.tensor([-(2**60), 1]),
        torch.tensor([2**63 + 5, 1], dtype=torch.uint64),
        [2**53 + 2, 5],
        np.ma.masked_array([1.0, 99.0], [False, True]),
        np.ma.masked_array([1, 2]),
    ],
)
def test_masks_and_numbers_float64_merges_are_refused(values: Tensor) -> None:
    for measure in (auroc, psnr, frechet_distance):
        with pytest.raises(ValueError, match=r"masked array|cannot tell apart") as caught:
            measure(values, torch.tensor([1.0, 2.0]))
        assert str(caught.value).count("; ") == 2
    assert auroc(torch.tensor([2**53]), torch.tensor([3])) is not None
