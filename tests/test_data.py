"""Named sets, their parts and their laws; what check_data refuses; batches."""

import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lowland.data import Batches, DataError, Dataset, Split, check_data, list_datasets, load_data
from lowland.data.planar import PLANAR_DENSITIES
from lowland.domain import box

N = 40_000  # points per toy; every z below allows |z| < 5 at a fixed seed


def z_of(values: torch.Tensor, truth: float) -> float:
    """(mean − truth) in standard errors of n independent values."""
    return ((values.mean() - truth) / (values.std() / math.sqrt(len(values)))).item()


# --------------------------------------------------------------------------------------------- toys


@pytest.mark.parametrize("name", PLANAR_DENSITIES)
def test_toy_has_mean_zero_and_mean_variance_one(name: str) -> None:
    x, _ = PLANAR_DENSITIES[name](N, torch.Generator().manual_seed(1))
    x = x.double()
    assert all(abs(z_of(x[:, i], 0.0)) < 5 for i in range(2))
    assert abs(z_of(x.square().sum(1) / 2, 1.0)) < 5


@pytest.mark.parametrize("name", PLANAR_DENSITIES)
def test_a_scale_three_percent_off_is_noticed(name: str) -> None:
    x, _ = PLANAR_DENSITIES[name](N, torch.Generator().manual_seed(1))
    assert abs(z_of((0.97 * x.double()).square().sum(1) / 2, 1.0)) > 5


@pytest.mark.parametrize("name", [name for name, toy in PLANAR_DENSITIES.items() if toy.classes])
def test_toy_labels_are_uniform(name: str) -> None:
    _, y = PLANAR_DENSITIES[name](N, torch.Generator().manual_seed(2))
    assert y is not None
    classes = PLANAR_DENSITIES[name].classes
    assert set(y.tolist()) == set(range(classes))
    assert all(abs(z_of((y == k).double(), 1 / classes)) < 5 for k in range(classes))


def raw(name: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    toy = PLANAR_DENSITIES[name]
    x, y = toy(N, torch.Generator().manual_seed(3))
    return x * toy.scale + torch.tensor(toy.mean), y


def test_checkerboard_fills_the_dark_squares_evenly_and_no_other() -> None:
    x, _ = raw("checkerboard")
    cell = (x + 2 - 1e-6).clamp(0).floor().long()
    assert bool(((cell.sum(1) % 2) == 0).all())
    counts = torch.bincount(4 * cell[:, 0] + cell[:, 1], minlength=16).double()
    dark = counts[counts > 0]
    assert len(dark) == 8
    assert ((dark - N / 8).abs() / math.sqrt(N / 8 * 7 / 8)).max() < 5


def test_rings_and_blobs_lie_where_their_labels_say() -> None:
    x, y = raw("rings")
    assert y is not None
    assert (x.norm(dim=1) - (y + 1)).abs().max() < 6 * 0.1
    x, y = raw("eight-gaussians")
    assert y is not None
    centres = torch.stack(
        [2 * torch.tensor([math.cos(k * math.pi / 4), math.sin(k * math.pi / 4)]) for k in range(8)]
    )
    assert abs(z_of((x - centres[y]).square().sum(1).double(), 2 * 0.2**2)) < 5


def test_moons_are_half_circles_and_spirals_wind() -> None:
    x, y = raw("moons")
    assert y is not None
    upper, lower = x[y == 0], torch.tensor([1.0, 0.5]) - x[y == 1]
    for moon in (upper, lower):
        assert abs(z_of(moon.square().sum(1).double(), 1 + 2 * 0.1**2)) < 5
        assert moon[:, 1].min() > -0.6
    x, y = raw("spirals")
    assert y is not None
    assert abs(z_of(x.square().sum(1).double(), (3 * math.pi) ** 2 / 2 + 2 * 0.3**2)) < 5


def test_toys_follow_the_seed_and_take_a_count() -> None:
    one, again, other = (load_data("pinwheel", seed=seed, count=100) for seed in (1, 1, 2))
    assert torch.equal(one.train.x, again.train.x) and not torch.equal(one.train.x, other.train.x)
    assert [len(part) for part in (one.train, one.calibration, one.test)] == [100, 20, 20]
    assert len(load_data("moons", limit=7).train) == 7
    with pytest.raises(ValueError, match=r"count is 2; .* at least 5"):
        load_data("moons", count=2)


# ------------------------------------------------------------------------------------------- digits


def test_digits_are_sklearns_each_in_exactly_one_part() -> None:
    from sklearn.datasets import load_digits

    data = load_data("digits")
    parts = (data.train, data.calibration, data.test)
    assert [len(part) for part in parts] == [1297, 250, 250]
    got = sorted(
        (*(part.x.flatten(1) * 16).int()[i].tolist(), int(part.y[i]))
        for part in parts
        for i in range(len(part))
    )
    bunch = load_digits()
    expected = sorted(
        (*map(int, row), int(label)) for row, label in zip(bunch.data, bunch.target, strict=True)
    )
    assert got == expected
    assert data.domain == box(0, 1, 1, 8, 8) and data.num_gray_levels == 17 and data.classes == 10
    assert set((data.train.x * 16).unique().tolist()) == set(range(17))


def test_digits_do_not_depend_on_the_seed_and_a_limit_is_a_prefix() -> None:
    one, other, few = (
        load_data("digits", seed=0),
        load_data("digits", seed=9),
        load_data("digits", limit=50),
    )
    assert torch.equal(one.test.x, other.test.x)
    assert torch.equal(few.train.x, one.train.x[:50]) and torch.equal(few.test.x, one.test.x)
    assert len(load_data("digits", limit=10**6).train) == 1297


# ------------------------------------------------------------------------------------------ by name


def test_unknown_names_and_options_are_answered_with_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"'fashon-mnist' is not known; .*digits.*did you mean 'fashion-mnist'"
    ):
        load_data("fashon-mnist")
    with pytest.raises(ValueError, match="choose one of them"):
        load_data("")
    with pytest.raises(
        ValueError, match="digits was given colour; it takes limit, binarize; remove"
    ):
        load_data("digits", colour=1)
    with pytest.raises(ValueError, match="limit is 0; it must be a whole number, at least 1"):
        load_data("digits", limit=0)
    with pytest.raises(ValueError, match=r"no file or folder .*absent.csv"):
        load_data(tmp_path / "absent.csv")
    (tmp_path / "x.docx").write_text("x")
    with pytest.raises(ValueError, match=r"ends in '.docx'"):
        load_data(tmp_path / "x.docx")


