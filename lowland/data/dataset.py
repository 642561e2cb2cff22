"""A data set in three splits, and the checks that it has to pass.

Every set has three disjoint splits. `train` fits the energy. `calibration` sets thresholds,
temperatures and conformal quantiles. `test` is looked at once. A threshold set on the training
split would be too low, because an energy is lower on points that it was fitted to; a threshold set
on the test split would have no guarantee.

One convention for images: float32 in [0, 1], channels first.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lowland.domain import Domain, box

CHECK_CHUNK = 4096  # examples checked at a time, so that a check needs little memory


class DataError(ValueError):
    """Data that cannot be found, read or trusted. The message names the file, what is allowed and
    what to do.
    """


@dataclass(frozen=True, eq=False)
class Split:
    """One split of a set: x (N, *shape) float32 and labels y (N,) int64, or None without labels."""

    x: Tensor
    y: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def take(self, index: Tensor | slice) -> "Split":
        """Return the examples at these positions as a new split."""
        return Split(self.x[index], None if self.y is None else self.y[index])

    def cpu(self) -> "Split":
        """Return the split on the CPU, itself where it lies there."""
        return Split(self.x.cpu(), None if self.y is None else self.y.cpu())


@dataclass(frozen=True, eq=False)
class Dataset:
    """A named set in three disjoint splits.

    classes: 0 without labels; num_gray_levels: of the source (17 for the digits, 256 for 8-bit
    images), None if continuous; note: provenance, printed in reports; mean, scale: what
    `load_data(..., standardize=True)` subtracted and divided by, one number per column, measured on
    the training split alone (empty if nothing was done); columns: the column names of a table;
    label: the name of the column that held its classes; binarization: "threshold", "stochastic" or
    "fixed" if grey images were made binary, else empty;
    binarization_note: the same in a sentence, which belongs to every number about these data. The
    training split of a stochastic binarization keeps its grey values in [0, 1]: they are the
    probabilities of what is drawn from them. skipped: files that could not be read and were left
    out, each with the reason, where that was allowed.
    """

    name: str
    domain: Domain
    train: Split
    calibration: Split
    test: Split
    classes: int = 0
    class_names: tuple[str, ...] = ()
    num_gray_levels: int | None = None
    note: str = ""
    mean: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    columns: tuple[str, ...] = ()
    label: str = ""
    binarization: str = ""
    binarization_note: str = ""
    skipped: tuple[str, ...] = ()

    def splits(self) -> list[tuple[str, Split]]:
        """Return the three splits with their names: train, calibration, test."""
        named = {"train": self.train, "calibration": self.calibration, "test": self.test}
        return list(named.items())

    def cpu(self) -> "Dataset":
        """Return the set on the CPU, from where batches of it are sent wherever they are needed."""
        train, calibration, test = (split.cpu() for _, split in self.splits())
        return replace(self, train=train, calibration=calibration, test=test)

    def standardize(self, x: Tensor) -> Tensor:
        """Map x (N, D), in the units of the file, to what the energy is trained on: (x − mean) /
        scale.
        """
        return center(x, self.mean, self.scale)

    def unstandardize(self, x: Tensor) -> Tensor:
        """Map x (N, D) back to the units of the file, in float64: x · scale + mean."""
        return uncenter(x, self.mean, self.scale)


def center(x: Tensor, mean: Sequence[float], scale: Sequence[float]) -> Tensor:
    """Return (x − mean) / scale of x (N, D), computed in float64 and rounded to float32; x itself
    where there is no mean.

    >>> center(torch.tensor([[1.7e9 + 1.0]], dtype=torch.float64), [1.7e9], [2.0])
    tensor([[0.5000]])
    """
    if not mean:
        return x
    wide = x.double()
    return ((wide - wide.new_tensor(mean)) / wide.new_tensor(scale)).float()


def uncenter(x: Tensor, mean: Sequence[float], scale: Sequence[float]) -> Tensor:
    """Return x · scale + mean of x (N, D) in float64, which tells apart what float32 does not; x
    itself where there is no mean.
    """
    if not mean:
        return x
    wide = x.double()
    return wide * wide.new_tensor(scale) + wide.new_tensor(mean)


def random_split(whole: Split, sizes: Sequence[int], seed: int) -> list[Split]:
    """Return disjoint splits of the given sizes, cut from one seeded permutation.

    The permutation is the same on every machine. Examples keep its order, so the first N of a split
    are a fair sample of it. Raises ValueError if the sizes add up to more than there are.

    >>> [len(split) for split in random_split(Split(torch.arange(10.0)), (7, 2, 1), seed=0)]
    [7, 2, 1]
    """
    if sum(sizes) > len(whole):
        raise ValueError(
            f"splits of {', '.join(map(str, sizes))} examples were asked for; there are "
            f"{len(whole)}; ask for fewer"
        )
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(seed))
    return [whole.take(index) for index in torch.split(order[: sum(sizes)], list(sizes))]


def scale_to_unit(split: Split, num_gray_levels: int | None) -> Split:
    """Return stored grey values 0 ... num_gray_levels − 1 as float32 in [0, 1]; floats only change
    their precision.
    """
    x = split.x.to(torch.float32)
    if split.x.is_floating_point():
        return Split(x, split.y)
    if num_gray_levels is None:
        raise ValueError(
            "examples of whole numbers came without a number of grey levels; it says which value "
            "is white; give num_gray_levels, or examples of floats"
        )
    return Split(x / (num_gray_levels - 1), split.y)


def _chunks(x: Tensor) -> tuple[Tensor, ...]:
    return torch.split(x, CHECK_CHUNK)


def _count(flags: Tensor) -> int:
    return int(flags.sum())


def refuse_nonfinite(x: Tensor, where: str) -> None:
    """Raise DataError with the number of NaN and infinite values in x (N, ...), if there are
    any.
    """
    if all(bool(part.isfinite().all()) for part in _chunks(x)):
        return
    nan = sum(_count(part.isnan()) for part in _chunks(x))
    infinite = sum(_count(part.isinf()) for part in _chunks(x))
    rows = sum(_count((~part.isfinite()).flatten(1).any(1)) for part in _chunks(x))
    raise DataError(
        f"{where} holds {nan} NaN and {infinite} infinite values in {rows} of {len(x)} examples; "
        "every value must be finite; remove or fill in those examples first"
    )


def check_data(dataset: Dataset) -> None:
    """Refuse a set that no energy should be fitted to.

    Raises DataError if a split is empty, has the wrong shape, precision or number of labels, holds
    NaN or infinite values (counted), values outside the domain (counted) or labels out of range, or
    if the training split is constant.
    """
    for name, split in dataset.splits():
        where = f"the {name} part of {dataset.name}"
        grey = dataset.binarization == "stochastic" and name == "train"
        _check_values(split.x, box(0, 1, *dataset.domain.shape) if grey else dataset.domain, where)
        _check_labels(split, dataset.classes, where)
    x = dataset.train.x
    if len(x) > 1 and bool((x == x[:1]).all()):
        raise DataError(
            f"all {len(x)} training examples of {dataset.name} are the same point; a density needs "
            "examples that differ; look at the source of the data"
        )
    if dataset.classes != len(dataset.class_names):
        raise DataError(
            f"{dataset.name} has {dataset.classes} classes and {len(dataset.class_names)} class "
            "names; there is one name per class; give the names in the order of the labels"
        )


def _check_values(x: Tensor, domain: Domain, where: str) -> None:
    if len(x) == 0:
        raise DataError(f"{where} is empty; every part needs at least one example; give more data")
    if tuple(x.shape[1:]) != domain.shape:
        raise DataError(
            f"{where} has examples of shape {tuple(x.shape[1:])}; the domain has {domain.shape}; "
            "reshape the data"
        )
    if x.dtype != torch.float32:
        raise DataError(
            f"{where} is stored as {x.dtype}; data are torch.float32; convert with x.float()"
        )
    refuse_nonfinite(x, where)
    outside = sum(_count(~domain.contains(part)) for part in _chunks(x))
    if outside:
        raise DataError(
            f"{where} has {outside} of {len(x)} examples outside the domain ({x.min():g} to "
            f"{x.max():g}); it is {domain.kind} with values {domain.lo:g} to {domain.hi:g}; "
            "rescale the data"
        )


def _check_labels(split: Split, classes: int, where: str) -> None:
    y = split.y
    if y is None:
        if classes:
            raise DataError(
                f"{where} has no labels; the set has {classes} classes; give labels or set classes "
                "to 0"
            )
        return
    if y.shape != (len(split.x),):
        raise DataError(
            f"{where} has {len(split.x)} examples and labels of shape {tuple(y.shape)}; there must "
            "be one label per example; check that both come from the same source"
        )
    if y.dtype != torch.int64:
        raise DataError(
            f"{where} has labels stored as {y.dtype}; labels are torch.int64; convert with y.long()"
        )
    wrong = _count((y < 0) | (y >= classes))
    if wrong:
        raise DataError(
            f"{where} has {wrong} labels out of range ({int(y.min())} to {int(y.max())}); with "
            f"{classes} classes they are 0 to {classes - 1}; number the classes from 0"
        )
