"""CIFAR-10, from the binary archive or from Parquet files with encoded images.

The archive is the *binary* one. The better known Python archive is a pickle, and reading a pickle
runs whatever code it contains. Nothing is unpacked to disk: the six members are read by name from
the stream.

Source: A. Krizhevsky, "Learning multiple layers of features from tiny images" (2009),
https://www.cs.toronto.edu/~kriz/cifar.html
"""

import gzip
import io
import tarfile
import zlib
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowland.data.dataset import DataError, Split
from lowland.data.images import decode

SHAPE = (3, 32, 32)
RECORD = 1 + 3 * 32 * 32  # one label byte, then the red, green and blue planes
RECORDS = 10_000  # per member
TRAIN = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
TEST = ("test_batch.bin",)
CLASS_NAMES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


def read_archive(path: Path) -> tuple[Split, Split]:
    """Training and test part of cifar-10-binary.tar.gz, x uint8 (N, 3, 32, 32).

    Raises DataError if the archive is corrupt, cut short, or lacks a member.
    """
    members: dict[str, Split] = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for info in archive:
                name = Path(info.name).name
                if info.isfile() and name in (*TRAIN, *TEST):
                    members[name] = _records(archive, info, path)
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(
            f"{path} is corrupt or cut short ({error}); it must be the whole "
            "cifar-10-binary.tar.gz; delete it and fetch it again"
        ) from error
    missing = [name for name in (*TRAIN, *TEST) if name not in members]
    if missing:
        raise DataError(
            f"{path} lacks {', '.join(missing)}; the binary archive has six .bin members (the "
            "Python archive is a pickle and is never read); fetch cifar-10-binary.tar.gz"
        )
    return _join([members[name] for name in TRAIN]), _join([members[name] for name in TEST])


def _records(archive: tarfile.TarFile, info: tarfile.TarInfo, path: Path) -> Split:
    if info.size == 0 or info.size % RECORD or info.size > RECORDS * RECORD:
        raise DataError(
            f"{info.name} in {path} has {info.size} bytes; it must be 1 to {RECORDS} records of "
            f"{RECORD}; delete the archive and fetch it again"
        )
    file = archive.extractfile(info)
    assert file is not None, "a regular file can be read"
    records = torch.from_numpy(np.frombuffer(bytearray(file.read()), np.uint8).reshape(-1, RECORD))
    return Split(records[:, 1:].reshape(-1, *SHAPE), records[:, 0].long())


def _join(parts: list[Split]) -> Split:
    return Split(
        torch.cat([part.x for part in parts]),
        torch.cat([part.y for part in parts if part.y is not None]),
    )


def read_parquet(path: Path) -> Split:
    """Images and labels of a Parquet file, x uint8 (N, 3, 32, 32).

    The column `img` or `image` holds encoded images, as bytes or as {"bytes": ..., "path": ...};
    `label` whole numbers.

    Raises DataError if pyarrow is missing, or the file, a column or an image cannot be read.
    """
    table = _table(path)
    column = next((name for name in ("img", "image") if name in table.column_names), None)
    if column is None or "label" not in table.column_names:
        raise DataError(
            f"{path} has the columns {', '.join(table.column_names)}; it needs img (or image) and "
            "label; rename them"
        )
    images = torch.empty(table.num_rows, *SHAPE, dtype=torch.uint8)
    for row, cell in enumerate(table.column(column).to_pylist()):
        images[row] = _cell(cell, f"image {row} of {path}")
    return Split(images, torch.tensor(table.column("label").to_pylist(), dtype=torch.int64))


def _table(path: Path) -> Any:
    try:
        parquet = import_module("pyarrow.parquet")
        errors = import_module("pyarrow").ArrowException
    except ImportError as error:
        raise DataError(
            f"{path} is Parquet; reading it needs pyarrow; pip install 'lowland[parquet]'"
        ) from error
    try:
        return parquet.read_table(path)
    except (errors, OSError) as error:
        raise DataError(
            f"{path} cannot be read ({error}); it must be a whole Parquet file; delete it and "
            "fetch it again"
        ) from error


def _cell(cell: Any, where: str) -> Tensor:
    encoded = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(encoded, bytes):
        raise DataError(
            f"{where} holds no bytes; the column needs PNG or JPEG bytes; write the file again"
        )
    image = decode(io.BytesIO(encoded), 3, None, where)
    if image.shape != SHAPE:
        raise DataError(
            f"{where} has the shape {tuple(image.shape)}; CIFAR images have {SHAPE}; check the "
            "source"
        )
    return image
