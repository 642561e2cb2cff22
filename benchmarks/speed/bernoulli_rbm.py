"""The library's RBM beside scikit-learn's BernoulliRBM, for the same processor time: likelihoods
and features.

    python -m benchmarks.speed.bernoulli_rbm [digits] [mnist] [--seeds 5] [--core 0]

Both get the same binary images (threshold 0.5), the same number of hidden units, float32, and the
same seconds of one core, measured as processor time, since others may share the core. BernoulliRBM
is stepped by its own `_fit`, the body of the loop of its `fit`, until the time is over; ours is
`lowland.interop.sklearn.RBM`, with as many passes over the data as a trial says will fit, since its
rate falls to zero at the end. The settings of both are chosen among a few on the calibration part
with a seed of their own, in the same time on digits, where late updates overfit, and a third of it
on MNIST.

*Likelihood.* log Z of both by the same `log_z`, BernoulliRBM's weights loaded into our machine;
mean log p of the test part. *Features.* Accuracy on the test part of a logistic regression on P(h |
x), its penalty chosen on the calibration part. Writes
benchmarks/results/speed/bernoulli-rbm.{json,md}.
"""

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import BernoulliRBM
from sklearn.utils import gen_even_slices

from benchmarks.machine import circumstances, pin
from benchmarks.record import read_record, write_record
from benchmarks.speed import RESULTS
from lowland import binary, nets
from lowland.data import load_data
from lowland.interop.sklearn import RBM
from lowland.metrics import log_likelihood, log_z

TUNING_SEED = 1000
PENALTIES = (0.1, 1.0, 10.0)
Array = NDArray[Any]
Settings = Mapping[str, Any]


class Table(NamedTuple):
    """Hidden units, seconds for each machine, seconds of a trial of settings, examples for logistic
    regression.
    """

    hidden: int
    seconds: float
    trial: float
    labelled: int


TABLES = {"digits": Table(128, 5.0, 5.0, 2000), "mnist": Table(256, 12.0, 4.0, 5000)}
NUM_TEMPERATURES = 4000  # of annealed importance sampling; a quarter for choosing settings
THEIRS = [
    {"learning_rate": 0.01, "batch_size": 10},
    {"learning_rate": 0.05, "batch_size": 10},
    {"learning_rate": 0.05, "batch_size": 100},
    {"learning_rate": 0.1, "batch_size": 100},
]
OURS: list[dict[str, Any]] = [
    {"learning_rate": 1.0, "batch_size": 128, "n_chains": 128, "gibbs_steps": 1},
    {"learning_rate": 0.3, "batch_size": 128, "n_chains": 128, "gibbs_steps": 1},
    {"learning_rate": 0.3, "batch_size": 128, "n_chains": 256, "gibbs_steps": 3},
]
WAYS = {"BernoulliRBM": THEIRS, "lowland": OURS}


class Trained(NamedTuple):
    """A machine of ours, whoever trained it; seconds of processor time and passes over the data."""

    energy: nets.RBM
    seconds: float
    passes: float


def adopted(weight: Array, visible: Array, hidden: Array) -> nets.RBM:
    """Our machine with these weights (D, H) and biases."""
    energy = nets.RBM(binary(len(visible)), len(hidden))
    for name, values in (("weight", weight), ("visible_bias", visible), ("hidden_bias", hidden)):
        getattr(energy, name).data.copy_(torch.from_numpy(np.ascontiguousarray(values)))
    return energy.eval().requires_grad_(False)


