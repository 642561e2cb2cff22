"""Find how a table is laid out: delimiter, decimal mark, header, row index. Decided from its first
lines, by these rules.

    delimiter   tab, semicolon, bar or comma: the one that cuts the lines into equally many cells
    decimal     a comma where cells are parted by something else and hold numbers such as 1,5;
                1,234 alone could be both and is refused, and so are thousands separators
    header      the first line, if none of its cells is a number; not, if all are. A first line
                with numbers and gaps or names is refused. 0, 1, 2, ... are names (as pandas
                writes them) if all numbers below have a decimal point, and refused otherwise, as
                other whole numbers are over decimal ones
    row index   a first column without a name that holds whole numbers or text; it is left out
    blank lines are left out; a delimiter at the end of all lines adds no column

Where two readings are possible the table is refused: `header` decides.
"""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import dropwhile
from pathlib import Path

from lowland.data.classes import NUMBER, is_missing
from lowland.data.dataset import DataError

DELIMITERS = "\t;|,"
FEW = 3  # rows below the first from which it is judged by them
SAMPLE = 1 << 17  # characters from which the layout is decided
COMMA_NUMBER = re.compile(r"[+-]?([0-9]+,?[0-9]*|,[0-9]+)([eE][+-]?[0-9]+)?")
THOUSANDS = re.compile(r"[+-]?[1-9][0-9]{0,2}(,[0-9]{3})+")
WHOLE = re.compile(r"[+-]?[0-9]+")
UNNAMED = re.compile(r"(unnamed: ?[0-9]+)?", re.IGNORECASE)  # as pandas reads its own index
WORDS = {"true": 1.0, "false": 0.0}  # as pandas writes booleans
HEADER_ADVICE = (
    "say header=True if it holds names or header=False if it is an example (`train` takes --set "
    "data.header=true or false), or correct that line"
)


@dataclass(frozen=True)
class Layout:
    """Layout of a text table.

    columns: name of every column that is read, "0", "1", ... without a header; first: position of
    the first of them; trailing: an empty cell ends each line; notes: what was decided and could
    surprise.
    """

    delimiter: str
    decimal: str
    header: bool
    columns: tuple[str, ...]
    first: int = 0
    trailing: bool = False
    notes: tuple[str, ...] = ()


def read_layout(
    path: Path,
    header: bool | None = None,
    label: str | int | None = None,
    known: Sequence[str] = (),
) -> Layout:
    """Decide the layout of a text table from its first lines.

    label: the column of classes, in which any text may stand; known: column names of which some in
    the first line make it a header. Raises DataError where two readings are possible.
    """
    text = _read_sample(path)
    delimiter = _choose_delimiter(text)
    rows = list(_split(text, delimiter, path))
    if not rows:
        raise DataError(
            f"{path} is empty; a table needs examples in rows; check how it was written"
        )
    _check_comment(text, path)
    below = rows[1:]
    decimal = "," if delimiter != "," and _has_decimal_commas(rows, path) else "."
    trailing = len(rows[0]) > 1 and all(row[-1] == "" for row in rows)
    cells = rows[0][:-1] if trailing else rows[0]
    columns = [[row[i] for row in below if i < len(row)] for i in range(len(cells))]
    notes = ["numbers are read with decimal commas"] if decimal == "," else []
    if header is None:
        header = _is_header(cells, columns, decimal, label, known, path)
        if header and _counts_up(cells[bool(not cells[0]) :]):
            notes.append("the first line, 0, 1, 2, ..., is taken for names of columns")
    if not header:
        names = tuple(str(i) for i in range(len(cells)))
        return Layout(delimiter, decimal, False, names, 0, trailing, tuple(notes))
    index = len(cells) > 1 and UNNAMED.fullmatch(cells[0]) is not None
    if index:
        _check_index(columns[0], decimal, path)
        notes.append("the first column has no name and is taken for numbers of rows: left out")
    names = (cells[index].removeprefix("#").strip(), *cells[index + 1 :])  # as NumPy writes it
    _check_names(names, path)
    return Layout(delimiter, decimal, True, names, int(index), trailing, tuple(notes))


