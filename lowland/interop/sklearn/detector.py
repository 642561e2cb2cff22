"""Outliers of a table by an energy, with a threshold that keeps a promise."""

import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from lowland.energy import energy_values
from lowland.interop.sklearn.arrays import Array, Columns, at_least, refuse, train, updates
from lowland.tasks import Detector
from lowland.training.session import Session

ENERGY = {"name": "MLP", "hidden": (64, 64), "confine": 0.5}
OBJECTIVE = {"name": "DSM", "sigmas": (0.4,)}
SAMPLER = {"name": "MALA", "step_size": 0.1}


class EnergyDetector(OutlierMixin, BaseEstimator):
    """Outlier detector: an energy trained on standardized columns; what lies too high is an
    outlier.

    With contamination="auto" a share `calibration` of the rows is kept from training, and x is
    called an outlier when its conformal p-value (1 + #{i : E_i ≥ E(x)}) / (n + 1) over them is at
    most `false_alarms`. Then of fresh rows of the same law at most that share is called an outlier,
    on average over calibration sets, whatever the energy is worth; rows that are not exchangeable
    with the calibration rows void the promise. With a number instead, all rows train and just that
    share of them is called outliers, as scikit-learn's own detectors do: then nothing is promised
    about fresh rows.

    energy, objective, sampler, training: sections of a lowland recipe as plain values, with the
    names of `lowland.registry.registered`; energy and objective default to a small perceptron and denoising
    score matching at noise 0.4, and the sampler is looked at by objectives that draw. learning_rate
    (of Adam), batch_size, n_iter (passes over the data), verbose (1 prints a line for each pass),
    random_state.

    Attributes: energy_, offset_ (decision_function = score_samples − offset_), columns_ (means and
    scales), detector_ (a `lowland.Detector`; only with contamination="auto"), history_,
    n_features_in_, feature_names_in_.

    Raises ValueError for parameters out of range and for sparse input. With fewer than 1 /
    false_alarms − 1 rows in half of the data no call of an outlier can keep the promise: it warns,
    and offset_ is −∞. Source of the promise: Vovk, Gammerman & Shafer (2005),
    https://doi.org/10.1007/b106715

    >>> import numpy as np
    >>> x = np.random.RandomState(0).normal(size=(500, 2)) * [1, 100]
    >>> EnergyDetector(n_iter=10, random_state=0).fit(x).predict([[0, 0], [9, 900]])
    array([ 1, -1])
    """

    def __init__(
        self,
        *,
        contamination: float | str = "auto",
        false_alarms: float = 0.05,
        calibration: float = 0.2,
        energy: Mapping[str, Any] | None = None,
        objective: Mapping[str, Any] | None = None,
        sampler: Mapping[str, Any] | None = None,
        training: Mapping[str, Any] | None = None,
        learning_rate: float = 3e-3,
        batch_size: int = 100,
        n_iter: int = 100,
        verbose: int = 0,
        random_state: Any = None,
    ) -> None:
        self.contamination = contamination
        self.false_alarms = false_alarms
        self.calibration = calibration
        self.energy = energy
        self.objective = objective
        self.sampler = sampler
        self.training = training
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.n_iter = n_iter
        self.verbose = verbose
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> "EnergyDetector":
        """Train on the rows of X (N, D), all or most of them inliers, and set the threshold."""
        self._check()
        x = self._arrived(X, reset=True)
        rng = check_random_state(self.random_state)
        order = rng.permutation(len(x))
        held = self._held(len(x))
        learned, kept = x[order[held:]], x[order[:held]]
        self.columns_ = Columns.learn(learned)
        session = Session(
            self._recipe(int(rng.randint(2**31 - 1)), len(learned)), self.columns_.dataset(learned)
        )
        self.history_ = train(session, self.n_iter, type(self).__name__, self.verbose)
        self.energy_: Any = session.ema.module.double()
        self._set_threshold(self._scores(x), -self._scores(kept))
        return self

    def _check(self) -> None:
        wrong = at_least(self, {"batch_size": 2, "n_iter": 1})
        share = self.contamination
        if not (share == "auto" or (not isinstance(share, str) and 0 < share <= 0.5)):
            wrong.append(f"contamination is {share!r}; it is 'auto' or a share in (0, 0.5]")
        for name in ("false_alarms", "calibration"):
            if not 0 < getattr(self, name) < 1:
                wrong.append(f"{name} is {getattr(self, name)}; it is a share in (0, 1)")
        refuse(wrong)

    def _held(self, count: int) -> int:
        """How many rows are kept for calibration: the share asked for, or what the promise needs,
        up to half of them.
        """
        if self.contamination != "auto":
            return 0
        need = math.ceil(1 / self.false_alarms - 1e-9) - 1
        return min(max(round(self.calibration * count), need), count // 2)

    def _recipe(self, seed: int, count: int) -> dict[str, Any]:
        training = {
            "learning_rate": self.learning_rate,
            "warmup": 0,
            "decay_fraction": 0.5,
            "grad_clip_norm": 10.0,
            "tail_average_fraction": 0.2,
            "device": "cpu",
        }
        training |= updates(count, self.batch_size, self.n_iter)
        return {
            "seed": seed,
            "energy": self.energy or ENERGY,
            "objective": self.objective or OBJECTIVE,
            "sampler": self.sampler or SAMPLER,
            "training": training | dict(self.training or {}),
        }

    def _set_threshold(self, scores: Array, calibration: Array) -> None:
        self.__dict__.pop("detector_", None)
        if self.contamination != "auto":
            self.offset_ = float(np.percentile(scores, 100 * float(self.contamination)))
            return
        allowed = int(
            self.false_alarms * (len(calibration) + 1) + 1e-9
        )  # ranks that raise an alarm
        if not allowed:
            warnings.warn(
                f"{len(calibration)} rows for calibration cannot promise a false-alarm rate of "
                f"{self.false_alarms}: nothing will be called an outlier; bring more rows, raise "
                "false_alarms, or set contamination",
                stacklevel=3,
            )
            self.offset_ = -math.inf
            return
        self.detector_ = Detector(self.energy_, calibration=torch.from_numpy(calibration))
        self.offset_ = -float(np.sort(calibration)[-allowed])

    def _arrived(self, X: Any, reset: bool = False) -> Array:
        found = validate_data(
            self,
            X,
            reset=reset,
            dtype=(np.float64, np.float32),
            ensure_min_samples=2 if reset else 1,
        )
        return np.asarray(found, dtype=np.float64)

    def _scores(self, x: Array) -> Array:
        if not len(x):
            return np.zeros(0)
        return -energy_values(self.energy_, self.columns_.inward(x)).numpy()

    def score_samples(self, X: Any) -> Array:
        """−E(x) (N,), the log-density of standardized columns up to a constant: low is unlikely."""
        check_is_fitted(self)
        return self._scores(self._arrived(X))

    def decision_function(self, X: Any) -> Array:
        """score_samples − offset_ (N,): below 0 for outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> Array:
        """−1 for outliers and 1 for inliers (N,)."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def p_values(self, X: Any) -> Array:
        """Conformal p-values (N,): at most α for at most about a share α of inliers, for every α.

        Raises ValueError where no rows were kept for calibration.
        """
        if not hasattr(self, "detector_"):
            raise ValueError(
                "no rows were kept for calibration; p-values need some; fit with "
                "contamination='auto'"
            )
        return self.detector_.p_value_of_scores(torch.from_numpy(-self.score_samples(X))).numpy()
