"""Put a trained run among those that are shipped: `python -m benchmarks.quality.ship RUN NAME`.

The weights are rounded to float16; the figures beside them are those of the run, before rounding.
"""

import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from lowland.pretrained import pretrained_folder
from lowland.run import Checkpoint, Run, RunError, write_checkpoint

HASHES = "training_points.safetensors"  # by which overlap with training points is found
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
    with TemporaryDirectory() as aside:
        folder = Path(aside) / name
        _write(folder, run, Checkpoint(checkpoint.step, {"ema": half}, checkpoint.state))
        target = pretrained_folder() / name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(folder, target)
    return target


def _write(folder: Path, run: Run, checkpoint: Checkpoint) -> None:
    """Write what is kept of a run into a folder, with a checkpoint of fewer tensors."""
    kept = {key: v for key, v in checkpoint.state.items() if key in ("domain", "recipe")}
    folder.mkdir()
    write_checkpoint(folder / f"step-{checkpoint.step:08d}", checkpoint._replace(state=kept))
    for file in ("recipe.json", "data.json"):
        shutil.copy(run.path / file, folder / file)
    shipped = Run.open(folder)
    weights = shipped.load_checkpoint().digests["ema.safetensors"]
    shipped.write_json("evaluation.json", run.read_json("evaluation.json") | {"weights": weights})
    if (run.path / "calibration.safetensors").exists():
        energies = run.read_tensors("calibration.safetensors")
        shipped.write_tensors("calibration.safetensors", energies, {"weights": weights})
    if (run.path / HASHES).exists():
        known = run.read_tensors(HASHES)
        some = known["hashes"][:: -(-len(known["hashes"]) // MAX_HASHES)].contiguous()
        shipped.write_tensors(HASHES, known | {"hashes": some})


if __name__ == "__main__":
    print(ship(Run.open(sys.argv[1]), sys.argv[2]))
