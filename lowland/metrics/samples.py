"""Comparison of samples with data: distances, tests, coverage, nearest neighbours, classes."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lowland.metrics.distances import distances, median_distance
from lowland.metrics.estimate import Estimate, share
from lowland.metrics.inputs import Numbers, draw_rows, read_labels, read_sides
from lowland.scalars import read_integer, read_number

CHUNK = 512  # points compared with all others at once
MIN_SPREAD = 1e-12  # of a feature that varies, in units of the largest number


def mmd(x: Numbers, y: Numbers, bandwidth: float | None = None) -> Estimate:
    """Estimate the squared maximum mean discrepancy of x and y under a Gaussian kernel, unbiased.

        MMD² = E k(x, x') + E k(y, y') − 2 E k(x, y),    k(a, b) = exp(−‖a − b‖² / 2ℓ²)

    bandwidth: ℓ, the median distance between the pooled points unless given. The error is the
    standard error of the U-statistic's first-order term; at equal distributions that term vanishes
    and the error is an upper bound. Source: Gretton et al. (2012),
    https://jmlr.org/papers/v13/gretton12a.html
    """
    a, b = read_sides(x, y)
    if bandwidth is None:
        bandwidth = median_distance(torch.cat([a[:1000], b[:1000]]))
    bandwidth = read_number("bandwidth", bandwidth, above=0)
    kaa, kbb, kab = (_kernel(u, v, bandwidth) for u, v in ((a, a), (b, b), (a, b)))
    n, m = len(a), len(b)
    within_a = (kaa.sum(1) - kaa.diagonal()) / (n - 1)
    within_b = (kbb.sum(1) - kbb.diagonal()) / (m - 1)
    value = within_a.mean() + within_b.mean() - 2 * kab.mean()
    side_a, side_b = within_a - kab.mean(1), within_b - kab.mean(0)
    error = 2 * math.sqrt(side_a.var().item() / n + side_b.var().item() / m)
    return Estimate(value.item(), error)


def frechet_distance(x: Numbers, y: Numbers) -> float:
    """Return the Fréchet distance between Gaussians fitted to features (N, d) and (M, d), float64.

        ‖m_x − m_y‖² + tr(C_x + C_y − 2 (C_x^½ C_y C_x^½)^½)

    An FID only if the features are the Inception network's. Biased upwards for few points: compare
    at equal counts. Source: Dowson & Landau (1982), https://doi.org/10.1016/0047-259X(82)90077-X
    """
    a, b = read_sides(x, y)
    ca, cb = torch.atleast_2d(torch.cov(a.T)), torch.atleast_2d(torch.cov(b.T))
    values, vectors = torch.linalg.eigh(ca)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cb @ root).clamp_min(0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + ca.trace() + cb.trace() - 2 * cross)


class Coverage(NamedTuple):
    """Precision: share of samples within the data's reach. Recall: the reverse."""

    precision: Estimate
    recall: Estimate


def precision_recall(x: Numbers, y: Numbers, k: int = 3) -> Coverage:
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
    a, b = read_sides(x, y)
    k = read_integer("k", k)
    if not 1 <= k < min(len(a), len(b)):
        raise ValueError(
            f"k is {k} for {len(a)} and {len(b)} points; it must be at least 1 and less than both; "
            "3 is common"
        )
    return Coverage(_within(a, b, k), _within(b, a, k))


def _within(x: Tensor, y: Tensor, k: int) -> Estimate:
    """Return the share of x inside the balls around y that hold k other points of y."""
    reach = torch.cat([distances(part, y).kthvalue(k + 1, 1).values for part in y.split(1024)])
    inside = [(distances(part, y) <= reach).any(1) for part in x.split(1024)]
    return share(int(torch.cat(inside).sum()), len(x))


