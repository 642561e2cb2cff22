"""Langevin samplers: follow the score, with noise.

The overdamped Langevin diffusion dX = −∇E(X) dt + √(2T) dW leaves exp(−E/T) invariant. `Langevin` discretises it and is
biased by its step; `MALA` corrects the bias by Metropolis' rule; `ShortRun` is the decoupled cold recipe with which most
image energies have been trained, kept under its own name because it samples no fixed law.

On a box all trajectories are reflected at the walls (`ShortRun` clamps, and says so).
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowland.energy import Energy
from lowland.registry import register
from lowland.samplers.kernel import Info, State, init, metropolis, normal_like, squared_norm


def positive(what: str, value: float, *, zero: bool = False) -> None:
    """Raise ValueError unless value is a finite number above 0 (or 0, if allowed)."""
    if not (math.isfinite(value) and (value > 0 or (zero and value == 0))):
        allowed = "at least 0" if zero else "above 0"
        raise ValueError(f"{what} is {value}; it must be finite and {allowed}; choose another {what}")


@register("sampler")
@dataclass(frozen=True)
class Langevin:
    """Unadjusted Langevin (Euler–Maruyama) at a temperature; the noise is tied to the step.

        y = x − h ∇E(x) + √(2hT) ξ,      ξ ~ N(0, I)

    Does not leave exp(−E/T) invariant: its bias is of first order in h. Cost: one gradient per step. Reflects on a box.
    Source: Roberts & Tweedie (1996), https://doi.org/10.2307/3318418

    >>> Langevin(0.01)
    Langevin(step_size=0.01, temperature=1.0)
    """

    step_size: float
    temperature: float = 1.0
    gradients: ClassVar[int] = 1
    adjusted: ClassVar[bool] = False

    def __post_init__(self) -> None:
        positive("step_size", self.step_size)
        positive("temperature", self.temperature, zero=True)

    def init(self, energy: Energy, x: Tensor) -> State:
        return init(energy, x)

    def step(self, energy: Energy, state: State, generator: torch.Generator) -> tuple[State, Info]:
        h = self.step_size
        y = normal_like(state.x, generator).mul_(math.sqrt(2 * h * self.temperature)).add_(state.x)
        y, _ = energy.domain.reflect(y.add_(state.score, alpha=h))
        return metropolis(state, self.init(energy, y), None, generator)


@register("sampler")
@dataclass(frozen=True)
class ShortRun:
    """The cold short-run recipe: step and noise chosen apart, gradients clipped per number, points clamped.

        y = clamp(x − step · clip(∇E(x)) + noise · ξ),      ξ ~ N(0, I)

    Samples no fixed law: clipping and clamping bend it, and without them it would be exp(−E/T) at `temperature`
    T = noise² / (2 step), far below 1 for the usual values. Use it to train and to make pictures, never to compute
    expectations. Cost: one gradient per step.
    clip: bound on each gradient entry, None for none; clamp: (lo, hi) or None.
    Source: Nijkamp et al. (2019), https://arxiv.org/abs/1904.09770; Du & Mordatch (2019), https://arxiv.org/abs/1903.08689

    >>> ShortRun(step_size=10.0, noise=0.005).temperature
    1.25e-06
    """

    step_size: float
    noise: float
    clip: float | None = None
    clamp: tuple[float, float] | None = None
    gradients: ClassVar[int] = 1
    adjusted: ClassVar[bool] = False

    def __post_init__(self) -> None:
        positive("step_size", self.step_size)
        positive("noise", self.noise, zero=True)
        if self.clip is not None:
            positive("clip", self.clip)
        if self.clamp is not None and not self.clamp[0] < self.clamp[1]:
            raise ValueError(f"clamp is {self.clamp}; it must be (lo, hi) with lo < hi; leave it out for no clamping")

    @property
    def temperature(self) -> float:
        """The temperature that step and noise amount to where nothing is clipped: noise² / (2 step)."""
        return self.noise**2 / (2 * self.step_size)

    def init(self, energy: Energy, x: Tensor) -> State:
        return init(energy, x)

    def step(self, energy: Energy, state: State, generator: torch.Generator) -> tuple[State, Info]:
        drift = state.score if self.clip is None else state.score.clamp(-self.clip, self.clip)
        y = normal_like(state.x, generator).mul_(self.noise).add_(state.x).add_(drift, alpha=self.step_size)
        if self.clamp is not None:
            y = y.clamp_(*self.clamp)
        return metropolis(state, self.init(energy, y), None, generator)


@register("sampler")
@dataclass(frozen=True)
class MALA:
    """Metropolis-adjusted Langevin: a gradient step with noise, accepted or refused.

        y = x − h ∇E(x) + √(2h) ξ,      ξ ~ N(0, I)

    Written as one leapfrog step of length ε = √(2h) with momentum p = ξ, which is the same proposal and the same ratio
    q(x|y) / q(y|x), and which stays reversible when the path is reflected at the walls of a box:

        p½ = p − ε/2 ∇E(x),   (y, p½) = reflect(x + ε p½, p½),   p' = p½ − ε/2 ∇E(y)
        log ratio = E(x) − E(y) + (‖p‖² − ‖p'‖²) / 2

    Leaves exp(−E) invariant for every step size. Cost: one gradient per step.
    Source: Roberts & Tweedie (1996), https://doi.org/10.2307/3318418
    """

    step_size: float
    gradients: ClassVar[int] = 1
    adjusted: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive("step_size", self.step_size)

    def init(self, energy: Energy, x: Tensor) -> State:
        return init(energy, x)

    def step(self, energy: Energy, state: State, generator: torch.Generator) -> tuple[State, Info]:
        epsilon = math.sqrt(2 * self.step_size)
        p = normal_like(state.x, generator)
        half = p + epsilon / 2 * state.score
        y, turned = energy.domain.reflect(state.x + epsilon * half, half)
        new = self.init(energy, y)
        last = (half if turned is None else turned) + epsilon / 2 * new.score
        log_ratio = state.energy - new.energy + (squared_norm(p) - squared_norm(last)) / 2
        return metropolis(state, new, log_ratio, generator)
