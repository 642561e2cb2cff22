"""Bring points and generators to the device of a trained run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lowland.devices import CPU, check_generator, place
from lowland.energy import energy_values
from lowland.seeds import spawn

if TYPE_CHECKING:
    from lowland.trained.model import Model


def place_points(model: Model, x: Tensor) -> Tensor:
    """Return points on the device of a run; what is no tensor as it is, for checks to refuse."""
    return place(x, model.device) if isinstance(x, Tensor) else x


def compute_energies(model: Model, x: Tensor) -> Tensor:
    """Compute energies (N,) of points (N, *event), which may lie beyond the walls, on the device of
    a run; return them on the CPU.
    """
    return energy_values(model.marginal, place_points(model, x)).cpu()


def check_one_device(models: Sequence[Model]) -> None:
    """Raise ValueError if runs that compute together live on several devices."""
    places = dict.fromkeys(str(model.device) for model in models)
    if len(places) > 1:
        raise ValueError(
            f"the runs live on {', '.join(places)}; those that compute together live on one "
            "device; load each with the same device=..., or move them with .to(...)"
        )


def place_generator(model: Model, generator: torch.Generator | None) -> torch.Generator:
    """Return a generator on the device of a run: itself, or for one of the CPU another, whose seed
    is drawn from it; for None one whose seed torch's global generator draws.

    Raises ValueError for a generator of a third device.
    """
    if generator is None:
        seed = int(torch.randint(2**62, (), device=CPU))
        return torch.Generator(model.device).manual_seed(seed)
    if not isinstance(generator, torch.Generator):
        return generator
    if generator.device.type == CPU != model.device.type:
        return spawn(generator, model.device)
    check_generator(generator, model.device)
    return generator
