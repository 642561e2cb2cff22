"""The one loop: `sample` runs a sampler, `tune` adapts one. Freezing, recording, progress and counting live here.

Keepers watch the chains without owning them. `keep=10` is short for `keep=Draws(every=10)`.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from lowland.energy import (
    Energy,
    check_energy,
    check_finite,
    check_independent,
    check_normalisable,
    check_points,
    check_values,
    frozen,
    lift,
)
from lowland.samplers.kernel import Info, Sampler, State


class Keeper(Protocol):
    """Watches a chain. `name` is its key in `Trace.kept`; `start` returns a recorder."""

    @property
    def name(self) -> str: ...

    def start(self, state: State, steps: int) -> "Recorder": ...


class Recorder(Protocol):
    """Fed after every step (1, 2, ...); `result` is what the trace keeps."""

    def add(self, step: int, state: State, info: Info) -> None: ...

    def result(self) -> Any: ...


@dataclass(frozen=True)
class Draws:
    """Keep the points of every n-th step: a tensor (draws, B, *event), allocated once."""

    every: int = 1
    name: str = "draws"

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every is {self.every}; it must be at least 1; 1 keeps all steps")

    def start(self, state: State, steps: int) -> "_DrawsRecorder":
        return _DrawsRecorder(self.every, state.x.new_empty((steps // self.every, *state.x.shape)))


@dataclass
class _DrawsRecorder:
    every: int
    store: Tensor

    def add(self, step: int, state: State, info: Info) -> None:
        if step % self.every == 0:
            self.store[step // self.every - 1] = state.x

    def result(self) -> Tensor:
        return self.store


@dataclass(frozen=True)
class Frames:
    """Keep the points after the given steps (1, 2, ...), ascending: a tensor (frames, B, *event)."""

    at: tuple[int, ...]
    name: str = "frames"

    def start(self, state: State, steps: int) -> "_FramesRecorder":
        if not all(1 <= step <= steps for step in self.at):
            raise ValueError(f"frames were asked for at {self.at}; the run has steps 1 to {steps}; name steps among these")
        return _FramesRecorder(self.at, state.x.new_empty((len(self.at), *state.x.shape)))


@dataclass
class _FramesRecorder:
    at: tuple[int, ...]
    store: Tensor

    def add(self, step: int, state: State, info: Info) -> None:
        for i, wanted in enumerate(self.at):
            if step == wanted:
                self.store[i] = state.x

    def result(self) -> Tensor:
        return self.store


@dataclass(frozen=True)
class Energies:
    """Keep the energies after every step: (steps, B)."""

    name: str = "energies"

    def start(self, state: State, steps: int) -> "_EnergiesRecorder":
        return _EnergiesRecorder(state.energy.new_empty((steps, len(state.energy))))


@dataclass
class _EnergiesRecorder:
    store: Tensor

    def add(self, step: int, state: State, info: Info) -> None:
        self.store[step - 1] = state.energy

    def result(self) -> Tensor:
        return self.store


@dataclass(frozen=True)
class Moments:
    """Keep running mean and variance over steps after `skip`, pooled over chains too, in float64 (Welford's update).

    Result: (mean, variance, count), each moment of the event's shape.
    """

    skip: int = 0
    name: str = "moments"

    def start(self, state: State, steps: int) -> "_MomentsRecorder":
        zero = torch.zeros(state.x.shape[1:], dtype=torch.float64, device=state.x.device)
        return _MomentsRecorder(self.skip, zero, zero.clone())


@dataclass
class _MomentsRecorder:
    skip: int
    mean: Tensor
    squares: Tensor
    count: int = 0

    def add(self, step: int, state: State, info: Info) -> None:
        if step <= self.skip:
            return
        x = state.x.double()
        batch_mean, n = x.mean(0), len(x)
        delta, total = batch_mean - self.mean, self.count + n
        self.squares += (x - batch_mean).square().sum(0) + delta.square() * self.count * n / total
        self.mean += delta * n / total
        self.count = total

    def result(self) -> tuple[Tensor, Tensor, int]:
        return self.mean, self.squares / max(self.count - 1, 1), self.count


@dataclass(frozen=True)
class Trace:
    """What a run of chains left behind.

    x: final points (B, *event); state: pass it back to go on; acceptance (B,): share of accepted proposals per chain;
    diverged (B,): refused non-finite proposals per chain; steps; gradients: evaluations per chain; kept: by keeper name.
    """

    state: State
    acceptance: Tensor
    diverged: Tensor
    steps: int
    gradients: int
    kept: dict[str, Any] = field(default_factory=dict)

    @property
    def x(self) -> Tensor:
        return self.state.x

    @property
    def draws(self) -> Tensor:
        """What `Draws` kept: (draws, B, *event)."""
        if "draws" not in self.kept:
            raise ValueError("no draws were kept; only keepers that were asked for run; pass keep=1 to sample")
        return self.kept["draws"]

    def __repr__(self) -> str:
        refused = f", {int(self.diverged.sum())} non-finite proposals refused" if bool(self.diverged.any()) else ""
        return (
            f"Trace({len(self.x)} chains of {tuple(self.x.shape[1:])}, {self.steps} steps, {self.gradients} gradients, "
            f"acceptance {self.acceptance.mean().item():.3f}{refused})"
        )


def sample(
    energy: Energy | Callable[..., Tensor],
    sampler: Sampler,
    x: Tensor,
    steps: int,
    *,
    generator: torch.Generator,
    keep: int | Keeper | Sequence[Keeper] = (),
    state: State | None = None,
    progress: Callable[[int], object] | None = None,
) -> Trace:
    """Run chains from x (B, *event) for a number of steps.

    Same generator, same bits; five steps and five more (pass `state=trace.state`) equal ten. The module is run in eval
    mode with frozen weights and is afterwards as it was. progress: called with 1 after every step.

    Raises ValueError if x does not fit the energy's domain, if the energy is not one (see `check_energy`) or not
    finite at x, or if the generator lives on another device.

    >>> import torch, lowland
    >>> g = torch.Generator().manual_seed(0)
    >>> trace = lowland.sample(lambda x: 0.5 * x.square().sum(1), lowland.MALA(0.5), torch.zeros(4, 2), 20, generator=g)
    >>> trace.x.shape, trace.gradients
    (torch.Size([4, 2]), 21)
    """
    energy = lift(energy)
    check_normalisable(energy)
    _check_arguments(steps, generator, x)
    check_points(energy, x)
    if state is not None and not torch.equal(state.x, x):
        raise ValueError("state and x disagree; they must hold the same points; pass trace.x with trace.state")
    with frozen(energy):
        if state is None:
            state = sampler.init(energy, x)
            check_values(state.energy, x)
            check_independent(energy, x, state.energy)
            gradients = 1
        else:
            gradients = 0
        trace = run_chains(energy, sampler, x, steps, generator=generator, keep=keep, state=state, progress=progress)
    return dataclasses.replace(trace, gradients=trace.gradients + gradients)


def run_chains(
    energy: Energy,
    sampler: Sampler,
    x: Tensor,
    steps: int,
    *,
    generator: torch.Generator,
    keep: int | Keeper | Sequence[Keeper] = (),
    state: State | None = None,
    progress: Callable[[int], object] | None = None,
) -> Trace:
    """`sample` without its checks, for training loops: non-finite starts are let through, stay put and are counted."""
    with frozen(energy):
        gradients = steps * sampler.gradients + (state is None)
        state = sampler.init(energy, x) if state is None else state
        recorders = [(keeper.name, keeper.start(state, steps)) for keeper in _keepers(keep)]
        accepted = torch.zeros(len(x), device=x.device)
        diverged = torch.zeros(len(x), dtype=torch.long, device=x.device)
        for step in range(1, steps + 1):
            state, info = sampler.step(energy, state, generator)
            accepted += info.accept
            diverged += info.diverged
            for _, recorder in recorders:
                recorder.add(step, state, info)
            if progress is not None:
                progress(1)
    kept = {name: recorder.result() for name, recorder in recorders}
    return Trace(state, accepted / max(steps, 1), diverged, steps, gradients, kept)


def _keepers(keep: int | Keeper | Sequence[Keeper]) -> list[Keeper]:
    if isinstance(keep, int):
        return [Draws(keep)]
    return list(keep) if isinstance(keep, Sequence) else [keep]


def tune(
    energy: Energy | Callable[..., Tensor],
    sampler: Sampler,
    x: Tensor,
    steps: int = 200,
    *,
    target: float | None = None,
    generator: torch.Generator,
) -> Any:
    """Find the step size at which a Metropolis sampler accepts a target share; returns a new sampler.

        log ε ← log ε + 2 n^{−0.6} (accepted − target),      averaged over the second half

    n: one more than how often the error has turned round, so that the gain falls only once the target is near.

    target: 0.574 for MALA and 0.8 for longer trajectories unless given. The old sampler and x are left alone.
    Source: Andrieu & Thoms (2008), section 4, https://doi.org/10.1007/s11222-008-9110-y (Robbins–Monro, Polyak averaging)
    The gain: Kesten (1958), https://doi.org/10.1214/aoms/1177706705

    Raises ValueError for samplers without an accept step, whose step cannot be judged by acceptance.

    >>> import torch, lowland
    >>> g = torch.Generator().manual_seed(0)
    >>> start = torch.randn(200, 2, generator=g)
    >>> bowl = lambda x: 50 * x.square().sum(1)
    >>> lowland.tune(bowl, lowland.MALA(1.0), start / 10, generator=g).step_size < 0.1
    True
    """
    energy = lift(energy)
    check_normalisable(energy)
    _check_arguments(steps, generator, x)
    if not sampler.adjusted or not dataclasses.is_dataclass(sampler):
        raise ValueError(
            f"{type(sampler).__name__} accepts every proposal; tune needs a sampler with an accept step; "
            f"use MALA or HMC, or choose the step by hand"
        )
    target = target if target is not None else (0.574 if sampler.gradients == 1 else 0.8)
    if not 0 < target < 1:
        raise ValueError(f"target is {target}; an acceptance rate lies between 0 and 1; leave it out for the default")
    if steps < 2:
        raise ValueError(f"steps is {steps}; tuning needs at least 2; 200 is the default")
    log_step, late, turns, before = math.log(sampler.step_size), [], 1, 0.0
    with frozen(energy):
        check_energy(energy, x)
        state = sampler.init(energy, x)
        for t in range(1, steps + 1):
            trial = dataclasses.replace(sampler, step_size=math.exp(log_step))
            state, info = trial.step(energy, state, generator)
            error = info.accept.float().mean().item() - target
            turns, before = turns + (error * before < 0), error
            log_step += 2 * turns**-0.6 * error
            if t > steps // 2:
                late.append(log_step)
    return dataclasses.replace(sampler, step_size=math.exp(sum(late) / len(late)))


def _check_arguments(steps: int, generator: torch.Generator, x: Tensor) -> None:
    if not isinstance(steps, int) or steps < 0:
        raise ValueError(f"steps is {steps!r}; it must be a whole number, at least 0; 0 only evaluates the start")
    if not isinstance(generator, torch.Generator):
        raise ValueError(
            f"generator is a {type(generator).__name__}; every draw takes a torch.Generator; "
            f"pass torch.Generator().manual_seed(0)"
        )
    if isinstance(x, Tensor) and generator.device.type != x.device.type:
        raise ValueError(
            f"the generator is on {generator.device} and x on {x.device}; both must be on one device; "
            f"make the generator with torch.Generator({x.device.type!r})"
        )
    if isinstance(x, Tensor):
        check_finite(x, "starting points")
