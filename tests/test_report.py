"""lowland.report: a run directory to one self-contained page; what is missing is named, what is
written is escaped.
"""

import base64
import io
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread

from lowland.report import curves, figures, pictures, planar, text, write_report
from lowland.report.page import summarize, train_command, training_seconds
from lowland.run import Run, RunError

VOID = {"meta", "link", "img", "br", "hr", "input"}  # HTML elements without an end tag
SETS = ("train", "test", "samples", "noise", "turned 90°")
EVIL = "<script>alert('x')</script> \"&amp;\" $\\frac{1}{2}$"


def value(number: float, error: float | None = None) -> dict[str, float]:
    return {"value": number} if error is None else {"value": number, "error": error}


def recipe(name: str = "digits") -> dict[str, Any]:
    return {
        "name": name,
        "about": "Small digits.",
        "seed": 7,
        "data": {"name": "digits", "root": None},
        "energy": {"name": "MLP", "hidden": [256, 256]},
        "objective": {"name": "PCD", "steps": 20},
        "sampler": {"name": "Langevin", "step_size": 0.01},
        "training": {"steps": 300, "betas": [0.5, 0.999]},
        "generation": {"steps": 100, "sampler": {"name": "Langevin", "step_size": 0.01}},
        "restoration": {"sigma": 0.1},
    }


def row(step: int, generator: np.random.Generator) -> dict[str, Any]:
    noise = float(generator.normal())
    return {
        "step": step, "loss": noise, "gap": -noise, "energy_data": noise - 2,
        "energy_model": -2.0, "energy_std": 1.0,
        "gradient_norm": float(np.exp(3 * noise)), "movement": 0.3, "bound_share": 0.4,
        "data_bound_share": 0.38, "acceptance": 0.8,
        "age": float(step), "nonfinite": 0, "diverged": 0, "rate": 1e-3,
        "health": "warn" if 100 < step < 130 else "good",
    }  # fmt: skip


EVENTS = (
    {
        "step": 110,
        "event": "verdict",
        "name": "energy gap",
        "level": "warn",
        "sentence": "It drifts.",
        "remedy": "Wait.",
    },
    {
        "step": 200,
        "event": "rollback",
        "name": "non-finite",
        "level": "bad",
        "sentence": "Two & more.",
        "to": 150,
    },
)


def image_arrays(generator: np.random.Generator) -> dict[str, Any]:
    images = generator.random((40, 1, 8, 8), dtype=np.float32)
    mask = np.ones((1, 8, 8), dtype=np.float32)
    mask[:, 4:] = 0
    nominal = np.linspace(0.02, 0.5, 25)
    arrays = {
        "samples": images, "samples_label": np.arange(40) % 3, "data": images[::-1],
        "film": generator.random((5, 4, 1, 8, 8), dtype=np.float32),
        "film_steps": np.array([0, 10, 50, 100, 12000]),
        "neighbour_samples": images[:10], "neighbour_of": images[10:20],
        "distances_samples": generator.gamma(9, 1, 40), "distances_test": generator.gamma(9, 1, 60),
        "alarm_nominal": nominal, "alarm_empirical": nominal, "alarm_low": nominal * 0.8,
        "alarm_high": nominal * 1.2,
        "inpaint/original": images[:8], "inpaint/observed": images[:8], "inpaint/mask": mask,
        "inpaint/mean": images[:8],
        "inpaint/spread": images[:8] / 5, "inpaint/draws": images[:24].reshape(3, 8, 1, 8, 8),
        "inpaint/nearest": images[:8],
        "denoise/original": images[:8], "denoise/observed": images[:8], "denoise/mean": images[:8],
        "denoise/spread": images[:8],
    }  # fmt: skip
    return arrays | {
        f"energies/{name}": generator.normal(40 * (name == "noise"), 1, 50) for name in SETS
    }


