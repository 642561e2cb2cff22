"""Restoring with a run as prior: as its recipe says, and test images beside what any restoration
must beat.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lowland.config import read_recipe
from lowland.domain import Domain
from lowland.evaluation.draws import prior_bank
from lowland.evaluation.subjects import Findings, Subject
from lowland.metrics import mean, nearest, psnr
from lowland.registry import build
from lowland.samplers import karras_sigmas
from lowland.tasks import (
    BlockAverage,
    Blur,
    Fourier,
    Identity,
    Mask,
    Operator,
    Projection,
    Restoration,
    Stride,
    bind_smallest_sigma,
    importance_resample,
    jump,
    map_estimate,
    restore,
    split_gibbs_sample,
)
from lowland.training.classifier import Judge

UNSURE = 0.05  # spread of draws from which a pixel counts as open, for coverage
PEAK = (
    1.0,
    0.1,
    8,
    4,
)  # noise levels from, to, how many, and steps at each, on the way to a most likely image

MEASUREMENTS: dict[str, str] = {
    "denoise": "everything, with noise",
    "inpaint": "what the mask leaves",
    "superresolve": "means of blocks, FACTOR pixels wide",
    "strided": "every FACTOR-th pixel of every FACTOR-th row",
    "deblur": "the image smeared by a Gaussian FACTOR / 2 pixels wide",
    "compressed": "one random combination of pixels for every FACTOR pixels",
    "fourier": "one frequency of FACTOR: the low ones, and others at random",
}


def operator_of(
    task: str, shape: tuple[int, ...], *, factor: int = 4, known: Tensor | None = None
) -> Operator:
    """How the measurement of a task is made from images of a shape (C, H, W); see `MEASUREMENTS`.
    Random choices are fixed.

    Raises ValueError for a task that is none, images that FACTOR does not divide, and a mask that
    is missing or does not fit.
    """
    if task not in MEASUREMENTS:
        first, second, *others = map(repr, MEASUREMENTS)
        names = f"{first} or {second}, or from fewer numbers by {', '.join(others)}"
        raise ValueError(f"the task is {task!r}; lowland restores by {names}; choose one")
    if factor < 1:
        raise ValueError(f"the factor is {factor}; it is a whole number of at least 1; 4 is usual")
    if task == "inpaint":
        if known is None:
            raise ValueError(
                "no mask came with 'inpaint'; it says what was seen; pass known, a bool of the "
                "image's shape"
            )
        made: Operator = Mask(known)
    elif task == "compressed":
        made = Projection(shape, max(torch.Size(shape).numel() // factor, 1), seed=0)
    elif task == "fourier":
        made = Fourier(_frequencies(shape[1], shape[2], factor))
    else:
        by_factor = {"superresolve": BlockAverage, "strided": Stride}
        made = (
            Identity()
            if task == "denoise"
            else Blur(factor / 2)
            if task == "deblur"
            else by_factor[task](factor)
        )
    made.A(torch.zeros(1, *shape))
    return made


def _frequencies(height: int, width: int, factor: int) -> Tensor:
    """One frequency in `factor`: half of them the lowest, the others drawn, the same ones for every
    image of a size.
    """
    low = torch.fft.fftfreq(height).square().view(-1, 1) + torch.fft.fftfreq(width).square()
    order, count = low.flatten().argsort(stable=True), max(height * width // factor, 1)
    first, rest = order[: -(-count // 2)], order[-(-count // 2) :]
    drawn = rest[
        torch.randperm(len(rest), generator=torch.Generator().manual_seed(0))[: count // 2]
    ]
    return (
        torch.zeros(height * width)
        .index_fill(0, torch.cat([first, drawn]), 1.0)
        .view(height, width)
        > 0
    )


def restoration_plan(s: Subject) -> dict[str, Any]:
    """The recipe's [restoration]; for an energy of noise without one, that of the recipe "mnist",
    which needs no sampler.
    """
    how = s.recipe.get("restoration")
    if how is None and getattr(s.energy, "noise", False):
        how = read_recipe("mnist").plain()["restoration"]
    if how is None or len(s.shape) != 3:
        raise ValueError(
            f"{s.recipe['name']} says nothing about restoration; its recipe needs a [restoration] "
            "part; add it"
        )
    return {"method": "chains"} | how


def restored(
    s: Subject,
    operator: Operator,
    y: Tensor,
    sigma: float,
    *,
    generator: torch.Generator,
    draws: int | None = None,
    peak: bool = False,
    progress: Callable[[int], object] | None = None,
) -> Restoration:
    """Posterior draws with a run as prior, as its recipe's [restoration] says, or with `peak` the
    most likely image alone.
    """
    how = restoration_plan(s)
    count = how["draws"] if draws is None else draws
    if peak:
        return _peak(s, how, operator, y, sigma, generator)
    if how["method"] == "levels":
        settings = {
            key: how[key]
            for key in ("levels", "denoise_steps", "sigma_max", "sigma_min", "precision")
        }
        return split_gibbs_sample(
            s.energy,
            operator,
            y,
            sigma,
            generator=generator,
            draws=count,
            progress=progress,
            **settings,
        )
    settings = restoration_settings(how) | {"draws": count, "prior_samples": prior_bank(s)}
    sampler = build("sampler", how["sampler"])
    return restore(
        s.marginal, operator, y, sigma, sampler, generator=generator, progress=progress, **settings
    )


def restoration_length(s: Subject, count: int, draws: int | None = None) -> int:
    """How often `restored` reports progress."""
    how = restoration_plan(s)
    chains = count * (how["draws"] if draws is None else draws)
    return how["levels"] * -(-chains // 256) if how["method"] == "levels" else how["steps"]


def _peak(
    s: Subject,
    how: dict[str, Any],
    operator: Operator,
    y: Tensor,
    sigma: float,
    generator: torch.Generator,
) -> Restoration:
    """The most likely image: down the noise levels, or from the draw of the prior that explains the
    measurement best.
    """
    if how["method"] == "levels":
        high, low, count, steps = PEAK
        energy: Any = s.energy
        x = (
            energy.start(len(y), high, generator)
            if hasattr(energy, "start")
            else s.energy.domain.draw(len(y), generator)
        )
        x = _boxed(s, x)
        for level in karras_sigmas(high, low, count):
            x = map_estimate(
                bind_smallest_sigma(energy, (level,)), operator, y, sigma, start=x, steps=steps
            ).x
        return Restoration.of(x.unsqueeze(0))
    bank = prior_bank(s)
    if bank is None:
        start = s.energy.domain.draw(len(y), generator)
    else:
        start = bank[
            importance_resample(
                jump(s.marginal, bank, how["jump"]), operator, y, sigma, 1, generator
            )[0]
        ]
    x = map_estimate(s.marginal, operator, y, sigma, start=_boxed(s, start), steps=how["steps"]).x
    return Restoration.of(jump(s.marginal, x, how["jump"]).unsqueeze(0))


def _boxed(s: Subject, x: Tensor) -> Tensor:
    domain = s.energy.domain
    return x.clamp(domain.lo, domain.hi) if domain.kind == "box" else x


def lower_half_hidden(domain: Domain) -> Tensor:
    """The mask of the standard inpainting task: the upper half is known."""
    known = torch.ones(domain.shape, dtype=torch.bool)
    known[:, domain.shape[1] // 2 :] = False
    return known


def measure_restoration(
    s: Subject, found: Findings, generator: torch.Generator, judge: Judge | None
) -> None:
    """Denoising and inpainting of test images, beside simpler ways to do it."""
    how = restoration_plan(s)
    count, sigma = min(how["count"], len(s.data.test)), how["sigma"]
    truth, labels = s.data.test.x[:count], s.data.test.y
    noise = sigma * torch.randn(truth.shape, generator=generator)
    known = lower_half_hidden(s.data.domain)
    tasks: dict[str, Any] = {}
    for task in ("inpaint", "denoise"):
        mask = known if task == "inpaint" else torch.ones_like(known)
        operator = operator_of(task, s.shape, known=known)
        seen = (truth + noise) * mask
        answer = restored(s, operator, seen, sigma, generator=generator)
        rivals = _baselines(s.data.train.x, seen, known) if task == "inpaint" else {"noisy": seen}
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


def restoration_settings(how: dict[str, Any]) -> dict[str, Any]:
    """The recipe's [restoration] as arguments of `restore`."""
    return {
        "denoise_sigma": how["jump"],
        **{key: how[key] for key in ("steps", "draws", "temperatures")},
    }


def _baselines(train: Tensor, seen: Tensor, known: Tensor) -> dict[str, Tensor]:
    """What any restoration must beat: the training image nearest in the known pixels, and the mean
    training image.
    """
    _, which = nearest(seen * known, train * known)
    return {
        "nearest neighbour": train[which],
        "mean image": train.mean(0, keepdim=True).expand_as(seen),
    }
