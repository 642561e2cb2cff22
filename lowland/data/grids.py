"""Write pictures as a PNG grid, and know such grids again."""

import io
import math
from pathlib import Path

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from lowland.atomic import write_bytes
from lowland.data.dataset import DataError, refuse_nonfinite
from lowland.data.decoding import MAX_PIXELS
from lowland.scalars import read_integer

MARK = b"tEXtSoftware\0lowland"  # a chunk of PNG, right behind the header
MARK_WITHIN = 128  # bytes


def to_uint8(x: Tensor) -> Tensor:
    """Convert images in [0, 1] to 8-bit values: round(255 x), with values outside shown as black
    or white.

    >>> to_uint8(torch.tensor([0.0, 0.5, 1.0, 1.2])).tolist()
    [0, 128, 255, 255]

    Raises DataError if x holds NaN or infinite values.
    """
    refuse_nonfinite(x.reshape(1, -1), "the picture")
    return (x.clamp(0, 1) * 255).round().to(torch.uint8)


def save_grid(
    x: Tensor, path: str | Path, columns: int | None = None, *, pixels: int = 64, gap: int = 2
) -> Path:
    """Write images x (N, 1 or 3, height, width) as one PNG, row by row; the default is a nearly
    square grid.

    Images with a side below `pixels` are enlarged by a whole factor, each pixel a square; `gap`
    pixels of grey part them. The PNG says that lowland made it, so that a folder of pictures is
    read without it.

    Raises DataError if x is no batch of images, or if the grid would be too large for a picture.
    """
    if x.ndim != 4 or x.shape[1] not in (1, 3) or len(x) == 0:
        raise DataError(
            f"the picture has the shape {tuple(x.shape)}; a grid takes (N, 1 or 3, height, width) "
            "with N of at least 1; reshape it"
        )
    pixels, gap = read_integer("pixels", pixels, least=1), read_integer("gap", gap, least=0)
    columns = math.isqrt(len(x) - 1) + 1 if columns is None else int(columns)
    if columns < 1:
        raise DataError(f"the grid has {columns} columns; it needs at least 1; pass columns=8")
    factor = max(1, pixels // max(x.shape[2:]))
    sides = grid_size(len(x), x.shape[2:], columns, pixels=pixels, gap=gap)
    images = to_uint8(x.detach().cpu()).repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    channels, height, width = images.shape[1:]
    sheet = torch.full((channels, *sides), 128, dtype=torch.uint8)
    for i, image in enumerate(images):
        top, left = gap + (i // columns) * (height + gap), gap + (i % columns) * (width + gap)
        sheet[:, top : top + height, left : left + width] = image
    array = sheet[0] if channels == 1 else sheet.permute(1, 2, 0)
    buffer, about = io.BytesIO(), PngInfo()
    if len(x) > 1 or gap or factor > 1:  # one picture as it is stays data
        about.add_text("Software", "lowland")
    Image.fromarray(array.contiguous().numpy()).save(buffer, format="PNG", pnginfo=about)
    write_bytes(Path(path), buffer.getvalue())
    return Path(path)


def grid_size(
    count: int,
    size: tuple[int, ...],
    columns: int | None = None,
    *,
    pixels: int = 64,
    gap: int = 2,
) -> tuple[int, int]:
    """Return (height, width) of the grid of `count` images of a size (height, width).

    Raises DataError for a grid that is too large for one picture.

    >>> grid_size(4, (8, 8))
    (134, 134)
    """
    columns = columns or math.isqrt(count - 1) + 1
    rows, factor = -(-count // columns), max(1, pixels // max(size))
    height = rows * (size[0] * factor + gap) + gap
    width = columns * (size[1] * factor + gap) + gap
    if height * width > MAX_PIXELS:
        raise DataError(
            f"a grid of {count} images has {height} × {width} pixels; one picture holds up to "
            f"{MAX_PIXELS}; ask for fewer, or write .npy"
        )
    return height, width


def is_grid(path: Path) -> bool:
    """Tell whether a file is a PNG that `save_grid` wrote."""
    if path.suffix.lower() != ".png" or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return MARK in file.read(MARK_WITHIN)
    except OSError:
        return False
