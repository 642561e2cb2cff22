"""Describe the points that a run reads: their domain, the names of their columns, and how
they were prepared. Rows of a table are matched by name.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowland.data.dataset import DataError
from lowland.data.kinds import Content, inspect_content
from lowland.data.precision import check_whole
from lowland.domain import Domain


@dataclass(frozen=True)
class Format:
    """Format of the points of a run.

    shape: of an event; domain: where values lie, None if it does not matter; columns: names of the
    columns of its table, () if it was none; label: the column that held its classes; grey: whether
    values are grey and made binary before the energy sees them; centred: whether columns are
    standardized.
    """

    shape: tuple[int, ...]
    domain: Domain | None = None
    columns: tuple[str, ...] = ()
    label: str = ""
    grey: bool = False
    centred: bool = False

    @classmethod
    def of(cls, domain: Domain, about: dict[str, Any]) -> "Format":
        """Return the format of a run from the description of its data (data.json)."""
        return cls(
            domain.shape,
            domain,
            tuple(about.get("columns") or ()),
            about.get("label") or "",
            bool(about.get("binarization")),
            bool(about.get("mean")),
        )

    @property
    def positional(self) -> bool:
        """Tell whether columns have no names but their positions in a table without a header."""
        places = [int(name) for name in self.columns if name.isdecimal() and len(name) < 10]
        return len(places) == len(self.columns) and places == sorted(
            set(places) & set(range(len(places) + 1))
        )

    def check_content(self, content: Content, where: str) -> None:
        """Raise DataError for values that do not lie in the domain."""
        domain = self.domain
        if domain is None or (domain.kind == "real" and not self.grey):
            return
        least, most, whole = domain.lo, domain.hi, domain.kind in ("binary", "categorical")
        if self.grey:
            least, most, whole = 0.0, 1.0, False
        if least <= content.least and content.most <= most and (content.whole or not whole):
            return
        kind = "grey values" if self.grey else domain.kind
        raise DataError(
            f"{where} holds values {content.least:g} to {content.most:g}"
            f"{'' if content.whole else ', not all of them whole'}, outside the domain; the run "
            f"was trained on {kind} from {least:g} to {most:g}; bring them to that scale"
        )


@dataclass
class Match:
    """Columns of a table that were found for a format: their positions, in the order of the format,
    and what is to be said about them.
    """

    kept: tuple[int, ...]
    notes: list[str] = field(default_factory=list)


def match_columns(format: Format, names: Sequence[str], named: bool, where: str) -> Match:
    """Match the columns of a table with those of a run: by name where both have names, else by
    position.

    named: whether the names stood in a header. Raises DataError for columns that are missing,
    unknown, or of another number.
    """
    width = math.prod(format.shape)
    everything = tuple(range(len(names)))
    if named and format.columns and (not format.positional or set(format.columns) <= set(names)):
        return _match_names(format, list(names), where)
    if len(names) == width:
        note = ""
        if format.columns and not format.positional:
            note = (
                f"{where} has no header; its columns are taken for {', '.join(format.columns)}, in "
                "this order"
            )
        elif named and format.columns:
            note = (
                f"the run was trained on a table without a header; the columns of {where} are "
                f"taken in their order, {', '.join(names)}"
            )
        return Match(everything, [note] if note else [])
    if format.positional and format.label.isdecimal() and len(names) == width + 1 and not named:
        label = int(format.label)
        return Match(tuple(i for i in everything if i != label))
    held = f" and the label {format.label!r}" if format.label else ""
    known = f": {', '.join(format.columns)}" if format.columns else ""
    raise DataError(
        f"{where} has {len(names)} columns; the run was trained on {width}{known}{held}; give the "
        "same columns"
    )


def _match_names(format: Format, names: list[str], where: str) -> Match:
    missing = [name for name in format.columns if name not in names]
    extra = [name for name in names if name not in format.columns and name != format.label]
    if missing or extra:
        found = [f"lacks {', '.join(map(repr, missing))}"] if missing else []
        found += [f"has {', '.join(map(repr, extra))} besides"] if extra else []
        lost = missing[0] if missing else ""
        near = [name for name in extra if missing and name.casefold() == lost.casefold()]
        near = near or get_close_matches(lost, extra, n=1)
        hint = f"rename {near[0]!r} if it is {lost!r}" if near else "rename, add or remove them"
        raise DataError(
            f"{where} {' and '.join(found)}; the run was trained on the columns "
            f"{', '.join(format.columns)}; {hint}"
        )
    kept = tuple(names.index(name) for name in format.columns)
    if list(kept) == sorted(kept):
        return Match(kept)
    return Match(
        kept, [f"the columns of {where} are taken by name, as {', '.join(format.columns)}"]
    )


@runtime_checkable
class Frame(Protocol):
    """A DataFrame, of pandas or polars: named columns, and their numbers as an array."""

    @property
    def columns(self) -> Sequence[object]: ...

    def to_numpy(self) -> NDArray[Any]: ...

    def __getitem__(self, name: Any, /) -> Any: ...


def read_frame(frame: Frame, format: Format) -> Tensor:
    """Read a DataFrame as points (N, D) in float64, its columns matched with those of a run.

    Raises DataError for columns that do not match, share a name or hold no real numbers, for a
    frame without rows, and for values that are not finite, too large to be told apart, or outside
    the run's domain.
    """
    labels = list(frame.columns)
    names = [str(name) for name in labels]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(
            f"the DataFrame has several columns of the name {', '.join(map(repr, twice))}; columns "
            "are taken by name, which must be unique; rename or remove all but one"
        )
    named = names != [str(i) for i in range(len(names))]
    match = match_columns(format, names, named, "the DataFrame")
    for note in match.notes:
        warnings.warn(note, stacklevel=3)
    columns = [_read_column(np.asarray(frame[labels[i]]), names[i]) for i in match.kept]
    if not len(columns[0]):
        raise DataError(
            "the DataFrame has no rows; points need one at least; check how its rows were chosen"
        )
    x = np.stack(columns, axis=1)
    format.check_content(inspect_content([x], "the DataFrame"), "the DataFrame")
    return torch.from_numpy(x).reshape(len(x), *format.shape)


def _read_column(values: NDArray[Any], name: str) -> NDArray[np.float64]:
    """Read a column (N,) of a DataFrame in float64, before its dtype is merged with others'.

    Raises DataError for what is no real number, and for whole numbers float64 cannot tell apart.
    """
    kind = "text" if values.dtype.kind in "SUT" else f"values of type {values.dtype}"
    unlike = values.dtype.kind not in "biufO"
    if values.dtype.kind == "O" and any(isinstance(value, str | bytes) for value in values):
        kind, unlike = "text", True
    if unlike:
        raise DataError(
            f"column {name!r} of the DataFrame holds {kind}, something else than numbers; the run "
            "was trained on real columns; convert it"
        )
    try:
        numbers = np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"column {name!r} of the DataFrame holds something else than numbers ({error}); the "
            "run was trained on real columns; convert it"
        ) from error
    whole = values
    if values.dtype.kind == "O":
        whole = np.array([v for v in values if isinstance(v, int | np.integer)], dtype=object)
    if whole.dtype.kind in "iuO" and len(whole):
        check_whole(int(whole.min()), int(whole.max()), repr(name), "the DataFrame")
    return numbers
