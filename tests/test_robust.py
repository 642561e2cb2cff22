"""Adversarial training and TRADES: the inner maximum where it is known, gradients, the ramp, and
that training works.
"""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowland import box, load_data, read_recipe, real, train_recipe
from lowland.nets import ConvNet
from lowland.nets.class_energy import ClassEnergy
from lowland.objectives import Batch, Context, Robust
from lowland.objectives.adversarial import divergence
from lowland.robustness import PGD, robust_accuracy
from lowland.tasks import as_classifier
from lowland.testing import seeded

ROWS = 40


class Plane(ClassEnergy):
    """Two classes by the sign of w·x + b: −log p(y | x) = softplus(−s (w·x + b)) with s = ±1."""

    def __init__(self, domain: Any = None) -> None:
        super().__init__(domain or real(5))
        self.classes = 2
        self.w = nn.Parameter(torch.randn(5, generator=seeded(0), dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def class_energies(self, x: Tensor) -> Tensor:
        score = x @ self.w + self.b
        return torch.stack([score / 2, -score / 2], 1)


def batch(seed: int = 1) -> tuple[Tensor, Tensor]:
    x = torch.randn(ROWS, 5, generator=seeded(seed), dtype=torch.float64)
    return x, torch.arange(ROWS) % 2


def slopes(value: Tensor, energy: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(value, list(energy.parameters())))


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.4])
def test_of_a_linear_classifier_the_loss_and_its_gradient_are_those_at_the_worst_corner(
    epsilon: float,
) -> None:
    """The worst x' lowers s (w·x + b) by ε ‖w‖₁: adversarial training is training with a margin."""
    energy, (x, y) = Plane(), batch()
    sign = 2.0 * y - 1
    loss = Robust(epsilon=epsilon, steps=10).loss(energy, Batch(x, y), Context(seeded()))
    truth = F.softplus(-(sign * (x @ energy.w + energy.b) - epsilon * energy.w.abs().sum())).mean()
    torch.testing.assert_close(loss.value, truth)
    for a, b in zip(slopes(loss.value, energy), slopes(truth, energy), strict=True):
        torch.testing.assert_close(a, b)


def test_walls_hold_the_worst_point() -> None:
    energy = Plane(box(-0.5, 0.5, 5))
    x = batch()[0].clamp(-0.5, 0.5)
    y = torch.arange(ROWS) % 2
    loss = Robust(epsilon=0.4, steps=10).loss(energy, Batch(x, y), Context(seeded()))
    push = -(2.0 * y - 1).unsqueeze(1) * energy.w.sign()
    worst = (x + 0.4 * push).clamp(-0.5, 0.5)
    torch.testing.assert_close(loss.value, F.cross_entropy(-energy.class_energies(worst), y))


def test_trades_finds_the_corner_of_most_divergence_and_weighs_it() -> None:
    """Of a linear classifier the KL is largest at one of two corners x ± ε sign(w); the ascent
    takes the nearer slope's.
    """
    energy, (x, y) = Plane(), batch()
    objective = Robust(kind="trades", epsilon=0.2, steps=10, beta=2.5)
    loss = objective.loss(energy, Batch(x, y), Context(seeded()))
    heads = energy.class_energies(x)
    corners = [energy.class_energies(x + 0.2 * side * energy.w.detach().sign()) for side in (1, -1)]
    gives = torch.stack([divergence(heads, corner) for corner in corners])
    give = loss.terms["divergence"]
    assert bool(gives.amin(0).mean() <= give) and bool(give <= gives.amax(0).mean() + 1e-9)
    assert bool(give > 0.75 * gives.amax(0).mean())
    torch.testing.assert_close(
        loss.value.detach(), F.cross_entropy(-heads, y).detach() + 2.5 * give
    )


def test_both_sides_of_the_divergence_are_learned() -> None:
    """The gradient is that of the formula at the x' found, with respect to p(· | x) and to p(· |
    x').
    """
    energy, (x, y) = Plane(), batch()
    objective = Robust(kind="trades", epsilon=0.2, steps=4, beta=3.0)
    loss = objective.loss(energy, Batch(x, y), Context(seeded(7)))
    far = objective._furthest(energy, x, 0.2, seeded(7))
    heads, others = energy.class_energies(x), energy.class_energies(far)
    p, q = torch.softmax(-heads, 1), torch.softmax(-others, 1)
    truth = -p.gather(1, y.unsqueeze(1)).log().mean() + 3.0 * (p * (p / q).log()).sum(1).mean()
    for a, b in zip(slopes(loss.value, energy), slopes(truth, energy), strict=True):
        torch.testing.assert_close(a, b)
    assert not far.requires_grad and float((far - x).abs().max()) <= 0.2 + 1e-12


