"""What tells a data set from every other: digests of its parts, and hashes of the training points.

A digest is the SHA-256 of the examples as the energy sees them. Where it differs, random
projections decide whether the values differ by more than rounding: a run that moves to another
machine, whose sines or sums end in another bit, still knows its data. Hashes of single points are
taken on a grid of 1/50,000 standard deviation, and tell which points of a file were trained on.
"""

import hashlib
import math
from typing import NamedTuple

import torch
from torch import Tensor

from lowland.data.binarization import materialize
from lowland.data.dataset import Dataset, Split
from lowland.registry import Plain
from lowland.seeds import make_generator

PROJECTIONS = 4
TOLERANCE = 1e-5  # of projections, in standard deviations: far above rounding, far below a change
GRID = 2e-5  # of hashed points, in standard deviations
CHUNK = 4096  # examples at a time


def digest_data(data: Dataset) -> Plain:
    """Return the digest of each part: count, SHA-256 of examples and labels, projections.

    >>> from lowland.data import load_data
    >>> digest_data(load_data("digits"))["test"]["count"]
    250
    """
    return {name: _digest_part(part) for name, part in data.splits()}


def find_changes(then: Plain, data: Dataset) -> list[str]:
    """Say which parts of a data set differ from those that had the digests `then`."""
    changes = []
    for name, part in data.splits():
        known, count = then.get(name, {}), len(part)
        if known.get("count") != count:
            changes.append(f"the {name} part had {known.get('count')} examples, now {count}")
        elif known.get("sha256") != _describe(part)["sha256"] and not _agree(known, part):
            changes.append(f"the {name} part has {count} examples, as then, but others")
    return changes


def _digest_part(part: Split) -> Plain:
    return {**_describe(part), "projections": _project(part.x.detach().cpu())}


def _describe(part: Split) -> Plain:
    x = part.x.detach().cpu().contiguous()
    labels = "" if part.y is None else _sha256(part.y.detach().cpu().contiguous())
    about = {"shape": list(x.shape[1:]), "labels": labels}
    digest = hashlib.sha256(f"{x.dtype} {about} {_sha256(x)}".encode()).hexdigest()
    return {"count": len(x), "sha256": digest, **about}


def _sha256(x: Tensor) -> str:
    return hashlib.sha256(x.numpy().tobytes()).hexdigest()


def _project(x: Tensor) -> list[float]:
    """Return weighted sums of the examples in standard units, of their means and deviations."""
    mean, std = _moments(x)
    size = mean.numel()
    generator = make_generator(0, "projections", size)
    columns = torch.randn(size, PROJECTIONS, generator=generator, dtype=torch.float64)
    rows = make_generator(1, "projections")
    sums = torch.zeros(PROJECTIONS, dtype=torch.float64)
    for part in x.split(CHUNK):
        standard = (part.flatten(1).double() - mean) / std
        weights = torch.randn(len(part), PROJECTIONS, generator=rows, dtype=torch.float64)
        sums += (weights * (standard @ columns)).sum(0)
    sums /= math.sqrt(max(x.numel(), 1))
    return [*sums.tolist(), float(mean @ columns[:, 0]), float(std @ columns[:, 1])]


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (D,) of each value of the examples, in float64; 1 for a
    value that never changes.
    """
    size = x[:1].numel() if len(x) else math.prod(x.shape[1:])
    mean, square = (torch.zeros(size, dtype=torch.float64) for _ in range(2))
    for part in x.split(CHUNK):
        mean += part.flatten(1).double().sum(0) / max(len(x), 1)
    for part in x.split(CHUNK):
        square += (part.flatten(1).double() - mean).square().sum(0) / max(len(x), 1)
    std = square.sqrt()
    return mean, torch.where(std > 1e-9 * mean.abs().clamp_min(1e-30), std, torch.ones_like(std))


def _agree(known: Plain, part: Split) -> bool:
    """Tell whether parts of one size are the same but for rounding."""
    then, now = known.get("projections"), _digest_part(part)
    same = all(known.get(key) == now[key] for key in ("shape", "labels"))
    if not same or not isinstance(then, list) or len(then) != len(now["projections"]):
        return False
    numbers = all(isinstance(number, int | float) for number in then)
    return numbers and all(
        abs(a - b) <= TOLERANCE * max(1.0, abs(b))
        for a, b in zip(then, now["projections"], strict=True)
    )


class PointHashes(NamedTuple):
    """Hashes of the training points of a run.

    hashes: (N,) int64, sorted; center, spacing: (D,) float64, the grid; chance: (2,) int64, how
    many of the calibration points are among them, and how many these are: data of few values repeat
    themselves.
    """

    hashes: Tensor
    center: Tensor
    spacing: Tensor
    chance: Tensor

    @classmethod
    def of(cls, data: Dataset) -> "PointHashes":
        """Hash the training points of a data set; grey values that are probabilities also as they
        are drawn.
        """
        center, std = _moments(data.train.x)
        known = cls(torch.zeros(0, dtype=torch.long), center, GRID * std, torch.zeros(2))
        hashes = known._hash(data.train.x)
        drawn = materialize(data)
        if drawn is not data:
            hashes = torch.cat([hashes, known._hash(drawn.train.x)])
        known = known._replace(hashes=hashes.unique())
        held = data.calibration.x
        return known._replace(chance=torch.tensor([int(known.find(held).sum()), len(held)]))

    def find(self, x: Tensor) -> Tensor:
        """Tell which points (N, *event) are training points: (N,) bool."""
        return torch.isin(self._hash(x), self.hashes)

    def _hash(self, x: Tensor) -> Tensor:
        """Return the hash (N,) of each point: a random combination of its places on the grid."""
        size = self.center.numel()
        factors = torch.randint(
            -(1 << 62), 1 << 62, (size,), generator=make_generator(2, "projections", size)
        )
        parts = []
        for part in x.detach().cpu().split(CHUNK):
            place = ((part.flatten(1).double() - self.center) / self.spacing).round()
            place = place.nan_to_num().clamp(-(2.0**50), 2.0**50).long()
            parts.append((place * factors).sum(1))
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long)
