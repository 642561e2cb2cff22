"""Sizes of what a recipe asks for, worked out before anything of that size is made."""

from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lowland.data import Dataset
from lowland.domain import Domain, binary, box, real
from lowland.energy import Energy
from lowland.memory import check_bytes
from lowland.registry import build
from lowland.training.settings import Plain, Training

# events on which an energy may be tried before its data are known: the first that it takes
EXAMPLES = (
    real(2),
    box(0.0, 1.0, 1, 28, 28),
    box(0.0, 1.0, 3, 32, 32),
    binary(16),
    box(0.0, 1.0, 1, 8, 8),
    binary(1, 28, 28),
)


BYTES = 4  # of a number in float32
COPIES = 6  # of each weight: itself, its average, its gradient, two moments, one being written
# settings that count events in memory, and how many are kept for each
ROWS = {
    ("objective", "buffer_size"): "2",
    ("objective", "num_chains"): "4",
    ("objective", "ratio"): "batch",
    ("objective", "samples"): "batch",
    ("objective", "candidates"): "batch",
    ("training", "batch"): "8",
    ("training", "select_samples"): "4",
    ("evaluation", "samples"): "4",
    ("restoration", "prior_samples"): "2",
}
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


def check_sizes(recipe: Plain, data: Dataset) -> None:
    """Raise ValueError if what a recipe makes of some data cannot fit into memory, naming the
    setting, or if a batch holds more examples than there are.
    """
    training, domain = recipe["training"], data.domain
    batch = training.get("batch", Training.batch)
    if batch > len(data.train):
        raise ValueError(
            f"training.batch is {batch} and {data.name} has {len(data.train)} training examples; a "
            f"batch is made of different ones; set training.batch = {len(data.train)} or less, or "
            "bring more data"
        )
    if recipe.get("energy"):
        energy = sketch_energy(recipe["energy"], domain.widen(training.get("box_margin", 0.0)))
        weights = count_weights(energy)
        size = BYTES * weights * COPIES
        what = f"an energy of {weights:,} weights, with its averages, gradients and moments,"
        check_bytes(what, size, "make [energy] smaller")
        widest = max((len(p) for p in energy.parameters() if p.dim() > 1), default=1)
        what = f"training.batch = {batch} through layers of {widest:,} units"
        check_bytes(what, BYTES * batch * widest, "make [energy] or training.batch smaller")
    _check_partner(recipe["objective"], prod(domain.shape))
    event = BYTES * prod(domain.shape)
    for (section, name), factor in ROWS.items():
        count = (recipe.get(section) or {}).get(name) or 0
        rows = count * (batch if factor == "batch" else int(factor))
        what = f"{section}.{name} = {count} for events of shape {tuple(domain.shape)}"
        check_bytes(what, event * rows, f"make {section}.{name} smaller")


def _check_partner(objective: Plain, numbers: int) -> None:
    """Raise ValueError for widths of an objective's own network that no memory holds."""
    hidden = [int(width) for width in objective.get("hidden") or ()]
    if not hidden:
        return
    ends = numbers + int(objective.get("latent") or 0)
    weights = sum(a * b for a, b in pairwise([ends, *hidden, ends]))
    weights *= int(objective.get("transforms") or 1)
    what = f"objective.hidden = {hidden[:4]} with {weights:,} weights"
    check_bytes(what, BYTES * weights * COPIES, "make objective.hidden smaller")
