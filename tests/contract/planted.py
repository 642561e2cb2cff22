"""Objectives with one line changed, and the laws of small discrete models by listing all of their states."""

from typing import Any
from unittest import mock

import torch
from torch import Tensor

from lowland import Energy
from lowland.testing import mutated


def planted(module: str, where: str, old: str, new: str) -> Any:
    """The class of lowland.objectives.`module`, as it would be if `old` in `where` read `new`; the registry is not told."""
    with mock.patch("lowland.registry.register", lambda kind: lambda cls: cls):
        return mutated(f"lowland.objectives.{module}", where, old, new)


def all_states(energy: Energy) -> Tensor:
    """Every state of a discrete domain, (K^D, *event), in float64."""
    values = 2 if energy.domain.kind == "binary" else energy.domain.classes
    shape = energy.domain.shape
    count = torch.Size(shape).numel()
    return torch.cartesian_prod(*[torch.arange(values, dtype=torch.float64)] * count).view(-1, *shape)


def law(energy: Energy) -> Tensor:
    """exp(−E)/Z of every state, by enumeration."""
    with torch.no_grad():
        return (-energy(all_states(energy))).softmax(0)


def slopes(value: Tensor, energy: torch.nn.Module) -> Tensor:
    """The gradient of a number in all weights, as one vector; what it does not depend on has slope 0."""
    weights = [p for p in energy.parameters() if p.requires_grad]
    found = torch.autograd.grad(value, weights, allow_unused=True, materialize_grads=True)
    return torch.cat([g.flatten() for g in found])


def batches(objective: Any, energy: Energy, draw: Any, count: int, rows: int, partner: Any = None, seed: int = 0) -> Tensor:
    """Gradients (count, weights) of an objective on independent batches of `draw(rows, generator)`; the partner's come last."""
    g = torch.Generator().manual_seed(seed)
    more = {} if partner is None else {"partner": partner}
    both = torch.nn.ModuleList([energy, *more.values()])
    found = []
    for _ in range(count):
        loss = objective.loss(energy, draw(rows, g), None, sampler=None, buffer=None, generator=g, **more)
        found.append(slopes(loss.value, both))
    return torch.stack(found)
