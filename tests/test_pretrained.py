"""Trained runs that come with lowland: found by name, small, with their figures, never written
to.
"""

from pathlib import Path

import pytest
import torch
from contract.cases import seeded

import lowland
from benchmarks.quality.ship import ship
from lowland import commands, read_recipe, train_recipe
from lowland.config import recipe_names
from lowland.energy import energy_values
from lowland.metrics import auroc
from lowland.pretrained import pretrained_folder
from lowland.run import Run, RunError
from lowland.tasks import bind_smallest_sigma, generate_from_recipe, noise_levels

NAMES = lowland.list_pretrained()


def test_something_is_shipped_and_each_has_its_recipe() -> None:
    assert {"digits", "mnist", "fashion-mnist"} <= set(NAMES) <= set(recipe_names())


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_run_is_small_and_carries_its_figures(name: str) -> None:
    files = list((pretrained_folder() / name).rglob("*.safetensors"))
    assert sum(path.stat().st_size for path in files) < 2_000_000
    assert "samples" in Run.open(name).read_json("evaluation.json")


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_energy_draws_what_it_puts_below_noise(name: str) -> None:
    model = lowland.load(name)
    energy, recipe = model.energy, model.recipe
    made = generate_from_recipe(energy, recipe, 4, generator=seeded(1)).x
    assert (
        made.shape == (4, *energy.domain.shape)
        and bool(made.isfinite().all())
        and float(made.std()) > 0.1
    )
    marginal = bind_smallest_sigma(energy, noise_levels(energy, recipe))
    noise = torch.rand(64, *energy.domain.shape, generator=seeded(2))
    assert auroc(energy_values(marginal, made), energy_values(marginal, noise)).value > 0.99


def test_a_shipped_run_is_never_written_to(tmp_path: Path) -> None:
    before = sorted(path.stat().st_mtime_ns for path in (pretrained_folder() / "digits").rglob("*"))
    for act in (commands.evaluate, commands.report, commands.resume):
        with pytest.raises(RunError, match=r"digits is shipped with lowland.*;.*;"):
            act("digits")
    assert commands.sample("digits", count=4, out=tmp_path / "x.npy", quiet=True).exists()
    assert before == sorted(
        path.stat().st_mtime_ns for path in (pretrained_folder() / "digits").rglob("*")
    )


def test_a_directory_of_the_same_name_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = read_recipe("moons", {"training.steps": 10, "training.checkpoint_every": 10})
    train_recipe(recipe, "digits", progress=False)
    assert lowland.load("digits").energy.domain.shape == (2,)
    with pytest.raises(
        RunError, match=r"nothing holds no run.*one of the shipped digits, .*; train"
    ):
        Run.open("nothing")
    with pytest.raises(RunError, match=r"only with measured figures; train"):
        ship(Run.open("digits"), "digits")
