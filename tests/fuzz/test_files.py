"""Damaged files: what an independent reader still reads is read alike; the rest is refused."""

import csv
import io
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

import lowland
from tests.fuzz.mutations import mutate_file
from tests.fuzz.outcomes import explore, judge
from tests.fuzz.test_tables import sort_rows, whole

MANY = [30, pytest.param(200, marks=pytest.mark.slow)]


def write_table(path: Path) -> Path:
    """Write a table of 20 rows."""
    x = np.random.default_rng(0).normal(size=(20, 3)).round(3)
    rows = ["a,b,c", *(",".join(map(str, row)) for row in x)]
    path = path / "t.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def read_table(path: Path) -> np.ndarray:
    """Read a table by the csv module."""
    rows = [
        r
        for r in csv.reader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline=None))
        if any(r)
    ]
    try:
        return np.array([[float(cell) for cell in row] for row in rows])
    except ValueError:
        return np.array([[float(cell) for cell in row] for row in rows[1:]])


def write_array(path: Path) -> Path:
    """Write an array of 20 rows."""
    path = path / "a.npy"
    np.save(path, np.random.default_rng(0).normal(size=(20, 3)))
    return path


def write_archive(path: Path) -> Path:
    """Write 20 rows with labels."""
    path = path / "a.npz"
    r = np.random.default_rng(0)
    np.savez_compressed(path, x=r.normal(size=(20, 3)), y=np.arange(20) % 3)
    return path


def write_images(path: Path) -> Path:
    """Write a folder of eight small pictures."""
    path = path / "images"
    path.mkdir()
    r = np.random.default_rng(0)
    for i in range(8):
        Image.fromarray(r.integers(0, 256, (6, 6), dtype=np.uint8)).save(path / f"{i}.png")
    return path


def read_images(path: Path) -> np.ndarray:
    """Read a folder by Pillow."""
    pictures = [Image.open(p).convert("L") for p in sorted(path.iterdir())]
    return np.stack([np.asarray(p) for p in pictures]).astype(np.float64)


KINDS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], np.ndarray]]] = {
    "table": (write_table, read_table),
    "array": (write_array, lambda path: np.load(path, allow_pickle=False)),
    "archive": (write_archive, lambda path: np.load(path, allow_pickle=False)["x"]),
    "images": (write_images, read_images),
}


@pytest.mark.parametrize("examples", MANY)
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_damaged_files_of_data(kind: str, examples: int, tmp_path: Path) -> None:
    write, read = KINDS[kind]
    source = write(tmp_path)
    file = source / "3.png" if source.is_dir() else source
    sound = file.read_bytes()

    def check(seed: int) -> None:
        file.write_bytes(sound)
        mutate_file(file, random.Random(seed))

        def find_error(data: lowland.data.Dataset) -> str:
            found, wanted = whole(data), sort_rows(read(source))
            wanted = wanted if kind != "images" else sort_rows(wanted / 255)
            found = found if kind != "images" or found.max() <= 1 else sort_rows(found / 255)
            if found.shape == wanted.shape and np.allclose(found, wanted, 1e-6):
                return ""
            return f"{found.shape} {found[:1].tolist()}, not {wanted.shape} {wanted[:1].tolist()}"

        judge(f"damaged {kind}", lambda: lowland.load_data(source), find_error)

    explore(st.integers(0, 10**6), check, examples)