IMAGE_FIGURES: dict[str, Any] = {
    "seconds": 42.0,
    "notes": ["The judge saw 1,000 digits."],
    "samples": {
        "count": 40, "start": "noise", "steps": 1234, "sampler": "Langevin(step_size=0.01)",
        "judge_test_accuracy": 0.9671,
        "confident": value(0.8731, 0.021), "class_entropy": 0.9812, "class_counts": [14, 13, 13],
        "class_names": ["zero", "one", "two"], "agreement": value(0.9134, 0.012),
        "neighbour_ratio": 0.943, "copies": 3,
        "expected_copies": 0.4, "mmd": value(0.01234, 0.0021), "frechet": value(14.27),
        "gap": value(-0.134, 0.051),
    },
    "detection": {
        "nominal": 0.05, "calibration_count": 359,
        "false_alarm": {"value": 0.047, "low": 0.031, "high": 0.069, "count": 360},
        "outliers": {
            "noise": {"auroc": value(1.0, 0.0), "aupr": value(1.0, 0.0), "fpr95": value(0.0, 0.0),
                      "count": 500},
            "turned 90°": {"auroc": value(0.8312, 0.0153), "aupr": value(0.818, 0.016),
                           "fpr95": value(0.521, 0.028), "count": 401},
        },
    },
    "restoration": {
        "count": 64,
        "tasks": {
            "inpaint": {
                "psnr": {"lowland mean": value(19.42, 0.31),
                         "nearest neighbour": value(16.83, 0.42)},
                "class_consistency": {"lowland mean": value(0.94, 0.03),
                                      "nearest neighbour": value(0.81, 0.05)},
            },
            "denoise": {"psnr": {"lowland mean": value(20.13, 0.22), "noisy": value(8.91, 0.05)}},
        },
    },
}  # fmt: skip


def plane_arrays(generator: np.random.Generator) -> dict[str, Any]:
    points = generator.normal(size=(200, 2))
    x, y = np.linspace(-3, 3, 30), np.linspace(-3, 3, 25)
    grid = np.stack(np.meshgrid(x[::5], y[::5]), -1).reshape(-1, 2)
    return {
        "samples": points, "data": points + 0.1, "film": generator.normal(size=(6, 90, 2)),
        "film_steps": np.arange(6) * 20,
        "landscape/x": x, "landscape/y": y,
        "landscape/energy": 0.5 * (x[None] ** 2 + y[:, None] ** 2),
        "field/points": grid, "field/vectors": -grid, "energies/train": points[:, 0] ** 2,
        "energies/test": points[:, 1] ** 2,
    }  # fmt: skip


def make(
    path: Path,
    *,
    arrays: dict[str, Any] | None = None,
    found: dict[str, Any] | None = None,
    values: dict[str, Any] | None = None,
    steps: int = 2,
    events: bool = True,
) -> Run:
    """A run directory as training and evaluation leave it."""
    generator = np.random.default_rng(0)
    run = Run.create(path, recipe() if values is None else values)
    for i in range(1, steps + 1):
        run.log(row(10 * i, generator))
        spent = {"step": 10 * i, "seconds": 4.0 * i, "device": "cuda:0"}
        run.log(spent, "time.jsonl")
        for event in EVENTS if events else ():
            if event["step"] == 10 * i:
                run.log(event)
    if arrays is not None:
        run.write_tensors(
            "evaluation.safetensors",
            {k: torch.as_tensor(np.ascontiguousarray(v)) for k, v in arrays.items()},
        )
    if found is not None:
        run.write_json("evaluation.json", found)
    return run


