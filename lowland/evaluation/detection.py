"""False alarms of a run's detector on fresh data, and how well it finds outliers."""

import torch
from torch import Tensor

from lowland.data import load_data
from lowland.domain import Domain
from lowland.evaluation.findings import Findings
from lowland.metrics import aupr, auroc, detection_error, false_alarms, fpr95
from lowland.registry import Plain
from lowland.tasks.detection.registry import outlier_score_to_dict
from lowland.trained import Model
from lowland.trained.placement import compute_energies

METRICS = (auroc, aupr, fpr95, detection_error)


def shift_points(x: Tensor, domain: Domain) -> tuple[str, Tensor]:
    """Shift data as a first kind of outlier that the domain can hold; returns its name and points.

    Square images are rotated by 90°, vectors stretched by half; on other bounded domains every
    value becomes another.
    """
    if x.dim() == 4 and x.shape[2] == x.shape[3]:
        return "turned 90°", x.rot90(1, (2, 3))
    if domain.kind == "real":
        return "stretched 1.5×", 1.5 * x
    return "other values", domain.elsewhere(x)


def measure_detection(
    model: Model, found: Findings, generator: torch.Generator, samples: Tensor
) -> None:
    """Measure false alarms on test data, and rank metrics of outliers against test data."""
    nominal, test = model.recipe["evaluation"]["alpha"], model.data.test.x
    detector = model.detector(model.recipe["evaluation"].get("outlier_score", "energy"))
    detector.ranks(nominal)  # refuses a rate that the calibration part cannot promise
    model.run.write_tensors(
        "calibration.safetensors",
        {"energies": compute_energies(model, model.data.calibration.x)},
        {"weights": model.digest},
    )
    scores = detector.outlier_scores(test)
    p = detector.p_value_of_scores(scores)
    rate = false_alarms(p, nominal, detector.calibration_size)
    name, moved = shift_points(test, model.data.domain)
    outliers = {
        "noise": model.data.domain.draw(len(test), generator, dtype=test.dtype),
        name: moved,
        **_other_sets(model, found),
    }
    figures: Plain = {
        "nominal": nominal,
        "score": outlier_score_to_dict(detector.outlier_score),
        "calibration_count": detector.calibration_size,
        "false_alarm": {
            "value": rate.value,
            "low": rate.low,
            "high": rate.high,
            "count": rate.points,
        },
        "outliers": {},
    }
    found.arrays |= {
        "energies/train": compute_energies(model, model.data.train.x[:5000]),
        "energies/test": compute_energies(model, test),
        "energies/samples": compute_energies(model, samples),
    }
    for label, x in outliers.items():
        found.arrays[f"energies/{label}"] = compute_energies(model, x)
        found_at = detector.outlier_scores(x)
        figures["outliers"][label] = {
            m.__name__: m(scores, found_at).to_dict() for m in METRICS
        } | {"count": len(x)}
    grid = torch.linspace(0.02, 0.5, 25, dtype=torch.float32)
    rates = [false_alarms(p, float(g), detector.calibration_size) for g in grid]
    for key, column in (("nominal", 0), ("empirical", 1), ("low", 2), ("high", 3)):
        found.arrays[f"alarm_{key}"] = torch.tensor([float(r[column]) for r in rates])
    found.figures["detection"] = figures


def _other_sets(model: Model, found: Findings) -> dict[str, Tensor]:
    """Load the test parts of other data sets that the recipe names, where they are at hand and of
    the same shape; notes say what was left out.
    """
    sets = {}
    for name in model.recipe["evaluation"]["outliers"]:
        try:
            root, how = model.recipe["data"].get("root"), model.data.binarization or None
            x = load_data(name, root=root, download=False, binarize=how).test.x
        except ValueError as error:
            found.notes.append(f"The outlier set {name} was left out: {str(error).splitlines()[0]}")
            continue
        if tuple(x.shape[1:]) == model.data.domain.shape:
            sets[name] = x
        else:
            found.notes.append(
                f"The outlier set {name} was left out: its images have another shape."
            )
    return sets
