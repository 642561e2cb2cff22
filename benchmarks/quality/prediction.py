"""Structured prediction on MNIST: an energy of question and answer, held at the question.

    python -m benchmarks.quality.prediction

makes two sets of three channels (red and green the question, blue the answer) into runs/, trains
`recipes/mnist-edges.toml` and `recipes/mnist-masks.toml` on them (a finished run is used again),
and answers questions of the test part:

    edges    where grey values jump along x, where along y; without which side is bright → the digit
    masks    a digit of low contrast under noise; the same averaged over 3 × 3 → where its ink is
             (above 0.3)

The energy has noise on the answer alone, E(y | x, σ). Answers: 8 draws each by one step at each of
20 noise levels from 4 to 0.02 (`conditional_sample(method="denoise")`; 20, 60 and 120 were compared
on calibration questions); their mean and spread. Beside them: for edges the mean digit of the
training part, and the answer of the nearest question of 5,000 in it; for masks a threshold of the
averaged picture, the best on training questions; for both a net of the energy's own layers trained
on question → answer by cross-entropy (edges: squared error), 3,000 updates: it has one answer and
no spread. Class: a judge of real digits (training.judge) calls the answer as it calls the true one.
Coverage: share of answer pixels, of those between 0.05 and 0.95 in the mean, between the smallest
and the largest of the 8 draws (7/9 = 78 % if draws are of the right distribution). Writes
benchmarks/results/quality/prediction.{json,md}, and pictures with the rows red, green, truth, mean,
2 × spread, three draws.
"""

import argparse
import json
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.machine import circumstances
from benchmarks.quality import RESULTS
from benchmarks.record import write_record
from lowland import Run, load_data, read_recipe, train_recipe
from lowland.data import Dataset, save_grid
from lowland.metrics import mean, psnr, share
from lowland.nets import NoiseUNet
from lowland.samplers import karras_sigmas
from lowland.tasks import conditional_sample
from lowland.training import ImageClassifier, train_classifier

RUNS = Path("runs")
COUNT = 30000
KNOWN = torch.tensor([True, True, False]).view(3, 1, 1)
QUESTIONS, DRAWS, SEEDS, LEVELS = 100, 8, 3, 20


def pairs(kind: str) -> Path:
    """The three-channel pictures of the first digits of MNIST as an .npz file, uint8, with their
    classes.
    """
    path = RUNS / f"mnist-{kind}.npz"
    if not path.exists():
        part = load_data("mnist").train.take(slice(COUNT))
        x, g = part.x, torch.Generator().manual_seed(0)
        if kind == "edges":
            pad = F.pad(x, (0, 1, 0, 1))
            question = [(pad[..., :-1, 1:] - x).abs() > 0.3, (pad[..., 1:, :-1] - x).abs() > 0.3]
            channels = [q.float() for q in question] + [x]
        else:
            noisy = (0.3 + 0.4 * x + 0.25 * torch.randn(x.shape, generator=g)).clamp(0, 1)
            channels = [
                noisy,
                F.avg_pool2d(F.pad(noisy, (1, 1, 1, 1), mode="replicate"), 3, 1),
                (x > 0.3).float(),
            ]
        stored = (torch.cat(channels, 1) * 255).round().to(torch.uint8).numpy()
        assert part.y is not None
        np.savez_compressed(path, x=stored, y=part.y.numpy())
    return path


def trained(kind: str) -> tuple[Any, Dataset]:
    """The energy of a finished run of the recipe, and its data."""
    recipe = read_recipe(f"mnist-{kind}", {"data.name": str(pairs(kind))})
    data = load_data(recipe.data.name, seed=recipe.seed)
    return train_recipe(recipe, RUNS / f"mnist-{kind}", data=data, progress=False), data


class Supervised(nn.Module):
    """question → answer by the layers of the energy's own network, told no noise level."""

    def __init__(self, like: Any) -> None:
        super().__init__()
        self.net = NoiseUNet(like.domain, like.widths, like.blocks, like.dense, norm=like.norm).net

    def forward(self, x: Tensor) -> Tensor:
        shown = torch.cat([x[:, :2] - 0.5, torch.zeros_like(x[:, :1])], 1)
        return self.net(shown, torch.zeros(len(x)))[:, 2:]


