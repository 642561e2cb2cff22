"""Averaged weights: what a run samples and scores with."""

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

from lowland.training.sharding import full_tensor

Averaged = TypeVar("Averaged", bound=nn.Module)


class EMA(Generic[Averaged]):
    """Exponential moving average of a module's weights, θ̄ ← d θ̄ + (1 − d) θ, with a warm-up of
    the decay d.

    Early on d is (1 + t) / (10 + t), so that the first weights are forgotten quickly. With `start`,
    the weights as they are up to that update and the plain mean of all weights since: what a
    falling learning rate wants (Polyak & Juditsky 1992, https://doi.org/10.1137/0330046). Buffers
    are copied. `module` is a separate copy in eval mode that requires no gradients.
    """

    def __init__(self, module: Averaged, decay: float, start: int | None = None) -> None:
        self.decay, self.start = decay, start
        self.module: Averaged = copy.deepcopy(module).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move towards the module's weights after its update number `step` (counted from 1)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        if self.start is not None:
            decay = 1 - 1 / max(step - self.start, 1)
        for average, current in zip(self.module.parameters(), module.parameters(), strict=True):
            average.lerp_(full_tensor(current), 1 - decay)
        for kept, buffer in zip(self.module.buffers(), module.buffers(), strict=True):
            kept.copy_(buffer)
