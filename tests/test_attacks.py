"""Attacks against classifiers whose robust accuracy is known; planted bugs are caught; masked
slopes do not help a defence.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lowland.robustness import (
    CW,
    PGD,
    AdaptivePGD,
    Square,
    TransferAttack,
    robust_accuracy,
    sanity_checks,
)
from lowland.robustness.threat_model import distance, margin
from lowland.testing import seeded

N, SIDE, EPSILON = 300, 4, 0.1
FGSM = PGD(steps=1, random_start=False)


class Linear:
    """Two classes told apart by w·x + b; an attack moves w·x by ε ‖w‖₁ (ε ‖w‖₂) and no further."""

    def __init__(self) -> None:
        self.w = torch.randn(SIDE * SIDE, generator=seeded(0))
        self.b = -0.5 * self.w.sum()

    def __call__(self, x: Tensor) -> Tensor:
        score = x.flatten(1) @ self.w + self.b
        return torch.stack([-score, score], 1) * 3

    def robust(
        self, x: Tensor, y: Tensor, epsilon: float, order: float, bounds: bool = False
    ) -> Tensor:
        """Which rows no perturbation can flip: a closed form."""
        signed = (x.flatten(1) @ self.w + self.b) * (2 * y - 1)
        if not bounds:
            return signed > epsilon * self.w.norm(order)
        push = -torch.sign(self.w) * (2 * y - 1).unsqueeze(1)
        worst = (x.flatten(1) + epsilon * push).clamp(0, 1)
        return (worst @ self.w + self.b) * (2 * y - 1) > 0


@pytest.fixture(scope="module")
def linear() -> Linear:
    return Linear()


@pytest.fixture(scope="module")
def points(linear: Linear) -> tuple[Tensor, Tensor]:
    x = torch.rand(N, 1, SIDE, SIDE, generator=seeded(1))
    return x, linear(x).argmax(1)


def left(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    attack: Any,
    epsilon: float = EPSILON,
    **more: Any,
) -> Tensor:
    return robust_accuracy(
        model, x, y, epsilon, {"it": attack}, generator=seeded(5), **more
    ).correct["it"]


# ------------------------------------------------------------------------------------ known answers


@pytest.mark.parametrize("loss", ["cross_entropy", "margin", "targeted"])
@pytest.mark.parametrize(
    "attack", [FGSM, PGD(), PGD(steps=5), PGD(restarts=2)], ids=["FGSM", "PGD", "PGD-5", "restarts"]
)
@pytest.mark.parametrize("bounds", [True, False])
def test_of_a_linear_classifier_exactly_the_robust_rows_are_left(
    linear: Linear, points: tuple[Tensor, Tensor], attack: PGD, loss: Any, bounds: bool
) -> None:
    x, y = points
    attack = dataclasses.replace(attack, loss=loss, bounds=(0.0, 1.0) if bounds else None)
    truth = linear.robust(x, y, EPSILON, 1, bounds)
    found = left(linear, x, y, attack, bounds=attack.bounds)
    assert 0.1 < truth.double().mean() < 0.9
    assert torch.equal(found.bool(), truth)


def test_in_the_euclidean_ball_too(linear: Linear, points: tuple[Tensor, Tensor]) -> None:
    x, y = points
    truth = linear.robust(x, y, 0.3, 2)
    for attack in (
        PGD(norm="2", bounds=None),
        PGD(steps=1, random_start=False, norm="2", bounds=None),
    ):
        assert torch.equal(left(linear, x, y, attack, 0.3, norm="2", bounds=None).bool(), truth)
    assert 0.1 < truth.double().mean() < 0.9


def test_the_nearest_fooled_point_of_a_linear_classifier(
    linear: Linear, points: tuple[Tensor, Tensor]
) -> None:
    x, y = points[0][:60], points[1][:60]
    truth = (x.flatten(1) @ linear.w + linear.b).abs() / linear.w.norm()  # |w·x + b| / ‖w‖₂
    nearest = CW(bounds=None, binary_search_steps=6, steps=100, learning_rate=0.01).nearest(
        linear, x, y
    )
    found = distance(x, nearest, "2")
    assert bool((margin(linear(nearest), y) > 0).all())
    assert bool((found > truth - 1e-5).all())
    assert float((found / truth - 1).abs().median()) < 0.05


def test_cw_stays_in_the_ball_and_leaves_no_fewer_than_can_be_flipped(
    linear: Linear, points: tuple[Tensor, Tensor]
) -> None:
    x, y = points[0][:60], points[1][:60]
    truth = linear.robust(x, y, 0.3, 2)
    found = left(linear, x, y, CW(bounds=None, steps=200), 0.3, norm="2", bounds=None).bool()
    assert bool((found | ~truth).all()) and (found != truth).double().mean() < 0.1


def test_a_search_without_slopes_finds_most_and_never_more(
    linear: Linear, points: tuple[Tensor, Tensor]
) -> None:
    x, y = points
    truth = linear.robust(x, y, EPSILON, 1, bounds=True)
    found = left(linear, x, y, Square(400)).bool()
    assert bool((found | ~truth).all())
    assert float(found.double().mean()) < float(truth.double().mean()) + 0.15


def test_more_queries_find_more(linear: Linear, points: tuple[Tensor, Tensor]) -> None:
    x, y = points
    few, many = (float(left(linear, x, y, Square(queries)).mean()) for queries in (2, 400))
    assert many < few - 0.02


def test_a_classifier_that_is_too_sure_is_attacked_all_the_same(
    linear: Linear, points: tuple[Tensor, Tensor]
) -> None:
    """Its softmax is 1 to the last digit, so the slope of cross-entropy is 0 almost everywhere; the
    attack is not fooled.
    """
    x, y = points
    truth = linear.robust(x, y, EPSILON, 1, bounds=True)
    assert torch.equal(left(lambda x: 1e4 * linear(x), x, y, PGD()).bool(), truth)


def test_balls_may_be_huge(linear: Linear, points: tuple[Tensor, Tensor]) -> None:
    x, y = points
    for norm in ("inf", "2"):
        assert not left(
            linear, x, y, PGD(norm=norm, bounds=None), 1e4, norm=norm, bounds=None
        ).any()  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------- planted bugs


class Downhill(PGD):
    """The sign of the slope turned round."""

    def evaluate(self, *given: Any) -> Any:
        good, slope = super().evaluate(*given)
        return good, None if slope is None else -slope


class Unbounded(PGD):
    """No projection on the ball."""

    def project(self, x: Tensor, at: Tensor, epsilon: float) -> Tensor:
        return at.clamp(0, 1)


class Unwalled(PGD):
    """No bounds."""

    def project(self, x: Tensor, at: Tensor, epsilon: float) -> Tensor:
        return x + (at - x).clamp(-epsilon, epsilon)


class Sticky(PGD):
    """The point it started at is returned."""

    def _climb(self, *given: Any) -> None:
        super()._climb(*given)
        given[5].copy_(given[1])


@pytest.mark.parametrize("bug", [Downhill, Sticky])
def test_an_attack_that_does_not_attack_is_seen(
    linear: Linear, points: tuple[Tensor, Tensor], bug: type[PGD]
) -> None:
    x, y = points
    assert not torch.equal(
        left(linear, x, y, bug(random_start=False)).bool(),
        linear.robust(x, y, EPSILON, 1, bounds=True),
    )


@pytest.mark.parametrize("bug", [Unbounded, Unwalled])
def test_an_attack_that_leaves_its_budget_is_refused(
    linear: Linear, points: tuple[Tensor, Tensor], bug: type[PGD]
) -> None:
    with pytest.raises(ValueError, match=r"came back with points .*;.*;"):
        left(linear, *points, bug())


@pytest.mark.parametrize(
    "attack",
    [PGD(), PGD(loss="margin", restarts=3), Square(50), PGD(norm="2"), CW(steps=20)],
    ids=str,
)
@pytest.mark.parametrize("epsilon", [0.0, 0.05, 0.7, 3.0])
def test_budgets_are_kept(
    linear: Linear, points: tuple[Tensor, Tensor], attack: Any, epsilon: float
) -> None:
    x, y = points[0][:40], points[1][:40]
    found = attack(linear, x, y, epsilon, generator=seeded(0))
    norm = "2" if isinstance(attack, CW) or getattr(attack, "norm", "inf") == "2" else "inf"
    assert float(distance(x, found, norm).max()) <= epsilon + 1e-6  # type: ignore[arg-type]
    assert float(found.min()) >= 0 and float(found.max()) <= 1 and found.dtype == x.dtype


# ------------------------------------------------------------------------------------ masked slopes


class Net(nn.Module):
    """Two classes by the sign of a smooth function of an image."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 3))

    def forward(self, x: Tensor) -> Tensor:
        return 10 * self.net(4 * (x - 0.5))


