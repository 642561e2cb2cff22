"""Every objective at equal processor time: cost of an update, quality of draws, and what a rate ten times too large does.

    python -m benchmarks.objectives run moons --seconds 30 --seeds 0 1 2
    python -m benchmarks.objectives run digits --seconds 60 --seeds 0
    python -m benchmarks.objectives pages

A contender is a shipped recipe (moons*, digits*) with the number of updates that fit into the given processor seconds of one
thread, measured on the first updates of a copy; everything else is as shipped, schedules stretch with the updates. Runs go to
runs/objectives/; what is in the record is not repeated. Writes results/objectives.{json,md}, docs/gallery.md with its
pictures and docs/which-objective.md.
"""

import argparse
import json
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from lowland.config import read_recipe, recipe_names
from lowland.data import load_data
from lowland.evaluation import draw, subject
from lowland.metrics import class_entropy, frechet_distance, ksd, mmd
from lowland.run import Run, versions
from lowland.training import TrainingStoppedError, fit, load_recipe_data
from lowland.training.judge import Judge, train_judge
from lowland.training.session import Session

HERE = Path(__file__).parent / "results"
RECORD = HERE / "objectives.json"
RUNS = Path("runs/objectives")
DRAWS = 1000
HASTE = 10.0  # the rate that is far too large


def contenders(data: str) -> list[str]:
    """Shipped recipes on a set."""
    return [name for name in recipe_names() if read_recipe(name).data.name == data]


def seconds_per_update(values: dict[str, Any]) -> float:
    """Processor seconds of an update, after the first ones."""
    session = Session(values, load_recipe_data(values))
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
    """Train, draw, measure; what goes into the record."""
    recipe, cost = timed_recipe(name, seed, seconds, rate)
    path = RUNS / f"{name}-{seed}-{rate:g}"
    shutil.rmtree(path, ignore_errors=True)
    began, stopped = time.process_time(), ""
    try:
        fit(recipe, path, progress=False)
    except TrainingStoppedError as error:
        stopped = str(error)
    spent = time.process_time() - began
    run = Run.open(path)
    events = [row for row in run.rows() if "event" in row]
    found: dict[str, Any] = {
        "recipe": name,
        "objective": recipe["objective"]["name"],
        "data": recipe["data"]["name"],
        "seed": seed,
        "rate": rate,
        "budget": seconds,
        "seconds": round(spent, 2),
        "update_ms": round(1000 * cost, 3),
        "updates": recipe["training"]["steps"],
        "rollbacks": sum(row["event"] == "rollback" for row in events),
        "did": [row["did"] for row in events if row["event"] == "rollback"],
        "stopped": stopped,
    }
    began = time.process_time()
    found |= measured(path, recipe)
    return found | {"drawing_seconds": round(time.process_time() - began, 2)}


def measured(path: Path, recipe: dict[str, Any]) -> dict[str, Any]:
    """Draws of a run against the test part; they are left beside the run for the pictures."""
    one = subject(Run.open(path))
    energy, data, test = one.energy, one.data, one.data.test.x
    count = min(DRAWS, len(test))
    x = draw(one, count, torch.Generator().manual_seed(77)).x
    finite = bool(x.isfinite().all())
    Run(path).write_tensors("draws.safetensors", {"x": x[:200]})
    if not finite:
        return {"finite": False}
    width = float(torch.pdist(test.flatten(1)[:1000]).median())
    found = {"finite": True, "mmd": mmd(x.flatten(1), test[:count].flatten(1), width).to_dict()}
    if energy.domain.kind == "real" and not getattr(energy, "noise", False) and len(test.shape) == 2:
        found["ksd"] = ksd(energy, test[:count]).to_dict()
    if data.classes and test.dim() == 4:
        found |= judged(x, test[:count], recipe)
    return found


_judges: dict[str, Judge] = {}


def judged(x: torch.Tensor, test: torch.Tensor, recipe: dict[str, Any]) -> dict[str, Any]:
    """Fréchet distance on features of one classifier for all, evenness of classes, share called with confidence."""
    data = load_data("digits", seed=0)  # one judge for all seeds and forms of the set
    judge = _judges.setdefault("digits", _judges.get("digits") or train_judge(data.train, data.classes, steps=600, seed=0))
    p = judge.probabilities(x)
    return {
        "frechet": frechet_distance(judge.features(x), judge.features(test)),
        "frechet_real": frechet_distance(judge.features(data.train.x[: len(test)]), judge.features(test)),
        "entropy": class_entropy(p.argmax(1), data.classes),
        "confident": float((p.max(1).values > 0.9).float().mean()),
    }


def record() -> list[dict[str, Any]]:
    """All rows measured so far."""
    return json.loads(RECORD.read_text())["rows"] if RECORD.exists() else []


def keep(row: dict[str, Any]) -> None:
    """Add a row, in place of an older one of the same recipe, seed, rate and budget."""
    same = ("recipe", "seed", "rate", "budget")
    rows = [old for old in record() if any(old[k] != row[k] for k in same)]
    text = ",\n".join(json.dumps(each) for each in [*rows, row])
    RECORD.write_text(f'{{"versions": {json.dumps(versions())},\n"rows": [\n{text}\n]}}\n')


def run(data: str, seconds: float, seeds: list[int], only: list[str]) -> None:
    """Measure what is missing; one row each, with the recipe's rate and, for the first seed, a rate far too large."""
    torch.set_num_threads(1)
    done = {(row["recipe"], row["seed"], row["rate"], row["budget"]) for row in record()}
    for name in only or contenders(data):
        for seed, rate in [*((seed, 1.0) for seed in seeds), (seeds[0], HASTE)]:
            if (name, seed, rate, seconds) in done:
                continue
            row = one(name, seed, seconds, rate)
            keep(row)
            print(
                f"{name} seed {seed} rate × {rate:g}: {row['updates']} updates of {row['update_ms']} ms, mmd {row.get('mmd')}",
                flush=True,
            )


def spread(values: list[float], digits: int = 4) -> str:
    """mean ± sd, or the value alone."""
    if not values:
        return "–"
    sd = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{sd}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    runner = verbs.add_parser("run")
    runner.add_argument("data")
    runner.add_argument("--seconds", type=float, default=30.0)
    runner.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    runner.add_argument("--only", nargs="*", default=[])
    verbs.add_parser("pages")
    asked = parser.parse_args()
    if asked.verb == "run":
        run(asked.data, asked.seconds, asked.seeds, asked.only)
    else:
        from benchmarks.objectives_pages import write_pages

        write_pages(record())
