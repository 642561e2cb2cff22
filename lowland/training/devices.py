"""The device and the CPU threads of a run."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lowland.training.distributed import local_rank


def pick_device(wanted: str | torch.device) -> torch.device:
    """Return the device for "auto", "cpu", "cuda", "cuda:1", ... or a torch device.

    Raises ValueError for a name that no device has, and for a device that is not there.

    >>> pick_device("cpu")
    device(type='cpu')
    """
    name = str(wanted)
    here = list_devices()
    if name == "auto":
        return torch.device("cuda", local_rank()) if "cuda:0" in here else torch.device("cpu")
    if name == "cpu:0":
        name = "cpu"
    if name in here:
        return torch.device(name)
    if name == "cuda" and "cuda:0" in here:
        return torch.device("cuda", local_rank())
    raise ValueError(f"device is {name!r}; here are {', '.join(here)}; use 'auto', or one of these")


def list_devices() -> list[str]:
    """List the names of the devices of this machine on which energies can be trained."""
    found = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        found.append("mps")
    return found


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Let torch use so many threads inside (0: as before), and as before after it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
