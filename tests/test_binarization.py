"""Grey images made binary: exactly as each name says, drawn anew where that is promised, and named
wherever they go.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Generator, Tensor

import lowland
from lowland import commands
from lowland.data import (
    DataError,
    Dataset,
    Split,
    bernoulli_sample,
    binarization,
    binarize,
    binarize_dataset,
    load_data,
    materialize,
)
from lowland.domain import binary, box
from lowland.evaluation import evaluate_model
from lowland.run import Run
from lowland.trained import load
from lowland.trained.scoring import EnergyTable
from lowland.training import train_recipe
from lowland.training.session import Session

WAYS = ("threshold", "stochastic", "fixed")
GREY = load_data("digits")


def z_of(values: Tensor, truth: Tensor, variance: Tensor) -> float:
    """Σ (values − truth) in its standard deviations, for independent values of known variance."""
    return ((values.double() - truth.double()).sum() / variance.double().sum().sqrt()).item()


# ------------------------------------------------------------------------------ what each name says


def test_threshold_is_the_grey_value_above_one_half_and_nothing_else() -> None:
    data = load_data("digits", binarize="threshold")
    for (_, made), (_, grey) in zip(data.splits(), GREY.splits(), strict=True):
        assert torch.equal(made.x, (grey.x * 16 >= 9).float()) and torch.equal(made.y, grey.y)
    assert bool((GREY.train.x == 0.5).any()), (
        "no pixel at the threshold, so the test above would not see >= for >"
    )


def coins_are_fair(draw: Callable[[Tensor, Generator], Tensor]) -> bool:
    """Whether pixels of each of the 17 grey levels are 1 as often as their grey value says."""
    grey = GREY.train.x
    made = draw(grey, Generator().manual_seed(3))
    levels = [grey == k / 16 for k in range(17)]
    sure = bool((made[levels[0]] == 0).all()) and bool((made[levels[16]] == 1).all())
    scores = [z_of(made[at], grey[at], grey[at] * (1 - grey[at])) for at in levels[1:16]]
    pooled = z_of(made, grey, grey * (1 - grey))
    return (
        sure and set(made.unique().tolist()) == {0.0, 1.0} and max(map(abs, [*scores, pooled])) < 5
    )


def test_a_toss_is_one_with_the_grey_value_as_its_probability() -> None:
    assert coins_are_fair(bernoulli_sample)
    assert coins_are_fair(lambda grey, g: binarize(grey, "fixed", g))


@pytest.mark.parametrize(
    "broken",
    [
        lambda grey, g: (torch.rand(grey.shape, generator=g) * 0.97 < grey).float(),
        lambda grey, g: (torch.rand(grey.shape, generator=g) <= grey.clamp_min(0.002)).float(),
        lambda grey, g: (grey > 0.5).float(),
        lambda grey, g: (
            torch.rand(len(grey), 1, 1, 1, generator=g) * torch.ones_like(grey) < grey.flip(0)
        ).float(),
        lambda grey, g: grey,
    ],
)
def test_coins_that_are_not_fair_are_noticed(broken: Callable[[Tensor, Generator], Tensor]) -> None:
    assert not coins_are_fair(broken)


def agreement(a: Tensor, b: Tensor, grey: Tensor) -> float:
    """z of how often two draws of the same pixels agree, g² + (1 − g)² if they are independent."""
    chance = grey.square() + (1 - grey).square()
    return z_of((a == b).float(), chance, chance * (1 - chance))


def test_pixels_of_one_draw_are_independent_of_each_other_and_of_the_other_parts() -> None:
    data, size = load_data("digits", binarize="fixed"), len(GREY.test)
    off = [
        made.x - grey.x for (_, made), (_, grey) in zip(data.splits(), GREY.splits(), strict=True)
    ]
    variance = [grey.x * (1 - grey.x) for _, grey in GREY.splits()]
    for a, b, u, v in (
        (
            off[0][:, :, :, 1:],
            off[0][:, :, :, :-1],
            variance[0][:, :, :, 1:],
            variance[0][:, :, :, :-1],
        ),
        (off[0][1:], off[0][:-1], variance[0][1:], variance[0][:-1]),
        (off[1], off[2], variance[1], variance[2]),
        (off[0][:size], off[2], variance[0][:size], variance[2]),
    ):
        assert abs(z_of(a * b, torch.zeros(()), u * v)) < 5


def test_a_fixed_draw_follows_the_seed_and_a_limit_moves_no_pixel() -> None:
    one, again, other = (load_data("digits", binarize="fixed", seed=seed) for seed in (1, 1, 2))
    few = load_data("digits", binarize="fixed", seed=1, limit=50)
    for (_, a), (_, b), (_, c), (_, grey) in zip(
        one.splits(), again.splits(), other.splits(), GREY.splits(), strict=True
    ):
        assert torch.equal(a.x, b.x)
        assert abs(agreement(a.x, c.x, grey.x)) < 5
    assert torch.equal(few.train.x, one.train.x[:50]) and torch.equal(few.test.x, one.test.x)


def test_a_stochastic_set_keeps_grey_to_train_on_and_one_draw_of_the_rest_for_all_seeds() -> None:
    one, other = (load_data("digits", binarize="stochastic", seed=seed) for seed in (1, 2))
    assert torch.equal(one.train.x, GREY.train.x)
    for (name, a), (_, b), (_, grey) in list(
        zip(one.splits(), other.splits(), GREY.splits(), strict=True)
    )[1:]:
        assert torch.equal(a.x, b.x) and bool(one.domain.contains(a.x).all()), name
        assert abs(z_of(a.x, grey.x, grey.x * (1 - grey.x))) < 5
    drawn = materialize(one)
    assert bool(drawn.domain.contains(drawn.train.x).all()) and torch.equal(
        drawn.test.x, one.test.x
    )
    assert (
        abs(
            agreement(
                drawn.train.x,
                binarize(GREY.train.x, "fixed", Generator().manual_seed(0)),
                GREY.train.x,
            )
        )
        < 5
    )
    assert materialize(load_data("digits", binarize="fixed")).train.x.unique().tolist() == [
        0.0,
        1.0,
    ]


# ------------------------------------------------------------------------------ drawn anew, or once


def recipe(how: str | None, **more: Any) -> lowland.config.Recipe:
    small = {
        "energy.n_hidden": 6,
        "training.batch": 32,
        "objective.buffer_size": 32,
        "objective.num_chains": 32,
        "data.limit": 32,
    }
    steps = {
        "training.steps": 40,
        "training.checkpoint_every": 20,
        "training.log_every": 10,
        "training.keep_checkpoints": 3,
    }
    quick = {"evaluation.classifier_steps": 0, "evaluation.samples": 32, "generation.steps": 5}
    return lowland.read_recipe(
        "digits-rbm", {**small, **steps, **quick, "data.binarize": how, **more}
    )


def visits(how: str, times: int, data: Dataset | None = None) -> tuple[Tensor, Tensor]:
    """What a session is shown of 32 examples, visited so many times in one order: (times, 32, ...);
    and their grey values.
    """
    session = Session(recipe(how).plain(), data or load_data("digits", binarize=how, limit=32))
    session.batches.order = lambda epoch: torch.arange(32)  # type: ignore[method-assign]
    return torch.stack([session.batch()[0] for _ in range(times)]), GREY.train.x[:32]


def drawn_anew(seen: Tensor, grey: Tensor) -> bool:
    """Whether every visit is an independent draw: right on average, and right in how often two
    visits agree.
    """
    mean = z_of(seen, grey.expand_as(seen), (grey * (1 - grey)).expand_as(seen))
    pairs = [agreement(seen[i], seen[j], grey) for i, j in ((0, 1), (1, 2), (0, len(seen) - 1))]
    return max(map(abs, [mean, *pairs])) < 5


def test_stochastic_training_data_are_drawn_anew_at_every_visit() -> None:
    assert drawn_anew(*visits("stochastic", 40))


@pytest.mark.parametrize("how", ["fixed", "threshold"])
def test_the_other_two_show_the_same_pixels_at_every_visit(how: str) -> None:
    seen, _ = visits(how, 5)
    assert bool((seen == load_data("digits", binarize=how).train.x[:32]).all())


def test_stochastic_data_drawn_only_once_are_noticed() -> None:
    once = materialize(load_data("digits", binarize="stochastic", limit=32))
    assert not drawn_anew(*visits("stochastic", 40, once))


def test_a_generator_that_begins_again_at_each_batch_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proper = Session.batch

    def again(self: Session) -> Any:
        self.generators["data"].manual_seed(0)
        return proper(self)

    monkeypatch.setattr(Session, "batch", again)
    assert not drawn_anew(*visits("stochastic", 40))


def test_a_resumed_stochastic_run_draws_what_an_uninterrupted_one_would_have_drawn(
    tmp_path: Path,
) -> None:
    values = recipe("stochastic")
    train_recipe(values, tmp_path / "whole", progress=False)
    run = Run.open(tmp_path / "whole")
    session = Session(values.plain(), load_data("digits", binarize="stochastic", limit=32))
    session.restore(run.load_checkpoint(20))
    for _ in range(20):
        session.advance()
    for name, weight in run.load_checkpoint(40).tensors["energy"].items():
        assert torch.equal(weight, session.energy.state_dict()[name]), name


# --------------------------------------------------------------------------- named wherever they go


@pytest.mark.parametrize("how", WAYS)
def test_a_binary_set_says_what_was_done(how: str) -> None:
    data = load_data("digits", binarize=how, seed=7)
    assert (
        data.domain == binary(1, 8, 8)
        and data.binarization == how
        and data.num_gray_levels is None
        and data.classes == 10
    )
    assert (
        data.binarization_note.startswith("digits, ")
        and data.note.startswith(GREY.note)
        and data.note.endswith(data.binarization_note)
    )
    words = {
        "threshold": ("above 0.5",),
        "stochastic": ("anew", "8128"),
        "fixed": ("once with seed 7",),
    }[how]
    assert all(word in data.binarization_note for word in words)
    assert GREY.binarization == GREY.binarization_note == ""


@pytest.mark.usefixtures("blank_pictures")
@pytest.mark.parametrize("how", WAYS)
def test_a_run_trains_to_its_report_and_names_the_binarization_everywhere(
    how: str, tmp_path: Path
) -> None:
    page = commands.train(
        recipe(how, **{"evaluation.outliers": [_images(tmp_path)]}),
        tmp_path / "run",
        quiet=True,
    )
    run, sentence = Run.open(tmp_path / "run"), load_data("digits", binarize=how).binarization_note
    about, figures, arrays = (
        run.read_json("data.json"),
        run.read_json("evaluation.json"),
        run.read_tensors("evaluation.safetensors"),
    )
    assert about["binarization"] == how and about["binarization_note"] == sentence
    assert all(point["data"] == sentence for point in figures["boltzmann"]["likelihood"])
    assert sentence in page.read_text(encoding="utf-8")
    for name in ("samples", "data", "neighbour_of", "film"):
        assert set(arrays[name].unique().tolist()) <= {0.0, 1.0}, name
    for name, values in figures["detection"]["outliers"].items():
        assert values["count"] > 0 and math.isfinite(values["auroc"]["value"]), name
    assert (
        len(figures["detection"]["outliers"]) == 3
    )  # noise, turned by a quarter, and the folder's images made binary too


def _images(folder: Path) -> str:
    grey = (GREY.test.x[:40] * 255).byte().numpy()
    np.save(folder / "others.npy", grey)
    return str(folder / "others.npy")


def test_an_image_file_is_made_binary_as_the_data_were(tmp_path: Path) -> None:
    grey = torch.linspace(0, 255, 64).reshape(8, 8).byte()
    Image.fromarray(grey.numpy()).save(tmp_path / "ramp.png")
    for how in WAYS:
        train_recipe(recipe(how), tmp_path / how, progress=False)
        s = load(tmp_path / how)
        (row,) = EnergyTable(s, [tmp_path / "ramp.png"], None).all_rows()
        x = s.transform(grey.float()[None, None] / 255)
        assert bool(s.energy.domain.contains(x).all()) and row["energy"] == pytest.approx(
            s.energy(x).item(), rel=1e-5
        )
        if how == "threshold":
            assert torch.equal(x.flatten(), (torch.arange(64) >= 32).float())


def test_a_restoration_that_is_asked_for_on_binary_data_is_left_out_with_its_reason(
    tmp_path: Path,
) -> None:
    values = recipe("threshold").plain()
    values["restoration"] = {"sampler": {"name": "DMALA", "step_size": 0.2}, "steps": 5, "count": 8}
    train_recipe(lowland.read_recipe(values), tmp_path / "run", progress=False)
    notes = evaluate_model(load(tmp_path / "run"))["notes"]
    assert any("Restoration was left out" in note and "0 or 1" in note for note in notes)


# ------------------------------------------------------------------------------ where it can be had


def test_folders_and_arrays_of_images_can_be_made_binary(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (20, 6, 5), dtype=np.uint8)
    np.save(tmp_path / "bytes.npy", grey)
    np.save(tmp_path / "floats.npy", grey[:, None].astype(np.float32) / 255)
    (tmp_path / "folder").mkdir()
    for i, picture in enumerate(grey):
        Image.fromarray(picture).save(tmp_path / "folder" / f"{i:02}.png")
    sets = {
        name: load_data(tmp_path / name, binarize="threshold")
        for name in ("bytes.npy", "floats.npy", "folder")
    }
    whole = (torch.from_numpy(grey)[:, None] >= 128).float()
    for name, data in sets.items():
        assert data.domain == binary(1, 6, 5) and data.binarization_note.startswith(
            str(tmp_path / name)
        )
        rows = torch.cat([part.x for _, part in data.splits()]).flatten(1)
        assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, whole.flatten(1).tolist()))


@pytest.mark.parametrize("how", WAYS)
def test_what_cannot_be_made_binary_is_refused_in_three_clauses(how: str, tmp_path: Path) -> None:
    np.save(tmp_path / "dark.npy", np.full((20, 6, 5), 3, dtype=np.uint8))
    np.save(tmp_path / "wide.npy", 2 * np.random.default_rng(0).random((20, 1, 6, 5)))
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(20, 6)))
    for name, kind in (("moons", "real"), (tmp_path / "rows.npy", "real")):
        with pytest.raises(
            DataError,
            match=rf"binarize was asked for .*{kind} of shape .*; .*\[0, 1\]; leave it out",
        ):
            load_data(name, binarize=how)
    with pytest.raises(DataError, match=r"values 0\.\d+ to 1\.9\d+; .*; rescale"):
        load_data(tmp_path / "wide.npy", binarize=how)
    with pytest.raises(DataError, match="are the same point"):
        load_data(tmp_path / "dark.npy", binarize="threshold")
    with pytest.raises(DataError, match=r"box of shape .* leave it out"):
        binarize_dataset(replace(GREY, domain=box(-1, 1, 1, 8, 8)), how)


def test_a_way_that_is_not_known_is_refused_in_three_clauses() -> None:
    with pytest.raises(
        DataError, match="binarize is 'otsu'; it is threshold, stochastic or fixed; choose one"
    ):
        load_data("digits", binarize="otsu")
    with pytest.raises(
        ValueError,
        match=r"data.binarize: 'otsu' was given; it must be 'threshold', 'stochastic' or 'fixed'",
    ):
        recipe("otsu")


def test_grey_values_outside_the_unit_interval_are_refused_before_they_are_drawn_from() -> None:
    odd = replace(
        GREY,
        train=Split(GREY.train.x + 0.5, GREY.train.y),
        binarization="stochastic",
        domain=binary(1, 8, 8),
    )
    with pytest.raises(DataError, match=r"train part of digits has \d+ of 1297 examples outside"):
        lowland.data.check_data(odd)
    hidden = replace(
        GREY,
        test=Split(GREY.train.x, GREY.train.y),
        binarization="stochastic",
        domain=binary(1, 8, 8),
    )
    with pytest.raises(
        DataError, match=r"(calibration|test) part of digits has \d+ .* outside the domain"
    ):
        lowland.data.check_data(hidden)  # only the part that is drawn anew may be grey


@pytest.mark.parametrize(
    "setting",
    ["training.dequantise=true", "training.data_noise_std=0.1", "training.box_margin=0.2"],
)
def test_a_recipe_that_would_spread_binary_data_is_refused(setting: str) -> None:
    with pytest.raises(
        ValueError, match=r"data\.binarize is 'fixed' and training\.\w+ would .*; .*; leave out"
    ) as caught:
        recipe("fixed", **lowland.config.parse_overrides([setting]))
    assert setting.partition("=")[0] in str(caught.value) and "given:" not in str(caught.value)
    lowland.read_recipe("digits")  # noise and margin on grey digits are allowed


def test_three_runs_can_share_one_fixed_draw() -> None:
    from lowland.training.loop import load_recipe_data

    one, two = (
        load_recipe_data(recipe("fixed", seed=seed, **{"data.seed": 5}).plain()) for seed in (1, 2)
    )
    own = load_recipe_data(recipe("fixed", seed=1).plain())
    assert torch.equal(one.test.x, two.test.x) and not torch.equal(one.test.x, own.test.x)


# -------------------------------------------------------------------------------------- the recipes


def test_a_small_machine_of_digits_has_an_exact_likelihood_above_that_of_independent_pixels(
    tmp_path: Path,
) -> None:
    shorter = {
        "energy.n_hidden": 12,
        "training.learning_rate": 0.3,
        "training.steps": 600,
        "training.checkpoint_every": 300,
        "training.log_every": 50,
    }
    values = lowland.read_recipe(
        "digits-rbm", {**shorter, "evaluation.classifier_steps": 0, "generation.steps": 20}
    )
    train_recipe(values, tmp_path / "run", progress=False)
    curve = evaluate_model(load(tmp_path / "run"))["boltzmann"]["likelihood"]
    data = load_data("digits", binarize="threshold")
    share = (data.train.x.flatten(1).double().sum(0) + 1) / (len(data.train) + 2)
    alone = (
        torch.distributions.Bernoulli(share)
        .log_prob(data.test.x.flatten(1).double())
        .sum(1)
        .mean()
        .item()
    )
    assert [point["method"] for point in curve] == ["enumeration"] * 3 and [
        point["step"] for point in curve
    ] == [0, 300, 600]
    assert curve[0]["value"] == pytest.approx(
        alone, abs=0.1
    )  # the first machine: independent pixels, and weights of 0.01
    assert curve[2]["value"] > curve[1]["value"] > alone
    assert all(point["lower"] == point["upper"] == point["value"] for point in curve)


def test_the_own_seed_is_said_and_used(monkeypatch: pytest.MonkeyPatch) -> None:
    before = load_data("digits", binarize="stochastic")
    monkeypatch.setattr(binarization, "STOCHASTIC_SEED", 1)
    after = load_data("digits", binarize="stochastic")
    assert "seed 1" in after.binarization_note and not torch.equal(before.test.x, after.test.x)
