"""Classifiers as energies: any module without training, labels as inputs, the wide residual
network.
"""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowland import Langevin, ReplayBuffer, box, check_energy, real, sample, value_and_score
from lowland.energy import Energy
from lowland.evaluation.classification import class_probabilities
from lowland.metrics import reliability
from lowland.nets import ClassifierEnergy, EmbeddingMLP, WideResNet
from lowland.nets.class_energy import ClassEnergy
from lowland.objectives import JEM, Batch, Context
from lowland.testing import no_trace, seeded

K = 5
IMAGE = box(0.0, 1.0, 1, 8, 8)


def built(make: Any, *args: Any, **settings: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make(*args, **settings)


def classifier(norm: bool = False) -> nn.Sequential:
    layers = [
        nn.Conv2d(1, 6, 3),
        nn.BatchNorm2d(6) if norm else nn.Identity(),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(216, K),
    ]
    return built(lambda: nn.Sequential(*layers))


X = IMAGE.draw(7, seeded())


def test_any_classifier_is_an_energy_of_its_logits() -> None:
    net = classifier()
    energy = check_energy(ClassifierEnergy(net, K, IMAGE), X)
    logits, y = net(X), torch.arange(7) % K
    assert isinstance(energy, ClassEnergy) and energy.classes == K
    torch.testing.assert_close(
        energy(X), math.log(K) - torch.logsumexp(logits, 1)
    )  # log K above −log Σ exp f
    torch.testing.assert_close(energy(X, y), -logits.gather(1, y.unsqueeze(1)).squeeze(1))
    torch.testing.assert_close(
        class_probabilities(energy, X), logits.double().softmax(1), rtol=1e-6, atol=1e-7
    )
    z = X.clone().requires_grad_()
    (slope,) = torch.autograd.grad(torch.logsumexp(net(z), 1).sum(), z)
    torch.testing.assert_close(value_and_score(energy, X)[1], slope)


def test_a_classifier_samples_composes_and_is_left_as_it_was() -> None:
    net = classifier(norm=True).eval()
    both = ClassifierEnergy(net, K, IMAGE).given(3) + 0.5 * ClassifierEnergy(net, K, IMAGE)
    with no_trace(net):
        moved = sample(both, Langevin(0.01), X, 5, generator=seeded()).x
    assert IMAGE.contains(moved).all() and not torch.equal(moved, X)


def test_batch_norm_is_taken_in_eval_mode_only() -> None:
    net = classifier(norm=True)
    energy = ClassifierEnergy(net, K, IMAGE)
    with pytest.raises(ValueError, match=r"batch norm"):
        check_energy(energy.train(), X)
    check_energy(energy.eval(), X)


@pytest.mark.parametrize("classes", [K - 1, K + 1])
def test_another_number_of_classes_is_refused(classes: int) -> None:
    with pytest.raises(ValueError, match=r";.*;"):
        ClassifierEnergy(classifier(), classes, IMAGE)(X)


def test_what_is_no_classifier_is_refused() -> None:
    for arguments in ((classifier(), 1), ("net", K)):
        with pytest.raises(ValueError, match=r";.*;"):
            ClassifierEnergy(*arguments)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------- embedding


def test_an_embedded_label_is_an_input_beside_x() -> None:
    energy: Energy = built(
        EmbeddingMLP, box(0.0, 1.0, 3), hidden=(6, 4), classes=K, quadratic_weight=0.3, scale=2.0
    ).double()
    x, y = energy.domain.draw(9, seeded(), dtype=torch.float64), torch.arange(9) % K
    told = torch.cat([2 * x - 1, F.one_hot(y, K).double()], 1)
    joined = torch.cat(
        [energy.first.weight, energy.label.weight.T], 1
    )  # one layer over x and the one-hot label
    expected = 2.0 * energy.net(told @ joined.T + energy.first.bias).squeeze(1) + 0.15 * (
        2 * x - 1
    ).square().sum(1)
    torch.testing.assert_close(energy(x, y), expected)
    every = torch.stack([energy(x, torch.full((9,), k)) for k in range(K)], 1)
    torch.testing.assert_close(energy.class_energies(x), every)
    torch.testing.assert_close(energy(x), math.log(K) - torch.logsumexp(-every, 1))
    torch.testing.assert_close(energy(x, F.one_hot(y, K)), energy(x, y))
    assert (every.std(1) > 1e-3).all()
    with pytest.raises(ValueError, match=r"labels reach"):
        energy(x, y + 1)


@pytest.mark.parametrize(
    "settings", [{"classes": 1}, {"hidden": ()}, {"quadratic_weight": -1.0}], ids=str
)
def test_an_embedding_of_bad_sizes_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r";.*;"):
        EmbeddingMLP(real(2), **settings)


# --------------------------------------------------------------------------------------------- wide


