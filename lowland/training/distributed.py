"""Several processes as one: the only room that knows torch.distributed.

Every process runs the same program on its share of each batch and of the chains. What differs
between them is what they draw; what must be equal (gradients, whether an update is sound, what
health decides) is agreed here. One process alone is a team of one, and nothing is sent.

    torchrun --nproc-per-node 4 -m lowland train digits
    torchrun --nproc-per-node 4 -m -- lowland train digits --run runs/mine      (without -- torchrun
                                                                                takes --run for its
                                                                                own)

*DDP* keeps whole weights everywhere and averages gradients. *FSDP2* divides master weights,
gradients and moments of the optimiser among the processes and gathers the weights once per update,
because every step of every chain needs all of them. A loss that is a mean over rows has the
gradient that one process would find. One that compares rows with each other (InfoNCE, the diversity
of a generator, pairs by optimal transport) compares those of each process: its batch is the share.
Source: Li et al. (2020), https://arxiv.org/abs/2006.15704; Zhao et al. (2023),
https://arxiv.org/abs/2304.11277
"""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

Value = TypeVar("Value")


_closed: list[
    Any
    # groups that DDP may still hold: were its end theirs, gloo's threads would wait for Python for
    # ever
] = []


class WorkerLostError(RuntimeError):
    """Another process of the run has ended. What was written last is whole; the message says how to
    go on.
    """


@dataclass(frozen=True)
class Team:
    """The processes of a run: the rank of this one, from 0, and their number. Rank 0 is the chief:
    it alone writes and speaks.

    >>> Team().chief, Team().total(torch.tensor(2.0))
    (True, tensor(2.))
    """

    rank: int = 0
    size: int = 1

    @property
    def chief(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def total(self, x: Tensor) -> Tensor:
        """The sum of a tensor over all processes."""
        if self.size > 1:
            x = x.clone()
            dist.all_reduce(x)
        return x

    def every(self, flag: Tensor) -> Tensor:
        """Whether a bool on the device is true everywhere; nothing waits for the device."""
        return self.total((~flag).float()) == 0 if self.size > 1 else flag

    def share(self, value: Value) -> Value:
        """The chief's value, everywhere."""
        held = [value]
        if self.size > 1:
            dist.broadcast_object_list(held, src=0, device=torch.device("cpu"))
        return held[0]

    def gather(self, value: Value) -> list[Value]:
        """The values of all processes by rank, at the chief; elsewhere an empty list."""
        if self.size == 1:
            return [value]
        held: list[Any] = [None] * self.size
        dist.gather_object(value, held if self.chief else None, dst=0)
        return held if self.chief else []

    def chiefly(self, do: Callable[[], Value]) -> Value:
        """What `do` returns at the chief, which alone does it; an error there is raised
        everywhere.
        """
        if self.size == 1:
            return do()
        result: Any = None
        error: Exception | None = None
        if self.chief:
            try:
                result = do()
            except Exception as problem:  # raised again, in every process
                error = problem
        result, error = self.share((result, error))
        if error is not None:
            raise error
        return cast(Value, result)

    def in_turn(self, make: Callable[[], Value]) -> Value:
        """What `make` returns, made at the chief first: the others find what it fetched."""
        held: list[Value] = []
        self.chiefly(lambda: held.append(make()))
        return held[0] if held else make()

    def shared(self, thing: Value) -> Value:
        """A thing that only the chief uses, whose methods all processes call together, and all get
        what they return.
        """
        return thing if self.size == 1 else cast(Value, _Shared(self, thing))

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()

    def portion(self, count: int) -> slice:
        """This process's rows of `count`, which need not divide: sizes differ by one at most.

        >>> [Team(rank, 3).portion(8) for rank in range(3)]
        [slice(0, 2, None), slice(2, 5, None), slice(5, 8, None)]
        """
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def divided(self, name: str, count: int) -> int:
        """An equal share of a count. Raises ValueError if there is none."""
        if count % self.size:
            raise ValueError(
                f"{name} is {count} and {self.size} processes run; each takes an equal share of "
                f"it; set {name} = {max(1, round(count / self.size)) * self.size}, or change the "
                "number of processes"
            )
        return count // self.size

    def generator(
        self, seed: int, offset: int, device: torch.device, step: int = 0
    ) -> torch.Generator:
        """A generator of this process alone; that of a single process from step 0 is seeded by seed
        · 1000 + offset.
        """
        if self.rank == 0 and step == 0:
            return torch.Generator(device).manual_seed(seed * 1000 + offset)
        mixed = np.random.SeedSequence([seed, offset, self.rank, self.size, step]).generate_state(
            1, np.uint64
        )
        return torch.Generator(device).manual_seed(int(mixed[0]) % 2**63)


class _Shared:
    """Stands for a thing at the chief: plain attributes are those of the copy at hand, methods run
    at the chief alone.
    """

    def __init__(self, members: Team, thing: Any) -> None:
        self._members, self._thing = members, thing

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._thing, name)
        if not callable(found):
            return found
        return lambda *args, **more: self._members.chiefly(lambda: found(*args, **more))


