"""The Carlini & Wagner attack: the smallest perturbation in the Euclidean norm."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lowland.robustness.pgd import PGD
from lowland.robustness.threat_model import (
    Bounds,
    Model,
    check_attack,
    eval_frozen,
    find_gradient,
    margin,
    per_row,
    project_bounds,
    read_settings,
)
from lowland.scalars import read_number


@dataclass(frozen=True)
class CW:
    """The nearest adversarial example in L2, by descent with a weight found by bisection per row.

        min ‖x' − x‖₂² + c max(0, f_y − max_{k≠y} f_k + κ)

    by Adam with `learning_rate`, `steps` per weight c, starting at `weight` and followed by
    `binary_search_steps` of bisection; confidence: κ; x' stays inside the bounds. A point further
    away than ε is projected back to the ball. Cost: steps · binary_search_steps gradients. Source:
    Carlini & Wagner (2017), https://arxiv.org/abs/1608.04644 (their change of variables is here a
    clamp)

    >>> two = lambda x: torch.cat([x - 0.5, 0.5 - x], 1)
    >>> CW().nearest(two, torch.full((1, 1), 0.75), torch.tensor([0])).round(decimals=1)
    tensor([[0.5000]])
    """

    steps: int = 100
    binary_search_steps: int = 5
    learning_rate: float = 0.02
    confidence: float = 0.0
    weight: float = 1.0
    bounds: Bounds = (0.0, 1.0)

    def __post_init__(self) -> None:
        counts, sizes = ("steps", "binary_search_steps"), ("learning_rate", "weight")
        read_settings(self, counts, sizes, self.bounds)
        object.__setattr__(self, "confidence", read_number("confidence", self.confidence, least=0))

    def __call__(
        self, model: Model, x: Tensor, labels: Tensor, epsilon: float, *, generator: torch.Generator
    ) -> Tensor:
        check_attack(model, x, labels, epsilon, self.bounds)
        epsilon = read_number("epsilon", epsilon, least=0)
        x = x.detach()
        nearest = self.nearest(model, x, labels)
        return PGD(norm="2", bounds=self.bounds).project(x, nearest, epsilon)

    def nearest(self, model: Model, x: Tensor, labels: Tensor) -> Tensor:
        """Return the nearest adversarial points found (B, *event); x itself where none was."""
        best, reach = x.clone(), torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
        weight = torch.full_like(reach, self.weight)
        low, high = torch.zeros_like(reach), torch.full_like(reach, torch.inf)
        for _ in range(self.binary_search_steps):
            at, size = self._descend(model, x, labels, weight)
            success, closer = size < torch.inf, size < reach
            best = torch.where(per_row(closer, x), at, best)
            reach = torch.where(closer, size, reach)
            high = torch.where(success, torch.minimum(high, weight), high)
            low = torch.where(success, low, torch.maximum(low, weight))
            weight = torch.where(high < torch.inf, (low + high) / 2, 10 * weight)
        return best

    def _descend(
        self, model: Model, x: Tensor, labels: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the nearest adversarial points at a weight (B,), and their distances (B,) or ∞."""
        leaf = x.clone().requires_grad_(True)
        adam = torch.optim.Adam([leaf], lr=self.learning_rate)
        best, reach = x.clone(), torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
        with eval_frozen(model) as model, torch.enable_grad():
            for _ in range(self.steps):
                excess = margin(model(leaf).to(x.dtype), labels)
                square = (leaf - x).square().flatten(1).sum(1)
                size = square.detach().sqrt()
                closer = (excess.detach() > 0) & (size < reach)
                best = torch.where(per_row(closer, x), leaf.detach(), best)
                reach = torch.where(closer, size, reach)
                loss = square + weight * (self.confidence - excess).clamp_min(0.0)
                leaf.grad = find_gradient(loss.sum(), leaf)
                adam.step()
                leaf.data.copy_(project_bounds(leaf.data, self.bounds))
        return best, reach
