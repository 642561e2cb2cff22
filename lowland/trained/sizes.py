"""Sizes of results, compared with memory and disk before any work is begun."""

import shutil
from pathlib import Path

from lowland.memory import check_bytes

FLOAT_BYTES = 4
COPIES = 2  # of a result, while it is put together


def check_memory(what: str, numbers: int) -> None:
    """Raise ValueError if so many float32 numbers, twice, are more than the memory that is free.

    what: says in messages what they are, such as "the result of 10 draws for 3 images".
    """
    check_bytes(what, COPIES * FLOAT_BYTES * numbers, "ask for fewer")


def check_disk(what: str, numbers: int, target: Path) -> None:
    """Raise ValueError if so many float32 numbers, twice, are more than the room on the disk of a
    file.
    """
    folder = next((path for path in target.absolute().parents if path.is_dir()), Path("/"))
    free = shutil.disk_usage(folder).free
    cure = f"ask for fewer, or make room on the disk of {folder}"
    check_bytes(what, COPIES * FLOAT_BYTES * numbers, cure, available=free)
