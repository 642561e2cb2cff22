"""Refuse data that the memory of this machine cannot hold, before any of it is taken."""

from lowland.data.dataset import DataError
from lowland.memory import memory_bound


def require_memory(size: int, what: str) -> None:
    """Raise DataError if an array of `size` bytes cannot fit into the memory of this machine."""
    if size > memory_bound():
        raise explain_memory(what, size)


def explain_memory(what: str, size: int) -> DataError:
    """Return the error of data that do not fit into memory, with the bytes that they need."""
    return DataError(
        f"{what} needs {format_bytes(size)} of memory, and this machine allows "
        f"{format_bytes(memory_bound())} in all; data to train on are held in memory as float32; "
        "take fewer examples or a larger machine; to score, save rows as .npy, of which a memory "
        "map is read a piece at a time"
    )


def format_bytes(size: float) -> str:
    """Write a number of bytes as people do.

    >>> format_bytes(5_120_000_000)
    '5.1 GB'
    """
    for unit in ("bytes", "kB", "MB", "GB", "TB", "PB"):
        if size < 1000 or unit == "PB":
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError
