"""Purify points with the energy of a trained run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lowland.energy import Energy, noise_of
from lowland.registry import Plain
from lowland.tasks import purify
from lowland.tasks.purify import check_names
from lowland.trained.placement import place_generator, place_points

if TYPE_CHECKING:
    from lowland.trained.model import Model

DENOISE = {"method": "denoise", "steps": 1, "sigma": 0.3}  # for energies of noise


def purification_settings(model: Model, **changes: Any) -> Plain:
    """Return the settings of `lowland.tasks.purify` for a run.

    The recipe's [purification]; without one, a denoising step from noise level 0.3 for an energy
    E(x, σ), and ten steps of the sampler of [generation] from the point itself for others. changes
    that are not None come on top; a name that `purify` does not have is refused.
    """
    check_names(changes)
    settings = model.recipe.get("purification")
    if not settings:
        settings = DENOISE if noise_of(model.energy) else _langevin_settings(model)
    return settings | {name: value for name, value in changes.items() if value is not None}


def _langevin_settings(model: Model) -> Plain:
    sampler = model.recipe["generation"].get("sampler") or {}
    step = sampler.get("step_size", 0.01)
    temperature = sampler.get("temperature", 1.0)
    if "noise" in sampler:
        temperature = sampler["noise"] ** 2 / (2 * step)
    return {
        "method": "langevin",
        "steps": 10,
        "step_size": step,
        "temperature": temperature,
        "clip": sampler.get("clip"),
    }


def purifying_energy(model: Model) -> Energy:
    """Return the energy that purifies: E(x, σ) where it knows noise levels, else the marginal."""
    return model.energy if noise_of(model.energy) else model.marginal


def purify_with(
    model: Model, x: Tensor, *, generator: torch.Generator | None = None, **changes: Any
) -> Tensor:
    """Move points x (N, *event) to where the data of a run lie, with its settings and changes."""
    settings = purification_settings(model, **changes)
    x, generator = place_points(model, x), place_generator(model, generator)
    return purify(purifying_energy(model), x, generator=generator, **settings)