def two_sample_accuracy(
    x: Numbers, y: Numbers, *, generator: torch.Generator, hidden: int = 64, steps: int = 1000
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
    points = read_sides(x, y)
    count = min(map(len, points))
    hidden, steps = read_integer("hidden", hidden), read_integer("steps", steps)
    if count < 16 or hidden < 1 or steps < 1:
        raise ValueError(
            f"{count} points on the smaller side came with hidden {hidden} and steps {steps}; at "
            "least 16 points, one unit and one step are needed; pass more"
        )
    place = generator.device
    sides = [
        part[torch.randperm(len(part), generator=generator, device=place)[:count].to(part.device)]
        for part in points
    ]
    half = count // 2
    z = torch.cat([part[:half] for part in sides] + [part[half:] for part in sides])
    z, spread = z - z.mean(0), z.std(0)
    z = torch.where(spread > MIN_SPREAD * z.abs().amax(), z / spread, 0.0).float()
    train, rest = 2 * half, count - half
    where = [torch.arange(train) >= half, torch.arange(2 * rest) >= rest]
    truth = torch.cat(where).to(z.device)
    logit = _train_classifier(z[:train], truth[:train].float(), hidden, steps, generator)
    right = (logit(z[train:]) > 0) == truth[train:]
    return share(int(right.sum()), 2 * rest)


def _train_classifier(
    x: Tensor, truth: Tensor, hidden: int, steps: int, generator: torch.Generator
) -> Callable[[Tensor], Tensor]:
    """Train a perceptron on rows x with truth 0 or 1; return its logit as a function."""
    inputs = x.shape[1]
    how: Any = {"dtype": x.dtype, "device": x.device}
    drawn: Any = {"dtype": x.dtype, "device": generator.device}
    first = torch.randn(inputs, hidden, generator=generator, **drawn).to(x.device)
    last = torch.randn(hidden, generator=generator, **drawn).to(x.device)
    first, last = first / math.sqrt(inputs), last / math.sqrt(hidden)
    weights = [first, torch.zeros(hidden, **how), last, torch.zeros((), **how)]

    def logit(z: Tensor) -> Tensor:
        return torch.relu(z @ weights[0] + weights[1]) @ weights[2] + weights[3]

    optimizer = torch.optim.AdamW([w.requires_grad_() for w in weights], lr=3e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    with torch.inference_mode(False), torch.enable_grad():
        for _ in range(steps):
            rows = draw_rows(len(x), (256,), generator, x.device)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logit(x[rows]), truth[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    for w in weights:
        w.requires_grad_(False)
    return logit


def nearest(x: Numbers, reference: Numbers, *, leave_out: bool = False) -> tuple[Tensor, Tensor]:
    """Return the Euclidean distance (N,) of each x to its nearest reference point, and its index.

    Distances are float64, on the device of x where it has that. leave_out: x is the reference
    itself; a point is then not its own neighbour.
    """
    a, b = read_sides(x, reference, least=1)
    if leave_out and (a.shape != b.shape or len(a) < 2):
        raise ValueError(
            f"{len(a)} points came with leave_out for {len(b)} reference points; they must be the "
            "same points, 2 or more; pass the reference twice"
        )
    found, indices = [], []
    for i in range(0, len(a), CHUNK):
        far = distances(a[i : i + CHUNK], b)
        if leave_out:
            far.diagonal(i).fill_(math.inf)
        least, which = far.min(1)
        found.append(least)
        indices.append(which)
    return torch.cat(found), torch.cat(indices)


def class_entropy(labels: Numbers, classes: int) -> float:
    """Return the entropy of the class counts divided by log K: 1 if classes are equally frequent.

    >>> class_entropy(torch.tensor([0, 1, 2, 3]), 4)
    1.0
    """
    classes = read_integer("classes", classes)
    if classes < 2:
        raise ValueError(
            f"{classes} classes were given; an entropy needs at least 2; pass the number of classes"
        )
    p = torch.bincount(read_labels("labels", labels, classes), minlength=classes).double()
    p = p / p.sum()
    return float(-(p * p.clamp_min(1e-300).log()).sum() / math.log(classes))


def _kernel(a: Tensor, b: Tensor, bandwidth: float) -> Tensor:
    return torch.exp(-distances(a, b).square() / (2 * bandwidth**2))
