"""What every registered sampler keeps to. Those that call themselves adjusted are proven from exact draws."""

import dataclasses
import json
from itertools import pairwise
from typing import Any

import pytest
import torch

from contract import checks
from contract.cases import BAD, TARGETS, Case, cases, seeded, where
from lowland import Function, box, build, real, sample, spec
from lowland.registry import parameters
from lowland.samplers import Sampler

CASES = cases("sampler")
every = pytest.mark.parametrize("case", CASES, ids=str)
adjusted = pytest.mark.parametrize("case", where("sampler", lambda s: s.adjusted), ids=str)
unadjusted = pytest.mark.parametrize("case", where("sampler", lambda s: not s.adjusted), ids=str)
precisions = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


@every
def test_is_a_frozen_dataclass_and_a_sampler(case: Case) -> None:
    sampler = case.build()
    assert isinstance(sampler, Sampler) and isinstance(sampler.adjusted, bool) and sampler.gradients >= 0
    for field in dataclasses.fields(sampler):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(sampler, field.name, 1.0)


@every
def test_spec_survives_json(case: Case) -> None:
    sampler = case.build()
    if "clamp" in parameters(type(sampler)):
        sampler = dataclasses.replace(sampler, clamp=(0.0, 1.0))
    again = build("sampler", json.loads(json.dumps(spec(sampler))))
    assert again == sampler and hash(again) == hash(sampler)


@every
def test_bad_settings_are_refused(case: Case) -> None:
    tried = {name: values for name, values in BAD.items() if name in parameters(type(case.build()))}
    for name, values in tried.items():
        for value in values:
            with pytest.raises(ValueError, match=r";.*;"):
                case.build(**{name: value})


@adjusted
@precisions
@pytest.mark.parametrize("name", TARGETS)
def test_adjusted_sampler_leaves_the_law_as_it_is(case: Case, dtype: torch.dtype, name: str) -> None:
    # 3 seeds × 20,000 exact draws; moments, energies and tails, pooled over seeds
    assert checks.stationarity(case.build(), TARGETS[name], dtype=dtype) < checks.LIMIT


@adjusted
@pytest.mark.parametrize("name", ["exponential", "truncated", "gaussian"])
def test_exact_at_a_large_step_too(case: Case, name: str) -> None:
    sampler = case.build()
    sampler = dataclasses.replace(sampler, step_size=2.5 * sampler.step_size) if hasattr(sampler, "step_size") else sampler
    assert checks.stationarity(sampler, TARGETS[name], dtype=torch.float64) < checks.LIMIT


@adjusted
def test_histogram_near_the_walls_is_exact(case: Case) -> None:
    # exp(−2x) on [0, 1]: 12 bins, the outer ones 0.01 and 0.04 wide; n = 60,000 independent chains; binomial errors
    g, n, target = seeded(21), 60_000, TARGETS["exponential"]
    trace = sample(target.energy, case.build(), target.draw(n, g, torch.float64), 15, generator=g)
    edges = torch.tensor([0, 0.01, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.99, 1.0], dtype=torch.float64)
    mass = -torch.expm1(-2 * edges) / -torch.expm1(torch.tensor(-2.0, dtype=torch.float64))
    p = mass.diff()
    x = trace.x.flatten()
    counts = torch.stack([((x >= a) & (x < b)).sum() for a, b in pairwise(edges)])
    z = (counts - n * p) / (n * p * (1 - p)).sqrt()
    assert z.abs().max() < checks.LIMIT
    assert (x >= 0).all() and (x <= 1).all()


@every
def test_chains_do_not_know_each_other(case: Case) -> None:
    checks.chains_are_separate(case.build())


@every
def test_repeats(case: Case) -> None:
    checks.repeats(case.build())


@every
def test_gradients_are_counted_as_declared(case: Case) -> None:
    checks.gradients_as_declared(case.build())
    if "leapfrogs" in parameters(type(case.build())):
        for leapfrogs in (1, 7):
            checks.gradients_as_declared(case.build(leapfrogs=leapfrogs))


