"""Judge samples of images, whoever made them, by one protocol: the same classifier, the same real
images, equal counts.

    python -m benchmarks.quality.images score --set mnist --samples x.npy --name "lowland mnist"
    [--about "..."] python -m benchmarks.quality.images temperatures RUN 1.0 0.97 0.94 python -m
    benchmarks.quality.images render

x.npy holds images (N, 1, 28, 28) in [0, 1]. They are clamped there and rounded to 256 levels, as if
saved as pictures, and the first 10,000 are set against as many test images (fewer against fewer:
the table says how many). Features are the 128 numbers before the last layer of a convolutional
classifier of the set, trained once from seed 0 and kept in runs/. A row `real (training images)`
shows what no model can beat. `temperatures` compares samples at each (2,000, or --count) with as
many images of the calibration part, never of the test part, and names those that are told apart
least and that cover best. Results: benchmarks/results/quality/images.{json,md} and one picture per
row.
"""

import argparse
import json
import re
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.quality import RESULTS
from benchmarks.record import read_record, write_record
from lowland.config import read_recipe
from lowland.data import Batches, Dataset, Split, load_data, save_grid
from lowland.metrics import class_entropy, frechet_distance, precision_recall, two_sample_accuracy
from lowland.trained import load

RUNS = Path(__file__).parents[2] / "runs"
REAL = "real (training images)"
COLUMNS = {
    "frechet": "Fréchet",
    "precision": "precision",
    "recall": "recall",
    "two_sample": "two-sample accuracy",
    "two_sample_pixels": "two-sample accuracy, on pixels",
    "class_entropy": "class entropy / max",
    "confident": "confident",
    "count": "images",
}


class Classifier(nn.Module):
    """The fixed judge: four convolutions, a layer of 128 features, ten classes (or one logit, for
    the two-sample test).
    """

    def __init__(self, outputs: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for into, out, stride in ((1, 32, 1), (32, 32, 2), (32, 64, 1), (64, 64, 2)):
            layers += [nn.Conv2d(into, out, 3, stride, 1), nn.ReLU()]
        self.body = nn.Sequential(
            *layers, nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * 49, 128), nn.ReLU()
        )
        self.head = nn.Linear(128, outputs)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.body(x)))

    def train_on(self, x: Tensor, y: Tensor, steps: int, loss: Any) -> "Classifier":
        """Adam, batches of 128, one cosine cycle, bfloat16 products."""
        optimizer = torch.optim.Adam(self.parameters(), lr=2e-3)
        cycle = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        batches = Batches(Split(x, y), seed=0)
        for _ in range(steps):
            part, truth = batches.next(128)
            with torch.autocast("cpu", torch.bfloat16):
                value = loss(self(part).float(), truth)
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            optimizer.step()
            cycle.step()
        return self.eval()


def judge_of(data: Dataset) -> Classifier:
    """The judge of a set, trained once; its weights are kept in runs/."""
    path = RUNS / f"images-judge-{data.name}.safetensors"
    torch.manual_seed(0)
    judge = Classifier()
    if path.exists():
        judge.load_state_dict(load_file(path))
        return judge.eval()
    assert data.train.y is not None and data.test.y is not None
    judge.train_on(data.train.x, data.train.y, 2500, F.cross_entropy)
    right = (features(judge, data.test.x)[1] == data.test.y).float().mean()
    print(f"judge of {data.name}: test accuracy {float(right):.4f}", flush=True)
    RUNS.mkdir(exist_ok=True)
    save_file({name: value.contiguous() for name, value in judge.state_dict().items()}, path)
    return judge


