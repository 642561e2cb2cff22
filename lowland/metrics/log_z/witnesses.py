"""Look where a certificate cannot: at tails far out, and at modes that the caller knows.

Neither direction of a bracket sees what no chain visits. Two things can be seen all the same: a
density whose tails do not fall has no normaliser, whatever chains near the middle say; and a mode
that the caller names can be asked for.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lowland.energy import Energy, freeze
from lowland.energy.placement import widen
from lowland.samplers import Sampler
from lowland.samplers.adaptation import StepSizeAdaptation
from lowland.samplers.loop import iterate, last_state

RAYS = 64  # from the middle of the draws through some of them
DISTANCES = (10.0, 100.0, 1e3, 1e4)  # in units of the draws' own distance from their middle
EXPLORING = 200  # steps of a chain that looks around a mode
PER_MODE = 20  # chains at each


def object_to_tails(energy: Energy, x: Tensor) -> list[str]:
    """List in words what speaks against a finite log Z far from draws x (B, *event).

    Along rays through draws the energy must stay above that of the draws, and farther than 100
    times their distance it must rise by more than d log 10 while the distance grows tenfold, as a
    normaliser in d dimensions asks. Empty for bounded domains, and where the energy has no finite
    value out there.
    """
    if energy.domain.kind != "real":
        return []
    x = x[torch.linspace(0, len(x) - 1, min(len(x), RAYS)).long()]
    middle, size = x.mean(0), x[0].numel()
    spread = x.std(0)
    ray = (x - middle) / torch.where(spread > 0, spread, 1.0)
    length = ray.flatten(1).square().mean(1).sqrt().view(-1, *[1] * (x.dim() - 1))
    ray = ray / torch.where(length > 0, length, 1.0) * spread
    try:
        with torch.no_grad(), freeze(energy) as still:
            near = widen(still(x))
            far = torch.stack([widen(still(middle + r * ray)) for r in DISTANCES])
    except (RuntimeError, ValueError):  # an energy need not be defined so far out
        return []
    near, lowest = near[near.isfinite()], far.nan_to_num(math.inf, math.inf, -math.inf).amin()
    if len(near) and lowest < near.min() - 1e-3 * max(1.0, abs(near.min().item())):
        return [
            f"far from the draws the energy falls to {lowest.item():.4g}, below {near.min():.4g}, "
            "the lowest of the draws: there is weight that no chain visited, or no finite log Z"
        ]
    rise = far.diff(dim=0)[1:]  # beyond a hundred times the distance
    slow = (rise.isfinite() & (rise < size * math.log(10))).all(0)
    slow &= ray.flatten(1).abs().amax(1) > 0
    if not bool(slow.any()):
        return []
    return [
        f"along {int(slow.sum())} of {len(x)} rays from the draws the energy rises too slowly for "
        "a finite log Z"
    ]


def explore(energy: Energy, sampler: Sampler, starts: Tensor, generator: torch.Generator) -> Tensor:
    """Run short chains from each of starts (K, *event); return where they came (K, n, *event)."""
    found = []
    for start in starts:
        x, adapt = start.expand(PER_MODE, *start.shape).clone(), StepSizeAdaptation.of(sampler)
        with freeze(energy) as still:
            state = sampler.init(still, x)
            moves = iterate(still, sampler, state, EXPLORING, generator, adapt)
            found.append(last_state(moves).x)
    return torch.stack(found)


def object_to_modes(around: Tensor, ends: Tensor, log_weights: Tensor) -> list[str]:
    """Say which modes that the caller named no end of the forward run lies in.

    around: (K, n, *event), points of each mode; ends (B, *event) with log weights (B,). A mode
    reaches one and a half times as far from its middle as its farthest point.
    """
    modes, points = widen(around).flatten(2), widen(ends[log_weights.isfinite()]).flatten(1)
    scale = modes.flatten(0, 1).std(0)
    scale = torch.where(scale > 0, scale, 1.0)
    middles = modes.mean(1)
    reach = ((modes - middles.unsqueeze(1)) / scale).square().sum(2).sqrt().amax(1)
    away = torch.cdist(middles / scale, points / scale)
    lost = [k for k in range(len(modes)) if not bool((away[k] <= 1.5 * reach[k] + 1e-9).any())]
    if not lost:
        return []
    return [f"no chain of the forward run ended near starts {_list(lost)} of {len(modes)}"]


def _list(places: Sequence[int]) -> str:
    shown = ", ".join(map(str, places[:5]))
    return shown if len(places) <= 5 else f"{shown}, ..."
