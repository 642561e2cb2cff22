"""Evaluation of a trained run on its test part, written into its directory.

`evaluate_model` writes evaluation.json (figures) and evaluation.safetensors (the arrays behind the
pictures); the report reads those files and nothing else. Every figure has a standard error where
one is known, and every figure that could flatter stands beside what it must be compared with.
"""

import time
from collections.abc import Callable

from lowland.evaluation.boltzmann import measure_boltzmann
from lowland.evaluation.classification import measure_classification
from lowland.evaluation.detection import measure_detection
from lowland.evaluation.findings import Findings
from lowland.evaluation.landscape import measure_landscape
from lowland.evaluation.restoration import measure_restoration
from lowland.evaluation.samples import measure_samples, train_judge
from lowland.nets.boltzmann import RBM
from lowland.plain import to_plain
from lowland.registry import Plain
from lowland.seeds import make_generator
from lowland.trained import Model
from lowland.training.rehearsal import scores_data


def evaluate_model(model: Model, say: Callable[[str], object] = lambda _: None) -> Plain:
    """Measure a trained run, write the results into its directory and return the figures.

    say: called with a few words before each part.
    """
    began = time.monotonic()
    found = Findings()
    generator = make_generator(model.recipe["seed"], "evaluation")
    judge = train_judge(model, found, say)
    say("drawing samples")
    made = measure_samples(model, found, generator, judge)
    measure_classification(model, found)
    if scores_data(model.energy):
        say("measuring detection")
        measure_detection(model, found, generator, model.marginal.domain.project(made.x))
    else:
        found.notes.append(
            "Energies and detection were left out: this model has latent units that no closed form "
            "sums out, so it gives data no energy."
        )
    restoration = model.recipe.get("restoration")
    if restoration and restoration["count"] and model.data.domain.kind == "binary":
        found.notes.append(
            "Restoration was left out: its figures are errors of grey values, and these data are 0 "
            "or 1."
        )
    elif restoration and restoration["count"] and len(model.data.domain.shape) == 3:
        say("restoring test images")
        measure_restoration(model, found, generator, judge)
    if model.data.domain.shape == (2,):
        measure_landscape(model, found)
    if isinstance(model.energy, RBM):
        measure_boltzmann(model, found, say)
    if model.data.note:
        found.notes.append(model.data.note)
    found.figures |= {"seconds": round(time.monotonic() - began, 1), "notes": found.notes}
    found.figures |= {"weights": model.digest, "device": str(model.device)}
    arrays = {name: array.cpu() for name, array in found.arrays.items()}
    model.run.write_tensors("evaluation.safetensors", arrays, {"weights": model.digest})
    model.run.write_json("evaluation.json", to_plain(found.figures))
    return found.figures
