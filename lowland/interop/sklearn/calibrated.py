"""An energy that is trained already as an outlier detector of scikit-learn: fit calibrates, nothing
is trained.
"""

import math
import warnings
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from lowland.interop.sklearn.arrays import Array
from lowland.metrics import calibration_size
from lowland.tasks.detection.detector import Detector


class CalibratedEnergy(OutlierMixin, BaseEstimator):
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

    def __init__(
        self, energy: Any = None, *, outlier_score: Any = "energy", false_alarms: float = 0.05
    ) -> None:
        self.energy = energy
        self.outlier_score = outlier_score
        self.false_alarms = false_alarms

    def fit(self, X: Any, y: Any = None) -> "CalibratedEnergy":
        """Calibrate on rows X (N, D) of inliers."""
        x = self._points(validate_data(self, X, dtype=np.float32, ensure_min_samples=2))
        if self.energy is None:
            raise ValueError(
                "no energy was given; a function (N, D) -> (N,) or an Energy is needed; set energy"
            )
        self.detector_ = Detector(self.energy, self.outlier_score).fit(x)
        kept: Any = self.detector_.calibration
        if len(kept) < (need := calibration_size(self.false_alarms)):
            warnings.warn(
                f"{len(kept)} rows for calibration cannot promise {self.false_alarms}: {need} are "
                "needed",
                stacklevel=2,
            )
            self.offset_ = -math.inf
        else:
            self.offset_ = -float(
                kept.sort(descending=True).values[self.detector_.ranks(self.false_alarms) - 1]
            )
        return self

    def _points(self, x: Array) -> torch.Tensor:
        return torch.from_numpy(x).view(
            len(x), *(getattr(getattr(self.energy, "domain", None), "shape", ()) or x.shape[1:])
        )

    def score_samples(self, X: Any) -> Array:
        """−score (N,): low is unlikely."""
        check_is_fitted(self)
        return (
            -self.detector_.outlier_scores(
                self._points(validate_data(self, X, reset=False, dtype=np.float32))
            )
            .double()
            .numpy()
        )

    def decision_function(self, X: Any) -> Array:
        """score_samples − offset_ (N,): below 0 for outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> Array:
        """−1 for outliers and 1 for inliers (N,)."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def p_values(self, X: Any) -> Array:
        """Conformal p-values (N,): at most α for at most about a share α of inliers, for every
        α.
        """
        return self.detector_.p_value_of_scores(torch.from_numpy(-self.score_samples(X))).numpy()
