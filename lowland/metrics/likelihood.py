"""Log-likelihoods, log p(x) = −E(x) − log Z, known within the bracket of log Z.

How data were binarized or dequantised belongs to the number and is printed with it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from lowland.devices import has_float64, to_float64
from lowland.energy import Energy, check_points, energy_values, lift
from lowland.metrics.estimate import mean
from lowland.metrics.inputs import Numbers, read_numbers
from lowland.metrics.log_z.certificate import LogZ
from lowland.plain import to_plain
from lowland.scalars import read_integer, read_number


@dataclass(frozen=True, repr=False)
class LogLikelihood:
    """Mean log-likelihood of data, in nats. Prints its verdict.

    value ± error: at the point estimate of log Z, with the standard error over the examples;
    [lower, upper]: the mean at the ends of the bracket of log Z; count, dims: examples, and numbers
    in each; data: the name of the binarization or dequantisation.
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
        """Return True if nothing speaks against the bracket of log Z."""
        return self.log_z.certified

    def __repr__(self) -> str:
        return (
            f"LogLikelihood({self.value:.3f} ± {self.error:.3f} nats, in [{self.lower:.3f}, "
            f"{self.upper:.3f}], {self.log_z.verdict}; {self.count} examples, {self.data})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        values = vars(self) | {"certified": self.certified, "log_z": self.log_z.to_dict()}
        return {key: to_plain(value) for key, value in values.items()}


@dataclass(frozen=True, repr=False)
class BitsPerDim:
    """Bits per dimension of quantised images under a density of dequantised ones.

    An upper bound of the bits that the images take; lower is better. value ± error; [lower, upper]:
    at the ends of the bracket of log Z; levels: grey values; width: of the interval that they
    share; data: the name of the dequantisation; verdict: that of log Z.
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
        """Return True if nothing speaks against the bracket of log Z."""
        return self.verdict == "certified"

    def __repr__(self) -> str:
        return (
            f"BitsPerDim({self.value:.4f} ± {self.error:.4f}, in [{self.lower:.4f}, "
            f"{self.upper:.4f}], {self.verdict}; {self.levels} levels on a width of "
            f"{self.width:g}, {self.data})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        values = vars(self) | {"certified": self.certified}
        return {key: to_plain(value) for key, value in values.items()}


def log_likelihood(
    energy: Energy | Callable[..., Tensor],
    data: Tensor,
    log_z: LogZ | float,
    *,
    binarization: str = "",
    dequantisation: str = "",
    batch_size: int = 1024,
) -> LogLikelihood:
    """Return the mean log-likelihood of data (N, *event) in nats, −mean E(x) − log Z.

    log_z: the result of `log_z`, or a number: certified where the energy itself knows it (as
    targets do), else one that you answer for.
    binarization, dequantisation: how the data were made, in words; binary data must name the one.
    Raises ValueError for points
    outside the domain, binary data without that name, and energies that are not numbers.

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
    values = to_float64(energy_values(energy, data, batch_size=batch_size))
    if bool(values.isnan().any()):
        raise ValueError(
            f"{int(values.isnan().sum())} of {len(values)} energies are not numbers; a likelihood "
            "needs all of them; look for overflow or missing data"
        )
    if not isinstance(log_z, LogZ):
        exact = read_number("log_z", log_z)
        doubts: tuple[str, ...] = ()
        words = "the energy's own, known exactly"
        if not _knows(energy, exact):
            words, doubts = "given", ("log Z was given as a number, which nothing has checked",)
        log_z = LogZ(exact, 0.0, exact, exact, "given", words, problems=doubts)
    found = mean(values)
    value, low, high = (-found.value - end for end in (log_z.value, log_z.upper, log_z.lower))
    words = binarization or dequantisation or "data as they are"
    return LogLikelihood(value, found.error, low, high, len(data), data[0].numel(), words, log_z)


@runtime_checkable
class Solved(Protocol):
    """An energy that knows its log Z, as those of `lowland.targets` do."""

    log_z: float


def _knows(energy: Energy, value: float) -> bool:
    """Tell whether a number is the log Z that the energy itself gives."""
    try:
        return isinstance(energy, Solved) and math.isclose(energy.log_z, value, abs_tol=1e-6)
    except ValueError:  # a lattice that is too large
        return False


def bits_per_dim(likelihood: LogLikelihood, *, levels: int = 256, width: float = 1.0) -> BitsPerDim:
    """Convert the log-likelihood of dequantised images to bits per dimension.

        b = −log p(x) / (d log 2) + log₂(levels / width)

    levels: grey values, which share an interval of that width (1 from `dequantise`). A level has
    the probability of its cell, of side width / levels, and the mean of log p over a cell is at
    most the log of the mean. Source: Theis, van den Oord & Bethge (2016), section 3.1,
    https://arxiv.org/abs/1511.01844

    >>> import torch
    >>> from lowland import box
    >>> from lowland.targets import Uniform
    >>> grey = torch.randint(256, (100, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    >>> x = dequantise(grey, 256, torch.Generator().manual_seed(1))
    >>> bits_per_dim(log_likelihood(Uniform(box(0.0, 1.0, 1, 8, 8)), x, 0.0)).value
    8.0
    """
    levels, width = read_integer("levels", levels), read_number("width", width)
    if levels < 2 or not width > 0:
        raise ValueError(
            f"levels is {levels} and width {width}; at least 2 levels on a width above 0 are "
            "needed; correct them"
        )
    nats, offset = likelihood.dims * math.log(2), math.log2(levels / width)
    value, low, high = (
        offset - v / nats for v in (likelihood.value, likelihood.upper, likelihood.lower)
    )
    error, verdict = likelihood.error / nats, likelihood.log_z.verdict
    return BitsPerDim(value, error, low, high, levels, width, likelihood.data, verdict)


def dequantise(grey: Numbers, levels: int, generator: torch.Generator) -> Tensor:
    """Return (grey + u) / levels, u uniform: grey values 0 … levels − 1 as points of [0, 1).

    >>> import torch
    >>> dequantise(torch.tensor([[0, 255]]), 256, torch.Generator().manual_seed(0)).mul(256).floor()
    tensor([[  0., 255.]])
    """
    levels = read_integer("levels", levels, least=2)
    values = read_numbers("grey values", grey)
    if bool(((values < 0) | (values > levels - 1) | (values != values.round())).any()):
        raise ValueError(
            f"values from {values.min().item():g} to {values.max().item():g} came; grey values are "
            f"whole numbers from 0 to {levels - 1}; multiply images in [0, 1] by {levels - 1} and "
            "round them"
        )
    place = generator.device
    dtype = torch.float64 if has_float64(place) else torch.float32
    u = torch.rand(values.shape, generator=generator, device=place, dtype=dtype)
    below_one = 1 - torch.finfo(torch.float32).eps / 2  # keeps the last level inside
    spread = ((values + u.to(values)) / levels).to(torch.float32).clamp(max=below_one)
    return spread.to(grey.device) if isinstance(grey, Tensor) else spread
