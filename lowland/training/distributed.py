"""Several processes as one.

Every process runs the same program on its share of each batch and of the chains. What differs
between them is what they draw; what must be equal (gradients, whether an update is sound, what
health decides) is agreed here. One process alone is a team of one, and nothing is sent.

    torchrun --nproc-per-node 4 -m lowland train digits
    torchrun --nproc-per-node 4 -m -- lowland train digits --run runs/mine

(without -- torchrun takes --run for its own). How the weights are shared: `training.sharding`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from lowland.launch import read_launch
from lowland.seeds import make_generator

Value = TypeVar("Value")

# Groups that DDP may still hold: if they were destroyed with DDP, gloo's threads would wait for
# Python for ever.
_closed: list[Any] = []


class WorkerLostError(RuntimeError):
    """Another process of the run has ended. What was written last is whole; the message says how to
    go on.
    """


@dataclass(frozen=True)
class Team:
    """The processes of a run: rank of this one, from 0, and their number. Rank 0 is the main one:
    it alone writes files and shows progress.

    >>> Team().is_main, Team().total(torch.tensor(2.0))
    (True, tensor(2.))
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Tell whether this process writes files and shows progress."""
        return self.rank == 0

    def total(self, x: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes."""
        if self.size > 1:
            x = x.clone()
            dist.all_reduce(x)
        return x

    def all_true(self, flag: Tensor) -> Tensor:
        """Return whether a bool on the device is true in every process, without waiting for the
        device.
        """
        if self.size == 1:
            return flag
        return self.total((~flag).float()) == 0

    def broadcast(self, value: Value) -> Value:
        """Return the main process's value in every process."""
        box = [value]
        if self.size > 1:
            dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def gather(self, value: Value) -> list[Value]:
        """Return the values of all processes by rank in the main one; elsewhere an empty list."""
        if self.size == 1:
            return [value]
        values: list[Any] | None = [None] * self.size if self.is_main else None
        dist.gather_object(value, values, dst=0)
        return values or []

    def on_main(self, call: Callable[[], Value]) -> Value:
        """Run `call` in the main process alone and return its result everywhere; raise its error
        everywhere.
        """
        if self.size == 1:
            return call()
        result: Value | None = None
        error: Exception | None = None
        if self.is_main:
            try:
                result = call()
            except Exception as problem:  # raised again, in every process
                error = problem
        result, error = self.broadcast((result, error))
        if error is not None:
            raise error
        return cast(Value, result)

    def main_first(self, make: Callable[[], Value]) -> Value:
        """Return `make()`, run in the main process first, so that the others find its downloads."""
        made: list[Value] = []
        self.on_main(lambda: made.append(make()))
        if made:
            return made[0]
        return make()

    def main_proxy(self, thing: Value) -> Value:
        """Wrap an object whose methods all processes call together, the main one runs, and all get
        the result of.
        """
        if self.size == 1:
            return thing
        return cast(Value, _MainProxy(self, thing))

    def barrier(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            dist.barrier()

    def shard(self, count: int) -> slice:
        """Return this process's rows of `count`, which need not divide: sizes differ by one at
        most.

        >>> [Team(rank, 3).shard(8) for rank in range(3)]
        [slice(0, 2, None), slice(2, 5, None), slice(5, 8, None)]
        """
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def per_rank(self, name: str, count: int) -> int:
        """Return an equal share of a count. Raises ValueError if it does not divide."""
        if count % self.size:
            raise ValueError(
                f"{name} is {count} and {self.size} processes run; each takes an equal share of "
                f"it; set {name} = {max(1, round(count / self.size)) * self.size}, or change the "
                "number of processes"
            )
        return count // self.size

    def make_generator(
        self, seed: int, offset: int, device: torch.device, step: int = 0
    ) -> torch.Generator:
        """Return a generator of this process alone; that of rank 0 from step 0 is seeded by
        seed · 1000 + offset.
        """
        if self.rank == 0 and step == 0:
            return torch.Generator(device).manual_seed(seed * 1000 + offset)
        return make_generator(seed, offset, self.rank, self.size, step, device=device)


class _MainProxy:
    """Stand-in for an object: plain attributes are those of the local copy, methods run on the main
    process.
    """

    def __init__(self, members: Team, thing: Any) -> None:
        self._members, self._thing = members, thing

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._thing, name)
        if not callable(found):
            return found
        return lambda *args, **more: self._members.on_main(lambda: found(*args, **more))


def launched_team() -> Team:
    """Return the team that torchrun's environment names, before any group is opened."""
    found = read_launch()
    return Team(found.rank, found.size)


def _choose_backends() -> str:
    """Return what sends tensors between processes: gloo those of the CPU, NCCL and XCCL those of
    CUDA and XPU devices, where torch has them.
    """
    found = {"cpu": "gloo"}
    if torch.cuda.is_available():
        found["cuda"] = "nccl"
    if torch.xpu.is_available() and "xccl" in dist.Backend.backend_list:
        found["xpu"] = "xccl"
    if len(found) == 1:
        return found["cpu"]
    return ",".join(f"{device}:{backend}" for device, backend in found.items())


@contextmanager
def team(*, patience: timedelta = timedelta(minutes=30)) -> Iterator[Team]:
    """Open the team that torchrun has made, or a team of one, and close it; an open one is reused.

    patience: how long one process waits for another. Raises WorkerLostError when another process
    has ended.
    """
    members = launched_team()
    opened = members.size > 1
    if dist.is_initialized():
        members, opened = Team(dist.get_rank(), dist.get_world_size()), False
    if opened:
        dist.init_process_group(_choose_backends(), timeout=patience)
    try:
        yield members
    except RuntimeError as error:
        lost = isinstance(error, dist.DistError) or "gloo" in str(error).lower()
        if members.size == 1 or not lost:
            raise
        raise WorkerLostError(
            f"process {members.rank} of {members.size} lost another one; all must live to the "
            "end; see what the other said, then `lowland resume RUN` goes on from the last "
            "checkpoint"
        ) from error
    finally:
        if opened:
            _closed.append(dist.group.WORLD)
            dist.destroy_process_group()