def theirs(x: Array, hidden: int, seconds: float, seed: int, settings: Settings) -> Trained:
    """BernoulliRBM for so many seconds."""
    model = BernoulliRBM(hidden, n_iter=0, random_state=seed, **settings).fit(x)
    rng = np.random.RandomState(seed)
    count = -(-len(x) // model.batch_size)
    parts = list(gen_even_slices(count * model.batch_size, count, n_samples=len(x)))
    done, began = 0, time.process_time()
    while time.process_time() - began < seconds:
        model._fit(x[parts[done % count]], rng)
        done += 1
    spent = time.process_time() - began
    energy = adopted(model.components_.T, model.intercept_visible_, model.intercept_hidden_)
    return Trained(energy, spent, done / count)


def ours(x: Array, hidden: int, seconds: float, seed: int, settings: Settings) -> Trained:
    """Our machine, with so many passes as fit into the seconds by the measure of a trial."""
    options: dict[str, Any] = {"likelihood": False, "random_state": seed, **settings}
    rows = x[: max(len(x) // 10, 1000)]
    RBM(hidden, n_iter=1, **options).fit(rows)
    began = time.process_time()
    RBM(hidden, n_iter=2, **options).fit(rows)
    passes = max(int(seconds / (time.process_time() - began) * 2 * len(rows) / len(x)), 1)
    began = time.process_time()
    model = RBM(hidden, n_iter=passes, **options).fit(x)
    return Trained(model.energy_, time.process_time() - began, passes)


TRAIN = {"BernoulliRBM": theirs, "lowland": ours}


def features(energy: nets.RBM, x: Array) -> Array:
    with torch.no_grad():
        found: Array = energy.hidden_mean(torch.from_numpy(x)).numpy()
    return found


def accuracy(energy: nets.RBM, data: Any, labelled: int) -> float:
    """Of a logistic regression on hidden features."""
    sets = {
        name: (features(energy, split.x[:labelled] if name == "train" else split.x), split.y)
        for name, split in data.items()
    }
    x, y = sets["train"][0], sets["train"][1][:labelled]
    fits = [LogisticRegression(C=penalty, max_iter=300).fit(x, y) for penalty in PENALTIES]
    best = max(fits, key=lambda fit: fit.score(*sets["calibration"]))
    return float(best.score(*sets["test"]))


def likelihood(
    energy: nets.RBM, data: Any, part: str, num_temperatures: int, seed: int
) -> dict[str, Any]:
    """Mean log p of a part, with its certificate."""
    tensors = {name: torch.from_numpy(split.x) for name, split in data.items()}
    g = torch.Generator().manual_seed(seed)
    known = log_z(
        energy,
        data=tensors["train"][:5000],
        chains=100,
        num_temperatures=num_temperatures,
        generator=g,
    )
    found = log_likelihood(energy, tensors[part], known, binarization="threshold 0.5").to_dict()
    return {key: found[key] for key in ("value", "error", "lower", "upper", "certified")}


class Part(NamedTuple):
    """x (N, D) float32 of zeros and ones, y (N,)."""

    x: Array
    y: Array


def parts(name: str) -> dict[str, Part]:
    data = load_data(name, binarize="threshold")
    return {
        part: Part(split.x.flatten(1).numpy(), split.y.numpy())
        for part, split in data.splits()
        if split.y is not None
    }


def tuned(data: dict[str, Part], table: Table) -> Iterator[tuple[str, dict[str, Any]]]:
    """For each way its settings with the likelihood that each reached on the calibration part, best
    first.
    """
    for way, choices in WAYS.items():
        tried = []
        for settings in choices:
            made = TRAIN[way](data["train"].x, table.hidden, table.trial, TUNING_SEED, settings)
            reached = likelihood(
                made.energy, data, "calibration", NUM_TEMPERATURES // 4, TUNING_SEED
            )["value"]
            tried.append({"settings": settings, "likelihood": reached})
            print(
                f"  {way} {settings}: {reached:.2f} after {made.seconds:.1f} s",
                file=sys.stderr,
                flush=True,
            )
        yield way, {"tried": sorted(tried, key=lambda one: -one["likelihood"])}


def compared(name: str, seeds: int, scale: float) -> Iterator[dict[str, Any]]:
    """Everything about one data set, after each seed. scale: of seconds and temperatures."""
    data, table = parts(name), TABLES[name]
    num_temperatures = round(NUM_TEMPERATURES * scale)
    table = table._replace(seconds=table.seconds * scale, trial=table.trial * scale)
    print(name, file=sys.stderr, flush=True)
    record: dict[str, Any] = {
        "table": table._asdict(),
        "num_temperatures": num_temperatures,
        "ways": dict(tuned(data, table)),
    }
    for way in WAYS:
        record["ways"][way]["rounds"] = []
    for seed in range(seeds):
        for way in list(WAYS)[:: 1 if seed % 2 == 0 else -1]:
            settings = record["ways"][way]["tried"][0]["settings"]
            made = TRAIN[way](data["train"].x, table.hidden, table.seconds, seed, settings)
            found = likelihood(made.energy, data, "test", num_temperatures, seed)
            right = accuracy(made.energy, data, table.labelled)
            row = {
                "seconds": made.seconds,
                "passes": made.passes,
                "likelihood": found,
                "accuracy": right,
            }
            record["ways"][way]["rounds"].append(row)
            print(f"  seed {seed}, {way}: {row}", file=sys.stderr, flush=True)
        yield record


def cell(values: list[float], digits: int = 2) -> str:
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def markdown(record: Mapping[str, Any]) -> str:
    """The page. Means over seeds with their standard deviation; the verdict is that of the
    differences, seed by seed.
    """
    lines = ["# RBM beside scikit-learn's BernoulliRBM, for equal processor time", ""]
    lines += [f"`{record['command']}`, {record['date']}", ""]
    for name, found in record["data"].items():
        table, ways = found["table"], found["ways"]
        lines += [
            f"## {name}, threshold 0.5: {table['hidden']} hidden units, {table['seconds']:g} s of "
            "one core",
            "",
        ]
        lines += [
            "| | passes | seconds | test log p (nats) | widest bracket | certified | accuracy of "
            "logistic regression |"
        ]
        lines += ["|---|---:|---:|---:|---:|---:|---:|"]
        for way, rows in ((way, ways[way]["rounds"]) for way in ways):
            values = [row["likelihood"] for row in rows]
            width = max(one["upper"] - one["lower"] for one in values)
            sure = f"{sum(one['certified'] for one in values)} of {len(values)}"
            cells = [
                cell([row["passes"] for row in rows], 1),
                cell([row["seconds"] for row in rows], 1),
            ]
            cells += [cell([one["value"] for one in values]), f"{width:.2f}", sure]
            cells += [cell([100 * row["accuracy"] for row in rows]) + " %"]
            lines.append(f"| {way} | " + " | ".join(cells) + " |")
        lines += ["", *verdicts(ways), ""]
        for way in ways:
            best, *others = ways[way]["tried"]
            told = "; ".join(
                f"{one['settings']}: {one['likelihood']:.2f}" for one in [best, *others]
            )
            lines += [
                f"{way}, calibration part after {table['trial']:g} s, best first: {told}.",
                "",
            ]
    lines += [f"{key}: {value}" for key, value in record["machine"].items()]
    return "\n".join(lines) + "\n"


def verdicts(ways: Mapping[str, Any]) -> list[str]:
    """Lowland less BernoulliRBM, paired by seed."""
    said = []
    for what, digits, of in (
        ("nats", 2, lambda row: row["likelihood"]["value"]),
        ("points of accuracy", 2, lambda row: 100 * row["accuracy"]),
    ):
        theirs, ours = ([of(row) for row in ways[way]["rounds"]] for way in WAYS)
        gains = [b - a for a, b in zip(theirs, ours, strict=True)]
        better = sum(gain > 0 for gain in gains)
        said.append(f"{cell(gains, digits)} {what}, better with {better} of {len(gains)} seeds")
    return [f"lowland less BernoulliRBM: {'; '.join(said)}."]


def main() -> None:
    parser = argparse.ArgumentParser(
        description="lowland's RBM beside scikit-learn's, for equal processor time"
    )
    parser.add_argument("data", nargs="*", default=list(TABLES), help="digits, mnist")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--scale", type=float, default=1.0, help="of all seconds and of the temperatures (1)"
    )
    parser.add_argument("--core", type=int, default=0)
    options = parser.parse_args()
    pin(options.core)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)
    path = RESULTS / "bernoulli-rbm.json"
    known = read_record(path, {"data": {}})["data"]
    for name in options.data:
        for found in compared(name, options.seeds, options.scale):
            known[name] = found
            about = circumstances()
            record = about | {
                "data": known,
                "machine": about["machine"] | {"versions": about["versions"]},
            }
            write_record(path, record)
            path.with_suffix(".md").write_text(markdown(record))


if __name__ == "__main__":
    main()
