"""Readers of image files and folders.

Everything inside the library is float32 in [0, 1], channels first; everything on disk is 8-bit. A
picture is read as `data.decoding` says, has the size that is asked for, and is resized only on
request.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lowland.data.dataset import DataError, Split
from lowland.data.decoding import IMAGE_SUFFIXES, Size, decode, read_header
from lowland.data.folders import Skipped, find_images, is_file, is_folder, label_by_folder
from lowland.data.format import Format
from lowland.data.point_files import open_points
from lowland.memory import check_bytes
from lowland.scalars import read_integer
from lowland.systems import expand_home

ARRAY_SUFFIXES = (".npy", ".npz", ".csv")
BYTES_PER_VALUE = 9  # of a set: as it is read, as float32, and once more while it is divided
MAX_SIDE = 1 << 14  # of pictures that are resized


class Folder(NamedTuple):
    """Images of a folder as uint8 with their labels, names of the classes, and files that were
    skipped, {file: why}.
    """

    images: Split
    class_names: tuple[str, ...]
    skipped: dict[str, str]


def load_folder(
    folder: Path,
    size: int | Sequence[int] | None,
    channels: int | None,
    *,
    skip_bad: bool = False,
) -> Folder:
    """Read a folder of images as uint8 (N, channels, height, width), its sub-folders as labels.

    size: n or (height, width) to which all are resized, needed if the images differ in size;
    channels: 1 or 3, by default 1 if all are grey; skip_bad: leave out files that cannot be read,
    with a warning that lists them.

    Raises DataError if an image cannot be read (with skip_bad: most cannot), the sizes differ, or
    the layout is ambiguous.
    """
    wanted = _parse_size(size)
    if not isinstance(skip_bad, bool):
        raise DataError(
            f"skip_bad is {skip_bad!r}; it is True or False; pass True to leave out what cannot be "
            "read"
        )
    if channels not in (None, 1, 3):
        raise DataError(
            f"channels is {channels}; images have 1 (grey) or 3 (RGB); pass channels=1 or "
            "channels=3"
        )
    found, skipped = find_images(folder), Skipped(skip_bad)
    y, names = label_by_folder(folder, found)
    headers = {}
    for path in found:
        try:
            headers[path] = read_header(path)
        except DataError as error:
            skipped.take(path, error)
    sizes = {path: header.size for path, header in headers.items()}
    shape = wanted or _check_same_size(sizes, skipped, len(found), folder)
    depth = channels or (1 if all(header.gray for header in headers.values()) else 3)
    what = f"a set of {len(headers)} images of {depth} × {shape[0]} × {shape[1]} numbers"
    needed = BYTES_PER_VALUE * len(headers) * depth * math.prod(shape)
    check_bytes(what, needed, "give a smaller size, or fewer images")
    images = torch.empty(len(headers), depth, *shape, dtype=torch.uint8)
    kept: list[Path] = []
    for path in headers:
        try:
            images[len(kept)] = decode(path, depth, shape, str(path), resize=wanted is not None)
            kept.append(path)
        except DataError as error:
            skipped.take(path, error)
    skipped.judge(len(found), str(folder))
    if y is not None and skipped.reasons:
        y, names = label_by_folder(folder, kept)
    return Folder(Split(images[: len(kept)], y), names, skipped.reasons)


def _parse_size(size: int | Sequence[int] | None) -> Size | None:
    if size is None:
        return None
    try:
        pair = tuple(size) if isinstance(size, Sequence) else (size, size)
        height, width = (read_integer("size", n, least=1, most=MAX_SIDE) for n in pair)
    except ValueError:
        raise DataError(
            f"size is {size}; it is one positive whole number or (height, width), up to "
            f"{MAX_SIDE}; pass for example size=32"
        ) from None
    return height, width


def _check_same_size(sizes: dict[Path, Size], skipped: Skipped, count: int, folder: Path) -> Size:
    """Return the one size of all images. Raises DataError if they differ, or none is left."""
    if not sizes:
        skipped.judge(count, str(folder))
    first, one = next(iter(sizes.items()))
    for path, size in sizes.items():
        if size != one:
            raise DataError(
                f"{first} is {one[0]} × {one[1]} and {path} is {size[0]} × {size[1]}; all images "
                "of a set have one size; pass size=... to resize them (data.size in a recipe)"
            )
    return one


def load_image(
    path: str | Path,
    shape: tuple[int, ...],
    *,
    resize: bool = False,
    format: Format | None = None,
) -> Tensor:
    """Read the points in one file as float32 (N, *shape), for an energy of events of that shape.

    format: of the points of a run, by which columns are matched and values looked at; numbers then
    keep their digits, in float64 if need be, until the run has standardized them.

    A PNG or JPEG is one point, grey or RGB as the shape says, and of its size or, with `resize`,
    resized to it. A .npy, .npz (key x or X) or .csv file holds one event or N of them and must have
    the shape exactly; images stored as uint8 are divided by 255, unless all are 0 or 1.

    Raises DataError, naming the file, if it cannot be read, does not fit or holds NaN or infinite
    values.
    """
    path = expand_home(path)
    if not is_file(path):
        raise DataError(
            f"{path} is not a file; a PNG, JPEG, .npy, .npz or .csv file is read; correct the path"
        )
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        channels, height, width = _image_shape(shape, path)
        pixels = decode(path, channels, (height, width), str(path), resize=resize)
        return pixels[None].float() / 255
    if suffix not in ARRAY_SUFFIXES:
        raise DataError(
            f"{path} ends in {suffix!r}; {', '.join((*IMAGE_SUFFIXES, *ARRAY_SUFFIXES))} are "
            "read; convert the file"
        )
    file = open_points(path, format or Format(shape))
    values = file.read(0, len(file))
    return values.float() if format is None else values


def _image_shape(shape: tuple[int, ...], path: Path) -> tuple[int, int, int]:
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise DataError(
            f"{path} is an image; the energy takes events of shape {shape}, and images have (1 or "
            "3, height, width); pass a .npy file of that shape"
        )
    return shape[0], shape[1], shape[2]


def list_files(
    paths: Sequence[str | Path],
    shape: tuple[int, ...],
    *,
    resize: bool = False,
    skip_bad: bool = False,
    format: Format | None = None,
) -> list[Path]:
    """List the files in files and folders.

    skip_bad: each is read once as points of a shape, and those that cannot be are left out, with a
    warning that lists them. Raises DataError if there are none, or most cannot be read.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        folder = expand_home(path)
        files += find_images(folder) if is_folder(folder) else [path]
    if not files:
        raise DataError(
            "no path was given; images, folders, .npy, .npz and .csv files are read; name at least "
            "one"
        )
    skipped = Skipped(skip_bad)
    for file in files if skip_bad else ():
        try:
            load_image(file, shape, resize=resize, format=format)
        except DataError as error:
            skipped.take(file, error)
    skipped.judge(len(files), ", ".join(map(str, paths)))
    return [file for file in files if str(file) not in skipped.reasons]


def load_batch(
    paths: Sequence[str | Path],
    shape: tuple[int, ...],
    *,
    resize: bool = False,
    skip_bad: bool = False,
    format: Format | None = None,
) -> tuple[list[str], Tensor]:
    """Read all points in files and folders, (N, *shape), and return a name for each with them: the
    file, or file[row] for arrays.

    resize: pictures of another size are resized; skip_bad: files that cannot be read are left out,
    with a warning that lists them. Raises DataError as `load_image` does, or if no path is given.
    """
    names: list[str] = []
    batch: list[Tensor] = []
    for file in list_files(paths, shape, resize=resize, skip_bad=skip_bad, format=format):
        points = load_image(file, shape, resize=resize, format=format)
        if file.suffix.lower() in IMAGE_SUFFIXES:
            names.append(str(file))
        else:
            names += [f"{file}[{row}]" for row in range(len(points))]
        batch.append(points)
    return names, torch.cat(batch)
