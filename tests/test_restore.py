"""Progressive restoration against closed forms, what is known held exactly, and intervals that keep
their promise.
"""

import math
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from contract.cases import seeded
from contract.checks import LIMIT, caught, worst
from torch import Tensor

import lowland
from lowland import HMC, MALA, Energy, Function, box, real, restore
from lowland.energy import NoiseCondition
from lowland.samplers import sde_dpm_solver
from lowland.targets import Gaussian, GaussianMixture
from lowland.tasks import (
    BlockAverage,
    Blur,
    ClampedEnergy,
    Fourier,
    Identity,
    Mask,
    Operator,
    Projection,
    Restoration,
    Stride,
    bind_smallest_sigma,
    map_estimate,
    split_gibbs_sample,
)

# -------------------------------------------------------------------- Gaussian images, exact levels

SIDE, SHAPE = 4, (1, 4, 4)
PLACES = torch.cartesian_prod(torch.arange(SIDE), torch.arange(SIDE)).double()
COVARIANCE = 0.3 * torch.exp(-torch.cdist(PLACES, PLACES).square() / 4) + 0.05 * torch.eye(
    SIDE**2, dtype=torch.float64
)
CENTRE = torch.linspace(-0.5, 1.0, SIDE**2, dtype=torch.float64)
VALUES, VECTORS = torch.linalg.eigh(COVARIANCE)


class Smooth(Energy):
    """Images N(CENTRE, COVARIANCE) with noise σ: E(x, σ) = ½ (x − m)ᵀ (C + σ²)⁻¹ (x − m)."""

    condition = NoiseCondition()

    def __init__(self) -> None:
        super().__init__(real(*SHAPE))

    def value_and_score(self, x: Tensor, c: Any = None) -> tuple[Tensor, Tensor]:
        inverse = (VECTORS / (VALUES + float(c.flatten()[0]) ** 2)) @ VECTORS.T
        away = x.flatten(1) - CENTRE.to(x)
        pulled = away @ inverse.to(x)
        return 0.5 * (pulled * away).sum(1), -pulled.view_as(x)

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        inverse = (VECTORS / (VALUES + float(c.flatten()[0]) ** 2)) @ VECTORS.T
        away = x.flatten(1) - CENTRE.to(x)
        return 0.5 * ((away @ inverse.to(x)) * away).sum(1)


HALF = torch.arange(SIDE).view(1, SIDE, 1).expand(SHAPE) < 2
SEEN: dict[str, tuple[Operator, float]] = {
    "identity": (Identity(), 0.3),
    "mask": (Mask(HALF), 0.2),
    "means": (BlockAverage(2), 0.1),
    "stride": (Stride(2), 0.3),
    "blur": (Blur(0.7), 0.2),
    "projection": (Projection(SHAPE, 5, seed=0), 0.2),
    "fourier": (Fourier(torch.eye(SIDE) > 0), 0.2),
    "means of a blur": (BlockAverage(2) @ Blur(0.7), 0.1),
}


def matrix_of(operator: Operator) -> Tensor:
    """A as a matrix (measured, event)."""
    return operator.A(torch.eye(SIDE**2, dtype=torch.float64).view(-1, *SHAPE)).flatten(1).T


