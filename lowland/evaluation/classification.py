"""Accuracy and calibration of p(y | x) = softmax(−e(x)), for energies with classes."""

import torch
from torch import Tensor

from lowland.devices import find_device, to_float64
from lowland.energy import Energy, freeze
from lowland.evaluation.findings import Findings
from lowland.metrics import reliability, share
from lowland.objectives.labels import class_energies
from lowland.trained import Model


def class_probabilities(energy: Energy, x: Tensor) -> Tensor:
    """Compute p(y | x) = softmax(−e(x)), (N, K) in float64, at points x (N, *event) of any
    device.
    """
    with freeze(energy) as energy, torch.no_grad():
        place = find_device(energy) or x.device
        heads = [class_energies(energy, part.to(place)).to(x.device) for part in x.split(1000)]
    return torch.softmax(-to_float64(torch.cat(heads)), 1)


def measure_classification(model: Model, found: Findings) -> None:
    """Measure accuracy, calibration error and cross-entropy of p(y | x) on the test part."""
    y = model.data.test.y
    if not model.classes or y is None:
        return
    p = class_probabilities(model.energy, model.data.test.x)
    right = p.argmax(1) == y
    curve = reliability(p, y)
    found.figures["classification"] = {
        "count": len(y),
        "accuracy": share(int(right.sum()), len(y)).to_dict(),
        "calibration_error": curve.error,
        "bins": len(curve.counts),
        "cross_entropy": float(-p.gather(1, y.unsqueeze(1)).log().mean()),
        "confidence": float(p.max(1).values.mean()),
    }
    found.arrays |= {
        "reliability_confidence": curve.confidence,
        "reliability_accuracy": curve.accuracy,
        "reliability_counts": curve.counts,
    }
