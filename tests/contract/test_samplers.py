"""What every registered sampler keeps to: its promises, which lowland.testing knows, and its
manners as a class.
"""

import dataclasses
import json
from typing import Any

import pytest
import torch

from contract.cases import BAD, Case, cases, where
from lowland import Function, box, real, sample
from lowland.registry import build, parameters, registered, spec
from lowland.samplers import Sampler
from lowland.testing import (
    LIMIT,
    TARGETS,
    Chains,
    Obligation,
    Probe,
    all_samplers,
    no_trace,
    obligations,
    seeded,
    stationarity,
    unsettle,
    z_scores,
)
from lowland.testing.exact_checks import SITES, domain_of

CASES = cases("sampler")
SHIPPED = all_samplers()
LEAVES = "sampling leaves no trace"
every = pytest.mark.parametrize("case", CASES, ids=str)


def kinds(sampler: Any) -> list[str]:
    return [kind for kind in ("real", "binary", "categorical") if kind in sampler.domains]


def duties() -> list[tuple[str, Obligation]]:
    """What is asked of every form of every sampler, with fewer chains where steps are dear;
    benchmarks.proof.samplers asks it all.
    """
    found = []
    for name, sampler in SHIPPED.items():
        plain = name in registered("sampler")
        dear = any(word in name for word in ("NUTS", "Tempering", "Gibbs", "DMALA"))
        more: dict[str, Any] = {"count": 4_000 if dear else 20_000, "seeds": (0,)}
        wanted = [*TARGETS] if plain else ["mixture", "truncated", "words", "holed classes"]
        for dtype in (torch.float32, torch.float64) if plain else (torch.float32,):
            found += [
                (name, duty)
                for duty in obligations(sampler, targets=_only(wanted), dtypes=(dtype,), **more)
            ]
            wanted = ["gaussian", "exponential", "holed bits", "classes"]
    once = {f"{name}: {duty}": (name, duty) for name, duty in found}
    return [
        (name, duty)
        for name, duty in once.values()
        if (duty.check != "bias order" or name in registered("sampler"))
        and (duty.check, duty.dtype) != ("arrival", "float64")
    ]


def _only(names: list[str]) -> dict[str, Any]:
    return {name: TARGETS[name] for name in names}


def marks(name: str, duty: Obligation) -> list[pytest.MarkDecorator]:
    """Leave to the slow suite, and to benchmarks.proof.samplers, what others like it prove.

    Tempering is proven around one sampler of each kind of space and around whole sweeps, arrival of
    NUTS on a Gaussian, and sides of two sweeps by those of one.
    """
    late = name in ("Tempering of HMC", "Tempering of NUTS", "Tempering of GHMC")
    late |= name == "Tempering of DMALA"
    late |= name == "NUTS" and duty.check == "arrival" and duty.target != "gaussian"
    late |= name == "BlockGibbs, 2 sweeps" and duty.check in ("any event shape", LEAVES)
    return [pytest.mark.slow] if late else []


@pytest.mark.parametrize(
    ("name", "duty"),
    [
        pytest.param(name, duty, id=f"{name}: {duty}", marks=marks(name, duty))
        for name, duty in duties()
    ],
)
def test_keeps_its_promises(name: str, duty: Obligation) -> None:
    row = duty.run()
    assert row.holds, f"{row.note or row.figure}"


def test_every_registered_sampler_is_proven() -> None:
    assert {type(sampler).__name__ for sampler in SHIPPED.values()} == set(registered("sampler"))


@pytest.mark.parametrize("name", ["exponential", "truncated", "gaussian", "bits"])
@pytest.mark.parametrize(
    "case", where("sampler", lambda s: s.adjusted and hasattr(s, "step_size")), ids=str
)
def test_exact_at_a_large_step_too(case: Case, name: str) -> None:
    sampler, target = case.build(), TARGETS[name]
    if target.energy.domain.kind in sampler.domains:
        large = dataclasses.replace(sampler, step_size=2.5 * sampler.step_size)
        assert stationarity(large, target, dtype=torch.float64, count=10_000) < LIMIT


@pytest.mark.parametrize("name", ["Langevin", "ShortRun"])
def test_the_proof_condemns_those_that_do_not_claim_to_be_exact(name: str) -> None:
    assert stationarity(SHIPPED[name], TARGETS["gaussian"], seeds=(0,)) > LIMIT


