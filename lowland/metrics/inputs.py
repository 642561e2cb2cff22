"""Numbers that a metric takes: tensors, arrays or lists of any real type, read once as float64.

A metric that computes in its caller's type is wrong for integers, which wrap round, and for half
precision, which overflows. So every metric reads its arguments here, and refuses what has no
value: text, complex numbers, NaN, infinity, nothing at all.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lowland.devices import to_float64
from lowland.energy import check_finite
from lowland.energy.points import describe

Numbers = Tensor | ArrayLike
EXACT = 1 << 53  # up to which float64 has every whole number
NUMERIC_KINDS = "biuf"  # of NumPy's dtypes: bool, signed, unsigned, floating


def read_numbers(what: str, values: Numbers, *, finite: bool = True) -> Tensor:
    """Return real numbers of any shape as a float64 tensor without a graph.

    Tensors stay on their device, unless that has no float64: then they come to the CPU. Raises
    ValueError for what is not an array of real numbers, for NaN, and for infinity unless `finite`
    is False.

    >>> read_numbers("pixels", np.array([200, 100], dtype=np.uint8)).tolist()
    [200.0, 100.0]
    """
    if isinstance(values, Tensor):
        if values.is_complex() or values.layout != torch.strided:
            raise _refuse(what, describe(values))
        _check_exact(what, values)
        numbers = to_float64(values.detach())
    else:
        if isinstance(values, np.ma.MaskedArray):
            raise ValueError(
                f"{what} came as a masked array; a mask would be read through, and plain arrays "
                "are needed; take values.compressed(), or fill the gaps with values.filled(...)"
            )
        try:
            array = np.asarray(values)
        except (TypeError, ValueError, RuntimeError):
            raise _refuse(what, f"a {type(values).__name__}") from None
        if array.dtype.kind not in NUMERIC_KINDS:
            raise _refuse(what, f"a {type(values).__name__} of {array.dtype}")
        _check_exact(what, array)
        numbers = torch.from_numpy(np.array(array, dtype=np.float64))
    if not finite:
        missing = int(numbers.isnan().sum())
        if missing:
            raise _refuse(what, f"{numbers.numel()} numbers, {missing} of them NaN")
    elif numbers.dim():
        check_finite(numbers, what)
    elif not bool(numbers.isfinite()):
        raise _refuse(what, str(numbers.item()))
    return numbers


def read_vector(what: str, values: Numbers, *, least: int = 1) -> Tensor:
    """Return numbers (N,), at least so many, as a contiguous float64 vector on the CPU."""
    vector = read_numbers(what, values)
    if vector.dim() != 1 or len(vector) < least:
        vectors = "a non-empty vector" if least else "a vector"
        raise ValueError(
            f"{what} have shape {tuple(vector.shape)}; {vectors} (N,) is needed; flatten them, or "
            "bring more"
        )
    return vector.cpu().contiguous()


def read_points(what: str, values: Numbers, *, least: int = 1) -> Tensor:
    """Return points (N, *event), at least so many, as float64 rows (N, D); numbers as (N, 1)."""
    points = read_numbers(what, values)
    if points.dim() == 0 or (len(points) and points.numel() == 0):
        raise ValueError(
            f"{what} have shape {tuple(points.shape)}; (N, *event), with numbers in each point, is "
            "needed; pass them batch first"
        )
    if len(points) < least:
        raise ValueError(
            f"{len(points)} {what} were given; a comparison needs at least {least} on each side; "
            "pass more"
        )
    return points.reshape(len(points), -1)


def read_sides(x: Numbers, y: Numbers, *, least: int = 2) -> tuple[Tensor, Tensor]:
    """Return two sets of points as float64 rows (N, D) and (M, D) on the device of the first.

    Raises ValueError for points of different sizes, and as `read_points` does.
    """
    a, b = read_points("points", x, least=least), read_points("other points", y, least=least)
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"points of {a.shape[1]} numbers met points of {b.shape[1]}; both sides need the same "
            "features; match them"
        )
    return a, b.to(a.device)


def read_labels(what: str, values: Numbers, classes: int | None = None) -> Tensor:
    """Return class labels (N,) as torch.long on the CPU; whole numbers of any type are taken.

    Raises ValueError for fractions and for labels outside 0 ... classes − 1.
    """
    labels = read_vector(what, values)
    whole = bool((labels == labels.round()).all()) and bool((labels >= 0).all())
    if not whole or (classes is not None and bool((labels >= classes).any())):
        top = "" if classes is None else f" to {classes - 1}"
        raise ValueError(
            f"{what} reach from {labels.min().item():g} to {labels.max().item():g}; whole numbers "
            f"from 0{top} are needed; check them"
        )
    return labels.long()


def draw_rows(
    among: int, shape: tuple[int, ...], generator: torch.Generator, device: torch.device
) -> Tensor:
    """Draw indices of a shape below `among`, with repeats; the generator may be of any device."""
    drawn = torch.randint(among, shape, generator=generator, device=generator.device)
    return drawn.to(device)


def _check_exact(what: str, values: Tensor | NDArray[Any]) -> None:
    """Raise ValueError for whole numbers beyond what float64 tells apart."""
    if isinstance(values, Tensor):
        if values.dtype not in (torch.int64, torch.uint64):
            return
        values = values.cpu().numpy()  # torch finds no bounds of uint64
    if values.dtype.kind not in "iu" or values.dtype.itemsize < 8 or not values.size:
        return
    low, high = int(values.min()), int(values.max())
    if max(-low, high) > EXACT:
        raise ValueError(
            f"{what} are whole numbers from {low} to {high}, which 64-bit floats cannot tell "
            "apart; whole numbers up to 2^53 are exact; subtract the smallest, or convert them to "
            "floats if their last digits do not matter"
        )


def _refuse(what: str, came: str) -> ValueError:
    return ValueError(
        f"{what} came as {came}; real numbers are needed, in a tensor, an array or a list; "
        "convert them"
    )
