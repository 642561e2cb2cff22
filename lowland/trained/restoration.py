"""Restore images with a trained run as prior, as the recipe's [restoration] says."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lowland.config.sections import Restoration as Settings
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
from lowland.trained.draws import prior_bank

if TYPE_CHECKING:
    from lowland.trained.model import Model

BATCH = 256  # chains that are moved together
MAP_SIGMAS = (1.0, 0.1, 8)  # noise levels from, to and how many, on the way to a most likely image
MAP_STEPS = 4  # steps of descent at each

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
    """Make the measurement operator of a task on images of a shape (C, H, W); see `MEASUREMENTS`.

    known: for "inpaint", a bool mask of the image's shape, True where pixels were seen. Random
    choices are fixed. Raises ValueError for an unknown task, images that factor does not divide,
    and a mask that is missing or does not fit.
    """
    if task not in MEASUREMENTS:
        first, second, *others = map(repr, MEASUREMENTS)
        names = f"{first} or {second}, or from fewer numbers by {', '.join(others)}"
        raise ValueError(f"the task is {task!r}; lowland restores by {names}; choose one")
    if factor < 1:
        raise ValueError(f"the factor is {factor}; it is a whole number of at least 1; 4 is usual")
    operator = _make_operator(task, shape, factor, known)
    operator.A(torch.zeros(1, *shape))  # refuses a shape that does not fit
    return operator


def _make_operator(
    task: str, shape: tuple[int, ...], factor: int, known: Tensor | None
) -> Operator:
    if task == "inpaint":
        if known is None:
            raise ValueError(
                "no mask came with 'inpaint'; it says what was seen; pass known, a bool of the "
                "image's shape"
            )
        return Mask(known)
    if task == "superresolve":
        return BlockAverage(factor)
    if task == "strided":
        return Stride(factor)
    if task == "deblur":
        return Blur(factor / 2)
    if task == "compressed":
        return Projection(shape, max(torch.Size(shape).numel() // factor, 1), seed=0)
    if task == "fourier":
        return Fourier(_choose_frequencies(shape[1], shape[2], factor))
    return Identity()


def _choose_frequencies(height: int, width: int, factor: int) -> Tensor:
    """Choose one frequency in `factor`, half of them the lowest, the others at random with a fixed
    seed. Returns a bool (height, width).
    """
    low = torch.fft.fftfreq(height).square().view(-1, 1) + torch.fft.fftfreq(width).square()
    order, count = low.flatten().argsort(stable=True), max(height * width // factor, 1)
    first, rest = order[: -(-count // 2)], order[-(-count // 2) :]
    g = torch.Generator().manual_seed(0)
    others = rest[torch.randperm(len(rest), generator=g)[: count // 2]]
    chosen = torch.zeros(height * width, dtype=torch.bool)
    chosen[torch.cat([first, others])] = True
    return chosen.view(height, width)


def restoration_settings(model: Model) -> dict[str, Any]:
    """Return the recipe's [restoration], or the defaults for an energy of noise that has none."""
    how = model.recipe.get("restoration")
    if how is None and getattr(model.energy, "noise", False):
        how = Settings.model_validate({"method": "split-gibbs"}).model_dump(mode="json")
    if how is None or len(model.shape) != 3:
        raise ValueError(
            f"{model.name} says nothing about restoration; its recipe needs a [restoration] part; "
            "add it"
        )
    return {"method": "chains"} | how


def restore_with(
    model: Model,
    operator: Operator,
    y: Tensor,
    sigma: float,
    *,
    generator: torch.Generator,
    draws: int | None = None,
    method: str = "sample",
    progress: Callable[[int], object] | None = None,
) -> Restoration:
    """Draw from the posterior with a run as prior, as its recipe's [restoration] says.

    method: "sample", or "map" for the most likely image alone; draws: for each row of y, the
    recipe's unless given; progress: called with the number of steps done, which add up to
    `count_steps`.
    """
    how = restoration_settings(model)
    if method not in ("sample", "map"):
        raise ValueError(
            f"the method is {method!r}; it is 'sample' for draws or 'map' for the most likely "
            "image; choose one"
        )
    if draws is not None and draws < 1:
        raise ValueError(
            f"draws is {draws}; at least 1 is needed; more give a better mean and a spread"
        )
    if method == "map":
        return _find_map(model, how, operator, y, sigma, generator)
    count = how["draws"] if draws is None else draws
    if how["method"] == "split-gibbs":
        names = ("num_levels", "denoise_steps", "sigma_max", "sigma_min", "precision")
        return split_gibbs_sample(
            model.energy,
            operator,
            y,
            sigma,
            generator=generator,
            draws=count,
            batch=BATCH,
            progress=progress,
            **{name: how[name] for name in names},
        )
    return restore(
        model.marginal,
        operator,
        y,
        sigma,
        build("sampler", how["sampler"]),
        generator=generator,
        steps=how["steps"],
        draws=count,
        prior_samples=prior_bank(model),
        temperatures=how["temperatures"],
        denoise_sigma=how["denoise_sigma"],
        progress=progress,
    )


def count_steps(model: Model, rows: int, draws: int | None = None) -> int:
    """Return how many steps `restore_with` reports at most for a number of measurements."""
    how = restoration_settings(model)
    if how["method"] != "split-gibbs":
        return int(how["steps"])
    chains = rows * (how["draws"] if draws is None else draws)
    return int(how["num_levels"]) * -(-chains // BATCH)


def _find_map(
    model: Model,
    how: dict[str, Any],
    operator: Operator,
    y: Tensor,
    sigma: float,
    generator: torch.Generator,
) -> Restoration:
    """Find the most likely image: down the noise levels, or from the prior draw that explains the
    measurement best.
    """
    energy, domain = model.energy, model.energy.domain
    if how["method"] == "split-gibbs":
        begin: Any = getattr(energy, "start", None)
        first = MAP_SIGMAS[0]
        x = begin(len(y), first, generator) if begin else domain.draw(len(y), generator)
        x = _clamp_to_box(model, x)
        for level in karras_sigmas(*MAP_SIGMAS):
            bound = bind_smallest_sigma(energy, (level,))
            x = map_estimate(bound, operator, y, sigma, start=x, steps=MAP_STEPS).x
        return Restoration.of(x.unsqueeze(0))
    prior, noise = prior_bank(model), how["denoise_sigma"]
    if prior is None:
        start = domain.draw(len(y), generator)
    else:
        clean = jump(model.marginal, prior, noise)
        start = prior[importance_resample(clean, operator, y, sigma, 1, generator)[0]]
    start = _clamp_to_box(model, start)
    x = map_estimate(model.marginal, operator, y, sigma, start=start, steps=how["steps"]).x
    return Restoration.of(jump(model.marginal, x, noise).unsqueeze(0))


def _clamp_to_box(model: Model, x: Tensor) -> Tensor:
    domain = model.energy.domain
    return x.clamp(domain.lo, domain.hi) if domain.kind == "box" else x
