"""Send tensors to a device without waiting for it.

A plain copy from memory of the process to a GPU keeps the program waiting until all work that was
asked of the GPU before is done. From pinned memory, which the system may not move, the GPU fetches
the numbers itself when their turn comes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

PINNED = ("cuda", "xpu")  # devices that fetch from pinned memory
WAITS = ("mps",)  # memory that nobody pinned may change before this one has read it


def send(x: Tensor, device: torch.device) -> Tensor:
    """Send a tensor to a device: from pinned memory, and without waiting, where it is of another
    kind than the CPU. A tensor that lies there already is returned as it is.

    >>> send(torch.arange(3), torch.device("cpu"))
    tensor([0, 1, 2])
    """
    if x.device.type != "cpu" or device.type == "cpu" or device.type in WAITS:
        return x.to(device)
    if device.type in PINNED:
        x = x.pin_memory()
    return x.to(device, non_blocking=True)


def constants(values: Sequence[float], like: Tensor) -> Tensor:
    """Make a tensor (K,) of numbers with the dtype and on the device of another, without waiting
    for that device.

    >>> constants([0.5, 1.0], torch.zeros(3))
    tensor([0.5000, 1.0000])
    """
    return send(torch.tensor(values, dtype=like.dtype), like.device)
