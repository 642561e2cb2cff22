"""log Z by adding up every state, where there are few enough: in float64, in blocks of bounded
memory.

    log Z = log Σ_x exp(−E(x)),    or log Σ_h exp(−F(h)) over the hidden side of a Boltzmann machine

An energy whose `latent.hidden_marginal` is an energy over its hidden units alone, with the same log
Z, needs 2^hidden states, not 2^visible.
"""

import copy
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lowland.devices import float64_device, to_float64
from lowland.energy import Energy, freeze, latent_of

MAX_STATES = 2**24
MAX_STATES_AT_ONCE = 2**13  # states at a time, fewer where an event is large
MAX_NUMBERS_AT_ONCE = 2**23


class Enumeration(NamedTuple):
    """value: log Z; states: how many were added up; side: of what, in words; dtype: in which
    energies were computed.
    """

    value: float
    states: int
    side: str
    dtype: torch.dtype


def countable(energy: Energy) -> tuple[Energy, str] | None:
    """Return the energy whose states can all be added up, and in words what they are; None if
    there are too many.

    That is the energy itself, or its hidden side, whichever has fewer states.
    """
    sides = [(energy, "states")]
    hidden_marginal = latent_of(energy).hidden_marginal
    if hidden_marginal is not None:
        sides.append((hidden_marginal(), "states of its hidden units"))
    known = [(_log_states(side), side, words) for side, words in sides]
    count, side, words = min(known, key=lambda found: found[0])
    if count > math.log2(MAX_STATES) + 1e-9:
        return None
    return side, words


def _log_states(energy: Energy) -> float:
    """Return log₂ of the number of states; infinite for continuous ones and where the event shape
    is not known.
    """
    classes = {"binary": 2, "categorical": energy.domain.classes}.get(energy.domain.kind)
    if classes is None or not energy.domain.shape:
        return math.inf
    return math.prod(energy.domain.shape) * math.log2(classes)


def sum_states(energy: Energy, progress: Callable[[int], object] | None = None) -> Enumeration:
    """Return log Z of a discrete energy of at most 2²⁴ states, of itself or of its hidden side.
    Weights and mode stay as they were.

    Energies are computed in float64 where the energy can, else in its own precision and added up in
    float64. progress: called with the number of states of each block. Raises ValueError if there
    are more states, and if an energy is NaN or minus infinity.

    >>> from lowland.targets import Ising
    >>> lattice = Ising((3, 4), coupling=0.3)
    >>> abs(sum_states(lattice).value - lattice.log_z) < 1e-9
    True
    """
    found = countable(energy)
    if found is None:
        raise ValueError(
            f"{type(energy).__name__} on {energy.domain} cannot be enumerated; at most 2^24 "
            "states, of itself or of its hidden side, can be added up; leave exact out for "
            "annealed importance sampling"
        )
    side, words = found
    with torch.no_grad():
        side, dtype = _in_double(side)
        sites = math.prod(side.domain.shape)
        classes = 2 if side.domain.kind == "binary" else side.domain.classes
        total, rows = classes**sites, max(min(MAX_STATES_AT_ONCE, MAX_NUMBERS_AT_ONCE // sites), 1)
        place = torch.tensor([classes**i for i in range(sites)])
        parts = []
        with freeze(side) as side:
            for start in range(0, total, rows):
                index = torch.arange(start, min(start + rows, total))
                x = (index.unsqueeze(1) // place % classes).to(dtype).view(-1, *side.domain.shape)
                parts.append(_log_sum(side, x.to(_device(side))))
                if progress is not None:
                    progress(len(index))
    return Enumeration(torch.stack(parts).logsumexp(0).item(), total, words, dtype)


def _log_sum(energy: Energy, x: Tensor) -> Tensor:
    """Return log Σ exp(−E) over a block, float64; a state of infinite energy has no weight."""
    value = to_float64(energy(x))
    lost = int((value.isnan() | (value == -math.inf)).sum())
    if lost:
        raise ValueError(
            f"{lost} of {len(x)} states have an energy that is NaN or minus infinity; every state "
            "needs a number, or inf for no weight; look for overflow in the energy"
        )
    return (-value).logsumexp(0)


def _device(energy: Energy) -> torch.device:
    return next((t.device for t in (*energy.parameters(), *energy.buffers())), torch.device("cpu"))


def _in_double(energy: Energy) -> tuple[Energy, torch.dtype]:
    """Return a copy that computes in float64, or the energy as it is where it cannot: a plain
    function may hold float32 numbers.
    """
    wide = copy.deepcopy(energy).to(float64_device(_device(energy))).double()
    x = torch.zeros(1, *energy.domain.shape, dtype=torch.float64, device=_device(wide))
    try:
        wide(x)
    except RuntimeError:
        return energy, torch.get_default_dtype()
    return wide, torch.float64
