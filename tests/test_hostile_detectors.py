"""Promises of detectors when they are used by mistake: repeated points, another precision, an
energy that was trained on, rates that are none, rows of another width.
"""

import math
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lowland import Detector, Function, box
from lowland.domain import binary, real
from lowland.interop.adapters import to_points
from lowland.interop.sklearn import CalibratedEnergy
from lowland.nets import MLP, ClassifierEnergy
from lowland.tasks.detection import OUTLIER_SCORES
from lowland.tasks.detection.class_scores import KNN, ODIN
from lowland.tasks.detection.scores import Background, Descent, Multiscale, fit_gaussians
from tests.test_hostile_metrics import refuse, seeded

CLASS_SCORES = ("msp", "max-logit", "logit-energy", "odin", "mahalanobis", "knn")


def bowl(x: Tensor) -> Tensor:
    return x.flatten(1).square().sum(1)


def points(seed: int, count: int = 200, dims: int = 3) -> Tensor:
    return torch.randn(count, dims, generator=seeded(seed))


def net(seed: int = 0) -> MLP:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MLP(real(3), hidden=(8,), quadratic_weight=0.5)


def classifier(seed: int = 0) -> ClassifierEnergy:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 4))
    return ClassifierEnergy(layers, 4, real(3))


def scale_weights(energy: nn.Module) -> None:
    for p in energy.parameters():
        p.data.mul_(3)


def load_others(energy: nn.Module) -> None:
    energy.load_state_dict({k: 3 * v for k, v in energy.state_dict().items()}, assign=True)


def train_on(energy: nn.Module) -> None:
    optimizer = torch.optim.SGD(energy.parameters(), lr=0.5)
    for _ in range(5):
        optimizer.zero_grad()
        energy(points(9)).mean().backward()
        optimizer.step()


# ---- the energy is the one that was calibrated -------------------------------------------------


@pytest.mark.parametrize("change", [scale_weights, load_others, train_on])
@pytest.mark.parametrize("given", ["points", "scores"])
def test_an_energy_that_was_trained_on_is_refused_at_every_use(
    change: Callable[[nn.Module], None], given: str, tmp_path: Path
) -> None:
    energy, x = net(), points(1)
    detector = Detector(energy).fit(points(0))
    if given == "scores":
        detector = Detector(energy, calibration=detector.calibration)
    scores = detector.outlier_scores(x)
    path = detector.save(tmp_path / "detector.safetensors")
    Detector.load(path, energy).predict(x)
    change(energy)
    for use in (
        lambda: detector.predict(x),
        lambda: detector.p_value(x),
        lambda: detector.outlier_scores(x),
        lambda: detector.p_value_of_scores(scores),
        lambda: detector.save(path),
        lambda: Detector.load(path, energy),
    ):
        assert "a detector belongs to its energy" in refuse(use)
    detector.fit(points(0)).predict(x)


@pytest.mark.parametrize("score", [s for s in OUTLIER_SCORES if s in CLASS_SCORES])
def test_every_score_of_a_classifier_knows_its_classifier(score: str) -> None:
    energy = classifier()
    detector = Detector(energy, score).fit(points(0), labels=torch.arange(200) % 4)
    detector.predict(points(1))
    scale_weights(energy)
    assert "belongs to its energy" in refuse(lambda: detector.predict(points(1)))


def test_small_offsets_are_seen_below_a_large_one() -> None:
    offset = [1000.0]
    energy = Function(lambda x: bowl(x) + offset[0])
    detector = Detector(energy).fit(points(0))
    offset[0] += 1
    assert "off by 1" in refuse(lambda: detector.predict(points(1)))


