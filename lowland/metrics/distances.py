"""Euclidean distances that are right far from the origin and between near copies.

‖a − b‖² = ‖a‖² + ‖b‖² − 2 ab is one matrix product, and loses all digits where points are closer
to each other than to the origin: in float32 at 1000 ± 1 the nearest neighbour is wrong four times
in five. Here points are centred in float64, and pairs that the product still cannot resolve are
subtracted number by number.
"""

import torch
from torch import Tensor

from lowland.devices import to_float64

DIRECT_WIDTH = 16  # numbers of a point up to which subtraction costs no more than a product
DIRECT_COST = 5e7  # differences that take some hundredths of a second
RESOLUTION = 2.0**23  # a square counts as resolved at so many rounding errors
PAIRS = 4096  # subtracted together
SUBTRACT = "donot_use_mm_for_euclid_dist"


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Return the distances (N, M), float64, of points a (N, D) from points b (M, D).

    >>> x = 1e6 + torch.tensor([[0.0], [0.25]], dtype=torch.float64)
    >>> distances(x, x).tolist()
    [[0.0, 0.25], [0.25, 0.0]]
    """
    a = to_float64(a)
    b = to_float64(b).to(a.device)
    if a.shape[1] <= DIRECT_WIDTH or len(a) * b.numel() <= DIRECT_COST:
        return torch.cdist(a, b, compute_mode=SUBTRACT)
    centre = b.mean(0)
    a, b = a - centre, b - centre
    far = torch.cdist(a, b)
    squares = a.square().sum(1, keepdim=True) + b.square().sum(1)
    blurred = far.square() < RESOLUTION * torch.finfo(torch.float64).eps * squares
    for rows in blurred.nonzero().split(PAIRS):
        i, j = rows.unbind(1)
        far[i, j] = (a[i] - b[j]).norm(dim=1)
    return far


def median_distance(x: Tensor) -> float:
    """Return the median distance between different points of x (N, D); 1 if all are equal."""
    far = torch.pdist(to_float64(x))
    apart = far[far > 0]
    if not len(apart):
        return 1.0
    median = far.median().item()
    return median if median > 0 else apart.median().item()
