"""Readers of image files and folders, and a writer of PNG grids.

Everything inside the library is float32 in [0, 1], channels first; everything on disk is 8-bit. An
image is resized to the size asked for (bilinear, without keeping its proportions), and an alpha
channel is dropped.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from lowland.atomic import write_bytes
from lowland.data.classes import sort_classes
from lowland.data.dataset import DataError, Split, refuse_nonfinite
from lowland.data.tables import read_array, read_csv

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
ARRAY_SUFFIXES = (".npy", ".npz", ".csv")
GRAY_MODES = ("1", "L", "LA")
HIGH_DEPTH_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
SPLIT_NAMES = {"train", "training", "test", "val", "valid", "validation", "calibration"}
IMAGE_ERRORS = (
    UnidentifiedImageError,
    OSError,
    SyntaxError,
    ValueError,
    Image.DecompressionBombError,
)

Size = tuple[int, int]  # height, width


@contextmanager
def _open_image(file: BinaryIO | Path, where: str) -> Iterator[Image.Image]:
    """Open an image. Raises DataError, naming `where`, if it cannot be opened or used."""
    try:
        with Image.open(file) as image:
            yield image
    except DataError:
        raise
    except IMAGE_ERRORS as error:
        raise DataError(
            f"{where} cannot be read as an image ({error}); it must be a whole PNG or JPEG; "
            "replace or remove it"
        ) from error


def decode(file: BinaryIO | Path, channels: int, size: Size | None, where: str) -> Tensor:
    """Decode one image to uint8 (channels, height, width), grey for 1 channel and RGB for 3.

    Raises DataError, naming `where`, if it cannot be read or has more than 8 bits per channel.
    """
    with _open_image(file, where) as image:
        if image.mode in HIGH_DEPTH_MODES:
            raise DataError(
                f"{where} has more than 8 bits per pixel (mode {image.mode}); images here have 8; "
                "convert it, or pass the values as a .npy file"
            )
        picture = image.convert("L" if channels == 1 else "RGB")
    if size is not None and picture.size != size[::-1]:
        picture = picture.resize(size[::-1], Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(picture, dtype=np.uint8))
    return pixels.reshape(picture.height, picture.width, channels).permute(2, 0, 1).contiguous()


def find_images(folder: Path) -> list[Path]:
    """Return all PNG and JPEG files below a folder, sorted, hidden ones left out. Raises DataError
    if there are none.
    """
    paths = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in IMAGE_SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    if not paths:
        raise DataError(f"{folder} holds no images; PNG and JPEG files are read; check the path")
    return paths


def load_folder(
    folder: Path, size: int | Sequence[int] | None, channels: int | None
) -> tuple[Split, tuple[str, ...]]:
    """Read a folder of images as uint8 (N, channels, height, width), its sub-folders as labels.

    size: n or (height, width), needed if the images differ in size; channels: 1 or 3, by default 1
    if all are grey.

    Raises DataError if an image cannot be read, the sizes differ, or the layout is ambiguous.
    """
    paths = find_images(folder)
    y, names = _label_by_folder(folder, paths)
    headers = [_read_header(path) for path in paths]
    shape = _parse_size(size) or _check_same_size(paths, [header[1] for header in headers])
    if channels not in (None, 1, 3):
        raise DataError(
            f"channels is {channels}; images have 1 (grey) or 3 (RGB); pass channels=1 or "
            "channels=3"
        )
    depth = channels or (1 if all(mode in GRAY_MODES for mode, _ in headers) else 3)
    images = torch.empty(len(paths), depth, *shape, dtype=torch.uint8)
    for row, path in enumerate(paths):
        images[row] = decode(path, depth, shape, str(path))
    return Split(images, y), names


def _read_header(path: Path) -> tuple[str, Size]:
    with _open_image(path, str(path)) as image:
        return image.mode, (image.height, image.width)


def _parse_size(size: int | Sequence[int] | None) -> Size | None:
    if size is None:
        return None
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or not all(isinstance(n, int) and n > 0 for n in pair):
        raise DataError(
            f"size is {size}; it is one positive whole number or (height, width); pass for example "
            "size=32"
        )
    return pair[0], pair[1]


def _check_same_size(paths: list[Path], sizes: list[Size]) -> Size:
    for path, size in zip(paths, sizes, strict=True):
        if size != sizes[0]:
            raise DataError(
                f"{paths[0]} is {sizes[0][0]} × {sizes[0][1]} and {path} is {size[0]} × {size[1]}; "
                "all images of a set have one size; pass size=... to resize them"
            )
    return sizes[0]


def _label_by_folder(folder: Path, paths: list[Path]) -> tuple[Tensor | None, tuple[str, ...]]:
    parts = [path.relative_to(folder).parts for path in paths]
    nested = [part[0] for part in parts if len(part) > 1]
    if not nested:
        return None, ()
    if len(nested) < len(parts):
        raise DataError(
            f"{folder} holds {len(parts) - len(nested)} images beside its sub-folders; either all "
            "images are in sub-folders, which are their labels, or none is; move them"
        )
    names = sort_classes(nested)
    if {name.lower() for name in names} <= SPLIT_NAMES:
        raise DataError(
            f"{folder} has the sub-folders {', '.join(names)}; sub-folders are read as labels, not "
            f"as parts; name one of them, for example {folder / names[0]}"
        )
    return torch.tensor([names.index(name) for name in nested]), names


def load_image(path: str | Path, shape: tuple[int, ...]) -> Tensor:
    """Read the points in one file as float32 (N, *shape), for an energy of events of that shape.

    A PNG or JPEG is one point: resized, grey or RGB as the shape says. A .npy, .npz (key x or X) or
    .csv file holds one event or N of them and must have the shape exactly; images stored as uint8
    are divided by 255.

    Raises DataError, naming the file, if it cannot be read, does not fit or holds NaN or infinite
    values.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise DataError(
            f"{path} is not a file; a PNG, JPEG, .npy, .npz or .csv file is read; correct the path"
        )
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        channels, height, width = _image_shape(shape, path)
        return decode(path, channels, (height, width), str(path))[None].float() / 255
    if suffix not in ARRAY_SUFFIXES:
        raise DataError(
            f"{path} ends in {suffix!r}; {', '.join((*IMAGE_SUFFIXES, *ARRAY_SUFFIXES))} are "
            "read; convert the file"
        )
    array = read_csv(path).x if suffix == ".csv" else read_array(path).x
    values = array.float()
    if array.dtype == torch.uint8 and len(shape) == 3:
        values = values / 255
    refuse_nonfinite(values, str(path))
    return _match_shape(values, shape, path)


