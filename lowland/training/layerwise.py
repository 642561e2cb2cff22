"""Train a stack of restricted machines, one layer after another, each in a run of its own."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lowland.data import Dataset, Split
from lowland.data.binarization import bernoulli_sample, materialize
from lowland.domain import binary
from lowland.training.loop import train_run
from lowland.training.recipes import plain_recipe

MAX_BATCH = 4096  # examples at a time


def greedy(net: Any, recipe: Any, run: str | Path, *, data: Dataset, progress: bool = True) -> Any:
    """Train a deep belief net layer by layer, in run/layer-1, run/layer-2, …; return the net.

    The data of a layer are the hidden units of the one below, drawn anew each time they are taken.
    A layer starts at the one below, transposed, where it is wide enough: there it costs the bound
    nothing, and can only raise it. recipe: a recipe or its plain values, or a list with one for
    each layer; objective, sampler, training and seed count, data and energy are not looked at. Runs
    that are finished are read, not repeated.

    Raises ValueError for a list of another length, and what `train_recipe` raises.
    Source: Hinton, Osindero & Teh (2006), https://doi.org/10.1162/neco.2006.18.7.1527

    >>> import lowland, tempfile, torch
    >>> from lowland.nets import DBN
    >>> digits = lowland.load_data("digits", binarize="threshold")
    >>> recipe = {"seed": 0, "objective": {"name": "CD"}, "sampler": {"name": "BlockGibbs"}}
    >>> recipe["training"] = {"steps": 20, "checkpoint_every": 20}
    >>> net, run = DBN(digits.domain, n_hidden=(20, 10)), tempfile.mkdtemp()
    >>> net = greedy(net, recipe, run, data=digits, progress=False)
    >>> net.fantasies(2, 5, torch.Generator().manual_seed(0)).shape
    torch.Size([2, 1, 8, 8])
    """
    recipes = list(recipe) if isinstance(recipe, (list, tuple)) else [recipe] * len(net.n_hidden)
    if len(recipes) != len(net.n_hidden):
        raise ValueError(
            f"{len(recipes)} recipes came for {len(net.n_hidden)} layers; one for all or one for "
            "each is needed; correct the list"
        )
    shared = {"name": "RBM", "init_std": net.init_std, "centered": net.centered}
    below: Any = None
    for layer, (units, own) in enumerate(zip(net.n_hidden, recipes, strict=True)):
        values = plain_recipe(own)
        machine = {**values, "energy": {**shared, "n_hidden": units}}
        seed = torch.Generator().manual_seed(int(values["seed"]))
        start = None if below is None else net.successor(layer, below, seed)
        below = train_run(
            machine, Path(run) / f"layer-{layer + 1}", data=data, energy=start, progress=progress
        )
        net.adopt(layer, below)
        if layer + 1 < len(net.n_hidden):
            data = hidden_data(below, data, seed=int(values["seed"]))
    return net


def hidden_data(machine: Any, data: Dataset, seed: int = 0) -> Dataset:
    """Return the data set of a machine's hidden units: means E[h | x] for training, drawn anew each
    time; draws elsewhere.
    """
    data = materialize(data)
    parts: dict[str, Any] = {}
    for place, (name, split) in enumerate(data.splits()):
        means = _means(machine, split.x)
        if place:
            means = bernoulli_sample(means, torch.Generator(means.device).manual_seed(seed + place))
        parts[name] = Split(means, split.y)
    words = f"{data.name}, {machine.n_hidden} hidden units of it"
    return dataclasses.replace(
        data,
        name=words,
        domain=binary(machine.n_hidden),
        binarization="stochastic",
        binarization_note=words,
        num_gray_levels=None,
        **parts,
    )


def _means(machine: Any, x: Tensor) -> Tensor:
    device = next(machine.parameters()).device
    with torch.no_grad():
        return torch.cat(
            [machine.hidden_mean(part.to(device)).to(x.device) for part in x.split(MAX_BATCH)]
        )
