"""Metrics against independent references, their errors against repeated simulation, their
guarantees against chance.

Every check is a function of the metric, so that broken variants can be fed to the same check
(`test_planted_bugs`).
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from contract.cases import seeded
from contract.checks import LIMIT, caught, worst
from scipy.stats import betabinom
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

from lowland.metrics import (
    Estimate,
    aupr,
    auroc,
    class_entropy,
    energy_gap,
    false_alarms,
    fpr95,
    frechet_distance,
    mean,
    mmd,
    nearest,
    p_values,
    psnr,
    share,
)

Metric = Callable[..., Any]

# ---------------------------------------------------------------------------------------- estimates


def test_an_estimate_prints_two_digits_of_its_error() -> None:
    assert str(Estimate(0.91342, 0.0041)) == "0.9134 ± 0.0041"
    assert str(Estimate(12.0, 1.5)) == "12.0 ± 1.5"
    assert str(Estimate(0.5, 0.0)) == "0.500 ± 0.000"
    assert Estimate(1.0, 2.0).to_dict() == {"value": 1.0, "error": 2.0}


def test_mean_and_share_have_their_textbook_errors() -> None:
    x = torch.randn(500, generator=seeded(0)) + 3
    found = mean(x)
    assert found.value == pytest.approx(np.mean(x.numpy(), dtype=np.float64))
    assert found.error == pytest.approx(np.std(x.double().numpy(), ddof=1) / math.sqrt(500))
    assert mean(torch.ones(1)).error == math.inf
    assert share(3, 12) == Estimate(0.25, math.sqrt(0.25 * 0.75 / 12))
    for bad in (
        lambda: mean(torch.ones(0)),
        lambda: share(3, 2),
        lambda: share(0, 0),
        lambda: share(-1, 2),
    ):
        with pytest.raises(ValueError, match=";"):
            bad()


def test_mean_is_taken_in_double_precision() -> None:
    x = 1e8 + torch.arange(4096, dtype=torch.float64)
    assert mean(x.float()).value == pytest.approx(x.float().double().mean().item(), abs=1e-6)


# ---------------------------------------------------------------------------------------- detection

OFFSETS = {
    "plain": (0.0, 1.0),
    "5e4": (5e4, 1e3),
    "1e8": (1e8, 1e3),
    "tiny": (0.0, 1e-6),
    "negative": (-5e4, 1e3),
}


def energies(kind: str, seed: int, ties: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Inliers and outliers about one standard deviation apart, with many ties or none, in the unit
    asked for.
    """
    g, (offset, unit) = seeded(seed), OFFSETS[kind]
    low = torch.randn(300, generator=g, dtype=torch.float64)
    high = torch.randn(170, generator=g, dtype=torch.float64) + 1
    if ties:
        low, high = (2 * low).round() / 2, (2 * high).round() / 2
    return (offset + unit * low).to(dtype), (offset + unit * high).to(dtype)


def ranks_agree(metric: Metric, reference: Callable[..., float]) -> None:
    """The metric equals scikit-learn's on the same numbers: every unit, with and without ties, both
    precisions.
    """
    for kind in OFFSETS:
        for seed, ties in enumerate((True, False)):
            for dtype in (torch.float32, torch.float64):
                low, high = energies(kind, seed, ties, dtype)
                values = torch.cat([low, high]).double().numpy()
                truth = np.r_[np.zeros(len(low)), np.ones(len(high))]
                assert abs(metric(low, high).value - reference(truth, values)) < 1e-12, (
                    kind,
                    ties,
                    dtype,
                )


def test_auroc_is_that_of_scikit_learn() -> None:
    ranks_agree(auroc, roc_auc_score)


def test_aupr_is_average_precision_of_scikit_learn() -> None:
    ranks_agree(aupr, average_precision_score)


