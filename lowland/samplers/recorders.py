"""Recorders: what a trace holds besides where the chains ended, in bounded memory.

`thin=10` is short for `recorders=Draws(every=10)`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from lowland.energy.sizes import check_allocation
from lowland.samplers.adaptation import RunningMoments
from lowland.samplers.kernel import Info, State, per_row
from lowland.samplers.settings import read_count, read_steps, set_plain


@runtime_checkable
class Recorder(Protocol):
    """Settings of a recording. `name` is its key in `Trace.records`."""

    @property
    def name(self) -> str: ...

    def start(self, state: State, steps: int) -> "Recording":
        """Begin a recording of a run of so many steps."""
        ...


class Recording(Protocol):
    """A recording under way: fed after every step (1, 2, ...); `result` is what the trace holds."""

    def add(self, step: int, state: State, info: Info) -> None: ...

    def result(self) -> Any: ...


def collect_recorders(recorders: object, thin: int | None) -> list[Recorder]:
    """Return one recorder or several as a list, headed by `Draws(thin)` where thin is given.

    Raises ValueError for what is no recorder, and for two of one name.
    """
    many = isinstance(recorders, Sequence) and not isinstance(recorders, str)
    found: list[Any] = [*recorders] if many else [recorders]  # type: ignore[misc]
    if thin is not None:
        found.insert(0, Draws(thin))
    for recorder in found:
        if isinstance(recorder, type) or not isinstance(recorder, Recorder):
            raise ValueError(
                f"recorders hold {recorder!r}; instances of recorders are needed; pass for example "
                "[Energies(), Moments()]"
            )
    names = [recorder.name for recorder in found]
    if len(set(names)) < len(names):
        raise ValueError(
            f"recorders are called {', '.join(names)}; every name is a key of trace.records; give "
            "each a name of its own, Draws(10, name=...)"
        )
    return found


def _allocate(what: str, like: Tensor, count: int) -> Tensor:
    """Return room for `count` tensors like one. Raises ValueError where memory cannot hold them."""
    shape = (count, *like.shape)
    check_allocation(
        f"{what} of {count:,} steps (Moments() need no room)", shape, like.dtype, like.device
    )
    return like.new_empty(shape)


@dataclass
class TensorRecording:
    """Rows of one tensor, filled one after the other."""

    store: Tensor

    def result(self) -> Tensor:
        return self.store


@dataclass(frozen=True)
class Draws:
    """Points of every n-th step: a tensor (draws, B, *event), allocated once."""

    every: int = 1
    name: str = "draws"

    def __post_init__(self) -> None:
        set_plain(self, every=read_count("thin (every)", self.every))

    def start(self, state: State, steps: int) -> "_Draws":
        return _Draws(_allocate("draws", state.x, steps // self.every), self.every)


@dataclass
class _Draws(TensorRecording):
    every: int

    def add(self, step: int, state: State, info: Info) -> None:
        if step % self.every == 0:
            self.store[step // self.every - 1] = state.x


@dataclass(frozen=True)
class Frames:
    """Points after the given steps (1, 2, ...), ascending: a tensor (frames, B, *event)."""

    at: tuple[int, ...]
    name: str = "frames"

    def __post_init__(self) -> None:
        set_plain(self, at=read_steps("at", self.at))

    def start(self, state: State, steps: int) -> "_Frames":
        if not all(1 <= step <= steps for step in self.at):
            raise ValueError(
                f"frames were asked for at {self.at}; the run has steps 1 to {steps}; name steps "
                "among these"
            )
        return _Frames(_allocate("frames", state.x, len(self.at)), self.at)


@dataclass
class _Frames(TensorRecording):
    at: tuple[int, ...]

    def add(self, step: int, state: State, info: Info) -> None:
        for i, wanted in enumerate(self.at):
            if step == wanted:
                self.store[i] = state.x


@dataclass(frozen=True)
class Energies:
    """Energies after every step: (steps, B)."""

    name: str = "energies"

    def start(self, state: State, steps: int) -> "_Energies":
        return _Energies(_allocate("energies", state.energy, steps))


class _Energies(TensorRecording):
    def add(self, step: int, state: State, info: Info) -> None:
        self.store[step - 1] = state.energy


@dataclass(frozen=True)
class Moments:
    """Running mean and variance over steps after `skip`, pooled over chains too, in float64.

    Result: (mean, variance, count), each moment of the event's shape.
    """

    skip: int = 0
    name: str = "moments"

    def __post_init__(self) -> None:
        set_plain(self, skip=read_count("skip", self.skip, least=0))

    def start(self, state: State, steps: int) -> "_Moments":
        return _Moments(self.skip, RunningMoments(state.x.shape[1:], state.x.device))


@dataclass
class _Moments:
    skip: int
    moments: RunningMoments

    def add(self, step: int, state: State, info: Info) -> None:
        if step > self.skip:
            self.moments.add(state.x)

    def result(self) -> tuple[Tensor, Tensor, int]:
        return self.moments.mean, self.moments.variance, self.moments.count


@dataclass(frozen=True)
class Lowest:
    """The lowest point that each chain has visited, its start included: (points (B, *event),
    energies (B,)).
    """

    name: str = "lowest"

    def start(self, state: State, steps: int) -> "_Lowest":
        return _Lowest(state.x.clone(), state.energy.clone())


@dataclass
class _Lowest:
    x: Tensor
    energy: Tensor

    def add(self, step: int, state: State, info: Info) -> None:
        lower = state.energy < self.energy
        self.x = torch.where(per_row(lower, self.x), state.x, self.x)
        self.energy = torch.where(lower, state.energy, self.energy)

    def result(self) -> tuple[Tensor, Tensor]:
        return self.x, self.energy
