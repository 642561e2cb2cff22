"""What a trained run is worth, measured on its test part: samples, detection, restoration,
likelihood.

One file per question; `whole` asks them and writes the answers into the run directory, `subjects`
holds the run examined and `draws` what it samples.
"""

from lowland.evaluation.detection import shifted
from lowland.evaluation.draws import draw, kept_chains, prior_bank
from lowland.evaluation.likelihood import measure_likelihood
from lowland.evaluation.restoration import lower_half_hidden, restoration_settings
from lowland.evaluation.subjects import Findings, Subject, subject
from lowland.evaluation.whole import evaluate_run

__all__ = [
    "Findings",
    "Subject",
    "draw",
    "evaluate_run",
    "kept_chains",
    "lower_half_hidden",
    "measure_likelihood",
    "prior_bank",
    "restoration_settings",
    "shifted",
    "subject",
]
