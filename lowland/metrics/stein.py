"""Kernel Stein discrepancy of points from exp(−E), without samples of the energy or log Z."""

from torch import Tensor

from lowland.devices import to_float64
from lowland.energy import Energy, check_finite, check_gradient, check_points, lift, value_and_score
from lowland.metrics.distances import distances, median_distance
from lowland.metrics.estimate import Estimate
from lowland.scalars import read_number


def ksd(energy: Energy, x: Tensor, *, scale: float | None = None) -> Estimate:
    """Estimate the squared kernel Stein discrepancy of points x (N, *event) from exp(−E), unbiased.

        KSD² = E u(x, x'),   u = s(x)ᵀs(x') k + s(x)ᵀ∇_{x'} k + s(x')ᵀ∇_x k + tr ∇_x∇_{x'} k,
        k = (1 + ‖x − x'‖²/c²)^{−1/2}

    scale: c, the median distance between points unless given. Zero in the mean if the distributions
    agree; blind to the weights of modes that are far apart. The error is the standard error of the
    first-order term of the U-statistic. Cost: one gradient per point, (N, N) products. Raises
    ValueError for fewer than 2 points and for domains other than real ones: at the walls of a box
    Stein's identity fails. Source: Liu, Lee & Jordan (2016), https://arxiv.org/abs/1602.03253;
    kernel: Gorham & Mackey (2017), https://arxiv.org/abs/1703.01717

    >>> import torch
    >>> from lowland.targets import Gaussian
    >>> g = torch.Generator().manual_seed(0)
    >>> x = torch.randn(500, 2, generator=g)
    >>> ksd(Gaussian(), x).value < 0.05 < ksd(Gaussian(), x + 1).value
    True
    """
    energy = lift(energy)
    check_points(energy, x)
    if scale is not None:
        scale = read_number("scale", scale, above=0)
    if len(x) < 2:
        raise ValueError(
            f"{len(x)} points were given; pairs are compared, so at least 2 are needed; pass more"
        )
    if energy.domain.kind != "real":
        raise ValueError(
            f"the domain is {energy.domain.kind}; Stein's identity holds on a real one; compare "
            "draws with mmd"
        )
    score = value_and_score(energy, x)[1]
    check_finite(score, "scores")
    check_gradient(energy, x)
    a, s = (to_float64(part.detach().flatten(1)) for part in (x, score))
    a = a - a.mean(0)
    squares = distances(a, a).square()
    c2 = median_distance(a[:1000]) ** 2 if scale is None else scale**2
    u = 1 + squares / c2
    along = (s * a).sum(1)
    slopes = along.unsqueeze(1) - s @ a.T  # s(x)ᵀ (x − x')
    cross = slopes + slopes.T  # s(x)ᵀ(x − x') + s(x')ᵀ(x' − x)
    dimension = a.shape[1]
    stein = (
        (s @ s.T) * u**-0.5
        + cross / c2 * u**-1.5
        + dimension / c2 * u**-1.5
        - 3 * squares / c2**2 * u**-2.5
    )
    n = len(a)
    rows = (stein.sum(1) - stein.diagonal()) / (n - 1)
    return Estimate(rows.mean().item(), 2 * rows.std().item() / n**0.5)
