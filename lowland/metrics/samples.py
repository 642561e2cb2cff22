"""Comparison of samples with data: distances, tests, coverage, nearest neighbours, image errors."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lowland.energy import check_finite
from lowland.metrics.estimate import Estimate, mean, share


def mmd(x: Tensor, y: Tensor, bandwidth: float | None = None) -> Estimate:
    """Estimate the squared maximum mean discrepancy of x and y under a Gaussian kernel, unbiased.

        MMD² = E k(x, x') + E k(y, y') − 2 E k(x, y),    k(a, b) = exp(−‖a − b‖² / 2ℓ²)

    bandwidth: ℓ, the median distance between the pooled points unless given. The error is the
    standard error of the U-statistic's first-order term; at equal distributions that term vanishes
    and the error is an upper bound. Source: Gretton et al. (2012),
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
    """Return the Fréchet distance between Gaussians fitted to features (N, d) and (M, d), float64.

        ‖m_x − m_y‖² + tr(C_x + C_y − 2 (C_x^½ C_y C_x^½)^½)

    An FID only if the features are the Inception network's. Biased upwards for few points: compare
    at equal counts. Source: Dowson & Landau (1982), https://doi.org/10.1016/0047-259X(82)90077-X
    """
    a, b = _rows(x), _rows(y)
    ca, cb = torch.atleast_2d(torch.cov(a.T)), torch.atleast_2d(torch.cov(b.T))
    values, vectors = torch.linalg.eigh(ca)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cb @ root).clamp_min(0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + ca.trace() + cb.trace() - 2 * cross)


class Coverage(NamedTuple):
    """Precision: share of samples within the data's reach. Recall: the reverse."""

    precision: Estimate
    recall: Estimate


def precision_recall(x: Tensor, y: Tensor, k: int = 3) -> Coverage:
    """Measure the share of samples x (N, d) close to data y (M, d), and of data close to samples.

        precision = share of x inside ∪_j B(y_j, r_j),   recall = share of y inside ∪_i B(x_i, r_i)

    r is the distance to the k-th nearest neighbour within the same set. Both are near, not at, 1
    for two draws of one distribution, and depend on N and M: compare at equal counts. The errors
    are binomial, with the balls as they are. Give features of images, not pixels. Source:
    Kynkäänniemi et al. (2019), https://arxiv.org/abs/1904.06991

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
    """Return the share of x inside the balls around y that hold k other points of y."""
    reach = torch.cat([torch.cdist(part, y).kthvalue(k + 1, 1).values for part in y.split(1024)])
    inside = [(torch.cdist(part, y) <= reach).any(1) for part in x.split(1024)]
    return share(int(torch.cat(inside).sum()), len(x))


def two_sample_accuracy(
    x: Tensor, y: Tensor, *, generator: torch.Generator, hidden: int = 64, steps: int = 1000
) -> Estimate:
    """Train a classifier to tell x (N, d) from y (M, d); return its accuracy on unused points.

    ½: one distribution; 1: apart. The larger set is cut to the size of the smaller; half of each
    trains a perceptron with one hidden layer (standardized inputs, AdamW, batches of 256, a falling
    rate). The error is binomial; the accuracy is a lower bound of the best classifier's. Source:
    Lopez-Paz & Oquab (2017), https://arxiv.org/abs/1610.06545

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
    half = count // 2
    z = torch.cat([part[:half] for part in sides] + [part[half:] for part in sides]).float()
    z = (z - z.mean(0)) / z.std(0).clamp_min(1e-6)
    train, rest = 2 * half, count - half
    truth = torch.cat([torch.arange(train) >= half, torch.arange(2 * rest) >= rest])
    logit = _train_classifier(z[:train], truth[:train].float(), hidden, steps, generator)
    right = (logit(z[train:]) > 0) == truth[train:]
    return share(int(right.sum()), 2 * rest)


def _train_classifier(
    x: Tensor, truth: Tensor, hidden: int, steps: int, generator: torch.Generator
) -> Callable[[Tensor], Tensor]:
    """Train a perceptron on rows x with truth 0 or 1; return its logit as a function."""
    inputs = x.shape[1]
    first = torch.randn(inputs, hidden, generator=generator) / math.sqrt(inputs)
    last = torch.randn(hidden, generator=generator) / math.sqrt(hidden)
    weights = [first, torch.zeros(hidden), last, torch.zeros(())]

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
    """Return the Euclidean distance (N,) of each x to its nearest reference point, and its index.

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
        # cdist expands the square, which rounds near copies
        distances.append((a[i : i + 512] - b[which]).norm(dim=1))
        indices.append(which)
    return torch.cat(distances), torch.cat(indices)


def class_entropy(labels: Tensor, classes: int) -> float:
    """Return the entropy of the class counts divided by log K: 1 if classes are equally frequent.

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
    """Return the peak signal-to-noise ratio in dB, 10 log₁₀(peak² / MSE), averaged over images.

    mask (*event), bool: the pixels that count; all unless given. Raises ValueError for images
    without error, whose ratio is infinite.
    """
    where = torch.ones((), dtype=torch.bool, device=x.device) if mask is None else mask
    if x.shape != truth.shape or not bool(where.any()):
        raise ValueError(
            f"images of shape {tuple(x.shape)} met a truth of {tuple(truth.shape)} and a mask true "
            f"at {int(where.sum())} places; shapes must agree and a mask must be true somewhere; "
            "correct them"
        )
    squares = (x - truth).square().double()
    weights = where.expand(squares.shape[1:]).to(squares)
    errors = (squares * weights).flatten(1).sum(1) / weights.sum()
    if bool((errors == 0).any()):
        raise ValueError(
            f"{int((errors == 0).sum())} images have no error at all; their PSNR is infinite; "
            "leave them out or check that the truth was not passed twice"
        )
    return mean(10 * torch.log10(peak**2 / errors))


def ssim(x: Tensor, truth: Tensor, *, peak: float = 1.0) -> Estimate:
    """Return the structural similarity, averaged over images (N, C, H, W); 1 means equal.

        (2 m_x m_y + c₁) (2 s_xy + c₂) / ((m_x² + m_y² + c₁) (s_x² + s_y² + c₂)),
        c = (0.01 peak)², (0.03 peak)²

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
            f"{len(x)} points were given; a comparison needs at least 2 on each side; pass more"
        )
    check_finite(x, "points")
    return x.detach().flatten(1).double()


def _kernel(a: Tensor, b: Tensor, bandwidth: float) -> Tensor:
    return torch.exp(-torch.cdist(a, b).square() / (2 * bandwidth**2))
