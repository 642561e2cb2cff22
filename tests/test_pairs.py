"""Pairs: the loss is a cross-entropy, its optimum the mutual information of a known law, and
features that know digits.
"""

import math
from typing import Any

import pytest
import torch
from contract.cases import seeded
from contract.checks import LIMIT, worst
from torch import Tensor, nn

from lowland import MALA, Energy, Function, binary, box, energy_values, load_data, real, sample
from lowland.nets import MLP, PairEnergy
from lowland.objectives import Batch, Context, InfoNCE, info_nce
from lowland.objectives.augment import augment

DOUBLE = torch.float64


def views(monkeypatch: pytest.MonkeyPatch, law: Any) -> None:
    """Let `law(x, generator)` make the views."""
    monkeypatch.setattr(info_nce, "augment", lambda x, names, generator, domain: law(x, generator))


def test_the_loss_and_its_gradient_are_those_of_cross_entropy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    net, x = (
        PairEnergy(real(3), hidden=(8,), features=4, temperature=0.5).double(),
        torch.randn(7, 3, dtype=DOUBLE),
    )
    made: list[Tensor] = []

    def shake(x: Tensor, generator: torch.Generator) -> Tensor:
        made.append(x + 0.3 * torch.randn(x.shape, generator=generator, dtype=DOUBLE))
        return made[-1]

    views(monkeypatch, shake)
    loss = InfoNCE().loss(net, Batch(x), Context(seeded()))
    f, h = (nn.functional.normalize(net.net(view), dim=1) for view in made)
    expected = 0.0
    for i in range(7):
        to_other = torch.stack([(f[i] @ h[j] / 0.5).exp() for j in range(7)])
        to_one = torch.stack([(f[j] @ h[i] / 0.5).exp() for j in range(7)])
        expected = (
            expected
            - ((to_other[i] / to_other.sum()).log() + (to_one[i] / to_one.sum()).log()) / 14
        )
    torch.testing.assert_close(loss.value, expected)
    weights = list(net.parameters())
    found, wanted = (
        torch.autograd.grad(loss.value, weights, retain_graph=True),
        torch.autograd.grad(expected, weights),
    )
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)
    hits = sum(int(torch.stack([f[i] @ h[j] for j in range(7)]).argmax() == i) for i in range(7))
    assert loss.terms["accuracy"].item() == pytest.approx(hits / 7) and loss.negatives is None


class Quadratic(Energy):
    """E(x, y) = −(a x y + b (x² + y²)): holds the mutual information of Gaussian pairs."""

    def __init__(self, a: float, b: float) -> None:
        super().__init__(real(1))
        self.a, self.b = (nn.Parameter(torch.tensor(v, dtype=DOUBLE)) for v in (a, b))

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        return x.squeeze(1)

    def pairs(self, x: Tensor, y: Tensor) -> Tensor:
        return -(self.a * x * y.T + self.b * (x.square() + y.square().T))


RHO = 0.8
TRUTH = (
    RHO / (1 - RHO**2),
    -(RHO**2) / (2 * (1 - RHO**2)),
)  # log p(x, y) / p(x) p(y), up to a constant


def gradients(a: float, b: float, batches: int = 200, rows: int = 128) -> Tensor:
    g, found = seeded(1), []
    for _ in range(batches):
        critic = Quadratic(a, b)
        x = torch.randn(rows, 1, generator=g, dtype=DOUBLE)
        loss = InfoNCE().loss(critic, Batch(x), Context(g))
        found.append(torch.stack(torch.autograd.grad(loss.value, [critic.a, critic.b])))
    return torch.stack(found)


def gaussian_views(x: Tensor, generator: torch.Generator) -> Tensor:
    """Two views √ρ x + √(1−ρ) ξ of one x ~ N(0, 1) are N(0, 1) with correlation ρ."""
    return math.sqrt(RHO) * x + math.sqrt(1 - RHO) * torch.randn(
        x.shape, generator=generator, dtype=DOUBLE
    )


def test_the_optimum_is_the_mutual_information_of_gaussian_pairs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    views(monkeypatch, gaussian_views)
    assert worst(gradients(*TRUTH), torch.zeros(2, dtype=DOUBLE)) < LIMIT
    for off in ((TRUTH[0] * 1.3, TRUTH[1]), (TRUTH[0], TRUTH[1] * 0.6), (-TRUTH[0], TRUTH[1])):
        assert worst(gradients(*off, batches=50), torch.zeros(2, dtype=DOUBLE)) > 2 * LIMIT


def test_a_turned_sign_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    views(monkeypatch, gaussian_views)
    right = Quadratic.pairs
    monkeypatch.setattr(Quadratic, "pairs", lambda self, x, y: -right(self, x, y))
    assert worst(gradients(*TRUTH, batches=50), torch.zeros(2, dtype=DOUBLE)) > 2 * LIMIT