def is_value(cell: str, decimal: str = ".") -> bool:
    """Tell whether a cell holds a number (or true or false)."""
    pattern = NUMBER if decimal == "." else COMMA_NUMBER
    word = cell.lower()
    return (
        bool(pattern.fullmatch(cell)) or word in WORDS or word.lstrip("+-") in ("inf", "infinity")
    )


def _read_sample(path: Path) -> str:
    """Return the first lines of a text file, whole ones."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            text = file.read(SAMPLE)
    except UnicodeDecodeError as error:
        raise DataError(describe_encoding(path, error)) from error
    if len(text) < SAMPLE:
        return text
    cut = max(text.rfind("\n"), text.rfind("\r"))
    return text[: cut + 1] or text


def describe_encoding(path: Path, error: Exception) -> str:
    """Say that a file is not text."""
    return (
        f"{path} is not a text table ({error}); it must be UTF-8; export it again as CSV in UTF-8"
    )


def _split(text: str, delimiter: str, path: Path | None = None) -> Iterator[list[str]]:
    """Yield the rows of a text, cells stripped, blank lines left out."""
    try:
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter):
            cells = [cell.strip() for cell in row]
            if cells not in ([], [""]):
                yield cells
    except csv.Error as error:
        if path is not None:
            raise DataError(describe_encoding(path, error)) from error


def _check_comment(text: str, path: Path) -> None:
    """Refuse a first line that begins with # and does not fit the table below, as names would."""
    lines = text.lstrip().splitlines()
    if not lines[0].startswith("#"):
        return
    body = "\n".join(dropwhile(lambda line: not line.strip() or line.startswith("#"), lines))
    delimiter = _choose_delimiter(body)
    rows = list(_split(body, delimiter))[:FEW]
    width = len(next(_split(lines[0], delimiter), []))
    uneven = all(len(row) != width and row[-1] for row in rows)
    numeric = [any(is_value(cell) or is_value(cell, ",") for cell in row) for row in rows]
    if rows and (uneven or numeric[:2] == [False, True]):
        raise DataError(
            f"line 1 of {path}, {lines[0][:40]!r}, looks like a comment, for it does not fit the "
            "lines below; a table begins with the names of its columns or an example; remove it"
        )


def _choose_delimiter(text: str) -> str:
    """Return the delimiter that cuts a text into equally many cells, the most of them numbers."""
    ranks = []
    for place, delimiter in enumerate(DELIMITERS):
        rows = list(_split(text, delimiter))
        if not rows or len(rows[0]) < 2:
            continue
        even = all(len(row) == len(rows[0]) for row in rows)
        decimal = "." if delimiter == "," else ","
        cells = [cell for row in rows[1:] or rows for cell in row]
        values = sum(is_value(cell) or is_value(cell, decimal) for cell in cells)
        ranks.append((even, values / len(cells), len(rows[0]) if not even else -place, delimiter))
    return max(ranks)[3] if ranks else ","


def _has_decimal_commas(rows: Sequence[Sequence[str]], path: Path) -> bool:
    """Tell whether numbers are written as 1,5. Raises DataError where 1,234 could be both."""
    commas = [cell for row in rows for cell in row if "," in cell and COMMA_NUMBER.fullmatch(cell)]
    thousands = [cell for row in rows for cell in row if THOUSANDS.fullmatch(cell)]
    if not thousands or set(commas) - set(thousands):
        return bool(commas)
    raise DataError(
        f"{path} holds {thousands[0]}, which may have a decimal comma or a thousands separator; a "
        "number has one reading; write it with a decimal point, or without the separator"
    )


def _counts_up(cells: Sequence[str]) -> bool:
    return list(cells) == [str(i) for i in range(len(cells))]


