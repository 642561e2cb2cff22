"""Architectures: classes as an energy, boxes stretched, spectral norm at one, confinement, noise
levels; refusals.
"""

import math

import pytest
import torch
from contract.cases import seeded
from torch import nn

from lowland import box, real, value_and_score
from lowland.nets import IGEBM, MLP, ConvNet, NoiseMLP
from lowland.nets.class_energy import pick
from lowland.nets.perceptron import normalize_weight
from lowland.nets.vectors import to_unit_box

DOUBLE = torch.float64
IMAGE = box(0.0, 1.0, 1, 8, 8)


def small(cls: type, **more: object) -> nn.Module:
    torch.manual_seed(0)
    settings = {
        "ConvNet": {"channels": (4, 6, 6), "hidden": 8},
        "IGEBM": {"widths": (4, 6), "blocks": 1},
    }
    domain = more.pop("domain", IMAGE)
    return cls(
        domain, **({"hidden": (8,)} if cls is MLP else settings[cls.__name__]) | more
    ).double()


every = pytest.mark.parametrize("cls", [MLP, ConvNet, IGEBM])


def test_a_class_posterior_is_the_softmax_of_minus_the_energies() -> None:
    """p(y | x) from p(x, y) ∝ exp(−E(x, y)): exp(−E(x, y)) over K exp(−E(x)) is softmax(−e)."""
    heads = torch.randn(20, 4, generator=seeded(), dtype=DOUBLE)
    joint = torch.stack([pick(heads, torch.full((20,), k)) for k in range(4)], 1)
    posterior = (-joint).exp() / (4 * (-pick(heads, None)).exp()).unsqueeze(1)
    torch.testing.assert_close(posterior, (-heads).softmax(1), rtol=1e-12, atol=1e-12)


def test_pick_is_finite_for_large_energies() -> None:
    assert pick(torch.full((1, 3), 1e5), None).isfinite().all()


