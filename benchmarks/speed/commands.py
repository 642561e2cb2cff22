"""Commands of shipped models as a user starts them: whole processes, on one thread of one core.

    python -m benchmarks.speed.commands [--capability avx2] [COMMAND ...]

A process is held to one core where the system can do that, and to one thread; its time is from
start to end: imports, reading the weights, the timing behind `precision="auto"`, the work, and
writing the file. --capability avx2 has torch and oneDNN use no more than AVX2, as on most laptops.
CPU seconds (user and system) do not count while another program has the core; the wall does. A
goal is met by the wall, and where the machine was not quiet, "in CPU time" says what the command
took of its core. Nothing is downloaded: the picture that is restored and edited is a sample.
"""

import argparse
import os
import re
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.machine import circumstances, commit, pin
from benchmarks.record import read_record, write_record
from benchmarks.speed import RESULTS

CAPABILITIES = {  # of torch's own kernels and of oneDNN's
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "native": {},
}
ROOT = Path(__file__).parents[2]
PICTURE = "digit.npy"  # a sample of the shipped MNIST run, made before anything is timed
PRECISION = re.compile(r"precision (\w+) \((.*?)\) for gradients")
NAMED = ("cpu", "cpu_capability", "threads", "load_average", "torch", "python", "commit")
TAIL = 400  # characters of the message of a command that fails


class Command(NamedTuple):
    """Words after `lowland`, and the seconds of the whole process that are a goal, if any."""

    words: str
    seconds: float | None = None


COMMANDS = {
    "sample": Command("sample mnist --count 64 --force", 25.0),
    "restore": Command(f"restore mnist {PICTURE} --task inpaint --mask lower", 20.0),
    "denoise": Command(f"restore mnist {PICTURE} --task denoise"),
    "energy": Command(f"energy mnist {PICTURE}"),
    "compose": Command("compose mnist --count 16 --force"),
    "edit": Command(f"edit mnist {PICTURE} --label 9 --classifier mnist-jem"),
    "digits": Command("sample digits --count 64 --force"),
    "help": Command("restore --help"),
}


def run_command(words: Sequence[str], folder: Path) -> dict[str, Any]:
    """Run `lowland WORDS` in a folder; return wall and CPU seconds, and the precision it chose."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "lowland", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(
            f"lowland {shlex.join(words)} ended with {done.returncode}: {done.stderr[-TAIL:]}"
        )
    user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    return {"wall": wall, "cpu": user + system, "precision": find_precision(done.stderr)}


def find_precision(text: str) -> list[str]:
    """Return the precisions that a command logged, each with its reason; none for one that chooses
    none.
    """
    return [f"{name} ({reason})" for name, reason in PRECISION.findall(text)]


def measure(names: Sequence[str], rounds: int) -> dict[str, Any]:
    """Run commands in turn, `rounds` times; return for each its words and what every round took."""
    found: dict[str, Any] = {
        name: {"command": COMMANDS[name].words, "goal": COMMANDS[name].seconds, "rounds": []}
        for name in names
    }
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        run_command(["sample", "mnist", "--count", "1", "--out", PICTURE], folder)
        np.save(folder / PICTURE, np.load(folder / PICTURE).clip(0, 1))
        for _ in range(rounds):
            for name in names:
                row = run_command(COMMANDS[name].words.split(), folder)
                found[name]["rounds"].append(row)
                print(f"{name}: {row['wall']:.1f} s, {row['cpu']:.1f} of CPU", file=sys.stderr)
    return found


def markdown(record: dict[str, Any]) -> str:
    """Return the record as a page: a table for each capability."""
    lines = ["# commands: whole processes on one core", ""]
    lines += [
        "`lowland COMMAND` from start to end, on one thread of one core. Seconds are the least of "
        "the rounds; those of CPU do not count while another program has the core.",
        "",
    ]
    for capability, found in record["capabilities"].items():
        lines += [f"## {capability}", ""]
        lines += ["| command | wall (s) | CPU (s) | goal (s) | verdict | precision |"]
        lines += ["|---|---:|---:|---:|---|---|"]
        for row in found["commands"].values():
            wall, cpu = (min(one[key] for one in row["rounds"]) for key in ("wall", "cpu"))
            goal = "" if row["goal"] is None else f"{row['goal']:g}"
            words = "; ".join(row["rounds"][0]["precision"])
            cells = [f"`lowland {row['command']}`", f"{wall:.1f}", f"{cpu:.1f}", goal]
            cells += [judge(wall, cpu, row["goal"]), words]
            lines.append("| " + " | ".join(cells) + " |")
        machine = {**found["machine"], "commit": found["commit"]}
        known = ", ".join(f"{key} {machine[key]}" for key in NAMED if key in machine)
        lines += ["", f"Last run, {found['date']}: {known}; `{found['command']}`", ""]
    return "\n".join(lines)


def judge(wall: float, cpu: float, goal: float | None) -> str:
    """Return the verdict about a goal in seconds; nothing without one."""
    if goal is None:
        return ""
    if wall <= goal:
        return "met"
    return "met in CPU time" if cpu <= goal else "missed"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.speed.commands", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("commands", nargs="*", help=f"of {', '.join(COMMANDS)}; all unless named")
    parser.add_argument("--capability", choices=CAPABILITIES, default="native")
    parser.add_argument("--rounds", type=int, default=1, help="the least of them counts (1)")
    parser.add_argument("--core", type=int, help="the core to pin to (the last that is allowed)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the page")
    options = parser.parse_args(arguments)
    names = options.commands or list(COMMANDS)
    if unknown := [name for name in names if name not in COMMANDS]:
        parser.error(f"no command {', '.join(unknown)}; there are {', '.join(COMMANDS)}")
    os.environ.update(CAPABILITIES[options.capability])
    pin(options.core, keep_heap=False)
    path = options.out / "commands.json"
    record = read_record(path, {"capabilities": {}})
    known = record["capabilities"].get(options.capability, {"commands": {}})["commands"]
    found = {**known, **measure(names, options.rounds)}
    record["capabilities"][options.capability] = {
        **circumstances(),
        "commit": commit(),
        "commands": {name: found[name] for name in COMMANDS if name in found},
    }
    write_record(path, record)
    path.with_suffix(".md").write_text(markdown(record), encoding="utf-8")
    print(markdown(record))


if __name__ == "__main__":
    main()
