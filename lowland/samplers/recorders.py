"""Keepers watch chains without owning them: what a trace holds besides where the chains ended, in
bounded memory.

`keep=10` is short for `keep=Draws(every=10)`.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from lowland.samplers.kernel import Info, State


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
    """Keep the points after the given steps (1, 2, ...), ascending: a tensor (frames, B,
    *event).
    """

    at: tuple[int, ...]
    name: str = "frames"

    def start(self, state: State, steps: int) -> "_FramesRecorder":
        if not all(1 <= step <= steps for step in self.at):
            raise ValueError(
                f"frames were asked for at {self.at}; the run has steps 1 to {steps}; name steps "
                "among these"
            )
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
    """Keep running mean and variance over steps after `skip`, pooled over chains too, in float64
    (Welford's update).

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
class Lowest:
    """Keep the lowest point that each chain has visited, its start included: (points (B, *event),
    energies (B,)).
    """

    name: str = "lowest"

    def start(self, state: State, steps: int) -> "_LowestRecorder":
        return _LowestRecorder(state.x.clone(), state.energy.clone())


@dataclass
class _LowestRecorder:
    x: Tensor
    energy: Tensor

    def add(self, step: int, state: State, info: Info) -> None:
        lower = state.energy < self.energy
        self.x = torch.where(lower.view(-1, *[1] * (self.x.dim() - 1)), state.x, self.x)
        self.energy = torch.where(lower, state.energy, self.energy)

    def result(self) -> tuple[Tensor, Tensor]:
        return self.x, self.energy
