"""Memory that this machine can still give, and a refusal of what will not fit into it.

Sizes are worked out before anything of that size is made: an allocator that cannot serve ends the
program without a word, or takes the machine down with it.
"""

import ctypes
import os
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path

FALLBACK = 1 << 34  # bytes, where the system does not say
CGROUP = Path("/sys/fs/cgroup")
LIMITS = ("memory.max", "memory/memory.limit_in_bytes")  # of control groups, new and old


def available_bytes() -> int:
    """Return the bytes of memory that are free for this process: of the machine, or of the part of
    it that the process is confined to. macOS does not say: there it is the memory of the machine.
    """
    found = []
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
    with suppress(OSError, ValueError):
        most = int((CGROUP / "memory.max").read_text("ascii"))
        current = int((CGROUP / "memory.current").read_text("ascii"))
        found.append(max(most - current, 0))
    with suppress(OSError):
        found.append(_ask_windows().free)
    return min(found, default=memory_bound())


def memory_bound() -> int:
    """Return the bytes that this process may have at the most: of the machine, its container and
    its own limit.
    """
    bounds = []
    with suppress(OSError, ValueError, AttributeError):  # Windows has none of this
        bounds.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(OSError, ValueError, ImportError, AttributeError):
        resource = import_module("resource")
        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        bounds += [limit] if limit != resource.RLIM_INFINITY else []
    for name in LIMITS:
        with suppress(OSError, ValueError):
            bounds.append(int((CGROUP / name).read_text("ascii")))
    with suppress(OSError):
        bounds.append(_ask_windows().total)
    return min((bound for bound in bounds if bound > 0), default=FALLBACK)


def peak_bytes() -> int:
    """Return the most bytes of memory that this process has had so far; 0 where the system does not
    say.
    """
    with suppress(ImportError):
        resource = import_module("resource")
        unit = 1 if sys.platform == "darwin" else 1024  # of what the system counts in
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    with suppress(OSError):
        return _ask_windows_for_peak()
    return 0


def check_bytes(what: str, needed: float, cure: str, available: int | None = None) -> None:
    """Raise ValueError if something needs more memory than there is.

    what: is named in the first clause; cure: the last clause; available: bytes, those of this
    machine unless given.

    >>> check_bytes("a table of 10 rows", 80, "take fewer rows")
    >>> check_bytes("a table of 10 rows", 80, "take fewer rows", available=79)
    Traceback (most recent call last):
    ValueError: a table of 10 rows needs 80 bytes; 79 are free; take fewer rows
    """
    free = available_bytes() if available is None else available
    if needed > free:
        raise ValueError(f"{what} needs {needed:,.0f} bytes; {free:,} are free; {cure}")


class _Memory(ctypes.Structure):
    """MEMORYSTATUSEX of Windows."""

    _fields_ = (
        ("length", ctypes.c_uint32),
        ("load", ctypes.c_uint32),
        ("total", ctypes.c_uint64),
        ("free", ctypes.c_uint64),
        ("total_with_files", ctypes.c_uint64),
        ("free_with_files", ctypes.c_uint64),
        ("total_of_addresses", ctypes.c_uint64),
        ("free_of_addresses", ctypes.c_uint64),
        ("extended", ctypes.c_uint64),
    )


class _Counters(ctypes.Structure):
    """PROCESS_MEMORY_COUNTERS of Windows."""

    _fields_ = (
        ("length", ctypes.c_uint32),
        ("faults", ctypes.c_uint32),
        ("peak", ctypes.c_size_t),
        ("others", ctypes.c_size_t * 7),
    )


def _ask_windows() -> _Memory:
    """Return what Windows says of its memory. Raises OSError if it does not, and elsewhere."""
    found = _Memory(length=ctypes.sizeof(_Memory))
    _load_kernel().GlobalMemoryStatusEx(ctypes.byref(found))
    if not found.total:
        raise OSError("Windows does not say")
    return found


def _ask_windows_for_peak() -> int:
    found = _Counters(length=ctypes.sizeof(_Counters))
    kernel = _load_kernel()
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    process = ctypes.c_void_p(kernel.GetCurrentProcess())
    kernel.K32GetProcessMemoryInfo(process, ctypes.byref(found), found.length)
    return int(found.peak)


def _load_kernel() -> ctypes.CDLL:
    """Load kernel32 of Windows. Raises OSError on other systems."""
    if sys.platform != "win32":
        raise OSError("this system is not Windows")
    return ctypes.WinDLL("kernel32")