@every
def test_state_carries_energy_and_score_of_its_points(case: Case) -> None:
    checks.state_is_fresh(case.build())


@every
@pytest.mark.parametrize("hole", checks.HOLES)
def test_non_finite_proposals_are_refused_and_counted(case: Case, hole: str) -> None:
    checks.refuses_holes(case.build(), hole)


@every
@precisions
@pytest.mark.parametrize("shape", [(2,), (1, 8, 8), (3, 4, 4)], ids=str)
@pytest.mark.parametrize("rows", [1, 5])
def test_any_event_shape(case: Case, shape: tuple[int, ...], rows: int, dtype: torch.dtype) -> None:
    """An event is a vector in another dress: chains of images equal chains of the same numbers laid flat."""
    sampler = case.build()
    bowl = lambda x: x.flatten(1).square().sum(1)  # noqa: E731
    x = torch.rand(rows, *shape, generator=seeded(), dtype=dtype)
    trace = sample(Function(bowl, real(*shape)), sampler, x, 3, generator=seeded(1))
    flat = sample(Function(bowl, real(x[0].numel())), sampler, x.flatten(1), 3, generator=seeded(1))
    assert trace.x.shape == x.shape and trace.x.dtype == dtype and trace.acceptance.shape == (rows,)
    torch.testing.assert_close(trace.x.flatten(1), flat.x)
    torch.testing.assert_close(trace.state.energy, bowl(trace.x))


@every
def test_chains_stay_in_their_box(case: Case) -> None:
    sampler = case.build()
    if "clamp" in parameters(type(sampler)):  # the recipe that clamps, and says so
        sampler = dataclasses.replace(sampler, clamp=(0.0, 1.0))
    energy = Function(lambda x: (-9 * x).flatten(1).sum(1), box(0.0, 1.0, 1, 4, 4))
    trace = sample(energy, sampler, energy.domain.draw(50, seeded()), 20, generator=seeded(), keep=1)
    assert ((trace.draws >= 0) & (trace.draws <= 1)).all()
    assert trace.draws.std() > 0


@every
def test_sampling_leaves_no_trace_on_the_module(case: Case) -> None:
    checks.sampling_leaves_no_trace(case.build())


@every
def test_no_trace_after_an_exception_in_forward(case: Case) -> None:
    probe = checks.Probe()
    checks.unsettle(probe)
    probe.fuse = 6
    x = torch.randn(8, 3, generator=seeded())
    with checks.no_trace(probe), pytest.raises(ArithmeticError):
        sample(probe, case.build(), x, 20, generator=seeded())


@every
def test_no_trace_after_an_exception_in_the_step(case: Case) -> None:
    class Exploding(type(case.build())):  # type: ignore[misc]
        def step(self, energy: Any, state: Any, generator: torch.Generator) -> Any:
            super().step(energy, state, generator)
            raise ArithmeticError("the step broke")

    probe = checks.Probe()
    checks.unsettle(probe)
    broken = Exploding(**{f.name: getattr(case.build(), f.name) for f in dataclasses.fields(case.build())})
    with checks.no_trace(probe), pytest.raises(ArithmeticError):
        sample(probe, broken, torch.randn(8, 3, generator=seeded()), 5, generator=seeded())


@every
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_same_bits_inside_no_grad_and_inference_mode(case: Case, mode: type) -> None:
    x = torch.randn(8, 3, generator=seeded())
    probe = checks.Probe()
    outside = sample(probe, case.build(), x, 5, generator=seeded(1)).x
    with mode():
        inside = sample(probe, case.build(), x * 1.0, 5, generator=seeded(1)).x
    assert torch.equal(outside, inside)


@unadjusted
def test_unadjusted_sampler_says_so_because_its_law_is_biased(case: Case) -> None:
    """The check that proves the adjusted ones condemns those that do not claim to be exact."""
    assert checks.stationarity(case.build(), TARGETS["gaussian"], seeds=(0,)) > checks.LIMIT
