"""Logs of a run: rows of plain values, one line of JSON each."""

import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from lowland.atomic import append_bytes, cut_file
from lowland.reading import ReadError, parse_json
from lowland.registry import Plain
from lowland.run.checkpoint import disk_error
from lowland.run.schema import is_row
from lowland.systems import sync


def write_row(path: Path, row: Mapping[str, object]) -> None:
    """Append a row to a log. Numbers that are not finite become the texts "nan", "inf", "-inf".

    Raises RunError when the disk refuses, ValueError for a link in the place of the log.
    """
    line = json.dumps({key: _plain_number(value) for key, value in row.items()})
    try:
        append_bytes(path, f"{line}\n".encode())
    except OSError as error:
        raise disk_error(path, error) from error


def parse_rows(data: bytes, name: str) -> list[Plain]:
    """Return the rows in the bytes of a log; what is no row is passed over: a half-written last
    line, as a kill leaves it, or what others wrote.
    """
    found = []
    for line in data.decode(errors="replace").splitlines():
        try:
            row = parse_json(line, name)
        except ReadError:
            continue
        if is_row(row):
            found.append(row)
    return found


def sync_log(path: Path) -> None:
    """Bring a log to the disk. Raises RunError when the disk refuses."""
    try:
        sync(path)
    except OSError as error:
        raise disk_error(path, error) from error


def cut_log(path: Path, present: int, size: int) -> None:
    """Cut a log of `present` bytes back to a size; warn if it is shorter than that.

    Raises RunError when the disk refuses, ValueError for a link in the place of the log.
    """
    if present > size:
        try:
            cut_file(path, size)
        except OSError as error:
            raise disk_error(path, error) from error
    elif present < size:
        warnings.warn(
            f"{path} holds {present} bytes and the checkpoint knew {size}; earlier rows are lost; "
            "training goes on and logs from here",
            stacklevel=3,
        )


def _plain_number(value: object) -> object:
    """Return a tensor of one number as a number, and one that is not finite as a string."""
    if isinstance(value, Tensor):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