def test_auroc_extremes_and_its_mirror() -> None:
    low, high = energies("plain", 3, True, torch.float32)
    assert auroc(low, high).value + auroc(high, low).value == pytest.approx(1.0, abs=1e-12)
    assert auroc(low, low + 100).value == 1.0 and auroc(low, low - 100).value == 0.0
    assert auroc(torch.ones(5), torch.ones(7)).value == 0.5
    assert aupr(torch.ones(30), torch.ones(10)).value == pytest.approx(0.25)


def fpr_by_definition(low: Tensor, high: Tensor) -> float:
    """Smallest threshold among the inliers that lets at least 95 % of them pass; share of outliers
    at or under it.
    """
    passing = [t for t in low.tolist() if 20 * int((low <= t).sum()) >= 19 * len(low)]
    return float((high <= min(passing)).double().mean())


def fpr_agrees(metric: Metric) -> None:
    """The definition on random energies with and without ties, and at every count of inliers up to
    200.
    """
    for kind in OFFSETS:
        for seed, ties in enumerate((True, False)):
            low, high = energies(kind, seed, ties, torch.float32)
            assert metric(low, high).value == pytest.approx(fpr_by_definition(low, high)), (
                kind,
                ties,
            )
    for n in range(1, 201):
        line = torch.arange(1.0, n + 1)
        assert round(metric(line, line).value * n) == -(-19 * n // 20), (
            n
        )  # ⌈0.95 n⌉ in whole numbers


def test_fpr95_is_its_definition() -> None:
    fpr_agrees(fpr95)
    low, high = energies("plain", 0, False, torch.float32)
    found = fpr95(low, high)
    assert found.error == pytest.approx(math.sqrt(found.value * (1 - found.value) / len(high)))


def spread_ratio(
    simulate: Callable[[torch.Generator], Estimate], repeats: int = 1000, seed: int = 0
) -> float:
    """z of (claimed variance / variance over repeats − 1), whose standard error is √(2 /
    repeats).
    """
    g = seeded(seed)
    found = [simulate(g) for _ in range(repeats)]
    values = torch.tensor([f.value for f in found], dtype=torch.float64)
    claimed = torch.tensor([f.error for f in found], dtype=torch.float64).square().mean()
    return float((claimed / values.var() - 1) / math.sqrt(2 / repeats))


def delong_is_honest(metric: Metric) -> float:
    """|z| of the claimed error at three separations, uneven counts and ties."""
    worst_z = 0.0
    for shift, ties in ((0.0, False), (1.0, False), (1.0, True)):

        def one(g: torch.Generator, shift: float = shift, ties: bool = ties) -> Estimate:
            low, high = torch.randn(60, generator=g), torch.randn(40, generator=g) + shift
            return metric(low.round(), high.round()) if ties else metric(low, high)

        worst_z = max(worst_z, abs(spread_ratio(one)))
    return worst_z


def test_delong_error_is_the_spread_over_repeats() -> None:
    assert delong_is_honest(auroc) < LIMIT


def test_energy_gap_and_its_error() -> None:
    low, high = energies("5e4", 1, False, torch.float32)
    found = energy_gap(low, high)
    assert found.value == pytest.approx(float(high.double().mean() - low.double().mean()))
    variances = low.double().var() / len(low) + high.double().var() / len(high)
    assert found.error == pytest.approx(math.sqrt(variances))

    def one(g: torch.Generator) -> Estimate:
        return energy_gap(torch.randn(60, generator=g), 2 * torch.randn(40, generator=g))

    assert abs(spread_ratio(one)) < LIMIT


@pytest.mark.parametrize("metric", [auroc, aupr, fpr95, energy_gap])
def test_non_finite_energies_are_refused_with_their_count(metric: Metric) -> None:
    """peers.md 2.1 (6): a rival ranks NaN as most in-distribution."""
    good = torch.arange(5.0)
    for bad in (math.nan, math.inf, -math.inf):
        broken = torch.tensor([0.0, bad, 1.0, bad])
        for pair in ((good, broken), (broken, good)):
            with pytest.raises(ValueError, match=r"2 of 4 .*energies are not finite"):
                metric(*pair)
    for shape in ((0,), (3, 1)):
        with pytest.raises(ValueError, match=r"non-empty vector"):
            metric(good, torch.zeros(shape))


