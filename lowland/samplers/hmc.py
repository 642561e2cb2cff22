"""Hamiltonian Monte Carlo: long moves along level sets of energy plus kinetic energy."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lowland.energy import Energy
from lowland.registry import register
from lowland.samplers.kernel import (
    Info,
    Sampler,
    State,
    add_scaled,
    init,
    metropolis,
    normal_like,
    score_of,
    squared_norm,
    stride,
)
from lowland.samplers.settings import read_count, read_metric, read_positive, set_plain
from lowland.scalars import read_number


def leapfrog(
    energy: Energy, state: State, p: Tensor, epsilon: Any, steps: int
) -> tuple[State, Tensor]:
    """Follow Hamilton's equations for a number of leapfrog steps; position and momentum turn round
    at the walls of a box.

        p ← p − ε/2 ∇E(x);   steps times:  x ← x + ε p,  p ← p − ε ∇E(x)  (the last one half)

    Preserves volume, and is undone by the momentum turned round. epsilon: a number or what
    broadcasts to x. Cost: one gradient per step.
    """
    x, p = state.x, add_scaled(p, state.score, epsilon / 2)
    for left in range(steps, 0, -1):
        x, turned = energy.domain.reflect(add_scaled(x, p, epsilon), p)
        p = p if turned is None else turned
        if left > 1:
            p = add_scaled(p, score_of(energy, x), epsilon)
    new = init(energy, x)
    return new, add_scaled(p, new.score, epsilon / 2)


@register("sampler")
@dataclass(frozen=True)
class HMC(Sampler):
    """Hamiltonian Monte Carlo with a fixed number of leapfrog steps, each chain accepted or refused
    by itself.

        p ~ N(0, I);   L times: p ← p − ε/2 S ∇E(x), x ← x + ε S p, p ← p − ε/2 S ∇E(x),
        accept with probability min(1, exp(H(x, p) − H(x', p'))),      H = E(x) + ‖p‖²/2,
        S = diag(inv_mass_sqrt) = M^(−1/2)

    Leaves exp(−E) invariant for every step size; reflects position and momentum at the walls of a
    box. A trajectory of length ε·L near a multiple of half a period of the target returns to where
    it began: jitter draws ε anew for every chain and step, between (1 − jitter) and (1 + jitter) of
    it, which breaks such resonances. Cost: L gradients per step (the last one is carried over).
    Source: Duane et al. (1987), https://doi.org/10.1016/0370-2693(87)91197-X; Neal (2011),
    https://arxiv.org/abs/1206.1901
    """

    step_size: float
    num_leapfrog_steps: int = 10
    inv_mass_sqrt: tuple[float, ...] | None = None
    jitter: float = 0.0
    adjusted: ClassVar[bool] = True
    target_accept: ClassVar[float] = 0.8
    state_types: ClassVar[tuple[type, ...]] = (State,)

    def __post_init__(self) -> None:
        set_plain(
            self,
            step_size=read_positive("step_size", self.step_size),
            num_leapfrog_steps=read_count("num_leapfrog_steps", self.num_leapfrog_steps),
            inv_mass_sqrt=read_metric(self.inv_mass_sqrt),
            jitter=read_number("jitter", self.jitter),
        )
        if not 0 <= self.jitter < 1:
            raise ValueError(
                f"jitter is {self.jitter}; it is a share of the step, from 0 to below 1; 0.2 is a "
                "common choice"
            )

    @property
    def num_grad_evals(self) -> int:
        return self.num_leapfrog_steps

    def step(self, energy: Energy, state: State, generator: torch.Generator) -> tuple[State, Info]:
        step_size: float | Tensor = self.step_size
        if self.jitter:
            u = torch.rand(
                state.energy.shape, generator=generator, device=state.x.device, dtype=state.x.dtype
            )
            step_size = step_size * (1 + self.jitter * (2 * u - 1))
        p = normal_like(state.x, generator)
        new, last = leapfrog(
            energy,
            state,
            p,
            stride(step_size, self.inv_mass_sqrt, state.x),
            self.num_leapfrog_steps,
        )
        log_ratio = state.energy - new.energy + (squared_norm(p) - squared_norm(last)) / 2
        return metropolis(state, new, log_ratio, generator)
