"""Location and scale of every column of data, whatever its units, and columns that never change."""

from typing import NamedTuple

import torch
from torch import Tensor

from lowland.devices import to_float64


class Columns(NamedTuple):
    """Means and standard deviations (*event) of data in float64; flat columns have scale 1."""

    mean: Tensor
    scale: Tensor


def flat_columns(x: Tensor) -> Tensor:
    """Mark the entries (*event) of data x (N, *event) that never change, but for rounding.

    >>> flat_columns(torch.tensor([[1.0, 7.0], [2.0, 7.0]]))
    tensor([False,  True])
    """
    low, high = torch.aminmax(x, dim=0)
    largest = torch.maximum(low.abs(), high.abs())
    eps = torch.finfo(x.dtype).eps if x.is_floating_point() else 0.0
    return (to_float64(high) - to_float64(low)) <= eps * to_float64(largest)


def measure_columns(x: Tensor) -> Columns:
    """Return mean and standard deviation of every entry of data x (N, *event), in float64.

    The scale is the data's own, however small or far from zero; where nothing changes it is 1.

    >>> found = measure_columns(torch.tensor([[1e6, 7.0], [1e6 + 2, 7.0]]))
    >>> found.mean.tolist(), found.scale.round(decimals=3).tolist()
    ([1000001.0, 7.0], [1.414, 1.0])
    """
    wide = to_float64(x)
    # divided by a power of two near the largest of each, so that no square overflows or vanishes
    exponents = wide.abs().amax(0).frexp().exponent.clamp(-1020, 1020).to(wide)
    variance, mean = torch.var_mean(wide * (-exponents).exp2(), 0, correction=int(len(x) > 1))
    flat = flat_columns(x) | ~(variance > 0)
    one = torch.ones((), dtype=torch.float64, device=wide.device)
    mean, scale = mean * exponents.exp2(), variance.sqrt() * exponents.exp2()
    return Columns(torch.where(flat, wide[0], mean), torch.where(flat, one, scale))
