"""Deep Boltzmann machine and deep belief net on binarized MNIST: lower bounds of log p with log Z
from both sides.

    python -m benchmarks.quality.deep_boltzmann [--binarize threshold] [--runs runs/deep-boltzmann]

log p(v) is bounded from below by variation: mean field for the DBM 500–1000, recognition for the
DBN 500–2000. What the bound lacks is log Z. Forward annealed importance sampling puts it too low,
and the bound too high; so log Z has a bracket here, and a bound is printed at both of its ends.
Published: DBM −84.62 (Salakhutdinov & Hinton 2009,
https://proceedings.mlr.press/v5/salakhutdinov09a.html) and DBN −86.22 (Salakhutdinov & Murray 2008,
https://doi.org/10.1145/1390156.1390266), with forward annealing alone, on stochastically binarized
pixels; not verified here.

Runs that are finished are read. Writes
benchmarks/results/quality/deep-boltzmann[-BINARIZATION].{json,md}."""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import lowland
from benchmarks.machine import circumstances, pin
from benchmarks.quality import RESULTS
from benchmarks.record import write_record
from lowland.data import Dataset, materialize
from lowland.metrics import log_z
from lowland.nets import DBM, DBN, RBM
from lowland.run import Run
from lowland.training import greedy

PUBLISHED = {"DBM 500-1000": -84.62, "DBN 500-2000": -86.22}
CHAINS, DRAWS = 100, 5
STEPS: dict[str, Any] = {"dbm": 10_000, "layers": (4000, 700), "fine": 300}


def spent(run: Path, work: Any) -> Any:
    """What the work returns; its CPU seconds are noted in the run, added to those of earlier,
    interrupted ones.
    """
    note, began = run / "cpu.json", time.process_time()
    result = work()
    before = json.loads(note.read_text()) if note.is_file() else 0.0
    used = time.process_time() - began
    if used > 5 or not before:  # a finished run was only read
        note.write_text(json.dumps(before + used))
    return result


def seconds(*runs: Path) -> tuple[float, float]:
    """CPU and wall seconds of runs."""
    wall = sum(Run.open(run).rows("time.jsonl")[-1]["seconds"] for run in runs)
    return sum(json.loads((run / "cpu.json").read_text()) for run in runs), wall


def trained_dbm(data: Dataset, run: Path, how: str) -> DBM:
    recipe = lowland.read_recipe(
        "mnist-dbm", {"data.binarize": how, "training.steps": STEPS["dbm"]}
    )
    found = spent(run, lambda: lowland.train_recipe(recipe, run, data=data, progress=False))
    found.iterations, found.tolerance = 200, 1e-4  # for the bound: mean field to the end
    return found


def layer_recipe(steps: int, rate: float, sweeps: int, **objective: Any) -> dict[str, Any]:
    values = lowland.read_recipe("mnist-rbm").plain()
    values["sampler"]["sweeps"] = sweeps
    values["objective"] |= objective
    values["training"] |= {
        "steps": steps,
        "learning_rate": rate,
        "checkpoint_every": 500,
        "keep_checkpoints": 1,
    }
    return values


def greedy_dbn(data: Dataset, run: Path) -> DBN:
    first, second = STEPS["layers"]
    recipes = [layer_recipe(first, 0.3, 3), layer_recipe(second, 0.05, 2)]
    recipes[1]["training"]["warmup"] = 100  # chains begin at random, the weights do not
    (run / "layer-2").mkdir(parents=True, exist_ok=True)
    net = DBN(data.domain, n_hidden=(500, 2000))
    return spent(run, lambda: greedy(net, recipes, run, data=data, progress=False))


def fine_dbn(net: DBN, data: Dataset, run: Path) -> DBN:
    """Wake and sleep from where the greedy net stands, chains from the data."""
    values = layer_recipe(STEPS["fine"], 0.03, 1)
    values["objective"] = {"name": "WakeSleep", "steps": 5}
    values["energy"] = {"name": "DBN", "n_hidden": [500, 2000]}
    return spent(
        run, lambda: lowland.train_recipe(values, run, data=data, energy=net, progress=False)
    )


