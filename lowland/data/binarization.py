"""Binarization of grey images in one of three ways, each named wherever a number about the data is
printed.

    threshold     x = 1 where the grey value is above 0.5
    stochastic    x = 1 with the grey value as its probability; training examples are drawn anew
                  each time they are taken, calibration and test splits once, with a seed of their
                  own that nothing changes
    fixed         the same distribution, everything drawn once, with the seed of the data

The three differ by tens of nats on MNIST, so likelihoods on differently binarized data cannot be
compared. Source: Salakhutdinov & Murray (2008), section 5, https://doi.org/10.1145/1390156.1390266
"""

from dataclasses import replace

import torch
from torch import Generator, Tensor

from lowland.data.dataset import DataError, Dataset, Split
from lowland.domain import binary
from lowland.seeds import make_generator

METHODS = ("threshold", "stochastic", "fixed")
THRESHOLD = 0.5
STOCHASTIC_SEED = 8128  # of what a stochastic set draws only once


def bernoulli_sample(grey: Tensor, generator: Generator) -> Tensor:
    """Draw zeros and ones, 1 with probability `grey`, of its shape and dtype: u < grey with u
    uniform on [0, 1).

    >>> bernoulli_sample(torch.tensor([0.0, 1.0, 1.0]), torch.Generator().manual_seed(0))
    tensor([0., 1., 1.])
    """
    return torch.empty_like(grey).uniform_(generator=generator).lt_(grey)


def binarize(grey: Tensor, method: str, generator: Generator | None = None) -> Tensor:
    """Map grey values in [0, 1] to zeros and ones by one of the three methods; draws are those of
    the generator, or of a fixed seed.

    >>> binarize(torch.tensor([0.2, 0.5, 0.8]), "threshold")
    tensor([0., 0., 1.])
    """
    if method == "threshold":
        return (grey > THRESHOLD).to(grey.dtype)
    return bernoulli_sample(grey, generator or _generator(STOCHASTIC_SEED, 0))


def binarize_dataset(dataset: Dataset, method: str, seed: int = 0) -> Dataset:
    """Return a set of grey images or columns in [0, 1] as binary ones on binary(*shape).

    method: "threshold", "stochastic" or "fixed", see the module; seed: of a fixed draw. Each split
    has a generator of its own, so a limit on the training split moves no other pixel.

    Data that are binary already are returned as they are. Raises DataError for an unknown method
    and for data with values outside [0, 1].

    >>> from lowland.data import load_data
    >>> digits = binarize_dataset(load_data("digits"), "threshold")
    >>> digits.domain.kind, digits.binarization, digits.binarization_note
    ('binary', 'threshold', 'digits, each pixel above 0.5 is 1, the others 0')
    """
    if method not in METHODS:
        raise DataError(
            f"binarize is {method!r}; it is {', '.join(METHODS[:-1])} or {METHODS[-1]}; choose "
            "one, or leave it out"
        )
    domain = dataset.domain
    if domain.kind == "binary":
        return replace(dataset, note=f"{dataset.note}; binary as it is stored")
    if not _is_grey(dataset):
        raise DataError(
            f"binarize was asked for {dataset.name}, whose examples are {domain.kind} of shape "
            f"{domain.shape}; it is for images and columns with values in [0, 1]; leave it "
            "out"
        )
    note = f"{dataset.name}, {_describe(method, seed)}"
    own_seed = STOCHASTIC_SEED if method == "stochastic" else seed
    train, calibration, test = (
        replace(split, x=binarize(split.x, method, _generator(own_seed, index)))
        for index, (_, split) in enumerate(dataset.splits())
    )
    if method == "stochastic":
        train = dataset.train  # which is drawn when it is taken
    return replace(
        dataset,
        train=train,
        calibration=calibration,
        test=test,
        domain=binary(*domain.shape),
        num_gray_levels=None,
        note=f"{dataset.note}; {note}" if dataset.note else note,
        binarization=method,
        binarization_note=note,
    )


def materialize(dataset: Dataset) -> Dataset:
    """Draw the training split of a stochastic binarization once, for measuring; other sets are
    returned as they are.
    """
    if dataset.binarization != "stochastic":
        return dataset
    return replace(dataset, train=Split(binarize(dataset.train.x, "stochastic"), dataset.train.y))


def _is_grey(dataset: Dataset) -> bool:
    """Tell whether all values of a set can be chances of a 1."""
    domain = dataset.domain
    if domain.kind != "real":
        return domain.kind == "box" and (domain.lo, domain.hi) == (0.0, 1.0)
    return not dataset.mean and all(
        bool(((split.x >= 0) & (split.x <= 1)).all()) for _, split in dataset.splits()
    )


def _describe(method: str, seed: int) -> str:
    drawn = "each pixel is 1 with its grey value as probability"
    return {
        "threshold": f"each pixel above {THRESHOLD} is 1, the others 0",
        "stochastic": f"{drawn}, training drawn anew each time, calibration and test drawn once "
        f"with seed {STOCHASTIC_SEED}",
        "fixed": f"{drawn}, everything drawn once with seed {seed}",
    }[method]


def _generator(seed: int, index: int) -> Generator:
    """Return the generator of the split at this index: another for each seed and each split."""
    return make_generator(seed, index)
