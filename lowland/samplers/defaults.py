"""The sampler for those who name none: a fair start, whose step is made for the spread of data."""

import math

from torch import Tensor

from lowland.energy import Energy, gibbs_of
from lowland.samplers.discrete import DMALA, BlockGibbs, GibbsWithGradients
from lowland.samplers.kernel import Sampler
from lowland.samplers.langevin import MALA, Langevin

REAL_STEP = 0.04  # of MALA, in units of the variance of the data
BOX_STEP = 0.01  # of Langevin, in units of the squared width of the box
ROWS = 10_000  # of the data whose variance is taken


def initial_sampler(energy: Energy, x: Tensor) -> Sampler:
    """Choose a sampler for an energy and data x (N, *event), without trying it out.

    On the real line MALA, whose step is 4 % of the variance of the data; in a box Langevin with 1 %
    of the squared width, which no wall and no steep network can freeze; on sites what the energy
    can do best. `tune(energy, "auto", ...)` tries several.

    >>> import torch, lowland
    >>> energy = lowland.nets.MLP(lowland.box(0, 1, 2))
    >>> initial_sampler(energy, torch.ones(4, 2))
    Langevin(step_size=0.01, temperature=1.0, inv_mass_sqrt=None)
    """
    kind = energy.domain.kind
    if kind == "box":
        return Langevin(_round(BOX_STEP * (energy.domain.hi - energy.domain.lo) ** 2))
    if kind == "real":
        rows = x[:ROWS].flatten(1).double().cpu()
        variance = float(rows.var(0, correction=0).mean()) if len(rows) > 1 else 1.0
        return MALA(_round(REAL_STEP * (variance or 1.0)))
    if gibbs_of(energy).draws:
        return BlockGibbs()
    if kind == "binary":
        return DMALA(1.0)
    if gibbs_of(energy).one_hot_energy is not None:
        return GibbsWithGradients()
    return BlockGibbs()


def _round(value: float) -> float:
    """Return a number to two significant digits, which do not depend on the machine."""
    return float(f"{value:.2g}") if math.isfinite(value) else REAL_STEP
