"""Terms: each against its formula written out anew, with a sign that is wrong, and seen to hold
what it is to hold.
"""

import math
from typing import Any

import pytest
import torch
from contract.cases import seeded
from contract.checks import Bowl
from torch import Tensor, nn

from lowland import Function, Langevin, ReplayBuffer, binary, box, energy_values, real
from lowland.nets import MLP, ConvNet
from lowland.objectives import (
    PCD,
    Batch,
    Context,
    EnergyL2,
    GradientPenalty,
    HingeMargin,
    Loss,
    PullAway,
    contrast,
)
from lowland.objectives.regularizers import last_features

DOUBLE = torch.float64
G = seeded()
X, N = (
    torch.randn(6, 2, generator=seeded(1), dtype=DOUBLE),
    1 + torch.randn(4, 2, generator=seeded(2), dtype=DOUBLE),
)
TERMS = [
    EnergyL2(0.3),
    GradientPenalty(0.3),
    GradientPenalty(0.3, target=0.7, at="lines"),
    HingeMargin(0.3, -0.5, 0.4),
    PullAway(0.3),
]
every = pytest.mark.parametrize(
    "term", TERMS, ids=lambda t: f"{type(t).__name__}-{getattr(t, 'at', '')}"
)


def net() -> MLP:
    torch.manual_seed(0)
    return MLP(real(2), hidden=(8, 6), scale=2.0).double()


def slopes(energy: nn.Module, x: Tensor, step: float = 1e-5) -> Tensor:
    """∂E/∂x (B, 2) by central differences, differentiable in the weights."""
    columns = []
    for i in range(x.shape[1]):
        shift = torch.zeros_like(x)
        shift[:, i] = step
        columns.append((energy(x + shift) - energy(x - shift)) / (2 * step))
    return torch.stack(columns, 1)


def written_out(term: Any, energy: Any) -> Tensor:
    """The terms by plain formulas; lines are drawn with the same random numbers."""
    up, down = energy(X), energy(N)
    if isinstance(term, EnergyL2):
        return sum(e**2 for e in up) / 6 + sum(e**2 for e in down) / 4
    if isinstance(term, HingeMargin):
        over = torch.where(up > term.low, (up - term.low) ** 2, 0.0)
        return over.mean() + torch.where(down < term.high, (term.high - down) ** 2, 0.0).mean()
    if isinstance(term, GradientPenalty) and term.at == "data":
        return slopes(energy, X).pow(2).sum(1).mean()
    if isinstance(term, GradientPenalty):
        u = torch.rand(6, generator=seeded(5), dtype=DOUBLE).unsqueeze(1)
        ends = torch.cat([N, N[:2]])
        return (slopes(energy, (1 - u) * X + u * ends).norm(dim=1) - term.target).pow(2).mean()
    f = energy.net[:-1](N)
    total = 0.0
    for i in range(4):
        for j in range(4):
            if i != j:
                total = total + (f[i] @ f[j] / (f[i].norm() * f[j].norm())) ** 2
    return total / 12


@every
def test_value_and_gradient_are_those_of_the_formula(term: Any) -> None:
    energy = net()
    loss = contrast(energy, X, N)
    found = term.add(loss, energy, Batch(X), Context(seeded(5)))
    name = next(iter(found.terms.keys() - loss.terms.keys()))
    expected = written_out(term, energy)
    torch.testing.assert_close(found.terms[name], expected.detach(), rtol=1e-5, atol=1e-8)
    assert not found.terms[name].requires_grad and found.negatives is loss.negatives
    weights = list(energy.parameters())
    both = slopes_of(found.value - loss.value, weights)
    wanted = slopes_of(0.3 * expected, weights)
    torch.testing.assert_close(both, wanted, rtol=1e-4, atol=1e-7)
    assert (
        wanted.abs().sum() > 1e-3 and (both + wanted).abs().max() > 1e-3
    )  # a sign that is wrong is far outside that band


