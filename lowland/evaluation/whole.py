"""All that `lowland evaluate` measures, written into the run directory.

`evaluate_run` writes evaluation.json (figures) and evaluation.safetensors (the arrays behind the
pictures); the report reads those files and nothing else. Every figure has a standard error where
one is known, and every figure that could flatter stands beside what it must be compared with.
"""

import time
from collections.abc import Callable
from typing import Any

import torch

from lowland.data import Dataset
from lowland.evaluation.boltzmann import measure_boltzmann
from lowland.evaluation.classification import measure_classification
from lowland.evaluation.detection import measure_detection
from lowland.evaluation.landscape import measure_landscape
from lowland.evaluation.restoration import measure_restoration
from lowland.evaluation.samples import measure_samples, trained_judge
from lowland.evaluation.subjects import Findings, subject
from lowland.nets.boltzmann import RBM
from lowland.run import Run


def evaluate_run(
    run: Run, data: Dataset | None = None, say: Callable[[str], object] = lambda _: None
) -> dict[str, Any]:
    """Examine a run, write what was found into it, return the figures. `say` hears what is being
    done.
    """
    began = time.monotonic()
    s, found = subject(run, data), Findings()
    generator = torch.Generator().manual_seed(int(s.recipe["seed"]) + 2_000_003)
    judge = trained_judge(s, found, say)
    say("drawing samples")
    made = measure_samples(s, found, generator, judge)
    measure_classification(s, found)
    say("measuring detection")
    measure_detection(s, found, generator, made.x)
    restoration = s.recipe.get("restoration")
    if restoration and restoration["count"] and s.data.domain.kind == "binary":
        found.notes.append(
            "Restoration was left out: its figures are errors of grey values, and these data are 0 "
            "or 1."
        )
    elif restoration and restoration["count"] and len(s.data.domain.shape) == 3:
        say("restoring test images")
        measure_restoration(s, found, generator, judge)
    if s.data.domain.shape == (2,):
        measure_landscape(s, found)
    if isinstance(s.energy, RBM):
        measure_boltzmann(s, found, say)
    if s.data.note:
        found.notes.append(s.data.note)
    found.figures |= {"seconds": round(time.monotonic() - began, 1), "notes": found.notes}
    run.write_tensors("evaluation.safetensors", found.arrays)
    run.write_json("evaluation.json", found.figures)
    return found.figures
