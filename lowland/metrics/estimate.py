"""A number with its standard error."""

import math
from typing import NamedTuple

from torch import Tensor


class Estimate(NamedTuple):
    """value ± error, the error being one standard error. Prints as `0.913 ± 0.004`."""

    value: float
    error: float

    def __str__(self) -> str:
        digits = 3
        if 0 < self.error < math.inf:
            digits = min(max(1 - math.floor(math.log10(self.error)), 0), 6)
        return f"{self.value:.{digits}f} ± {self.error:.{digits}f}"

    def to_dict(self) -> dict[str, float]:
        """Return {"value", "error"} for JSON."""
        return self._asdict()


def mean(values: Tensor) -> Estimate:
    """Return the mean of independent numbers (N,) with its standard error, in float64.

    >>> import torch
    >>> print(mean(torch.tensor([1.0, 2.0, 3.0])))
    2.00 ± 0.58
    """
    v = values.double().flatten()
    if len(v) == 0:
        raise ValueError(
            "no numbers were given; a mean needs at least one; pass a non-empty tensor"
        )
    error = v.std().item() / math.sqrt(len(v)) if len(v) > 1 else math.inf
    return Estimate(v.mean().item(), error)


def share(count: int, total: int) -> Estimate:
    """Return the proportion count / total with its binomial standard error."""
    if not 0 <= count <= total or total == 0:
        raise ValueError(
            f"{count} of {total} were counted; 0 <= count <= total > 0 is needed; check the counts"
        )
    p = count / total
    return Estimate(p, math.sqrt(p * (1 - p) / total))