class Page(HTMLParser):
    """A page taken apart: balanced or not, its text, its figures, its addresses."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.source, self.open, self.problems = source, [], []  # type: ignore[var-annotated]
        self.words: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.figures: list[dict[str, bool]] = []
        self.feed(source)
        self.close()
        self.problems += [f"{tag} is never closed" for tag in self.open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "figure":
            self.figures.append({"text": False, "caption": False, "picture": False})
        if "figure" in self.open and self.figures:
            figure = self.figures[-1]
            figure["picture"] |= tag in ("img", "svg", "table") or found.get("role") == "img"
            figure["text"] |= bool(found.get("alt") or found.get("aria-label"))
            figure["caption"] |= tag == "figcaption"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open[-1] != tag:
            self.problems.append(f"</{tag}> closes {self.open[-1:]}")
        else:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def read(run: Run) -> Page:
    path = write_report(run.path)
    assert path == run.path / "report.html" and path.is_file()
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def image_page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    arrays = image_arrays(np.random.default_rng(1))
    return read(
        make(tmp_path_factory.mktemp("image") / "run", arrays=arrays, found=IMAGE_FIGURES, steps=30)
    )


@pytest.fixture(scope="module")
def plane_page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    found = {
        "seconds": 3.0,
        "notes": [],
        "samples": {"count": 200, "start": "chains", "mmd": value(0.002, 0.001)},
    }
    arrays = plane_arrays(np.random.default_rng(1))
    return read(
        make(
            tmp_path_factory.mktemp("plane") / "run",
            arrays=arrays,
            found=found,
            steps=30,
            events=False,
        )
    )


@pytest.fixture(scope="module")
def bare_page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    run = Run.create(
        tmp_path_factory.mktemp("bare") / "run", {"name": EVIL, "energy": {"name": EVIL}}
    )
    for step, loss in enumerate((1.0, float("nan"), float("inf"), 0.5)):
        run.log({"step": step, "loss": loss})
    run.log(
        {"step": 2, "event": "stop", "name": EVIL, "level": "bad", "sentence": EVIL, "remedy": EVIL}
    )
    return read(run)


PAGES = ("image_page", "plane_page", "bare_page")


@pytest.fixture(params=PAGES)
def page(request: pytest.FixtureRequest) -> Page:
    found: Page = request.getfixturevalue(request.param)
    return found


# --------------------------------------------------------------------------------------- every page


def test_tags_are_balanced(page: Page) -> None:
    assert page.problems == []
    assert page.source.startswith("<!DOCTYPE html>")


def test_nothing_is_loaded_from_anywhere(page: Page) -> None:
    assert not [
        tag for tag, _ in page.tags if tag in ("script", "iframe", "object", "embed", "base")
    ]
    for tag, attributes in page.tags:
        for key in ("src", "href", "xlink:href", "data", "action", "poster", "srcset"):
            address = attributes.get(key)
            assert address is None or address.startswith(("data:", "#")), (tag, key, address)
    styles = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=\s]*", "", page.source)
    assert "@import" not in styles and not re.search(r"url\((?!#)", styles)
    assert not re.search(r"https?://", styles)


def test_it_opens_on_a_phone_and_in_the_dark(page: Page) -> None:
    assert (
        "meta",
        {"name": "viewport", "content": "width=device-width, initial-scale=1"},
    ) in page.tags
    assert "prefers-color-scheme: dark" in page.source and 'charset="utf-8"' in page.source


def test_every_figure_has_a_text_alternative_and_a_caption(page: Page) -> None:
    assert page.figures and all(figure["picture"] and figure["text"] for figure in page.figures)
    drawn = [
        attributes
        for tag, attributes in page.tags
        if tag == "svg" and "aria-hidden" not in attributes
    ]
    assert all(attributes["aria-label"] and attributes["role"] == "img" for attributes in drawn)
    assert all(attributes["alt"] for tag, attributes in page.tags if tag == "img")
    without = sum(not figure["caption"] for figure in page.figures)
    assert without <= page.text.count(" Events ")  # the table of events alone explains itself


def test_every_id_is_given_once_and_every_reference_is_met(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    wanted = {
        a["href"][1:] for _, a in page.tags if (a.get("href") or "").startswith("#") and a["href"]
    }
    assert wanted | set(re.findall(r"url\(#([^)]+)\)", page.source)) <= set(ids)


def test_every_colour_of_the_plots_is_a_variable_of_the_page(page: Page) -> None:
    defined = set(re.findall(r"--([a-z]+):", page.source))
    assert set(figures.COLORS) <= defined
    assert set(re.findall(r"var\(--([a-z]+)\)", page.source)) <= defined
    body = page.source.partition("<body>")[2]
    assert not [colour for colour in figures.COLORS.values() if colour in body]


def test_the_glossary_and_the_versions_are_there(page: Page) -> None:
    assert "lower by one is e times as likely" in page.text
    assert f"torch {torch.__version__}" in page.text


# ------------------------------------------------------------------------------------------- images


@pytest.mark.parametrize(
    "text",
    [
        "Training reached update 300 in 2 min 0 s and ended in good health.",
        "On the way: 1 warning and 1 rollback.",
        "Trained on cuda:0.",
        "300 updates · 2.50 a second",
        "An MLP energy was trained on digits with the PCD objective and Langevin chains, for 300 "
        "updates; seed 7.",
        "hidden [256, 256]",
        "Small digits.",
        "The judge saw 1,000 digits.",
        "It drifts. Wait.",
        "rollback to 150: non-finite Two & more.",
        "40 samples were drawn from fresh noise, with 1,234 steps of Langevin(step_size=0.01).",
        "96.7 %",
        "87.3 ± 2.1 %",
        "91.3 ± 1.2 %",
        "98.1 %",
        "0.943",
        "3 (expected 0.40)",
        "0.0123 ± 0.0021",
        "14.27",
        "−0.134 ± 0.051",
        "threshold set on 359 calibration examples",
        "at most 5.0 % false alarms. Counted on 360 fresh test examples: 4.7 %; a sound detector "
        "would show 3.1 % to 6.9 %",
        "turned 90° 401 0.831 ± 0.015 0.818 ± 0.016 52.1 ± 2.8 %",
        "AUROC against turned 90°, the hardest set",
        "lowland mean 19.42 ± 0.31 94.0 ± 3.0 %",
        "nearest neighbour 16.83 ± 0.42",
        "noisy 8.910 ± 0.050",
        "Measured on 64 test images",
        "Beyond it lie 100 % of noise (to the right).",
        "Evaluation took 42 s.",
        "lowland train digits",
    ],
)
def test_what_was_measured_stands_in_the_page(image_page: Page, text: str) -> None:
    assert text in image_page.text


def test_nothing_is_called_missing_in_a_whole_image_run(image_page: Page) -> None:
    assert "absent" not in image_page.source.partition("<body>")[2]
    assert "The landscape" not in image_page.text  # for points in the plane alone


def test_pictures_are_drawn_pixel_for_pixel(image_page: Page) -> None:
    assert "image-rendering: pixelated" in image_page.source
    sheets = [a for tag, a in image_page.tags if tag == "img"]
    assert len(sheets) == 2 + 3 + 5 + 4 + (8 + 4)  # grids, classes, film, pairs, restored rows
    code = (sheets[0]["src"] or "").partition("base64,")[2]
    pixels = imread(io.BytesIO(base64.b64decode(code)), format="png")
    images = image_arrays(np.random.default_rng(1))["samples"]
    assert pixels.shape == (6 * 9 - 1, 7 * 9 - 1, 4)
    assert np.abs(pixels[9:17, 18:26, 0] - images[9, 0]).max() <= 1 / 255 and np.all(
        pixels[8, :, 3] == 0
    )


def test_the_film_names_its_steps(image_page: Page) -> None:
    assert "0 10 50 100 12k" in image_page.text


def test_the_page_is_small_and_the_same_each_time(tmp_path: Path) -> None:
    run = make(tmp_path / "run", arrays=image_arrays(np.random.default_rng(1)), found=IMAGE_FIGURES)
    first = write_report(run.path).read_bytes()
    assert write_report(str(run.path)).read_bytes() == first and len(first) < 1_000_000


def test_large_images_are_shown_in_smaller_number() -> None:
    assert pictures.count_shown(np.zeros((500, 3, 32, 32)), 64) == 64
    assert pictures.count_shown(np.zeros((500, 3, 256, 256)), 64) == 6
    assert pictures.count_shown(np.zeros((3, 1, 8, 8)), 64) == 3


# ---------------------------------------------------------------------------------------- the plane


def test_a_run_in_the_plane_shows_its_landscape(plane_page: Page) -> None:
    for title in (
        "Energy and data",
        "Energy and samples",
        "Downhill: −∇E",
        "After 0 steps",
        "After 100 steps",
    ):
        assert title in plane_page.text
    assert "200 samples were drawn from the chains kept during training." in plane_page.text


def test_a_few_chains_in_the_plane_are_drawn_as_paths(tmp_path: Path) -> None:
    arrays = plane_arrays(np.random.default_rng(1))
    page = read(make(tmp_path / "run", arrays=arrays | {"film": arrays["film"][:, :8]}, found={}))
    assert (
        "Paths of 8 chains over the data (grey): from the ring, after 0 steps, to the dot, after "
        "100" in page.text
    )
    assert "After 0 steps" not in page.text and page.problems == []


@pytest.mark.parametrize(
    "sentence",
    [
        "No events were logged: no warning, no rollback, no stop.",
        "No pairs are shown: the samples are not images, or no neighbours were stored.",
        "No distances to the training data were stored in this run.",
        "Outlier detection was not evaluated in this run.",
        "Restoration was not evaluated in this run.",
    ],
)
def test_the_plane_says_what_it_does_not_have(plane_page: Page, sentence: str) -> None:
    assert sentence in plane_page.text


# ---------------------------------------------------------------------------------- what is missing


@pytest.mark.parametrize(
    "sentence",
    [
        "This run has not been evaluated yet",
        "The log of this run holds no health verdicts.",
        "Not logged in this run: energy gap, energies, gradient norm, chain movement, border "
        "share, acceptance, buffer age and learning rate.",
        "No samples were drawn: this run has not been evaluated.",
        "No film of the chains was stored in this run.",
        "No energies were stored in this run.",
        "No distances to the training data were stored in this run.",
        "Outlier detection was not evaluated in this run.",
        "Restoration was not evaluated in this run.",
        "not in the recipe",
        "2 values not finite (red ticks at the top).",
    ],
)
def test_a_bare_run_says_what_it_does_not_have(bare_page: Page, sentence: str) -> None:
    assert sentence in bare_page.text


def test_what_a_user_wrote_is_escaped(bare_page: Page) -> None:
    assert "<script" not in bare_page.source
    assert (
        bare_page.text.count("<script>alert('x')</script>") >= 5
    )  # as words: title, header, recipe, events, command


def test_names_of_sets_and_classes_are_escaped_too(tmp_path: Path) -> None:
    arrays = image_arrays(np.random.default_rng(1))
    arrays[f"energies/{EVIL}"] = arrays["energies/noise"]
    found = json.loads(json.dumps(IMAGE_FIGURES))
    found["samples"]["class_names"] = [EVIL, "$x$", "<u>"]
    found["detection"]["outliers"][EVIL] = {"auroc": value(0.5, 0.1), "count": 3}
    found["restoration"]["tasks"][EVIL] = {"psnr": {EVIL: value(1.0)}}
    found["notes"] = [EVIL]
    page = read(make(tmp_path / "run", arrays=arrays, found=found))
    assert page.problems == [] and "<script" not in page.source and "<u>" not in page.source
    assert page.text.count("<script>alert('x')</script>") >= 5
    assert "$x$" in page.text


def test_a_run_without_a_log(tmp_path: Path) -> None:
    page = read(Run.create(tmp_path / "run", {}))
    assert page.problems == []
    for sentence in (
        "No training log was found in this run.",
        "No training log was found, so there are no curves.",
    ):
        assert sentence in page.text
    assert "Training time not logged" in page.text


@pytest.mark.parametrize("missing", ["evaluation.json", "evaluation.safetensors"])
def test_half_an_evaluation(tmp_path: Path, missing: str) -> None:
    run = make(tmp_path / "run", arrays=image_arrays(np.random.default_rng(1)), found=IMAGE_FIGURES)
    (run.path / missing).unlink()
    page = read(run)
    assert page.problems == []
    wanted = {
        "evaluation.json": [
            "Nothing was measured on the samples",
            "No false-alarm rate was counted",
            "No outlier sets",
        ],
        "evaluation.safetensors": [
            "There is no picture of the samples",
            "No calibration curve",
            "no restored images",
        ],
    }
    assert all(sentence in page.text for sentence in wanted[missing])


@pytest.mark.parametrize("damaged", ["evaluation.json", "evaluation.safetensors"])
def test_a_damaged_evaluation_is_named(tmp_path: Path, damaged: str) -> None:
    run = make(tmp_path / "run", arrays=image_arrays(np.random.default_rng(1)), found=IMAGE_FIGURES)
    (run.path / damaged).write_bytes(b"{ not what it was")
    page = read(run)
    assert page.problems == [] and f"{damaged} is damaged" in page.text


def every_part(values: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Paths of all keys in nested mappings."""
    inner = (
        [p for k, v in values.items() for p in every_part(v, (*path, k))]
        if isinstance(values, dict)
        else []
    )
    return ([path] if path else []) + inner


