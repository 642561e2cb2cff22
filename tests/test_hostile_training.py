"""Mistakes that would show after training are told before it, and nothing is left behind."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lowland
from lowland import memory
from lowland.data import DataError, Dataset, Split, load_data, room
from lowland.devices import list_devices, pick_device
from lowland.domain import box, real
from lowland.memory import available_bytes, check_bytes
from lowland.training import diagnose
from lowland.training.scales import describe_scales
from lowland.training.settings import Training

QUICK = {
    "training.steps": 4,
    "training.log_every": 2,
    "training.checkpoint_every": 2,
    "training.batch": 16,
    "energy.hidden": [8],
    "objective.buffer_size": 64,
    "data.count": 100,
    "evaluation.samples": 16,
    "generation.steps": 2,
}


def refuse(tmp_path: Path, overrides: dict[str, Any], data: Dataset | None = None) -> str:
    """Train a quick recipe, which must be refused without a trace; return the words."""
    with pytest.raises(ValueError) as caught:
        quick = {k: v for k, v in QUICK.items() if k.split(".")[0] not in overrides}
        recipe = lowland.read_recipe("moons", quick | overrides)
        lowland.train_recipe(recipe, tmp_path / "run", data=data, progress=False)
    assert not (tmp_path / "run").exists()
    words = str(caught.value)
    assert words.count(";") >= 2, words
    return words


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"evaluation.alpha": 0.0001}, "evaluation: .*at least .* are needed"),
        ({"evaluation.outlier_score": "msp"}, "evaluation.outlier_score: "),
        ({"evaluation.outlier_score": "multiscale"}, "evaluation.outlier_score: "),
        ({"evaluation.outliers": ["moonz"]}, "did you mean 'moons'"),
        ({"evaluation.outliers": ["/nowhere/x.npy"]}, "there is no file"),
        ({"generation.sampler.inv_mass_sqrt": [1.0]}, "generation: "),
        ({"generation.sampler.inv_mass_sqrt": [1.0, 1.0, 1.0]}, "generation: "),
        ({"generation.start": "partner"}, "trains no generator"),
        ({"generation.method": "flow"}, "knows no noise level"),
        ({"training.batch": 128}, "training.batch is 128 and moons has 100"),
        ({"data.count": 64}, "at least 19 are needed"),
        ({"sampler.inv_mass_sqrt": [1.0, 2.0, 3.0]}, ""),
        ({"energy.name": "ConvNet"}, ""),
        ({"data.name": "moonz"}, "did you mean"),
        ({"energy.classes": 3}, "3 classes and moons 2"),
        ({"training.device": "cuda:99"}, "device is 'cuda:99'; here are cpu"),
        ({"training.select_by": "ksd", "training.select_samples": 10**8}, "bytes"),
        ({"objective.buffer_size": 10**9}, "bytes"),
        ({"data.count": 10**9}, "of memory"),
        ({"objective": {"name": "FlowContrastive", "hidden": [10**9, 10**9]}}, "hidden.* bytes"),
        ({"objective": {"name": "RankingNCE", "candidates": 10**9}}, "candidates.* bytes"),
        ({"energy.hidden": [8] * 200}, "a list of at most 64"),
        ({"energy.hidden": [10**6, 10**6]}, "parameters .* bytes"),
    ],
)  # fmt: skip
def test_what_would_fail_later_is_refused_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: dict[str, Any], says: str
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 2**30)
    monkeypatch.setattr(room, "memory_bound", lambda: 2**30)

    assert re.search(says, refuse(tmp_path, overrides)), says


def test_all_that_fails_is_told_together(tmp_path: Path) -> None:
    words = refuse(
        tmp_path,
        {
            "evaluation.alpha": 0.001,
            "evaluation.outlier_score": "msp",
            "evaluation.outliers": ["nothing"],
            "generation.sampler.inv_mass_sqrt": [1.0],
        },
    )
    assert "4 mistakes" in words and len(words.splitlines()) == 5


def test_without_a_probe_a_refused_training_leaves_nothing_either(tmp_path: Path) -> None:
    wrong = {"sampler.inv_mass_sqrt": [1.0, 2.0, 3.0], "training.preflight": "off"}
    refuse(tmp_path, wrong)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("kept")
    with pytest.raises(ValueError):
        recipe = lowland.read_recipe("moons", QUICK | wrong)
        lowland.train_recipe(recipe, tmp_path / "mine", progress=False)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def unlabelled() -> Dataset:
    g = torch.Generator().manual_seed(0)
    parts = [Split(torch.randn(100, 2, generator=g)) for _ in range(3)]
    return Dataset("mine", real(2), *parts)


def test_unlabelled_data_are_given_the_whole_cure_at_once(tmp_path: Path) -> None:
    labelled = {"energy.classes": 2, "objective.sample_labels": True}
    words = refuse(tmp_path, labelled, unlabelled())
    assert "energy.classes = 0" in words and "objective.sample_labels = false" in words
    cured = {"energy.classes": 0, "objective.sample_labels": False}
    recipe = lowland.read_recipe("moons", QUICK | cured)
    lowland.train_recipe(recipe, tmp_path / "run", data=unlabelled(), progress=False)


def test_a_rehearsal_changes_no_bit_of_a_run(tmp_path: Path) -> None:
    recipe = lowland.read_recipe("moons", QUICK).plain()
    full = lowland.train_recipe(recipe, tmp_path / "a", progress=False)
    bare = {key: value for key, value in recipe.items() if key not in ("evaluation",)}
    again = lowland.train_recipe(bare, tmp_path / "b", progress=False)
    pairs = zip(full.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


# ------------------------------------------------------------------------------ devices, numbers


@pytest.mark.parametrize(
    "name", ["quantum", "meta", "xpu", "", "cuda:99", "cpu:7", "CPU", "cuda:-1"]
)
def test_devices_that_are_not_here_are_refused_in_words(name: str) -> None:
    with pytest.raises(ValueError, match=r"device is .*; .*cpu.*; ") as caught:
        pick_device(name)
    assert "here are cpu" in str(caught.value) and "use 'auto'" in str(caught.value)


def test_devices_that_are_here_are_taken() -> None:
    assert pick_device("cpu") == pick_device(torch.device("cpu")) == torch.device("cpu")
    assert str(pick_device("auto")).split(":")[0] in {name.split(":")[0] for name in list_devices()}


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": True}, {"steps": "3"}, {"steps": 3.0}, {"learning_rate": True},
        {"learning_rate": "0.1"}, {"learning_rate": float("inf")}, {"betas": (True, 0.9)},
        {"compile": 1}, {"threads": 100_000}, {"device": "quantum"}, {"device": ""},
        {"weight_decay": float("nan")}, {"box_margin": float("inf")},
    ],
)  # fmt: skip
def test_settings_are_read_strictly_in_python_too(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))) as caught:
        Training(**wrong)
    assert str(caught.value).count(";") >= 2


def test_settings_take_numbers_of_numpy() -> None:
    made = Training(steps=np.int64(7), learning_rate=np.float32(0.5), compile=np.bool_(False))
    assert type(made.steps) is int and type(made.learning_rate) is float and made.compile is False


@pytest.mark.parametrize("recipe", [None, 3, "moons", ["moons"], {}, {"seed": 0}])
def test_what_is_no_recipe_is_not_trained(tmp_path: Path, recipe: Any) -> None:
    with pytest.raises(ValueError, match=r"recipe .*; .*; .*read_recipe"):
        lowland.train_recipe(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("seed", [True, "3", 2.5, -1, 10**30, None])
def test_seeds_of_plain_recipes_are_read_strictly(tmp_path: Path, seed: Any) -> None:
    recipe = lowland.read_recipe("moons", QUICK).plain() | {"seed": seed}
    with pytest.raises(ValueError, match="seed is"):
        lowland.train_recipe(recipe, tmp_path / "run")


# ---------------------------------------------------------------------------------------- memory


def test_memory_is_counted_and_refused_with_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 2**24 < available_bytes() < 2**50
    with pytest.raises(ValueError, match=r"it needs 2,000 bytes; 1,000 are free; less"):
        check_bytes("it", 2000, "less", available=1000)
    monkeypatch.setattr(room, "memory_bound", lambda: 10**6)
    with pytest.raises(DataError, match=r"count = 100,000 points of moons needs .* of memory"):
        load_data("moons", count=100_000)


def test_images_of_any_size_have_room_or_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    g = torch.Generator().manual_seed(0)
    parts = [Split(torch.rand(100, 1, 8, 8, generator=g)) for _ in range(3)]
    data = Dataset("mine", box(0, 1, 1, 8, 8), *parts)
    monkeypatch.setattr(memory, "available_bytes", lambda: 10**6)
    assert "buffer_size" in refuse(tmp_path, {"objective.buffer_size": 10_000}, data)


# ------------------------------------------------------------------------------ health and causes


def rows(count: int, **numbers: float) -> list[dict[str, float]]:
    return [{"step": 10.0 * (i + 1), "loss": 0.0, "nonfinite": 0, **numbers} for i in range(count)]


def test_refused_proposals_are_no_good_health() -> None:
    found = diagnose(rows(30, refused_share=0.96, gap=0.1, energy_std=1.0))
    assert [(f.name, f.level) for f in found] == [("refused proposals", "bad")]
    assert not diagnose(rows(30, refused_share=0.001))
    assert diagnose(rows(5, refused_share=0.1))[0].level == "warn"


def test_a_short_run_with_a_wide_gap_is_not_in_good_health() -> None:
    assert [f.name for f in diagnose(rows(12, gap=477.0, energy_std=9.0))] == ["wide gap"]
    assert not diagnose(rows(12, gap=477.0, energy_std=90.0))  # narrow in units of the energies
    assert not diagnose(rows(9, gap=477.0, energy_std=9.0))


@pytest.mark.parametrize(
    ("scale", "says"),
    [
        ([1.0, 1000.0], "not standardized: column b has a standard deviation of 995"),
        ([300.0, 300.0], "not standardized"),
        ([1e-4, 1e-4], "not standardized"),
        ([1.0, 0.0], "Column b of mine never changes"),
        ([1.0, 2.0], ""),
    ],
)
def test_odd_scales_are_named_as_a_cause(scale: list[float], says: str) -> None:
    data = unlabelled()
    x = data.train.x / data.train.x.std(0) * torch.tensor(scale) + torch.tensor(scale) * 3
    words = describe_scales(replace(data, train=Split(x), columns=("a", "b")))
    assert says in words and bool(words) == bool(says)
    assert not words or ("data.standardize = true" in words) == ("never changes" not in words)


def test_the_description_of_a_recipe_belongs_to_its_data() -> None:
    assert "28" in lowland.read_recipe("mnist").about
    assert lowland.read_recipe("mnist", {"data.name": "photos"}).about == (
        "Trained on photos with the settings of mnist."
    )


def test_a_training_can_go_without_an_evaluation(tmp_path: Path) -> None:
    recipe = lowland.read_recipe("moons", QUICK)
    page = lowland.train(recipe, tmp_path / "run", evaluate=False, quiet=True)
    assert page.exists() and not (tmp_path / "run" / "evaluation.json").exists()
    assert "no reason was logged" not in page.read_text()
