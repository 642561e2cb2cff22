"""Measurement operators: linear maps A with their transposes, and compositions of them.

    y = A x + noise,      ⟨A x, y⟩ = ⟨x, A_T y⟩

    Identity        all numbers                               denoising
    Mask            some numbers                              inpainting
    BlockAverage    means of f × f pixels                     super-resolution
    Stride          every f-th pixel of every f-th row        super-resolution, with aliasing
    Blur            convolution with a Gaussian               deblurring
    Projection      random linear combinations                compressed sensing
    Fourier         some frequencies, real and imaginary      magnetic resonance imaging

`outer @ inner` applies `inner` first. Where only A is needed, any differentiable function will do.
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from lowland.energy.points import describe
from lowland.scalars import read_integer, read_number
from lowland.tasks.inverse.inputs import (
    check_images,
    check_measurement,
    check_real,
    check_sides,
    in_float32,
)

MAX_MATRIX = 1 << 31  # numbers of a random projection
MAX_BLUR = 1e5  # pixels
MIN_VECTOR_NORM = 1e-30  # of a vector that is divided by its length


class Operator(ABC):
    """A linear map of points x (B, *event) to measurements y (B, *measured), with its transpose."""

    @abstractmethod
    def A(self, x: Tensor) -> Tensor:
        """Map points x (B, *event) to measurements (B, *measured)."""

    @abstractmethod
    def A_T(self, y: Tensor) -> Tensor:
        """Map measurements y (B, *measured) to points (B, *event) by the transpose."""

    def __call__(self, x: Tensor) -> Tensor:
        return self.A(x)

    def __matmul__(self, inner: "Operator") -> "Operator":
        return Composed(self, inner)

    def to(self, device: torch.device) -> "Operator":
        """Return the operator with the tensors that it holds on a device; itself if it holds none.

        >>> import torch
        >>> Mask(torch.tensor([True, False])).to(torch.device("cpu")).known
        tensor([ True, False])
        """
        return self

    def spectral_norm(self, x: Tensor, steps: int = 50) -> float:
        """Compute the largest singular value of A by power iteration from x (B, *event).

        x must not be in the kernel of A; random points will do.

        >>> import torch
        >>> round(BlockAverage(2).spectral_norm(torch.rand(1, 1, 8, 8)), 4)
        0.5
        """
        check_real(x)
        for _ in range(read_integer("steps", steps, least=1)):
            x = self.A_T(self.A(x / x.flatten().norm().clamp_min(MIN_VECTOR_NORM)))
        return float(x.flatten().norm().sqrt())

    def tight_constant(self, x: Tensor) -> float | None:
        """Return a² if A A_T = a² on the range of A, as for masks and block averages; else None.

        Tested on points x (B, *event), which should be random.

        >>> import torch
        >>> x = torch.rand(1, 1, 8, 8)
        >>> BlockAverage(2).tight_constant(x), Blur(1.0).tight_constant(x)
        (0.25, None)
        """
        y = self.A(x)
        again, atol = self.A(self.A_T(y)), 1e-4 * float(y.abs().max())
        squared = round(float((again * y).sum() / y.square().sum().clamp_min(MIN_VECTOR_NORM)), 6)
        tight = torch.allclose(again, squared * y, rtol=1e-3, atol=atol)
        return squared if tight else None


@dataclass(frozen=True)
class Composed(Operator):
    """The composition outer(inner(x)), also written outer @ inner.

    >>> import torch
    >>> (BlockAverage(2) @ Blur(1.0))(torch.ones(1, 1, 8, 8)).shape
    torch.Size([1, 1, 4, 4])
    """

    outer: Operator
    inner: Operator

    def A(self, x: Tensor) -> Tensor:
        return self.outer.A(self.inner.A(x))

    def A_T(self, y: Tensor) -> Tensor:
        return self.inner.A_T(self.outer.A_T(y))

    def to(self, device: torch.device) -> "Composed":
        return Composed(self.outer.to(device), self.inner.to(device))


@dataclass(frozen=True)
class Linear(Operator):
    """A linear function of points of event shape `shape`; its transpose is its vector-Jacobian
    product.

    >>> import torch
    >>> sums = Linear(lambda x: x.sum(1, keepdim=True), (3,))
    >>> sums(torch.ones(1, 3)), sums.A_T(torch.ones(1, 1))
    (tensor([[3.]]), tensor([[1., 1., 1.]]))
    """

    function: Callable[[Tensor], Tensor]
    shape: tuple[int, ...]

    def A(self, x: Tensor) -> Tensor:
        check_real(x)
        return self.function(x)

    def A_T(self, y: Tensor) -> Tensor:
        check_real(y, "measurements")
        _, pull_back, *_ = torch.func.vjp(self.function, y.new_zeros(len(y), *self.shape))
        (x,) = pull_back(y)
        return x


@dataclass(frozen=True)
class Identity(Operator):
    """The identity: every number is measured, as in denoising."""

    def A(self, x: Tensor) -> Tensor:
        check_real(x)
        return x

    def A_T(self, y: Tensor) -> Tensor:
        check_real(y, "measurements")
        return y


@dataclass(frozen=True)
class Mask(Operator):
    """The map that keeps known numbers and sets the rest to zero.

    known (*event) bool: True where x is measured; a mask (H, W) of images holds for all channels.
    What is not known may be anything, NaN too.
    Raises ValueError for a mask that is not bool, or that does not fit the points.

    >>> import torch
    >>> Mask(torch.tensor([True, False]))(torch.ones(1, 2))
    tensor([[1., 0.]])
    """

    known: Tensor

    def __post_init__(self) -> None:
        if not isinstance(self.known, Tensor) or self.known.dtype != torch.bool:
            raise ValueError(
                f"the mask is {describe(self.known)}; a bool tensor says of each number whether it "
                "is known; pass known.bool()"
            )

    def to(self, device: torch.device) -> "Mask":
        return Mask(self.known.to(device))

    def expand_to(self, x: Tensor) -> Tensor:
        """Return the mask in the event shape of points x (B, *event)."""
        check_real(x)
        event, mask = tuple(x.shape[1:]), tuple(self.known.shape)
        sides = zip(reversed(mask), reversed(event), strict=False)
        if len(mask) > len(event) or not all(a in (1, b) for a, b in sides):
            raise ValueError(
                f"the mask has shape {mask} and a point {event}; they must agree from the right, "
                "so that (height, width) holds for all channels; make the mask anew"
            )
        return self.known.to(x.device).expand(event)

    def A(self, x: Tensor) -> Tensor:
        return torch.where(self.expand_to(x), x, 0.0)

    def A_T(self, y: Tensor) -> Tensor:
        return self.A(y)


@dataclass(frozen=True)
class BlockAverage(Operator):
    """The mean of blocks of factor × factor pixels: images (B, C, H, W) to (B, C, H/f, W/f)."""

    factor: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", _read_factor(self.factor))

    def A(self, x: Tensor) -> Tensor:
        check_sides(x, self.factor)
        return in_float32(lambda x: F.avg_pool2d(x, self.factor), x)

    def A_T(self, y: Tensor) -> Tensor:
        check_images(y, "measurements")
        f = self.factor
        return y.repeat_interleave(f, -1).repeat_interleave(f, -2) / f**2


@dataclass(frozen=True)
class Stride(Operator):
    """Every factor-th pixel of every factor-th row, the first included."""

    factor: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", _read_factor(self.factor))

    def A(self, x: Tensor) -> Tensor:
        check_sides(x, self.factor)
        return x[..., :: self.factor, :: self.factor]

    def A_T(self, y: Tensor) -> Tensor:
        check_images(y, "measurements")
        f = self.factor
        x = y.new_zeros(*y.shape[:-2], f * y.shape[-2], f * y.shape[-1])
        x[..., ::f, ::f] = y
        return x


@dataclass(frozen=True)
class Blur(Operator):
    """The convolution of images (B, C, H, W), padded by zeros, with a Gaussian.

    sigma: its standard deviation in pixels; the kernel ends at three of them.
    """

    sigma: float

    def __post_init__(self) -> None:
        sigma = read_number("sigma of a blur", self.sigma, above=0, most=MAX_BLUR)
        object.__setattr__(self, "sigma", sigma)

    def A(self, x: Tensor) -> Tensor:
        check_images(x)
        return in_float32(self._blur, x)

    def _blur(self, x: Tensor) -> Tensor:
        return self._matrix(x.shape[-2], x) @ x @ self._matrix(x.shape[-1], x)

    def A_T(self, y: Tensor) -> Tensor:
        return self.A(y)

    def _matrix(self, side: int, like: Tensor) -> Tensor:
        return _blur_matrix(self.sigma, side, like.dtype, like.device)


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _blur_matrix(sigma: float, side: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the convolution with a Gaussian along one axis as a symmetric matrix (side, side).

    Matrix products are faster here than convolutions.
    """
    reach = math.ceil(3 * sigma)
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float64)
    kernel = torch.softmax(-0.5 * (offsets / sigma).square(), 0)
    places = torch.arange(side)
    offset = places - places.unsqueeze(1)
    weights = kernel[(offset + reach).clamp(0, 2 * reach)]
    return torch.where(offset.abs() <= reach, weights, 0.0).to(dtype).to(device)