@pytest.mark.parametrize("seed", range(6))
def test_any_part_may_be_absent(tmp_path: Path, seed: int) -> None:
    generator = np.random.default_rng(seed)
    arrays = (image_arrays if seed % 3 else plane_arrays)(generator)
    arrays = {name: array for name, array in arrays.items() if generator.random() < 0.6}
    found = json.loads(json.dumps(IMAGE_FIGURES))
    for path in every_part(found):
        if generator.random() < 0.25:
            inside = found
            for key in path[:-1]:
                inside = inside.get(key, {}) if isinstance(inside, dict) else {}
            inside.pop(path[-1], None)
    page = read(make(tmp_path / "run", arrays=arrays, found=found, steps=1))
    assert page.problems == [] and "nan" not in page.text.split()


def test_data_that_are_neither_images_nor_in_the_plane(tmp_path: Path) -> None:
    points = np.random.default_rng(0).normal(size=(50, 9)).astype(np.float32)
    page = read(
        make(
            tmp_path / "table",
            arrays={"samples": points, "data": points, "film": points[None]},
            found={},
        )
    )
    assert "The data are not images: 6 columns of 9 are shown instead." in page.text
    assert "The chains are not images or points in the plane" in page.text
    page = read(make(tmp_path / "other", arrays={"samples": points.reshape(50, 3, 3)}, found={}))
    assert page.problems == [] and "There is no picture of the samples" in page.text