@pytest.mark.parametrize("name", ["Langevin", "LeimkuhlerMatthews", "Underdamped"])
def test_without_a_slope_there_is_no_bias_up_to_the_walls(name: str) -> None:
    assert stationarity(SHIPPED[name], TARGETS["flat"]) < LIMIT


@pytest.mark.parametrize("name", ["LeimkuhlerMatthews", "Underdamped"])
def test_second_order_schemes_have_the_exact_variance_on_a_gaussian(name: str) -> None:
    # n = 100,000 numbers; Euler's at the same steps is 1 / (1 − h/2)
    bowl = Function(lambda x: 0.5 * x.square().sum(1), real(5))
    x = torch.randn(20_000, 5, generator=seeded(1), dtype=torch.float64)
    y = Chains(SHIPPED[name], bowl, x, seeded(2)).walk(40).flatten()
    assert abs(z_scores(y.square(), 1.0).item()) < LIMIT < abs(z_scores(y.square(), 1.03).item())


@every
def test_is_a_frozen_dataclass_and_a_sampler(case: Case) -> None:
    sampler = case.build()
    assert (
        isinstance(sampler, Sampler)
        and isinstance(sampler.adjusted, bool)
        and sampler.num_grad_evals >= 0
    )
    for field in dataclasses.fields(sampler):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(sampler, field.name, 1.0)


@every
def test_spec_survives_json(case: Case) -> None:
    sampler = case.build()
    for name, value in (("clamp", (0.0, 1.0)), ("inv_mass_sqrt", (0.5, 2.0))):
        if name in parameters(type(sampler)):
            sampler = dataclasses.replace(sampler, **{name: value})
    again = build("sampler", json.loads(json.dumps(spec(sampler))))
    assert again == sampler and hash(again) == hash(sampler)


@every
def test_bad_settings_are_refused(case: Case) -> None:
    tried = {name: values for name, values in BAD.items() if name in parameters(type(case.build()))}
    for name, values in tried.items():
        for value in values:
            with pytest.raises(ValueError, match=r";.*;"):
                case.build(**{name: value})


@every
def test_a_domain_for_which_it_is_not_made_is_refused(case: Case) -> None:
    sampler = case.build()
    other = domain_of("real" if "real" not in sampler.domains else "binary", 2)
    with pytest.raises(ValueError, match=r";.*;"):
        sample(
            Function(lambda x: x.square().sum(1), other),
            sampler,
            other.draw(3, seeded()),
            1,
            generator=seeded(),
        )


def test_the_recipe_that_clamps_stays_in_the_box() -> None:
    sampler = dataclasses.replace(SHIPPED["ShortRun"], clamp=(0.0, 1.0))
    energy = Function(lambda x: (-9 * x).flatten(1).sum(1), box(0.0, 1.0, 1, 4, 4))
    trace = sample(
        energy, sampler, energy.domain.draw(50, seeded()), 20, generator=seeded(), thin=1
    )
    assert ((trace.draws >= 0) & (trace.draws <= 1)).all() and trace.draws.std() > 0


@every
def test_no_trace_after_an_exception_in_the_step(case: Case) -> None:
    class Exploding(type(case.build())):  # type: ignore[misc]
        def step(self, energy: Any, state: Any, generator: torch.Generator) -> Any:
            super().step(energy, state, generator)
            raise ArithmeticError("the step broke")

    broken = Exploding(
        **{f.name: getattr(case.build(), f.name) for f in dataclasses.fields(case.build())}
    )
    for kind in kinds(broken):
        probe = Probe(domain_of(kind, SITES))
        unsettle(probe)
        with no_trace(probe), pytest.raises(ArithmeticError):
            sample(probe, broken, probe.domain.draw(8, seeded()), 5, generator=seeded())


@every
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_same_bits_inside_no_grad_and_inference_mode(case: Case, mode: type) -> None:
    for kind in kinds(case.build()):
        probe = Probe(domain_of(kind, SITES))
        x = probe.domain.draw(8, seeded())
        outside = sample(probe, case.build(), x, 5, generator=seeded(1)).x
        with mode():
            inside = sample(probe, case.build(), x * 1.0, 5, generator=seeded(1)).x
        assert torch.equal(outside, inside)
