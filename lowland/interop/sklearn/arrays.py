"""Tables as tensors: kind and scaling of their columns, checks of parameters, and training in
memory.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from lowland.data import Dataset, Split
from lowland.data.precision import shrink
from lowland.domain import Domain, binary, real
from lowland.scalars import MAX_STEPS, read_integer, read_number
from lowland.training import diagnose
from lowland.training.session import Session
from lowland.training.settings import Row

Array = NDArray[Any]
VISIBLE = ("auto", "binary", "gaussian")
LARGEST = 1e150  # whose square is a float64 number


@dataclass(frozen=True)
class Columns:
    """Kind and scaling of the columns of a table, learned from its training rows.

    kind: "binary", for values in [0, 1] that are taken as they are, or "gaussian", for columns that
    are standardized on the way in and restored on the way out; mean, scale: (D,) in float64; a
    column that never changes, but for rounding, has scale 1.
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
            if not float(np.abs(x).max()) < LARGEST:
                raise ValueError(
                    f"values reach up to {np.abs(x).max():g}; their squares must stay finite, so "
                    f"values lie within {LARGEST:g}; scale the columns"
                )
            low, high = x.min(0).astype(np.float64), x.max(0).astype(np.float64)
            largest, eps = np.maximum(np.abs(low), np.abs(high)), np.finfo(x.dtype).eps
            flat = high - low <= eps * largest
            values, exponents = shrink(x)
            scale = np.ldexp(values.std(0), exponents)
            mean = np.where(flat, low, np.ldexp(values.mean(0), exponents))
            return cls("gaussian", mean, np.where(flat | (scale == 0), 1.0, scale))
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
            return x.numpy(force=True)
        values = x.numpy(force=True)
        return (values * self.scale + self.mean).astype(values.dtype)

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


def judge_counts(estimator: BaseEstimator, least: Mapping[str, int]) -> list[str]:
    """Return a sentence for each parameter that is no whole number from its bound to 10⁷."""
    values = estimator.get_params(deep=False)
    return [judge_count(name, values[name], least=bound) for name, bound in least.items()]


def judge_count(name: str, value: object, *, least: int) -> str:
    """Return a sentence on a value that is no whole number from `least` to 10⁷; "" for others."""
    return _judge(read_integer, name, value, least=least, most=MAX_STEPS)


def judge_numbers(estimator: BaseEstimator, bounds: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return a sentence for each parameter that is no number within its bounds; "auto" is left to
    those that allow it.
    """
    values = estimator.get_params(deep=False)
    return [
        _judge(read_number, name, values[name], **bound)
        for name, bound in bounds.items()
        if name in values and not (name == "learning_rate" and values[name] == "auto")
    ]


def _judge(read: Callable[..., float], name: str, value: object, **bounds: float) -> str:
    """Return what reading a value raises, without its advice; "" where it can be read."""
    try:
        read(name, value, **bounds)
    except ValueError as error:
        return str(error).rpartition("; ")[0]
    return ""


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
