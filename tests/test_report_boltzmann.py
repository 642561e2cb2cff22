"""What evaluation finds inside a Boltzmann machine is true of it, and the report shows it or says
what is missing.
"""

import base64
import io
import itertools
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import imread

import lowland
from lowland.data import Dataset, load_data
from lowland.domain import categorical
from lowland.evaluation import boltzmann as inside
from lowland.evaluation import evaluate_model
from lowland.nets import RBM
from lowland.report import blocks, boltzmann, write_report
from lowland.run import Run
from lowland.trained import Model, load, saved_chains
from lowland.training import train_recipe

POINT = {
    "value": -20.5,
    "error": 0.25,
    "lower": -20.75,
    "upper": -20.25,
    "count": 250,
    "data": "digits, threshold",
}


def curve(*certified: bool) -> list[dict[str, Any]]:
    method = "annealed importance sampling"
    return [
        {**POINT, "step": 100 * i, "method": method, "certified": sure}
        for i, sure in enumerate(certified)
    ]


def figures(**more: Any) -> dict[str, Any]:
    found = {
        "hidden": 12,
        "units": "bernoulli",
        "count": 250,
        "dead": 0,
        "saturated": 0,
        "likelihood": curve(True, True),
    }
    return {"boltzmann": found | more}


def arrays(hidden: int = 12, channels: int = 1) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    draws = (generator.random((3, 4, channels, 5, 6)) < 0.5).astype(np.float32)
    means = generator.random((3, 4, channels, 5, 6)).astype(np.float32)
    means[0] = np.nan
    return {
        "boltzmann/filters": generator.normal(size=(hidden, channels, 5, 6)).astype(np.float32),
        "boltzmann/draws": draws, "boltzmann/means": means,
        "boltzmann/sweeps": np.array([0, 1, 10]),
        "boltzmann/from_chains": np.array(True),
        "boltzmann/activity": generator.random((20, hidden)).astype(np.float32),
        "boltzmann/activity_labels": np.repeat([0, 3, 7], [8, 8, 4]),
        "boltzmann/unit_means": np.linspace(1, 0, hidden),
    }  # fmt: skip


def pictures(section: blocks.Section) -> dict[str, Any]:
    """Everything with a title, by title."""
    items = [
        item
        for block in section.blocks
        for item in (block.items if block.kind == "panels" else [block])
    ]
    return {item.title: item for item in items if hasattr(item, "title")}


def words(section: blocks.Section) -> str:
    return " ".join(block.words for block in section.blocks if block.kind == "paragraph")


def pixels(markup: str) -> np.ndarray[Any, Any]:
    """The picture inside an <img>, as floats (H, W, 4)."""
    code = re.search(r"base64,([^\"]*)", markup)
    assert code is not None
    return imread(io.BytesIO(base64.b64decode(code[1])), format="png")


def section(values: Any, found: Any) -> blocks.Section:
    made = boltzmann.boltzmann_section(values, found)
    assert made is not None
    return made


# ------------------------------------------------------------------------------------- the pictures


def test_other_energies_have_no_such_section() -> None:
    assert (
        boltzmann.boltzmann_section({}, {}) is None
        and boltzmann.boltzmann_section({"samples": {}}, arrays()) is None
    )


def test_signed_colours_are_one_scale_with_zero_in_the_middle() -> None:
    shade = boltzmann.color_signed(
        np.array([-9.0, -1.0, -0.5, 0.0, 0.5, 1.0, 9.0]).reshape(7, 1, 1, 1), 1.0
    )[:, 0, 0]
    assert np.array_equal(shade[0], shade[1]) and np.array_equal(shade[5], shade[6])
    blue, orange = shade[:, 2] - shade[:, 0], shade[:, 0] - shade[:, 2]
    assert (
        blue[1] > blue[2] > blue[3] and orange[5] > orange[4] > orange[3] and shade[3].min() > 0.85
    )
    channels = boltzmann.color_signed(np.array([1.0, -1.0, 0.0]).reshape(1, 3, 1, 1), 1.0)
    assert np.array_equal(channels[0, 0, 0], shade[3])


