"""A number with its standard error."""

import math
from typing import NamedTuple

from lowland.metrics.inputs import Numbers, read_numbers
from lowland.plain import to_plain
from lowland.scalars import read_integer


class Estimate(NamedTuple):
    """value ± error, the error being one standard error. Prints as `0.913 ± 0.004`."""

    value: float
    error: float

    def __str__(self) -> str:
        digits = 3
        if 0 < self.error < math.inf:
            digits = min(max(1 - math.floor(math.log10(self.error)), 0), 6)
        return f"{self.value:.{digits}f} ± {self.error:.{digits}f}"

    def to_dict(self) -> dict[str, object]:
        """Return {"value", "error"} for JSON, an error that is not known as the text "inf"."""
        return {"value": to_plain(self.value), "error": to_plain(self.error)}


def mean(values: Numbers) -> Estimate:
    """Return the mean of independent numbers (N,) with its standard error, in float64.

    The error of a single number is infinite, and so are both where a number is. Raises ValueError
    for no numbers, NaN, and infinities of both signs.

    >>> import torch
    >>> print(mean(torch.tensor([1.0, 2.0, 3.0])))
    2.00 ± 0.58
    """
    v = read_numbers("numbers", values, finite=False).flatten()
    if len(v) == 0:
        raise ValueError(
            "no numbers were given; a mean needs at least one; pass a non-empty tensor"
        )
    if bool(v.isinf().any()):
        if bool((v == math.inf).any() and (v == -math.inf).any()):
            raise ValueError(
                "numbers reach from -inf to inf; infinities of one sign have a mean; leave out one"
            )
        return Estimate(v[v.isinf()][0].item(), math.inf)
    error = v.std().item() / math.sqrt(len(v)) if len(v) > 1 else math.inf
    return Estimate(v.mean().item(), error)


def share(count: int, total: int) -> Estimate:
    """Return the proportion count / total with its binomial standard error."""
    count, total = read_integer("count", count), read_integer("total", total)
    if not 0 <= count <= total or total == 0:
        raise ValueError(
            f"{count} of {total} were counted; 0 <= count <= total > 0 is needed; check the counts"
        )
    p = count / total
    return Estimate(p, math.sqrt(p * (1 - p) / total))
