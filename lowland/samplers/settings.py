"""Settings of samplers, read once: plain numbers of Python, within what floating point can step.

A step size may also be a tensor (B,), one per chain; those come from the library itself.
"""

import math
from collections.abc import Iterable

from torch import Tensor

from lowland.scalars import read_integer, read_number

MOST = 10**10  # steps of a run: a year of them at some milliseconds each
SMALLEST, LARGEST = 1e-30, 1e30  # of steps and temperatures: float32 holds their squares and roots


def set_plain(settings: object, **values: object) -> None:
    """Set fields of a frozen dataclass to the values that were read of them."""
    for name, value in values.items():
        object.__setattr__(settings, name, value)


def read_positive(what: str, value: object, *, zero: bool = False) -> float:
    """Return a step size, a temperature or the like as a plain float: from 1e-30 to 1e30, or 0 if
    allowed. Tensors of one number per chain are returned as they are. Raises ValueError otherwise.
    """
    if isinstance(value, Tensor) and value.dim():
        return value  # type: ignore[return-value]
    if type(value) is float and SMALLEST <= value <= LARGEST:
        return value
    if zero:
        number = read_number(what, value, least=0, most=LARGEST)
    else:
        number = read_number(what, value, above=0, most=LARGEST)
    if 0 < number < SMALLEST:
        raise ValueError(
            f"{what} is {number:g}; it must be at least {SMALLEST:g}, below which no number moves; "
            "choose a larger one, or rescale x"
        )
    return number


def read_metric(inv_mass_sqrt: object) -> tuple[float, ...] | None:
    """Return a diagonal metric as a tuple of plain floats above 0; None stays None.

    Raises ValueError for an empty one and for numbers that are not finite or not above 0.
    """
    if inv_mass_sqrt is None:
        return None
    if isinstance(inv_mass_sqrt, tuple) and _all_plain(inv_mass_sqrt):
        return inv_mass_sqrt
    numbers = read_list("inv_mass_sqrt", inv_mass_sqrt)
    if not numbers or not all(s > 0 for s in numbers):
        raise ValueError(
            f"inv_mass_sqrt is {inv_mass_sqrt}; it needs finite numbers above 0, one per "
            "coordinate; leave it out for none"
        )
    return numbers


def _all_plain(numbers: tuple[object, ...]) -> bool:
    return bool(numbers) and all(type(s) is float and 0 < s < math.inf for s in numbers)


def read_list(what: str, values: object) -> tuple[float, ...]:
    """Return numbers of a list, a tuple, an array or a tensor as a tuple of plain floats."""
    if not isinstance(values, Iterable) or isinstance(values, (str, bytes)):
        raise ValueError(
            f"{what} is {values!r}; it must be a list of numbers; pass for example (1.0, 2.0)"
        )
    try:
        found = list(values)
    except TypeError:  # an array or a tensor without a dimension
        found = [values]
    try:
        return tuple(read_number(what, value) for value in found)
    except ValueError:
        raise ValueError(
            f"{what} are {str(found)[:100]}; all must be finite numbers; pass for example (0.5, 1)"
        ) from None


def read_steps(what: str, values: object, *, least: int = 1) -> tuple[int, ...]:
    """Return the steps of a list, each a whole number from 1 (or `least`) on, as plain ints."""
    if isinstance(values, Tensor):
        values = values.tolist()
    if not isinstance(values, Iterable) or isinstance(values, (str, bytes)):
        raise ValueError(
            f"{what} is {values!r}; it must be a list of steps 1, 2, ...; pass for example (1, 10)"
        )
    return tuple(read_count(f"a step of {what}", value, least=least) for value in values)


def read_path(what: str, values: object) -> tuple[float, ...]:
    """Return step sizes or temperatures, each as `read_positive` reads it."""
    return tuple(read_positive(f"one of {what}", value) for value in read_list(what, values))


def read_count(what: str, value: object, *, least: int = 1) -> int:
    """Return a whole number of steps or the like, from 1 (or `least`) to 10^10."""
    return read_integer(what, value, least=least, most=MOST)
