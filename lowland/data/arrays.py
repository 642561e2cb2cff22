"""Readers of .npy and .npz files.

A header is believed only as far as the file bears it out, and what it asks for is compared with the
memory there is before anything is allocated. Nothing here runs what a file contains: arrays of
Python objects are pickles and are refused. A .npy file is mapped, not read, so that rows can be
taken from an array of any size.
"""

import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowland.data.classes import number_labels
from lowland.data.dataset import DataError
from lowland.data.room import explain_memory, require_memory

Array = NDArray[np.generic]
NPY_MAGIC, ZIP_MAGIC = b"\x93NUMPY", b"PK"
MAX_RATIO = 200  # of sizes unpacked and packed; numbers that vary are far below it
SMALL = 1 << 26  # bytes that are unpacked whatever the ratio
MAX_HEADER = 1 << 16  # bytes of a header
MANY_CLASSES = 1000  # above so many, most of the numbers below the largest must occur


@dataclass(frozen=True)
class Header:
    """What the header of an array says: shape, order in memory and dtype."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        """Return the bytes of the array."""
        return math.prod(self.shape) * self.dtype.itemsize


def open_arrays(path: Path) -> dict[str, Array]:
    """Open x and y of a .npz file, or a .npy file as x, which is mapped.

    Raises DataError, naming the file, if it is cut short, pickled, not numeric, empty, packed
    beyond reason, larger than memory, or of another format than its name says.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(NPY_MAGIC))
        packed = path.suffix.lower() == ".npz"
        other = ZIP_MAGIC if not packed else NPY_MAGIC
        if start.startswith(other):
            raise DataError(
                f"{path} is a {'.npy' if packed else '.npz'} file by its content; the ending of "
                "the name says how a file is read; rename it"
            )
        return _open_archive(path) if packed else {"x": _map_array(path)}
    except DataError:
        raise
    except MemoryError as error:
        raise explain_memory(str(path), path.stat().st_size) from error
    except Exception as error:  # damaged bytes make NumPy and zipfile raise errors of any class
        raise DataError(_describe_damage(path, error)) from error


def _map_array(path: Path) -> Array:
    """Map a .npy file."""
    with path.open("rb") as file:
        header = _read_header(file, str(path))
        offset = file.tell()
    _check_numeric(header, str(path))
    held = path.stat().st_size - offset
    if held != header.size:
        raise DataError(
            f"{path} is corrupt or cut short: its header speaks of {header.size} bytes and "
            f"{held} follow; a file holds one whole array; write it again"
        )
    order: Literal["F", "C"] = "F" if header.fortran else "C"
    return np.memmap(path, header.dtype, "r", offset, header.shape, order)


def _open_archive(path: Path) -> dict[str, Array]:
    """Read x and y of a .npz file; other keys are not read."""
    with zipfile.ZipFile(path) as archive:
        members: dict[str, list[zipfile.ZipInfo]] = {}
        for info in archive.infolist():
            key = info.filename.removesuffix(".npy").lower()
            members.setdefault(key, []).append(info)
        if "x" not in members:
            keys = sorted(info.filename.removesuffix(".npy") for info in archive.infolist())
            listed = ", ".join(keys[:20]) or "none"
            raise DataError(
                f"{path} has the keys {listed}; it needs x, and may have y; rename them"
            )
        found = {}
        for key in ("x", "y"):
            several = members.get(key, [])
            if len(several) > 1:
                names = ", ".join(info.filename.removesuffix(".npy") for info in several)
                raise DataError(
                    f"{path} has the keys {names}; {key} has one reading, in small or capital "
                    "letters; keep one of them"
                )
            if several:
                found[key] = _read_member(archive, several[0], f"{key} in {path}", path)
        return found


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, what: str, path: Path) -> Array:
    """Read one array of an archive, after its sizes were compared."""
    if info.compress_size > path.stat().st_size:
        raise DataError(
            f"{path} is corrupt or cut short: {what} is to be packed into {info.compress_size} "
            "bytes, more than the file has; it must be a whole archive; write it again"
        )
    with archive.open(info) as file:
        if file.read(len(NPY_MAGIC)) != NPY_MAGIC:
            raise DataError(
                f"{what} is no array; the keys x and y hold arrays as numpy.savez writes them; "
                "write it again"
            )
    with archive.open(info) as file:
        header = _read_header(file, what)
        offset = file.tell()
        _check_numeric(header, what, text=what.startswith("y"))
        if info.file_size - offset != header.size:
            raise DataError(
                f"{path} is corrupt or cut short: the header of {what} speaks of {header.size} "
                f"bytes and {info.file_size - offset} follow; a whole array has as many; write it "
                "again"
            )
        if header.size > max(SMALL, MAX_RATIO * info.compress_size):
            raise DataError(
                f"{what} unpacks from {info.compress_size:,} to {header.size:,} bytes; numbers "
                f"that vary do not pack tighter than 1 to {MAX_RATIO}, and more is unpacked up to "
                f"{SMALL:,} bytes only; save the array as .npy"
            )
        require_memory(header.size, what)
    with archive.open(info) as file:
        return cast(Array, np.lib.format.read_array(file, allow_pickle=False))