def supervised(kind: str, like: Any, x: Tensor, steps: int) -> Supervised:
    """One answer per question (Adam, batch 64, one cycle, bfloat16)."""
    torch.manual_seed(0)
    net, g = Supervised(like), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3, fused=True)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(steps):
        part = x[torch.randint(len(x), (64,), generator=g)]
        with torch.autocast("cpu", torch.bfloat16):
            made = net(part)
            loss = (
                F.binary_cross_entropy_with_logits(made, part[:, 2:])
                if kind == "masks"
                else F.mse_loss(made, part[:, 2:])
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        cycle.step()
    return net.eval()


# -------------------------------------------------------------------------------------- measurement


def overlap(answer: Tensor, truth: Tensor) -> dict[str, float]:
    """Intersection over union of masks (N, 1, H, W) cut at one half, and the share of pixels that
    are wrong.
    """
    a, b = answer > 0.5, truth > 0.5
    union = (a | b).flatten(1).sum(1).clamp(min=1)
    return {
        "iou": mean((a & b).flatten(1).sum(1) / union),
        "wrong": mean((a ^ b).flatten(1).double().mean(1)),
    }  # type: ignore[dict-item]


def likeness(answer: Tensor, truth: Tensor, judge: ImageClassifier) -> dict[str, Any]:
    """PSNR, and the share that the judge calls as it calls the truth."""
    same = judge.probabilities(answer.clamp(0, 1)).argmax(1) == judge.probabilities(truth).argmax(1)
    return {"psnr": psnr(answer.clamp(0, 1), truth), "class": share(int(same.sum()), len(same))}


def nearest(questions: Tensor, bank: Tensor) -> Tensor:
    """The answer of the most alike question in the bank (M, 3, H, W), for each of (N, 3, H, W)."""
    away = torch.cdist(questions[:, :2].flatten(1), bank[:, :2].flatten(1))
    return bank[away.argmin(1), 2:]


def threshold(train: Tensor) -> float:
    """The cut of the averaged noisy picture with the best overlap on training questions."""
    cuts = torch.linspace(0.3, 0.7, 41)
    scores = [overlap((train[:, 1:2] > cut).float(), train[:, 2:])["iou"].value for cut in cuts]  # type: ignore[attr-defined]
    return float(cuts[int(torch.tensor(scores).argmax())])


def answered(energy: Any, x: Tensor, seed: int, levels: int = LEVELS) -> Any:
    """Draws of the energy of noise, held at the question."""
    sigmas, g = karras_sigmas(4.0, 0.02, levels), torch.Generator().manual_seed(seed)
    return conditional_sample(
        energy, x, KNOWN, generator=g, sigmas=sigmas, draws=DRAWS, method="denoise"
    )


def covered(found: Any, truth: Tensor) -> float:
    """Share of uncertain pixels of the truth (N, 1, H, W) between the least and the most of the
    draws.
    """
    answers, open_ = found.draws[:, :, 2:], (found.mean[:, 2:] > 0.05) & (found.mean[:, 2:] < 0.95)
    inside = (answers.amin(0) <= truth) & (truth <= answers.amax(0))
    return float(inside[open_].double().mean())


def rows(kind: str) -> tuple[dict[str, dict[str, Any]], Tensor]:
    """Every answer to the questions of one kind, measured; and pictures."""
    energy, data = trained(kind)
    x, train = data.test.x[:QUESTIONS], data.train.x
    truth = x[:, 2:]
    judge = None if kind == "masks" else train_classifier(load_data("mnist").train, 10, steps=400)
    measure = (
        (lambda a: overlap(a, truth)) if judge is None else (lambda a: likeness(a, truth, judge))
    )
    net = supervised(kind, energy, train, steps=3000)
    with torch.no_grad():
        made = net(x).sigmoid() if kind == "masks" else net(x)
    found: dict[str, dict[str, Any]] = {}
    if kind == "masks":
        cut = threshold(train[:2000])
        found[f"averaged picture above {cut:.2f}"] = measure((x[:, 1:2] > cut).float())
    else:
        found["mean digit"] = measure(train[:, 2:].mean(0, keepdim=True).expand_as(truth))
        found["nearest question of 5,000"] = measure(nearest(x, train[:5000]))
    found["supervised net, one answer"] = measure(made)
    for seed in range(SEEDS):
        start = time.process_time()
        answers = answered(energy, x, seed)
        seconds = time.process_time() - start
        extra = {
            "coverage": covered(answers, truth),
            "spread": float(answers.std[:, 2:].square().mean().sqrt()),
            "seconds": seconds / QUESTIONS / DRAWS,
        }
        found[f"energy, mean of {DRAWS} draws, seed {seed}"] = measure(answers.mean[:, 2:]) | extra
        found[f"energy, one draw, seed {seed}"] = measure(answers.draws[0, :, 2:])
        first = answers if seed == 0 else first  # noqa: F821
    shown = [
        x[:8, :1],
        x[:8, 1:2],
        truth[:8],
        first.mean[:8, 2:],
        first.std[:8, 2:] * 2,
        *first.draws[:3, :8, 2:],
    ]
    print(
        kind,
        json.dumps({k: {m: str(v) for m, v in r.items()} for k, r in found.items()}, indent=1),
        flush=True,
    )
    return found, torch.cat(shown)


def cell(value: Any) -> str:
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def table(found: dict[str, dict[str, Any]], columns: dict[str, str]) -> list[str]:
    """Markdown; of the seeds of a row the mean, and the standard deviation between them."""
    lines = ["| answer | " + " | ".join(columns.values()) + " |", "|---" * (len(columns) + 1) + "|"]
    groups: dict[str, list[dict[str, Any]]] = {}
    for name, figures in found.items():
        groups.setdefault(name.split(", seed")[0], []).append(figures)
    for name, several in groups.items():
        cells = []
        for key in columns:
            values = [figures.get(key) for figures in several]
            if len(several) == 1 or values[0] is None:
                cells.append(cell(values[0]))
                continue
            numbers = torch.tensor(
                [v if isinstance(v, float) else v.value for v in values if v is not None]
            )
            cells.append(f"{numbers.mean():.3f} ± {numbers.std():.3f} (seeds)")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


COLUMNS = {
    "edges": {
        "psnr": "PSNR, dB",
        "class": "class as the truth's",
        "coverage": "coverage",
        "spread": "spread",
        "seconds": "s a draw",
    },
    "masks": {
        "iou": "IoU",
        "wrong": "pixels wrong",
        "coverage": "coverage",
        "spread": "spread",
        "seconds": "s a draw",
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    torch.set_num_threads(1)
    command = "python -m benchmarks.quality.prediction"
    words = (__doc__ or "").split("\n\n", 2)[2].splitlines()
    lines = ["# Structured prediction", "", f"`{command}`, {date.today()}", "", *words]
    record = circumstances(command)
    for kind, columns in COLUMNS.items():
        found, pictures = rows(kind)
        save_grid(pictures, RESULTS / f"prediction-{kind}.png", columns=8)
        run = Run.open(RUNS / f"mnist-{kind}")
        record[kind] = {
            "rows": found,
            "recipe": run.recipe,
            "seconds": run.rows("time.jsonl")[-1]["seconds"],
        }
        trained_for = (
            f"trained for {run.recipe['training']['steps']} updates, {record[kind]['seconds']:.0f} "
            "s"
        )
        about = f"{QUESTIONS} questions; one energy, {SEEDS} seeds of draws; {trained_for}."
        lines += ["", f"## {kind}", "", about, "", *table(found, columns)]
        lines += ["", f"![questions and answers](prediction-{kind}.png)"]
    write_record(RESULTS / "prediction.json", record)
    (RESULTS / "prediction.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
