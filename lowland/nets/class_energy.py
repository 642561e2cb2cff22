"""Energies of networks that know classes: one head per class.

A network with K heads gives e_1(x) ... e_K(x), the energies of x as a member of each class.

    E(x, y)  = e_y(x)                          hard labels (B,), integers
    E(x, c)  = Σ_k c_k e_k(x)                  soft labels (B, K); one-hot rows equal hard labels
    E(x)     = −log (1/K) Σ_k exp(−e_k(x))     no label: the classes mixed evenly

All K energies cost one forward pass, so the energy without a label and the class posterior
softmax(−e) come for free.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from lowland.energy import Energy, LabelCondition


class ClassEnergy(Energy):
    """An energy with one head per class; subclasses write `class_energies`, this class does the
    rest.
    """

    classes: int

    def class_energies(self, x: Tensor) -> Tensor:
        """The energies e_k(x) of every class, (B, K); (B, 1) without classes."""
        raise NotImplementedError

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        return pick(self.class_energies(x), c)

    @property
    def condition(self) -> LabelCondition | None:
        return LabelCondition(self.classes, self.class_energies) if self.classes else None


def pick(heads: Tensor, c: Any) -> Tensor:
    """Energies (B,) from heads (B, K or 1) and a condition: None, labels (B,) or soft labels (B,
    K).

    Raises ValueError for a label of an unconditional energy, labels outside 0 ... K−1 or rows that
    do not match.

    >>> import torch
    >>> heads = torch.tensor([[1.0, 3.0]])
    >>> pick(heads, torch.tensor([1])), pick(heads, torch.tensor([[0.5, 0.5]]))
    (tensor([3.]), tensor([2.]))
    """
    c = condition_for(c, heads.shape[1], heads)
    if c is None:
        return (
            heads.squeeze(1)
            if heads.shape[1] == 1
            else math.log(heads.shape[1]) - torch.logsumexp(-heads, 1)
        )
    return heads.gather(1, c.unsqueeze(1)).squeeze(1) if c.dim() == 1 else (c * heads).sum(1)


def pick_slopes(heads: Tensor, c: Any) -> Tensor:
    """∂ pick(heads, c) / ∂ heads (B, K)."""
    classes = heads.shape[1]
    c = condition_for(c, classes, heads)
    if c is None:
        return torch.softmax(-heads, 1)
    return one_hot(c, classes).to(heads.dtype) if c.dim() == 1 else c


def condition_for(c: Any, classes: int, like: Tensor) -> Tensor | None:
    """A condition in the form that `pick` computes with: None, whole numbers (B,), or weights (B,
    K) of the dtype of `like`.
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
        if c.device.type == "cpu" and bool(
            ((c < 0) | (c >= classes)).any()
        ):  # a GPU would wait; it has checks of its own
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
