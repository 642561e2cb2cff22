"""The sampler's interface: settings, the state of the chains, what a step reports, and the one
place that accepts or refuses.

A step size is one number, or (inside the library) a tensor (B,) with one per chain.
`inv_mass_sqrt` is S = M^(−1/2), a diagonal metric: one positive number per coordinate of the event,
flattened, in units of x; moves are made in x / S, where the distribution is rounder.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, Self, TypeVar, runtime_checkable

import torch
from torch import Tensor

from lowland.energy import Energy, differentiate, score_alone
from lowland.energy.placement import constant
from lowland.samplers.rescue import NUMERICAL, evaluate_rows

CONTINUOUS = ("real", "box")
DISCRETE = ("binary", "categorical")


class State(NamedTuple):
    """Chains: points x (B, *event), their energies (B,) and scores −∇E (B, *event)."""

    x: Tensor
    energy: Tensor
    score: Tensor


class Info(NamedTuple):
    """Report of a step, per chain (B,).

    accepted (bool); diverged (bool: the proposal was not finite, so it was refused);
    acceptance_prob: the probability with which the proposal was to be accepted; num_grad_evals:
    gradients that this chain took, where chains differ.
    """

    accepted: Tensor
    diverged: Tensor
    acceptance_prob: Tensor
    num_grad_evals: Tensor | None = None


class Sampler(ABC):
    """A Markov kernel for exp(−E): a frozen dataclass of settings whose `step` maps a state to a
    state.

    adjusted: whether a step leaves exp(−E) invariant for every step size. order: of the bias in the
    step size, for samplers that are not adjusted; None where no distribution is aimed at. domains:
    kinds of domain on which it runs. target_accept: mean acceptance probability at which it is
    tuned; None where there is nothing to tune. num_grad_evals: gradients per step;
    num_init_grad_evals: gradients that `init` takes. num_replicas: chains in its state for
    each chain of the sample; state_types: of the states that `init` makes, () where it is not
    said.

    `init` and `step` exchange a NamedTuple that begins with x and energy and has one row per chain,
    so that nothing is paid twice.
    """

    adjusted: ClassVar[bool]
    order: ClassVar[int | None] = None
    domains: ClassVar[tuple[str, ...]] = CONTINUOUS
    target_accept: ClassVar[float | None] = None
    num_init_grad_evals: ClassVar[int] = 1
    num_replicas: ClassVar[int] = 1
    state_types: ClassVar[tuple[type, ...]] = ()

    @property
    @abstractmethod
    def num_grad_evals(self) -> int: ...

    def init(self, energy: Energy, x: Tensor) -> Any:
        """Return the state of chains at x (B, *event)."""
        return init(energy, x)

    @abstractmethod
    def step(self, energy: Energy, state: Any, generator: torch.Generator) -> tuple[Any, Info]:
        """Move all chains once."""

    def runs_on(self, energy: Energy) -> bool:
        """Return whether the sampler was made for the energy's domain."""
        return energy.domain.kind in self.domains

    def replace(self, **settings: Any) -> Self:
        """Return the sampler with other values for some settings."""
        return dataclasses.replace(self, **settings)  # type: ignore[type-var]


@runtime_checkable
class HasStepSize(Protocol):
    """A sampler with a step size, which can be tuned."""

    @property
    def step_size(self) -> float: ...


@runtime_checkable
class HasScore(Protocol):
    """A state that carries the scores of its points."""

    @property
    def score(self) -> Tensor: ...


@runtime_checkable
class HasMetric(Protocol):
    """A sampler with a diagonal metric, which can be estimated."""

    @property
    def inv_mass_sqrt(self) -> tuple[float, ...] | None: ...


def init(energy: Energy, x: Tensor) -> State:
    """Evaluate energy and score of chains at x (B, *event): one gradient.

    Both are NaN at points where the energy raises an error of its numbers.
    """
    try:
        return State(x, *differentiate(energy, x))
    except NUMERICAL as error:
        return State(x, *evaluate_rows(differentiate, _like_both, energy, x, error))


def score_of(energy: Energy, x: Tensor) -> Tensor:
    """Evaluate scores alone (B, *event), NaN at points where the energy raises an error of its
    numbers.
    """
    try:
        return score_alone(energy, x)
    except NUMERICAL as error:
        return evaluate_rows(_score_only, lambda x: (x,), energy, x, error)[0]


