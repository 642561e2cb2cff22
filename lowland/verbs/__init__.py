"""The verbs in Python: what the command line does, over the same functions.

train · resume · sample · energy · restore · evaluate · report

Under torchrun, several processes share the work of train, resume, sample and energy; the first of them writes and speaks.
"""

from lowland.verbs.restoring import restore
from lowland.verbs.running import evaluate, likelihood, report, resume, train
from lowland.verbs.sampling import sample
from lowland.verbs.scoring import energies, format_rows, score

__all__ = ["energies", "evaluate", "format_rows", "likelihood", "report", "restore", "resume", "sample", "score", "train"]
