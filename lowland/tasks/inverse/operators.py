"""How a measurement was made: linear maps A, their transposes, and chains of them.

    y = A x + noise,      ⟨A x, y⟩ = ⟨x, A_T y⟩

    Identity        everything is seen                        denoising
    Mask            some numbers are hidden                   inpainting
    BlockAverage    means of f × f pixels                     super-resolution
    Stride          every f-th pixel of every f-th row        super-resolution, with aliasing
    Blur            a Gaussian smear                          deblurring
    Projection      a few random combinations                 compressed sensing
    Fourier         some frequencies, real and imaginary      magnetic resonance

`outer @ inner` first does `inner`. Anything differentiable can stand in for an operator where only
A is needed.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


class Operator(ABC):
    """A linear map of points x (B, *event) to measurements y (B, *measured), with its transpose."""

    @abstractmethod
    def A(self, x: Tensor) -> Tensor:
        """Measurements y (B, *measured) of points x (B, *event)."""

    @abstractmethod
    def A_T(self, y: Tensor) -> Tensor:
        """The transpose: x (B, *event) of y (B, *measured)."""

    def __call__(self, x: Tensor) -> Tensor:
        return self.A(x)

    def __matmul__(self, inner: "Operator") -> "Operator":
        return Composed(self, inner)

    def largest(self, x: Tensor, steps: int = 50) -> float:
        """The largest singular value of A on points like x (B, *event), by power iteration from x;
        x must not be in its kernel.

        >>> import torch
        >>> round(BlockAverage(2).largest(torch.rand(1, 1, 8, 8)), 4)
        0.5
        """
        for _ in range(steps):
            x = self.A_T(self.A(x / x.flatten().norm().clamp_min(1e-30)))
        return float(x.flatten().norm().sqrt())

    def tight(self, x: Tensor) -> float | None:
        """a² where A A_T = a² on whatever A gives, as for masks, strides and block averages; None
        for other operators.

        Tried on points x (B, *event), which should be random.

        >>> import torch
        >>> BlockAverage(2).tight(torch.rand(1, 1, 8, 8)), Blur(1.0).tight(torch.rand(1, 1, 8, 8))
        (0.25, None)
        """
        y = self.A(x)
        again = self.A(self.A_T(y))
        squared = round(float((again * y).sum() / y.square().sum().clamp_min(1e-30)), 6)
        return (
            squared
            if torch.allclose(again, squared * y, rtol=1e-3, atol=1e-4 * float(y.abs().max()))
            else None
        )


@dataclass(frozen=True)
class Composed(Operator):
    """A x = outer(inner(x)); written outer @ inner.

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


@dataclass(frozen=True)
class Linear(Operator):
    """A linear function of points of event shape `shape` as an operator; its transpose is its
    vector-Jacobian product.

    >>> import torch
    >>> sums = Linear(lambda x: x.sum(1, keepdim=True), (3,))
    >>> sums(torch.ones(1, 3)), sums.A_T(torch.ones(1, 1))
    (tensor([[3.]]), tensor([[1., 1., 1.]]))
    """

    function: Callable[[Tensor], Tensor]
    shape: tuple[int, ...]

    def A(self, x: Tensor) -> Tensor:
        return self.function(x)

    def A_T(self, y: Tensor) -> Tensor:
        pulled: Any = torch.func.vjp(self.function, y.new_zeros(len(y), *self.shape))[1]
        return pulled(y)[0]


@dataclass(frozen=True)
class Identity(Operator):
    """Everything is seen, with noise: denoising."""

    def A(self, x: Tensor) -> Tensor:
        return x

    def A_T(self, y: Tensor) -> Tensor:
        return y


@dataclass(frozen=True)
class Mask(Operator):
    """Keeps the known numbers and zeroes the rest: known (*event) bool, True where x was seen.

    A mask of an image (H, W) holds for all of its channels.
    Raises ValueError for a mask that is not bool, or that does not fit the points.

    >>> import torch
    >>> Mask(torch.tensor([True, False]))(torch.ones(1, 2))
    tensor([[1., 0.]])
    """

    known: Tensor

    def __post_init__(self) -> None:
        if self.known.dtype != torch.bool:
            raise ValueError(
                f"the mask holds {self.known.dtype}; it says of each number whether it is known; "
                "pass known.bool()"
            )

    def A(self, x: Tensor) -> Tensor:
        event = tuple(x.shape[1:])
        fits = self.known.dim() <= len(event) and all(
            a in (1, b) for a, b in zip(reversed(self.known.shape), reversed(event), strict=False)
        )
        if not fits:
            raise ValueError(
                f"the mask has shape {tuple(self.known.shape)} and a point {event}; they must "
                "agree from the right, so that (height, width) holds for all channels; make the "
                "mask anew"
            )
        return x * self.known.to(x)

    def A_T(self, y: Tensor) -> Tensor:
        return self.A(y)


@dataclass(frozen=True)
class BlockAverage(Operator):
    """The mean of each block of factor × factor pixels: images (B, C, H, W) to (B, C, H / factor, W
    / factor).
    """

    factor: int

    def __post_init__(self) -> None:
        _check_factor(self.factor)

    def A(self, x: Tensor) -> Tensor:
        _check_sides(x, self.factor)
        return F.avg_pool2d(x, self.factor)

    def A_T(self, y: Tensor) -> Tensor:
        f = self.factor
        return y.repeat_interleave(f, -1).repeat_interleave(f, -2) / f**2


