"""Restoration against the exact posterior, composition against its algebra."""

import math
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from contract.cases import seeded
from contract.checks import LIMIT, caught, worst
from torch import Tensor

from lowland import HMC, MALA, Energy, Function, box, compose, energy_values, real, restore, sample
from lowland.samplers import denoise
from lowland.targets import Gaussian, GaussianMixture
from lowland.tasks import Identity, Likelihood, Mask, Restoration, energy_stats, importance_resample

# -------------------------------------------------------------------------------------- restoration

CENTRE = torch.tensor([1.0, -0.5], dtype=torch.float64)
COVARIANCE = torch.tensor([[1.0, 0.8], [0.8, 1.5]], dtype=torch.float64)
MEASURED = torch.tensor([[0.3, 0.4], [-1.0, 2.0]])
OPERATORS: dict[str, tuple[Any, Tensor]] = {
    "identity": (Identity(), torch.eye(2, dtype=torch.float64)),
    "mask": (
        Mask(torch.tensor([True, False])),
        torch.diag(torch.tensor([1.0, 0.0], dtype=torch.float64)),
    ),
    "matrix": (
        lambda x: x @ torch.tensor([[1.0], [-2.0]]),
        torch.tensor([[1.0, -2.0]], dtype=torch.float64),
    ),
}
STEPS = {  # step size of MALA and count: the stiff directions want small steps, the free ones many
    ("identity", 0.1): (0.006, 200),
    ("mask", 0.1): (0.008, 1500),
    ("matrix", 0.5): (0.03, 800),
}


