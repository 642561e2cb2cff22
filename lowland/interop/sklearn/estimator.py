"""What Boltzmann machines share as estimators: arrays in and out, and the settings of their
sessions.
"""

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from lowland.interop.sklearn.arrays import Columns, at_least, refuse, updates


class Machine(BaseEstimator):
    """An estimator that is fitted by sessions of a Boltzmann machine. Subclasses have the
    parameters named in `_recipe`.
    """

    columns_: Columns
    random_state_: np.random.RandomState

    def _arrived(self, X: Any, reset: bool = False, **y: Any) -> Any:
        """X, and y if there is one, checked; X as a dense array of float32 or float64."""
        found = validate_data(
            self,
            X,
            **y,
            reset=reset,
            accept_sparse="csr",
            dtype=(np.float64, np.float32),
            ensure_min_samples=2 if reset else 1,
        )
        x, *labels = found if y else (found,)
        x = x.toarray() if hasattr(x, "toarray") else x
        return (x, *labels) if labels else x

    def _points(self, X: Any) -> Tensor:
        """X as the energy of a fitted machine sees it."""
        check_is_fitted(self)
        return self.columns_.inward(self._arrived(X))

    def _begin(self) -> int:
        """Check what all machines have in common and start their stream of random numbers; returns
        a seed.
        """
        refuse(at_least(self, {"batch_size": 2, "n_iter": 1, "gibbs_steps": 1, "n_chains": 1}))
        self.random_state_ = np.random.RandomState(
            check_random_state(self.random_state).randint(2**31 - 1)
        )
        return int(self.random_state_.randint(2**31 - 1))

    def _recipe(
        self, seed: int, count: int, energy: Mapping[str, Any], objective: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The recipe of a session on so many points, its learning rate and optimiser still to be
        said.
        """
        p: Any = self
        training = {"precision": p.precision, "weight_decay": p.weight_decay, "device": "cpu"}
        training |= {
            "warmup": 0,
            "decay_fraction": 1.0,
            "grad_clip_norm": 0.0,
            "tail_average_fraction": 0.2,
        }
        return {
            "seed": seed,
            "energy": {"name": "RBM", **energy},
            "objective": {"steps": p.gibbs_steps, **objective},
            "sampler": {"name": "BlockGibbs"},
            "training": {**training, **updates(count, p.batch_size, p.n_iter)},
        }

    def _generator(self, random_state: Any = None) -> torch.Generator:
        own = self.random_state_ if random_state is None else check_random_state(random_state)
        return torch.Generator().manual_seed(int(own.randint(2**31 - 1)))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def precise(energy: Any, dtype: torch.dtype) -> Any:
    """The energy with weights of that precision: itself, or a copy."""
    same = next(energy.parameters()).dtype == dtype
    return energy if same else copy.deepcopy(energy).to(dtype)