def test_values_that_are_not_finite_are_left_out_and_counted(tmp_path: Path) -> None:
    energies = np.array([1.0, 2.0, np.nan, np.inf, 3.0])
    arrays = {
        "energies/train": energies,
        "energies/test": np.full(4, np.nan),
        "samples": np.full((4, 1, 8, 8), np.nan),
    }
    page = read(make(tmp_path / "run", arrays=arrays, found={}))
    assert "Not finite, and left out: 2 of train." in page.text


def test_half_precision_arrays_are_read(tmp_path: Path) -> None:
    run = make(tmp_path / "run", found={})
    run.write_tensors("evaluation.safetensors", {"samples": torch.rand(9, 3, 8, 8).bfloat16()})
    assert "Grid of 9 samples" in write_report(run.path).read_text(encoding="utf-8")


def test_a_directory_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"recipe\.json is missing"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


# --------------------------------------------------------------------------------------- the header


def test_the_time_of_training_goes_on_after_a_resume() -> None:
    assert training_seconds([{"seconds": s} for s in (1.0, 20.0, 30.0, 21.0, 25.0)]) == 30.0
    assert training_seconds([{"step": 1}]) is None and training_seconds([]) is None


def test_the_verdict_names_what_stopped_the_run() -> None:
    stop = {"step": 30, "event": "stop", "level": "bad", "sentence": "The gap is dead"}
    words = summarize([{"step": 30, "health": "bad"}], [stop], 61.0)
    assert words == (
        "Training reached update 30 in 1 min 1 s and ended in bad health. It was stopped at update "
        "30: The gap is dead."
    )