def posterior(matrix: Tensor, y: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """Mean (B, d) and covariance of x given y for the Gaussian prior, by linear algebra."""
    precision = torch.linalg.inv(COVARIANCE)
    covariance = torch.linalg.inv(precision + matrix.T @ matrix / sigma**2)
    return (covariance @ (precision @ CENTRE + y.double() @ matrix / sigma**2).T).T, covariance


def posterior_error(
    name: str, sigma: float, restorer: Callable[..., Restoration] = restore
) -> float:
    """Worst |z| of mean and covariance of 2,000 posterior draws for each of two measurements,
    against the exact ones.
    """
    operator, matrix = OPERATORS[name]
    y = MEASURED if name != "matrix" else MEASURED[:, :1]
    y = y * torch.tensor([1.0, 0.0]) if name == "mask" else y
    prior = Gaussian(tuple(CENTRE.tolist()), tuple(map(tuple, COVARIANCE.tolist())))
    mean, covariance = posterior(matrix, y, sigma)
    start = mean.float() + 3 * torch.linalg.cholesky(covariance).float().sum(
        1
    )  # three deviations off
    step_size, steps = STEPS.get((name, sigma), (0.3, 300))
    found = restorer(
        prior,
        operator,
        y,
        sigma,
        MALA(step_size),
        generator=seeded(4),
        steps=steps,
        draws=2000,
        start=start,
    )
    away = found.draws.double() - mean
    products = torch.einsum("nbi,nbj->nbij", away, away)
    return max(worst(away), worst(products, covariance.expand(2, 2, 2)))


CASES = [
    ("identity", 0.1),
    ("identity", 2.0),
    ("mask", 0.1),
    ("mask", 2.0),
    ("matrix", 0.5),
    ("matrix", 2.0),
]


@pytest.mark.parametrize(("name", "sigma"), CASES)
def test_draws_have_the_exact_posterior_mean_and_covariance(name: str, sigma: float) -> None:
    assert posterior_error(name, sigma) < LIMIT


@pytest.mark.parametrize(("name", "sigma"), [("identity", 0.1), ("mask", 2.0)])
@pytest.mark.parametrize("bug", ["drift with ∇‖·‖²/σ²", "1/σ for 1/σ²", "rows mixed up"])
def test_a_wrong_likelihood_is_caught(
    name: str, sigma: float, bug: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """peers.md 3 (line 1185): twice the drift makes the posterior variance .0201 where .0385 is
    true.
    """
    broken: dict[str, Callable[..., Energy]] = {
        "drift with ∇‖·‖²/σ²": lambda a, y, s: 2 * Likelihood(a, y, s),
        "1/σ for 1/σ²": lambda a, y, s: s * Likelihood(a, y, s),
        "rows mixed up": lambda a, y, s: Likelihood(a, y.flip(0), s),
    }
    monkeypatch.setattr(sys.modules["lowland.tasks.inverse.restore"], "Likelihood", broken[bug])
    assert caught(posterior_error, name, sigma)


def test_the_likelihood_is_half_the_squared_residual_in_units_of_sigma() -> None:
    g = seeded(5)
    x, y = torch.randn(3, 1, 2, 2, generator=g), torch.randn(3, 1, 2, 2, generator=g)
    found = Likelihood(Identity(), y, 0.3)(x)
    expected = [float(((a - b) ** 2).sum()) / (2 * 0.09) for a, b in zip(x, y, strict=True)]
    assert torch.allclose(found, torch.tensor(expected))


def test_mean_and_spread_are_those_of_the_draws() -> None:
    found = restore(
        Gaussian(), Identity(), MEASURED, 1.0, MALA(0.3), generator=seeded(0), steps=50, draws=7
    )
    assert found.draws.shape == (7, 2, 2) and found.mean.shape == found.std.shape == (2, 2)
    assert torch.allclose(found.mean, found.draws.mean(0))
    assert torch.allclose(found.std, found.draws.std(0, correction=0))
    one = restore(Gaussian(), Identity(), MEASURED, 1.0, MALA(0.3), generator=seeded(0), steps=5)
    assert torch.equal(one.mean, one.draws[0]) and not bool(one.std.any())


def test_a_hot_start_of_the_path_ends_in_the_same_posterior() -> None:
    def annealed(*args: Any, **kwargs: Any) -> Restoration:
        return restore(*args, **kwargs, temperatures=(8.0, 2.0, 1.0))

    assert posterior_error("identity", 2.0, annealed) < LIMIT

    def too_hot(*args: Any, **kwargs: Any) -> Restoration:
        return restore(*args, **kwargs, temperatures=(8.0, 1.5))

    assert caught(posterior_error, "identity", 2.0, too_hot)


def test_the_same_generator_gives_the_same_draws() -> None:
    runs = [
        restore(Gaussian(), Identity(), MEASURED, 0.5, MALA(0.1), generator=seeded(s), steps=20)
        for s in (6, 6, 7)
    ]
    assert torch.equal(runs[0].draws, runs[1].draws) and not torch.equal(
        runs[0].draws, runs[2].draws
    )


def image_prior(channels: int, side: int) -> Energy:
    """Neighbouring pixels are alike, inside [0, 1]."""

    def roughness(x: Tensor) -> Tensor:
        return sum(20 * torch.diff(x, dim=d).square().flatten(1).sum(1) for d in (2, 3))  # type: ignore[return-value]

    return Function(roughness, box(0.0, 1.0, channels, side, side))


@pytest.mark.parametrize("channels", [1, 3])
def test_inpainting_keeps_what_is_known_and_doubts_what_is_not(channels: int) -> None:
    """peers.md 3 (line 210): a (1, H, W) mask on colour images fails elsewhere; known pixels are
    altered elsewhere.
    """
    shape, sigma = (channels, 6, 6), 0.03
    known = torch.ones(1, 6, 6, dtype=torch.bool)
    known[:, 3:] = False
    g = seeded(8)
    truth = 0.3 + 0.4 * torch.rand(2, *shape, generator=g)
    seen = truth * known
    found = restore(
        image_prior(channels, 6),
        Mask(known),
        seen,
        sigma,
        HMC(0.02, 10),
        generator=g,
        steps=60,
        draws=12,
        start=seen,
    )
    wide = known.expand(2, *shape)
    assert found.draws.shape == (12, 2, *shape)
    assert float((found.mean - truth)[wide].abs().max()) < LIMIT * sigma
    assert float(found.std[wide].mean()) < 1.5 * sigma < float(found.std[~wide].mean())
    assert float(found.draws.min()) >= 0.0 and float(found.draws.max()) <= 1.0
    full = restore(
        image_prior(channels, 6),
        Mask(known.expand(shape)),
        seen,
        sigma,
        HMC(0.02, 10),
        generator=seeded(1),
        steps=3,
        start=seen,
    )
    narrow = restore(
        image_prior(channels, 6),
        Mask(known),
        seen,
        sigma,
        HMC(0.02, 10),
        generator=seeded(1),
        steps=3,
        start=seen,
    )
    assert torch.equal(full.draws, narrow.draws)


def test_restore_leaves_what_it_is_given_alone() -> None:
    y, start = MEASURED.clone(), torch.zeros(2, 2)
    restore(
        Gaussian(),
        Identity(),
        y,
        0.5,
        MALA(0.1),
        generator=seeded(0),
        steps=5,
        draws=2,
        start=start,
    )
    assert torch.equal(y, MEASURED) and not bool(start.any())


@pytest.mark.parametrize("sigma", [0.0, -0.1, math.nan])
def test_restore_refuses_a_noise_that_is_not_positive(sigma: float) -> None:
    with pytest.raises(ValueError, match="sigma is"):
        restore(Gaussian(), Identity(), MEASURED, sigma, MALA(0.1), generator=seeded(0))


def test_restore_refuses_measurements_that_do_not_fit() -> None:
    def attempt(y: Tensor, operator: Any = None, **more: Any) -> None:
        restore(Gaussian(), operator or Identity(), y, 1.0, MALA(0.1), generator=seeded(0), **more)

    with pytest.raises(ValueError, match="1 of 2 measurements are not finite"):
        attempt(torch.tensor([[0.0, math.nan], [0.0, 0.0]]))
    with pytest.raises(ValueError, match=r"shape \(3,\) and the operator gives \(2,\)"):
        attempt(torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"shape \(2,\) and the operator gives \(1,\)"):
        attempt(torch.zeros(1, 2), lambda x: x[:, :1])
    with pytest.raises(ValueError, match="draws is 0"):
        attempt(MEASURED, draws=0)
    with pytest.raises(ValueError, match="no event shape"):
        restore(
            Function(lambda x: x.sum(1)), Identity(), MEASURED, 1.0, MALA(0.1), generator=seeded(0)
        )
    with pytest.raises(ValueError, match="event shape"):
        attempt(torch.zeros(2, 3), start=torch.zeros(2, 3))


MISFITS: dict[str, Callable[[], Any]] = {
    "mask of another shape": lambda: restore(
        Gaussian(),
        Mask(torch.ones(3, dtype=torch.bool)),
        MEASURED,
        1.0,
        MALA(0.1),
        generator=seeded(0),
    ),
    "start of other rows": lambda: restore(
        Gaussian(),
        Identity(),
        MEASURED,
        1.0,
        MALA(0.1),
        generator=seeded(0),
        start=torch.zeros(3, 2),
    ),
    "no temperatures": lambda: restore(
        Gaussian(), Identity(), MEASURED, 1.0, MALA(0.1), generator=seeded(0), temperatures=()
    ),
}


@pytest.mark.parametrize("case", MISFITS)
def test_restore_refuses_misfits_in_words(case: str) -> None:
    with pytest.raises(ValueError, match=";"):
        MISFITS[case]()


# -------------------------------------------------------------------------- starting from the prior


def resampling_error(
    name: str, sigma: float, resampler: Callable[..., Tensor] = importance_resample
) -> float:
    """Worst |z| of mean and covariance of one point from each of 500 banks of 2,000 prior draws,
    against the posterior.
    """
    operator, matrix = OPERATORS[name]
    y = MEASURED[:1] if name != "matrix" else MEASURED[:1, :1]
    y = y * torch.tensor([1.0, 0.0]) if name == "mask" else y
    prior = Gaussian(tuple(CENTRE.tolist()), tuple(map(tuple, COVARIANCE.tolist())))
    mean, covariance = posterior(matrix, y, sigma)
    g, found = seeded(3), []
    for _ in range(500):
        bank = prior.draw(2000, g)
        found.append(bank[resampler(bank, operator, y, sigma, 1, g)][0, 0])
    away = torch.stack(found).double() - mean
    return max(worst(away), worst(torch.einsum("ni,nj->nij", away, away), covariance))


@pytest.mark.parametrize(("name", "sigma"), [("identity", 0.5), ("mask", 0.3), ("matrix", 1.0)])
def test_points_of_a_bank_that_explain_the_measurement_are_draws_of_the_posterior(
    name: str, sigma: float
) -> None:
    assert resampling_error(name, sigma) < LIMIT


@pytest.mark.parametrize("factor", [2**0.5, 2**-0.5])
def test_a_resampling_with_twice_or_half_the_loss_is_caught(factor: float) -> None:
    def broken(
        bank: Tensor, operator: Any, y: Tensor, sigma: float, draws: int, g: torch.Generator
    ) -> Tensor:
        return importance_resample(bank, operator, y, factor * sigma, draws, g)

    assert caught(resampling_error, "identity", 0.5, broken)


def test_every_measurement_gets_its_own_points_and_several_of_them() -> None:
    bank = torch.randn(40, 1, 2, 2, generator=seeded(1))
    first = importance_resample(bank, Identity(), bank[[7, 3, 39]], 1e-3, 1, seeded(0))
    assert first.tolist() == [[7, 3, 39]]
    many = importance_resample(
        bank, Identity(), bank[[7, 3, 39]], 1e-3, 10, seeded(0)
    )  # sharper than the bank is dense
    assert many.shape == (10, 3) and all(len(column.unique()) >= 4 for column in many.T)
    assert torch.equal(
        many, importance_resample(bank, Identity(), bank[[7, 3, 39]], 1e-3, 10, seeded(0))
    )


@pytest.mark.parametrize("denoise_sigma", [0.0, 0.5])
def test_a_restoration_with_a_bank_begins_at_its_points(denoise_sigma: float) -> None:
    """Those whose jump explains the measurement; the points themselves, not their jumps, are where
    the chains begin.
    """
    bank = Gaussian().draw(300, seeded(1))
    found = restore(
        Gaussian(),
        Identity(),
        MEASURED,
        0.5,
        MALA(0.1),
        generator=seeded(2),
        steps=0,
        draws=5,
        prior_samples=bank,
        denoise_sigma=denoise_sigma,
    )
    clean = denoise(Gaussian(), bank, denoise_sigma)
    which = importance_resample(clean, Identity(), MEASURED, 0.5, 5, seeded(2))
    assert torch.equal(found.draws, clean[which])
    again = restore(
        Gaussian(),
        Identity(),
        MEASURED,
        0.5,
        MALA(0.1),
        generator=seeded(2),
        steps=9,
        draws=5,
        prior_samples=bank,
    )
    assert again.draws.shape == (5, 2, 2) and not torch.equal(again.draws, found.draws)


def test_a_bank_brings_chains_into_the_mode_that_they_would_not_find() -> None:
    """Two modes 12 apart, of which the measurement of the second coordinate tells which: from noise
    no chain gets there.
    """
    modes = GaussianMixture(((-6.0, -1.0), (6.0, 1.0)), 0.3)
    y, hidden = torch.tensor([[0.0, 1.0], [0.0, -1.0]]), Mask(torch.tensor([False, True]))
    bank = modes.draw(500, seeded(1))
    found = restore(
        modes,
        hidden,
        y,
        0.2,
        MALA(0.02),
        generator=seeded(2),
        steps=100,
        draws=50,
        prior_samples=bank,
    )
    assert bool((found.draws[:, 0, 0] > 4).all()) and bool((found.draws[:, 1, 0] < -4).all())
    lost = restore(
        modes,
        hidden,
        y,
        0.2,
        MALA(0.02),
        generator=seeded(2),
        steps=100,
        draws=50,
        start=torch.full((2, 2), -6.0),
    )
    assert bool((lost.draws[..., 0] < -4).all())


BANK_MISFITS: dict[str, Callable[..., Any]] = {
    "no noise": lambda bank: restore(
        Gaussian(), Identity(), MEASURED, 0.0, MALA(0.1), generator=seeded(0), prior_samples=bank
    ),
    "measurements not finite": lambda bank: restore(
        Gaussian(),
        Identity(),
        MEASURED * math.nan,
        1.0,
        MALA(0.1),
        generator=seeded(0),
        prior_samples=bank,
    ),
    "measurements of another shape": lambda bank: restore(
        Gaussian(),
        Identity(),
        torch.zeros(2, 3),
        1.0,
        MALA(0.1),
        generator=seeded(0),
        prior_samples=bank,
    ),
    "an empty bank": lambda bank: restore(
        Gaussian(),
        Identity(),
        MEASURED,
        1.0,
        MALA(0.1),
        generator=seeded(0),
        prior_samples=bank[:0],
    ),
    "a start as well": lambda bank: restore(
        Gaussian(),
        Identity(),
        MEASURED,
        1.0,
        MALA(0.1),
        generator=seeded(0),
        steps=1,
        prior_samples=bank,
        start=MEASURED,
    ),
}


@pytest.mark.parametrize("case", BANK_MISFITS)
def test_restore_with_a_bank_refuses_misfits_in_words(case: str) -> None:
    with pytest.raises(ValueError, match=r";.*;"):
        BANK_MISFITS[case](Gaussian().draw(50, seeded(1)))


def jump_error() -> float:
    """Worst |z| of draws that jump, against their exact law, for a prior of data N(0, 1) with noise
    s = 0.5 added.

    Chains draw z from the posterior of the noisy point, N(0, 1.25) as prior and y = z + 0.1 ε; the
    jump of the prior makes x = z − s² z / 1.25 of it.
    """
    smoothed, y = Gaussian((0.0,), ((1.25,),)), torch.tensor([[0.7]])
    found = restore(
        smoothed,
        Identity(),
        y,
        0.1,
        MALA(0.006),
        generator=seeded(0),
        steps=200,
        draws=4000,
        start=y,
        denoise_sigma=0.5,
    )
    variance = 1 / (1 / 1.25 + 1 / 0.01)
    away = found.draws.double().flatten(1) - 0.8 * variance * 0.7 / 0.01
    return max(worst(away), worst(away.square(), 0.64 * variance))


def test_a_last_jump_is_the_prior_s_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the score of the posterior in its place the spread would grow |1 − s² (1/1.25 + 1/σ²)| =
    24 times.
    """
    assert jump_error() < LIMIT

    def with_the_likelihood(energy: Energy, x: Tensor, sigma: float) -> Tensor:
        return x - sigma**2 * (x / 1.25 + (x - 0.7) / 0.01)

    monkeypatch.setattr(
        sys.modules["lowland.tasks.inverse.restore"], "denoise", with_the_likelihood
    )
    assert caught(jump_error)


# -------------------------------------------------------------------------------------- composition

PARTS = [Gaussian((0.0, 0.0)), Gaussian((2.0, 0.0), ((0.5, 0.0), (0.0, 2.0)))]
REFERENCES = [part.draw(200, seeded(i)) for i, part in enumerate(PARTS)]


def test_a_composed_energy_counts_in_its_own_unit() -> None:
    x = REFERENCES[0]
    values = energy_values(compose(PARTS[:1], [x]), x).double()
    assert float(values.mean().abs()) < 1e-5 and float(values.std()) == pytest.approx(1.0, abs=1e-5)
    scale = energy_stats(PARTS[0], x)
    assert scale.mean == pytest.approx(float(energy_values(PARTS[0], x).double().mean()))
    assert scale.std == pytest.approx(float(energy_values(PARTS[0], x).double().std()))


def test_units_of_the_parts_do_not_matter() -> None:
    """A part measured in thousands plus a constant composes as the part itself: what a plain sum
    gets wrong.
    """
    first = PARTS[0]
    other = Function(lambda x: 1000 * first(x) + 500, real(2))
    x = torch.randn(50, 2, generator=seeded(2))
    plain, shouted = compose(PARTS, REFERENCES), compose([other, PARTS[1]], REFERENCES)
    assert torch.allclose(energy_values(plain, x), energy_values(shouted, x), atol=1e-3)
    assert not torch.allclose(
        energy_values(PARTS[0] + PARTS[1], x), energy_values(other + PARTS[1], x), atol=1.0
    )


def test_weights_count_each_concept_also_negatively() -> None:
    x, weights = torch.randn(40, 2, generator=seeded(3)), (2.0, -0.5)
    expected = torch.zeros(40, dtype=torch.float64)
    for part, reference, weight in zip(PARTS, REFERENCES, weights, strict=True):
        scale = energy_stats(part, reference)
        expected += weight * (energy_values(part, x).double() - scale.mean) / scale.std
    found = compose(PARTS, REFERENCES, weights)
    assert torch.allclose(energy_values(found, x).double(), expected, atol=1e-4)
    assert found.weights[0] > 0 > found.weights[1]


def test_a_negative_weight_moves_samples_away() -> None:
    g = seeded(4)
    start = torch.zeros(500, 2)
    near = sample(compose(PARTS, REFERENCES, (2.0, 0.2)), MALA(0.1), start, 200, generator=g).x
    away = sample(compose(PARTS, REFERENCES, (2.0, -0.2)), MALA(0.1), start, 200, generator=g).x
    difference = near[:, 0] - away[:, 0]
    assert float(difference.mean() / (difference.std() / math.sqrt(500))) > LIMIT


def test_compose_refuses_uneven_lists_and_flat_energies() -> None:
    for args in ((PARTS, REFERENCES[:1]), (PARTS, REFERENCES, (1.0,)), (PARTS[:1], REFERENCES)):
        with pytest.raises(ValueError, match="make the lists equally long"):
            compose(*args)
    flat = Function(lambda x: 0 * x.sum(1), real(2))
    with pytest.raises(ValueError, match="does not vary over 200 reference points"):
        compose([flat], REFERENCES[:1])
    with pytest.raises(ValueError, match="does not vary over 1 reference"):
        compose(PARTS[:1], [REFERENCES[0][:1]])


def test_negation_alone_is_refused() -> None:
    """Where it is composed: the level that compose adds is a term of weight +1, and confines
    nothing.
    """
    for parts, weights in ((1, [-1.0]), (2, [-1.0, -0.5]), (2, [-1.0, 0.0])):
        with pytest.raises(ValueError, match="normaliser"):
            compose(PARTS[:parts], REFERENCES[:parts], weights)
    boxed = Function(lambda x: x.square().sum(1), box(-1.0, 1.0, 2))  # here it has one
    assert compose([boxed], [boxed.domain.draw(50, seeded(0))], [-1.0]).weights[0] < 0


def test_rows_of_a_posterior_are_those_of_its_measurements() -> None:
    """So that blocks of chains, NUTS and parallel tempering take each chain's own measurement
    along.
    """
    y, x = torch.randn(5, 3, generator=seeded()), torch.randn(5, 3, generator=seeded(1))
    posterior = Function(lambda x: x.square().sum(1), real(3)) + Likelihood(Identity(), y, 0.3)
    index = torch.tensor([4, 0])
    torch.testing.assert_close(posterior.index_rows(index)(x[index]), posterior(x)[index])
