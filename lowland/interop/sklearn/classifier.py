"""The restricted Boltzmann machine with label units as a classifier."""

from dataclasses import KW_ONLY, dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from torch import Tensor

from lowland import nets
from lowland.devices import CPU
from lowland.interop.sklearn.arrays import Array, Columns, refuse, train
from lowland.interop.sklearn.estimator import BoltzmannEstimator, to_place
from lowland.training.session import Session


@dataclass(eq=False, repr=False)
class RBMClassifier(ClassifierMixin, BoltzmannEstimator):
    """Classifier: a restricted Boltzmann machine with label units, p(y | x) = softmax(−E(x, y)).

        loss = −log p(x, y) − discriminative · log p(y | x)

    discriminative: weight of the second term, whose gradient is exact; 0 learns p(x, y) alone,
    large weights little but the classes. The other parameters are those of `RBM`, but the updates
    are Adam's on the plain gradient.

    Attributes: classes_, energy_ (the lowland energy with label units), columns_, chains_ and
    chain_labels_ (draws from p(x, y)), history_, n_features_in_, feature_names_in_.

    Raises ValueError for a single class, parameters out of range, and binary columns with values
    outside [0, 1]. Source: Larochelle & Bengio (2008), https://doi.org/10.1145/1390156.1390224

    >>> import numpy as np
    >>> y = np.arange(200) % 2
    >>> x = (np.random.RandomState(0).rand(200, 4) < np.where(y, 0.8, 0.2)[:, None]).astype(float)
    >>> bool(RBMClassifier(8, random_state=0).fit(x, y).score(x, y) > 0.8)
    True
    """

    n_components: int = 100
    _: KW_ONLY
    discriminative: float = 10.0
    learning_rate: float = 0.03
    n_iter: int = 60

    @torch.inference_mode(False)
    @torch.enable_grad()
    def fit(self, X: ArrayLike, y: ArrayLike) -> "RBMClassifier":
        """Train on X (N, D) with labels y (N,), from scratch."""
        x, y = self._check_labelled(X, y)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        count = len(self.classes_)
        if count < 2:
            refuse(["y holds 1 class; a classifier needs at least 2 classes; bring another"])
        seed = self._start()
        self.columns_ = Columns.learn(x, self.visible)
        session = Session(
            self._recipe(
                seed,
                len(x),
                {"n_hidden": self.n_components, "classes": count, "centered": False},
                self._chain_settings() | {"ce_weight": self.discriminative, "sample_labels": True},
                {"optimizer": "adam", "betas": (0.9, 0.999), "learning_rate": self.learning_rate},
            ),
            self.columns_.dataset(x, labels, count),
        )
        self.history_ = train(session, self.n_iter, type(self).__name__, self.verbose)
        machine, buffer = cast(nets.RBM, session.ema.module), session.buffer
        self.energy_ = to_place(machine, torch.float32, torch.device(CPU))
        assert buffer is not None and buffer.labels is not None, "PCD with labels keeps both"
        self.chains_ = buffer.x.cpu().numpy().copy()
        self.chain_labels_ = self.classes_[buffer.labels.cpu().numpy()]
        return self

    def _logits(self, X: ArrayLike) -> Tensor:
        """Return −E(x, y) (N, classes) in float64."""
        x = self._points(X).double()
        place = self._place(x.dtype)
        with torch.no_grad():
            return -to_place(self.energy_, x.dtype, place).class_energies(x.to(place)).cpu()

    def predict_proba(self, X: ArrayLike) -> Array:
        """Return p(y | x) (N, classes)."""
        return torch.softmax(self._logits(X), 1).numpy()

    def predict_log_proba(self, X: ArrayLike) -> Array:
        """Return log p(y | x) (N, classes)."""
        return torch.log_softmax(self._logits(X), 1).numpy()

    def predict(self, X: ArrayLike) -> Array:
        """Return the most probable label of each row (N,)."""
        best = self.predict_proba(X).argmax(1)
        return self.classes_[best]
