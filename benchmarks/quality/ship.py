"""Put a trained run among those that are shipped: `python -m benchmarks.quality.ship RUN NAME`.

The weights are rounded to float16; the figures beside them are those of the run, before rounding.
"""

import json
import shutil
import sys
from pathlib import Path

from lowland.pretrained import pretrained_folder
from lowland.run import Checkpoint, Run, RunError, write_checkpoint
from lowland.run.checkpoint import read_digests, tensors_to_bytes
from lowland.training.identity import HASHES, read_hashes

MAX_HASHES = 5000  # of training points: a sample shows whether a set was trained on


def ship(run: Run, name: str) -> Path:
    """Copy what sampling and scoring need of a run into the folder of shipped ones, weights rounded
    to float16; its path.

    Averaged weights of the chosen checkpoint, recipe, data.json, evaluation.json, calibration
    energies and the page's figures; no optimiser, no chains. Raises RunError if the run is not
    evaluated or the weights exceed 2 MB.
    """
    newest = run.load_checkpoint()
    checkpoint = run.load_checkpoint(run.best_step(newest))
    half = {
        k: t.half() if t.is_floating_point() else t for k, t in checkpoint.tensors["ema"].items()
    }
    size = sum(t.numel() * t.element_size() for t in half.values())
    if size > 2_000_000 or not (run.path / "evaluation.json").exists():
        raise RunError(
            f"{run.path} has {size / 1e6:.1f} MB of weights in float16 and "
            f"{'an' if size <= 2_000_000 else 'perhaps no'} evaluation; shipped are at most 2 MB "
            "and only with measured figures; train a smaller net, or evaluate first"
        )
    target = pretrained_folder() / name
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    kept = {key: v for key, v in checkpoint.state.items() if key in ("domain", "recipe")}
    folder = target / f"step-{checkpoint.step:08d}"
    write_checkpoint(folder, Checkpoint(checkpoint.step, {"ema": half}, kept))
    weights = read_digests(folder)["ema.safetensors"]
    for file in ("recipe.json", "data.json"):
        shutil.copy(run.path / file, target / file)
    figures = run.read_json("evaluation.json") | {"weights": weights}
    (target / "evaluation.json").write_text(json.dumps(figures, indent=1))
    if (run.path / "calibration.safetensors").exists():
        energies = run.read_tensors("calibration.safetensors")
        data = tensors_to_bytes(energies, {"weights": weights})
        (target / "calibration.safetensors").write_bytes(data)
    known = read_hashes(run)
    if known is not None:
        some = known._replace(hashes=known.hashes[:: -(-len(known.hashes) // MAX_HASHES)])
        (target / HASHES).write_bytes(tensors_to_bytes(some._asdict()))
    return target


if __name__ == "__main__":
    print(ship(Run.open(sys.argv[1]), sys.argv[2]))
