"""Boltzmann machines and energies of tables as scikit-learn estimators: thin faces over the
library's own training.

They are fitted by the same sessions and objectives as every recipe, in memory, and pass
scikit-learn's `check_estimator`.

>>> import numpy as np
>>> from lowland.interop.sklearn import RBM
>>> x = np.random.RandomState(0).rand(200, 8).round()
>>> RBM(4, n_iter=5, random_state=0).fit_transform(x).shape
(200, 4)
"""

try:
    from sklearn.utils.validation import validate_data as _  # noqa: F401
except ImportError as error:
    raise ImportError(
        "scikit-learn 1.6 or newer is not installed; the estimators are made for its tags; run pip "
        "install 'lowland[sklearn]'"
    ) from error

from lowland.interop.sklearn.calibrated import CalibratedEnergy
from lowland.interop.sklearn.classifier import RBMClassifier
from lowland.interop.sklearn.dbn import DBN
from lowland.interop.sklearn.detector import EnergyDetector
from lowland.interop.sklearn.rbm import RBM

__all__ = ["DBN", "RBM", "CalibratedEnergy", "EnergyDetector", "RBMClassifier"]
