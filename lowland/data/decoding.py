"""Decode one picture: PNG or JPEG, as every viewer shows it, or refuse it in words.

Only these two formats are opened, by Pillow's readers of PNG and JPEG alone, and the content must
be what the name says. Orientation of EXIF is applied. Refused are more than 8 bits per channel,
pixels that are not opaque (what lies behind them is not known), several frames, and more than
MAX_PIXELS pixels by the header. Palettes, 1-bit pictures and CMYK become grey or RGB; colour
profiles and gamma are not applied; of a JPEG with further pictures behind it (MPO) the first is
read.
"""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile
from torch import Tensor

from lowland.data.dataset import DataError

FORMATS = ("PNG", "JPEG")
FORMAT_OF_SUFFIX = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
IMAGE_SUFFIXES = tuple(FORMAT_OF_SUFFIX)
MAX_PIXELS = 1 << 26  # of one picture, 67 million: more than any camera of a telephone by default
GRAY_MODES = ("1", "L", "LA")
MODES = (*GRAY_MODES, "P", "PA", "RGB", "RGBA", "CMYK", "I", "I;16", "I;16B")
ORIENTATION = 0x0112  # tag of EXIF; 1 is upright
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
PNG_HEAD = b"\x89PNG\r\n\x1a\n"
PNG_DEPTH_AT = 24  # byte of IHDR, which comes first
MAX_CHUNK = 1 << 28  # bytes of one part of a PNG

Size = tuple[int, int]  # height, width


class Header(NamedTuple):
    """What a picture says of itself before its pixels are read: whether it is grey, and (height,
    width) as it is shown.
    """

    gray: bool
    size: Size


def read_header(path: Path) -> Header:
    """Read the header of a picture. Raises DataError if it is none, or one that is refused."""
    with _open_image(path, str(path)) as (image, _):
        size = (image.height, image.width)
        if _find_turn(image) in (5, 6, 7, 8):
            size = size[::-1]
        return Header(image.mode in GRAY_MODES, size)


def decode(
    file: BinaryIO | Path, channels: int, size: Size | None, where: str, *, resize: bool = False
) -> Tensor:
    """Decode one picture to uint8 (channels, height, width), grey for 1 channel and RGB for 3.

    size: (height, width) that it must have, or is resized to with `resize`: bilinear, without
    keeping its proportions; None for any. Raises DataError, naming `where`, if it cannot be read,
    is refused, or has another size.
    """
    with _open_image(file, where) as (image, depth):
        image.load()  # what follows the pixels may say how they are meant
        turn = TURNS.get(_find_turn(image))
        _refuse_transparent(image, depth, where)
        picture = image.convert("RGB") if image.mode not in GRAY_MODES else image.convert("L")
        picture = picture.convert("L" if channels == 1 else "RGB")
        if turn is not None:
            picture = picture.transpose(turn)
    if size is not None and picture.size != size[::-1]:
        if not resize:
            raise DataError(
                f"{where} is {picture.height} × {picture.width}; pictures of {size[0]} × {size[1]} "
                "(height × width) are taken as they are; cut or resize it, or ask for that: "
                "--resize on the command line, resize=True in Python"
            )
        picture = picture.resize(size[::-1], Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(picture, dtype=np.uint8))
    return pixels.reshape(picture.height, picture.width, channels).permute(2, 0, 1).contiguous()


@contextmanager
def _open_image(file: BinaryIO | Path, where: str) -> Iterator[tuple[Image.Image, int]]:
    """Open a picture and yield it with the bits per channel of a PNG, 8 for JPEG.

    Raises DataError, naming `where`, if it cannot be opened or used.
    """
    if isinstance(file, Path):
        _check_file(file, where)
        named = FORMAT_OF_SUFFIX.get(file.suffix.lower())
        with (
            _explain_damage(where),
            file.open("rb") as stream,
            _open_stream(stream, where, named) as opened,
        ):
            yield opened
    else:
        with _explain_damage(where), _open_stream(file, where, None) as opened:
            yield opened