def test_the_command_is_quoted() -> None:
    assert (
        train_command("digits", {"data": {"root": "/my data"}})
        == "lowland train digits --data-root '/my data'"
    )
    assert train_command("a; rm -rf b", {}) == "lowland train 'a; rm -rf b'"


def test_a_false_alarm_rate_above_the_band_is_bad(tmp_path: Path) -> None:
    for rate, tone in ((0.05, "good"), (0.02, "good"), (0.2, "bad")):
        found = {
            "detection": {
                "nominal": 0.05,
                "false_alarm": {"value": rate, "low": 0.03, "high": 0.07, "count": 100},
            }
        }
        source = write_report(make(tmp_path / str(rate), found=found, steps=0).path).read_text(
            encoding="utf-8"
        )
        assert re.search(rf'class="card {tone}"><dt>False alarms', source)


# ------------------------------------------------------------------------------------------ numbers


@pytest.mark.parametrize(
    ("call", "wanted"),
    [
        (lambda: text.estimate(value(0.9312, 0.0083)), "0.9312 ± 0.0083"),
        (lambda: text.estimate(value(-19.4217, 0.314), unit="dB"), "−19.42 ± 0.31 dB"),
        (lambda: text.estimate(value(0.91, 0.012), share=True), "91.0 ± 1.2 %"),
        (lambda: text.estimate(value(1.0, 0.0)), "1.000"),
        (lambda: text.estimate({"value": "nan"}), "–"),
        (lambda: text.estimate(None), "–"),
        (lambda: text.estimate(123456.0), "123,456"),
        (lambda: text.show(0.00001234), "1.23e−5"),
        (lambda: text.show(1234.5), "1,234"),
        (lambda: text.show("inf"), "inf"),
        (lambda: text.show(float("nan")), "nan"),
        (lambda: text.show(0), "0"),
        (lambda: text.percent(0.05), "5.0 %"),
        (lambda: text.count(12345), "12,345"),
        (lambda: text.duration(59.7), "1 min 0 s"),
        (lambda: text.duration(3.21), "3.2 s"),
        (lambda: text.duration(4000), "1 h 6 min"),
        (lambda: text.duration(200_000), "2 d 7 h"),
        (lambda: text.join(["a", "b", "c"]), "a, b and c"),
        (lambda: figures.tick(12000), "12k"),
        (lambda: figures.tick(-0.000012), "−1.2e−5"),
        (lambda: figures.tick(0.30000000000000004), "0.3"),
    ],
)
def test_numbers_are_written_for_people(call: Callable[[], str], wanted: str) -> None:
    assert call() == wanted


