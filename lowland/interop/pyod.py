"""Any energy and outlier score as a detector of PyOD."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from lowland.energy import Energy
from lowland.extras import import_extra
from lowland.interop.adapters import to_points
from lowland.tasks.detection.detector import Detector
from lowland.tasks.detection.scores import OutlierScore

if TYPE_CHECKING:
    from pyod.models.base import BaseDetector


def to_pyod(
    energy: Energy | Callable[[Tensor], Tensor],
    outlier_score: str | OutlierScore = "energy",
    contamination: float = 0.1,
) -> "BaseDetector":
    """Return a `pyod.models.base.BaseDetector` of an energy that is trained already: `fit`,
    `decision_function`, `predict`, ...

    energy, outlier_score: as in `Detector`, which lies in `detector_` after fit with the conformal
    p-values; PyOD's own `predict` calls the share `contamination` of the rows it was fitted to.
    Rows (N, D) arrive as float32 points (N, *event). Raises ImportError without PyOD, ValueError as
    `Detector.fit` does. Source: Zhao, Nasrullah & Li (2019),
    https://www.jmlr.org/papers/v20/19-011.html

    >>> model = to_pyod(lambda x: x.square().sum(1)).fit(np.eye(3))  # doctest: +SKIP
    >>> model.decision_function(2 * np.eye(3)).tolist()  # doctest: +SKIP
    [4.0, 4.0, 4.0]
    """
    library = import_extra("pyod.models.base")

    class EnergyModel(library.BaseDetector):  # type: ignore[name-defined]
        def __init__(
            self,
            energy: Energy | Callable[[Tensor], Tensor],
            outlier_score: str | OutlierScore = "energy",
            contamination: float = 0.1,
        ) -> None:
            super().__init__(contamination=contamination)
            self.energy, self.outlier_score = energy, outlier_score

        def fit(self, X: ArrayLike, y: object = None) -> "EnergyModel":  # noqa: N803
            self._set_n_classes(y)
            points = to_points(self.energy, X)
            self.detector_ = Detector(self.energy, self.outlier_score).fit(points)
            self.decision_scores_ = self.decision_function(X)
            self._process_decision_scores()
            return self

        def decision_function(self, X: ArrayLike) -> np.ndarray:  # noqa: N803
            scores = self.detector_.outlier_scores(to_points(self.energy, X))
            return scores.cpu().double().numpy()

    return EnergyModel(energy, outlier_score, contamination)
