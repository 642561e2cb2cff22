"""Samplers: the exact laws of their steps, the recorders against direct computing, and tune against
its target.
"""

import dataclasses
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from contract import checks
from contract.cases import TARGETS, seeded
from contract.checks import LIMIT, z_scores

from lowland import (
    DMALA,
    HMC,
    MALA,
    NUTS,
    Function,
    Langevin,
    ParallelTempering,
    ShortRun,
    binary,
    box,
    real,
    sample,
    tune,
)
from lowland.samplers import (
    GHMC,
    Draws,
    Energies,
    Frames,
    GibbsWithGradients,
    Moments,
    State,
    anneal,
    divide_steps,
    metropolis,
    run_chains,
    scale_step_sizes,
)
from lowland.samplers.auto import effective
from lowland.targets import Gaussian, GaussianMixture

DOUBLE = torch.float64


def quartic(x: torch.Tensor) -> torch.Tensor:
    return x.pow(4).sum(1) + 0.3 * x[:, 0] * x[:, 1]


def quartic_gradient(a: np.ndarray) -> np.ndarray:
    return 4 * a**3 + 0.3 * a[:, ::-1]


# ----------------------------------------------------------------------------------------- Langevin


@pytest.mark.parametrize(
    ("h", "temperature"), [(0.1, 1.0), (0.5, 1.0), (1.0, 1.0), (0.3, 0.25), (0.3, 3.0)]
)
def test_unadjusted_langevin_has_the_variance_that_its_recursion_has(
    h: float, temperature: float
) -> None:
    # n = 80,000 numbers from N(0, T / (1 − h/2)), which 15 steps leave as it is
    assert checks.temperature_law(Langevin(h, temperature), h, temperature) < LIMIT


def test_the_bias_of_unadjusted_langevin_is_of_first_order() -> None:
    # stationary variance − 1 = h/2 + O(h²): estimated at h = 0.4 and 0.2, the second is half the
    # first up to h²
    bowl = Function(lambda x: 0.5 * x.square().sum(1), real(8))
    found = []
    for h in (0.4, 0.2):
        x = torch.randn(20_000, 8, generator=seeded(1), dtype=DOUBLE)
        y = sample(bowl, Langevin(h), x, math.ceil(12 / h), generator=seeded(2)).x.flatten()
        z = z_scores(y.square() - 1 / (1 - h / 2)).item()
        assert (
            abs(z) < LIMIT and z_scores(y.square() - 1).item() > 10
        )  # the bias is there, and it is the known one
        found.append(((y.square().mean() - 1) / (h / 2)).item())
    assert abs(found[0] - 1 / 0.8) < 0.1 and abs(found[1] - 1 / 0.9) < 0.1


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_one_step_of_langevin_is_its_formula(temperature: float) -> None:
    assert checks.diffusion_law(Langevin(0.2, temperature), 0.2, temperature) < LIMIT
    x = torch.randn(50, 2, generator=seeded(), dtype=DOUBLE)
    y = sample(quartic, Langevin(0.01, temperature), x, 1, generator=seeded(1)).x.numpy()
    xi = torch.randn(50, 2, generator=seeded(1), dtype=DOUBLE).numpy()
    expected = (
        x.numpy() - 0.01 * quartic_gradient(x.numpy()) + math.sqrt(2 * 0.01 * temperature) * xi
    )
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)


def test_langevin_at_temperature_zero_is_gradient_descent() -> None:
    x = torch.randn(5, 2, generator=seeded(), dtype=DOUBLE)
    y = sample(lambda x: 0.5 * x.square().sum(1), Langevin(0.1, 0.0), x, 10, generator=seeded()).x
    torch.testing.assert_close(y, x * 0.9**10, rtol=1e-12, atol=1e-12)


def test_reflected_langevin_keeps_the_uniform_law_of_a_flat_box() -> None:
    # the folded Gaussian proposal is symmetric, so on a flat box even the unadjusted chain is exact
    assert checks.stationarity(Langevin(0.1), TARGETS["flat"]) < LIMIT


# ----------------------------------------------------------------------------------------- ShortRun


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"clip": 0.3},
        {"clamp": (-0.5, 0.8)},
        {"clip": 0.3, "clamp": (-0.5, 0.8)},
        {"noise": 0.0, "clip": 0.01},
    ],
    ids=str,
)
def test_short_run_is_its_formula(settings: dict[str, Any]) -> None:
    sampler = ShortRun(**({"step_size": 0.2, "noise": 0.3} | settings))
    checks.short_run_formula(sampler)
    if sampler.noise:
        checks.short_run_temperature(sampler)


