"""The interface of objectives and terms: a batch and its context in, a loss out.

An objective is a frozen dataclass with

    loss(energy, batch, context) -> Loss

and a term that is added to one has add(loss, energy, batch, context) -> Loss.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Self, cast

import torch
from torch import Tensor, nn

from lowland.energy import Energy, latent_of
from lowland.energy.gradient import check_shape
from lowland.objectives.ranges import COUNT, SHARE, check_settings
from lowland.replay import ReplayBuffer
from lowland.samplers.kernel import Sampler


class Batch(NamedTuple):
    """Training data of one update: x (B, *event), and labels (B,) where the energy has classes.

    A label of −1 is unknown: such a point counts only in the terms that need no label.
    """

    x: Tensor
    labels: Tensor | None = None


@dataclass(frozen=True)
class Context:
    """Whatever an objective may need besides data.

    generator: source of every draw; sampler: moves the chains; buffer: keeps chains between
    updates; progress: share of the updates that are done, for objectives with a schedule; partner:
    the module from `Objective.make_partner`.

    >>> import torch
    >>> Context(torch.Generator()).progress
    1.0
    """

    generator: torch.Generator
    sampler: Sampler | None = None
    buffer: ReplayBuffer | None = None
    progress: float = 1.0
    partner: nn.Module | None = None

    def require_sampler(self, name: str) -> Sampler:
        """Return the sampler; raise ValueError, naming the objective, if there is none."""
        if self.sampler is None:
            raise ValueError(
                f"{name} was given no sampler; it runs chains and needs one; pass "
                "Context(..., sampler=...)"
            )
        return self.sampler

    def require_buffer(self, name: str) -> ReplayBuffer:
        """Return the replay buffer; raise ValueError, naming the objective, if there is none."""
        if self.buffer is None:
            raise ValueError(
                f"{name} was given no chains; it needs a ReplayBuffer; pass Context(..., "
                "buffer=ReplayBuffer(...))"
            )
        return self.buffer


class Loss(NamedTuple):
    """value: scalar to differentiate; terms: detached scalars for the log, on the device;
    negatives: (B, *event) or None, and their labels (B,) where they have some."""

    value: Tensor
    terms: dict[str, Tensor]
    negatives: Tensor | None = None
    labels: Tensor | None = None


class Objective(ABC):
    """Base of the objectives: `loss`, and what a training session asks of its settings.

    sampled: whether it runs chains, so that a recipe needs a sampler; steps: sampler steps per
    update; buffer_size: chains kept in a replay buffer, 0 for none; num_chains: how many of them
    move at every update, 0 for as many as data; reinit_prob: probability with which a visited chain
    begins anew; labelled_fraction: share of the training labels it may see; partner_rate: learning
    rate of the partner, in units of that of the energy."""

    sampled: ClassVar[bool] = True
    steps: int = 1
    buffer_size: int = 0
    num_chains: int = 0
    reinit_prob: float = 0.0
    labelled_fraction: float = 1.0
    partner_rate: float = 1.0

    @property
    def persistent(self) -> bool:
        """Tell whether chains are kept between updates."""
        return self.buffer_size > 0

    def with_num_chains(self, count: int) -> Self:
        """Return the same objective, which moves so many chains at every update."""
        return replace(cast(Any, self), num_chains=count)

    def make_partner(self, energy: Energy, x: Tensor) -> nn.Module | None:
        """Return a module that is trained beside the energy, fitted to data x (N, *event), or
        None.
        """
        return None

    @abstractmethod
    def loss(self, energy: Energy, batch: Batch, context: Context) -> Loss:
        """Return the loss of one batch, differentiable in the weights of energy and partner."""


class Term(ABC):
    """Base of the terms that are added to the loss of an objective."""

    @abstractmethod
    def add(self, loss: Loss, energy: Energy, batch: Batch, context: Context) -> Loss:
        """Return the loss with the term added and logged."""


def condition_on(energy: Energy, labels: Tensor | None) -> Energy:
    """Return the energy under labels (B,), itself without any."""
    return energy if labels is None else energy.given(labels)


def evaluate_energy(energy: nn.Module, x: Tensor, labels: Tensor | None = None) -> Tensor:
    """Return the energies (B,) of x, under labels if there are any.

    Raises ValueError for anything but one number per point.
    """
    return check_shape(energy(x) if labels is None else energy(x, labels), x)


def detach_terms(**terms: Tensor) -> dict[str, Tensor]:
    """Return the terms without their graphs, as `Loss.terms` holds them."""
    return {name: term.detach() for name, term in terms.items()}


def energy_terms(values: Tensor, **more: Tensor) -> dict[str, Tensor]:
    """Return mean and standard deviation of the data's energies (B,), and more terms, detached."""
    return detach_terms(energy_data=values.mean(), energy_std=values.std(correction=0), **more)


def check_domain(name: str, energy: Energy, kinds: Sequence[str], instead: str) -> None:
    """Raise ValueError for a domain that an objective is not made for, and for energies with hidden
    units.
    """
    if energy.domain.kind not in kinds:
        raise ValueError(
            f"{name} met a {energy.domain.kind} domain; it is for {' and '.join(kinds)} ones; "
            f"{instead}"
        )
    if latent_of(energy).data_domain is not None:
        raise ValueError(
            f"{name} met a {type(energy).__name__}, which has more units than data; it needs an "
            "energy of the data alone; use CD or PCD, which fill the others in"
        )


def check_chains(objective: Objective) -> None:
    """Raise ValueError for steps, buffer_size, reinit_prob or num_chains that chains cannot
    have."""
    check_settings(objective, steps=COUNT, buffer_size=COUNT, reinit_prob=SHARE)
    if not 0 <= objective.num_chains <= objective.buffer_size:
        raise ValueError(
            f"num_chains is {objective.num_chains} and buffer_size {objective.buffer_size}; chains "
            "that move are some of those kept; raise buffer_size, or set num_chains = 0 for as "
            "many as data"
        )
