"""Does an energy treat every point by itself? Moving other points, and putting a point into batches
of other sizes, must change nothing.

Several witnesses are called, because each alone can be fooled: all points but a random half move,
then the other half; a point stands alone, among 7, 33 and 66, in another order. What is small is
judged relative to *differences* between energies: a constant of 10⁸ says nothing about them.
"""

import copy
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lowland.energy.algebra import Combination, Energy, Function, Wrapper
from lowland.energy.capabilities import ConditionLike
from lowland.energy.gradient import WRITES, call, check_shape
from lowland.energy.placement import widen
from lowland.energy.views import view_module

SIZES = (1, 7, 33, 66)  # of batches: odd and even, on both sides of the widths of kernels
ATTEMPTS = 8  # while another thread changes the weights between two evaluations
FAR_SCALES = (0.1, 10.0)  # standard deviations of points between which a move of 1 is enough
MOVED_SHARE = 1e-3  # of typical differences, that moving others may change an energy by
SIZE_SHARE = 2e-2  # the same for batches of other sizes, whose kernels round differently
SIZE_ROUNDINGS = 64.0  # in units of eps · |E|, of kernels for another size
NOISE_FACTOR = 30.0  # by which sums in another order may exceed a few roundings of the points
MAX_NUMBERS = 2**22  # of points that are evaluated at once
MOVED_ROUNDINGS = 2.0  # the same batch size runs the same kernels: rows come out bit by bit


class Change(NamedTuple):
    """A change of energies that should be none: how large, what made it, what is allowed, and the
    energies before.
    """

    before: Tensor
    size: float
    cause: str
    allowed: float


def check_independent(energy: Energy, x: Tensor, c: ConditionLike = None) -> None:
    """Refuse an energy in which the energy of a point depends on other points of the batch, or that
    draws random numbers.

    Conditions and rows that an energy holds are picked along by `index_rows`; a plain function may
    hold rows that only it knows of, so that it is asked in its own order and at other sizes only
    where it answers. Cost: four evaluations of x without a gradient (six where points are
    spread much wider or narrower than 1), and four of at most 66 points.

    >>> import torch, lowland
    >>> x = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    >>> check_independent(lowland.Function(lambda x: (x - x[:1]).square().sum(1)), x)
    Traceback (most recent call last):
        ...
    ValueError: moving one point or more changed the energy of another by ...
    """
    bound = energy if c is None else energy.given(c)
    if not is_plain(bound):
        bound, x = _thin(bound, x)
    random = 0.0
    for attempt in range(ATTEMPTS):
        change = next(_find_changes(bound, x), None)
        if change is None:
            return
        random = _largest(change.before, evaluate_in_mode(bound, x))
        if change.size > 10 * random:
            raise ValueError(
                f"{change.cause} changed the energy of another by {change.size:.3g}, where "
                f"{change.allowed:.2g} may be rounding; an energy treats every point by itself; "
                "put batch norm in eval mode or replace it, and sum over the event only"
            )
        if attempt == 0:  # another thread may train it
            bound = copy_energy(bound)
    raise ValueError(
        f"two evaluations of the same points differ by {random:.3g}; an energy is a function of "
        "the point alone; put dropout and batch norm in eval mode, and draw no random numbers"
    )


def copy_energy(energy: Energy) -> Energy:
    """Return the energy with weights of its own, itself where it cannot be copied."""
    try:
        return copy.deepcopy(energy)
    except (RuntimeError, TypeError):
        return energy


def is_plain(energy: Energy) -> bool:
    """Tell whether a part of the energy is a plain function, which may hold rows that only it knows
    of.
    """
    return any(
        isinstance(part, Function) and not isinstance(part.function, nn.Module)
        for part in energy.modules()
    )


