"""Data sets from the user's files: a folder of images, an array or a table, split 70 % / 15 % /
15 % by a seeded permutation.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lowland.data.dataset import DataError, Dataset, Split, center, random_split
from lowland.data.folders import is_file, is_folder
from lowland.data.images import load_folder
from lowland.data.kinds import Array, Reading, read_kind
from lowland.data.loader import Loader, LoadOptions, build_dataset
from lowland.data.precision import (
    Numbers,
    check_range,
    check_rounding,
    is_flat,
    shrink,
    to_float64,
    warn_of_scales,
)
from lowland.data.room import format_bytes, require_memory
from lowland.data.tables import Table, read_array, read_csv
from lowland.domain import box
from lowland.scalars import read_integer
from lowland.systems import expand_home

HELD_OUT = 0.15  # for calibration, and again for the test
NOTE = "read from a path; 70/15/15 by a seeded permutation"


def path_loader(name: str) -> Loader | None:
    """Return the loader for a folder or file of this name, or None if there is nothing there and it
    is not spelt like a path.

    Raises DataError if the file is of a kind that is not read, or the path does not exist.
    """
    path = expand_home(name)
    suffix = path.suffix.lower()
    if name and is_folder(path):
        return lambda options, *, size=None, channels=None, skip_bad=False: _load_folder(
            options, path, size, channels, skip_bad
        )
    if is_file(path) and suffix in (".npy", ".npz"):
        return lambda options, *, standardize=False, kind=None: _load_array(
            options, path, standardize, kind
        )
    if is_file(path) and suffix == ".csv":
        return lambda options, *, label=None, standardize=False, kind=None, header=None: (
            _load_table(options, path, label, standardize, kind, header)
        )
    if is_file(path):
        raise DataError(
            f"{path} ends in {suffix!r}; .npy, .npz, .csv and folders of images are read; convert "
            "it"
        )
    if path.parent != Path() or suffix:
        raise DataError(
            f"there is no file or folder {path}; data are a named set or a path; correct the path"
        )
    return None


def _load_folder(
    options: LoadOptions,
    path: Path,
    size: int | Sequence[int] | None,
    channels: int | None,
    skip_bad: bool,
) -> Dataset:
    images, names, skipped = load_folder(path, size, channels, skip_bad=skip_bad)
    reading = Reading(box(0, 1, *images.x.shape[1:]), 255.0, 256)
    dataset = _build(options, path, Table(images.x.numpy(), images.y, names), reading)
    if not skipped:
        return dataset
    note = f"{dataset.note}; {len(skipped)} files that cannot be read were skipped"
    listed = tuple(f"{file}: {why}" for file, why in skipped.items())
    return replace(dataset, note=note, skipped=listed)


def _load_array(options: LoadOptions, path: Path, standardize: bool, kind: str | None) -> Dataset:
    _check_flag("standardize", standardize)
    table = read_array(path)
    held = f"{path}, {format_bytes(table.x.nbytes)} as it is stored,"
    require_memory(4 * math.prod(table.x.shape), held)
    reading = _read(options, table.x, path, kind, standardize)
    return _build(options, path, table, reading, standardize)


def _load_table(
    options: LoadOptions,
    path: Path,
    label: str | int | None,
    standardize: bool,
    kind: str | None,
    header: bool | None,
) -> Dataset:
    _check_flag("standardize", standardize)
    if header is not None:
        _check_flag("header", header)
    if label is not None and not isinstance(label, str):
        label = read_integer("label, where it is no name of a column,", label)
    table = read_csv(path, label, header)
    reading = _read(options, table.x, path, kind, standardize)
    return _build(options, path, table, reading, standardize)


def _check_flag(name: str, value: object) -> None:
    if value not in (True, False):
        raise DataError(f"{name} is {value!r}; it is True or False; choose one")


def _read(
    options: LoadOptions, x: Array, path: Path, kind: str | None, standardize: bool
) -> Reading:
    """Decide what an array is taken for; standardized columns are real."""
    if standardize and kind is None and x.ndim <= 2 and x.dtype != np.bool_:
        kind = "real"
    reading = read_kind(x, str(path), kind, discrete=options.discrete, graded=options.graded)
    if reading.note and kind is None:
        warnings.warn(f"{path}: {reading.note}", stacklevel=2)
    return reading


def _build(
    options: LoadOptions, path: Path, table: Table, reading: Reading, standardize: bool = False
) -> Dataset:
    """Return the examples of a file as a data set, split 70 % / 15 % / 15 %."""
    count, domain = len(table.x), reading.domain
    held_out = max(1, round(HELD_OUT * count))
    if count < 4:
        raise DataError(
            f"{path} holds {count} examples; training, calibration and test need 4 at the least; "
            "give more data"
        )
    if standardize and (domain.kind != "real" or len(domain.shape) != 1):
        raise DataError(
            f"standardize was asked for {path}; it is for real-valued columns, and these are "
            f"{domain.kind} of shape {domain.shape}; leave it out"
        )
    sizes = (count - 2 * held_out, held_out, held_out)
    rows = random_split(Split(torch.arange(count), table.y), sizes, options.seed)
    rows[0] = rows[0].take(slice(options.limit))
    source = _Source(table, reading, str(path))
    note = "; ".join(filter(None, [NOTE, reading.note]))
    if standardize:
        source.center(rows[0].x)
        note = f"{note}; standardized by the training part's mean and scale"
    elif domain.kind == "real":
        source.check_columns(options.graded)
    dataset = build_dataset(
        options,
        str(path),
        domain,
        [Split(source.take(part.x), part.y) for part in rows],
        table.class_names,
        reading.num_gray_levels,
        note,
        table.columns,
    )
    return replace(dataset, label=table.label, mean=source.mean, scale=source.scale)


class _Source:
    """Examples as they stand in a file, and how they become points of an energy."""

    def __init__(self, table: Table, reading: Reading, where: str) -> None:
        self.x, self.reading, self.where = table.x, reading, where
        width = math.prod(self.x.shape[1:])
        self.names = table.columns or tuple(str(i) for i in range(width))
        self.mean: tuple[float, ...] = ()
        self.scale: tuple[float, ...] = ()

    def center(self, rows: Tensor) -> None:
        """Measure mean and deviation of each column over the training part."""
        x = self._columns(rows)
        constant = is_flat(x).nonzero()[0].tolist()
        if constant:
            raise DataError(
                f"column {', '.join(self.names[i] for i in constant)} of {self.where} has one "
                "value only in the training part; a column that never changes has no scale; remove "
                "it or leave standardize out"
            )
        shrunk, exponents = shrink(x)
        values = torch.from_numpy(shrunk)
        mean = values.mean(0)
        spread = (values - mean).std(0, correction=0)
        self.mean = tuple(np.ldexp(mean.numpy(), exponents).tolist())
        self.scale = tuple(np.ldexp(spread.numpy(), exponents).tolist())

    def _columns(self, rows: Tensor | slice) -> Numbers:
        """Return columns (n, D) in float64."""
        part = self.x[rows if isinstance(rows, slice) else rows.numpy()]
        return to_float64(part.reshape(len(part), -1), self.names, self.where)

    def check_columns(self, graded: bool) -> None:
        """Check that columns can be rounded to float32 as they are, and warn of their scales."""
        x = self._columns(slice(None))
        check_rounding(x, self.names, self.where)
        if len(self.reading.domain.shape) == 1 and not graded:
            warn_of_scales(x, self.names, self.where)

    def take(self, rows: Tensor) -> Tensor:
        """Return examples in float32, as the energy takes them: (n, *shape of the domain)."""
        shape = (len(rows), *self.reading.domain.shape)
        if self.mean:
            columns = self._columns(rows)
            check_range(columns, self.names, self.where)
            return center(torch.from_numpy(columns), self.mean, self.scale)
        x = np.ascontiguousarray(self.x[rows.numpy()], dtype=np.float32)
        values = torch.from_numpy(x).reshape(shape)
        return values / self.reading.divisor if self.reading.divisor != 1 else values