def slopes_of(value: Tensor, weights: list[Tensor]) -> Tensor:
    """Gradients in the weights, laid flat; nothing for those that do not matter."""
    found = torch.autograd.grad(value, weights, retain_graph=True, allow_unused=True)
    return torch.cat(
        [
            (torch.zeros_like(w) if g is None else g).flatten()
            for g, w in zip(found, weights, strict=True)
        ]
    )


@every
def test_no_gradient_reaches_the_points(term: Any) -> None:
    energy, x, negatives = net(), X.clone(), N.clone()
    loss = term.add(contrast(energy, x, negatives), energy, Batch(x), Context(seeded(5)))
    loss.value.backward()
    assert x.grad is None and negatives.grad is None and not x.requires_grad


@every
@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bfloat16"])
def test_terms_serve_images_labels_and_bfloat16(term: Any, bf16: bool) -> None:
    torch.manual_seed(0)
    energy = ConvNet(
        box(0.0, 1.0, 1, 8, 8), channels=(4,), kernels=(3,), strides=(2,), hidden=8, classes=3
    )
    x, y = torch.rand(6, 1, 8, 8, generator=seeded()), torch.arange(6) % 3
    objective = PCD(steps=2, buffer_size=16)
    buffer = ReplayBuffer(16, energy.domain, generator=seeded(1), classes=3)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = objective.loss(
            energy, Batch(x, y), Context(seeded(2), sampler=Langevin(0.01), buffer=buffer)
        )
        found = term.add(loss, energy, Batch(x, y), Context(seeded(3)))
    found.value.backward()
    assert found.value.isfinite() and found.value != loss.value
    assert all(p.grad is None or p.grad.isfinite().all() for p in energy.parameters())


def test_negatives_are_judged_under_their_own_labels() -> None:
    class Level(Bowl):
        def forward(self, x: Tensor, c: Any = None) -> Tensor:
            return self.theta * c.to(x)

    loss = Loss(torch.zeros(()), {}, torch.zeros(3, 1), torch.tensor([5, 5, 5]))
    found = EnergyL2(1.0).add(
        loss, Level(1.0), Batch(torch.zeros(2, 1), torch.tensor([1, 1])), Context(G)
    )
    assert found.value.item() == pytest.approx(1 + 25)


# ----------------------------------------------------------------------------- what each is to hold


def trained(term: Any, steps: int = 150, rate: float = 0.02) -> tuple[MLP, Tensor]:
    """A small net trained on two clusters by PCD, with or without a term; and its last
    negatives.
    """
    torch.manual_seed(0)
    energy, g = MLP(real(2), hidden=(32, 32), quadratic_weight=0.1, scale=3.0), seeded(4)
    buffer = ReplayBuffer(256, real(2), generator=g, reinit_prob=0.1)
    optimizer = torch.optim.Adam(energy.parameters(), lr=rate, betas=(0.0, 0.99))
    for _ in range(steps):
        x = clusters(64, g)
        loss = PCD(steps=4, buffer_size=256).loss(
            energy, Batch(x), Context(g, sampler=Langevin(0.02), buffer=buffer)
        )
        loss = loss if term is None else term.add(loss, energy, Batch(x), Context(g))
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
    assert loss.negatives is not None
    return energy, loss.negatives


def clusters(rows: int, g: torch.Generator) -> Tensor:
    side = 2.0 * torch.randint(2, (rows, 1), generator=g) - 1
    return torch.cat([2 * side, 0 * side], 1) + 0.3 * torch.randn(rows, 2, generator=g)


@pytest.fixture(scope="module")
def free() -> tuple[MLP, Tensor]:
    return trained(None)


def test_l2_holds_the_level_of_energies(free: tuple[MLP, Tensor]) -> None:
    held, _ = trained(EnergyL2(0.03))
    x = clusters(500, seeded(9))
    levels = [energy_values(energy, x).square().mean().sqrt() for energy in (free[0], held)]
    assert levels[1] < 0.5 * levels[0]


