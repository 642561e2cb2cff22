"""Checks of an operator against points and measurements: shapes, linearity, the transpose, and
whether chains can follow it.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lowland.energy import Energy
from lowland.energy.points import describe
from lowland.samplers.kernel import CONTINUOUS
from lowland.tasks.inverse.operators import Operator

FAILURES = (RuntimeError, TypeError, IndexError, AttributeError)
CLOSE = 1e-3  # share of the largest number by which two ways to a number may differ


def place_operator(
    operator: Callable[[Tensor], Tensor], device: torch.device
) -> Callable[[Tensor], Tensor]:
    """Return an `Operator` with its tensors on a device; other functions as they are."""
    return operator.to(device) if isinstance(operator, Operator) else operator


def check_operator(operator: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> None:
    """Raise ValueError unless the operator maps points of x's shape to measurements of y's."""
    if not callable(operator):
        raise ValueError(
            f"a {type(operator).__name__} came as operator; a function of points is needed; pass "
            "Identity() for denoising"
        )
    expected = tuple(y.shape[1:])
    try:
        seen = operator(x[:1])
        real = isinstance(seen, Tensor) and seen.is_floating_point() and len(seen) == 1
        shape: object = tuple(seen.shape[1:]) if real else describe(seen)
    except FAILURES as error:
        shape = (str(error).splitlines() or [type(error).__name__])[0]
    if shape != expected:
        raise ValueError(
            f"the measurement has shape {expected} and the operator gives {shape} for points of "
            f"shape {tuple(x.shape[1:])}; they must agree; measure with the operator that is passed"
        )


def check_slope(operator: Callable[[Tensor], Tensor], prior: Energy, x: Tensor) -> None:
    """Raise ValueError if A x changes with points x (B, *event) while no gradient reaches them.

    Chains that follow a gradient would then sample the prior, whatever was measured.
    """
    if prior.domain.kind not in CONTINUOUS:
        return
    with torch.inference_mode(False), torch.enable_grad():
        leaf = x[:1].detach().clone().requires_grad_(True)
        seen = operator(leaf)
        slope = None
        if seen.requires_grad:
            (slope,) = torch.autograd.grad(
                seen.square().sum() + seen.sum(), leaf, allow_unused=True
            )
    if slope is not None and bool((slope != 0).any()):
        return
    with torch.no_grad():
        moved = operator(prior.domain.elsewhere(x[:1].detach()))
    if not torch.equal(moved, seen.detach()):
        raise ValueError(
            "the operator changes with x but no gradient reaches x; chains need one to follow what "
            "was measured; keep x in the graph (no .detach(), .numpy() or rounding inside)"
        )


def check_linear(operator: Operator, x: Tensor) -> None:
    """Raise ValueError unless A(2x − z) = 2 A(x) − A(z) for points x (B, *event), z reversed,
    A(0) = 0, and A_T is the transpose: ⟨A z, A x⟩ = ⟨z, A_T A x⟩.
    """
    z = x.flip(0)
    a, b = operator.A(x), operator.A(z)
    atol = CLOSE * float(a.abs().max()) + 1e-6
    straight = torch.allclose(operator.A(2 * x - z), 2 * a - b, rtol=CLOSE, atol=atol)
    if not straight or float(operator.A(0 * x).abs().max()) > atol:
        raise ValueError(
            "the operator is not linear: A(2x − z) differs from 2 A(x) − A(z), or A(0) from 0; a "
            "linear one is needed here; use restore, which takes any differentiable function, with "
            "energy.given(sigma) if the prior knows noise"
        )
    back = operator.A_T(a)
    forth, here = float((b * a).sum()), float((z * back).sum())
    scale = float(b.norm() * a.norm() + z.norm() * back.norm())
    if back.shape != x.shape or abs(forth - here) > CLOSE * scale + 1e-6:
        raise ValueError(
            f"A_T is not the transpose of A: <A z, A x> is {forth:.4g} and <z, A_T A x> "
            f"{here:.4g}; they must agree; keep x in the graph of a function (no .detach() "
            "or .numpy()), and correct A_T of an operator of your own"
        )
