"""Every objective at equal processor time: cost of an update, quality of draws, and what a rate ten
times too large does.

    python -m benchmarks.guides.objectives run moons --seconds 10 --seeds 0 1 2
    python -m benchmarks.guides.objectives run moons --seconds 10 --seeds 0 --rate 10
    python -m benchmarks.guides.objectives run digits --seconds 30 --seeds 0
    python -m benchmarks.guides.objectives measure    # the figures again, from the draws that the
    runs
                                               left
    python -m benchmarks.guides.objectives pages

A contender is a shipped recipe (moons*, digits*) with the number of updates that fit into the given
processor seconds of one thread, measured on the first updates of a copy; everything else is as
shipped, schedules stretch with the updates. Runs go to runs/objectives/; what is in the record is
not repeated. Writes results/guides/objectives.{json,md}, docs/gallery.md with its pictures and
docs/which-objective.md.
"""

import argparse
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.guides import RESULTS
from benchmarks.guides.objectives_measures import DRAWS, folder, measured, real
from benchmarks.guides.objectives_pages import write_pages
from benchmarks.record import read_record, write_record
from lowland.config import read_recipe, recipe_names
from lowland.data import Dataset
from lowland.run import Run, versions
from lowland.trained import load
from lowland.training import (
    Session,
    TrainingStoppedError,
    load_recipe_data,
    resize_dataset,
    train_recipe,
)

RECORD = RESULTS / "objectives.json"
TRAINED = [
    "recipe",
    "objective",
    "data",
    "seed",
    "rate",
    "budget",
    "seconds",
    "drawing_seconds",
    "update_ms",
    "updates",
]
TRAINED += ["rollbacks", "did", "stopped"]  # what of a row is known without its draws


def contenders(data: str) -> list[str]:
    """Shipped recipes on a set."""
    return [name for name in recipe_names() if read_recipe(name).data.name == data]


def seconds_per_update(values: dict[str, Any]) -> float:
    """Processor seconds of an update, after the first ones; of one at each size, where images
    grow.
    """
    data = load_recipe_data(values)
    return sum(
        _cost(values, part)
        for part in [
            *(resize_dataset(data, side) for side in values["training"]["progressive_sizes"]),
            data,
        ]
    )


def _cost(values: dict[str, Any], data: Dataset) -> float:
    session = Session(values, data)
    for _ in range(5):
        session.advance()
    count, began = 0, time.process_time()
    while count < 20 or time.process_time() - began < 1.0:
        session.advance()
        count += 1
    return (time.process_time() - began) / count


def timed_recipe(name: str, seed: int, seconds: float, rate: float) -> tuple[dict[str, Any], float]:
    """The recipe with as many updates as fit into the time, and the seconds of one."""
    plain = read_recipe(name, {"seed": seed, "training.threads": 1}).plain()
    cost = seconds_per_update(plain)
    log = plain["training"]["log_every"]
    every = max(round(seconds / cost / 10 / log), 1) * log
    plain["training"] |= {
        "steps": 10 * every,
        "checkpoint_every": every,
        "select_every": 0,
        "learning_rate": plain["training"]["learning_rate"] * rate,
    }
    plain["training"]["warmup"] = min(plain["training"]["warmup"], every)
    return plain, cost


def one(name: str, seed: int, seconds: float, rate: float) -> dict[str, Any]:
    """Train and draw; what goes into the record but for what the draws are worth."""
    recipe, cost = timed_recipe(name, seed, seconds, rate)
    path = folder(name, seed, rate)
    shutil.rmtree(path, ignore_errors=True)
    began, stopped = time.process_time(), ""
    try:
        train_recipe(recipe, path, progress=False)
    except TrainingStoppedError as error:
        stopped = str(error)
    spent = time.process_time() - began
    events = [row for row in Run.open(path).rows() if "event" in row]
    began = time.process_time()
    leave_draws(path)
    return {
        "recipe": name,
        "objective": recipe["objective"]["name"],
        "data": recipe["data"]["name"],
        "seed": seed,
        "rate": rate,
        "budget": seconds,
        "seconds": round(spent, 2),
        "drawing_seconds": round(time.process_time() - began, 2),
        "update_ms": round(1000 * cost, 3),
        "updates": recipe["training"]["steps"],
        "rollbacks": sum(row["event"] == "rollback" for row in events),
        "did": [row["did"] for row in events if row["event"] == "rollback"],
        "stopped": stopped,
    }


def leave_draws(path: Path) -> None:
    """Draws of a run as its recipe says, as many as there are test points or 1000, left beside
    it.
    """
    one = load(path)
    x = one.sample(min(DRAWS, len(one.data.test.x)), generator=torch.Generator().manual_seed(77)).x
    Run(path).write_tensors("draws.safetensors", {"x": x})


def record() -> dict[str, Any]:
    """Rows of runs, and what real data get, measured so far."""
    return read_record(RECORD, {"rows": [], "real": {}})


def keep(row: dict[str, Any], **real: dict[str, Any]) -> None:
    """Add a row, in place of an older one of the same recipe, seed and rate, and figures of real
    data.
    """
    same, old = ("recipe", "seed", "rate"), record()
    rows = [each for each in old["rows"] if any(each[k] != row[k] for k in same)]
    data = old.get("real", {}) | real
    write_record(RECORD, {"versions": versions(), "real": data, "rows": [*rows, row]})


def run(data: str, seconds: float, seeds: list[int], rate: float, only: list[str]) -> None:
    """Measure what is missing."""
    torch.set_num_threads(1)
    for seed in seeds:
        for name in only or contenders(data):
            if any(
                (r["recipe"], r["seed"], r["rate"], r["budget"]) == (name, seed, rate, seconds)
                for r in record()["rows"]
            ):
                continue
            row = one(name, seed, seconds, rate)
            row |= measured(folder(name, seed, rate))
            keep(row)
            print(
                name,
                seed,
                rate,
                {k: v for k, v in row.items() if k not in ("recipe", "seed", "rate", "did")},
                flush=True,
            )


def measure() -> None:
    """All figures of the record again, from the draws that the runs left, and those of real data
    beside them.
    """
    torch.set_num_threads(1)
    seen: set[str] = set()
    for row in record()["rows"]:
        path, binary = (
            folder(row["recipe"], row["seed"], row["rate"]),
            read_recipe(row["recipe"]).data.binarize,
        )
        form = f"{row['data']}, {binary}" if binary else row["data"]
        keep(
            {k: row[k] for k in TRAINED} | measured(path),
            **({} if form in seen else {form: real(path)}),
        )
        seen.add(form)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    runner = verbs.add_parser("run")
    runner.add_argument("data")
    runner.add_argument("--seconds", type=float, default=30.0)
    runner.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    runner.add_argument("--rate", type=float, default=1.0, help="times that of the recipe")
    runner.add_argument("--only", nargs="*", default=[])
    verbs.add_parser("measure")
    verbs.add_parser("pages")
    asked = parser.parse_args()
    if asked.verb == "run":
        run(asked.data, asked.seconds, asked.seeds, asked.rate, asked.only)
    elif asked.verb == "measure":
        measure()
    else:
        write_pages(record()["rows"], record()["real"])
