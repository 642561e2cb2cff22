"""The Square attack: a random search that needs no gradient."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lowland.devices import check_generator
from lowland.robustness.threat_model import (
    Bounds,
    Model,
    check_attack,
    eval_frozen,
    margin,
    open_rows,
    per_row,
    project_bounds,
    read_settings,
)
from lowland.scalars import read_number

# shares of the queries after which the area of a square is halved
HALVINGS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)


@dataclass(frozen=True)
class Square:
    """Random search without gradients on images (B, C, H, W): a square of ±ε is kept if it raises
    the margin.

    It starts at vertical stripes of ±ε. The area of a square is a share p_init of the pixels at
    first, and is halved after 0.1, 0.5, 2, 5, 10, 20, 40, 60 and 80 % of the queries. A defence
    that falls to it and not to PGD hides its gradients. early_stop: as in `PGD`; eot: calls
    averaged per query. The ball is that of the largest difference. Cost: queries · eot forward
    passes. Source: Andriushchenko et al. (2020), https://arxiv.org/abs/1912.00049
    """

    queries: int = 1000
    p_init: float = 0.5
    eot: int = 1
    early_stop: bool = True
    bounds: Bounds = (0.0, 1.0)

    def __post_init__(self) -> None:
        read_settings(self, ("queries", "eot"), (), self.bounds)
        share = read_number("p_init", self.p_init, above=0, most=1)
        object.__setattr__(self, "p_init", share)

    def __call__(
        self, model: Model, x: Tensor, labels: Tensor, epsilon: float, *, generator: torch.Generator
    ) -> Tensor:
        check_attack(model, x, labels, epsilon, self.bounds)
        check_generator(generator, x.device)
        epsilon = read_number("epsilon", epsilon, least=0)
        x = x.detach()
        if x.dim() != 4:
            raise ValueError(
                f"points have shape {tuple(x.shape)}; Square needs images (B, C, H, W); attack "
                "others by PGD"
            )
        stripes = epsilon * _signs((len(x), x.shape[1], 1, x.shape[3]), x, generator)
        best = project_bounds(x + stripes.expand_as(x), self.bounds)
        with eval_frozen(model) as model, torch.no_grad():
            rank = self._margin(model, best, labels)
            for query in range(1, self.queries):
                rows = open_rows(rank, self.early_stop)
                if self.early_stop and not len(rank[rows]):
                    break
                trial = self._add_squares(x[rows], best[rows], epsilon, query, generator)
                now = self._margin(model, trial, labels[rows])
                better = now > rank[rows]
                best[rows] = torch.where(per_row(better, x), trial, best[rows])
                rank[rows] = torch.where(better, now, rank[rows])
        return best

    def _add_squares(
        self, x: Tensor, at: Tensor, epsilon: float, query: int, generator: torch.Generator
    ) -> Tensor:
        """Return points with one more square each, at a random place."""
        height, width = x.shape[2:]
        halvings = sum(query >= share * self.queries for share in HALVINGS)
        side = round(math.sqrt(self.p_init / 2**halvings * height * width))
        side = max(1, min(side, height, width))
        corners = torch.rand(2, len(x), 1, generator=generator, device=x.device)
        top = (corners[0] * (height - side + 1)).long()
        left = (corners[1] * (width - side + 1)).long()
        down, along = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
        rows, columns = (down >= top) & (down < top + side), (along >= left) & (along < left + side)
        inside = (rows.unsqueeze(2) & columns.unsqueeze(1)).unsqueeze(1)
        square = x + epsilon * _signs((*x.shape[:2], 1, 1), x, generator)
        return project_bounds(torch.where(inside, square, at), self.bounds)

    def _margin(self, model: Model, at: Tensor, labels: Tensor) -> Tensor:
        calls = [margin(model(at).to(at.dtype), labels) for _ in range(self.eot)]
        return torch.stack(calls).mean(0)


def _signs(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw ±1 with equal probability."""
    return 2.0 * torch.randint(2, shape, generator=generator, device=like.device).to(like.dtype) - 1
