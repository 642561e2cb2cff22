"""Devices: pick one by name, list those of this machine, and find where float64 can be computed.

Every door that computes takes `device="auto"`: the first of CUDA, MPS, XPU that torch has and can
use here, else the CPU. Importing this file loads no torch.
"""

from __future__ import annotations

import warnings
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Final

from lowland.launch import read_launch

if TYPE_CHECKING:
    import torch

AUTO: Final = "auto"
CPU: Final = "cpu"


def pick_device(wanted: str | torch.device = AUTO) -> torch.device:
    """Return the device for "auto", "cpu", "cuda", "cuda:1", "mps", "xpu", ..., the name of a
    backend that was registered with torch, or a torch device.

    "auto" takes CUDA, MPS, XPU or the CPU, the first that torch can use here; a kind without a
    number takes this process's own device of that kind under torchrun, else the first. Raises
    ValueError for a device that is not there, and for what is no device.

    >>> pick_device("cpu")
    device(type='cpu')
    """
    import torch

    here = list_devices()
    name = str(wanted) if isinstance(wanted, str | torch.device) else ""
    if name == AUTO:
        return _pick_automatically(here)
    name = {"cpu:0": CPU, "mps:0": "mps"}.get(name, name)
    own = _own_device(name, here)
    if name not in here and not own:
        shown = str(wanted) if isinstance(wanted, torch.device) else wanted
        raise ValueError(
            f"device is {shown!r}; here are {', '.join(here)}; use 'auto', or one of these"
        )
    device = torch.device(own or name)
    trouble = _find_trouble(device)
    if trouble:
        raise ValueError(
            f"device is {str(device)!r}, which torch sees and cannot use ({trouble}); here are "
            f"{', '.join(here)}; use 'auto', or another of these"
        )
    return device


def _pick_automatically(here: list[str]) -> torch.device:
    """Return the first device that can be used, in the order CUDA, MPS, XPU, CPU."""
    import torch

    for kind in ("cuda", "mps", "xpu"):
        own = _own_device(kind, here)
        if not own:
            continue
        trouble = _find_trouble(torch.device(own))
        if not trouble:
            return torch.device(own)
        warnings.warn(
            f"{own} is there and torch cannot use it ({trouble}); 'auto' looks further; name a "
            "device to be sure of it",
            stacklevel=3,
        )
    return torch.device(CPU)


def _own_device(kind: str, here: list[str]) -> str:
    """Return the name of this process's device of a kind without a number; empty if there is none.

    Raises ValueError if torchrun started more processes than there are devices; one device alone is
    what the launcher let each process see.
    """
    if kind in here:
        return kind
    several = [name for name in here if name.startswith(f"{kind}:")] if kind else []
    place = read_launch().local_rank if len(several) > 1 else 0
    if several and place >= len(several):
        raise ValueError(
            f"this is process {place} of its machine, from 0; it has {len(several)} devices: "
            f"{', '.join(several)}; start at most {len(several)} processes, or use 'cpu'"
        )
    return several[place] if several else ""


def list_devices() -> list[str]:
    """List the names of the devices of this machine that torch sees.

    >>> list_devices()[0]
    'cpu'
    """
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a driver too old for this torch: then there are none
        counts = {"cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0}
        found = [CPU, *(f"cuda:{number}" for number in range(counts["cuda"]))]
        if torch.backends.mps.is_available():
            found.append("mps")
        if torch.xpu.is_available():
            found += [f"xpu:{number}" for number in range(torch.xpu.device_count())]
    name = torch._C._get_privateuse1_backend_name()
    with suppress(RuntimeError, AttributeError):  # none was registered, or one without a count
        backend = torch.get_device_module(name)
        count = backend.device_count() if backend.is_available() else 0
        found += [f"{name}:{number}" for number in range(count)]
    return found


@cache
def _find_trouble(device: torch.device) -> str:
    """Return why nothing can be computed on a device, found by trying once; empty if it can."""
    import torch

    if device.type == CPU:
        return ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an old GPU's are followed by the error
            torch.ones(2, device=device).add(1).cpu()
    except (RuntimeError, AssertionError, TypeError) as error:
        return " ".join(str(error).split("\n")[0].split()) or type(error).__name__
    return ""


@cache
def has_float64(device: torch.device) -> bool:
    """Tell whether a device computes in float64, found by trying once. MPS does not, nor do some
    XPUs.
    """
    import torch

    if device.type == CPU:
        return True
    try:
        torch.ones(2, device=device, dtype=torch.float64).add(1).cpu()
    except (RuntimeError, TypeError):
        return False
    return True


def float64_device(device: torch.device) -> torch.device:
    """Return the device on which statistics of its tensors are computed in float64: itself, or the
    CPU where it has no float64.

    >>> import torch
    >>> float64_device(torch.device("cpu"))
    device(type='cpu')
    """
    import torch

    return device if has_float64(device) else torch.device(CPU)


def to_float64(x: torch.Tensor) -> torch.Tensor:
    """Convert a tensor to float64: on its device, or on the CPU where its device has no float64.

    >>> import torch
    >>> to_float64(torch.ones(2)).dtype
    torch.float64
    """
    import torch

    if x.device.type != CPU and not has_float64(x.device):
        x = x.cpu()
    return x.to(torch.float64)


def place(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor on a device, sent without waiting for it. Raises ValueError for float64 where
    the device has none.

    >>> import torch
    >>> place(torch.ones(2), torch.device("cpu"))
    tensor([1., 1.])
    """
    import torch

    from lowland.transfer import send

    if x.dtype == torch.float64 and not has_float64(device):
        raise ValueError(
            f"a tensor in float64 was to be sent to {device}, which has no float64; allowed are "
            "other types; convert it with .float(), or use device='cpu'"
        )
    return send(x, device)


def find_device(module: torch.nn.Module) -> torch.device | None:
    """Return the device of the first parameter or buffer of a module; None if it has neither.

    >>> import torch
    >>> find_device(torch.nn.Linear(2, 1))
    device(type='cpu')
    """
    tensors = (*module.parameters(), *module.buffers())
    return tensors[0].device if tensors else None


def same_device(a: torch.device, b: torch.device) -> bool:
    """Tell whether two devices are one: "cuda" without a number is any of its kind.

    >>> import torch
    >>> same_device(torch.device("cuda"), torch.device("cuda:0"))
    True
    """
    alike = a.index is None or b.index is None or a.index == b.index
    return a.type == b.type and (alike or a.type == CPU)


def check_generator(generator: torch.Generator, device: torch.device) -> None:
    """Raise ValueError if a generator draws on another device than that of the points it is for."""
    if not same_device(generator.device, device):
        raise ValueError(
            f"the generator draws on {generator.device} and the points are on {device}; both must "
            f"be on one device; pass torch.Generator({str(device)!r}), or move the points"
        )