def _thin(energy: Energy, x: Tensor) -> tuple[Energy, Tensor]:
    """Return evenly spaced points of a batch that is too large to be evaluated at once."""
    most = max(SIZES[-1], MAX_NUMBERS // max(x[0].numel(), 1))
    if len(x) <= most:
        return energy, x
    rows = torch.arange(most, device=x.device) * len(x) // most
    return energy.index_rows(rows), x[rows]


def evaluate_in_mode(energy: Energy, x: Tensor) -> Tensor:
    """Return energies without a graph, in the energy's present mode, on buffers of its own where
    a training mode would move them. Raises ValueError if the energy writes into x.
    """
    parts = (part for part in energy.modules() if not isinstance(part, (Combination, Wrapper)))
    training = any(part.training for part in parts)  # expressions do nothing of their own
    view = view_module(energy, constant=True, own_buffers=True) if training else energy
    passed = x.detach().clone()
    with torch.no_grad():
        value = check_shape(call(view, passed), x)
    if not torch.equal(passed, x):
        raise ValueError(WRITES)
    return value


def _evaluate_elsewhere(energy: Energy, x: Tensor) -> Tensor | None:
    """Return energies of other points or sizes than the caller's; None where there are none."""
    try:
        return evaluate_in_mode(energy, x)
    except (ArithmeticError, IndexError, RuntimeError, ValueError):
        return None


def _find_changes(energy: Energy, x: Tensor) -> Iterator[Change]:
    """Find changes of energies that should be none, one after the other."""
    value = evaluate_in_mode(energy, x)
    energy = view_module(energy, constant=True)  # what forward counts is one evaluation
    if len(x) > 1:
        for move in _moves(energy, x):
            yield from _move_others(energy, x, value, move)
    if len(x) > 1 or not is_plain(energy):
        yield from _resize(energy, *_mix(energy, x, value))


def _mix(energy: Energy, x: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Return points, every other one elsewhere, and their energies: equal points hide much."""
    other = (torch.arange(len(x), device=x.device) % 2 == 1).view(-1, *[1] * (x.dim() - 1))
    mixed = torch.where(other, energy.domain.elsewhere(x), x)
    found = _evaluate_elsewhere(energy, mixed)
    return (x, value) if found is None else (mixed, found)


def _moves(energy: Energy, x: Tensor) -> list[Tensor]:
    """Return x moved in every number: to other values, and by its own width where that is another
    order of magnitude.
    """
    found = [energy.domain.elsewhere(x)]
    if energy.domain.kind == "real":
        width = float(widen(x).std()) if x.numel() > 1 else 1.0
        if width and not FAR_SCALES[0] < width < FAR_SCALES[1]:
            found.append(x + width)
    return found


def _move_others(energy: Energy, x: Tensor, value: Tensor, moved: Tensor) -> Iterator[Change]:
    """Move a random half of the points, then the other half; the first is in one, the last in the
    other.
    """
    half = torch.rand(len(x), generator=torch.Generator().manual_seed(0)) < 0.5
    half[0], half[-1] = True, False
    half = half.to(x.device)
    for chosen in (half, ~half):
        wide = chosen.view(-1, *[1] * (x.dim() - 1))
        after = _evaluate_elsewhere(energy, torch.where(wide, moved, x))
        if after is None:
            continue
        difference = _typical(widen(after[chosen]) - widen(value[chosen])) or _spread(value)
        rounding = MOVED_ROUNDINGS * _eps(value, x) * _level(value, after)
        allowed = MOVED_SHARE * difference + rounding + 1e-7
        size = _largest(value[~chosen], after[~chosen])
        if not size <= allowed:
            yield Change(value, size, "moving one point or more", allowed)


def _resize(energy: Energy, x: Tensor, value: Tensor) -> Iterator[Change]:
    """Put points into batches of other sizes, and in another order where the energy can follow."""
    plain = is_plain(energy)
    for size in SIZES:
        if size == len(x):
            continue
        rows = torch.arange(size, device=x.device) * max(len(x) // size, 1) % len(x)
        rows = torch.arange(size, device=x.device) % len(x) if plain else rows.flip(0)
        part, points = energy if plain else energy.index_rows(rows), x[rows]
        found = _evaluate_elsewhere(part, points)
        if found is None:  # it holds rows that only it knows of
            continue
        if plain:  # rows beyond the caller's may be others
            rows, found = rows[: len(x)], found[: len(x)]
        if bool((found.isnan() & ~value[rows].isnan()).any()):  # an error, where errors give NaN
            continue
        rounding = SIZE_ROUNDINGS * _eps(value, x) * _level(value, found)
        allowed = SIZE_SHARE * _spread(value) + rounding + 1e-5
        change = _largest(value[rows], found)
        if change > allowed:
            allowed += NOISE_FACTOR * _rounding_noise(energy, x, value)
        if not change <= allowed:
            yield Change(value, change, f"a batch of {size} instead of {len(x)} points", allowed)


def _rounding_noise(energy: Energy, x: Tensor, value: Tensor) -> float:
    """Return by how much energies move when points move by a few roundings: what kernels that sum
    in another order may do.
    """
    if energy.domain.kind not in ("real", "box"):
        return 0.0
    near = energy.domain.project(x * (1 + 4 * torch.finfo(x.dtype).eps))
    found = _evaluate_elsewhere(energy, near)
    return 0.0 if found is None else _largest(value, found)


def _typical(differences: Tensor) -> float:
    """Return the median size of differences that are finite, 0 without any."""
    finite = differences[differences.isfinite()]
    return float(finite.abs().median()) if len(finite) else 0.0


def _spread(value: Tensor) -> float:
    """Return the median distance of energies from their median."""
    return _typical(widen(value) - widen(value).median())


def _level(*values: Tensor) -> float:
    """Return the largest energy that is finite, in absolute value."""
    finite = torch.cat([value[value.isfinite()].abs() for value in values])
    return float(finite.max()) if len(finite) else 0.0


def _eps(value: Tensor, x: Tensor) -> float:
    """Return the coarser relative rounding of energies and points."""
    return max(torch.finfo(value.dtype).eps, torch.finfo(x.dtype).eps)


def _largest(a: Tensor, b: Tensor) -> float:
    """Return the largest difference of two batches of energies; equal infinities do not differ,
    nor do two NaN.
    """
    same = (a == b) | (a.isnan() & b.isnan())
    change = torch.where(same, 0.0, (widen(a) - widen(b)).abs())
    return float(change.nan_to_num(torch.inf, torch.inf).max()) if len(a) else 0.0
