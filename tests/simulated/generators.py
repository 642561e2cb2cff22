"""Make generators of the simulated device.

torch has no hook for them in Python: a CPU generator is made, and the two bytes that name its
device are rewritten in place. C++ then refuses it wherever a CPU generator is due, and the
other way round. Where the bytes cannot be found, `make_generator` raises RuntimeError.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

PRIVATE = 20  # c10::DeviceType::PrivateUse1
REAL = torch.Generator


@cache
def find_offset() -> int:
    """Return where in a C++ generator its device stands, as two bytes: type and index."""
    generator = REAL()
    address = _address(generator)
    for offset in range(16, 96, 2):
        field = (ctypes.c_uint8 * 2).from_address(address + offset)
        if tuple(field) != (0, 255):
            continue
        field[0], field[1] = PRIVATE, 0
        found = generator.device.type != "cpu"
        field[0], field[1] = 0, 255
        if found:
            return offset
    raise RuntimeError("the device of a generator was not found in memory")


def _address(generator: torch.Generator) -> int:
    address = ctypes.c_void_p.from_address(id(generator) + 16).value
    assert address is not None
    return address


def _label(generator: torch.Generator, kind: int, index: int) -> None:
    field = (ctypes.c_uint8 * 2).from_address(_address(generator) + find_offset())
    field[0], field[1] = kind, index


def is_of_device(generator: torch.Generator) -> bool:
    """Return whether a generator belongs to the simulated device."""
    field = (ctypes.c_uint8 * 2).from_address(_address(generator) + find_offset())
    return field[0] == PRIVATE


def make_generator(seed: int | None = None) -> torch.Generator:
    """Return a generator of the simulated device; with a seed it draws as the CPU's would."""
    generator = REAL()
    if seed is not None:
        generator.manual_seed(seed)
    _label(generator, PRIVATE, 0)
    return generator


@contextmanager
def borrow(generator: torch.Generator) -> Iterator[torch.Generator]:
    """Lend a generator of the device to a CPU kernel."""
    _label(generator, 0, 255)
    try:
        yield generator
    finally:
        _label(generator, PRIVATE, 0)


class _Kind(type):
    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, REAL)


class Generator(metaclass=_Kind):
    """Stand for `torch.Generator` while the device is in use: `Generator("sim")` works."""

    def __new__(cls, device: torch.device | str = "cpu") -> torch.Generator:  # type: ignore[misc]
        if torch.device(device).type == "sim":
            return make_generator()
        return REAL(device)
