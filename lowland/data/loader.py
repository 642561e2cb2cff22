"""The common options of loaders, and the way from examples in splits to a data set."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lowland.data.dataset import Dataset, Split, random_split, scale_to_unit
from lowland.domain import Domain

# (LoadOptions, *, options) -> Dataset; the keyword-only parameters are the loader's own options
Loader = Callable[..., Dataset]


@dataclass(frozen=True)
class LoadOptions:
    """Options of every loader: data root, seed of the split, permission to download, the largest
    number of training examples; whether the energy lives on discrete sites, if that is known, and
    whether values in [0, 1] are grey, to be made binary.
    """

    root: str | Path | None = None
    seed: int = 0
    download: bool = True
    limit: int | None = None
    discrete: bool | None = None
    graded: bool = False


def build_dataset(
    options: LoadOptions,
    name: str,
    domain: Domain,
    splits: Sequence[Split],
    class_names: tuple[str, ...] = (),
    num_gray_levels: int | None = None,
    note: str = "",
    columns: tuple[str, ...] = (),
) -> Dataset:
    """Return the data set of training, calibration and test examples as they are stored: the first
    split cut to the limit, grey values scaled to [0, 1].
    """
    train, calibration, test = splits
    return Dataset(
        name,
        domain,
        scale_to_unit(train.take(slice(options.limit)), num_gray_levels),
        scale_to_unit(calibration, num_gray_levels),
        scale_to_unit(test, num_gray_levels),
        len(class_names),
        class_names,
        num_gray_levels,
        note,
        columns=columns,
    )


def keep_test(whole: Split, test: Split, divisor: int, seed: int) -> list[Split]:
    """Split off 1 / divisor of the training examples for calibration and keep the published test
    split; returns the three.
    """
    held_out = max(1, len(whole) // divisor)
    return [*random_split(whole, (len(whole) - held_out, held_out), seed), test]


def describe_source(published: bool, division: str) -> str:
    """Say whether the files are the published ones, and how they were divided."""
    files = "the published files (SHA-256 agrees)"
    if not published:
        files = "NOT the published files (SHA-256 differs)"
    return f"{files}; {division} by a seeded permutation; own test part"