def test_what_a_detector_holds_is_its_own() -> None:
    scores = torch.rand(99, generator=seeded(0))
    statistics = {"median": torch.tensor(1.0)}
    for detector in (
        Detector(bowl, calibration=scores),
        Detector(bowl, "typicality", calibration=scores, statistics=statistics),
    ):
        before = detector.p_value(points(0))
        scores.zero_()
        statistics["median"].zero_()
        assert torch.equal(detector.p_value(points(0)), before)
        scores.copy_(torch.rand(99, generator=seeded(0)))
    seen = points(1)
    fitted = Detector(bowl, "background").fit(seen)
    before = fitted.p_value(points(0))
    seen.zero_()
    assert torch.equal(fitted.p_value(points(0)), before)


def test_a_file_that_was_changed_is_no_detector(tmp_path: Path) -> None:
    path = Detector(bowl, "typicality").fit(points(0)).save(tmp_path / "d.safetensors")
    with safe_open(str(path), "pt") as file:
        about = file.metadata()
    for name in [name for name, tensor in load_file(path).items() if tensor.numel()]:
        tensors = load_file(path)
        tensors[name] = tensors[name] + 1
        save_file(tensors, tmp_path / "e.safetensors", about)
        assert "holds no detector" in refuse(
            lambda: Detector.load(tmp_path / "e.safetensors", bowl)
        )
    for text in ("[" * 10000, "{}", '{"format": 1}', "NaN", '{"format": 2}'):
        save_file(load_file(path), tmp_path / "e.safetensors", {"detector": text})
        refuse(lambda: Detector.load(tmp_path / "e.safetensors", bowl))
    refuse(lambda: Detector.load(tmp_path, bowl))


# ---- calibration points ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "repeat",
    [
        lambda x: x.repeat(20, 1),
        lambda x: x.repeat_interleave(7, 0),
        lambda x: x[torch.randint(len(x), (900,), generator=seeded(1))],
        lambda x: torch.cat([x, x[:4]]),
        lambda x: torch.cat([x, -0.0 * x[:9]]),
    ],
)
def test_repeated_calibration_points_are_counted_and_said(
    repeat: Callable[[Tensor], Tensor],
) -> None:
    for x in (points(0, 30), points(0, 30).double(), points(0, 30).view(30, 1, 3, 1)):
        many = repeat(x.reshape(30, 3)).view(-1, *x.shape[1:])
        for scaled in (many, (100 * many).round()):
            with pytest.warns(UserWarning, match=r"\d+ of \d+ calibration points repeat others"):
                Detector(bowl).fit(scaled)
    few = torch.cat([torch.arange(10.0).repeat(100), torch.tensor([77.0])])
    with pytest.warns(UserWarning, match="990 of 1001 calibration points .* of which these are 11"):
        Detector(bowl).fit(few[:, None])
    for scores in (few, points(0, 30)[:, 0].repeat(50)):
        with pytest.warns(UserWarning, match="calibration scores equal others"):
            Detector(bowl, calibration=scores)


