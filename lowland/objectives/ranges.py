"""Ranges of settings, and one sentence for those that lie outside."""

import math
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral
from typing import Any, NamedTuple

from lowland.scalars import Array, read_integer, read_number


def _read_anything(value: Any) -> Any:
    return value


def read_real(value: object) -> int | float:
    """Return a number of Python's, NumPy's or torch's as a plain one; booleans are none."""
    real = read_number("a setting", value, finite=False)
    inner = value.item() if isinstance(value, Array) else value
    return int(inner) if isinstance(inner, Integral) else real


def _read_whole(value: object) -> int:
    return read_integer("a setting", value)


class Range(NamedTuple):
    """Values that a setting may have: in words, as a test, and as a plain value.

    read: turns what came into a plain value, or raises ValueError; any value as it is unless given.
    """

    words: str
    holds: Callable[[Any], bool]
    read: Callable[[Any], Any] = _read_anything


def at_least(bound: float) -> Range:
    """Return the finite numbers from a bound on."""
    return Range(f"finite and at least {bound}", lambda value: bound <= value < math.inf, read_real)


def whole(bound: int) -> Range:
    """Return the whole numbers from a bound on.

    >>> whole(1).read(3), whole(1).holds(0)
    (3, False)
    """
    return Range(
        f"a whole number, at least {bound}", lambda value: bound <= value < MAX_COUNT, _read_whole
    )


def one_of(*names: str) -> Range:
    """Return a choice among names."""
    return Range(
        f"one of {', '.join(map(repr, names))}",
        lambda value: isinstance(value, str) and value in names,
    )


def each(inner: Range) -> Range:
    """Return sequences of at least one value, all of them in a range."""
    words = f"at least one number, each {inner.words}"

    def read_all(values: Any) -> Any:
        return tuple(inner.read(value) for value in values)

    return Range(words, lambda values: bool(values) and all(map(inner.holds, values)), read_all)


MAX_COUNT = 2**62  # beyond it, torch's own numbers overflow
COUNT = whole(1)
WHOLE = whole(0)
NUMBER = Range("a finite number", math.isfinite, read_real)
WEIGHT = at_least(0)
POSITIVE = Range("finite and above 0", lambda value: 0 < value < math.inf, read_real)
SHARE = Range("a share in [0, 1]", lambda value: 0 <= value <= 1, read_real)
FLAG = Range("true or false", lambda value: isinstance(value, bool))


def check_settings(settings: object, **ranges: Range) -> None:
    """Raise ValueError that names every attribute of `settings` outside its range; make plain
    numbers of those of NumPy and torch.

    >>> from types import SimpleNamespace
    >>> check_settings(SimpleNamespace(steps=3, weight=0.1), steps=COUNT, weight=WEIGHT)
    """
    values = vars(settings)
    wrong = []
    for name, allowed in ranges.items():
        try:
            plain = allowed.read(values[name])
            if not allowed.holds(plain):
                wrong.append(name)
        except (TypeError, ValueError):
            wrong.append(name)
            continue
        if plain is not values[name]:
            object.__setattr__(settings, name, plain)
    if wrong:
        came = [f"{name} is {values[name]!r}" for name in wrong]
        needed = [f"{name} is {ranges[name].words}" for name in wrong]
        raise ValueError(
            f"{', '.join(came)}; in {type(settings).__name__} {', '.join(needed)}; correct "
            f"{'it' if len(wrong) == 1 else 'them'}"
        )


def freeze_sequences(settings: object, *names: str) -> None:
    """Replace sequences in a frozen dataclass by tuples, as it is being made."""
    for name in names:
        values: Sequence[Any] = vars(settings)[name]
        if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
            raise ValueError(
                f"{name} is {values!r}; in {type(settings).__name__} {name} is a list; pass "
                f"({values!r},)"
            )
        object.__setattr__(settings, name, tuple(values))
