"""What surrounds a command: pipes, full and closed outputs, encodings, escape codes, the width of
the terminal, and torchrun's environment.
"""

import io
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from lowland import cli
from lowland.commands.terminal import OutputError, PipeClosedError, Terminal, make_safe
from lowland.launch import Launch, read_launch

EVIL = "\x1b]0;owned\x07\x1b[31mred\x9b2J\x00\x08\x7f\u202egnp.exe"
VERBS = sorted(cli.COMMANDS)


class Stream(io.TextIOWrapper):
    """A stream in memory with an encoding, and an error that its buffer raises."""

    def __init__(self, encoding: str = "utf-8", error: OSError | None = None) -> None:
        self.error = error
        super().__init__(io.BytesIO(), encoding=encoding, newline="")

    def flush(self) -> None:
        if self.error is not None:
            raise self.error
        super().flush()

    def fileno(self) -> int:
        raise OSError("in memory")

    @property
    def text(self) -> str:
        super().flush()
        return self.buffer.getvalue().decode(self.encoding)  # type: ignore[attr-defined]


def run(*words: str, encoding: str = "utf-8") -> tuple[int, str, str]:
    """Run a command as a process would, with streams of an encoding."""
    out, err = Stream(encoding), Stream(encoding)
    with redirect_stdout(out), redirect_stderr(err):
        try:
            cli.main(list(words))
            status = 0
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return status, out.text, err.text


def is_safe(text: str) -> bool:
    return make_safe(text) == text


def test_no_control_character_passes() -> None:
    for code in [*range(32), *range(127, 160), *range(0x2028, 0x202F), *range(0x2066, 0x206A)]:
        character = chr(code)
        assert (character in make_safe(f"a{character}b")) == (character in "\t\n\r")
    assert make_safe("gr\u00fc\u00dfe 8 \u00d7 8", "ascii") == "gr\\xfc\\xdfe 8 \\xd7 8"
    assert make_safe("\udcff") == "\\udcff"  # a byte of a file name that is no UTF-8
    assert make_safe("\x1b[1mhelp\x1b[0m\x1b]0;x", colours=True) == "\x1b[1mhelp\x1b[0m\\x1b]0;x"


