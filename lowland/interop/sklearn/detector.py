"""Outliers of a table by an energy, with a threshold that keeps a promise."""

import warnings
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from lowland.devices import AUTO, float64_device, pick_device
from lowland.energy import energy_values
from lowland.interop.sklearn.arrays import (
    Array,
    Columns,
    count_updates,
    judge_count,
    judge_counts,
    judge_numbers,
    refuse,
    train,
)
from lowland.interop.sklearn.estimator import RandomState, to_place
from lowland.interop.sklearn.verdicts import ConformalOutlierMixin
from lowland.metrics import calibration_size
from lowland.scalars import read_number
from lowland.tasks import Detector
from lowland.training.session import Session
from lowland.training.settings import Plain

ENERGY = {"name": "MLP", "hidden": (64, 64), "quadratic_weight": 0.5}
OBJECTIVE = {"name": "DSM", "sigmas": (0.4,)}
SAMPLER = {"name": "MALA", "step_size": 0.1}
Settings = Plain | None


@dataclass(eq=False, repr=False)
class EnergyDetector(ConformalOutlierMixin, BaseEstimator):
    """Outlier detector: an energy trained on standardized columns; what lies too high is an
    outlier.

    With contamination="auto" a share `calibration` of the rows is kept from training, and x is
    called an outlier when its conformal p-value (1 + #{i : E_i ≥ E(x)}) / (n + 1) over them is at
    most `false_alarms`. Then of fresh rows from the same distribution at most that share is called
    an outlier, on average over calibration sets, whatever the energy is worth; rows that are not
    exchangeable with the calibration rows void the promise. With a number instead, all rows train
    and just that share of them is called outliers, as scikit-learn's own detectors do: then nothing
    is promised about fresh rows.

    energy, objective, sampler, training: sections of a lowland recipe as plain values, with the
    names of `lowland.registry.registered`; energy and objective default to a small perceptron and
    denoising score matching at noise 0.4, and objectives that draw use the sampler. learning_rate
    (of Adam), batch_size, n_iter (passes over the data), device ("auto": a GPU if there is one,
    else the CPU; what is fitted is kept on the CPU), verbose (1 prints a line for each pass),
    random_state.

    Attributes: energy_, offset_ (decision_function = score_samples − offset_), columns_ (means and
    scales), detector_ (a `lowland.Detector`; only with contamination="auto"), history_,
    n_features_in_, feature_names_in_.

    Raises ValueError for parameters out of range, TypeError for sparse input. With fewer than 1 /
    false_alarms − 1 rows in half of the data no call of an outlier can keep the promise: it warns,
    and offset_ is −∞. Source of the promise: Vovk, Gammerman & Shafer (2005),
    https://doi.org/10.1007/b106715

    >>> import numpy as np
    >>> x = np.random.RandomState(0).normal(size=(500, 2)) * [1, 100]
    >>> EnergyDetector(n_iter=10, random_state=0).fit(x).predict([[0, 0], [9, 900]])
    array([ 1, -1])
    """

    _: KW_ONLY
    contamination: float | str = "auto"
    false_alarms: float = 0.05
    calibration: float = 0.2
    energy: Settings = None
    objective: Settings = None
    sampler: Settings = None
    training: Settings = None
    learning_rate: float = 3e-3
    batch_size: int = 100
    n_iter: int = 100
    device: str | torch.device = AUTO
    verbose: int = 0
    random_state: RandomState = None

    @torch.inference_mode(False)
    @torch.enable_grad()
    def fit(self, X: ArrayLike, y: object = None) -> "EnergyDetector":
        """Train on the rows of X (N, D), all or most of them inliers, and set the threshold."""
        self._check_parameters()
        x = self._check_rows(X, reset=True)
        rng = check_random_state(self.random_state)
        order = rng.permutation(len(x))
        held_out = self._calibration_count(len(x))
        training, calibration = x[order[held_out:]], x[order[:held_out]]
        self.columns_ = Columns.learn(training)
        flat = int((training == training[0]).all(0).sum())
        if flat:
            warnings.warn(
                f"{flat} of {x.shape[1]} columns never change; they get scale 1, as their own is "
                "0; leave them out if they mean nothing",
                stacklevel=2,
            )
        recipe = self._recipe(int(rng.randint(2**31 - 1)), len(training))
        session = Session(recipe, self.columns_.dataset(training))
        self.history_ = train(session, self.n_iter, type(self).__name__, self.verbose)
        self.energy_ = session.ema.module.cpu().double()
        self._set_threshold(self._scores(x), self._scores(calibration))
        return self

    def _check_parameters(self) -> None:
        wrong = judge_counts(self, {"batch_size": 2, "n_iter": 1})
        wrong += judge_numbers(self, {"learning_rate": {"above": 0.0}})
        for name in ("energy", "objective", "sampler", "training"):
            section = self.get_params(deep=False)[name]
            if section is not None and not isinstance(section, Mapping):
                wrong.append(f"{name} is {section!r}; it is a section of a recipe, as a dict")
        if isinstance(self.training, Mapping) and "steps" in self.training:
            wrong += [judge_count("training['steps']", self.training["steps"], least=1)]
        share = self.contamination
        if not (isinstance(share, str) and share == "auto") and not _is_share(share, 0.5):
            wrong.append(f"contamination is {share!r}; it is 'auto' or a share in (0, 0.5]")
        for name, value in (
            ("false_alarms", self.false_alarms),
            ("calibration", self.calibration),
        ):
            if not _is_share(value, 1.0) or value == 1:
                wrong.append(f"{name} is {value!r}; it is a share in (0, 1)")
        refuse(wrong)

    def _calibration_count(self, count: int) -> int:
        """Return the number of rows to keep for calibration: the share asked for, or what the
        promise needs, up to half of them.
        """
        if self.contamination != "auto":
            return 0
        need = calibration_size(self.false_alarms)
        return min(max(round(self.calibration * count), need), count // 2)

    def _recipe(self, seed: int, count: int) -> Plain:
        training = {
            "learning_rate": self.learning_rate,
            "warmup": 0,
            "decay_fraction": 0.5,
            "grad_clip_norm": 10.0,
            "tail_average_fraction": 0.2,
            "device": str(pick_device(self.device)),
        }
        training |= count_updates(count, self.batch_size, self.n_iter)
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
            self.offset_ = float(np.percentile(-scores, 100 * float(self.contamination)))
            return
        self.offset_ = self._offset(calibration)
        if np.isfinite(self.offset_):
            self.detector_ = Detector(self.energy_, calibration=torch.from_numpy(calibration))

    def _check_rows(self, X: ArrayLike, reset: bool = False) -> Array:
        dtypes = (np.float64, np.float32)
        rows = validate_data(self, X, reset=reset, dtype=dtypes, ensure_min_samples=1 + reset)
        return np.asarray(rows, dtype=np.float64)

    def _scores(self, x: Array) -> Array:
        """Return energies (N,) in float64."""
        if not len(x):
            return np.zeros(0)
        place = float64_device(pick_device(self.device))
        energy = to_place(self.energy_, torch.float64, place)
        return energy_values(energy, self.columns_.to_tensor(x).to(place)).cpu().numpy()

    def score_samples(self, X: ArrayLike) -> Array:
        """Return −E(x) (N,), the log-density of standardized columns up to a constant: low is
        unlikely.
        """
        check_is_fitted(self)
        return -self._scores(self._check_rows(X))


def _is_share(value: object, most: float) -> bool:
    """Tell whether a value is a number above 0 and at most `most`."""
    try:
        read_number("a share", value, above=0.0, most=most)
    except ValueError:
        return False
    return True
