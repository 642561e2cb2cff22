"""A kill, or a full disk, at every file operation: what is gone on with equals what was not broken.

Operations are intercepted, not timed: the k-th raises, and after a kill every later one does, as a
process that is dead does nothing any more, clean-up included. Quick tests take some of the
operations, slow ones all.
"""

import errno
import io
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from lowland import commands, load, read_recipe, train_recipe
from lowland.training import loop
from lowland.training.health import Finding

OPERATIONS = ("open", "replace", "fsync", "mkdir", "rmdir", "unlink", "ftruncate")
FREEING = ("rmdir", "unlink")  # which a full disk allows
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
TINY = {
    "training.steps": 20,
    "training.checkpoint_every": 5,
    "training.log_every": 5,
    "training.keep_checkpoints": 1,
    "training.batch": 4,
    "training.preflight": "off",
    "energy.hidden": [2],
    "objective.buffer_size": 8,
    "objective.steps": 1,
    "generation.steps": 1,
    "evaluation.samples": 16,
    "data.count": 100,
}


class KilledError(BaseException):
    """The process is dead."""


class Disk:
    """Counts operations that change files; breaks at the k-th, counted from 1; 0 for never."""

    def __init__(self, broken: int, full: bool) -> None:
        self.broken, self.full, self.count, self.down = broken, full, 0, False

    def work(self, name: str) -> None:
        self.count += 1
        self.down = self.down or self.count == self.broken
        if self.down and self.full and name not in FREEING:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self.down and not self.full:
            raise KilledError


@contextmanager
def broken_disk(at: int, *, full: bool = False) -> Iterator[Disk]:
    """Let the `at`-th operation fail: of a process that dies, or of a disk that is full."""
    disk = Disk(at, full)
    with pytest.MonkeyPatch.context() as patch:
        for name in OPERATIONS:
            patch.setattr(os, name, _intercept(disk, name, getattr(os, name)))
        patch.setattr(Path, "write_bytes", _tear(disk, io.open))
        patch.setattr(io, "open", _intercept_open(disk, io.open))
        patch.setattr(os, "fdopen", _intercept_append(disk, os.fdopen))
        yield disk