def row(
    name: str, bounds: Tensor, found: Any, of: str, cpu: float, wall: float, began: float
) -> dict[str, Any]:
    """Bound less log Z, at both ends of its bracket. bounds (N,): per test example, known up to log
    Z.
    """
    value, error = (
        bounds.double().mean().item(),
        (bounds.double().std() / math.sqrt(len(bounds))).item(),
    )
    print(name, found, flush=True)
    return {
        "name": name,
        "of": of,
        "low": value - found.upper,
        "high": value - found.lower,
        "value": value - found.value,
        "error": error,
        "forward": value - found.forward.value,
        "reverse": value - found.reverse.value,
        "certified": found.certified,
        "verdict": found.verdict,
        "log_z": found.to_dict() | {"betas": []},
        "published": PUBLISHED.get(name),
        "cpu_seconds": cpu,
        "wall_seconds": wall,
        "evaluation_seconds": time.process_time() - began,
    }


def chunked(function: Any, x: Tensor) -> Tensor:
    return torch.cat([function(part) for part in x.split(1000)])


def judge_dbm(
    dbm: DBM, data: Dataset, num_temperatures: int, spent_on: tuple[float, float]
) -> dict[str, Any]:
    began, g = time.process_time(), torch.Generator().manual_seed(1)
    joined = dbm.sample_latents(materialize(data).train.x[:5000], g)
    found = log_z(dbm, data=joined, chains=CHAINS, num_temperatures=num_temperatures, generator=g)
    return row(
        "DBM 500-1000",
        chunked(dbm.variational_bound, data.test.x),
        found,
        "mean field",
        *spent_on,
        began,
    )


def judge_dbn(
    name: str, net: DBN, data: Dataset, num_temperatures: int, spent_on: tuple[float, float]
) -> dict[str, Any]:
    began, g = time.process_time(), torch.Generator().manual_seed(2)
    drawn = net.split(net.sample_latents(materialize(data).train.x[:5000], g))[-1]
    found = log_z(
        net.top, data=drawn, chains=CHAINS, num_temperatures=num_temperatures, generator=g
    )
    bounds = chunked(lambda x: net.variational_bound(x, g, DRAWS).value, data.test.x)
    made = row(name, bounds, found, f"recognition, {DRAWS} draws", *spent_on, began)
    few = data.test.x[:1000]
    weights = net.log_weights(few, 100, g).double()
    gain = (weights.logsumexp(0) - math.log(100) - weights.mean(0)).mean().item()
    return made | {"gain_of_100_draws": gain}


def judge_rbm(
    net: DBN, data: Dataset, num_temperatures: int, spent_on: tuple[float, float]
) -> dict[str, Any]:
    """The first layer alone, whose log p has no gap but that of log Z."""
    began, g = time.process_time(), torch.Generator().manual_seed(3)
    alone = RBM(data.domain, 500)
    alone.load_state_dict(first_layer(net, alone))
    found = log_z(
        alone,
        data=materialize(data).train.x[:5000],
        chains=CHAINS,
        num_temperatures=num_temperatures,
        generator=g,
    )
    values = -chunked(lambda x: alone(x).detach(), data.test.x)
    return row("RBM 500, the first layer alone", values, found, "exact", *spent_on, began)


def first_layer(net: DBN, like: RBM) -> dict[str, Tensor]:
    layer: Any = net.layers[0]
    own = {"weight": layer.up_weight, "hidden_bias": layer.up_bias, "visible_bias": layer.down_bias}
    return {**like.state_dict(), **own}


