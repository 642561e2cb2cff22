"""IDX files, the format of MNIST: a magic number, one 32-bit size per dimension, then the bytes,
all in a .gz or as they are.

The header is believed only as far as the file bears it out: a file whose header promises more or
fewer bytes than it holds is refused, and a promise that gzip could not keep is refused before
anything is unpacked.

Source: Y. LeCun, C. Cortes, C. Burges, "The MNIST database", http://yann.lecun.com/exdb/mnist/
"""

import gzip
import hashlib
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lowland.data.dataset import DataError

READ_BYTES = 1 << 20
MAX_DEFLATE_RATIO = 1032  # deflate cannot pack tighter, https://zlib.net/zlib_tech.html
UINT8_CODE = 0x08


class IdxArray(NamedTuple):
    """The array of an IDX file. values: uint8, in the shape of the header; sha256: of the unpacked
    file, header included.
    """

    values: Tensor
    sha256: str


def read_idx(path: Path, dimensions: int) -> IdxArray:
    """Read an IDX file of unsigned bytes with the given number of dimensions, packed if its name
    ends in .gz.

    Raises DataError, naming the file, if it is empty, no gzip, truncated, of another type, or if
    its header and its content disagree.
    """
    packed = path.suffix == ".gz"
    try:
        with gzip.open(path, "rb") if packed else path.open("rb") as file:
            header = file.read(4 * (1 + dimensions))
            shape = _parse_shape(header, dimensions, path, MAX_DEFLATE_RATIO if packed else 1)
            content = _read_exactly(file, math.prod(shape), path)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path} is corrupt or cut short ({error}); an IDX file ending in .gz is a whole gzip "
            "file; delete it and fetch it again"
        ) from error
    digest = hashlib.sha256(header)
    digest.update(content)
    values = torch.from_numpy(np.frombuffer(content, np.uint8).reshape(shape))
    return IdxArray(values, digest.hexdigest())


def _parse_shape(header: bytes, dimensions: int, path: Path, ratio: int) -> tuple[int, ...]:
    """Return the sizes in a header.

    ratio: bytes of content that a byte of the file can hold. Raises DataError for a header that
    cannot be right.
    """
    if len(header) < 4 * (1 + dimensions):
        raise DataError(
            f"{path} ends inside its header ({len(header)} bytes); an IDX file with {dimensions} "
            f"dimensions begins with {4 * (1 + dimensions)}; delete it and fetch it again"
        )
    magic, *shape = struct.unpack(f">{1 + dimensions}I", header)
    if magic != (UINT8_CODE << 8) + dimensions:
        raise DataError(
            f"{path} begins with the magic number 0x{magic:08x}; unsigned bytes in {dimensions} "
            f"dimensions begin with 0x{(UINT8_CODE << 8) + dimensions:08x}; check that images "
            "and labels are not exchanged"
        )
    if math.prod(shape) == 0:
        raise DataError(
            f"{path} holds no examples (sizes {shape}); every size must be positive; fetch it again"
        )
    if math.prod(shape) > ratio * path.stat().st_size:
        raise DataError(
            f"the header of {path} promises {math.prod(shape)} bytes; {path.stat().st_size} "
            f"{'packed ' if ratio > 1 else ''}bytes cannot hold them; delete it and "
            "fetch it again"
        )
    return tuple(shape)


def _read_exactly(file: BinaryIO | gzip.GzipFile, promised: int, path: Path) -> bytearray:
    content = bytearray()
    while len(content) <= promised and (block := file.read(READ_BYTES)):
        content += block
    if len(content) != promised:
        amount = "more" if len(content) > promised else f"only {len(content)}"
        raise DataError(
            f"the header of {path} promises {promised} bytes and the file holds {amount}; they "
            "must agree; delete it and fetch it again"
        )
    return content