def test_filters_are_told_with_the_weight_at_the_end_of_the_scale() -> None:
    found = arrays()
    found["boltzmann/filters"][:] = 0.25
    found["boltzmann/filters"][:, :, 2:] = -1.5
    keys = pictures(section(figures(), found))["Filters"].keys
    assert (
        "−1.5" in keys[0][0]
        and "+1.5" in keys[1][0]
        and [colour for _, colour in keys] == ["data", "model"]
    )


def test_particles_show_every_draw_beside_the_mean_it_came_from() -> None:
    film = pictures(section(figures(), arrays()))["Fantasy particles over time"]
    assert [name for name, _ in film.columns] == ["0", "p", "1", "p", "10"]
    assert "chains kept from training" in film.caption
    draw = pixels(film.columns[2][1])[:, :, 0]
    assert np.array_equal(draw[:5, :6], arrays()["boltzmann/draws"][1, 0, 0])
    mean = pixels(film.columns[3][1])[:5, :6, 0]
    assert np.allclose(mean, arrays()["boltzmann/means"][2, 0, 0], atol=1 / 255)
    fresh = arrays() | {"boltzmann/from_chains": np.array(False)}
    assert (
        "begun at noise"
        in pictures(section(figures(), fresh))["Fantasy particles over time"].caption
    )


def test_the_map_has_a_gap_between_classes_and_dark_where_units_are_on() -> None:
    found = arrays(hidden=4)
    found["boltzmann/activity"] = np.repeat(
        np.array([[1.0, 0.5, 0.0, 0.0]], dtype=np.float32), 20, axis=0
    )
    shown = pixels(pictures(section(figures(hidden=4), found))["Hidden activity"].body)
    gaps = np.flatnonzero(shown[:, 0, 3] == 0)
    assert len(gaps) == 6 and np.array_equal(np.diff(gaps) == 1, [True, True, False, True, True])
    light = shown[0, :, :3].sum(1)
    wide = shown.shape[1] // 4
    assert light[0] < light[wide] < light[2 * wide] == light[3 * wide]
    plain = {name: array for name, array in found.items() if name != "boltzmann/activity_labels"}
    assert (pixels(pictures(section(figures(), plain))["Hidden activity"].body)[:, :, 3] == 1).all()


@pytest.mark.parametrize(
    ("dead", "expected"), [(0, "0 of 12 units are dead"), (1, "1 of 12 units is dead")]
)
def test_dead_and_saturated_units_are_counted_in_words(dead: int, expected: str) -> None:
    picture = pictures(section(figures(dead=dead, saturated=3), arrays()))[
        "How active the units are"
    ]
    assert (
        expected in picture.caption
        and "3 saturated" in picture.caption
        and "250 test examples" in picture.caption
    )
    rectified = pictures(section(figures(units="relu", dead=dead), arrays()))[
        "How active the units are"
    ].caption
    assert f"{dead} of 12 units are dead" in rectified and "saturated" not in rectified


def test_the_bracket_is_written_with_both_ends_and_the_binarization() -> None:
    shown = pictures(section(figures(likelihood=curve(True, False)), arrays()))
    table, picture = shown["Likelihood in figures"], shown["Likelihood over training"]
    assert table.rows[0] == ("0", "−20.50 ± 0.25", "−20.750", "−20.250", "certified")
    assert table.rows[1][-1] == "not certified" and "1 checkpoint not certified" in picture.caption
    assert "digits, threshold" in picture.caption and "−20.5" in picture.body
    assert (
        picture.aside == "last between −20.75 and −20.25"
    )  # ± over the examples would flatter what is not certified
    exact = [{**POINT, "step": 5, "method": "enumeration", "certified": True}]
    shown = pictures(section(figures(likelihood=exact), arrays()))
    assert (
        shown["Likelihood in figures"].rows[0][-1] == "exact"
        and "log Z is exact" in shown["Likelihood over training"].caption
    )


def test_what_is_missing_is_named() -> None:
    text = words(section(figures(likelihood=[]), {}))
    for part in (
        "No filters are shown",
        "No fantasy particles",
        "No activity of hidden units",
        "No likelihood over training",
    ):
        assert part in text
    assert not words(section(figures(), arrays())), "nothing is missing and something was named"
    potts = arrays() | {"boltzmann/means": np.zeros((3, 4, 1, 5, 6, 3))}
    assert "No fantasy particles" in words(section(figures(), potts))


