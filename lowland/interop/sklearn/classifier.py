"""The restricted Boltzmann machine with label units as a classifier."""

from typing import Any

import numpy as np
import torch
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets

from lowland.interop.sklearn.arrays import Array, Columns, refuse, train
from lowland.interop.sklearn.estimator import Machine, precise
from lowland.training.session import Session


class RBMClassifier(ClassifierMixin, Machine):
    """Classifier: a restricted Boltzmann machine with label units, p(y | x) = softmax(−E(x, y)).

        loss = −log p(x, y) − discriminative · log p(y | x)

    discriminative: weight of the second term, whose gradient is exact; 0 learns the joint law
    alone, large weights little but the classes. The other parameters are those of `RBM`, but the
    updates are Adam's on the plain gradient.

    Attributes: classes_, energy_ (the lowland energy with label units), columns_, chains_ and
    chain_labels_ (points of the joint law), history_, n_features_in_, feature_names_in_.

    Raises ValueError for a single class, parameters out of range, and binary columns with values
    outside [0, 1]. Source: Larochelle & Bengio (2008), https://doi.org/10.1145/1390156.1390224

    >>> import numpy as np
    >>> y = np.arange(200) % 2
    >>> x = (np.random.RandomState(0).rand(200, 4) < np.where(y, 0.8, 0.2)[:, None]).astype(float)
    >>> bool(RBMClassifier(8, random_state=0).fit(x, y).score(x, y) > 0.8)
    True
    """

    def __init__(
        self,
        n_components: int = 100,
        *,
        visible: str = "auto",
        discriminative: float = 10.0,
        gibbs_steps: int = 1,
        n_chains: int = 100,
        learning_rate: float = 0.03,
        batch_size: int = 50,
        n_iter: int = 60,
        weight_decay: float = 0.0,
        precision: str = "float32",
        verbose: int = 0,
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.visible = visible
        self.discriminative = discriminative
        self.gibbs_steps = gibbs_steps
        self.n_chains = n_chains
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.n_iter = n_iter
        self.weight_decay = weight_decay
        self.precision = precision
        self.verbose = verbose
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> "RBMClassifier":
        """Train on X (N, D) with labels y (N,), from scratch."""
        x, y = self._arrived(X, reset=True, y=y)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        count = len(self.classes_)
        refuse(
            ["y holds 1 class; a classifier needs at least 2 classes; bring examples of another"]
            if count < 2
            else []
        )
        seed = self._begin()
        self.columns_ = Columns.learn(x, self.visible)
        chains = {"buffer_size": self.n_chains, "num_chains": self.n_chains, "reinit_prob": 0.0}
        objective = {
            "name": "PCD",
            **chains,
            "ce_weight": self.discriminative,
            "sample_labels": True,
        }
        adam = {"optimizer": "adam", "betas": (0.9, 0.999), "learning_rate": self.learning_rate}
        recipe = self._recipe(
            seed,
            len(x),
            {"hidden": self.n_components, "classes": count, "centred": False},
            objective,
        )
        recipe["training"] |= adam
        session = Session(recipe, self.columns_.dataset(x, labels, count))
        self.history_ = train(session, self.n_iter, type(self).__name__, self.verbose)
        self.energy_, buffer = session.ema.module, session.buffer
        assert buffer is not None and buffer.labels is not None, "PCD with labels keeps both"
        self.chains_, self.chain_labels_ = (
            buffer.x.numpy().copy(),
            self.classes_[buffer.labels.numpy()],
        )
        return self

    def predict_proba(self, X: Any) -> Array:
        """p(y | x) (N, classes)."""
        x = self._points(X).double()
        with torch.no_grad():
            return torch.softmax(-precise(self.energy_, x.dtype).class_energies(x), 1).numpy()

    def predict_log_proba(self, X: Any) -> Array:
        """log p(y | x) (N, classes)."""
        x = self._points(X).double()
        with torch.no_grad():
            return torch.log_softmax(-precise(self.energy_, x.dtype).class_energies(x), 1).numpy()

    def predict(self, X: Any) -> Array:
        """The most probable label of each row (N,)."""
        best = self.predict_proba(X).argmax(1)
        return self.classes_[best]
