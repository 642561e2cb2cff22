"""Write files and folders whole or not at all, and never through a link.

What is written lies first in a folder of its own beside the target: `.lowland-PID-RANDOM`, which
nobody else may enter and no one can foretell. Then it is brought to the disk and renamed. Targets
are regular files or folders: a symbolic link, a device, a named pipe or a socket under the name of
a target is refused, neither followed nor replaced. Folders *above* a target may be links, as a
user's `runs` on another disk is.
"""

import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PRIVATE = re.compile(r"\.lowland-(\d+)-[0-9a-f]{16}")
_NAMES = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}


@contextmanager
def write_aside(target: Path) -> Iterator[Path]:
    """Yield a path of the same name, in a private folder beside `target`, at which to write a file
    or a folder; bring it to the disk and rename it to `target` at the end.

    Several processes may write the same target: the last one stands. After an error what was
    written aside is removed, and the old target still stands. Raises OSError when the disk refuses,
    ValueError for a target that is a link, a device, a pipe or a socket.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "numbers.txt"
    >>> with write_aside(target) as aside:
    ...     _ = aside.write_text("1 2 3")
    >>> target.read_text()
    '1 2 3'
    """
    check_target(target)
    private = _make_private(target.parent)
    try:
        aside = private / target.name
        yield aside
        for path in [*aside.rglob("*"), aside] if aside.is_dir() else [aside]:
            sync(path)
        check_target(target)
        _put(aside, target)
        sync(target.parent)
    finally:
        shutil.rmtree(private, ignore_errors=True)


def write_bytes(target: Path, data: bytes) -> None:
    """Write a file whole or not at all. Raises as `write_aside` does."""
    with write_aside(target) as aside:
        aside.write_bytes(data)


def append_bytes(target: Path, data: bytes) -> None:
    """Append to a regular file, made if it is not there. Raises as `write_aside` does."""
    handle = open_regular(target, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    with os.fdopen(handle, "ab", buffering=0) as file:
        while data:
            data = data[file.write(data) :]


def cut_file(target: Path, size: int) -> None:
    """Cut a regular file to a size in bytes. Raises as `write_aside` does."""
    handle = open_regular(target, os.O_WRONLY)
    try:
        os.ftruncate(handle, size)
    finally:
        os.close(handle)


def open_regular(target: Path, flags: int) -> int:
    """Open a regular file that is no link, and return its descriptor.

    flags: of `os.open`. Raises ValueError for everything else under that name, OSError as `os.open`
    does.
    """
    check_target(target)
    try:
        handle = os.open(target, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            check_target(target)
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise _refuse(target, os.lstat(target).st_mode)
    return handle


def check_target(target: Path) -> None:
    """Raise ValueError if a link, a device, a named pipe or a socket stands where a file or folder
    is to be written, or if the path is no name of a file.
    """
    if not target.name or "\0" in str(target):
        raise ValueError(
            f"{str(target)!r} names no file; a path with a name in it, without NUL, is needed; "
            "choose another"
        )
    try:
        mode = os.lstat(target).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise _refuse(target, mode)


def check_writable(target: Path) -> None:
    """Raise as `write_aside` would if a file could not be written at `target`; leave no trace."""
    check_target(target)
    _make_private(target.parent).rmdir()


def remove_folder(folder: Path) -> None:
    """Remove a folder: renamed first, so that a break leaves no half of it under its name.

    Raises ValueError for a link, OSError as the disk does.
    """
    check_target(folder)
    private = _make_private(folder.parent)
    try:
        folder.replace(private / folder.name)
    finally:
        shutil.rmtree(private)


def remove_leftovers(folder: Path) -> None:
    """Remove the private folders that processes left in a folder when they were killed."""
    for path in folder.iterdir():
        found = _PRIVATE.fullmatch(path.name)
        if found and not path.is_symlink() and path.is_dir() and not _lives(int(found[1])):
            shutil.rmtree(path, ignore_errors=True)


def is_private(name: str) -> bool:
    """Tell whether a name is that of a private folder of `write_aside`."""
    return _PRIVATE.fullmatch(name) is not None


def sync(path: Path) -> None:
    """Bring a file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _make_private(parent: Path) -> Path:
    """Make a folder that only this user may enter, under a name that nobody can foretell."""
    private = parent / f".lowland-{os.getpid()}-{secrets.token_hex(8)}"
    private.mkdir(0o700)
    return private


def _put(aside: Path, target: Path) -> None:
    """Rename what was written aside to the target; a folder in its place goes first."""
    if not target.is_dir():
        aside.replace(target)
        return
    if not aside.is_dir():
        raise _refuse(target, stat.S_IFDIR)
    old = aside.with_name(f"{target.name}.old")
    target.replace(old)
    try:
        aside.replace(target)
    except OSError:
        old.replace(target)
        raise


def _refuse(target: Path, mode: int) -> ValueError:
    kind = _NAMES.get(stat.S_IFMT(mode), "no regular file")
    return ValueError(
        f"{target} is {kind}; lowland writes regular files and neither follows nor replaces "
        "anything else; remove it or choose another name"
    )


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
