"""Make numbers on the device of the points, and choose the type in which they add up there."""

from functools import lru_cache

import torch
from torch import Tensor

from lowland.devices import has_float64
from lowland.transfer import send


@lru_cache(maxsize=64)
def constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Make a tensor of settings, once per device.

    >>> constant((0.5, 0.25), torch.float32, torch.device("cpu"))
    tensor([0.5000, 0.2500])
    """
    with torch.inference_mode(False):
        return send(torch.tensor(values, dtype=dtype), device)


def wide_dtype(device: torch.device) -> torch.dtype:
    """Return the type in which a device adds up: float64, or float32 where it has no float64.

    >>> wide_dtype(torch.device("cpu"))
    torch.float64
    """
    return torch.float64 if has_float64(device) else torch.float32


def widen(x: Tensor) -> Tensor:
    """Return numbers in the widest type of their device, which they do not leave.

    >>> widen(torch.ones(2)).dtype
    torch.float64
    """
    return x.to(wide_dtype(x.device))
