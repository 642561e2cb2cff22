"""`load_data`: a set from the list of named ones, or from a file or folder.

A name means a set of the list below; a path means a folder of images, a .npy or .npz array, or a
.csv table. A path that is spelt like a name is written with a leading "./".
"""

import inspect
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from lowland.data import cifar, mnist
from lowland.data.binarization import binarize_dataset
from lowland.data.dataset import DataError, Dataset, Split, check_data, random_split
from lowland.data.loader import Loader, LoadOptions, build_dataset
from lowland.data.planar import PLANAR_DENSITIES
from lowland.data.room import require_memory
from lowland.data.user_files import path_loader
from lowland.domain import box, real
from lowland.scalars import read_integer

DIGITS_SEED = 8  # fixed, so that the three parts of the digits never depend on the seed of a run
PLANAR_COUNT = 10_000
BYTES_PER_POINT = 64  # in the plane, while they are drawn and divided
MAX_SEED = (1 << 64) - 1


def list_datasets() -> dict[str, str]:
    """Return the named sets, each with one line about it."""
    return {name: line for name, (line, _) in _named_sets().items()}


def load_data(
    name: str | Path,
    *,
    root: str | Path | None = None,
    seed: int = 0,
    download: bool = True,
    limit: int | None = None,
    binarize: str | None = None,
    discrete: bool | None = None,
    **options: Any,
) -> Dataset:
    """Load a named set, or the data in a folder or file, check it and split it in three.

    root: searched first for files; seed: of the split (and of the draws of a density in the plane);
    download: fetch a missing file into the cache folder; limit: keep at most this many training
    examples, the first of the seeded permutation; binarize: make grey values binary by "threshold",
    by a "stochastic" draw or by one "fixed" draw with the seed (see `binarize_dataset`); discrete:
    whether the energy lives on discrete sites, which decides how a file is read whose content
    allows two readings (see `lowland.data.kinds`; None if it is not known).

    options: `count` for densities in the plane; `size`, `channels`, `skip_bad` for folders;
    `standardize` (numbers are centred in float64, then rounded) and `kind` ("real", "binary",
    "categorical", "image") for arrays and tables; `label` (name or position of a column) and
    `header` (whether the first line holds names) for tables, see `lowland.data.layout`.

    >>> load_data("digits").domain.shape
    (1, 8, 8)

    Raises DataError (a ValueError) if the name or an option is unknown, a file is missing or cannot
    be trusted.
    """
    seed = read_integer("seed", seed, least=0, most=MAX_SEED)
    if limit is not None:
        limit = read_integer("limit", limit, least=1)
    loader = _find_loader(str(name))
    parameters = inspect.signature(loader).parameters.values()
    allowed = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    unknown = sorted(set(options) - set(allowed))
    if unknown:
        raise DataError(
            f"{name} was given {', '.join(unknown)}; it takes "
            f"{', '.join(['limit', 'binarize', *allowed])}; remove or rename them"
        )
    graded = binarize is not None
    dataset = loader(LoadOptions(root, seed, download, limit, discrete, graded), **options)
    check_data(dataset)
    if binarize is not None:
        dataset = binarize_dataset(dataset, binarize, seed)
        check_data(dataset)
    return dataset


def _find_loader(name: str) -> Loader:
    named = _named_sets()
    if name in named:
        return named[name][1]
    loader = path_loader(name)
    if loader is not None:
        return loader
    near = get_close_matches(name, named, n=1)
    hint = "choose one of them or give the path of a file or folder"
    if near:
        hint = f"did you mean {near[0]!r}?"
    raise DataError(f"data {name!r} is not known; the named sets are {', '.join(named)}; {hint}")


def _named_sets() -> dict[str, tuple[str, Loader]]:
    planar = {
        name: (f"plane: {density.line}", _planar_loader(name))
        for name, density in PLANAR_DENSITIES.items()
    }
    return {
        "digits": ("1,797 digits of 8 × 8, 17 grey levels, comes with scikit-learn", _load_digits),
        **planar,
        "mnist": ("70,000 digits of 28 × 28", mnist.MNIST.load),
        "fashion-mnist": ("70,000 articles of clothing of 28 × 28", mnist.FASHION_MNIST.load),
        "cifar10": (
            "60,000 colour images of 32 × 32 in 10 classes, from the binary archive",
            cifar.load_archive,
        ),
        "cifar10-jpeg": (
            "CIFAR-10 recompressed as JPEG, from Parquet; not comparable with papers",
            cifar.load_parquet,
        ),
    }


def _load_digits(options: LoadOptions) -> Dataset:
    """Split 1297/250/250 by one fixed permutation, whatever the seed: results on the digits are
    comparable between runs.
    """
    try:
        bunch = import_module("sklearn.datasets").load_digits()
    except ImportError as error:
        raise DataError(
            "digits come with scikit-learn; it is not installed; pip install scikit-learn"
        ) from error
    images = torch.from_numpy(bunch.images).to(torch.uint8)[:, None]
    whole = Split(images, torch.from_numpy(bunch.target).long())
    note = (
        "scikit-learn's 8 × 8 digits (the UCI test part); 1297/250/250 by a fixed permutation that "
        "no seed changes"
    )
    splits = random_split(whole, (len(whole) - 500, 250, 250), DIGITS_SEED)
    names, domain = tuple("0123456789"), box(0, 1, 1, 8, 8)
    return build_dataset(options, "digits", domain, splits, names, 17, note)


def _planar_loader(name: str) -> Loader:
    density = PLANAR_DENSITIES[name]

    def load(options: LoadOptions, *, count: int = PLANAR_COUNT) -> Dataset:
        count = read_integer("count", count, least=5)
        require_memory(BYTES_PER_POINT * count, f"count = {count:,} points of {name}")
        generator = torch.Generator().manual_seed(options.seed)
        splits = [Split(*density(size, generator)) for size in (count, count // 5, count // 5)]
        note = f"drawn with seed {options.seed}; mean 0 and mean variance 1 by fixed constants"
        names = tuple(str(k) for k in range(density.classes))
        return build_dataset(options, name, real(2), splits, names, note=note)

    return load
