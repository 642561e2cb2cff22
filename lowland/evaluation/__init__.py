"""Measurements of a trained run on its test part: samples, detection, restoration, likelihood.

One file per question. `evaluate` asks all but the likelihood and writes the answers into the run
directory; `ood` compares outlier scores.
"""

from lowland.evaluation.detection import shifted
from lowland.evaluation.evaluate import evaluate_model
from lowland.evaluation.findings import Findings
from lowland.evaluation.likelihood import measure_likelihood
from lowland.evaluation.ood import OutlierSet, Scorer, board, curves, other_data, outlier_sets
from lowland.evaluation.restoration import coverage, lower_half_hidden

__all__ = [
    "Findings",
    "OutlierSet",
    "Scorer",
    "board",
    "coverage",
    "curves",
    "evaluate_model",
    "lower_half_hidden",
    "measure_likelihood",
    "other_data",
    "outlier_sets",
    "shifted",
]