def test_available_names_every_set_in_one_line() -> None:
    assert {
        "digits",
        "mnist",
        "fashion-mnist",
        "cifar10",
        "cifar10-jpeg",
        *PLANAR_DENSITIES,
    } == set(list_datasets())
    assert all(line and "\n" not in line for line in list_datasets().values())


# --------------------------------------------------------------------------------------- check_data


def sound() -> Dataset:
    x = torch.linspace(0, 1, 12).reshape(6, 2)
    y = torch.tensor([0, 1, 0, 1, 0, 1])
    return Dataset("set", box(0, 1, 2), Split(x, y), Split(x, y), Split(x, y), 2, ("a", "b"))


def with_value(value: float) -> Split:
    x = sound().train.x.clone()
    x[2, 1] = x[4, 0] = value
    return Split(x, sound().train.y)


BAD = {
    "2 NaN and 0 infinite values in 2 of 6": {"test": with_value(math.nan)},
    "0 NaN and 2 infinite values": {"calibration": with_value(math.inf)},
    "the train part of set has 2 of 6 examples outside the domain": {"train": with_value(1.5)},
    "the calibration part of set is empty": {
        "calibration": Split(torch.zeros(0, 2), torch.zeros(0).long())
    },
    r"shape \(3,\); the domain has \(2,\)": {"train": Split(torch.rand(6, 3), sound().train.y)},
    "is stored as torch.float64": {"train": Split(sound().train.x.double(), sound().train.y)},
    "all 6 training examples of set are the same point": {
        "train": Split(torch.full((6, 2), 0.5), sound().train.y)
    },
    r"labels of shape \(5,\)": {"test": Split(sound().train.x, torch.zeros(5).long())},
    "labels stored as torch.int32": {"test": Split(sound().train.x, torch.zeros(6).int())},
    "has 1 labels out of range": {"test": Split(sound().train.x, torch.tensor([0, 1, 2, 0, 0, 0]))},
    "has no labels; the set has 2 classes": {"test": Split(sound().train.x)},
    "2 classes and 1 class names": {"class_names": ("a",)},
}


