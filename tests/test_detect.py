"""The detector: its three promises over many calibration splits, its file, what it refuses, and
what it warns of.
"""

import json
import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contract.cases import seeded
from contract.checks import LIMIT, caught
from safetensors.torch import load_file, save_file
from torch import Tensor

import lowland
from lowland import Detector, Energy, Function, energy_values, real
from lowland.metrics import p_values
from lowland.tasks.detection.detector import call_outliers
from lowland.tasks.detection.registry import (
    OUTLIER_SCORES,
    get_outlier_score,
    outlier_score_from_dict,
    outlier_score_to_dict,
)
from lowland.tasks.detection.scores import Multiscale, OutlierScore, Typicality

BOWL = Function(lambda x: x.square().flatten(1).sum(1), real(2))
USELESS = Function(
    lambda x: (7 * x[:, 0]).sin().round(decimals=1), real(2)
)  # many ties and no sense
pytestmark = pytest.mark.filterwarnings("ignore:the points look unlike")
Verdicts = Callable[[Detector, Tensor], Tensor]


def promise_excess(
    verdicts: Verdicts, alpha: float = 0.1, energy: Energy = BOWL, splits: int = 200
) -> float:
    """z by which the mean share of inliers called outliers over calibration splits exceeds
    alpha.
    """
    g = seeded(0)
    rates = []
    for _ in range(splits):
        detector = Detector(energy).fit(torch.randn(40, 2, generator=g))
        rates.append(verdicts(detector, torch.randn(200, 2, generator=g)).double().mean().item())
    return float((np.mean(rates) - alpha) / max(np.std(rates, ddof=1) / math.sqrt(splits), 1e-12))


@pytest.mark.parametrize("energy", [BOWL, USELESS])
def test_at_most_alpha_of_the_inliers_are_called_outliers(energy: Energy) -> None:
    assert promise_excess(lambda d, x: d.predict(x, 0.1), energy=energy) < LIMIT


def without_one(detector: Detector, x: Tensor) -> Tensor:
    """No + 1: the share of calibration scores above, compared with α."""
    scores, kept = detector.outlier_scores(x), detector.calibration
    assert kept is not None
    return (kept >= scores.unsqueeze(1)).double().mean(1) <= 0.1


def one_rank_too_many(detector: Detector, x: Tensor) -> Tensor:
    """The quantile off by one."""
    return detector.p_value(x) * 41 < detector.ranks(0.1) + 1.5


@pytest.mark.parametrize("bug", [without_one, one_rank_too_many])
def test_an_off_by_one_breaks_the_promise_and_is_caught(bug: Verdicts) -> None:
    assert caught(lambda b: promise_excess(b, splits=500), bug)


def test_calibrating_on_training_points_breaks_the_promise_and_is_caught() -> None:
    """The guarantee needs points that the energy has not seen: an energy that fits them exactly
    breaks it.
    """

    def overfitted(detector: Detector, x: Tensor) -> Tensor:
        seen = torch.randn(40, 2, generator=seeded(1))
        memory = Function(lambda y: torch.cdist(y, seen).min(1).values.round(decimals=3), real(2))
        return Detector(memory).fit(seen).predict(x, 0.1)

    assert caught(promise_excess, overfitted)


def exceeding(
    choose: Callable[[int], int], count: int = 200, alpha: float = 0.1, delta: float = 0.1
) -> float:
    """z by which the share of calibration sets whose true rate exceeds alpha is above delta, for
    uniform scores.

    The true rate of "above the r-th largest" is 1 minus that threshold.
    """
    thresholds = (
        torch.rand(2000, count, generator=seeded(2))
        .sort(1, descending=True)
        .values[:, choose(count) - 1]
    )
    over = float((1 - thresholds > alpha).double().mean())
    return (over - delta) / math.sqrt(delta * (1 - delta) / 2000)


def test_the_conditional_promise_fails_for_at_most_a_share_delta_of_calibration_sets() -> None:
    detector = Detector(BOWL, calibration=torch.rand(200, generator=seeded(0)))
    found = exceeding(lambda n: detector.ranks(0.1, "training-conditional", 0.1))
    assert found < LIMIT
    assert caught(
        exceeding, lambda n: detector.ranks(0.1)
    )  # the marginal rank fails for half of them
    assert caught(exceeding, lambda n: detector.ranks(0.1, "training-conditional", 0.1) + 1)