# --------------------------------------------------------------------------------- what they are of


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A short run of the digits, trained and not yet evaluated."""
    short = {
        "energy.n_hidden": 30,
        "training.steps": 400,
        "training.checkpoint_every": 200,
        "training.learning_rate": 0.3,
    }
    values = lowland.read_recipe(
        "digits-rbm", {**short, "evaluation.classifier_steps": 0, "generation.steps": 20}
    )
    path = tmp_path_factory.mktemp("runs") / "run"
    train_recipe(values, path, progress=False)
    return Run.open(path)


def machine_of(s: Model) -> RBM:
    assert isinstance(s.energy, RBM)
    return s.energy


def test_filters_are_the_weights_of_the_largest_units(run: Run) -> None:
    machine = machine_of(load(run.path))
    filters = inside._filters(machine)["boltzmann/filters"]
    norms = filters.flatten(1).norm(dim=1)
    assert filters.shape == (30, 1, 8, 8) and bool((norms.diff() <= 0).all())
    largest = machine.weight.norm(dim=0).argmax()
    assert torch.equal(filters[0].flatten(), machine.weight[:, largest])
    assert inside._filters(RBM(categorical(3, 4), n_hidden=2)) == {}


def surprise(means: torch.Tensor, draws: torch.Tensor) -> float:
    """z of Σ log p(draw | mean) about its expectation: about 0 if each was drawn from the mean
    beside it.
    """
    p = means.double().clamp(1e-9, 1 - 1e-9)
    log_odds = torch.logit(p)
    return (((draws - p) * log_odds).sum() / (p * (1 - p) * log_odds.square()).sum().sqrt()).item()


def test_every_particle_was_drawn_from_the_mean_beside_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With many particles: 250 would tell p(v | h) from p(v | E[h]), which ten do not."""
    monkeypatch.setattr(inside, "NUM_PARTICLES", 250)
    s = load(run.path)
    with torch.no_grad():
        found = inside._fantasies(s, machine_of(s), torch.Generator().manual_seed(0))
    means, draws = found["boltzmann/means"], found["boltzmann/draws"]
    kept = saved_chains(s)
    assert kept is not None and torch.equal(draws[0], kept.x[:250]) and bool(means[0].isnan().all())
    assert found["boltzmann/sweeps"].tolist() == [0, 1, 10, 100, 1000]
    assert all(abs(surprise(means[i], draws[i])) < 5 for i in range(1, 5))
    assert all(abs(surprise(means[i], draws[i - 1])) > 5 for i in range(2, 5)), (
        "a mean of another sweep would not be noticed"
    )


def test_activity_is_that_of_the_test_part_in_order(run: Run) -> None:
    s = load(run.path)
    with torch.no_grad():
        found, said = inside._activity(s, machine_of(s))
        active = torch.sigmoid(
            s.data.test.x.flatten(1) @ machine_of(s).weight + machine_of(s).hidden_bias
        )
    labels, y = found["boltzmann/activity_labels"], s.data.test.y
    assert y is not None
    assert torch.allclose(
        found["boltzmann/unit_means"], active.mean(0).sort(descending=True).values, atol=1e-5
    )
    assert bool((labels.diff() >= 0).all()) and torch.equal(labels.bincount(), y[:200].bincount())
    rows = active[:200][y[:200] == 0][:, active.mean(0).argsort(descending=True)]
    assert torch.allclose(found["boltzmann/activity"][: len(rows)], rows, atol=1e-5)
    assert said["count"] == 250 and said["hidden"] == 30


def test_dead_and_saturated_units_are_those_that_never_change() -> None:
    active = torch.tensor([[0.01, 0.96, 0.01, 0.5], [0.04, 0.99, 0.9, 0.5]])
    assert inside._count_unused(active, "bernoulli") == (
        1,
        1,
    )  # a unit stuck in the middle is no dead one
    assert inside._count_unused(torch.tensor([[0.3, 0.3, 4.0], [0.31, 0.9, 4.2]]), "relu") == (1, 0)


