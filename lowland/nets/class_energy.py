"""Energies of networks that know classes: one head per class.

A network with K heads gives e_1(x) ... e_K(x), the energies of x as a member of each class.

    E(x, y)  = e_y(x)                          hard labels (B,), integers
    E(x, c)  = Σ_k c_k e_k(x)                  soft labels (B, K); one-hot rows equal hard labels
    E(x)     = −log (1/K) Σ_k exp(−e_k(x))     no label: the classes mixed evenly

All K energies cost one forward pass, so the energy without a label and the class posterior
softmax(−e) come for free.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from lowland.energy import ConditionLike, Energy, LabelCondition


class ClassEnergy(Energy):
    """An energy with one head per class. Abstract: subclasses define `class_energies`."""

    classes: int

    def class_energies(self, x: Tensor) -> Tensor:
        """Return the energies e_k(x) (B, K) of points x for every class; (B, 1) without classes."""
        raise NotImplementedError

    def forward(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        return pick(self.class_energies(x), c)

    @property
    def condition(self) -> LabelCondition | None:
        return label_condition(self.classes, self.class_energies)


def label_condition(
    classes: int, class_energies: Callable[[Tensor], Tensor]
) -> LabelCondition | None:
    """Return the capability of an energy with K classes and energies (B, K); None for K = 0."""
    return LabelCondition(classes, class_energies) if classes else None


def pick(heads: Tensor, c: ConditionLike) -> Tensor:
    """Return energies (B,) from heads (B, K or 1) and a condition.

    c: None, labels (B,) or soft labels (B, K). Raises ValueError for a label of an unconditional
    energy, labels outside 0 ... K−1 or rows that do not match.

    >>> import torch
    >>> heads = torch.tensor([[1.0, 3.0]])
    >>> pick(heads, torch.tensor([1])), pick(heads, torch.tensor([[0.5, 0.5]]))
    (tensor([3.]), tensor([2.]))
    """
    classes = heads.shape[1]
    c = condition_for(c, classes, heads)
    if c is not None and c.dim() == 1:
        return heads.gather(1, c.unsqueeze(1)).squeeze(1)
    if c is not None:
        return (c * heads).sum(1)
    if classes == 1:
        return heads.squeeze(1)
    return math.log(classes) - torch.logsumexp(-heads, 1)


def pick_slopes(heads: Tensor, c: ConditionLike) -> Tensor:
    """Return ∂ pick(heads, c) / ∂ heads, (B, K), for heads (B, K) and a condition as in `pick`."""
    classes = heads.shape[1]
    c = condition_for(c, classes, heads)
    if c is None:
        return torch.softmax(-heads, 1)
    return one_hot(c, classes).to(heads.dtype) if c.dim() == 1 else c


def condition_for(c: ConditionLike, classes: int, like: Tensor) -> Tensor | None:
    """Convert a condition to None, integers (B,), or weights (B, K) of the dtype of `like`.

    Raises ValueError as `pick` does.
    """
    if classes == 1 and c is not None:
        raise ValueError(
            "a label was given to an energy without classes; pass x alone; or build it with "
            "classes=K"
        )
    if c is None:
        return None
    rows, c = len(like), torch.as_tensor(c, device=like.device)
    if c.dim() == 0:
        c = c.expand(rows)
    if c.dim() == 1 and not c.is_floating_point() and len(c) == rows:
        # a GPU would wait for the answer; it has checks of its own
        if c.device.type == "cpu" and bool(((c < 0) | (c >= classes)).any()):
            raise ValueError(
                f"labels reach from {int(c.min())} to {int(c.max())}; the energy has classes 0 to "
                f"{classes - 1}; map them into that range"
            )
        return c.long()
    if c.shape == (rows, classes):
        return c.to(like.dtype)
    raise ValueError(
        f"the condition is {c.dtype} of shape {tuple(c.shape)} for {rows} points and {classes} "
        f"classes; allowed are whole-number labels (B,) or soft labels (B, {classes}); convert it"
    )
