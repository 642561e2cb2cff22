"""Draws of a run: samples as its recipe makes them, and the bank of draws that restoration starts
from.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from lowland.registry import build
from lowland.run import RunError
from lowland.samplers import run_chains
from lowland.seeds import make_generator
from lowland.tasks import balanced_labels, generate_from_recipe
from lowland.tasks.generate import Samples

if TYPE_CHECKING:
    from lowland.trained.model import Model

FRESH = 1000  # chains that begin anew where training kept none


class Kept(NamedTuple):
    """Chains of training: points x (N, *event), labels (N,) or None."""

    x: Tensor
    labels: Tensor | None


def draw(
    model: Model,
    count: int,
    generator: torch.Generator,
    *,
    labels: Tensor | None = None,
    frames: int = 0,
    progress: Callable[[int], object] | None = None,
) -> Samples:
    """Samples as the recipe's [generation] says, labels dealt evenly unless given."""
    begin, start = model.recipe["generation"].get("start", "noise"), None
    labels = labels if labels is not None else balanced_labels(count, model.classes)
    if begin == "chains":
        start, labels = _from_chains(model, count, generator, labels)
    if begin == "partner":
        start = _from_partner(model, count, generator)
    return generate_from_recipe(
        model.energy,
        model.recipe,
        count,
        generator=generator,
        labels=labels,
        start=start,
        frames=frames,
        progress=progress,
    )


def _from_partner(model: Model, count: int, generator: torch.Generator) -> Tensor:
    """What the generator that was trained beside the energy makes."""
    saved = model.latest.tensors.get("partner")
    objective = build("objective", model.recipe["objective"])
    partner: Any = (
        None
        if saved is None
        else objective.make_partner(model.energy, torch.zeros(2, *model.shape))
    )
    if saved is None or not hasattr(partner, "draw"):
        raise ValueError(
            f"{model.run.path} keeps no generator; generation.start = 'partner' needs an objective "
            "that trains one, such as Cooperative; use 'noise'"
        )
    partner.load_state_dict(saved)
    return partner.draw(count, generator)


def kept_chains(model: Model) -> Kept | None:
    """The older half of the chains that training left behind, of tempered ones the coldest
    replicas; None if there are none.
    """
    saved = model.latest.tensors.get("chains")
    if saved is None:
        return None
    old = saved["age"] >= saved["age"].float().median()
    x = saved["x"] if saved["x"].dim() == 1 + len(model.shape) else saved["x"][:, 0]
    return Kept(x[old], saved["labels"][old] if "labels" in saved else None)


def _from_chains(
    model: Model, count: int, generator: torch.Generator, labels: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Starting points among the training chains, old ones only, of the classes asked for."""
    kept = kept_chains(model)
    if kept is None:
        raise ValueError(
            f"{model.run.path} kept no chains; generation.start = 'chains' needs an objective that "
            "does (PCD); use 'noise'"
        )
    if labels is None or kept.labels is None:
        return kept.x[torch.randint(len(kept.x), (count,), generator=generator)], None
    chosen = torch.empty_like(labels)
    for label in labels.unique():
        pool = (kept.labels == label).nonzero().flatten()
        wanted = labels == label
        chosen[wanted] = pool[torch.randint(len(pool), (int(wanted.sum()),), generator=generator)]
    return kept.x[chosen], labels


def prior_bank(model: Model) -> Tensor | None:
    """Draws of the prior for restoration, made once and kept in the run: chains of training walked
    on with averaged weights.

    Every 50 steps their states are added until the recipe's [restoration] prior_samples is full. A run that
    kept no chains begins with samples as its [generation] makes them; a shipped run is not written
    to. None if the recipe asks for none.
    """
    count = model.recipe["restoration"].get("prior_samples", 0)
    if not count:
        return None
    if (model.run.path / "prior_samples.safetensors").exists():
        kept = model.run.read_tensors("prior_samples.safetensors")
        if len(kept["x"]) == count and int(kept["step"]) == model.latest.step:
            return kept["x"]
    if model.sampler is None:
        raise ValueError(
            f"{model.run.path} trained without chains; restoration.prior_samples is walked by the sampler of "
            "the recipe; set it to 0, or add a [sampler]"
        )
    generator = make_generator(model.recipe["seed"], "prior samples")
    x, labels = kept_chains(model) or _sampled(model, min(count, FRESH), generator)
    energy = model.energy.given(labels) if model.classes else model.energy
    walked: list[Tensor] = []
    while sum(map(len, walked)) < count:
        x = run_chains(energy, model.sampler, x, 50, generator=generator).x
        walked.append(x)
    bank = torch.cat(walked)[:count]
    with suppress(RunError):  # as a shipped run raises
        model.run.write_tensors(
            "prior_samples.safetensors", {"x": bank, "step": torch.tensor(model.latest.step)}
        )
    return bank


def _sampled(model: Model, count: int, generator: torch.Generator) -> Kept:
    """Chains that begin anew; a jump at their end, which belongs to samples, is left out."""
    recipe = {**model.recipe, "generation": {**model.recipe["generation"], "denoise_sigma": 0.0}}
    made = generate_from_recipe(model.energy, recipe, count, generator=generator)
    return Kept(made.x, made.labels)