@pytest.mark.parametrize(
    ("depth", "patch", "norm"), [(10, 1, "none"), (16, 2, "group"), (28, 1, "none")]
)
def test_a_wide_network_has_the_layers_that_its_name_says(
    depth: int, patch: int, norm: str
) -> None:
    energy = built(WideResNet, IMAGE, depth=depth, width=2, classes=K, patch=patch, norm=norm)
    threes = [m for m in energy.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    ones = [m for m in energy.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
    assert len(threes) == depth - 3  # WRN-d counts the head and the two shortcuts among its layers
    assert [m.out_channels for m in ones] == [64, 128] and threes[0].in_channels == patch**2
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in energy.modules())
    assert any(isinstance(m, nn.GroupNorm) for m in energy.modules()) == (norm == "group")
    assert check_energy(energy, X).class_energies(X).shape == (7, K)


def test_the_start_keeps_the_size_of_what_passes_through() -> None:
    for depth in (10, 28):
        energy = built(WideResNet, IMAGE, depth=depth, width=2, classes=K)
        with torch.no_grad():
            inside = energy.blocks(energy.stem(2 * IMAGE.draw(200, seeded()) - 1))
        assert 0.2 < inside.std() < 5


def test_a_level_parts_how_likely_from_how_sure() -> None:
    energy = built(WideResNet, IMAGE, depth=10, width=1, classes=K, density_head=True).double()
    x = X.double()
    heads = energy.head(F.silu(energy.last(energy.blocks(energy.stem(2 * x - 1)))).mean((2, 3)))
    torch.testing.assert_close(energy(x), heads[:, -1])
    torch.testing.assert_close(class_probabilities(energy, x), heads[:, :-1].softmax(1))
    with torch.no_grad():
        energy.head.weight[:-1] *= 10  # surer of its classes, as likely as before
    torch.testing.assert_close(energy(x), heads[:, -1])
    with pytest.raises(ValueError, match=r";.*;"):
        WideResNet(IMAGE, density_head=True)


def test_a_tower_alone_says_how_likely_and_the_trunk_alone_how_sure() -> None:
    energy = built(
        WideResNet,
        IMAGE,
        depth=10,
        width=1,
        classes=K,
        density_head=True,
        separate_trunk=(4, 6),
        trunk_scale=3.0,
    ).double()
    x, y = X.double(), torch.arange(len(X)) % K
    torch.testing.assert_close(
        energy(x),
        3
        * energy.own.head(F.silu(energy.own.linear(energy.own.features(2 * x - 1).flatten(1))))[
            :, 0
        ],
    )
    trunk = energy.head(F.silu(energy.last(energy.blocks(energy.stem(2 * x - 1)))).mean((2, 3)))
    torch.testing.assert_close(class_probabilities(energy, x), trunk.softmax(1))
    names = [name for name, _ in energy.named_parameters()]

    def moved(value: Tensor) -> set[bool]:
        found = torch.autograd.grad(value, list(energy.parameters()), allow_unused=True)
        return {
            name.startswith("own.")
            for name, g in zip(names, found, strict=True)
            if g is not None and g.abs().max() > 1e-12
        }

    assert moved(energy(x).mean()) == {True}, "a contrast of E(x) moves the tower alone"
    assert moved(F.cross_entropy(energy.class_logits(x), y)) == {False}, (
        "and cross-entropy the trunk alone"
    )
    torch.testing.assert_close(energy.class_logits(x).softmax(1), class_probabilities(energy, x))
    with pytest.raises(ValueError, match=r"separate_trunk.*density_head.*;.*;"):
        WideResNet(IMAGE, classes=K, separate_trunk=(4, 6))
    with pytest.raises(ValueError, match=r";.*;"):
        WideResNet(IMAGE, classes=K, density_head=True, separate_trunk=(4, 0))


def test_cross_entropy_sends_a_level_no_slope_not_even_rounding() -> None:
    """Adam makes a slope of 1e-9 as large as any other: a level that hears rounding runs away
    within 200 updates.
    """
    energy = WideResNet(
        box(0.0, 1.0, 1, 8, 8),
        depth=10,
        width=1,
        classes=4,
        density_head=True,
        separate_trunk=(4, 6),
    )
    x, y = energy.domain.draw(24, seeded()), torch.arange(24) % 4
    buffer = ReplayBuffer(64, energy.domain, generator=seeded(), classes=4)
    objective = JEM(steps=1, buffer_size=64, warmup_fraction=0.5, augment=("flip",))
    generator = seeded()
    for progress, heard in ((0.0, False), (1.0, True)):
        energy.zero_grad(set_to_none=True)
        context = Context(generator, Langevin(1e-4), buffer, progress)
        objective.loss(energy, Batch(x, y), context).value.backward()
        assert {parameter.grad is not None for parameter in energy.own.parameters()} == {heard}
        assert energy.head.weight.grad is not None


@pytest.mark.parametrize("kind", ["weight_px", "weight_pxy"])
@pytest.mark.parametrize("augment", [(), ("flip",)])
def test_a_level_that_is_a_head_hears_only_the_contrast(
    kind: str, augment: tuple[str, ...]
) -> None:
    """With a contrast that weighs 1e-30, what is left of the level's slope is rounding of the
    cross-entropy: there is none.
    """
    energy = WideResNet(box(0.0, 1.0, 1, 8, 8), depth=10, width=1, classes=4, density_head=True)
    x, y = energy.domain.draw(24, seeded()), torch.arange(24) % 4
    buffer = ReplayBuffer(64, energy.domain, generator=seeded(), classes=4)
    objective = JEM(
        steps=1, buffer_size=64, augment=augment, **({"weight_px": 0.0} | {kind: 1e-30})
    )
    objective.loss(
        energy, Batch(x, y), Context(seeded(), sampler=Langevin(1e-4), buffer=buffer)
    ).value.backward()
    slopes = energy.head.weight.grad.abs().amax(1)
    assert slopes[4] < 1e-20 and slopes[:4].min() > 1e-6


@pytest.mark.parametrize("augment", [(), ("flip",)])
def test_the_loss_of_a_tower_is_that_of_its_heads(augment: tuple[str, ...]) -> None:
    energy = WideResNet(
        box(0.0, 1.0, 1, 8, 8),
        depth=10,
        width=1,
        classes=4,
        density_head=True,
        separate_trunk=(4, 6),
    ).double()
    x, y = energy.domain.draw(24, seeded(), dtype=torch.float64), torch.arange(24) % 4
    buffer = ReplayBuffer(24, energy.domain, generator=seeded(), classes=4, dtype=torch.float64)
    objective = JEM(steps=1, buffer_size=24, weight_px=0.7, l2=0.01, augment=augment)
    g = seeded()
    loss = objective.loss(energy, Batch(x, y), Context(g, sampler=Langevin(1e-4), buffer=buffer))
    up, down = energy.class_energies(x), energy.class_energies(loss.negatives)
    up, down = (math.log(4) - torch.logsumexp(-heads, 1) for heads in (up, down))
    expected = 0.7 * (up.mean() - down.mean()) + 0.01 * (up.square().mean() + down.square().mean())
    torch.testing.assert_close(loss.value - loss.terms["cross_entropy"], expected)


def test_a_wide_network_in_bfloat16_is_near_itself() -> None:
    energy = built(WideResNet, IMAGE, depth=10, width=2, classes=K)
    exact = energy.class_energies(X)
    with torch.autocast("cpu", torch.bfloat16):
        rough = energy.class_energies(X)
    torch.testing.assert_close(rough.float(), exact, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    "settings",
    [{"depth": 12}, {"depth": 4}, {"width": 0}, {"classes": -1}, {"norm": "batch"}, {"patch": 3}],
)
def test_other_wide_networks_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r";.*;"):
        WideResNet(IMAGE, **settings)
    with pytest.raises(ValueError, match=r";.*;"):
        WideResNet(real(3))


