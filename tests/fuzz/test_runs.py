"""Run directories that were damaged or changed: the same figures as before, or a refusal."""

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

import lowland
from lowland.commands.runs import report
from tests.fuzz.mutations import mutate_file
from tests.fuzz.outcomes import explore, judge

MANY = [4, pytest.param(60, marks=pytest.mark.slow)]
STEPS = 4
CHANGES = {
    "training.steps": STEPS,
    "training.log_every": 1,
    "training.checkpoint_every": 2,
    "evaluation.samples": 16,
    "generation.steps": 2,
    "energy.hidden": [8],
    "objective.buffer_size": 64,
    "training.batch": 16,
    "data.count": 200,
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run, whole."""
    path = tmp_path_factory.mktemp("runs") / "sound"
    recipe = lowland.read_recipe("moons", CHANGES)
    lowland.train_recipe(recipe, path, progress=False)
    lowland.evaluate(path, quiet=True)
    return path


def measure(run: Path) -> np.ndarray:
    """Return energies and samples of a run."""
    model = lowland.load(run)
    x = torch.linspace(-1, 1, 8).reshape(4, 2)
    drawn = model.sample(3, generator=torch.Generator().manual_seed(0)).x
    return np.concatenate([model.energies(x).numpy(), drawn.numpy().ravel()])


def read_weights(run: Path) -> np.ndarray:
    """Return the weights of the newest checkpoint of a run."""
    state = lowland.load(run).energy.state_dict()
    return np.concatenate([state[key].numpy().ravel() for key in sorted(state)])


def copy_damaged(sound: Path, place: Path, seed: int) -> str:
    """Copy a run and damage, remove or replace one of its files; return which."""
    r = random.Random(seed)
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(sound, place)
    files = sorted(p for p in place.rglob("*") if p.is_file() and p.suffix not in (".html", ".png"))
    small = [p for p in files if p.suffix in (".json", ".jsonl")]
    victim = r.choice(small if r.random() < 0.6 else files)
    how = r.random()
    if how < 0.8:
        mutate_file(victim, r)
    elif how < 0.9:
        victim.unlink()
    else:
        other = r.choice(files)
        shutil.copyfile(other, victim) if other != victim else victim.unlink()
    return str(victim.relative_to(place))


@pytest.mark.parametrize("examples", MANY)
def test_a_damaged_run_gives_the_same_figures_or_a_refusal(
    examples: int, sound: Path, tmp_path: Path
) -> None:
    wanted = measure(sound)

    def check(seed: int) -> None:
        victim = copy_damaged(sound, tmp_path / "run", seed)

        def find_error(found: np.ndarray) -> str:
            older = victim.startswith("step-")  # a damaged checkpoint: the one before it is used
            same = found.shape == wanted.shape and np.array_equal(found, wanted)
            return (
                "" if same or (older and np.isfinite(found).all()) else f"other figures: {victim}"
            )

        judge("damaged run, sample", lambda: measure(tmp_path / "run"), find_error)

    explore(st.integers(0, 10**6), check, examples)


@pytest.mark.parametrize("examples", MANY)
@pytest.mark.usefixtures("blank_pictures")
def test_a_damaged_run_resumes_to_the_same_weights_or_is_refused(
    examples: int, sound: Path, tmp_path: Path
) -> None:
    wanted = read_weights(sound)

    def check(seed: int) -> None:
        copy_damaged(sound, tmp_path / "run", seed)

        def resume() -> np.ndarray:
            run = lowland.run.Run.open(tmp_path / "run")
            lowland.train_recipe(run.recipe, run.path, progress=False)
            report(run.path)
            return read_weights(run.path)

        def find_error(found: np.ndarray) -> str:
            same = found.shape == wanted.shape and np.array_equal(found, wanted)
            return "" if same else "other weights after resuming"

        judge("damaged run, resume", resume, find_error)

    explore(st.integers(0, 10**6), check, examples)
