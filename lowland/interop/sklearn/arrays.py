"""Tables as tensors: kind and scaling of their columns, checks of parameters, and training in
memory.
"""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from lowland.data import Dataset, Split
from lowland.domain import Domain, binary, real
from lowland.training import diagnose
from lowland.training.session import Session
from lowland.training.settings import Row

Array = NDArray[Any]
VISIBLE = ("auto", "binary", "gaussian")


@dataclass(frozen=True)
class Columns:
    """Kind and scaling of the columns of a table, learned from its training rows.

    kind: "binary", for values in [0, 1] that are taken as they are, or "gaussian", for columns that
    are standardized on the way in and restored on the way out; mean, scale: (D,) in float64; a
    constant column has scale 1.
    """

    kind: str
    mean: Array
    scale: Array

    @classmethod
    def learn(cls, x: Array, visible: str = "gaussian") -> "Columns":
        """Learn from x (N, D). Raises ValueError for binary columns with values outside [0, 1]."""
        inside = bool(((x >= 0) & (x <= 1)).all())
        if visible not in VISIBLE:
            raise ValueError(
                f"visible is {visible!r}; it is {', '.join(VISIBLE[:-1])} or {VISIBLE[-1]}; choose "
                "one"
            )
        if visible == "gaussian" or not (inside or visible == "binary"):
            scale = x.std(0, dtype=np.float64)
            flat = scale <= 1e-12 * np.abs(x).max(0).clip(1e-300)
            return cls("gaussian", x.mean(0, dtype=np.float64), np.where(flat, 1.0, scale))
        found = cls("binary", np.zeros(x.shape[1]), np.ones(x.shape[1]))
        found.to_tensor(x)
        return found

    @property
    def domain(self) -> Domain:
        return binary(len(self.mean)) if self.kind == "binary" else real(len(self.mean))

    @property
    def log_volume(self) -> float:
        """Return Σ log scale, which standardizing adds to a log-density."""
        return float(np.log(self.scale).sum())

    def to_tensor(self, x: Array) -> Tensor:
        """Convert x (N, D) to what the energy is trained on, in its own dtype. Raises ValueError
        for binary columns with values outside [0, 1].
        """
        if self.kind == "gaussian":
            return torch.from_numpy(((x - self.mean) / self.scale).astype(x.dtype, copy=False))
        if bool(((x < 0) | (x > 1)).any()):
            raise ValueError(
                f"values reach from {x.min():g} to {x.max():g}; binary visible units take values "
                "in [0, 1], which are probabilities of a one; scale the columns, or set "
                "visible='gaussian'"
            )
        return torch.from_numpy(np.ascontiguousarray(x))

    def to_array(self, x: Tensor) -> Array:
        """Convert back: the inverse of `to_tensor`."""
        if self.kind == "binary":
            return x.numpy()
        return (x.numpy() * self.scale + self.mean).astype(x.numpy().dtype)

    def dataset(self, x: Array, y: Array | None = None, classes: int = 0) -> Dataset:
        """Return a data set of training points, and no others. Grey values become probabilities of
        a one, drawn anew for every batch.
        """
        points = self.to_tensor(x).float()
        grey = self.kind == "binary" and not bool(((points == 0) | (points == 1)).all())
        train = Split(points, None if y is None else torch.from_numpy(y).long())
        none = train.take(slice(0))
        return Dataset(
            "the training array",
            self.domain,
            train,
            none,
            none,
            classes,
            binarization="stochastic" if grey else "",
        )


def refuse(problems: Iterable[str]) -> None:
    """Raise one ValueError for everything that is wrong with the parameters of an estimator."""
    found = [problem for problem in problems if problem]
    if found:
        raise ValueError(f"{'; '.join(found)}; correct them with set_params")


def below_bounds(estimator: BaseEstimator, least: Mapping[str, float]) -> list[str]:
    """Return a sentence for each parameter of an estimator that is below its bound."""
    values = estimator.get_params(deep=False)
    return [
        f"{name} is {values[name]}; at least {bound} is needed"
        for name, bound in least.items()
        if not values[name] >= bound
    ]


def count_updates(count: int, batch_size: int, iterations: int) -> dict[str, int]:
    """Return batch size and number of updates of so many passes over `count` points."""
    batch = max(min(batch_size, count), 2)
    return {"batch": batch, "steps": iterations * -(-count // batch)}


def train(session: Session, iterations: int, name: str, verbose: int = 0) -> list[Row]:
    """Make all updates of a session and return one row of its log per iteration. Warns of findings
    that the health report calls bad.

    verbose: 1 prints a line for each iteration.
    """
    rows: list[Row] = []
    for i in range(iterations):
        while session.step < round((i + 1) * session.settings.steps / iterations):
            session.advance()
        rows.append(session.row())
        if verbose:
            shown = [key for key in ("loss", "gap", "movement") if key in rows[-1]]
            figures = (f"{key} {rows[-1][key]:+.3g}" for key in shown)
            print(f"[{name}] iteration {i + 1}", *figures, sep=", ")
    for finding in diagnose(rows):
        if finding.level == "bad":
            warnings.warn(f"{finding.sentence} {finding.remedy}", ConvergenceWarning, stacklevel=3)
    return rows
