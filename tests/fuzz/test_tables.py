"""Tables and arrays that people have: each is read as what it says, or refused."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st

import lowland
from tests.fuzz.outcomes import explore, judge

MANY = [25, pytest.param(300, marks=pytest.mark.slow)]
CELLS = st.one_of(
    st.integers(-1000, 1000).map(str),
    st.floats(-1e6, 1e6, allow_nan=False).map(repr),
    st.sampled_from(("0", "1", "1e3", "+2", "-0.0", " 3 ", "1e-30", "1700000000.25", "007")),
)
ODD_CELLS = st.sampled_from(
    (
        "",
        "NA",
        "nan",
        "inf",
        "?",
        "1,5",
        "1_000",
        "0x1F",
        "1e400",
        "٣",
        "=cmd()",
        "true",
        "\x1b[31m",
        '"',
    )
)
NAMES = st.sampled_from(
    ("a", "b", "c", "size", "0", "1", "2", "", "a", "y", "x y", "ä", "1.5", "index")
)


@dataclass(frozen=True)
class Sheet:
    """A table as a spreadsheet writes it."""

    names: tuple[str, ...] | None
    rows: tuple[tuple[str, ...], ...]
    delimiter: str
    newline: str
    mark: bool
    blank: int

    def write(self, path: Path) -> None:
        """Write the table as a text file."""
        lines = [
            self.delimiter.join(row) for row in (*([self.names] if self.names else []), *self.rows)
        ]
        lines[self.blank : self.blank] = [""] if self.blank < len(lines) else []
        text = self.newline.join(lines) + self.newline
        path.write_bytes((b"\xef\xbb\xbf" if self.mark else b"") + text.encode())


@st.composite
def sheets(draw: st.DrawFn) -> Sheet:
    """Draw tables, most of them sound, with at most one odd cell or ragged row."""
    width, count = draw(st.integers(1, 4)), draw(st.integers(1, 12))
    rows = [[draw(CELLS) for _ in range(width)] for _ in range(count)]
    trouble = draw(st.sampled_from(("none", "none", "none", "cell", "ragged")))
    at = draw(st.integers(0, count - 1))
    if trouble == "cell":
        rows[at][draw(st.integers(0, width - 1))] = draw(ODD_CELLS)
    if trouble == "ragged":
        rows[at] = rows[at][:-1] if draw(st.booleans()) else [*rows[at], "5"]
    names = draw(st.one_of(st.none(), st.tuples(*[NAMES] * width)))
    return Sheet(
        names,
        tuple(map(tuple, rows)),
        draw(st.sampled_from((",", ",", ";", "\t"))),
        draw(st.sampled_from(("\n", "\r\n"))),
        draw(st.booleans()),
        draw(st.sampled_from((99, 99, 1, 2))),
    )


def read_numbers(sheet: Sheet) -> np.ndarray | None:
    """Return the numbers of a table as its writer meant them, or None where a cell is none."""
    filled = [row for row in sheet.rows if any(cell.strip() for cell in row)]  # no blank lines
    if len({len(row) for row in filled}) > 1:
        return None
    try:
        values = [[float(cell.strip()) for cell in row] for row in filled]
    except ValueError:
        return None
    return np.array(values) if np.isfinite(values).all() else None


def are_numbers(names: tuple[str, ...] | None) -> bool:
    """Return whether a header reads like a row of numbers."""
    try:
        return bool(np.isfinite([float(name.strip()) for name in names or ("",)]).all())
    except ValueError:
        return False


def are_positions(names: tuple[str, ...] | None) -> bool:
    """Return whether a header is what pandas writes for columns without names: 0, 1, 2, ..."""
    return names == tuple(map(str, range(len(names))))


def sort_rows(x: np.ndarray) -> np.ndarray:
    """Return float32 rows in one order: parts are drawn by a permutation."""
    flat = np.asarray(x, dtype=np.float32).reshape(len(x), -1)
    return flat[np.lexsort(flat.T[::-1])]


def whole(data: lowland.data.Dataset) -> np.ndarray:
    """Return the rows of all parts, in one order."""
    return sort_rows(np.concatenate([split.x.numpy() for _, split in data.splits()]))


@pytest.mark.parametrize("examples", MANY)
def test_tables_of_text(examples: int, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"

    def check(sheet: Sheet) -> None:
        sheet.write(path)
        right = read_numbers(sheet)

        def find_error(data: lowland.data.Dataset) -> str:
            if right is None:
                return "a table with a cell that is no number was read"
            found, wanted = whole(data), sort_rows(right)
            row = are_numbers(sheet.names) and not are_positions(sheet.names)
            if row:
                wanted = sort_rows(np.array([[*map(float, sheet.names)], *right]))  # a row, then
            if found.shape != wanted.shape and sheet.names is not None and right.shape[1] > 1:
                wanted = sort_rows(right[:, 1:])  # an index column may be left out, if it is one
                plain = np.array_equal(right[:, 0], np.arange(len(right)))
                if not plain or sheet.names[0] not in ("", "index"):
                    return f"{found.shape[0]} rows of {found.shape[1]}, not {right.shape}"
            if found.shape != wanted.shape or not np.array_equal(found, wanted):
                return (
                    f"{len(found)} rows, the first {found[:1].tolist()}, not {wanted[:1].tolist()}"
                )
            if sheet.names and not row and len(data.columns) == len(sheet.names):
                given = tuple(name.strip() for name in sheet.names)
                return "" if data.columns == given else f"columns {data.columns}, not {given}"
            return ""

        judge("table of text", lambda: lowland.load_data(path), find_error)

    explore(sheets(), check, examples)


KINDS = ("f4", "f8", "f2", ">f8", "u1", "i1", "i4", "i8", "?", "c8", "M8[s]", "U3", "O", "i4,f8")


@st.composite
def files_of_arrays(draw: st.DrawFn) -> tuple[bytes, str, np.ndarray]:
    """Draw an array, the bytes of a file that holds it, and the file's suffix."""
    shape = draw(
        st.one_of(
            st.sampled_from(((20, 3), (20, 8, 8), (12, 1, 4, 4), (30,), (20, 3))),
            st.lists(st.integers(0, 6), max_size=5).map(tuple),
        )
    )
    r = np.random.default_rng(draw(st.integers(0, 999)))
    values = r.normal(size=shape) * draw(st.sampled_from((1.0, 1e-6, 100.0)))
    values = values + draw(st.sampled_from((0.0, 1e6, -3.0)))
    kind = draw(st.one_of(st.sampled_from(("f4", "f8", "u1", "?")), st.sampled_from(KINDS)))
    if kind[0] in "ui?M":
        values = np.abs(values) % draw(st.sampled_from((2, 10, 256 if kind == "u1" else 100)))
    if kind[0] in "f>" and values.size and draw(st.integers(0, 7)) == 0:
        values.flat[0] = draw(st.sampled_from((np.nan, np.inf)))
    array = values.astype(np.int64).astype(kind) if kind[0] in "M" else values.astype(kind)
    if draw(st.booleans()):
        array = np.asfortranarray(array)
    store, suffix = io.BytesIO(), draw(st.sampled_from((".npy", ".npz")))
    if suffix == ".npy":
        np.save(store, array)
    else:
        labels = r.integers(0, 3, size=draw(st.sampled_from((len(array) if array.ndim else 1, 3))))
        members = {"x": array, "y": labels.astype(draw(st.sampled_from(("i8", "u1", "f4"))))}
        np.savez(store, **dict(list(members.items())[: draw(st.integers(1, 2))]))
    return store.getvalue(), draw(st.sampled_from((suffix, suffix, suffix, ".npy"))), array


@pytest.mark.parametrize("examples", MANY)
def test_files_of_arrays(examples: int, tmp_path: Path) -> None:
    def check(case: tuple[bytes, str, np.ndarray]) -> None:
        content, suffix, array = case
        path = tmp_path / f"a{suffix}"
        path.write_bytes(content)

        def find_error(data: lowland.data.Dataset) -> str:
            if array.dtype.kind not in "biuf":
                return f"values of type {array.dtype} were read"
            with np.errstate(over="ignore"):
                wanted = sort_rows(array.astype(np.float64))
            if not np.isfinite(wanted).all():
                return "values that are not finite were read"
            found = whole(data)
            if found.shape != wanted.shape:
                return f"shape {found.shape}, not {wanted.shape}"
            scaled = (
                sort_rows(wanted.astype(np.float64) / 255) if array.dtype == np.uint8 else wanted
            )
            near = np.allclose(found, wanted, 1e-6) or np.allclose(found, scaled, 1e-6)
            return "" if near else f"{found[:1].tolist()}, not {wanted[:1].tolist()}"

        judge("file of an array", lambda: lowland.load_data(path), find_error)

    explore(files_of_arrays(), check, examples)