def test_ranking_many_points_is_quick() -> None:
    """peers.md 2.1 (6): a rival loops over unique scores, quadratically. A million points sort in
    well under a minute.
    """
    low, high = (
        torch.randn(500_000, generator=seeded(0)),
        torch.randn(500_000, generator=seeded(1)) + 1,
    )
    truth = 0.5 * (1 + math.erf(1 / 2))  # Φ(1 / √2)
    found = auroc(low, high)
    assert abs(found.value - truth) < LIMIT * found.error


# -------------------------------------------------------------------------------------- calibration


def p_values_agree(metric: Metric) -> None:
    """Brute force over all pairs, with ties within and between the sets, in large units too."""
    for kind in OFFSETS:
        for ties in (True, False):
            calibration, x = energies(kind, 5, ties, torch.float32)
            expected = (1 + (calibration[None] >= x[:, None]).sum(1)).double() / (
                len(calibration) + 1
            )
            assert torch.equal(metric(calibration, x).double(), expected), (kind, ties)


def keeps_its_promise(metric: Metric) -> float:
    """z by which the mean false-alarm rate over 300 splits exceeds the nominal rate; sharp, tied
    and tiny sets.
    """
    g, worst_z = seeded(7), -math.inf
    for n, nominal, ties in (
        (20, 0.05, False),
        (200, 0.05, False),
        (99, 0.1, True),
        (57, 0.2, True),
    ):
        rates = []
        for _ in range(300):
            x = torch.randn(n + 200, generator=g)
            x = (2 * x).round() / 2 if ties else x
            rates.append(float((metric(x[:n], x[n:]) <= nominal).double().mean()))
        z = (np.mean(rates) - nominal) / (np.std(rates, ddof=1) / math.sqrt(len(rates)))
        worst_z = max(worst_z, float(z))
    return worst_z


def test_p_values_are_brute_force() -> None:
    p_values_agree(p_values)
    assert p_values(torch.tensor([]), torch.tensor([1.0])).tolist() == [1.0]


def test_p_values_promise_is_kept_over_random_splits() -> None:
    assert keeps_its_promise(p_values) < LIMIT


def test_p_values_are_no_more_careful_than_they_must() -> None:
    """Without ties P(p ≤ α) is ⌊α (n + 1)⌋ / (n + 1) exactly."""
    g, n, nominal = seeded(8), 39, 0.1
    rates = [
        (p_values(torch.randn(n, generator=g), torch.randn(100, generator=g)) <= nominal).double()
        for _ in range(400)
    ]
    assert worst(torch.stack([r.mean() for r in rates]).unsqueeze(1), 4 / 40) < LIMIT


@pytest.mark.parametrize("place", ["calibration energies", "energies"])
def test_p_values_refuse_non_finite_energies(place: str) -> None:
    good, bad = torch.zeros(4), torch.tensor([math.nan, 0.0, math.inf])
    with pytest.raises(ValueError, match=rf"2 of 3 {place} are not finite"):
        p_values(*((bad, good) if place == "calibration energies" else (good, bad)))


def covers(interval: Callable[[float, int, int], tuple[float, float]]) -> float:
    """How far, in standard errors, the share of sound detectors inside the 95 % interval falls
    short of 95 %.
    """
    g, n, m, nominal = seeded(9), 99, 150, 0.1
    low, high = interval(nominal, m, n)
    x = torch.randn(2000, n + m, generator=g)
    threshold = (
        x[:, :n].sort(1, descending=True).values[:, 9]
    )  # p ≤ 0.1 above the tenth-largest of 99
    rates = (x[:, n:] > threshold.unsqueeze(1)).double().mean(1)
    again = torch.stack([(p_values(row[:n], row[n:]) <= nominal).double().mean() for row in x[:50]])
    assert torch.equal(again, rates[:50])
    inside = float(((rates >= low - 1e-12) & (rates <= high + 1e-12)).double().mean())
    return (0.95 - inside) / math.sqrt(0.95 * 0.05 / len(x))


