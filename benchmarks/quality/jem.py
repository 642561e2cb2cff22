"""A classifier that is also an energy beside the same net trained by cross-entropy alone: accuracy,
calibration, samples.

    python -m benchmarks.quality.jem fashion-jem mnist-jem

trains each recipe into runs/RECIPE, with every contrastive weight 0 and all else as it is into
runs/RECIPE-alone, and, for Fashion-MNIST, with the level as one more head of the trunk into
runs/RECIPE-head (a finished run is used again, an unfinished one resumed; `--finished` trains none
and leaves out what is not done), and reads what follows from the runs. Expected calibration error
(ECE): 15 bins of equal width of the confidence max_k p(k | x), on all test images, as the energy
comes out of training, and beside it with p(k | x)^(1/T) for the T of least cross-entropy on the
calibration part, images of the training set that training never saw. Samples: 1,000 from noise,
dealt evenly to the classes, by the generation section of the recipe, called by a classifier of real
images that never saw one (its own accuracy is in the table).

The recipes' energy is E(x, y) = g(x) − log p(y | x): the contrast moves the tower g alone,
cross-entropy the trunk alone. So what the classifier scores is what it would score without the
energy, up to the draws of training, and the twin shows how far those go; what the energy costs is
time, and a sample of a class is a draw of p(x) that the classifier then calls so. With the level as
a head, contrast and cross-entropy pull at the same trunk: the row says what that cost. Writes
benchmarks/results/quality/jem.{json,md} and a picture, one row of samples per class, for each run.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from benchmarks.machine import circumstances
from benchmarks.quality import RESULTS
from benchmarks.record import write_record
from lowland import Run, load_data, read_recipe, train_recipe
from lowland.energy import Energy
from lowland.metrics import class_entropy, frechet_distance, reliability, share
from lowland.tasks import as_classifier
from lowland.trained import load
from lowland.training import ImageClassifier, train_classifier

SAMPLES = 1000
COLD = {"step_size": 0.25, "noise": 0.005, "clip": 0.5}
# the recipe that was best while the level was a head of the trunk: longer ones were stopped by
# health
HEAD = {
    "energy.depth": 10,
    "energy.separate_trunk": [],
    "objective.steps": 6,
    "objective.buffer_size": 1000,
    "objective.num_chains": 32,
    "objective.weight_px": 0.4,
    "objective.l2": 0.002,
    "objective.warmup_fraction": 0.0,
    "objective.augment": ["flip"],
    **{
        f"{part}.{name}": value
        for part in ("sampler", "generation.sampler")
        for name, value in COLD.items()
    },
    "generation.steps": 150,
    "training.steps": 1400,
    "training.weight_decay": 0.03,
    "training.warmup": 100,
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "JEM": ("", {}),
    "cross-entropy alone": ("-alone", {"objective.weight_px": 0.0, "objective.weight_pxy": 0.0}),
    "JEM, level as a head": ("-head", HEAD),
}


def trained(recipe: str, ending: str, changed: dict[str, Any], finished: bool) -> Path | None:
    """The finished run of a recipe with a few settings changed; None if it is not finished and is
    not to be.
    """
    path = Path("runs") / (recipe + ending)
    there = (path / "recipe.json").exists()
    values = read_recipe(path / "recipe.json") if there else read_recipe(recipe, changed)
    if finished and not (there and values.plain()["training"]["steps"] in Run.open(path).steps()):
        return None
    train_recipe(values, path)
    return path


def fitted(p: Tensor, labels: Tensor) -> float:
    """The T at which the mean of −log of p^(1/T) at the labels, p normalised anew, is least: a
    search between 0.5 and 4.
    """
    logits = p.clamp_min(1e-30).log()
    grid = torch.linspace(0.5, 4.0, 351, dtype=p.dtype)
    losses = torch.stack([torch.nn.functional.cross_entropy(logits / t, labels) for t in grid])
    return float(grid[losses.argmin()])


def features(judge: ImageClassifier, x: Tensor) -> Tensor:
    """What the judge's last hidden layer makes of images, (N, 128)."""
    with torch.no_grad():
        return torch.cat([judge.net[:-1](part) for part in x.split(1000)])


def row(path: Path, judge: ImageClassifier) -> tuple[dict[str, Any], Tensor]:
    """The figures of one run, and its samples, sorted by class."""
    run = Run.open(path)
    s = load(run.path)
    test = s.data.test
    assert test.y is not None
    p = class_probabilities(s.energy, test.x)
    held = s.data.calibration
    assert held.y is not None
    t = fitted(class_probabilities(s.energy, held.x), held.y)
    curve, tempered = reliability(p, test.y), torch.softmax(p.clamp_min(1e-30).log() / t, 1)
    right = share(int((p.argmax(1) == test.y).sum()), len(test.y))
    made = s.sample(SAMPLES, generator=torch.Generator().manual_seed(1))
    sure, called = judge.probabilities(made.x).max(1)
    assert made.labels is not None
    agreed = share(int((called == made.labels).sum()), SAMPLES)
    known = features(judge, test.x[:5000])
    return {
        "updates": run.rows()[-1]["step"],
        "seconds": run.rows("time.jsonl")[-1]["seconds"],
        "weights": sum(parameter.numel() for parameter in s.energy.parameters()),
        "accuracy": right.to_dict(),
        "calibration_error": curve.error,
        "temperature": t,
        "calibration_error_fitted": reliability(tempered, test.y).error,
        "cross_entropy": float(-p.gather(1, test.y.unsqueeze(1)).log().mean()),
        "reliability": [curve.confidence.tolist(), curve.accuracy.tolist(), curve.counts.tolist()],
        "confident": share(int((sure > 0.9).sum()), SAMPLES).to_dict(),
        "agreement": agreed.to_dict(),
        "class_entropy": class_entropy(called, s.data.classes),
        "frechet": frechet_distance(features(judge, made.x), known),
    }, made.x[made.labels.argsort(stable=True)]


