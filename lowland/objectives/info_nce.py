"""InfoNCE: learn which pairs belong together from two views of one example, without chains and
without a normaliser.

Among a batch of examples, which y is the other view of x_i? With energies of pairs, p(j | x_i) ∝
exp(−E(x_i, y_j)), and the answer is scored by cross-entropy. At its minimum −E is the pointwise
mutual information log p(x, y) / p(x) p(y), up to a constant: a ratio of densities, which has no
normaliser that would have to be known.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional as F

from lowland.energy import Energy
from lowland.objectives.augment import augment, check_augment
from lowland.objectives.loss import Batch, Context, Loss, Objective, energy_terms
from lowland.objectives.ranges import freeze_sequences
from lowland.registry import register


@runtime_checkable
class Pairwise(Protocol):
    """An energy of pairs of points."""

    def pairs(self, x: Tensor, y: Tensor) -> Tensor:
        """Return energies (B, C) of all pairs of x (B, *event) and y (C, *event)."""
        ...


@register("objective")
@dataclass(frozen=True)
class InfoNCE(Objective):
    """Cross-entropy of telling the other view of an example from those of the rest of the batch,
    both ways round.

        loss = −½ mean_i { log softmax_j(−E(x_i, y_j))_i + log softmax_j(−E(x_j, y_i))_i },
        x_i, y_i: views of example i

    For an energy of pairs (PairEnergy), whose temperature it uses. augment: transforms that make a
    view ("flip", "shift", "rotate", "blur", "colour", "noise"): what they change, the features
    learn to ignore. log(batch) − loss bounds the mutual information of the views from below, so
    that large batches tell more; with several processes, a batch is the share of one. Labels are
    not looked at. Cost per update: a forward and backward pass over both views, no gradient in x.
    Use it when a distance is wanted (retrieval, neighbours, few labels) rather than a density or
    samples. Source: van den Oord, Li & Vinyals (2018), https://arxiv.org/abs/1807.03748; views:
    Chen et al. (2020), https://arxiv.org/abs/2002.05709

    >>> InfoNCE(augment=("shift", "noise"))
    InfoNCE(augment=('shift', 'noise'))
    """

    augment: Sequence[str] = ("noise",)
    sampled: ClassVar[bool] = False
    differentiates: ClassVar[bool] = False

    def __post_init__(self) -> None:
        freeze_sequences(self, "augment")
        check_augment(self.augment)
        if not self.augment:
            raise ValueError(
                "augment is empty; two views of an example must differ; name at least one, such as "
                "'noise'"
            )

    def loss(self, energy: Energy, batch: Batch, context: Context) -> Loss:
        x = batch.x
        if not isinstance(energy, Pairwise):
            raise ValueError(
                f"InfoNCE came with {type(energy).__name__}, an energy of single points; it "
                "compares pairs; use PairEnergy"
            )
        one, other = (augment(x, self.augment, context.generator, energy.domain) for _ in range(2))
        table = energy.pairs(one, other)
        own = torch.arange(len(x), device=x.device)
        value = (F.cross_entropy(-table, own) + F.cross_entropy(-table.T, own)) / 2
        table = table.detach()
        alike, count = table.diagonal(), len(x)
        rest = (table.sum() - table.trace()) / (count * (count - 1))
        right = (table.argmin(1) == own).float().mean()
        return Loss(value, energy_terms(alike, accuracy=right, energy_gap=rest - alike.mean()))
