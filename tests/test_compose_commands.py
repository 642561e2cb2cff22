"""compose, edit, interpolate and predict from Python, the command line and a file, on runs small
enough to train here.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lowland import cli, commands, read_recipe, train_recipe
from lowland.data import Dataset, Split, load_data, save_grid
from lowland.run import Run

SMALL = {
    "training.steps": 5,
    "training.warmup": 1,
    "training.log_every": 5,
    "training.checkpoint_every": 5,
    "training.preflight": "off",
}
NOISE = {"name": "NoiseUNet", "widths": [4, 4], "blocks": [1, 1], "dense": 0}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """plain: classes on 8 × 8 digits; noise: an energy of noise on them; pair: one of three
    channels; moons: of the plane.
    """
    folder = tmp_path_factory.mktemp("runs")
    digits = load_data("digits")
    train_recipe(read_recipe("digits-jem", SMALL), folder / "plain", data=digits, progress=False)
    train_recipe(
        read_recipe("digits-dsm", SMALL | {"energy": NOISE}),
        folder / "noise",
        data=digits,
        progress=False,
    )
    g = torch.Generator().manual_seed(0)
    parts = [Split(torch.rand(100, 3, 8, 8, generator=g)) for _ in range(3)]
    three = Dataset("three", digits.domain.__class__("box", (3, 8, 8), 0.0, 1.0), *parts)
    train_recipe(
        read_recipe("digits-dsm", SMALL | {"energy": NOISE}),
        folder / "pair",
        data=three,
        progress=False,
    )
    told = {"name": "NoiseUNet", "widths": [4, 6], "blocks": [1, 1], "dense": 0, "question": [0, 1]}
    train_recipe(
        read_recipe("digits-denoising", SMALL | {"energy": told}),
        folder / "asked",
        data=three,
        progress=False,
    )
    train_recipe(read_recipe("moons", SMALL), folder / "moons", progress=False)
    shutil.copytree(folder / "moons", folder / "shifted")
    about = json.loads((folder / "moons" / "data.json").read_text())
    (folder / "shifted" / "data.json").write_text(
        json.dumps(about | {"mean": [1.0, 2.0], "scale": [1.0, 3.0]})
    )
    shifted = Run(folder / "shifted")
    shifted.save_checkpoint(shifted.load_checkpoint())  # as if it had been trained in those units
    save_grid(digits.test.x[:1], folder / "a.png", pixels=8, gap=0)
    save_grid(digits.test.x[1:2], folder / "b.png", pixels=8, gap=0)
    np.savez(folder / "b.npz", x=digits.test.x[1:2].numpy())
    np.save(folder / "three.npy", parts[2].x[:2].numpy())
    return folder


def command(*words: Any) -> None:
    cli.main([*map(str, words), "--quiet"])


def test_compose_draws_from_runs(runs: Path, tmp_path: Path) -> None:
    plain, out = runs / "plain", tmp_path / "x.npy"
    command(
        "compose",
        plain,
        plain,
        "--labels",
        "3,-1",
        "--weights",
        "1,0.5",
        "--count",
        6,
        "--steps",
        5,
        "--out",
        out,
    )
    x = np.load(out)
    assert x.shape == (6, 1, 8, 8) and np.isfinite(x).all()
    again = commands.compose(
        [plain, plain],
        weights=(1.0, 0.5),
        labels=(3, -1),
        count=6,
        steps=5,
        out=tmp_path / "y.npy",
        quiet=True,
    )
    assert np.array_equal(np.load(again), x)
    other = commands.compose(
        [plain], labels=(3,), count=6, steps=5, out=tmp_path / "z.npy", quiet=True
    )
    assert not np.array_equal(np.load(other), x)


def test_a_file_says_the_same_as_the_command(runs: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "both.toml"
    recipe.write_text(
        f'runs = ["{runs}/noise", "{runs}/plain"]\nlabels = [-1, 7]\nweights = [1.0, 2.0]\n'
        "count = 3\nsteps = 8\nnum_levels = 4\n"
        f'out = "{tmp_path}/file.npz"\n[sampler]\nname = "Langevin"\nstep_size = 1e-5\n'
    )
    command("compose", recipe)
    x = np.load(tmp_path / "file.npz")["x"]
    assert x.shape == (3, 1, 8, 8) and np.isfinite(x).all()
    both, out = (runs / "noise", runs / "plain", "--labels=-1,7"), tmp_path / "c.png"
    few = ("--steps", 5, "--num-levels", 3)
    command("compose", *both, "--weights", "1,2", "--count", 3, *few, "--out", out)
    assert out.stat().st_size > 100
    command(
        "compose", recipe, "--count", 2, "--out", tmp_path / "changed.npy"
    )  # what the command says goes before the file
    assert np.load(tmp_path / "changed.npy").shape == (2, 1, 8, 8)
    for text, said in (
        ("runs = []", "needs runs"),
        ("run = ['a']", "correct run"),
        ("runs = [", "is damaged"),
        ("runs = 'digits'", "has runs = 'digits'; .*; correct runs"),
        ("runs = ['digits', 3]", "correct runs"),
        ("runs = ['digits']\nweights = 2", "correct weights"),
        (
            "runs = ['digits']\nlabels = [3.5]\ncount = 2.5\nsteps = true",
            "correct labels, count, steps",
        ),
        ("runs = ['digits']\nsampler = 'MALA'\nout = 3", "correct sampler, out"),
    ):
        recipe.write_text(text)
        with pytest.raises(ValueError, match=said):
            commands.compose([recipe])


def test_files_say_edits_and_paths_too(runs: Path, tmp_path: Path) -> None:
    told = tmp_path / "told.toml"
    told.write_text(
        f'run = "{runs}/plain"\nimage = "{runs}/a.png"\nlabel = 8\n'
        f'steps = 5\ndraws = 2\nout = "{tmp_path}/e.npy"\n'
    )
    command("edit", told)
    command(
        "edit",
        runs / "plain",
        runs / "a.png",
        "--label",
        8,
        "--steps",
        5,
        "--draws",
        2,
        "--out",
        tmp_path / "f.npy",
    )
    assert np.array_equal(np.load(tmp_path / "e.npy"), np.load(tmp_path / "f.npy"))
    command("edit", told, "--draws", 1, "--force")
    assert np.load(tmp_path / "e.npy").shape == (2, 1, 8, 8)
    for text, said in (
        ("run = 'digits'\nlabel = 8", "correct image"),
        ("run = 3\nimage = 'a'\nlabel = 8.5", "correct run, label"),
    ):
        told.write_text(text)
        with pytest.raises(ValueError, match=said):
            commands.edit(told)
    told.write_text(
        f'run = "{runs}/plain"\na = "{runs}/a.png"\nb = "{runs}/b.png"\n'
        f'steps = 3\nout = "{tmp_path}/p.npy"\n'
    )
    command("interpolate", told, "--points", 4)
    assert np.load(tmp_path / "p.npy").shape == (8, 1, 8, 8)
    told.write_text("run = 'digits'\na = 'a.png'")
    with pytest.raises(
        ValueError, match="it needs run, a, b and may have out, points, sigma, steps; correct b"
    ):
        commands.interpolate(told)


@pytest.mark.parametrize("run", ["plain", "noise"])
def test_edit_writes_a_strip_and_its_numbers(
    run: str, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "edited.png"
    words = (
        "edit",
        runs / run,
        runs / "a.png",
        "--label",
        8,
        "--classifier",
        runs / "plain",
        "--steps",
        4,
        "--draws",
        2,
    )
    command(*words, "--proximal-sigma", 0.5, "--out", out)
    found = np.load(out.with_suffix(".npz"))
    assert out.exists() and found["x"].shape == (3, 1, 8, 8) and found["attribute"].shape == (2, 1)
    if run == "noise":  # once is enough to see where a strip goes
        return
    monkeypatch.chdir(tmp_path)
    command(*words)
    assert (tmp_path / "outputs" / "a-edited.png").exists()  # never among the pictures


@pytest.mark.parametrize("run", ["plain", "noise"])
def test_interpolate_writes_the_path_above_the_straight_line(
    run: str, runs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "strip.png"
    command(
        "interpolate",
        runs / run,
        runs / "a.png",
        runs / "b.png",
        "--points",
        5,
        "--steps",
        10,
        "--out",
        out,
    )
    found = np.load(out.with_suffix(".npz"))
    assert found["x"].shape == (10, 1, 8, 8) and np.allclose(found["x"][0], found["x"][5])
    assert found["energies"].max() <= found["straight"].max() + 1e-5


def test_predict_answers_the_channels_that_are_asked(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "answer.png"
    command(
        "predict",
        runs / "pair",
        runs / "three.npy",
        "--given-channels",
        "0,1",
        "--draws",
        3,
        "--num-levels",
        5,
        "--out",
        out,
    )
    found, x = np.load(out.with_suffix(".npz")), np.load(runs / "three.npy")
    assert found["draws"].shape == (3, 2, 3, 8, 8) and np.array_equal(
        found["mean"][:, :2], x[:, :2]
    )
    assert (found["std"][:, :2] == 0).all() and (found["std"][:, 2] > 0).any()


def test_predict_knows_what_a_run_was_trained_to_be_asked(runs: Path, tmp_path: Path) -> None:
    x = np.load(runs / "three.npy")
    np.save(tmp_path / "question.npy", x[:, :2])
    out, same = tmp_path / "answer.png", tmp_path / "same.png"
    command(
        "predict",
        runs / "asked",
        runs / "three.npy",
        "--given-channels",
        "0,1",
        "--draws",
        3,
        "--out",
        out,
    )
    command("predict", runs / "asked", tmp_path / "question.npy", "--draws", 3, "--out", same)
    found, again = np.load(out.with_suffix(".npz")), np.load(same.with_suffix(".npz"))
    assert np.array_equal(found["draws"], again["draws"]) and (found["std"][:, 2] > 0).any()
    made = commands.sample(runs / "asked", count=5, out=tmp_path / "made.npy", quiet=True)
    train = torch.rand(100, 3, 8, 8, generator=torch.Generator().manual_seed(0)).numpy()
    assert all(
        (np.abs(train[:, :2] - row[:2]).max((1, 2, 3)) < 1e-6).any() for row in np.load(made)
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("compose", "plain", "--labels", "12"),
            "label 12 was asked of digits-jem; its classes are 0 to 9; choose another",
        ),
        (("compose", "plain", "--weights", "1,2"), "1 runs came with 2 weights"),
        (
            ("compose", "plain", "--weights", "1;2"),
            "--weights: '1;2' came; values with commas between are taken",
        ),
        (("compose", "plain", "moons"), "different domains were combined"),
        (("compose", "plain", "noise"), "digits-jem knows no noise level"),
        (("compose", "moons", "--weights", "-1", "--out", "x.npy"), "no normaliser"),
        (("compose", "moons", "--out", "x.txt"), "x.txt was to hold"),
        (("compose", "moons"), "composed.png was to hold draws of shape"),
        (("compose", "plain", "--weights", "nan"), r"1 weights \(nan\)"),
        (
            ("compose", "moons", "shifted", "--out", "x.npy"),
            "were standardized differently; one x must mean the same",
        ),
        (("edit", "plain", "a.png", "--label", "3", "--out", "x.gif"), "x.gif was to hold"),
        (
            ("edit", "plain", "b.npz", "--label", "3", "--out", "b.png"),
            "b.npz is the file that is read",
        ),
        (
            ("edit", "noise", "a.png", "--label", "3", "--classifier", "plain", "--sigma", "99"),
            "sigma is 99.0; the noise levels",
        ),
        (("edit", "plain", "a.png"), "--label None; an edit needs both"),
        (("interpolate", "plain", "a.png"), "a path needs two pictures"),
        (
            ("interpolate", "noise", "a.png", "b.png", "--sigma", "-1"),
            "sigma is -1.0; it is a noise level above 0",
        ),
        (("interpolate", "plain", "a.png", "b.png", "--out", "x.txt"), "x.txt was to hold"),
        (
            ("edit", "noise", "a.png", "--label", "3"),
            "label 3 was asked of digits-dsm; its classes are none",
        ),
        (("edit", "plain", "a.png", "--label", "3", "--weight", "-1"), "weight is -1.0"),
        (("interpolate", "plain", "a.png", "b.png", "--points", "2"), "points is 2"),
        (
            ("predict", "pair", "three.npy", "--given-channels", "0,1,2"),
            r"the given channels are \[0, 1, 2\]",
        ),
        (
            ("predict", "pair", "three.npy", "--given-channels", "7"),
            r"the given channels are \[7\]",
        ),
        (("predict", "pair", "three.npy"), r"the given channels are \[\]"),
        (("predict", "asked", "three.npy", "--out", "/proc/x.png"), "could not be written"),
        (
            ("edit", "plain", "a.png", "--label", "3", "--out", "/proc/x.png"),
            "could not be written",
        ),
        (
            ("predict", "asked", "three.npy", "--given-channels", "2"),
            "another mask came than the question",
        ),
        (
            ("predict", "asked", "a.png", "--given-channels", "0,1,2"),
            r"the given channels are \[0, 1, 2\]",
        ),
    ],
)
def test_mistakes_are_told_in_a_sentence(
    words: tuple[str, ...],
    said: str,
    runs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    monkeypatch.chdir(tmp_path)
    named = {
        "plain",
        "noise",
        "pair",
        "asked",
        "moons",
        "shifted",
        "a.png",
        "b.png",
        "b.npz",
        "three.npy",
    }
    with pytest.raises(SystemExit) as ended:
        command(*(runs / word if word in named else word for word in words))
    message = capsys.readouterr().err
    assert ended.value.code == 2 and re.search(said, message) and message.count(";") >= 2
    assert not list(tmp_path.iterdir())
