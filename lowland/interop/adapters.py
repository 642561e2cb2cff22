"""Conversion of rows to points of an energy."""

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from lowland.data.format import Frame
from lowland.data.precision import check_rounding, to_float64
from lowland.energy import Energy


def to_points(energy: Energy | Callable[[Tensor], Tensor] | None, rows: ArrayLike) -> Tensor:
    """Convert rows (N, D) to float32 points (N, *event): in the shape of the domain for an Energy,
    rows as they are for other functions.

    Raises ValueError for what is not a table of real numbers, and rows of another width than the
    points of the energy.
    """
    try:
        table = np.asarray(rows)
    except ValueError:
        table = np.empty((), dtype=object)
    if table.dtype.kind not in "biuf" or table.ndim < 2:
        raise ValueError(
            f"rows came as {table.dtype} of shape {table.shape}; a table (N, D) of real numbers is "
            "needed; convert them"
        )
    if table.ndim == 2 and table.size and np.isfinite(table).all():
        columns = rows.columns if isinstance(rows, Frame) else range(table.shape[1])
        names = [str(name) for name in columns]
        wide = to_float64(table, names, "the table")
        check_rounding(wide, names, "the table", "subtract the mean of such columns first")
    x = torch.from_numpy(np.ascontiguousarray(table, dtype=np.float32))
    shape = energy.domain.shape if isinstance(energy, Energy) else ()
    if not shape:
        return x
    if math.prod(x.shape[1:]) != math.prod(shape):
        raise ValueError(
            f"rows have shape {tuple(x.shape[1:])}; the energy takes points of {shape}, "
            f"{math.prod(shape)} numbers each; pass rows of that width"
        )
    return x.view(len(x), *shape)