def truth_of(operator: Operator, y: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """Mean (B, 16) and covariance of the posterior, by linear algebra."""
    a = matrix_of(operator)
    gain = (
        COVARIANCE
        @ a.T
        @ torch.linalg.pinv(
            a @ COVARIANCE @ a.T + sigma**2 * torch.eye(len(a), dtype=torch.float64)
        )
    )
    return CENTRE + (
        y.double().flatten(1) - CENTRE @ a.T
    ) @ gain.T, COVARIANCE - gain @ a @ COVARIANCE


def measured(operator: Operator, sigma: float, count: int = 2) -> Tensor:
    g = torch.Generator().manual_seed(11)
    x = (
        CENTRE
        + torch.randn(count, SIDE**2, generator=g, dtype=torch.float64)
        @ torch.linalg.cholesky(COVARIANCE).T
    )
    y = operator.A(x.view(-1, *SHAPE))
    seen = (
        operator.A(torch.ones(1, *SHAPE, dtype=torch.float64))
        if isinstance(operator, Mask)
        else 1.0
    )
    return (y + sigma * seen * torch.randn(y.shape, generator=g, dtype=torch.float64)).float()


def gap(name: str, operator: Operator | None = None, chains: bool = False) -> float:
    """Worst |z| of mean and covariance of 2,000 progressive draws for each of two measurements,
    against the exact ones.
    """
    true, sigma = SEEN[name]
    y = measured(true, sigma)
    mean, covariance = truth_of(true, y, sigma)
    steep = sigma / float(torch.linalg.matrix_norm(matrix_of(true), 2))
    more: dict[str, Any] = {"sampler": HMC(0.7 * steep, 10), "steps": 40} if chains else {}
    settings = {
        "num_levels": 30,
        "denoise_steps": 10,
        "sigma_max": 2.0,
        "sigma_min": 0.005,
        "draws": 2000,
        "batch": 4000,
    } | more
    found = split_gibbs_sample(
        Smooth(), operator or true, y, sigma, generator=seeded(3), **settings
    )
    away = found.draws.double().flatten(2) - mean
    products = torch.einsum("nbi,nbj->nbij", away, away)
    return max(worst(away), worst(products, covariance.expand(2, -1, -1)))


@pytest.mark.parametrize("name", SEEN)
def test_progressive_draws_have_the_exact_posterior_mean_and_covariance(name: str) -> None:
    assert gap(name, chains=True) < LIMIT


@pytest.mark.parametrize("name", ["identity", "means"])
def test_levels_alone_are_enough_where_little_is_hidden(name: str) -> None:
    assert gap(name) < LIMIT


def test_what_the_levels_leave_falls_with_their_number() -> None:
    """The mean lags behind the measurement: in standard deviations of the posterior, five random
    combinations of sixteen.
    """
    operator, sigma = SEEN["projection"]
    y = measured(operator, sigma)
    mean, covariance = truth_of(operator, y, sigma)
    lags = []
    for levels in (20, 80):
        settings: dict[str, Any] = {
            "num_levels": levels,
            "denoise_steps": 10,
            "sigma_max": 2.0,
            "sigma_min": 0.01,
            "batch": 4000,
        }
        found = split_gibbs_sample(
            Smooth(), operator, y, sigma, generator=seeded(3), draws=1000, **settings
        )
        lags.append(
            float(((found.mean.flatten(1) - mean) / covariance.diagonal().sqrt()).abs().max())
        )
    assert lags[1] < 0.5 * lags[0] and lags[1] < 0.35


BUGS = {
    "a pass of one step": "means",
    "noise not coupled": "identity",
    "1/σ for 1/σ²": "means",
    "a sum back for a mean": "means",
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_wrong_progressive_step_is_caught(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from lowland.tasks.inverse.split_gibbs import _Coupling

    module, operator = sys.modules["lowland.tasks.inverse.split_gibbs"], None
    if bug == "a pass of one step":  # the expected clean point in place of a draw: too narrow
        monkeypatch.setattr(module, "_fall", lambda high, low, count: (high,))
    elif bug == "noise not coupled":
        monkeypatch.setattr(_Coupling, "_root", lambda self, c, noise: noise)
    elif bug == "a sum back for a mean":

        class Broken(BlockAverage):
            def A_T(self, y: Tensor) -> Tensor:
                return 4 * super().A_T(y)

        operator = Broken(2)
        with pytest.raises(ValueError, match=r"A_T is not the transpose of A: .*; .*; keep x"):
            caught(gap, BUGS[bug], operator)
        monkeypatch.setattr(module, "check_linear", lambda operator, x: None)
    else:
        whole = _Coupling.__init__
        monkeypatch.setattr(
            _Coupling, "__init__", lambda self, a, like, sigma: whole(self, a, like, sigma**0.5)
        )
    assert caught(gap, BUGS[bug], operator)


def test_one_pass_is_enough_where_everything_is_seen() -> None:
    """And each pass is a draw of its own: the levels above the noise of the measurement are not
    asked for.
    """
    asked: list[float] = []

    class Listening(Smooth):
        def value_and_score(self, x: Tensor, c: Any = None) -> tuple[Tensor, Tensor]:
            asked.append(float(c.flatten()[0]))
            return super().value_and_score(x, c)

    y = measured(Identity(), 0.3)
    split_gibbs_sample(
        Listening(),
        Identity(),
        y,
        0.3,
        generator=seeded(),
        sigma_max=4.0,
        sigma_min=0.01,
        denoise_steps=3,
    )
    asked = asked[2:]  # after two, to know whether the energy hears of the level at all
    assert len(asked) == 1 + 18 and max(asked[1:]) == pytest.approx(0.3)


def test_draws_behind_a_noisy_point_are_nearer_than_those_of_the_plain_ancestral_step() -> None:
    """Variance of x behind z = 1 for data N(0, 1) at σ = 1, which is ½."""
    normal = Function(lambda x, sigma: 0.5 * x.square().sum(1) / (1 + sigma**2), real(1))
    z = torch.ones(100_000, 1, dtype=torch.float64)

    def error(steps: int, rule: Callable[..., Tensor]) -> float:
        return abs(float(rule(lowland.samplers.karras_sigmas(1.0, 0.01, steps)).var()) - 0.5)

    def ours(sigmas: tuple[float, ...]) -> Tensor:
        return sde_dpm_solver(normal, z, sigmas, generator=seeded(1))

    def plain(sigmas: tuple[float, ...]) -> Tensor:
        path, still = [normal.given(s) for s in sigmas], lowland.Langevin(0.01)
        return lowland.samplers.predictor_corrector(
            path, sigmas, z, still, 0, generator=seeded(1), denoise=True
        ).x

    assert error(8, ours) < 0.6 * error(8, plain) and error(32, ours) < 0.02


# -------------------------------------------------------------------------- mixtures, by quadrature

MEANS, SPREAD, SHARES = (
    torch.tensor([[-2.0, 0.0], [2.0, 0.5], [2.0, -2.0]], dtype=torch.float64),
    0.5,
    (0.5, 0.2, 0.3),
)


class Hills(Energy):
    """A mixture of three Gaussians with noise σ: hills as wide as √(s² + σ²)."""

    condition = NoiseCondition()

    def __init__(self) -> None:
        super().__init__(real(2))

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        variance = SPREAD**2 + c.square().view(-1, 1)
        distance = (x.unsqueeze(1) - MEANS.to(x)).square().sum(2)
        return -torch.logsumexp(
            torch.tensor(SHARES).to(x).log() - distance / (2 * variance) - variance.log(), 1
        )


HILLS = GaussianMixture(tuple(map(tuple, MEANS.tolist())), SPREAD, SHARES)
FIRST: Operator = Mask(torch.tensor([True, False]))
LEVELS: dict[str, Any] = {"sigma_max": 8.0, "sigma_min": 0.02, "num_levels": 50, "denoise_steps": 8}


def quadrature(y: float, sigma: float) -> tuple[Tensor, Tensor]:
    """Mean (2,) and covariance (2, 2) of x given x₁ + σ ε = y, on a grid."""
    line = torch.linspace(-7, 7, 1401, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    p = torch.softmax(-HILLS(grid) - (grid[:, 0] - y).square() / (2 * sigma**2), 0)
    mean = p @ grid
    return mean, (grid - mean).T @ ((grid - mean) * p.unsqueeze(1))


def hills_gap(y: float, sigma: float, restorer: Callable[..., Restoration]) -> float:
    mean, covariance = quadrature(y, sigma)
    found = restorer(torch.tensor([[y, 0.0]]), sigma)
    away = found.draws[:, 0].double() - mean
    return max(worst(away), worst(torch.einsum("ni,nj->nij", away, away), covariance))


def by_levels(y: Tensor, sigma: float, draws: int = 2500, seed: int = 5) -> Restoration:
    return split_gibbs_sample(
        Hills(), FIRST, y, sigma, generator=seeded(seed), draws=draws, batch=40_000, **LEVELS
    )


def by_chains(y: Tensor, sigma: float, draws: int = 1500, seed: int = 5) -> Restoration:
    g = seeded(seed)
    bank = HILLS.draw(max(5000, 40 * draws), g)
    return restore(
        HILLS, FIRST, y, sigma, HMC(0.25, 4), generator=g, steps=12, draws=draws, prior_samples=bank
    )


@pytest.mark.parametrize("restorer", [by_levels, by_chains])
@pytest.mark.parametrize(("y", "sigma"), [(2.0, 0.5), (0.3, 1.5)])
def test_a_mixture_is_restored_as_quadrature_says(
    y: float, sigma: float, restorer: Callable[..., Restoration]
) -> None:
    assert hills_gap(y, sigma, restorer) < LIMIT


def test_a_wrong_mixture_is_caught() -> None:
    assert caught(hills_gap, 2.0, 0.5, lambda y, sigma: by_levels(y, sigma * 2**0.5))
    assert caught(hills_gap, 0.3, 1.5, lambda y, sigma: by_chains(y, sigma / 2**0.5))


# --------------------------------------------------------------------- simulation-based calibration

PROBLEMS, DRAWS = 800, 19


def ranks(restorer: Callable[..., Restoration]) -> tuple[float, Tensor]:
    """Problems from the model itself: the share of numbers that 90 % intervals cover, and how
    truths rank among draws.
    """
    g = seeded(21)
    x = HILLS.draw(PROBLEMS, g)
    y = FIRST.A(x + 0.7 * torch.randn(x.shape, generator=g))
    found = restorer(y, 0.7, DRAWS, 22)
    low, high = found.interval(0.9)
    counts = torch.bincount(
        (found.draws < x).sum(0)[:, 0], minlength=DRAWS + 1
    )  # of the number that was measured
    return float(((low <= x) & (x <= high)).double().mean()), counts


def chi_squared(counts: Tensor) -> float:
    """Distance of a histogram from a flat one, in standard errors of χ²."""
    expected, freedom = counts.sum() / len(counts), len(counts) - 1
    return float(((counts - expected).square() / expected).sum() - freedom) / math.sqrt(2 * freedom)


@pytest.mark.parametrize("restorer", [by_levels, by_chains])
def test_intervals_cover_what_they_promise_on_problems_of_the_model_itself(
    restorer: Callable[..., Restoration],
) -> None:
    covered, counts = ranks(restorer)
    assert abs(covered - 0.9) < 0.02
    assert chi_squared(counts) < LIMIT


@pytest.mark.parametrize("factor", [3.0, 1 / 3])
def test_a_wrong_noise_breaks_the_promise_and_is_caught(factor: float) -> None:
    _, counts = ranks(lambda y, sigma, draws, seed: by_levels(y, factor * sigma, draws, seed))
    assert chi_squared(counts) > LIMIT


def test_intervals_are_the_narrowest_that_keep_the_promise() -> None:
    draws = torch.arange(39.0).view(39, 1, 1)
    assert [float(end) for end in Restoration.of(draws).interval(0.9)] == [
        1.0,
        37.0,
    ]  # (40 − 4) / 40
    assert [float(end) for end in Restoration.of(draws).interval(0.5)] == [9.0, 29.0]
    for level, said in ((0.96, "take 49 draws"), (1.0, "lies in"), (0.0, "lies in")):
        with pytest.raises(ValueError, match=rf";.*{said}|{said}.*;"):
            Restoration.of(draws).interval(level)


def trained_share(
    energy: Energy, sampler: Any, bank: Tensor, operator: Operator, sigma: float, count: int
) -> float:
    g = seeded(7)
    x, rest = bank[:count], bank[count:]
    y = operator.A(x)
    y = y + sigma * torch.randn(y.shape, generator=g) * operator.A(torch.ones_like(x[:1]))
    found = restore(
        energy, operator, y, sigma, sampler, generator=g, steps=120, draws=DRAWS, prior_samples=rest
    )
    low, high = found.interval(0.9)
    return float(((low <= x) & (x <= high)).double().mean())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("operator", "sigma"),
    [(Identity(), 0.3), (Mask(torch.arange(8).view(1, 8, 1).expand(1, 8, 8) < 4), 0.2)],
)
def test_intervals_cover_on_a_trained_energy_of_digits(operator: Operator, sigma: float) -> None:
    """Truths and the bank are draws of the energy by long corrected chains; its box is wide, as
    training left it.
    """
    energy = lowland.load("digits").energy
    energy = energy.given(3)
    g = seeded(0)
    walker = HMC(0.06, 8)
    start = lowland.load_data("digits").train.x[:1000]
    bank = lowland.sample(energy, walker, start, 300, generator=g).x
    assert abs(trained_share(energy, walker, bank, operator, sigma, 150) - 0.9) < 0.02


# ---------------------------------------------------------------------------- what is known is held

FIELD = Gaussian(tuple(CENTRE.tolist()), tuple(map(tuple, COVARIANCE.tolist())))
FLAT = Function(lambda x: FIELD(x.flatten(1)), real(*SHAPE))


@pytest.mark.parametrize("shape", [SHAPE, (1, SIDE, 1), (SIDE, 1)])
def test_without_noise_the_known_numbers_are_exact_and_the_others_have_their_conditional_law(
    shape: tuple[int, ...],
) -> None:
    known = torch.arange(SIDE).view(-1, 1).expand(SIDE, SIDE)[:, : shape[-1]].reshape(shape) < 2
    operator = Mask(known)
    y = measured(operator, 0.0)
    found = restore(
        FLAT, operator, y, 0.0, HMC(0.1, 12, jitter=0.3), generator=seeded(1), steps=40, draws=2000
    )
    assert torch.equal(
        found.draws[:, HALF.expand(2, *SHAPE)], y[HALF.expand(2, *SHAPE)].expand(2000, -1)
    )
    mean, covariance = truth_of(operator, y, 0.0)
    away = (found.draws.double().flatten(2) - mean)[..., 8:]
    assert worst(away) < LIMIT
    assert (
        worst(torch.einsum("nbi,nbj->nbij", away, away), covariance[8:, 8:].expand(2, 8, 8)) < LIMIT
    )


@pytest.mark.parametrize("name", ["mask", "stride", "means"])
def test_progressive_draws_explain_a_measurement_without_noise(name: str) -> None:
    operator = SEEN[name][0]
    y = measured(operator, 0.0)
    settings = {"sigma_max": 4.0, "sigma_min": 0.01, "num_levels": 60, "denoise_steps": 8}
    found = split_gibbs_sample(
        Smooth(), operator, y, 0.0, generator=seeded(1), draws=2000, batch=4000, **settings
    )
    again = operator.A(found.draws.flatten(0, 1)).view(2000, *y.shape)
    assert (
        torch.equal(again, y.expand_as(again))
        if name != "means"
        else torch.allclose(again, y.expand_as(again), atol=1e-5)
    )
    mean, covariance = truth_of(operator, y, 0.0)
    assert (
        float((found.std.flatten(1).square() - covariance.diagonal()).abs().max()) < 0.05
    )  # of about 0.3
    assert float((found.mean.flatten(1) - mean).abs().max()) < 0.5 * float(
        covariance.diagonal().max().sqrt()
    )  # the lag


def test_strides_hold_what_they_show_and_colours_share_a_mask() -> None:
    prior = Function(lambda x: x.square().flatten(1).sum(1), box(0.0, 1.0, 3, 4, 4))
    y = torch.rand(2, 3, 2, 2, generator=seeded(0))
    found = restore(prior, Stride(2), y, 0.0, MALA(0.05), generator=seeded(1), steps=5, draws=3)
    assert torch.equal(found.draws[..., ::2, ::2], y.expand(3, -1, -1, -1, -1))
    assert (
        found.draws.min() >= 0
        and found.draws.max() <= 1
        and bool((found.std[..., 1::2, 1::2] > 0).all())
    )
    for known in (
        torch.eye(4) > 0,
        torch.eye(4).unsqueeze(0) > 0,
        torch.eye(4).expand(3, 4, 4) > 0,
    ):
        seen = torch.rand(2, 3, 4, 4, generator=seeded(0))
        draws = restore(
            prior, Mask(known), seen, 0.0, MALA(0.05), generator=seeded(1), steps=3
        ).draws[0]
        wide = known.expand(2, 3, 4, 4)
        assert torch.equal(draws[wide], seen[wide]) and not torch.equal(draws[~wide], seen[~wide])


def test_a_bank_and_a_last_jump_keep_what_is_known() -> None:
    bank = FIELD.draw(500, seeded(0)).view(-1, *SHAPE)
    y = measured(Mask(HALF), 0.0)
    found = restore(
        FLAT,
        Mask(HALF),
        y,
        0.0,
        MALA(0.05),
        generator=seeded(1),
        steps=5,
        draws=4,
        prior_samples=bank,
        denoise_sigma=0.1,
    )
    assert torch.equal(
        found.draws[:, HALF.expand(2, *SHAPE)], y[HALF.expand(2, *SHAPE)].expand(4, -1)
    )


def test_the_hidden_energy_is_a_slice_with_its_own_rows_and_score() -> None:
    y, u = measured(Mask(HALF), 0.0, 5), torch.randn(5, 8, generator=seeded(2))
    hidden = ClampedEnergy(FLAT, HALF, y)
    whole = y.clone()
    whole[:, 0, 2:] = u.view(5, 2, 4)
    assert torch.equal(hidden.extend(u), whole) and torch.equal(hidden.restrict(whole), u)
    assert torch.equal(hidden(u), FLAT(whole))
    index = torch.tensor([3, 1])
    torch.testing.assert_close(hidden.index_rows(index)(u[index]), hidden(u)[index])
    by_hand, plain = (
        lowland.value_and_score(hidden, u),
        lowland.value_and_score(Function(hidden.forward, hidden.domain), u),
    )
    torch.testing.assert_close(by_hand, plain)


def test_binary_numbers_that_are_known_stay() -> None:
    """An Ising-like chain of three spins, the middle one known: the others are independent of each
    other.
    """
    pull = Function(
        lambda x: -1.5 * ((2 * x - 1)[:, 1:] * (2 * x - 1)[:, :-1]).sum(1), lowland.domain.binary(3)
    )
    known = Mask(torch.tensor([False, True, False]))
    found = restore(
        pull,
        known,
        torch.tensor([[0.0, 1.0, 0.0]]),
        0.0,
        lowland.BlockGibbs(),
        generator=seeded(0),
        steps=3,
        draws=3000,
    )
    assert bool((found.draws[..., 1] == 1).all())
    share = 1 / (1 + math.exp(-3.0))
    assert worst(found.draws[:, 0, [0, 2]].double() - share) < LIMIT


# ------------------------------------------------------------------ energies of all kinds, one peak


def test_any_callable_classifiers_and_bound_levels_are_restored() -> None:
    y = torch.zeros(2, 2)
    for prior in (
        lambda x: x.square().sum(1),
        Hills().given(0.3),
        lowland.nets.MLP(real(2), hidden=(4,), classes=3, quadratic_weight=1.0),
    ):
        found = restore(
            prior, Identity(), y, 0.5, MALA(0.05), generator=seeded(0), steps=3, draws=2, start=y
        )
        assert found.draws.shape == (2, 2, 2)
    bound = bind_smallest_sigma(Hills(), (2.0, 0.3))
    assert restore(
        bound, Identity(), y, 0.5, MALA(0.05), generator=seeded(0), steps=3
    ).draws.shape == (1, 2, 2)


def test_progressive_takes_any_linear_function_and_leaves_what_it_is_given() -> None:
    y, start = torch.tensor([[0.4]]), torch.zeros(1, 2)
    found = [
        split_gibbs_sample(
            Hills(),
            a,
            y,
            0.5,
            generator=seeded(0),
            sigma_max=5.0,
            sigma_min=0.05,
            draws=5,
            start=start,
            batch=2,
        )
        for a in (lambda x: x @ x.new_tensor([[1.0], [-1.0]]), lambda x: x[:, :1] - x[:, 1:])
    ]
    assert (
        torch.allclose(found[0].draws, found[1].draws, atol=1e-5)
        and not bool(start.any())
        and float(y) == pytest.approx(0.4)
    )
    heard: list[int] = []
    more: dict[str, Any] = {"sigma_max": 5.0, "sigma_min": 0.05, "num_levels": 4}
    split_gibbs_sample(
        Hills(),
        FIRST,
        torch.zeros(3, 2),
        0.5,
        generator=seeded(0),
        draws=2,
        batch=4,
        progress=heard.append,
        **more,
    )
    assert sum(heard) == 8  # four passes of two parts


def test_a_peak_is_a_restoration_without_doubt() -> None:
    peak = map_estimate(Gaussian(), Identity(), torch.ones(3, 2), 1.0, start=torch.zeros(3, 2))
    found = peak.restoration()
    assert (
        torch.equal(found.mean, peak.x)
        and not bool(found.std.any())
        and found.draws.shape == (1, 3, 2)
    )


GOOD: dict[str, Any] = {"sigma_max": 5.0, "sigma_min": 0.05}
Y = torch.zeros(2, 2)
REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "σ < 0": (
        lambda: split_gibbs_sample(Hills(), FIRST, Y, -0.1, generator=seeded(), **GOOD),
        "sigma is -0.1",
    ),
    "σ is no number": (
        lambda: split_gibbs_sample(Hills(), FIRST, Y, math.nan, generator=seeded(), **GOOD),
        "sigma is nan",
    ),
    "y not finite": (
        lambda: split_gibbs_sample(Hills(), FIRST, Y / 0, 0.1, generator=seeded(), **GOOD),
        "2 of 2 measurements",
    ),
    "mask of another shape": (
        lambda: split_gibbs_sample(
            Hills(), Mask(torch.ones(3) > 0), Y, 0.1, generator=seeded(), **GOOD
        ),
        "mask has shape",
    ),
    "y of another shape": (
        lambda: split_gibbs_sample(Hills(), FIRST, Y[:, :1], 0.1, generator=seeded(), **GOOD),
        "measurement has shape",
    ),
    "levels that rise": (
        lambda: split_gibbs_sample(
            Hills(), FIRST, Y, 0.1, generator=seeded(), sigma_max=0.1, sigma_min=1.0
        ),
        "levels from 0.1 to 1.0",
    ),
    "no draws": (
        lambda: split_gibbs_sample(Hills(), FIRST, Y, 0.1, generator=seeded(), draws=0, **GOOD),
        "at least 1; pass such a number",
    ),
    "not linear": (
        lambda: split_gibbs_sample(Hills(), lambda x: x**2, Y, 0.1, generator=seeded(), **GOOD),
        "not linear",
    ),
    "nothing seen": (
        lambda: split_gibbs_sample(Hills(), lambda x: 0 * x, Y, 0.1, generator=seeded(), **GOOD),
        "gives 0 for everything",
    ),
    "mixed and no noise": (
        lambda: (
            split_gibbs_sample(
                Hills(),
                Projection((2,), 1, seed=0) @ Mask(torch.ones(2) > 0),
                Y[:, :1],
                0.0,
                generator=seeded(),
                **GOOD,
            )
            and split_gibbs_sample(
                Smooth(), Blur(0.7), torch.zeros(1, *SHAPE), 0.0, generator=seeded(), **GOOD
            )
        ),
        "must be a multiple of the identity",
    ),
    "no levels": (
        lambda: split_gibbs_sample(lambda x: x, FIRST, Y, 0.1, generator=seeded(), **GOOD),  # type: ignore[arg-type]
        r"an Energy E\(x, σ\)",
    ),
    "an energy that hears of no level": (
        lambda: split_gibbs_sample(Gaussian(), FIRST, Y, 0.1, generator=seeded(), **GOOD),
        "Gaussian takes no noise level",
    ),
    "a function of points alone": (
        lambda: split_gibbs_sample(
            Function(lambda x: x.square().sum(1), real(2)),
            FIRST,
            Y,
            0.1,
            generator=seeded(),
            **GOOD,
        ),
        "Function takes no noise level",
    ),
    "a precision that is none": (
        lambda: split_gibbs_sample(
            Hills(), FIRST, Y, 0.1, generator=seeded(), precision="float8", **GOOD
        ),
        "precision is 'float8'",
    ),
    "a sampler without steps": (
        lambda: split_gibbs_sample(
            Hills(), FIRST, Y, 0.1, generator=seeded(), sampler=MALA(0.1), **GOOD
        ),
        "0 steps came with a sampler",
    ),
    "steps without a sampler": (
        lambda: split_gibbs_sample(Hills(), FIRST, Y, 0.1, generator=seeded(), steps=9, **GOOD),
        "9 steps came with no sampler",
    ),
    "chains without noise": (
        lambda: split_gibbs_sample(
            Hills(), FIRST, Y, 0.0, generator=seeded(), sampler=MALA(0.1), steps=9, **GOOD
        ),
        "sigma 0.0; chains walk on",
    ),
    "no measurement": (
        lambda: split_gibbs_sample(Hills(), FIRST, Y[:0], 0.1, generator=seeded(), **GOOD),
        r"came as torch.float32 of shape \(0, 2\)",
    ),
    "whole numbers": (
        lambda: split_gibbs_sample(Hills(), FIRST, Y.long(), 0.1, generator=seeded(), **GOOD),
        "came as torch.int64",
    ),
    "points of another precision": (
        lambda: split_gibbs_sample(
            lowland.nets.DenoiserMLP(real(2), hidden=(4,)),
            FIRST,
            Y.double(),
            0.1,
            generator=seeded(),
            **GOOD,
        ),
        "points are torch.float64 and the weights of the energy torch.float32",
    ),
    "chains: points of another precision": (
        lambda: restore(
            lowland.nets.MLP(real(2), hidden=(4,), quadratic_weight=1.0),
            FIRST,
            Y.double(),
            0.1,
            MALA(0.1),
            generator=seeded(),
        ),
        "points are torch.float64",
    ),
    "chains: an array": (
        lambda: restore(HILLS, FIRST, Y.numpy(), 0.1, MALA(0.1), generator=seeded()),  # type: ignore[arg-type]
        "measurements came as ndarray",
    ),
    "chains: no measurement held": (
        lambda: restore(HILLS, FIRST, Y[:0], 0.0, MALA(0.1), generator=seeded()),
        "measurements came as",
    ),
    "chains: no generator": (
        lambda: restore(HILLS, FIRST, Y, 0.1, MALA(0.1), generator=None),  # type: ignore[arg-type]
        "generator is a NoneType",
    ),
    "chains: no operator": (
        lambda: restore(HILLS, None, Y, 0.1, MALA(0.1), generator=seeded()),  # type: ignore[arg-type]
        "NoneType came as operator",
    ),
    "chains: a jump from below 0": (
        lambda: restore(HILLS, FIRST, Y, 0.1, MALA(0.1), generator=seeded(), denoise_sigma=-1.0),
        "denoise_sigma is -1.0",
    ),
    "an interval of no level": (
        lambda: Restoration.of(torch.zeros(30, 1, 2)).interval(math.nan),
        "level is nan",
    ),
    "start of other rows": (
        lambda: split_gibbs_sample(Hills(), FIRST, Y, 0.1, generator=seeded(), start=Y[:1], **GOOD),
        "start has 1 rows for 2",
    ),
    "chains: mixed and no noise": (
        lambda: restore(
            FLAT, Blur(0.7), torch.zeros(1, *SHAPE), 0.0, MALA(0.1), generator=seeded()
        ),
        "Blur; without noise",
    ),
    "chains: all known": (
        lambda: restore(HILLS, Mask(torch.ones(2) > 0), Y, 0.0, MALA(0.1), generator=seeded()),
        "there is nothing to draw",
    ),
    "chains: mask of another shape": (
        lambda: restore(HILLS, Mask(torch.ones(3) > 0), Y, 0.0, MALA(0.1), generator=seeded()),
        "mask has shape",
    ),
    "chains: a level not bound": (
        lambda: restore(Hills(), FIRST, Y, 0.1, MALA(0.1), generator=seeded()),
        "bind a level",
    ),
    "chains: known numbers outside the box": (
        lambda: restore(
            Function(lambda x: x.sum(1), box(0.0, 1.0, 2)),
            FIRST,
            Y + 3,
            0.0,
            MALA(0.1),
            generator=seeded(),
            start=Y,
        ),
        "outside the domain",
    ),
}


def covered(inner: dict[str, int]) -> float:
    """Standard errors by which 90 % intervals of 19 draws of N(0, 1)-like numbers fall short of 88
    %: five numbers that go together, three of which are seen through random weights, 800 problems
    drawn from the prior itself.
    """
    g = seeded(7)
    root = torch.randn(5, 5, generator=g) / 5**0.5
    covariance = root @ root.T + 0.1 * torch.eye(5)
    variances, turn = torch.linalg.eigh(covariance)
    prior = Function(
        lambda x, s: 0.5 * ((x @ turn).square() / (variances + s.view(-1, 1).square())).sum(1),
        real(5),
    )
    weights = torch.randn(3, 5, generator=g) / 2
    x = torch.randn(800, 5, generator=g) @ torch.linalg.cholesky(covariance).T
    y = x @ weights.T + 0.5 * torch.randn(800, 3, generator=g)
    more: dict[str, Any] = {
        "sigma_max": 4.0,
        "sigma_min": 0.02,
        "draws": 19,
        "batch": 20_000,
    } | inner
    low, high = split_gibbs_sample(
        prior, lambda x: x @ weights.T, y, 0.5, generator=g, **more
    ).interval(0.9)
    share = ((low <= x) & (x <= high)).double().mean(1)
    return float((0.88 - share.mean()) / (share.std() / len(x) ** 0.5))


def test_intervals_cover_what_they_promise_at_the_settings_that_come_along() -> None:
    assert covered({}) < LIMIT
    assert caught(covered, {"denoise_steps": 3})


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_restored_is_refused_in_three_clauses(case: str) -> None:
    act, said = REFUSED[case]
    with pytest.raises(ValueError, match=said) as found:
        act()
    assert str(found.value).count(";") >= 2


class Overshooting(Energy):
    """N(1/2, 1/16) with noise, and far from it a network that was never shown such points."""

    condition = NoiseCondition()

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        away = (x - 0.5) / (1 / 16 + torch.as_tensor(c).to(x).view(-1, 1) ** 2) ** 0.5
        return (0.5 * away.square() + (away.abs() - 4).clamp_min(0) ** 4).sum(1)


def test_passes_do_not_run_away_where_an_energy_was_never_shown_points() -> None:
    """The expected clean point of data in a box lies in the box; where no walls say so, the same
    passes run away.
    """
    z = torch.full((50, 4), 9.0)
    ladder = lowland.samplers.karras_sigmas(1.5, 0.02, 5)
    held, loose = (
        sde_dpm_solver(Overshooting(domain), z, ladder, generator=seeded(0))
        for domain in (box(0.0, 1.0, 4), real(4))
    )
    assert float(held.min()) >= 0 and float(held.max()) <= 1
    assert not float(loose.abs().max()) < 100
