"""What a loader is told, and how the three parts it found become a data set."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lowland.data.dataset import Dataset, Split, to_floats
from lowland.domain import Domain

Loader = Callable[
    ..., Dataset
]  # (Request, *, options) -> Dataset; the keyword-only parameters are its options


@dataclass(frozen=True)
class Request:
    """What every loader is told: where files may be, the seed of the split, whether to download, a
    limit.
    """

    root: str | Path | None = None
    seed: int = 0
    download: bool = True
    limit: int | None = None


@dataclass(frozen=True)
class Kind:
    """What is known about a set before it is divided. `build` divides nothing: it takes the three
    parts.
    """

    name: str
    domain: Domain
    classes: int = 0
    class_names: tuple[str, ...] = ()
    levels: int | None = None
    note: str = ""
    columns: tuple[str, ...] = ()

    def build(self, request: Request, parts: Sequence[Split]) -> Dataset:
        """The data set with these training, calibration and test parts, the first cut to the
        limit.
        """
        train, calibration, test = parts
        if request.limit is not None:
            train = train.take(slice(request.limit))
        train, calibration, test = (
            to_floats(part, self.levels) for part in (train, calibration, test)
        )
        return Dataset(
            self.name,
            self.domain,
            train,
            calibration,
            test,
            self.classes,
            self.class_names,
            self.levels,
            self.note,
            columns=self.columns,
        )
