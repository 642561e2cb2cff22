"""Windows, macOS and odd environments: simulated on Linux, and read from the source."""

import ast
import errno
import fcntl
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import lowland
from lowland import memory, systems
from lowland.atomic import hold_file, remove_leftovers, write_aside
from lowland.data import DataError, cache_root, data_roots
from lowland.data import fetch as fetching
from lowland.run import Run
from lowland.systems import HeldError, check_name, expand_home, replace_path

ROOT = Path(lowland.__file__).parent
HERE = Path(__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
UNIX = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "posix", "readline", "msvcrt"}
NAMES = {  # of os and signal, absent or dangerous on Windows
    *("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_DIRECTORY", "getuid", "geteuid", "fchmod"),
    *("fork", "mkfifo", "sched_getaffinity", "getloadavg", "uname", "killpg", "kill", "chown"),
    *("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGKILL", "SIGPIPE", "alarm", "statvfs"),
}


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Return the environment of a user without a home, in an ASCII locale."""
    kept = {
        key: os.environ[key]
        for key in ("PATH", "PYTHONPATH", "OMP_NUM_THREADS", "TMPDIR")
        if key in os.environ
    }
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    return kept | plain | {"PYTHONPATH": str(ROOT.parent), "MPLCONFIGDIR": str(folder)} | more


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it reads /proc")
@pytest.mark.parametrize("options", [[], pytest.param(["-OO"], marks=pytest.mark.slow)], ids=str)
def test_commands_work_in_a_python_that_lacks_what_windows_lacks(
    options: list[str], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    script = HERE / "platforms" / "windows.py"
    done = subprocess.run(
        [sys.executable, *options, "-X", "warn_default_encoding", str(script)],
        cwd=tmp_path,
        env=environment(tmp_path_factory.mktemp("matplotlib"), PYTHONIOENCODING="cp1252"),
        capture_output=True,
    )
    said = done.stdout.decode("cp1252") + done.stderr.decode("cp1252")
    assert done.returncode == 0 and "it works on Windows" in said, said


# ----------------------------------------------------------------------------- read from the source


def find_unix(node: ast.AST) -> set[str]:
    """Return the names in a statement or expression that only Unix has."""
    if isinstance(node, ast.Import):
        return {alias.name.partition(".")[0] for alias in node.names} & UNIX
    if isinstance(node, ast.ImportFrom):
        return {(node.module or "").partition(".")[0]} & UNIX
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return {node.attr} & NAMES if node.value.id in ("os", "signal") else set()
    return set()


def test_no_name_that_only_unix_has_is_taken_for_granted() -> None:
    """`systems` and `memory` ask for them by name, so that a missing one is no error."""
    found = {
        f"{file.relative_to(ROOT)}:{node.lineno} {name}"  # type: ignore[attr-defined]
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        for name in find_unix(node)
    }
    assert not found
    assert find_unix(ast.parse("import fcntl").body[0]) == {"fcntl"}  # the test sees something
    assert find_unix(ast.parse("os.kill", mode="eval").body) == {"kill"}


def narrows_a_type(test: ast.expr) -> bool:
    """Tell whether a condition says no more than what type a value has."""
    if isinstance(test, ast.BoolOp):
        return all(map(narrows_a_type, test.values))
    called = isinstance(test, ast.Call) and ast.unparse(test.func) == "isinstance"
    return called or (isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.IsNot))


def test_nothing_but_types_is_asserted() -> None:
    """`python -O` leaves `assert` out: what it means must be said by an error."""
    found = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Assert) and not narrows_a_type(node.test)
    ]
    assert not found
    assert not narrows_a_type(ast.parse("x > 0", mode="eval").body)


def test_no_text_file_is_opened_in_the_encoding_of_the_locale() -> None:
    rule = ["--isolated", "--preview", "--select", "PLW1514", "--no-cache"]
    places = [str(ROOT.parent / name) for name in ("lowland", "benchmarks", "tests", "docs")]
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", *rule, *places], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


# ----------------------------------------------------------------------------------------- locks


def test_a_lock_is_held_once_and_goes_with_its_file(tmp_path: Path) -> None:
    lock = tmp_path / ".x.lock"
    held = hold_file(lock, tmp_path, remove=True)
    with held, pytest.raises(HeldError), hold_file(lock, tmp_path):
        pass
    assert not lock.exists()
    with hold_file(lock, tmp_path), pytest.raises(HeldError), hold_file(lock, tmp_path):
        pass
    assert lock.exists()


def test_a_file_system_without_locks_is_named_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    run = Run.create(tmp_path / "run", {"training": {}})
    words = r"run cannot be locked \(No locks.*one at a time"
    with pytest.warns(UserWarning, match=words), run.lock():
        run.write_json("x.json", 1)
    with write_aside(tmp_path / "file") as aside:
        remove_leftovers(tmp_path)  # who cannot be asked may still write
        aside.write_bytes(b"1")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "run"]


def test_what_another_machine_writes_is_left_alone(tmp_path: Path) -> None:
    """Its process number says nothing here, or is that of somebody else."""
    with write_aside(tmp_path / "file") as aside:
        private = aside.parent
        other = private.with_name(re.sub(r"-\d+-", "-999999999-", private.name))
        private.rename(other)
        remove_leftovers(tmp_path)
        assert other.exists()
        other.rename(private)
        aside.write_bytes(b"1")
    young, old = (tmp_path / f".lowland-1-{n:016x}" for n in range(2))  # killed before they locked
    young.mkdir()
    old.mkdir()
    os.utime(old, (0, 0))
    remove_leftovers(tmp_path)
    assert young.exists() and not old.exists()


# ----------------------------------------------------------------------------- files of Windows


def test_a_rename_waits_for_a_program_that_holds_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"new")
    refused = [PermissionError(errno.EACCES, "held", "b")] * 3
    real = Path.replace

    def replace(source: Path, target: Path) -> Path:
        if refused:
            raise refused.pop()
        return real(source, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(PermissionError):  # elsewhere it means what it says
        replace_path(tmp_path / "a", tmp_path / "b")
    monkeypatch.setattr(systems, "WINDOWS", True)
    replace_path(tmp_path / "a", tmp_path / "b")
    assert not refused and (tmp_path / "b").read_bytes() == b"new"


@pytest.mark.parametrize(
    "name", ["nul", "CON.txt", "com1", "LPT¹.csv", "a:b", "x.", "x ", "a?", "a\tb"]
)
def test_names_of_devices_are_refused_on_windows_alone(name: str) -> None:
    for path in (Path(name), Path("runs", name, "recipe.json"), Path("/x", name)):
        check_name(path, windows=False)
        with pytest.raises(
            ValueError, match=r"is no name of a file on Windows; .*; choose another"
        ):
            check_name(path, windows=True)


@pytest.mark.parametrize("name", ["console.txt", "com", "com10", "a.nul", "..", ".", "x.y z", "ü"])
def test_other_names_are_taken(name: str) -> None:
    check_name(Path("runs") / name, windows=True)


def test_windows_is_asked_for_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    class Kernel:
        class GetCurrentProcess:
            restype: object = None

            def __new__(cls) -> Any:
                return -1

        def GlobalMemoryStatusEx(self, found: Any) -> int:
            assert found._obj.length == 64
            found._obj.total, found._obj.free = 16 << 30, 3 << 30
            return 1

        def K32GetProcessMemoryInfo(self, process: Any, found: Any, length: int) -> int:
            assert length == 72 and process.value == 2**64 - 1
            found._obj.peak = 5 << 30
            return 1

    monkeypatch.setattr(memory, "_load_kernel", Kernel)
    monkeypatch.setattr(memory, "CGROUP", Path("/absent"))
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.delattr(os, "sysconf")
    assert memory.peak_bytes() == 5 << 30 and memory.memory_bound() == 16 << 30
    monkeypatch.setattr(Path, "read_text", lambda *_: "")
    assert memory.available_bytes() == 3 << 30


# ------------------------------------------------------------------------------------ no home


def test_a_user_without_a_home_is_told_where_downloads_could_go(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("LOWLAND_DATA", str(tmp_path))
    monkeypatch.setattr(Path, "home", homeless)
    assert data_roots() == [tmp_path]
    with pytest.raises(
        DataError, match=r"no home; .*; set XDG_CACHE_HOME, or name .* LOWLAND_DATA"
    ):
        cache_root()
    with pytest.raises(DataError, match="no home"):
        lowland.load_data("mnist")


def test_a_name_that_begins_with_a_tilde_is_a_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As those of drafts of office programs: no user is called so."""
    monkeypatch.chdir(tmp_path)
    assert expand_home("~$draft.csv") == Path("~$draft.csv")
    rows = "\n".join(f"{a},{a * a % 7}" for a in range(60))
    Path("~$draft.csv").write_text(f"a,b\n{rows}\n", encoding="utf-8")
    assert len(lowland.load_data("~$draft.csv").train.x)