# ------------------------------------------------------------------------------------------- energy


def test_the_energy_of_a_pair_is_minus_a_cosine() -> None:
    torch.manual_seed(0)
    net = PairEnergy(
        box(0.0, 1.0, 1, 8, 8), channels=(4, 6), hidden=(8,), features=5, temperature=0.2
    )
    x, y = torch.rand(6, 1, 8, 8, generator=seeded()), torch.rand(6, 1, 8, 8, generator=seeded(1))
    torch.testing.assert_close(net.embed(x).norm(dim=1), torch.ones(6))
    torch.testing.assert_close(net(x, y), net.pairs(x, y).diagonal())
    torch.testing.assert_close(net(x, y), net(y, x))  # of a pair, in whatever order
    assert net(x, y).abs().max() <= 5 and torch.equal(
        energy_values(net.given(y), x), net(x, y).detach()
    )
    torch.testing.assert_close(net(x, x), torch.full((6,), -5.0))


def test_without_an_anchor_it_compares_with_the_data_it_remembers() -> None:
    torch.manual_seed(0)
    net, x = (
        PairEnergy(real(2), hidden=(8,), anchors=5, temperature=1.0),
        torch.randn(9, 2, generator=seeded()),
    )
    net.init_from_data(x)
    assert torch.equal(net.remembered, x[[0, 2, 4, 6, 8]])
    found = net(x)
    expected = torch.stack(
        [
            -torch.stack([(-net(x[i : i + 1], a.unsqueeze(0))).exp() for a in net.remembered])
            .mean()
            .log()
            for i in range(9)
        ]
    )
    torch.testing.assert_close(found, expected)
    again = PairEnergy(real(2), hidden=(8,), anchors=5, temperature=1.0)
    again.load_state_dict(net.state_dict())
    assert torch.equal(again(x), found)


def test_an_anchor_makes_a_law_that_can_be_sampled() -> None:
    torch.manual_seed(0)
    net = PairEnergy(box(-1.0, 1.0, 2), hidden=(16,), temperature=0.01)
    anchor = torch.tensor([[0.5, -0.5]])
    made = sample(net.given(anchor), MALA(0.02), torch.zeros(100, 2), 200, generator=seeded()).x
    everywhere = 2 * torch.rand(100, 2, generator=seeded(1)) - 1
    near, far = (energy_values(net.given(anchor), x).mean() for x in (made, everywhere))
    assert near < far - 1


def test_features_learn_to_ignore_what_the_views_change() -> None:
    """Digits moved by a pixel, told by their nearest neighbour among 1297: pixels find 64 %,
    features without a label 84 %.
    """
    digits = load_data("digits")
    torch.manual_seed(0)
    net, g = PairEnergy(digits.domain, hidden=(256, 128), features=32, temperature=0.2), seeded(1)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    x, y, test = digits.train.x, digits.train.y, digits.test
    assert y is not None and test.y is not None
    for _ in range(200):
        batch = x[torch.randint(len(x), (256,), generator=g)]
        loss = InfoNCE(augment=("shift", "rotate", "noise")).loss(net, Batch(batch), Context(g))
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
    moved = augment(test.x, ("shift",), seeded(7), digits.domain)

    def told(bank: Tensor, asked: Tensor) -> float:
        return float((y[torch.cdist(asked, bank).argmin(1)] == test.y).float().mean())

    with torch.no_grad():
        learned = told(net.embed(x), net.embed(moved))
    assert learned > told(x.flatten(1), moved.flatten(1)) + 0.04


# -------------------------------------------------------------------------------------------- doors


@pytest.mark.parametrize("settings", [{"augment": ()}, {"augment": ("mirror",)}], ids=str)
def test_views_that_do_not_differ_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r";.*;"):
        InfoNCE(**settings)


@pytest.mark.parametrize(
    "settings",
    [{"temperature": 0.0}, {"features": 0}, {"anchors": 0}, {"channels": (4,)}, {"hidden": (0,)}],
    ids=str,
)
def test_energies_of_pairs_that_mean_nothing_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r";.*;"):
        PairEnergy(real(2), **settings)


def test_what_is_no_pair_is_refused() -> None:
    x = torch.zeros(4, 2)
    with pytest.raises(ValueError, match=r"single points;.*;"):
        InfoNCE().loss(MLP(real(2), hidden=(4,)), Batch(x), Context(seeded()))
    with pytest.raises(
        ValueError, match=r"each point needs one;|each point needs one of its own shape;"
    ):
        PairEnergy(real(2), hidden=(4,))(x, torch.tensor([1, 2, 3, 4]))
    bits = Function(lambda x: x.sum(1), binary(2))
    bits.pairs = lambda x, y: x @ y.T  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"binary.*;"):
        InfoNCE().loss(bits, Batch(x), Context(seeded()))
