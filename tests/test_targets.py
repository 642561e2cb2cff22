"""Targets: exp(−E) integrates to exp(log_z), and the draws are draws of exp(−E) — two facts that
know nothing of each other.
"""

import math

import pytest
import torch
from contract.cases import seeded
from contract.checks import LIMIT, caught, worst, z_scores
from torch import Tensor

from lowland import value_and_score
from lowland.energy.sizes import read_numbers
from lowland.targets import Banana, Funnel, Gaussian, GaussianMixture

DOUBLE = torch.float64
PLANE = {  # targets in the plane with the box that holds them and the number of grid lines
    "gaussian": (Gaussian(), 9.0),
    "correlated": (Gaussian((1.0, -1.0), ((1.0, 0.8), (0.8, 1.5))), 12.0),
    "mixture": (GaussianMixture(), 9.0),
    "weighted": (
        GaussianMixture(((-1.0, 0.0), (2.0, 1.0), (0.0, -2.0)), 0.7, (1.0, 2.0, 5.0)),
        10.0,
    ),
    "banana": (Banana(1.0, 0.5), 14.0),
    "bent": (Banana(0.8, -1.0), 16.0),
}
N = 40_000


def grid(reach: float, lines: int = 1201) -> tuple[Tensor, float]:
    """The points of a square and the area of a cell; on smooth decaying functions the trapezoid
    rule is spectral.
    """
    t = torch.linspace(-reach, reach, lines, dtype=DOUBLE)
    return torch.cartesian_prod(t, t), (2 * reach / (lines - 1)) ** 2


@pytest.mark.parametrize("name", PLANE)
def test_log_z_is_the_integral(name: str) -> None:
    energy, reach = PLANE[name]
    x, area = grid(reach)
    found = math.log((-energy(x)).exp().sum().item() * area)
    assert abs(found - energy.log_z) < 1e-6


def test_settings_are_read_in_full_precision() -> None:
    """Lists of Python's numbers are float64, whatever torch's default dtype is: 0.1 in float32 is
    off by 1e-8.
    """
    energy = Gaussian((0.0, 0.0), ((0.1, 0.0), (0.0, 0.3)))
    assert abs(energy.log_z - (math.log(2 * math.pi) + 0.5 * math.log(0.03))) < 1e-14
    values = (0.1, -0.7, 1 / 3)
    assert read_numbers("numbers", values, 1).tolist() == list(values)


def test_log_z_of_the_funnel_by_integration_over_its_neck() -> None:
    """The inner integral over x_i is √(2π e^v) each, by quadrature on a grid that widens with v;
    the outer one over v.
    """
    energy = Funnel(2, 1.0)
    v = torch.linspace(-9, 9, 361, dtype=DOUBLE)
    t = torch.linspace(-9, 9, 361, dtype=DOUBLE)
    width = (v / 2).exp()
    x = torch.stack([v.unsqueeze(1).expand(-1, 361), width.unsqueeze(1) * t], 2)
    values = (-energy(x.flatten(0, 1))).exp().view(361, 361) * width.unsqueeze(1)
    step = (18 / 360) ** 2
    assert abs(math.log(values.sum().item() * step) - energy.log_z) < 1e-6


@pytest.mark.parametrize("name", PLANE)
def test_draws_have_the_moments_and_tails_that_the_energy_integrates_to(name: str) -> None:
    energy, reach = PLANE[name]
    x, area = grid(reach, 801)
    mass = (-energy(x) - energy.log_z).exp() * area
    draws = energy.draw(N, seeded(3), DOUBLE)
    statistics = [
        lambda x: x,
        lambda x: x.square(),
        lambda x: x[:, :1] * x[:, 1:],
        lambda x: energy(x).unsqueeze(1),
    ]
    wrong = []
    for f in statistics:
        truth = (mass.unsqueeze(1) * f(x)).sum(0) / mass.sum()
        assert worst(f(draws), truth) < LIMIT
        wrong.append(caught(worst, f(1.05 * draws), truth))
    assert any(wrong), "the check would not see a scale that is off by 5%"


def test_draws_of_the_funnel() -> None:
    # v ~ N(0, s²); x_i e^{−v/2} ~ N(0, 1), independent of v
    energy = Funnel(4, 1.5)
    x = energy.draw(N, seeded(5), DOUBLE)
    v, rest = x[:, :1], x[:, 1:] * (-x[:, :1] / 2).exp()
    assert worst(v) < LIMIT and worst(v.square(), 2.25) < LIMIT
    assert (
        worst(rest) < LIMIT
        and worst(rest.square(), 1.0) < LIMIT
        and worst(rest.square() * v) < LIMIT
    )
    values = energy(x)  # E = v²/2s² + Σ z²/2 + 3v/2: mean ½ + 3/2
    assert worst(values.unsqueeze(1), 2.0) < LIMIT


@pytest.mark.parametrize(
    "energy",
    [*(e for e, _ in PLANE.values()), Funnel(3, 1.0), Gaussian((0.0,), ((2.0,),))],
    ids=lambda e: type(e).__name__,
)
def test_the_mean_score_of_exact_draws_is_zero_and_stein_holds(energy: Gaussian) -> None:
    # E[s] = 0 and E[s_i f(x_i) + f'(x_i)] = 0 with the bounded f = tanh: energy and draws belong
    # together
    x = energy.draw(N, seeded(7), DOUBLE)
    _, score = value_and_score(energy, x)
    stein = score * x.tanh() + 1 - x.tanh().square()
    assert worst(score) < LIMIT and worst(stein) < LIMIT


def test_weights_of_a_mixture_are_shares() -> None:
    energy = GaussianMixture(((-5.0, 0.0), (5.0, 0.0)), 0.5, (1.0, 3.0))
    right = (energy.draw(N, seeded(1))[:, :1] > 0).double()
    assert abs(z_scores(right, 0.75).item()) < LIMIT


def test_same_generator_same_draws_and_precision_as_asked() -> None:
    for energy in (Gaussian(), GaussianMixture(), Banana(), Funnel()):
        for dtype in (torch.float32, DOUBLE):
            a, b = (energy.draw(7, seeded(2), dtype) for _ in range(2))
            assert torch.equal(a, b) and a.dtype == dtype and len(a) == 7


def test_laws_that_do_not_exist_are_refused() -> None:
    bad = [
        lambda: Gaussian((0.0, 0.0), ((1.0, 2.0), (2.0, 1.0))),
        lambda: Gaussian((0.0, 0.0), ((1.0, 0.5), (0.4, 1.0))),
        lambda: Gaussian((0.0,), ((1.0, 0.0), (0.0, 1.0))),
        lambda: GaussianMixture(scale=0.0),
        lambda: GaussianMixture(weights=(1.0,)),
        lambda: GaussianMixture(weights=(1.0, 0.0)),
        lambda: Banana(scale=-1.0),
        lambda: Funnel(dimension=1),
        lambda: Funnel(scale=0.0),
    ]
    for make in bad:
        with pytest.raises(ValueError):
            make()
