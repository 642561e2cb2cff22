"""The adaptive attack, and what attacks refuse at the door."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lowland.metrics import auroc
from lowland.robustness import CW, PGD, AdaptivePGD, Square
from lowland.robustness.threat_model import margin
from lowland.testing import seeded

N, SIDE = 20, 4
FGSM = PGD(steps=1, random_start=False)


def linear(x: Tensor) -> Tensor:
    score = (x.flatten(1) - 0.5).sum(1)
    return torch.stack([-score, score], 1)


@pytest.fixture(scope="module")
def points() -> tuple[Tensor, Tensor]:
    x = torch.rand(N, 1, SIDE, SIDE, generator=seeded(1))
    return x, linear(x).argmax(1)


# ----------------------------------------------------------------------------------------- adaptive


def test_an_adaptive_attack_passes_by_the_detector_that_stops_the_plain_one() -> None:
    """The classifier looks at the first pixel, the energy at the other ones: both can be had at
    once.
    """

    def model(x: Tensor) -> Tensor:
        score = 5 * (x.flatten(1)[:, 0] - 0.5) + 0.2 * (x.flatten(1)[:, 1:] - 0.5).sum(1)
        return torch.stack([-score, score], 1)

    def energy(x: Tensor) -> Tensor:
        return 50 * (x.flatten(1)[:, 1:] - 0.5).square().sum(1)

    x = 0.5 + 0.02 * torch.randn(80, 1, 4, 4, generator=seeded(0))
    y = model(x).argmax(1)
    plain, adaptive = (
        a(model, x, y, 0.1, generator=seeded(1))
        for a in (PGD(), AdaptivePGD(energy=energy, restarts=2))
    )
    assert bool((margin(model(plain), y) > 0).all()) and bool(
        (margin(model(adaptive), y) > 0).all()
    )
    assert auroc(energy(x), energy(plain)).value > 0.95
    assert auroc(energy(x), energy(adaptive)).value < 0.6


# ----------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "make",
    [
        lambda: PGD(steps=0),
        lambda: PGD(restarts=0),
        lambda: PGD(eot=0),
        lambda: PGD(step_size=-1.0),
        lambda: PGD(norm="1"),  # type: ignore[arg-type]
        lambda: PGD(loss="hinge"),  # type: ignore[arg-type]
        lambda: CW(steps=0),
        lambda: CW(learning_rate=0.0),
        lambda: Square(queries=0),
        lambda: Square(p_init=0.0),
        lambda: PGD(steps=2.5),  # type: ignore[arg-type]
        lambda: PGD(step_size=float("nan")),
        lambda: CW(steps=1.5),  # type: ignore[arg-type]
        lambda: Square(queries=2.5),  # type: ignore[arg-type]
        lambda: AdaptivePGD(energy=torch.sum, weights=(float("nan"),)),
        lambda: AdaptivePGD(),
        lambda: AdaptivePGD(energy=torch.sum, weights=()),
        lambda: AdaptivePGD(energy=torch.sum, early_stop=True),
    ],
)
def test_attacks_that_cannot_be_meant_are_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=r";.*;"):
        make()


WATCHED = AdaptivePGD(energy=lambda x: x.flatten(1).sum(1))


@pytest.mark.parametrize(
    "attack", [PGD(), CW(), Square(), WATCHED], ids=["PGD", "CW", "Square", "AdaptivePGD"]
)
@pytest.mark.parametrize(
    "change",
    [
        {"labels": torch.full((N,), 2)},
        {"labels": torch.full((N,), -1)},
        {"labels": torch.zeros(N)},
        {"labels": torch.zeros(N - 1, dtype=torch.long)},
        {"labels": torch.zeros(N, dtype=torch.bool)},
        {"labels": torch.zeros(0, dtype=torch.long)},
        {"labels": [0] * N},
        {"labels": None},
        {"epsilon": -0.1},
        {"epsilon": float("nan")},
        {"epsilon": float("inf")},
        {"epsilon": "0.1"},
        {"x": torch.full((N, 1, SIDE, SIDE), 1.5)},
        {"x": torch.full((N, 1, SIDE, SIDE), float("nan"))},
        {"x": torch.zeros(N, 1, SIDE, SIDE, dtype=torch.long)},
        {"model": lambda x: x.flatten(1).sum(1)},
        {"x": [[0.5]]},
        {"x": torch.zeros(N)},
        {"model": lambda x: x.flatten(1)[:1]},
        {"model": lambda x: [1.0]},
        {"model": lambda x: x.flatten(1)[:, :2] * float("nan")},
        {"model": None},
    ],
)
def test_points_labels_and_models_that_do_not_fit_are_refused(
    points: tuple[Tensor, Tensor], attack: Any, change: dict[str, Any]
) -> None:
    given: dict[str, Any] = {
        "model": linear,
        "x": points[0],
        "labels": points[1],
        "epsilon": 0.1,
        **change,
    }
    with pytest.raises(ValueError, match=r";.*;"):
        attack(**given, generator=seeded())


def test_walls_and_energies_that_say_nothing_are_refused(points: tuple[Tensor, Tensor]) -> None:
    for bounds in ((0.0, float("nan")), (1.0, 0.0), (0.0,), "01", 1.0, (0, "1"), (True, 2)):
        with pytest.raises(ValueError, match=r";.*;"):
            PGD(bounds=bounds)  # type: ignore[arg-type]
    attack = AdaptivePGD(energy=lambda x: x.flatten(1).sum(1) * float("nan"))
    with pytest.raises(ValueError, match=r";.*;"):
        attack(linear, *points, 0.1, generator=seeded())


def test_points_that_carry_a_graph_lose_it(points: tuple[Tensor, Tensor]) -> None:
    x, y = points[0].clone().requires_grad_(), points[1]
    for attack in (FGSM, CW(steps=2, binary_search_steps=1), Square(3), WATCHED):
        assert not attack(linear, x, y, 0.1, generator=seeded()).requires_grad


def test_square_is_for_images() -> None:
    with pytest.raises(ValueError, match=r";.*;"):
        Square()(
            linear, torch.rand(5, 16), torch.zeros(5, dtype=torch.long), 0.1, generator=seeded()
        )
