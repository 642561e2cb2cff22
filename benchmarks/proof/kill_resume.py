"""Kill training at random moments, resume it, and compare with an uninterrupted run, byte for byte.

    python -m benchmarks.proof.kill_resume --kills 20

For each recipe one run trains to the end undisturbed. Another is killed with SIGKILL at random
moments, `kills` times in all, and resumed each time until it is done. Then every file of the final
checkpoint (weights, averages, optimiser, chains, generators, position) and log.jsonl must be equal,
byte for byte. Writes benchmarks/results/proof/kill-resume.{json,md}.
"""

import argparse
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

from benchmarks.proof import RESULTS
from benchmarks.record import write_record
from lowland.run import versions

RECIPES = {
    "moons (MALA, PCD)": ("moons", {"training.steps": 600, "training.checkpoint_every": 50}),
    "digits (Langevin, PCD with labels)": (
        "digits",
        {"training.steps": 1200, "training.checkpoint_every": 50},
    ),
    "digits (convolutions, spectral norm, short runs)": (
        "digits",
        {
            "energy.name": "ConvNet",
            "energy.channels": [8, 16],
            "energy.kernels": [3, 3],
            "energy.strides": [1, 2],
            "energy.classes": 10,
            "energy.spectral_norm": True,
            "sampler.name": "ShortRun",
            "sampler.step_size": 0.05,
            "sampler.noise": 0.02,
            "training.steps": 300,
            "training.checkpoint_every": 20,
        },
    ),
}
CHILD = """
import sys, json, lowland
recipe = lowland.read_recipe(sys.argv[1], json.loads(sys.argv[2]))
lowland.train_recipe(recipe, sys.argv[3], progress=False)
"""


def start(recipe: str, overrides: dict[str, object], run: Path) -> subprocess.Popen[bytes]:
    """A training process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, recipe, json.dumps(overrides), str(run)],
        stderr=subprocess.DEVNULL,
    )


def difference(a: Path, b: Path) -> list[str]:
    """Names of the files of log and final checkpoint that are not equal."""
    last = sorted(a.glob("step-*"))[-1].name
    files = ["log.jsonl", *(f"{last}/{p.name}" for p in sorted((a / last).iterdir()))]
    return [
        name
        for name in files
        if not (b / name).exists() or (a / name).read_bytes() != (b / name).read_bytes()
    ]


def trial(
    recipe: str, overrides: dict[str, object], kills: int, rng: random.Random, folder: Path
) -> dict[str, object]:
    """One undisturbed run, one killed `kills` times; what differs."""
    whole, broken = folder / "whole", folder / "broken"
    began = time.monotonic()
    assert start(recipe, overrides, whole).wait() == 0, "the undisturbed run failed"
    seconds, done, moments = time.monotonic() - began, 0, []
    while done < kills:
        child = start(recipe, overrides, broken)
        begun = broken / "log.jsonl"
        size, waited = begun.stat().st_size if begun.exists() else 0, time.monotonic()
        while child.poll() is None and not (begun.exists() and begun.stat().st_size != size):
            time.sleep(0.01)  # until it trains: a kill during start-up proves nothing
            if time.monotonic() - waited > 300:
                raise RuntimeError("the run does not start")
        time.sleep(rng.uniform(0.0, max(seconds / (kills + 1), 0.3)))
        if child.poll() is not None:
            break  # it finished first
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        done += 1
        rows = begun.read_text().splitlines() if begun.exists() else []
        moments.append(len(rows))
    assert start(recipe, overrides, broken).wait() == 0, "the last resume failed"
    return {"kills": done, "rows_at_kill": moments, "different": difference(whole, broken)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "kill-resume")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    results: dict[str, dict[str, object]] = {}
    left = options.kills
    for i, (name, (recipe, overrides)) in enumerate(RECIPES.items()):
        share = left // (len(RECIPES) - i)
        with tempfile.TemporaryDirectory() as folder:
            results[name] = trial(recipe, overrides, share, rng, Path(folder))
        left -= int(str(results[name]["kills"]))
        print(name, results[name], flush=True)
    record = {
        "command": (
            f"python -m benchmarks.proof.kill_resume --kills {options.kills} --seed {options.seed}"
        ),
        "date": str(date.today()),
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "versions": versions(),
        "results": results,
    }
    write_record(options.out.with_suffix(".json"), record)
    lines = [
        f"| {n} | {r['kills']} | {'all equal' if not r['different'] else r['different']} |"
        for n, r in results.items()
    ]
    head = [
        "# Kill and resume",
        "",
        f"`{record['command']}`, {record['date']}, {record['cores']} cores",
        "",
    ]
    table = ["| run | kills | final checkpoint and log |", "|---|---|---|", *lines]
    options.out.with_suffix(".md").write_text("\n".join(head + table) + "\n")
    total = sum(int(str(r["kills"])) for r in results.values())
    print(f"{total} kills, {sum(bool(r['different']) for r in results.values())} runs differ")
    raise SystemExit(total < options.kills or any(r["different"] for r in results.values()))


if __name__ == "__main__":
    main()
