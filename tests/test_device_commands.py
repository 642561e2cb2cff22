"""Every command and every method of a model on a second device, from end to end: the energy is
evaluated there, files are written as ever, and nothing meets a tensor of the CPU.
"""

import json
from collections.abc import Callable, Sequence
from importlib import import_module
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
import torch
from test_device_tasks import seeded, watch
from torch import Tensor

import lowland
from lowland import cli
from lowland.commands import COMMANDS
from lowland.data import Dataset, Split, save_grid
from lowland.tasks import Mask
from lowland.trained import Model, compose_models
from lowland.training import train_recipe

SMALL = {
    "training.steps": 10,
    "training.log_every": 10,
    "training.checkpoint_every": 10,
    "training.batch": 16,
    "training.preflight": "off",
    "training.device": "cpu",
    "evaluation.samples": 16,
    "evaluation.classifier_steps": 2,
    "generation.steps": 2,
}
DIGITS = SMALL | {
    "energy.hidden": [8],
    "objective.buffer_size": 20,
    "restoration.steps": 2,
    "restoration.prior_samples": 20,
    "restoration.draws": 2,
    "restoration.count": 2,
    "restoration.sampler": {"name": "MALA", "step_size": 0.01},
}
ASKED = {"name": "NoiseUNet", "widths": [4, 4], "blocks": [1, 1], "dense": 0, "question": [0, 1]}
MOONS = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """digits: an energy with classes; asked: one that answers a question in channels; moons and
    plane: energies of the plane; pictures.
    """
    path = tmp_path_factory.mktemp("devices")
    digits = lowland.load_data("digits")
    recipe = lowland.read_recipe("digits-jem", DIGITS)
    train_recipe(recipe, path / "digits", data=digits, progress=False)
    parts = [Split(torch.rand(40, 3, 8, 8, generator=seeded(seed=k))) for k in range(3)]
    three = Dataset("three", digits.domain.__class__("box", (3, 8, 8), 0.0, 1.0), *parts)
    changes = {key: value for key, value in SMALL.items() if key != "generation.steps"}
    asked = lowland.read_recipe("digits-denoising", changes | {"energy": ASKED})
    train_recipe(asked, path / "asked", data=three, progress=False)
    for name in ("moons", "plane"):
        train_recipe(lowland.read_recipe("moons", SMALL), path / name, progress=False)
    for name, image in (("a", digits.test.x[:1]), ("b", digits.test.x[1:2])):
        save_grid(image, path / f"{name}.png", pixels=8, gap=0)
    np.save(path / "many.npy", digits.test.x[60:90].numpy())
    np.save(path / "three.npy", parts[0].x[:1].numpy())
    return path


def load(folder: Path, name: str, device: torch.device | str) -> Model:
    return lowland.load(folder / name, device=device)


# ------------------------------------------------------------------------------ methods

