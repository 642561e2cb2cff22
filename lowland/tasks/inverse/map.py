"""Maximum a posteriori (MAP) estimates of inverse problems, by proximal gradient descent.

    x* = argmin E(x) + ‖A x − y‖² / 2σ²

Each iteration takes a gradient step of size τ on the prior, then the proximal step of the
likelihood:

    v = x − τ ∇E(x)
    x⁺ = argmin ‖A x − y‖² / 2σ² + ‖x − v‖² / 2τ   ⇔   (1 + τ A_T A / σ²) x⁺ = v + τ A_T y / σ²

The linear system is solved by conjugate gradients, so that no σ is too small. τ is halved per row
until E lies below its quadratic upper bound at x⁺ (backtracking), and grows by half afterwards.
Source: Beck & Teboulle (2009), https://doi.org/10.1137/080716542
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lowland.energy import Energy, check_finite, check_gradient, check_points, lift, value_and_score
from lowland.energy.points import explain_mismatch
from lowland.samplers.kernel import per_row
from lowland.scalars import MAX_STEPS, read_integer, read_number
from lowland.tasks.inverse.checks import check_linear, check_operator, place_operator
from lowland.tasks.inverse.operators import as_linear
from lowland.tasks.inverse.posterior import Likelihood, Measure, Restoration, check_measured

MAX_HALVINGS = 40  # of τ in one step: down to 10⁻¹² of it
MAX_CG_STEPS = 200
CG_TOLERANCE = 1e-12  # of the squared residual
MIN_SQUARE = 1e-30  # of a denominator


class MAPEstimate(NamedTuple):
    """The result of `map_estimate`.

    x (B, *event): points; energy (B,): of prior and measurement together; steps: taken; converged
    (B,): rows whose gradient fell below the tolerance.
    """

    x: Tensor
    energy: Tensor
    steps: int
    converged: Tensor

    def restoration(self) -> Restoration:
        """Return the estimate as a restoration with one draw and standard deviation 0."""
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
    """Descend from `start` to a local maximum of the posterior density given y = A x + σ ε.

    prior: an energy of x alone; operator: a linear map, an `Operator` or any differentiable linear
    function; y (B, *measured); start (B, *event); steps: at most so many; tolerance: a row has
    converged if its step divided by τ is below tolerance · (1 + ‖x‖). The energy of a row never
    rises, and points stay in a box domain. With a prior of several modes the result depends on the
    start; it says nothing about uncertainty, for which see `restore`.

    Raises ValueError as `restore` does, for an operator that is not linear, and for energies at
    `start` that are not finite.

    >>> import torch
    >>> from lowland.targets import Gaussian
    >>> from lowland.tasks import Identity
    >>> found = map_estimate(Gaussian(), Identity(), torch.ones(1, 2), 1.0, start=torch.zeros(1, 2))
    >>> found.x.round(decimals=3), bool(found.converged)
    (tensor([[0.5000, 0.5000]]), True)
    """
    check_measured(y)
    operator = place_operator(operator, y.device)
    prior, likelihood = lift(prior), Likelihood(operator, y, sigma)
    check_points(prior, start, sent=True)
    start = start.to(y.device)
    check_operator(operator, start, y)
    steps = read_integer("steps", steps, least=1, most=MAX_STEPS)
    tolerance = read_number("tolerance", tolerance, above=0)
    if len(start) != len(y):
        raise ValueError(
            f"start has {len(start)} rows for {len(y)} measurements; one row each is needed; match "
            "them"
        )
    g = torch.Generator().manual_seed(0)
    probe = torch.randn(4, *start.shape[1:], generator=g, dtype=start.dtype).to(start.device)
    check_linear(as_linear(operator, start.shape[1:]), probe)
    with explain_mismatch(prior, start):
        value, _ = value_and_score(prior, start)
    check_finite(value, "energies at the start")
    check_gradient(prior, start)
    x, tau = start.detach().clone(), torch.ones(len(y), dtype=start.dtype, device=start.device)
    converged = torch.zeros(len(y), dtype=torch.bool, device=start.device)
    count = 0
    while count < steps and not bool(converged.all()):
        x, tau, stopped = _step(prior, likelihood, x, tau, converged, tolerance)
        converged, count = converged | stopped, count + 1
        if progress is not None:
            progress(1)
    return MAPEstimate(x, value_and_score(prior, x)[0] + likelihood(x), count, converged)


def _step(
    prior: Energy,
    likelihood: Likelihood,
    x: Tensor,
    tau: Tensor,
    converged: Tensor,
    tolerance: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Take one step of every open row; return points, next step sizes, and rows that converge."""
    value, score = value_and_score(prior, x)
    total = value + likelihood(x).detach()
    slack = 4 * torch.finfo(x.dtype).eps * (total.abs() + value.abs())  # what rounding may add
    open_rows, x_next = ~converged, x
    for _ in range(MAX_HALVINGS):
        trial = prior.domain.project(_proximal(likelihood, x + per_row(tau, x) * score, tau))
        step = trial - x
        energy = value_and_score(prior, trial)[0]
        bound = value - _dot(score, step) + _dot(step, step) / (2 * tau)
        lower = energy + likelihood(trial).detach() <= total + slack
        accept = open_rows & (energy <= bound + slack) & lower
        x_next = torch.where(per_row(accept, x), trial, x_next)
        open_rows = open_rows & ~accept
        if not bool(open_rows.any()):
            break
        tau = torch.where(open_rows, tau / 2, tau)
    length = _dot(x_next - x, x_next - x).sqrt()
    small = (length <= tolerance * tau * (1 + _dot(x, x).sqrt())) | open_rows
    return x_next, torch.where(converged, tau, 1.5 * tau), small & ~converged


def _proximal(likelihood: Likelihood, v: Tensor, tau: Tensor) -> Tensor:
    """Solve (1 + τ A_T A / σ²) x = v + τ A_T y / σ² by conjugate gradients from v, row by row."""
    operator = as_linear(likelihood.operator, v.shape[1:])
    weight = per_row(tau / likelihood.sigma**2, v)
    x, residual = v, weight * operator.A_T(likelihood.y - operator.A(v))
    direction, size = residual, _dot(residual, residual)
    small = CG_TOLERANCE * (size + MIN_SQUARE)
    for _ in range(MAX_CG_STEPS):
        if bool((size <= small).all()):
            break
        image = direction + weight * operator.A_T(operator.A(direction))
        curvature = _dot(direction, image).clamp_min(MIN_SQUARE)
        rate = per_row(torch.where(size > small, size / curvature, 0.0), x)
        x, residual = x + rate * direction, residual - rate * image
        size_before, size = size, _dot(residual, residual)
        direction = residual + per_row(size / size_before.clamp_min(MIN_SQUARE), x) * direction
    return x


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)
