"""What every registered energy keeps to, and every variant of its constructor's switches."""

import copy
import json
import math
from typing import Any

import pytest
import torch

from contract.cases import Case, bound, cases, points, seeded, where
from contract.checks import Probe, gradient_is_right, no_trace, rows_are_independent, unsettle
from lowland import MALA, check_energy, energy_values, sample, tune, value_and_score
from lowland.energy import Energy, labels_of
from lowland.registry import build, parameters, registered, spec
from lowland.targets import Gaussian

CASES = cases("energy")
every = pytest.mark.parametrize("case", CASES, ids=str)
continuous = pytest.mark.parametrize(
    "case", where("energy", lambda e: e.domain.kind in ("real", "box")), ids=str
)
with_classes = pytest.mark.parametrize(
    "case", [c for c in CASES if "classes" in c.settings], ids=str
)


def confine(energy: Energy) -> Energy:
    """Add a wide bowl to a network on the real line: one of random weights may rise nowhere far
    out, and `tune` refuses what has no normaliser.
    """
    if energy.domain.kind != "real" or not any(True for _ in energy.parameters()):
        return energy
    size = math.prod(energy.domain.shape)
    wide = [[25.0 * (i == k) for k in range(size)] for i in range(size)]
    return energy + Gaussian((0.0,) * size, wide)


@pytest.mark.parametrize("name", registered("energy"))
def test_every_constructor_parameter_is_an_attribute(name: str) -> None:
    energy = Case("energy", name, {}).build()
    assert set(spec(energy)) == {"name", *parameters(type(energy))}


@every
def test_spec_survives_json_and_with_the_weights_gives_the_same_energies(case: Case) -> None:
    energy = case.build()
    for p in energy.parameters():
        p.data.add_(0.01)
    energy.eval()
    other = build("energy", json.loads(json.dumps(spec(energy)))).eval()
    other.load_state_dict(energy.state_dict())
    x = points(energy, 20)
    assert (
        spec(other) == spec(energy)
        and other.domain == energy.domain
        and type(other) is type(energy)
    )
    assert torch.equal(energy_values(bound(energy), x), energy_values(bound(other), x))
    assert getattr(energy, "log_z", None) == getattr(other, "log_z", None)


@every
def test_energies_are_one_finite_number_per_point_in_both_precisions(case: Case) -> None:
    energy = case.build()
    x = points(energy, 30, dtype=torch.float64)
    single = energy_values(bound(energy), x.float())
    double = energy_values(bound(case.build(torch.float64)), x)
    for value, dtype in ((single, torch.float32), (double, torch.float64)):
        assert value.shape == (30,) and value.dtype == dtype and value.isfinite().all()
    assert double.std() > 0
    torch.testing.assert_close(
        single.double(), double, rtol=1e-4, atol=1e-4 * double.abs().max().item()
    )


@every
def test_batches_of_one_and_of_a_thousand_give_the_same_energies(case: Case) -> None:
    energy = bound(case.build(torch.float64))
    x = points(energy, 1000, dtype=torch.float64)
    whole = energy_values(energy, x)
    torch.testing.assert_close(
        energy_values(energy, x[:40], batch_size=1), whole[:40], rtol=1e-11, atol=1e-11
    )
    torch.testing.assert_close(
        energy_values(energy, x, batch_size=333), whole, rtol=1e-11, atol=1e-11
    )


@every
def test_no_row_moves_another(case: Case) -> None:
    energy = bound(case.build(torch.float64))
    rows_are_independent(energy, points(energy, 9, dtype=torch.float64))
    check_energy(energy.eval(), points(energy, 9, dtype=torch.float64))


@continuous
def test_score_is_minus_the_gradient_by_central_differences(case: Case) -> None:
    energy = bound(case.build())
    x = points(energy, 4, dtype=torch.float64)
    gradient_is_right(energy, x)


@continuous
def test_score_of_a_row_does_not_know_the_size_of_the_batch(case: Case) -> None:
    energy = bound(case.build(torch.float64)).eval()
    x = points(energy, 50, dtype=torch.float64)
    _, score = value_and_score(energy, x)
    _, alone = value_and_score(energy, x[:1])
    torch.testing.assert_close(score[:1], alone, rtol=1e-10, atol=1e-11)


@continuous
def test_gradient_flows_to_x_only_and_x_is_left_alone(case: Case) -> None:
    energy = bound(case.build()).eval()
    x = points(energy, 5).requires_grad_(True)
    before = x.detach().clone()
    value, score = value_and_score(energy, x)
    assert not value.requires_grad and not score.requires_grad
    assert x.grad is None and x.requires_grad and torch.equal(x.detach(), before)
    assert all(p.grad is None for p in energy.parameters())


