"""The most likely explanation: equal to linear algebra where the posterior is Gaussian, downhill
and still elsewhere.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from lowland import Function, box, real, value_and_score
from lowland.targets import Gaussian, GaussianMixture
from lowland.tasks import (
    BlockAverage,
    Blur,
    Identity,
    Likelihood,
    Mask,
    Operator,
    Projection,
    map_estimate,
)

CENTRE = torch.tensor([1.0, -0.5], dtype=torch.float64)
COVARIANCE = torch.tensor([[1.0, 0.8], [0.8, 1.5]], dtype=torch.float64)
MEASURED = torch.tensor([[0.3, 0.4], [-1.0, 2.0]], dtype=torch.float64)
PRIOR = Gaussian(tuple(CENTRE.tolist()), tuple(map(tuple, COVARIANCE.tolist())))
OPERATORS: dict[str, tuple[Any, Tensor]] = {
    "identity": (Identity(), torch.eye(2, dtype=torch.float64)),
    "mask": (
        Mask(torch.tensor([True, False])),
        torch.diag(torch.tensor([1.0, 0.0], dtype=torch.float64)),
    ),
    "a function": (
        lambda x: x @ x.new_tensor([[1.0], [-2.0]]),
        torch.tensor([[1.0, -2.0]], dtype=torch.float64),
    ),
}


def truth(matrix: Tensor, y: Tensor, sigma: float) -> Tensor:
    precision = torch.linalg.inv(COVARIANCE)
    return torch.linalg.solve(
        precision + matrix.T @ matrix / sigma**2, (precision @ CENTRE + y @ matrix / sigma**2).T
    ).T


def error(name: str, sigma: float, dtype: torch.dtype = torch.float64) -> float:
    operator, matrix = OPERATORS[name]
    y = (MEASURED @ matrix.T).to(dtype)
    found = map_estimate(
        PRIOR.to(dtype),
        operator,
        y,
        sigma,
        start=torch.full((2, 2), 5.0, dtype=dtype),
        tolerance=1e-6,
    )
    return float((found.x - truth(matrix, y.double(), sigma)).abs().max())


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("sigma", [1e-4, 0.01, pytest.param(1.0, marks=pytest.mark.slow), 100.0])
def test_it_is_the_mean_of_a_gaussian_posterior_however_sharp(name: str, sigma: float) -> None:
    assert error(name, sigma) < 1e-4
    assert error(name, sigma, torch.float32) < 5e-3


def test_a_wrong_weight_of_the_measurement_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setattr(
        sys.modules["lowland.tasks.inverse.map"],
        "Likelihood",
        lambda a, y, s: Likelihood(a, y, s / 2**0.5),
    )
    assert error("identity", 1.0) > 0.05


@pytest.mark.parametrize(
    "operator",
    [
        BlockAverage(2),
        pytest.param(Blur(1.0), marks=pytest.mark.slow),
        Projection((1, 8, 8), 20, seed=0),
        Blur(1.0) @ Mask(torch.eye(8) < 1),
    ],
)
def test_the_energy_never_rises_and_the_gradient_vanishes(operator: Operator) -> None:
    g = torch.Generator().manual_seed(0)
    prior = Function(
        lambda x: 20 * (x.square() * (1 - x).square()).flatten(1).sum(1), real(1, 8, 8)
    )  # two wells a pixel
    y = operator(torch.rand(3, 1, 8, 8, generator=g, dtype=torch.float64).round())
    x, fit = torch.rand(3, 1, 8, 8, generator=g, dtype=torch.float64), Likelihood(operator, y, 0.05)
    course = [prior(x) + fit(x)]
    for _ in range(30):
        found = map_estimate(prior, operator, y, 0.05, start=x, steps=1)
        x = found.x
        course.append(found.energy)
    assert (torch.stack(course).diff(dim=0) <= 1e-4).all() and (course[-1] < course[0]).all()
    found = map_estimate(prior, operator, y, 0.05, start=x, steps=3000, tolerance=1e-6)
    assert found.converged.all() and found.steps < 3000
    assert float(value_and_score(prior + fit, found.x)[1].abs().max()) < 1e-3


def test_rows_settle_by_themselves_and_do_not_mix() -> None:
    hills = GaussianMixture(means=((-4.0, 0.0), (4.0, 0.0)))
    start = torch.tensor([[-3.0, 1.0], [3.0, 1.0], [4.0, 0.0]])
    y = torch.tensor([[-4.0], [4.0], [4.0]])
    seen = lambda x: x[:, :1]  # noqa: E731
    many = map_estimate(hills, seen, y, 1.0, start=start)
    assert many.converged.all() and torch.allclose(
        many.x, torch.tensor([[-4.0, 0.0], [4.0, 0.0], [4.0, 0.0]]), atol=2e-3
    )
    for i in range(3):
        assert torch.allclose(
            map_estimate(hills, seen, y[i : i + 1], 1.0, start=start[i : i + 1]).x[0],
            many.x[i],
            atol=1e-4,
        )
    assert not map_estimate(hills, seen, y, 1.0, start=start, steps=1).converged[:2].any()


def test_points_stay_in_a_box() -> None:
    prior = Function(lambda x: x.flatten(1).sum(1), box(0.0, 1.0, 3))
    found = map_estimate(
        prior, Identity(), torch.tensor([[-2.0, 0.5, 7.0]]), 0.1, start=torch.full((1, 3), 0.5)
    )
    assert (
        torch.allclose(found.x, torch.tensor([[0.0, 0.49, 1.0]]), atol=1e-4)
        and found.converged.all()
    )


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"sigma": 0.0}, "sigma is 0.0; .*; 0.05"),
        ({"y": torch.zeros(2, 3)}, r"shape \(3,\).*; .*; measure with"),
        ({"y": torch.full((2, 2), torch.nan)}, "measurements"),
        ({"steps": 0}, "steps is 0; .* from 1 to .*; "),
        ({"tolerance": 0.0}, "tolerance is 0.0; .* above 0; "),
        ({"start": torch.zeros(3, 2)}, "start has 3 rows for 2"),
    ],
)
def test_what_does_not_fit_is_refused(more: dict[str, Any], said: str) -> None:
    given = {"y": torch.zeros(2, 2), "sigma": 1.0, "start": torch.zeros(2, 2)} | more
    with pytest.raises(ValueError, match=said):
        map_estimate(Gaussian(), Identity(), given.pop("y"), given.pop("sigma"), **given)


def test_what_is_no_number_or_not_linear_is_refused_and_not_called_settled() -> None:
    start = torch.zeros(2, 2)
    with pytest.raises(ValueError, match="2 of 2 energies at the start are not finite"):
        map_estimate(
            Function(lambda x: x.sum(1) / 0 * 0, real(2)), Identity(), start, 1.0, start=start
        )
    with pytest.raises(ValueError, match=r"not linear.*; a linear one is needed here; use restore"):
        map_estimate(Gaussian(), lambda x: x**2, start, 1.0, start=start)