@pytest.mark.parametrize(
    "words",
    [
        ("train", EVIL),
        ("train", "moons", "--set", f"data.name={EVIL}/x.npy"),
        ("train", "moons", "--set", f"{EVIL}=3"),
        ("train", "moons", f"--{EVIL}", "3"),
        ("sample", f"runs/{EVIL}"),
        ("sample", "digits", "--out", f"{EVIL}.gif"),
        ("sample", "digits", "--label", EVIL, "--out", "x.npy"),
        ("energy", "digits", f"{EVIL}.png"),
        ("detect", "digits", f"{EVIL}.png"),
        ("recipes", "show", EVIL),
        ("recipes", EVIL),
        (EVIL,),
    ],
    ids=lambda words: " ".join(words).replace(EVIL, "EVIL"),
)
def test_names_do_not_steer_the_terminal(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = tuple(word.replace("\x00", "") for word in words)
    status, out, err = run(*words)
    assert status == 2 and is_safe(out) and is_safe(err) and "owned" in out + err
    assert "Traceback" not in err


def test_file_names_in_tables_are_shown_as_they_are_not_obeyed(tmp_path: Path) -> None:
    from PIL import Image

    name = EVIL.replace("\x00", "")
    Image.new("L", (8, 8)).save(tmp_path / f"{name}.png")
    for verb in ("energy", "detect"):
        status, out, err = run(verb, "digits", str(tmp_path / f"{name}.png"))
        assert status in (0, 1) and is_safe(out) and "owned" in out and is_safe(err)


@pytest.mark.parametrize("verb", VERBS)
def test_help_in_ascii_and_in_no_width(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for columns in ("1", "0", "-5", "abc", "100000"):
        monkeypatch.setenv("COLUMNS", columns)
        status, out, err = run(*verb.split(), "--help", encoding="ascii")
        assert status == 0 and out.isascii() and "usage" in out and not err
        assert os.environ["COLUMNS"] == columns


@pytest.mark.parametrize(
    "words", [("--help",), ("doctor",), ("recipes",), ("recipes", "show", "digits"), ("x",), ()]
)
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-16"])
def test_every_encoding_will_do(words: tuple[str, ...], encoding: str) -> None:
    _, out, err = run(*words, encoding=encoding)
    assert out + err and "Traceback" not in err


# -------------------------------------------------------------------------------- pipes and disks


def test_a_reader_that_has_gone_is_no_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = Stream(error=BrokenPipeError(32, "Broken pipe")), Stream()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        cli.main(["recipes"])
    assert ended.value.code == 141 and err.text == ""


def test_a_full_standard_output_is_said() -> None:
    out, err = Stream(error=OSError(28, "No space left on device")), Stream()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        cli.main(["recipes"])
    assert ended.value.code == 2 and err.text.count(";") == 2
    assert err.text.startswith("lowland: standard output could not be written (No space left")


def test_progress_that_nobody_can_read_stops_nothing() -> None:
    for error in (BrokenPipeError(32, "x"), OSError(28, "x"), OSError(5, "x")):
        terminal = Terminal(Stream(error=error), vital=False)
        for _ in range(3):
            assert terminal.write("x") == 1
            terminal.flush()
        vital = Terminal(Stream(error=error), vital=True)
        with pytest.raises((PipeClosedError, OutputError)):
            vital.flush()
        vital.flush()  # said once
    nowhere = Terminal(None, vital=True)
    assert nowhere.write("x") == 1 and not nowhere.isatty() and nowhere.encoding == "utf-8"
    nowhere.flush()


def test_a_forgotten_stream_is_not_flushed_once_it_is_closed() -> None:
    stream = Stream()  # Python 3.14 prints what a flush raises when it forgets an object
    terminal = Terminal(stream, vital=True)
    stream.close()
    terminal.close()
    assert terminal.closed


def test_memory_and_disk_are_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def raising(problem: BaseException) -> Callable[..., None]:
        def verb() -> None:
            raise problem

        return verb

    for problem, word in (
        (MemoryError(), "memory does not suffice"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: x"), "memory does not suffice"),
        (OSError(28, "No space left on device", "x.bin"), "x.bin could not be used (No space"),
        (PermissionError(13, "Permission denied", "y"), "y could not be used (Permission"),
    ):
        monkeypatch.setitem(cli.COMMANDS, "doctor", raising(problem))
        status, out, err = run("doctor")
        assert status == 2 and not out and word in err and err.count(";") >= 2


def test_a_process_meets_pipes_and_closed_streams() -> None:
    tool = f"{sys.executable} -m lowland --help"  # quick: it loads nothing
    for shell, status in (
        (f"{tool} | true; exit ${{PIPESTATUS[0]}}", (0, 141)),
        (f"{tool} > /dev/full", (2,)),
        (f"{tool} >&- 2>&- <&-", (0,)),
        (f"PYTHONIOENCODING=ascii LC_ALL=C COLUMNS=1 {tool} < /dev/null", (0,)),
    ):
        done = subprocess.run(
            ["bash", "-c", shell], capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode in status, (shell, done)
        assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


# --------------------------------------------------------------------------------------- torchrun


@pytest.mark.parametrize(
    ("rank", "size", "expected"),
    [
        (None, None, Launch()),
        ("abc", None, Launch()),
        ("", None, Launch()),
        ("1", None, Launch()),
        (None, "4", Launch()),
        ("", "", Launch()),
        ("1", "2", Launch(1, 2)),
        ("0", "1", Launch()),
    ],
)
def test_only_torchrun_makes_a_team(
    rank: str | None, size: str | None, expected: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_launch(monkeypatch, rank, size)
    assert read_launch() == expected
    if expected.size == 1:
        status, out, _ = run("recipes")
        assert status == 0 and "moons" in out


@pytest.mark.parametrize(
    ("rank", "size"),
    [("abc", "2"), ("2", "2"), ("-1", "2"), ("0", "x"), ("1.5", "4"), ("0", "0"), ("\u0661", "2")],
)
def test_a_broken_environment_is_refused_in_words(
    rank: str, size: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_launch(monkeypatch, rank, size)
    status, out, err = run("recipes")
    assert status == 2 and not out and err.startswith("lowland: RANK is") and err.count(";") == 2


def set_launch(monkeypatch: pytest.MonkeyPatch, rank: str | None, size: str | None) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    for name, value in (("RANK", rank), ("WORLD_SIZE", size)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
