"""Restore images with a trained run as prior, as the recipe's [restoration] says."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lowland.config.sections import Restoration as Settings
from lowland.energy import noise_of
from lowland.registry import Plain, build
from lowland.samplers import denoise, karras_sigmas
from lowland.scalars import read_integer
from lowland.tasks import (
    Operator,
    Restoration,
    bind_smallest_sigma,
    importance_resample,
    map_estimate,
    restore,
    split_gibbs_sample,
)
from lowland.trained.draws import draw_prior
from lowland.trained.placement import place_generator, place_points
from lowland.trained.sizes import check_memory

if TYPE_CHECKING:
    from lowland.trained.model import Model

BATCH = 256  # chains that are moved together
MAP_SIGMAS = (1.0, 0.1, 8)  # noise levels from, to and how many, on the way to a most likely image
MAP_STEPS = 4  # steps of descent at each


def restoration_settings(model: Model, draws: int | None = None) -> Plain:
    """Return the recipe's [restoration], or the defaults for an energy of noise that has none.

    draws: in place of the recipe's.
    """
    if draws is not None:
        draws = read_integer("draws", draws)
        if draws < 1:
            raise ValueError(
                f"draws is {draws}; at least 1 is needed; more give a better mean and a spread"
            )
    how = model.recipe.get("restoration")
    if how is None and noise_of(model.energy):
        how = Settings.model_validate({"method": "split-gibbs"}).model_dump(mode="json")
    if how is None or len(model.shape) != 3:
        raise ValueError(
            f"{model.name} says nothing about restoration; its recipe needs a [restoration] part; "
            "add it"
        )
    settings = {"method": "chains"} | how
    if draws is not None:
        settings["draws"] = draws
    return settings


def restore_with(
    model: Model,
    operator: Operator,
    y: Tensor,
    sigma: float,
    *,
    generator: torch.Generator | None = None,
    draws: int | None = None,
    method: str = "sample",
    progress: Callable[[int], object] | None = None,
) -> Restoration:
    """Draw from the posterior with a run as prior, as its recipe's [restoration] says.

    method: "sample", or "map" for the most likely image alone; draws: for each row of y, the
    recipe's unless given; progress: called with the number of steps done, which add up to
    `count_steps`.
    """
    how = restoration_settings(model, draws)
    y, generator = place_points(model, y), place_generator(model, generator)
    numbers = len(y) * how["draws"] * math.prod(model.shape)
    check_memory(f"the result of {how['draws']} draws for {len(y)} images", numbers)
    if method not in ("sample", "map"):
        raise ValueError(
            f"the method is {method!r}; it is 'sample' for draws or 'map' for the most likely "
            "image; choose one"
        )
    if method == "map":
        return _find_map(model, how, operator, y, sigma, generator)
    if how["method"] == "split-gibbs":
        names = ("num_levels", "denoise_steps", "sigma_max", "sigma_min", "precision")
        return split_gibbs_sample(
            model.energy,
            operator,
            y,
            sigma,
            generator=generator,
            draws=how["draws"],
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
        draws=how["draws"],
        prior_samples=draw_prior(model),
        temperatures=how["temperatures"],
        denoise_sigma=how["denoise_sigma"],
        progress=progress,
    )


def count_steps(settings: Plain, rows: int) -> int:
    """Return how many steps `restore_with` reports at most for a number of measurements."""
    if settings["method"] != "split-gibbs":
        return int(settings["steps"])
    return int(settings["num_levels"]) * -(-rows * settings["draws"] // BATCH)


def _find_map(
    model: Model,
    how: Plain,
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
        condition = noise_of(energy)
        if condition is None or condition.start is None:
            x = domain.draw(len(y), generator, dtype=y.dtype)
        else:
            x = condition.start(len(y), MAP_SIGMAS[0], generator)
        x = domain.project(x)
        for level in karras_sigmas(*MAP_SIGMAS):
            bound = bind_smallest_sigma(energy, (level,))
            x = map_estimate(bound, operator, y, sigma, start=x, steps=MAP_STEPS).x
        return Restoration.of(x.unsqueeze(0))
    prior, noise = draw_prior(model), how["denoise_sigma"]
    if prior is None:
        start = domain.draw(len(y), generator, dtype=y.dtype)
    else:
        clean = denoise(model.marginal, prior, noise)
        start = prior[importance_resample(clean, operator, y, sigma, 1, generator)[0]]
    start = domain.project(start)
    x = map_estimate(model.marginal, operator, y, sigma, start=start, steps=how["steps"]).x
    return Restoration.of(denoise(model.marginal, x, noise).unsqueeze(0))
