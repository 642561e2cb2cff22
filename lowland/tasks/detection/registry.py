"""The outlier scores that have a name, and their settings as plain values."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from lowland.registry import suggest
from lowland.tasks.detection.class_scores import (
    KNN,
    MSP,
    ODIN,
    EnsembleMSP,
    LogitEnergy,
    Mahalanobis,
    MaxLogit,
    MutualInformation,
)
from lowland.tasks.detection.scores import (
    Background,
    Descent,
    Disagreement,
    EnsembleMean,
    GradientNorm,
    Multiscale,
    OutlierScore,
    PlainEnergy,
    Typicality,
)

OUTLIER_SCORES: dict[str, type[OutlierScore]] = {
    "energy": PlainEnergy,
    "typicality": Typicality,
    "gradient-norm": GradientNorm,
    "descent": Descent,
    "background": Background,
    "multiscale": Multiscale,
    "ensemble": EnsembleMean,
    "disagreement": Disagreement,
    "msp": MSP,
    "max-logit": MaxLogit,
    "logit-energy": LogitEnergy,
    "odin": ODIN,
    "mahalanobis": Mahalanobis,
    "knn": KNN,
    "ensemble-msp": EnsembleMSP,
    "mutual-information": MutualInformation,
}


def get_outlier_score(score: str | OutlierScore) -> OutlierScore:
    """Return the outlier score of a name, or the score itself. Raises ValueError for other names.

    >>> get_outlier_score("energy")
    PlainEnergy()
    """
    if isinstance(score, OutlierScore):
        return score
    if not isinstance(score, str) or score not in OUTLIER_SCORES:
        hint = suggest(str(score), OUTLIER_SCORES, "choose one of them")
        names = ", ".join(OUTLIER_SCORES)
        raise ValueError(f"outlier score {score!r} is not known; there are {names}; {hint}")
    return OUTLIER_SCORES[score]()


def outlier_score_to_dict(score: OutlierScore) -> dict[str, Any]:
    """Return a score's name and settings as plain values, for `outlier_score_from_dict`.

    Raises ValueError for a class that is not in `OUTLIER_SCORES`.

    >>> outlier_score_to_dict(LogitEnergy(2.0))
    {'name': 'logit-energy', 'temperature': 2.0}
    """
    name = next((name for name, cls in OUTLIER_SCORES.items() if cls is type(score)), None)
    if name is None:
        raise ValueError(
            f"{type(score).__name__} is a score of your own; a file holds only those of lowland, "
            f"{', '.join(OUTLIER_SCORES)}; keep the calibration scores, and hand them to "
            "Detector(energy, outlier_score, calibration=...)"
        )
    return {"name": name, **asdict(score)}


def outlier_score_from_dict(values: Mapping[str, Any]) -> OutlierScore:
    """Return the score whose name and settings `outlier_score_to_dict` gave.

    >>> outlier_score_from_dict({"name": "knn", "neighbours": 3}).neighbours
    3
    """
    settings = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in values.items()
        if name != "name"
    }
    return OUTLIER_SCORES[values["name"]](**settings)