def test_short_run_says_its_temperature() -> None:
    for h, t in ((0.1, 1.0), (2.0, 0.3)):
        assert math.isclose(ShortRun(h, math.sqrt(2 * h * t)).temperature, t)
    assert checks.temperature_law(ShortRun(0.3, math.sqrt(0.6 * 2)), 0.3, 2.0) < LIMIT


# ---------------------------------------------------------------------------------------- MALA, HMC


@pytest.mark.parametrize("h", [0.05, 0.5])
def test_the_proposal_of_mala_is_langevin_and_its_ratio_the_textbook_one(h: float) -> None:
    """Acceptances equal those of q(x|y)π(y) / q(y|x)π(x), written with normal densities and the
    same random numbers.
    """
    x = torch.randn(2000, 2, generator=seeded(), dtype=DOUBLE)
    trace = sample(quartic, MALA(h), x, 1, generator=seeded(1))
    g = seeded(1)
    xi = torch.randn(2000, 2, generator=g, dtype=DOUBLE).numpy()
    u = torch.rand(2000, generator=g, dtype=DOUBLE).numpy()
    a = x.numpy()
    y = a - h * quartic_gradient(a) + math.sqrt(2 * h) * xi

    def log_q(to: np.ndarray, start: np.ndarray) -> np.ndarray:
        return -((to - start + h * quartic_gradient(start)) ** 2).sum(1) / (4 * h)

    value = [quartic(torch.as_tensor(p)).numpy() for p in (a, y)]
    log_ratio = value[0] - value[1] + log_q(a, y) - log_q(y, a)
    accept = np.log(u) < log_ratio
    assert 0.02 < accept.mean() < 0.98
    np.testing.assert_allclose(
        trace.acceptance.numpy(), np.exp(np.minimum(log_ratio, 0)), rtol=1e-6, atol=1e-9
    )
    assert np.array_equal((trace.x != x).any(1).numpy(), accept)
    np.testing.assert_allclose(
        trace.x.numpy(), np.where(accept[:, None], y, a), rtol=1e-12, atol=1e-12
    )


def test_mala_moves_by_the_root_of_twice_its_step() -> None:
    assert checks.diffusion_law(MALA(0.2), 0.2) < LIMIT


def test_hmc_with_one_leapfrog_is_mala() -> None:
    x = torch.randn(200, 2, generator=seeded(), dtype=DOUBLE)
    a = sample(quartic, MALA(0.08), x, 5, generator=seeded(1))
    b = sample(quartic, HMC(math.sqrt(0.16), 1), x, 5, generator=seeded(1))
    torch.testing.assert_close(a.x, b.x, rtol=1e-10, atol=1e-10)


def test_the_energy_error_of_leapfrog_falls_with_the_square_of_its_step() -> None:
    """At a fixed length, halving ε divides the mean |ΔH| by 4; without a half kick it would be
    2.
    """
    x = 0.5 * torch.randn(4000, 2, generator=seeded(), dtype=DOUBLE)
    errors: list[float] = []

    def spy(old: State, new: State, log_ratio: torch.Tensor, g: torch.Generator) -> Any:
        errors.append(log_ratio.abs().mean().item())
        return metropolis(old, new, log_ratio, g)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lowland.samplers.hmc.metropolis", spy)
        for leapfrogs in (10, 20, 40):
            sampler = HMC(1.0 / leapfrogs, leapfrogs)
            sampler.step(Function(quartic), sampler.init(Function(quartic), x), seeded(1))
    assert all(abs(math.log2(a / b) - 2) < 0.1 for a, b in pairwise(errors))


def test_metropolis_accepts_with_the_probability_it_is_given() -> None:
    # n = 100,000 coins of min(1, e^r) for each of five ratios; binomial errors
    n = 100_000
    for r in (-3.0, -1.0, -0.1, 0.0, 2.0):
        old, new = (
            State(torch.full((n, 1), v), torch.zeros(n), torch.zeros(n, 1)) for v in (0.0, 1.0)
        )
        state, info = metropolis(old, new, torch.full((n,), r), seeded(3))
        p = min(1.0, math.exp(r))
        share = info.accepted.double().mean().item()
        assert share == 1.0 if p == 1 else abs(share - p) / math.sqrt(p * (1 - p) / n) < LIMIT
        assert torch.equal(state.x[:, 0] == 1, info.accepted)


