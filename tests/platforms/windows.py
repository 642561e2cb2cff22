"""Use lowland in a Python that lacks what Windows lacks, and refuses what Windows refuses.

Started by `tests/test_platforms.py` in a process of its own, in an empty folder, without HOME, in
an ASCII locale, without any extra, once more without `assert` and docstrings (`python -OO`). What
is simulated: modules and names of Unix that are not there; `msvcrt.locking`; folders that cannot be
opened; `fsync` of what was opened for reading; files that cannot be renamed, replaced or removed,
and folders that cannot be renamed, while something in them is open; signal 0, which is Ctrl-C.
Not simulated: backslashes, drive letters, names without case.
"""

import builtins
import errno
import fcntl
import importlib
import io
import os
import pkgutil
import shutil
import signal
import sys
import types
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

GONE = ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty")
EXTRAS = (
    *("pyarrow", "zuko", "arviz_base", "arviz_stats", "xarray", "tensorboard", "pytorch_ood"),
    *("pyod", "deepinv", "pyautoattack", "torchvision", "pandas", "psutil", "pytest"),
)
NAMES = (
    *("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_DIRECTORY", "O_SYNC", "getuid", "geteuid"),
    *("getgid", "getegid", "getgroups", "fchmod", "fchown", "chown", "fork", "forkpty", "mkfifo"),
    *("sched_getaffinity", "sysconf", "getloadavg", "uname", "killpg", "getpgid", "setsid"),
    *("wait3", "nice", "pread", "pwrite", "fdatasync", "WNOHANG"),
)
SIGNALS = ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGQUIT", "SIGPIPE", "SIGKILL", "alarm")
LIBRARIES = ("tyro", "sklearn.datasets", "matplotlib.figure", "jinja2", "tqdm", "torch.distributed")
flock, get_flags = fcntl.flock, fcntl.fcntl


class Blocker:
    """A finder of modules without those of Unix, and without those that are optional."""

    def __init__(self, finder: Any) -> None:
        self.finder = finder

    def find_spec(self, name: str, *more: Any) -> Any:
        """Return None for modules that are not there."""
        missing = name.partition(".")[0] in (*GONE, *EXTRAS)
        return None if missing else self.finder.find_spec(name, *more)


def require(held: bool, message: str) -> None:
    """Raise AssertionError unless something held; `assert` means nothing under -OO."""
    if not held:
        raise AssertionError(message)


def open_paths() -> list[Path]:
    """Return the files that this process has open."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            found.append(link.readlink())
        except OSError:
            continue
    return found


def refuse_open(path: str | Path) -> None:
    """Raise PermissionError if a file, or anything below a folder, is open."""
    real = Path(os.path.realpath(path))
    for one in open_paths():
        if one == real or real in one.parents:
            raise PermissionError(errno.EACCES, "The process cannot access the file", str(path))


def guard(call: Callable[..., Any], count: int) -> Callable[..., Any]:
    """Return a function of `os` that refuses its first `count` paths while they are open."""

    def guarded(*paths: Any, dir_fd: int | None = None, **more: Any) -> Any:
        if dir_fd is None:
            for path in paths[:count]:
                refuse_open(path)
        return call(*paths, dir_fd=dir_fd, **more) if dir_fd is not None else call(*paths, **more)

    return guarded


def lock_byte(handle: int, mode: int, count: int) -> None:
    """Lock or free a byte as `msvcrt.locking` does, which refuses by EACCES."""
    require(count == 1 and os.lseek(handle, 0, os.SEEK_CUR) > 1 << 20, "a byte that is read")
    if mode == 0:
        flock(handle, fcntl.LOCK_UN)
        return
    try:
        flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise PermissionError(errno.EACCES, "Permission denied") from None


def open_descriptor(path: Any, flags: int, mode: int = 0o777, **more: Any) -> int:
    """Open a file, and no folder."""
    if more.get("dir_fd") is None and Path(path).is_dir():
        raise PermissionError(errno.EACCES, "Permission denied", str(path))
    return real_open(path, flags, mode, **more)


def sync_descriptor(handle: int) -> None:
    """Bring a file to the disk that was opened for writing."""
    if get_flags(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, "Bad file descriptor")


def open_file(path: Any, *rest: Any, **more: Any) -> Any:
    """Open a file, none of the kernel's."""
    if str(path).startswith(("/proc", "/sys/", "/dev/shm")):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
    return real_io_open(path, *rest, **more)


def refuse_signal(process: int, number: int) -> None:
    """Refuse what would stop another program on Windows."""
    raise AssertionError(f"os.kill({process}, {number}) ends a process on Windows")