@dataclass(frozen=True)
class Stride(Operator):
    """Every factor-th pixel of every factor-th row, the first included: what thrown-away pixels
    leave.
    """

    factor: int

    def __post_init__(self) -> None:
        _check_factor(self.factor)

    def A(self, x: Tensor) -> Tensor:
        _check_sides(x, self.factor)
        return x[..., :: self.factor, :: self.factor]

    def A_T(self, y: Tensor) -> Tensor:
        f = self.factor
        x = y.new_zeros(*y.shape[:-2], f * y.shape[-2], f * y.shape[-1])
        x[..., ::f, ::f] = y
        return x


@dataclass(frozen=True)
class Blur(Operator):
    """Convolution of images (B, C, H, W) with a Gaussian of deviation `sigma` pixels, cut off at three of
    them; zeros lie around.
    """

    sigma: float

    def __post_init__(self) -> None:
        if not 0 < self.sigma < math.inf:
            raise ValueError(
                f"sigma is {self.sigma}; a blur has a width above 0 pixels; 1.0 is mild"
            )

    def A(self, x: Tensor) -> Tensor:
        _check_images(x)
        return self._smear(x.shape[-2], x) @ x @ self._smear(x.shape[-1], x)

    def _smear(self, side: int, like: Tensor) -> Tensor:
        """The smear along one axis as a symmetric matrix (side, side): products are faster here
        than convolutions.
        """
        reach = math.ceil(3 * self.sigma)
        line = torch.softmax(
            -0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float64) / self.sigma).square(), 0
        )
        places = torch.arange(side)
        apart = places - places.unsqueeze(1)
        return torch.where(apart.abs() <= reach, line[(apart + reach).clamp(0, 2 * reach)], 0.0).to(
            like
        )

    def A_T(self, y: Tensor) -> Tensor:
        return self.A(y)


@dataclass(frozen=True)
class Projection(Operator):
    """`count` random combinations of the numbers of a point: y = M x, the entries of M drawn from
    N(0, 1 / count) by `seed`.

    shape: of a point (*event). Measurements have shape (B, count).

    >>> import torch
    >>> Projection((1, 8, 8), 20, seed=0)(torch.rand(3, 1, 8, 8)).shape
    torch.Size([3, 20])
    """

    shape: tuple[int, ...]
    count: int
    seed: int

    def __post_init__(self) -> None:
        if self.count < 1 or min(self.shape, default=0) < 1:
            raise ValueError(
                f"a projection of points {tuple(self.shape)} to {self.count} numbers was asked "
                "for; both have at least one number; correct them"
            )
        drawn = torch.randn(
            self.count, math.prod(self.shape), generator=torch.Generator().manual_seed(self.seed)
        )
        object.__setattr__(self, "_matrix", drawn / math.sqrt(self.count))

    def A(self, x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != tuple(self.shape):
            raise ValueError(
                f"a point has shape {tuple(x.shape[1:])} and the projection was made for "
                f"{tuple(self.shape)}; they must agree; make a projection of that shape"
            )
        matrix: Tensor = self._matrix  # type: ignore[attr-defined]
        return x.flatten(1) @ matrix.to(x).T

    def A_T(self, y: Tensor) -> Tensor:
        matrix: Tensor = self._matrix  # type: ignore[attr-defined]
        return (y @ matrix.to(y)).view(len(y), *self.shape)


@dataclass(frozen=True)
class Fourier(Operator):
    """The orthonormal two-dimensional Fourier transform of images at the frequencies `kept` (H, W)
    bool, zero elsewhere.

    Measurements are (B, 2, C, H, W): real parts, then imaginary ones. Frequency zero is at [0, 0],
    as in torch.fft.
    """

    kept: Tensor

    def __post_init__(self) -> None:
        if self.kept.dtype != torch.bool or self.kept.dim() != 2:
            raise ValueError(
                f"the kept frequencies are {self.kept.dtype} of shape {tuple(self.kept.shape)}; a "
                "bool of shape (height, width) is needed; pass kept.bool()"
            )

    def A(self, x: Tensor) -> Tensor:
        _check_images(x)
        if x.shape[-2:] != self.kept.shape:
            raise ValueError(
                f"an image has {tuple(x.shape[-2:])} pixels and frequencies were chosen for "
                f"{tuple(self.kept.shape)}; they must agree; choose them for that size"
            )
        found = torch.fft.fft2(x, norm="ortho") * self.kept.to(x)
        return torch.stack([found.real, found.imag], 1)

    def A_T(self, y: Tensor) -> Tensor:
        found = torch.complex(y[:, 0], y[:, 1]) * self.kept.to(y)
        return torch.fft.ifft2(found, norm="ortho").real


def _check_factor(factor: int) -> None:
    if factor < 1:
        raise ValueError(
            f"the factor is {factor}; an image shrinks by a whole number of at least 1; 2 halves "
            "its sides"
        )


def _check_images(x: Tensor) -> None:
    if x.dim() != 4:
        raise ValueError(
            f"a point has shape {tuple(x.shape[1:])}; images (channels, height, width) are needed; "
            "reshape them"
        )


def _check_sides(x: Tensor, factor: int) -> None:
    _check_images(x)
    if x.shape[-1] % factor or x.shape[-2] % factor:
        raise ValueError(
            f"an image has {tuple(x.shape[-2:])} pixels and shrinks by {factor}; its sides must be "
            "multiples of that; pad it, or choose another factor"
        )


def as_linear(operator: Callable[[Tensor], Tensor], shape: Sequence[int]) -> Operator:
    """An operator as it is, or a linear function of points of an event shape as one with a
    transpose.
    """
    return operator if isinstance(operator, Operator) else Linear(operator, tuple(shape))
