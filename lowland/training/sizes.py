"""Sizes of what a recipe asks for, worked out before anything of that size is made."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lowland.domain import Domain, binary, box, real
from lowland.energy import Energy
from lowland.registry import build

# events on which an energy may be tried before its data are known: the first that it takes
EXAMPLES = (
    real(2),
    box(0.0, 1.0, 1, 28, 28),
    box(0.0, 1.0, 3, 32, 32),
    binary(16),
    box(0.0, 1.0, 1, 8, 8),
    binary(1, 28, 28),
)


DRAWS = (Tensor.normal_, Tensor.uniform_, Tensor.bernoulli_)


class _WithoutDraws(TorchFunctionMode):
    """Leave tensors as they are where they would be drawn: on "meta" that takes seconds to load."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return args[0] if func in DRAWS else func(*args, **(kwargs or {}))


def sketch_energy(values: Mapping[str, Any], domain: Domain | None = None) -> Energy:
    """Build an energy without memory for its weights, for a domain or for the first example of one
    that it takes.

    Raises ValueError as its constructor does; if no example will do, as it does of the first.
    """
    refusals: list[ValueError] = []
    with torch.random.fork_rng(devices=[]), torch.device("meta"), _WithoutDraws():
        for candidate in (domain,) if domain is not None else EXAMPLES:
            try:
                energy: Energy = build("energy", {**values, "domain": candidate})
            except ValueError as error:
                refusals.append(error)
            else:
                return energy
    raise refusals[0]


def count_weights(energy: Energy) -> int:
    """Count the numbers in all parameters and buffers."""
    return sum(x.numel() for x in (*energy.parameters(), *energy.buffers()))