@contextmanager
def _explain_damage(where: str) -> Iterator[None]:
    """Raise DataError in words for whatever a reader of pictures stumbles over."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:  # damaged bytes make Pillow raise errors of any class
        what = str(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            what = "its content is neither PNG nor JPEG"
        raise DataError(
            f"{where} cannot be read as an image ({what}); it must be a whole PNG or JPEG; replace "
            "or remove it"
        ) from error


@contextmanager
def _open_stream(
    stream: BinaryIO, where: str, named: str | None
) -> Iterator[tuple[Image.Image, int]]:
    head = stream.read(PNG_DEPTH_AT + 1)
    stream.seek(0)
    if not head:
        raise ValueError("it is empty: 0 bytes")
    if head.startswith(PNG_HEAD):
        _check_png(stream)
    with Image.open(stream, formats=FORMATS) as image:
        depth = head[PNG_DEPTH_AT] if isinstance(image, PngImageFile) else 8
        _refuse_surprises(image, depth, where, named)
        yield image, depth


def _check_png(stream: BinaryIO) -> None:
    """Raise ValueError unless a PNG is whole: Pillow compares no checksum of the pixels."""
    stream.seek(len(PNG_HEAD))
    kind = b""
    while kind != b"IEND":
        head = stream.read(8)
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        body = stream.read(min(length, MAX_CHUNK))
        checksum = stream.read(4)
        if len(kind) < 4 or len(body) < length or len(checksum) < 4:
            raise ValueError("it is cut short")
        if zlib.crc32(kind + body) != int.from_bytes(checksum, "big"):
            raise ValueError(f"the checksum of its part {kind!r} is wrong")
    stream.seek(0)


def _check_file(path: Path, where: str) -> None:
    """Raise DataError unless a path is a regular file, so that no pipe or device is waited for."""
    if not path.is_file():
        what = "a link to nothing" if path.is_symlink() else "a pipe, a device or absent"
        raise DataError(
            f"{where} is no file but {what}; a PNG or JPEG file is read; replace or remove it"
        )


def _refuse_surprises(image: Image.Image, depth: int, where: str, named: str | None) -> None:
    is_png = isinstance(image, PngImageFile)
    content = "PNG" if is_png else "JPEG"
    if named not in (None, content):
        raise DataError(
            f"{where} is a {content} by its content and a {named} by its name; the two must agree; "
            "rename it"
        )
    if image.width * image.height > MAX_PIXELS:
        raise DataError(
            f"the header of {where} says {image.height} × {image.width} pixels; up to {MAX_PIXELS} "
            "in all are read; make it smaller"
        )
    if depth > 8 or image.mode not in MODES:
        raise DataError(
            f"{where} has more than 8 bits per channel ({depth}, mode {image.mode}); pictures here "
            "have 8, and the rest would be cut off; convert it, or pass the values as a .npy file"
        )
    if isinstance(image, PngImageFile) and image.is_animated:
        raise DataError(
            f"{where} is animated, {image.n_frames} frames; a picture has one; save the frames as "
            "files of their own"
        )


def _find_turn(image: Image.Image) -> int:
    """Return the orientation that EXIF or XMP tells, 1 to 8; 1 if none is told.

    Only what was read already counts: `load` brings what follows the pixels of a PNG.
    """
    if not {"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"} & set(image.info):
        return 1
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged EXIF tells nothing, here as in every viewer
        return 1
    return found if found in TURNS else 1


def _refuse_transparent(image: Image.Image, depth: int, where: str) -> None:
    """Raise DataError if some pixels of a picture are not opaque."""
    if not image.has_transparency_data:
        return
    key = image.info.get("transparency")
    if image.mode in ("1", "L") and isinstance(key, int) and depth < 8:
        levels = np.unique(np.array(image.convert("L")))  # pixels were stretched to 0 ... 255
        stretched = 255 * bool(key) if depth == 1 else key * 255 // ((1 << depth) - 1)
        opaque = stretched not in levels
    else:
        opaque = image.convert("RGBA").getchannel("A").getextrema()[0] == 255
    if not opaque:
        raise DataError(
            f"{where} has transparent pixels; what is seen there depends on what lies behind, and "
            "the file does not say that; put it on a background first, for example with `magick "
            "IN -background white -flatten OUT`"
        )
