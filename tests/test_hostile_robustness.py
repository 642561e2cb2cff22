"""Robust accuracy of classifiers that are noisy, hide their gradient, or have another type."""

import json
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lowland import Function
from lowland.robustness import (
    CW,
    PGD,
    AdaptivePGD,
    Robustness,
    Square,
    TransferAttack,
    robust_accuracy,
    sanity_checks,
)
from lowland.tasks.detection.class_scores import ODIN
from tests.test_hostile_metrics import refuse, seeded, strict

X = torch.rand(60, 1, 4, 4, generator=seeded(0))
SURE = 0.9  # of a noisy classifier, at every call


def linear(x: Tensor) -> Tensor:
    score = (x.flatten(1) - 0.5).sum(1)
    return torch.stack([-score, score], 1)


Y = linear(X).argmax(1)


def flip(draw: Callable[[int], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return the linear classifier with one answer in ten turned round."""

    def model(x: Tensor) -> Tensor:
        right = (draw(len(x)) < SURE).to(x).unsqueeze(1)
        return linear(x) * (2 * right - 1)

    return model


def own_noise(seed: int = 3) -> Callable[[int], Tensor]:
    g = seeded(seed)
    return lambda n: torch.rand(n, generator=g)


def attack(model: Callable[[Tensor], Tensor], epsilon: Any, **more: Any) -> Robustness:
    attacks = more.pop("attacks", {"PGD": PGD(steps=3), "margin": PGD(steps=3, loss="margin")})
    return robust_accuracy(model, X, Y, epsilon, attacks, generator=seeded(1), **more)


# ---- noise -------------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [0, 1e-9])
def test_a_noisy_classifier_keeps_its_accuracy_where_nothing_is_attacked(epsilon: float) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for draw in (own_noise(), torch.rand):
            found = attack(flip(draw), epsilon)
            assert found.noisy and found.evaluations == 20
            error = (SURE * (1 - SURE) / (20 * len(X))) ** 0.5
            for share in (found.minimum, found.correct["clean"], found.correct["PGD"]):
                assert abs(float(share.mean()) - SURE) < 5 * error
            assert found.majority.value > 0.95
            assert "noisy" in str(found) and found.to_dict()["noisy"] is True


def test_the_least_of_noisy_shares_is_asked_again() -> None:
    found = attack(flip(own_noise()), 0.0, evaluations=5)
    least = torch.stack(list(found.correct.values())).amin(0)
    assert float(least.mean()) < SURE - 0.05 < float(found.minimum.mean()) - 0.01
    both = found.merge(attack(flip(own_noise(4)), 0.0, evaluations=5, attacks={"b": PGD(steps=1)}))
    assert both.noisy and len(both.correct) == 4


def test_a_classifier_without_noise_is_asked_once() -> None:
    found = attack(linear, 0.02)
    assert (found.noisy, found.evaluations, found.gradient) == (False, 1, "full")
    assert torch.equal(found.minimum, attack(linear, 0.02, evaluations=3).minimum)
    assert "noisy" not in str(found) and len(str(found).splitlines()) == 5


def test_dropout_is_off_and_noise_is_not() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def forward(self, x: Tensor) -> Tensor:
            return linear(self.drop(x))

    assert not attack(Noisy().train(), 0.01).noisy


# ---- gradients ---------------------------------------------------------------------------------


def quantise(x: Tensor) -> Tensor:
    return linear((4 * x).round() / 4)


def with_weights(x: Tensor, scale: Tensor = torch.ones((), requires_grad=True)) -> Tensor:  # noqa: B008
    return scale * linear(x.detach())


HIDING = {
    "detach": (lambda x: linear(x.detach()), "none"),
    "no_grad": (torch.no_grad()(linear), "none"),
    "inference": (torch.inference_mode()(linear), "none"),
    "numpy": (lambda x: torch.from_numpy(linear(x.detach()).numpy()), "none"),
    "weights alone": (with_weights, "none"),
    "whole numbers": (lambda x: linear(x).round().long(), "none"),
    "argmax": (lambda x: nn.functional.one_hot(linear(x).argmax(1), 2).to(x), "none"),
    "rounding": (quantise, "zero"),
    "times zero": (lambda x: linear(x.detach()) + 0 * linear(x), "zero"),
}
CLIMBING = {
    "PGD": PGD(steps=2),
    "targeted": PGD(steps=2, loss="targeted", norm="2"),
    "CW": CW(steps=2, binary_search_steps=1),
    "adaptive": AdaptivePGD(energy=lambda x: x.flatten(1).square().sum(1), steps=2),
}


@pytest.mark.parametrize("hiding", HIDING)
def test_attacks_say_that_no_gradient_reached_the_points(hiding: str) -> None:
    model, gradient = HIDING[hiding]
    for name, climb in CLIMBING.items():
        norm = "2" if name in ("targeted", "CW") else "inf"
        with pytest.warns(UserWarning, match=r"gradient .*reach the points; .*Square"):
            found = attack(model, 0.05, attacks={name: climb}, norm=norm)
        assert found.gradient == found.to_dict()["gradient"] == gradient
        assert "prove nothing" in str(found)
        strict(json.dumps(found.to_dict()))
    with pytest.warns(UserWarning):
        found = attack(model, 0.2, attacks={"pgd": PGD(random_start=False), "square": Square(50)})
    assert found.accuracy["square"].value < found.accuracy["pgd"].value
    with pytest.warns(UserWarning):
        found = attack(model, 0.2, attacks={"bpda": TransferAttack(linear, PGD())})
    assert found.accuracy["minimum"].value < 0.5


def test_sanity_checks_of_a_hidden_gradient_fail_and_do_not_crash() -> None:
    with pytest.warns(UserWarning, match="reach the points"):
        checks = sanity_checks(
            HIDING["detach"][0],
            X,
            Y,
            0.2,
            generator=seeded(0),
            white_box=PGD(2, random_start=False),
        )
    assert not all(check.passed for check in checks)


def test_an_energy_to_pass_by_has_a_gradient_too() -> None:
    watched = AdaptivePGD(energy=lambda x: x.detach().flatten(1).sum(1), steps=1)
    assert "gradient is zero" in refuse(lambda: watched(linear, X, Y, 0.1, generator=seeded(0)))


def test_odin_needs_a_gradient() -> None:
    assert "no gradient" in refuse(lambda: ODIN().compute(Function(HIDING["detach"][0]), X, {}))


# ---- types -------------------------------------------------------------------------------------


def test_numbers_of_numpy_and_tensors_mean_what_they_say() -> None:
    right = attack(linear, 0.05)
    for epsilon in (np.float32(0.05), np.float64(0.05), torch.tensor(0.05), np.array(0.05)):
        found = attack(linear, epsilon, bounds=[np.float32(0), 1], batch=np.int64(250))
        assert found.accuracy == right.accuracy
        strict(json.dumps(found.to_dict()))
    kinds = (np.int64(3), np.uint8(3), torch.tensor(3))
    assert {PGD(steps=n) for n in kinds} == {PGD(steps=3)}
    assert Square(np.int64(9), np.float32(0.5)) == Square(9)
    assert CW(np.int64(2), learning_rate=np.float32(0.5)) == CW(2, learning_rate=0.5)
    for bad in ("1", True, 0, -1, 2.5, None, float("nan"), 1 + 0j):
        for name in ("steps", "restarts", "eot"):
            refuse(lambda name=name, bad=bad: PGD(**{name: bad}))
        refuse(lambda bad=bad: Square(queries=bad))
        refuse(lambda bad=bad: CW(steps=bad))
        if bad is not None:
            refuse(lambda bad=bad: attack(linear, 0.1, batch=bad))
            refuse(lambda bad=bad: attack(linear, 0.1, evaluations=bad))
    for bad in ("0.1", -1e-9, float("nan"), float("inf"), True, None, [0.1, 0.2], 0.1j):
        refuse(lambda bad=bad: attack(linear, bad))
        refuse(lambda bad=bad: Square(3)(linear, X, Y, bad, generator=seeded(0)))


def test_points_labels_and_models_of_another_type_are_refused_in_words() -> None:
    double = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).double()
    attacks = {"PGD": PGD(steps=1)}

    def run(model: Any, x: Any, y: Any) -> Callable[[], object]:
        return lambda: robust_accuracy(model, x, y, 0.1, attacks, generator=seeded(0))

    assert "float32" in refuse(run(double, X, Y))
    run(double, X.double(), Y)()
    for x in ((255 * X).to(torch.uint8), X.numpy(), X + 0j, X[:0], 255 * X, X[0, 0, 0, 0]):
        refuse(run(linear, x, Y))
    for y in (Y.float(), Y + 2, Y - 1, Y[:3], Y.bool(), Y.tolist(), None):
        refuse(run(linear, X, y))
    for bad in ({"a": 5}, {"a": lambda *_, **__: None}, {}, [PGD()], None):
        refuse(lambda bad=bad: attack(linear, 0.1, attacks=bad))
    assert attack(linear, 0.1).gradient == "full"
    half = robust_accuracy(linear, X.half(), Y, 0.1, attacks, generator=seeded(0))
    assert half.accuracy["PGD"].value < 1
    for model in (lambda x: linear(x) + 0j, lambda x: linear(x) > 0, lambda x: x[:, 0, 0, 0]):
        refuse(run(model, X, Y))


def test_answers_that_are_no_numbers_are_wrong() -> None:
    def broken(x: Tensor) -> Tensor:
        far = (x.flatten(1).amax(1) > 1 - 1e-6).unsqueeze(1)
        return torch.where(far, torch.nan, linear(x))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = attack(broken, 1.0, attacks={"ones": lambda m, x, *_, **__: torch.ones_like(x)})
    assert found.accuracy["minimum"].value == 0.0
