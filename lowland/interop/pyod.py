"""Any energy and outlier score as a detector of PyOD."""

from typing import Any

import numpy as np
import torch

from lowland.tasks.detection.detector import Detector
from lowland.tasks.detection.scores import OutlierScore


def to_pyod(energy: Any, score: str | OutlierScore = "energy", contamination: float = 0.1) -> Any:
    """A `pyod.models.base.BaseDetector` of an energy that is trained already: `fit`,
    `decision_function`, `predict`, ...

    energy, score: as in `Detector`, which lies in `detector_` after fit with the conformal
    p-values; PyOD's own `predict` calls the share `contamination` of the rows it was fitted to.
    Rows (N, D) arrive as float32 points (N, *event). Raises ImportError without PyOD, ValueError as
    `Detector.fit` does. Source: Zhao, Nasrullah & Li (2019),
    https://www.jmlr.org/papers/v20/19-011.html

    >>> to_pyod(lambda x: x.square().sum(1)).fit(np.eye(3)).decision_function(2 * np.eye(3)).tolist()  # doctest: +SKIP
    [4.0, 4.0, 4.0]
    """
    try:
        from pyod.models.base import BaseDetector
    except ImportError as error:
        raise ImportError(
            "pyod is not installed; to_pyod makes one of its detectors; run pip install "
            "'lowland[pyod]'"
        ) from error

    class EnergyModel(BaseDetector):
        def __init__(
            self,
            energy: Any,
            outlier_score: str | OutlierScore = "energy",
            contamination: float = 0.1,
        ) -> None:
            super().__init__(contamination=contamination)
            self.energy, self.outlier_score = energy, outlier_score

        def fit(self, X: Any, y: Any = None) -> Any:  # noqa: N803
            self._set_n_classes(y)
            self.detector_ = Detector(self.energy, self.outlier_score).fit(self._points(X))
            self.decision_scores_ = self.decision_function(X)
            self._process_decision_scores()
            return self

        def decision_function(self, X: Any) -> Any:  # noqa: N803
            return self.detector_.outlier_scores(self._points(X)).double().numpy()

        def _points(self, rows: Any) -> torch.Tensor:
            x = torch.from_numpy(np.asarray(rows, dtype=np.float32))
            return x.view(
                len(x), *(getattr(getattr(self.energy, "domain", None), "shape", ()) or x.shape[1:])
            )

    return EnergyModel(energy, score, contamination)
