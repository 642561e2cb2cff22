"""Measurements of a trained run on its test part: samples, detection, restoration, likelihood.

One file per question. `evaluate` asks all but the likelihood and writes the answers into the run
directory; `ood` compares outlier scores.
"""

from lowland.evaluation.detection import shift_points
from lowland.evaluation.evaluate import evaluate_model
from lowland.evaluation.findings import Findings
from lowland.evaluation.likelihood import measure_likelihood
from lowland.evaluation.ood import (
    OutlierSet,
    Scorer,
    load_other_data,
    measure_separations,
    measure_shift_curves,
    outlier_sets,
)
from lowland.evaluation.restoration import coverage, lower_half_hidden

__all__ = [
    "Findings",
    "OutlierSet",
    "Scorer",
    "coverage",
    "evaluate_model",
    "load_other_data",
    "lower_half_hidden",
    "measure_likelihood",
    "measure_separations",
    "measure_shift_curves",
    "outlier_sets",
    "shift_points",
]
