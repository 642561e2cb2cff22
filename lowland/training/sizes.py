"""Sizes of what a recipe asks for, worked out before anything of that size is made."""

from collections.abc import Mapping
from functools import partial
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

    Raises ValueError as its constructor does; if no example will do, as it does of the first that
    its class takes with the defaults.
    """
    if domain is not None:
        return _sketch(values, domain)
    refusals: dict[Domain, ValueError] = {}
    for example in EXAMPLES:
        try:
            return _sketch(values, example)
        except ValueError as error:
            refusals[example] = error
    raise refusals[next(filter(partial(_takes, values["name"]), EXAMPLES), EXAMPLES[0])]


def _takes(name: str, domain: Domain) -> bool:
    """Tell whether a class of energies can be built for a domain."""
    try:
        _sketch({"name": name}, domain)
    except ValueError:
        return False
    return True


def _sketch(values: Mapping[str, Any], domain: Domain) -> Energy:
    with torch.random.fork_rng(devices=[]), torch.device("meta"), _WithoutDraws():
        energy: Energy = build("energy", {**values, "domain": domain})
    return energy


def count_weights(energy: Energy) -> int:
    """Count the numbers in all parameters and buffers."""
    return sum(x.numel() for x in (*energy.parameters(), *energy.buffers()))
