"""Make a run smaller: checkpoints from which nothing will be trained keep their weights alone."""

from collections.abc import Sequence

from lowland.run.checkpoint import (
    Checkpoint,
    RunError,
    folder_of,
    read_checkpoint,
    read_digests,
    write_checkpoint,
)
from lowland.run.directory import Run

WEIGHTS = ("ema", "energy")  # tensors of a checkpoint that sampling and scoring read
KEPT = ("domain", "recipe", "best")  # of its state


def thin_checkpoints(run: Run, full: set[int], parts: Sequence[str] = WEIGHTS) -> None:
    """Keep only some tensors and a little state of all checkpoints but the full ones: enough to
    sample and score, not to train on. Damaged ones stay as they are.
    """
    for step in set(run.steps()) - full:
        folder = run.path / folder_of(step)
        try:
            stems = {name.removesuffix(".safetensors") for name in read_digests(folder)}
            if not stems - {*parts, "state.json"}:
                continue
            found = read_checkpoint(folder)
        except RunError:
            continue
        kept = {name: found.tensors[name] for name in parts if name in found.tensors}
        state = {name: value for name, value in found.state.items() if name in KEPT}
        write_checkpoint(folder, Checkpoint(step, kept, state))


def strip_run(run: Run) -> None:
    """Keep of all checkpoints the one in use, and of that what sampling and scoring read.

    Raises RunError if none is whole.
    """
    latest = run.load_checkpoint()
    used = run.best_step(latest)
    start = run.recipe.get("generation", {}).get("start", "noise")
    extra = {"chains": ["chains"], "partner": ["partner"]}.get(str(start), [])
    chosen = latest if used == latest.step else run.load_checkpoint(used)
    if "ema" not in chosen.tensors:
        raise RunError(
            f"{run.path / folder_of(used)} keeps no averaged weights; a run is used with them; "
            "remove the folder, and an older checkpoint is used"
        )
    thin_checkpoints(run, set(), ["ema", *extra])
    run.keep_checkpoints({used, latest.step} if extra else {used})


def describe_size(size: float) -> str:
    """Describe a number of bytes in kB, MB or GB.

    >>> describe_size(332_000_000)
    '332 MB'
    """
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
