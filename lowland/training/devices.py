"""The device and the CPU threads of a run."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lowland.training.distributed import local_rank


def pick_device(wanted: str) -> torch.device:
    """Return the device for "auto", "cpu", "cuda", ... Raises ValueError if it is not there."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"device is {wanted!r} and this machine has no CUDA; use 'cpu'; or 'auto' to take what "
            "is there"
        )
    if wanted == "cuda":
        return torch.device("cuda", local_rank())
    return torch.device(wanted)


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Let torch use so many threads inside (0: as before), and as before after it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