def test_conditional_verdicts_are_those_above_the_rank() -> None:
    g = seeded(3)
    detector, x = (
        Detector(BOWL).fit(torch.randn(300, 2, generator=g)),
        2 * torch.randn(500, 2, generator=g),
    )
    ranks = detector.ranks(0.05, "training-conditional", 0.01)
    assert detector.calibration is not None and 1 <= ranks < detector.ranks(0.05)
    threshold = detector.calibration.sort(descending=True).values[ranks - 1]
    assert torch.equal(
        detector.predict(x, 0.05, guarantee="training-conditional", delta=0.01),
        detector.outlier_scores(x) > threshold,
    )


def false_discoveries(verdicts: Verdicts) -> float:
    """z by which the mean share of inliers among what is called exceeds 0.2, batches half
    outliers.
    """
    g, shares = seeded(4), []
    for _ in range(150):
        detector = Detector(BOWL).fit(torch.randn(199, 2, generator=g))
        called = verdicts(
            detector,
            torch.cat([torch.randn(80, 2, generator=g), 3 * torch.randn(20, 2, generator=g)]),
        )
        shares.append(float(called[:80].sum()) / max(int(called.sum()), 1))
    return float((np.mean(shares) - 0.2) / (np.std(shares, ddof=1) / math.sqrt(len(shares))))


def test_false_discoveries_stay_under_alpha() -> None:
    assert false_discoveries(lambda d, x: d.predict(x, 0.2, guarantee="fdr")) < LIMIT
    assert caught(
        false_discoveries, lambda d, x: d.predict(x, 0.2)
    )  # p ≤ α one by one promises something else


def test_outliers_are_found_and_reported_with_their_p_values() -> None:
    detector = Detector(BOWL).fit(torch.randn(999, 2, generator=seeded(1)))
    far = torch.tensor([[9.0, 9.0], [0.0, 0.0], [0.0, -7.0]])
    assert detector.predict(far, 0.01).tolist() == [True, False, True]
    assert detector.p_value(far).tolist() == [1 / 1000, 1.0, 1 / 1000]
    assert torch.equal(detector.outlier_scores(far), energy_values(BOWL, far))


def test_scores_that_learn_take_every_other_point_or_a_reference() -> None:
    g = seeded(5)
    x, other = torch.randn(100, 2, generator=g), torch.randn(40, 2, generator=g)
    split, given = (
        Detector(BOWL, "typicality").fit(x),
        Detector(BOWL, "typicality").fit(x, reference=other),
    )
    assert split.calibration_size == 50 and given.calibration_size == 100
    assert torch.equal(split.statistics["median"], energy_values(BOWL, x[::2]).median())
    assert split.calibration is not None
    assert torch.equal(
        split.calibration, (energy_values(BOWL, x[1::2]) - split.statistics["median"]).abs()
    )
    assert torch.equal(given.statistics["median"], energy_values(BOWL, other).median())


