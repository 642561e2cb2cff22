"""The options that every loader takes, and the description of a data set before it is split."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lowland.data.dataset import Dataset, Split, random_split, scale_to_unit
from lowland.domain import Domain

# (LoadOptions, *, options) -> Dataset; the keyword-only parameters are the loader's own options
Loader = Callable[..., Dataset]


@dataclass(frozen=True)
class LoadOptions:
    """Options of every loader: data root, seed of the split, permission to download, and the
    largest number of training examples.
    """

    root: str | Path | None = None
    seed: int = 0
    download: bool = True
    limit: int | None = None


@dataclass(frozen=True)
class DatasetSpec:
    """The fields of a `Dataset` that are known before its examples are split."""

    name: str
    domain: Domain
    class_names: tuple[str, ...] = ()
    num_gray_levels: int | None = None
    note: str = ""
    columns: tuple[str, ...] = ()

    def build(self, options: LoadOptions, splits: Sequence[Split]) -> Dataset:
        """Return the data set of these training, calibration and test examples, the first cut to
        the limit.
        """
        train, calibration, test = splits
        if options.limit is not None:
            train = train.take(slice(options.limit))
        return Dataset(
            self.name,
            self.domain,
            scale_to_unit(train, self.num_gray_levels),
            scale_to_unit(calibration, self.num_gray_levels),
            scale_to_unit(test, self.num_gray_levels),
            classes=len(self.class_names),
            class_names=self.class_names,
            num_gray_levels=self.num_gray_levels,
            note=self.note,
            columns=self.columns,
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