@pytest.mark.parametrize("message", BAD)
def test_check_data_refuses(message: str) -> None:
    check_data(sound())
    with pytest.raises(DataError, match=message):
        check_data(replace(sound(), **BAD[message]))


# ------------------------------------------------------------------------------------------ batches


def test_each_epoch_is_a_permutation_and_short_batches_are_completed() -> None:
    batches = Batches(Split(torch.arange(10.0), torch.arange(10)), seed=5)
    drawn = torch.cat([batches.next(4)[0] for _ in range(5)])
    assert batches.state_dict() == {"epoch": 2, "offset": 0}
    for epoch in (drawn[:10], drawn[10:]):
        assert sorted(epoch.tolist()) == list(range(10))
    assert not torch.equal(drawn[:10], drawn[10:])
    x, y = batches.next(25)  # more than two epochs at once
    assert (
        len(x) == 25
        and y is not None
        and torch.equal(x.long(), y)
        and batches.state_dict()["epoch"] == 4
    )


def test_resumed_batches_equal_uninterrupted_ones() -> None:
    split = Split(torch.randn(13, 2, generator=torch.Generator().manual_seed(0)))
    whole = Batches(split, seed=7)
    expected = [whole.next(5)[0] for _ in range(12)]
    for stop in range(12):
        first, second = Batches(split, seed=7), Batches(split, seed=7)
        for _ in range(stop):
            first.next(5)
        second.load_state_dict(first.state_dict())
        assert all(torch.equal(second.next(5)[0], batch) for batch in expected[stop:])


def test_epoch_orders_are_uniform_and_differ_between_seeds() -> None:
    """Pooled over 2000 epochs, each of 5 examples comes first with probability 1/5."""
    split = Split(torch.arange(5.0))
    batches = Batches(split, seed=1)
    first = torch.stack([batches.order(epoch)[0] for epoch in range(2000)])
    assert all(abs(z_of((first == k).double(), 0.2)) < 5 for k in range(5))
    long = Split(torch.arange(100.0))
    assert not torch.equal(Batches(long, seed=1).order(0), Batches(long, seed=2).order(0))
    assert not torch.equal(Batches(long, seed=1).order(1), Batches(long, seed=2).order(0))


def test_batches_refuse_positions_of_other_data() -> None:
    with pytest.raises(ValueError, match="holds no examples"):
        Batches(Split(torch.zeros(0, 2)))
    batches = Batches(Split(torch.zeros(3, 2)))
    with pytest.raises(ValueError, match="batch size is 0"):
        batches.next(0)
    for state in (
        {"epoch": 0, "offset": 3},
        {"epoch": -1, "offset": 0},
        {"offset": 0},
        {"epoch": 0, "offset": 1.0},
    ):
        with pytest.raises(ValueError, match="resume with the data that the run began with"):
            batches.load_state_dict(state)


# --------------------------------------------------------------------------------------- real files

ROOTS = [Path(part) for part in os.environ.get("LOWLAND_DATA", "").split(os.pathsep) if part]


def needs(file: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        not any((root / file).is_file() for root in ROOTS), reason=f"no {file} in $LOWLAND_DATA"
    )


@needs("mnist/train-images-idx3-ubyte.gz")
def test_real_mnist_is_the_published_one() -> None:
    data = load_data("mnist", download=False, limit=1000)
    assert "SHA-256 agrees" in data.note
    assert [len(part) for part in (data.train, data.calibration, data.test)] == [
        1000,
        10_000,
        10_000,
    ]
    assert data.test.y is not None and data.test.y[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert torch.bincount(data.test.y).tolist() == [
        980,
        1135,
        1032,
        1010,
        982,
        892,
        958,
        1028,
        974,
        1009,
    ]
    assert abs(data.test.x.double().mean().item() - 0.1325) < 1e-4


@needs("cifar10-jpeg/test.parquet")
def test_real_cifar_parquet() -> None:
    pytest.importorskip("pyarrow")
    from lowland.data.cifar import read_parquet

    path = (
        next(root for root in ROOTS if (root / "cifar10-jpeg").is_dir())
        / "cifar10-jpeg"
        / "test.parquet"
    )
    test = read_parquet(path)
    assert test.x.shape == (10_000, 3, 32, 32) and test.y is not None
    assert torch.bincount(test.y).tolist() == [1000] * 10