def _is_header(
    cells: Sequence[str],
    columns: Sequence[Sequence[str]],
    decimal: str,
    label: str | int | None,
    known: Sequence[str],
    path: Path,
) -> bool:
    """Tell whether the first line holds names, by the rules of this module."""
    asked = {label} if isinstance(label, str) and not WHOLE.fullmatch(label) else set()
    if (asked | {name for name in known if not is_value(name)}) & set(cells):
        return True
    if len(cells) > 1 and not cells[0] and _counts_up(cells[1:]):
        return True  # the empty corner over pandas' row index
    place = position_of(label)
    chosen = [i for i in range(len(cells)) if place is None or i != place % len(cells)]
    values = [i for i in chosen if is_value(cells[i], decimal)]
    gaps = [i for i in chosen if i not in values and is_missing(cells[i])]
    names = [i for i in chosen if i not in values and i not in gaps]
    if len(values) == len(chosen):
        return _is_numbered_header(cells, columns, chosen, path)
    if not values and names and not [i for i in gaps if cells[i]]:
        return True
    if gaps:
        raise DataError(
            f"line 1 of {path} has no value in column {gaps[0]} ({cells[gaps[0]]!r}); a table "
            f"without gaps is read, and a line of names has a name for each column; fill it in, or "
            f"{HEADER_ADVICE}"
        )
    if all(_is_text(columns[i], decimal) for i in names):
        return False  # a column of text below too, as of classes
    raise DataError(
        f"line 1 of {path} holds {cells[values[0]]!r}, a number, and {cells[names[0]]!r}, a name; "
        f"a first line of names alone or of numbers alone is read; {HEADER_ADVICE}"
    )


def position_of(label: str | int | None) -> int | None:
    """Return the position that a label names by number."""
    if isinstance(label, str):
        return int(label) if WHOLE.fullmatch(label) and len(label) < 10 else None
    return label


def _is_text(column: Sequence[str], decimal: str) -> bool:
    return bool(column) and not any(is_value(cell, decimal) for cell in column)


def _is_numbered_header(
    cells: Sequence[str], columns: Sequence[Sequence[str]], chosen: Sequence[int], path: Path
) -> bool:
    """Tell whether a first line of numbers stands over columns rather than among them."""
    rows = min((len(columns[i]) for i in chosen), default=0)
    over_decimals = not any(WHOLE.fullmatch(cell) for i in chosen for cell in columns[i])
    if _counts_up(cells) and over_decimals:
        return rows > 0
    odd = over_decimals and rows >= FEW and all(WHOLE.fullmatch(cells[i]) for i in chosen)
    if odd or (_counts_up(cells) and len(chosen) > 1):
        raise DataError(
            f"line 1 of {path} is {', '.join(cells[:5])}{', ...' if len(cells) > 5 else ''}, which "
            "may be an example or names of columns (pandas writes 0, 1, 2, ... where there are "
            f"none); one reading is needed; {HEADER_ADVICE}"
        )
    return False


def _check_index(column: Sequence[str], decimal: str, path: Path) -> None:
    """Refuse a first column without a name that holds measurements."""
    if all(WHOLE.fullmatch(cell) for cell in column) or _is_text(column, decimal):
        return
    raise DataError(
        f"the first column of {path} has no name and holds numbers that count no rows; a column of "
        "the table has a name, and numbers of rows are whole; name it or remove it"
    )


def _check_names(names: Sequence[str], path: Path) -> None:
    """Refuse names that are missing or occur twice."""
    empty = [i for i, name in enumerate(names) if not name]
    twice = sorted({name for name in names if name and list(names).count(name) > 1})
    if empty or twice:
        what = f"{', '.join(map(repr, twice))} twice" if twice else f"no name in place {empty[0]}"
        raise DataError(
            f"the header of {path} has {what}; columns are told apart by their names; name each "
            "column once"
        )