def interval_of(nominal: float, points: int, calibration: int | None) -> tuple[float, float]:
    rate = false_alarms(torch.ones(points, dtype=torch.float64), nominal, calibration)
    return rate.low, rate.high


def test_the_interval_of_false_alarms_covers() -> None:
    assert covers(interval_of) < LIMIT
    low, high = interval_of(0.1, 150, 99)
    law = betabinom(150, 10, 90)
    assert (
        0.95 <= law.cdf(round(150 * high)) - law.cdf(round(150 * low) - 1) < 0.97
    )  # nor is it wider than it must


def test_false_alarms_count_and_judge() -> None:
    p = torch.tensor([0.01, 0.05, 0.06, 0.5, 1.0], dtype=torch.float64)
    rate = false_alarms(p, 0.05, 99)
    assert (rate.value, rate.alpha, rate.points) == (0.4, 0.05, 5)
    assert false_alarms(torch.linspace(0.01, 1, 100), 0.05, 99).sound
    assert not false_alarms(torch.full((100,), 0.01), 0.05, 99).sound
    assert false_alarms(torch.ones(10), 0.05, 10)[2:4] == (
        0.0,
        0.0,
    )  # ten points can raise no alarm at 5 %
    for bad in (0.0, 1.0, -0.1, math.nan):
        with pytest.raises(ValueError, match=r"lies in \(0, 1\)"):
            false_alarms(p, bad)
    with pytest.raises(ValueError, match="no p-values came"):
        false_alarms(p[:0], 0.05)


@pytest.mark.parametrize("calibration", [19, 99, 199, 270, 999])
def test_alarms_are_counted_as_the_interval_assumes(calibration: int) -> None:
    """The ranks that raise an alarm are those with p ≤ nominal: no off-by-one from rounding nominal
    (n + 1).
    """
    ranks = torch.arange(1, calibration + 2, dtype=torch.float64)
    for nominal in (0.05, 0.07, 0.1, 0.29, 0.57, 0.3):
        alarms = int((ranks / (calibration + 1) <= nominal).sum())
        assert alarms == int(nominal * (calibration + 1) + 1e-9), nominal


# ------------------------------------------------------------------------------------------ samples


def mmd_is_unbiased(metric: Metric) -> float:
    """|z| of the mean over 300 pairs of samples of one law, where MMD² is zero; uneven counts."""
    g = seeded(2)
    pairs = [(torch.randn(30, 3, generator=g), torch.randn(45, 3, generator=g)) for _ in range(300)]
    values = torch.tensor([metric(x, y, 1.5).value for x, y in pairs], dtype=torch.float64)
    return worst(values.unsqueeze(1))


def shifted_mmd(g: torch.Generator, metric: Metric = mmd) -> Estimate:
    return metric(torch.randn(120, 2, generator=g), torch.randn(80, 2, generator=g) + 1.0, 1.5)


def mmd_truth_shifted() -> float:
    """E k for N(a, I) and N(b, I) in the plane: (1 + 2/ℓ²)^{-1} exp(−‖a−b‖² / (2 (ℓ² + 2)))."""
    wide = 1.5**2
    return 2 * (1 - math.exp(-2 / (2 * (wide + 2)))) / (1 + 2 / wide)


def mmd_hits_the_truth(metric: Metric) -> float:
    """|z| of the mean over 300 pairs against the closed form for two shifted Gaussians."""
    g = seeded(3)
    values = torch.tensor([shifted_mmd(g, metric).value for _ in range(300)], dtype=torch.float64)
    return worst(values.unsqueeze(1), mmd_truth_shifted())


def test_mmd_is_zero_in_the_mean_at_equal_laws() -> None:
    assert mmd_is_unbiased(mmd) < LIMIT


def test_mmd_is_its_closed_form_between_gaussians() -> None:
    assert mmd_hits_the_truth(mmd) < LIMIT