def test_a_gradient_penalty_holds_the_slope(free: tuple[MLP, Tensor]) -> None:
    flat, _ = trained(GradientPenalty(0.3))
    x = clusters(500, seeded(9)).requires_grad_(True)
    found = [
        torch.autograd.grad(energy(x).sum(), x)[0].norm(dim=1).mean() for energy in (free[0], flat)
    ]
    assert found[1] < 0.6 * found[0]


def test_hinges_part_data_from_outliers_and_then_leave_them_alone() -> None:
    torch.manual_seed(0)
    energy, g = MLP(real(2), hidden=(32, 32), quadratic_weight=0.1), seeded(4)
    optimizer = torch.optim.Adam(energy.parameters(), lr=0.02)
    for _ in range(150):
        x, outliers = (
            clusters(64, g),
            4 * torch.randn(64, 2, generator=g) + torch.tensor([0.0, 8.0]),
        )
        loss = HingeMargin(1.0, low=-3.0, high=2.0).add(
            Loss(torch.zeros(()), {}, outliers), energy, Batch(x), Context(g)
        )
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
    up = energy_values(energy, clusters(500, seeded(9)))
    down = energy_values(
        energy, 4 * torch.randn(500, 2, generator=seeded(8)) + torch.tensor([0.0, 8.0])
    )
    assert (up < -2).float().mean() > 0.95 and (down > 1).float().mean() > 0.8
    settled = HingeMargin(1.0, low=50.0, high=51.0)
    assert (
        settled.add(Loss(torch.zeros(()), {}, 0 * x + 90), energy, Batch(x), Context(g)).value == 0
    )


def test_pulling_away_spreads_the_features(free: tuple[MLP, Tensor]) -> None:
    apart, negatives = trained(PullAway(1.0))

    def alike(energy: MLP, x: Tensor) -> Tensor:
        f = nn.functional.normalize(last_features(energy, x), dim=1)
        return (f @ f.T).square().mean()

    assert alike(apart, negatives) < 0.7 * alike(*free)


# -------------------------------------------------------------------------------------------- doors


@pytest.mark.parametrize("cls", [EnergyL2, GradientPenalty, HingeMargin, PullAway])
@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_weights_below_nothing_are_refused(cls: Any, weight: float) -> None:
    with pytest.raises(ValueError, match=r";.*;"):
        cls(weight)


@pytest.mark.parametrize(
    ("cls", "settings"),
    [
        (GradientPenalty, {"target": -1.0}),
        (GradientPenalty, {"at": "noise"}),
        (HingeMargin, {"low": 1.0, "high": 1.0}),
        (HingeMargin, {"high": math.inf}),
    ],
)
def test_settings_that_mean_nothing_are_refused(cls: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r";.*;"):
        cls(**settings)


@pytest.mark.parametrize(
    "term", [GradientPenalty(at="lines"), HingeMargin(), PullAway()], ids=lambda t: type(t).__name__
)
def test_terms_of_negatives_need_some(term: Any) -> None:
    energy = net()
    with pytest.raises(ValueError, match=r"without negatives;.*;"):
        term.add(Loss(energy(X).mean(), {}, None), energy, Batch(X), Context(G))


def test_l2_and_slopes_at_data_need_no_negatives() -> None:
    energy = net()
    loss = Loss(energy(X).mean(), {}, None)
    for term in (EnergyL2(0.1), GradientPenalty(0.1)):
        assert term.add(loss, energy, Batch(X), Context(G)).value != loss.value


def test_bits_have_no_slopes_and_bowls_no_features() -> None:
    bits = Function(lambda x: x.sum(1), binary(2))
    with pytest.raises(ValueError, match=r"binary.*;.*;"):
        GradientPenalty().add(
            Loss(torch.zeros(()), {}, None), bits, Batch(torch.zeros(2, 2)), Context(G)
        )
    with pytest.raises(ValueError, match=r"linear layer.*;.*;"):
        last_features(Bowl(1.0), torch.zeros(2, 1))