def local_rank() -> int:
    """Which of the devices of this machine belongs to this process."""
    return int(os.environ.get("LOCAL_RANK", 0))


def launched() -> Team:
    """What torchrun says in the environment, before anything is opened: enough to know who may
    write.
    """
    return Team(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))


@contextmanager
def team(*, patience: timedelta = timedelta(minutes=30)) -> Iterator[Team]:
    """The team that torchrun has made, or a team of one; opened here, and closed here, unless it is
    open already.

    patience: how long one process waits for another. Raises WorkerLostError when another process
    has ended.
    """
    found = launched()
    if dist.is_initialized():
        found, opened = Team(dist.get_rank(), dist.get_world_size()), False
    else:
        opened = found.size > 1
    if opened:
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=patience)
    try:
        yield found
    except RuntimeError as error:
        if found.size > 1 and (isinstance(error, dist.DistError) or "gloo" in str(error).lower()):
            raise WorkerLostError(
                f"process {found.rank} of {found.size} lost another one; all must live to the end; "
                "see what the other said, then `lowland resume RUN` goes on from the last "
                "checkpoint"
            ) from error
        raise
    finally:
        if opened:
            _closed.append(dist.group.WORLD)
            dist.destroy_process_group()


def wrapped(step: nn.Module, sharding: str, members: Team, device: torch.device) -> Any:
    """The module whose backward averages gradients over the team; a team of one gets the module
    itself.

    sharding: "ddp" or "fsdp". Parameters without a part in a loss are allowed, and buffers are left
    alone: what a network computes from its weights (spectral norm) is the same everywhere.
    """
    if members.size == 1:
        return step
    if sharding == "ddp":
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", FutureWarning
            )  # the newest torch has another name for it
            return nn.parallel.DistributedDataParallel(
                step, find_unused_parameters=True, broadcast_buffers=False
            )
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if any(hasattr(part, "precondition") or hasattr(part, "observe") for part in step.modules()):
        raise ValueError(
            "training.sharding is 'fsdp' and the energy is a Boltzmann machine; its gradient is "
            "made by hand and needs whole weights; use 'ddp'"
        )
    for tensor in step.state_dict().values():
        dist.broadcast(tensor, src=0)
    mesh = init_device_mesh(device.type, (members.size,))
    return fully_shard(
        step, mesh=mesh, reshard_after_forward=False, ignored_params=set(_scalars(step))
    )


def _scalars(module: nn.Module) -> list[nn.Parameter]:
    """Weights without a dimension, which FSDP2 cannot divide."""
    return [p for p in module.parameters() if p.dim() == 0]


@contextmanager
def gathering(module: Any, last: bool) -> Iterator[None]:
    """Inside: gradients add up in each process; averaged over the team only where this part of a
    batch is the last.
    """
    if hasattr(module, "set_requires_gradient_sync"):
        module.set_requires_gradient_sync(last)
        yield
    else:
        with nullcontext() if last or not hasattr(module, "no_sync") else module.no_sync():
            yield


def settle(energy: Any, module: Any, members: Team) -> None:
    """After backward: average what wrappers leave alone, the means that an energy keeps of the
    data, and undivided scalars.
    """
    if members.size == 1:
        return
    loose = (
        [p.grad for p in _scalars(module) if p.grad is not None]
        if hasattr(module, "unshard")
        else []
    )
    means = (
        [b for b in energy.buffers() if b.is_floating_point()] if hasattr(energy, "observe") else []
    )
    for tensor in [*loose, *means]:
        dist.all_reduce(tensor)
        tensor.div_(members.size)


def whole(tensor: Tensor) -> Tensor:
    """The full tensor of which a process may hold a part; every process must ask."""
    return cast(Tensor, tensor.full_tensor()) if hasattr(tensor, "full_tensor") else tensor


def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """`state_dict` with full tensors; every process must ask."""
    return {name: whole(tensor) for name, tensor in module.state_dict().items()}


@torch.no_grad()
def fitted(value: Tensor, held: Tensor) -> Tensor:
    """A full tensor, divided as `held` is, with its memory layout; as it is if its shape is
    another.
    """
    if value.shape != held.shape:
        return value.clone()
    made: Any = torch.empty_like(held)
    if not hasattr(held, "full_tensor"):
        return made.copy_(value)
    mesh, own = made.device_mesh, made.to_local()
    first = (
        -(-len(value) // mesh.size()) * mesh.get_local_rank()
    )  # FSDP2 divides the first dimension, as torch.chunk does
    own.copy_(value[first : first + len(own)])
    return made


def load_whole(module: nn.Module, state: dict[str, Tensor]) -> None:
    """The inverse of `whole_state`."""
    held = module.state_dict()
    module.load_state_dict({name: fitted(value, held[name]) for name, value in state.items()})


def joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Chains of all processes as one set, by rank."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]} if parts else {}


def numbered(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors that every process has of its own: the chief's under their names, those of rank r
    under name.r.
    """
    return {
        name if rank == 0 else f"{name}.{rank}": value
        for rank, part in enumerate(parts)
        for name, value in part.items()
    }