def test_mmd_detects_a_shift_and_nothing_else() -> None:
    g = seeded(4)
    x, y = torch.randn(400, 5, generator=g), torch.randn(400, 5, generator=g)
    apart, same = mmd(x, y + 0.5), mmd(x, y)
    assert apart.value > LIMIT * apart.error and abs(same.value) < LIMIT * same.error
    assert mmd(x.view(400, 1, 5), y.view(400, 5)).value == same.value  # images are flattened


def test_mmd_error_is_the_spread_when_laws_differ_and_a_bound_when_not() -> None:
    assert abs(spread_ratio(shifted_mmd, repeats=400)) < LIMIT
    assert (
        spread_ratio(
            lambda g: mmd(torch.randn(40, 2, generator=g), torch.randn(40, 2, generator=g), 1.5),
            200,
        )
        > -LIMIT
    )


def exact_moments(count: int, centre: Tensor, covariance: Tensor, seed: int) -> Tensor:
    """Points whose sample mean and covariance (N − 1) are exactly as asked for."""
    z = torch.randn(count, len(centre), generator=seeded(seed), dtype=torch.float64)
    z = z - z.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(torch.cov(z.T)), z.T, upper=False).T
    return centre + white @ torch.linalg.cholesky(covariance).T


def frechet_by_sqrtm(x: Tensor, y: Tensor) -> float:
    a, b = x.double().numpy(), y.double().numpy()
    ca, cb = np.cov(a.T), np.cov(b.T)
    root = scipy.linalg.sqrtm(ca @ cb)
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb - 2 * root.real))


def frechet_agrees(metric: Metric) -> None:
    """Closed form for exact moments with commuting covariances; scipy's matrix root for all
    others.
    """
    eye = torch.eye(3, dtype=torch.float64)
    zero, one = (
        torch.zeros(3, dtype=torch.float64),
        torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64),
    )
    x, y = exact_moments(50, zero, 4 * eye, 0), exact_moments(70, one, 0.25 * eye, 1)
    assert abs(metric(x, y) - (5.25 + 3 * (2 - 0.5) ** 2)) < 1e-9
    assert abs(metric(x, x)) < 1e-9
    g = seeded(5)
    for mix in (torch.randn(6, 6, generator=g), torch.randn(6, 6, generator=g)):
        a, b = torch.randn(80, 6, generator=g) @ mix + 1000, torch.randn(60, 6, generator=g) + 1000
        assert abs(metric(a, b) - frechet_by_sqrtm(a, b)) < 1e-6 * metric(a, b)
        assert abs(metric(a, b) - metric(b, a)) < 1e-6 * metric(a, b)


def test_frechet_distance_is_that_of_gaussians() -> None:
    frechet_agrees(frechet_distance)


def test_frechet_distance_with_fewer_points_than_dimensions_and_in_one_dimension() -> None:
    g = seeded(6)
    x = torch.randn(5, 20, generator=g)
    assert abs(frechet_distance(x, x)) < 1e-6  # covariances of rank 4
    a, b = torch.randn(50, 1, generator=g), 3 * torch.randn(50, 1, generator=g) + 2
    expected = (a.double().mean() - b.double().mean()) ** 2 + (
        a.double().std() - b.double().std()
    ) ** 2
    assert frechet_distance(a, b) == pytest.approx(float(expected))


@pytest.mark.parametrize("metric", [mmd, frechet_distance])
def test_laws_need_two_points(metric: Metric) -> None:
    with pytest.raises(ValueError, match="1 points were given"):
        metric(torch.zeros(1, 2), torch.zeros(5, 2))


def test_nearest_is_brute_force() -> None:
    g = seeded(7)
    x, reference = (
        torch.randn(700, 1, 3, 2, generator=g),
        torch.randn(90, 1, 3, 2, generator=g),
    )  # more than one chunk
    d, which = nearest(x.double(), reference.double())
    table = (x.double()[:, None] - reference.double()[None]).square().flatten(2).sum(2).sqrt()
    assert torch.equal(which, table.argmin(1))
    assert torch.allclose(d, table.min(1).values, atol=1e-6)


