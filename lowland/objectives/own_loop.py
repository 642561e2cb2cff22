"""What an objective keeps between the updates of a loop of one's own: its sampler, its replay
buffer, its partner, made where they are needed and nowhere else.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lowland.domain import Domain
from lowland.energy import Energy, count_classes, lift
from lowland.energy.points import describe
from lowland.energy.sizes import parameter_dtype
from lowland.objectives.inputs import Context, give_shape
from lowland.replay import ReplayBuffer
from lowland.samplers.kernel import Sampler

if TYPE_CHECKING:
    from lowland.objectives.loss import Objective

AnyEnergy = Energy | nn.Module | Callable[..., Tensor]
_kept: WeakKeyDictionary[object, dict[Objective, Context]] = WeakKeyDictionary()


def prepare_context(
    objective: Objective,
    energy: AnyEnergy,
    x: Tensor,
    generator: torch.Generator,
    sampler: Sampler | None = None,
) -> Context:
    """Make sampler, replay buffer and partner of an objective, each if it needs one.

    x (N, *event): data, or a first batch of it. Raises ValueError for what is no energy, no points
    or no generator.
    """
    name = type(objective).__name__
    if not callable(energy) or not isinstance(x, Tensor) or x.dim() < 1 or not len(x):
        raise ValueError(
            f"{name} was to be prepared for {describe(energy)} and {describe(x)}; it needs an "
            "energy and points (N, *event); pass prepare(energy, x, generator=g)"
        )
    if not isinstance(generator, torch.Generator):
        raise ValueError(
            f"{name} was to be prepared with {describe(generator)} for its generator; every draw "
            "takes one; pass generator=torch.Generator().manual_seed(0)"
        )
    lifted = give_shape(lift(energy), x)
    sampler = sampler or objective.initial_sampler(lifted, x)
    context = Context(generator, sampler, partner=objective.make_partner(lifted, x))
    if context.partner is not None:
        context.partner.to(x.device)
    if not objective.persistent:
        return context
    rows = max(objective.buffer_size, objective.num_chains, len(x) if objective.num_chains else 0)
    buffer = ReplayBuffer(
        rows,
        _domain_of_chains(lifted.domain, sampler),
        generator=generator,
        classes=count_classes(lifted),
        reinit_prob=objective.reinit_prob,
        dtype=parameter_dtype(lifted),
    )
    return replace(context, buffer=buffer)


def _domain_of_chains(domain: Domain, sampler: Sampler | None) -> Domain:
    """Return the domain of one chain, which with tempering is a point per temperature."""
    if sampler is None or sampler.num_replicas == 1:
        return domain
    return replace(domain, shape=(sampler.num_replicas, *domain.shape))


def recall_context(
    objective: Objective,
    energy: AnyEnergy,
    batch: object,
    generator: torch.Generator | None,
    sampler: Sampler | None = None,
) -> Context:
    """Return what an objective keeps for an energy, prepared from a batch at the first call.

    It goes when the energy goes. Raises ValueError without a generator.
    """
    if generator is None:
        raise ValueError(
            f"{type(objective).__name__} was given neither a context nor a generator; every draw "
            "takes a generator; call objective(energy, batch, generator=g)"
        )
    x = (
        batch
        if isinstance(batch, Tensor)
        else batch[0]
        if isinstance(batch, tuple | list)
        else None
    )
    if not isinstance(x, Tensor):  # the door says so
        return Context(generator, sampler)
    kept = _kept.setdefault(energy, {})
    if objective not in kept:
        kept[objective] = prepare_context(objective, energy, x.detach(), generator, sampler)
        if list(kept[objective].parameters()):
            warnings.warn(
                f"{type(objective).__name__} trains a partner beside the energy, and no optimizer "
                "knows it; make it with context = objective.prepare(energy, x, generator=g), hand "
                "context.parameters() to the optimizer, and call objective(energy, batch, context)",
                stacklevel=3,
            )
    found = kept[objective]
    return replace(found, generator=generator, sampler=sampler or found.sampler)
