"""The interface of objectives and terms: a batch and its context in, a loss out.

An objective is a frozen dataclass with

    loss(energy, batch, context) -> Loss

and a term that is added to one has add(loss, energy, batch, context) -> Loss.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any, ClassVar, NamedTuple, Self, cast

from torch import Tensor, nn

from lowland.energy import Energy, latent_of
from lowland.energy.gradient import check_shape
from lowland.objectives.inputs import Batch, Context, explain, read_inputs
from lowland.objectives.ranges import COUNT, SHARE, WHOLE, check_settings


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
    differentiates: ClassVar[bool] = True  # in x: by the objective itself, or by its chains
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
        """Return the loss of one batch, differentiable in the weights of energy and partner.

        A subclass gets an Energy, a Batch and a Context; callers may pass a callable, points alone
        and a generator alone, see `inputs.read_inputs`.
        """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "loss" in cls.__dict__:
            cls.loss = _at_the_door(cls.loss)  # type: ignore[method-assign]


class Term(ABC):
    """Base of the terms that are added to the loss of an objective."""

    @abstractmethod
    def add(self, loss: Loss, energy: Energy, batch: Batch, context: Context) -> Loss:
        """Return the loss with the term added and logged. Arguments are read as by an objective."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "add" in cls.__dict__:
            cls.add = _at_the_door_of_a_term(cls.add)  # type: ignore[method-assign]


def _at_the_door(loss: Callable[..., Loss]) -> Callable[..., Loss]:
    """Return the loss of an objective, which checks what it is called with."""

    @wraps(loss)
    def check_and_call(self: Objective, energy: Any, batch: Any, context: Any) -> Loss:
        name = type(self).__name__
        energy, batch, context = read_inputs(
            name, energy, batch, context, differentiates=self.differentiates
        )
        with explain(name, energy, batch):
            return loss(self, energy, batch, context)

    return check_and_call


def _at_the_door_of_a_term(add: Callable[..., Loss]) -> Callable[..., Loss]:
    """Return the `add` of a term, which checks what it is called with."""

    @wraps(add)
    def check_and_call(self: Term, loss: Loss, energy: Any, batch: Any, context: Any) -> Loss:
        name = type(self).__name__
        energy, batch, context = read_inputs(name, energy, batch, context, differentiates=False)
        with explain(name, energy, batch):
            return add(self, loss, energy, batch, context)

    return check_and_call


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
    if "num_chains" in vars(objective):
        check_settings(objective, num_chains=WHOLE)
    if not 0 <= objective.num_chains <= objective.buffer_size:
        raise ValueError(
            f"num_chains is {objective.num_chains} and buffer_size {objective.buffer_size}; chains "
            "that move are some of those kept; raise buffer_size, or set num_chains = 0 for as "
            "many as data"
        )
