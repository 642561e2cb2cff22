"""The most likely explanation of a measurement: one point, found by descent, where `restore` draws
many.

    x* = argmin E(x) + ‖A x − y‖² / 2σ²

Proximal gradient: a step of size τ down the prior, then the point that gives the measurement its
due without going far,

    v = x − τ ∇E(x),      x⁺ = argmin ‖A x − y‖² / 2σ² + ‖x − v‖² / 2τ ⇔ (1 + τ A_T A / σ²) x⁺ = v +
                          τ A_T y / σ²

The measurement is met exactly, by conjugate gradients, so a tiny σ makes no step diverge; τ halves
until the step stays under the parabola that justifies it, row by row, and grows again afterwards.
Source: Beck & Teboulle (2009), https://doi.org/10.1137/080716542
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lowland.energy import Energy, check_finite, check_points, lift, value_and_score
from lowland.energy.checks import explain_dtype_errors
from lowland.samplers.kernel import per_row
from lowland.tasks.inverse.operators import as_linear
from lowland.tasks.inverse.posterior import (
    Likelihood,
    Measure,
    Restoration,
    check_linear,
    check_operator,
)

HALVINGS = 40  # of τ in one step: 10⁻¹² of where it stood


class MAPEstimate(NamedTuple):
    """x (B, *event), energy (B,) under prior and measurement, steps taken, converged (B,): whether a
    row stopped by itself.
    """

    x: Tensor
    energy: Tensor
    steps: int
    converged: Tensor

    def restoration(self) -> Restoration:
        """The peak as a restoration of one draw: the mean is the point itself, the spread is 0, for
        a peak knows no doubt.
        """
        return Restoration.of(self.x.unsqueeze(0))


def map_estimate(
    prior: Energy,
    operator: Measure,
    y: Tensor,
    sigma: float,
    *,
    start: Tensor,
    steps: int = 500,
    tolerance: float = 1e-4,
    progress: Callable[[int], object] | None = None,
) -> MAPEstimate:
    """Descend from `start` to a point of largest posterior density given y = A x + σ ε (maximum a
    posteriori).

    prior: an energy of x alone; operator: a linear map, an `Operator` or any differentiable linear
    function; y (B, *measured); start (B, *event); steps: at most so many; tolerance: a row has
    settled once its step, divided by τ (the gradient of what is minimised), is below tolerance · (1
    + ‖x‖). The energy of a row never rises. Points stay in a box domain. With a prior of several
    hills the nearest one is found: the answer depends on the start, and says nothing of how sure it
    is; `restore` does.

    Raises ValueError as `restore` does, for an operator that is not linear, and for energies at
    `start` that are not finite.

    >>> import torch
    >>> from lowland.targets import Gaussian
    >>> from lowland.tasks import Identity
    >>> found = map_estimate(Gaussian(), Identity(), torch.ones(1, 2), 1.0, start=torch.zeros(1, 2))
    >>> found.x.round(decimals=3), bool(found.converged)
    (tensor([[0.5000, 0.5000]]), True)
    """
    prior, fit = lift(prior), Likelihood(operator, y, sigma)
    check_points(prior, start)
    check_operator(operator, start, y)
    if steps < 1 or not tolerance > 0 or len(start) != len(y):
        raise ValueError(
            f"steps is {steps}, tolerance {tolerance} and start has {len(start)} rows for {len(y)} "
            "measurements; at least 1, above 0 and one row each are needed; correct them"
        )
    probe = torch.randn(
        4, *start.shape[1:], generator=torch.Generator().manual_seed(0), dtype=start.dtype
    ).to(start.device)
    check_linear(as_linear(operator, start.shape[1:]), probe)
    with explain_dtype_errors(prior, start):
        check_finite(value_and_score(prior, start)[0], "energies at the start")
    x, tau = start.detach().clone(), torch.ones(len(y), dtype=start.dtype, device=start.device)
    settled = torch.zeros(len(y), dtype=torch.bool, device=start.device)
    taken = 0
    while taken < steps and not bool(settled.all()):
        x, tau, stopped = _step(prior, fit, x, tau, settled, tolerance)
        settled, taken = settled | stopped, taken + 1
        if progress is not None:
            progress(1)
    return MAPEstimate(x, value_and_score(prior, x)[0] + fit(x), taken, settled)


def _step(
    prior: Energy, fit: Likelihood, x: Tensor, tau: Tensor, settled: Tensor, tolerance: float
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of every row that has not settled: points, step sizes for the next, and which rows
    settle.
    """
    value, score = value_and_score(prior, x)
    total = value + fit(x).detach()
    slack = 4 * torch.finfo(x.dtype).eps * (total.abs() + value.abs())  # what rounding may add
    open_rows, moved = ~settled, x
    for _ in range(HALVINGS):
        reached = _inside(prior, _met(fit, x + per_row(tau, x) * score, tau))
        leap = reached - x
        energy = value_and_score(prior, reached)[0]
        bound = value - _dot(score, leap) + _dot(leap, leap) / (2 * tau)
        sound = (energy <= bound + slack) & (energy + fit(reached).detach() <= total + slack)
        moved = torch.where(per_row(open_rows & sound, x), reached, moved)
        open_rows = open_rows & ~sound
        if not bool(open_rows.any()):
            break
        tau = torch.where(open_rows, tau / 2, tau)
    length = _dot(moved - x, moved - x).sqrt()
    still = (length <= tolerance * tau * (1 + _dot(x, x).sqrt())) | open_rows
    return moved, torch.where(settled, tau, 1.5 * tau), still & ~settled


def _met(fit: Likelihood, v: Tensor, tau: Tensor) -> Tensor:
    """The solution x of (1 + τ A_T A / σ²) x = v + τ A_T y / σ², by conjugate gradients from v, row
    by row.
    """
    linear = as_linear(fit.operator, v.shape[1:])
    forth, back = linear.A, linear.A_T
    weight = per_row(tau / fit.sigma**2, v)

    def applied(x: Tensor) -> Tensor:
        return x + weight * back(forth(x))

    x = v
    rest = weight * back(fit.y - forth(v))
    direction, size = rest, _dot(rest, rest)
    small = 1e-12 * (size + 1e-30)
    for _ in range(200):
        if bool((size <= small).all()):
            break
        turned = applied(direction)
        pace = torch.where(size > small, size / _dot(direction, turned).clamp_min(1e-30), 0.0)
        x, rest = x + per_row(pace, x) * direction, rest - per_row(pace, x) * turned
        before, size = size, _dot(rest, rest)
        direction = rest + per_row(size / before.clamp_min(1e-30), x) * direction
    return x


def _inside(prior: Energy, x: Tensor) -> Tensor:
    return x.clamp(prior.domain.lo, prior.domain.hi) if prior.domain.kind == "box" else x


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)
