"""Train a shipped recipe from several seeds and tabulate what `lowland evaluate` and independent
judges say of it.

    python -m benchmarks.quality.recipe digits --seeds 0 1 2

Runs go to runs/quality-RECIPE-SEED (a finished one is used again, an unfinished one resumed). The
judge inside `evaluate` is a convolutional classifier of real images; on digits two more of other
kinds, from scikit-learn, judge the same samples. Writes
benchmarks/results/quality/recipe-RECIPE.{json,md}.
"""

import argparse
import json
import os
import statistics
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch

from benchmarks.quality import RESULTS
from benchmarks.record import write_record
from lowland import commands
from lowland.config import parse_overrides, read_recipe
from lowland.run import Run, versions
from lowland.trained import load


def train(recipe: str, seed: int, overrides: dict[str, Any]) -> tuple[Path, float]:
    """The finished run of a seed and the wall-clock seconds of what this call did."""
    path, began = Path("runs") / f"quality-{recipe}-{seed}", time.monotonic()
    if (path / "evaluation.json").exists():
        return path, 0.0
    if (path / "recipe.json").exists():
        commands.resume(path)
    else:
        commands.train(read_recipe(recipe, {**overrides, "seed": seed}), path)
    return path, time.monotonic() - began


def figures(path: Path) -> dict[str, float]:
    """The figures of one run, flat."""
    run = Run.open(path)
    found = run.read_json("evaluation.json")
    samples, detection = found["samples"], found["detection"]
    flat = {
        "training, s": run.rows("time.jsonl")[-1]["seconds"],
        "evaluation, s": found["seconds"],
        "samples: confident share (CNN judge)": samples.get("confident", {}).get("value"),
        "real test images: confident share (CNN judge)": samples.get("confident_test", {}).get(
            "value"
        ),
        "samples: called class is the asked class": samples.get("agreement", {}).get("value"),
        "samples: class entropy / maximum": samples.get("class_entropy"),
        "samples: neighbour distance / test": samples["neighbour_ratio"],
        "samples: closer than 1 % of test": samples["copies"],
        "samples: squared MMD": samples["mmd"]["value"],
        "judge: accuracy on test": samples.get("judge_test_accuracy"),
        f"detector: false alarms at {detection['nominal']:.0%}": detection["false_alarm"]["value"],
        "detector: lower end of its interval": detection["false_alarm"]["low"],
        "detector: upper end of its interval": detection["false_alarm"]["high"],
    }
    for name, against in detection["outliers"].items():
        flat |= {
            f"AUROC against {name}": against["auroc"]["value"],
            f"FPR95 against {name}": against["fpr95"]["value"],
        }
    for task, measured in found.get("restoration", {}).get("tasks", {}).items():
        for figure, methods in measured.items():
            flat |= {
                f"{task}: {figure.replace('_', ' ')}, {method}": e["value"]
                for method, e in methods.items()
            }
    return {name: value for name, value in flat.items() if value is not None}


def other_judges(path: Path) -> dict[str, float]:
    """What two classifiers of other kinds say of the samples of a digits run: confident share, and
    on real test digits.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import SVC

    s = load(path)
    x, y = s.data.train.x.flatten(1).numpy(), s.data.train.y.numpy()  # type: ignore[union-attr]
    made = s.run.read_tensors("evaluation.safetensors")["samples"].clamp(0, 1).flatten(1).numpy()
    test = s.data.test.x.flatten(1).numpy()
    found = {}
    judges = {
        "SVC": SVC(probability=True, random_state=0),
        "logistic regression": LogisticRegression(max_iter=2000),
    }
    for name, judge in judges.items():
        judge.fit(x, y)
        found[f"samples: confident share ({name})"] = float(
            (judge.predict_proba(made).max(1) > 0.9).mean()
        )
        found[f"real test digits: confident share ({name})"] = float(
            (judge.predict_proba(test).max(1) > 0.9).mean()
        )
    return found


def table(rows: dict[str, list[float]]) -> list[str]:
    """Markdown: each figure by seed, with mean and standard deviation over seeds."""
    count = max(map(len, rows.values()))
    lines = [
        "| figure | " + " | ".join(f"seed {i}" for i in range(count)) + " | mean ± sd |",
        "|---" * (count + 2) + "|",
    ]
    for name, values in rows.items():
        spread = f" ± {statistics.stdev(values):.3g}" if len(values) > 1 else ""
        cells = " | ".join(f"{v:.4g}" for v in values)
        lines.append(f"| {name} | {cells} | {statistics.mean(values):.4g}{spread} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C")
    options = parser.parse_args()
    overrides = parse_overrides(options.set)
    rows: dict[str, list[float]] = {}
    for seed in options.seeds:
        path, _ = train(options.recipe, seed, overrides)
        found = figures(path) | (other_judges(path) if options.recipe == "digits" else {})
        for name, value in found.items():
            rows.setdefault(name, []).append(value)
        print(path, json.dumps(found), flush=True)
    settings = "".join(f" --set {pair}" for pair in options.set)
    record = {
        "command": f"python -m benchmarks.quality.recipe {options.recipe} --seeds "
        f"{' '.join(map(str, options.seeds))}{settings}",
        "date": str(date.today()),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "seeds": options.seeds,
        "figures": rows,
    }
    out = RESULTS / f"recipe-{options.recipe}"
    write_record(out.with_suffix(".json"), record)
    head = [
        f"# Quality of the recipe `{options.recipe}`",
        "",
        f"`{record['command']}`, {record['date']}, {os.cpu_count()} cores",
        "",
    ]
    out.with_suffix(".md").write_text("\n".join(head + table(rows)) + "\n")
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
