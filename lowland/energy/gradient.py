"""Values and gradients of an energy, with the module in eval mode, its weights frozen, and no trace
left on it.

*Scoring* (`energy_values`) builds no graph. *Sampling* (`value_and_score`) takes gradients with
respect to x only.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lowland.energy.algebra import Energy, lift


@contextmanager
def frozen(energy: nn.Module) -> Iterator[None]:
    """Inside: eval mode, no weight requires a gradient. After, also after an exception: everything
    as it was.
    """
    modes = [(module, module.training) for module in energy.modules()]
    grads = [(p, p.requires_grad) for p in energy.parameters()]
    try:
        for module, _ in modes:
            module.training = False
        for p, _ in grads:
            p.requires_grad_(False)
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for p, wanted in grads:
            p.requires_grad_(wanted)


def value_and_score(energy: Energy | Callable[..., Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Energies (B,) and scores ∇ log p(x) = −∇E(x) (B, *event), both detached. Works inside no_grad
    and inference_mode.

    The module runs in eval mode with frozen weights and is afterwards as it was.

    >>> import torch
    >>> value_and_score(lambda x: 0.5 * x.square().sum(1), torch.tensor([[1.0, 2.0]]))
    (tensor([2.5000]), tensor([[-1., -2.]]))
    """
    energy = lift(energy)
    with frozen(energy):
        return differentiate(energy, x)


def differentiate(energy: Energy, x: Tensor) -> tuple[Tensor, Tensor]:
    """`value_and_score` for those who have frozen the energy already, as the sampler loop has.

    The *sum* of the energies is differentiated: a mean would divide every gradient by the batch.
    """
    if energy.analytic is None:
        return by_autograd(energy, x)
    with torch.inference_mode(False), torch.no_grad():
        x = x.clone() if x.is_inference() else x.detach()
        value, score = energy.analytic(x)
        return check_shape(value, x), score


def by_autograd(energy: Energy, x: Tensor) -> tuple[Tensor, Tensor]:
    """`differentiate` by autograd, whatever the energy knows about its own gradient."""
    with torch.inference_mode(False), torch.enable_grad():
        leaf = x.clone() if x.is_inference() else x.detach()
        leaf = leaf.requires_grad_(True)
        value = check_shape(energy(leaf), leaf)
        if not value.requires_grad:  # constant in x, as a sum of no terms may be
            return value.detach(), torch.zeros_like(leaf)
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), -gradient  # not in place: the gradient may belong to the energy


def score_alone(energy: Energy, x: Tensor) -> Tensor:
    """The score where the energy is not asked for, as inside a leapfrog trajectory: cheaper for
    some energies.
    """
    if energy.slope is None:
        return differentiate(energy, x)[1]
    with torch.inference_mode(False), torch.no_grad():
        return energy.slope(x.clone() if x.is_inference() else x.detach())


def score_with_graph(energy: Energy, x: Tensor) -> Tensor:
    """Compute the score (B, *event), differentiable with respect to x if x requires a gradient."""
    if not (torch.is_grad_enabled() and x.requires_grad):
        return score_alone(energy, x)
    value = check_shape(energy(x), x)
    if not value.requires_grad:  # constant in x
        return torch.zeros_like(x)
    (gradient,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    return -gradient


def energy_values(
    energy: Energy | Callable[..., Tensor], x: Tensor, c: Any = None, *, batch_size: int = 1024
) -> Tensor:
    """Score points: energies (N,) of x (N, *event), without a graph, in eval mode, in batches.

    c: a condition with N rows, or one value for all. The module is left as it was.

    >>> import torch
    >>> energy_values(lambda x: x.square().sum(1), torch.ones(3, 2))
    tensor([2., 2., 2.])
    """
    energy = lift(energy)
    if batch_size < 1:
        raise ValueError(
            f"batch_size is {batch_size}; it must be at least 1; leave it out for 1024"
        )
    c = _condition_rows(c, x)
    found = []
    with frozen(energy), torch.no_grad():
        for i in range(0, max(len(x), 1), batch_size):
            part = x[i : i + batch_size]
            value = energy(part) if c is None else energy(part, c[i : i + batch_size])
            found.append(check_shape(value, part))
    return torch.cat(found)


def _condition_rows(c: Any, x: Tensor) -> Tensor | None:
    """The condition with one row per point; a number or a single row is repeated."""
    if c is None:
        return None
    c = torch.as_tensor(c, device=x.device)
    if c.dim() == 0 or len(c) == 1:
        return c.expand(len(x), *c.shape[1:])
    if len(c) != len(x):
        raise ValueError(
            f"{len(x)} points came with a condition of {len(c)} rows; it needs one row per point "
            "or one for all; match them"
        )
    return c


def check_shape(value: Any, x: Tensor) -> Tensor:
    """The energies, or a ValueError if they are not one number per point."""
    if not isinstance(value, Tensor) or value.shape != (len(x),):
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"the energy gave {got} for {len(x)} points; it must give one number per point, shape "
            f"({len(x)},); sum over the event, for example with .flatten(1).sum(1)"
        )
    return value
