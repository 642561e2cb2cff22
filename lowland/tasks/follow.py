"""Samples as a recipe makes them: its [generation] read and carried out, without a run
directory.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lowland.domain import Domain
from lowland.energy import Energy, LabelCondition, count_classes, labels_of, latent_of, noise_of
from lowland.registry import build
from lowland.samplers import denoise, diffusion_recovery_sample, karras_sigmas
from lowland.samplers.precision import autocast
from lowland.tasks.generate import Samples, balanced_labels, generate, generate_by_flow

Progress = Callable[[int], object] | None
ROUNDS = 50  # of draws, until each class has as many as were asked for


def noise_levels(energy: Energy, recipe: Mapping[str, Any]) -> list[float] | None:
    """Falling noise levels along which an energy E(x, σ) is sampled: its objective's, else those of
    [generation]; or None.
    """
    if not noise_of(energy):
        return None
    named, how = recipe["objective"].get("sigmas"), recipe["generation"]
    return (
        sorted(named, reverse=True)
        if named
        else list(karras_sigmas(how["sigma_max"], how["sigma_min"], how["num_levels"]))
    )


def generate_from_recipe(
    energy: Energy,
    recipe: Mapping[str, Any],
    count: int,
    *,
    generator: torch.Generator,
    labels: Tensor | None = None,
    start: Tensor | None = None,
    frames: int = 0,
    progress: Progress = None,
) -> Samples:
    """Draw `count` samples as the recipe's [generation] says: chains, probability flow, or recovery
    down the noise levels.

    recipe: plain values; labels (count,): dealt evenly unless given; start (count, *event): where
    chains begin, fresh noise unless given; frames, progress: as in `generate`. Units that data do
    not have are left out. Chains walk under their labels, or, if the energy says so (`ancestral`),
    in p(x), and those are kept of which a draw of p(y | x) is the class asked for. Raises
    ValueError for a method that goes down noise levels and an energy that knows none, and for a
    class never drawn.

    >>> import lowland
    >>> recipe, g = lowland.read_recipe("moons", {"generation.steps": 5}).plain(), torch.Generator().manual_seed(0)
    >>> generate_from_recipe(lowland.nets.MLP(lowland.real(2), confine=1.0), recipe, 3, generator=g).x.shape
    torch.Size([3, 2])
    """
    how, sigmas = recipe["generation"], noise_levels(energy, recipe)
    method = how.get("method", "chains")
    if method != "chains" and not sigmas:
        raise ValueError(
            f"generation.method is {method!r} and {type(energy).__name__} knows no noise level; "
            "flow and recovery go down an energy E(x, σ); use 'chains'"
        )
    if method == "flow":
        with autocast(how.get("precision", "float32"), generator.device):
            cold = how["temperatures"][-1]
            return generate_by_flow(
                energy,
                sigmas or (),
                count,
                generator=generator,
                temperature=cold,
                frames=frames,
                progress=progress,
            )
    sampler = build("sampler", how["sampler"])
    if method == "recovery":
        return _recovered(energy, sampler, sigmas or [], how, count, generator, progress)
    labels = (
        labels
        if labels is not None
        else balanced_labels(count, count_classes(energy), generator.device)
    )

    def walk(start: Tensor, under: Tensor | None, told: Progress = progress) -> Samples:
        more: dict[str, Any] = {
            "sigmas": sigmas,
            "denoise_sigma": how["denoise_sigma"],
            "frames": frames,
            "progress": told,
        }
        path = how["temperatures"]
        return generate(
            energy,
            sampler,
            start,
            how["steps"],
            generator=generator,
            labels=under,
            temperatures=path,
            **more,
        )

    called = labels_of(energy)
    if labels is not None and start is None and called is not None and called.ancestral:
        return _called(energy.domain, called, walk, labels, generator, progress)
    made = walk(energy.domain.draw(count, generator) if start is None else start, labels)
    visible = latent_of(energy).visible
    return made if visible is None else _visible(visible, made)


def _called(
    domain: Domain,
    condition: LabelCondition,
    walk: Callable[..., Samples],
    labels: Tensor,
    generator: torch.Generator,
    progress: Progress,
) -> Samples:
    """A draw of p(x | y) for every label: x from p(x), y from p(y | x), again and again, kept where
    y is still asked for.
    """
    open_ = torch.ones_like(labels, dtype=torch.bool)
    slots: list[Tensor] = []
    points: list[Tensor] = []
    films: list[Tensor] = []
    for i in range(ROUNDS):
        start = domain.draw(
            max(2 * int(open_.sum()), len(labels) // 4, 16), generator
        )  # rare classes take many
        made = walk(start, None, None if i else progress)  # the bar is that of the first round
        with torch.no_grad():
            odds = torch.softmax(-condition.class_energies(made.x).float(), 1)
        called = torch.multinomial(odds, 1, generator=generator).squeeze(1)
        for k in labels[open_].unique():
            here, there = (
                (called == k).nonzero().flatten(),
                (open_ & (labels == k)).nonzero().flatten(),
            )
            n = min(len(here), len(there))
            slots.append(there[:n])
            points.append(made.x[here[:n]])
            films += [] if made.trajectory is None else [made.trajectory[:, here[:n]]]
            open_[there[:n]] = False
        if not open_.any():
            order = torch.cat(slots).argsort()
            trajectory = torch.cat(films, 1)[:, order] if films else None
            return Samples(torch.cat(points)[order], labels, trajectory, made.trajectory_steps)
    raise ValueError(
        f"no more draws of class {labels[open_].unique().tolist()} came in {ROUNDS} rounds; the "
        "energy holds them for very unlikely; ask for other classes, or train it longer"
    )


def _recovered(
    energy: Energy,
    sampler: Any,
    sigmas: list[float],
    how: Mapping[str, Any],
    count: int,
    generator: torch.Generator,
    progress: Progress,
) -> Samples:
    """Draws at each noise level given where the level above ended, and denoised at the end if the recipe
    wants one.
    """
    start = sigmas[0] * torch.randn(
        count, *energy.domain.shape, generator=generator, device=generator.device
    )
    made = diffusion_recovery_sample(
        energy, sigmas, start, sampler, how["steps"], generator=generator, progress=progress
    )
    x = denoise(energy.given(sigmas[-1]), made.x, how["denoise_sigma"])
    return Samples(x, None, torch.stack([start, made.x, x]), [0, how["steps"], how["steps"]])


def _visible(visible: Callable[[Tensor], Tensor], made: Samples) -> Samples:
    """What was drawn, without the units that data do not have."""
    trajectory = (
        None
        if made.trajectory is None
        else visible(made.trajectory.flatten(0, 1)).unflatten(0, made.trajectory.shape[:2])
    )
    return made._replace(x=visible(made.x), trajectory=trajectory)
