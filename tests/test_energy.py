"""Energies: the algebra is what it says, conditions bind, scoring is a sum and not a mean, and the
door refuses.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from contract.cases import Target, seeded
from contract.checks import LIMIT, Probe, algebra_is_right, no_trace, stationarity, unsettle, worst
from torch import Tensor, nn

from lowland import (
    HMC,
    MALA,
    Energy,
    Function,
    Langevin,
    ParallelTempering,
    binary,
    box,
    check_energy,
    energy_values,
    mixture,
    real,
    sample,
    value_and_score,
)
from lowland.energy import Given, Mixture, Sum, check_normalisable, freeze, lift
from lowland.nets import MLP, RBM
from lowland.targets import Gaussian, GaussianMixture

DOUBLE = torch.float64


def bowl(scale: float = 1.0, domain: Any = None) -> Function:
    return Function(lambda x: scale * 0.5 * x.square().sum(1), domain)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=DOUBLE)


# ------------------------------------------------------------------------------------------ algebra


def test_expressions_are_their_definitions() -> None:
    algebra_is_right()


def test_nested_sums_are_one_flat_sum_with_multiplied_weights() -> None:
    a, b, c = bowl(1.0), bowl(2.0), bowl(3.0)
    nested = 2 * ((a + b) - c / 4) + (-(a - b)) / 2
    assert isinstance(nested, Sum) and not any(isinstance(e, Sum) for e in nested.energies)
    assert list(nested.energies) == [a, b, c, a, b]
    assert nested.weights == (2.0, 2.0, -0.5, -0.5, 0.5)


def test_product_of_two_gaussians_is_the_gaussian_of_added_precisions_up_to_a_constant() -> None:
    one, two = np.array([[1.0, 0.5], [0.5, 2.0]]), np.array([[0.7, -0.2], [-0.2, 0.4]])
    m, n = np.array([1.0, 0.0]), np.array([-1.0, 2.0])
    p, q = np.linalg.inv(one), np.linalg.inv(two)
    covariance = np.linalg.inv(p + q)
    mean = covariance @ (p @ m + q @ n)
    both = Gaussian(m.tolist(), one.tolist()).double() + Gaussian(n.tolist(), two.tolist()).double()
    x = noise(40, 2) * 2
    off = x.numpy() - mean
    expected = 0.5 * np.einsum("bi,ij,bj->b", off, p + q, off)
    difference = both(x).numpy() - expected
    assert np.ptp(difference) < 1e-5  # the covariances were rounded to float32
    g = seeded(4)
    draws = torch.as_tensor(
        mean + noise(20_000, 2, seed=3).numpy() @ np.linalg.cholesky(covariance).T
    )
    trace = sample(both, HMC(0.3, 5), draws, 10, generator=g)
    assert worst(trace.x, torch.as_tensor(mean)) < LIMIT
    centred = trace.x - torch.as_tensor(mean)
    products = torch.stack(
        [centred[:, 0] ** 2, centred[:, 0] * centred[:, 1], centred[:, 1] ** 2], 1
    )
    truth = torch.tensor([covariance[0, 0], covariance[0, 1], covariance[1, 1]])
    assert worst(products, truth) < LIMIT


def test_temperature_flattens_the_law() -> None:
    # exp(−E/T) of N(0, 1) is N(0, T); T = 4; exact draws stay exact
    warm = bowl(domain=real(1)) / 4.0
    target = Target(warm, lambda n, g, dtype: 2 * torch.randn(n, 1, generator=g, dtype=dtype))
    assert stationarity(MALA(0.8), target) < LIMIT


def test_mixture_of_normalised_gaussians_is_the_mixture_law() -> None:
    left = Gaussian((-2.0, 0.0), ((0.25, 0.0), (0.0, 0.25)))
    right = Gaussian((2.0, 0.0), ((0.25, 0.0), (0.0, 0.25)))
    both = mixture(left, right, weights=(0.3, 0.7)).double()
    reference = GaussianMixture(((-2.0, 0.0), (2.0, 0.0)), 0.5, (0.3, 0.7)).double()
    x = 2 * noise(50, 2)
    difference = both(x) - reference(x)
    torch.testing.assert_close(
        difference, torch.full_like(difference, -left.log_z), rtol=1e-6, atol=1e-6
    )


def test_mixture_counts_a_component_by_weight_times_normaliser() -> None:
    a, b = bowl(domain=real(1)), bowl(4.0, real(1))  # Z = √(2π) and √(2π)/2
    grid = torch.linspace(-12, 12, 4001, dtype=DOUBLE).unsqueeze(1)
    both = mixture(a, b, weights=(1.0, 2.0))
    z = torch.trapezoid((-both(grid)).exp(), grid.squeeze(1)).item()
    assert abs(z - 2 * math.sqrt(2 * math.pi)) < 1e-9


def test_mixture_is_finite_where_the_densities_underflow() -> None:
    far = torch.full((1, 1), 300.0, dtype=DOUBLE)
    both = mixture(bowl(), bowl(2.0))
    torch.testing.assert_close(both(far), bowl()(far) + math.log(2))


def test_terms_without_a_shape_take_that_of_their_partners() -> None:
    assert (bowl(domain=box(0.0, 1.0, 2)) + bowl()).domain == box(0.0, 1.0, 2)
    assert mixture(bowl(), bowl(domain=real(3))).domain == real(3)
    with pytest.raises(ValueError, match="different domains"):
        bowl(domain=box(0.0, 1.0, 2)) + bowl(domain=real(2))


def test_temperatures_weights_and_partners_that_mean_nothing_are_refused() -> None:
    for t in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="temperature"):
            bowl() / t
    with pytest.raises(ValueError, match="weight"):
        mixture(bowl(), bowl(), weights=(1.0, 0.0))
    with pytest.raises(ValueError, match="weight"):
        mixture(bowl(), bowl(), weights=(1.0,))
    for bad in (Sum, Mixture):
        with pytest.raises(ValueError, match="no energy"):
            bad([])
    for expression in (
        lambda: bowl() + 1,
        lambda: bowl() * bowl(),
        lambda: bowl() / bowl(),
        lambda: bowl() - "a",
    ):
        with pytest.raises(TypeError):
            expression()
    with pytest.raises(ValueError, match="callable"):
        Function(3)  # type: ignore[arg-type]


def test_a_sum_trains_the_weights_of_its_terms() -> None:
    net = MLP(real(2), hidden=(4,))
    both = 2 * net + bowl()
    both(torch.ones(3, 2)).sum().backward()
    expected = [
        2 * g for g in torch.autograd.grad(net(torch.ones(3, 2)).sum(), list(net.parameters()))
    ]
    for p, g in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, g)


# --------------------------------------------------------------------------------------- conditions


def shifted(x: Tensor, c: Tensor | None = None) -> Tensor:
    value = 0.5 * x.square().sum(1)
    return (
        value
        if c is None
        else value + 10.0 * c.flatten(1).sum(1)
        if c.dim() > 1
        else value + 10.0 * c
    )


def test_a_condition_binds_per_row_or_one_for_all() -> None:
    energy, x = Function(shifted, real(2)), noise(4, 2)
    rows = torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=DOUBLE)
    torch.testing.assert_close(energy.given(rows)(x), energy(x) + 10 * rows)
    for one in (2.0, 2, torch.tensor(2.0), torch.tensor([2.0])):
        torch.testing.assert_close(energy.given(one)(x), energy(x) + 20, check_dtype=False)
    torch.testing.assert_close(energy.given(torch.ones(1, 3))(x), energy(x) + 30)
    assert energy.given(1.0).domain == energy.domain


def test_wrong_rows_and_second_conditions_are_refused() -> None:
    energy = Function(shifted, real(2))
    with pytest.raises(ValueError, match=r"4 points met a condition of 3 rows;.*;"):
        energy.given(torch.zeros(3))(noise(4, 2))
    with pytest.raises(ValueError, match="bind only once"):
        energy.given(0.0)(noise(4, 2), 1.0)
    with pytest.raises(ValueError, match="bind only once"):
        energy.given(0.0).given(1.0)(noise(4, 2))


def test_conditions_pass_through_expressions() -> None:
    energy, x = Function(shifted), noise(4, 2)
    torch.testing.assert_close((energy + energy).given(1.0)(x), 2 * energy(x) + 20)
    torch.testing.assert_close(
        (energy.given(3.0) - energy.given(1.0))(x), torch.full((4,), 20.0, dtype=DOUBLE)
    )
    torch.testing.assert_close(mixture(energy, energy).given(2.0)(x), energy(x) + 20)
    guided = energy.given(1.0) + 2 * (energy.given(1.0) - energy)
    torch.testing.assert_close(guided(x), energy(x) + 30)


def test_a_bound_condition_is_not_saved_and_follows_the_module() -> None:
    bound = Given(MLP(real(2), hidden=(4,)), 0.5)
    assert "c" not in bound.state_dict()
    assert bound.double().c.dtype == DOUBLE


def test_energy_values_splits_conditions_with_the_rows() -> None:
    energy, x = Function(shifted), noise(10, 2)
    rows = torch.arange(10, dtype=DOUBLE)
    expected = energy(x) + 10 * rows
    for size in (1, 3, 10, 99):
        torch.testing.assert_close(energy_values(energy, x, rows, batch_size=size), expected)
        torch.testing.assert_close(energy_values(energy, x, 2.0, batch_size=size), energy(x) + 20)
        torch.testing.assert_close(
            energy_values(energy, x, torch.tensor([2.0]), batch_size=size), energy(x) + 20
        )
    assert energy_values(energy, x[:0]).shape == (0,)
    with pytest.raises(ValueError, match="batch_size"):
        energy_values(energy, x, batch_size=0)


def test_energy_values_refuses_a_condition_of_wrong_rows_in_three_clauses() -> None:
    with pytest.raises(ValueError, match=r";.*;"):
        energy_values(Function(shifted), noise(10, 2), torch.zeros(3))


def test_energy_values_takes_a_list_of_labels_as_given_does() -> None:
    energy, x = Function(shifted), noise(10, 2)
    torch.testing.assert_close(
        energy_values(energy, x, [1.0] * 10, batch_size=4),
        energy.given([1.0] * 10)(x),
        check_dtype=False,
    )


# ---------------------------------------------------------------------------------- value and score


def test_the_score_of_a_row_is_not_divided_by_the_batch() -> None:
    for rows in (1, 7, 500):
        x = noise(rows, 3)
        value, score = value_and_score(bowl(3.0), x)
        torch.testing.assert_close(score, -3 * x)
        torch.testing.assert_close(value, 1.5 * x.square().sum(1))


def test_a_constant_energy_has_score_zero() -> None:
    value, score = value_and_score(Function(lambda x: torch.ones(len(x))), torch.ones(3, 2))
    assert torch.equal(score, torch.zeros(3, 2)) and torch.equal(value, torch.ones(3))


@pytest.mark.parametrize("shape", [(2,), (1, 3, 3)])
def test_a_linear_energy_has_a_constant_score(shape: tuple[int, ...]) -> None:
    _, score = value_and_score(Function(lambda x: 2 * x.flatten(1).sum(1)), torch.ones(3, *shape))
    assert torch.equal(score, torch.full((3, *shape), -2.0))


def test_the_gradient_that_autograd_hands_out_is_not_changed_in_place() -> None:
    class Slope(torch.autograd.Function):
        kept = torch.ones(3, 2)

        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.sum(1)

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
            return Slope.kept

    first, second = (
        value_and_score(Function(Slope.apply), torch.ones(3, 2))[1].clone() for _ in range(2)
    )
    assert torch.equal(first, second)


def test_value_and_score_of_detached_parts_takes_points_that_require_grad() -> None:
    x = noise(3, 2).requires_grad_(True)
    _, score = value_and_score(bowl(), x * 2)
    torch.testing.assert_close(score, -2 * x.detach())
    assert x.grad is None


def test_value_and_score_leaves_no_trace_in_training_mode() -> None:
    probe = Probe()
    unsettle(probe)
    with no_trace(probe):
        value_and_score(probe, torch.randn(8, 3, generator=seeded()))


def test_freeze_changes_nothing_after_an_exception() -> None:
    probe = Probe()
    unsettle(probe)
    with no_trace(probe), pytest.raises(ArithmeticError), freeze(probe) as view:
        assert not any(m.training for m in view.modules()) and not any(
            p.requires_grad for p in view.parameters()
        )
        raise ArithmeticError


def test_freeze_nests() -> None:
    probe = Probe()
    unsettle(probe)
    with no_trace(probe), freeze(probe) as view:
        with freeze(view) as again:
            assert again is view
        assert not any(m.training for m in view.modules()) and not any(
            p.requires_grad for p in view.parameters()
        )


# ----------------------------------------------------------------------------------------- the door

REFUSED: dict[str, tuple[Callable[..., Any], Callable[[], Any], str]] = {
    "a sum over the batch": (
        lambda x: x.square().sum(),
        lambda: noise(4, 2),
        "one number per point",
    ),
    "a column": (
        lambda x: x.square().sum(1, keepdim=True),
        lambda: noise(4, 2),
        "one number per point",
    ),
    "energies per number": (lambda x: x.square(), lambda: noise(4, 2), "one number per point"),
    "a float": (lambda x: 3.0, lambda: noise(4, 2), "one number per point"),
    "a batch-summed scalar, expanded": (
        lambda x: x.square().sum().expand(len(x)),
        lambda: noise(4, 2),
        "moving one point",
    ),
    "points relative to their mean": (
        lambda x: (x - x.mean(0)).square().sum(1),
        lambda: noise(4, 2),
        "moving one point",
    ),
    "not a number": (lambda x: x.sum(1) / 0, lambda: noise(4, 2), "not finite"),
    "integers out": (lambda x: x.sum(1).long(), lambda: noise(4, 2), "floating point"),
    "integers in": (
        lambda x: x.sum(1),
        lambda: torch.ones(4, 2, dtype=torch.long),
        "points came as",
    ),
    "no points": (lambda x: x.sum(1), lambda: noise(0, 2), "points came as"),
    "a list": (lambda x: x.sum(1), lambda: [[1.0]], "points came as"),
    "points not finite": (lambda x: x.sum(1), lambda: noise(4, 2) * math.inf, "not finite"),
    "another event shape": (bowl(domain=real(3)), lambda: noise(4, 2), "event shape"),
    "points outside the box": (
        bowl(domain=box(0.0, 1.0, 2)),
        lambda: noise(4, 2),
        "outside the domain",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_the_door_refuses(what: str) -> None:
    energy, points, words = REFUSED[what]
    with pytest.raises(ValueError, match=f"{words}.*;.*;|;.*{words}.*;|;.*;.*{words}"):
        check_energy(energy, points())
    with pytest.raises(ValueError):
        sample(energy, MALA(0.1), points(), 1, generator=seeded())


def test_batch_norm_is_refused_in_training_mode_taken_in_eval_mode_and_its_buffers_stay() -> None:
    probe = Probe()
    probe.train()
    x = torch.randn(16, 3, generator=seeded())
    with no_trace(probe), pytest.raises(ValueError, match="batch norm"):
        check_energy(probe, x)
    probe.eval()
    with no_trace(probe):
        assert check_energy(probe, x) is probe


def test_spectral_norm_in_training_mode_is_an_energy() -> None:
    torch.manual_seed(0)
    check_energy(
        MLP(real(3), hidden=(16, 16), spectral_norm=True).train(),
        torch.randn(6, 3, generator=seeded()),
    )


def test_dependence_is_found_from_equal_starts_too() -> None:
    with pytest.raises(ValueError, match="moving one point"):
        check_energy(lambda x: (x - x.mean(0)).square().sum(1), torch.zeros(4, 2))


def test_lift_keeps_energies_and_wraps_callables_with_their_weights() -> None:
    energy = bowl()
    assert lift(energy) is energy
    layer = nn.Sequential(nn.Linear(2, 1), nn.Flatten(0))
    lifted = lift(layer)
    assert isinstance(lifted, Function) and list(lifted.parameters()) == list(layer.parameters())


def test_negated_energies_need_a_partner_or_walls() -> None:
    for bad in (-bowl(domain=real(2)), -bowl() - bowl(), -2 * bowl() / 3):
        with pytest.raises(ValueError, match="no normaliser"):
            check_normalisable(bad)
        with pytest.raises(ValueError, match="no normaliser"):
            sample(bad, MALA(0.1), torch.zeros(2, 2), 1, generator=seeded())
    for good in (-bowl(domain=box(0.0, 1.0, 2)), bowl() - bowl(0.5), bowl(), -1 * (-bowl())):
        check_normalisable(good)


def test_an_energy_without_a_forward_says_so() -> None:
    with pytest.raises(NotImplementedError):
        Energy()(torch.ones(2, 2))


def cut(x: Tensor) -> Tensor:
    return 0.5 * x.detach().square().sum(1)


@pytest.mark.parametrize("start", [torch.zeros(40, 2), torch.randn(40, 2, generator=seeded())])
def test_an_energy_without_a_gradient_is_refused(start: Tensor) -> None:
    """An energy that cuts the graph has score zero: Langevin would diffuse freely."""
    for ask in (
        lambda: check_energy(cut, start),
        lambda: sample(cut, Langevin(0.1), start, 5, generator=seeded()),
    ):
        with pytest.raises(ValueError, match=r"gradient is zero;.*;.*graph"):
            ask()
    check_energy(lambda x: 0.5 * x.square().sum(1), start)  # a mode has no gradient either
    check_energy(lambda x: torch.full((len(x),), 2.0), start)


class Bowl(Energy):
    """A user's energy that names no condition, with its gradient by hand."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x.square().sum(1)

    def value_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self(x), -x


@pytest.mark.parametrize("chunk", [None, 2])
def test_an_energy_need_not_name_a_condition_to_stand_in_expressions(chunk: int | None) -> None:
    x, whole = torch.randn(4, 2, generator=seeded()), Function(lambda x: x.square().sum(1), real())
    for energy in (Bowl() + Bowl(), 4 * Bowl() / 2, mixture(2 * Bowl(), Bowl() + Bowl())):
        for sampler in (MALA(0.1), ParallelTempering(MALA(0.1), (1.0, 2.0))):
            ends = [
                sample(e, sampler, x, 3, generator=seeded(1), chunk=chunk).x
                for e in (energy, whole)
            ]
            torch.testing.assert_close(*ends)


def test_a_second_condition_is_refused_when_it_is_bound() -> None:
    machine = RBM(binary(4), classes=3)
    for bound in (machine.given(1), (2 * machine).given(1), machine.given(1) + machine):
        with pytest.raises(ValueError, match="a condition was passed to an energy that has one"):
            bound.given(0)
