"""Samples as a recipe makes them: its [generation] read and carried out, without a run directory."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lowland.energy import Energy
from lowland.registry import build
from lowland.samplers import recover, sigma_ladder
from lowland.tasks.generate import Generated, even_labels, flow, generate, jump

Progress = Callable[[int], object] | None


def noise_levels(energy: Energy, recipe: Mapping[str, Any]) -> list[float] | None:
    """Falling noise levels along which an energy E(x, σ) is sampled: its objective's, else those of [generation]; or None."""
    if not getattr(energy, "noise", False):
        return None
    named, how = recipe["objective"].get("sigmas"), recipe["generation"]
    return sorted(named, reverse=True) if named else list(sigma_ladder(how["sigma_max"], how["sigma_min"], how["levels"]))


def follow(
    energy: Energy,
    recipe: Mapping[str, Any],
    count: int,
    *,
    generator: torch.Generator,
    labels: Tensor | None = None,
    start: Tensor | None = None,
    frames: int = 0,
    progress: Progress = None,
) -> Generated:
    """Draw `count` samples as the recipe's [generation] says: chains, probability flow, or recovery down the noise levels.

    recipe: plain values; labels (count,): dealt evenly unless given; start (count, *event): where chains begin, fresh noise
    unless given; frames, progress: as in `generate`. Units that data do not have are left out.
    Raises ValueError for a method that goes down noise levels and an energy that knows none.

    >>> import lowland
    >>> recipe, g = lowland.read_recipe("moons", {"generation.steps": 5}).plain(), torch.Generator().manual_seed(0)
    >>> follow(lowland.MLP(lowland.real(2), confine=1.0), recipe, 3, generator=g).x.shape
    torch.Size([3, 2])
    """
    how, sigmas = recipe["generation"], noise_levels(energy, recipe)
    method = how.get("method", "chains")
    if method != "chains" and not sigmas:
        raise ValueError(
            f"generation.method is {method!r} and {type(energy).__name__} knows no noise level; flow and recovery go down an "
            f"energy E(x, σ); use 'chains'"
        )
    if method == "flow":
        with torch.autocast(generator.device.type, torch.bfloat16, enabled=how.get("precision") == "bfloat16"):
            cold = how["temperatures"][-1]
            return flow(energy, sigmas or (), count, generator=generator, temperature=cold, frames=frames, progress=progress)
    sampler = build("sampler", how["sampler"])
    if method == "recovery":
        return _recovered(energy, sampler, sigmas or [], how, count, generator, progress)
    start = energy.domain.draw(count, generator) if start is None else start
    made = generate(
        energy,
        sampler,
        start,
        how["steps"],
        generator=generator,
        labels=labels if labels is not None else even_labels(count, getattr(energy, "classes", 0), start.device),
        temperatures=how["temperatures"],
        sigmas=sigmas,
        jump_sigma=how["jump"],
        frames=frames,
        progress=progress,
    )
    return made if energy.data_domain is None else _visible(energy, made)


def _recovered(
    energy: Energy,
    sampler: Any,
    sigmas: list[float],
    how: Mapping[str, Any],
    count: int,
    generator: torch.Generator,
    progress: Progress,
) -> Generated:
    """Draws at each noise level given where the level above ended, and a last jump if the recipe wants one."""
    start = sigmas[0] * torch.randn(count, *energy.domain.shape, generator=generator, device=generator.device)
    made = recover(energy, sigmas, start, sampler, how["steps"], generator=generator, progress=progress)
    x = jump(energy.given(sigmas[-1]), made.x, how["jump"])
    return Generated(x, None, torch.stack([start, made.x, x]), [0, how["steps"], how["steps"]])


def _visible(energy: Any, made: Generated) -> Generated:
    """What was drawn, without the units that data do not have."""
    film = None if made.film is None else energy.visible(made.film.flatten(0, 1)).unflatten(0, made.film.shape[:2])
    return made._replace(x=energy.visible(made.x), film=film)