# ------------------------------------------------------------ folders that cannot be written to


def test_a_cache_that_cannot_be_written_to_is_said_before_the_download(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(fetching, "_download", lambda *_: pytest.fail("it was downloaded"))
    words = r"mnist could not be written to \(Not a directory\); .*; set XDG_CACHE_HOME .*DATA\)"
    with pytest.raises(DataError, match=words):
        lowland.load_data("mnist", root=tmp_path)


def test_a_run_where_nothing_can_be_written_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    words = r"run could not be written \(Not a directory\); .*; choose another --run"
    with pytest.raises(ValueError, match=words):
        lowland.train_recipe(
            lowland.read_recipe("moons"), tmp_path / "file" / "run", progress=False
        )


# ------------------------------------------------------------------ other processes, other texts


def test_what_is_handed_to_other_processes_survives_the_way() -> None:
    """macOS and Windows start processes anew: whatever they get is pickled."""
    recipe = lowland.read_recipe("digits", {"training.steps": 7})
    again = pickle.loads(pickle.dumps(recipe))
    assert again.plain() == recipe.plain() and type(again) is type(recipe)
    energy = lowland.mixture(lowland.nets.MLP(lowland.real(2)), lowland.targets.Gaussian())
    x = torch.ones(3, 2)
    assert torch.equal(pickle.loads(pickle.dumps(energy))(x), energy(x))
    data = lowland.load_data("moons", count=50)
    assert torch.equal(pickle.loads(pickle.dumps(data)).train.x, data.train.x)
    for thing in (lowland.MALA(0.1), lowland.box(0, 1, 3), lowland.objectives.PCD()):
        assert repr(pickle.loads(pickle.dumps(thing))) == repr(thing)


def test_results_can_be_printed_into_a_file_of_windows() -> None:
    """Standard output of a script is cp1252 there once it is no terminal."""
    g, law = torch.Generator().manual_seed(0), lowland.targets.Gaussian()
    found = lowland.log_z(law, generator=g, exact=False, chains=20, num_temperatures=10)
    trace = lowland.sample(law, lowland.MALA(0.5), torch.zeros(4, 2), 20, generator=g, thin=1)
    likely = lowland.log_likelihood(law, trace.x, found)
    for result in (found, likely, trace, lowland.ess(trace), lowland.load_data("moons")):
        str(result).encode("cp1252")
