"""Readers of .npy, .npz and .csv files.

Nothing here runs what a file contains: arrays of Python objects are pickles and are refused.
"""

import csv
import zipfile
import zlib
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowland.data.classes import number_labels
from lowland.data.dataset import DataError

DELIMITERS = ",;\t"
READ_ERRORS = (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, MemoryError)


@dataclass(frozen=True, eq=False)
class Table:
    """Examples x (N, ...) as stored, labels y (N,) int64 or None, and the names of the classes and
    of the columns.
    """

    x: Tensor
    y: Tensor | None = None
    class_names: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()


def read_array(path: Path) -> Table:
    """Read a .npy file, or a .npz file with x (or X) and optionally y, as uint8, bool, or float32.

    Raises DataError, naming the file, if it is cut short, pickled, not numeric, empty, or x and y
    differ in length.
    """
    try:
        arrays = _read_arrays(path)
    except DataError:
        raise
    except READ_ERRORS as error:
        raise DataError(_describe_damage(path, error)) from error
    x = _to_tensor(arrays["x"], path)
    if "y" not in arrays:
        return Table(x)
    return Table(x, *_read_labels(arrays["y"], len(x), path))


def _read_arrays(path: Path) -> dict[str, NDArray[np.generic]]:
    """Return x and y of a .npz file (other keys are not read), or a .npy file as x."""
    if path.suffix.lower() != ".npz":
        # a memory map compares the header with the size of the file before anything is read
        return {"x": np.array(np.load(path, allow_pickle=False, mmap_mode="r"))}
    with np.load(path, allow_pickle=False) as archive:
        if not {"x", "X"} & set(archive.files):
            raise DataError(
                f"{path} has the keys {', '.join(archive.files) or 'none'}; it needs x, and may "
                "have y; rename them"
            )
        return {k.lower(): archive[k] for k in archive.files if k.lower() in ("x", "y")}


def _describe_damage(path: Path, error: BaseException) -> str:
    if "pickle" in str(error) or "Python objects" in str(error):
        return (
            f"{path} holds pickled Python objects, which can run any code when they are read; only "
            "arrays of numbers are read; save it again with numpy.save of a numeric array"
        )
    return (
        f"{path} is corrupt or cut short ({error or type(error).__name__}); it must be a whole "
        "array; write it again"
    )


def _to_tensor(array: NDArray[np.generic], path: Path) -> Tensor:
    if array.dtype.kind not in "bfiu":
        raise DataError(
            f"{path} holds values of type {array.dtype}; they must be real numbers; convert them"
        )
    if array.ndim == 0 or array.size == 0:
        raise DataError(
            f"{path} is empty (shape {array.shape}); it needs examples in rows; check how it was "
            "written"
        )
    if array.dtype not in (np.uint8, np.bool_):
        array = array.astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(array))


def _read_labels(y: NDArray[np.generic], count: int, path: Path) -> tuple[Tensor, tuple[str, ...]]:
    if y.shape != (count,):
        raise DataError(
            f"{path} has {count} examples and labels of shape {y.shape}; there must be one label "
            "per example; check y"
        )
    if y.dtype.kind not in "iub":
        raise DataError(
            f"{path} has labels of type {y.dtype}; they are whole numbers from 0; convert y"
        )
    labels = torch.from_numpy(y.astype(np.int64))
    if int(labels.min()) < 0:
        raise DataError(
            f"{path} has negative labels (down to {int(labels.min())}); they count from 0; "
            "renumber y"
        )
    return labels, tuple(str(k) for k in range(int(labels.max()) + 1))


def read_csv(path: Path, label: str | int | None = None) -> Table:
    """Read a table of numbers, float32 (N, d), with a header if its first row is not all numbers.

    label: the name (or position) of a column of classes; any text will do there. Cells are parted
    by commas, semicolons or tabs.

    Raises DataError with the line and column of a cell that is empty or not a number, or a row of
    the wrong length.
    """
    lines, rows = _read_rows(path)
    at = label % len(rows[0]) if isinstance(label, int) else None
    header = not all(_is_number(cell) for i, cell in enumerate(rows[0]) if i != at)
    columns = tuple(str(i) for i in range(len(rows[0])))
    if header:
        columns, lines, rows = tuple(rows[0]), lines[1:], rows[1:]
    if not rows:
        raise DataError(
            f"{path} holds a header and no rows; a table needs examples; check how it was written"
        )
    for line, row in zip(lines, rows, strict=True):
        if len(row) != len(columns):
            raise DataError(
                f"line {line} of {path} has {len(row)} cells; the first has {len(columns)}; mend "
                "or remove the line"
            )
    chosen = None if label is None else _find_column(columns, label, path)
    kept = [i for i in range(len(columns)) if i != chosen]
    if not kept:
        raise DataError(f"{path} has only the label column; a table needs numbers too; add columns")
    numbers = [
        [_parse_number(row[i], line, columns[i], path) for i in kept]
        for line, row in zip(lines, rows, strict=True)
    ]
    x = torch.from_numpy(np.array(numbers).astype(np.float32))
    names = tuple(columns[i] for i in kept)
    if chosen is None:
        return Table(x, columns=names)
    y, class_names = number_labels([row[chosen] for row in rows], str(path))
    return Table(x, y, class_names, names)


def _read_rows(path: Path) -> tuple[list[int], list[list[str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            reader = csv.reader(file, delimiter=max(DELIMITERS, key=first.count))
            pairs = [
                (reader.line_num, [cell.strip() for cell in row])
                for row in reader
                if any(map(str.strip, row))
            ]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path} is not a text table ({error}); it must be UTF-8; export it again as CSV"
        ) from error
    if not pairs:
        raise DataError(
            f"{path} is empty; a table needs examples in rows; check how it was written"
        )
    return [line for line, _ in pairs], [row for _, row in pairs]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _parse_number(cell: str, line: int, column: str, path: Path) -> float:
    try:
        return float(cell)
    except ValueError as error:
        what = f"{cell!r} is not a number" if cell else "the cell is empty"
        raise DataError(
            f"{path}, line {line}, column {column!r}: {what}; every cell but the label must be a "
            f"number; fill it in, remove the column or pass label={column!r}"
        ) from error


def _find_column(columns: tuple[str, ...], label: str | int, path: Path) -> int:
    if isinstance(label, int) and -len(columns) <= label < len(columns):
        return label % len(columns)
    if label in columns:
        return columns.index(str(label))
    near = get_close_matches(str(label), columns, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "name one of them"
    raise DataError(
        f"the label column {label!r} is not in {path}; it has {', '.join(columns)}; {hint}"
    )
