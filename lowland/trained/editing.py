"""Edit, interpolate and predict points with the energy of a trained run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lowland.energy import Energy, given_channels
from lowland.samplers import karras_sigmas
from lowland.scalars import MAX_STEPS, read_integer
from lowland.tasks import (
    DenoisedGuidance,
    EditResult,
    Interpolation,
    LabelGuidance,
    Restoration,
    conditional_sample,
    edit,
    interpolate,
)
from lowland.trained.labels import find_label
from lowland.trained.placement import check_one_device, place_generator, place_points
from lowland.trained.sizes import check_memory

if TYPE_CHECKING:
    from lowland.trained.model import Model

Progress = Callable[[int], object] | None
EDIT_LEVELS = 12  # noise levels of an edit
ASKED_LEVELS, OTHER_LEVELS = 20, 60  # of predictions: trained for the question, or not


def edit_with(
    model: Model,
    x: Tensor,
    label: int | str,
    *,
    generator: torch.Generator | None = None,
    classifier: Model | None = None,
    weight: float = 1.0,
    proximal_sigma: float | None = None,
    sigma: float = 0.7,
    steps: int = 300,
    draws: int = 4,
    progress: Progress = None,
) -> EditResult:
    """Move points x (N, *event) towards a class, with the run as prior.

    label: by number or name; classifier: a run with classes, the run itself unless given; weight:
    of −log p(label | x); proximal_sigma: how far an edit may go, as `tasks.edit` takes it; sigma:
    for an energy of noise, the noise level to which x is buried: higher keeps less of it.
    """
    judge, draws = classifier or model, read_integer("draws", draws, least=1)
    steps = read_integer("steps", steps, most=MAX_STEPS)
    check_one_device([model, judge])
    x, generator = place_points(model, x), place_generator(model, generator)
    check_memory(f"the result of {draws} edits of {len(x)} pictures", draws * x.numel())
    wanted = find_label(judge, label)
    energy, sigmas = model.marginal, tuple[float, ...]()
    attribute: Energy = LabelGuidance(judge.energy, wanted)
    if model.sigmas:
        low, high = min(model.sigmas), max(model.sigmas)
        if not low < sigma <= high:
            raise ValueError(
                f"sigma is {sigma}; the noise levels of the run go from {high:g} down to {low:g}, "
                "and it lies above the last; 0.7 keeps the outline of digits"
            )
        energy, sigmas = model.energy, tuple(karras_sigmas(sigma, low, EDIT_LEVELS))
        attribute = DenoisedGuidance(attribute, model.energy)
    return edit(
        energy,
        x,
        attribute,
        weight=weight,
        proximal_sigma=proximal_sigma,
        sigmas=sigmas,
        generator=generator,
        steps=steps,
        draws=draws,
        progress=progress,
    )


def interpolate_with(
    model: Model,
    a: Tensor,
    b: Tensor,
    points: int = 9,
    *,
    sigma: float = 0.3,
    steps: int = 300,
    progress: Progress = None,
) -> Interpolation:
    """Find a path of low energy from a to b (B, *event), `points` on it, both ends included.

    sigma: the noise level at which an energy of noise is taken: smooth enough to have paths.
    """
    points = read_integer("points", points, least=2)
    a, b = place_points(model, a), place_points(model, b)
    check_memory(f"the result of {points} points of {len(a)} paths", points * a.numel())
    energy = model.marginal
    if model.sigmas:
        if not 0 < sigma <= max(model.sigmas):
            raise ValueError(
                f"sigma is {sigma}; it is a noise level above 0 and up to the run's first, "
                f"{max(model.sigmas):g}; 0.3 is usual"
            )
        energy = model.energy.given(sigma)
    return interpolate(energy, a, b, points, steps=steps, progress=progress)


def conditioning_channels(model: Model, channels: Sequence[int] = ()) -> list[int]:
    """Return the channels that are given: those named, else those the run was trained to be asked.

    Raises ValueError unless some channels are given and some are not.
    """
    given = list(channels) or list(given_channels(model.energy))
    count = model.shape[0] if len(model.shape) == 3 else 0
    if not given or not all(0 <= k < count for k in given) or len(set(given)) >= count:
        raise ValueError(
            f"the given channels are {given}; the run has channels 0 to {count - 1}, some given "
            "and some not; name those that the picture tells, for example --given-channels 0,1"
        )
    return given


def predict_with(
    model: Model,
    x: Tensor,
    channels: Sequence[int] = (),
    *,
    generator: torch.Generator | None = None,
    draws: int = 8,
    num_levels: int | None = None,
    steps: int = 500,
    progress: Progress = None,
) -> Restoration:
    """Draw the channels of x (B, C, H, W) that are not given, `draws` times for each row.

    channels: those that are given, see `conditioning_channels`; num_levels: noise levels on the way
    down, unless given 20 for a run that was trained to be asked, else 60; steps: of chains, for
    runs without noise levels.
    """
    given, draws = conditioning_channels(model, channels), read_integer("draws", draws, least=1)
    check_memory(f"the result of {draws} answers to {len(x)} questions", draws * x.numel())
    x, generator = place_points(model, x), place_generator(model, generator)
    mask = torch.zeros(model.shape[0], 1, 1, dtype=torch.bool)
    mask[given] = True
    if not model.sigmas:
        return conditional_sample(
            model.marginal,
            x,
            mask,
            generator=generator,
            draws=draws,
            steps=steps,
            progress=progress,
        )
    usual = ASKED_LEVELS if given_channels(model.energy) else OTHER_LEVELS
    sigmas = karras_sigmas(max(model.sigmas), min(model.sigmas), num_levels or usual)
    return conditional_sample(
        model.energy,
        x,
        mask,
        generator=generator,
        method="denoise",
        sigmas=sigmas,
        draws=draws,
        progress=progress,
    )