@dataclass(frozen=True)
class Projection(Operator):
    """A random projection y = M x with M (count, numbers of a point), entries from N(0, 1 / count).

    shape: of a point (*event); seed: of the draw of M. Measurements have shape (B, count).

    >>> import torch
    >>> Projection((1, 8, 8), 20, seed=0)(torch.rand(3, 1, 8, 8)).shape
    torch.Size([3, 20])
    """

    shape: tuple[int, ...]
    count: int
    seed: int

    def __post_init__(self) -> None:
        shape = tuple(read_integer("a side of a point", side) for side in self.shape)
        for name, value in (("shape", shape), ("count", read_integer("count", self.count))):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "seed", read_integer("seed", self.seed, least=0, most=2**63 - 1))
        if self.count * math.prod(self.shape) > MAX_MATRIX:
            raise ValueError(
                f"a projection of points {shape} to {self.count} numbers was asked for; its matrix "
                f"may hold {MAX_MATRIX} numbers; project to fewer"
            )
        if self.count < 1 or min(self.shape, default=0) < 1:
            raise ValueError(
                f"a projection of points {tuple(self.shape)} to {self.count} numbers was asked "
                "for; both have at least one number; correct them"
            )
        g = torch.Generator().manual_seed(self.seed)
        matrix = torch.randn(self.count, math.prod(self.shape), generator=g)
        object.__setattr__(self, "_matrix", matrix / math.sqrt(self.count))

    def to(self, device: torch.device) -> "Projection":
        other, matrix = copy.copy(self), vars(self)["_matrix"]
        object.__setattr__(other, "_matrix", matrix.to(device))
        return other

    def A(self, x: Tensor) -> Tensor:
        check_real(x)
        if tuple(x.shape[1:]) != tuple(self.shape):
            raise ValueError(
                f"a point has shape {tuple(x.shape[1:])} and the projection was made for "
                f"{tuple(self.shape)}; they must agree; make a projection of that shape"
            )
        matrix: Tensor = self._matrix  # type: ignore[attr-defined]
        return in_float32(lambda x: x.flatten(1) @ matrix.to(x).T, x)

    def A_T(self, y: Tensor) -> Tensor:
        matrix: Tensor = self._matrix  # type: ignore[attr-defined]
        check_measurement(y, (self.count,))
        return in_float32(lambda y: y @ matrix.to(y), y).view(len(y), *self.shape)