def _read_header(file: IO[bytes], what: str) -> Header:
    """Read the header of an array. Raises ValueError as NumPy does, DataError for a negative
    size.
    """
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        read = np.lib.format.read_array_header_1_0
    elif version == (2, 0):
        read = np.lib.format.read_array_header_2_0
    else:
        raise ValueError(f"format {version}, and 1.0 and 2.0 are read")
    shape, fortran, dtype = read(file, max_header_size=MAX_HEADER)
    if any(isinstance(n, bool) or n < 0 for n in shape):
        raise ValueError(f"shape {shape}")
    return Header(tuple(int(n) for n in shape), fortran, dtype)


def _check_numeric(header: Header, what: str, text: bool = False) -> None:
    """Refuse an array that holds no real numbers (or text, if that is allowed) in rows."""
    if header.dtype.hasobject:
        raise DataError(_describe_damage(Path(what), ValueError("pickle")))
    if header.dtype.kind not in ("bfiuU" if text else "bfiu"):
        raise DataError(
            f"{what} holds values of type {header.dtype}; they must be real numbers; convert them"
        )
    if not header.shape or math.prod(header.shape) == 0:
        raise DataError(
            f"{what} is empty (shape {header.shape}); it needs examples in rows; check how it was "
            "written"
        )


def _describe_damage(path: Path, error: BaseException) -> str:
    if "pickle" in str(error) or "Python objects" in str(error):
        return (
            f"{path} holds pickled Python objects, which can run any code when they are read; only "
            "arrays of numbers are read; save it again with numpy.save of a numeric array"
        )
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return f"{path} is corrupt or cut short ({reason}); it must be a whole array; write it again"


def read_labels(y: Array, count: int, path: Path | str) -> tuple[Tensor, tuple[str, ...]]:
    """Return labels (count,) as int64 and the names of the classes: numbers from 0 as they are,
    text in the order of `sort_classes`.

    Raises DataError for labels of another shape or type, negative ones, and numbers far above how
    many classes occur.
    """
    if y.shape != (count,):
        raise DataError(
            f"{path} has {count} examples and labels of shape {y.shape}; there must be one label "
            "per example; check y"
        )
    if y.dtype.kind == "U":
        return number_labels([str(name).strip() for name in y], str(path))
    if y.dtype.kind not in "iub":
        raise DataError(
            f"{path} has labels of type {y.dtype}; they are whole numbers from 0, or text; convert "
            "y"
        )
    values = np.unique(y)
    least, most = int(values[0]), int(values[-1])
    if least < 0:
        raise DataError(
            f"{path} has negative labels (down to {least}); they count from 0; renumber y"
        )
    if most >= MANY_CLASSES and 2 * len(values) < most + 1:
        raise DataError(
            f"{path} has {len(values)} different labels, the largest {most}; classes are numbered "
            "from 0, so that as many would be made; number them without gaps, for example with "
            "numpy.unique(y, return_inverse=True)[1]"
        )
    return torch.from_numpy(y.astype(np.int64)), tuple(str(k) for k in range(most + 1))
