"""Samples of a run beside its data: distances, nearest neighbours, and the verdict of a classifier
of real images.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lowland.evaluation.findings import Findings
from lowland.metrics import (
    class_entropy,
    energy_gap,
    frechet_distance,
    mmd,
    nearest,
    precision_recall,
    share,
    two_sample_accuracy,
)
from lowland.registry import Plain
from lowland.tasks.generate import Samples
from lowland.trained import Model
from lowland.trained.placement import compute_energies, place_points
from lowland.training.classifier import ImageClassifier, train_classifier
from lowland.training.rehearsal import scores_data

MAX_SHOWN = 64  # pictures kept for grids


def train_judge(
    model: Model, found: Findings, say: Callable[[str], object]
) -> ImageClassifier | None:
    """Train a classifier of the training images, if they have labels and the recipe wants one."""
    steps = model.recipe["evaluation"]["classifier_steps"]
    if not steps or not model.data.classes or len(model.data.domain.shape) != 3:
        return None
    say("training a judge on real images")
    return train_classifier(
        model.data.train, model.data.classes, steps=steps, seed=0, device=model.device
    )


def measure_samples(
    model: Model, found: Findings, generator: torch.Generator, judge: ImageClassifier | None
) -> Samples:
    """Draw samples and a trajectory, and compare them with data by distances, nearest neighbours
    and a classifier.
    """
    count = model.recipe["evaluation"]["samples"]
    made = model.sample(count, generator=generator)
    film = model.sample(8 if len(model.shape) == 3 else 300, generator=generator, frames=11)
    test = place_points(model, model.data.test.x[: max(count, 500)])
    near, which = nearest(made.x, model.data.train.x)
    near_test, _ = nearest(test, model.data.train.x)
    edge, typical = near_test.quantile(0.01), near_test.median()
    flat = [part.flatten(1) for part in (made.x, test[:count])]
    figures: Plain = {
        "count": count,
        **_describe_generation(model),
        "neighbour_ratio": float(near.median() / typical) if typical > 0 else None,
        "copies": int((near < edge).sum()),
        "expected_copies": 0.01 * count,
        "mmd": mmd(flat[0], flat[1]).to_dict(),
        "frechet": {"value": frechet_distance(flat[0], flat[1])},
    }
    if scores_data(model.energy):
        drawn = compute_energies(model, model.marginal.domain.project(made.x))
        figures["gap"] = energy_gap(compute_energies(model, test), drawn).to_dict()
    if judge is not None:
        figures |= _classify(model, found, judge, made)
    found.figures["samples"] = figures
    found.arrays |= {
        "samples": made.x,
        "data": model.data.train.x[:MAX_SHOWN],
        "neighbour_samples": made.x[:16],
        "neighbour_of": model.data.train.x[which[:16].cpu()],
        "distances_samples": near,
        "distances_test": near_test,
    }
    if film.trajectory is not None:
        found.arrays |= {
            "film": film.trajectory,
            "film_steps": torch.tensor(film.trajectory_steps),
        }
    if len(model.data.domain.shape) == 1:
        found.arrays["data"] = model.data.train.x[:1000]
    return made


def _describe_generation(model: Model) -> Plain:
    how = model.recipe["generation"]
    if how.get("method") == "flow":
        return {
            "start": "noise",
            "steps": len(model.sigmas or []) - 1,
            "sampler": "probability flow (Heun) and a last jump",
        }
    return {"start": how["start"], "steps": how["steps"], "sampler": repr(model.sampler)}


def _compare_features(judge: ImageClassifier, samples: Tensor, model: Model) -> Plain:
    """Compare samples with test images, and training images with test images, on the classifier's
    features and at equal counts.
    """
    count = min(len(samples), len(model.data.test), len(model.data.train))
    order = torch.Generator().manual_seed(0)
    picked = [
        part.x[torch.randperm(len(part), generator=order)[:count]]
        for part in (model.data.test, model.data.train)
    ]
    real, others = (judge.features(part) for part in picked)
    found: Plain = {"count": count}
    for name, made in (("samples", judge.features(samples[:count])), ("real", others)):
        told = two_sample_accuracy(made, real, generator=torch.Generator().manual_seed(0))
        near = precision_recall(made, real)
        found[name] = {
            "frechet": frechet_distance(made, real),
            "precision": near.precision.to_dict(),
            "recall": near.recall.to_dict(),
            "two_sample_accuracy": told.to_dict(),
        }
    return found


def _classify(model: Model, found: Findings, judge: ImageClassifier, made: Samples) -> Plain:
    """Classify the samples: confidence, class counts, agreement with the labels asked for."""
    test = model.data.test
    assert test.y is not None
    sure_test, called_test = judge.probabilities(test.x).max(1)
    right = called_test == test.y
    pictures = model.data.domain.project(made.x)
    sure, called = judge.probabilities(pictures).max(1)
    found.arrays["samples_label"] = called
    figures = {
        "judge_test_accuracy": float(right.float().mean()),
        "confident_test": share(int((sure_test > 0.9).sum()), len(sure_test)).to_dict(),
        "confident": share(int((sure > 0.9).sum()), len(sure)).to_dict(),
        "class_entropy": class_entropy(called, model.data.classes),
        "class_counts": torch.bincount(called, minlength=model.data.classes).tolist(),
        "class_names": list(model.data.class_names),
        "features": _compare_features(judge, pictures, model),
    }
    if made.labels is not None:
        figures["agreement"] = share(int((called == made.labels).sum()), len(called)).to_dict()
    return figures
