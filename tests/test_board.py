"""The sets of the board, its figures, and `detect` and `bench ood` as commands."""

import csv
import io
import itertools
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contract.cases import seeded
from scipy.ndimage import gaussian_filter
from torch import Tensor

from lowland import Detector, commands, load, load_data, read_recipe
from lowland.cli import main
from lowland.evaluation import Findings
from lowland.evaluation.detection import measure_detection
from lowland.evaluation.ood import (
    ANGLES,
    STRENGTHS,
    blur,
    list_losses,
    list_scores,
    load_other_data,
    make_scorers,
    make_shifts,
    measure_separations,
    measure_shift_curves,
    outlier_sets,
    resize_images,
    rotate,
    table,
)
from lowland.metrics import auroc
from lowland.pretrained import pretrained_folder
from lowland.trained.scoring import detect_points, load_detector

Command = Callable[..., tuple[int, str, str]]


def pictures(count: int = 40) -> Tensor:
    return load_data("digits").test.x[:count]


# --------------------------------------------------------------------------------------------- sets


def test_sets_are_what_their_names_say() -> None:
    x = pictures()
    sets = {one.name: one.x for one in outlier_sets(x, seeded(0), {"other": x.flip(3)})}
    assert all(
        s.shape == x.shape and s.min() >= x.min() - 1e-6 and s.max() <= x.max() + 1e-6
        for s in sets.values()
    )
    assert torch.equal(
        sets["rotated 90°"][:, 0], torch.from_numpy(np.rot90(x[:, 0].numpy(), axes=(1, 2)).copy())
    )
    assert torch.equal(sets["inverted"], 1 - x) and torch.equal(sets["other"], x.flip(3))
    permuted = sets["pixels permuted"].flatten(1)
    assert torch.equal(permuted.sort(1).values, x.flatten(1).sort(1).values) and not torch.equal(
        permuted, x.flatten(1)
    )
    assert bool((sets["constant"].flatten(1).std(1) == 0).all()) and sets["constant"].std() > 0.2
    noise = sets["uniform noise"]
    assert abs(float(noise.mean()) - 0.5) < 5 * math.sqrt(1 / 12 / noise.numel())
    names = [one.kind for one in outlier_sets(x, seeded(0), {"other": x})]
    assert names == ["near"] * 4 + ["far"] * 5


def test_the_same_generator_makes_the_same_sets() -> None:
    x = pictures()
    assert all(
        torch.equal(a.x, b.x)
        for a, b in zip(outlier_sets(x, seeded(1)), outlier_sets(x, seeded(1)), strict=True)
    )


def test_blur_is_that_of_scipy() -> None:
    x = torch.rand(3, 2, 20, 20, generator=seeded(0), dtype=torch.float64)
    theirs = gaussian_filter(x.numpy(), (0, 0, 1.5, 1.5), mode="nearest", truncate=5 / 1.5)
    assert torch.allclose(blur(x, 1.5), torch.from_numpy(theirs), atol=1e-12)


def test_turning_by_a_quarter_is_exact_and_by_nothing_is_nothing() -> None:
    x = pictures()
    assert torch.allclose(rotate(x, 0.0), x, atol=1e-6)
    quarter = rotate(x, 90.0)
    assert any(torch.allclose(quarter, x.rot90(k, (2, 3)), atol=1e-5) for k in (1, 3))
    back = rotate(rotate(x, 30.0), -30.0)
    assert float((back - x)[..., 2:6, 2:6].abs().mean()) < 0.15


def test_shifts_begin_at_the_data_and_grow() -> None:
    x = pictures()
    for amounts, (name, graded) in zip(
        (ANGLES, STRENGTHS), make_shifts(x, seeded(0)).items(), strict=True
    ):
        assert tuple(amount for amount, _ in graded) == amounts, name
        far = [float((moved - x).square().mean()) for _, moved in graded]
        assert far[0] < 1e-10 and all(a < b for a, b in itertools.pairwise(far[:7]))
    assert list(make_shifts(torch.randn(5, 3), seeded(0))) == ["noise"]


def test_vectors_have_sets_of_their_own() -> None:
    x = torch.randn(100, 3, generator=seeded(0)) @ torch.tensor(
        [[1.0, 0.9, 0.0], [0.0, 0.3, 0.0], [0.0, 0.0, 1.0]]
    )
    sets = {one.name: one.x for one in outlier_sets(x, seeded(1))}
    shuffled = sets["coordinates shuffled"]
    assert torch.equal(shuffled.sort(0).values, x.sort(0).values)
    assert abs(float(torch.corrcoef(shuffled.T)[0, 1])) < 0.5 < float(torch.corrcoef(x.T)[0, 1])
    assert torch.allclose(sets["stretched 1.5×"].std(0), 1.5 * x.std(0))