def _image_shape(shape: tuple[int, ...], path: Path) -> tuple[int, int, int]:
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise DataError(
            f"{path} is an image; the energy takes events of shape {shape}, and images have (1 or "
            "3, height, width); pass a .npy file of that shape"
        )
    return shape[0], shape[1], shape[2]


def _match_shape(values: Tensor, shape: tuple[int, ...], path: Path) -> Tensor:
    grey = shape[1:] if len(shape) == 3 and shape[0] == 1 else None
    for event in filter(None, (shape, grey)):
        if tuple(values.shape) == event or tuple(values.shape[1:]) == event:
            return values.reshape(-1, *shape)
    raise DataError(
        f"{path} holds an array of shape {tuple(values.shape)}; the energy takes events of shape "
        f"{shape}, one or N of them; reshape the array"
    )


def load_batch(paths: Sequence[str | Path], shape: tuple[int, ...]) -> tuple[list[str], Tensor]:
    """Read all points in files and folders, (N, *shape), and return a name for each with them: the
    file, or file[row] for arrays.

    Raises DataError as `load_image` does, or if no path is given.
    """
    names: list[str] = []
    batch: list[Tensor] = []
    for path in map(Path, paths):
        folder = path.expanduser()
        for file in find_images(folder) if folder.is_dir() else [path]:
            points = load_image(file, shape)
            if file.suffix.lower() in IMAGE_SUFFIXES:
                names.append(str(file))
            else:
                names += [f"{file}[{row}]" for row in range(len(points))]
            batch.append(points)
    if not batch:
        raise DataError(
            "no path was given; images, folders, .npy, .npz and .csv files are read; name at least "
            "one"
        )
    return names, torch.cat(batch)


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
    pixels of grey part them.

    Raises DataError if x is no batch of images.
    """
    if x.ndim != 4 or x.shape[1] not in (1, 3) or len(x) == 0:
        raise DataError(
            f"the picture has the shape {tuple(x.shape)}; a grid takes (N, 1 or 3, height, width) "
            "with N of at least 1; reshape it"
        )
    columns = columns or int(np.ceil(np.sqrt(len(x))))
    if columns < 1:
        raise DataError(f"the grid has {columns} columns; it needs at least 1; pass columns=8")
    factor = max(1, pixels // max(x.shape[2:]))
    images = to_uint8(x.detach().cpu()).repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    rows, (channels, height, width) = -(-len(x) // columns), images.shape[1:]
    sheet = torch.full(
        (channels, rows * (height + gap) + gap, columns * (width + gap) + gap),
        128,
        dtype=torch.uint8,
    )
    for i, image in enumerate(images):
        top, left = gap + (i // columns) * (height + gap), gap + (i % columns) * (width + gap)
        sheet[:, top : top + height, left : left + width] = image
    array = sheet[0] if channels == 1 else sheet.permute(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(array.contiguous().numpy()).save(buffer, format="PNG")
    write_bytes(Path(path), buffer.getvalue())
    return Path(path)