METHODS: dict[str, Callable[[Model, Tensor], Tensor]] = {
    "sample": lambda m, x: m.sample(2, generator=seeded()).x,
    "sample of labels": lambda m, x: (
        m.sample(2, generator=seeded(), labels=torch.tensor([3, 4]), frames=2).x
    ),
    "energies": lambda m, x: m.energies(x),
    "detector": lambda m, x: m.detector("energy", x.repeat(30, 1, 1, 1)[1:]).outlier_scores(x),
    "restore": lambda m, x: m.restore(Mask(torch.ones(8, 8) > 0), x, 0.1, generator=seeded()).draws,
    "restore to a mode": lambda m, x: (
        m.restore(Mask(torch.ones(8, 8) > 0), x, 0.1, generator=seeded(), method="map").mean
    ),
    "purify": lambda m, x: m.purify(x, generator=seeded(), steps=2),
    "interpolate": lambda m, x: m.interpolate(x[:1], x[1:], points=3, steps=2).points,
    "compose": lambda m, x: compose_models(
        [m, m],
        labels=[3, None],
        generator=seeded(),
        count=2,
        steps=2,
        sampler={"name": "MALA", "step_size": 0.01},
    ),
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.filterwarnings("ignore")
def test_a_method_computes_on_the_device_of_its_model(
    name: str, folder: Path, sim: torch.device
) -> None:
    """Points and generators of the CPU are taken; what comes back lies on the device."""
    model = load(folder, "digits", sim)
    x = torch.from_numpy(np.load(folder / "many.npy"))[:2]
    with watch() as seen:
        found = METHODS[name](model, x)
    assert found.device == model.device == sim and bool(found.isfinite().all())
    assert seen <= {sim.type}


def test_a_model_moves(folder: Path, sim: torch.device) -> None:
    model = load(folder, "digits", "cpu")
    x = torch.from_numpy(np.load(folder / "many.npy"))[:2]
    here = model.energies(x)
    assert model.to(sim) is model and model.device == sim
    assert {p.device for p in model.marginal.parameters()} == {sim}
    assert torch.allclose(model.energies(x).cpu(), here, atol=1e-4)
    assert model.log_likelihood(x, 0.0).count == 2
    with pytest.raises(ValueError, match=r"the runs live on sim:0, cpu; .*; load each"):
        compose_models([model, load(folder, "digits", "cpu")], generator=seeded())
    with pytest.raises(ValueError, match=r"device is 'cuda:99'; here are cpu.*; use 'auto'"):
        model.to("cuda:99")
    assert model.to("cpu").energies(x).device.type == "cpu"


def test_a_model_in_float64_is_refused_where_there_is_none(
    folder: Path, sim32: torch.device
) -> None:
    model = load(folder, "digits", "cpu")
    x = torch.from_numpy(np.load(folder / "many.npy"))[:2]
    model.energy.double()
    with pytest.raises(ValueError, match=r"float64 .* has no float64; .*; convert .* device='cpu'"):
        model.to(sim32)
    assert model.energies(x.double()).device.type == model.device.type == "cpu"
    with pytest.raises(ValueError, match="has no float64"):
        load(folder, "digits", sim32).energies(x.double())


# ------------------------------------------------------------------------------ commands

LINES: dict[str, Sequence[str]] = {
    "sample": ["digits", "--count", "2", "--out", "out/s.npz"],
    "energy": ["digits", "a.png", "many.npy", "--out", "out/e.csv"],
    "detect": ["digits", "a.png", "--out", "out/d.csv", "--alpha", "0.3"],
    "detect fit": [
        *("digits", "--calibration", "many.npy", "--outlier-score", "knn"),
        *("--alpha", "0.3", "--out", "out/detector.safetensors"),
    ],
    "bench": ["ood", "digits", "--count", "20", "--draws", "2", "--outlier-scores", "energy"],
    "restore": ["digits", "a.png", "--task", "deblur", "--simulate", "--out", "out/r.png"],
    "compose": ["compose.toml", "--out", "out/c.png"],
    "edit": ["digits", "a.png", "--label", "3", "--steps", "2", "--draws", "1"],
    "interpolate": ["digits", "a.png", "b.png", "--points", "3", "--steps", "2"],
    "predict": ["asked", "three.npy", "--draws", "1", "--num-levels", "2"],
    "purify": ["digits", "a.png", "--steps", "2", "--out", "out/p.npy"],
    "attack": ["digits", "--count", "2", "--steps", "1", "--attacks", "pgd", "--norm", "2"],
    "evaluate": ["digits"],
    "train": ["moons", "--run", "out/moons", *MOONS],
    "resume": ["moons"],
}
TASK = """runs = ["digits", "digits"]
steps = 2
count = 2
[sampler]
name = "MALA"
step_size = 0.01
"""


def test_every_command_that_computes_takes_a_device() -> None:
    without = {"report", "strip", "recipes", "doctor"}
    assert set(LINES) | without == set(COMMANDS)
    for name, command in COMMANDS.items():
        assert ("device" in signature(command).parameters) == (name not in without), name


@pytest.mark.parametrize("name", LINES)
@pytest.mark.filterwarnings("ignore")
def test_a_command_computes_on_the_device(
    name: str, folder: Path, sim: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command on the device leaves the files that it leaves on the CPU."""
    monkeypatch.chdir(folder)
    (folder / "compose.toml").write_text(TASK)
    module = import_module("lowland.tasks.composition.compose")
    # it has its own tests, and takes 300 steps
    monkeypatch.setattr(module, "tune", lambda energy, sampler, *_, **__: sampler)
    line = [*name.split(), *LINES[name]]
    if name == "resume":
        settings = json.loads((folder / "moons/recipe.json").read_text())
        settings["recipe"]["training"]["steps"] = 20
        (folder / "moons/recipe.json").write_text(json.dumps(settings))
    with watch() as seen:
        cli.main([*line, "--device", "sim"])
    assert seen <= {sim.type}
    if name in ("train", "resume"):
        run = folder / ("out/moons" if name == "train" else "moons")
        figures = json.loads((run / "evaluation.json").read_text())
        assert figures["device"] == "sim:0"
        before = "cpu and then " if name == "resume" else ""
        assert f"Trained on {before}sim:0. Measured on sim:0." in (run / "report.html").read_text()
    if name == "sample":
        assert np.load("out/s.npz")["x"].shape == (2, 1, 8, 8)


@pytest.mark.parametrize("device", ["sim", "sim32"])
@pytest.mark.filterwarnings("ignore")
def test_a_run_is_measured_with_and_without_float64(
    device: str, folder: Path, request: pytest.FixtureRequest
) -> None:
    place, path = request.getfixturevalue(device), str(folder / "plane")
    cli.main(["evaluate", path, "--quiet", "--device", str(place)])
    few = ["--chains", "20", "--num-temperatures", "3"]
    cli.main(["evaluate", path, "--likelihood", *few, "--quiet", "--device", str(place)])
    for name in ("evaluation", "likelihood"):
        assert json.loads((folder / f"plane/{name}.json").read_text())["device"] == str(place)


def test_a_command_refuses_a_device_before_anything_is_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    for name, line in LINES.items():
        changed = [word.replace("out/moons", "out/other") for word in line]
        with pytest.raises(SystemExit) as stopped:
            cli.main([*name.split(), *changed, "--device", "cuda:99"])
        assert stopped.value.code == 2
        assert "device is 'cuda:99'; here are cpu" in capsys.readouterr().err, name
    assert not (folder / "out/other").exists()
