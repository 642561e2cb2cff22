"""The command line: quick help, one message for a mistake, nothing imported that is not needed."""

import logging
import re
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Callable
from inspect import Parameter, signature
from pathlib import Path

import pytest
import torch
from tqdm.auto import tqdm

from lowland import __version__, cli, read_recipe
from lowland.commands import runs
from lowland.config import recipe_names
from lowland.devices import pick_device

ROOT = Path(__file__).parents[1]
VERBS = list(cli.COMMANDS)
HEAVY = (
    "torch",
    "pydantic",
    "matplotlib",
    "sklearn",
    "scipy",
    "numpy",
    "jinja2",
    "starlette",
    "uvicorn",
)

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `lowland ...` in this process: exit status, standard output, standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        status = 0
        try:
            cli.main(list(arguments))
        except SystemExit as stopped:
            status = stopped.code if isinstance(stopped.code, int) else 0
        found = capsys.readouterr()
        return status, found.out, found.err

    return run


def in_a_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lowland", *arguments], capture_output=True, text=True, timeout=600
    )


# --------------------------------------------------------------------------------------------- help


def test_the_six_verbs_and_their_helpers_are_there() -> None:
    assert {"train", "sample", "energy", "restore", "evaluate", "report"} <= set(VERBS)
    assert {"resume", "recipes", "doctor"} <= set(VERBS)


