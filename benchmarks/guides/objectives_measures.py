"""What the draws of a run are worth, from the draws that it left: figures of
`benchmarks.guides.objectives`, nothing trained again.
"""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lowland.data import Split, load_data
from lowland.energy import energy_values
from lowland.metrics import (
    auroc,
    class_entropy,
    frechet_distance,
    ksd,
    mmd,
    precision_recall,
    two_sample_accuracy,
)
from lowland.nets import PairEnergy
from lowland.tasks import as_classifier
from lowland.trained import Model, load
from lowland.training import ImageClassifier, train_classifier

RUNS = Path("runs/objectives")
HASTE = 10.0  # the rate that is far too large
DRAWS = 1000
FINE = 0.15  # a width at which a blur of the moons shows that the median distance overlooks


def folder(name: str, seed: int, rate: float) -> Path:
    """Return the directory of a run."""
    return RUNS / f"{name}-{seed}-{rate:g}"


def measured(path: Path) -> dict[str, Any]:
    """The figures of a run: its draws beside test data, its energy on test data and outliers, and
    what else it can do.
    """
    one = load(path)
    x = one.run.read_tensors("draws.safetensors")["x"]
    if not bool(x.isfinite().all()):
        return {"finite": False}
    test = one.data.test
    found = {"finite": True, **compared(x, test.x[: len(x)])}
    if one.energy.latent is None or one.energy.latent.data_domain is None:
        found["outliers"] = _plain(
            auroc(*(energy_values(one.marginal, x) for x in (test.x, outliers(test))))
        )
    if len(one.shape) == 1 and one.sigmas is None and one.energy.domain.kind == "real":
        found["ksd"] = _plain(ksd(one.energy, test.x[:DRAWS]))
    if one.classes:
        classify = as_classifier(one.energy)
        with torch.no_grad():
            found["accuracy"] = float(classify(test.x).argmax(1).eq(test.y).float().mean())
    if isinstance(one.energy, PairEnergy):
        found["neighbour"], found["neighbour_pixels"] = _neighbours(one)
    return found


def real(path: Path) -> dict[str, Any]:
    """What held-out data of a run's own set, in place of draws, get from the same figures."""
    data = load(path).data
    test = data.test.x[:DRAWS]
    other = data.calibration.x if len(data.calibration) >= len(test) else data.train.x
    return compared(other[: len(test)], test)


def outliers(data: Split) -> Tensor:
    """What is no data and near them: points in the plane stretched by half, the upper half of one
    digit on another's lower.
    """
    if data.x.dim() == 2:
        return 1.5 * data.x
    assert data.y is not None
    spliced = data.x.roll(1, 0)
    spliced[:, :, 4:] = data.x[:, :, 4:]
    return spliced[data.y != data.y.roll(1)]


def compared(x: Tensor, test: Tensor) -> dict[str, Any]:
    """Draws beside test data: in the plane themselves, for images the features of one
    classifier.
    """
    if test.dim() == 2:
        width = float(torch.pdist(test).median())
        return {
            "mmd": _plain(mmd(x, test, width)),
            "fine": _plain(mmd(x, test, FINE)),
            **_told_apart(x, test),
        }
    judge = judge_of_digits()
    p, features = judge.probabilities(x), judge.features(test)
    return {
        "frechet": frechet_distance(judge.features(x), features),
        "entropy": class_entropy(p.argmax(1), p.shape[1]),
        "confident": float((p.max(1).values > 0.9).float().mean()),
        **_told_apart(judge.features(x), features),
    }


def _told_apart(x: Tensor, test: Tensor) -> dict[str, Any]:
    """Two-sample accuracy, precision and recall."""
    reach = precision_recall(x, test)
    told = two_sample_accuracy(x, test, generator=torch.Generator().manual_seed(5))
    return {
        "told": _plain(told),
        "precision": _plain(reach.precision),
        "recall": _plain(reach.recall),
    }


def _neighbours(one: Model) -> tuple[float, float]:
    """The share of test data whose nearest training datum is of their class: by features, and by
    the numbers themselves.
    """
    energy: Any = one.energy
    train, test = one.data.train, one.data.test
    with torch.no_grad():
        spaces = (
            (energy.embed(test.x), energy.embed(train.x)),
            (test.x.flatten(1), train.x.flatten(1)),
        )
    assert train.y is not None and test.y is not None
    by_features, by_pixels = (
        float(train.y[torch.cdist(a, b).argmin(1)].eq(test.y).float().mean()) for a, b in spaces
    )
    return by_features, by_pixels


def _plain(estimate: Any) -> dict[str, float]:
    return {key: float(value) for key, value in estimate.to_dict().items()}


@cache
def judge_of_digits() -> ImageClassifier:
    """One classifier for all seeds and forms of the set; it never sees a draw while it learns."""
    data = load_data("digits", seed=0)
    return train_classifier(data.train, data.classes, steps=600, seed=0)
