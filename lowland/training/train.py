"""Train a recipe in a run directory."""

from pathlib import Path

import torch

from lowland.data import Dataset
from lowland.energy import Energy
from lowland.run import Run
from lowland.training.distributed import team
from lowland.training.grow import grow
from lowland.training.loop import train_run
from lowland.training.recipes import PlainRecipe, load_recipe_data, plain_recipe
from lowland.training.settings import Plain


@torch.inference_mode(False)  # training keeps gradients, wherever it is called from
@torch.enable_grad()
def train_recipe(
    recipe: Plain | PlainRecipe,
    run: Run | str | Path,
    *,
    data: Dataset | None = None,
    energy: Energy | None = None,
    progress: bool = True,
    allow_changes: bool = False,
) -> Energy:
    """Train a recipe in a run directory, or go on where the run stopped; return the energy with
    averaged weights.

    recipe: a `Recipe` or its plain values; run: a Run or a path, made if it is not there; data,
    energy: used in place of what the recipe names (pass them again when resuming), and stored as
    what was trained: a registered energy by its values, another by its import path (`load` then
    needs it too); allow_changes: go on in a run that was begun with another recipe or other data,
    which is refused otherwise; only training.steps may be raised unasked. A run that was
    killed and resumed equals one that was not, bit for bit: weights, averages, chains, partners and
    log. On trouble the run goes back to a checkpoint, lowers the rate, shortens the sampler's step
    or begins chains anew, whichever the verdict asks for, and writes down what it did; after
    `training.max_rollbacks` attempts it stops. With training.select_by the energy of the best
    checkpoint is returned; with training.progressive_sizes smaller images come first.

    Raises ValueError for data or settings that cannot be trained on, RunError if the directory
    refuses, TrainingStoppedError if health stops the run.

    >>> import lowland, tempfile
    >>> recipe = lowland.read_recipe(
    ...     "moons", {"training.steps": 20, "training.checkpoint_every": 20}
    ... )
    >>> energy = lowland.train_recipe(recipe, tempfile.mkdtemp() + "/run", progress=False)
    >>> energy.domain.shape
    (2,)
    """
    values = plain_recipe(recipe)
    sizes = values["training"].get("progressive_sizes")
    if not sizes or energy is not None:
        return train_run(
            values, run, data=data, energy=energy, progress=progress, allow_changes=allow_changes
        )
    with team() as members:  # open for all sizes
        data = data or members.main_first(lambda: load_recipe_data(values))
        if len(data.domain.shape) != 3:
            raise ValueError(
                f"training.progressive_sizes is {sizes} and events have shape "
                f"{data.domain.shape}; only images grow; leave it out"
            )
        path = run.path if isinstance(run, Run) else run
        return grow(
            values,
            path,
            (*sizes, data.domain.shape[-1]),
            data=data,
            progress=progress,
            allow_changes=allow_changes,
        )