def test_the_divergence_is_that_of_two_laws() -> None:
    a, b = torch.randn(2, 7, 4, generator=seeded(), dtype=torch.float64)
    p, q = torch.softmax(-a, 1), torch.softmax(-b, 1)
    torch.testing.assert_close(divergence(a, b), (p * (p / q).log()).sum(1))
    assert float(divergence(a, a).abs().max()) < 1e-12


@pytest.mark.parametrize("kind", ["madry", "trades"])
def test_the_radius_grows_over_the_ramp(kind: Any) -> None:
    energy, (x, y) = Plane(), batch()
    objective = Robust(kind=kind, epsilon=0.4, warmup_fraction=0.5)

    def radius(progress: float, ramp: float = 0.5) -> float:
        some = dataclasses.replace(objective, warmup_fraction=ramp)
        loss = some.loss(energy, Batch(x, y), Context(seeded(), progress=progress))
        return float(loss.terms["radius"])

    assert [radius(p) for p in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([0.0, 0.2, 0.4, 0.4])
    assert radius(0.0, ramp=0.0) == pytest.approx(0.4)


def test_points_without_labels_count_in_the_divergence_alone() -> None:
    energy, (x, _) = Plane(), batch()
    nobody = torch.full((ROWS,), -1)
    for kind in ("madry", "trades"):
        loss = Robust(kind=kind, epsilon=0.2).loss(energy, Batch(x, nobody), Context(seeded()))
        assert float(loss.terms["cross_entropy"]) == 0.0
        assert (float(loss.value.detach()) > 0) == (kind == "trades")


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "fast"},
        {"epsilon": -0.1},
        {"epsilon": float("inf")},
        {"steps": 0},
        {"step_size": 0.0},
        {"beta": -1.0},
        {"warmup_fraction": 1.5},
        {"warmup_fraction": float("nan")},
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r";.*;"):
        Robust(**settings)


@pytest.mark.parametrize(
    "name", ["mnist-robust", "fashion-robust", "mnist-trades", "digits-robust", "moons-robust"]
)
def test_the_recipes_read(name: str) -> None:
    recipe = read_recipe(name).plain()
    assert recipe["objective"]["name"] == "Robust" and recipe["sampler"] is None


def test_training_buys_robustness(tmp_path: Path) -> None:
    """Digits, ε = 0.15: the same net by cross-entropy alone and by both ways; all three know the
    clean digits.
    """
    changes = {
        "energy.hidden": [64],
        "training.steps": 200,
        "training.checkpoint_every": 200,
        "training.warmup": 20,
    }
    left = {}
    for kind, epsilon in (("madry", 0.0), ("madry", 0.15), ("trades", 0.15)):
        more = {
            "objective.kind": kind,
            "objective.epsilon": epsilon,
            "objective.steps": 3,
            "objective.step_size": 0.7,
        }
        energy = train_recipe(
            read_recipe("digits-robust", {**changes, **more}),
            tmp_path / f"{kind}-{epsilon}",
            progress=False,
        ).eval()
        test = load_data("digits").test
        assert test.y is not None
        found = robust_accuracy(
            as_classifier(energy), test.x, test.y, 0.15, {"pgd": PGD(20)}, generator=seeded()
        )
        assert found.accuracy["clean"].value > 0.9
        left[kind, epsilon] = found.accuracy["minimum"].value
    assert min(left["madry", 0.15], left["trades", 0.15]) > left["madry", 0.0] + 0.15


def test_image_energies_learn_in_half_precision() -> None:
    torch.manual_seed(0)
    energy = ConvNet(
        box(0.0, 1.0, 1, 8, 8), channels=(8,), kernels=(3,), strides=(2,), hidden=16, classes=4
    )
    x, y = torch.rand(16, 1, 8, 8, generator=seeded()), torch.arange(16) % 4
    for kind in ("madry", "trades"):
        with torch.autocast("cpu", torch.bfloat16):
            loss = Robust(kind=kind, epsilon=0.1).loss(energy, Batch(x, y), Context(seeded()))  # type: ignore
        assert loss.value.dtype == torch.float32 and bool(loss.value.isfinite())
