"""Likelihoods that say how far they can be believed.

    log p(x) = −E(x) − log Z

log Z is known within a bracket (`log_z`), so the mean log-likelihood of data is too. And it is a
number about data of a certain kind: which grey values were made binary, or spread over their width,
and how, belongs to the number and is printed with it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowland.energy import Energy, check_points, energy_values, lift
from lowland.metrics.estimate import mean
from lowland.metrics.log_z.certificate import LogZ


@dataclass(frozen=True, repr=False)
class Likelihood:
    """Mean log-likelihood of data, in nats. Prints its verdict.

    value ± error: with the standard error over the examples, log Z taken at its point estimate;
    [lower, upper]: the mean over these examples at the ends of the bracket of log Z; count, dims:
    examples, and numbers in each; data: the name of the binarization or dequantisation; log_z: what
    is known of log Z.
    """

    value: float
    error: float
    lower: float
    upper: float
    count: int
    dims: int
    data: str
    log_z: LogZ

    @property
    def certified(self) -> bool:
        """Whether nothing speaks against the bracket of log Z."""
        return self.log_z.certified

    def __repr__(self) -> str:
        return (
            f"Likelihood({self.value:.3f} ± {self.error:.3f} nats, in [{self.lower:.3f}, "
            f"{self.upper:.3f}], {self.log_z.verdict}; {self.count} examples, {self.data})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain = {
            key: getattr(self, key)
            for key in ("value", "error", "lower", "upper", "count", "dims", "data", "certified")
        }
        return plain | {"log_z": self.log_z.to_dict()}


@dataclass(frozen=True, repr=False)
class BitsPerDim:
    """Bits per dimension of quantised images under a density of dequantised ones. Lower is better;
    prints its verdict.

    value ± error; [lower, upper]: at the ends of the bracket; levels: grey values; width: of the
    interval that they share; data: the name of the dequantisation; verdict: of log Z. An upper
    bound of the bits that the quantised images take.
    """

    value: float
    error: float
    lower: float
    upper: float
    levels: int
    width: float
    data: str
    verdict: str

    @property
    def certified(self) -> bool:
        """Whether nothing speaks against the bracket of log Z."""
        return self.verdict == "certified"

    def __repr__(self) -> str:
        return (
            f"BitsPerDim({self.value:.4f} ± {self.error:.4f}, in [{self.lower:.4f}, "
            f"{self.upper:.4f}], {self.verdict}; {self.levels} levels on a width of "
            f"{self.width:g}, {self.data})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {key: getattr(self, key) for key in self.__dataclass_fields__} | {
            "certified": self.certified
        }


def log_likelihood(
    energy: Energy | Callable[..., Tensor],
    data: Tensor,
    log_z: LogZ | float,
    *,
    binarization: str = "",
    dequantisation: str = "",
    batch_size: int = 1024,
) -> Likelihood:
    """Mean log-likelihood of data (N, *event) in nats:  −mean E(x) − log Z.

    log_z: what `log_z` found, or a number that is known to be exact. binarization, dequantisation:
    how the data were made, in words; binary data must name the one, continuous data may name the
    other.

    Raises ValueError for points outside the domain, for binary data without the name of the
    binarization, and for energies that are not numbers.

    >>> import torch
    >>> from lowland.targets import Gaussian
    >>> x = Gaussian().draw(20_000, torch.Generator().manual_seed(0))
    >>> found = log_likelihood(Gaussian(), x, Gaussian().log_z)
    >>> abs(found.value + 1 + math.log(2 * math.pi)) < 5 * found.error
    True
    """
    energy = lift(energy)
    check_points(energy, data)
    if energy.domain.kind == "binary" and not binarization:
        raise ValueError(
            "binary data came without the name of their binarization; numbers on differently "
            "binarized data cannot be compared; pass for example binarization='threshold 0.5'"
        )
    values = energy_values(energy, data, batch_size=batch_size).double()
    if bool(values.isnan().any()):
        raise ValueError(
            f"{int(values.isnan().sum())} of {len(values)} energies are not numbers; a likelihood "
            "needs all of them; look for overflow or missing data"
        )
    known = (
        LogZ(log_z, 0.0, log_z, log_z, "given", "given as exact")
        if isinstance(log_z, (int, float))
        else log_z
    )
    found = mean(values)
    low, high = -found.value - known.upper, -found.value - known.lower
    words = binarization or dequantisation or "data as they are"
    return Likelihood(
        -found.value - known.value, found.error, low, high, len(data), data[0].numel(), words, known
    )


def bits_per_dim(likelihood: Likelihood, *, levels: int = 256, width: float = 1.0) -> BitsPerDim:
    """Bits per dimension of images of so many grey levels, which share an interval of so much width
    when dequantised:

        b = −log p(x) / (d log 2) + log₂(levels / width)

    since a level has the probability of its cell, of side width / levels, and the mean of log p
    over a cell is at most the log of the mean. `dequantised` spreads levels over a width of 1. The
    uniform density on [0, 1] takes log₂ levels bits. Source: Theis, van den Oord & Bethge (2016),
    section 3.1, https://arxiv.org/abs/1511.01844

    >>> import torch
    >>> from lowland import box
    >>> from lowland.targets import Uniform
    >>> grey = torch.randint(256, (100, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    >>> x = dequantised(grey, 256, torch.Generator().manual_seed(1))
    >>> bits_per_dim(log_likelihood(Uniform(box(0.0, 1.0, 1, 8, 8)), x, 0.0, dequantisation="uniform")).value
    8.0
    """
    if levels < 2 or not width > 0:
        raise ValueError(
            f"levels is {levels} and width {width}; at least 2 levels on a width above 0 are "
            "needed; correct them"
        )
    nats, offset = likelihood.dims * math.log(2), math.log2(levels / width)
    value, low, high = (
        offset - v / nats for v in (likelihood.value, likelihood.upper, likelihood.lower)
    )
    verdict = likelihood.log_z.verdict
    return BitsPerDim(
        value, likelihood.error / nats, low, high, levels, width, likelihood.data, verdict
    )


def dequantised(grey: Tensor, levels: int, generator: torch.Generator) -> Tensor:
    """Grey values 0 … levels − 1 as points of [0, 1):  (grey + u) / levels with u uniform, float32.

    >>> import torch
    >>> dequantised(torch.tensor([[0, 255]]), 256, torch.Generator().manual_seed(0)).mul(256).floor()
    tensor([[  0., 255.]])
    """
    if bool(((grey < 0) | (grey > levels - 1) | (grey != grey.round())).any()):
        raise ValueError(
            f"values from {grey.min().item():g} to {grey.max().item():g} came; grey values are "
            f"whole numbers from 0 to {levels - 1}; multiply images in [0, 1] by {levels - 1} and "
            "round them"
        )
    u = torch.rand(grey.shape, generator=generator, device=grey.device, dtype=torch.float64)
    top = (
        torch.finfo(torch.float32).eps / 2
    )  # the largest float32 below one, so that the last level stays inside
    return ((grey.double() + u) / levels).to(torch.float32).clamp(max=1 - top)
