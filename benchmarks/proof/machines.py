"""Does lowland run in other Pythons, with other versions, and where the surroundings are unusual?

    python -m benchmarks.proof.machines [--only NAME ...] [--list] [--python 3.14=/opt/bin/python3]

Each environment is a fresh virtual one, made by pip from what machines_cells.py asks for, with the
wheel of this checkout; each cell is a way of using one. A cell may import every module, use the
commands on tiny runs (both by machines_check.py, from an empty folder, with the wheel), and run
tests of this checkout. Deprecations that lowland's own lines cause are errors in all three. What
cannot be had is a line of the table with pip's message. Only the cells that ran are written anew
to benchmarks/results/proof/machines.{json,md}. The program needs no torch itself. Environments of
torch for CUDA take 6 GB each; they are deleted after their last cell unless --keep is said.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.machine import commit, machine
from benchmarks.proof import RESULTS
from benchmarks.proof.machines_cells import (
    CELLS,
    ENVIRONMENTS,
    EXTRAS,
    ROOT,
    Cell,
    Environment,
    names,
)
from benchmarks.proof.machines_page import succeeded, write_page
from benchmarks.record import read_record, write_record

CHECK = Path(__file__).with_name("machines_check.py")
FILTERS = "\n".join(
    (
        "error::pytest.PytestUnhandledThreadExceptionWarning",
        "error::DeprecationWarning:lowland",
        "error::FutureWarning:lowland",
    )
)
NOBODY = ("unshare", "--user", "--map-user=12345")  # a user whom no file of users knows
Step = dict[str, Any]


class UnavailableError(Exception):
    """An interpreter, a package or a tool that this machine cannot get."""


def call(
    command: list[str], variables: dict[str, str], folder: Path, limit: int
) -> tuple[int, str]:
    """Run a command; return its status and all it printed. Status 124: it took too long."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            timeout=limit,
        )
    except subprocess.TimeoutExpired:
        return 124, f"longer than {limit} s"
    return done.returncode, done.stdout


def find_python(version: str, given: dict[str, str]) -> str:
    """Return the path of an interpreter of a version; raise UnavailableError if there is none."""
    if version in given:
        return given[version]
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable
    known = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    found = str(known[-1]) if known else shutil.which(f"python{version}")
    if found is None:
        raise UnavailableError(f"no Python {version} here; say --python {version}=PATH")
    return found


def binary(environment: Path) -> str:
    """Return the path of the Python of a virtual environment."""
    here = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    return str(here)


def make(environment: Environment, folder: Path, wheel: Path, given: dict[str, str]) -> Step:
    """Make a virtual environment in a folder; return what was asked and what came."""
    python = find_python(environment.python, given)
    asked = f"pip install {' '.join(environment.packages)}"
    pip = [binary(folder), "-m", "pip", "install", "--quiet", "--no-cache-dir"]
    commands = [[*pip, "--no-deps", "--force-reinstall", str(wheel)]]
    if not folder.exists():
        print(f"  making {folder.name}: {asked}", flush=True)
        commands = [[python, "-m", "venv", str(folder)], [*pip, *environment.packages], *commands]
    for command in commands:
        status, said = call(command, dict(os.environ), folder.parent, 1800)
        if status:
            shutil.rmtree(folder, ignore_errors=True)
            lines = [line for line in said.splitlines() if "WARNING" not in line]
            raise UnavailableError(f"`{asked}`: {' '.join(lines[-4:])[-500:]}")
    return {"asked": asked, "versions": installed(folder)}


def installed(folder: Path) -> dict[str, str]:
    """Return versions of Python and of the packages in an environment."""
    code = (
        "import json, platform; from importlib.metadata import distributions as all; "
        "print(json.dumps({'python': platform.python_version()} | "
        "{d.metadata['Name'].lower(): d.version for d in all()}))"
    )
    status, said = call([binary(folder), "-P", "-c", code], dict(os.environ), folder, 60)
    if status:
        raise UnavailableError(f"the environment does not answer: {said[-300:]}")
    found: dict[str, str] = json.loads(said.splitlines()[-1])
    return found


