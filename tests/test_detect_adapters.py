"""Our detectors in other libraries, judged by their own checks and metrics."""

import sys
import unittest
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from contract.cases import seeded
from sklearn.metrics import roc_auc_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from lowland import Detector, Function, box
from lowland.interop.pyod import to_pyod
from lowland.interop.pytorch_ood import to_pytorch_ood
from lowland.interop.sklearn import CalibratedEnergy
from lowland.metrics import auroc


class Squares:
    """An energy as a user's callable; its name is the same in every process, so that tests can be
    shared out.
    """

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x.square().flatten(1).sum(1)

    def __repr__(self) -> str:
        return "squares"


squares = Squares()


@pytest.mark.filterwarnings("ignore:.*rows for calibration cannot promise:UserWarning")
@parametrize_with_checks(
    [CalibratedEnergy(squares), CalibratedEnergy(squares, outlier_score="typicality")]
)
def test_scikit_learns_checks(estimator: Any, check: Any) -> None:
    try:
        check(estimator)
    except unittest.SkipTest as reason:
        pytest.skip(str(reason))


def test_verdicts_are_those_of_the_detector() -> None:
    x, fresh = (
        torch.randn(200, 3, generator=seeded(0)),
        2 * torch.randn(300, 3, generator=seeded(1)),
    )
    model = CalibratedEnergy(squares, false_alarms=0.1).fit(x.numpy())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = Detector(squares).fit(x).predict(fresh, 0.1).numpy()
    assert ((model.predict(fresh.numpy()) == -1) == expected).all()
    assert ((model.p_values(fresh.numpy()) <= 0.1) == expected).all()
    images = CalibratedEnergy(Function(squares, box(-9.0, 9.0, 1, 3, 1))).fit(x.numpy())
    assert images.detector_.summary.shape == (1, 3, 1)
    with pytest.warns(
        UserWarning, match="9 rows for calibration cannot promise 0.05: 19 are needed"
    ):
        CalibratedEnergy(squares).fit(x[:9].numpy())
    with pytest.raises(ValueError, match="no energy was given"):
        CalibratedEnergy().fit(x.numpy())


def test_pyod_runs_its_metrics_on_our_detector() -> None:
    data = pytest.importorskip("pyod.utils.data")
    x, fresh, _, y = data.generate_data(
        n_train=300, n_test=200, n_features=4, contamination=0.1, random_state=0
    )
    centre = torch.from_numpy(np.median(x, 0)).float()
    model = to_pyod(lambda x: (x - centre).square().sum(1), "typicality").fit(x)
    scores = model.decision_function(fresh)
    assert np.allclose(
        scores, model.detector_.outlier_scores(torch.from_numpy(fresh).float()).numpy()
    )
    printed = roc_auc_score(y, scores)
    low, high = (torch.from_numpy(scores[y == k]) for k in (0, 1))
    assert auroc(low, high).value == pytest.approx(printed, abs=1e-9) and printed > 0.95
    data.evaluate_print("lowland", y, scores)
    assert model.predict(x).mean() == pytest.approx(0.1, abs=0.01) and model.predict_proba(
        fresh
    ).shape == (200, 2)
    assert model.predict_confidence(fresh).shape == (200,)
    assert 0 <= model.fit_predict_score(fresh, y) <= 1


def test_pytorch_ood_runs_its_metrics_on_our_detector() -> None:
    if not hasattr(torch.ops.torchvision, "nms"):
        try:
            library = torch.library.Library("torchvision", "DEF")
            for name in ("nms", "qnms"):
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        except RuntimeError:
            pass  # there already
    pytest.importorskip("pytorch_ood")
    from pytorch_ood.api import RequiresFittingException
    from pytorch_ood.metrics import OODMetrics

    g = seeded(0)
    x, low, high = (
        torch.randn(200, 3, generator=g),
        torch.randn(150, 3, generator=g),
        2 * torch.randn(80, 3, generator=g),
    )
    adapted = to_pytorch_ood(Detector(squares, "typicality"))
    with pytest.raises(RequiresFittingException):
        adapted(low)
    labels = torch.zeros(200, dtype=torch.long)
    labels[::10] = -1  # marked as outliers: not for the fit
    loader = [(part, y) for part, y in zip(x.split(50), labels.split(50), strict=True)]
    assert adapted.fit(loader).detector.calibration_size == 90
    metrics = OODMetrics()
    metrics.update(adapted(low), torch.zeros(150, dtype=torch.long))
    metrics.update(adapted(high), -torch.ones(80, dtype=torch.long))
    ours = auroc(adapted.detector.outlier_scores(low), adapted.detector.outlier_scores(high)).value
    assert metrics.compute()["AUROC"] == pytest.approx(ours, abs=1e-5)


@pytest.mark.parametrize(
    ("module", "make"),
    [("pyod", lambda: to_pyod(squares)), ("pytorch_ood", lambda: to_pytorch_ood(None))],
)
def test_a_missing_library_is_named(
    module: str, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [module, f"{module}.models", f"{module}.models.base", f"{module}.api"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"is not installed; .*; run pip install"):
        make()