def quantised(x: Tensor) -> Tensor:
    return (x * 4).round() / 4


def past(x: Tensor) -> Tensor:
    """The same, with the identity for a slope."""
    return x + (quantised(x) - x).detach()


@pytest.fixture(scope="module")
def masked() -> tuple[Net, Tensor, Tensor]:
    net, x = Net().requires_grad_(False), torch.rand(100, 1, 8, 8, generator=seeded(2))
    return net, x, net(quantised(x)).argmax(1)


def test_masked_slopes_stop_pgd_but_neither_bpda_nor_square_nor_transfer(
    masked: tuple[Net, Tensor, Tensor],
) -> None:
    net, x, y = masked

    def defence(x: Tensor) -> Tensor:
        return net(quantised(x))

    attacks = {
        "pgd": PGD(random_start=False),
        "bpda": TransferAttack(lambda x: net(past(x)), PGD()),
        "transfer": TransferAttack(net, PGD(loss="margin")),
        "square": Square(300),
    }
    found = robust_accuracy(defence, x, y, 0.2, attacks, generator=seeded(0))
    shares = {name: estimate.value for name, estimate in found.accuracy.items()}
    assert shares["pgd"] > 0.95, "slopes of rounding are 0: PGD cannot move"
    assert max(shares["bpda"], shares["transfer"]) < 0.3 and shares["square"] < 0.8
    assert shares["minimum"] <= min(shares.values())
    checks = {
        check.name: check.passed
        for check in sanity_checks(
            defence, x, y, 0.2, white_box=PGD(random_start=False), generator=seeded(0)
        )
    }
    assert (
        not checks["black box never beats white box"]
        and not checks["the unbounded attack succeeds"]
    )