def test_nearest_leaves_a_point_out_of_its_own_neighbourhood() -> None:
    g = seeded(8)
    x = torch.randn(600, 4, generator=g, dtype=torch.float64)
    d, which = nearest(x, x, leave_out=True)
    table = (x[:, None] - x[None]).square().sum(2).sqrt()
    table.fill_diagonal_(math.inf)
    assert torch.equal(which, table.argmin(1)) and torch.allclose(d, table.min(1).values, atol=1e-6)
    assert bool((which != torch.arange(600)).all())


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_nearest_finds_copies_at_distance_zero(offset: float) -> None:
    x = torch.rand(200, 64, generator=seeded(9)) + offset
    d, which = nearest(x, x.clone())
    assert torch.equal(which, torch.arange(200))
    assert float(d.max()) == 0.0


def test_class_entropy() -> None:
    assert class_entropy(torch.arange(10).repeat(7), 10) == pytest.approx(1.0)
    assert class_entropy(torch.zeros(9, dtype=torch.long), 4) == 0.0
    p = np.array([0.5, 0.25, 0.25])
    assert class_entropy(torch.tensor([0, 0, 2, 3]), 4) == pytest.approx(
        -(p * np.log(p)).sum() / math.log(4)
    )
    with pytest.raises(ValueError, match="1 classes"):
        class_entropy(torch.zeros(3, dtype=torch.long), 1)


@pytest.mark.parametrize(
    "labels", [torch.arange(6), torch.zeros(0, dtype=torch.long)], ids=["beyond", "none"]
)
def test_class_entropy_refuses_what_it_cannot_count(labels: Tensor) -> None:
    with pytest.raises(ValueError):
        class_entropy(labels, 3)


def psnr_by_hand(x: Tensor, truth: Tensor, mask: Tensor, peak: float) -> list[float]:
    found = []
    for a, b in zip(x.double().numpy(), truth.double().numpy(), strict=True):
        m = np.broadcast_to(mask.numpy(), a.shape)
        found.append(10 * math.log10(peak**2 / np.mean((a[m] - b[m]) ** 2)))
    return found


def psnr_agrees(metric: Metric) -> None:
    """By hand, everywhere and where a mask says, the mask of full shape or one channel for all
    colours.
    """
    g = seeded(10)
    x, truth = torch.rand(6, 3, 5, 4, generator=g), torch.rand(6, 3, 5, 4, generator=g)
    half = torch.zeros(1, 5, 4, dtype=torch.bool)
    half[:, 2:] = True
    for mask in (None, half, half.expand(3, 5, 4), torch.rand(3, 5, 4, generator=g) > 0.5):
        for peak in (1.0, 255.0):
            expected = psnr_by_hand(
                x, truth, torch.ones(1, 1, 1, dtype=torch.bool) if mask is None else mask, peak
            )
            found = metric(x, truth, mask=mask, peak=peak)
            assert abs(found.value - np.mean(expected)) < 1e-4
            assert abs(found.error - np.std(expected, ddof=1) / math.sqrt(6)) < 1e-4


def test_psnr_is_its_formula() -> None:
    psnr_agrees(psnr)
    assert psnr(torch.zeros(2, 1, 2, 2), torch.full((2, 1, 2, 2), 0.1)).value == pytest.approx(
        20.0, abs=1e-4
    )


def test_psnr_without_error_is_infinite() -> None:
    x = torch.rand(3, 1, 4, 4, generator=seeded(11))
    y = x.clone()
    y[0] += 0.1
    assert psnr(y, x) == psnr(x, x) == (math.inf, math.inf)


@pytest.mark.parametrize("case", ["empty mask", "other channels"])
def test_psnr_refuses_what_it_cannot_compare(case: str) -> None:
    x, truth = torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)
    with pytest.raises(ValueError):
        if case == "empty mask":
            psnr(x, truth, mask=torch.zeros(1, 4, 4, dtype=torch.bool))
        else:
            psnr(x[:, :1], truth)


# ------------------------------------------------------------------------------------- planted bugs


