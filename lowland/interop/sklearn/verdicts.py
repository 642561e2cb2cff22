"""The base of outlier detectors: a threshold on `score_samples`, and p-values against calibration
rows.
"""

import math
import warnings

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import OutlierMixin
from sklearn.utils.validation import check_is_fitted

from lowland.interop.sklearn.arrays import Array
from lowland.metrics import alarm_ranks, calibration_size
from lowland.tasks.detection.detector import Detector


class ConformalOutlierMixin(OutlierMixin):
    """Verdicts of an estimator that has `score_samples`, `false_alarms`, and after fitting
    `offset_` and, where rows were kept for calibration, `detector_`.
    """

    false_alarms: float
    offset_: float
    detector_: Detector

    def score_samples(self, X: ArrayLike) -> Array:
        """Return minus the outlier score (N,): low is unlikely."""
        raise NotImplementedError

    def _offset(self, scores: Array) -> float:
        """Return minus the threshold above which outlier scores are called, from those (n,) of
        calibration rows; −∞, with a warning, where they are too few to promise the rate.
        """
        need = calibration_size(self.false_alarms)
        if len(scores) < need:
            warnings.warn(
                f"{len(scores)} rows for calibration cannot promise {self.false_alarms}: {need} "
                "are needed, and nothing will be called an outlier; bring more rows or raise "
                "false_alarms",
                stacklevel=3,
            )
            return -math.inf
        allowed = alarm_ranks(len(scores), self.false_alarms)
        return -float(np.sort(scores)[-allowed])

    def decision_function(self, X: ArrayLike) -> Array:
        """Return score_samples − offset_ (N,): below 0 for outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: ArrayLike) -> Array:
        """Return −1 for outliers and 1 for inliers (N,)."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def p_values(self, X: ArrayLike) -> Array:
        """Return conformal p-values (N,): at most α for at most about a share α of inliers, for
        every α.

        Raises ValueError where no rows were kept for calibration.
        """
        check_is_fitted(self)
        if "detector_" not in vars(self):
            raise ValueError(
                "no rows were kept for calibration; p-values need some; fit with "
                "contamination='auto'"
            )
        scores = torch.from_numpy(-self.score_samples(X))
        return self.detector_.p_value_of_scores(scores).numpy()