# ------------------------------------------------------------------------------------------- curves


def test_a_long_log_keeps_its_spikes() -> None:
    values = np.zeros(20_000)
    values[12_345], values[777] = 9.0, -9.0
    line = curves.thin(curves.Series(np.arange(20_000.0), values))
    assert len(line.steps) <= 500 and line.values.max() == 9.0 and line.values.min() == -9.0
    assert np.all(np.diff(line.steps) > 0)


def test_a_curve_breaks_at_a_rollback_and_at_values_that_are_not_finite() -> None:
    rows = [
        {"step": s, "loss": v} for s, v in ((1, 0.0), (2, "nan"), (3, 2.0), (2, 3.0), (3, "-inf"))
    ]
    line = curves.collect_series(rows, "loss")
    assert line is not None and np.isneginf(line.values[-1])
    line = curves.insert_breaks(line)
    np.testing.assert_array_equal(line.values, [0, np.nan, 2, np.nan, 3, np.nan])
    assert curves.collect_series(rows, "gap") is None


def test_a_running_mean_passes_over_what_is_not_finite() -> None:
    values = np.full(200, 5.0)
    values[50] = np.inf
    even = curves.smooth(curves.Series(np.arange(200.0), values))
    assert np.isnan(even.values[50]) and np.nanmin(even.values) == np.nanmax(even.values) == 5.0


def test_a_few_wild_values_do_not_flatten_a_curve_and_are_counted() -> None:
    values = np.sin(np.arange(1000.0))
    values[3] = 1e9
    low, high, beyond = curves.axis_limits([curves.Series(np.arange(1000.0), values)])
    assert -2 < low < high < 2 and beyond == 1
    assert curves.axis_limits([curves.Series(np.arange(3.0), np.array([0.0, 1.0, 100.0]))])[2] == 0


