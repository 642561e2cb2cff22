"""Memory of training: blocks whose activations are computed again instead of kept, and the peak.

A network of L residual blocks keeps all activations of a forward pass until the backward pass has
used them. With `recompute` it keeps the input of each block alone and runs the block once more when
its gradient is due: memory of one block and L inputs, for a third more arithmetic or up to twice as
much. Where a loss differentiates twice, as score matching does, gradients are the same but little
or nothing is saved: the graph of the first derivative keeps what was computed again. Source: Chen
et al. (2016), https://arxiv.org/abs/1604.06174
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.utils.checkpoint import checkpoint

from lowland.memory import peak_bytes


def recompute(energy: nn.Module) -> int:
    """Let the blocks of an energy compute their activations again in the backward pass; return how
    many there are.

    A block is an inner module with layers of its own (a residual block, say), a list of layers is
    none. Gradients are the same to the last bit; spectral norm does not advance when a block is
    computed again. Raises ValueError if there are no blocks.
    """
    found = list(_blocks(energy))
    if not found:
        raise ValueError(
            f"training.checkpoint_activations is true and {type(energy).__name__} has no residual "
            "blocks; it is for networks such as IGEBM; set it to false, or divide the batch with "
            "training.accumulate"
        )
    for block in found:
        block.forward = _CheckpointedForward(block)
    return len(found)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
            yield from _blocks(child)
        elif not is_parametrized(child) and any(True for _ in child.children()):
            yield child


class _CheckpointedForward:
    """The forward of a block, under a checkpoint that replays its buffers. A copy of the block has
    a copy of this.
    """

    def __init__(self, block: nn.Module) -> None:
        self.block, self.forward = block, block.forward

    def __call__(self, *inputs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.forward(*inputs)
        return checkpoint(self.forward, *inputs, use_reentrant=False, context_fn=self._contexts)

    def _contexts(self) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        moving = self.block.training and any(True for _ in self.block.buffers())
        snapshot = _BufferSnapshot(self.block)
        if not moving:
            return nullcontext(), nullcontext()
        return snapshot, _BufferReplay(snapshot)


class _BufferSnapshot(AbstractContextManager[None]):
    """The buffers as a forward pass in training mode left them: the power iteration of
    spectral norm moves them.
    """

    def __init__(self, block: nn.Module) -> None:
        self.block = block
        self.buffers: list[Tensor] = []

    def __exit__(self, *_: object) -> None:
        self.buffers = [buffer.clone() for buffer in self.block.buffers()]


class _BufferReplay(AbstractContextManager[None]):
    """Inside: the buffers of that pass, which do not move on. After: as before. Entered once for
    each backward pass.
    """

    def __init__(self, snapshot: _BufferSnapshot) -> None:
        self.snapshot = snapshot

    def __enter__(self) -> None:
        block = self.snapshot.block
        holders = [
            module for module in block.modules() if any(True for _ in module.buffers(recurse=False))
        ]
        self.modes = [(module, module.training) for module in holders]
        self.now = [buffer.clone() for buffer in block.buffers()]
        for module, _ in self.modes:
            module.training = False
        self._put(self.snapshot.buffers)

    def __exit__(self, *_: object) -> None:
        for module, mode in self.modes:
            module.training = mode
        self._put(self.now)

    @torch.no_grad()
    def _put(self, values: list[Tensor]) -> None:
        for buffer, value in zip(self.snapshot.block.buffers(), values, strict=True):
            buffer.copy_(value)


def peak_mb(device: torch.device) -> float:
    """Return the peak memory of this process so far, in MiB: of the device on CUDA and XPU, what is
    held now on MPS, which keeps no peak, else resident.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if device.type == "xpu":
        return torch.xpu.max_memory_allocated(device) / 2**20
    if device.type == "mps":
        return torch.mps.driver_allocated_memory() / 2**20
    return peak_bytes() / 2**20
