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

import torch
from torch import Tensor, nn

from lowland.energy import Energy, latent_of
from lowland.energy.gradient import check_shape
from lowland.objectives.inputs import Batch, Context, explain, read_inputs
from lowland.objectives.own_loop import prepare_context, recall_context
from lowland.objectives.ranges import COUNT, SHARE, WHOLE, check_settings
from lowland.samplers import Sampler, initial_sampler


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

    def initial_sampler(self, energy: Energy, x: Tensor) -> Sampler | None:
        """Return the sampler for chains on data x (N, *event) where none is named; None for an
        objective that runs none.
        """
        return initial_sampler(energy, x) if self.sampled else None

    def prepare(
        self,
        energy: Energy | nn.Module | Callable[..., Tensor],
        x: Tensor,
        *,
        generator: torch.Generator,
        sampler: Sampler | None = None,
    ) -> Context:
        """Make what a loop of one's own keeps between updates, as a Context to pass to every call:
        sampler, replay buffer and partner, each only if this objective needs it.

        energy: an Energy or a callable; x (N, *event): data, or a first batch; sampler: in place of
        the default. An optimizer takes `context.parameters()` beside those of the energy.

        >>> import torch, lowland
        >>> g, net = torch.Generator().manual_seed(0), lowland.nets.MLP(lowland.real(2))
        >>> data = torch.randn(64, 2, generator=g)
        >>> context = lowland.objectives.PCD(steps=2).prepare(net, data, generator=g)
        >>> context.sampler, len(context.buffer), list(context.parameters())
        (MALA(step_size=0.043, inv_mass_sqrt=None), 10000, [])
        """
        return prepare_context(self, energy, x, generator, sampler)

    def __call__(
        self,
        energy: Energy | nn.Module | Callable[..., Tensor],
        batch: Batch | Tensor | tuple[Tensor, Tensor],
        context: Context | None = None,
        *,
        generator: torch.Generator | None = None,
        sampler: Sampler | None = None,
    ) -> Loss:
        """Return the loss of one batch, as a loop of one's own calls it.

        batch: points (B, *event), or points and labels; context: from `prepare`. With a generator
        in its place, what the objective keeps between updates is prepared from the first batch and
        stays as long as the energy does, so that `objective(energy, batch, generator=g)` is all
        that a loop needs; a partner that learns is then not trained, which is said once.

        >>> import torch, lowland
        >>> g, net = torch.Generator().manual_seed(0), lowland.nets.MLP(lowland.real(2))
        >>> x = torch.randn(64, 2, generator=g)
        >>> loss = lowland.objectives.PCD(steps=2)(net, x, generator=g)
        >>> loss.value.backward()
        """
        if context is None:
            context = recall_context(self, energy, batch, generator, sampler)
        elif generator is not None or sampler is not None:
            raise ValueError(
                f"{type(self).__name__} was given a context, and a generator or a sampler besides; "
                "a context holds both; pass the context alone"
            )
        return self.loss(cast(Energy, energy), cast(Batch, batch), context)

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
