"""The verbs in Python: what the command line does, over the same functions.

train · resume · evaluate · report · sample · energy, and the uses of a trained run:
detect · bench · restore · purify · attack · compose · edit · interpolate · predict

Under torchrun, several processes share the work of train, resume, sample and energy; the first of
them writes and speaks.
"""

from lowland.verbs.composing import compose_runs, edit_image, interpolate_images, predict_image
from lowland.verbs.detecting import bench_ood, detect, fit_detector, promises, write_rows
from lowland.verbs.files import compose_file, edit_file, interpolate_file
from lowland.verbs.purifying import attack, purify
from lowland.verbs.restoring import restore
from lowland.verbs.running import evaluate, likelihood, report, resume, train
from lowland.verbs.sampling import sample
from lowland.verbs.scoring import energies, format_rows, score

__all__ = [
    "attack",
    "bench_ood",
    "compose_file",
    "compose_runs",
    "detect",
    "edit_file",
    "edit_image",
    "energies",
    "evaluate",
    "fit_detector",
    "format_rows",
    "interpolate_file",
    "interpolate_images",
    "likelihood",
    "predict_image",
    "promises",
    "purify",
    "report",
    "restore",
    "resume",
    "sample",
    "score",
    "train",
    "write_rows",
]
