"""Base measures: exact normalisers, exact draws, conditionals, and what is fitted to data."""

import itertools
import math
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from contract.cases import seeded
from contract.checks import LIMIT, gradient_is_right, z_scores
from torch import Tensor

from lowland import BlockGibbs, Energy, binary, box, categorical, energy_values, real, sample
from lowland.energy import Function
from lowland.interop.zuko import fit_flow
from lowland.metrics import log_z
from lowland.nets.noise_models import FlowNoise
from lowland.targets import (
    Banana,
    Bernoulli,
    Categorical,
    Gaussian,
    Ising,
    Normal,
    Potts,
    Uniform,
    fit_base,
)

DOUBLE = torch.float64
P = [[0.1, 0.5, 0.8], [0.3, 0.95, 0.02]]
Q = [[0.2, 0.3, 0.5], [0.7, 0.2, 0.1], [0.05, 0.05, 0.9]]
DISCRETE: dict[str, Any] = {
    "uniform bits": Uniform(binary(2, 3)),
    "uniform classes": Uniform(categorical(3, 4)),
    "bernoulli": Bernoulli(P),
    "categorical": Categorical(Q),
}
CONTINUOUS: dict[str, Any] = {
    "uniform box": Uniform(box(-1.0, 3.0, 2, 2)),
    "normal": Normal([[1.0, -2.0], [0.0, 0.5]], [[0.5, 2.0], [1.0, 0.1]]),
}


def states(energy: Energy) -> Tensor:
    values = range(2 if energy.domain.kind == "binary" else energy.domain.classes)
    every = itertools.product(values, repeat=math.prod(energy.domain.shape))
    return torch.tensor(list(every), dtype=DOUBLE).view(-1, *energy.domain.shape)


@pytest.mark.parametrize("name", DISCRETE)
def test_log_z_of_a_discrete_base_is_the_sum_over_its_states(name: str) -> None:
    energy = DISCRETE[name]
    assert torch.logsumexp(-energy(states(energy)), 0).item() == pytest.approx(
        energy.log_z, abs=1e-10
    )


def test_log_z_of_a_continuous_base_is_its_integral() -> None:
    assert CONTINUOUS["uniform box"].log_z == pytest.approx(4 * math.log(4))
    normal = CONTINUOUS["normal"]
    grid = torch.linspace(-30, 30, 60_001, dtype=DOUBLE)
    total = 0.0
    for i in range(4):  # a product: one integral for each number
        m, s = normal.centre.double().flatten()[i], normal.width.double().flatten()[i]
        total += torch.trapezoid((-0.5 * ((grid - m) / s) ** 2).exp(), grid).log().item()
    assert total == pytest.approx(normal.log_z, abs=1e-7)
    x = torch.tensor([[[2.0, 0.0], [1.0, 0.4]]], dtype=DOUBLE)
    assert normal(x).item() == pytest.approx(0.5 * (4 + 1 + 1 + 1), rel=1e-6)


@pytest.mark.parametrize("name", DISCRETE)
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_draws_are_those_of_the_law(name: str, dtype: torch.dtype) -> None:
    energy = DISCRETE[name]
    x = energy.draw(40_000, seeded(1), dtype)
    assert x.dtype == dtype and bool(energy.domain.contains(x).all())
    every = states(energy)
    law = (-energy(every) - energy.log_z).exp()
    classes = 2 if energy.domain.kind == "binary" else energy.domain.classes
    for k in range(
        1, classes
    ):  # the share of every value at every site, and of pairs of neighbours
        hits, exact = (x == k).flatten(1).double(), (law @ (every == k).flatten(1).double())
        assert z_scores(hits, exact).abs().max() < LIMIT
        pairs = hits[:, :-1] * hits[:, 1:]
        both = law @ ((every == k).flatten(1)[:, :-1] & (every == k).flatten(1)[:, 1:]).double()
        assert z_scores(pairs, both).abs().max() < LIMIT


