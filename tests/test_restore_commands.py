"""Restoring from the command line and from recipes: every task, shipped energies, several images,
the truth beside.
"""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contract.cases import seeded
from PIL import Image

import lowland
from lowland import cli, commands, read_recipe, train_recipe
from lowland.evaluation.restoration import coverage
from lowland.run import Run, checkpoint
from lowland.tasks import Identity, Restoration
from lowland.trained import Model, load, restoration
from lowland.trained.measurement import MEASUREMENTS, operator_of
from lowland.trained.restoration import restoration_settings
from lowland.trained.targets import OUTPUTS

FAST: dict[str, Any] = {"num_levels": 3, "denoise_steps": 2, "draws": 3, "precision": "float32"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small energy of noise on 8 × 8 digits, whose recipe says how it restores."""
    changes = {
        "training.steps": 30,
        "training.checkpoint_every": 30,
        "energy.widths": [8, 8],
        "energy.dense": 0,
    }
    values = read_recipe("digits-denoising", changes).plain()
    values["restoration"] = {"method": "split-gibbs", **FAST}
    path = tmp_path_factory.mktemp("runs") / "digits"
    train_recipe(read_recipe(values), path, progress=False)
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    x = lowland.load_data("digits").test.x[:2]
    (tmp_path / "clean").mkdir()
    for i, image in enumerate(x):
        Image.fromarray((image[0] * 255).byte().numpy()).save(tmp_path / "clean" / f"{i}.png")
    return tmp_path / "clean"


def command(*arguments: Any) -> None:
    cli.main(["restore", *map(str, arguments), "--quiet"])


def numbers(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as found:
        return dict(found)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results that nobody named go below the current folder."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("task", MEASUREMENTS)
def test_every_task_is_simulated_and_restored_for_all_images_of_a_folder(
    trained: Path, pictures: Path, task: str
) -> None:
    command(trained, pictures, "--task", task, "--simulate", "--factor", 2)
    found = numbers(OUTPUTS / f"clean-{task}.npz")
    assert found["draws"].shape == (3, 2, 1, 8, 8) and found["truth"].shape == (2, 1, 8, 8)
    clean = [
        np.asarray(Image.open(path), dtype=np.float32)[None] / 255
        for path in sorted(pictures.iterdir())
    ]
    assert np.allclose(found["truth"], np.stack(clean), atol=1e-6)
    known = torch.arange(8).view(1, 8, 1).expand(1, 8, 8) < 4
    operator = operator_of(task, (1, 8, 8), factor=2, known=known)
    exact = operator.A(torch.from_numpy(found["truth"]))
    off = torch.from_numpy(found["observed"]) - exact
    made = operator.A(operator.A_T(torch.randn(exact.shape, generator=seeded()))).abs() > 1e-6
    assert 0.05 < float(off[made].std()) < 0.2 and not bool(
        off[~made].any()
    )  # the recipe's noise, where anything was measured
    with Image.open(OUTPUTS / f"clean-{task}.png") as sheet:
        assert (
            sheet.width > 3 * sheet.height
        )  # truth, observed, mean, spread and three draws, two rows


@pytest.mark.parametrize(
    ("task", "shape"),
    [("super-resolve", (1, 4, 4)), ("subsample", (1, 4, 4)), ("compressed", (32,))],
)
def test_a_measurement_that_is_smaller_than_an_image_is_read(
    trained: Path, tmp_path: Path, task: str, shape: tuple[int, ...]
) -> None:
    np.save(tmp_path / "y.npy", np.random.default_rng(0).random((2, *shape), dtype=np.float32))
    command(trained, tmp_path / "y.npy", "--task", task, "--factor", 2, "--draws", 2)
    found = numbers(OUTPUTS / f"y-{task}.npz")
    assert np.array_equal(found["observed"], np.load(tmp_path / "y.npy")) and "truth" not in found
    assert found["mean"].shape == (2, 1, 8, 8)


def test_known_pixels_are_exact_without_noise(trained: Path, pictures: Path) -> None:
    command(trained, pictures / "0.png", "--task", "inpaint", "--mask", "left", "--sigma", 0)
    found = numbers(OUTPUTS / "0-inpaint.npz")
    assert np.array_equal(
        found["draws"][..., 4:], np.broadcast_to(found["observed"][..., 4:], (3, 1, 1, 8, 4))
    )
    assert not found["observed"][..., :4].any() and found["std"][..., :4].any()


def test_the_most_likely_image_has_no_spread(trained: Path, pictures: Path) -> None:
    command(trained, pictures / "0.png", "--task", "deblur", "--factor", 1, "--method", "map")
    found = numbers(OUTPUTS / "0-deblur.npz")
    assert found["draws"].shape == (1, 1, 1, 8, 8) and np.array_equal(
        found["mean"], found["draws"][0]
    )
    assert not found["std"].any() and np.isfinite(found["mean"]).all()


def test_the_bar_ends_full_where_one_pass_does_for_all(
    trained: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commands.restore(trained, pictures / "0.png", task="denoise", sigma=0.3)
    assert "100%" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_shipped_energies_of_noise_restore(name: str, tmp_path: Path) -> None:
    assert restoration_settings(load(name))["method"] == "split-gibbs"
    truth = torch.zeros(1, 1, 28, 28)
    truth[..., 6:22, 13:16] = 0.9
    np.save(tmp_path / "one.npy", truth.numpy())
    command(name, tmp_path / "one.npy", "--task", "inpaint", "--simulate", "--draws", 2)
    found = numbers(OUTPUTS / "one-inpaint.npz")
    assert np.abs(found["mean"] - truth.numpy())[..., :14, :].mean() < 0.06
    assert found["std"][..., 14:, :].mean() >= 0 and np.isfinite(found["draws"]).all()


def shipped_subject(**changes: Any) -> Model:
    s = load("mnist")
    s.recipe = {**s.recipe, "restoration": {**s.recipe["restoration"], **FAST, **changes}}
    return s


def test_the_recipe_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    """levels, inner and draws are those of [restoration]; an energy of noise without the section
    falls back on a recipe.
    """
    s = shipped_subject()
    calls: list[dict[str, Any]] = []

    def listen(*_: Any, **settings: Any) -> Restoration:
        calls.append(settings)
        return Restoration.of(torch.zeros(3, 1, 1, 28, 28))

    monkeypatch.setattr("lowland.trained.restoration.split_gibbs_sample", listen)
    s.restore(Identity(), torch.zeros(1, 1, 28, 28), 0.3, generator=seeded())
    s.restore(Identity(), torch.zeros(1, 1, 28, 28), 0.3, generator=seeded(), draws=5)
    assert [(c["num_levels"], c["denoise_steps"], c["draws"]) for c in calls] == [
        (3, 2, 3),
        (3, 2, 5),
    ]
    s.recipe["restoration"] = None
    assert restoration_settings(s)["method"] == "split-gibbs"


@pytest.mark.usefixtures("blank_pictures")
def test_evaluate_measures_the_restoration_of_an_energy_of_noise(
    trained: Path, tmp_path: Path
) -> None:
    run = Run.open(shutil.copytree(trained, tmp_path / "copy"))
    values = run.read_json("recipe.json")
    values["recipe"]["restoration"] |= {"count": 6, "draws": 19}
    values["recipe"]["evaluation"] |= {"samples": 16, "classifier_steps": 10}
    run.write_json("recipe.json", values)
    found = commands.evaluate(run.path, quiet=True)["restoration"]
    assert set(found["tasks"]) == {"inpaint", "denoise"} and found["count"] == 6
    for measured in found["tasks"].values():
        assert (
            0 <= measured["coverage"]["lowland mean"]["value"] <= 1
            and measured["psnr"]["lowland mean"]["value"] > 0
        )
    assert "Coverage: share" in commands.report(run.path).read_text()


def test_coverage_counts_open_pixels_only_and_images_evenly() -> None:
    draws = torch.zeros(19, 2, 1, 2, 2)
    draws[:, :, 0, 0] = torch.linspace(0, 1, 19).view(19, 1, 1)
    truth = torch.full((2, 1, 2, 2), 0.5)
    truth[1, 0, 0, 0] = 1.5
    assert (
        coverage(Restoration.of(draws), truth).value == 0.75
    )  # of one image both open pixels, of the other one


REFUSED: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "a factor that does not divide": (
        lambda run, image: commands.restore(
            run, image, task="super-resolve", factor=3, simulate=True, quiet=True
        ),
        "shrinks by 3",
    ),
    "a factor of 0": (
        lambda run, image: commands.restore(run, image, task="deblur", factor=0, quiet=True),
        "factor is 0",
    ),
    "a noise below 0": (
        lambda run, image: commands.restore(run, image, task="denoise", sigma=-1.0, quiet=True),
        "sigma is -1",
    ),
    "no draws": (
        lambda run, image: commands.restore(run, image, task="denoise", draws=0, quiet=True),
        "draws is 0",
    ),
    "a place that cannot be written": (
        lambda run, image: commands.restore(
            run, image, task="denoise", out=image.parent / "1.png" / "x.png", quiet=True
        ),
        "could not be written",
    ),
    "the most likely image without noise": (
        lambda run, image: commands.restore(
            run, image, task="inpaint", sigma=0.0, method="map", quiet=True
        ),
        "finite and above 0 here",
    ),
    "another method": (
        lambda run, image: commands.restore(run, image, task="denoise", method="guess", quiet=True),
        "'guess'",
    ),
    "no such task": (lambda run, image: operator_of("sharpen", (1, 8, 8)), "'sharpen'"),
    "no mask": (lambda run, image: operator_of("inpaint", (1, 8, 8)), "no mask came"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_restored_is_refused_before_anything_is_written(
    trained: Path, pictures: Path, case: str
) -> None:
    act, said = REFUSED[case]
    with pytest.raises(ValueError, match=said) as found:
        act(trained, pictures / "0.png")
    assert str(found.value).count(";") >= 2
    assert sorted(path.name for path in pictures.iterdir()) == ["0.png", "1.png"]


# --------------------------------------------------------------------------------------- the road


APPLICATION = {"cli", "commands", "trained", "evaluation", "training", "config", "run", "data"}


def rooms_on_the_stack() -> list[str]:
    """Return the files of lowland that wait for the caller, outermost first."""
    root, found = Path(lowland.__file__).parent, []
    frame = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(root):
            found.append(str(path.relative_to(root).with_suffix("")))
        frame = frame.f_back  # type: ignore[assignment]
    return list(dict.fromkeys(reversed(found)))


def test_the_road_from_the_shell_to_the_sampler_is_short(
    trained: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file of a checkpoint is read once; four files stand between shell and sampler, six
    parts of the application are entered at all.
    """
    reads: list[Path] = []
    entered: set[str] = set()
    road: list[str] = []
    root = Path(lowland.__file__).parent
    whole, sampler = checkpoint.read_bytes, restoration.split_gibbs_sample

    def read(path: Path, **bounds: Any) -> bytes:
        reads.append(path)
        return whole(path, **bounds)

    def sample(*arguments: Any, **options: Any) -> Restoration:
        road.extend(rooms_on_the_stack())
        return sampler(*arguments, **options)

    def note(frame: Any, event: str, _: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(root):
            entered.add(path.relative_to(root).with_suffix("").parts[0])

    monkeypatch.setattr(checkpoint, "read_bytes", read)
    monkeypatch.setattr(restoration, "split_gibbs_sample", sample)
    sys.setprofile(note)
    try:
        command(trained, pictures / "0.png", "--task", "denoise")
    finally:
        sys.setprofile(None)
    of_checkpoints = [path for path in reads if path.parent.name.startswith("step-")]
    assert len(of_checkpoints) == len(set(of_checkpoints)) > 2
    assert len({path.parent for path in of_checkpoints}) == 1
    assert road == ["cli", "commands/restoration", "trained/restoration"]
    assert entered & APPLICATION <= {"cli", "commands", "trained", "run", "data", "config"}
