"""Image arrays (N, C, H, W) in [0, 1] to PNG markup: tiled into one sheet, pixel for pixel."""

import base64
import html
import io
from collections.abc import Mapping
from typing import Any, TypeGuard

import matplotlib
import numpy as np
from matplotlib.image import imsave
from numpy.typing import NDArray

Array = NDArray[Any]
Arrays = Mapping[str, Array]
UNKNOWN_COLOR = (0.49, 0.60, 0.74)  # the colour of a pixel that was not observed


def is_images(array: Array | None) -> TypeGuard[Array]:
    """Return True for images (N, C, H, W) with one or three channels."""
    return array is not None and array.ndim == 4 and array.size > 0 and array.shape[1] in (1, 3)


def is_planar(array: Array | None) -> TypeGuard[Array]:
    """Return True for points in the plane (N, 2)."""
    return array is not None and array.ndim == 2 and array.shape[1] == 2 and len(array) > 0


def to_rgb(images: Array) -> Array:
    """Convert (N, C, H, W) in [0, 1] to (N, H, W, 3), unknown (NaN) pixels in the colour of the
    unknown.
    """
    images = np.asarray(images, dtype=np.float64)
    unknown = ~np.isfinite(images).all(axis=1)
    images = np.repeat(images, 3 // images.shape[1], axis=1)
    colors = np.moveaxis(np.clip(np.nan_to_num(images), 0, 1), 1, -1)
    colors[unknown] = UNKNOWN_COLOR
    return colors


def to_heatmap(images: Array, top: float) -> Array:
    """Map (N, C, H, W) of sizes to colours (N, H, W, 3): black at zero, bright at `top`, channels
    averaged.
    """
    sizes = np.nan_to_num(np.asarray(images, dtype=np.float64)).mean(axis=1)
    return np.asarray(matplotlib.colormaps["inferno"](np.clip(sizes / max(top, 1e-12), 0, 1)))[
        ..., :3
    ]


def tile(colors: Array, columns: int) -> Array:
    """Lay (N, H, W, 3) out on one sheet (rows, columns, 4) with transparent gaps."""
    amount, height, width, _ = colors.shape
    gap = max(1, width // 14)
    rows = -(-amount // columns)
    sheet = np.zeros((rows * (height + gap) - gap, columns * (width + gap) - gap, 4))
    for i, picture in enumerate(colors):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        sheet[top : top + height, left : left + width, :3] = picture
        sheet[top : top + height, left : left + width, 3] = 1
    return sheet


def encode_png(sheet: Array, alt: str, widest: int = 504) -> str:
    """Encode a sheet as an <img> of whole pixels, at most about `widest` CSS pixels wide."""
    buffer = io.BytesIO()
    pixels = (255 * sheet + 0.5).astype(np.uint8)
    anonymous: Any = {"Software": None}  # None leaves the entry out
    imsave(buffer, pixels, format="png", metadata=anonymous)
    code = base64.b64encode(buffer.getvalue()).decode()
    height, width = sheet.shape[:2]
    return (
        f'<img src="data:image/png;base64,{code}" alt="{html.escape(alt)}" width="{width}" '
        f'height="{height}" style="width:{width * max(1, widest // width)}px">'
    )


def encode_grid(images: Array, columns: int, alt: str, widest: int = 504) -> str:
    """Encode images as one <img>, row by row; unknown pixels have the colour of the unknown."""
    return encode_png(tile(to_rgb(images), columns), alt, widest)


def count_shown(images: Array, most: int, pixels: int = 400_000) -> int:
    """Return the number of images to show: at most `most`, fewer when they are large."""
    return min(len(images), most, max(4, pixels // (images.shape[-1] * images.shape[-2])))
