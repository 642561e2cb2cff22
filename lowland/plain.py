"""Write results as JSON that every reader can parse.

JSON has no infinity and no NaN. They are written as the texts "inf", "-inf" and "nan", which
`float` reads back: an unknown error is then visible, and the file still parses.
"""

import json
import math
from collections.abc import Mapping
from numbers import Integral, Real

from lowland.scalars import Array


def to_plain(values: object) -> object:
    """Return values in which every number is a plain one and what is not finite is a text.

    Mappings, lists, tuples, numbers of NumPy and tensors of one number are converted, all else
    comes back as it is.

    >>> to_plain({"value": 0.5, "error": float("inf")})
    {'value': 0.5, 'error': 'inf'}
    """
    if isinstance(values, Mapping):
        return {key: to_plain(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [to_plain(value) for value in values]
    if isinstance(values, (bool, str)) or values is None:
        return values
    if isinstance(values, Array):
        return to_plain(_take_out(values))
    if isinstance(values, Integral):
        return int(values)
    if isinstance(values, Real):
        number = float(values)
        return number if math.isfinite(number) else str(number)
    return values


def dump_json(values: object, *, indent: int | None = None) -> str:
    """Return values as JSON text that a strict parser reads; see `to_plain`.

    Raises TypeError for values that JSON cannot hold.

    >>> dump_json([1.0, float("nan")])
    '[1.0, "nan"]'
    """
    return json.dumps(to_plain(values), indent=indent, allow_nan=False)


def _take_out(array: Array) -> object:
    """Return the element of an array or tensor of one element, or a text for several."""
    try:
        return array.item()
    except (ValueError, RuntimeError):
        return repr(array)
