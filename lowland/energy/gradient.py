"""Gradients of an energy with respect to points, with no trace left on the module.

They call `Energy.value_and_score` and `Energy.score` as chains need it: without a graph, also
inside `torch.inference_mode`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from lowland.energy.capabilities import ConditionLike

if TYPE_CHECKING:
    from lowland.energy.algebra import Energy


Values = TypeVar("Values")  # energies, scores, or both


def call(function: Callable[..., Values], x: Tensor, c: ConditionLike = None) -> Values:
    """Return what a function of points gives under a condition c; without one, x is the only
    argument, so that a user's `forward(x)` need not name a condition.
    """
    return function(x) if c is None else function(x, c)


def _detach(x: Tensor) -> Tensor:
    """Return points cut from their graph, as a tensor that autograd takes."""
    return x.clone() if x.is_inference() else x.detach()


def differentiate(energy: "Energy", x: Tensor) -> tuple[Tensor, Tensor]:
    """Return energies (B,) and scores (B, *event) of an energy that is frozen already."""
    with torch.inference_mode(False), torch.no_grad():
        x = _detach(x)
        value, score = energy.value_and_score(x)
        return check_shape(value, x), score


def score_alone(energy: "Energy", x: Tensor) -> Tensor:
    """Return scores (B, *event) without energies, as inside a leapfrog trajectory."""
    with torch.inference_mode(False), torch.no_grad():
        return energy.score(_detach(x))


def by_autograd(energy: "Energy", x: Tensor, c: ConditionLike = None) -> tuple[Tensor, Tensor]:
    """Return energies and scores by autograd, whatever the energy knows about its own gradient.

    The *sum* of the energies is differentiated: a mean would divide every gradient by the batch.
    """
    with torch.inference_mode(False), torch.enable_grad():
        try:
            return _differentiate_sum(energy, x, c)
        except RuntimeError as error:
            if "used in an in-place operation" in str(error):
                raise ValueError(WRITES) from error
            if "modified by an inplace operation" not in str(error):
                raise
        # another thread trains the weights: keep what this one saw
        with torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda saved: saved):
            return _differentiate_sum(energy, x, c)


WRITES = (
    "the energy changed the points that it was given; it must leave them as they are; begin with x "
    "= x.clone(), or avoid operations in place such as x.mul_(2)"
)


def _differentiate_sum(energy: "Energy", x: Tensor, c: ConditionLike) -> tuple[Tensor, Tensor]:
    leaf = _detach(x).requires_grad_(True)
    value = check_shape(call(energy, leaf, c), leaf)
    if not value.requires_grad:  # constant in x, as a sum of no terms may be
        return value.detach(), torch.zeros_like(leaf)
    (gradient,) = torch.autograd.grad(value.sum(), leaf, allow_unused=True)
    if gradient is None:  # constant in x, though not in the weights
        return value.detach(), torch.zeros_like(leaf)
    return value.detach(), -gradient  # not in place: the gradient may belong to the energy


def score_with_graph(energy: "Energy", x: Tensor) -> Tensor:
    """Compute the score (B, *event), differentiable with respect to x if x requires a gradient."""
    if not (torch.is_grad_enabled() and x.requires_grad):
        return score_alone(energy, x)
    value = check_shape(energy(x), x)
    return -differentiate_values(value, x)


def differentiate_values(value: Tensor, x: Tensor) -> Tensor:
    """Return the gradient (B, *event) of energies (B,) in x, with a graph; zeros where energies do
    not depend on x, so that a loss of them can still be differentiated in the weights.
    """
    if not value.requires_grad:
        return torch.zeros_like(x)
    (gradient,) = torch.autograd.grad(value.sum(), x, create_graph=True, allow_unused=True)
    return torch.zeros_like(x) * value.sum() if gradient is None else gradient


def check_shape(value: object, x: Tensor) -> Tensor:
    """Return the energies, or raise ValueError if they are not one number per point."""
    if isinstance(value, Tensor) and value.shape == (len(x),) and value.is_complex():
        raise ValueError(
            f"the energy gave {value.dtype}; energies are real numbers, one per point; return "
            "value.real, or the squared modulus"
        )
    if not isinstance(value, Tensor) or value.shape != (len(x),):
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"the energy gave {got} for {len(x)} points; it must give one number per point, shape "
            f"({len(x)},); sum over the event, for example with .flatten(1).sum(1)"
        )
    return value