# -------------------------------------------------------------------------------------- reliability


def test_the_calibration_error_is_its_formula() -> None:
    g = seeded(3)
    p = torch.softmax(2 * torch.randn(500, K, generator=g, dtype=torch.float64), 1)
    y = torch.randint(K, (500,), generator=g)
    found = reliability(p, y, bins=7)
    sure, called = (t.tolist() for t in p.max(1))
    error, counts = 0.0, []
    for b in range(7):
        inside = [i for i, c in enumerate(sure) if b / 7 < c <= (b + 1) / 7]
        counts.append(len(inside))
        if inside:
            right = sum(called[i] == int(y[i]) for i in inside) / len(inside)
            error += len(inside) / 500 * abs(right - sum(sure[i] for i in inside) / len(inside))
    assert found.counts.tolist() == counts and abs(found.error - error) < 1e-12


def calibrated(power: float, count: int = 40_000) -> float:
    """The error for labels drawn from p, of probabilities p^power."""
    p = torch.softmax(torch.randn(count, K, generator=seeded(4), dtype=torch.float64), 1)
    y = torch.multinomial(p, 1, generator=seeded(5)).squeeze(1)
    q = p.pow(power)
    return reliability(q / q.sum(1, keepdim=True), y).error


def test_labels_drawn_from_the_probabilities_are_calibrated() -> None:
    # 15 bins of 40,000 points: the expected error of a true p is at most √(15 / (2π · 40,000)) =
    # 0.008
    assert calibrated(1.0) < 0.012 < 0.05 < calibrated(1.6)


def reliable(p: Tensor, y: Tensor, bins: int = 15) -> None:
    with pytest.raises(ValueError, match=r";.*;"):
        reliability(p, y, bins)


def test_what_are_no_probabilities_is_refused() -> None:
    p, y = torch.full((4, 2), 0.5), torch.zeros(4).long()
    reliable(2 * p, y)
    reliable(p, y[:3])
    reliable(p[:0], y[:0])
    reliable(torch.tensor([[1.5, -0.5]]), y[:1])
    reliable(p, y, bins=0)