def test_the_strip_of_health_shows_the_worst_of_neighbouring_steps() -> None:
    rows = [{"step": s, "health": "bad" if s == 777 else "good"} for s in range(5000)]
    strip = curves.health_strip(rows, cells=100)
    assert [level for level, _ in strip] == ["good", "bad", "good"]
    assert sum(width for _, width in strip) == pytest.approx(100, abs=0.1) and strip[1][
        1
    ] == pytest.approx(1)
    assert curves.health_strip([{"step": 1}]) == []


# ------------------------------------------------------------------------------------------ figures


def test_a_histogram_has_area_one_over_all_values() -> None:
    values = np.random.default_rng(0).normal(size=4000)
    figure = figures.draw_histogram(
        [(np.append(values, np.full(4000, 99.0)), "data")], (-6, 6), "energy"
    )
    heights, edges, _ = figure.axes[0].patches[0].get_data()  # type: ignore[attr-defined]
    assert np.sum(heights * np.diff(edges)) == pytest.approx(
        0.5, abs=1e-3
    )  # half of the values lie beyond


def test_the_window_holds_the_data_and_near_sets_but_not_far_ones() -> None:
    generator = np.random.default_rng(0)
    data, near, far = (
        generator.normal(0, 1, 2000),
        generator.normal(6, 1, 2000),
        generator.normal(500, 1, 2000),
    )
    low, high = figures.choose_window([data], [near, far])
    assert -4 < low < -2 and 7.5 < high < 10
    assert (
        figures.choose_window([np.full(5, 3.0)])[0]
        < 3
        < figures.choose_window([np.full(5, 3.0)])[1]
    )
    low, high = figures.choose_window([], [])
    assert low < high


def test_drawings_are_small_documents_without_fonts_or_addresses() -> None:
    figure = figures.draw_histogram([(np.arange(9.0), "data")], (0, 8), "energy")
    assert isinstance(figure, Figure)
    text = figures.to_svg(figure, 'a "b" <c>')
    root = ElementTree.fromstring(text)
    assert root.get("aria-label") == 'a "b" <c>' and root.get("role") == "img"
    assert (
        "DejaVu" not in text
        and "http" not in text
        and "var(--data)" in text
        and "energy" in "".join(root.itertext())
    )


def test_the_landscape_is_drawn_with_y_in_rows() -> None:
    x, y = np.linspace(0, 1, 5), np.linspace(0, 10, 7)
    energy = np.tile(y[:, None], (1, 5))
    figure = planar.draw_landscape(x, y, energy, None, "#ffffff")
    assert figure.axes[0].get_xlim() == (0, 1) and figure.axes[0].get_ylim() == (0, 10)
    assert "<image" in figures.to_svg(figure, "map")


def test_unknown_pixels_have_a_colour_of_their_own() -> None:
    images = np.zeros((1, 1, 2, 2))
    images[0, 0, 0, 1] = np.nan
    colours = pictures.to_rgb(images)
    np.testing.assert_allclose(colours[0, 0, 1], pictures.UNKNOWN_COLOR)
    assert colours[0, 0, 0].sum() == 0


def test_heat_rises_with_the_spread() -> None:
    colours = pictures.to_heatmap(np.linspace(0, 1, 16).reshape(1, 1, 4, 4), 1.0).reshape(-1, 3)
    assert np.all(np.diff(colours.sum(axis=1)) > 0)


# ------------------------------------------------------------------------------------------ imports


def test_drawing_uses_no_global_state() -> None:
    code = (
        "import sys, matplotlib, numpy as np\n"
        "from lowland.report import figures\n"
        "before = {key: matplotlib.rcParams[key] for key in figures.STYLE}\n"
        "figures.to_svg(figures.draw_histogram([(np.arange(9.0), 'data')], (0, 8), 'x'), 'alt')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert before == {key: matplotlib.rcParams[key] for key in figures.STYLE} != figures.STYLE"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)
