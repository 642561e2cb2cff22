"""What a restricted Boltzmann machine of 500 hidden units is worth on MNIST, in nats between two
bounds.

    python -m benchmarks.quality.rbm_mnist train                 all runs that are missing,
    resumable, in
                                                         runs/
    python -m benchmarks.quality.rbm_mnist evaluate              the table of runs/, in
                                                         results/quality/rbm-mnist.{json,md}
    python -m benchmarks.quality.rbm_mnist train evaluate --only threshold-0 exact-0

The runs are the recipe `mnist-rbm` with three binarizations and three seeds each; the same three
times as long with one seed each (`long`); 16 hidden units, where log Z is exact (`exact`); and a
quarter as long in float32 and bfloat16 (`float32`, `bfloat16`). Everything is read back from the
run directories. Seconds are those of the log: on one thread of a shared machine.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import lowland
from benchmarks.machine import machine
from benchmarks.quality import RESULTS
from benchmarks.record import read_record, write_record
from lowland.data import Dataset
from lowland.metrics import log_likelihood, log_z
from lowland.samplers import BlockGibbs, ParallelTempering, run_chains
from lowland.training import load_recipe_data

RUNS = Path("runs")
BINARIZATIONS = ("threshold", "stochastic", "fixed")
LADDER = tuple(
    1 / beta for beta in (1.0, 0.95, 0.9, 0.85, 0.8, 0.74, 0.68, 0.6, 0.5, 0.38, 0.22, 0.02)
)


def plan() -> dict[str, dict[str, Any]]:
    """All runs: name to what it changes in the recipe."""
    found: dict[str, dict[str, Any]] = {}
    for seed in range(3):
        for kind in BINARIZATIONS:
            found[f"{kind}-{seed}"] = {"data.binarize": kind, "data.seed": 0, "seed": seed}
    for seed in range(3):
        found[f"exact-{seed}"] = {"energy.n_hidden": 16, "data.seed": 0, "seed": seed}
    for seed in range(3):
        for precision in ("float32", "bfloat16"):
            changes = {
                "training.precision": precision,
                "training.steps": 5000,
                "data.seed": 0,
                "seed": seed,
            }
            found[f"{precision}-{seed}"] = changes
    for kind in BINARIZATIONS:
        found[f"long-{kind}-0"] = {
            "data.binarize": kind,
            "training.steps": 60_000,
            "training.checkpoint_every": 5000,
        }
    return found


def train(name: str, changes: dict[str, Any]) -> None:
    """Train a run, or go on with it."""
    path = RUNS / f"mnist-rbm-{name}"
    if (path / "recipe.json").exists():
        recipe = lowland.Run.open(path).recipe
        if lowland.Run.open(path).steps()[-1:] == [recipe["training"]["steps"]]:
            return
    else:
        recipe = lowland.read_recipe("mnist-rbm", changes).plain()
    lowland.train_recipe(recipe, path, progress=False)


def bracket(
    energy: Any,
    data: Dataset,
    seed: int,
    num_temperatures: int,
    chains: int,
    draws: Tensor | None = None,
) -> Any:
    """Test log-likelihood with both ends, reverse chains from data and forward ends unless draws
    are given.
    """
    found = log_z(
        energy,
        data=data.train.x[:10_000].round(),
        draws=draws,
        chains=chains,
        num_temperatures=num_temperatures,
        warm_up=3000,
        generator=torch.Generator().manual_seed(1000 + seed),
    )
    return log_likelihood(energy, data.test.x, found, binarization=data.binarization_note)


def evaluate(name: str, num_temperatures: int, chains: int) -> dict[str, Any]:
    """One row of the table."""
    path = RUNS / f"mnist-rbm-{name}"
    model = lowland.load(path)
    energy, recipe = model.energy, model.recipe
    data = load_recipe_data(recipe)
    found = bracket(energy, data, recipe["seed"], num_temperatures, chains)
    times = lowland.Run.open(path).rows("time.jsonl")
    updates = recipe["training"]["steps"]
    row = {
        "name": name,
        "updates": updates,
        "seconds": times[-1]["seconds"],
        "epochs": updates * recipe["training"]["batch"] / len(data.train),
        "binarization": data.binarization_note,
        **{key: getattr(found, key) for key in ("value", "error", "lower", "upper", "certified")},
        "method": found.log_z.method,
        "problems": list(found.log_z.problems),
    }
    if found.log_z.forward is not None:
        row |= {
            "forward": found.value + found.log_z.value - found.log_z.forward.value,
            "reverse": found.value + found.log_z.value - found.log_z.reverse.value,
            "forward_error": found.log_z.forward.error,
            "reverse_error": found.log_z.reverse.error,
            "forward_ess": found.log_z.forward.ess,
            "reverse_ess": found.log_z.reverse.ess,
            "rhat": found.log_z.rhat,
            "num_temperatures": found.log_z.num_temperatures,
            "chains": found.log_z.chains,
        }
    return row


# -------------------------------------------------------------------------- have chains lost modes?


def sources(name: str, sweeps: int, count: int) -> dict[str, Tensor]:
    """Draws of one model by four roads that share nothing but the model."""
    path = RUNS / f"mnist-rbm-{name}"
    model = lowland.load(path)
    energy, recipe = model.energy, model.recipe
    data, g = load_recipe_data(recipe), torch.Generator().manual_seed(5)
    kept = lowland.Run.open(path).load_checkpoint().tensors["chains"]["x"][:count]
    gibbs, share = BlockGibbs(sweeps), data.train.x.mean(0)
    starts = {
        "training chains": kept,
        "data": (torch.rand(count, *share.shape, generator=g) < data.train.x[:count]).float(),
        "independent pixels": (torch.rand(count, *share.shape, generator=g) < share).float(),
    }
    with torch.no_grad():
        found = {
            f"{sweeps} sweeps from {n}": run_chains(energy, gibbs, x, 1, generator=g).x
            for n, x in starts.items()
        }
        tempered = ParallelTempering(BlockGibbs(), LADDER)
        trace = run_chains(energy, tempered, starts["independent pixels"], sweeps, generator=g)
    rates = trace.state.tempering.swap_rates
    trips = trace.state.tempering.round_trips.double().mean().item()
    words = (
        f"{sweeps} sweeps of parallel tempering from independent pixels, {len(LADDER)} temperatures"
    )
    print(
        f"swap rates {rates.min():.2f} to {rates.max():.2f}, {trips:.1f} round trips a chain",
        flush=True,
    )
    swaps = f"swaps {rates.min():.2f} to {rates.max():.2f}, {trips:.1f} round trips a chain"
    return found | {f"{words} ({swaps})": trace.x}


def modes(name: str, sweeps: int, count: int) -> list[dict[str, Any]]:
    """Per source: the digits its draws are called by the nearest training image, their mean energy,
    the reverse estimate.
    """
    path = RUNS / f"mnist-rbm-{name}"
    model = lowland.load(path)
    energy, recipe = model.energy, model.recipe
    data = load_recipe_data(recipe)
    near, labels = data.train.x[:10_000].flatten(1).round(), data.train.y[:10_000]
    rows = []
    for words, x in sources(name, sweeps, count).items():
        nearest = torch.cdist(x.flatten(1), near).argmin(1)
        counts = torch.bincount(labels[nearest], minlength=10)
        with torch.no_grad():
            values = energy(x)
        found = bracket(energy, data, 7, 2000, count, draws=x)
        reverse = found.value + found.log_z.value - found.log_z.reverse.value
        rows.append(
            {
                "source": words,
                "digits": counts.tolist(),
                "energy": values.mean().item(),
                "energy_error": values.std().item() / math.sqrt(count),
                "reverse": reverse,
                "reverse_error": found.log_z.reverse.error,
            }
        )
        print(rows[-1], flush=True)
    return rows


def curve(name: str, num_temperatures: int, chains: int) -> list[dict[str, Any]]:
    """The likelihood at the checkpoints of a run against the seconds that they took."""
    path = RUNS / f"mnist-rbm-{name}"
    run = lowland.Run.open(path)
    data = load_recipe_data(run.recipe)
    seconds = {row["step"]: row["seconds"] for row in run.rows("time.jsonl")}
    rows = []
    for step in run.steps():
        if step:
            energy = lowland.load(path, step=step).energy
            found = bracket(energy, data, 0, num_temperatures, chains)
            rows.append(
                {
                    "updates": step,
                    "seconds": seconds[step],
                    "value": found.value,
                    "lower": found.lower,
                    "upper": found.upper,
                }
            )
            print(rows[-1], flush=True)
    return rows


# -------------------------------------------------------------------------------------------- pages


def page(report: dict[str, Any]) -> str:
    """The report in words and tables."""
    lines = [
        "# Restricted Boltzmann machines on MNIST",
        "",
        *(f"- {k}: {v}" for k, v in report["machine"].items()),
        "",
    ]
    lines += ["Recipe `mnist-rbm`: " + report["settings"], ""]
    lines += [
        "Mean test log-likelihood in nats over 10,000 test images. *Forward* annealed importance "
        "sampling flatters (its error"
    ]
    lines += [
        "is on the side of too high a likelihood), *reverse* does the opposite; the bracket of "
        "both holds with 95 %."
    ]
    lines += [
        "",
        "| run | updates (epochs) | seconds | temperatures × chains | forward | reverse | "
        "bracket | width "
        "| verdict |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in report["rows"].values():
        width = row["upper"] - row["lower"]
        ends = (
            f"{row['forward']:.2f} | {row['reverse']:.2f}"
            if "forward" in row
            else f"exact {row['value']:.2f} | exact"
        )
        work = (
            f"{row['num_temperatures']:,} × {row['chains']}"
            if "num_temperatures" in row
            else "all states"
        )
        verdict = "certified" if row["certified"] else "; ".join(row["problems"])
        lines.append(
            f"| {row['name']} | {row['updates']:,} ({row['epochs']:.0f}) | {row['seconds']:.0f} | "
            f"{work} | {ends} | [{row['lower']:.2f}, {row['upper']:.2f}] | {width:.2f} | {verdict} "
            "|"
        )
    lines += [
        "",
        "Binarizations: "
        + "; ".join(
            sorted(
                {
                    f"*{r['name'].rsplit('-', 1)[0]}*: {r['binarization']}"
                    for r in report["rows"].values()
                }
            )
        ),
    ]
    for title, rows in report["modes"].items():
        lines += ["", f"## Have the reverse chains lost modes? ({title})", ""]
        lines += [
            "| draws | nearest training image is a 0, 1, ..., 9 | mean energy | reverse estimate |",
            "|---|---|---|---|",
        ]
        for row in rows:
            lines.append(
                f"| {row['source']} | {' '.join(map(str, row['digits']))} | {row['energy']:.2f} ± "
                f"{row['energy_error']:.2f} | {row['reverse']:.2f} ± {row['reverse_error']:.2f} |"
            )
    for title, rows in report["curves"].items():
        lines += [
            "",
            f"## Against time ({title})",
            "",
            "| updates | seconds | likelihood | bracket |",
            "|---|---|---|---|",
        ]
        for row in rows:
            lines.append(
                f"| {row['updates']:,} | {row['seconds']:.0f} | {row['value']:.2f} | "
                f"[{row['lower']:.2f}, {row['upper']:.2f}] |"
            )
    return "\n".join(lines) + "\n"


def settings() -> str:
    """The recipe in a sentence, read from the recipe."""
    recipe = lowland.read_recipe("mnist-rbm").plain()
    o, t, k = recipe["objective"], recipe["training"], recipe["sampler"]["sweeps"]
    return (
        f"{recipe['energy']['n_hidden']} hidden units, centred gradient, PCD-{k} with "
        f"{o['num_chains']} persistent chains, batch {t['batch']}, SGD at {t['learning_rate']} "
        f"falling linearly to 0 over {t['steps']:,} updates, no momentum, no weight decay, mean of "
        f"the weights of the last {t['tail_average_fraction']:.0%}, products in {t['precision']}, "
        "visible biases and offsets from the training part (50,000 of the 60,000 images; 10,000 "
        "are kept for calibration)."
    )


def update(out: Path, part: str, name: str, found: Any) -> None:
    """Put one finding into the files, which may have been written by others since."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / "rbm-mnist.json"
    report = read_record(file, {"rows": {}, "modes": {}, "curves": {}})
    report |= {"machine": machine(), "settings": settings()}
    report[part][name] = found
    report[part] = {name: report[part][name] for name in plan() if name in report[part]}
    write_record(file, report)
    (out / "rbm-mnist.md").write_text(page(report))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="+", choices=["train", "evaluate", "modes", "curve"])
    parser.add_argument("--only", nargs="*", default=None, help="names of runs")
    parser.add_argument("--num-temperatures", type=int, default=20_000)
    parser.add_argument("--chains", type=int, default=160)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs = {
        name: changes
        for name, changes in plan().items()
        if options.only is None or name in options.only
    }
    if "train" in options.what:
        for name, changes in runs.items():
            train(name, changes)
    for name in runs:
        if not (RUNS / f"mnist-rbm-{name}").exists():
            continue
        if "evaluate" in options.what:
            row = evaluate(name, options.num_temperatures, options.chains)
            print(row, flush=True)
            update(options.out, "rows", name, row)
        if "modes" in options.what:
            update(options.out, "modes", name, modes(name, 3000, options.chains))
        if "curve" in options.what:
            update(
                options.out,
                "curves",
                name,
                curve(name, min(options.num_temperatures, 2000), options.chains),
            )


if __name__ == "__main__":
    main()
