"""The bench itself: are its exact draws exact, its statistics calibrated, its verdicts right on
samplers of known quality?
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.proof import samplers as proof
from lowland import MALA, Energy, Function, Langevin, ParallelTempering, categorical
from lowland.energy import value_and_score
from lowland.testing import (
    CONTINUOUS_TARGETS,
    DISCRETE_TARGETS,
    LIMIT,
    TARGETS,
    Chains,
    Report,
    Row,
    enumeration,
    fit_metric,
    joint,
    mutate,
    obligations,
    prove,
    seeded,
    stationarity,
    stationary,
    worst,
    z_scores,
)
from lowland.testing.bias import Slope, _regression
from lowland.testing.exact_checks import one_hot_energy, parts
from lowland.testing.geweke import MODELS
from lowland.testing.mutants import MUTANTS
from lowland.testing.statistical_checks import distance
from lowland.testing.targets import Perceptron, cut_normal

DOUBLE = torch.float64
N = 100_000


# ------------------------------------------------------------------------------------------ targets


def stein(name: str, temperature: float, x: Tensor) -> float:
    """Worst |z| of Stein's identity ⟨∇·f + f·score / T⟩ = 0, for fields f that vanish where the
    support ends.
    """
    target = TARGETS[name]
    domain, flat = target.energy.domain, x.flatten(1)
    score = value_and_score(target.energy, x)[1].flatten(1) / temperature
    leaf = flat.clone().requires_grad_(True)
    ends = torch.ones_like(leaf)
    if domain.kind == "box":
        ends = (leaf - domain.lo) * (domain.hi - leaf)
    if name == "gamma":
        ends = leaf + 3
    if name == "cut":
        ends = torch.cat([0.5 - leaf[:, :1], torch.ones_like(leaf[:, 1:])], 1)
    found = []
    for field in (1 + 0 * leaf, leaf, (1.3 * leaf).sin()):
        f = ends * field
        (slope,) = torch.autograd.grad(f.sum(), leaf, retain_graph=True)
        found.append(slope + f.detach() * score)
    return worst(torch.cat(found, 1).detach())


@pytest.mark.parametrize("temperature", [1.0, 1.7, 4.0])
@pytest.mark.parametrize("name", CONTINUOUS_TARGETS)
def test_exact_draws_satisfy_steins_identity(name: str, temperature: float) -> None:
    target = CONTINUOUS_TARGETS[name]
    if temperature == 1:
        assert stein(name, 1.0, target.draw(N, seeded(1), DOUBLE)) < LIMIT
    elif target.hot is not None:
        x = target.hot(temperature, N, seeded(2), DOUBLE)
        assert stein(name, temperature, x) < LIMIT
        if name != "flat":
            assert stein(name, 1.5 * temperature, x) > LIMIT, (
                "the identity does not tell temperatures apart"
            )


@pytest.mark.parametrize("name", CONTINUOUS_TARGETS)
def test_wrong_draws_are_seen_by_steins_identity(name: str) -> None:
    x = CONTINUOUS_TARGETS[name].draw(N, seeded(1), DOUBLE)
    assert stein(name, 1.0, 0.97 * x) > LIMIT


def test_draws_of_the_cut_normal_cover_their_range() -> None:
    x = cut_normal(0.3, 0.8, -0.5, 1.0, torch.linspace(0, 1, 101, dtype=DOUBLE))
    assert x[0] == -0.5 and x[-1] == 1.0 and (x.diff() > 0).all()
    middle = torch.special.ndtr((x[50] - 0.3) / 0.8)
    ends = torch.special.ndtr((torch.tensor([-0.5, 1.0], dtype=DOUBLE) - 0.3) / 0.8)
    torch.testing.assert_close(middle, ends.mean())


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("name", DISCRETE_TARGETS)
def test_discrete_draws_follow_the_list_of_states(name: str, temperature: float) -> None:
    target = DISCRETE_TARGETS[name]
    assert target.states is not None and target.hot is not None
    p = target.probabilities(temperature)
    boltzmann = (-target.energy(target.states.double()).detach() / temperature).exp()
    torch.testing.assert_close(p, boltzmann / boltzmann.sum())
    assert target.energy.domain.contains(target.states).all() and len(
        target.states.unique(dim=0)
    ) == len(p)
    x = target.hot(temperature, N, seeded(1), DOUBLE)
    same = (x.flatten(1).unsqueeze(1) == target.states.double().flatten(1)).all(2).double().sum(0)
    assert same.sum() == N and abs(distance(same, p).z) < LIMIT
    assert distance(same, target.probabilities(1.1 * temperature)).z > LIMIT


def test_networks_agree_with_their_relaxation_and_are_not_linear_in_it() -> None:
    energy = Perceptron(categorical(3, 4))
    x = energy.domain.draw(20, seeded(), dtype=DOUBLE)
    z = torch.nn.functional.one_hot(x.long(), 3).to(DOUBLE)
    relaxed = one_hot_energy(energy)
    torch.testing.assert_close(energy(x), relaxed(z))
    bend = relaxed(0.5 * z) - 0.5 * (relaxed(z) + relaxed(0 * z))
    assert (bend.abs() > 0.1).any()


# -------------------------------------------------------------------------------------- calibration


def test_z_scores_are_standard_normal_for_the_truth() -> None:
    z = torch.stack(
        [z_scores(torch.rand(500, 4, generator=seeded(s)), 0.5) for s in range(400)]
    ).flatten()
    assert abs(z_scores(z).item()) < LIMIT and abs(z_scores(z.square(), 1.0).item()) < LIMIT


def test_the_distance_of_exact_counts_is_standard_normal() -> None:
    # 400 experiments of 5,000 draws from 64 states, a fifth of them pooled; mean 0 and variance 1
    # within 5 standard errors
    p = torch.linspace(-7, 0, 64, dtype=DOUBLE).softmax(0)
    z = torch.tensor(
        [
            distance(
                torch.multinomial(p, 5000, True, generator=seeded(s))
                .bincount(minlength=64)
                .double(),
                p,
            ).z
            for s in range(400)
        ]
    )
    assert 0.05 < (5000 * p < 10).double().mean() < 0.5
    assert abs(z_scores(z).item()) < LIMIT and abs(z_scores(z.square(), 1.0).item()) < LIMIT


def test_a_law_that_is_one_percent_off_is_far_away() -> None:
    p = torch.ones(64, dtype=DOUBLE) / 64
    bent = torch.cat([p[:32] * 1.02, p[32:] * 0.98])  # total variation 0.01
    counts = (
        torch.multinomial(bent, 400_000, True, generator=seeded()).bincount(minlength=64).double()
    )
    found = distance(counts, p)
    assert found.z > LIMIT and abs(found.variation - 0.01) < 0.004


@pytest.mark.parametrize("power", [1, 2, 3])
def test_the_slope_of_a_power_law_is_its_power(power: int) -> None:
    steps = torch.tensor([1.0, 0.7, 0.5], dtype=DOUBLE)
    noise = 0.02 * torch.randn(4000, 3, generator=seeded(power), dtype=DOUBLE)
    found = _regression(steps.log(), 0.05 * steps**power + noise)
    assert (
        found.error < 0.2
        and found.z(power) < LIMIT
        and min(found.z(power + 1), found.z(power - 1)) > LIMIT
    )
    repeated = [
        _regression(steps.log(), 0.05 * steps**power + noise.roll(k, 1)[k::9]).order
        for k in range(9)
    ]
    assert 0.3 < torch.tensor(repeated).std() / (3 * found.error) < 3, (
        "the standard error is not that of the slope"
    )


def test_a_slope_that_is_not_known_proves_nothing() -> None:
    assert Slope(2.0, 0.19, ()).z(2) == 0 and Slope(2.0, 0.21, ()).z(2) > LIMIT


# ------------------------------------------------------------------------ samplers of known quality


@dataclasses.dataclass(frozen=True)
class Exact:
    """Moves to a fresh exact draw of a target, stretched by a factor."""

    target: str
    stretch: float = 1.0

    def __call__(self, energy: Energy, x: Tensor, steps: int, generator: torch.Generator) -> Tensor:
        return self.stretch * TARGETS[self.target].draw(len(x), generator, x.dtype)


def conjugate(rate: float) -> Any:
    """Exact draws of θ | y for the model of rates: λ | y ~ Gamma(3 + y, 2)."""

    def move(energy: Any, x: Tensor, steps: int, generator: torch.Generator) -> Tensor:
        shape = 3 + energy.rows_for(x)
        return (torch._standard_gamma(shape, generator=generator) / rate).log()

    return move


def test_the_joint_test_passes_the_exact_posterior_and_no_other() -> None:
    assert joint(conjugate(2.0), dtype=DOUBLE) < LIMIT
    assert joint(conjugate(2.05), dtype=DOUBLE) > LIMIT


@pytest.mark.parametrize("kind", MODELS)
def test_posteriors_are_prior_times_likelihood(kind: str) -> None:
    """log p(y | θ) + log p(θ) + E(θ; y) does not depend on θ, by the laws that the draws are said
    to follow.
    """
    model, g = MODELS[kind], seeded(1)
    theta = model.prior(50, g)
    y = model.data(theta[:1], g)
    energy = model.posterior.given(y.expand(50, *y.shape[1:]))(theta)
    if kind == "real":
        prior = torch.distributions.Gamma(3.0, 1.0).log_prob(theta.exp()).sum(1) + theta.sum(1)
        likelihood = torch.distributions.Poisson(theta.exp()).log_prob(y).sum(1)
    else:
        values, costs = model.posterior.weights, model.posterior.costs
        if kind == "binary":
            values, costs = (torch.cat([0 * part, part], 1) for part in (values, costs))
        rows = torch.arange(len(values))
        prior = (-costs).log_softmax(1)[rows, theta.long()].sum(1)
        likelihood = torch.distributions.Normal(values[rows, theta.long()].sum(1), 1.0).log_prob(y)
    total = prior.double() + likelihood.double() + energy
    torch.testing.assert_close(total, total[:1].expand(50), rtol=1e-5, atol=1e-5)


def test_exact_moves_pass_and_stretched_ones_do_not() -> None:
    assert (
        stationarity(Exact("gaussian"), TARGETS["gaussian"])
        < LIMIT
        < stationarity(Exact("gaussian", 1.03), TARGETS["gaussian"])
    )
    found = enumeration(Exact("bits"), TARGETS["bits"])
    assert abs(found.z) < LIMIT and found.variation < 0.03


def test_chains_at_rest_prove_nothing() -> None:
    def rest(energy: Energy, x: Tensor, steps: int, generator: torch.Generator) -> Tensor:
        return x

    for check in (lambda: stationarity(rest, TARGETS["gaussian"]), lambda: joint(rest)):
        with pytest.raises(AssertionError, match="rest"):
            check()


def test_replicas_start_from_their_own_laws() -> None:
    tempering = ParallelTempering(MALA(0.2), (1.0, 2.0, 4.0))
    chains = stationary(tempering, TARGETS["gaussian"], 20_000, seeded(), DOUBLE)
    rungs = chains.state.replicas.x.view(3, 20_000, 2)
    for x, temperature in zip(rungs, (1.0, 2.0, 4.0), strict=True):
        assert stein("gaussian", temperature, x) < LIMIT
    expected = TARGETS["gaussian"].energy(rungs.flatten(0, 1)) / torch.tensor(
        [1.0, 2.0, 4.0]
    ).repeat_interleave(20_000)
    torch.testing.assert_close(chains.state.replicas.energy, expected)
    with pytest.raises(ValueError, match="other temperatures"):
        stationary(tempering, TARGETS["gamma"], 10, seeded(), DOUBLE)


def test_chains_keep_the_state_of_a_sampler_between_walks() -> None:
    energy, x = TARGETS["banana"].energy, TARGETS["banana"].draw(10, seeded(), DOUBLE)
    one, other = (Chains(MALA(0.2), energy, x, seeded(3)) for _ in range(2))
    one.walk(2)
    assert torch.equal(one.walk(3), other.walk(5)) and not torch.equal(one.x, x)


def test_a_scale_is_repeated_to_the_size_of_an_event() -> None:
    assert fit_metric(MALA(0.1, inv_mass_sqrt=(1.0, 2.0)), 5).inv_mass_sqrt == (
        1.0,
        2.0,
        1.0,
        2.0,
        1.0,
    )
    inner = fit_metric(
        ParallelTempering(MALA(0.1, inv_mass_sqrt=(1.0, 2.0)), (1.0, 2.0)), 1
    ).sampler
    assert inner.inv_mass_sqrt == (1.0,) and fit_metric(MALA(0.1), 3) == MALA(0.1)


def test_parts_of_a_state_are_found_at_every_depth() -> None:
    a, b = torch.zeros(1), torch.ones(2)
    assert [len(part) for part in parts((a, None, 3, (b, (a, None))))] == [1, 2, 1]


# -------------------------------------------------------------------------------------------- prove


def some(*names: str) -> dict[str, Any]:
    return {name: TARGETS[name] for name in names}


def test_a_plain_callable_is_proven_by_its_claims() -> None:
    quick: dict[str, Any] = {
        "targets": some("gaussian", "exponential"),
        "count": 4000,
        "domains": ("real",),
    }
    good = prove(Exact("gaussian"), adjusted=True, dtypes=(DOUBLE,), name="exact", **quick)
    asked = [(row.check, row.target) for row in good.rows]
    assert asked == [("stationarity", "gaussian"), ("arrival", "gaussian"), ("joint", "real")]
    assert (
        [row.holds for row in good.rows] == [True, True, False]
        and good.failures == good.rows[2:]
        and not good.holds
    )
    printed = repr(good).splitlines()
    assert (
        "|z| < 5" in printed[0]
        and "FAILS" in printed[3]
        and printed[-1] == "exact: 2 of 3 claims hold"
    )


def test_whatever_is_raised_is_a_failure_with_a_note() -> None:
    def broken(energy: Energy, x: Tensor, steps: int, generator: torch.Generator) -> Tensor:
        raise ZeroDivisionError("the wheel came off\nand more")

    (row, *_) = prove(broken, adjusted=True, targets=some("gaussian"), dtypes=(DOUBLE,)).rows
    assert not row.holds and row.note == "the wheel came off" and row.figure is None


def test_what_is_not_claimed_is_not_asked() -> None:
    asked = {duty.check for duty in obligations(Langevin(0.1))}
    assert {"bias order", "temperature law", "repeats"} <= asked and not {
        "stationarity",
        "joint",
        "walls",
    } & asked
    only = {duty.target for duty in obligations(MALA(0.1)) if duty.check == "stationarity"}
    assert only == set(CONTINUOUS_TARGETS)


def test_progress_is_told_before_every_check() -> None:
    seen: list[str] = []
    report = prove(
        Exact("gaussian"),
        adjusted=True,
        targets=some("gaussian"),
        count=500,
        progress=lambda duty: seen.append(str(duty)),
    )
    assert len(seen) == len(report.rows) and seen[0] == "stationarity gaussian float32"


# ----------------------------------------------------------------------------------------- mutation


def test_a_mutant_is_a_copy_and_the_original_stays() -> None:
    wrong = mutate("lowland.samplers.langevin", "MALA", "2 * self.step_size", "3 * self.step_size")
    assert wrong.MALA is not MALA and sys.modules["lowland.samplers.langevin"].MALA is MALA
    x = TARGETS["gaussian"].draw(5, seeded(), DOUBLE)
    a, b = (
        Chains(s, Function(lambda x: x.square().sum(1)), x, seeded()).walk(1)
        for s in (MALA(0.3), wrong.MALA(0.2))
    )
    torch.testing.assert_close(a, b)  # √(2 · 0.3) = √(3 · 0.2)


def test_a_bug_in_shared_code_reaches_those_that_use_it() -> None:
    wrong = mutate(
        "lowland.samplers.kernel",
        "metropolis",
        "u < probability",
        "u < 0 * probability",
        through="lowland.samplers.hmc",
    )
    x = TARGETS["gaussian"].draw(5, seeded(), DOUBLE)
    assert torch.equal(Chains(wrong.HMC(0.1), TARGETS["gaussian"].energy, x, seeded()).walk(3), x)


@pytest.mark.parametrize(
    ("where", "old"),
    [
        ("MALA", "no such line"),
        ("MALA", "self"),
        ("LeimkuhlerMatthews.init", "metropolis"),
        ("MALA.nothing", "self"),
    ],
)
def test_a_bug_that_has_no_single_place_is_refused(where: str, old: str) -> None:
    with pytest.raises(ValueError, match=r";.*;"):
        mutate("lowland.samplers.langevin", where, old, "")


def test_bugs_can_be_planted_in_any_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "somebodys.py").write_text("def double(x):\n    return 2 * x\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    assert mutate("somebodys", "double", "2 *", "3 *").double(2) == 6


# ---------------------------------------------------------------------------------------- benchmark


def test_the_page_of_the_proof_shows_what_fails() -> None:
    rows = [
        Row("stationarity", "gaussian", "float32", 1.2, True),
        Row("stationarity", "gaussian", "float64", 7.0, False),
        Row("enumeration", "bits", "float64", 0.5, True, "total variation 0.015"),
        Row("repeats", "real", "", None, True),
    ]
    reports = [Report("one", tuple(rows)), Report("other", tuple(rows[2:]))]
    assert proof.grid(reports, proof.on_target).splitlines()[2:] == ["| one | **7.0 FAILS** |"]
    assert "| other | 0.5 (0.015) |" in proof.grid(reports, proof.listed)
    assert "| other | yes |" in proof.grid(reports, proof.conduct)


def test_the_mutation_table_tells_a_blind_check_and_an_unfair_one() -> None:
    honest = next(mutant for mutant in MUTANTS if mutant.seen_by == "gradients as declared")
    blind = dataclasses.replace(honest, check=lambda sampler: 0.0, seen_by="a blind one")
    unfair = dataclasses.replace(honest, check=lambda sampler: 9.0, seen_by="an unfair one")
    found = proof.mutations([honest, blind, unfair], lambda line: None)
    assert [bug["caught"] for bug in found] == [True, False, False]