def class_probabilities(energy: Energy, x: Tensor) -> Tensor:
    """Return p(y | x), (N, K) in float64."""
    classify = as_classifier(energy)
    with torch.no_grad():
        logits = [classify(part) for part in x.split(1000)]
    return torch.softmax(torch.cat(logits).double(), 1)


def pictures() -> list[str]:
    """Links to the pictures that lie beside the page."""
    names = sorted(path.stem for path in RESULTS.glob("jem-*.png"))
    return [f"[samples of {name.removeprefix('jem-')}]({name}.png)  " for name in names]


def picture(samples: Tensor, classes: int) -> Image.Image:
    """One row per class, twelve samples each."""
    each = len(samples) // classes
    grid = [torch.cat([samples[k * each + i, 0] for i in range(12)], 1) for k in range(classes)]
    pixels = (torch.cat(grid).clamp(0, 1) * 255).byte().numpy()
    return Image.fromarray(pixels.repeat(2, 0).repeat(2, 1))


def judged(recipe: str) -> tuple[ImageClassifier, dict[str, Any]]:
    """The judge of a recipe's data, and what it says of the real test images."""
    data = load_data(read_recipe(recipe).data.name)
    judge = train_classifier(data.train, data.classes, steps=1000)
    assert data.test.y is not None
    sure, called = judge.probabilities(data.test.x).max(1)
    real = features(judge, data.train.x[:5000]), features(judge, data.test.x[:5000])
    return judge, {
        "judge_accuracy": share(int((called == data.test.y).sum()), len(called)).to_dict(),
        "confident": share(int((sure > 0.9).sum()), len(sure)).to_dict(),
        "frechet": frechet_distance(*real),
    }


def table(found: dict[str, Any]) -> list[str]:
    """Markdown: a row for each run, and one for real images."""
    lines = [
        "| recipe | trained by | updates | s | accuracy, % | ECE, % | ECE at fitted T, % | −log "
        "p(y given x) | confident samples | called as asked | class entropy | Fréchet |",
        "|---" * 12 + "|",
    ]
    for recipe, rows in found.items():
        for name, r in rows["runs"].items():
            accuracy = f"{100 * r['accuracy']['value']:.2f} ± {100 * r['accuracy']['error']:.2f}"
            told = " | ".join(f"{r[key]['value']:.3f}" for key in ("confident", "agreement"))
            tempered = f"{100 * r['calibration_error_fitted']:.2f} (T = {r['temperature']:.2f})"
            lines.append(
                f"| `{recipe}` | {name} | {r['updates']} | {r['seconds']:.0f} | {accuracy} | "
                f"{100 * r['calibration_error']:.2f} | {tempered} | "
                f"{r['cross_entropy']:.3f} | {told} | "
                f"{r['class_entropy']:.3f} | {r['frechet']:.1f} |"
            )
        real = rows["real"]
        lines.append(
            f"| `{recipe}` | real images (judge: {100 * real['judge_accuracy']['value']:.1f} %) | "
            f"| | | | | | {real['confident']['value']:.3f} | | | {real['frechet']:.1f} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipes", nargs="*", default=["fashion-jem", "mnist-jem"])
    parser.add_argument(
        "--finished",
        action="store_true",
        help="train nothing; leave out runs that are not finished",
    )
    given = parser.parse_args()
    recipes = given.recipes
    found: dict[str, Any] = {}
    for recipe in recipes:
        judge, real = judged(recipe)
        found[recipe] = {"real": real, "runs": {}}
        for name, (ending, changed) in VARIANTS.items():
            path = (
                None
                if ending == "-head" and recipe != "fashion-jem"
                else trained(recipe, ending, changed, given.finished)
            )
            if path is None:
                continue
            figures, samples = row(path, judge)
            found[recipe]["runs"][name] = figures
            picture(samples, 10).save(RESULTS / f"jem-{recipe}{ending}.png")
            print(
                recipe,
                name,
                json.dumps({k: v for k, v in figures.items() if k != "reliability"}),
                flush=True,
            )
    command = f"python -m benchmarks.quality.jem {' '.join(recipes)}"
    about = circumstances(command)
    write_record(RESULTS / "jem.json", about | {"found": found})
    words = (__doc__ or "").split("\n\n")[-1].splitlines()
    head = [
        "# A classifier that is also an energy",
        "",
        f"`{command}`, {about['date']}",
        "",
        *words[:-1],
        "",
    ]
    (RESULTS / "jem.md").write_text("\n".join([*head, *table(found), "", *pictures()]) + "\n")
    print("\n".join(table(found)))


if __name__ == "__main__":
    main()
