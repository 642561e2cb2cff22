"""The common base of Boltzmann machines as estimators."""

import copy
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from lowland.devices import AUTO, CPU, float64_device, pick_device, same_device
from lowland.interop.sklearn.arrays import (
    Array,
    Columns,
    count_updates,
    judge_counts,
    judge_numbers,
    refuse,
)
from lowland.training.settings import Plain

RandomState = int | np.random.RandomState | None
Machine = TypeVar("Machine", bound=nn.Module)


class SparseMatrix(Protocol):
    """A matrix of scipy that stores what is not zero."""

    def toarray(self) -> Array: ...


@dataclass(eq=False, repr=False)
class BoltzmannEstimator(BaseEstimator):
    """An estimator that is fitted by sessions of a Boltzmann machine, with the parameters that all
    of them have.
    """

    _: KW_ONLY
    visible: str = "auto"
    gibbs_steps: int = 1
    n_chains: int = 100
    learning_rate: float | str = "auto"
    batch_size: int = 50
    n_iter: int = 30
    weight_decay: float = 0.0
    precision: str = "auto"
    device: str | torch.device = AUTO
    verbose: int = 0
    random_state: RandomState = None
    columns_: Columns = field(init=False)
    random_state_: np.random.RandomState = field(init=False)

    def _check_rows(self, X: ArrayLike, reset: bool = False) -> Array:
        """Return X, checked, as a dense array of float32 or float64."""
        return _to_dense(validate_data(self, X, **_checks(reset)))

    def _check_labelled(self, X: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
        """Return X and y of a fit, checked, X dense."""
        x, labels = validate_data(self, X, y, **_checks(True))
        return _to_dense(x), labels

    def _points(self, X: ArrayLike) -> Tensor:
        """Return X as the energy of a fitted machine sees it."""
        check_is_fitted(self)
        return self.columns_.to_tensor(self._check_rows(X))

    def _start(self) -> int:
        """Check the common parameters and start the stream of random numbers; returns a seed."""
        counts = {"batch_size": 2, "n_iter": 1, "gibbs_steps": 1, "n_chains": 1}
        bounds = {
            "learning_rate": {"above": 0.0},
            "weight_decay": {"least": 0.0},
            "momentum": {"least": 0.0, "most": 1.0},
            "discriminative": {"least": 0.0},
        }
        refuse([*judge_counts(self, counts), *judge_numbers(self, bounds)])
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        self.random_state_ = np.random.RandomState(seed)
        return int(self.random_state_.randint(2**31 - 1))

    def _recipe(
        self,
        seed: int,
        count: int,
        energy: Plain,
        objective: Plain,
        optimizer: Plain,
    ) -> dict[str, Any]:
        """Return the recipe of a session on `count` points."""
        training = {
            "precision": self.precision,
            "weight_decay": self.weight_decay,
            "device": str(pick_device(self.device)),
            "warmup": 0,
            "decay_fraction": 1.0,
            "grad_clip_norm": 0.0,
            "tail_average_fraction": 0.2,
        }
        updates = count_updates(count, self.batch_size, self.n_iter)
        return {
            "seed": seed,
            "energy": {"name": "RBM", **energy},
            "objective": {"steps": self.gibbs_steps, **objective},
            "sampler": {"name": "BlockGibbs"},
            "training": {**training, **updates, **optimizer},
        }

    def _chain_settings(self) -> dict[str, object]:
        """Return the settings of PCD with all chains in the buffer."""
        return {
            "name": "PCD",
            "buffer_size": self.n_chains,
            "num_chains": self.n_chains,
            "reinit_prob": 0.0,
        }

    def _place(self, dtype: torch.dtype) -> torch.device:
        """Return the device on which numbers of a dtype are computed: float64 on the CPU where the
        device that was asked for has none.
        """
        place = pick_device(self.device)
        return float64_device(place) if dtype == torch.float64 else place

    def _generator(
        self, random_state: RandomState = None, device: torch.device | str = CPU
    ) -> torch.Generator:
        own = self.random_state_
        if random_state is not None:
            own = check_random_state(random_state)
        return torch.Generator(device).manual_seed(int(own.randint(2**31 - 1)))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _checks(reset: bool) -> dict[str, object]:
    """Return the settings of `validate_data`, for a fit where reset."""
    dtypes = (np.float64, np.float32)
    return {
        "reset": reset,
        "accept_sparse": "csr",
        "dtype": dtypes,
        "ensure_min_samples": 1 + reset,
    }


def _to_dense(x: Array | SparseMatrix) -> Array:
    return x if isinstance(x, np.ndarray) else x.toarray()


def to_place(energy: Machine, dtype: torch.dtype, device: torch.device) -> Machine:
    """Return the energy with weights of that dtype on a device: itself, or a copy.

    What an estimator keeps lies on the CPU, so that it can be pickled here and read anywhere.
    """
    weight = next(energy.parameters())
    if weight.dtype == dtype and same_device(weight.device, device):
        return energy
    own = copy.deepcopy(energy).cpu().to(dtype)  # a device may not hold the dtype of before
    return own.to(device)
