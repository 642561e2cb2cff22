"""Ranges of settings, and one sentence for those that lie outside."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class Range(NamedTuple):
    """Values that a setting may have: in words, and as a test."""

    words: str
    holds: Callable[[Any], bool]


def at_least(bound: float) -> Range:
    """Return the finite numbers from a bound on."""
    return Range(f"finite and at least {bound}", lambda value: bound <= value < math.inf)


def one_of(*names: str) -> Range:
    """Return a choice among names."""
    return Range(f"one of {', '.join(map(repr, names))}", lambda value: value in names)


def each(inner: Range) -> Range:
    """Return sequences of at least one value, all of them in a range."""
    words = f"at least one number, each {inner.words}"
    return Range(words, lambda values: bool(values) and all(map(inner.holds, values)))


COUNT = at_least(1)
WEIGHT = at_least(0)
POSITIVE = Range("finite and above 0", lambda value: 0 < value < math.inf)
SHARE = Range("a share in [0, 1]", lambda value: 0 <= value <= 1)


def check_settings(settings: object, **ranges: Range) -> None:
    """Raise ValueError that names every attribute of `settings` outside its range.

    >>> from types import SimpleNamespace
    >>> check_settings(SimpleNamespace(steps=3, weight=0.1), steps=COUNT, weight=WEIGHT)
    """
    values = vars(settings)
    wrong = [name for name, allowed in ranges.items() if not allowed.holds(values[name])]
    if wrong:
        came = [f"{name} is {values[name]!r}" for name in wrong]
        allowed = [f"{name} is {ranges[name].words}" for name in wrong]
        raise ValueError(
            f"{', '.join(came)}; in {type(settings).__name__} {', '.join(allowed)}; correct "
            f"{'it' if len(wrong) == 1 else 'them'}"
        )


def freeze_sequences(settings: object, *names: str) -> None:
    """Replace sequences in a frozen dataclass by tuples, as it is being made."""
    for name in names:
        values: Sequence[Any] = vars(settings)[name]
        object.__setattr__(settings, name, tuple(values))
