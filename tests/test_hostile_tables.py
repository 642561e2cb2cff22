"""Hostile tables, arrays and labels: each is read rightly, or refused in three clauses."""

import io
import json
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lowland
from lowland.cli import main
from lowland.data import Dataset, load_data
from lowland.data.classes import sort_classes
from lowland.data.format import Format
from lowland.data.point_files import open_points
from lowland.data.room import memory_bound
from lowland.data.tables import read_csv
from lowland.domain import binary, box, categorical, real
from lowland.interop.adapters import to_points
from lowland.trained.tables import format_rows


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Tests that are about warnings ask for them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def write(path: Path, text: str) -> Path:
    """Write a text table."""
    path.write_bytes(text.encode())
    return path


def save(path: Path, array: Any) -> Path:
    """Write an array."""
    np.save(path, array)
    return path


@contextmanager
def refuse(message: str) -> Iterator[None]:
    """Expect an error in three clauses that holds a message."""
    with pytest.raises(ValueError) as caught:
        yield
    words = str(caught.value)
    assert words.count("; ") >= 2 and re.search(message, words), words


def everything(data: Dataset) -> torch.Tensor:
    """Return all examples of a set."""
    return torch.cat([part.x for _, part in data.splits()])


def say(call: Callable[[], object]) -> str:
    """Return the warnings of a call, each on one line."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    lines = [str(warning.message) for warning in caught]
    assert all("\n" not in line for line in lines)
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------ classes


def test_classes_are_sorted_as_people_count() -> None:
    names = ["10", "2", "1", "-1", "1.5", "1e400", "cat 10", "cat 9", "Bee", "bee", "2", "x" * 9]
    assert sort_classes(names) == (
        *("-1", "1", "1.5", "2", "10", "1e400"),
        *("Bee", "bee", "cat 9", "cat 10", "x" * 9),
    )
    assert sort_classes(["x" + "9" * 5000, "x1"]) == ("x1", "x" + "9" * 5000)


@pytest.mark.parametrize("gap", ["", "nan", "NA", "?", "null", "None", "<NA>"])
def test_a_missing_label_is_no_class(tmp_path: Path, gap: str) -> None:
    rows = "".join(f"{i},{i % 2}\n" for i in range(8))
    path = write(tmp_path / "a.csv", f"a,y\n{rows}9,{gap}\n")
    with refuse("1 rows without a label"):
        load_data(path, label="y")


def test_one_number_written_in_two_ways_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "a,y\n1,1\n2,1.0\n3,2\n4,2\n5,1\n")
    with refuse("labels '1' and '1.0'"):
        load_data(path, label="y")
    path = write(tmp_path / "a.csv", "a,y\n1,+\n2,-\n3,-\n4,+\n5,1e400\n6,2e400\n")
    assert load_data(path, label="y").class_names == ("1e400", "2e400", "+", "-")


X = np.random.default_rng(0).normal(size=(40, 3))
LABELS = {
    "the largest 3000000": np.r_[np.arange(39) % 4, 3_000_000],
    "the largest 18446744073709551615": np.array(
        [0, 1, 2, 3] * 9 + [0, 1, 2, 2**64 - 1], np.uint64
    ),
    r"negative labels \(down to -1\)": np.arange(40) % 3 - 1,
    "labels of type float64": np.full(40, np.nan),
    "labels of type float32": np.arange(40, dtype=np.float32),
    r"labels of shape \(40, 1\)": np.zeros((40, 1), int),
    r"labels of shape \(39,\)": np.zeros(39, int),
    "values of type complex128": np.zeros(40, complex),
    "values of type datetime64": np.zeros(40, "datetime64[s]"),
    "rows without a label": np.array(["a", "nan"] * 20),
}


@pytest.mark.parametrize("message", LABELS)
def test_class_numbers_are_checked_before_names_are_made(tmp_path: Path, message: str) -> None:
    np.savez(tmp_path / "a.npz", x=X, y=LABELS[message])
    with refuse(message):
        load_data(tmp_path / "a.npz")


def test_labels_that_are_read(tmp_path: Path) -> None:
    for y, names in (
        (np.arange(40) % 2 == 0, ("0", "1")),
        (np.array(["b10", "b9"] * 20), ("b9", "b10")),
        (3 * (np.arange(40) % 2), ("0", "1", "2", "3")),
        ((np.arange(40) % 3).astype(">u2"), ("0", "1", "2")),
    ):
        np.savez(tmp_path / "a.npz", x=X, y=y)
        assert load_data(tmp_path / "a.npz").class_names == names


# ---------------------------------------------------------------------------------------- csv rules

ROWS = [[0.5, 1.5], [2.5, -3.0], [4.25, 5.0], [6.0, 7.5], [8.0, 9.25]]


def table(delimiter: str = ",", end: str = "\n", decimal: str = ".", header: str = "a,b") -> str:
    """Write ROWS."""
    lines = [header.replace(",", delimiter)] if header else []
    lines += [delimiter.join(str(v).replace(".", decimal) for v in row) for row in ROWS]
    return end.join(lines) + end


READ = {
    "plain": table(),
    "byte order mark": "\ufeff" + table(),
    "CR LF": table(end="\r\n"),
    "CR": table(end="\r"),
    "no last line end": table().rstrip(),
    "semicolons": table(";"),
    "tabs": table("\t"),
    "bars": table("|"),
    "decimal commas": table(";", decimal=","),
    "decimal commas and tabs": table("\t", decimal=","),
    "decimal commas in quotes": "a;b\n"
    + "".join(f'"{a}";"{b}"\n'.replace(".", ",") for a, b in ROWS),
    "blank lines": table().replace("\n", "\n\n"),
    "a delimiter at each end": table().replace("\n", ",\n"),
    "quotes": '"a","b"\n' + "".join(f'"{a}"," {b} "\n' for a, b in ROWS),
    "signs and exponents": "a,b\n" + "".join(f"{a:+.3e},{b:+.2E}\n" for a, b in ROWS),
    "NumPy's header": table(header="# a,b"),
    "pandas' index": ",a,b\n" + "".join(f"{i},{a},{b}\n" for i, (a, b) in enumerate(ROWS)),
    "R's row names": '"","a","b"\n' + "".join(f'"r{i}",{a},{b}\n' for i, (a, b) in enumerate(ROWS)),
    "pandas' index, read again": "Unnamed: 0,a,b\n"
    + "".join(f"{i},{a},{b}\n" for i, (a, b) in enumerate(ROWS)),
}


@pytest.mark.parametrize("name", READ)
def test_tables_that_are_read(tmp_path: Path, name: str) -> None:
    found = read_csv(write(tmp_path / "t.csv", READ[name]))
    assert found.x.dtype == np.float64 and found.x.tolist() == ROWS and found.columns == ("a", "b")


def test_names_may_hold_anything_that_quotes_allow(tmp_path: Path) -> None:
    head = '"a\nsecond line","b, with ""quotes"""\n'
    found = read_csv(write(tmp_path / "t.csv", head + table(header="")))
    assert found.columns == ("a\nsecond line", 'b, with "quotes"') and found.x.tolist() == ROWS


