"""Langevin samplers: follow the score, with noise.

The overdamped Langevin diffusion dX = −∇E(X) dt + √(2T) dW leaves exp(−E/T) invariant. `Langevin`
discretises it and is biased by its step; `LeimkuhlerMatthews` does so better at the same price;
`MALA` corrects the bias by Metropolis' rule; `ShortRun` is the decoupled cold recipe with which
most image energies have been trained, kept under its own name because it samples no fixed
distribution.

On a box all trajectories are reflected at the walls (`ShortRun` clamps, and says so).
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

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
    squared_norm,
    stride,
)
from lowland.samplers.settings import read_list, read_metric, read_positive, set_plain


@register("sampler")
@dataclass(frozen=True)
class Langevin(Sampler):
    """Unadjusted Langevin (Euler–Maruyama) at a temperature; the noise is tied to the step.

        y = x − h S² ∇E(x) + √(2hT) S ξ,      ξ ~ N(0, I), S = diag(inv_mass_sqrt)

    Does not leave exp(−E/T) invariant: its bias is of first order in h. Cost: one gradient per
    step. Reflects on a box. Source: Roberts & Tweedie (1996), https://doi.org/10.2307/3318418

    >>> Langevin(0.01)
    Langevin(step_size=0.01, temperature=1.0, inv_mass_sqrt=None)
    """

    step_size: float
    temperature: float = 1.0
    inv_mass_sqrt: tuple[float, ...] | None = None
    num_grad_evals: ClassVar[int] = 1
    adjusted: ClassVar[bool] = False
    order: ClassVar[int | None] = 1
    state_types: ClassVar[tuple[type, ...]] = (State,)

    def __post_init__(self) -> None:
        set_plain(
            self,
            step_size=read_positive("step_size", self.step_size),
            temperature=read_positive("temperature", self.temperature, zero=True),
            inv_mass_sqrt=read_metric(self.inv_mass_sqrt),
        )

    def step(self, energy: Energy, state: State, generator: torch.Generator) -> tuple[State, Info]:
        h = self.step_size
        noise = stride((2 * h * self.temperature) ** 0.5, self.inv_mass_sqrt, state.x)
        y = normal_like(state.x, generator).mul_(noise).add_(state.x)
        if self.inv_mass_sqrt is None and isinstance(h, float):
            y.add_(state.score, alpha=h)
        else:
            y.addcmul_(state.score, stride(h**0.5, self.inv_mass_sqrt, state.x) ** 2)
        y, _ = energy.domain.reflect(y)
        return metropolis(state, self.init(energy, y), None, generator)


class NoisyState(NamedTuple):
    """A state that remembers the noise (B, *event) of its last step; None before the first."""

    x: Tensor
    energy: Tensor
    score: Tensor
    noise: Tensor | None = None


@register("sampler")
@dataclass(frozen=True)
class LeimkuhlerMatthews(Sampler):
    """Unadjusted Langevin with the mean of two noises: the price of `Langevin`, a bias of one order
    less.

        y = x − h ∇E(x) + √(2h) (ξ + ξ') / 2,      ξ' ~ N(0, I) new, ξ that of the step before

    Written as two drifts, so that the old and the new noise can be reflected at the walls of a box:

        (x½, ·) = reflect(x + √(h/2) ξ − h ∇E(x)),   (y, ξ') = reflect(x½ + √(h/2) ξ', ξ')

    Does not leave exp(−E) invariant: its bias is of second order in h (on a Gaussian, the variance
    is exact). Cost: one gradient per step. Source: Leimkuhler & Matthews (2013),
    https://doi.org/10.1093/amrx/abs010
    """

    step_size: float
    inv_mass_sqrt: tuple[float, ...] | None = None
    num_grad_evals: ClassVar[int] = 1
    adjusted: ClassVar[bool] = False
    order: ClassVar[int | None] = 2
    state_types: ClassVar[tuple[type, ...]] = (NoisyState,)

    def __post_init__(self) -> None:
        set_plain(
            self,
            step_size=read_positive("step_size", self.step_size),
            inv_mass_sqrt=read_metric(self.inv_mass_sqrt),
        )

    def init(self, energy: Energy, x: Tensor) -> NoisyState:
        return NoisyState(*init(energy, x))

    def step(
        self, energy: Energy, state: NoisyState, generator: torch.Generator
    ) -> tuple[NoisyState, Info]:
        half = stride((self.step_size / 2) ** 0.5, self.inv_mass_sqrt, state.x)
        old = normal_like(state.x, generator) if state.noise is None else state.noise
        start = add_scaled(add_scaled(state.x, old, half), state.score, 2 * half**2)
        fresh = normal_like(state.x, generator)
        middle, _ = energy.domain.reflect(start)
        y, turned = energy.domain.reflect(add_scaled(middle, fresh, half), fresh)
        new = NoisyState(*init(energy, y), fresh if turned is None else turned)
        return metropolis(state._replace(noise=old), new, None, generator)


@register("sampler")
@dataclass(frozen=True)
class ShortRun(Sampler):
    """The cold short-run recipe: step and noise chosen apart, gradients clipped per number, points
    clamped.

        y = clamp(x − step · clip(∇E(x)) + noise · ξ),      ξ ~ N(0, I)

    Samples no fixed distribution: clipping and clamping bend it, and without them it would be
    exp(−E/T) at `temperature` T = noise² / (2 step), far below 1 for the usual values. Use it to
    train and to make pictures, never to compute expectations. Cost: one gradient per step. clip:
    bound on each gradient entry, None for none; clamp: (lo, hi) or None. Source: Nijkamp et al.
    (2019), https://arxiv.org/abs/1904.09770; Du & Mordatch (2019), https://arxiv.org/abs/1903.08689

    >>> ShortRun(step_size=10.0, noise=0.005).temperature
    1.25e-06
    """

    step_size: float
    noise: float
    clip: float | None = None
    clamp: tuple[float, float] | None = None
    num_grad_evals: ClassVar[int] = 1
    adjusted: ClassVar[bool] = False
    state_types: ClassVar[tuple[type, ...]] = (State,)

    def __post_init__(self) -> None:
        set_plain(
            self,
            step_size=read_positive("step_size", self.step_size),
            noise=read_positive("noise", self.noise, zero=True),
            clip=None if self.clip is None else read_positive("clip", self.clip),
            clamp=None if self.clamp is None else read_list("clamp", self.clamp),
        )
        if self.clamp is not None and not (len(self.clamp) == 2 and self.clamp[0] < self.clamp[1]):
            raise ValueError(
                f"clamp is {self.clamp}; it must be (lo, hi) with lo < hi; leave it out for no "
                "clamping"
            )

    @property
    def temperature(self) -> float:
        """Return noise² / (2 step), the temperature that a step without clipping amounts to."""
        return self.noise**2 / (2 * self.step_size)

    def step(self, energy: Energy, state: State, generator: torch.Generator) -> tuple[State, Info]:
        drift = state.score if self.clip is None else state.score.clamp(-self.clip, self.clip)
        y = (
            normal_like(state.x, generator)
            .mul_(self.noise)
            .add_(state.x)
            .add_(drift, alpha=self.step_size)
        )
        if self.clamp is not None:
            y = y.clamp_(*self.clamp)
        return metropolis(state, self.init(energy, y), None, generator)


@register("sampler")
@dataclass(frozen=True)
class MALA(Sampler):
    """Metropolis-adjusted Langevin: a gradient step with noise, accepted or refused.

        y = x − h ∇E(x) + √(2h) ξ,      ξ ~ N(0, I)

    Written as one leapfrog step of length ε = √(2h) with momentum p = ξ, which is the same proposal
    and the same ratio q(x|y) / q(y|x), and which stays reversible when the path is reflected at the
    walls of a box:

        p½ = p − ε/2 S ∇E(x),   (y, p½) = reflect(x + ε S p½, p½),   p' = p½ − ε/2 S ∇E(y),
        log ratio = E(x) − E(y) + (‖p‖² − ‖p'‖²) / 2,      S = diag(inv_mass_sqrt)

    Leaves exp(−E) invariant for every step size. Cost: one gradient per step.
    Source: Roberts & Tweedie (1996), https://doi.org/10.2307/3318418
    """

    step_size: float
    inv_mass_sqrt: tuple[float, ...] | None = None
    num_grad_evals: ClassVar[int] = 1
    adjusted: ClassVar[bool] = True
    target_accept: ClassVar[float] = 0.574
    state_types: ClassVar[tuple[type, ...]] = (State,)

    def __post_init__(self) -> None:
        set_plain(
            self,
            step_size=read_positive("step_size", self.step_size),
            inv_mass_sqrt=read_metric(self.inv_mass_sqrt),
        )

    def step(self, energy: Energy, state: State, generator: torch.Generator) -> tuple[State, Info]:
        epsilon = stride((2 * self.step_size) ** 0.5, self.inv_mass_sqrt, state.x)
        p = normal_like(state.x, generator)
        half = add_scaled(p, state.score, epsilon / 2)
        y, turned = energy.domain.reflect(add_scaled(state.x, half, epsilon), half)
        new = self.init(energy, y)
        last = add_scaled(half if turned is None else turned, new.score, epsilon / 2)
        log_ratio = state.energy - new.energy + (squared_norm(p) - squared_norm(last)) / 2
        return metropolis(state, new, log_ratio, generator)
