"""How finely numbers are resolved: columns that rounding would spoil are named.

Numbers are read and standardized in 64 bits and rounded to 32 at the end. A column whose values lie
far from 0 and close together, as times in seconds do, loses them where it is rounded first.
"""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowland.data.dataset import DataError

SPOILT = 0.05  # spacing of rounded values over the deviation of a column: 20 values per deviation
COARSE = 0.001
NOISE = 16 * 2.0**-52  # relative change that is rounding, not variation
STANDARDIZE = "standardize=True (--set data.standardize=true) centres columns before rounding"
EXACT = 1 << 53  # up to which float64 has every whole number
UNLIKE = 10.0  # times 1: a scale at which energies and samplers were not made to work

Numbers = NDArray[Any]


def is_flat(x: Numbers) -> NDArray[np.bool_]:
    """Tell which columns of x (N, D) never change, but for rounding in float64."""
    largest = np.abs(x).max(0).astype(np.float64)
    centred = x - x[:1].astype(np.float64)
    return np.asarray(np.abs(centred).max(0) <= NOISE * largest)


def _steps_per_deviation(x: Numbers) -> NDArray[np.float64]:
    """Return the spacing of float32 at the largest value of each column of x (N, D), over the
    column's deviation; 0 for columns that do not change.
    """
    spacing = np.spacing(np.abs(x).max(0).astype(np.float32)).astype(np.float64)
    spread = (x - x[:1]).std(0, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(is_flat(x), 0.0, spacing / spread)


def check_whole(low: int, high: int, name: str, where: str) -> None:
    """Raise DataError for a column of whole numbers from low to high that are too large and too
    close together for float64.
    """
    largest = max(abs(low), abs(high))
    if largest < EXACT or low == high or math.ulp(float(largest)) <= COARSE * (high - low):
        return
    raise DataError(
        f"column {name} of {where} holds whole numbers from {low} to {high}, which 64-bit floats "
        "cannot tell apart; numbers up to 2^53 are exact; subtract the smallest, or remove the "
        "column if it numbers rows"
    )


def to_float64(x: Numbers, names: Sequence[str], where: str) -> NDArray[np.float64]:
    """Convert columns x (N, D) to float64. Raises DataError for whole numbers that are too large
    and too close together for it.
    """
    if x.dtype.kind in "iu" and x.dtype.itemsize == 8 and len(x):
        for i in range(x.shape[1]):
            column = x[:, i]
            check_whole(int(column.min()), int(column.max()), names[i], where)
    return np.asarray(x, dtype=np.float64)


def shrink(x: Numbers) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Return columns x (N, D) divided by a power of two near the largest of each, and the exponents
    (D,), so that squares of them neither overflow nor vanish.

    Moments of ordinary numbers stay the same to the last bit once np.ldexp multiplies them back.
    """
    exponents = np.frexp(np.abs(x).max(0).astype(np.float64))[1]
    return np.ldexp(x.astype(np.float64, copy=False), -exponents), exponents


def check_range(x: Numbers, names: Sequence[str], where: str) -> None:
    """Raise DataError for columns x (N, D) whose differences are beyond the range of float64."""
    odd = np.abs(x).max(0) > np.finfo(np.float64).max / 2
    if odd.any():
        raise DataError(
            f"column {_list(odd, names)} of {where} holds {np.abs(x).max():g}, whose distance from "
            "other values may be beyond the range of 64 bits (1.8e308); values up to half of it "
            "can be standardized; rescale the column"
        )


def check_rounding(x: Numbers, names: Sequence[str], where: str, advice: str = STANDARDIZE) -> None:
    """Check columns x (N, D) that are to be rounded to float32 as they are.

    advice: what to do about columns that would be spoilt. Raises DataError, naming the columns,
    where rounding leaves less than 20 values per deviation or a value is beyond its range; warns
    below 1,000.
    """
    largest = float(np.abs(x).max())
    if largest > np.finfo(np.float32).max:
        raise DataError(
            f"{where} holds {largest:g}, which is beyond the range of 32 bits (3.4e38); data are "
            f"held as float32; rescale them, or {advice}"
        )
    steps = _steps_per_deviation(x)
    if (steps > SPOILT).any():
        raise DataError(
            f"column {_list(steps > SPOILT, names)} of {where} varies in digits that 32 bits do "
            f"not hold ({1 / steps.max():.2g} values per deviation would be left); data are held "
            f"as float32; {advice}"
        )
    if (steps > COARSE).any():
        warnings.warn(
            f"column {_list(steps > COARSE, names)} of {where} is held as float32, which leaves "
            f"{1 / steps.max():.0f} values per deviation; {advice}",
            stacklevel=2,
        )


def warn_of_scales(x: Numbers, names: Sequence[str], where: str) -> None:
    """Warn in one line of columns x (N, D) whose mean or deviation is far from that of standardized
    ones.
    """
    mean, spread = x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64)
    moves = spread > 0
    odd = moves & (
        (spread > UNLIKE) | (spread < 1 / UNLIKE) | (np.abs(mean) > UNLIKE * np.maximum(spread, 1))
    )
    if odd.any():
        worst = int(np.argmax(np.where(odd, np.abs(np.log(np.maximum(spread, 1e-300))), -1)))
        warnings.warn(
            f"column {_list(odd, names)} of {where} has another scale than energies and samplers "
            f"are made for ({names[worst]}: mean {mean[worst]:.3g}, deviation "
            f"{spread[worst]:.3g}), and standardize is off: standardize=True (--set "
            "data.standardize=true) brings each column to mean 0 and deviation 1",
            stacklevel=2,
        )


def _list(flags: NDArray[np.bool_], names: Sequence[str]) -> str:
    """List the names of the columns that are flagged, a few of them."""
    chosen = [name for name, flag in zip(names, flags, strict=True) if flag]
    return ", ".join(chosen[:5]) + (f" and {len(chosen) - 5} more" if len(chosen) > 5 else "")
