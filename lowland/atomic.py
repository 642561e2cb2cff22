"""Write files and folders whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def write_aside(target: Path, *, shared: bool = False) -> Iterator[Path]:
    """Yield a path beside `target` at which to write a file or a folder; bring it to the disk and
    rename it to `target` at the end.

    shared: other processes may write the same target at the same time. After an error what was
    written aside is removed, and the old target still stands. Raises OSError when the disk refuses.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "numbers.txt"
    >>> with write_aside(target) as aside:
    ...     _ = aside.write_text("1 2 3")
    >>> target.read_text()
    '1 2 3'
    """
    mark = f"{os.getpid()}." if shared else ""
    aside = target.with_name(f".{target.name}.{mark}tmp")
    _remove(aside)
    try:
        yield aside
        for path in [*aside.rglob("*"), aside] if aside.is_dir() else [aside]:
            sync(path)
        if aside.is_dir() and target.is_dir():
            shutil.rmtree(target)
        aside.replace(target)
        sync(target.parent)
    finally:
        _remove(aside)


def write_bytes(target: Path, data: bytes, *, shared: bool = False) -> None:
    """Write a file whole or not at all. Raises OSError when the disk refuses."""
    with write_aside(target, shared=shared) as aside:
        aside.write_bytes(data)


def sync(path: Path) -> None:
    """Bring a file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
