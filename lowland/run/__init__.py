"""The directory of a run, to which everything is written and from which everything is read.

    RUN/recipe.json         the complete recipe, format number, versions
    RUN/data.json           name, classes, sizes and scale of the data, for what runs without them
    RUN/log.jsonl           one row per logged step; no clock in it, so equal runs have equal logs
    RUN/time.jsonl          wall-clock seconds per logged step
    RUN/step-00000500/      a checkpoint: *.safetensors, state.json, manifest.json (SHA-256 of each
                            file)
    RUN/evaluation.json     figures; RUN/evaluation.safetensors: the arrays behind the pictures
    RUN/calibration.safetensors, RUN/prior_samples.safetensors: energies that set thresholds, draws
                            of the prior for restoration
    RUN/report.html         one self-contained page

A checkpoint is whole or absent: written aside, synced, renamed. Reading verifies it against its
manifest; a damaged one is named and passed over for the newest whole one. Safetensors and JSON
only: nothing is ever unpickled.
"""

from lowland.run.checkpoint import Checkpoint, RunError, write_checkpoint
from lowland.run.directory import Run
from lowland.run.versions import versions

__all__ = ["Checkpoint", "Run", "RunError", "versions", "write_checkpoint"]
