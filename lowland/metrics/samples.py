"""Comparing samples with data: two-sample distances, copies, classes, reconstruction error."""

import math

import torch
from torch import Tensor

from lowland.energy import check_finite
from lowland.metrics.estimate import Estimate, mean


def mmd(x: Tensor, y: Tensor, bandwidth: float | None = None) -> Estimate:
    """Squared maximum mean discrepancy under a Gaussian kernel, unbiased; zero in the mean when both laws are equal.

        MMD² = E k(x, x') + E k(y, y') − 2 E k(x, y),    k(a, b) = exp(−‖a − b‖² / 2ℓ²)

    bandwidth: ℓ, the median distance between the pooled points unless given. The error is the standard error of the
    U-statistic's first-order term, from its projections; at equal laws that term vanishes and the error is an upper bound.
    Source: Gretton et al. (2012), https://jmlr.org/papers/v13/gretton12a.html
    """
    a, b = _rows(x), _rows(y)
    if bandwidth is None:
        pooled = torch.cat([a[:1000], b[:1000]])
        bandwidth = torch.pdist(pooled).median().item() or 1.0
    kaa, kbb, kab = (_kernel(u, v, bandwidth) for u, v in ((a, a), (b, b), (a, b)))
    n, m = len(a), len(b)
    within_a = (kaa.sum(1) - kaa.diagonal()) / (n - 1)
    within_b = (kbb.sum(1) - kbb.diagonal()) / (m - 1)
    value = within_a.mean() + within_b.mean() - 2 * kab.mean()
    side_a, side_b = within_a - kab.mean(1), within_b - kab.mean(0)
    error = 2 * math.sqrt(side_a.var().item() / n + side_b.var().item() / m)
    return Estimate(value.item(), error)


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """Fréchet distance between Gaussians fitted to features (N, d) and (M, d), in float64.

        ‖m_x − m_y‖² + tr(C_x + C_y − 2 (C_x^½ C_y C_x^½)^½)

    It is an FID only if the features are those of the Inception network; say which features were used. Biased upwards
    for few points: compare only at equal counts. Source: Dowson & Landau (1982), https://doi.org/10.1016/0047-259X(82)90077-X
    """
    a, b = _rows(x), _rows(y)
    ca, cb = torch.atleast_2d(torch.cov(a.T)), torch.atleast_2d(torch.cov(b.T))
    values, vectors = torch.linalg.eigh(ca)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cb @ root).clamp_min(0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + ca.trace() + cb.trace() - 2 * cross)


def nearest(x: Tensor, reference: Tensor, *, leave_out: bool = False) -> tuple[Tensor, Tensor]:
    """Euclidean distance (N,) from each x to its nearest reference point, and which one it is (N,).

    leave_out: x is the reference itself; a point is then not its own neighbour.
    """
    a, b = x.flatten(1), reference.flatten(1)
    check_finite(a, "points")
    check_finite(b, "reference points")
    distances, indices = [], []
    for i in range(0, len(a), 512):
        d = torch.cdist(a[i : i + 512], b)
        if leave_out:
            d[torch.arange(len(d)), torch.arange(i, i + len(d))] = math.inf
        which = d.argmin(1)
        distances.append((a[i : i + 512] - b[which]).norm(dim=1))  # cdist expands the square, which rounds near copies
        indices.append(which)
    return torch.cat(distances), torch.cat(indices)


def class_entropy(labels: Tensor, classes: int) -> float:
    """Entropy of the class counts as a share of its maximum, log K: 1 when all classes appear equally often.

    >>> class_entropy(torch.tensor([0, 1, 2, 3]), 4)
    1.0
    """
    if classes < 2:
        raise ValueError(f"{classes} classes were given; an entropy needs at least 2; pass the number of classes")
    if len(labels) == 0 or int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise ValueError(f"{len(labels)} labels came for {classes} classes; some are needed, all in 0 ... K-1; check them")
    p = torch.bincount(labels, minlength=classes).double()
    p = p / p.sum()
    return float(-(p * p.clamp_min(1e-300).log()).sum() / math.log(classes))


def psnr(x: Tensor, truth: Tensor, *, mask: Tensor | None = None, peak: float = 1.0) -> Estimate:
    """Peak signal-to-noise ratio in dB, 10 log₁₀(peak² / MSE), the mean over images with its standard error.

    mask (*event), bool: where to look; everywhere unless given. Images restored without error are refused as infinite.
    """
    if x.shape != truth.shape or (mask is not None and not bool(mask.any())):
        raise ValueError(
            f"images of shape {tuple(x.shape)} met a truth of {tuple(truth.shape)} (mask: "
            f"{'none' if mask is None else int(mask.sum())} numbers); shapes must agree and a mask must look somewhere; fix it"
        )
    squares = (x - truth).square().double()
    if mask is not None:
        wide = mask.expand(squares.shape[1:]).to(squares)
        errors = (squares * wide).flatten(1).sum(1) / wide.sum()
    else:
        errors = squares.flatten(1).mean(1)
    if bool((errors == 0).any()):
        raise ValueError(
            f"{int((errors == 0).sum())} images have no error at all; their PSNR is infinite; leave them out or check "
            f"that the truth was not passed twice"
        )
    return mean(10 * torch.log10(peak**2 / errors))


def _rows(x: Tensor) -> Tensor:
    if len(x) < 2:
        raise ValueError(f"{len(x)} points were given; a comparison of laws needs at least 2 on each side; pass more")
    check_finite(x, "points")
    return x.detach().flatten(1).double()


def _kernel(a: Tensor, b: Tensor, bandwidth: float) -> Tensor:
    return torch.exp(-torch.cdist(a, b).square() / (2 * bandwidth**2))