@torch.no_grad()
def features(judge: Classifier, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Features (N, 128), classes (N,) and the probability of that class (N,)."""
    found = torch.cat([judge.body(part) for part in x.split(500)])
    sure, called = judge.head(found).softmax(1).max(1)
    return found, called, sure


def told_apart_by_pixels(x: Tensor, y: Tensor) -> float:
    """The two-sample test by a convolutional classifier of the images themselves, one half seen,
    the other called.
    """
    half = min(len(x), len(y)) // 2
    torch.manual_seed(0)
    seen = torch.cat([x[:half], y[:half]])
    truth = torch.cat([torch.zeros(half), torch.ones(half)])
    teller = Classifier(1).train_on(
        seen, truth, 600, lambda logits, t: F.binary_cross_entropy_with_logits(logits[:, 0], t)
    )
    with torch.no_grad():
        logits = [
            torch.cat([teller(part)[:, 0] for part in side[half : 2 * half].split(500)])
            for side in (x, y)
        ]
    return float(torch.cat([logits[0] < 0, logits[1] >= 0]).float().mean())


def temperatures(path: Path, values: list[float], count: int = 2000) -> None:
    """The figures of samples of a run at some temperatures, against its calibration part."""
    s = load(path)
    s.energy.eval()
    judge = judge_of(s.data)
    found = dict[float, dict[str, Any]]()
    for value in values:
        recipe = read_recipe(s.recipe, {"generation.temperatures": [value]}).plain()
        made = replace(s, recipe=recipe).sample(count, generator=torch.Generator().manual_seed(1)).x
        found[value] = score(made, s.data, judge, s.data.calibration)
        print(json.dumps({"temperature": value, **found[value]}), flush=True)
    least = min(found, key=lambda t: found[t]["two_sample"])
    best = max(found, key=lambda t: min(found[t]["precision"], found[t]["recall"]))
    print(
        f"told apart least at T = {least}; the smaller of precision and recall is largest at T = "
        f"{best}"
    )


def score(x: Tensor, data: Dataset, judge: Classifier, part: Split | None = None) -> dict[str, Any]:
    """All figures of images x (N, 1, 28, 28) against as many of a part of the data, the test part
    unless given.
    """
    x, part = (x[:10_000].float().clamp(0, 1) * 255).round() / 255, part or data.test
    order = torch.randperm(
        len(part), generator=torch.Generator().manual_seed(0)
    )  # the file is sorted by writer
    real = part.x[order[: len(x)]]
    a, called, sure = features(judge, x)
    b, _, _ = features(judge, real)
    coverage = precision_recall(a, b, k=3)
    told = two_sample_accuracy(a, b, generator=torch.Generator().manual_seed(0))
    return {
        "frechet": frechet_distance(a, b),
        "precision": coverage.precision.value,
        "recall": coverage.recall.value,
        "two_sample": told.value,
        "two_sample_error": told.error,
        "two_sample_pixels": told_apart_by_pixels(x, real),
        "class_entropy": class_entropy(called, data.classes),
        "confident": float((sure > 0.9).float().mean()),
        "count": len(x),
    }


def keep(name: str, row: dict[str, Any], x: Tensor) -> None:
    """Put a row into the table, in place of one of the same set and name, with a picture of its
    first 64 images.
    """
    path = RESULTS / "images.json"
    rows = read_record(path, [])
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    row = {
        "set": row.pop("set"),
        "name": name,
        **row,
        "date": str(date.today()),
        "picture": f"images-{slug}.png",
    }
    if row["set"] not in slug:
        row["picture"] = f"images-{row['set']}-{slug}.png"
    rows = [kept for kept in rows if (kept["set"], kept["name"]) != (row["set"], name)] + [row]
    save_grid(x[:64], RESULTS / row["picture"], columns=16, pixels=28)
    write_record(path, rows)
    render(rows)


def render(rows: list[dict[str, Any]]) -> None:
    """images.md: a table per set, best Fréchet distance first, and the pictures."""
    lines = [
        "# Image quality by one protocol",
        "",
        *(__doc__ or "").split("\n\n", 2)[2].strip().splitlines(),
        "",
    ]
    for name in sorted({row["set"] for row in rows}):
        chosen = sorted((row for row in rows if row["set"] == name), key=lambda row: row["frechet"])
        lines += [
            f"## {name}",
            "",
            f"| samples | {' | '.join(COLUMNS.values())} | made by |",
            "|---" * (len(COLUMNS) + 2) + "|",
        ]
        for row in chosen:
            cells = [
                f"{row[key]:.4g}" if isinstance(row[key], float) else str(row[key])
                for key in COLUMNS
            ]
            lines.append(f"| {row['name']} | {' | '.join(cells)} | {row['about']} |")
        lines += [""]
        for row in chosen:
            lines += [f"{row['name']}:", "", f"![{row['name']}]({row['picture']})", ""]
    (RESULTS / "images.md").write_text("\n".join(lines).rstrip() + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    scoring = verbs.add_parser("score")
    scoring.add_argument("--set", required=True, choices=["mnist", "fashion-mnist"])
    scoring.add_argument(
        "--samples", type=Path, required=True, help="images (N, 1, 28, 28) in [0, 1], .npy"
    )
    scoring.add_argument("--name", required=True)
    scoring.add_argument("--about", default="", help="how they were made: recipe, seconds, cores")
    verbs.add_parser("render")
    tuning = verbs.add_parser("temperatures")
    tuning.add_argument("run", type=Path)
    tuning.add_argument("values", type=float, nargs="+")
    tuning.add_argument("--count", type=int, default=2000)
    options = parser.parse_args()
    if options.verb == "render":
        return render(read_record(RESULTS / "images.json"))
    torch.set_num_threads(1)
    if options.verb == "temperatures":
        return temperatures(options.run, options.values, options.count)
    x = torch.from_numpy(np.load(options.samples))
    if (
        x.dim() != 4
        or tuple(x.shape[1:]) != (1, 28, 28)
        or len(x) < 1000
        or not bool(torch.isfinite(x).all())
    ):
        parser.error(
            f"{options.samples} holds {tuple(x.shape)}; finite images (N, 1, 28, 28), N at least "
            "1000, are needed"
        )
    data = load_data(options.set)
    judge = judge_of(data)
    path = RESULTS / "images.json"
    rows = read_record(path, [])
    if not any((row["set"], row["name"]) == (options.set, REAL) for row in rows):
        order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))
        real = data.train.x[order[:10_000]]
        keep(
            REAL,
            {
                "set": options.set,
                **score(real, data, judge),
                "about": "drawn from the training part",
            },
            real,
        )
    found = score(x, data, judge)
    print(json.dumps({"set": options.set, "name": options.name, **found}))
    keep(options.name, {"set": options.set, **found, "about": options.about}, x)


if __name__ == "__main__":
    main()
