"""Draw from a weighted sum of the energies of trained runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lowland.energy import Energy, Sum, check_normalisable, draw_start
from lowland.energy.sizes import parameter_dtype
from lowland.registry import Plain, build
from lowland.samplers import denoise, karras_sigmas
from lowland.scalars import MAX_STEPS, read_integer
from lowland.tasks import DenoisedGuidance, LabelGuidance, anneal_composed, sample_composed
from lowland.trained.labels import find_label
from lowland.trained.placement import check_one_device, place_generator
from lowland.trained.sizes import check_memory

if TYPE_CHECKING:
    from lowland.trained.model import Model


def compose_models(
    models: Sequence[Model],
    weights: Sequence[float] = (),
    labels: Sequence[int | str | None] = (),
    *,
    generator: torch.Generator,
    count: int = 64,
    steps: int = 400,
    num_levels: int = 18,
    sigma_max: float | None = None,
    sigma_min: float | None = None,
    sampler: Mapping[str, object] | None = None,
    progress: Callable[[int], object] | None = None,
) -> Tensor:
    """Draw `count` points from Σ w_k E_k of runs on one domain: (count, *event).

    weights: all 1 unless given; labels: for each run, a class by number or name, or
    None. A run with classes and a
    label counts as E(x, y), and, where some run has noise levels and this one has not, as
    −log p(y | x) of the expected clean picture. steps: of chains, or in all down num_levels noise
    levels from sigma_max to sigma_min, those of the first run with noise unless given; sampler:
    plain values; an accept step is made unless one is named.

    Raises ValueError for lists of different lengths, labels out of range, domains or units that
    differ, and a sum without normaliser.
    """
    weights, asked = list(weights) or [1.0] * len(models), list(labels) or [None] * len(models)
    count, steps = read_integer("count", count), read_integer("steps", steps, most=MAX_STEPS)
    _check_lists(models, weights, asked, count)
    Sum([model.energy for model in models])  # refuses different domains
    _check_units(models)
    check_one_device(models)
    generator = place_generator(models[0], generator)
    found = [find_label(model, label) for model, label in zip(models, asked, strict=True)]
    check_memory(f"the result of {count} draws", count * math.prod(models[0].shape))
    chosen = build("sampler", sampler) if sampler else None
    more: Plain = {"generator": generator, "sampler": chosen, "progress": progress}
    noisy = [model for model in models if model.sigmas]
    if not noisy:
        return _sample_sum(models, weights, found, count, steps, more)
    prior, own = noisy[0].energy, noisy[0].sigmas or [1.0, 0.01]
    if sigma_max is None:
        sigma_max = max(own)
    if sigma_min is None:
        sigma_min = min(own)
    terms = [_noise_term(m, y, prior) for m, y in zip(models, found, strict=True)]
    start = draw_start(prior, count, sigma_max, generator)
    sigmas = karras_sigmas(sigma_max, sigma_min, num_levels)
    return anneal_composed(Sum(terms, weights), sigmas, start, steps, **more).x


def _sample_sum(
    models: Sequence[Model],
    weights: Sequence[float],
    labels: Sequence[int | None],
    count: int,
    steps: int,
    more: Plain,
) -> Tensor:
    """Run chains under the sum of energies without noise levels."""
    terms = [
        m.marginal if y is None else m.energy.given(y) for m, y in zip(models, labels, strict=True)
    ]
    total = Sum(terms, weights)
    check_normalisable(total)
    start = total.domain.draw(count, more["generator"], dtype=parameter_dtype(total))
    x = sample_composed(total, start, steps, **more).x
    positive = sum(w for w in weights if w > 0)
    if not positive:
        return x
    # the mean of the clean points that the terms expect, where they were trained on noisy data
    return denoise(total / positive, x, models[0].recipe["generation"]["denoise_sigma"])


def _noise_term(model: Model, label: int | None, prior: Energy) -> Energy:
    """Return the term of a run in a sum of energies of noise levels."""
    if model.sigmas:
        return model.energy
    if label is None:
        raise ValueError(
            f"{model.name} knows no noise level and is composed with a run that does; beside "
            "noise it can only say how likely a label is; give it a label, or leave out the run of "
            "noise"
        )
    return DenoisedGuidance(LabelGuidance(model.energy, label), prior)


def _check_lists(
    models: Sequence[Model],
    weights: Sequence[float],
    labels: Sequence[int | str | None],
    count: int,
) -> None:
    even = len(models) == len(weights) == len(labels) and all(map(math.isfinite, weights))
    if not models or not even or count < 1:
        raise ValueError(
            f"{len(models)} runs came with {len(weights)} weights "
            f"({', '.join(map(str, weights))}), {len(labels)} labels and count {count}; one finite "
            "weight and one label for each run, and at least 1 draw, are needed; correct them"
        )


def _check_units(models: Sequence[Model]) -> None:
    """Raise ValueError if the data of the runs were standardized differently."""
    first, *others = [
        {key: model.description.get(key) for key in ("mean", "scale")} for model in models
    ]
    for model, units in zip(models[1:], others, strict=True):
        if units != first:
            raise ValueError(
                f"{model.name} and {models[0].name} were trained on numbers that were standardized "
                "differently; one x must mean the same to all; train them with one mean and scale, "
                "or with standardize = false"
            )