def test_the_page_of_a_run_holds_the_section_and_opens_without_a_network(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inside, "LOG_Z_TEMPERATURES", 300)
    found = evaluate_model(load(run.path))
    points = found["boltzmann"]["likelihood"]
    assert [point["step"] for point in points] == [0, 200, 400]
    assert all(point["lower"] <= point["value"] <= point["upper"] for point in points)
    assert points[2]["lower"] > points[0]["upper"], "nothing was learned"
    page = write_report(run.path).read_text(encoding="utf-8")
    for title in (
        "Inside the machine",
        "Filters",
        "Fantasy particles over time",
        "Hidden activity",
        "Likelihood over training",
    ):
        assert title in page
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", page)


@pytest.mark.usefixtures("blank_pictures")
def test_every_likelihood_over_training_is_of_its_own_checkpoint(tmp_path: Path) -> None:
    """A machine of six pixels without a picture: each point against the sum over all states, in
    float64.
    """
    flags = np.random.default_rng(0).random((400, 6)) < np.array([0.1, 0.3, 0.5, 0.5, 0.7, 0.9])
    flags[:, 3] = flags[:, 2]
    np.save(tmp_path / "flags.npy", flags)
    own = {
        "data.name": str(tmp_path / "flags.npy"),
        "data.binarize": None,
        "training.learning_rate": 0.5,
    }
    short = {"energy.n_hidden": 3, "training.steps": 300, "training.checkpoint_every": 100}
    values = lowland.read_recipe("digits-rbm", {**short, **own, "generation.steps": 20})
    train_recipe(values, tmp_path / "run", progress=False)
    run = Run.open(tmp_path / "run")
    found = evaluate_model(load(run.path))
    points = found["boltzmann"]["likelihood"]
    data: Dataset = load_data(tmp_path / "flags.npy")
    states = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6)), dtype=torch.float64)
    truths = []
    for point in points:
        machine = lowland.load(run.path, step=point["step"]).energy.double()
        with torch.no_grad():
            z = (-machine(states)).logsumexp(0)
            truths.append((-machine(data.test.x.double()) - z).mean().item())
    assert len(points) == 4 and len({round(t, 4) for t in truths}) == 4
    for point, truth in zip(points, truths, strict=True):
        assert (
            math.isclose(point["value"], truth, abs_tol=1e-4) and point["method"] == "enumeration"
        )
    page = write_report(run.path).read_text(encoding="utf-8")
    assert "No filters are shown" in page and "No fantasy particles are shown" in page


def test_chains_kept_by_tempering_are_those_of_the_coldest_replica(run: Run) -> None:
    model = load(run.path)
    plain, saved = saved_chains(model), model.latest.tensors
    x = saved["chains"]["x"]
    saved["chains"]["x"] = torch.stack([x, 1 - x], 1)
    tempered = saved_chains(model)
    assert plain is not None and tempered is not None and torch.equal(plain.x, tempered.x)
    del saved["chains"]
    assert saved_chains(model) is None


@pytest.mark.usefixtures("blank_pictures")
def test_a_machine_with_label_units_and_rectified_ones_is_looked_into_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inside, "LOG_Z_CHAINS", 40)
    monkeypatch.setattr(inside, "LOG_Z_TEMPERATURES", 100)
    short = {
        "energy.n_hidden": 8,
        "training.steps": 40,
        "training.checkpoint_every": 40,
        "training.log_every": 10,
    }
    quick = {
        "evaluation.classifier_steps": 0,
        "evaluation.samples": 32,
        "generation.steps": 5,
        "training.learning_rate": 0.01,
    }
    for name, more in (
        ("labels", {"energy.classes": 10}),
        ("relu", {"energy.hidden_type": "relu"}),
    ):
        train_recipe(
            lowland.read_recipe("digits-rbm", {**short, **quick, **more}),
            tmp_path / name,
            progress=False,
        )
        found = evaluate_model(load(tmp_path / name))["boltzmann"]
        assert found["units"] == ("relu" if name == "relu" else "bernoulli") and found["likelihood"]
        assert "Inside the machine" in write_report(tmp_path / name).read_text(encoding="utf-8")
