"""Rows about points in files, as a table in "csv" or "jsonl"."""

import csv
import io
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

from lowland.atomic import write_aside
from lowland.plain import dump_json
from lowland.registry import Plain

Row = Plain


def format_rows(
    rows: Sequence[Row], form: str, columns: Sequence[str], *, header: bool = True
) -> str:
    """Format rows as "csv", with a header if wanted, or "jsonl"."""
    if form == "jsonl":
        return "".join(dump_json(row) + "\n" for row in rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=columns)
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_rows(
    rows: Iterable[Row], out: str | Path | None, form: str, columns: Sequence[str]
) -> int:
    """Write rows as they come to standard output, or into a file that is then whole or absent.

    Returns the number of rows whose verdict is "outlier".
    """
    outliers = 0
    try:
        with ExitStack() as stack:
            file: TextIO = sys.stdout
            if out is not None:
                aside = stack.enter_context(write_aside(Path(out)))
                file = stack.enter_context(aside.open("w"))
            file.write(format_rows([], form, columns))
            for row in rows:
                file.write(format_rows([row], form, columns, header=False))
                outliers += row["verdict"] == "outlier"
    except OSError as error:
        raise ValueError(
            f"{out} could not be written ({error.strerror}); a folder that exists, and room in it, "
            "are needed; name another"
        ) from None
    return outliers