def _squashed(low: Tensor, high: Tensor) -> Estimate:
    return auroc(low.float().sigmoid(), high.float().sigmoid())  # torchmetrics


def _no_ties(low: Tensor, high: Tensor) -> Estimate:
    below = torch.searchsorted(low.double().sort().values, high.double())
    return Estimate((below.double() / len(low)).mean().item(), 0.0)


def _one_sided(low: Tensor, high: Tensor) -> Estimate:
    full = auroc(low, high)
    return full._replace(error=mean((high[:, None] > low[None]).double().mean(1)).error)


def _trapezoid(low: Tensor, high: Tensor) -> Estimate:
    from sklearn.metrics import auc, precision_recall_curve

    truth = np.r_[np.zeros(len(low)), np.ones(len(high))]
    precision, recall, _ = precision_recall_curve(truth, torch.cat([low, high]).double().numpy())
    return Estimate(float(auc(recall, precision)), 0.0)


def _threshold_at(rank: Callable[[int], int]) -> Metric:
    def metric(low: Tensor, high: Tensor) -> Estimate:
        threshold = low.sort().values[min(rank(len(low)), len(low) - 1)]
        return share(int((high <= threshold).sum()), len(high))

    return metric


def _p(plus: int, strict: bool) -> Metric:
    def metric(calibration: Tensor, x: Tensor) -> Tensor:
        above = calibration[None] > x[:, None] if strict else calibration[None] >= x[:, None]
        return (plus + above.sum(1)).double() / (len(calibration) + plus)

    return metric


def _biased_mmd(x: Tensor, y: Tensor, bandwidth: float) -> Estimate:
    def k(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(-torch.cdist(a, b).square() / (2 * bandwidth**2)).mean()

    return Estimate(float(k(x, x) + k(y, y) - 2 * k(x, y)), 0.0)


PLANTED: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "auroc squashed by a sigmoid": (ranks_agree, (_squashed, roc_auc_score)),
    "auroc without ties": (ranks_agree, (_no_ties, roc_auc_score)),
    "auroc of swapped sides": (ranks_agree, (lambda a, b: auroc(b, a), roc_auc_score)),
    "aupr by trapezoids": (ranks_agree, (_trapezoid, average_precision_score)),
    "DeLong with one side": (delong_is_honest, (_one_sided,)),
    "DeLong × 0.85": (
        delong_is_honest,
        (lambda a, b: auroc(a, b)._replace(error=0.85 * auroc(a, b).error),),
    ),
    "threshold one too high": (fpr_agrees, (_threshold_at(lambda n: math.ceil(0.95 * n)),)),
    "threshold rounded down": (fpr_agrees, (_threshold_at(lambda n: max(int(0.95 * n) - 1, 0)),)),
    "p-value without + 1": (p_values_agree, (_p(0, False),)),
    "promise without + 1": (keeps_its_promise, (_p(0, False),)),
    "p-value with > for ≥": (p_values_agree, (_p(1, True),)),
    "promise with > for ≥": (keeps_its_promise, (_p(1, True),)),
    "a binomial interval": (covers, (lambda nominal, m, n: interval_of(nominal, m, None),)),
    "mmd with its diagonal": (mmd_is_unbiased, (_biased_mmd,)),
    "mmd with 1/ℓ² for 1/2ℓ²": (mmd_hits_the_truth, (lambda x, y, b: mmd(x, y, b / math.sqrt(2)),)),
    "Fréchet without the root": (frechet_agrees, (lambda x, y: frechet_distance(x, y) ** 0.5,)),
    "psnr with log of the peak once": (
        psnr_agrees,
        (lambda x, t, mask, peak: psnr(x, t, mask=mask, peak=peak**0.5),),
    ),
    "psnr blind to its mask": (psnr_agrees, (lambda x, t, mask, peak: psnr(x, t, peak=peak),)),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_planted_bugs_are_caught(bug: str) -> None:
    check, arguments = PLANTED[bug]
    assert caught(check, *arguments)
