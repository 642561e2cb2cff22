"""An energy that is trained already as an outlier detector of scikit-learn: fit calibrates, nothing
is trained.
"""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from lowland.energy import Energy
from lowland.interop.adapters import to_points
from lowland.interop.sklearn.arrays import Array
from lowland.interop.sklearn.verdicts import ConformalOutlierMixin
from lowland.tasks.detection.detector import Detector
from lowland.tasks.detection.scores import OutlierScore


@dataclass(eq=False, repr=False)
class CalibratedEnergy(ConformalOutlierMixin, BaseEstimator):
    """Outlier detector from any energy and score of lowland; fit sets the threshold on rows that
    the energy has not seen.

    A row is called an outlier when its conformal p-value is at most `false_alarms`. energy: an
    Energy or any function (N, D) → (N,) of float32 rows; outlier_score: the score of
    `lowland.Detector`. Attributes: detector_ (a `lowland.Detector`), offset_, n_features_in_. With
    fewer rows than the promise needs nothing is called: it warns, and offset_ is −∞.

    >>> rows = np.random.RandomState(0).normal(size=(200, 2))
    >>> CalibratedEnergy(lambda x: x.square().sum(1)).fit(rows).predict([[0, 0], [5, 5]])
    array([ 1, -1])
    """

    energy: Energy | Callable[[Tensor], Tensor] | None = None
    _: KW_ONLY
    outlier_score: str | OutlierScore = "energy"
    false_alarms: float = 0.05

    def fit(self, X: ArrayLike, y: object = None) -> "CalibratedEnergy":
        """Calibrate on rows X (N, D) of inliers."""
        rows = validate_data(self, X, dtype=np.float32, ensure_min_samples=2)
        if self.energy is None:
            raise ValueError(
                "no energy was given; a function (N, D) -> (N,) or an Energy is needed; set energy"
            )
        points = to_points(self.energy, rows)
        self.detector_ = Detector(self.energy, self.outlier_score).fit(points)
        assert self.detector_.calibration is not None
        self.offset_ = self._offset(self.detector_.calibration.numpy(force=True))
        return self

    def score_samples(self, X: ArrayLike) -> Array:
        """Return minus the outlier score (N,): low is unlikely."""
        check_is_fitted(self)
        rows = validate_data(self, X, reset=False, dtype=np.float32)
        scores = self.detector_.outlier_scores(to_points(self.energy, rows))
        return -scores.cpu().double().numpy()
