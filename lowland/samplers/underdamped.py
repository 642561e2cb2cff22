"""Underdamped Langevin: the momentum persists from step to step, so that chains keep their
direction.

    dX = P dt,   dP = −∇E(X) dt − γ P dt + √(2γ) dW      leaves exp(−E(x) − ‖p‖²/2) invariant

`Underdamped` discretises it and is biased by its step, of second order; `GHMC` corrects the bias by
Metropolis' rule.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from lowland.energy import Energy
from lowland.registry import register
from lowland.samplers.hmc import leapfrog
from lowland.samplers.kernel import (
    Info,
    Sampler,
    State,
    add_scaled,
    init,
    metropolis,
    normal_like,
    per_row,
    squared_norm,
    stride,
)
from lowland.samplers.settings import read_count, read_metric, read_positive, set_plain


class MovingState(NamedTuple):
    """A state with momentum (B, *event); None until the first step has drawn it."""

    x: Tensor
    energy: Tensor
    score: Tensor
    momentum: Tensor | None = None


def _momentum(state: MovingState, generator: torch.Generator) -> Tensor:
    return normal_like(state.x, generator) if state.momentum is None else state.momentum


def _damping(
    step_size: float | Tensor, friction: float, x: Tensor
) -> tuple[float | Tensor, float | Tensor]:
    """Compute e^{−γh} and √(1 − e^{−2γh}): the parts of a momentum kept and drawn anew in a time
    h.
    """
    if isinstance(step_size, Tensor):
        time = friction * per_row(step_size, x)
        return (-time).exp(), (-(-2 * time).expm1()).sqrt()
    return math.exp(-friction * step_size), math.sqrt(-math.expm1(-2 * friction * step_size))


@register("sampler")
@dataclass(frozen=True)
class Underdamped(Sampler):
    """Underdamped Langevin by the splitting BAOAB: half a kick, half a drift, damping with noise,
    and both again.

        B: p ← p − h/2 S ∇E(x)    A: x ← x + h/2 S p O: p ← e^{−γh} p + √(1 − e^{−2γh}) ξ A B

    Does not leave exp(−E) invariant: the bias of its positions is of second order in h, and smaller
    than that of other splittings (on a Gaussian their variance is exact). Reflects position and
    momentum at the walls of a box. friction: γ, in units of 1 / time; S = diag(inv_mass_sqrt).
    Cost: one gradient per step. Source: Leimkuhler & Matthews (2013),
    https://doi.org/10.1093/amrx/abs010
    """

    step_size: float
    friction: float = 1.0
    inv_mass_sqrt: tuple[float, ...] | None = None
    num_grad_evals: ClassVar[int] = 1
    adjusted: ClassVar[bool] = False
    order: ClassVar[int | None] = 2
    state_types: ClassVar[tuple[type, ...]] = (MovingState,)

    def __post_init__(self) -> None:
        set_plain(
            self,
            step_size=read_positive("step_size", self.step_size),
            friction=read_positive("friction", self.friction),
            inv_mass_sqrt=read_metric(self.inv_mass_sqrt),
        )

    def init(self, energy: Energy, x: Tensor) -> MovingState:
        return MovingState(*init(energy, x))

    def step(
        self, energy: Energy, state: MovingState, generator: torch.Generator
    ) -> tuple[MovingState, Info]:
        half = stride(self.step_size / 2, self.inv_mass_sqrt, state.x)
        kept, drawn = _damping(self.step_size, self.friction, state.x)
        start = _momentum(state, generator)
        p = add_scaled(start, state.score, half)
        x, turned = energy.domain.reflect(add_scaled(state.x, p, half), p)
        p = add_scaled(kept * (p if turned is None else turned), normal_like(p, generator), drawn)
        x, turned = energy.domain.reflect(add_scaled(x, p, half), p)
        new = init(energy, x)
        last = add_scaled(p if turned is None else turned, new.score, half)
        return metropolis(state._replace(momentum=-start), MovingState(*new, last), None, generator)


@register("sampler")
@dataclass(frozen=True)
class GHMC(Sampler):
    """Generalised HMC: underdamped Langevin whose drift is accepted or refused; refused chains turn
    round.

        p ← e^{−γh/2} p + √(1 − e^{−γh}) ξ;     (x', p') = leapfrog(x, p), L steps of h;
        accept with probability min(1, exp(H(x, p) − H(x', p'))), else p ← −p;     damp again

    Leaves exp(−E(x) − ‖p‖²/2) invariant for every step size and friction. Turning round costs way,
    so the step is best small (target 0.95). friction → ∞ is HMC. Cost: L gradients per step.
    Source: Horowitz (1991), https://doi.org/10.1016/0370-2693(91)90812-5
    """

    step_size: float
    friction: float = 1.0
    num_leapfrog_steps: int = 1
    inv_mass_sqrt: tuple[float, ...] | None = None
    adjusted: ClassVar[bool] = True
    target_accept: ClassVar[float] = 0.95
    state_types: ClassVar[tuple[type, ...]] = (MovingState,)

    def __post_init__(self) -> None:
        set_plain(
            self,
            step_size=read_positive("step_size", self.step_size),
            friction=read_positive("friction", self.friction),
            num_leapfrog_steps=read_count("num_leapfrog_steps", self.num_leapfrog_steps),
            inv_mass_sqrt=read_metric(self.inv_mass_sqrt),
        )

    @property
    def num_grad_evals(self) -> int:
        return self.num_leapfrog_steps

    def init(self, energy: Energy, x: Tensor) -> MovingState:
        return MovingState(*init(energy, x))

    def step(
        self, energy: Energy, state: MovingState, generator: torch.Generator
    ) -> tuple[MovingState, Info]:
        kept, drawn = _damping(self.step_size / 2, self.friction, state.x)
        p = add_scaled(kept * _momentum(state, generator), normal_like(state.x, generator), drawn)
        here = State(state.x, state.energy, state.score)
        new, last = leapfrog(
            energy,
            here,
            p,
            stride(self.step_size, self.inv_mass_sqrt, state.x),
            self.num_leapfrog_steps,
        )
        log_ratio = state.energy - new.energy + (squared_norm(p) - squared_norm(last)) / 2
        moved, info = metropolis(
            MovingState(*here, -p), MovingState(*new, last), log_ratio, generator
        )
        p = add_scaled(kept * _momentum(moved, generator), normal_like(state.x, generator), drawn)
        return moved._replace(momentum=p), info
