"""The precision of matrix products and convolutions: float32, bfloat16, or whichever is faster.

Under "bfloat16" a network's products round their factors to bfloat16 (autocast); points, noise and
weights stay float32. A device without bfloat16 arithmetic emulates it, 10 to 60 times slower than
float32, so "auto" measures first.
"""

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import torch
from torch.nn import functional as F

Precision = Literal["float32", "bfloat16"]
PRECISIONS = ("float32", "bfloat16", "auto")
REPEATS = 3  # of the timed work, of which the fastest counts
MAX_SLOWDOWN = 4.0  # of a single run, beyond which no more are made


def check_precision(precision: str) -> None:
    """Raise ValueError for a precision that is not known."""
    if precision not in PRECISIONS:
        raise ValueError(
            f"precision is {precision!r}; allowed are {', '.join(PRECISIONS)}; choose one of them"
        )


def resolve_precision(precision: str, device: torch.device) -> Precision:
    """Return the precision to compute in: for "auto" the one that `faster_precision` measures.

    >>> import torch
    >>> resolve_precision("bfloat16", torch.device("cpu"))
    'bfloat16'
    """
    check_precision(precision)
    if precision == "auto":
        return faster_precision(torch.device(device).type)
    return "bfloat16" if precision == "bfloat16" else "float32"


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Return a context in which matrix products and convolutions run in a precision."""
    enabled = resolve_precision(precision, device) == "bfloat16"
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=enabled)


@lru_cache
def faster_precision(device: str) -> Precision:
    """Return "bfloat16" if a product and a convolution run faster in it than in float32 on a type
    of device, else "float32".

    Measured once per process, in CPU time where the device is the CPU, so that a busy machine finds
    the same; about 0.1 s, less than a second where bfloat16 is emulated.
    """
    place = torch.device(device)
    full = _time(place, half=False, limit=float("inf"))
    half = _time(place, half=True, limit=MAX_SLOWDOWN * full)
    return "bfloat16" if half < full else "float32"


def _time(device: torch.device, half: bool, limit: float) -> float:
    """Return the seconds of the fastest of some runs; only one is made if it exceeds the limit."""
    rows, weight = (
        torch.ones(256, 512, device=device).float(),
        torch.ones(512, 512, device=device).float(),
    )
    images, kernel = torch.ones(16, 32, 14, 14, device=device), torch.ones(32, 32, 3, 3)
    kernel = kernel.to(device)
    now, best = _clock(device), float("inf")
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=half):
        for repeat in range(1 + REPEATS):
            start = now()
            F.linear(rows, weight)
            F.conv2d(images, kernel, padding=1)
            spent = now() - start
            if repeat:  # the first one warms up
                best = min(best, spent)
            elif spent > 10 * limit:
                return spent
            if spent > limit and repeat:
                break
    return best


def _clock(device: torch.device) -> Callable[[], float]:
    if device.type != "cuda":
        return time.process_time

    def read_clock() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return read_clock
