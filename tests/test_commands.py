"""The commands from end to end, on two tiny runs: what a person types and what they find
afterwards.
"""

import csv
import io
import json
import math
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from lowland import cli, commands, energy_values, load, load_data
from lowland.metrics import p_values
from lowland.run import Run
from lowland.trained.scoring import EnergyTable
from lowland.trained.tables import format_rows

TINY = {
    "training.steps": 20,
    "training.checkpoint_every": 10,
    "generation.steps": 10,
    "evaluation.samples": 32,
    "evaluation.classifier_steps": 20,
}
IMAGES = TINY | {
    "restoration.count": 4,
    "restoration.steps": 10,
    "restoration.draws": 2,
    "restoration.prior_samples": 50,
}
ROW = ["path", "energy", "p_value", "verdict"]

Command = Callable[..., tuple[int, str, str]]


class Runs(NamedTuple):
    digits: Path
    moons: Path


def settings(values: dict[str, Any]) -> list[str]:
    return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """Trained once through the command line; the tests only add files of their own."""
    folder = tmp_path_factory.mktemp("runs")
    made = Runs(folder / "digits", folder / "moons")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cli.main(["train", "digits", "--run", str(made.digits), "--quiet", *settings(IMAGES)])
        cli.main(["train", "moons", "--run", str(made.moons), "--quiet", *settings(TINY)])
    yield made


@pytest.fixture(autouse=True)
def _quick_pages(blank_pictures: None) -> None:
    """Pages of `runs` are drawn, and every other page without its pictures."""


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `lowland ...` in this process: exit status, standard output, standard error."""

    def run(*arguments: Any) -> tuple[int, str, str]:
        capsys.readouterr()
        status = 0
        try:
            cli.main([str(argument) for argument in arguments])
        except SystemExit as stopped:
            status = stopped.code if isinstance(stopped.code, int) else 0
        found = capsys.readouterr()
        return status, found.out, found.err

    return run


def refused(found: tuple[int, str, str], *words: str) -> None:
    """Status 2, one message in words, nothing on standard output."""
    status, out, err = found
    assert (status, out) == (2, ""), err
    assert err.startswith("lowland: ") and "Traceback" not in err
    assert all(word in err for word in words), err


# -------------------------------------------------------------------------------------------- train


@pytest.mark.parametrize("which", ["digits", "moons"])
def test_a_run_is_a_directory_with_everything_in_it(runs: Runs, which: str) -> None:
    run = Run.open(getattr(runs, which))
    for name in (
        "report.html",
        "evaluation.json",
        "evaluation.safetensors",
        "calibration.safetensors",
        "log.jsonl",
    ):
        assert (run.path / name).stat().st_size > 0
    assert run.steps() == [0, 10, 20]
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert (
        page.lstrip().lower().startswith("<!doctype html") and which in page and "</html>" in page
    )
    assert not re.findall(
        r"""(?:src=["']|url\(|<link[^>]*href=["'])(?!data:|#|["')])[^"')]*""", page
    )  # self-contained


def test_the_run_keeps_the_whole_recipe_with_the_overrides(runs: Runs) -> None:
    recipe = Run.open(runs.digits).recipe
    for key, value in IMAGES.items():
        section, name = key.split(".")
        assert recipe[section][name] == value
    model = load(runs.digits)
    energy, sampler, again = model.energy, model.sampler, model.recipe
    assert again == recipe and energy.domain.shape == (1, 8, 8) and sampler.step_size > 0


def test_training_into_a_run_that_exists_is_refused(runs: Runs, command: Command) -> None:
    before = (runs.moons / "recipe.json").read_bytes()
    found = command("train", "moons", "--run", runs.moons, "--quiet", *settings(TINY))
    refused(found, "already holds a run", "lowland resume")
    assert (runs.moons / "recipe.json").read_bytes() == before