@pytest.mark.parametrize("name", CONTINUOUS)
def test_draws_have_the_moments_of_the_law(name: str) -> None:
    energy = CONTINUOUS[name]
    x = energy.draw(40_000, seeded(2), DOUBLE).flatten(1)
    mean, scale = (
        (torch.ones(4), torch.full((4,), 4 / math.sqrt(12)))
        if name == "uniform box"
        else (energy.centre.flatten(), energy.width.flatten())
    )
    assert z_scores(x, mean.double()).abs().max() < LIMIT
    assert z_scores((x - mean).square(), scale.double() ** 2).abs().max() < LIMIT
    assert (
        z_scores((x - mean).square(), (0.97 * scale.double()) ** 2).abs().min() > LIMIT
    )  # and the test would see it


@pytest.mark.parametrize("name", ["bernoulli", "categorical", "uniform bits", "uniform classes"])
def test_conditionals_are_differences_of_energies(name: str) -> None:
    energy, x = DISCRETE[name], states(DISCRETE[name])[::7]
    said = energy.gibbs.conditional(x)
    classes = 2 if energy.domain.kind == "binary" else energy.domain.classes
    for i in range(x[0].numel()):
        values = []
        for k in range(classes):
            y = x.flatten(1).clone()
            y[:, i] = k
            values.append(-energy(y.view_as(x)))
        table = torch.stack(values, 1)
        if classes == 2:
            torch.testing.assert_close(said.flatten(1)[:, i], table[:, 1] - table[:, 0])
        else:
            site = said.flatten(1, -2)[:, i]
            torch.testing.assert_close(
                site - site[:, :1], table - table[:, :1], atol=1e-6, rtol=1e-6
            )


def test_one_hot_energies_are_those_of_the_classes() -> None:
    energy, x = DISCRETE["categorical"], states(DISCRETE["categorical"])
    z = torch.nn.functional.one_hot(x.long(), 3).double()
    torch.testing.assert_close(energy.one_hot_energy(z), energy(x))


@pytest.mark.parametrize(
    "energy", [CONTINUOUS["normal"], Bernoulli(P)], ids=["normal", "bernoulli"]
)
def test_gradients_by_hand_are_right(energy: Any) -> None:
    gradient_is_right(energy, energy.draw(20, seeded(3), DOUBLE))
    assert Uniform(box(0.0, 1.0, 3)).value_and_score(torch.rand(4, 3))[1].abs().max() == 0


@pytest.mark.parametrize(
    "lattice", [Ising((4, 4), coupling=0.3), Potts((3, 4), 3, 0.4)], ids=["ising", "potts"]
)
def test_a_base_and_a_lattice_are_swept_with_the_coloring_of_the_lattice(lattice: Any) -> None:
    p = (
        torch.full((*lattice.domain.shape, 3), 1 / 3)
        if lattice.domain.kind == "categorical"
        else torch.full((4, 4), 0.4)
    )
    base: Any = Categorical(p) if lattice.domain.kind == "categorical" else Bernoulli(p)
    joined, plain = base + lattice, Function((base + lattice).forward, lattice.domain)
    assert torch.equal(joined.gibbs.coloring, lattice.gibbs.coloring)
    assert torch.equal(base.gibbs.coloring, torch.ones(1, *lattice.domain.shape, dtype=torch.bool))
    x = base.draw(2000, seeded(), DOUBLE)
    a, b = (
        sample(e, BlockGibbs(), x, 12, generator=seeded(k)).x.flatten(1)
        for k, e in enumerate((plain, joined))
    )
    difference = a.mean(0) - b.mean(0)
    error = ((a.var(0) + b.var(0)) / 2000).sqrt()
    assert (difference / error).abs().max() < LIMIT


def test_a_fitted_base_has_the_shares_of_the_data_smoothed() -> None:
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    torch.testing.assert_close(
        fit_base(binary(2), x).probabilities, torch.tensor([0.8, 0.4], dtype=DOUBLE)
    )
    y = torch.tensor([[2.0], [2.0], [0.0]])
    expected = torch.tensor([[2.0, 1.0, 3.0]], dtype=DOUBLE) / 6
    torch.testing.assert_close(fit_base(categorical(3, 1), y).probabilities, expected)