def values_of(energy: Energy, x: Tensor) -> Tensor:
    """Evaluate energies alone (B,), NaN at points where the energy raises an error of its
    numbers.
    """
    try:
        return energy(x)
    except NUMERICAL as error:
        return evaluate_rows(_value_only, _flat_rows, energy, x, error)[0]


def _score_only(energy: Energy, x: Tensor) -> tuple[Tensor]:
    return (score_alone(energy, x),)


def _value_only(energy: Energy, x: Tensor) -> tuple[Tensor]:
    return (energy(x),)


def _like_both(x: Tensor) -> tuple[Tensor, Tensor]:
    return (*_flat_rows(x), x)


def _flat_rows(x: Tensor) -> tuple[Tensor]:
    return (x.flatten(1)[:, 0],)


def describe_sampler(sampler: object) -> str:
    """Say what came where a sampler is wanted."""
    if isinstance(sampler, type):
        return f"the class {sampler.__name__}, not an instance"
    return type(sampler).__name__ if isinstance(sampler, Sampler) else repr(sampler)[:60]


def normal_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Draw standard normal numbers of the shape, dtype and device of x."""
    return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)


def uniform_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Draw uniform numbers in [0, 1) of the shape, dtype and device of x."""
    return torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype)


def squared_norm(x: Tensor) -> Tensor:
    """Compute ‖x_i‖² per row: (B, *event) → (B,)."""
    return x.square().flatten(1).sum(1)


def per_row(value: Any, x: Tensor) -> Any:
    """Reshape a tensor (B,) so that it multiplies x (B, *event); return a number as it is."""
    if isinstance(value, Tensor) and value.dim():
        return value.view(-1, *[1] * (x.dim() - 1))
    return value


def stride(step_size: float | Tensor, inv_mass_sqrt: Sequence[float] | None, x: Tensor) -> Any:
    """Compute step_size · S: a number, or a tensor that broadcasts to x (B, *event)."""
    step = per_row(step_size, x)
    if inv_mass_sqrt is None:
        return step
    if len(inv_mass_sqrt) != x[0].numel():
        raise ValueError(
            f"inv_mass_sqrt has {len(inv_mass_sqrt)} numbers for events of {x[0].numel()}; it "
            "needs one per coordinate, flattened; correct it, or let tune find it"
        )
    return step * constant(tuple(inv_mass_sqrt), x.dtype, x.device).view(x.shape[1:])


def add_scaled(x: Tensor, direction: Tensor, stride: float | Tensor) -> Tensor:
    """Compute x + stride · direction in one pass."""
    if isinstance(stride, Tensor):
        return torch.addcmul(x, direction, stride)
    return torch.add(x, direction, alpha=stride)


S = TypeVar("S", bound=tuple)  # a NamedTuple of tensors with one row per chain


def metropolis(
    old: S, new: S, log_ratio: Tensor | None, generator: torch.Generator
) -> tuple[S, Info]:
    """Move each chain to its proposal with probability min(1, exp(log_ratio)); the only
    accept/reject in the library.

    log_ratio (B,) = log π(new) q(old|new) − log π(old) q(new|old); None accepts every finite
    proposal and draws nothing. A proposal with a non-finite number anywhere is refused, whatever
    its ratio, and reported as diverged. Every field of the state is chosen row by row.
    """
    finite = _rows_finite(new)
    if log_ratio is None:
        accepted, probability = finite, finite.to(new[0].dtype)
        # nothing to choose; a GPU is not asked, it would wait
        if finite.device.type == "cpu" and bool(finite.all()):
            return new, Info(accepted, ~finite, probability)
    else:
        u = uniform_like(log_ratio, generator)
        probability = torch.where(finite, log_ratio.clamp(max=0.0).exp(), 0.0)
        accepted = u < probability
    return select(accepted, new, old), Info(accepted, ~finite, probability)


def select(choice: Tensor, new: S, old: S) -> S:
    """Choose row by row (B,) between two states, in every field."""
    wide: dict[int, Tensor] = {}
    fields = []
    for a, b in zip(new, old, strict=True):
        if a.dim() not in wide:
            wide[a.dim()] = choice.view(-1, *[1] * (a.dim() - 1))
        fields.append(torch.where(wide[a.dim()], a, b))
    return type(old)(*fields)


def _rows_finite(state: tuple[Tensor, ...]) -> Tensor:
    """Find the rows whose every number is finite: a sum of finite numbers is, unless it overflows,
    and then the chain has left.
    """
    total = sum(part.flatten(1).sum(1) if part.dim() > 1 else part for part in state)
    return torch.isfinite(total)  # type: ignore[arg-type]