@dataclass(frozen=True)
class Fourier(Operator):
    """The orthonormal 2-D Fourier transform of images at some frequencies, zero at the others.

    frequencies (H, W) bool: those measured; zero is at [0, 0], as in torch.fft. Measurements are
    (B, 2, C, H, W): real parts, then imaginary parts.
    """

    frequencies: Tensor

    def __post_init__(self) -> None:
        chosen = self.frequencies
        if not isinstance(chosen, Tensor) or chosen.dtype != torch.bool or chosen.dim() != 2:
            raise ValueError(
                f"the frequencies are {describe(chosen)}; a bool of shape (height, width) is "
                "needed; pass frequencies.bool()"
            )

    def to(self, device: torch.device) -> "Fourier":
        return Fourier(self.frequencies.to(device))

    def A(self, x: Tensor) -> Tensor:
        check_images(x)
        if x.shape[-2:] != self.frequencies.shape:
            raise ValueError(
                f"an image has {tuple(x.shape[-2:])} pixels and frequencies were chosen for "
                f"{tuple(self.frequencies.shape)}; they must agree; choose them for that size"
            )
        return in_float32(self._transform, x)

    def A_T(self, y: Tensor) -> Tensor:
        channels = y.shape[2] if isinstance(y, Tensor) and y.dim() == 5 else 1
        check_measurement(y, (2, channels, *self.frequencies.shape))
        return in_float32(self._transform_back, y)

    def _transform(self, x: Tensor) -> Tensor:
        if not len(x):
            return x.new_zeros(0, 2, *x.shape[1:])
        spectrum = torch.fft.fft2(x, norm="ortho") * self.frequencies.to(x)
        return torch.stack([spectrum.real, spectrum.imag], 1)

    def _transform_back(self, y: Tensor) -> Tensor:
        if not len(y):
            return y.new_zeros(0, *y.shape[2:])
        spectrum = torch.complex(y[:, 0], y[:, 1]) * self.frequencies.to(y)
        return torch.fft.ifft2(spectrum, norm="ortho").real


def as_linear(operator: Callable[[Tensor], Tensor], shape: Sequence[int]) -> Operator:
    """Return an `Operator` as it is, and a linear function of points of an event shape as one."""
    return operator if isinstance(operator, Operator) else Linear(operator, tuple(shape))


def _read_factor(factor: int) -> int:
    """Return the factor by which an image shrinks."""
    return read_integer("the factor by which an image shrinks", factor, least=1)