@contextlib.contextmanager
def surroundings(cell: Cell, environment: Path, work: Path) -> Iterator[tuple[list[str], Any]]:
    """Hold the surroundings of a cell; yield what goes before its commands, and its variables."""
    variables = {k: v for k, v in os.environ.items() if k not in (*cell.unset, "PYTHONPATH")}
    variables = {"OMP_NUM_THREADS": "1"} | variables | cell.variables
    wanted = cell.variables.get("LC_ALL", "")
    if "_" in wanted:
        language, _, charset = wanted.partition(".")
        made = [shutil.which("localedef") or "localedef", "-i", language, "-f", charset]
        with contextlib.suppress(OSError):  # a machine without localedef may know it already
            call([*made, str(work / wanted)], dict(os.environ), work, 60)
        if (work / wanted).exists():
            variables["LOCPATH"] = str(work)
    if cell.nobody and shutil.which(NOBODY[0]) is None:
        raise UnavailableError(f"{NOBODY[0]} is not here; the cell needs a user without a name")
    packages = [] if not cell.without else removed(cell, environment)
    locked = sorted(environment.rglob("site-packages")) if cell.nobody else []
    folders = [f for top in locked for f in (top, *top.rglob("*")) if f.is_dir()]
    pip = [binary(environment), "-m", "pip", "--quiet"]
    try:
        if packages:
            call([*pip, "uninstall", "-y", *names(packages)], dict(os.environ), work, 600)
            if left := {name.lower() for name in names(packages)} & set(installed(environment)):
                raise UnavailableError(f"{sorted(left)} could not be taken away")
        for each in folders:
            each.chmod(0o555)
        yield (list(NOBODY) if cell.nobody else []), variables
    finally:
        for each in folders:
            each.chmod(0o755)
        if packages:
            again = ["install", "--no-deps", "--no-cache-dir", *packages]
            call([*pip, *again], dict(os.environ), work, 600)


def removed(cell: Cell, environment: Path) -> list[str]:
    """Return the packages of a cell's missing extras with the versions that are installed."""
    there = installed(environment)
    kept = {p for x, all_of in EXTRAS.items() if x not in cell.without for p in names(all_of)}
    gone = {p for x in cell.without for p in names(EXTRAS[x])} - (kept - set(names(EXTRAS["test"])))
    return [f"{name}=={there[name.lower()]}" for name in sorted(gone) if name.lower() in there]


def judge_tests(status: int, said: str) -> tuple[bool, str]:
    """Return whether pytest passed, and its last line with the names of what failed."""
    lines = [line.strip("= ") for line in said.splitlines() if line.strip()]
    total = lines[-1] if lines else "nothing was printed"
    bad = [line.split(" - ")[0] for line in lines if line.startswith(("FAILED ", "ERROR "))]
    return status == 0, "; ".join([total.split(" in ")[0], *sorted(set(bad))[:20]])


def try_cell(cell: Cell, environment: Path, work: Path, log: Path) -> list[Step]:
    """Run all steps of a cell; return them. Everything printed goes to a log."""
    tests = ("tests",) if cell.whole else cell.tests
    commands: list[tuple[str, list[str], Path, int]] = []
    for look in cell.looks:
        flags = list(cell.flags) if look == "use" else [f for f in cell.flags if f == "--locale"]
        commands.append((look, ["-P", str(CHECK), look, *flags], work, 900))
    if tests:
        options = [
            "-q",
            "-m",
            "not slow",
            "-p",
            "no:cacheprovider",
            "-o",
            f"filterwarnings={FILTERS}",
        ]
        runners = ["-n", "2", "--dist", "loadfile"] if cell.whole else ["-n", "0"]
        name = "every quick test" if cell.whole else "tests"
        commands.append((name, ["-m", "pytest", *options, *runners, *tests], ROOT, 5400))
    steps = []
    with surroundings(cell, environment, work) as (before, variables):
        for what, arguments, folder, limit in commands:
            began = time.monotonic()
            status, said = call(
                [*before, binary(environment), *arguments], variables, folder, limit
            )
            seconds = round(time.monotonic() - began, 1)
            with log.open("a", encoding="utf-8") as kept:
                kept.write(f"\n$ {' '.join(arguments)}\n{said}")
            if arguments[1] == "pytest":
                passed, line = judge_tests(status, said)
            else:
                passed, line = status == 0, (said.splitlines() or ["nothing was printed"])[-1]
            steps.append({"what": what, "passed": passed, "said": line[:600], "seconds": seconds})
            print(
                f"  {what}: {'passed' if passed else 'FAILED'}: {line[:300]} ({seconds} s)",
                flush=True,
            )
    return steps


