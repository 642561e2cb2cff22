"""Reader of text tables: numbers in columns, as spreadsheets and pandas write them.

A table is read line by line, so that its size does not matter; what its lines mean is decided in
`lowland.data.layout`.
"""

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lowland.data.classes import is_missing
from lowland.data.dataset import DataError
from lowland.data.layout import (
    WHOLE,
    WORDS,
    Layout,
    describe_encoding,
    is_value,
    position_of,
    read_layout,
)
from lowland.data.precision import EXACT, check_whole

BLOCK = 4096  # rows that are parsed together
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Block:
    """Some rows: numbers (n, d) in float64 and the cells of the label column, if there is one."""

    numbers: Numbers
    labels: list[str]


@dataclass(frozen=True)
class TextTable:
    """A text table whose layout is known: the columns that are read, in their order, and the column
    of classes.

    kept: positions of columns among `layout.columns`; label: position of the classes, or None.
    """

    path: Path
    layout: Layout
    kept: tuple[int, ...]
    label: int | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the names of the columns that are read."""
        return tuple(self.layout.columns[i] for i in self.kept)

    def blocks(self, size: int = BLOCK) -> Iterator[Block]:
        """Yield all rows, `size` at a time. Raises DataError with line and column of a cell that is
        no finite number.
        """
        lines: list[int] = []
        rows: list[list[str]] = []
        for line, row in self._rows():
            lines.append(line)
            rows.append(row)
            if len(rows) == size:
                yield self._parse(lines, rows)
                lines, rows = [], []
        if rows:
            yield self._parse(lines, rows)

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield line number and cells of every row."""
        layout, first = self.layout, self.layout.header
        width = layout.first + len(layout.columns) + layout.trailing
        try:
            with self.path.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.reader(file, delimiter=layout.delimiter)
                for row in reader:
                    if len(row) < 2 and not "".join(row).strip():
                        continue
                    if first:
                        first = False
                        continue
                    if len(row) != width or (layout.trailing and row[-1].strip()):
                        raise DataError(
                            f"line {reader.line_num} of {self.path} has {len(row)} cells; the "
                            f"first has {width - layout.trailing}; mend or remove the line"
                        )
                    yield reader.line_num, row[layout.first :]
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(describe_encoding(self.path, error)) from error

    def _parse(self, lines: Sequence[int], rows: Sequence[list[str]]) -> Block:
        labels = [] if self.label is None else [row[self.label].strip() for row in rows]
        cells = [[row[i] for i in self.kept] for row in rows]
        numbers = self._parse_plain(cells)
        if numbers is None or not bool(np.isfinite(numbers).all()):
            numbers = np.array(
                [
                    [self._parse_cell(row[i], line, i) for i in self.kept]
                    for line, row in zip(lines, rows, strict=True)
                ]
            )
        if np.abs(numbers).max() >= EXACT:
            self._check_whole(rows)
        return Block(numbers, labels)

    def _check_whole(self, rows: Sequence[list[str]]) -> None:
        """Refuse whole numbers that float64 cannot tell apart."""
        for i in self.kept:
            cells = [row[i].strip() for row in rows]
            values = [int(cell) for cell in cells if WHOLE.fullmatch(cell) and len(cell) < 400]
            if values:
                name = repr(self.layout.columns[i])
                check_whole(min(values), max(values), name, str(self.path))

    def _parse_plain(self, cells: Sequence[Sequence[str]]) -> Numbers | None:
        """Return cells of plain numbers as such; None if any is something else."""
        text = "".join(map("".join, cells))
        if self.layout.decimal == "," or "_" in text or not text.isascii():
            return None
        try:
            return np.array([list(map(float, row)) for row in cells])
        except ValueError:
            return None

    def _parse_cell(self, cell: str, line: int, column: int) -> float:
        cell, decimal = cell.strip(), self.layout.decimal
        word = cell.lower()
        if word in WORDS:
            return WORDS[word]
        if is_value(cell, decimal):
            value = float(cell.replace(",", "."))
            if math.isfinite(value):
                return value
        name = self.layout.columns[column]
        shown = repr(cell if len(cell) <= 40 else f"{cell[:37]}...")
        what = f"{shown} is not a number"
        if is_missing(cell):
            what = f"{shown} says that the value is missing" if cell else "the cell is empty"
        elif is_value(cell, decimal):
            what = f"{shown} is infinite, or beyond what 64 bits hold"
        raise DataError(
            f"{self.path}, line {line}, column {name!r}: {what}; every cell but the label must be "
            "a finite number, without separators of thousands; fill it in, remove the column, or "
            f"pass label={name!r} (--set data.label={name}) if it holds classes"
        )


def open_text_table(
    path: Path, label: str | int | None = None, header: bool | None = None
) -> TextTable:
    """Open a text table for training: all columns but the label are read.

    label: name or position of a column of classes; header: whether the first line holds names;
    decided by the rules of `lowland.data.layout` unless given. Raises DataError for a table that
    cannot be read in one way only.
    """
    layout = read_layout(path, header, label)
    chosen = None if label is None else _find_column(layout, label, path)
    kept = tuple(i for i in range(len(layout.columns)) if i != chosen)
    if not kept:
        raise DataError(f"{path} has only the label column; a table needs numbers too; add columns")
    return TextTable(path, layout, kept, chosen)


def _find_column(layout: Layout, label: str | int, path: Path) -> int:
    """Return the position of the label column: its name, or a number where it is no name."""
    columns = layout.columns
    if isinstance(label, str) and label in columns:
        return columns.index(label)
    place = position_of(label)
    counted = isinstance(label, int) or not layout.header
    if counted and place is not None and -len(columns) <= place < len(columns):
        return place % len(columns)
    near = get_close_matches(str(label), columns, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "name one of them"
    raise DataError(
        f"the label column {label!r} is not in {path}; it has {', '.join(columns)}; {hint} "
        "(label=..., or --set data.label=...)"
    )


def read_text_table(table: TextTable) -> tuple[Numbers, list[str]]:
    """Read a text table whole: numbers (N, d) in float64 and the cells of the label column."""
    blocks = list(table.blocks())
    if not blocks:
        raise DataError(
            f"{table.path} holds a header and no rows; a table needs examples; check how it was "
            "written"
        )
    labels = [label for block in blocks for label in block.labels]
    return np.concatenate([block.numbers for block in blocks]), labels
