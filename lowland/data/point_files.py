"""Points in .npy, .npz and .csv files, of any size: rows are read when they are asked for.

A file is looked at once from end to end, so that whatever is wrong with it is said before the first
row is used.
"""

import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowland.data.arrays import open_arrays
from lowland.data.dataset import DataError
from lowland.data.format import Format, match_columns
from lowland.data.kinds import CHUNK, Array, Content, inspect_content
from lowland.data.layout import read_layout
from lowland.data.precision import check_rounding, to_float64
from lowland.data.text_tables import TextTable

SAMPLE = 1 << 16  # rows in which the precision of columns is looked at


class PointFile(Protocol):
    """Points of one file, `len(file)` of them; `read` gives some, in the units of the file."""

    def __len__(self) -> int: ...

    def read(self, start: int, stop: int) -> Tensor:
        """Return points (stop − start, *shape) in float32, or float64 if the file has more
        digits.
        """
        ...


def open_points(path: Path, format: Format) -> PointFile:
    """Open the points of a file for a run: columns matched by name, values looked at.

    Raises DataError, naming the file, if it cannot be read, does not fit the run, or holds values
    that are not finite or outside the run's domain.
    """
    if path.suffix.lower() == ".csv":
        return TextPoints(path, format)
    return ArrayPoints(path, format)


class ArrayPoints:
    """Points of a .npy file, which is mapped, or of a .npz file, which is held in memory."""

    def __init__(self, path: Path, format: Format) -> None:
        self.path, self.shape = path, format.shape
        x = _match_shape(open_arrays(path)["x"], format.shape, path)
        self._held = None if path.suffix.lower() == ".npy" else x
        self._count = len(x)
        content = inspect_content(self._parts(), str(path))
        image = x.dtype == np.uint8 and len(format.shape) == 3
        self.divisor = 255.0 if image and not content.bits else 1.0
        if image and content.bits and content.most:
            _say(f"{path} holds bytes 0 and 1 alone, which are taken as they are")
        scaled = Content(
            *(content.least / self.divisor, content.most / self.divisor),
            *(content.whole and self.divisor == 1, content.spins, content.one_hot),
        )
        format.check_content(scaled, str(path))
        if format.columns and not format.positional:
            _say(
                f"{path} has no names of columns; they are taken for "
                f"{', '.join(format.columns)}, in this order"
            )
        if len(format.shape) == 1 and not format.centred:
            _check_precision(x, format, str(path))

    def __len__(self) -> int:
        return self._count

    def _rows(self, start: int, stop: int) -> Array:
        """Return some rows as they are stored. A file is mapped anew each time: pages that were
        read would count as memory for as long as their map stands.
        """
        x = self._held
        if x is None:
            x = _match_shape(open_arrays(self.path)["x"], self.shape, self.path)
        return x[start:stop]

    def _parts(self) -> Iterator[Array]:
        """Yield all rows, some at a time."""
        rows = max(1, CHUNK // math.prod(self.shape))
        for start in range(0, self._count, rows):
            yield self._rows(start, start + rows)

    def read(self, start: int, stop: int) -> Tensor:
        part = self._rows(start, stop)
        if part.dtype.kind in "iu" and part.dtype.itemsize == 8 and len(self.shape) == 1:
            part = to_float64(part, [str(i) for i in range(part.shape[1])], str(self.path))
        wide = part.dtype.itemsize > 2 and part.dtype != np.float32
        dtype = np.float64 if wide else np.float32
        values = torch.from_numpy(np.array(part, dtype=dtype)).reshape(-1, *self.shape)
        return values / self.divisor if self.divisor != 1 else values


def _match_shape(x: Array, shape: tuple[int, ...], path: Path) -> Array:
    """Return an array as events (N, *shape), grey images without their channel."""
    grey = shape[1:] if len(shape) == 3 and shape[0] == 1 else None
    if shape == (1,) and x.ndim == 1:
        return x[:, None]
    for event in (shape, grey):
        if event is not None and x.shape == event:
            return x[None]
        if event is not None and x.shape[1:] == event:
            return x
    raise DataError(
        f"{path} holds an array of shape {x.shape}; the energy takes events of shape {shape}, one "
        "or N of them; reshape the array"
    )


def _check_precision(x: Array, format: Format, where: str) -> None:
    """Check that columns can be rounded to float32, in the first rows."""
    part = x[:SAMPLE]
    names = format.columns or tuple(str(i) for i in range(part.shape[1]))
    check_rounding(to_float64(part, names, where), names, where)


def _say(words: str) -> None:
    warnings.warn(words, stacklevel=4)


class TextPoints:
    """Points of a text table, whose rows are parsed as they are asked for, in ascending order at no
    cost.
    """

    def __init__(self, path: Path, format: Format) -> None:
        self.path = path
        if len(format.shape) != 1:
            raise DataError(
                f"{path} is a table; the energy takes events of shape {format.shape}, and a table "
                "has rows of numbers; save an array of that shape as .npy"
            )
        layout = read_layout(path, known=format.columns)
        match = match_columns(format, layout.columns, layout.header, str(path))
        for note in (*(f"{path}: {note}" for note in layout.notes), *match.notes):
            _say(note)
        self.table = TextTable(path, layout, match.kept)
        self.count = self._look(format)
        self._at = 0
        self._rows: Iterator[NDArray[np.float64]] = iter(())
        self._left = np.empty((0, len(match.kept)))

    def __len__(self) -> int:
        return self.count

    def _look(self, format: Format) -> int:
        """Parse all rows once; return their number."""
        count, least, most, whole = 0, math.inf, -math.inf, True
        for block in self.table.blocks():
            x = block.numbers
            if not count and not format.centred:
                _check_precision(x, format, str(self.path))
            count += len(x)
            least, most = min(least, float(x.min())), max(most, float(x.max()))
            whole = whole and bool((x == np.rint(x)).all())
        if not count:
            raise DataError(
                f"{self.path} holds a header and no rows; there is nothing to read; check how it "
                "was written"
            )
        format.check_content(Content(least, most, whole, False, False), str(self.path))
        return count

    def read(self, start: int, stop: int) -> Tensor:
        stop = min(stop, self.count)
        if start < self._at or not self._at:
            self._rows = (block.numbers for block in self.table.blocks())
            self._at, self._left = 0, self._left[:0]
        parts: list[NDArray[np.float64]] = []
        while self._at < stop:
            if not len(self._left):
                self._left = next(self._rows)
            if self._at + len(self._left) <= start:
                self._at, self._left = self._at + len(self._left), self._left[:0]
                continue
            first = max(start - self._at, 0)
            last = min(stop - self._at, len(self._left))
            parts.append(self._left[first:last])
            self._at, self._left = self._at + last, self._left[last:]
        return torch.from_numpy(np.concatenate(parts))
