"""Test images restored with a run as prior, beside what any restoration must beat."""

from typing import Any

import torch
from torch import Tensor

from lowland.domain import Domain
from lowland.evaluation.draws import prior_bank
from lowland.evaluation.subjects import Findings, Subject
from lowland.metrics import mean, nearest, psnr
from lowland.registry import build
from lowland.tasks import Identity, Mask, restore
from lowland.training.judge import Judge


def lower_half_hidden(domain: Domain) -> Tensor:
    """The mask of the standard inpainting task: the upper half is known."""
    known = torch.ones(domain.shape, dtype=torch.bool)
    known[:, domain.shape[1] // 2 :] = False
    return known


def measure_restoration(s: Subject, found: Findings, generator: torch.Generator, judge: Judge | None) -> None:
    """Denoising and inpainting of test images, beside simpler ways to do it."""
    how = s.recipe["restoration"]
    count, sigma = min(how["count"], len(s.data.test)), how["sigma"]
    truth, labels = s.data.test.x[:count], s.data.test.y
    noise = sigma * torch.randn(truth.shape, generator=generator)
    known = lower_half_hidden(s.data.domain)
    settings = restoration_settings(how) | {"bank": prior_bank(s)}
    sampler = build("sampler", how["sampler"])
    tasks: dict[str, Any] = {}
    for task in ("inpaint", "denoise"):
        mask = known if task == "inpaint" else torch.ones_like(known)
        operator = Mask(known) if task == "inpaint" else Identity()
        seen = (truth + noise) * mask
        answer = restore(s.marginal, operator, seen, sigma, sampler, generator=generator, **settings)
        rivals = _baselines(s.data.train.x, seen, known) if task == "inpaint" else {"noisy": seen}
        if task == "inpaint":
            hidden, guess = ~known, {"lowland mean": answer.mean, "lowland one draw": answer.draws[0], **rivals}
            filled = {name: torch.where(known, seen, x).clamp(0, 1) for name, x in guess.items()}
        else:
            hidden, filled = torch.ones_like(known), {"lowland mean": answer.mean, **rivals}
        tasks[task] = {"psnr": {name: psnr(x, truth, mask=hidden).to_dict() for name, x in filled.items()}}
        if judge is not None and labels is not None and task == "inpaint":
            tasks[task]["class_consistency"] = {
                name: mean(judge.probabilities(x).argmax(1) == labels[:count]).to_dict() for name, x in filled.items()
            }
        if task == "inpaint":
            found.arrays |= {"inpaint/mask": known.float(), "inpaint/nearest": rivals["nearest neighbour"][:8]}
        shown = {"original": truth, "observed": seen, "mean": answer.mean, "spread": answer.spread}
        found.arrays |= {f"{task}/{name}": x[:8] for name, x in shown.items()}
        found.arrays[f"{task}/draws"] = answer.draws[:3, :8]
    found.figures["restoration"] = {"count": count, "sigma": sigma, "tasks": tasks}


def restoration_settings(how: dict[str, Any]) -> dict[str, Any]:
    """The recipe's [restoration] as arguments of `restore`."""
    return {"jump_sigma": how["jump"], **{key: how[key] for key in ("steps", "draws", "temperatures")}}


def _baselines(train: Tensor, seen: Tensor, known: Tensor) -> dict[str, Tensor]:
    """What any restoration must beat: the training image nearest in the known pixels, and the mean training image."""
    _, which = nearest(seen * known, train * known)
    return {"nearest neighbour": train[which], "mean image": train.mean(0, keepdim=True).expand_as(seen)}