def test_a_model_that_hides_its_slope_altogether_is_still_searched(
    masked: tuple[Net, Tensor, Tensor],
) -> None:
    net, x, y = masked

    def closed(x: Tensor) -> Tensor:
        with torch.no_grad():
            return net(quantised(x))

    assert float(left(closed, x, y, PGD(steps=3, random_start=False)).mean()) == 1.0
    assert float(left(closed, x, y, Square(300), 0.2).mean()) < 0.8


def test_slopes_that_are_no_numbers_do_no_harm(points: tuple[Tensor, Tensor]) -> None:
    x, y = points

    def cracked(x: Tensor) -> Tensor:
        score = (x.flatten(1).sum(1) - 8) + 0 * torch.sqrt(
            x.flatten(1).sum(1) * 0
        )  # the slope of √ at 0 is infinite
        return torch.stack([-score, score], 1)

    found = PGD(steps=3)(cracked, x, y, 0.1, generator=seeded(0))
    assert bool(found.isfinite().all())


# --------------------------------------------------------------------------------------- with noise


def test_averaged_slopes_find_what_single_ones_miss() -> None:
    """A slope of ±1 buried in noise of 20 at every call: of single slopes most point the wrong way
    half of the time.
    """

    class Buried:
        def __init__(self) -> None:
            self.generator, self.calls = seeded(3), 0

        def __call__(self, x: Tensor) -> Tensor:
            self.calls += 1
            noise = 20 * torch.randn(x.shape, generator=self.generator)
            score = x.flatten(1).sum(1) + ((x - x.detach()) * noise).flatten(1).sum(1)
            return torch.stack([-score + 9, score - 9], 1)

    x, y = (
        torch.full((40, 1, 4, 4), 0.7),
        torch.ones(40, dtype=torch.long),
    )  # 11.2 − 16 · 0.15 = 8.8 < 9: barely
    plain, averaged = Buried(), Buried()
    one = PGD(steps=6, loss="margin", early_stop=False)(plain, x, y, 0.15, generator=seeded(0))
    many = PGD(steps=6, loss="margin", early_stop=False, eot=100)(
        averaged, x, y, 0.15, generator=seeded(0)
    )
    assert float(many.sum()) < float(one.sum())
    assert averaged.calls - 1 == 100 * (
        plain.calls - 1
    )  # and one call looked at the form of the logits


def test_the_share_of_right_answers_counts_for_a_model_with_noise() -> None:
    noise = seeded(0)

    def coin(x: Tensor) -> Tensor:
        return torch.rand(len(x), 2, generator=noise)

    x, y = torch.rand(50, 1, 4, 4, generator=seeded(1)), torch.zeros(50, dtype=torch.long)
    found = robust_accuracy(
        coin, x, y, 0.1, {"a": FGSM, "b": FGSM}, generator=seeded(2), evaluations=200
    )
    assert abs(found.accuracy["clean"].value - 0.5) < 5 * 0.5 / 100
    assert (
        found.accuracy["minimum"].value < found.accuracy["clean"].value
    )  # the least of noisy shares, as the docs say
    assert found.evaluations == 200 and 0 <= found.majority.value <= 0.6


# ---------------------------------------------------------------------------------------- no traces


def test_attacks_leave_no_trace_on_the_model(masked: tuple[Net, Tensor, Tensor]) -> None:
    _, x, y = masked
    net = Net().train()
    before = [p.clone() for p in net.parameters()]
    given = x.clone()
    for attack in (
        PGD(steps=2),
        CW(steps=2),
        Square(5),
        AdaptivePGD(steps=2, energy=lambda x: x.flatten(1).sum(1)),
    ):
        attack(net, x, y, 0.1, generator=seeded(0))
    assert net.training and all(p.requires_grad and p.grad is None for p in net.parameters())
    assert all(
        torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True)
    ) and torch.equal(x, given)


def test_running_means_stay_as_they_were(points: tuple[Tensor, Tensor]) -> None:
    x, y = points
    net = nn.Sequential(
        nn.Flatten(), nn.BatchNorm1d(SIDE * SIDE), nn.Linear(SIDE * SIDE, 2)
    ).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    robust_accuracy(net, x, y, 0.1, {"pgd": PGD(steps=2), "square": Square(2)}, generator=seeded())
    assert (
        all(torch.equal(before[name], value) for name, value in net.state_dict().items())
        and net.training
    )


def test_the_same_generator_gives_the_same_points(masked: tuple[Net, Tensor, Tensor]) -> None:
    net, x, y = masked
    for attack in (PGD(steps=3), Square(20)):
        a, b, c = (attack(net, x, y, 0.05, generator=seeded(s)) for s in (0, 0, 1))
        assert torch.equal(a, b) and not torch.equal(a, c)
