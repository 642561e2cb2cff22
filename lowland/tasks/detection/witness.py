"""Whether a promise still holds: the energy is the one that was calibrated, and the calibration
points are as many as they seem.

An energy is recognised by the outlier scores of a few calibration points, which are computed again
at every use, or where no points are known by a digest of its weights. Points that repeat others
count as calibration points but tell nothing new.
"""

import hashlib
import math
import warnings
from collections import Counter
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from lowland.energy import Energy

NUM_WITNESSES = 16  # calibration points that are kept, spread over the scores
# How far scores may drift by rounding: share of their deviation, multiples of eps times a score
SAME_PROCESS = (0.01, 1.0)
OTHER_BATCH = (0.01, 16.0)
OTHER_MACHINE = (0.02, 4.0)
MAX_REPEATS = 0.05  # share of repeats that changes a rate by at most so much
MAX_EQUAL_SCORES = 0.5  # scores may saturate
DIGEST_TOLERANCE = 1e-7


class Witnesses(NamedTuple):
    """What an energy is recognised by.

    points (K, *event) with scores (K,), None where none are known; weights (32,) uint8:
    SHA-256 of every tensor of the energy; in files of earlier versions (P, 2), sums and sums of
    squares.
    """

    points: Tensor | None
    scores: Tensor | None
    weights: Tensor


def spread_rows(scores: Tensor, count: int = NUM_WITNESSES) -> Tensor:
    """Return indices of at most `count` points, spread evenly over the ranks of their scores."""
    places = torch.linspace(0, len(scores) - 1, min(count, len(scores)), dtype=torch.float64)
    return scores.argsort(stable=True)[places.round().long().to(scores.device)]


def digest_weights(energy: Energy) -> Tensor:
    """Return the SHA-256 (32,) uint8 of names, types, shapes and bytes of all weights."""
    found = hashlib.sha256()
    for name, tensor in (
        *energy.named_parameters(remove_duplicate=False),
        *energy.named_buffers(remove_duplicate=False),
    ):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        values = tensor.detach().cpu().contiguous().flatten()
        found.update(values.view(torch.uint8).numpy().data)
    return torch.tensor(list(found.digest()), dtype=torch.uint8)


def has_weights(energy: Energy, known: Tensor) -> bool:
    """Return True if the weights of an energy are those of a known digest."""
    if known.dtype == torch.uint8:
        return torch.equal(known.cpu(), digest_weights(energy))
    now = _sum_weights(energy)
    alike = known.shape == now.shape
    return alike and torch.allclose(known, now, rtol=DIGEST_TOLERANCE, atol=0.0, equal_nan=True)


def _sum_weights(energy: Energy) -> Tensor:
    """Return the digest (P, 2) of earlier versions: sums and sums of squares, in float64."""
    found = [
        torch.stack([t.cpu().double().sum(), t.cpu().double().square().sum()])
        for t in (*energy.parameters(), *energy.buffers())
        if t.is_floating_point() and t.numel()
    ]
    return torch.stack(found).detach() if found else torch.zeros(0, 2, dtype=torch.float64)


def find_drift(
    then: Tensor,
    now: Tensor,
    deviation: float,
    points: torch.dtype,
    tolerance: tuple[float, float] = SAME_PROCESS,
) -> float:
    """Return by how much scores (K,) differ where they differ by more than rounding; else 0.

    deviation: of all calibration scores; points: the type of the points, whose rounding scores
    inherit.
    """
    eps = max(torch.finfo(t).eps for t in (then.dtype, points) if t.is_floating_point)
    then, now = then.cpu().double(), now.cpu().double()
    slack = tolerance[0] * deviation + tolerance[1] * eps * then.abs()
    apart = (now - then).abs()
    return float(apart.max()) if bool((apart > slack).any()) else 0.0


# ---- calibration points ------------------------------------------------------------------------


def warn_of_repeats(x: Tensor, discrete: bool, stacklevel: int) -> None:
    """Warn if too many of the calibration points x (N, *event) repeat others.

    Points of a discrete domain repeat by themselves; then only a set that was copied whole is told.
    """
    counts = Counter(as_bytes(x))
    repeats = len(x) - len(counts)
    copied = len(counts) > 2 and reduce(math.gcd, counts.values()) > 1
    if copied or (not discrete and repeats > MAX_REPEATS * len(x)):
        warnings.warn(
            f"{repeats} of {len(x)} calibration points repeat others; the promise counts "
            f"independent points, of which these are {len(counts)}; pass every point once",
            stacklevel=stacklevel + 1,
        )


def warn_of_equal_scores(scores: Tensor, discrete: bool, stacklevel: int) -> None:
    """Warn if calibration scores (N,) look like copies of fewer; points of a discrete domain may
    share theirs.
    """
    counts = Counter(scores.tolist())
    repeats = len(scores) - len(counts)
    copied = len(counts) > 2 and reduce(math.gcd, counts.values()) > 1
    if copied or (not discrete and repeats > MAX_EQUAL_SCORES * len(scores)):
        warnings.warn(
            f"{repeats} of {len(scores)} calibration scores equal others; the promise counts "
            f"independent points, of which these may be {len(counts)}; pass the score of every "
            "point once",
            stacklevel=stacklevel + 1,
        )


def check_apart(calibration: Tensor, reference: Tensor, discrete: bool, stacklevel: int) -> None:
    """Refuse calibration points that are all among those the score was fitted to; warn of some."""
    known = set(as_bytes(reference))
    shared = sum(row in known for row in as_bytes(calibration.to(reference.dtype)))
    if discrete or bool((calibration == calibration.round()).all()):
        return
    if shared == len(calibration):
        raise ValueError(
            f"all {shared} calibration points are among the points that the score was fitted to; "
            "a promise needs points that the score has not seen; pass others as reference, or "
            "none, and every other calibration point is taken"
        )
    if shared > MAX_REPEATS * len(calibration):
        warnings.warn(
            f"{shared} of {len(calibration)} calibration points are among the points that the "
            "score was fitted to; nothing is promised for such; pass points that it has not seen",
            stacklevel=stacklevel + 1,
        )


def as_bytes(x: Tensor) -> list[bytes]:
    """Return each point of x (N, *event) as bytes, equal where all its numbers are equal."""
    rows = x.detach().cpu().double().reshape(len(x), -1) + 0.0  # turns -0 into 0
    return [row.tobytes() for row in rows.numpy()]
