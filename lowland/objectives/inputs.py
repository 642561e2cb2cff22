"""What an objective is called with: a batch and its context, and the door at which all is checked.

Types cost nothing to check and are checked at every update. The energy itself is looked at once, at
the first update: its shape, its dtype, whether it writes into its points, and, where the
objective differentiates it in x, whether its gradient is one.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple
from weakref import WeakSet

import torch
from torch import Tensor, nn

from lowland.domain import real
from lowland.energy import (
    Energy,
    check_gradient,
    count_classes,
    data_domain,
    explain_mismatch,
    freeze,
    latent_of,
    lift,
    noise_of,
)
from lowland.energy.gradient import WRITES
from lowland.energy.independence import evaluate_in_mode
from lowland.energy.points import check_points, describe
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

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield the weights of the partner that learn, for an optimizer; none without a partner."""
        if self.partner is not None:
            yield from (p for p in self.partner.parameters() if p.requires_grad)

    def require_sampler(self, name: str) -> Sampler:
        """Return the sampler; raise ValueError, naming the objective, if there is none."""
        if self.sampler is None:
            raise ValueError(
                f"{name} was given no sampler; it runs chains and needs one; pass "
                "Context(..., sampler=...), or let objective.prepare make all of it"
            )
        return self.sampler

    def require_buffer(self, name: str) -> ReplayBuffer:
        """Return the replay buffer; raise ValueError, naming the objective, if there is none."""
        if self.buffer is None:
            raise ValueError(
                f"{name} was given no chains; it needs a ReplayBuffer; pass Context(..., "
                "buffer=ReplayBuffer(...)), or let objective.prepare make all of it"
            )
        return self.buffer

    def require_partner(self, name: str) -> nn.Module:
        """Return the partner; raise ValueError, naming the objective, if there is none."""
        if self.partner is None:
            raise ValueError(
                f"{name} was given no partner; it trains one beside the energy; pass Context(..., "
                "partner=objective.make_partner(energy, x)), or let objective.prepare make all"
            )
        return self.partner


_seen: "WeakSet[nn.Module]" = WeakSet()  # energies that were looked at
WITNESSES = 8  # rows on which an energy is looked at


def read_inputs(
    name: str, energy: object, batch: object, context: object, *, differentiates: bool
) -> tuple[Energy, Batch, Context]:
    """Return an energy, a batch and its context of what the caller passed to an objective.

    energy: an Energy or a callable; batch: a Batch, or points (B, *event) alone; context: a
    Context, or a generator alone. differentiates: whether the objective needs gradients in x.
    Raises ValueError for anything else, and for an energy that is none.
    """
    if not isinstance(energy, Energy) and not callable(energy):
        raise ValueError(
            f"{name} was given {describe(energy)} for an energy; it takes an Energy or a callable "
            "x -> (B,); pass loss(energy, Batch(x), Context(generator))"
        )
    read = _read_batch(name, batch)
    if isinstance(context, torch.Generator):
        context = Context(context)
    if not isinstance(context, Context):
        raise ValueError(
            f"{name} was given {describe(context)} for its context; it takes a Context; pass "
            "loss(energy, Batch(x), Context(generator))"
        )
    lifted = give_shape(lift(energy), read.x)
    _check_points(name, lifted, read)
    seen = energy if isinstance(energy, nn.Module) else None
    if seen is None or seen not in _seen:
        _look_at(name, lifted, read, differentiates)
        if seen is not None:
            _seen.add(seen)
    return lifted, read, context


def give_shape(energy: Energy, x: Tensor) -> Energy:
    """Return an energy whose domain leaves the event shape open on the real line of points x
    (B, *event), with the same weights; others as they are.
    """
    if energy.domain.shape or energy.domain.kind != "real" or x.dim() < 2:
        return energy
    shaped = copy.copy(energy)
    shaped.domain = real(*x.shape[1:])
    return shaped


def _read_batch(name: str, batch: object) -> Batch:
    if isinstance(batch, Tensor):
        return Batch(batch)
    if isinstance(batch, (tuple, list)) and len(batch) == 2 and isinstance(batch[0], Tensor):
        return Batch(*batch)
    raise ValueError(
        f"{name} was given {describe(batch)} for a batch; it takes points (B, *event) and labels; "
        "pass Batch(x, labels) or Batch(x)"
    )


def _check_points(name: str, energy: Energy, batch: Batch) -> None:
    """Check what costs nothing: kinds and shapes, and labels where they are on the CPU."""
    x, labels = batch
    shape = data_domain(energy).shape
    if not x.is_floating_point() or x.dim() < 1 or not len(x) or (shape and x.shape[1:] != shape):
        check_points(Energy(data_domain(energy)), x)
    if labels is None or noise_of(energy) is not None:
        return
    whole = isinstance(labels, Tensor) and labels.dtype in (torch.int64, torch.int32)
    classes = count_classes(energy)
    if not whole or labels.shape != x.shape[:1]:
        raise ValueError(
            f"{name} was given {describe(labels)} for labels of {len(x)} points; labels are whole "
            "numbers (B,), -1 where unknown; pass torch.long, argmax(1) of soft labels"
        )
    if labels.device.type == "cpu" and classes:
        low, high = int(labels.min()), int(labels.max())
        if low < -1 or high >= classes:
            raise ValueError(
                f"{name} was given labels from {low} to {high}; the energy has {classes} classes, "
                f"0 to {classes - 1}, and -1 is unknown; correct them, or set energy.classes"
            )


def _look_at(name: str, energy: Energy, batch: Batch, differentiates: bool) -> None:
    """Evaluate an energy once outside of training; raise ValueError if it is none."""
    x, labels = batch[0][:WITNESSES].detach(), batch[1]
    check_points(Energy(data_domain(energy)), x)
    if latent_of(energy).data_domain is not None:
        return
    bound = energy
    if noise_of(energy) is not None:
        bound = energy.given(torch.ones(len(x), dtype=x.dtype, device=x.device))
    elif labels is not None and not count_classes(energy):
        return  # what it makes of labels, only it knows
    elif labels is not None:
        bound = energy.given(labels[:WITNESSES].clamp_min(0))
    with explain(name, bound, batch), freeze(bound) as view:
        value = evaluate_in_mode(view, x)
        if not value.is_floating_point():
            raise ValueError(
                f"the energy gave {value.dtype}; energies are real numbers; convert them"
            )
        if differentiates:
            check_gradient(view, x)


@contextmanager
def explain(name: str, energy: Energy, batch: Batch) -> Iterator[None]:
    """Raise ValueError in place of torch's errors for points that do not fit the energy, for an
    energy that writes into them, and for one that takes no labels.
    """
    try:
        with explain_mismatch(energy, batch.x):
            yield
    except TypeError as error:
        if batch.labels is None or count_classes(energy) or "argument" not in str(error):
            raise
        raise ValueError(
            f"{name} was given labels and a {type(energy).__name__} that takes none ({error}); "
            "its forward must be forward(x, c); use an energy with classes, or pass no labels"
        ) from error
    except RuntimeError as error:
        if "used in an in-place operation" in str(error):
            raise ValueError(WRITES) from error
        raise
