"""Which runs die? A grid of short trainings at rates from sane to thirty times too large, by four
contenders.

    python -m benchmarks.proof.survival run --contender plain ebmkit torchebm lowland [--set moons]
    [--seeds 0 1 2] python -m benchmarks.proof.survival table

Sets x rates x seeds x with and without the regulariser: 72 runs for each contender. A run is dead
if

    not finite   a weight, or the energy of a held-out point or of a sample, is not finite
    no better    the MMD of its samples to held-out data is above 0.9 of that of the noise they
                 start from
    alike        the samples' total variance is below 5 % of the data's
    walls        99 % of the samples' numbers sit on the walls of the box, and fewer than 97 % of
                 the data's do

which was fixed before anything was measured. The settings were not: network sizes, numbers of
updates and sane rates come from plain runs of seed 0; the preflight's limit and the going back of
lowland's health were made on runs of this grid; and a first grid was looked at before this one
(averages with decay 0.99, lowland with its own fall of the rate and bound on gradients:
survival-first.md). It was repeated because lowland averaged over a shorter time than the others;
with the short memory that all have now, the others do worse at sane rates than there. Read both.
They show what the cures do, not what they would do on sets that they have not seen.

Samples: chains from noise under the averaged weights, by the sampler of training, the same code for
all contenders. MMD: squared, unbiased, Gaussian kernel, bandwidth the median distance of held-out
data; given in units of that of the noise, so that 1 is noise and 0 is data. Results:
benchmarks/results/proof/survival.{json,md}; a run that is in the json is not run again.
"""

import argparse
import contextlib
import io
import json
import os
import platform
import time
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.proof import RESULTS
from benchmarks.proof.survival_cases import CASES, CONTENDERS, Case, start, walk
from benchmarks.record import read_record, write_record
from lowland.data import Dataset
from lowland.metrics import mmd
from lowland.run import versions

FACTORS, SEEDS = (1, 3, 10, 30), (0, 1, 2)


def judge(case: Case, energy: nn.Module, data: Dataset) -> dict[str, Any]:
    """Whether the run is dead, of what, and how good its samples are. The same draws for
    everybody.
    """
    torch.manual_seed(12345)
    held = data.test.x[: case.samples]
    noise = start(case, len(held))
    made = walk(case, energy.eval(), noise, case.walk)
    with torch.no_grad():
        numbers = [*energy.parameters(), energy(held), energy(made), made]
    if not all(bool(n.isfinite().all()) for n in numbers):
        return {"dead": "not finite", "mmd": None}
    bandwidth = torch.pdist(held.flatten(1)).median().item()
    of = {name: mmd(x, held, bandwidth).value for name, x in (("noise", noise), ("made", made))}
    ratio, spread = of["made"] / of["noise"], total_variance(made) / total_variance(held)
    dead = ""
    if ratio > 0.9:
        dead = "no better"
    elif spread < 0.05:
        dead = "alike"
    elif case.walls is not None and on_walls(case, made) > 0.99 and on_walls(case, held) < 0.97:
        dead = "walls"
    return {"dead": dead, "mmd": round(ratio, 5), "spread": round(spread, 4)}


def total_variance(x: Tensor) -> float:
    return x.flatten(1).var(0).sum().item()


def on_walls(case: Case, x: Tensor) -> float:
    lo, hi = case.domain.lo, case.domain.hi
    return ((x <= lo) | (x >= hi)).float().mean().item()


def one(
    contender: str,
    case: Case,
    data: Dataset,
    factor: int,
    seed: int,
    regularised: bool,
    **training: Any,
) -> dict[str, Any]:
    """Train and judge one run."""
    net = case.net(seed)
    torch.manual_seed(1000 + seed)
    began = time.process_time()
    with contextlib.redirect_stderr(io.StringIO()):
        l2 = case.l2 if regularised else 0.0
        trained = CONTENDERS[contender](case, net, data, factor * case.rate, l2, seed, **training)
    spent = time.process_time() - began
    found = judge(case, trained.energy, data)
    key = {
        "contender": contender,
        "set": case.name,
        "factor": factor,
        "seed": seed,
        "regularised": regularised,
    }
    return {**key, **found, "updates": trained.updates, "seconds": round(spent, 2), **trained.notes}


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(a[name] == b[name] for name in ("contender", "set", "factor", "seed", "regularised"))


