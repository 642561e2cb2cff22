"""Samples of a trained run, and the prior samples that restoration starts from."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from lowland.energy.sizes import build_in_float32, parameter_dtype
from lowland.nets.generators import Generator
from lowland.registry import build
from lowland.run import RunError
from lowland.samplers import run_chains
from lowland.seeds import make_generator
from lowland.tasks import balanced_labels, generate_from_recipe
from lowland.tasks.generate import Samples
from lowland.trained.placement import place_generator, place_points

if TYPE_CHECKING:
    from lowland.trained.model import Model

MAX_NEW_CHAINS = 1000  # that begin anew where training kept none
PRIOR_FILE = "prior_samples.safetensors"
PRIOR_STEPS = 50  # of the chains between two prior samples


class SavedChains(NamedTuple):
    """Chains of training: points x (N, *event), labels (N,) or None."""

    x: Tensor
    labels: Tensor | None


def draw_samples(
    model: Model,
    count: int,
    *,
    generator: torch.Generator | None = None,
    labels: Tensor | None = None,
    frames: int = 0,
    progress: Callable[[int], object] | None = None,
) -> Samples:
    """Draw `count` samples as the recipe's [generation] says.

    labels (count,): classes asked for, all evenly unless given; frames: states of the chains to
    keep as a trajectory; progress: called with the number of steps done.
    """
    generator = place_generator(model, generator)
    begin, start = model.recipe["generation"].get("start", "noise"), None
    if labels is None:
        labels = balanced_labels(count, model.classes, model.device)
    if isinstance(labels, Tensor):
        labels = labels.to(model.device)
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
    """Draw points from the generator network that was trained beside the energy."""
    saved = model.latest.tensors.get("partner")
    if saved is not None:
        objective = build("objective", model.recipe["objective"])
        dtype = parameter_dtype(model.energy)
        blank = torch.zeros(2, *model.shape, dtype=dtype, device=model.device)
        with build_in_float32():
            partner = objective.make_partner(model.energy, blank)
        if isinstance(partner, Generator):
            partner.load_state_dict(saved)
            return partner.to(model.device).draw(count, generator)
    raise ValueError(
        f"{model.run.path} keeps no generator; generation.start = 'partner' needs an objective "
        "that trains one, such as Cooperative; use 'noise'"
    )


def saved_chains(model: Model) -> SavedChains | None:
    """Return the older half of the chains that training left behind, of tempered ones the coldest
    replicas, on the device of the run; None if there are none.
    """
    saved = model.latest.tensors.get("chains")
    if saved is None:
        return None
    old = saved["age"] >= saved["age"].float().median()
    x = saved["x"] if saved["x"].dim() == 1 + len(model.shape) else saved["x"][:, 0]
    labels = saved["labels"][old].to(model.device) if "labels" in saved else None
    return SavedChains(x[old].to(model.device), labels)


def _from_chains(
    model: Model, count: int, generator: torch.Generator, labels: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Choose starting points among the older training chains, of the classes asked for."""
    kept = saved_chains(model)
    if kept is None:
        raise ValueError(
            f"{model.run.path} kept no chains; generation.start = 'chains' needs an objective that "
            "does (PCD); use 'noise'"
        )
    if labels is None or kept.labels is None:
        return kept.x[_choose(len(kept.x), count, generator)], None
    chosen = torch.empty_like(labels)
    for label in labels.unique():
        pool = (kept.labels == label).nonzero().flatten()
        wanted = labels == label
        chosen[wanted] = pool[_choose(len(pool), int(wanted.sum()), generator)]
    return kept.x[chosen], labels


def _choose(among: int, count: int, generator: torch.Generator) -> Tensor:
    """Draw `count` indices below `among`, with repeats."""
    return torch.randint(among, (count,), generator=generator, device=generator.device)


def draw_prior(model: Model) -> Tensor | None:
    """Draw the prior samples of restoration once, and keep them in the run.

    Training chains walk on with averaged weights; every 50 steps their states are added, until
    there are as many as the recipe's restoration.prior_samples; None if that is 0. A run that kept
    no chains begins with samples as its [generation] makes them; a shipped run is not written to.
    """
    count = model.recipe["restoration"].get("prior_samples", 0)
    if not count:
        return None
    if (model.run.path / PRIOR_FILE).exists():
        kept = model.run.read_tensors(PRIOR_FILE).get("x")
        about = model.run.read_about(PRIOR_FILE)
        fresh = about.get("weights") == model.digest and "sha256" in about
        if kept is not None and fresh and kept.shape == (count, *model.shape):
            return place_points(model, kept)
    if model.sampler is None:
        raise ValueError(
            f"{model.run.path} trained without chains; restoration.prior_samples needs the sampler "
            "of the recipe; set it to 0, or add a [sampler]"
        )
    generator = make_generator(model.recipe["seed"], "prior samples", device=model.device)
    x, labels = saved_chains(model) or _begin_chains(model, min(count, MAX_NEW_CHAINS), generator)
    energy = model.energy.given(labels) if model.classes else model.energy
    states: list[Tensor] = []
    while sum(map(len, states)) < count:
        x = run_chains(energy, model.sampler, x, PRIOR_STEPS, generator=generator).x
        states.append(x)
    samples = torch.cat(states)[:count]
    with suppress(RunError):  # as a shipped run raises
        model.run.write_tensors(PRIOR_FILE, {"x": samples.cpu()}, {"weights": model.digest})
    return samples


def _begin_chains(model: Model, count: int, generator: torch.Generator) -> SavedChains:
    """Draw chains anew, without the denoising step at their end, which belongs to samples."""
    recipe = {**model.recipe, "generation": {**model.recipe["generation"], "denoise_sigma": 0.0}}
    made = generate_from_recipe(model.energy, recipe, count, generator=generator)
    return SavedChains(made.x, made.labels)