@with_classes
def test_hard_labels_are_one_hot_soft_labels_and_soft_labels_are_averages(case: Case) -> None:
    energy = case.build(torch.float64).eval()
    x = points(energy, 12, dtype=torch.float64)
    k = energy.classes
    labels = torch.arange(12) % k
    table = torch.stack([energy(x, torch.full((12,), i)) for i in range(k)], 1)
    torch.testing.assert_close(
        energy(x, labels), table[torch.arange(12), labels], rtol=1e-11, atol=1e-11
    )
    one_hot = torch.nn.functional.one_hot(labels, k)
    torch.testing.assert_close(
        energy(x, one_hot.double()), energy(x, labels), rtol=1e-11, atol=1e-11
    )
    soft = torch.rand(12, k, generator=seeded(), dtype=torch.float64)
    soft = soft / soft.sum(1, keepdim=True)
    torch.testing.assert_close(energy(x, soft), (soft * table).sum(1), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(energy(x), -(-table).exp().mean(1).log(), rtol=1e-11, atol=1e-11)
    known = labels_of(energy)
    if known is not None:
        torch.testing.assert_close(known.class_energies(x), table, rtol=1e-11, atol=1e-11)
    assert table.std(1).min() > 0, "all classes have one energy: the test would prove nothing"
    for c in (labels, soft):
        torch.testing.assert_close(
            energy_values(energy, x, c), energy(x, c).detach(), rtol=1e-11, atol=1e-11
        )
        torch.testing.assert_close(energy.given(c)(x), energy(x, c), rtol=1e-11, atol=1e-11)
    assert torch.equal(energy_values(energy, x, 1), energy.given(1)(x)) and torch.equal(
        energy.given(1)(x), table[:, 1]
    )


@with_classes
def test_wrong_labels_are_refused(case: Case) -> None:
    energy = case.build()
    x = points(energy, 4)
    wrong = [
        torch.tensor([0, 1, 2, energy.classes]),
        torch.tensor([0, -1, 2, 0]),
        torch.tensor([0.0, 1.0, 2.0, 0.0]),
        torch.zeros(3, dtype=torch.long),
        torch.zeros(4, energy.classes + 1),
        torch.zeros(3, energy.classes),
    ]
    for c in wrong:
        with pytest.raises(ValueError, match=r";.*;"):
            energy(x, c)
        with pytest.raises(ValueError, match=r";.*;"):
            energy.given(c)(x)


@every
def test_energy_without_classes_refuses_labels(case: Case) -> None:
    energy = case.build()
    if getattr(energy, "classes", None) != 0 or energy.condition is not None:
        pytest.skip("has classes, or takes no condition")
    with pytest.raises(ValueError, match=r";.*;"):
        energy(points(energy, 3), torch.tensor([0, 0, 0]))


@every
def test_scoring_leaves_no_trace(case: Case) -> None:
    energy = bound(case.build())
    x = points(energy, 6)
    unsettle(energy)
    still = copy.deepcopy(energy).eval()
    with no_trace(energy):
        value = energy_values(energy, x)
    torch.testing.assert_close(value, still(x).detach())


@continuous
def test_sampling_and_tuning_leave_no_trace_and_spectral_norm_stands_still(case: Case) -> None:
    energy = bound(case.build())
    x = points(energy, 6)
    unsettle(energy)
    with no_trace(energy):
        sample(energy, MALA(1e-3), x, 3, generator=seeded())
    energy.train()
    with no_trace(energy):
        sample(energy, MALA(1e-3), x, 3, generator=seeded())
    energy.eval()
    whole = confine(energy)
    with no_trace(whole):
        tune(whole, MALA(1e-3), x, 20, generator=seeded())


@pytest.mark.parametrize("name", ["spectral", "batch norm"])
def test_tune_takes_a_module_in_training_mode_as_sample_does(name: str) -> None:
    energy = (
        Case("energy", "MLP", {"spectral_norm": True}).build() if name == "spectral" else Probe()
    )
    x = points(energy, 16)
    whole = confine(energy).train()
    with no_trace(whole):
        sample(whole, MALA(1e-3), x, 3, generator=seeded())
        tune(whole, MALA(1e-3), x, 20, generator=seeded())


@every
def test_nothing_is_left_after_an_exception_either(case: Case) -> None:
    energy = bound(case.build())
    x = points(energy, 6)
    unsettle(energy)
    calls = 0

    def blow(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > 4:
            raise ArithmeticError("the fuse has blown")

    handle = energy.register_forward_pre_hook(blow)
    with no_trace(energy), pytest.raises(ArithmeticError):
        energy_values(energy, x, batch_size=1)
    handle.remove()
    calls = 0
    if energy.domain.kind in (
        "real",
        "box",
    ):  # a gradient by hand does not pass by forward: the caller's own code blows
        with no_trace(energy), pytest.raises(ArithmeticError):
            sample(energy, MALA(1e-3), x, 30, generator=seeded(), progress=blow)


@continuous
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_scores_and_chains_are_the_same_inside_no_grad_and_inference_mode(
    case: Case, mode: type
) -> None:
    energy = bound(case.build()).eval()
    x = points(energy, 5)
    outside = (energy_values(energy, x), *value_and_score(energy, x))
    chain = sample(energy, MALA(1e-3), x, 3, generator=seeded(1)).x
    with mode():
        inside = (energy_values(energy, x), *value_and_score(energy, x))
        born_inside = x * 1.0
        value_and_score(energy, born_inside)
        again = sample(energy, MALA(1e-3), born_inside, 3, generator=seeded(1)).x
    assert all(torch.equal(a, b) for a, b in zip(outside, inside, strict=True))
    assert torch.equal(chain, again)


@with_classes
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_conditions_can_be_bound_inside_no_grad_and_inference_mode(case: Case, mode: type) -> None:
    energy = case.build().eval()
    x = points(energy, 5)
    soft = torch.full((5, energy.classes), 1 / energy.classes)
    for c in (torch.arange(5) % energy.classes, soft):
        outside = value_and_score(energy.given(c), x)
        with mode():
            inside = value_and_score(energy.given(c * 1), x)
        assert all(torch.equal(a, b) for a, b in zip(outside, inside, strict=True))


@every
def test_log_z_is_a_finite_float_where_it_is_known(case: Case) -> None:
    energy = case.build()
    if hasattr(energy, "log_z"):
        assert isinstance(energy.log_z, float) and math.isfinite(energy.log_z)
        x = energy.draw(5, seeded(), torch.float64)
        assert x.dtype == torch.float64 and energy.domain.contains(x).all()
