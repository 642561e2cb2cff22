"""Do with files what Linux, macOS and Windows do differently: open, lock, rename and name them.

Locks die with their process. Unix locks a whole file (`flock`), Windows a byte of it that nobody
reads (`msvcrt.locking`), so that a locked file can still be copied. A file that is open cannot be
renamed or replaced on Windows; what a virus scanner or an indexer holds is free again within a
moment, so renaming is tried for two seconds there.
"""

import errno
import os
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path

WINDOWS = os.name == "nt"
PATIENCE = 2.0  # seconds for which a rename is tried on Windows
LOCKED_BYTE = 1 << 30  # place of the byte that Windows locks, beyond all that is written
HELD = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)  # errors of a lock that another one holds

# what a name may not hold on Windows, and names of devices, whatever ending they have
WRONG = re.compile(r'[<>:"|?*\x00-\x1f]|[. ]$')
DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])\s*(\..*)?", re.I | re.S)


def _add_flags(*names: str) -> int:
    """Return the flags of `os.open` of these names, as far as this system has them."""
    found = 0
    for name in names:
        found |= vars(os).get(name, 0)
    return found


# of files that are read; of files that must be no links. Windows has the last two names alone
READ = _add_flags("O_NONBLOCK", "O_CLOEXEC", "O_BINARY", "O_NOINHERIT")
NO_LINK = READ | _add_flags("O_NOFOLLOW")


class HeldError(OSError):
    """A lock that another process, or another part of this one, holds."""


class LocksMissingError(OSError):
    """A file system, or a Python, without locks."""


@contextmanager
def hold_lock(handle: int, what: Path) -> Iterator[None]:
    """Hold the lock of an open file, whose descriptor is closed at the end.

    what: is named in the warning that is given where there are no locks, as on some network file
    systems. Raises HeldError if another holds it.
    """
    try:
        try:
            take_lock(handle)
        except LocksMissingError as error:
            warnings.warn(
                f"{what} cannot be locked ({error.strerror}), so nothing keeps a second process "
                "from writing there; start one at a time",
                stacklevel=4,
            )
        yield
    finally:
        free_lock(handle)


def take_lock(handle: int) -> None:
    """Lock an open file; the lock dies with its process. Raises HeldError if another holds it,
    LocksMissingError where there are none.
    """
    try:
        _lock(handle)
    except ImportError:
        raise LocksMissingError(errno.ENOSYS, "this Python has neither fcntl nor msvcrt") from None
    except OSError as error:
        kind = HeldError if error.errno in HELD else LocksMissingError
        raise kind(error.errno, error.strerror) from None


def free_lock(handle: int) -> None:
    """Close a file, and give its lock back at once: Windows by itself takes its time."""
    if WINDOWS:
        with suppress(ImportError, OSError):  # OSError: it is not locked
            msvcrt = import_module("msvcrt")
            os.lseek(handle, LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)
    os.close(handle)


def _lock(handle: int) -> None:
    try:
        fcntl = import_module("fcntl")
    except ImportError:
        msvcrt = import_module("msvcrt")
        os.lseek(handle, LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def replace_path(source: Path, target: Path) -> None:
    """Rename a file or folder; a file of that name is replaced. Raises OSError as the disk does,
    on Windows after two seconds if a program holds one of the files open.
    """
    tries_until = time.monotonic() + PATIENCE
    wait = 0.01
    while True:
        try:
            source.replace(target)
            return
        except PermissionError as error:
            if not WINDOWS:
                raise
            if time.monotonic() > tries_until:
                why = f"{error.strerror}: perhaps another program holds it open"
                raise PermissionError(error.errno, why, str(target)) from None
        time.sleep(wait)
        wait *= 2


def sync(path: Path) -> None:
    """Bring a file or folder to the disk; a folder only where the system has a way to.

    Raises OSError as the disk does, as for a link.
    """
    folder = path.is_dir() and not path.is_symlink()
    if WINDOWS and folder:
        return  # its folders cannot be opened
    # Windows brings to the disk only what was opened for writing
    handle = os.open(path, (os.O_RDWR if WINDOWS else os.O_RDONLY) | NO_LINK)
    try:
        os.fsync(handle)
    except OSError as error:
        if not folder or error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise  # network file systems without a way to
    finally:
        os.close(handle)


def expand_home(path: str | Path) -> Path:
    """Return a path with ~ or ~USER at its beginning replaced by that home; where there is none,
    as for `~draft.csv`, the path as it is: the shell does the same.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def check_name(path: Path, windows: bool | None = None) -> None:
    """Raise ValueError for a path with a name that Windows gives to a device, cuts or takes for
    something else; other systems take all names.

    windows: whether that is the system, by default as it is.

    >>> check_name(Path("results/nul.csv"), windows=True)
    Traceback (most recent call last):
    ValueError: 'nul.csv' is no name of a file on Windows; names without <>:"|?*, no dot or space \
at the end, and not those of devices are allowed; choose another
    """
    if not (WINDOWS if windows is None else windows):
        return
    for name in path.parts[bool(path.anchor) :]:
        if name not in (".", "..") and (WRONG.search(name) or DEVICE.fullmatch(name)):
            raise ValueError(
                f'{name!r} is no name of a file on Windows; names without <>:"|?*, no dot or space '
                "at the end, and not those of devices are allowed; choose another"
            )