def build_wheel(work: Path) -> Path:
    """Build the wheel of this checkout in a folder; return its path."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "-w",
        str(work),
        str(ROOT),
    ]
    status, said = call(command, dict(os.environ), work, 600)
    if status:
        raise SystemExit(f"the wheel could not be built; pip said: {said[-500:]}")
    return max(work.glob("lowland-*.whl"), key=lambda path: path.stat().st_mtime)


def try_environment(
    name: str, cells: list[str], work: Path, wheel: Path, given: dict[str, str], keep: bool
) -> dict[str, Step]:
    """Make an environment, try its cells and delete it; return a record for each cell."""
    environment, folder = ENVIRONMENTS[name], work / name
    found: dict[str, Step] = {}
    try:
        made = make(environment, folder, wheel, given)
    except UnavailableError as problem:
        made = {"asked": f"Python {environment.python}", "refused": str(problem)}
    for cell in cells:
        print(f"{cell}: {CELLS[cell].about}", flush=True)
        steps: list[Step] = []
        record = dict(made)
        if "refused" not in record:
            try:
                steps = try_cell(CELLS[cell], folder, work, work / f"{cell}.log")
            except UnavailableError as problem:
                record["refused"] = str(problem)
        if "refused" in record:
            print(f"  not tried: {record['refused']}", flush=True)
        here = machine()
        record |= {"steps": steps, "date": str(date.today()), "commit": commit()}
        found[cell] = record | {"cpu": here["cpu"], "platform": here["platform"]}
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)
    return found


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--only",
        nargs="+",
        choices=CELLS,
        metavar="NAME",
        help="cells; all that run no whole suite unless given",
    )
    add("--list", action="store_true", help="show cells and end")
    add("--python", nargs="+", default=[], metavar="VERSION=PATH", help="where interpreters are")
    add("--folder", type=Path, help="where environments are made; a temporary folder unless given")
    add("--keep", action="store_true", help="leave environments in --folder, and use them again")
    add("--out", type=Path, default=RESULTS / "machines", help="name of the two files of results")
    return parser.parse_args()


def main() -> None:
    asked = read_arguments()
    if asked.list:
        for name, cell in CELLS.items():
            print(f"{name:22} {cell.environment:12} {cell.about}")
        return
    given = dict(each.split("=", 1) for each in asked.python)
    chosen = asked.only or [name for name, cell in CELLS.items() if not cell.whole]
    results = asked.out.with_suffix(".json")
    with tempfile.TemporaryDirectory() as temporary:
        work = (asked.folder or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        wheel = build_wheel(Path(temporary))
        for name in dict.fromkeys(CELLS[cell].environment for cell in chosen):
            cells = [cell for cell in chosen if CELLS[cell].environment == name]
            found = try_environment(name, cells, work, wheel, given, asked.keep)
            record = read_record(results, {"cells": {}})
            record["cells"] |= found
            record["cells"] = {
                cell: record["cells"][cell] for cell in CELLS if cell in record["cells"]
            }
            write_record(results, record)
            asked.out.with_suffix(".md").write_text(write_page(record), encoding="utf-8")
    failed = [name for name in chosen if not succeeded(record["cells"][name])]
    print(f"{len(chosen) - len(failed)} of {len(chosen)} cells passed; not so: {failed or 'none'}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
