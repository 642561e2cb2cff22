"""What sampling in bfloat16 costs in quality, and what it saves: `sample(...,
precision="bfloat16")` against float32.

    python -m benchmarks.quality.recipe mnist-pcd; python -m benchmarks.quality.recipe
    fashion-mnist-pcd  # trains
                                                                                            the
                                                                                            runs,
                                                                                            once
    python -m benchmarks.proof.bfloat16

*Images.* Each run's own recipe of generation, from the same starts with the same noise in both
precisions, several seeds. The judge of `lowland evaluate` (a classifier of real images), distances
to the nearest training image, and the squared MMD between sets of different seeds, beside that of
float32 sets with each other. A permutation test shuffles, within classes, which set an image came
from: half of the seeds in float32, the other half in bfloat16. That these judges can see a loss is
shown by a control, float32 with a quarter of the steps.

*Truth.* A convolution whose distribution is Gaussian and known: E(x) = ½ ‖w ∗ x − b‖² + a/2 ‖x‖² on
8 × 8 images. The stationary distribution of Langevin with step h is known too (variance 1 / λ(1 −
hλ/2) along an eigenvector of Λ); MALA must have that of E itself. Writes
benchmarks/results/proof/bfloat16.{json,md}.
"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Sequence
from itertools import combinations, permutations
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import conv2d

import lowland
from benchmarks.machine import circumstances, pin
from benchmarks.proof import RESULTS
from benchmarks.record import write_record
from lowland import real
from lowland.energy import Energy
from lowland.metrics import class_entropy, mmd, nearest
from lowland.tasks import balanced_labels
from lowland.trained import Model, load
from lowland.training import ImageClassifier, train_classifier

RUNS = ("runs/quality-mnist-pcd-0", "runs/quality-fashion-mnist-pcd-0")
SHUFFLES = 999
CONTROL = "a quarter of the steps"
PRECISIONS = ("float32", "bfloat16")
WAYS = (*PRECISIONS, CONTROL)


class Made(NamedTuple):
    """Images (N, *event) of a seed, the labels asked for, and the seconds they took."""

    x: Tensor
    labels: Tensor
    seconds: float


def generated(s: Model, count: int, seed: int, way: str) -> Made:
    """The run's generation section, in a precision or cut short: start and noise depend on the seed
    alone.
    """
    how = s.recipe["generation"]
    if (
        how["start"] != "noise"
        or how["temperatures"] != [1.0]
        or how["denoise_sigma"]
        or s.sigmas
        or not s.classes
    ):
        raise ValueError(
            f"{s.run.path} generates by {how}; here it must be plain chains from noise, by class; "
            "choose another run"
        )
    g = torch.Generator().manual_seed(seed)
    start, labels = s.energy.domain.draw(count, g), balanced_labels(count, s.classes)
    assert labels is not None
    energy, steps = s.energy.given(labels), how["steps"] // 4 if way == CONTROL else how["steps"]
    began = time.perf_counter()
    trace = lowland.sample(
        energy,
        s.sampler,
        start,
        steps,
        generator=g,
        precision="bfloat16" if way == "bfloat16" else "float32",
    )
    return Made(trace.x, labels, time.perf_counter() - began)


def figures(s: Model, judge: ImageClassifier, made: Made, usual: float) -> dict[str, float]:
    """What the judge and the training images say of one set. usual: the median distance of test
    images.
    """
    sure, called = judge.probabilities(made.x).max(1)
    return {
        "called a class with confidence > 0.9": (sure > 0.9).float().mean().item(),
        "called the class asked for": (called == made.labels).float().mean().item(),
        "class entropy / maximum": class_entropy(called, s.data.classes),
        "neighbour distance / that of test images": nearest(made.x, s.data.train.x)[0]
        .median()
        .item()
        / usual,
        "energy": lowland.energy_values(s.energy, made.x, made.labels).mean().item(),
    }


def permutation_p(a: Made, b: Made, features: Tensor, bandwidth: float, seed: int = 0) -> float:
    """The share of shufflings within classes that are as far apart as a and b are; uniform where
    their distributions are equal.

    features: (len(a) + len(b), d).
    """
    g = torch.Generator().manual_seed(seed)
    labels, first = torch.cat([a.labels, b.labels]), len(a.x)
    kernel = torch.exp(-torch.cdist(features, features).square() / (2 * bandwidth**2))
    kernel.fill_diagonal_(0)

    def distance(order: Tensor) -> float:
        sign = torch.full((len(order),), -1.0 / (len(order) - first), dtype=kernel.dtype)
        sign[order[:first]] = 1.0 / first
        return float(sign @ kernel @ sign)

    order = torch.arange(len(labels))
    found, beyond = distance(order), 0
    places = [(labels == label).nonzero().squeeze(1) for label in labels.unique()]
    for _ in range(SHUFFLES):
        for place in places:
            order[place] = place[torch.randperm(len(place), generator=g)]
        beyond += distance(order) >= found
    return (beyond + 1) / (SHUFFLES + 1)


def joined(sets: Sequence[Made]) -> Made:
    return Made(
        torch.cat([one.x for one in sets]),
        torch.cat([one.labels for one in sets]),
        sum(one.seconds for one in sets),
    )


def distances(sets: dict[str, list[Made]], features: Any) -> dict[str, Any]:
    """Squared MMD of sets of different seeds, within float32 and from float32 to the others, in a
    space of features.
    """
    rows = {way: [features(made.x).flatten(1).double() for made in sets[way]] for way in WAYS}
    f32, half = rows["float32"], len(rows["float32"]) // 2
    width = torch.pdist(torch.cat(f32)[:1000]).median().item()
    found: dict[str, Any] = {
        "float32": {"mmd": [mmd(a, b, width).value for a, b in combinations(f32, 2)]}
    }
    for way in WAYS[1:]:
        across = [
            mmd(f32[i], rows[way][j], width).value for i, j in permutations(range(len(f32)), 2)
        ]
        a, b = joined(sets["float32"][:half]), joined(sets[way][half:])
        found[way] = {
            "mmd": across,
            "p": permutation_p(a, b, torch.cat([*f32[:half], *rows[way][half:]]), width),
        }
    return found


def judge_run(path: str, count: int, seeds: Sequence[int]) -> dict[str, Any]:
    """Sets of all seeds in both precisions, taken in turn, the control, and what is said of
    them.
    """
    s = load(path)
    sets: dict[str, list[Made]] = {way: [] for way in WAYS}
    for precision in PRECISIONS:
        generated(s, 8, 0, precision)  # warm-up
    for i, seed in enumerate(seeds):
        for way in WAYS if i % 2 == 0 else WAYS[::-1]:
            sets[way].append(generated(s, count, seed, way))
            print(
                f"{path}, seed {seed}, {way}: {sets[way][-1].seconds:.1f} s",
                file=sys.stderr,
                flush=True,
            )
    judge = train_classifier(
        s.data.train, s.data.classes, steps=s.recipe["evaluation"]["classifier_steps"]
    ).eval()
    usual = nearest(s.data.test.x[:500], s.data.train.x)[0].median().item()
    found = {way: [figures(s, judge, made, usual) for made in sets[way]] for way in WAYS}
    rows = {}
    for name in found["float32"][0]:
        values = {way: [one[name] for one in found[way]] for way in WAYS}
        pairs = zip(values["float32"], values["bfloat16"], strict=True)
        rows[name] = values | {"difference": [b - a for a, b in pairs]}
    moved = (
        torch.cat([b.x - a.x for a, b in zip(sets["float32"], sets["bfloat16"], strict=True)])
        .flatten(1)
        .norm(dim=1)
    )
    apart = (
        torch.cat([a.x - b.x for a, b in combinations(sets["float32"], 2)]).flatten(1).norm(dim=1)
    )
    seconds = {way: [made.seconds for made in sets[way]] for way in PRECISIONS}
    with torch.no_grad():
        return {
            "run": path,
            "images": count,
            "steps": s.recipe["generation"]["steps"],
            "seeds": list(seeds),
            "figures": rows,
            "mmd": {
                "pixels": distances(sets, lambda x: x),
                "the judge's logits": distances(sets, judge),
            },
            "distance of pairs / distance of seeds": float(moved.median() / apart.median()),
            "seconds": seconds,
            "float32 / bfloat16": [a / b for a, b in zip(*seconds.values(), strict=True)],
        }


class Convolved(Energy):
    """E(x) = ½ ‖w ∗ x − b‖² + a/2 ‖x‖² on 8 × 8 images: a convolution, whose distribution is
    N(mean, Λ⁻¹)."""

    weight: Tensor
    bias: Tensor

    def __init__(self, pull: float = 0.5) -> None:
        super().__init__(real(1, 8, 8))
        g = torch.Generator().manual_seed(0)
        self.pull = pull
        self.register_buffer("weight", torch.randn(8, 1, 3, 3, generator=g) / 3)
        self.register_buffer("bias", torch.randn(8, generator=g))

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        y = conv2d(x, self.weight, -self.bias, padding=1)
        return 0.5 * y.float().square().flatten(1).sum(1) + 0.5 * self.pull * x.square().flatten(
            1
        ).sum(1)

    def distribution(self) -> tuple[Tensor, Tensor, Tensor]:
        """Eigenvalues (64,) and eigenvectors (64, 64) of Λ, and the mean (64,), float64."""
        every = torch.eye(64, dtype=torch.float64).view(64, 1, 8, 8)
        columns = conv2d(every, self.weight.double(), padding=1).flatten(1)
        precision = columns @ columns.T + self.pull * torch.eye(64, dtype=torch.float64)
        flat = self.bias.double().view(1, 8, 1, 1).expand(1, 8, 8, 8).reshape(-1)
        return *torch.linalg.eigh(precision), torch.linalg.solve(precision, columns @ flat)


class Axes:
    """Keeps, per chain, the means over time of all coordinates along the eigenvectors and of their
    squares: (2, B, 64).
    """

    name = "axes"

    def __init__(self, vectors: Tensor, centre: Tensor) -> None:
        self.vectors, self.centre, self.count = vectors, centre, 0
        self.total: Any = 0.0

    def start(self, state: Any, steps: int) -> "Axes":
        return self

    def add(self, step: int, state: Any, info: Any) -> None:
        z = (state.x.flatten(1).double() - self.centre) @ self.vectors
        self.total, self.count = self.total + torch.stack([z, z.square()]), self.count + 1

    def result(self) -> Tensor:
        return self.total / self.count


def toy(chains: int, steps: int) -> list[dict[str, Any]]:
    """Langevin and MALA on the known distribution in both precisions: errors in standard errors
    and in parts
    of the truth.
    """
    energy = Convolved()
    values, vectors, centre = energy.distribution()
    h = 0.5 / values[-1].item()
    distributions = {"Langevin": 1 / (values * (1 - h * values / 2)), "MALA": 1 / values}
    rows = []
    for sampler in (lowland.Langevin(h), lowland.MALA(h)):
        truth = distributions[type(sampler).__name__]
        totals = {}
        for precision in PRECISIONS:
            g = torch.Generator().manual_seed(1)
            start = (
                centre
                + torch.randn(chains, 64, generator=g, dtype=torch.float64)
                * truth.sqrt()
                @ vectors.T
            ).float()
            trace = lowland.sample(
                energy,
                sampler,
                start.view(-1, 1, 8, 8),
                steps,
                generator=g,
                recorders=[Axes(vectors, centre)],
                precision=precision,
            )
            totals[precision] = trace.records["axes"]
            rows.append(toy_row(type(sampler).__name__, precision, totals[precision], truth))
        paired = totals["bfloat16"] - totals["float32"]
        rows[-1]["variance, bfloat16 − float32"] = summary(paired[1] / truth)
    return rows


def toy_row(sampler: str, precision: str, kept: Tensor, truth: Tensor) -> dict[str, Any]:
    errors = torch.stack(
        [kept[0] / truth.sqrt(), kept[1] / truth - 1]
    )  # in deviations; in parts of the variance
    z = errors.mean(1) / (errors.std(1) / math.sqrt(errors.shape[1]))
    return {
        "sampler": sampler,
        "precision": precision,
        "largest |z| of 64 means": z[0].abs().max().item(),
        "largest |z| of 64 variances": z[1].abs().max().item(),
        "largest error of a mean, in sd": errors[0].mean(0).abs().max().item(),
        "largest error of a variance": errors[1].mean(0).abs().max().item(),
        "all variances": summary(errors[1]),
    }


def summary(errors: Tensor) -> dict[str, float]:
    """Mean error over all axes (B, 64), with the standard error over chains."""
    each = errors.mean(1)
    mean, error = each.mean().item(), each.std().item() / math.sqrt(len(each))
    return {"mean": mean, "error": error, "z": mean / error}


def markdown(found: dict[str, Any]) -> str:
    lines = [
        "# bfloat16 sampling: quality and speed",
        "",
        f"`{found['command']}`, {found['date']}",
        "",
    ]
    for run in found["runs"]:
        lines += [
            f"## {run['run']}: {run['images']} images × {run['steps']} steps, seeds {run['seeds']}",
            "",
        ]
        lines += [
            "| figure | float32 | bfloat16 | difference, paired by seed | control |",
            "|---|---:|---:|---:|---:|",
        ]
        for name, values in run["figures"].items():
            cells = [spread(values[key]) for key in (*PRECISIONS, "difference", CONTROL)]
            lines.append("| " + " | ".join([name, *cells]) + " |")
        for space, ways in run["mmd"].items():
            cells = [
                spread(ways["float32"]["mmd"]),
                spread(ways["bfloat16"]["mmd"]),
                f"permutation p = {ways['bfloat16']['p']:.3f}",
            ]
            cells.append(f"{spread(ways[CONTROL]['mmd'])}, p = {ways[CONTROL]['p']:.3f}")
            lines.append(
                "| "
                + " | ".join([f"squared MMD of {space}, from float32 sets of other seeds", *cells])
                + " |"
            )
        apart = run["distance of pairs / distance of seeds"]
        ratios = run["float32 / bfloat16"]
        lines += [
            "",
            "Images per second, bfloat16 / float32, paired by seed: "
            f"{statistics.median(ratios):.2f} [{min(ratios):.2f} … {max(ratios):.2f}]. With the "
            f"same start and noise the two precisions end, in the median, {apart:.2f} of the "
            "distance of two seeds apart.",
            "",
        ]
    lines += ["## A distribution that is known", ""]
    lines += [
        "| sampler | precision | largest \\|z\\| of 64 means | of 64 variances | error of all "
        "variances | less float32's |"
    ]
    lines += ["|---|---|---:|---:|---:|---:|"]
    for row in found["toy"]:
        cells = [row["sampler"], row["precision"], f"{row['largest |z| of 64 means']:.1f}"]
        cells += [f"{row['largest |z| of 64 variances']:.1f}", share(row["all variances"])]
        cells.append(share(row.get("variance, bfloat16 − float32")))
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "Errors are in parts of the true variance, over all 64 axes, ± standard error over chains. "
        "The last column is paired (the same noise), so that it sees a bias far below the standard "
        "error of the run itself.",
    ]
    known = ", ".join(
        f"{key.replace('_', ' ')} {value}"
        for key, value in found["machine"].items()
        if value is not None
    )
    return "\n".join(
        [
            *lines,
            "",
            f"Mean ± sd over seeds; the control is float32 with {CONTROL}. {found['seconds']} s; "
            f"machine: {known}; versions: {found['versions']}",
            "",
        ]
    )


def spread(values: Sequence[float]) -> str:
    return (
        f"{statistics.fmean(values):.4g} ± "
        f"{statistics.stdev(values) if len(values) > 1 else 0.0:.2g}"
    )


def share(value: dict[str, float] | None) -> str:
    return (
        ""
        if value is None
        else f"{value['mean']:+.2%} ± {value['error']:.2%} (z {value['z']:+.1f})"
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.proof.bfloat16", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--runs", nargs="*", default=list(RUNS))
    parser.add_argument("--count", type=int, default=100, help="images of each set (100)")
    parser.add_argument("--seeds", type=int, default=4, help="sets in each precision (4)")
    parser.add_argument(
        "--chains", type=int, default=1000, help="of the known distribution (1,000)"
    )
    parser.add_argument("--steps", type=int, default=1000, help="of the known distribution (1,000)")
    parser.add_argument("--core", type=int, help="the core to pin to (the last that is allowed)")
    parser.add_argument(
        "--out", type=Path, default=RESULTS, help="folder of the JSON and Markdown files"
    )
    options = parser.parse_args()
    pin(options.core)
    began = time.perf_counter()
    found = circumstances() | {
        "toy": toy(options.chains, options.steps),
        "runs": [judge_run(path, options.count, range(options.seeds)) for path in options.runs],
    }
    found["seconds"] = round(time.perf_counter() - began)
    out = options.out / "bfloat16"
    write_record(out.with_suffix(".json"), found)
    out.with_suffix(".md").write_text(markdown(found))
    print(markdown(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