def read(path: Path) -> list[dict[str, Any]]:
    return read_record(path, {"runs": []})["runs"]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """One run a line."""
    head = {
        "date": str(date.today()),
        "machine": (
            f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, 1 thread"
        ),
        "versions": versions(),
        "seeds": list(SEEDS),
        "note": read_record(path, {}).get("note", ""),
        "cases": {name: describe(case) for name, case in CASES.items()},
    }
    write_record(path, head | {"runs": rows})


def describe(case: Case) -> str:
    words = [
        f"rate {case.rate:g} × {list(FACTORS)}",
        f"{case.updates} updates of {case.batch}",
        f"{case.steps} steps of",
    ]
    words[-1] += f" {case.step_size:g} with noise {case.noise:.3g}"
    words += [f"slopes within ±{case.clip:g}"] if case.clip else []
    words += [f"gradient norm at most {case.bound:g} (published)"] if case.bound else []
    return ", ".join([*words, f"l2 {case.l2:g} or 0", f"samples after {case.walk} steps"])


def run(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    for name in options.set:
        case, data = CASES[name], CASES[name].data()
        for seed in options.seeds:
            for factor in options.factors:
                for regularised in (True, False):
                    for contender in options.contender:
                        again(options.out, contender, case, data, factor, seed, regularised)


def again(
    path: Path, contender: str, case: Case, data: Dataset, factor: int, seed: int, regularised: bool
) -> None:
    """Run what is not in the file, and put it there."""
    key = {
        "contender": contender,
        "set": case.name,
        "factor": factor,
        "seed": seed,
        "regularised": regularised,
    }
    if any(same(row, key) for row in read(path)):
        return
    row = one(contender, case, data, factor, seed, regularised)
    write(path, [*read(path), row])
    print(json.dumps(row), flush=True)


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Markdown: share of dead runs, quality, and what health did."""
    return [*deaths(rows), "", *quality(rows), "", *cures(rows)]


def chosen(rows: list[dict[str, Any]], **wanted: Any) -> list[dict[str, Any]]:
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def deaths(rows: list[dict[str, Any]]) -> list[str]:
    """Dead of all, per contender, set and rate."""
    heads = [f"{name} × {factor}" for name in CASES for factor in FACTORS]
    lines = [
        "## Dead runs",
        "",
        f"| contender | all | {' | '.join(heads)} |",
        "|---" * (len(heads) + 2) + "|",
    ]
    for contender in CONTENDERS:
        cells = [share(chosen(rows, contender=contender))]
        cells += [
            share(chosen(rows, contender=contender, set=name, factor=factor))
            for name in CASES
            for factor in FACTORS
        ]
        lines.append(f"| {contender} | {' | '.join(cells)} |")
    lines += ["", "Of what they died:", ""]
    for contender in CONTENDERS:
        causes = [row["dead"] for row in chosen(rows, contender=contender) if row["dead"]]
        counts = (
            ", ".join(f"{causes.count(cause)} {cause}" for cause in sorted(set(causes))) or "none"
        )
        lines.append(f"- {contender}: {counts}")
    return lines


def share(rows: list[dict[str, Any]]) -> str:
    return f"{sum(bool(row['dead']) for row in rows)}/{len(rows)}" if rows else "–"


def quality(rows: list[dict[str, Any]]) -> list[str]:
    """MMD in units of noise: median and worst over seeds and both halves; a dead run counts as 1
    where it has no number.
    """
    lines = [
        "## MMD of samples to held-out data, in units of that of noise: median (worst)",
        "",
        "| set, rate | " + " | ".join(CONTENDERS) + " |",
        "|---" * (len(CONTENDERS) + 1) + "|",
    ]
    for name in CASES:
        for factor in FACTORS:
            cells = [
                middle(chosen(rows, contender=who, set=name, factor=factor)) for who in CONTENDERS
            ]
            lines.append(f"| {name} × {factor} | {' | '.join(cells)} |")
    lines += [
        "",
        "Against the best plain run at the sane rate:",
        "",
        "| set | best plain run | median plain run | lowland, all rates |",
    ]
    lines += ["|---|---|---|---|"]
    for name in CASES:
        sane = [number(row) for row in chosen(rows, contender="plain", set=name, factor=1)]
        if sane:
            ours = middle(chosen(rows, contender="lowland", set=name))
            lines.append(f"| {name} | {min(sane):.4f} | {median(sane):.4f} | {ours} |")
    return lines


def number(row: dict[str, Any]) -> float:
    return 1.0 if row["mmd"] is None else float(row["mmd"])


def middle(rows: list[dict[str, Any]]) -> str:
    values = [number(row) for row in rows]
    return f"{median(values):.4f} ({max(values):.4f})" if values else "–"


def cures(rows: list[dict[str, Any]]) -> list[str]:
    """What health did, and what it cost."""
    ours = chosen(rows, contender="lowland")
    lines = ["## What lowland's health did", ""]
    heads = (
        "| set, rate | runs rolled back | rollbacks | verdicts | rate lowered before the start to "
        "| stopped | updates |"
    )
    lines += [heads, "|---" * 7 + "|"]
    for name in CASES:
        for factor in FACTORS:
            some = chosen(ours, set=name, factor=factor)
            if not some:
                continue
            backs = [back for row in some for back in row["rollbacks"]]
            verdicts = sorted({back["verdict"] for back in backs})
            said = (
                ", ".join(
                    f"{verdict} {sum(b['verdict'] == verdict for b in backs)}"
                    for verdict in verdicts
                )
                or "–"
            )
            factors = [row["preflight"].get("rate", 1.0) for row in some]
            cells = [
                sum(bool(row["rollbacks"]) for row in some),
                len(backs),
                said,
                f"{median(factors):g}",
            ]
            cells += [
                sum(bool(row["stopped"]) for row in some),
                round(median(row["updates"] for row in some)),
            ]
            lines.append(f"| {name} × {factor} | {' | '.join(map(str, cells))} |")
    lines += ["", "CPU seconds of a run (median):", ""]
    for name in CASES:
        spent = {
            who: [row["seconds"] for row in chosen(rows, contender=who, set=name)]
            for who in CONTENDERS
        }
        lines.append(
            f"- {name}: " + ", ".join(f"{who} {median(s):.1f}" for who, s in spent.items() if s)
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    running = verbs.add_parser("run")
    running.add_argument(
        "--contender", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS)
    )
    running.add_argument("--set", nargs="+", choices=list(CASES), default=list(CASES))
    running.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    running.add_argument("--factors", nargs="+", type=int, default=list(FACTORS))
    tabling = verbs.add_parser("table")
    for one_of in (running, tabling):
        one_of.add_argument("--out", type=Path, default=RESULTS / "survival.json")
    options = parser.parse_args()
    if options.verb == "run":
        return run(options)
    rows, what = read(options.out), read_record(options.out)
    lines = [
        "# Which runs die",
        "",
        f"`python -m benchmarks.proof.survival run`, {what['date']}, {what['machine']}.",
        "",
    ]
    lines += [str(__doc__).split("\n\n", 2)[2].strip(), ""]
    lines += [f"- {name}: {said}" for name, said in what["cases"].items()] + [""]
    lines += [what["note"], ""] if what.get("note") else []
    text = "\n".join(lines + table(rows)) + "\n"
    options.out.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