real_open, real_io_open = os.open, io.open


def become_windows() -> None:
    """Take away what Windows lacks."""
    os.open, os.fsync, os.kill = open_descriptor, sync_descriptor, refuse_signal
    builtins.open = io.open = open_file
    for name, count in (("replace", 2), ("rename", 2), ("unlink", 1), ("remove", 1), ("rmdir", 1)):
        setattr(os, name, guard(getattr(os, name), count))
    shutil._use_fd_functions = False
    for name in NAMES:
        vars(os).pop(name, None)
    for name in SIGNALS:
        vars(signal).pop(name, None)
    for name in GONE:
        sys.modules.pop(name, None)
    sys.meta_path[:] = map(Blocker, sys.meta_path)
    msvcrt = types.ModuleType("msvcrt")
    vars(msvcrt).update(locking=lock_byte, LK_NBLCK=2, LK_UNLCK=0)
    sys.modules["msvcrt"] = msvcrt


def import_everything() -> None:
    """Import every module of lowland whose libraries are here."""
    import lowland

    for found in pkgutil.walk_packages(lowland.__path__, "lowland."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)


def lock_twice(run: Path) -> None:
    """A second lock is refused in words, and the first is free at once when it ends."""
    from lowland.run import Run, RunError

    with Run(run).lock():
        try:
            with Run(run).lock():
                raise AssertionError("a run was locked twice")
        except RunError as error:
            require("another process" in str(error), str(error))
        shutil.copytree(run, run.with_name("copy"))  # a locked file can be read
    with Run(run).lock():
        pass


def use_commands() -> None:
    """Train, resume, sample, score, report."""
    from lowland.cli import main

    small = "--set training.steps=20 --set training.checkpoint_every=10 --no-evaluate"
    main(f"train moons --run run {small}".split())
    lock_twice(Path("run"))
    recipe = Path("run/recipe.json")
    text = recipe.read_text("utf-8").replace('"steps": 20', '"steps": 30')
    recipe.write_text(text, "utf-8", newline="\r\n")  # as an editor of Windows does
    main(["resume", "run", "--no-evaluate"])
    main(["sample", "run", "--count", "300", "--out", "drawn.npz", "--quiet"])
    main(["sample", "run", "--count", "300", "--out", "drawn.npz", "--quiet", "--force"])
    main(["energy", "run", "drawn.npz", "--out", "energies.csv"])
    main(["doctor"])
    said = io.StringIO()
    with suppress(SystemExit), redirect_stdout(said):
        main(["train", "--help"])
    require("Train a recipe" in said.getvalue() and "No progress" in said.getvalue(), "no help")
    left = sorted(path.name for path in Path().iterdir())
    require(left == ["copy", "drawn.npz", "energies.csv", "run"], str(left))
    private = [path for path in Path("run").iterdir() if path.name.startswith(".lowland")]
    require(not private, str(private))
    require(b"\r" not in Path("energies.csv").read_bytes(), "lines end as on Windows")


def prove_samplers() -> None:
    """The test bench has teeth without `assert`."""
    from lowland.testing import MUTANTS

    names = ("gradients as declared", "repeats", "refuses holes, nan")
    for mutant in (one for one in MUTANTS if one.seen_by in names):
        require(mutant.is_fair() and mutant.is_caught(), mutant.bug)


def refuse_names() -> None:
    """Names that Windows gives to devices are refused, links are not followed."""
    from lowland.atomic import append_bytes, write_bytes

    for name in ("nul", "COM1.csv", "a:b", "end.", "what?.npz"):
        try:
            write_bytes(Path(name), b"")
            raise AssertionError(f"{name} was written")
        except ValueError as error:
            require("choose another" in str(error), str(error))
    Path("victim").write_bytes(b"precious")
    Path("link").symlink_to("victim")
    try:
        append_bytes(Path("link"), b"more")
        raise AssertionError("a link was followed")
    except ValueError as error:
        require("symbolic link" in str(error), str(error))
    with Path("held").open("wb"):
        try:
            write_bytes(Path("held"), b"new")
            raise AssertionError("an open file was replaced")
        except PermissionError as error:
            require("another program" in str(error), str(error))


if __name__ == "__main__":
    warnings.filterwarnings("error", category=EncodingWarning, module="lowland")
    for library in LIBRARIES:
        importlib.import_module(library)
    become_windows()
    systems = importlib.import_module("lowland.systems")
    vars(systems).update(WINDOWS=True, PATIENCE=0.05)
    import_everything()
    use_commands()
    refuse_names()
    prove_samplers()
    print("it works on Windows")