def test_other_images_come_in_the_shape_asked_for() -> None:
    x = pictures()
    assert (
        resize_images(x, (3, 28, 28)).shape == (40, 3, 28, 28) and resize_images(x, (1, 8, 8)) is x
    )
    colour = torch.rand(4, 3, 32, 32, generator=seeded(0))
    assert torch.allclose(resize_images(colour, (1, 32, 32))[:, 0], colour.mean(1))
    found, notes = load_other_data("digits", (1, 8, 8), 10, root="/nowhere")
    assert all(f.shape == (10, 1, 8, 8) for f in found.values()) and len(found) + len(notes) == 3
    assert load_other_data("moons", (2,), 10) == ({}, [])


# -------------------------------------------------------------------------------------------- board


def test_a_cell_is_the_auroc_of_the_scores_and_losses_are_told() -> None:
    x = pictures()
    sets = outlier_sets(x, seeded(0))
    rows: dict[str, Any] = {
        "ink": lambda p: p.flatten(1).sum(1),
        "no ink": lambda p: -p.flatten(1).sum(1),
    }
    found = measure_separations(rows, x, sets, seeded(1), draws=50)
    inverted = next(one.x for one in sets if one.name == "inverted")
    assert (
        found["ink"]["inverted"]["auroc"]["value"]
        == auroc(rows["ink"](x), rows["ink"](inverted)).value
    )
    assert found["ink"]["inverted"]["base_rate"] == 0.5
    assert [line.split(" loses")[0] for line in list_losses(found) if "inverted" in line] == [
        "no ink"
    ]
    lines = table(found)
    assert len(lines) == 2 + len(sets) and "**lost**" in next(
        line for line in lines if line.startswith("| inverted")
    )
    graded = measure_shift_curves(rows, x, seeded(2), draws=20)
    assert [a for a, _ in graded["rotation"]["ink"]] == list(ANGLES)


def test_a_run_gives_the_scores_that_its_energy_knows() -> None:
    digits = load("digits")
    assert {"energy", "msp", "mahalanobis"} <= set(
        list_scores(digits)
    ) and "multiscale" not in list_scores(digits)
    rows = make_scorers(digits, ["energy", "typicality"])
    assert torch.equal(
        rows["energy"](pictures()), Detector(digits.marginal).outlier_scores(pictures())
    )
    with pytest.raises(ValueError, match="did you mean 'typicality'"):
        make_scorers(digits, ["typicly"])
    noisy = load("fashion-mnist")
    assert "multiscale" in list_scores(noisy) and "msp" not in list_scores(noisy)


# ----------------------------------------------------------------------------------------- commands


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*arguments: Any) -> tuple[int, str, str]:
        capsys.readouterr()
        status = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def files(tmp_path: Path) -> Path:
    data, g = load_data("digits"), seeded(0)
    np.save(tmp_path / "fresh.npy", data.calibration.x.numpy())
    np.save(
        tmp_path / "mixed.npy",
        torch.cat([data.test.x[:60], torch.rand(10, 1, 8, 8, generator=g)]).numpy(),
    )
    shutil.copytree(pretrained_folder() / "digits", tmp_path / "run")
    return tmp_path


def test_detect_fits_finds_and_says_so_by_its_status(files: Path, command: Command) -> None:
    status, printed, told = command(
        "detect",
        "fit",
        files / "run",
        "--calibration",
        files / "fresh.npy",
        "--outlier-score",
        "typicality",
    )
    assert (status, printed.strip()) == (
        0,
        str(files / "run" / "detector.safetensors"),
    ) and "125 calibration points" in told
    status, printed, _ = command(
        "detect", files / "run", files / "mixed.npy", "--alpha", 0.01, "--quiet"
    )
    rows = list(csv.DictReader(io.StringIO(printed)))
    assert status == 1 and len(rows) == 70 and {row["verdict"] for row in rows[60:]} == {"outlier"}
    detector = Detector.load(files / "run" / "detector.safetensors", load(files / "run").marginal)
    x = torch.from_numpy(np.load(files / "mixed.npy"))
    assert [row["verdict"] == "outlier" for row in rows] == detector.predict(x, 0.01).tolist()
    assert [float(row["p_value"]) for row in rows] == pytest.approx(detector.p_value(x).tolist())
    np.save(files / "noise.npy", np.random.default_rng(0).random((20, 1, 8, 8), dtype=np.float32))
    told = command("detect", files / "run", files / "noise.npy", "--quiet")[2]
    assert (
        told.startswith("lowland: the points look unlike the calibration points")
        and ".py:" not in told
    )
    np.save(files / "calm.npy", x[~detector.predict(x, 0.01)].numpy())
    assert command("detect", files / "run", files / "calm.npy", "--alpha", 0.01, "--quiet")[0] == 0