def test_data_of_few_values_and_a_chance_repeat_are_no_mistake() -> None:
    bits = torch.randint(2, (500, 3), generator=seeded(0)).float()
    x = points(1, 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Detector(Function(bowl, binary(3))).fit(bits)
        Detector(bowl).fit(torch.cat([x, x[:3]]))
        Detector(Function(bowl, binary(3)), calibration=bits.sum(1))
    with pytest.warns(UserWarning, match="500 of 1000"):
        Detector(bowl).fit(torch.cat([points(0, 500), points(0, 500)]))


def test_points_that_the_score_was_fitted_to_do_not_calibrate_it() -> None:
    x = points(0)
    energy = classifier()
    assert "are among the points" in refuse(lambda: Detector(energy, "knn").fit(x, reference=x))
    assert "are among" in refuse(
        lambda: Detector(energy, "mahalanobis").fit(x[:50], reference=x.double().float())
    )
    with pytest.warns(UserWarning, match="repeat others"), pytest.raises(ValueError):
        Detector(energy, "knn").fit(x.repeat_interleave(2, 0))
    with pytest.warns(UserWarning, match="100 of 200"):
        Detector(energy, "knn").fit(x, reference=torch.cat([x[:100], points(5)]))


@pytest.mark.parametrize(
    "bad",
    [
        torch.full((99,), math.nan),
        torch.full((99,), math.inf),
        torch.zeros(0),
        torch.zeros(9, 1),
        torch.zeros(9, dtype=torch.long),
        torch.zeros(9, dtype=torch.bool),
        torch.zeros(9) + 0j,
        [0.0, 1.0],
        "scores",
    ],
)
def test_calibration_scores_are_a_finite_vector(bad: object) -> None:
    refuse(lambda: Detector(bowl, calibration=bad))  # type: ignore[arg-type]


# ---- one precision -----------------------------------------------------------------------------


def test_equal_scores_of_two_precisions_raise_no_alarm() -> None:
    """Scores of few values in float64, and of the same values in float32: ties, not alarms."""
    values = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    for high, low in ((torch.float64, torch.float32), (torch.float32, torch.bfloat16)):
        scores = values[torch.randint(3, (999,), generator=seeded(0))].to(high)
        for calibration, fresh in ((scores, scores.to(low)), (scores.to(low), scores)):
            detector = Detector(bowl, calibration=calibration)
            called = detector.p_value_of_scores(fresh) <= 0.05
            assert not called.any()


def test_points_of_another_precision_than_calibration_are_refused() -> None:
    detector = Detector(bowl).fit(points(0).double())
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        assert "calibrated on torch.float64" in refuse(
            lambda dtype=dtype: detector.predict(points(1).to(dtype))
        )
    for dtype in (torch.uint8, torch.long, torch.bool, torch.complex64):
        refuse(lambda dtype=dtype: detector.predict(points(1).abs().to(dtype)))


# ---- rows of another width ---------------------------------------------------------------------


@pytest.mark.parametrize("score", ["energy", "typicality", "gradient-norm", "background"])
def test_rows_of_another_width_are_refused(score: str) -> None:
    centre = torch.ones(3)
    detector = Detector(lambda x: (x - centre).square().sum(1), score).fit(points(0))
    wrong = [points(1)[:, :1], points(1, dims=4), points(1)[:, 0], points(1).unsqueeze(1)]
    for use in (detector.outlier_scores, detector.p_value, detector.predict):
        for x in wrong:
            refuse(lambda use=use, x=x: use(x))
        for bad in (math.nan, math.inf):
            refuse(lambda use=use, bad=bad: use(points(1).fill_(bad)))
        for other in (points(1).numpy(), points(1).tolist(), None, "x"):
            refuse(lambda use=use, other=other: use(other))


def test_faces_take_rows_of_the_width_of_the_energy() -> None:
    energy = Function(bowl, box(-9.0, 9.0, 1, 3, 1))
    assert to_points(energy, points(0).numpy().astype(np.float64)).shape == (200, 1, 3, 1)
    for bad in (
        points(0)[:, :1],
        points(0)[0],
        [["a", "b", "c"]],
        [[1.0], [1.0, 2.0]],
        points(0) + 0j,
    ):
        refuse(lambda bad=bad: to_points(energy, bad if isinstance(bad, list) else bad.numpy()))
    face = CalibratedEnergy(bowl, false_alarms=np.float32(0.01)).fit(points(0, 99).numpy())
    assert face.offset_ == -Detector(bowl).fit(points(0, 99)).calibration.max()  # type: ignore


def test_channels_last_is_refused() -> None:
    energy = Function(bowl, box(0.0, 1.0, 1, 4, 6))
    images = torch.rand(50, 1, 4, 6, generator=seeded(0))
    detector = Detector(energy).fit(images)
    refuse(lambda: detector.predict(images.permute(0, 2, 3, 1)))
    refuse(lambda: detector.predict((255 * images).to(torch.uint8)))
    refuse(lambda: detector.predict(255 * images))


# ---- rates and settings --------------------------------------------------------------------------


@pytest.mark.parametrize("guarantee", ["marginal", "training-conditional", "fdr"])
def test_rates_are_read_as_numbers(guarantee: str) -> None:
    detector, x = Detector(bowl).fit(points(0, 999)), 2 * points(1)
    right = detector.predict(x, 0.1, guarantee=guarantee)
    for alpha in (np.float32(0.1), np.float64(0.1), torch.tensor(0.1), np.array(0.1)):
        assert torch.equal(detector.predict(x, alpha, guarantee=guarantee, delta=alpha / 2), right)
    for bad in ("0.05", 0, 1, True, math.nan, math.inf, -0.1, None, [0.1, 0.2], 0.1 + 0j):
        refuse(lambda bad=bad: detector.predict(x, bad, guarantee=guarantee))
        refuse(lambda bad=bad: detector.predict(x, 0.1, guarantee=guarantee, delta=bad))
        refuse(lambda bad=bad: detector.ranks(bad, guarantee))
    refuse(lambda: Detector(bowl).fit(points(0, 5)).predict(x, 0.1, guarantee=guarantee))
    for other in (None, 1, "", "FDR", ["fdr"]):
        refuse(lambda other=other: detector.predict(x, 0.1, guarantee=other))


def test_settings_of_scores_are_numbers() -> None:
    assert Descent(np.int64(3), np.float32(0.5)) == Descent(3, 0.5)
    assert KNN(np.int64(3)) == KNN(3) and Multiscale([0.5, np.float64(1)]) == Multiscale((0.5, 1.0))
    for bad in ("1", True, math.nan, 0, -1, None, 2.5 + 0j):
        for make in (
            lambda b: Descent(steps=b),
            lambda b: Descent(step_size=b),
            lambda b: Background(floor=b),
            lambda b: Multiscale(shrinkage=b),
            lambda b: Multiscale(sigmas=(0.1, b)),
            lambda b: ODIN(temperature=b),
            lambda b: KNN(neighbours=b),
            lambda b: KNN(bank=b),
        ):
            refuse(lambda make=make, bad=bad: make(bad))
    for bad in (2.5, [0.1], "ab", (0.1,)):
        refuse(lambda bad=bad: Multiscale(sigmas=bad))
    for labels in (
        torch.zeros(200),
        torch.zeros(200, dtype=torch.bool),
        torch.zeros(199).long(),
        0,
    ):
        refuse(
            lambda labels=labels: Detector(classifier(), "mahalanobis").fit(
                points(0), labels=labels
            )
        )


# ---- scales --------------------------------------------------------------------------------------


def test_scores_of_features_stay_right_far_from_the_origin_and_when_nothing_varies() -> None:
    f = torch.randn(300, 4, generator=seeded(0), dtype=torch.float64)
    y = torch.arange(300) % 3
    for scale in (1e-9, 1.0, 1e6):
        found = fit_gaussians(scale * f + 1e6 * scale, y, 0.01)
        assert torch.allclose(found["precision"] * scale**2, fit_gaussians(f, y, 0.01)["precision"])
    assert torch.isfinite(fit_gaussians(torch.ones(9, 2), y[:9], 0.01)["precision"]).all()
    near = Background().fit(Function(bowl), points(0), None)
    far = Background().fit(Function(bowl), 1e-9 * points(0).double() + 1e-3, None)
    assert torch.allclose(far["variance"] * 1e18, near["variance"], rtol=1e-2)
    wide = Background().fit(Function(bowl), points(0).double() + 1e6, None)
    assert torch.allclose(wide["variance"], near["variance"], rtol=1e-6)


def test_a_score_that_looks_at_the_batch_is_refused_whatever_its_offset() -> None:
    for energy in (
        lambda x: 50 * bowl(x - x.mean(0)) + 1e6,
        lambda x: bowl(x) + x[:1].sum(),
        lambda x: bowl(x) + (len(x) > 64) * x.sum(),
        lambda x: bowl(x) + x[-1].sum() + 1e5,
    ):
        refuse(lambda energy=energy: Detector(energy).fit(points(0)))