def test_learning_from_the_calibration_points_breaks_the_promise_and_is_caught() -> None:
    """Why the reference is apart: a calibration point is its own nearest neighbour, and every other
    inlier an outlier.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Function(
            torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1), torch.nn.Flatten(0)),
            real(2),
        )
    x, fresh = torch.randn(400, 2, generator=seeded(6)), torch.randn(400, 2, generator=seeded(7))
    score = outlier_score_from_dict({"name": "knn", "neighbours": 1})
    with pytest.raises(ValueError, match=r"all 400 .* are among the points that the score"):
        Detector(net, score).fit(x, reference=x)
    called = [
        Detector(net, score).fit(x, reference=r).predict(fresh, 0.1).double().mean()
        for r in (None, x + 1e-6)
    ]
    assert called[0] < 0.17 < 0.5 < called[1]


def test_a_verdict_does_not_depend_on_the_company() -> None:
    """Row by row, in any order, in any batch: also for a module left in training mode with batch
    norm.
    """
    net = torch.nn.Sequential(
        torch.nn.Linear(2, 8), torch.nn.BatchNorm1d(8), torch.nn.Tanh(), torch.nn.Linear(8, 1)
    )
    net.train()
    energy = Function(torch.nn.Sequential(net, torch.nn.Flatten(0)), real(2))
    before = {name: b.clone() for name, b in energy.named_buffers()}
    g = seeded(3)
    detector = Detector(energy).fit(torch.randn(99, 2, generator=g))
    x = 2 * torch.randn(40, 2, generator=g)
    together = detector.p_value(x)
    assert torch.equal(together, torch.cat([detector.p_value(row) for row in x.split(1)]))
    assert torch.equal(together, detector.p_value(x.flip(0)).flip(0))
    assert net.training and all(torch.equal(b, before[name]) for name, b in energy.named_buffers())


def test_an_energy_of_the_whole_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="moving one point changed the score of another"):
        Detector(lambda x: (x - x.mean(0)).square().sum(1)).fit(
            torch.randn(50, 2, generator=seeded(0))
        )


# ----------------------------------------------------------------------------------------- refusals


def test_nothing_is_promised_before_fit() -> None:
    bare = Detector(BOWL)
    for use in (bare.p_value, bare.predict):
        with pytest.raises(
            ValueError, match=r"seen no calibration points; .*; call detector = detector.fit"
        ):
            use(torch.zeros(1, 2))
    with pytest.raises(ValueError, match="seen no calibration points"):
        Detector(BOWL, "typicality").outlier_scores(torch.zeros(1, 2))
    assert (
        bare.fit(torch.randn(30, 2, generator=seeded(0))) is not bare and bare.calibration is None
    )


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, 5.0, math.nan])
def test_rates_lie_inside_the_unit_interval(alpha: float) -> None:
    detector = Detector(BOWL).fit(torch.randn(99, 2, generator=seeded(0)))
    with pytest.raises(ValueError, match=r"a false-alarm rate lies in \(0, 1\)"):
        detector.predict(torch.zeros(1, 2), alpha)
    with pytest.raises(ValueError, match=r"a false-alarm rate lies in \(0, 1\)"):
        detector.predict(torch.zeros(1, 2), guarantee="training-conditional", delta=alpha)


def test_too_few_calibration_points_are_refused_with_the_count_that_suffices() -> None:
    x = torch.randn(100, 2, generator=seeded(0))
    cases = [
        (19, 0.05, "marginal"),
        (9, 0.1, "marginal"),
        (3, 0.3, "marginal"),
        (99, 0.01, "fdr"),
        (59, 0.05, "training-conditional"),
    ]
    for enough, alpha, guarantee in cases:
        Detector(BOWL).fit(x[:enough]).predict(x, alpha, guarantee=guarantee)
        with pytest.raises(
            ValueError,
            match=rf"{enough - 1} calibration energies cannot promise .* at least {enough} are",
        ):
            Detector(BOWL).fit(x[: enough - 1]).predict(x, alpha, guarantee=guarantee)


def test_points_that_cannot_be_scored_are_refused() -> None:
    x = torch.randn(30, 2, generator=seeded(0))
    bad = x.clone()
    bad[[3, 7], 0] = math.nan
    with pytest.raises(ValueError, match="2 of 30 points are not finite"):
        Detector(BOWL).fit(bad)
    detector = Detector(BOWL).fit(x)
    with pytest.raises(ValueError, match="2 of 30 points are not finite"):
        detector.outlier_scores(bad)
    with pytest.raises(ValueError, match="event shape"):
        detector.predict(torch.zeros(4, 3))
    with pytest.raises(ValueError, match="1 of 20 calibration energies are not finite"):
        Detector(BOWL, calibration=torch.tensor([math.inf] + 19 * [0.0]))
    with pytest.raises(ValueError, match="vector"):
        Detector(BOWL, calibration=torch.zeros(4, 2))
    with pytest.raises(ValueError, match="30 of 30 energies are not finite"):
        Detector(Function(lambda x: x.sum(1) * math.nan, real(2))).outlier_scores(x)
    anything = Detector(lambda x: x.flatten(1).square().sum(1)).fit(
        x
    )  # a domain without a shape: calibration knows it
    with pytest.raises(
        ValueError, match=r"event shape \(3,\); the detector was calibrated on \(2,\)"
    ):
        anything.predict(torch.zeros(4, 3))


@pytest.mark.parametrize("ask", ["outlier_scores", "p_value", "predict"])
def test_what_is_no_batch_of_points_is_refused_in_three_clauses(ask: str) -> None:
    detector = Detector(BOWL).fit(torch.randn(30, 2, generator=seeded(0)))
    for wrong in (
        None,
        [[0.0, 0.0]],
        np.zeros((3, 2)),
        torch.tensor(1.0),
        torch.zeros(0, 2),
        torch.zeros(3, 2).long(),
    ):
        with pytest.raises(
            ValueError,
            match=r"points came as .*; a floating point tensor \(B, \*event\) .*; convert it",
        ):
            getattr(detector, ask)(wrong)


def test_points_of_another_precision_than_the_weights_are_refused_in_three_clauses() -> None:
    x, said = (
        torch.randn(40, 2, generator=seeded(0)),
        r"points are torch.float64 and the weights .* torch.float32; .*; convert",
    )
    for score in ("energy", "typicality"):
        detector = Detector(lowland.nets.MLP(real(2), hidden=(4,)), score)
        with pytest.raises(ValueError, match=said):
            detector.fit(x.double())
        with pytest.raises(
            ValueError, match=r"float64 and the detector was calibrated on .*float32"
        ):
            detector.fit(x).predict(x.double(), 0.1)
    assert (
        Detector(BOWL).fit(x.double()).predict(x.double()).dtype == torch.bool
    )  # no weights, nothing to clash with


def test_labels_and_guarantees_that_do_not_fit_are_refused() -> None:
    x = torch.randn(30, 2, generator=seeded(0))
    with pytest.raises(ValueError, match="one per point is needed"):
        Detector(BOWL, "typicality").fit(x, labels=torch.zeros(29))
    with pytest.raises(ValueError, match="at least 2 and 1 are needed"):
        Detector(BOWL, "typicality").fit(x[:1])
    with pytest.raises(ValueError, match="marginal, training-conditional or fdr"):
        Detector(BOWL).fit(x).predict(x, guarantee="always")
    with pytest.raises(ValueError, match="did you mean 'typicality'"):
        Detector(BOWL, "typically")


# ----------------------------------------------------------------------------------------- warnings


def test_points_of_another_preparation_are_warned_of() -> None:
    g = seeded(8)
    detector = Detector(lambda x: x.flatten(1).square().sum(1)).fit(
        torch.rand(300, 1, 6, 6, generator=g)
    )
    fresh = torch.rand(100, 1, 6, 6, generator=g)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        detector.predict(fresh)
        detector.predict(fresh[:1])
        detector.predict(torch.cat([fresh, 100 * fresh[:20]]))  # a few outliers are what it is for
    with pytest.warns(UserWarning, match="the largest number of a point is 25"):
        detector.predict(255 * fresh)
    with pytest.warns(UserWarning, match="the deviation of a point is"):
        detector.predict(0.5 + 0.3 * (fresh - 0.5))
    with pytest.warns(UserWarning, match="the mean of a point is"):
        detector.predict((fresh + 0.4).clamp(max=1.0))


# --------------------------------------------------------------------------------------------- file


@pytest.mark.parametrize("score", ["energy", "typicality", "background"])
def test_a_file_holds_all_but_the_energy(tmp_path: Path, score: str) -> None:
    g = seeded(9)
    detector = Detector(BOWL, score).fit(torch.randn(200, 2, generator=g))
    path = detector.save(tmp_path / "d.safetensors")
    again, x = Detector.load(path, BOWL), 2 * torch.randn(50, 2, generator=g)
    assert [p.name for p in tmp_path.iterdir()] == ["d.safetensors"]
    assert (
        torch.equal(again.p_value(x), detector.p_value(x))
        and again.outlier_score == detector.outlier_score
        and again.summary == detector.summary
    )
    with pytest.raises(
        ValueError,
        match=r"gives the calibration points .* other scores .*; load that one, or fit again",
    ):
        Detector.load(path, 2 * BOWL)


def test_settings_survive_the_file(tmp_path: Path) -> None:
    for name in OUTLIER_SCORES:
        assert outlier_score_from_dict(
            json.loads(json.dumps(outlier_score_to_dict(get_outlier_score(name))))
        ) == get_outlier_score(name)
    assert outlier_score_from_dict(
        json.loads(json.dumps(outlier_score_to_dict(Multiscale((0.5, 1.0), 0.2))))
    ) == Multiscale((0.5, 1.0), 0.2)


def test_files_that_are_no_detector_are_refused(tmp_path: Path) -> None:
    detector = Detector(BOWL, Typicality()).fit(torch.randn(40, 2, generator=seeded(0)))
    path = detector.save(tmp_path / "d.safetensors")
    save_file(load_file(path), tmp_path / "bare.safetensors")
    (tmp_path / "text.safetensors").write_text("no")
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:-9])
    for name in ("bare", "text", "cut", "missing"):
        with pytest.raises(ValueError, match=f"{name}.safetensors holds no detector"):
            Detector.load(tmp_path / f"{name}.safetensors", BOWL)
    save_file(
        load_file(path), tmp_path / "later.safetensors", {"detector": json.dumps({"format": 9})}
    )
    with pytest.raises(ValueError, match="of format 9; this lowland reads 1; fit it again"):
        Detector.load(tmp_path / "later.safetensors", BOWL)
    about: dict[str, Any] = {"format": 1, "outlier_score": {"name": "descent"}, "summary": None}
    strange = (
        {"outlier_score": {"name": "nope"}},
        {"outlier_score": {"name": "descent", "pace": 3}},
        {"summary": {"a": 1}},
        {"summary": None, "outlier_score": 3},
    )
    for wrong in strange:
        save_file(
            load_file(path),
            tmp_path / "strange.safetensors",
            {"detector": json.dumps(about | wrong)},
        )
        with pytest.raises(
            ValueError, match=r"strange.safetensors holds no detector .*; .*; fit and save one"
        ):
            Detector.load(tmp_path / "strange.safetensors", BOWL)
    with pytest.raises(ValueError, match="could not be written"):
        detector.save(tmp_path / "nowhere" / "d.safetensors")
    with pytest.raises(ValueError, match="seen no calibration points"):
        Detector(BOWL).save(tmp_path / "unfitted.safetensors")
    assert not (tmp_path / "unfitted.safetensors").exists()


def test_a_score_of_ones_own_works_and_is_refused_by_files(tmp_path: Path) -> None:
    class Height(OutlierScore):
        def compute(self, energy: Energy, x: Tensor, statistics: Mapping[str, Tensor]) -> Tensor:
            return x[:, 0]

    detector = Detector(BOWL, Height()).fit(torch.randn(40, 2, generator=seeded(0)))
    assert detector.predict(torch.tensor([[9.0, 0.0], [-9.0, 0.0]])).tolist() == [True, False]
    with pytest.raises(
        ValueError, match=r"Height is a score of your own; .*; keep the calibration scores"
    ):
        detector.save(tmp_path / "own.safetensors")
    assert not list(tmp_path.iterdir())


def test_scores_known_already_make_a_detector() -> None:
    kept = torch.rand(99, generator=seeded(0))
    detector, x = Detector(BOWL, calibration=kept), torch.rand(20, 2, generator=seeded(1))
    assert torch.equal(detector.p_value(x), p_values(kept, energy_values(BOWL, x)))
    assert torch.equal(detector.p_value_of_scores(detector.outlier_scores(x)), detector.p_value(x))


# ------------------------------------------------------------------------------------ real energies


def over_splits(
    scores: Tensor, count: int, verdicts: Callable[[Detector, Tensor], Tensor], splits: int = 200
) -> Tensor:
    """The false-alarm rates on all other points over random calibration splits of scores that were
    computed once.
    """
    g, rates = seeded(11), []
    for _ in range(splits):
        order = torch.randperm(len(scores), generator=g)
        detector = Detector(BOWL, calibration=scores[order[:count]])
        rates.append(
            verdicts(detector, detector.p_value_of_scores(scores[order[count:]])).double().mean()
        )
    return torch.stack(rates)


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1])
@pytest.mark.parametrize("score", ["energy", "typicality", "msp", "mahalanobis"])
def test_promises_hold_for_real_energies_over_200_splits(alpha: float, score: str) -> None:
    """The digits that come with lowland: points that its energy was not trained on, scored once,
    split 200 times.

    marginal: the mean exceeds α by less than 5 standard errors; conditional: the share of splits
    beyond α exceeds δ by less.
    """
    data, energy = lowland.load_data("digits"), lowland.load("digits").energy
    pool = torch.cat([data.calibration.x, data.test.x])
    scores = (
        Detector(energy, score)
        .fit(pool[:40], reference=data.train.x, labels=data.train.y)
        .outlier_scores(pool)
    )
    count = {0.01: 200, 0.05: 100, 0.1: 50}[alpha]
    delta = 0.15  # of 200 points, 1 % can be promised with probability 0.85
    for kept in (scores, (scores / scores.std() * 4).round()):  # as they are, and with many ties
        r = over_splits(
            kept, count, lambda d, p: call_outliers(p, count, d.ranks(alpha), alpha, "marginal")
        )
        assert (r.mean() - alpha) / (r.std() / math.sqrt(200)) < LIMIT
        r = over_splits(
            kept,
            200,
            lambda d, p: call_outliers(
                p, 200, d.ranks(alpha, "training-conditional", delta), alpha, "training-conditional"
            ),
        )
        assert (float((r > alpha).double().mean()) - delta) / math.sqrt(
            delta * (1 - delta) / 200
        ) < LIMIT
    planted = over_splits(
        scores,
        count,
        lambda d, p: call_outliers(p, count, d.ranks(alpha) + 1, alpha, "marginal"),
        1000,
    )  # no + 1
    assert (planted.mean() - alpha) / (planted.std() / math.sqrt(1000)) > LIMIT
