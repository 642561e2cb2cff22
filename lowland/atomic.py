"""Write files and folders whole or not at all, and never through a link.

What is written lies first in a folder of its own beside the target: `.lowland-PID-RANDOM`, which
nobody else may enter and no one can foretell. Then it is brought to the disk and renamed. Targets
are regular files or folders: a symbolic link, a device, a named pipe or a socket under the name of
a target is refused, neither followed nor replaced. Folders *above* a target may be links, as a
user's `runs` on another disk is.

A locked file in the private folder tells that its process lives: process numbers of another machine
or container that writes to the same disk say nothing here.
"""

import errno
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lowland.systems import (
    NO_LINK,
    WINDOWS,
    HeldError,
    LocksMissingError,
    check_name,
    free_lock,
    hold_lock,
    replace_path,
    sync,
    take_lock,
)

_WRITER = ".writer"  # the file in a private folder that its process holds locked
_OLD_NAME = ".old"  # end of the name of a folder that is being replaced
_OLD = 3600.0  # seconds after which a private folder without that file was left behind
_MODE = 0o777 if WINDOWS else 0o700  # there it would stay with the file that is moved away
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
    with _open_private(target.parent) as private:
        aside = private / target.name
        yield aside
        for path in [*aside.rglob("*"), aside] if aside.is_dir() else [aside]:
            sync(path)
        check_target(target)
        _put(aside, target)
        sync(target.parent)


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
        handle = os.open(target, flags | NO_LINK, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            check_target(target)
        raise
    # Windows follows links: look again
    mode = os.lstat(target).st_mode if WINDOWS else os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        raise _refuse(target, mode)
    return handle


@contextmanager
def hold_file(path: Path, what: Path, *, remove: bool = False) -> Iterator[None]:
    """Hold a file locked, made if it is not there; the lock dies with its process.

    what: is named in the warning that is given where files cannot be locked; remove: the file at
    the end. Raises HeldError if another holds it, ValueError for a link in its place.
    """
    handle = open_regular(path, os.O_RDWR | os.O_CREAT)
    try:
        with hold_lock(handle, what):
            if not WINDOWS and remove and not _is_same(handle, path):
                raise HeldError(errno.EAGAIN, "just given back and removed")
            try:
                yield
            finally:
                if remove and not WINDOWS:  # while it is held: nobody else takes it for free
                    path.unlink(missing_ok=True)
    finally:
        if remove and WINDOWS:
            with suppress(OSError):  # it stands while another process has it open
                path.unlink()


def check_target(target: Path) -> None:
    """Raise ValueError if a link, a device, a named pipe or a socket stands where a file or folder
    is to be written, or if the path is no name of a file.
    """
    if not target.name or "\0" in str(target):
        raise ValueError(
            f"{str(target)!r} names no file; a path with a name in it, without NUL, is needed; "
            "choose another"
        )
    check_name(target)
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
    with _open_private(folder.parent) as private:
        replace_path(folder, private / folder.name)


def remove_leftovers(folder: Path) -> None:
    """Remove the private folders that processes left in a folder when they were killed; a folder
    that was about to be replaced is put back first.
    """
    for path in [*folder.iterdir()]:
        if is_private(path.name) and not path.is_symlink() and path.is_dir() and not _lives(path):
            for old in path.glob(f"*{_OLD_NAME}"):
                with suppress(OSError):
                    if not os.path.lexists(folder / old.name.removesuffix(_OLD_NAME)):
                        replace_path(old, folder / old.name.removesuffix(_OLD_NAME))
            shutil.rmtree(path, ignore_errors=True)


def is_private(name: str) -> bool:
    """Tell whether a name is that of a private folder of `write_aside`."""
    return _PRIVATE.fullmatch(name) is not None


@contextmanager
def _open_private(parent: Path) -> Iterator[Path]:
    """Make a private folder and hold the file in it that says so; remove both at the end."""
    private = _make_private(parent)
    try:
        handle = os.open(private / _WRITER, os.O_RDWR | os.O_CREAT | NO_LINK, 0o600)
        try:
            with suppress(LocksMissingError):
                take_lock(handle)
            yield private
        finally:
            free_lock(handle)
    finally:
        shutil.rmtree(private, ignore_errors=True)


def _make_private(parent: Path) -> Path:
    """Make a folder that only this user may enter, under a name that nobody can foretell."""
    private = parent / f".lowland-{os.getpid()}-{secrets.token_hex(8)}"
    private.mkdir(_MODE)
    return private


def _put(aside: Path, target: Path) -> None:
    """Rename what was written aside to the target; a folder in its place goes first."""
    if not target.is_dir():
        replace_path(aside, target)
        return
    if not aside.is_dir():
        raise _refuse(target, stat.S_IFDIR)
    old = aside.with_name(target.name + _OLD_NAME)
    replace_path(target, old)
    try:
        replace_path(aside, target)
    except OSError:
        replace_path(old, target)
        raise


def _is_same(handle: int, path: Path) -> bool:
    """Tell whether an open file is still the one of a name."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(handle), path.stat())
    return False


def _refuse(target: Path, mode: int) -> ValueError:
    kind = _NAMES.get(stat.S_IFMT(mode), "no regular file")
    return ValueError(
        f"{target} is {kind}; lowland writes regular files and neither follows nor replaces "
        "anything else; remove it or choose another name"
    )


def _lives(private: Path) -> bool:
    """Tell whether the process that made a private folder may still write there."""
    try:
        handle = os.open(private / _WRITER, os.O_RDWR | NO_LINK)
    except OSError:  # a moment after the folder was made, or of an older lowland
        with suppress(OSError):
            return time.time() - private.lstat().st_mtime < _OLD
        return True
    try:
        take_lock(handle)
    except (HeldError, LocksMissingError):
        return True
    finally:
        free_lock(handle)
    return False
