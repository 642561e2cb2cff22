"""Is the gradient of an energy its derivative? Compared with differences of energies at the door.

An energy that cuts the graph (`.detach()`, NumPy, `torch.no_grad()`) has a gradient of zero or of
what is left, and chains then sample another distribution without a word. Parts may be cut: one
term, some rows, some coordinates. So the derivative along random directions is compared with

    (E(x + h δ) − E(x − h δ)) / 2h

at several h. Rows at which differences say nothing, for a kink, rounding or a wall, count for
nothing; an energy that is constant, or constant around some points, has the gradient zero.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lowland.energy.algebra import Energy
from lowland.energy.capabilities import ConditionLike, NoiseCondition
from lowland.energy.gradient import WRITES, check_shape, differentiate
from lowland.energy.independence import ATTEMPTS, copy_energy, is_plain
from lowland.energy.placement import widen
from lowland.energy.views import view_module

STEPS = (1e-2, 1e-3, 1e-4)  # h, in units of the width of the points and of 1
AGREEMENT = 0.05  # share by which derivative and difference may differ
ROUNDINGS = 8.0  # of an energy, in units of eps · |E|
MANY, FEW = 32, 16  # witnesses among points of few and of many numbers
FEW_NUMBERS = 256
BOTH_PLACES = 8  # rows below which every one is asked at its place and elsewhere
CONCLUSIVE = 0.3  # share of a derivative that may be allowed where two are said to agree
JITTER = 0.03  # by which points are moved off kinks, in the same units
PLACES = 33  # between a point and another, where a gradient may be found

CURE = (
    "a sampler needs the gradient; keep x in the graph (no .detach(), .numpy() or torch.no_grad() "
    "inside), or correct value_and_score"
)
NO_GRADIENT = f"the energy changes with x but its gradient is zero; {CURE}"


def check_gradient(energy: Energy, x: Tensor, c: ConditionLike = None) -> None:
    """Refuse an energy on a continuous domain whose score is not −∇E, at points x (B, *event) or
    elsewhere.

    Half the points are asked where they are, half at other places: chains may all start at a mode.
    Cost: a gradient and five evaluations, or up to five times that where differences disagree, of
    32 points (16 of more than 256 numbers; all x for a plain function, which may hold rows).

    >>> import torch, lowland
    >>> half = lowland.Function(lambda x: x[:, 0] ** 2 + x[:, 1].detach() ** 2)
    >>> check_gradient(half, torch.ones(4, 2))
    Traceback (most recent call last):
        ...
    ValueError: the energy changes with x otherwise than its gradient says ...
    """
    if energy.domain.kind not in ("real", "box"):
        return
    bound = energy if c is None else energy.given(c)
    x = x.detach()
    if not is_plain(bound):
        count = min(max(len(x), 2), MANY if x[0].numel() <= FEW_NUMBERS else FEW)
        rows = torch.arange(count, device=x.device) * len(x) // count
        bound, x = bound.index_rows(rows), x[rows]
    for _ in range(ATTEMPTS):
        # a view of its own: what forward counts are the evaluations of samplers
        view = view_module(bound, constant=True, training=False)
        try:
            problem = _find_problem(view, x)
        except (ArithmeticError, IndexError, RuntimeError, ValueError) as error:
            if str(error) == WRITES:
                raise
            return  # at a place that is not the caller's
        if problem is None:
            return
        if problem.steady:
            raise ValueError(problem.words)
        bound = copy_energy(bound)  # another thread may train it


class _Problem(NamedTuple):
    """What is wrong with a gradient; steady: whether the energies stayed the same meanwhile."""

    words: str
    steady: bool


def _find_problem(energy: Energy, x: Tensor) -> _Problem | None:
    """Compare scores with differences at points where they are and elsewhere."""
    sloped = False
    for points in _places(energy, x):
        before = _evaluate(energy, points)
        value, score = differentiate(energy, points)
        words = _compare_values(before, value) or _compare_slopes(energy, points, before, score)
        if words is not None:
            return _Problem(words, torch.equal(before, _evaluate(energy, points)))
        sloped = sloped or bool(score.any())
    return None if sloped else _find_steps(energy, x)


def _places(energy: Energy, x: Tensor) -> list[Tensor]:
    """Return points near x where the gradient is asked, every other row elsewhere; both, of few
    rows. At x itself may be a kink, as of every ReLU at 0.
    """
    domain, other = energy.domain, torch.arange(len(x), device=x.device) % 2 == 1
    other = other.view(-1, *[1] * (x.dim() - 1))
    unit, width = _units(energy, x)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(x)
    near = x + JITTER * min(unit, width) * noise
    moved = domain.elsewhere(x) + JITTER * unit * noise
    found = [torch.where(other, moved, near)]
    if len(x) < BOTH_PLACES:
        found.append(torch.where(other, near, moved))
    if domain.kind == "box":  # away from the walls
        margin = 3 * STEPS[0] * unit
        found = [points.clamp(domain.lo + margin, domain.hi - margin) for points in found]
    return found


def _units(energy: Energy, x: Tensor) -> tuple[float, float]:
    """Return 1, or the width of a box, and the width of the points where it is not 0."""
    domain = energy.domain
    unit = 1.0 if domain.kind == "real" else domain.hi - domain.lo
    width = float(widen(x).std()) if x.numel() > 1 else 0.0
    return unit, width if 0 < width < math.inf else unit


def _evaluate(energy: Energy, x: Tensor) -> Tensor:
    with torch.no_grad():
        return check_shape(energy(x.clone()), x)


def _compare_values(value: Tensor, own: Tensor) -> str | None:
    """Say where `value_and_score` gives other energies than `forward`."""
    finite = value.isfinite() & own.isfinite()
    if not bool(finite.any()):
        return None
    value, own = widen(value[finite]), widen(own[finite])
    rounding = torch.finfo(torch.float32).eps * 64 * value.abs().max()
    typical = (value - value.median()).abs().median()
    apart = float((value - own).abs().max())
    if apart <= AGREEMENT * float(typical) + float(rounding) + 1e-4:
        return None
    return (
        f"value_and_score and forward give energies that differ by {apart:.3g}; both must be the "
        "same function; correct value_and_score, or leave it to autograd"
    )


class _Comparison(NamedTuple):
    """Derivatives and differences of energies (B,), which of them agree, and which disagree."""

    derivative: Tensor
    difference: Tensor
    agree: Tensor
    disagree: Tensor
    flat: Tensor


def _compare_slopes(energy: Energy, x: Tensor, value: Tensor, score: Tensor) -> str | None:
    """Compare scores at x with differences, at smaller and smaller h while they disagree."""
    against = torch.zeros(len(x), device=x.device)
    agreed = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for h in _step_sizes(energy, x):
        found = _compare(energy, x, value, score, h)
        against, agreed = against + found.disagree, agreed | found.agree
        if not bool(against.any()) and 2 * int((agreed | found.flat).sum()) >= len(x):
            return None
        worst = (against >= 2) & ~agreed
        if bool(worst.any()):
            row = int(worst.nonzero()[0])
            if not bool(score.any()):
                return NO_GRADIENT
            return (
                "the energy changes with x otherwise than its gradient says (along a direction by "
                f"{float(found.difference[row]):.3g}, not by {float(found.derivative[row]):.3g}); "
                f"{CURE}"
            )
    return None


def _step_sizes(energy: Energy, x: Tensor) -> list[float]:
    """Return h from large to small: shares of 1 (or of the box) and of the width of the points."""
    unit, width = _units(energy, x)
    units = [unit] if 0.1 * unit < width < 10 * unit else [unit, width]
    smallest = 64 * torch.finfo(x.dtype).eps * float(x.abs().max())
    return sorted((s * u for s in STEPS for u in units if s * u > smallest), reverse=True)


def _compare(energy: Energy, x: Tensor, value: Tensor, score: Tensor, h: float) -> _Comparison:
    """Compare derivatives with differences at a step h, each row along a direction of its own."""
    signs = 2 * torch.randint(2, x.shape, generator=torch.Generator().manual_seed(0)) - 1
    move = h * signs.to(x)
    for mask in _target_masks(energy, x):
        move = move * mask
    points = [x + t * move for t in (-2, -1, 1, 2)]
    a, b, d, e = (widen(_evaluate(energy, point)) for point in points)
    middle = widen(value)
    width = (widen(points[2]) - widen(points[1])) / (2 * h)
    derivative = -(widen(score) * width).flatten(1).sum(1) if x.dim() > 1 else -score * width
    difference, wide = (d - b) / (2 * h), (e - a) / (4 * h)
    kink = (d - 2 * middle + b).abs() / h
    noise = (e - 4 * d + 6 * middle - 4 * b + a).abs()
    finite = noise[noise.isfinite()]
    typical = finite.median() if len(finite) else noise.new_zeros(())
    eps = max(torch.finfo(value.dtype).eps, torch.finfo(x.dtype).eps)
    level = torch.stack([v.abs() for v in (a, b, middle, d, e)]).amax(0)
    rounding = (noise + 4 * typical + ROUNDINGS * eps * level) / h
    size = torch.maximum(derivative.abs(), difference.abs())
    allowed = AGREEMENT * size + 2 * (wide - difference).abs() + kink + rounding
    apart = (derivative - difference).abs()
    flat = (a == b) & (b == middle) & (middle == d) & (d == e)
    agree = (apart <= allowed) & (allowed <= CONCLUSIVE * size)
    return _Comparison(derivative, difference, agree, (apart > allowed) & ~flat, flat)


def _target_masks(energy: Energy, x: Tensor) -> list[Tensor]:
    """Return masks of the numbers that parts of an energy model: what is given to them has no
    gradient on purpose.
    """
    conditions = [part.condition for part in energy.modules() if isinstance(part, Energy)]
    masks = [c.target_mask for c in conditions if isinstance(c, NoiseCondition)]
    return [mask.to(x) for mask in masks if mask is not None and mask.dim() == x.dim() - 1]


def _find_steps(energy: Energy, x: Tensor) -> _Problem | None:
    """Refuse an energy with steps: it differs between x and other points, and its gradient is zero
    at all of them and between.
    """
    moved, first = energy.domain.elsewhere(x), _evaluate(energy, x)
    changes = False
    for share in torch.linspace(0, 1, PLACES).tolist():
        value, score = differentiate(energy, torch.lerp(x, moved, share))
        if bool(score.any()):
            return None
        changes = changes or not torch.equal(value, first)
    if not changes:
        return None
    return _Problem(NO_GRADIENT, torch.equal(first, _evaluate(energy, x)))