def test_help_names_every_verb(command: Command) -> None:
    status, out, _ = command("--help")
    assert status == 0
    assert all(verb in out for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_and_each_argument(verb: str, command: Command) -> None:
    status, out, _ = command(*verb.split(), "--help")
    assert status == 0
    function = cli.COMMANDS[verb]
    words = out.replace("│", " ").split()
    about, _, arguments = (function.__doc__ or "").partition("Args:")
    assert all(word in words for word in about.split()[:4])
    for name, parameter in signature(function).parameters.items():
        assert f" {name}: " in arguments
        option = f"--{name.replace('_', '-')}" in out
        assert option == (parameter.kind is not Parameter.POSITIONAL_ONLY)


def test_help_in_a_process() -> None:
    for arguments in (("--help",), ("train", "--help")):
        done = in_a_process(*arguments)
        assert done.returncode == 0 and "usage: lowland" in done.stdout and not done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    """What makes help quick on any machine."""
    code = f"""
import sys
from lowland.cli import main
try:
    main({arguments!r})
except SystemExit:
    pass
print(sorted({{name.partition(".")[0] for name in sys.modules}} & set({HEAVY!r})), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.stderr.strip() == "[]"


def test_version(command: Command) -> None:
    assert command("--version") == (0, f"lowland {__version__}\n", "")


# ----------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "mons"],
        ["train", "moons", "--set", "training.stps=3"],
        ["train", "moons", "--set", "training.steps"],
        ["train", "moons", "--set", "energy.name=MPL", "--set", "sampler.name=MLA"],
        ["resume", "NOWHERE"],
        ["sample", "NOWHERE"],
        ["sample", "NOWHERE", "--out", "x.gif"],
        ["energy", "NOWHERE", "x.png"],
        ["restore", "NOWHERE", "x.png"],
        ["evaluate", "NOWHERE"],
        ["report", "NOWHERE"],
        ["recipes", "show"],
        ["recipes", "show", "mons"],
    ],
    ids=" ".join,
)
def test_a_mistake_is_one_message_and_status_2(
    arguments: list[str], command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = command(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("lowland: ") and err.count("lowland: ") == 1 and "Traceback" not in err
    assert len(err) > 40 and not list(tmp_path.iterdir())  # and nothing was begun


@pytest.mark.parametrize(
    "arguments",
    [[], ["trian"], ["train"], ["train", "moons", "--stps", "3"], ["energy", "RUN"]],
    ids=" ".join,
)
def test_what_cannot_be_parsed_is_status_2_too(arguments: list[str], command: Command) -> None:
    status, out, err = command(*arguments)
    assert status == 2 and "Traceback" not in out + err and (out + err).strip()


def test_a_mistake_in_a_process_shows_no_traceback() -> None:
    done = in_a_process("train", "mons")
    assert done.returncode == 2 and not done.stdout
    assert (
        done.stderr.startswith("lowland: there is no recipe 'mons'")
        and "Traceback" not in done.stderr
    )


def test_a_stopped_training_and_ctrl_c_have_their_own_status(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lowland.training import TrainingStoppedError

    def raising(problem: BaseException) -> Callable[..., None]:
        def verb(run: str, /) -> None:
            raise problem

        return verb

    monkeypatch.setitem(
        cli.COMMANDS,
        "report",
        raising(TrainingStoppedError("training stopped at step 3: the gap is dead")),
    )
    assert command("report", "RUN") == (
        3,
        "",
        "lowland: training stopped at step 3: the gap is dead\n",
    )
    for name, advice in (("report", False), ("resume", True)):
        monkeypatch.setitem(cli.COMMANDS, name, raising(KeyboardInterrupt()))
        status, out, err = command(name, "RUN")
        assert (status, out) == (130, "") and err.startswith("\nlowland: stopped")
        assert ("`lowland resume RUN`" in err) == advice
    for mistake_of_ours in (
        RuntimeError("a bug"),
        TypeError("a bug"),
    ):  # these keep their traceback
        monkeypatch.setitem(cli.COMMANDS, "report", raising(mistake_of_ours))
        with pytest.raises(type(mistake_of_ours), match="a bug"):
            command("report", "RUN")


def test_a_run_in_use_directory_name_is_never_reused(tmp_path: Path) -> None:
    for i, name in enumerate(("moons", "moons-2", "moons-3")):
        free = runs._choose_free(tmp_path / "moons")
        assert free.name == name, i
        free.mkdir()
        (free / "recipe.json").write_text("{}")


# ------------------------------------------------------------------------------------------ recipes


def test_recipes_are_listed_with_what_they_are(command: Command) -> None:
    status, out, _ = command("recipes")
    lines = out.strip().splitlines()
    assert status == 0
    assert [line.split()[0] for line in lines] == sorted(recipe_names())
    assert all(about in out for about in recipe_names().values())
    assert command("recipes", "list") == (0, out, "")


@pytest.mark.parametrize("name", sorted(recipe_names()))
def test_a_shown_recipe_is_a_recipe(name: str, command: Command, tmp_path: Path) -> None:
    status, out, _ = command("recipes", "show", name)
    path = tmp_path / "copy.toml"
    path.write_text(out, encoding="utf-8")
    assert status == 0 and read_recipe(path).plain() == read_recipe(name).plain()


# ------------------------------------------------------------------------------------------- doctor


def test_doctor_says_what_is_here_and_what_is_missing(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOWLAND_DATA", raising=False)
    from importlib.util import find_spec

    from lowland.data import list_datasets

    status, out, _ = command("doctor")
    assert status == 0
    for word in ("python", "torch", "numpy", "lowland", "cpu", "cuda", "LOWLAND_DATA"):
        assert word in out
    assert all(f"  {name} " in out for name in list_datasets())
    if find_spec("pyarrow") is None:
        assert "missing" in out and "pip install 'lowland[parquet]'" in out


def test_doctor_finds_data_in_a_root(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mnist").mkdir()
    _, out, _ = command("doctor", "--data-root", str(tmp_path))
    assert f"incomplete in {tmp_path / 'mnist'}: it lacks train-images" in out
    for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (tmp_path / "mnist" / f"{part}-ubyte.gz").write_bytes(b"x")
    _, out, _ = command("doctor", "--data-root", str(tmp_path))
    assert f"found in {tmp_path / 'mnist'}" in out and str(tmp_path) in out
    monkeypatch.setenv("LOWLAND_DATA", str(tmp_path))
    assert f"found in {tmp_path / 'mnist'}" in command("doctor")[1]


def test_doctor_lists_every_library_of_every_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """From pyproject.toml or from what is installed, whichever there is; and says if neither is."""
    from lowland import doctor
    from lowland.extras import EXTRAS

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = project["optional-dependencies"]
    extras = doctor.list_extras()
    assert {extra: len(found) for extra, found in extras.items()} == {
        extra: len(libraries) for extra, libraries in named.items()
    }
    assert all(one.library in extras[one.extra] for one in EXTRAS.values())
    marked = [f'{one}; extra == "{extra}"' for extra in named for one in named[extra]]
    monkeypatch.setattr(doctor, "__file__", "/nowhere/lowland/doctor.py")
    monkeypatch.setattr(doctor, "requires", lambda name: ["torch>=2.6", *marked])
    assert doctor.list_extras() == extras

    def find(library: str) -> str:
        if library == "zuko":
            return "9.9"
        raise doctor.PackageNotFoundError

    monkeypatch.setattr(doctor, "version", find)
    text = doctor.examine().partition("\nExtras\n")[2]
    assert "zuko             9.9 installed, >=1.3 wanted" in text
    assert "pyarrow          missing: pip install 'lowland[parquet]'; Parquet files" in text
    monkeypatch.setattr(doctor, "requires", find)
    assert "lowland is not installed as a package" in doctor.examine()


def test_a_line_does_not_end_up_in_a_progress_bar(capsys: pytest.CaptureFixture[str]) -> None:
    """The precision is chosen, and warnings come, while a bar is shown."""
    logger = logging.getLogger("lowland")
    with cli.log_as_lines("lowland"), cli.warnings_as_lines("lowland"):
        logger.info("before any bar")
        with tqdm(total=2, desc="cpu") as bar:
            logger.info("precision float32")
            warnings.warn("of something", stacklevel=1)
            bar.update(2)
    shown = [line.rpartition("\r")[2] for line in capsys.readouterr().err.split("\n")]
    for line in ("before any bar", "precision float32", "of something"):
        assert f"lowland: {line}" in shown


def test_doctor_describes_each_device(sim: torch.device) -> None:
    from lowland import doctor

    devices = doctor.examine().partition("\nDevices\n")[2].partition("\n\n")[0].splitlines()
    cpu, other, *_, auto = devices
    assert torch.backends.cpu.get_cpu_capability() in cpu and "GiB free" in cpu
    assert re.search(r"bfloat16 is (faster|no faster|\d+ times slower) than float32 here", cpu)
    assert other.split()[0] == str(sim) and "bfloat16 is" in other
    assert auto == f"  auto       takes {pick_device()}"


def test_doctor_says_how_to_get_data_that_are_not_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lowland import doctor

    monkeypatch.setenv("LOWLAND_DATA", str(tmp_path))
    monkeypatch.setenv("LOWLAND_CACHE", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("mnist", "fashion-mnist", "cifar10"):
        (line,) = [line for line in doctor.examine().splitlines() if line.startswith(f"  {name} ")]
        assert (
            "missing" in line and "`lowland train` downloads it" in line and f"ROOT/{name}" in line
        )
    (line,) = [line for line in doctor.examine().splitlines() if line.startswith("  cifar10-jpeg ")]
    assert "missing" in line and "train.parquet" in line
    (line,) = [line for line in doctor.examine().splitlines() if line.startswith("  moons ")]
    assert "missing" not in line
