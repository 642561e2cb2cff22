"""Grey images made binary, in one of three ways, each named wherever a number about the data is
printed.

    threshold     x = 1 where the grey value is above 0.5
    stochastic    x = 1 with the grey value as its probability; training examples are drawn anew
                  each time they are taken, calibration and test parts once, with a seed of their
                  own that nothing changes
    fixed         the same law, everything drawn once, with the seed of the data

The three laws differ by tens of nats on MNIST, so likelihoods on differently binarised data cannot
be compared. Source: Salakhutdinov & Murray (2008), section 5,
https://doi.org/10.1145/1390156.1390266
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Generator, Tensor

from lowland.data.dataset import DataError, Dataset, Split
from lowland.domain import binary

WAYS = ("threshold", "stochastic", "fixed")
THRESHOLD = 0.5
OWN_SEED = 8128  # of what a stochastic set draws only once


def toss(grey: Tensor, generator: Generator) -> Tensor:
    """Zeros and ones, 1 with probability `grey`, of its shape and dtype: u < grey with u uniform on
    [0, 1).

    >>> toss(torch.tensor([0.0, 1.0, 1.0]), torch.Generator().manual_seed(0))
    tensor([0., 1., 1.])
    """
    return torch.empty_like(grey).uniform_(generator=generator).lt_(grey)


def made_binary(grey: Tensor, how: str, generator: Generator | None = None) -> Tensor:
    """Grey values in [0, 1] as zeros and ones in one of the three ways; draws are those of the
    generator, or of a fixed seed.

    >>> made_binary(torch.tensor([0.2, 0.5, 0.8]), "threshold")
    tensor([0., 0., 1.])
    """
    return (
        (grey > THRESHOLD).to(grey.dtype)
        if how == "threshold"
        else toss(grey, generator or _own(OWN_SEED, 0))
    )


def binarised(dataset: Dataset, how: str, seed: int = 0) -> Dataset:
    """A set of grey images in [0, 1] as binary ones, on the domain binary(*shape); see the module
    for the three ways.

    seed: of a fixed draw. Each part has a generator of its own, so a limit on the training part
    moves no other pixel.

    Raises DataError for a way that is not known and for data that are not grey images with values
    in [0, 1].

    >>> from lowland.data import load_data
    >>> digits = binarised(load_data("digits"), "threshold")
    >>> digits.domain.kind, digits.binarisation, digits.binarised
    ('binary', 'threshold', 'digits, each pixel above 0.5 is 1, the others 0')
    """
    if how not in WAYS:
        raise DataError(
            f"binarise is {how!r}; it is {', '.join(WAYS[:-1])} or {WAYS[-1]}; choose one, or "
            "leave it out"
        )
    domain = dataset.domain
    if domain.kind != "box" or (domain.lo, domain.hi) != (0.0, 1.0) or len(domain.shape) != 3:
        raise DataError(
            f"binarise was asked for {dataset.name}, whose examples are {domain.kind} of shape "
            f"{domain.shape}; it is for images (channels, height, width) with values in [0, 1]; "
            "leave it out"
        )
    words = f"{dataset.name}, {_in_words(how, seed)}"
    train, calibration, test = (
        replace(split, x=_part(split.x, how, seed, place))
        for place, (_, split) in enumerate(dataset.parts())
    )
    return replace(
        dataset,
        domain=binary(*domain.shape),
        train=train,
        calibration=calibration,
        test=test,
        levels=None,
        note=f"{dataset.note}; {words}" if dataset.note else words,
        binarisation=how,
        binarised=words,
    )


def settled(dataset: Dataset) -> Dataset:
    """The set with a training part that is binary too: drawn once, for measuring, if the
    binarisation is stochastic.
    """
    if dataset.binarisation != "stochastic":
        return dataset
    return replace(
        dataset, train=Split(made_binary(dataset.train.x, "stochastic"), dataset.train.y)
    )


def _part(grey: Tensor, how: str, seed: int, place: int) -> Tensor:
    """The points of the part at this place, 0 for training, made binary."""
    if how == "stochastic" and not place:
        return grey  # drawn when it is taken
    return made_binary(grey, how, _own(OWN_SEED if how == "stochastic" else seed, place))


def _in_words(how: str, seed: int) -> str:
    drawn = "each pixel is 1 with its grey value as probability"
    return {
        "threshold": f"each pixel above {THRESHOLD} is 1, the others 0",
        "stochastic": f"{drawn}, training drawn anew each time, calibration and test drawn once with seed "
        f"{OWN_SEED}",
        "fixed": f"{drawn}, everything drawn once with seed {seed}",
    }[how]


def _own(seed: int, place: int) -> Generator:
    """The generator of one part: another for each seed and each part."""
    mixed = np.random.SeedSequence(seed % 2**64, spawn_key=(place,)).generate_state(1)[0]
    return Generator().manual_seed(int(mixed))
