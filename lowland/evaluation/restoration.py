"""Restoration of test images, beside what any restoration must beat."""

from typing import Any

import torch
from torch import Tensor

from lowland.domain import Domain
from lowland.evaluation.findings import Findings
from lowland.metrics import mean, nearest, psnr
from lowland.tasks import Restoration
from lowland.trained import Model
from lowland.trained.measurement import operator_of
from lowland.trained.restoration import restoration_settings
from lowland.training.classifier import ImageClassifier

UNSURE = 0.05  # spread of draws from which a pixel counts as open, for coverage


def lower_half_hidden(domain: Domain) -> Tensor:
    """The mask of the standard inpainting task: the upper half is known."""
    known = torch.ones(domain.shape, dtype=torch.bool)
    known[:, domain.shape[1] // 2 :] = False
    return known


def measure_restoration(
    model: Model, found: Findings, generator: torch.Generator, judge: ImageClassifier | None
) -> None:
    """Denoising and inpainting of test images, beside simpler ways to do it."""
    how = restoration_settings(model)
    count, sigma = min(how["count"], len(model.data.test)), how["sigma"]
    truth, labels = model.data.test.x[:count], model.data.test.y
    noise = sigma * torch.randn(truth.shape, generator=generator)
    known = lower_half_hidden(model.data.domain)
    tasks: dict[str, Any] = {}
    for task in ("inpaint", "denoise"):
        mask = known if task == "inpaint" else torch.ones_like(known)
        operator = operator_of(task, model.shape, known=known)
        seen = (truth + noise) * mask
        answer = model.restore(operator, seen, sigma, generator=generator)
        rivals = (
            _baselines(model.data.train.x, seen, known) if task == "inpaint" else {"noisy": seen}
        )
        if task == "inpaint":
            hidden, guess = (
                ~known,
                {"lowland mean": answer.mean, "lowland one draw": answer.draws[0], **rivals},
            )
            filled = {name: torch.where(known, seen, x).clamp(0, 1) for name, x in guess.items()}
        else:
            hidden, filled = torch.ones_like(known), {"lowland mean": answer.mean, **rivals}
        tasks[task] = {
            "psnr": {name: psnr(x, truth, mask=hidden).to_dict() for name, x in filled.items()}
        }
        if judge is not None and labels is not None and task == "inpaint":
            tasks[task]["class_consistency"] = {
                name: mean(judge.probabilities(x).argmax(1) == labels[:count]).to_dict()
                for name, x in filled.items()
            }
        if len(answer.draws) >= 19:
            tasks[task]["coverage"] = {"lowland mean": coverage(answer, truth).to_dict()}
        if task == "inpaint":
            found.arrays |= {
                "inpaint/mask": known.float(),
                "inpaint/nearest": rivals["nearest neighbour"][:8],
            }
        shown = {"original": truth, "observed": seen, "mean": answer.mean, "spread": answer.std}
        found.arrays |= {f"{task}/{name}": x[:8] for name, x in shown.items()}
        found.arrays[f"{task}/draws"] = answer.draws[:3, :8]
    found.figures["restoration"] = {"count": count, "sigma": sigma, "tasks": tasks}


def coverage(answer: Restoration, truth: Tensor, level: float = 0.9, unsure: float = UNSURE) -> Any:
    """The share of open pixels, those on which draws spread by more than `unsure`, that lie in
    their interval of a level.

    Averaged over images, with the standard error between images; images without open pixels are
    left out.
    """
    low, high = answer.interval(level)
    inside, open_ = (low <= truth) & (truth <= high), answer.std > unsure
    counts = open_.flatten(1).sum(1)
    shares = (inside & open_).flatten(1).sum(1) / counts
    return mean(shares[counts > 0])


def _baselines(train: Tensor, seen: Tensor, known: Tensor) -> dict[str, Tensor]:
    """What any restoration must beat: the training image nearest in the known pixels, and the mean
    training image.
    """
    _, which = nearest(seen * known, train * known)
    return {
        "nearest neighbour": train[which],
        "mean image": train.mean(0, keepdim=True).expand_as(seen),
    }
