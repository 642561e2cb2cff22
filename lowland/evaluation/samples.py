"""Samples of a run beside its data: distances, nearest neighbours, and what a judge of real images
says.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lowland.energy import energy_values
from lowland.evaluation.draws import draw
from lowland.evaluation.subjects import Findings, Subject
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
from lowland.tasks.generate import Samples
from lowland.training.classifier import Judge, train_judge

SHOWN = 64  # pictures kept for grids


def trained_judge(s: Subject, found: Findings, say: Callable[[str], object]) -> Judge | None:
    """A classifier of the training images, if the data have labels and the recipe wants one."""
    steps = s.recipe["evaluation"]["judge_steps"]
    if not steps or not s.data.classes or len(s.data.domain.shape) != 3:
        return None
    say("training a judge on real images")
    return train_judge(s.data.train, s.data.classes, steps=steps, seed=0)


def measure_samples(
    s: Subject, found: Findings, generator: torch.Generator, judge: Judge | None
) -> Samples:
    """Samples from fresh noise, a film of how they come about, and what judge and neighbours say of
    them.
    """
    count = s.recipe["evaluation"]["samples"]
    made = draw(s, count, generator)
    film = draw(s, 8 if len(s.shape) == 3 else 300, generator, frames=11)
    test = s.data.test.x[: max(count, 500)]
    near, which = nearest(made.x, s.data.train.x)
    near_test, _ = nearest(test, s.data.train.x)
    edge = near_test.quantile(0.01)
    flat = [part.flatten(1) for part in (made.x, test[:count])]
    low = energy_values(s.marginal, test)
    figures: dict[str, Any] = {
        "count": count,
        **_made_by(s),
        "neighbour_ratio": float(near.median() / near_test.median())
        if near_test.median() > 0
        else None,
        "copies": int((near < edge).sum()),
        "expected_copies": 0.01 * count,
        "mmd": mmd(flat[0], flat[1]).to_dict(),
        "frechet": {"value": frechet_distance(flat[0], flat[1])},
        "gap": energy_gap(low, energy_values(s.marginal, made.x)).to_dict(),
    }
    if judge is not None:
        figures |= _judged(s, found, judge, made)
    found.figures["samples"] = figures
    found.arrays |= {
        "samples": made.x,
        "data": s.data.train.x[:SHOWN],
        "neighbour_samples": made.x[:16],
        "neighbour_of": s.data.train.x[which[:16]],
        "distances_samples": near,
        "distances_test": near_test,
    }
    if film.trajectory is not None:
        found.arrays |= {"film": film.trajectory, "film_steps": torch.tensor(film.trajectory_steps)}
    if len(s.data.domain.shape) == 1:
        found.arrays["data"] = s.data.train.x[:1000]
    return made


def _made_by(s: Subject) -> dict[str, Any]:
    how = s.recipe["generation"]
    if how.get("method") == "flow":
        return {
            "start": "noise",
            "steps": len(s.sigmas or []) - 1,
            "sampler": "probability flow (Heun) and a last jump",
        }
    return {"start": how["start"], "steps": how["steps"], "sampler": repr(s.sampler)}


def _compared(judge: Judge, samples: Tensor, s: Subject) -> dict[str, Any]:
    """Samples beside test images, and training images beside test images, on the judge's features
    and at equal counts.
    """
    count = min(len(samples), len(s.data.test), len(s.data.train))
    order = torch.Generator().manual_seed(0)
    picked = [
        part.x[torch.randperm(len(part), generator=order)[:count]]
        for part in (s.data.test, s.data.train)
    ]
    real, others = (judge.features(part) for part in picked)
    found: dict[str, Any] = {"count": count}
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


def _judged(s: Subject, found: Findings, judge: Judge, made: Samples) -> dict[str, Any]:
    """What a classifier of real images says of the samples."""
    test = s.data.test
    assert test.y is not None
    sure_test, called_test = judge.probabilities(test.x).max(1)
    right = called_test == test.y
    pictures = (
        made.x.clamp(s.data.domain.lo, s.data.domain.hi) if s.data.domain.kind == "box" else made.x
    )
    sure, called = judge.probabilities(pictures).max(1)
    found.arrays["samples_label"] = called
    figures = {
        "judge_test_accuracy": float(right.float().mean()),
        "confident_test": share(int((sure_test > 0.9).sum()), len(sure_test)).to_dict(),
        "confident": share(int((sure > 0.9).sum()), len(sure)).to_dict(),
        "class_entropy": class_entropy(called, s.data.classes),
        "class_counts": torch.bincount(called, minlength=s.data.classes).tolist(),
        "class_names": list(s.data.class_names),
        "features": _compared(judge, pictures, s),
    }
    if made.labels is not None:
        figures["agreement"] = share(int((called == made.labels).sum()), len(called)).to_dict()
    return figures
