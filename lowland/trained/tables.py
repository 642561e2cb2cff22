"""Rows about points in files, as a table in "csv" or "jsonl".

A spreadsheet runs what stands in a cell if that begins with =, +, -, @ or a control character. Such
text (the name of a file called `=cmd()`, say) gets an apostrophe before it in "csv", which
spreadsheets hide; "jsonl" has the names as they are. Lines end in a plain line feed.
"""

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
FORMULA = tuple("=+-@\t\r\n")  # what makes a formula of a cell


def format_rows(
    rows: Sequence[Row], form: str, columns: Sequence[str], *, header: bool = True
) -> str:
    """Format rows as "csv", with a header if wanted, or "jsonl"."""
    if form == "jsonl":
        return "".join(dump_json(row) + "\n" for row in rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if header:
        writer.writerow([to_cell(name) for name in columns])
    writer.writerows([to_cell(row[name]) for name in columns] for row in rows)
    return text.getvalue()


def to_cell(value: object) -> object:
    """Return a value as a cell that no spreadsheet runs, text in valid UTF-8; numbers as they are.

    >>> to_cell("=cmd()"), to_cell("a.png[3]"), to_cell(-1.5)
    ("'=cmd()", 'a.png[3]', -1.5)
    """
    if not isinstance(value, str):
        return value
    text = value.encode("utf-8", "backslashreplace").decode()
    return f"'{text}" if text[:1] in FORMULA else text


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
                file = stack.enter_context(aside.open("w", encoding="utf-8", newline=""))
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
