"""Sizes of results, compared with memory and disk before any work is begun."""

import os
import shutil
from pathlib import Path

FLOAT_BYTES = 4
COPIES = 2  # of a result, while it is put together


def check_memory(what: str, numbers: int) -> None:
    """Raise ValueError if so many float32 numbers, twice, are more than the memory of the machine.

    what: says in messages what they are, such as "10 draws for 3 images".
    """
    present = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    _compare(what, COPIES * FLOAT_BYTES * numbers, present, "of memory are there")


def check_disk(what: str, numbers: int, target: Path) -> None:
    """Raise ValueError if so many float32 numbers, twice, are more than the room on the disk of a
    file.
    """
    folder = next((path for path in target.absolute().parents if path.is_dir()), Path("/"))
    free = shutil.disk_usage(folder).free
    _compare(what, COPIES * FLOAT_BYTES * numbers, free, f"are free at {folder}")


def _compare(what: str, needed: int, present: int, where: str) -> None:
    if needed > present:
        raise ValueError(
            f"{what} need {describe_bytes(needed)} while they are made; {describe_bytes(present)} "
            f"{where}; ask for fewer"
        )


def describe_bytes(count: int) -> str:
    """Describe a number of bytes with a unit.

    >>> describe_bytes(2500), describe_bytes(8 * 10**12)
    ('2.5 kB', '8.0 TB')
    """
    for unit, size in (("PB", 10**15), ("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 1000)):
        if count >= size:
            return f"{count // size if count >= 1000 * size else round(count / size, 1)} {unit}"
    return f"{count} bytes"
