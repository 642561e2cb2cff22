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

from lowland.data.dataset import DataError, Dataset, Split
from lowland.data.decoding import decode
from lowland.data.fetch import RemoteFile, file_sha256, locate
from lowland.data.loader import LoadOptions, build_dataset, describe_source, keep_test
from lowland.domain import box

SHAPE = (3, 32, 32)
DOMAIN = box(0, 1, *SHAPE)
RECORD_BYTES = 1 + 3 * 32 * 32  # one label byte, then the red, green and blue planes
MAX_RECORDS = 10_000  # per member
MAX_ROWS = 60_000  # of a Parquet file, all images there are
CLASSES = 10
TRAIN_MEMBERS = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
TEST_MEMBER = "test_batch.bin"
CLASS_NAMES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
# The published MD5 is c32a1d4ab5d03f1284b67883e8d87530; this is the SHA-256 that several
# independent projects record for the file with that MD5. It has not been recomputed by us: the
# archive was not at hand.
ARCHIVE = RemoteFile(
    "cifar10",
    "cifar-10-binary.tar.gz",
    ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
)


def load_archive(options: LoadOptions) -> Dataset:
    """Load CIFAR-10 from the binary archive, fetched where it is missing and that is allowed."""
    path = locate(ARCHIVE, root=options.root, download=options.download)
    whole, test = read_archive(path)
    published = file_sha256(path) == ARCHIVE.sha256
    note = describe_source(published, "train 9/10, calibration 1/10 of the training files")
    splits = keep_test(whole, test, 10, options.seed)
    return build_dataset(options, "cifar10", DOMAIN, splits, CLASS_NAMES, 256, note)


def load_parquet(options: LoadOptions) -> Dataset:
    """Load CIFAR-10 as recompressed JPEG from train.parquet and test.parquet."""
    files = [RemoteFile("cifar10-jpeg", f"{part}.parquet") for part in ("train", "test")]
    paths = [locate(file, root=options.root, download=False) for file in files]
    whole, test = (read_parquet(path) for path in paths)
    note = (
        "JPEG-recompressed; comparable with nobody's papers; train 9/10, calibration 1/10 of "
        "train.parquet by a seed"
    )
    splits = keep_test(whole, test, 10, options.seed)
    return build_dataset(options, "cifar10-jpeg", DOMAIN, splits, CLASS_NAMES, 256, note)


def read_archive(path: Path) -> tuple[Split, Split]:
    """Read the training and test examples of cifar-10-binary.tar.gz, x uint8 (N, 3, 32, 32).

    Raises DataError if the archive is corrupt, cut short, or lacks a member.
    """
    wanted = (*TRAIN_MEMBERS, TEST_MEMBER)
    members: dict[str, Split] = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for info in archive:
                name = Path(info.name).name
                if info.isfile() and name in wanted:
                    members[name] = _read_records(archive, info, path)
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(
            f"{path} is corrupt or cut short ({error}); it must be the whole "
            "cifar-10-binary.tar.gz; delete it and fetch it again"
        ) from error
    missing = [name for name in wanted if name not in members]
    if missing:
        raise DataError(
            f"{path} lacks {', '.join(missing)}; the binary archive has six .bin members (the "
            "Python archive is a pickle and is never read); fetch cifar-10-binary.tar.gz"
        )
    parts = [members[name] for name in TRAIN_MEMBERS]
    labels = torch.cat([part.y for part in parts if part.y is not None])
    return Split(torch.cat([part.x for part in parts]), labels), members[TEST_MEMBER]


def _read_records(archive: tarfile.TarFile, info: tarfile.TarInfo, path: Path) -> Split:
    if info.size == 0 or info.size % RECORD_BYTES or info.size > MAX_RECORDS * RECORD_BYTES:
        raise DataError(
            f"{info.name} in {path} has {info.size} bytes; it must be 1 to {MAX_RECORDS} records "
            f"of {RECORD_BYTES}; delete the archive and fetch it again"
        )
    file = archive.extractfile(info)
    assert file is not None, "a regular file can be read"
    content = np.frombuffer(bytearray(file.read()), np.uint8)
    records = torch.from_numpy(content.reshape(-1, RECORD_BYTES))
    return Split(records[:, 1:].reshape(-1, *SHAPE), records[:, 0].long())


def read_parquet(path: Path) -> Split:
    """Read the images and labels of a Parquet file, x uint8 (N, 3, 32, 32).

    The column `img` or `image` holds encoded images, as bytes or as {"bytes": ..., "path": ...};
    `label` whole numbers.

    Raises DataError if pyarrow is missing, or the file, a column or an image cannot be read.
    """
    cells, labels = _read_columns(path)
    wrong = [row for row, y in enumerate(labels) if type(y) is not int or not 0 <= y < CLASSES]
    if wrong:
        raise DataError(
            f"label {wrong[0]} of {path} is {labels[wrong[0]]!r} ({len(wrong)} of {len(labels)} "
            f"are such); labels are whole numbers from 0 to {CLASSES - 1}; check the source"
        )
    images = torch.empty(len(cells), *SHAPE, dtype=torch.uint8)
    for row, cell in enumerate(cells):
        images[row] = _decode_cell(cell, f"image {row} of {path}")
    return Split(images, torch.tensor(labels, dtype=torch.int64))


def _read_columns(path: Path) -> tuple[list[Any], list[Any]]:
    """Read the column of images and that of labels, after their number of rows was compared."""
    try:
        parquet = import_module("pyarrow.parquet")
        errors = import_module("pyarrow").ArrowException
    except ImportError as error:
        raise DataError(
            f"{path} is Parquet; reading it needs pyarrow; pip install 'lowland[parquet]'"
        ) from error
    try:
        with parquet.ParquetFile(path) as file:
            names, rows = file.schema_arrow.names, file.metadata.num_rows
            column = next((name for name in ("img", "image") if names.count(name) == 1), None)
            if column is None or names.count("label") != 1:
                raise DataError(
                    f"{path} has the columns {', '.join(names)}; it needs img (or image) and "
                    "label, each once; rename them"
                )
            if not 0 < rows <= MAX_ROWS:
                raise DataError(
                    f"{path} has {rows} rows; 1 to {MAX_ROWS} images are read; check the source"
                )
            table = file.read(columns=[column, "label"])
            return table.column(column).to_pylist(), table.column("label").to_pylist()
    except DataError:
        raise
    except (errors, OSError, ValueError, MemoryError) as error:
        raise DataError(
            f"{path} cannot be read ({error}); it must be a whole Parquet file; delete it and "
            "fetch it again"
        ) from error


def _decode_cell(cell: Any, where: str) -> Tensor:
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
