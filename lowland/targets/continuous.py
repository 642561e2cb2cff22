"""Targets on the real line: exact draws and exact log Z by formula.

Every target is an energy with `log_z` (a float: log ∫ exp(−E)) and `draw(count, generator)`
(independent exact draws).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lowland.domain import real
from lowland.energy import ConditionLike, Energy
from lowland.energy.sizes import check_memory, read_numbers
from lowland.registry import register
from lowland.scalars import read_integer, read_number


def _normal(count: int, dim: int, generator: torch.Generator, dtype: torch.dtype | None) -> Tensor:
    """Draw standard normal numbers (count, dim), in torch's default dtype unless given."""
    count = read_integer("count", count, least=0)
    return torch.randn(count, dim, generator=generator, device=generator.device, dtype=dtype)


@register("energy")
class Gaussian(Energy):
    """N(mean, covariance):  E(x) = ½ (x − m)ᵀ C⁻¹ (x − m),  log Z = d/2 log 2π + ½ log det C.

    mean: (d,) numbers; covariance: (d, d), positive definite; the standard plane unless given.

    >>> Gaussian().log_z == math.log(2 * math.pi)
    True
    """

    precision: Tensor  # (d, d), or (d,) if it is diagonal
    factor: Tensor
    centre: Tensor

    def __init__(
        self,
        mean: Sequence[float] = (0.0, 0.0),
        covariance: Sequence[Sequence[float]] = ((1.0, 0.0), (0.0, 1.0)),
    ) -> None:
        centre, matrix = read_numbers("mean", mean, 1), read_numbers("covariance", covariance, 2)
        size = len(centre)
        super().__init__(real(size))
        self.mean, self.covariance = mean, covariance
        if matrix.shape != (size, size) or not torch.equal(matrix, matrix.T):
            raise ValueError(
                f"the covariance has shape {tuple(matrix.shape)} for a mean of {size}; it must be "
                f"symmetric, ({size}, {size}); correct one of them"
            )
        factor, info = torch.linalg.cholesky_ex(matrix)
        if int(info):
            raise ValueError(
                "the covariance is not positive definite; it must be; check its eigenvalues"
            )
        default = torch.get_default_dtype()
        self.log_z = size / 2 * math.log(2 * math.pi) + float(factor.diagonal().log().sum())
        self.register_buffer("centre", centre.to(default))
        self.register_buffer("factor", factor.to(default))
        precision = torch.cholesky_inverse(factor)
        if torch.equal(matrix, matrix.diagonal().diag()):
            precision = precision.diagonal().clone()
        self.register_buffer("precision", precision.to(default))

    def forward(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        offset, precision = x - self.centre.to(x.dtype), self.precision.to(x.dtype)
        multiply = torch.matmul if precision.dim() == 2 else torch.mul
        return 0.5 * (multiply(offset, precision) * offset).sum(1)

    def value_and_score(self, x: Tensor, c: ConditionLike = None) -> tuple[Tensor, Tensor]:
        """Return energies (B,) and scores −C⁻¹ (x − m)."""
        score = self.score(x)
        return torch.linalg.vecdot(x - self.centre.to(x.dtype), score).mul_(-0.5), score

    def score(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        """Return scores in one pass, or one product if the covariance is not diagonal."""
        centre, precision = self.centre.to(x.dtype), self.precision.to(x.dtype)
        if precision.dim() == 1:
            return torch.addcmul(centre * precision, x, precision, value=-1)
        return torch.addmm(centre @ precision, x, precision, alpha=-1)

    def draw(
        self, count: int, generator: torch.Generator, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Draw exactly (count, d)."""
        z = _normal(count, len(self.centre), generator, dtype)
        return self.centre.to(z.dtype) + z @ self.factor.to(z.dtype).T


@register("energy")
class GaussianMixture(Energy):
    """Mixture of normal distributions, p = Σ w_k N(m_k, s² I): E(x) = −log p(x), log Z = 0.

    means: (K, d) numbers; scale: s; weights: (K,), equal unless given.

    >>> GaussianMixture().log_z
    0.0
    """

    centres: Tensor
    shares: Tensor
    log_z = 0.0

    def __init__(
        self,
        means: Sequence[Sequence[float]] = ((-2.0, 0.0), (2.0, 0.0)),
        scale: float = 0.5,
        weights: Sequence[float] | None = None,
    ) -> None:
        centres = read_numbers("means", means, 2).to(torch.get_default_dtype())
        super().__init__(real(centres.shape[1]))
        given = (1.0,) * len(centres) if weights is None else weights
        shares = read_numbers("weights", given, 1).to(centres.dtype)
        if len(shares) != len(centres) or float(shares.min()) <= 0:
            raise ValueError(
                f"a mixture of {len(centres)} came with weights {weights}; one weight per mean is "
                "needed, each above 0; correct them"
            )
        self.means, self.weights = means, weights
        self.scale = read_number("scale", scale, above=0)
        self.register_buffer("centres", centres)
        self.register_buffer("shares", shares / shares.sum())

    def forward(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        distance = (x.unsqueeze(1) - self.centres.to(x.dtype)).square().sum(2)
        log_norm = x.shape[1] * (math.log(self.scale) + 0.5 * math.log(2 * math.pi))
        exponents = self.shares.to(x.dtype).log() - distance / (2 * self.scale**2)
        return log_norm - torch.logsumexp(exponents, 1)

    def draw(
        self, count: int, generator: torch.Generator, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Draw exactly (count, d)."""
        count = read_integer("count", count, least=0)
        which = torch.multinomial(self.shares, count, replacement=True, generator=generator)
        z = _normal(count, self.centres.shape[1], generator, dtype)
        return self.centres.to(z.dtype)[which] + self.scale * z


@register("energy")
class Banana(Energy):
    """A bent Gaussian in the plane:  x₁ ~ N(0, s²), x₂ | x₁ ~ N(b (x₁² − s²), 1); log Z = log 2πs.

    Source: Haario, Saksman & Tamminen (1999), https://doi.org/10.1007/s001800050022
    """

    def __init__(self, scale: float = 2.0, bend: float = 0.5) -> None:
        super().__init__(real(2))
        self.scale, self.bend = read_number("scale", scale, above=0), read_number("bend", bend)
        self.log_z = math.log(2 * math.pi * self.scale)

    def forward(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        first, second = x.unbind(1)
        ridge = self.bend * (first.square() - self.scale**2)
        return 0.5 * (first / self.scale).square() + 0.5 * (second - ridge).square()

    def draw(
        self, count: int, generator: torch.Generator, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Draw exactly (count, 2)."""
        first, second = _normal(count, 2, generator, dtype).unbind(1)
        first = self.scale * first
        return torch.stack([first, second + self.bend * (first.square() - self.scale**2)], 1)


@register("energy")
class Funnel(Energy):
    """Neal's funnel:  v ~ N(0, s²),  x_i | v ~ N(0, e^v);  x₀ is v;  log Z = d/2 log 2π + log s.

    Source: Neal (2003), section 8, https://doi.org/10.1214/aos/1056562461
    """

    def __init__(self, dimension: int = 3, scale: float = 1.5) -> None:
        dimension = read_integer("dimension", dimension, least=2)
        check_memory("a point of the funnel", dimension)
        super().__init__(real(dimension))
        self.dimension, self.scale = dimension, read_number("scale", scale, above=0)
        self.log_z = self.dimension / 2 * math.log(2 * math.pi) + math.log(self.scale)

    def forward(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        v, rest = x[:, 0], x[:, 1:]
        value = 0.5 * (v / self.scale).square() + 0.5 * rest.square().sum(1) * (-v).exp()
        return value + rest.shape[1] * v / 2

    def draw(
        self, count: int, generator: torch.Generator, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Draw exactly (count, dimension)."""
        z = _normal(count, self.dimension, generator, dtype)
        v = self.scale * z[:, :1]
        return torch.cat([v, z[:, 1:] * (v / 2).exp()], 1)