def test_resuming_a_finished_run_changes_no_weights(
    runs: Runs, command: Command, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(runs.moons, copy)
    (copy / "report.html").unlink()
    status, out, _ = command("resume", copy, "--quiet")
    assert (
        status == 0
        and Path(out.strip()) == copy / "report.html"
        and (copy / "report.html").exists()
    )
    for name, tensor in load(runs.moons).energy.state_dict().items():
        assert torch.equal(load(copy).energy.state_dict()[name], tensor)
    first, second = (
        json.loads((path / "evaluation.json").read_text()) for path in (runs.moons, copy)
    )
    del first["seconds"], second["seconds"]
    assert first == second


@pytest.mark.parametrize("mistake", ["data.name=nonsense", "data.size=3", "energy.hidden=[]"])
def test_a_training_that_never_began_leaves_no_run_behind(
    command: Command, tmp_path: Path, mistake: str
) -> None:
    refused(command("train", "moons", "--run", tmp_path / "run", "--quiet", "--set", mistake))
    assert not (tmp_path / "run" / "recipe.json").exists()


@pytest.mark.parametrize("place", ["file", "file/run"])
def test_a_file_in_the_way_of_a_run_is_a_mistake_in_words(
    command: Command, tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").write_text("")
    refused(
        command("train", "moons", "--run", tmp_path / place, "--quiet", *settings(TINY)), "file"
    )


def test_a_run_can_be_repeated_from_its_recipe(
    runs: Runs, command: Command, tmp_path: Path
) -> None:
    status, _, _ = command(
        "train", runs.moons / "recipe.json", "--run", tmp_path / "again", "--quiet"
    )
    assert status == 0 and Run.open(tmp_path / "again").recipe == Run.open(runs.moons).recipe
    for name, tensor in load(runs.moons).energy.state_dict().items():
        assert torch.equal(load(tmp_path / "again").energy.state_dict()[name], tensor)


def test_sampling_scoring_and_restoring_do_without_the_data(
    runs: Runs, pictures: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any) -> None:
        raise AssertionError("the data were loaded")

    monkeypatch.setattr("lowland.trained.model.load_recipe_data", gone)
    picture = pictures / "pngs" / "0.png"
    assert (
        command("sample", runs.digits, "--count", 3, "--out", tmp_path / "x.npz", "--quiet")[0] == 0
    )
    assert (
        command("sample", runs.moons, "--count", 3, "--out", tmp_path / "y.npy", "--quiet")[0] == 0
    )
    assert command("energy", runs.digits, picture)[0] == 0
    assert command("restore", runs.digits, picture, "--out", tmp_path / "z.png", "--quiet")[0] == 0


# ------------------------------------------------------------------------------------------- sample


def test_samples_as_numbers(runs: Runs, command: Command, tmp_path: Path) -> None:
    out = tmp_path / "deeper" / "x.npy"
    status, printed, _ = command("sample", runs.digits, "--count", 13, "--out", out, "--quiet")
    assert status == 0 and Path(printed.strip()) == out
    x = np.load(out, allow_pickle=False)
    assert x.shape == (13, 1, 8, 8) and x.dtype == np.float32 and np.isfinite(x).all()


def test_samples_with_their_labels(runs: Runs, command: Command, tmp_path: Path) -> None:
    command("sample", runs.digits, "--count", 12, "--out", tmp_path / "x.npz", "--quiet")
    with np.load(tmp_path / "x.npz", allow_pickle=False) as found:
        assert found["x"].shape == (12, 1, 8, 8) and found["labels"].tolist() == [*range(10), 0, 1]
    command(
        "sample", runs.digits, "--count", 5, "--label", 7, "--out", tmp_path / "y.npz", "--quiet"
    )
    with np.load(tmp_path / "y.npz", allow_pickle=False) as found:
        assert found["labels"].tolist() == [7] * 5
    command("sample", runs.moons, "--count", 5, "--out", tmp_path / "z.npz", "--quiet")
    with np.load(tmp_path / "z.npz", allow_pickle=False) as found:
        assert sorted(found) == ["x"] and found["x"].shape == (5, 2)


def test_samples_as_a_picture(runs: Runs, command: Command, tmp_path: Path) -> None:
    assert (
        command("sample", runs.digits, "--count", 9, "--out", tmp_path / "x.png", "--quiet")[0] == 0
    )
    with Image.open(tmp_path / "x.png") as image:
        image.load()
        assert image.format == "PNG" and image.width == image.height and image.width >= 3 * 64


def test_the_same_seed_gives_the_same_samples_bit_for_bit(
    runs: Runs, command: Command, tmp_path: Path
) -> None:
    for run in runs:
        found = []
        for i, seed in enumerate((3, 3, 4)):
            command(
                "sample",
                run,
                "--count",
                6,
                "--seed",
                seed,
                "--out",
                tmp_path / f"{i}.npy",
                "--quiet",
            )
            torch.randn(7)  # the global generator has no say
            found.append((tmp_path / f"{i}.npy").read_bytes())
        assert found[0] == found[1] != found[2]


def test_sampling_leaves_the_run_alone(runs: Runs, command: Command, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in runs.moons.rglob("*") if path.is_file()}
    command("sample", runs.moons, "--count", 3, "--out", tmp_path / "x.npy", "--quiet")
    assert {
        path: path.stat().st_mtime_ns for path in runs.moons.rglob("*") if path.is_file()
    } == before


def test_samples_made_otherwise(runs: Runs, command: Command, tmp_path: Path) -> None:
    def sample(name: str, *changes: str) -> bytes:
        sets = [word for change in changes for word in ("--set", change)]
        assert (
            command("sample", runs.moons, "--count", 3, "--out", tmp_path / name, "--quiet", *sets)[
                0
            ]
            == 0
        )
        return (tmp_path / name).read_bytes()

    as_trained = sample("a.npy")
    assert sample("b.npy", "generation.steps=1", "generation.denoise_sigma=0") != as_trained
    assert sample("c.npy") == as_trained  # the run is left as it is
    told = ("sample", runs.moons, "--out", tmp_path / "d.npy", "--quiet", "--set")
    refused(
        command(*told, "training.steps=3"), "training.steps", "only generation.* can be changed"
    )
    refused(command(*told, "generation.stepz=3"), "generation.stepz", "no such key")
    assert not (tmp_path / "d.npy").exists()


def test_samples_that_cannot_be_written_are_refused(
    runs: Runs, command: Command, tmp_path: Path
) -> None:
    def sample(run: Path, *arguments: Any) -> tuple[int, str, str]:
        return command("sample", run, "--quiet", *arguments)

    refused(sample(runs.digits, "--out", tmp_path / "x.gif"), "'.gif'", ".npy, .npz or .png")
    refused(sample(runs.digits, "--out", tmp_path / "x"), "ends in ''")
    refused(sample(runs.moons, "--out", tmp_path / "x.png"), "vectors, not images")
    refused(sample(runs.digits, "--out", tmp_path / "x.npy", "--count", 0), "count is 0")
    refused(
        sample(runs.digits, "--out", tmp_path / "x.npy", "--label", 10), "label 10", "are 0 to 9"
    )
    refused(sample(runs.digits, "--out", tmp_path / "x.npy", "--label", -1), "label -1")
    refused(sample(runs.moons, "--out", tmp_path / "x.npy", "--label", 0), "leave the label out")
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------- energy


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three digits as they are and one that is none, as PNG files; the numbers beside the
    folder.
    """
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "pngs").mkdir()
    digits = load_data("digits", seed=0).test.x[:3, 0].numpy()
    rows = [*np.round(digits * 255), *(255 * np.random.default_rng(0).integers(0, 2, (1, 8, 8)))]
    for i, row in enumerate(rows):
        Image.fromarray(row.astype(np.uint8)).save(folder / "pngs" / f"{i}.png")
    np.savez(folder / "all.npz", x=np.stack(rows).astype(np.uint8)[:, None])
    np.save(folder / "all.npy", np.stack(rows).astype(np.float32)[:, None] / 255)
    return folder


def table(text: str) -> list[dict[str, Any]]:
    rows = list(csv.DictReader(io.StringIO(text)))
    assert not rows or list(rows[0]) == ROW
    return [
        {**row, "energy": float(row["energy"]), "p_value": float(row["p_value"])} for row in rows
    ]


def sound(rows: list[dict[str, Any]], nominal: float) -> None:
    for row in rows:
        assert math.isfinite(row["energy"]) and 0 < row["p_value"] <= 1
        assert row["verdict"] == ("outlier" if row["p_value"] <= nominal else "inlier")


def test_energies_of_files_folders_and_arrays_agree(
    runs: Runs, pictures: Path, command: Command
) -> None:
    files = sorted((pictures / "pngs").iterdir())
    found = {}
    for name, paths in {
        "files": files,
        "folder": [pictures / "pngs"],
        "npz": [pictures / "all.npz"],
    }.items():
        status, out, err = command("energy", runs.digits, *paths)
        assert (status, err) == (0, "")
        found[name] = table(out)
        sound(found[name], 0.05)
    assert (
        [row["path"] for row in found["files"]]
        == [row["path"] for row in found["folder"]]
        == list(map(str, files))
    )
    assert [row["path"] for row in found["npz"]] == [
        f"{pictures / 'all.npz'}[{i}]" for i in range(4)
    ]
    numbers = [[(row["energy"], row["p_value"]) for row in rows] for rows in found.values()]
    assert numbers[0] == numbers[1] == numbers[2]


def test_energies_are_those_of_the_model_against_its_calibration_part(
    runs: Runs, pictures: Path, command: Command
) -> None:
    energy, data = load(runs.digits).energy, load_data("digits", seed=0)
    x = torch.from_numpy(np.load(pictures / "all.npy"))
    values = energy_values(energy, x)
    expected = p_values(energy_values(energy, data.calibration.x), values)
    rows = table(command("energy", runs.digits, pictures / "all.npy")[1])
    assert [row["energy"] for row in rows] == pytest.approx(values.tolist(), rel=1e-5)
    assert [row["p_value"] for row in rows] == pytest.approx(expected.tolist())


def test_energies_as_json_lines_into_a_file(
    runs: Runs, pictures: Path, command: Command, tmp_path: Path
) -> None:
    out = tmp_path / "rows.jsonl"
    status, printed, _ = command(
        "energy", runs.digits, pictures / "pngs", "--format", "jsonl", "--out", out
    )
    assert status == 0 and Path(printed.strip()) == out
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [list(row) for row in rows] == [ROW] * 4
    sound(rows, 0.05)
    assert rows == EnergyTable(load(runs.digits), [pictures / "pngs"], None).all_rows()


def test_tables_in_pieces_are_those_in_one(
    runs: Runs, pictures: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [pictures / "pngs", pictures / "all.npz", pictures / "pngs" / "0.png"]
    for size in (1024, 3):
        monkeypatch.setattr("lowland.trained.scoring.ENERGY_PIECE", size)
        command("energy", runs.digits, *paths, "--out", tmp_path / f"{size}.csv")
    whole, pieces = (table((tmp_path / f"{size}.csv").read_text()) for size in (1024, 3))
    assert [row["path"] for row in pieces] == [row["path"] for row in whole] and len(whole) == 9
    assert [row["energy"] for row in pieces] == pytest.approx(
        [row["energy"] for row in whole], rel=1e-5
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1024.csv", "3.csv"]


def test_a_missing_picture_is_refused_before_a_table_is_begun(
    runs: Runs, command: Command, tmp_path: Path
) -> None:
    refused(
        command("energy", runs.digits, tmp_path / "nothing.png", "--out", tmp_path / "x.csv"),
        "nothing.png",
    )
    assert not list(tmp_path.iterdir())


def test_the_nominal_rate_decides_the_verdict_alone(
    runs: Runs, pictures: Path, command: Command
) -> None:
    strict, lax = (
        table(command("energy", runs.digits, pictures / "all.npz", "--alpha", n)[1])
        for n in (0.01, 0.9)
    )
    sound(strict, 0.01)
    sound(lax, 0.9)
    assert [row["p_value"] for row in strict] == [row["p_value"] for row in lax]
    assert {row["verdict"] for row in lax} == {"outlier", "inlier"} or all(
        r["verdict"] == "outlier" for r in lax
    )
    for nominal in (0, 1, -1):
        refused(
            command("energy", runs.digits, pictures / "all.npz", "--alpha", nominal),
            "lies in (0, 1)",
        )


def test_energies_of_rows(runs: Runs, command: Command, tmp_path: Path) -> None:
    np.save(tmp_path / "points.npy", np.array([[0.5, 0.25], [40.0, -40.0]], dtype=np.float32))
    (tmp_path / "points.csv").write_text("a,b\n0.5,0.25\n40,-40\n")
    rows = table(command("energy", runs.moons, tmp_path / "points.npy", tmp_path / "points.csv")[1])
    sound(rows, 0.05)
    assert len(rows) == 4 and rows[0]["energy"] == rows[2]["energy"]
    assert [row["verdict"] for row in rows] == ["inlier", "outlier"] * 2


def test_files_that_cannot_be_scored_are_refused(
    runs: Runs, pictures: Path, command: Command, tmp_path: Path
) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty").mkdir()
    np.save(tmp_path / "wide.npy", np.zeros((2, 1, 9, 9), dtype=np.float32))
    np.save(tmp_path / "nan.npy", np.full((1, 1, 8, 8), np.nan, dtype=np.float32))
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    refused(command("energy", runs.digits, tmp_path / "nothing.png"), "nothing.png")
    refused(command("energy", runs.digits, tmp_path / "text.png"), "text.png", "cannot be read")
    refused(command("energy", runs.digits, tmp_path / "empty"), "holds no images")
    refused(command("energy", runs.digits, tmp_path / "wide.npy"), "(1, 8, 8)")
    refused(command("energy", runs.digits, tmp_path / "nan.npy"), "nan.npy")
    refused(command("energy", runs.digits, tmp_path / "object.npy"), "object.npy")
    refused(command("energy", runs.moons, pictures / "pngs" / "0.png"), "is an image")


def test_points_outside_the_domain_are_refused(
    runs: Runs, command: Command, tmp_path: Path
) -> None:
    np.save(tmp_path / "bright.npy", np.full((1, 1, 8, 8), 5.0, dtype=np.float32))
    refused(command("energy", runs.digits, tmp_path / "bright.npy"), "outside the domain")


def test_a_rate_that_the_calibration_part_cannot_promise_is_refused(
    runs: Runs, pictures: Path, command: Command
) -> None:
    refused(
        command("energy", runs.digits, pictures / "all.npz", "--alpha", 0.0001), "cannot promise"
    )


# ------------------------------------------------------------------------------------------ restore


def strip(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        return image.size


def test_denoising_a_picture(
    runs: Runs,
    pictures: Path,
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "seen.png"
    shutil.copy(pictures / "pngs" / "0.png", source)
    status, printed, _ = command("restore", runs.digits, source, "--quiet")
    assert status == 0 and Path(printed.strip()) == Path("outputs/seen-denoise.png")
    width, height = strip(Path("outputs/seen-denoise.png"))
    assert width > 4 * height  # observed, mean, spread and two draws in a row
    with np.load("outputs/seen-denoise.npz", allow_pickle=False) as found:
        assert found["draws"].shape == (2, 1, 1, 8, 8) and found["mean"].shape == (1, 1, 8, 8)
        assert np.allclose(found["mean"], found["draws"].mean(0), atol=1e-6)
        assert np.allclose(found["observed"][0, 0], np.asarray(Image.open(source)) / 255, atol=1e-6)


MASKS = {
    "lower": np.s_[4:, :],
    "upper": np.s_[:4, :],
    "left": np.s_[:, :4],
    "right": np.s_[:, 4:],
    "centre": np.s_[2:6, 2:6],
}


@pytest.mark.parametrize("mask", [*MASKS, "a picture"])
def test_inpainting_hides_what_the_mask_says(
    runs: Runs, pictures: Path, command: Command, tmp_path: Path, mask: str
) -> None:
    hidden = np.zeros((8, 8), dtype=bool)
    hidden[MASKS.get(mask, np.s_[1:3, 5:8])] = True
    Image.fromarray((hidden * 255).astype(np.uint8)).save(tmp_path / "mask.png")
    given = mask if mask in MASKS else str(tmp_path / "mask.png")
    out = tmp_path / "out.png"
    arguments = (
        "--task",
        "inpaint",
        "--mask",
        given,
        "--draws",
        5,
        "--sigma",
        0.05,
        "--out",
        out,
        "--quiet",
    )
    assert command("restore", runs.digits, pictures / "pngs" / "1.png", *arguments)[0] == 0
    assert strip(out)[0] > 5 * strip(out)[1]
    truth = np.asarray(Image.open(pictures / "pngs" / "1.png")) / 255
    with np.load(tmp_path / "out.npz", allow_pickle=False) as found:
        seen = found["observed"][0, 0]
        assert found["draws"].shape[0] == 5
    assert np.allclose(seen[~hidden], truth[~hidden], atol=1e-6) and not seen[hidden].any()


def test_restoring_twice_with_one_seed_is_the_same(
    runs: Runs, pictures: Path, tmp_path: Path
) -> None:
    found = []
    for i, seed in enumerate((1, 1, 2)):
        commands.restore(
            runs.digits,
            pictures / "pngs" / "1.png",
            task="denoise",
            seed=seed,
            out=tmp_path / f"{i}.png",
            quiet=True,
        )
        with np.load(tmp_path / f"{i}.npz", allow_pickle=False) as arrays:
            found.append(arrays["draws"].tobytes())
    assert found[0] == found[1] != found[2]


def test_restorations_that_cannot_be_made_are_refused(
    runs: Runs, pictures: Path, command: Command, tmp_path: Path
) -> None:
    picture = pictures / "pngs" / "0.png"
    for name, grey in (("white", 255), ("black", 0)):
        Image.fromarray(np.full((8, 8), grey, dtype=np.uint8)).save(tmp_path / f"{name}.png")
        inpaint = ("--task", "inpaint", "--mask", tmp_path / f"{name}.png")
        refused(
            command("restore", runs.digits, picture, "--quiet", *inpaint), "hides all or nothing"
        )
    refused(
        command(
            "restore", runs.digits, picture, "--quiet", "--task", "inpaint", "--mask", "middle"
        ),
        "'middle'",
        "lower",
    )
    refused(command("restore", runs.digits, tmp_path / "nothing.png", "--quiet"), "nothing.png")
    np.save(tmp_path / "points.npy", np.zeros((1, 2), dtype=np.float32))
    refused(command("restore", runs.moons, tmp_path / "points.npy", "--quiet"), "[restoration]")
    with pytest.raises(ValueError, match="'denoise' or 'inpaint'"):
        commands.restore(runs.digits, picture, task="sharpen", quiet=True)  # type: ignore[arg-type]
    assert not [
        path for path in pictures.rglob("*") if "denoise" in path.name or "inpaint" in path.name
    ]


def test_a_noise_of_zero_is_refused(
    runs: Runs, pictures: Path, command: Command, tmp_path: Path
) -> None:
    picture, out = pictures / "pngs" / "0.png", tmp_path / "out.png"
    refused(
        command("restore", runs.digits, picture, "--quiet", "--sigma", 0, "--out", out),
        "sigma is 0",
    )


def test_no_draws_are_refused(runs: Runs, pictures: Path, command: Command, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    refused(
        command(
            "restore",
            runs.digits,
            pictures / "pngs" / "0.png",
            "--draws",
            0,
            "--out",
            out,
            "--quiet",
        ),
        "draws is 0",
    )


@pytest.mark.parametrize("verb", ["restore", "energy"])
def test_a_missing_folder_is_made(
    runs: Runs, pictures: Path, command: Command, tmp_path: Path, verb: str
) -> None:
    out = tmp_path / "deeper" / ("x.png" if verb == "restore" else "x.csv")
    status, _, _ = command(
        verb,
        runs.digits,
        pictures / "pngs" / "0.png",
        "--out",
        out,
        *["--quiet"] * (verb == "restore"),
    )
    assert status == 0 and out.exists()


# ------------------------------------------------------------------------------ evaluate and report


def test_evaluate_prints_its_figures_as_json_and_repeats_itself(
    runs: Runs, command: Command
) -> None:
    before = json.loads((runs.moons / "evaluation.json").read_text())
    status, out, _ = command("evaluate", runs.moons, "--quiet")
    found = json.loads(out)
    assert status == 0 and found == json.loads((runs.moons / "evaluation.json").read_text())
    del before["seconds"], found["seconds"]
    assert found == before


@pytest.mark.parametrize("verb", ["evaluate", "restore"])
def test_the_bank_of_a_run_has_no_say_in_the_seed(
    runs: Runs, pictures: Path, tmp_path: Path, verb: str
) -> None:
    """The same figures and the same draws, whether the bank is made on the way or lies there."""
    copy, found = tmp_path / "copy", []
    shutil.copytree(runs.digits, copy)
    (copy / "prior_samples.safetensors").unlink()
    for i in range(2):
        if verb == "evaluate":
            found.append(commands.evaluate(copy, quiet=True)["restoration"])
        else:
            commands.restore(
                copy,
                pictures / "pngs" / "0.png",
                task="denoise",
                out=tmp_path / f"{i}.png",
                quiet=True,
            )
            with np.load(tmp_path / f"{i}.npz", allow_pickle=False) as arrays:
                found.append(arrays["draws"].tolist())
    assert (copy / "prior_samples.safetensors").exists() and found[0] == found[1]


def test_a_bank_belongs_to_its_checkpoint(runs: Runs, pictures: Path, tmp_path: Path) -> None:
    copy, found = tmp_path / "copy", []
    shutil.copytree(runs.digits, copy)
    shutil.rmtree(
        copy / "step-00000020"
    )  # as before the run was resumed; the bank is that of step 20
    for i in range(2):
        commands.restore(
            copy,
            pictures / "pngs" / "0.png",
            task="denoise",
            out=tmp_path / f"{i}.png",
            quiet=True,
        )
        with np.load(tmp_path / f"{i}.npz", allow_pickle=False) as arrays:
            found.append(arrays["draws"].tolist())
        (copy / "prior_samples.safetensors").unlink()
    assert found[0] == found[1]


def test_evaluate_without_quiet_still_prints_json_alone(runs: Runs, command: Command) -> None:
    status, out, err = command("evaluate", runs.moons)
    assert status == 0 and json.loads(out)["samples"]["count"] == 32
    assert "drawing samples" in err


@pytest.mark.parametrize("which", ["digits", "moons"])
def test_evaluate_brackets_the_likelihood(
    runs: Runs, command: Command, tmp_path: Path, which: str
) -> None:
    run = tmp_path / which
    shutil.copytree(getattr(runs, which), run)
    before = (run / "evaluation.json").read_bytes()
    command_line = (
        "evaluate",
        run,
        "--likelihood",
        "--chains",
        20,
        "--num-temperatures",
        12,
        "--quiet",
    )
    (status, out, _), again = command(*command_line), command(*command_line)
    found, other = json.loads(out), json.loads(again[1])
    assert status == 0 and found | {"seconds": 0} == other | {"seconds": 0}
    written = json.loads((run / "likelihood.json").read_text())
    assert written == other and (run / "evaluation.json").read_bytes() == before
    log_z, test = found["log_z"], found["test"]
    assert (
        log_z["lower"] < log_z["value"] < log_z["upper"]
        and log_z["chains"] == 20
        and log_z["num_temperatures"] == 12
    )
    assert test["upper"] - test["lower"] == pytest.approx(log_z["upper"] - log_z["lower"])
    course = Run.open(run).read_tensors("likelihood.safetensors")
    assert {len(row) for row in course.values()} == {13} and course["forward"][0] == pytest.approx(
        course["reverse"][0].item()
    )
    if which == "digits":
        assert test["data"] == "Gaussian noise of 0.2 added" and any(
            "without its label" in note for note in found["notes"]
        )
        assert log_z["base"] == "Uniform"
    else:
        energies = energy_values(load(run).energy, load_data("moons").test.x).double()
        assert log_z["base"] == "Gaussian" and test["value"] == pytest.approx(
            -energies.mean().item() - log_z["value"]
        )
    assert command("report", run)[0] == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    assert (
        "The likelihood and its certificate" in page and "log Z against inverse temperature" in page
    )
    assert log_z["certified"] or "not certified" in page


def test_the_likelihood_asks_for_enough_chains(runs: Runs, command: Command) -> None:
    refused(
        command("evaluate", runs.moons, "--likelihood", "--chains", 3, "--quiet"),
        "at least 20 chains",
    )


def test_figures_of_an_image_run(runs: Runs) -> None:
    figures = json.loads((runs.digits / "evaluation.json").read_text())
    samples, detection = figures["samples"], figures["detection"]
    assert (
        samples["count"] == 32
        and sum(samples["class_counts"]) == 32
        and 0 <= samples["class_entropy"] <= 1
    )
    assert detection["nominal"] == 0.05 and 0 <= detection["false_alarm"]["value"] <= 1
    for scores in detection["outliers"].values():
        assert {"auroc", "aupr", "fpr95"} <= set(scores)
        assert all(0 <= scores[key]["value"] <= 1 for key in ("auroc", "aupr", "fpr95"))
    tasks = figures["restoration"]["tasks"]
    assert set(tasks) == {"denoise", "inpaint"} and figures["restoration"]["count"] == 4
    assert {"lowland mean", "nearest neighbour", "mean image"} <= set(tasks["inpaint"]["psnr"])


def test_the_false_alarm_rate_is_the_share_of_the_test_part_called_outliers(runs: Runs) -> None:
    energy, data = load(runs.moons).energy, load_data("moons", seed=0)
    p = p_values(energy_values(energy, data.calibration.x), energy_values(energy, data.test.x))
    figures = json.loads((runs.moons / "evaluation.json").read_text())["detection"]
    assert figures["calibration_count"] == len(data.calibration)
    assert figures["false_alarm"]["count"] == len(data.test)
    assert figures["false_alarm"]["value"] == pytest.approx(float((p <= 0.05).double().mean()))
    assert (
        figures["false_alarm"]["low"]
        <= figures["false_alarm"]["value"]
        <= figures["false_alarm"]["high"]
    )


def test_report_is_written_anew_from_the_directory(
    runs: Runs, command: Command, tmp_path: Path
) -> None:
    copy = tmp_path / "moved"
    shutil.copytree(runs.digits, copy)
    (copy / "report.html").unlink()
    status, out, _ = command("report", copy)
    assert status == 0 and Path(out.strip()) == copy / "report.html"
    assert (copy / "report.html").stat().st_size > 10_000


def test_a_directory_that_is_no_run_is_refused(command: Command, tmp_path: Path) -> None:
    for arguments in (("evaluate",), ("report",), ("sample",), ("resume",)):
        refused(command(arguments[0], tmp_path), "holds no run")
    (tmp_path / "recipe.json").write_text("{")
    refused(command("report", tmp_path), "damaged")
    (tmp_path / "recipe.json").write_text(
        '{"format": 999, "versions": {"lowland": "9.9"}, "recipe": {}}'
    )
    refused(command("report", tmp_path), "format 999")


def test_commands_in_python_are_the_same_functions(
    runs: Runs, command: Command, tmp_path: Path
) -> None:
    command("sample", runs.moons, "--count", 4, "--seed", 9, "--out", tmp_path / "a.npy", "--quiet")
    commands.sample(runs.moons, count=4, out=tmp_path / "b.npy", seed=9, quiet=True)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    assert (
        format_rows([], "csv", ROW).strip() == ",".join(ROW) and format_rows([], "jsonl", ROW) == ""
    )
