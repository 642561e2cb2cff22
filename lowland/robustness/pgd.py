"""Projected gradient descent (PGD), and FGSM as its single step."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lowland.devices import check_generator
from lowland.robustness.threat_model import (
    Bounds,
    Model,
    Norm,
    check_attack,
    eval_frozen,
    find_gradient,
    margin,
    mask_label,
    open_rows,
    per_row,
    pick_label,
    project_bounds,
    read_settings,
)
from lowland.scalars import read_number

LOSSES = ("cross_entropy", "margin", "targeted")
MIN_GRADIENT_LENGTH = 1e-12  # of a gradient that is scaled to length 1


@dataclass(frozen=True)
class PGD:
    """Projected gradient ascent on a loss J in a ball around x, keeping the best point seen.

        x' ← Π(x' + α_t ε sign ∇J(x'))       ("inf")
        x' ← Π(x' + α_t ε ∇J / ‖∇J‖₂)        ("2"),      α_t = α (1 − t / steps)

    steps; restarts: each from another random point; step_size: α, in units of ε, unless given long
    enough to cross the ball; loss: "cross_entropy", "margin" (J = max_{k≠y} f_k − f_y, the CW
    loss), or "targeted": restart i aims at the i-th most likely other class; random_start: False
    starts at x, so PGD(steps=1, random_start=False) is FGSM; eot: calls of the model over which J
    is averaged; early_stop: rows that are misclassified are left alone from then on (pass False for
    models with noise); bounds: of the points, None for none.

    Cost: restarts · eot · steps gradients, fewer for rows that stop early. Source: Madry et al.
    (2018), https://arxiv.org/abs/1706.06083; FGSM: Goodfellow et al. (2015),
    https://arxiv.org/abs/1412.6572; margin: Carlini & Wagner (2017),
    https://arxiv.org/abs/1608.04644

    >>> two = lambda x: torch.cat([x, -x], 1)
    >>> g, y = torch.Generator().manual_seed(0), torch.tensor([0])
    >>> fgsm = PGD(steps=1, random_start=False)
    >>> fgsm(two, torch.full((1, 1), 0.75), y, 0.5, generator=g)
    tensor([[0.2500]])
    """

    steps: int = 40
    restarts: int = 1
    step_size: float | None = None
    loss: Literal["cross_entropy", "margin", "targeted"] = "cross_entropy"
    norm: Norm = "inf"
    random_start: bool = True
    eot: int = 1
    early_stop: bool = True
    bounds: Bounds = (0.0, 1.0)

    def __post_init__(self) -> None:
        sizes = [] if self.step_size is None else ["step_size"]
        read_settings(self, ("steps", "restarts", "eot"), sizes, self.bounds)
        if self.norm not in ("inf", "2") or self.loss not in LOSSES:
            raise ValueError(
                f"PGD was given norm {self.norm!r} and loss {self.loss!r}; norms are 'inf' and "
                "'2', losses 'cross_entropy', 'margin' and 'targeted'; correct them"
            )

    def __call__(
        self, model: Model, x: Tensor, labels: Tensor, epsilon: float, *, generator: torch.Generator
    ) -> Tensor:
        classes, x = check_attack(model, x, labels, epsilon, self.bounds), x.detach()
        check_generator(generator, x.device)
        epsilon = read_number("epsilon", epsilon, least=0)
        best, rank = x.clone(), torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
        with eval_frozen(model) as model:
            for restart in range(self.restarts):
                at = x.clone()
                if self.random_start:
                    at = self.project(x, x + epsilon * self._direction(x, generator), epsilon)
                self._climb(model, x, labels, epsilon, at, best, rank, (restart, classes))
        return best

    def _climb(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        epsilon: float,
        at: Tensor,
        best: Tensor,
        rank: Tensor,
        turn: tuple[int, int],
    ) -> None:
        """Run one restart from `at`, writing points of higher rank into `best` and `rank`."""
        size = max(0.25, 4 / (self.steps + 1)) if self.step_size is None else self.step_size
        for step in range(self.steps + 1):
            rows = open_rows(rank, self.early_stop)
            if self.early_stop and not len(rank[rows]):
                return
            now, gradient = self.evaluate(model, at[rows], y[rows], step < self.steps, turn)
            better = now > rank[rows]
            best[rows] = torch.where(per_row(better, x), at[rows], best[rows])
            rank[rows] = torch.where(better, now, rank[rows])
            if gradient is not None:
                move = epsilon * size * (1 - step / self.steps) * self._normalize(gradient)
                at[rows] = self.project(x[rows], at[rows] + move, epsilon)

    def evaluate(
        self, model: Model, at: Tensor, labels: Tensor, needs_gradient: bool, turn: tuple[int, int]
    ) -> tuple[Tensor, Tensor | None]:
        """Return the rank (B,) of points, above 0 if misclassified, and ∇J or None.

        Both are means over `eot` calls.
        """
        total, gradient = at.new_zeros(len(at)), torch.zeros_like(at)
        for _ in range(self.eot):
            with torch.set_grad_enabled(needs_gradient):
                leaf = at.detach().requires_grad_(needs_gradient)
                rank, loss = self.objective(model, leaf, labels, turn)
                total += rank.detach() / self.eot
                slope = find_gradient(loss.sum(), leaf) if needs_gradient else None
                if slope is not None:  # a model may hide its gradient; then the points stay
                    gradient += slope.nan_to_num(0.0) / self.eot
        return total, gradient if needs_gradient else None

    def objective(
        self, model: Model, at: Tensor, labels: Tensor, turn: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Return the margin (B,) and the loss J (B,) of one call of the model.

        turn: the number of the restart, and K.
        """
        logits = model(at).to(at.dtype)
        rank = margin(logits, labels)
        if self.loss == "margin":
            return rank, rank
        others, own = mask_label(logits, labels), pick_label(logits, labels)
        if self.loss == "cross_entropy":
            # cross-entropy without the label: the same direction, and no vanishing gradient
            return rank, torch.logsumexp(others, 1) - own
        order = others.detach().argsort(1, descending=True)
        aim = order[:, turn[0] % (turn[1] - 1)]
        return rank, pick_label(logits, aim) - own

    def project(self, x: Tensor, at: Tensor, epsilon: float) -> Tensor:
        """Return the nearest points in the ball around x, then the nearest inside the bounds.

        The second step leaves no ball whose centre is inside.
        """
        gap = at - x
        if self.norm == "inf":
            return project_bounds(x + gap.clamp(-epsilon, epsilon), self.bounds)
        return project_bounds(x + gap * (epsilon / _length(gap)).clamp_max(1.0), self.bounds)

    def _normalize(self, gradient: Tensor) -> Tensor:
        return gradient.sign() if self.norm == "inf" else gradient / _length(gradient)

    def _direction(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Draw random points of the unit ball."""
        if self.norm == "inf":
            return 2 * torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device) - 1
        direction = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        radius = torch.rand(len(x), generator=generator, dtype=x.dtype, device=x.device)
        return direction / _length(direction) * radius.view(-1, *[1] * (x.dim() - 1))


def _length(x: Tensor) -> Tensor:
    """Compute ‖x‖₂ per row, at least MIN_GRADIENT_LENGTH, in a shape that divides x."""
    length = x.flatten(1).norm(dim=1).clamp_min(MIN_GRADIENT_LENGTH)
    return length.view(-1, *[1] * (x.dim() - 1))