def test_metropolis_without_a_ratio_draws_nothing() -> None:
    g = seeded(1)
    before = g.get_state()
    state = State(torch.zeros(3, 1), torch.zeros(3), torch.zeros(3, 1))
    metropolis(state, state, None, g)
    assert torch.equal(before, g.get_state())


# ---------------------------------------------------------------------------------- loop, recorders


def test_keepers_keep_what_stepping_by_hand_gives() -> None:
    energy, sampler = Function(quartic), MALA(0.1)
    x = torch.randn(6, 2, generator=seeded(), dtype=DOUBLE)
    recorders = [Draws(3), Energies(), Moments(), Moments(skip=4, name="late")]
    trace = sample(energy, sampler, x, 11, generator=seeded(5), recorders=recorders)
    g, state, points, values, accepted = seeded(5), sampler.init(energy, x), [], [], []
    for _ in range(11):
        state, info = sampler.step(energy, state, g)
        points.append(state.x)
        values.append(state.energy)
        accepted.append(info.acceptance_prob)
    assert torch.equal(trace.draws, torch.stack(points)[[2, 5, 8]])
    assert torch.equal(trace.records["energies"], torch.stack(values))
    torch.testing.assert_close(trace.acceptance, torch.stack(accepted).mean(0))
    for name, skip in (("moments", 0), ("late", 4)):
        mean, variance, count = trace.records[name]
        pooled = torch.cat(points[skip:])
        assert count == len(pooled)
        torch.testing.assert_close(mean, pooled.mean(0), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(variance, pooled.var(0), rtol=1e-12, atol=1e-12)


def test_frames_are_the_states_after_the_steps_they_name() -> None:
    x = torch.randn(6, 2, generator=seeded(), dtype=DOUBLE)
    trace = sample(
        quartic,
        MALA(0.1),
        x,
        9,
        generator=seeded(1),
        recorders=[Draws(), Frames((1, 4, 9)), Frames((), "none")],
    )
    assert torch.equal(trace.records["frames"], trace.draws[[0, 3, 8]]) and trace.records[
        "none"
    ].shape == (0, 6, 2)
    alone = sample(quartic, MALA(0.1), x, 9, generator=seeded(1), recorders=Frames((9,), "last"))
    assert torch.equal(alone.records["last"], trace.x.unsqueeze(0))


@pytest.mark.parametrize("at", [(0, 2), (2, 9), (-1,)], ids=str)
def test_frames_at_steps_that_never_come_are_refused(at: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r";.*;"):
        sample(quartic, MALA(0.1), torch.ones(2, 2), 5, generator=seeded(), recorders=Frames(at))


def test_sampling_asks_the_energy_once_per_gradient_and_once_more_at_the_door() -> None:
    for sampler, steps in ((MALA(1e-3), 5), (HMC(1e-3, 3), 4), (Langevin(1e-3), 0)):
        probe = checks.Probe()
        x = torch.randn(8, 3, generator=seeded())
        trace = sample(probe, sampler, x, steps, generator=seeded())
        assert (
            trace.num_grad_evals == steps * sampler.num_grad_evals + 1
            and probe.calls == trace.num_grad_evals + 1  # other looks are not counted
        )
        probe.calls = 0
        more = sample(probe, sampler, trace.x, steps, generator=seeded(), state=trace.state)
        assert more.num_grad_evals == steps * sampler.num_grad_evals == probe.calls - 1


def test_moments_survive_a_large_offset() -> None:
    energy = Function(lambda x: 0.5 * (x - 1e8).square().sum(1), real(2))
    x = 1e8 + torch.randn(500, 2, generator=seeded(), dtype=DOUBLE)
    _, variance, _ = sample(
        energy, MALA(0.3), x, 40, generator=seeded(), recorders=Moments()
    ).records["moments"]
    assert ((variance - 1).abs() < 0.2).all()


def test_progress_is_told_of_every_step_and_no_steps_give_the_start() -> None:
    told: list[int] = []
    x = torch.ones(2, 2)
    sample(quartic, MALA(0.1), x, 7, generator=seeded(), progress=told.append)
    assert told == [1] * 7
    nothing = sample(quartic, MALA(0.1), x, 0, generator=seeded(), thin=1)
    assert (
        torch.equal(nothing.x, x)
        and nothing.draws.shape == (0, 2, 2)
        and nothing.num_grad_evals == 1
    )


def test_trace_without_draws_says_so_and_prints() -> None:
    trace = sample(quartic, MALA(0.1), torch.ones(2, 2), 1, generator=seeded())
    with pytest.raises(ValueError, match="no draws were recorded"):
        _ = trace.draws
    assert "2 chains" in repr(trace)


def test_requests_that_mean_nothing_are_refused() -> None:
    x, g = torch.ones(2, 2), seeded()
    trace = sample(quartic, MALA(0.1), x, 1, generator=g)
    bad = [
        lambda: sample(quartic, MALA(0.1), x, -1, generator=g),
        lambda: sample(quartic, MALA(0.1), x, 1.5, generator=g),  # type: ignore[arg-type]
        lambda: sample(quartic, MALA(0.1), x, 1, generator=3),  # type: ignore[arg-type]
        lambda: sample(quartic, MALA(0.1), x * math.nan, 1, generator=g),
        lambda: sample(quartic, MALA(0.1), x + 1, 1, generator=g, state=trace.state),
        lambda: sample(quartic, MALA(0.1), x, 1, generator=g, thin=0),
        lambda: tune(quartic, Langevin(0.1), x, generator=g),
        lambda: tune(quartic, MALA(0.1), x, generator=g, target_accept=1.0),
        lambda: anneal([], MALA(0.1), x, 1, generator=g),
        lambda: anneal([Function(quartic)], [MALA(0.1)] * 2, x, 1, generator=g),
    ]
    for request in bad:
        with pytest.raises(ValueError, match=r";.*;"):
            request()


def test_run_chains_counts_starts_that_are_not_finite_and_lets_them_stay() -> None:
    energy = Function(quartic, real(2))
    x = torch.tensor([[0.1, 0.2], [math.nan, 0.0], [0.3, math.inf]])
    for sampler in (MALA(0.1), HMC(0.1, 3), Langevin(0.1), ShortRun(0.1, 0.1)):
        trace = run_chains(energy, sampler, x, 5, generator=seeded())
        assert trace.diverged.tolist() == [0, 5, 5]
        assert (
            torch.equal(trace.x[1:].nan_to_num(7.0), x[1:].nan_to_num(7.0))
            and trace.x[0].isfinite().all()
        )


# --------------------------------------------------------------------------------------------- tune


FIVE = Gaussian((0.0,) * 5, torch.diag(torch.tensor([0.5, 1.0, 2.0, 3.0, 5.0])).tolist())


def tuned_rates(sampler: Any, steps: int, target: float | None, metric: bool) -> torch.Tensor:
    """Acceptance at the tuned step from exact draws, of 6 independent tunings."""
    found = []
    for seed in range(6):
        g = seeded(seed)
        tuned = tune(
            FIVE,
            sampler,
            FIVE.draw(100, g),
            steps,
            target_accept=target,
            metric=metric,
            generator=g,
        )
        same = {
            "step_size": sampler.step_size,
            "inv_mass_sqrt": (tuned if metric else sampler).inv_mass_sqrt,
        }
        assert type(tuned) is type(sampler) and dataclasses.replace(
            sampler, **same
        ) == dataclasses.replace(tuned, **same)
        found.append(sample(FIVE, tuned, FIVE.draw(2000, g), 5, generator=g).acceptance.mean())
    return torch.stack(found)


@pytest.mark.parametrize(
    "metric", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["identity", "metric"]
)
@pytest.mark.parametrize(
    ("sampler", "target"),
    [
        (MALA(100.0), None),
        (MALA(1e-5), None),
        (MALA(0.1), 0.8),
        (HMC(10.0, 10, jitter=0.2), None),
        (HMC(1e-4, 10, jitter=0.2), 0.9),
        (GHMC(10.0), None),
        (GHMC(1e-3), 0.9),
    ],
    ids=str,
)
def test_tune_finds_its_target_from_anywhere_in_its_usual_number_of_steps(
    sampler: Any, target: float | None, metric: bool
) -> None:
    """To 0.025 from starts thousands of times off; each of the six rates is known to 0.003."""
    rates, wanted = tuned_rates(sampler, 300, target, metric), target or sampler.target_accept
    assert abs(rates.mean() - wanted) < 0.025 and rates.std() < 0.03


def test_tune_finds_a_metric() -> None:
    """The spreads over their geometric mean: 100 chains in 300 steps know each to 5 %, by the
    variance of log s.
    """
    g = seeded()
    tuned = tune(FIVE, MALA(0.1), FIVE.draw(100, g), generator=g)
    spreads = torch.tensor([0.5, 1.0, 2.0, 3.0, 5.0]).sqrt()
    wanted = spreads / spreads.log().mean().exp()
    assert ((torch.tensor(tuned.inv_mass_sqrt) / wanted).log().abs() < 0.1).all()


def test_a_metric_pays() -> None:
    """At its target, MALA's step on five scales from 0.1 to 10 is more than 20 times longer with
    the metric found.
    """
    energy = Gaussian((0.0,) * 5, torch.diag(torch.tensor([0.01, 0.1, 1.0, 10.0, 100.0])).tolist())
    plain, found = (
        tune(energy, MALA(0.1), energy.draw(100, seeded()), metric=m, generator=seeded(1))
        for m in (False, True)
    )
    assert (found.step_size**0.5 * min(found.inv_mass_sqrt)) / plain.step_size**0.5 > 0.8
    assert (found.step_size * max(found.inv_mass_sqrt) ** 2) / plain.step_size > 20


def test_tune_survives_energies_that_are_not_finite() -> None:
    """A gamma law on the real line: its energy is NaN left of 0 (a rival stood still here). The
    mean of 100 chains is known to 0.05, the root of 3 over that of some 1,000 effective draws.
    """
    gamma = Function(lambda x: (x - 2 * x.log()).sum(1), real(1))
    for sampler in (MALA(10.0), HMC(10.0, 5, jitter=0.2), NUTS(10.0, 5), GHMC(10.0)):
        g = seeded()
        x = -torch.rand(100, 3, generator=g).log().sum(1, keepdim=True)  # exact draws
        tuned = tune(gamma, sampler, x, generator=g)
        assert math.isfinite(tuned.step_size) and tuned.step_size > 0.01
        mean = sample(gamma, tuned, x, 120, generator=g, recorders=Moments(skip=20)).records[
            "moments"
        ][0]
        assert abs(mean.item() - 3) < 0.2


def test_tune_refuses_what_has_nothing_to_tune() -> None:
    bits = Function(lambda x: x.sum(1), binary(3))
    with pytest.raises(ValueError, match=r"no step size;.*;"):
        tune(bits, GibbsWithGradients(), torch.zeros(2, 3), generator=seeded())
    with pytest.raises(ValueError, match=r"accepts every proposal;.*;"):
        tune(quartic, Langevin(0.1), torch.zeros(2, 2), generator=seeded())
    with pytest.raises(ValueError, match=r"'best';.*;"):
        tune(quartic, "best", torch.zeros(2, 2), generator=seeded())


def test_auto_says_what_it_chose_and_why() -> None:
    said: list[str] = []
    energy = Gaussian((0.0,) * 5, torch.diag(torch.tensor([0.01, 0.1, 1.0, 10.0, 100.0])).tolist())
    sampler = tune(
        energy, "auto", energy.draw(100, seeded()), 60, generator=seeded(), say=said.append
    )
    assert type(sampler).__name__ in said[0] and "gradient" in said[0] and len(said) == 1
    bits = Function(lambda x: (x[:, 0] - x[:, 1]).square() + 0.3 * x.sum(1), binary(6))
    sampler = tune(bits, "auto", torch.zeros(50, 6), 60, generator=seeded(), say=said.append)
    assert isinstance(sampler, (DMALA, GibbsWithGradients))


def test_auto_sees_that_chains_stay_apart() -> None:
    said: list[str] = []
    far = GaussianMixture(((-20.0, 0.0), (20.0, 0.0)))
    tune(far, "auto", far.draw(40, seeded()), 60, generator=seeded(), say=said.append)
    assert "ParallelTempering" in said[0] and "stay apart" in said[0]


@pytest.mark.slow  # quick: a mixture that is farther apart, above, and the record's choices
def test_auto_takes_a_ladder_where_it_brings_the_chains_together() -> None:
    near = GaussianMixture(((-2.5, 0.0), (2.5, 0.0)))
    sampler = tune(
        near, "auto", near.draw(40, seeded()), 60, generator=seeded(), say=lambda _: None
    )
    assert isinstance(sampler, ParallelTempering)


def test_auto_sees_how_slow_a_chain_is() -> None:
    """An autoregression of ρ = 0.95 has (1 − ρ) / (1 + ρ) effective draws per draw; 64 chains of
    2,000 know it to 40 %.
    """
    g, rho = seeded(), 0.95
    x = torch.randn(64, 1, generator=g)
    draws = []
    for _ in range(2000):
        x = rho * x + math.sqrt(1 - rho**2) * torch.randn(64, 1, generator=g)
        draws.append(x)
    share, stuck = effective(torch.stack(draws), torch.randn(2000, 64, generator=g))
    assert 0.6 < share / ((1 - rho) / (1 + rho)) < 1.6 and not stuck


def test_tune_repeats_and_leaves_its_arguments_alone() -> None:
    x = torch.randn(50, 2, generator=seeded())
    before, sampler = x.clone(), MALA(0.1)
    a, b = (tune(quartic, sampler, x, 30, generator=seeded(1)) for _ in range(2))
    assert a == b and a is not sampler and sampler == MALA(0.1) and torch.equal(x, before)


# -------------------------------------------------------------------------------------------- paths


def test_annealing_is_sampling_rung_by_rung() -> None:
    bowl = Function(lambda x: x.square().sum(1), real(2))
    path, x = [bowl / 4.0, bowl / 2.0, bowl], torch.randn(10, 2, generator=seeded())
    for total, shares in ((9, [3, 3, 3]), (11, [3, 4, 4]), (2, [0, 1, 1]), (0, [0, 0, 0])):
        heard: list[int] = []
        traces = anneal(path, MALA(0.1), x, total, generator=seeded(1), progress=heard.append)
        assert (
            divide_steps(total, 3) == shares == [trace.steps for trace in traces]
            and sum(heard) == total
        )
        g, y = seeded(1), x
        for energy, trace, share in zip(path, traces, shares, strict=True):
            y = sample(energy, MALA(0.1), y, share, generator=g).x
            assert torch.equal(y, trace.x)


def test_frames_of_a_path_are_counted_over_all_of_it() -> None:
    bowl = Function(lambda x: x.square().sum(1), real(2))
    path, x = [bowl / 4.0, bowl / 2.0, bowl], torch.randn(10, 2, generator=seeded())
    plain = anneal(path, MALA(0.1), x, 11, generator=seeded(1))
    traces = anneal(path, MALA(0.1), x, 11, generator=seeded(1), frames=(0, 1, 3, 4, 7, 11))
    g, y, states = seeded(1), x, [x]
    for energy, trace in zip(path, plain, strict=True):
        kept = sample(energy, MALA(0.1), y, trace.steps, generator=g, thin=1)
        y, states = kept.x, [*states, *kept.draws]
    assert [len(trace.records["frames"]) for trace in traces] == [
        2,
        2,
        1,
    ]  # 1, 3 | 4, 7 | 11; the start is nobody's step
    assert torch.equal(
        torch.cat([trace.records["frames"] for trace in traces]),
        torch.stack(states)[[1, 3, 4, 7, 11]],
    )
    assert all(torch.equal(a.x, b.x) for a, b in zip(plain, traces, strict=True))
    assert all("frames" not in trace.records for trace in plain)


@pytest.mark.parametrize(("steps", "rungs"), [(20, 3), (2, 3), (0, 2), (7, 7), (1, 1), (100, 9)])
def test_steps_are_divided_evenly_and_none_is_lost(steps: int, rungs: int) -> None:
    shares = divide_steps(steps, rungs)
    assert (
        len(shares) == rungs
        and sum(shares) == steps
        and shares == sorted(shares)
        and shares[-1] - shares[0] <= 1
    )


def test_steps_of_a_noise_ladder_follow_the_squares_of_its_levels() -> None:
    steps = [s.step_size for s in scale_step_sizes(Langevin(0.01, 0.5), (1.0, 0.5, 0.1))]  # type: ignore[attr-defined]
    assert steps == pytest.approx([1.0, 0.25, 0.01])
    assert all(s.temperature == 0.5 for s in scale_step_sizes(Langevin(0.01, 0.5), (1.0, 0.1)))  # type: ignore[attr-defined]


def test_a_sampler_does_not_leave_a_box_by_rounding() -> None:
    energy = Function(lambda x: (-20 * x).sum(1), box(0.1, 0.7, 3))
    for sampler in (MALA(0.05), HMC(0.2, 5), Langevin(0.05)):
        x = energy.domain.draw(500, seeded())
        trace = sample(energy, sampler, x, 20, generator=seeded())
        sample(energy, sampler, trace.x, 1, generator=seeded())  # takes its own result
