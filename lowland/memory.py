"""Memory that this machine can still give, and a refusal of what will not fit into it.

Sizes are worked out before anything of that size is made: an allocator that cannot serve ends the
program without a word, or takes the machine down with it.
"""

import os
from contextlib import suppress
from pathlib import Path

FALLBACK = 1 << 34  # bytes, where the system does not say
CGROUP = Path("/sys/fs/cgroup")
LIMITS = ("memory.max", "memory/memory.limit_in_bytes")  # of control groups, new and old


def available_bytes() -> int:
    """Return the bytes of memory that are free for this process: of the machine, or of the part of
    it that the process is confined to.
    """
    found = []
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
    with suppress(OSError, ValueError):
        most = int((CGROUP / "memory.max").read_text())
        found.append(max(most - int((CGROUP / "memory.current").read_text()), 0))
    return min(found, default=memory_bound())


def memory_bound() -> int:
    """Return the bytes that this process may have at the most: of the machine, its container and
    its own limit.
    """
    bounds = []
    with suppress(OSError, ValueError, AttributeError):  # Windows has none of this
        bounds.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(ImportError):
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        bounds += [limit] if limit != resource.RLIM_INFINITY else []
    for name in LIMITS:
        with suppress(OSError, ValueError):
            bounds.append(int((CGROUP / name).read_text()))
    return min(bounds, default=FALLBACK)


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
