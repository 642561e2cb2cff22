"""Tables in files: examples in rows with labels and the names of classes and columns, as stored."""

import warnings
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from lowland.data.arrays import open_arrays, read_labels
from lowland.data.classes import number_labels
from lowland.data.kinds import Array
from lowland.data.text_tables import open_text_table, read_text_table


@dataclass(frozen=True, eq=False)
class Table:
    """Examples x (N, ...) in the precision of the file, labels y (N,) int64 or None, the names of
    the classes, of the columns and of the column that held the classes.
    """

    x: Array
    y: Tensor | None = None
    class_names: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    label: str = ""


def read_array(path: Path) -> Table:
    """Read a .npy file, which is mapped, or a .npz file with x (or X) and optionally y.

    Raises DataError, naming the file, if it is cut short, pickled, not numeric, empty, larger than
    memory, or x and y differ in length.
    """
    arrays = open_arrays(path)
    x = arrays["x"]
    if "y" not in arrays:
        return Table(x)
    return Table(x, *read_labels(arrays["y"], len(x), path))


def read_csv(path: Path, label: str | int | None = None, header: bool | None = None) -> Table:
    """Read a table of numbers, float64 (N, d), by the rules of `lowland.data.layout`.

    label: the name (or position) of a column of classes; any text will do there; header: whether
    the first line holds names, decided by the rules unless given.

    Raises DataError with the line and column of a cell that is empty or not a finite number, a row
    of the wrong length, and a table that can be read in two ways. Warns of what the rules decided
    and could surprise.
    """
    table = open_text_table(path, label, header)
    for note in table.layout.notes:
        warnings.warn(f"{path}: {note}", stacklevel=2)
    x, cells = read_text_table(table)
    if table.label is None:
        return Table(x, columns=table.columns)
    y, names = number_labels(cells, str(path))
    return Table(x, y, names, table.columns, table.layout.columns[table.label])
