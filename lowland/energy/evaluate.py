"""Evaluate an energy from outside, in eval mode: a view of the module runs, see `views`.

*Scoring* (`energy_values`) builds no graph. *Sampling* (`value_and_score`) takes gradients with
respect to x only.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lowland.energy.algebra import Energy, lift
from lowland.energy.capabilities import ConditionLike
from lowland.energy.gradient import call, check_shape, differentiate
from lowland.energy.gradient_checks import check_gradient
from lowland.energy.points import check_points, explain_mismatch
from lowland.energy.views import freeze
from lowland.scalars import read_integer


def value_and_score(energy: Energy | Callable[..., Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Return energies (B,) and scores ∇ log p(x) = −∇E(x) (B, *event), both detached.

    Works inside no_grad and inference_mode. A view of the module runs in eval mode with
    constant weights; the module stays as it is.

    >>> import torch
    >>> value_and_score(lambda x: 0.5 * x.square().sum(1), torch.tensor([[1.0, 2.0]]))
    (tensor([2.5000]), tensor([[-1., -2.]]))
    """
    energy = lift(energy)
    x = check_points(energy, x, inside=False)
    with freeze(energy) as energy, explain_mismatch(energy, x):
        value, score = differentiate(energy, x)
        if not bool(score.any()):  # a mode, or an energy that cuts its graph
            check_gradient(energy, x)
        return value, score


def energy_values(
    energy: Energy | Callable[..., Tensor],
    x: Tensor,
    c: ConditionLike = None,
    *,
    batch_size: int = 1024,
) -> Tensor:
    """Return energies (N,) of points x (N, *event), without a graph, in eval mode, in batches.

    c: a condition with N rows, or one value for all. The module stays as it is. Raises
    ValueError for what is no batch of finite points of the energy's event shape (`check_points`);
    points outside the walls have energies too. Points in half precision are scored in float32,
    unless the energy's own weights are in half precision too.

    >>> import torch
    >>> energy_values(lambda x: x.square().sum(1), torch.ones(3, 2))
    tensor([2., 2., 2.])
    """
    energy = lift(energy)
    batch_size = read_integer("batch_size", batch_size, least=1)
    # a denoised draw or an outlier may lie beyond the walls, and has an energy there
    x = _widen(energy, check_points(energy, x, inside=False, empty=True))
    c = _expand_condition(c, x)
    parts = []
    with freeze(energy) as energy, torch.no_grad(), explain_mismatch(energy, x):
        for i in range(0, max(len(x), 1), batch_size):
            part = x[i : i + batch_size]
            rows = c if c is None else c[i : i + batch_size]
            parts.append(check_shape(call(energy, part, rows), part))
    return torch.cat(parts)


def _widen(energy: Energy, x: Tensor) -> Tensor:
    """Return points in half precision as float32: squares beyond 65,504 are infinite in float16."""
    own = (t.dtype for t in (*energy.parameters(), *energy.buffers()))
    if x.dtype in (torch.float16, torch.bfloat16) and x.dtype not in own:
        return x.float()
    return x


def _expand_condition(c: ConditionLike, x: Tensor) -> Tensor | None:
    """Return the condition with one row per point; a number or a single row is repeated."""
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