def markdown(result: dict[str, Any]) -> str:
    lines = [
        f"# Deep Boltzmann machines on MNIST, {result['data']}",
        "",
        f"`{result['command']}`, {result['date']}; {result['machine']['cpu']}, core "
        f"{result['machine']['pinned_cores']}, load {result['machine']['load_average']}",
        "",
        "| model | bound on test log p, nats, at the ends of log Z | with forward AIS alone | with "
        "reverse AIS alone | log Z | published | training: CPU s (wall s) |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in result["rows"]:
        published = "" if r["published"] is None else f"{r['published']} (unverified)"
        lines.append(
            f"| {r['name']} ({r['of']}) | [{r['low']:.2f}, {r['high']:.2f}] ± {r['error']:.2f} | "
            f"{r['forward']:.2f} | {r['reverse']:.2f} | {r['verdict']} | {published} | "
            f"{r['cpu_seconds']:.0f} ({r['wall_seconds']:.0f}) |"
        )
    return "\n".join([*lines, "", *(f"- {note}" for note in result["notes"]), ""])


def notes(rows: list[dict[str, Any]], how: str) -> list[str]:
    found = [
        "± is the standard error over the 10,000 test images. The bracket is of log Z; the bound "
        "lies below log p by what mean field or recognition miss, on top of it.",
        f"Training: {STEPS['dbm']} updates (DBM), {STEPS['layers']} (layers of the DBN), "
        f"{STEPS['fine']} (wake and sleep), on 50,000 images, in bfloat16 products, on a core "
        "shared with other work: CPU seconds are the fair measure.",
        "The published numbers are of stochastically binarized pixels and forward annealing alone.",
    ]
    if how != "stochastic":
        found.append(
            f"Binarization {how} has another entropy: nothing here can be compared with the "
            "published numbers."
        )
    for r in rows:
        if "gain_of_100_draws" in r:
            found.append(
                f"{r['name']}: 100 draws weighed together raise the bound by "
                f"{r['gain_of_100_draws']:.2f} nats."
            )
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--binarize", choices=("threshold", "stochastic", "fixed"), default="threshold"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/deep-boltzmann"))
    parser.add_argument("--num-temperatures", type=int, default=1500)
    parser.add_argument("--only", choices=("dbm", "dbn"), help="train and judge one model")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--core", type=int, default=0)
    options = parser.parse_args(arguments)
    pin(options.core)
    torch.set_num_threads(1)
    data = lowland.load_data("mnist", binarize=options.binarize)
    runs, rows = options.runs / options.binarize, []
    if options.only != "dbn":
        dbm = trained_dbm(data, runs / "dbm", options.binarize)
        rows.append(judge_dbm(dbm, data, options.num_temperatures, seconds(runs / "dbm")))
    if options.only != "dbm":
        rows += dbn_rows(data, runs, options.num_temperatures)
    name = "deep-boltzmann" + ("" if options.binarize == "threshold" else f"-{options.binarize}")
    name += f"-{options.only}" if options.only else ""
    result = circumstances() | {
        "data": data.binarization_note,
        "rows": rows,
        "notes": notes(rows, options.binarize),
    }
    write_record(options.out / f"{name}.json", result)
    (options.out / f"{name}.md").write_text(markdown(result), encoding="utf-8")
    print(markdown(result))


def dbn_rows(data: Dataset, runs: Path, num_temperatures: int) -> list[dict[str, Any]]:
    """The first layer alone, the greedy net, and the net after wake and sleep."""
    net = greedy_dbn(data, runs / "dbn")
    cpu = json.loads((runs / "dbn" / "cpu.json").read_text())
    walls = [
        Run.open(runs / "dbn" / f"layer-{k}").rows("time.jsonl")[-1]["seconds"] for k in (1, 2)
    ]
    share = cpu * walls[0] / sum(walls)
    rows = [judge_rbm(net, data, num_temperatures, (share, walls[0]))]
    rows.append(judge_dbn("DBN 500-2000, greedy", net, data, num_temperatures, (cpu, sum(walls))))
    fine = fine_dbn(net, data, runs / "fine")
    more = seconds(runs / "fine")
    rows.append(
        judge_dbn(
            "DBN 500-2000", fine, data, num_temperatures, (cpu + more[0], sum(walls) + more[1])
        )
    )
    return rows


if __name__ == "__main__":
    main()
