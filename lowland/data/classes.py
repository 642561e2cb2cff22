"""Names and numbers of classes, by one rule in every reader.

Names are put in natural order by `sort_classes`; the class of an example is the position of its
name there. Labels that are numbers already count from 0 without gaps that nobody meant.
"""

import math
import re
import sys
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from lowland.data.dataset import DataError

NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
MISSING = ("", "?", "na", "n/a", "#n/a", "<na>", "nan", "null", "none")


def sort_classes(names: Iterable[str]) -> tuple[str, ...]:
    """Return the distinct names in natural order: numbers first, by value, then text, in which runs
    of digits count as numbers and capitals come before small letters only among equals.

    >>> sort_classes(["10", "2", "1", "cat 10", "cat 9", "Bee"])
    ('1', '2', '10', 'Bee', 'cat 9', 'cat 10')
    """
    return tuple(sorted(set(names), key=_natural_key))


def _natural_key(name: str) -> tuple[float, list[tuple[str, int]], str]:
    """Return (value, [], name) of a number and (inf, parts, name) of text."""
    if NUMBER.fullmatch(name):
        return min(float(name), sys.float_info.max), [], name
    parts = re.findall(r"([^0-9]*)([0-9]*)", name.casefold())
    return math.inf, [(text, int(digits[:300] or -1)) for text, digits in parts], name


def is_missing(cell: str) -> bool:
    """Tell whether a cell of a text table says that its value is missing: empty, NA, nan, null,
    ...
    """
    return cell.strip().lower() in MISSING


def number_labels(cells: Sequence[str], where: str) -> tuple[Tensor, tuple[str, ...]]:
    """Number labels (N,) by their place among the sorted names; return int64 y (N,) and the names.

    where: names the source in messages. Raises DataError for missing labels and for two labels that
    are one number, as 1 and 1.0.
    """
    missing = [row for row, cell in enumerate(cells, 1) if is_missing(cell)]
    if missing:
        raise DataError(
            f"{where} has {len(missing)} rows without a label (the first is row {missing[0]}: "
            f"{cells[missing[0] - 1]!r}); every row needs its class; remove those rows or name "
            "their class"
        )
    names = sort_classes(cells)
    values = [float(name) if NUMBER.fullmatch(name) else math.inf for name in names]
    for i in range(1, len(names)):
        if values[i] == values[i - 1] < math.inf:
            raise DataError(
                f"{where} has the labels {names[i - 1]!r} and {names[i]!r}, which are one number "
                "written in two ways; a class has one name; write all of them alike"
            )
    index = {name: i for i, name in enumerate(names)}
    return torch.tensor([index[cell] for cell in cells]), names