@every
def test_scale_is_the_unit_of_energy(cls: type) -> None:
    x = IMAGE.draw(5, seeded(), dtype=DOUBLE)
    one, three = small(cls, scale=1.0), small(cls, scale=3.0)
    torch.testing.assert_close(three(x), 3 * one(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("cls", [MLP, ConvNet])
def test_confine_adds_a_bowl_around_the_middle_of_the_box(cls: type) -> None:
    x = IMAGE.draw(5, seeded(), dtype=DOUBLE)
    bowl = 0.7 / 2 * (2 * x - 1).square().flatten(1).sum(1)
    for classes, c in ((0, None), (3, None), (3, torch.arange(5) % 3)):
        plain, confined = (
            small(cls, classes=classes),
            small(cls, classes=classes, quadratic_weight=0.7),
        )
        torch.testing.assert_close(confined(x, c), plain(x, c) + bowl, rtol=1e-10, atol=1e-10)


@every
def test_a_box_is_stretched_to_minus_one_and_one(cls: type) -> None:
    x = IMAGE.draw(5, seeded(), dtype=DOUBLE)
    wide = small(cls, domain=box(-3.0, 7.0, 1, 8, 8))
    torch.testing.assert_close(wide(-3 + 10 * x), small(cls)(x), rtol=1e-10, atol=1e-10)
    assert torch.equal(
        to_unit_box(torch.tensor([0.0, 0.5, 1.0]), IMAGE), torch.tensor([-1.0, 0.0, 1.0])
    )
    assert torch.equal(to_unit_box(x, real(1, 8, 8)), x)


def test_spectral_norm_divides_by_the_largest_singular_value() -> None:
    torch.manual_seed(0)
    for layer in (nn.Linear(6, 9), nn.Conv2d(3, 5, 3)):
        layer = normalize_weight(layer, True)
        layer.train()
        for _ in range(200):
            _ = layer.weight
        layer.eval()
        assert abs(torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() - 1) < 1e-4


def test_spectral_norm_keeps_sigma_in_the_graph() -> None:
    """Scaling the raw weight does not change the layer, so the gradient along the weight itself is
    zero.
    """
    torch.manual_seed(0)
    layer = normalize_weight(nn.Linear(6, 9), True).eval().double()
    layer(torch.randn(4, 6, generator=seeded(), dtype=DOUBLE)).square().sum().backward()
    raw = layer.parametrizations.weight.original
    assert (
        abs((raw.grad * raw).sum().item())
        < 1e-9 * raw.grad.norm().item() * raw.norm().item() + 1e-9
    )
    assert raw.grad.norm() > 0


def test_a_confined_mlp_confines() -> None:
    """The network grows at most linearly and the bowl quadratically: far out the score points
    home.
    """
    torch.manual_seed(0)
    energy = MLP(real(4), hidden=(16,), quadratic_weight=1.0)
    x = 1000 * nn.functional.normalize(torch.randn(100, 4, generator=seeded()))
    _, score = value_and_score(energy, x)
    assert ((score * x).sum(1) < 0).all()


def test_noise_levels_are_per_row_or_one_for_all() -> None:
    torch.manual_seed(0)
    energy = NoiseMLP(real(3), hidden=(8,), quadratic_weight=0.3).double()
    x, sigma = (
        torch.randn(4, 3, generator=seeded(), dtype=DOUBLE),
        torch.tensor([0.1, 0.5, 1.0, 2.0], dtype=DOUBLE),
    )
    rows = energy(x, sigma)
    for i in range(4):
        torch.testing.assert_close(energy.given(sigma[i])(x)[i], rows[i], rtol=1e-10, atol=1e-10)
    flat = torch.cat([x, sigma.log().unsqueeze(1)], 1)
    expected = energy.net(flat).squeeze(1) / sigma + 0.15 * x.square().sum(1)
    torch.testing.assert_close(rows, expected, rtol=1e-10, atol=1e-10)
    with pytest.raises(ValueError, match=r";.*;"):
        energy(x)


def test_a_bound_level_is_not_rounded_in_double_precision() -> None:
    torch.manual_seed(0)
    energy, x = NoiseMLP(real(3), hidden=(8,)).double(), torch.ones(2, 3, dtype=DOUBLE)
    torch.testing.assert_close(energy.given(0.1)(x), energy(x, 0.1), rtol=1e-12, atol=1e-12)


def test_networks_without_classes_have_one_head_and_no_batch_norm() -> None:
    for cls in (MLP, ConvNet, IGEBM):
        net = small(cls)
        assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in net.modules())
        assert small(cls, classes=5)(IMAGE.draw(2, seeded(), dtype=DOUBLE), 4).shape == (2,)


def test_convnet_takes_even_kernels_and_odd_images() -> None:
    for size, kernels, strides in ((7, (4, 2), (1, 2)), (9, (3, 5), (2, 2)), (5, (1, 3), (1, 1))):
        domain = box(0.0, 1.0, 2, size, size + 2)
        net = ConvNet(domain, channels=(3, 4), kernels=kernels, strides=strides, hidden=5)
        assert net(domain.draw(2, seeded())).isfinite().all()


def test_sizes_that_mean_nothing_are_refused() -> None:
    bad = [
        lambda: MLP(real(2), hidden=()),
        lambda: MLP(real(2), hidden=(0,)),
        lambda: MLP(real(2), classes=-1),
        lambda: MLP(real(2), quadratic_weight=-1.0),
        lambda: NoiseMLP(real(2), hidden=(-1,)),
        lambda: ConvNet(real(2)),
        lambda: ConvNet(IMAGE, channels=(4,), kernels=(3, 3), strides=(1,)),
        lambda: ConvNet(IMAGE, channels=(0,), kernels=(3,), strides=(1,)),
        lambda: IGEBM(IMAGE, widths=()),
        lambda: IGEBM(IMAGE, blocks=0),
    ]
    for make in bad:
        with pytest.raises(ValueError, match=r";.*;"):
            make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: MLP(real(2), quadratic_weight=math.nan),
        lambda: ConvNet(IMAGE, quadratic_weight=-1.0),
    ],
)
def test_bowls_that_mean_nothing_are_refused(make: object) -> None:
    with pytest.raises(ValueError, match=r";.*;"):
        make()  # type: ignore[operator]


def test_a_network_needs_an_event_shape() -> None:
    with pytest.raises(ValueError, match=r";.*;"):
        MLP(real())
