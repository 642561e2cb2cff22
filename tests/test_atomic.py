"""Files are written whole or not at all, never through a link, and nothing is left behind."""

import errno
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from lowland.atomic import (
    append_bytes,
    check_writable,
    cut_file,
    remove_folder,
    remove_leftovers,
    write_aside,
    write_bytes,
)
from lowland.reading import ReadError, parse_json, parse_toml, read_bytes, read_json

WRITERS: dict[str, Callable[[Path], object]] = {
    "write_bytes": lambda path: write_bytes(path, b"new"),
    "append_bytes": lambda path: append_bytes(path, b"new"),
    "cut_file": lambda path: cut_file(path, 0),
    "check_writable": check_writable,
}


def _link(path: Path, victim: Path) -> None:
    path.symlink_to(victim)


def _dangle(path: Path, victim: Path) -> None:
    path.symlink_to(victim.with_name("absent"))


def _pipe(path: Path, victim: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path, victim: Path) -> None:
    with socket.socket(socket.AF_UNIX) as own:
        own.bind(os.path.relpath(path))


PLANTS = {"link": _link, "dangling link": _dangle, "pipe": _pipe, "socket": _socket}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("plant", PLANTS)
def test_what_is_no_regular_file_is_neither_followed_nor_replaced(
    tmp_path: Path, writer: str, plant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    victim, target = tmp_path / "victim", tmp_path / "target"
    victim.write_text("precious")
    PLANTS[plant](target, victim)
    before = os.lstat(target)
    with pytest.raises(ValueError, match=r"target is a .*; .*; remove it or choose another name"):
        WRITERS[writer](target)
    after = os.lstat(target)
    assert (before.st_mode, before.st_ino) == (after.st_mode, after.st_ino)
    assert victim.read_text() == "precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["target", "victim"]


def test_a_device_is_refused() -> None:
    for writer in WRITERS.values():
        with pytest.raises(ValueError, match="/dev/null is a device"):
            writer(Path("/dev/null"))


@pytest.mark.parametrize("name", ["", "a\0b", "/"])
def test_what_names_no_file_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="names no file; "):
        write_bytes(Path(name), b"")


def test_names_that_can_be_foretold_are_not_used(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in (".x.csv.tmp", f".x.csv.{os.getpid()}.tmp", "x.csv.tmp", ".lowland"):
        (tmp_path / name).symlink_to(victim)
    seen = []
    for _ in range(2):
        with write_aside(tmp_path / "x.csv") as aside:
            aside.write_text("rows")
            seen.append(aside)
            assert aside.name == "x.csv" and aside.parent.stat().st_mode & 0o077 == 0
    assert victim.read_text() == "precious" and seen[0].parent != seen[1].parent
    assert (tmp_path / "x.csv").read_text() == "rows"


@pytest.mark.parametrize("operation", ["fsync", "replace", "mkdir"])
def test_an_error_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_bytes(tmp_path / "file", b"old")
    with write_aside(tmp_path / "folder") as aside:
        aside.mkdir()
        (aside / "inner").write_bytes(b"old")
    monkeypatch.setattr(os, operation, full)
    with pytest.raises(OSError, match="No space"):
        write_bytes(tmp_path / "file", b"new")
    with pytest.raises(OSError, match="No space"), write_aside(tmp_path / "folder") as aside:
        aside.mkdir()
    monkeypatch.undo()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
    assert (tmp_path / "file").read_bytes() == (tmp_path / "folder/inner").read_bytes() == b"old"


def test_a_folder_goes_whole_and_a_link_to_one_does_not(tmp_path: Path) -> None:
    folder, link = tmp_path / "folder", tmp_path / "link"
    (folder / "inner").mkdir(parents=True)
    link.symlink_to(folder)
    with pytest.raises(ValueError, match="symbolic link"):
        remove_folder(link)
    assert (folder / "inner").is_dir()
    remove_folder(folder)
    assert not folder.exists()


def test_a_folder_that_was_being_replaced_at_a_kill_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(BaseException):
        pass

    def fill(text: bytes) -> None:
        with write_aside(tmp_path / "folder") as aside:
            aside.mkdir()
            (aside / "inner").write_bytes(text)

    def die(*_: object, **__: object) -> None:
        raise KilledError

    fill(b"old")
    replaced, real = [], Path.replace
    monkeypatch.setattr(
        Path,
        "replace",
        lambda path, to: die() if replaced else replaced.append(path) or real(path, to),
    )
    monkeypatch.setattr(shutil, "rmtree", die)
    with pytest.raises(KilledError):
        fill(b"new")
    monkeypatch.undo()
    assert not (tmp_path / "folder").exists()
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert (tmp_path / "folder/inner").read_bytes() == b"old"


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    "text",
    [
        DEEP,
        "[" * 70 + "]" * 70,
        '{"a": ' * 5000 + "1" + "}" * 5000,
        "",
        "{",
        '{"a": 1, "a": 2}',
        "NaN",
        "[-Infinity]",
        "1e999",
        "9" * 5000,
        str(1 << 70),
        '"\\ud800"',
        b"\xff\xfe{}",
        b"\x00\x01\x02",
    ],
)
def test_json_that_is_none_is_refused_in_words(text: str | bytes) -> None:
    with pytest.raises(ReadError, match=r"it is damaged \(.+\); it must be JSON; restore"):
        parse_json(text, "it")


def test_a_byte_order_mark_is_passed_over() -> None:
    assert parse_json(b"\xef\xbb\xbf[1]", "it") == [1]
    assert parse_toml(b"\xef\xbb\xbfa = 1\r\n", "it") == {"a": 1}


@pytest.mark.parametrize(
    "text", ["x = " + "[" * 5000 + "]" * 5000, "a = 1\na = 2", "a = nan", "a = 1979-05-27", b"\xff"]
)
def test_toml_that_is_none_is_refused_in_words(text: str | bytes) -> None:
    with pytest.raises(ReadError, match=r"it is damaged \(.+\); it must be TOML; correct it"):
        parse_toml(text, "it")


def test_only_regular_files_within_bounds_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "inner").mkdir()
    (tmp_path / "large").write_bytes(b"0" * 100)
    (tmp_path / "link").symlink_to(tmp_path / "large")
    (tmp_path / "inner" / "out").symlink_to(tmp_path / "large")
    for name in ("pipe", "inner"):
        with pytest.raises(ReadError, match="a regular file is needed"):
            read_json(tmp_path / name)
    with pytest.raises(ReadError, match="at most 10 are read"):
        read_bytes(tmp_path / "large", most=10)
    assert len(read_bytes(tmp_path / "link", within=tmp_path)) == 100
    with pytest.raises(ReadError, match="leads out of"):
        read_bytes(tmp_path / "inner" / "out", within=tmp_path / "inner")
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "absent")
