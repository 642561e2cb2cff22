"""Shared parts of classifiers' objectives: energies of classes, cross-entropy, unknown labels.

    p(y | x) = softmax(−e(x))_y        E(x, y) = e_y(x)        E(x) = −log mean_k exp(−e_k(x))

The K energies e_k(x) of an energy with classes are called its heads. A label of −1 is unknown: such
a point counts only in the terms that need no label.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from lowland.energy import Energy, count_classes, labels_of

UNKNOWN = -1  # the label of a point whose label nobody knows


def cross_entropy(heads: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of −log softmax(−heads)_y over the labelled rows of heads (B, K), 0 without
    any.

    >>> import torch
    >>> cross_entropy(torch.tensor([[0.0, 50.0], [7.0, 7.0]]), torch.tensor([0, -1]))
    tensor(0.)
    """
    total = F.cross_entropy(-heads, labels, ignore_index=UNKNOWN, reduction="sum")
    return total / (labels != UNKNOWN).sum().clamp_min(1)


def accuracy(heads: Tensor, labels: Tensor) -> Tensor:
    """Return the share of the labelled rows of heads (B, K) whose lowest energy is that of their
    label, 0 without any.
    """
    return masked_mean((heads.argmin(1) == labels).to(heads.dtype), labels != UNKNOWN)


def class_energies(energy: Energy, x: Tensor) -> Tensor:
    """Return the energies of every class (B, K), in the precision of x.

    Raises ValueError for an energy that takes no labels.
    """
    condition = labels_of(energy)
    if condition is None:
        raise ValueError(
            f"labels came with a {type(energy).__name__}, which has no class_energies; E(x, y) of "
            "every class is needed; use an energy with classes, or train without labels"
        )
    return condition.class_energies(x).to(x.dtype)


def relative_class_energies(energy: Energy, x: Tensor) -> Tensor:
    """Return the energies of every class (B, K) but for a number that the classes share, for
    cross-entropy.

    The gradient of that number is zero and comes out as rounding, which Adam would make as large as
    any other.
    """
    condition = labels_of(energy)
    return class_energies(energy, x) if condition is None else -condition.logits(x).to(x.dtype)


def require_labels(name: str, energy: Energy, labels: Tensor | None) -> Tensor:
    """Return the labels; raise ValueError unless they came with a continuous energy that has
    classes.
    """
    if labels is None or not count_classes(energy):
        raise ValueError(
            f"the energy has {count_classes(energy)} classes and the data "
            f"{'no ' if labels is None else ''}labels; {name} needs labels and an energy with "
            "classes; set energy.classes, or train by PCD"
        )
    if energy.domain.kind not in ("real", "box"):
        raise ValueError(
            f"the domain is {energy.domain.kind}; {name} takes numbers, real or in a box; train "
            "such data by PCD"
        )
    return labels


def select_energies(heads: Tensor, labels: Tensor | None) -> Tensor:
    """Return E(x, y) of each row's label from heads (B, K), or E(x) without labels: (B,)."""
    if labels is not None:
        return heads.gather(1, labels.clamp_min(0).unsqueeze(1)).squeeze(1)
    return torch.log(heads.new_full((), float(heads.shape[1]))) - torch.logsumexp(-heads, 1)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of the values (B,) where mask (B,) is true, 0 if it is nowhere."""
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp_min(1)


def hide_labels(labels: Tensor, share: float, seed: int) -> Tensor:
    """Return labels (N,) of which a share, picked by the seed, is kept; the others become −1.

    >>> import torch
    >>> hide_labels(torch.arange(5), 0.4, seed=0).tolist()
    [0, -1, -1, -1, 4]
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).to(
        labels.device
    )
    visible = torch.zeros_like(labels, dtype=torch.bool)
    visible = visible.index_fill(0, order[: math.ceil(share * len(labels))], True)
    return torch.where(visible, labels, UNKNOWN)
