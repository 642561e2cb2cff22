"""Comparing samples with data: two-sample distances and tests, coverage, copies, classes,
reconstruction error.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lowland.energy import check_finite
from lowland.metrics.estimate import Estimate, mean, share


def mmd(x: Tensor, y: Tensor, bandwidth: float | None = None) -> Estimate:
    """Squared maximum mean discrepancy under a Gaussian kernel, unbiased; zero in the mean when
    both laws are equal.

        MMD² = E k(x, x') + E k(y, y') − 2 E k(x, y),    k(a, b) = exp(−‖a − b‖² / 2ℓ²)

    bandwidth: ℓ, the median distance between the pooled points unless given. The error is the
    standard error of the U-statistic's first-order term, from its projections; at equal laws that
    term vanishes and the error is an upper bound. Source: Gretton et al. (2012),
    https://jmlr.org/papers/v13/gretton12a.html
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

    It is an FID only if the features are those of the Inception network; say which features were
    used. Biased upwards for few points: compare only at equal counts. Source: Dowson & Landau
    (1982), https://doi.org/10.1016/0047-259X(82)90077-X
    """
    a, b = _rows(x), _rows(y)
    ca, cb = torch.atleast_2d(torch.cov(a.T)), torch.atleast_2d(torch.cov(b.T))
    values, vectors = torch.linalg.eigh(ca)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cb @ root).clamp_min(0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + ca.trace() + cb.trace() - 2 * cross)


class Coverage(NamedTuple):
    """precision: share of samples within the data's reach; recall: share of data within the
    samples' reach.
    """

    precision: Estimate
    recall: Estimate


def precision_recall(x: Tensor, y: Tensor, k: int = 3) -> Coverage:
    """How many samples x (N, d) look like data y (M, d), and how much of the data the samples
    cover.

        precision = share of x inside ∪_j B(y_j, r_j),      recall = share of y inside ∪_i B(x_i,
                                                            r_i)

    r is the distance to the k-th nearest neighbour within the same set. A sample that repeats
    lowers recall, one that is nothing lowers precision; both are near, not at, 1 for two draws of
    one law, and depend on N and M: compare at equal counts. The errors are binomial, with the balls
    as they are. Give features of images, not pixels. Source: Kynkäänniemi et al. (2019),
    https://arxiv.org/abs/1904.06991

    >>> data = torch.arange(20.0).unsqueeze(1)
    >>> found = precision_recall(data[:10] + 0.5, data)  # samples of its lower half
    >>> found.precision.value, found.recall.value
    (1.0, 0.65)
    """
    if not 1 <= k < min(len(x), len(y)):
        raise ValueError(
            f"k is {k} for {len(x)} and {len(y)} points; it must be at least 1 and less than both; "
            "3 is common"
        )
    a, b = _rows(x).float(), _rows(y).float()
    return Coverage(_within(a, b, k), _within(b, a, k))


def _within(x: Tensor, y: Tensor, k: int) -> Estimate:
    """The share of x inside the balls around y that hold k other points of y."""
    reach = torch.cat([torch.cdist(part, y).kthvalue(k + 1, 1).values for part in y.split(1024)])
    inside = [(torch.cdist(part, y) <= reach).any(1) for part in x.split(1024)]
    return share(int(torch.cat(inside).sum()), len(x))


def two_sample_accuracy(
    x: Tensor, y: Tensor, *, generator: torch.Generator, hidden: int = 64, steps: int = 1000
) -> Estimate:
    """How often a classifier tells x (N, d) from y (M, d) on points it has not seen: ½ where both
    are of one law, 1 if apart.

    The larger set is cut to the size of the smaller. Half of each trains a perceptron with one
    hidden layer (standardized inputs, AdamW, batches of 256, a falling rate), the other half is
    called; the error is binomial. What a weak classifier cannot tell apart may still differ: the
    accuracy is a lower bound of what the best would reach. Source: Lopez-Paz & Oquab (2017),
    https://arxiv.org/abs/1610.06545

    >>> g = torch.Generator().manual_seed(0)
    >>> x, y = torch.randn(400, 2, generator=g), torch.randn(400, 2, generator=g) + 9
    >>> two_sample_accuracy(x, y, generator=g, steps=100).value
    1.0
    """
    count = min(len(x), len(y))
    if count < 16 or hidden < 1 or steps < 1:
        raise ValueError(
            f"{count} points on the smaller side came with hidden {hidden} and steps {steps}; at "
            "least 16 points, one unit and one step are needed; pass more"
        )
    sides = [
        part[torch.randperm(len(part), generator=generator)[:count]]
        for part in (_rows(x), _rows(y))
    ]
    z = torch.cat(
        [part[: count // 2] for part in sides] + [part[count // 2 :] for part in sides]
    ).float()
    z = (z - z.mean(0)) / z.std(0).clamp_min(1e-6)
    seen, held = 2 * (count // 2), count - count // 2
    truth = torch.cat([torch.arange(seen) >= count // 2, torch.arange(2 * held) >= held])
    logits = _telling(z[:seen], truth[:seen].float(), hidden, steps, generator)(z[seen:])
    return share(int(((logits > 0) == truth[seen:]).sum()), 2 * held)


def _telling(
    x: Tensor, truth: Tensor, hidden: int, steps: int, generator: torch.Generator
) -> Callable[[Tensor], Tensor]:
    """The logit of a perceptron trained to say whether rows of x are of the second kind."""
    shapes = ((x.shape[1], hidden), (hidden,), (hidden,), ())
    weights = [
        torch.randn(s, generator=generator) / math.sqrt(s[0]) if len(s) == 2 else torch.zeros(s)
        for s in shapes
    ]
    weights[2] = torch.randn(hidden, generator=generator) / math.sqrt(hidden)

    def logit(z: Tensor) -> Tensor:
        return torch.relu(z @ weights[0] + weights[1]) @ weights[2] + weights[3]

    optimizer = torch.optim.AdamW([w.requires_grad_() for w in weights], lr=3e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    with torch.inference_mode(False), torch.enable_grad():
        for _ in range(steps):
            rows = torch.randint(len(x), (256,), generator=generator)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logit(x[rows]), truth[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    for w in weights:
        w.requires_grad_(False)
    return logit


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
        distances.append(
            (a[i : i + 512] - b[which]).norm(dim=1)
        )  # cdist expands the square, which rounds near copies
        indices.append(which)
    return torch.cat(distances), torch.cat(indices)


def class_entropy(labels: Tensor, classes: int) -> float:
    """Entropy of the class counts as a share of its maximum, log K: 1 when all classes appear
    equally often.

    >>> class_entropy(torch.tensor([0, 1, 2, 3]), 4)
    1.0
    """
    if classes < 2:
        raise ValueError(
            f"{classes} classes were given; an entropy needs at least 2; pass the number of classes"
        )
    if len(labels) == 0 or int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise ValueError(
            f"{len(labels)} labels came for {classes} classes; some are needed, all in 0 ... K-1; "
            "check them"
        )
    p = torch.bincount(labels, minlength=classes).double()
    p = p / p.sum()
    return float(-(p * p.clamp_min(1e-300).log()).sum() / math.log(classes))


def psnr(x: Tensor, truth: Tensor, *, mask: Tensor | None = None, peak: float = 1.0) -> Estimate:
    """Peak signal-to-noise ratio in dB, 10 log₁₀(peak² / MSE), the mean over images with its
    standard error.

    mask (*event), bool: where to look; everywhere unless given. Images restored without error are
    refused as infinite.
    """
    if x.shape != truth.shape or (mask is not None and not bool(mask.any())):
        raise ValueError(
            f"images of shape {tuple(x.shape)} met a truth of {tuple(truth.shape)} (mask: "
            f"{'none' if mask is None else int(mask.sum())} numbers); shapes must agree and a mask "
            "must look somewhere; fix it"
        )
    squares = (x - truth).square().double()
    if mask is not None:
        wide = mask.expand(squares.shape[1:]).to(squares)
        errors = (squares * wide).flatten(1).sum(1) / wide.sum()
    else:
        errors = squares.flatten(1).mean(1)
    if bool((errors == 0).any()):
        raise ValueError(
            f"{int((errors == 0).sum())} images have no error at all; their PSNR is infinite; "
            "leave them out or check that the truth was not passed twice"
        )
    return mean(10 * torch.log10(peak**2 / errors))


def ssim(x: Tensor, truth: Tensor, *, peak: float = 1.0) -> Estimate:
    """Structural similarity, the mean over images (N, C, H, W) of at least 11 × 11 pixels with its
    standard error; 1 is equal.

        (2 m_x m_y + c₁) (2 s_xy + c₂) / ((m_x² + m_y² + c₁) (s_x² + s_y² + c₂)),     c = (0.01
                                                                                      peak)², (0.03
                                                                                      peak)²

    with means m, variances and covariance s under a Gaussian window, σ = 1.5 pixels, 11 × 11,
    wherever it fits into the image. Source: Wang et al. (2004),
    https://doi.org/10.1109/TIP.2003.819861

    >>> image = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    >>> ssim(image, image).value
    1.0
    """
    if x.shape != truth.shape or x.dim() != 4 or min(x.shape[2:]) < 11 or not peak > 0:
        raise ValueError(
            f"images of shape {tuple(x.shape)} met a truth of {tuple(truth.shape)}, peak {peak}; "
            "both (N, C, H, W), with sides of 11 or more and a peak above 0 are needed; pad or "
            "enlarge small images"
        )
    line = torch.softmax(
        -torch.arange(-5, 6, dtype=torch.float64, device=x.device).square() / (2 * 1.5**2), 0
    )

    def smooth(image: Tensor) -> Tensor:
        return torch.einsum("nchwij,i,j->nchw", image.unfold(2, 11, 1).unfold(3, 11, 1), line, line)

    a, b = x.double(), truth.double()
    ma, mb = smooth(a), smooth(b)
    va, vb, vab = smooth(a * a) - ma * ma, smooth(b * b) - mb * mb, smooth(a * b) - ma * mb
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    values = (2 * ma * mb + c1) * (2 * vab + c2) / ((ma * ma + mb * mb + c1) * (va + vb + c2))
    return mean(values.flatten(1).mean(1))


def _rows(x: Tensor) -> Tensor:
    if len(x) < 2:
        raise ValueError(
            f"{len(x)} points were given; a comparison of laws needs at least 2 on each side; pass "
            "more"
        )
    check_finite(x, "points")
    return x.detach().flatten(1).double()


def _kernel(a: Tensor, b: Tensor, bandwidth: float) -> Tensor:
    return torch.exp(-torch.cdist(a, b).square() / (2 * bandwidth**2))
