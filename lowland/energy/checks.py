"""Checks at the public door: each refuses one kind of mistake, in three clauses."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lowland.energy.algebra import Energy, Sum, Wrapper, lift
from lowland.energy.capabilities import ConditionLike
from lowland.energy.evaluate import energy_values
from lowland.energy.gradient_checks import check_gradient
from lowland.energy.independence import check_independent, evaluate_in_mode
from lowland.energy.mixtures import Mixture
from lowland.energy.placement import wide_dtype, widen
from lowland.energy.points import check_finite, check_points, explain_mismatch


def check_energy(
    energy: Energy | Callable[..., Tensor], x: Tensor, c: ConditionLike = None
) -> Energy:
    """Lift a callable to an energy, check that it is one on points x, and return it.

    Checked, on x (B, *event): floating point input of the domain's event shape inside its support,
    one number per point, same device and floating dtype, finite values, and independence of the
    other points and of the size of the batch (`check_independent`: batch norm in training mode and
    sums over the batch fail here). On a continuous domain the gradient must be one
    (`check_gradient`). Weights, buffers and mode stay as they were.

    Raises ValueError in three clauses otherwise.

    >>> import torch
    >>> check_energy(lambda x: x.square().sum(), torch.ones(3, 2))
    Traceback (most recent call last):
        ...
    ValueError: the energy gave () for 3 points; it must give one number per point, ...
    """
    energy = lift(energy)
    check_points(energy, x)
    with explain_mismatch(energy, x):
        value = evaluate_in_mode(energy if c is None else energy.given(c), x)
    check_values(value, x)
    check_independent(energy, x, c)
    check_gradient(energy, x, c)
    return energy


def check_values(value: Tensor, x: Tensor) -> None:
    """Refuse energies that are not finite floating point numbers on the device of the points."""
    if value.device != x.device or not value.is_floating_point():
        raise ValueError(
            f"energies are {value.dtype} on {value.device} for points on {x.device}; they must be "
            "floating point on the device of the points; move the energy with .to(x.device)"
        )
    check_finite(value, "energies")


# ---- is there a normaliser? --------------------------------------------------------------------

FAR = (1e2, 1e4)  # how far out a subtraction is looked at, in units of where points are
RAYS = 64


def check_normalisable(energy: Energy | Callable[..., Tensor], x: Tensor | None = None) -> None:
    """Refuse what has no normaliser on an unbounded domain: −E, a − 2a, an energy that falls
    somewhere far out.

    Looked at are the signs: some term must confine, that is rise without bound, and a negated
    energy does not, nor does an energy that says `coercive = False` (one that is bounded); and,
    where something is subtracted, the energies far out along rays, which must rise by more than d
    log r for e^{−E} to have an integral: narrow minus wide does, wide minus narrow does not. Rays
    are a probe, not a proof: an expression that falls in a narrow cone of many dimensions passes.
    Boxes are compact and pass. x (B, *event): points from which rays start, needed where the domain
    says no shape or an energy holds one row each.

    Raises ValueError with the reason.

    >>> from lowland.targets import Gaussian
    >>> wide, narrow = Gaussian((0.0, 0.0), ((4.0, 0.0), (0.0, 4.0))), Gaussian()
    >>> check_normalisable(narrow - wide)
    >>> check_normalisable(wide - narrow)
    Traceback (most recent call last):
        ...
    ValueError: the energy does not rise far out, where something is subtracted; ...
    """
    energy = lift(energy)
    if energy.domain.kind != "real":
        return
    if not _confines(energy, 1.0):
        raise ValueError(
            "a negated or bounded energy alone has no normaliser on an unbounded domain; it needs "
            "a confining partner or a box; add one, for example gaussian - energy, or use "
            "domain.box"
        )
    if _subtracts(energy) and falls_far_out(energy, x):
        raise ValueError(
            "the energy does not rise far out, where something is subtracted; exp(-E) has no "
            "normaliser there; weaken what is subtracted, bound it with tasks.soft_not(energy, "
            "level), or add a partner that confines"
        )


def _confines(energy: Energy, sign: float) -> bool:
    """Tell whether sign · E rises without bound somewhere, as far as its expression tells; other
    energies are taken to have a normaliser.
    """
    if isinstance(energy, Sum):
        return any(_confines(term, sign * w) for term, w in _collect_terms(energy) if w)
    if isinstance(energy, Mixture):  # as low as its lowest part
        parts = [_confines(part, sign) for part, _ in energy.parts]
        return all(parts) if sign > 0 else any(parts)
    if isinstance(energy, Wrapper):
        return _confines(energy.energy, sign)
    return sign > 0 and energy.coercive


def _subtracts(energy: Energy) -> bool:
    return any(
        weight < 0
        for part in energy.modules()
        if isinstance(part, Sum)
        for _, weight in _collect_terms(part)
    )


def _collect_terms(energy: Sum) -> list[tuple[Energy, float]]:
    """Return the terms of a sum, each once, with its weights added up: a − 2a is −a."""
    total: dict[int, tuple[Energy, float]] = {}
    for term, weight in energy.parts:
        total[id(term)] = (term, total.get(id(term), (term, 0.0))[1] + weight)
    return list(total.values())


def falls_far_out(energy: Energy, x: Tensor | None) -> bool:
    """Tell whether the energy rises too little along some ray; False where it cannot be asked far
    from its own points.
    """
    shape = energy.domain.shape if x is None else tuple(x.shape[1:])
    if not shape:
        return False
    like = _ask_type(energy, x)
    size = math.prod(shape)
    rays = _draw_rays(size)
    if x is None:
        parts, centre = [rays], torch.zeros(1, size, dtype=torch.float64)
        energy = energy.index_rows(torch.zeros(len(rays), dtype=torch.long))
    else:
        parts, centre = _split_rays(rays, len(x)), x.detach().cpu().double().flatten(1)
    try:
        for part in parts:
            near, far = (
                energy_values(
                    energy,
                    (centre + r * (1 + centre.abs().max()) * part).view(-1, *shape).to(like),
                    batch_size=len(part),
                )
                for r in FAR
            )
            if bool(((widen(far) - widen(near)) / math.log(FAR[1] / FAR[0]) <= size).any()):
                return True
    except (IndexError, RuntimeError, ValueError):
        pass  # a function that holds rows of its own, or tensors of another dtype or device
    return False


def _ask_type(energy: Energy, x: Tensor | None) -> Tensor:
    """Return an empty tensor of the dtype and on the device of the energy's weights; without any,
    in the widest dtype, on the device of its other tensors or of the points.
    """
    weights = (p for p in energy.parameters() if p.is_floating_point())
    found = next(weights, None)
    if found is not None:
        return found.new_empty(0)
    places = (b.device for b in energy.buffers())
    device = next(places, torch.device("cpu") if x is None else x.device)
    return torch.empty(0, dtype=wide_dtype(device), device=device)


def _draw_rays(size: int) -> Tensor:
    """Draw directions (n, size) at random, with a fixed seed; add the axes where they are few."""
    g = torch.Generator().manual_seed(0)
    random = torch.randn(RAYS, size, generator=g, dtype=torch.float64)
    random = random / random.norm(dim=1, keepdim=True)
    if size > RAYS:
        return random
    axes = torch.eye(size, dtype=torch.float64)
    return torch.cat([random, axes, -axes])


def _split_rays(rays: Tensor, rows: int) -> list[Tensor]:
    """Split rays into batches of as many as there are chains, the last filled up from the first: an
    energy may hold one row each.
    """
    many = -(-len(rays) // rows) * rows
    return list(rays.repeat(-(-many // len(rays)), 1)[:many].split(rows))
