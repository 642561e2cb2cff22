"""Outlier exposure: train a classifier on outliers too, so that its energy detects them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from lowland.domain import Domain
from lowland.energy import Energy
from lowland.objectives.labels import (
    accuracy,
    class_energies,
    cross_entropy,
    require_labels,
    select_energies,
)
from lowland.objectives.loss import Batch, Context, Loss, Objective, detach_terms
from lowland.objectives.ranges import NUMBER, WEIGHT, Range, check_settings
from lowland.registry import register

Kind = Literal["patches", "noise", "mixtures"]
OUTLIER_KINDS: tuple[Kind, ...] = ("patches", "noise", "mixtures")


def make_outliers(x: Tensor, kind: Kind, domain: Domain, generator: torch.Generator) -> Tensor:
    """Make points (B, *event) that are no data from data: their marginals are right, the whole is
    not.

    patches: images cut into 4 × 4 tiles that are put back in another order (vectors: every number
    from another row); noise: draws of the domain's starting distribution; mixtures: the mean of two
    rows."""
    if kind == "noise":
        return domain.draw(len(x), generator, dtype=x.dtype)
    if kind == "mixtures":
        return (x + x[torch.randperm(len(x), generator=generator, device=x.device)]) / 2
    if x.dim() != 4:
        keys = torch.rand(x.shape, generator=generator, device=x.device)
        return x.gather(0, keys.argsort(0))
    return _shuffle_tiles(x, generator)


def _shuffle_tiles(x: Tensor, generator: torch.Generator) -> Tensor:
    """Shuffle the 4 × 4 tiles of images (B, C, H, W); what does not divide by 4 stays at the
    border.
    """
    b, c, h, w = x.shape
    p, q = h // 4, w // 4
    tiles = (
        x[:, :, : 4 * p, : 4 * q]
        .reshape(b, c, 4, p, 4, q)
        .permute(0, 2, 4, 1, 3, 5)
        .reshape(b, 16, c, p, q)
    )
    order = torch.rand(b, 16, generator=generator, device=x.device).argsort(1).view(b, 16, 1, 1, 1)
    tiles = tiles.gather(1, order.expand_as(tiles)).view(b, 4, 4, c, p, q).permute(0, 3, 1, 4, 2, 5)
    found = x.clone()
    found[:, :, : 4 * p, : 4 * q] = tiles.reshape(b, c, 4 * p, 4 * q)
    return found


@register("objective")
@dataclass(frozen=True)
class OutlierExposure(Objective):
    """Classifier trained with outliers: its energy is pushed below `low` on data and above `high`
    on them.

        L = −log p(y | x) + w [mean max(0, E(x) − low)² + mean max(0, high − E(x'))²]

    x' are outliers made from the batch (`make_outliers`), one row each of the named kinds in turn.
    E is no density after this, but a detector. Usually a short run over a classifier that is
    trained already (`fit(..., energy=...)`), at a low rate.

    Cost per update: forward and backward over 2 B points. Use it when only detection is wanted and
    samples are not. Source: Liu et al. (2020), https://arxiv.org/abs/2010.03759

    >>> import torch, lowland
    >>> g = torch.Generator().manual_seed(0)
    >>> energy = lowland.nets.MLP(lowland.real(2), hidden=(8,), classes=3)
    >>> x, y = torch.randn(12, 2, generator=g), torch.arange(12) % 3
    >>> sorted(OutlierExposure().loss(energy, Batch(x, y), Context(g)).terms)
    ['accuracy', 'cross_entropy', 'energy_data', 'energy_outliers', 'hinge']
    """

    low: float = -7.0
    high: float = -1.0
    weight: float = 0.1
    kinds: Sequence[Kind] = OUTLIER_KINDS
    sampled: ClassVar[bool] = False
    differentiates: ClassVar[bool] = False

    def __post_init__(self) -> None:
        kinds = Range(
            f"some of {', '.join(OUTLIER_KINDS)}",
            lambda names: names and set(names) <= set(OUTLIER_KINDS),
        )
        check_settings(self, weight=WEIGHT, low=NUMBER, high=NUMBER, kinds=kinds)
        if not self.low < self.high:
            raise ValueError(
                f"low is {self.low} and high {self.high}; data lie below outliers; exchange them"
            )

    def loss(self, energy: Energy, batch: Batch, context: Context) -> Loss:
        x, labels = batch
        labels = require_labels("OutlierExposure", energy, labels)
        count = len(self.kinds)
        strange = torch.cat(
            [
                make_outliers(x, kind, energy.domain, context.generator)[i::count]
                for i, kind in enumerate(self.kinds)
            ]
        )
        heads = class_energies(energy, torch.cat([x, strange]))
        down, up = select_energies(heads, None).tensor_split([len(x)])
        hinge = F.relu(down - self.low).square().mean() + F.relu(self.high - up).square().mean()
        entropy = cross_entropy(heads[: len(x)], labels)
        terms = detach_terms(
            cross_entropy=entropy,
            accuracy=accuracy(heads[: len(x)], labels),
            hinge=hinge,
            energy_data=down.mean(),
            energy_outliers=up.mean(),
        )
        return Loss(entropy + self.weight * hinge, terms)
