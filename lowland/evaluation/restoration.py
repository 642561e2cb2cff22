"""Restoration of test images, beside simpler ways to fill them in."""

import torch
from torch import Tensor

from lowland.domain import Domain
from lowland.evaluation.findings import Findings
from lowland.metrics import Estimate, mean, nearest, psnr
from lowland.registry import Plain
from lowland.tasks import Restoration
from lowland.trained import Model
from lowland.trained.measurement import operator_of
from lowland.trained.placement import place_points
from lowland.trained.restoration import restoration_settings
from lowland.training.classifier import ImageClassifier

UNSURE = 0.05  # standard deviation of draws from which a pixel counts as open, for coverage
MIN_COVERAGE_DRAWS = 19  # for a coverage
MAX_IMAGES = 8  # images kept for the report


def lower_half_hidden(domain: Domain) -> Tensor:
    """Return the mask of the standard inpainting task: True in the upper half, which is known."""
    known = torch.ones(domain.shape, dtype=torch.bool)
    known[:, domain.shape[1] // 2 :] = False
    return known


def measure_restoration(
    model: Model, found: Findings, generator: torch.Generator, judge: ImageClassifier | None
) -> None:
    """Inpaint and denoise test images, and measure PSNR, coverage and class consistency beside
    simpler ways.
    """
    how = restoration_settings(model)
    count, sigma = min(how["count"], len(model.data.test)), how["sigma"]
    truth, y = model.data.test.x[:count], model.data.test.y
    noisy = truth + sigma * torch.randn(truth.shape, generator=generator, dtype=truth.dtype)
    known = lower_half_hidden(model.data.domain)
    seen = noisy * known
    inpainted = _restore(model, found, "inpaint", known, truth, seen, generator)
    others = _simple_inpaintings(model, seen, known)
    guesses = {"lowland mean": inpainted.mean, "lowland one draw": inpainted.draws[0], **others}
    filled = {name: torch.where(known, seen, x).clamp(0, 1) for name, x in guesses.items()}
    inpaint = _measure(inpainted, truth, filled, ~known)
    if judge is not None and y is not None:
        inpaint["class_consistency"] = {
            name: mean(judge.probabilities(x).argmax(1) == y[:count]).to_dict()
            for name, x in filled.items()
        }
    found.arrays |= {
        "inpaint/mask": known.float(),
        "inpaint/nearest": others["nearest neighbour"][:MAX_IMAGES],
    }
    every = torch.ones_like(known)
    denoised = _restore(model, found, "denoise", every, truth, noisy, generator)
    denoise = _measure(denoised, truth, {"lowland mean": denoised.mean, "noisy": noisy}, every)
    tasks = {"inpaint": inpaint, "denoise": denoise}
    found.figures["restoration"] = {"count": count, "sigma": sigma, "tasks": tasks}


def _restore(
    model: Model,
    found: Findings,
    task: str,
    known: Tensor,
    truth: Tensor,
    seen: Tensor,
    generator: torch.Generator,
) -> Restoration:
    """Restore what was seen, and keep some images for the report."""
    operator = operator_of(task, model.shape, known=known)
    sigma = restoration_settings(model)["sigma"]
    answer = model.restore(operator, seen, sigma, generator=generator).to("cpu")
    shown = {"original": truth, "observed": seen, "mean": answer.mean, "spread": answer.std}
    found.arrays |= {f"{task}/{name}": x[:MAX_IMAGES] for name, x in shown.items()}
    found.arrays[f"{task}/draws"] = answer.draws[:3, :MAX_IMAGES]
    return answer


def _measure(answer: Restoration, truth: Tensor, guesses: dict[str, Tensor], mask: Tensor) -> Plain:
    """Measure the PSNR of guesses within a mask, and the coverage of draws if there are enough."""
    figures = {"psnr": {name: psnr(x, truth, mask=mask).to_dict() for name, x in guesses.items()}}
    if len(answer.draws) >= MIN_COVERAGE_DRAWS:
        figures["coverage"] = {"lowland mean": coverage(answer, truth).to_dict()}
    return figures


def coverage(
    answer: Restoration, truth: Tensor, level: float = 0.9, unsure: float = UNSURE
) -> Estimate:
    """Compute the share of open pixels that lie in their interval of a level.

    Open are pixels whose draws have a standard deviation above `unsure`. Averaged over images, with
    the standard error between images; images without open pixels are left out.
    """
    low, high = answer.interval(level)
    inside, open_ = (low <= truth) & (truth <= high), answer.std > unsure
    counts = open_.flatten(1).sum(1)
    shares = (inside & open_).flatten(1).sum(1) / counts
    return mean(shares[counts > 0])


def _simple_inpaintings(model: Model, seen: Tensor, known: Tensor) -> dict[str, Tensor]:
    """Return the training image nearest in the known pixels, and the mean training image."""
    train = model.data.train.x
    which = nearest(place_points(model, seen * known), train * known)[1].cpu()
    average = train.mean(0, keepdim=True).expand_as(seen)
    return {"nearest neighbour": train[which], "mean image": average}
