"""Lists of numbers that tasks take: noise levels, temperatures, weights."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from lowland.scalars import read_number


def read_levels(
    what: str, values: Sequence[float] | Tensor | np.ndarray, *, least_count: int = 0
) -> tuple[float, ...]:
    """Return finite numbers above 0 as plain ones, at least so many.

    >>> read_levels("sigmas", [np.float32(1), 0.5])
    (1.0, 0.5)
    """
    listed = _list(what, values)
    if len(listed) < least_count:
        raise ValueError(
            f"{len(listed)} {what} came; at least {least_count} are needed, all above 0; pass for "
            "example (1.0, 0.1)"
        )
    return tuple(read_number(f"one of {what}", value, above=0) for value in listed)


def read_weights(what: str, values: Sequence[float] | Tensor | np.ndarray) -> tuple[float, ...]:
    """Return finite numbers as plain ones."""
    return tuple(read_number(f"one of {what}", value) for value in _list(what, values))


def _list(what: str, values: Sequence[float] | Tensor | np.ndarray) -> list[object]:
    if isinstance(values, (Tensor, np.ndarray)) and values.ndim == 1:
        return list(values.tolist())
    if isinstance(values, Sequence) and not isinstance(values, (str, bytes)):
        return list(values)
    raise ValueError(
        f"{what} came as {type(values).__name__}; a list of numbers is needed; pass for example "
        "(1.0, 0.1)"
    )
