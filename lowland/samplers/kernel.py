"""What all samplers share: the state of the chains, what a step reports, and the one place that accepts or refuses.

A sampler is a frozen dataclass with

    init(energy, x) -> State                                  one gradient
    step(energy, state, generator) -> (State, Info)           `gradients` gradients
    gradients: int     gradient evaluations per step          (counted by a test)
    adjusted: bool     leaves exp(−E) invariant for every step size

The state carries energy and score of the current point, so that nothing is paid twice.
"""

from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from lowland.energy import Energy, differentiate


class State(NamedTuple):
    """Chains: points x (B, *event), their energies (B,) and scores −∇E (B, *event)."""

    x: Tensor
    energy: Tensor
    score: Tensor


class Info(NamedTuple):
    """What a step did, per chain (B,): accept (bool), diverged (bool: the proposal was not finite, so it was refused)."""

    accept: Tensor
    diverged: Tensor


@runtime_checkable
class Sampler(Protocol):
    """The shape of a sampler; see the module docstring. Nothing needs to inherit from it."""

    adjusted: ClassVar[bool]

    @property
    def gradients(self) -> int: ...

    def init(self, energy: Energy, x: Tensor) -> State: ...

    def step(self, energy: Energy, state: State, generator: torch.Generator) -> tuple[State, Info]: ...


def init(energy: Energy, x: Tensor) -> State:
    """The state of chains at x: one gradient."""
    return State(x, *differentiate(energy, x))


def normal_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal numbers of the shape, dtype and device of x."""
    return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)


def squared_norm(x: Tensor) -> Tensor:
    """‖x_i‖² per row: (B, *event) → (B,)."""
    return x.square().flatten(1).sum(1)


def metropolis(old: State, new: State, log_ratio: Tensor | None, generator: torch.Generator) -> tuple[State, Info]:
    """Move each chain to its proposal with probability min(1, exp(log_ratio)); the only accept/reject in the library.

    log_ratio (B,) = log π(new) q(old|new) − log π(old) q(new|old); None accepts every finite proposal and draws nothing.
    A proposal with a non-finite point, energy or score is refused, whatever its ratio, and reported as diverged.
    """
    finite = new.energy.isfinite() & _rows_finite(new.x) & _rows_finite(new.score)
    accept = finite
    if log_ratio is not None:
        u = torch.rand(log_ratio.shape, generator=generator, device=log_ratio.device, dtype=log_ratio.dtype)
        accept = finite & (u.log() < log_ratio)
    wide = accept.view(-1, *[1] * (new.x.dim() - 1))
    state = State(
        torch.where(wide, new.x, old.x),
        torch.where(accept, new.energy, old.energy),
        torch.where(wide, new.score, old.score),
    )
    return state, Info(accept, ~finite)


def _rows_finite(x: Tensor) -> Tensor:
    return x.abs().flatten(1).amax(1).isfinite()  # one pass; NaN and ±inf survive the maximum
