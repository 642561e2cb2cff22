"""Progressive sizes: train an energy of images from small to large, smaller sizes in runs of their
own inside the run, weights carried on.

In a recipe it is one word: training.progressive_sizes = [7, 14], the smaller sides on which to
train first."""

import dataclasses
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lowland.data import Dataset, Split
from lowland.domain import Domain
from lowland.energy import Energy
from lowland.energy.sizes import build_in_float32
from lowland.registry import build
from lowland.training.loop import train_run
from lowland.training.recipes import PlainRecipe, load_recipe_data, plain_recipe
from lowland.training.settings import Plain, Row


def grow(
    recipe: Plain | PlainRecipe | Sequence[Plain | PlainRecipe],
    run: str | Path,
    sizes: Sequence[int],
    *,
    data: Dataset | None = None,
    progress: bool = True,
    allow_changes: bool = False,
) -> Energy:
    """Train on images of each size in turn, in run/size-7, run/size-14, …, the last in run itself;
    return its energy.

    Small images are cheap and their energies smooth: what is learned there is where the next size
    begins. Images are made small by averaging. recipe: a recipe or its plain values, or a list with
    one for each size; its energy must have weights that do not depend on the size, as IGEBM has,
    which sums over space. sizes: rising sides, the last that of the data. Runs that are finished
    are read, not repeated; one that was killed goes on. allow_changes: as for `train_recipe`.

    Raises ValueError for sizes that do not rise to that of the data, an energy whose weights do not
    fit the next size, and what `train_recipe` raises. Source: Du, Li, Tenenbaum & Mordatch (2021),
    https://arxiv.org/abs/2012.01316; Gao et al. (2018), https://arxiv.org/abs/1709.08868

    >>> import lowland, tempfile
    >>> recipe = {"name": "grown", "data": {"name": "digits"}}
    >>> recipe["energy"] = {"name": "IGEBM", "widths": [8, 8], "blocks": 1}
    >>> recipe |= {"objective": {"name": "CD"}, "sampler": {"name": "Langevin", "step_size": 1e-3}}
    >>> recipe["training"] = {"steps": 10, "checkpoint_every": 10}
    >>> recipe["generation"] = {"sampler": {"name": "Langevin", "step_size": 1e-3}}
    >>> grow(lowland.read_recipe(recipe), tempfile.mkdtemp(), (4, 8), progress=False).domain.shape
    (1, 8, 8)
    """
    recipes = recipe if isinstance(recipe, Sequence) else [recipe] * len(sizes)
    plain = [plain_recipe(own) for own in recipes]
    for values in plain[:-1]:
        values["training"] = {**values["training"], "progressive_sizes": []}
    _check(sizes, len(plain))
    data = data or load_recipe_data(plain[-1])
    if data.domain.shape[1:] != (sizes[-1], sizes[-1]):
        raise ValueError(
            f"sizes {tuple(sizes)} came for events of shape {data.domain.shape}; square images are "
            "needed, and the last size must be theirs; correct the sizes"
        )
    energy: Energy | None = None
    for size, values in zip(sizes, plain, strict=True):
        small = resize_dataset(data, size)
        start = None if energy is None else _enlarge(energy, values, small.domain)
        place = Path(run) if size == sizes[-1] else Path(run) / f"size-{size}"
        energy = train_run(
            values,
            place,
            data=small,
            energy=start,
            progress=progress,
            allow_changes=allow_changes,
        )
    assert energy is not None
    return energy


def resize_dataset(data: Dataset, size: int) -> Dataset:
    """Return the data set with its images averaged down to sides of `size`; grey levels are no
    longer counted."""
    if data.domain.shape[1:] == (size, size):
        return data
    parts: Row = {name: Split(_shrink(split.x, size), split.y) for name, split in data.splits()}
    domain = dataclasses.replace(data.domain, shape=(data.domain.shape[0], size, size))
    return dataclasses.replace(
        data, name=f"{data.name} at {size} × {size}", domain=domain, num_gray_levels=None, **parts
    )


def _shrink(x: Tensor, size: int) -> Tensor:
    return torch.cat([interpolate(part, size=(size, size), mode="area") for part in x.split(4096)])


def _enlarge(energy: Energy, values: Plain, domain: Domain) -> Energy:
    """Return an energy of the next size with the weights of the last."""
    margin = float(values["training"].get("box_margin", 0.0))
    with build_in_float32():
        new: Energy = build("energy", {**values["energy"], "domain": domain.widen(margin)})
    mine, theirs = new.state_dict(), energy.state_dict()
    wrong = [name for name in mine if name not in theirs or mine[name].shape != theirs[name].shape]
    if wrong:
        raise ValueError(
            f"{type(new).__name__} has weights that depend on the size of its images "
            f"({', '.join(wrong[:3])}); growing carries all weights on; use IGEBM, which sums over "
            "space"
        )
    new.load_state_dict(theirs)
    return new


def _check(sizes: Sequence[int], recipes: int) -> None:
    if (
        not sizes
        or sizes[0] < 1
        or not all(a < b for a, b in pairwise(sizes))
        or recipes != len(sizes)
    ):
        raise ValueError(
            f"sizes {tuple(sizes)} came with {recipes} recipes; rising sizes, and one recipe for "
            "all or one each, are needed; correct them"
        )
