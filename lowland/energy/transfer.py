"""Bring numbers to the device of the points without making it wait, and add them up there.

A copy from CPU memory to a GPU that blocks waits for everything the GPU was asked before. One that
does not block is safe in this direction: the numbers are read before the call returns.
"""

from functools import lru_cache

import torch
from torch import Tensor

from lowland.devices import has_float64


def send(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Return a tensor on a device, in another dtype if given, without waiting for a GPU.

    >>> send(torch.ones(2), torch.device("cpu"), torch.float64).dtype
    torch.float64
    """
    if dtype is not None and tensor.device.type == "cpu":  # a device need not have the old one
        tensor = tensor.to(dtype)
    return tensor.to(device, dtype or tensor.dtype, non_blocking=device.type != "cpu")


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
