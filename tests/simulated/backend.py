"""Set the simulated device up in torch, once per process, and switch it on for a test."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from lowland import devices
from simulated.device import NAME, State
from simulated.generators import Generator, find_offset, make_generator
from simulated.kernels import register_kernels

_LIBRARIES: list[torch.library.Library] = []
_PINNED: set[int] = set()


class Module:
    """Be `torch.sim`."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return State.active

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return int(State.active)

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        State.generator = make_generator(seed)

    def manual_seed(self, seed: int) -> None:
        self.manual_seed_all(seed)

    def get_rng_state(self, device: object = None) -> torch.Tensor:
        assert State.generator is not None
        return State.generator.get_state()

    def set_rng_state(self, state: torch.Tensor, device: object = None) -> None:
        assert State.generator is not None
        State.generator.set_state(state)

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def synchronize(self, device: object = None) -> None:
        pass


def why_not() -> str | None:
    """Return why this torch cannot simulate a device; None where it can."""
    from torch.utils import backend_registration

    if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
        return f"torch {torch.__version__} has no backends written in Python"
    return None


def _register(threads: bool) -> None:
    if _LIBRARIES:
        return
    from torch.utils import backend_registration as registration

    class Hook(torch._C._acc.PrivateUse1Hooks):
        def is_available(self) -> bool:
            return State.active

        def has_primary_context(self, index: int) -> bool:
            return State.active

        def is_built(self) -> bool:
            return State.active

    if not threads:
        # Autograd starts a thread per device at the first backward of the process: have it now,
        # while there is none, so that the process can still fork.
        torch.ones(1, requires_grad=True).sum().backward()
    registration._setup_privateuseone_for_python_backend(NAME, backend_module=Module(), hook=Hook())
    find_offset()
    State.generator = make_generator(0)
    _LIBRARIES.extend(register_kernels())


def _deepcopy(tensor: torch.Tensor, memo: dict[int, object]) -> torch.Tensor:
    if tensor.device.type != NAME:
        return _ORIGINAL_DEEPCOPY(tensor, memo)
    if id(tensor) not in memo:
        made = tensor.detach().clone().requires_grad_(tensor.requires_grad)
        made.__dict__.update(copy.deepcopy(tensor.__dict__, memo))
        memo[id(tensor)] = made
    found = memo[id(tensor)]
    assert isinstance(found, torch.Tensor)
    return found


_ORIGINAL_DEEPCOPY = torch.Tensor.__deepcopy__


def _pin(tensor: torch.Tensor, device: object = None) -> torch.Tensor:
    made = tensor.clone()
    _PINNED.add(made.untyped_storage().data_ptr())
    return made


def _is_pinned(tensor: torch.Tensor, device: object = None) -> bool:
    return tensor.device.type == "cpu" and tensor.untyped_storage().data_ptr() in _PINNED


def _run_backward(*args: object, **kwargs: object) -> object:
    """Run backward in the calling thread, also where inference mode has switched threads on."""
    with torch.autograd.set_multithreading_enabled(False):
        return _ORIGINAL_BACKWARD(*args, **kwargs)


_ORIGINAL_BACKWARD = torch.autograd.graph._engine_run_backward


def _forget_devices() -> None:
    """Clear what lowland remembers of devices: the next one may have float64, or be gone."""
    devices._find_trouble.cache_clear()
    devices.has_float64.cache_clear()


@contextmanager
def simulate(float64: bool = True, threads: bool = False) -> Iterator[torch.device]:
    """Switch the device on, with or without float64, and yield its name for torch.

    With `threads`, backward runs in a thread of the device, as on a GPU; that needs a process in
    which there was neither a backward nor the device yet.
    """
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    _register(threads)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(State, "active", True)
        patch.setattr(State, "float64", float64)
        patch.setattr(State, "generator", make_generator(0))
        patch.setattr(torch, "Generator", Generator)
        patch.setattr(torch.Tensor, "__deepcopy__", _deepcopy)
        patch.setattr(torch.Tensor, "pin_memory", _pin)
        patch.setattr(torch.Tensor, "is_pinned", _is_pinned)
        _forget_devices()
        if not threads:
            patch.setattr(torch.autograd, "_engine_run_backward", _run_backward)
        yield torch.device(NAME, 0)
    _PINNED.clear()
    _forget_devices()
