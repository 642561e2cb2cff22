"""Hamiltonian Monte Carlo: long moves along level sets of energy plus kinetic energy."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowland.energy import Energy
from lowland.registry import register
from lowland.samplers.kernel import Info, State, init, metropolis, normal_like, squared_norm
from lowland.samplers.langevin import positive


@register("sampler")
@dataclass(frozen=True)
class HMC:
    """Hamiltonian Monte Carlo with a fixed number of leapfrog steps, each chain accepted or refused by itself.

        p ~ N(0, I);   L times:  p ← p − ε/2 ∇E(x),  x ← x + ε p,  p ← p − ε/2 ∇E(x)
        accept with probability min(1, exp(H(x, p) − H(x', p'))),      H = E(x) + ‖p‖²/2

    Leaves exp(−E) invariant for every step size; reflects position and momentum at the walls of a box. A trajectory of
    length ε·L near a multiple of half a period of the target returns to where it began: vary L if chains do not mix.
    Cost: L gradients per step (the last one is carried over).
    Source: Duane et al. (1987), https://doi.org/10.1016/0370-2693(87)91197-X; Neal (2011), https://arxiv.org/abs/1206.1901
    """

    step_size: float
    leapfrogs: int = 10
    adjusted: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive("step_size", self.step_size)
        if self.leapfrogs < 1:
            raise ValueError(f"leapfrogs is {self.leapfrogs}; it must be at least 1; 10 is a common choice")

    @property
    def gradients(self) -> int:
        return self.leapfrogs

    def init(self, energy: Energy, x: Tensor) -> State:
        return init(energy, x)

    def step(self, energy: Energy, state: State, generator: torch.Generator) -> tuple[State, Info]:
        epsilon = self.step_size
        p = start = normal_like(state.x, generator)
        new = state
        for _ in range(self.leapfrogs):
            p = p + epsilon / 2 * new.score
            x, turned = energy.domain.reflect(new.x + epsilon * p, p)
            new = self.init(energy, x)
            p = (p if turned is None else turned) + epsilon / 2 * new.score
        log_ratio = state.energy - new.energy + (squared_norm(start) - squared_norm(p)) / 2
        return metropolis(state, new, log_ratio, generator)