def _intercept(disk: Disk, name: str, whole: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        if name != "open" or (len(arguments) > 1 and arguments[1] & WRITING):
            disk.work(name)
        return whole(*arguments, **options)

    return call


def _intercept_open(disk: Disk, whole: Callable[..., Any]) -> Callable[..., Any]:
    def call(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if not isinstance(file, int) and set(mode) & set("wax+"):
            disk.work("open")
        return whole(file, mode, *arguments, **options)

    return call


def _tear(disk: Disk, whole: Callable[..., Any]) -> Callable[[Path, bytes], int]:
    """Return a `Path.write_bytes` that leaves half a file where it breaks."""

    def write(path: Path, data: bytes) -> int:
        with whole(path, "wb") as file:
            file.write(data[: len(data) // 2])
            file.flush()
            disk.work("write")
            return int(file.write(data[len(data) // 2 :]))

    return write


def _intercept_append(disk: Disk, whole: Callable[..., Any]) -> Callable[..., Any]:
    """Return an `os.fdopen` whose appended lines break in the middle."""

    def call(handle: int, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        file = whole(handle, mode, *arguments, **options)
        if mode != "ab":
            return file

        class Torn:
            def __enter__(self) -> "Torn":
                return self

            def __exit__(self, *_: object) -> None:
                file.close()

            def write(self, data: bytes) -> int:
                done = int(file.write(data[: len(data) // 2]))
                disk.work("write")
                return done + int(file.write(data[len(data) // 2 :]))

        return Torn()

    return call


def everywhere(act: Callable[[], object], reset: Callable[[], object], some: int) -> list[int]:
    """List the operations of an act; `some` of them spread evenly, all for 0."""
    reset()
    with broken_disk(0) as disk:
        act()
    count = disk.count
    assert count > 10, "the operations were not intercepted"
    return list(range(1, count + 1, max(1, count // some if some else 1)))


def content(run: Path) -> dict[str, bytes]:
    """Return the files of a run but for clocks, lock, and what a dead process could not remove."""
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in run.rglob("*")
        if path.is_file()
        and path.name not in ("time.jsonl", ".lock")
        and ".lowland-" not in str(path)
    }


@pytest.fixture
def _trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let health find trouble at step 15 once, so that a rollback is among the operations."""

    def diagnose(rows: list[Any]) -> list[Finding]:
        if not rows or rows[-1]["step"] != 15 or any(row.get("stale") for row in rows):
            return []
        return [Finding("planted", "bad", "it was planted.", "none.", "rate")]

    monkeypatch.setattr(loop, "diagnose", diagnose)


SOME = [pytest.param(4, id="some"), pytest.param(0, id="all", marks=pytest.mark.slow)]


@pytest.mark.parametrize("full", [False, True], ids=["killed", "full"])
@pytest.mark.parametrize("some", SOME)
def test_a_training_broken_at_any_file_operation_goes_on_to_the_same_bits(
    tmp_path: Path, some: int, full: bool, _trouble: None
) -> None:
    values, path = read_recipe("moons", TINY), tmp_path / "run"

    def reset() -> None:
        shutil.rmtree(path, ignore_errors=True)

    def train() -> None:
        train_recipe(values, path, progress=False)

    places = everywhere(train, reset, some)
    whole = content(path)
    assert any(b'"rollback"' in data for data in whole.values())
    for at in places:
        reset()
        break_at(at, full, train)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            train()
        found = content(path)
        assert found.keys() == whole.keys(), (at, set(found) ^ set(whole))
        assert found == whole, (at, [name for name in whole if found[name] != whole[name]])


def break_at(at: int, full: bool, act: Callable[[], object]) -> None:
    """Run an act that breaks; a full disk is said in three clauses."""
    with broken_disk(at, full=full), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with suppress(KilledError):
            try:
                act()
            except ValueError as error:
                assert full and str(error).count(";") >= 2, error
                assert "No space left" in str(error), error


@pytest.mark.slow
@pytest.mark.parametrize("full", [False, True], ids=["killed", "full"])
@pytest.mark.parametrize("some", [pytest.param(6, id="some"), SOME[1]])
def test_an_evaluation_broken_at_any_file_operation_is_made_again(
    tmp_path: Path, some: int, full: bool
) -> None:
    path, before = tmp_path / "run", tmp_path / "before"
    train_recipe(read_recipe("moons", TINY), before, progress=False)

    def reset() -> None:
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(before, path)

    def measure() -> None:
        commands.evaluate(path, quiet=True)
        commands.report(path)

    places = everywhere(measure, reset, some)
    whole = figures(path)
    for at in places:
        reset()
        break_at(at, full, measure)
        load(path)
        measure()
        assert figures(path) == whole, at


def figures(path: Path) -> dict[str, object]:
    found: dict[str, object] = dict(content(path))
    values = json.loads((path / "evaluation.json").read_text())
    return {
        **found,
        "evaluation.json": {**values, "seconds": 0},
        "report.html": "report.html" in found,
    }


@pytest.mark.parametrize("full", [False, True], ids=["killed", "full"])
@pytest.mark.parametrize("some", SOME)
@pytest.mark.parametrize("name", ["x.npz", pytest.param("x.npy", marks=pytest.mark.slow)])
def test_a_job_broken_at_any_file_operation_gives_the_same_file(
    tmp_path: Path, some: int, full: bool, name: str
) -> None:
    train_recipe(read_recipe("moons", TINY), tmp_path / "run", progress=False)
    out = tmp_path / "out" / name

    def reset() -> None:
        shutil.rmtree(out.parent, ignore_errors=True)
        out.parent.mkdir()

    def sample() -> None:
        commands.sample(tmp_path / "run", count=600, out=out, quiet=True)

    places = everywhere(sample, reset, some)
    whole = out.read_bytes()
    for at in places:
        reset()
        break_at(at, full, sample)
        if out.exists():
            assert out.read_bytes() == whole, at
            out.unlink()
        sample()
        assert out.read_bytes() == whole, at
        left = [p.name for p in out.parent.iterdir() if ".lowland-" not in p.name]
        assert left == [name], (at, left)
