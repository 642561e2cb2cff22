"""Read numbers that a caller passes: Python's, NumPy's and one-element tensors, never booleans.

Every public door reads counts and settings here, so that `np.int64(3)` means what 3 means and
`True`, `"3"` or 2.5 are refused in the same words everywhere.
"""

import math
from numbers import Integral, Real
from typing import Protocol, runtime_checkable


@runtime_checkable
class Array(Protocol):
    """An array, tensor or NumPy scalar: `item()` gives its only element."""

    def item(self) -> object: ...


MAX_STEPS = 10_000_000  # of one task: a day of the cheapest energy


def read_integer(
    what: str, value: object, *, least: int | None = None, most: int | None = None
) -> int:
    """Return a whole number as a plain int, within its bounds.

    Accepts int, every integer type of NumPy, and arrays or tensors of one integer element. Raises
    ValueError for booleans, text, fractions, and numbers out of bounds.

    >>> import numpy as np
    >>> read_integer("steps", np.int64(3), least=0)
    3
    """
    number = _take_out(value)
    if isinstance(number, Integral) and not isinstance(number, bool):
        whole = int(number)
        if (least is None or whole >= least) and (most is None or whole <= most):
            return whole
    raise ValueError(
        f"{what} is {_show(value)}; it must be a whole number{_say_bounds(least, most)}; pass "
        "such a number"
    )


def read_number(
    what: str,
    value: object,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    finite: bool = True,
) -> float:
    """Return a real number as a plain float, within its bounds (`above` is a strict one).

    Accepts int, float, every real type of NumPy, and arrays or tensors of one element. Raises
    ValueError for booleans, text, complex numbers, NaN, and numbers out of bounds; for infinity
    unless `finite` is False.

    >>> import numpy as np
    >>> read_number("step_size", np.float32(0.5), above=0)
    0.5
    """
    number = _take_out(value)
    if isinstance(number, Real) and not isinstance(number, bool):
        real = _to_float(number)
        allowed = not math.isnan(real) and (not finite or math.isfinite(real))
        reached = (least is None or real >= least) and (above is None or real > above)
        if allowed and reached and (most is None or real <= most):
            return real
    kind = "a finite number" if finite else "a number"
    bound = f" above {above:g}" if above is not None else _say_bounds(least, most)
    if above is not None and most is not None:
        bound += f" and at most {most:g}"
    raise ValueError(f"{what} is {_show(value)}; it must be {kind}{bound}; pass such a number")


def _take_out(value: object) -> object:
    """Return the element of an array or tensor of one element; other values as they are."""
    if not isinstance(value, Array):
        return value
    try:
        return value.item()
    except (ValueError, RuntimeError):
        return value


def _to_float(number: Real) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _say_bounds(least: float | None, most: float | None) -> str:
    if least is not None and most is not None:
        return f" from {least:g} to {most:g}"
    if least is not None:
        return f", at least {least:g}"
    return f", at most {most:g}" if most is not None else ""