@pytest.mark.parametrize("guarantee", ["marginal", "training-conditional", "fdr"])
def test_pieces_and_guarantees_agree_with_python(
    files: Path, command: Command, guarantee: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lowland.trained.scoring.SCORE_PIECE", 16)
    out = files / "made" / "rows.jsonl"  # folders of a result are made
    options = ("--guarantee", guarantee, "--format", "jsonl", "--out", out, "--quiet")
    assert (
        command("detect", "digits", files / "mixed.npy", *options)[0] == 1
    )  # no detector fitted: the calibration part
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    known = load_data("digits").calibration.x
    detector = Detector(load("digits").energy).fit(known)
    x = torch.from_numpy(np.load(files / "mixed.npy"))
    assert [row["verdict"] == "outlier" for row in rows] == detector.predict(
        x, guarantee=guarantee
    ).tolist()
    assert not list(files.glob(".*")) and list(out.parent.iterdir()) == [out]


def test_mistakes_of_detect_end_in_status_2_and_leave_nothing(
    files: Path, command: Command
) -> None:
    cases: list[tuple[tuple[Any, ...], str]] = [
        (("detect", "digits", files / "nothing.npy"), "nothing.npy"),
        (("detect", "digits", files / "mixed.npy", "--alpha", 0.0001), "at least 9999 are needed"),
        (("detect", "digits", files / "mixed.npy", "--alpha", 2), "lies in (0, 1)"),
        (
            ("detect", "digits", files / "mixed.npy", "--detector", files / "mixed.npy"),
            "holds no detector",
        ),
        (
            ("detect", "digits", files / "mixed.npy", "--calibration", files / "fresh.npy"),
            "--calibration",
        ),
        (
            ("detect", "digits", files / "mixed.npy", "--out", files / "fresh.npy" / "x.csv"),
            "could not be written",
        ),
        (("detect", "fit", "digits"), "--calibration"),
        (
            ("detect", "fit", "digits", "--calibration", files / "fresh.npy"),
            "shipped with lowland and is not written to",
        ),
        (
            (
                "detect",
                "fit",
                files / "run",
                "--calibration",
                files / "fresh.npy",
                "--outlier-score",
                "guess",
            ),
            "is not known",
        ),
        (
            (
                "detect",
                "fit",
                files / "run",
                "--calibration",
                files / "fresh.npy",
                "--alpha",
                0.001,
            ),
            "at least 999",
        ),
        (("bench", "ood", "digits", "--count", 3), "at least 20 points"),
        (("bench", "ood", files / "none"), "holds no run"),
    ]
    for arguments, words in cases:
        status, _, told = command(*arguments, "--quiet")
        assert status == 2 and words in told, (arguments, told)
    assert not (files / "run" / "detector.safetensors").exists() and not list(files.glob("*.csv"))


def test_halved_pictures_are_warned_of_once(files: Path) -> None:
    np.save(files / "dark.npy", np.load(files / "fresh.npy") / 2)
    commands.detect_fit(files / "run", calibration=[files / "fresh.npy"])
    model = load(files / "run")
    with pytest.warns(UserWarning, match="the mean of a point is") as heard:
        rows = list(detect_points(model, load_detector(model), [files / "dark.npy"]))
    assert len(rows) == 250 and sum("look unlike" in str(w.message) for w in heard) == 1


def test_the_board_of_a_run_is_printed_and_written(files: Path, command: Command) -> None:
    out = files / "board.json"
    options = (
        "--outlier-scores",
        "energy",
        "--outlier-scores",
        "msp",
        "--count",
        100,
        "--draws",
        30,
        "--out",
        out,
        "--quiet",
    )
    status, printed, _ = command("bench", "ood", "digits", *options)
    found = json.loads(out.read_text())["digits"]["found"]
    assert status == 0 and "| inverted |" in printed and set(found) == {"energy", "msp"}
    cell = found["energy"]["inverted"]
    assert cell["auroc"]["low"] <= cell["auroc"]["value"] <= cell["auroc"]["high"]
    assert f"{100 * cell['auroc']['value']:.1f} [" in printed


def test_a_recipe_names_the_score_that_evaluate_measures(files: Path) -> None:
    header = json.loads((files / "run" / "recipe.json").read_text())
    header["recipe"]["evaluation"] |= {"outlier_score": "mahalanobis", "outliers": []}
    (files / "run" / "recipe.json").write_text(json.dumps(header))
    s, found = load(files / "run"), Findings()
    measure_detection(s, found, seeded(0), s.data.calibration.x[:50])
    figures = found.figures["detection"]
    assert figures["score"]["name"] == "mahalanobis" and figures["calibration_count"] == 250
    known = s.data.train.take(slice(5000))
    detector = Detector(s.energy, "mahalanobis").fit(
        s.data.calibration.x, reference=known.x, labels=known.y
    )
    assert figures["false_alarm"]["value"] == pytest.approx(
        float(detector.predict(s.data.test.x).double().mean())
    )
    assert set(figures["outliers"]) == {"noise", "turned 90°"}
    assert figures["outliers"]["noise"]["detection_error"]["value"] < 0.1
    with pytest.raises(ValueError, match=r"evaluation.outlier_score: .*did you mean 'typicality'"):
        read_recipe("digits", {"evaluation.outlier_score": "typicly"})