def test_a_fitted_gaussian_has_the_moments_of_the_data() -> None:
    law = Gaussian((1.0, -2.0, 0.5), ((2.0, 0.8, 0.0), (0.8, 1.0, 0.1), (0.0, 0.1, 0.3)))
    x = law.draw(500, seeded(), DOUBLE)
    fitted = fit_base(real(3), x)
    assert isinstance(fitted, Gaussian)
    torch.testing.assert_close(torch.tensor(fitted.mean, dtype=DOUBLE), x.mean(0))
    torch.testing.assert_close(
        torch.tensor(fitted.covariance, dtype=DOUBLE), torch.cov(x.T), rtol=1e-4, atol=1e-4
    )
    few = fit_base(real(3), x[:20])
    assert isinstance(few, Normal) and torch.equal(few.width, x[:20].std(0).float())
    images = fit_base(
        real(1, 2, 2),
        torch.randn(50, 1, 2, 2, generator=seeded()) * torch.tensor([1.0, 0.0]).view(1, 1, 1, 2),
    )
    assert (
        isinstance(images, Normal)
        and images.domain.shape == (1, 2, 2)
        and bool((images.width > 0).all())
    )


def test_without_data_a_bounded_domain_gets_the_uniform_law() -> None:
    for domain in (box(0.0, 2.0, 3), binary(4), categorical(3, 2)):
        base = fit_base(domain)
        assert isinstance(base, Uniform) and base.domain == domain
    assert isinstance(fit_base(box(0.0, 2.0, 3), torch.ones(5, 3)), Uniform)


def test_a_base_moves_between_precisions() -> None:
    base = Bernoulli(P).double()
    x = base.draw(5, seeded(), DOUBLE)
    torch.testing.assert_close(energy_values(base, x), energy_values(Bernoulli(P), x))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Uniform(real(2)),
        lambda: Uniform(real()),
        lambda: Bernoulli([0.5, 1.0]),
        lambda: Bernoulli([0.5, math.nan]),
        lambda: Categorical([[0.5, 0.6]]),
        lambda: Categorical([0.5, 0.5]),
        lambda: Normal([0.0], [0.0]),
        lambda: Normal([0.0, 1.0], [1.0]),
        lambda: fit_base(real(2)),
        lambda: fit_base(real(2), torch.ones(1, 2)),
        lambda: fit_base(binary(2), torch.ones(4, 3)),
    ],
)
def test_what_is_no_law_is_refused_in_three_clauses(make: Any) -> None:
    with pytest.raises(ValueError, match=r";.*;"):
        make()


zuko_needed = pytest.mark.skipif(
    find_spec("zuko") is None, reason="zuko is not installed; see the extra `zuko`"
)


@pytest.fixture(scope="module")
def flow() -> FlowNoise:
    return fit_flow(Banana().draw(2000, seeded(0)), steps=300, generator=seeded(1))


@zuko_needed
def test_a_flow_is_a_normalised_density_with_its_own_draws(flow: FlowNoise) -> None:
    axes = torch.linspace(-16, 16, 401), torch.linspace(-16, 40, 701)
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).view(-1, 2)
    p = (-energy_values(flow, grid).double()).exp()
    cell = (32 / 400) * (56 / 700)
    assert p.sum().item() * cell == pytest.approx(1.0, abs=5e-3)
    x = flow.draw(20_000, seeded(2)).double()
    mean = (p[:, None] * grid.double()).sum(0) * cell
    assert z_scores(x, mean).abs().max() < LIMIT
    entropy = (p * energy_values(flow, grid)).sum().item() * cell
    assert abs(z_scores(energy_values(flow, x.float()).double(), entropy).item()) < LIMIT


@zuko_needed
def test_a_fitted_flow_is_a_better_base_than_a_gaussian(flow: FlowNoise) -> None:
    banana = Banana()
    near, far = (
        log_z(banana, base=base, chains=60, num_temperatures=12, generator=seeded(3))
        for base in (flow, fit_base(real(2), banana.draw(2000, seeded(4))))
    )
    assert near.lower < banana.log_z < near.upper and near.base == "FlowNoise"
    assert near.upper - near.lower < far.upper - far.lower
    again = fit_flow(Banana().draw(2000, seeded(0)), steps=5, generator=seeded(1))
    other = fit_flow(Banana().draw(2000, seeded(0)), steps=5, generator=seeded(1))
    assert all(
        torch.equal(a, b)
        for a, b in zip(again.state_dict().values(), other.state_dict().values(), strict=True)
    )
    with pytest.raises(ValueError, match=r";.*;"):
        fit_flow(torch.zeros(5, 1, 4, 4), generator=seeded())
