"""Combining concepts: energies must speak the same unit before they are added."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from lowland.energy import Energy, Function, Sum, check_normalisable, energy_values


@dataclasses.dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of an energy over reference points: the unit in which it is combined."""

    mean: float
    spread: float


def scale_of(energy: Energy, x: Tensor) -> Scale:
    """Measure an energy over reference points (N, *event), such as its own calibration split.

    Raises ValueError if the energy does not vary there.
    """
    values = energy_values(energy, x).double()
    spread = values.std().item() if len(values) > 1 else 0.0
    if not spread > 0:
        raise ValueError(
            f"the energy does not vary over {len(values)} reference points; a unit needs at least two different values; "
            f"pass more points"
        )
    return Scale(values.mean().item(), spread)


def compose(energies: Sequence[Energy], references: Sequence[Tensor], weights: Sequence[float] | None = None) -> Sum:
    """Σ w_k (E_k − mean_k) / spread_k: a conjunction in which each concept counts by its weight, not by its unit.

    references: for each energy points (N_k, *event) that measure its unit. A negative weight moves away from a concept and
    needs a positive partner. Sampling the result at temperature 1 is sharper or flatter than the parts: the weights are
    inverse temperatures in units of the spreads.

    >>> import torch
    >>> from lowland.targets import Gaussian
    >>> g = torch.Generator().manual_seed(0)
    >>> parts = [Gaussian((0.0, 0.0)), Gaussian((3.0, 0.0))]
    >>> both = compose(parts, [p.draw(100, g) for p in parts])
    >>> both.weights[0] > 0
    True
    """
    weights = [1.0] * len(energies) if weights is None else list(weights)
    if not len(energies) == len(references) == len(weights):
        raise ValueError(
            f"{len(energies)} energies came with {len(references)} references and {len(weights)} weights; one of each is "
            f"needed; make the lists equally long"
        )
    check_normalisable(Sum(energies, weights))
    scales = [scale_of(energy, x) for energy, x in zip(energies, references, strict=True)]
    factors = [w / s.spread for w, s in zip(weights, scales, strict=True)]
    offset = sum(f * s.mean for f, s in zip(factors, scales, strict=True))
    level = Function(lambda x: torch.full((len(x),), -offset, dtype=x.dtype, device=x.device))
    return Sum([*energies, level], [*factors, 1.0])