REFUSED = {
    "a gap in the first line": ("5.1,NA\n" + "1,2\n" * 6, "line 1 .* no value in column 1"),
    "an empty cell in the first line": (",5.1\n" + "1,2\n" * 6, "line 1 .* no value in column 0"),
    "a question mark": ("5.1,?\n" + "1,2\n" * 6, "line 1 .* no value in column 1"),
    "a name and a number": ("5.1,b\n" + "1,2\n" * 6, "a number, and 'b', a name"),
    "0, 1 over whole numbers": ("0,1\n" + "1,2\n" * 6, "line 1 .* is 0, 1, which may"),
    "years over decimals": ("2019,2020\n" + "1.5,2.0\n" * 6, "line 1 .* is 2019, 2020, which may"),
    "names that occur twice": ("a,a\n" + "1,2\n" * 6, "'a' twice"),
    "a name missing in the middle": ("a,,c\n" + "1,2,3\n" * 6, "no name in place 1"),
    "an index that is none": (
        ",a\n" + "0.5,2\n" * 6,
        "has no name and holds numbers that count no",
    ),
    "latin-1": ("a,b\xff\n" + "1,2\n" * 6, "must be UTF-8"),
    "ragged rows": ("a,b\n" + "1,2\n" * 6 + "1,2,3\n", "line 8 .* has 3 cells"),
    "short rows": ("a,b\n" + "1,2\n" * 6 + "1\n", "line 8 .* has 1 cells"),
    "rows of gaps": ("a,b\n" + "1,2\n" * 6 + ",\n", "line 8, column 'a': the cell is empty"),
    "a trailing gap": ("a,b\n" + "1,2\n" * 6 + "1,\n", "line 8, column 'b': the cell is empty"),
    "header only": ("a,b\n", "a header and no rows"),
    "nothing": ("\n\n", "is empty"),
    "thousands": ('a,b\n"1,234.5",2\n' + "1,2\n" * 6, "without separators of thousands"),
    "thousands or decimals": ("a;b\n" + "1,234;2\n" * 6, "decimal comma or a thousands separator"),
    "infinity": ("a,b\n" + "1,2\n" * 6 + "1,-inf\n", "line 8, column 'b': '-inf' is infinite"),
    "beyond float64": ("a,b\n" + "1,2\n" * 6 + "1e400,2\n", "'1e400' is infinite, or beyond"),
    "hexadecimal": ("a,b\n" + "1,2\n" * 6 + "0x10,2\n", "'0x10' is not a number"),
    "underscores": ("a,b\n" + "1,2\n" * 6 + "1_0,2\n", "'1_0' is not a number"),
    "digits of other scripts": ("a,b\n" + "1,2\n" * 6 + "\u0661,2\n", "is not a number"),
    "parted by spaces": ("a b\n" + "1 2\n" * 6, "'1 2' is not a number"),
    "a NUL": ("a,b\n" + "1,2\n" * 6 + "1\0,2\n", "is not"),
    "whole numbers beyond 2^53": (
        "a\n" + "".join(f"{2**60 + i}\n" for i in range(9)),
        "column 'a' .* 64-bit floats cannot tell apart",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_tables_that_are_refused(tmp_path: Path, name: str) -> None:
    text, message = REFUSED[name]
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode("latin-1" if name == "latin-1" else "utf-8"))
    with refuse(message):
        load_data(path)


def test_header_decides_where_two_readings_are_possible(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "0,1\n" + "1,2\n3,4\n" * 3)
    assert len(read_csv(path, header=True).x) == 6 and len(read_csv(path, header=False).x) == 7
    path = write(tmp_path / "t.csv", "2019,2020\n" + "1,2\n3,4\n" * 3)
    assert read_csv(path, header=True).columns == ("2019", "2020") and len(read_csv(path).x) == 7
    path = write(tmp_path / "t.csv", "0,1\n" + "1.0,2.5\n3.0,4.0\n" * 3)  # pandas, no names
    assert len(read_csv(path).x) == 6
    path = write(tmp_path / "t.csv", "0\n1\n0\n1\n1\n")
    assert len(read_csv(path).x) == 5
    path = write(tmp_path / "t.csv", "1.5,red\n2.5,blue\n3.5,red\n")  # no names, classes in text
    assert read_csv(path, label=-1).class_names == ("blue", "red")
    assert read_csv(path, label="1").class_names == ("blue", "red")
    with refuse(r"--set data.label=1"):
        read_csv(path)
    with refuse("header is 'yes'"):
        load_data(path, header="yes")


def test_what_was_decided_is_said(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", READ["pandas' index"])
    assert "no name and is taken for numbers of rows" in say(lambda: read_csv(path))
    path = write(tmp_path / "t.csv", READ["decimal commas"])
    assert "decimal commas" in say(lambda: read_csv(path))
    path = write(tmp_path / "t.csv", "a,b\n" + "".join(f"{i},{i / 1000}\n" for i in range(90)))
    assert "data.standardize=true" in say(lambda: load_data(path))
    assert say(lambda: load_data(path, standardize=True)) == ""


# -------------------------------------------------------------------------------------------- kinds

BITS = np.random.default_rng(0).random((60, 6)) < 0.5


@pytest.mark.parametrize("dtype", ["?", "i1", "u1", ">i2", "i8", "f2", "f4", "f8", "csv", "words"])
def test_zeros_and_ones_are_binary_in_every_type(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "x.npy"
    if dtype in ("csv", "words"):
        cells = BITS.astype(str if dtype == "words" else int)
        path = write(tmp_path / "x.csv", "\n".join(",".join(map(str, row)) for row in cells))
    else:
        save(path, BITS.astype(dtype))
    for options in ({}, {"discrete": True}, {"binarize": "threshold"}, {"kind": "binary"}):
        data = load_data(path, **options)
        assert data.domain == binary(6)
        assert everything(data).sum() == BITS.sum()
    if dtype != "?":
        assert "every value is 0 or 1" in say(lambda: load_data(path))
    data = load_data(path, discrete=False)
    assert data.domain == real(6) and everything(data).sum() == BITS.sum()
    assert load_data(path, standardize=True, kind="real").domain == real(6)


def test_images_of_zeros_and_ones_are_not_divided(tmp_path: Path) -> None:
    path = save(tmp_path / "x.npy", BITS.reshape(60, 2, 3).astype(np.uint8))
    assert everything(load_data(path)).sum() == BITS.sum()
    data = load_data(path, discrete=False)
    assert data.domain == box(0, 1, 1, 2, 3) and everything(data).sum() == BITS.sum()
    points = open_points(path, Format((1, 2, 3), box(0, 1, 1, 2, 3)))
    assert points.read(0, 60).sum() == BITS.sum()
    save(path, BITS.reshape(60, 2, 3) * np.uint8(255))
    assert load_data(path, discrete=True).domain == box(0, 1, 1, 2, 3)


def test_ambiguous_kinds_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "spins.npy", 2 * BITS.astype(np.int8) - 1)
    for discrete in (None, True):
        with refuse("−1 and 1 alone"):
            load_data(path, discrete=discrete)
    assert load_data(path, kind="real").domain == load_data(path, discrete=False).domain == real(6)
    states = np.random.default_rng(0).integers(0, 5, (60, 6))
    path = save(tmp_path / "states.npy", states)
    with refuse("real numbers or 5 states"):
        load_data(path, discrete=True)
    assert load_data(path, kind="categorical").domain == categorical(5, 6)
    assert load_data(path).domain == load_data(path, discrete=True, kind="real").domain == real(6)
    path = save(tmp_path / "grey.npy", np.random.default_rng(0).random((60, 6)))
    with refuse("they may be grey"):
        load_data(path, discrete=True)
    assert load_data(path, discrete=True, binarize="fixed").domain == binary(6)
    for kind in ("binary", "categorical"):
        with refuse(f"kind '{kind}' is for"):
            load_data(path, kind=kind)
    with refuse("kind is 'spins'"):
        load_data(path, kind="spins")


def test_one_hot_rows_are_named(tmp_path: Path) -> None:
    path = save(tmp_path / "x.npy", np.eye(4)[np.arange(60) % 4])
    assert "holds a single 1" in say(lambda: load_data(path))


# ---------------------------------------------------------------------------------------- precision


def test_columns_are_standardized_before_they_are_rounded(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for name, centre, spread in (("a", 1e6, 0.05), ("t", 1.7e9, 10.0), ("far", -1e9, 1.0)):
        values = centre + spread * generator.normal(size=(400, 2))
        paths = [save(tmp_path / f"{name}.npy", values), tmp_path / f"{name}.csv"]
        np.savez(tmp_path / f"{name}.npz", x=values)
        lines = "\n".join(f"{a!r},{b!r}" for a, b in values.tolist())
        write(paths[1], "a,b\n" + lines)
        for path in [*paths, tmp_path / f"{name}.npz"]:
            data = load_data(path, standardize=True)
            assert len(data.train.x[:, 0].unique()) == 280
            back = data.unstandardize(everything(data))[:, 0].sort().values
            wanted = torch.from_numpy(np.sort(values[:, 0]))
            assert (back - wanted).abs().max() < 1e-5 * spread
            with refuse("column (0, 1|a, b) of .* varies in digits that 32 bits do not hold"):
                load_data(path)


def test_long_integers_keep_their_differences_or_are_refused(tmp_path: Path) -> None:
    ids = 2**60 + np.arange(400)
    for standardize in (True, False):
        with refuse("column 0 of .* cannot tell apart"):
            load_data(save(tmp_path / "ids.npy", ids), standardize=standardize)
    nanoseconds = 1_700_000_000_000_000_000 + 10**9 * np.arange(400)
    data = load_data(save(tmp_path / "ns.npy", nanoseconds), standardize=True)
    assert len(everything(data).unique()) == 400
    with refuse("beyond the range of 32 bits"):
        load_data(save(tmp_path / "big.npy", X * 1e39))
    flat = np.c_[X[:, 0], 0.1 * np.arange(1, 41) / np.arange(1, 41)]  # constant but for rounding
    path = save(tmp_path / "flat.npy", flat)
    assert load_data(path).domain == real(2)
    with refuse("column 1 of .* has one value only"):
        load_data(path, standardize=True)
    with pytest.warns(UserWarning, match="column 0 of .* values per deviation"):
        load_data(save(tmp_path / "x.npy", 1000 + 0.01 * X[:, :1]))


def test_rows_of_other_libraries_are_not_spoilt() -> None:
    far = 1e6 + 0.05 * X
    with refuse("column 0, 1, 2 of the table varies in digits"):
        to_points(None, far)
    assert to_points(None, far - 1e6).dtype == torch.float32


# ------------------------------------------------------------------------------------ .npy and .npz


def _archive(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def _npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _header(shape: str, descr: str = "'<f4'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (63 - (10 + len(text)) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


MEMBERS = {
    "is no array": {"x": b"hello, no npy"},
    "is no array|y in": {"x.npy": _npy(X), "y": b"hello"},
    "the keys X, x|the keys x, X": {"x.npy": _npy(X), "X.npy": _npy(X + 100)},
    "the keys y, Y": {"x.npy": _npy(X), "y.npy": _npy(X), "Y.npy": _npy(X)},
    "needs x": {"data.npy": _npy(X)},
    "has the keys none": {},
    "unpacks from": {"x.npy": _npy(np.zeros((17_000_000, 1), np.float32))},
    "speaks of 4000000000000": {"x.npy": _header("(1000000000000,)") + b"\0" * 400},
    "speaks of 40 bytes": {"x.npy": _header("(10,)") + b"\0" * 400},
    "corrupt or cut short": {"x.npy": _header("(-4,)") + b"\0" * 16},
    "corrupt or cut short|a": {"x.npy": _header("(" * 90 + ")" * 90)},
    "corrupt or cut short|b": {"x.npy": _header("(True, 4)") + b"\0" * 16},
    "values of type .*a": {"x.npy": _npy(np.zeros(9, [("a", "f4"), ("b", "i4")]))},
    "values of type complex64": {"x.npy": _npy(X.astype(np.complex64))},
    "values of type timedelta64": {"x.npy": _npy(np.zeros(9, "m8[s]"))},
    "values of type <U1": {"x.npy": _npy(np.array(["a", "b"]))},
    "values of type .S1": {"x.npy": _npy(np.array([b"a", b"b"]))},
    r"is empty \(shape \(\)\)": {"x.npy": _npy(np.float32(3))},
    r"is empty \(shape \(4, 0\)\)": {"x.npy": _npy(np.zeros((4, 0)))},
}


@pytest.mark.parametrize("message", MEMBERS)
def test_archives_that_are_refused(tmp_path: Path, message: str) -> None:
    with refuse(message):
        load_data(_archive(tmp_path / "a.npz", MEMBERS[message]))


def test_the_name_of_a_file_and_its_content_agree(tmp_path: Path) -> None:
    save(tmp_path / "a.npy", X)
    np.savez(tmp_path / "b.npz", x=X)
    (tmp_path / "a.npy").rename(tmp_path / "c.npz")
    (tmp_path / "b.npz").rename(tmp_path / "d.npy")
    for name in ("c.npz", "d.npy"):
        with refuse("by its content"):
            load_data(tmp_path / name)
    path = save(tmp_path / "two.npy", X)
    path.write_bytes(path.read_bytes() * 2)  # two arrays, one after the other
    with refuse("speaks of 960 bytes"):
        load_data(path)
    whole = _archive(tmp_path / "e.npz", {"x.npy": _npy(X)}, zipfile.ZIP_BZIP2).read_bytes()
    for cut in range(0, len(whole), 37):
        (tmp_path / "e.npz").write_bytes(whole[:cut])
        with refuse("corrupt or cut short"):
            load_data(tmp_path / "e.npz")


@pytest.mark.parametrize("dtype", [">f8", "f2", "g", ">i4", "u4"])
def test_arrays_in_every_layout_are_the_same_numbers(tmp_path: Path, dtype: str) -> None:
    values = np.asfortranarray(np.arange(120).reshape(40, 3).astype(dtype))
    data = load_data(save(tmp_path / "x.npy", values))
    found = everything(data)
    assert found[found[:, 0].argsort()].flatten().tolist() == list(range(120))


def test_what_does_not_fit_into_memory_is_said_in_bytes(tmp_path: Path) -> None:
    rows = memory_bound() // 64 // 2  # as bytes it fits, as float32 it does not
    with (tmp_path / "big.npy").open("wb") as file:
        file.write(_header(f"({rows}, 8, 8)", "'|u1'"))
        file.truncate(file.tell() + rows * 64)
    with refuse(r"needs [0-9.]+ .B of memory"):
        load_data(tmp_path / "big.npy")
    with refuse(r"needs 6.4 TB of memory"):
        load_data("moons", count=10**11)


def test_numbers_at_the_doors(tmp_path: Path) -> None:
    data = load_data("moons", seed=np.int64(1), count=np.int32(50), limit=np.uint8(20))
    assert len(data.train) == 20 and torch.equal(
        data.train.x, load_data("moons", seed=1, count=50, limit=20).train.x
    )
    for options in (
        *({"seed": -1}, {"seed": 2**64}, {"seed": 0.5}, {"seed": True}, {"limit": 0.5}),
        *({"limit": np.nan}, {"limit": "3"}, {"count": 50.0}, {"count": True}, {"count": 4}),
    ):
        with refuse(" is "):
            load_data("moons", **options)
    path = write(tmp_path / "t.csv", "1.5,0\n2.5,1\n3.5,0\n4.5,1\n")
    assert load_data(path, label=np.int64(1)).classes == 2
    for label in (True, 1.5, 7, None):
        if label is not None:
            with refuse("label"):
                load_data(path, label=label)


# --------------------------------------------------------------------------------- points of a run


def test_pieces_of_a_file_are_its_rows(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(10_000, 2))
    paths = [save(tmp_path / "x.npy", values), tmp_path / "x.csv", tmp_path / "x.npz"]
    write(paths[1], "\n".join(f"{a!r},{b!r}" for a, b in values.tolist()))
    np.savez(paths[2], x=values)
    for path in paths:
        points = open_points(path, Format((2,), real(2)))
        assert len(points) == 10_000
        spans = [(0, 7), (7, 5000), (5000, 9999), (9999, 12_000), (3, 4), (4095, 4097), (0, 1)]
        for start, stop in spans:
            assert points.read(start, stop).tolist() == values[start:stop].tolist()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a run on columns a, b, c of a table with classes, far from 0."""
    folder = tmp_path_factory.mktemp("run")
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(200, 3)) * [1, 10, 0.01] + [0, 50, 1e6]
    lines = [f"{a!r},{i % 2},{b!r},{c!r}" for i, (a, b, c) in enumerate(rows.tolist())]
    path = write(folder / "t.csv", "a,kind,b,c\n" + "\n".join(lines))
    recipe = lowland.read_recipe(
        "moons",
        {
            **{"data.name": str(path), "data.label": "kind", "data.standardize": True},
            **{"training.steps": 4, "training.log_every": 2, "training.checkpoint_every": 4},
            **{"training.batch": 32, "objective.buffer_size": 64, "objective.num_chains": 32},
        },
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lowland.train_recipe(recipe, folder / "run", progress=False)
    return folder


def energies(run: Path, path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[list[float], str]:
    """Return the energies of a table as the command prints them, and what it says."""
    capsys.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        main(["energy", str(run / "run"), str(path)])
    out, said = capsys.readouterr()
    assert "\r" not in out
    return [float(line.split(",")[1]) for line in out.splitlines()[1:]], said.strip()


def test_a_run_that_was_not_evaluated_says_why_it_needs_its_data(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points = write(tmp_path / "p.csv", (run / "t.csv").read_text())
    (run / "t.csv").rename(tmp_path / "t.csv")
    try:
        with pytest.raises(SystemExit):
            main(["energy", str(run / "run"), str(points)])
    finally:
        (tmp_path / "t.csv").rename(run / "t.csv")
    said = capsys.readouterr().err
    assert "was trained on cannot be read" in said and "`lowland evaluate` leaves" in said, said


def test_columns_are_matched_by_name(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = [line.split(",") for line in (run / "t.csv").read_text().splitlines()[:7]]

    def pick(*order: int, header: list[str] | None = None, name: str = "p.csv") -> Path:
        rows = [header or [whole[0][i] for i in order]]
        rows += [[row[i] for i in order] for row in whole[1:]]
        return write(run / name, "\n".join(",".join(row) for row in rows if row != ["none"]))

    about = json.loads((run / "run" / "data.json").read_text())
    assert about["columns"] == ["a", "b", "c"] and about["label"] == "kind"
    wanted, said = energies(run, pick(0, 2, 3), capsys)
    assert len(wanted) == 6 and len(set(wanted)) == 6 and said == ""
    assert energies(run, pick(0, 1, 2, 3), capsys) == (wanted, "")  # the classes beside
    found, said = energies(run, pick(3, 0, 1, 2), capsys)
    assert found == wanted and said.count("\n") == 0 and "by name, as a, b, c" in said
    found, said = energies(run, pick(0, 2, 3, header=["none"]), capsys)
    assert found == wanted and said.count("\n") == 0 and "has no header" in said
    indexed = [f"{i},{line}" for i, line in enumerate(pick(0, 2, 3).read_text().splitlines())]
    path = write(run / "p.csv", "\n".join(["," + indexed[0].split(",", 1)[1], *indexed[1:]]))
    assert energies(run, path, capsys)[0] == wanted
    for header, message in (
        (["x", "y", "z"], "lacks 'a', 'b', 'c' and has 'x', 'y', 'z' besides"),
        (["a", "B", "c"], "lacks 'b' and has 'B' besides; .* rename 'B' if it is 'b'"),
    ):
        path = pick(0, 2, 3, header=header)
        for command in (["energy"], ["detect"], ["detect", "fit"]):
            files = ["--calibration", str(path)] if len(command) == 2 else [str(path)]
            with pytest.raises(SystemExit):
                main([*command, str(run / "run"), *files])
            assert re.search(message, capsys.readouterr().err)
    few = "has 2 columns; the run was trained on 3: a, b, c"
    for order, header, message in (
        ((0, 2), None, "lacks 'c'"),
        ((0, 2), ["none"], few),
        ((0, 1, 2, 3), ["none"], "line 1 .*|has 4 columns"),
    ):
        path = pick(*order, header=header)
        with pytest.raises(SystemExit):
            main(["energy", str(run / "run"), str(path)])
        assert re.search(message, capsys.readouterr().err)


def test_rows_to_be_scored_are_centred_in_float64(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = lowland.load(run / "run")
    values = np.loadtxt(run / "t.csv", delimiter=",", skiprows=1)[:, [0, 2, 3]]
    mean, scale = (np.array(model.description[key]) for key in ("mean", "scale"))
    x = torch.from_numpy((values - mean) / scale).float()
    wanted = model.energies(x)
    for path in (save(run / "x.npy", values), run / "t.csv"):
        found, _ = energies(run, path, capsys)
        assert torch.equal(torch.tensor(found), wanted)
    assert len(model.transform(torch.from_numpy(values))[:, 2].unique()) == 200
    back = model.inverse_transform(x)
    assert (back - torch.from_numpy(values)).abs().max() < 1e-5


def test_columns_of_data_frames_are_matched_by_name(run: Path) -> None:
    pandas = pytest.importorskip("pandas")
    model, frame = lowland.load(run / "run"), pandas.read_csv(run / "t.csv")
    wanted = model.transform(torch.from_numpy(frame[["a", "b", "c"]].to_numpy()))
    assert torch.equal(model.transform(frame), wanted)
    frame["kind"] = "text"
    assert torch.equal(model.transform(frame[["c", "kind", "a", "b"]]), wanted)
    with refuse("the DataFrame lacks 'c' and has 'd' besides"):
        model.transform(frame.rename(columns={"c": "d"}))
    frame.loc[3, "a"] = np.nan
    with refuse("1 NaN"):
        model.transform(frame)


# ------------------------------------------------------------------------------------------- output


def test_cells_are_no_formulae() -> None:
    columns = ("path", "energy")
    names = ["=cmd()", "+1", "-1", "@x", "\tx", "a=b.png", "\udcff.png", 'a,"b"']
    rows: list[Any] = [{"path": name, "energy": -1.5} for name in names]
    text = format_rows(rows, "csv", columns)
    assert "\r" not in text and text.encode()
    assert text.splitlines() == [
        *("path,energy", "'=cmd(),-1.5", "'+1,-1.5", "'-1,-1.5", "'@x,-1.5", "'\tx,-1.5"),
        *("a=b.png,-1.5", "\\udcff.png,-1.5", '"a,""b""",-1.5'),
    ]
    assert json.loads(format_rows(rows[:1], "jsonl", columns)) == rows[0]


def test_data_frames_are_read_column_by_column_or_refused(run: Path) -> None:
    pandas = pytest.importorskip("pandas")
    model, frame = lowland.load(run / "run"), pandas.read_csv(run / "t.csv")[["a", "b", "c"]]
    rows = len(frame)
    with refuse("several columns of the name 'a'"):
        model.transform(pandas.concat([frame, frame[["a"]]], axis=1))
    with refuse("has no rows"):
        model.transform(frame.iloc[:0])
    big = 2**53 + np.arange(rows)
    for column, says in [
        (frame["b"] + 1j, "complex128"),
        (pandas.Series(pandas.date_range("2020", periods=rows)), "datetime64"),
        (pandas.Series(pandas.date_range("2020", periods=rows, tz="UTC")), "else than numbers"),
        (pandas.Series(pandas.to_timedelta(np.arange(rows), unit="s")), "timedelta64"),
        (frame["b"].astype(str), "text"),
        (pandas.Series(big), "cannot tell apart"),
        (pandas.Series(big).astype("Int64"), "cannot tell apart"),
        (pandas.Series(big, dtype=object), "cannot tell apart"),
    ]:
        with refuse(says):
            model.transform(frame.assign(b=column))
    wanted = model.transform(frame)
    assert torch.equal(model.transform(frame.astype({"b": "Float64"})), wanted)


@pytest.mark.parametrize("size", [1e300, 8e307, 1e-200, 1e-310])
def test_columns_of_any_size_are_standardized(size: float, tmp_path: Path) -> None:
    x = np.random.default_rng(0).uniform(-1, 1, size=(100, 2))
    rows = (x * size).tolist()
    path = write(tmp_path / "t.csv", "a,b\n" + "\n".join(f"{a!r},{b!r}" for a, b in rows))
    train = load_data(str(path), standardize=True).train.x
    assert train.mean(0).abs().max() < 1e-5
    assert (train.std(0, correction=0) - 1).abs().max() < 1e-5
    rows[7][1] = 1.7e308
    path = write(tmp_path / "u.csv", "a,b\n" + "\n".join(f"{a!r},{b!r}" for a, b in rows))
    with refuse("column b of .* beyond the range of 64 bits"):
        load_data(str(path), standardize=True)


@pytest.mark.parametrize("comment", ["# made by x", "# made by x, y", "#1\n# two\n", "# a b"])
@pytest.mark.parametrize("names", ["a,b\n", ""])
@pytest.mark.parametrize("mark", [",", ";"])
def test_a_first_line_of_comment_is_named(
    comment: str, names: str, mark: str, tmp_path: Path
) -> None:
    body = (names + "1.5,2.5\n3.25,4.5\n" * 3).replace(",", mark)
    path = write(tmp_path / "t.csv", f"{comment}\n{body}")
    if mark in comment and not names:
        return  # two names over two columns
    with refuse("line 1 .* looks like a comment"):
        read_csv(path)
    path = write(tmp_path / "t.csv", f"# x{mark}y\n" + "1.5,2.5\n".replace(",", mark) * 3 + "1.5\n")
    with refuse("line 5 of .* has 1 cells"):
        read_csv(path)
