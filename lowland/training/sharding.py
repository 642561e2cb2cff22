"""Weights of several processes: averaged by DDP, or divided among them by FSDP2.

*DDP* keeps whole weights everywhere and averages gradients. *FSDP2* divides master weights,
gradients and moments of the optimiser among the processes and gathers the weights once per update,
because every step of every chain needs all of them. A loss that is a mean over rows has the
gradient that one process would find. One that compares rows with each other (InfoNCE, the diversity
of a generator, pairs by optimal transport) compares those of each process: its batch is the share.
Source: Li et al. (2020), https://arxiv.org/abs/2006.15704; Zhao et al. (2023),
https://arxiv.org/abs/2304.11277

DTensor and FSDP2 are imported where they are needed: they cost more than a second.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lowland.energy import Energy, gibbs_of, learner_of
from lowland.training.distributed import Team

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor


def wrap_step(step: nn.Module, sharding: str, members: Team, device: torch.device) -> nn.Module:
    """Return the module whose backward averages gradients over the team; a team of one gets the
    module itself.

    sharding: "ddp" or "fsdp". Parameters without a part in a loss are allowed, and buffers are left
    alone: what a network computes from its weights (spectral norm) is the same everywhere.
    """
    if members.size == 1:
        return step
    if device.type not in ("cpu", "cuda", "xpu"):
        raise ValueError(
            f"{members.size} processes run on {device.type}; torch adds up their gradients on CPU, "
            "CUDA and XPU devices; set training.device = 'cpu', or run one process"
        )
    if sharding == "ddp":
        with warnings.catch_warnings():
            # the newest torch has another name for it
            warnings.simplefilter("ignore", FutureWarning)
            return DistributedDataParallel(
                step, find_unused_parameters=True, broadcast_buffers=False
            )
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    energies = [part for part in step.modules() if isinstance(part, Energy)]
    if any(gibbs_of(part).fields for part in energies):
        raise ValueError(
            "training.sharding is 'fsdp' and the energy is a Boltzmann machine; its gradient is "
            "made by hand and needs whole weights; use 'ddp'"
        )
    for tensor in step.state_dict().values():
        dist.broadcast(tensor, src=0)
    mesh = init_device_mesh(device.type, (members.size,))
    scalars = set(_scalar_parameters(step))
    fully_shard(step, mesh=mesh, reshard_after_forward=False, ignored_params=scalars)
    return step


def _scalar_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Return weights without a dimension, which FSDP2 cannot divide."""
    return [p for p in module.parameters() if p.dim() == 0]


@contextmanager
def accumulate_gradients(module: nn.Module, last: bool) -> Iterator[None]:
    """Add up gradients in each process inside, averaged over the team only where `last`."""
    if isinstance(module, DistributedDataParallel):
        if last:
            yield
            return
        with module.no_sync():
            yield
        return
    if _is_fully_sharded(module):
        module.set_requires_gradient_sync(last)
    yield


def average_unsynced(energy: Energy, module: nn.Module, members: Team) -> None:
    """Average over the team what wrappers leave alone: running means of the data, and undivided
    scalars' gradients. Called after backward.
    """
    if members.size == 1:
        return
    loose: list[Tensor] = []
    divided = _is_fully_sharded(module)
    if divided:
        loose = [p.grad for p in _scalar_parameters(module) if p.grad is not None]
    follows = learner_of(energy).update_offsets is not None
    means = [b for b in energy.buffers() if b.is_floating_point()] if follows else []
    for tensor in [*loose, *means]:
        dist.all_reduce(tensor)
        tensor.div_(members.size)


def _is_fully_sharded(module: nn.Module) -> "TypeGuard[FSDPModule]":
    if not dist.is_initialized():
        return False
    from torch.distributed.fsdp import FSDPModule

    return isinstance(module, FSDPModule)


def _is_divided(tensor: Tensor) -> "TypeGuard[DTensor]":
    """Return whether a tensor is this process's part of a larger one."""
    if not dist.is_initialized():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def full_tensor(tensor: Tensor) -> Tensor:
    """Return the full tensor of which a process may hold a part; every process must ask."""
    if _is_divided(tensor):
        return tensor.full_tensor()
    return tensor


def full_state_dict(module: nn.Module) -> dict[str, Tensor]:
    """Return `state_dict` with full tensors; every process must ask."""
    return {name: full_tensor(tensor) for name, tensor in module.state_dict().items()}


@torch.no_grad()
def shard_like(value: Tensor, reference: Tensor) -> Tensor:
    """Return a full tensor divided as `reference` is, with its memory layout; a copy of it if its
    shape is another.
    """
    if value.shape != reference.shape:
        return value.clone()
    made = torch.empty_like(reference)
    if not _is_divided(made):
        return made.copy_(value)
    mesh, own = made.device_mesh, made.to_local()
    rows = -(-len(value) // mesh.size())  # FSDP2 divides the first dimension, as torch.chunk does
    first = rows * mesh.get_local_rank()
    own.copy_(value[first : first + len(own)])
    return made


def load_full_state_dict(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Load what `full_state_dict` returned."""
    own = module.state_dict()
    module.load_state_dict({name: shard_like(value, own[name]) for name, value in state.items()})


def concatenate_ranks(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Concatenate the chains of all processes, by rank."""
    if not parts:
        return {}
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def number_by_rank(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Collect tensors that every process has of its own: those of rank 0 under their names, those
    of rank r under name.r.
    """
    return {
        name if rank == 0 else f"{name}.{rank}": value
        for rank, part in enumerate(parts)
        for name, value in part.items()
    }
