"""The speed benchmarks: contenders do equal work, the check sees those that do not, the table says
what was measured.
"""

import json
import math
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lowland
from benchmarks.speed import (
    commands,
    ours,
    rows_mcmc,
    rows_nuts,
    rows_path,
    rows_train,
    runner,
    table,
    tasks,
)
from benchmarks.speed.runner import Disagreement, Outcome
from benchmarks.speed.targets import (
    Perceptron,
    Residual,
    ScaledGaussian,
    images,
    perceptron,
    to_jax,
)
from benchmarks.speed.tasks import Chains, Proof, Run, Task, prove_cost, prove_moves, same_chains
from lowland.data import DataError

needs_jax = pytest.mark.skipif(find_spec("blackjax") is None, reason="blackjax is not installed")


@pytest.fixture(scope="module")
def task() -> Task:
    return rows_mcmc.mlp_task(200, 5, 0.3)


def outcome(
    make: Callable[[Task], Run], task: Task, prove: Callable[[Any, Task], Proof]
) -> Outcome:
    return Outcome(make(task)(), prove(make, task))


def langevin(noise: float = 1.0, step: float = 1.0) -> Callable[[Task], Run]:
    """A Langevin loop whose noise and step can be made wrong."""

    def make(task: Task) -> Run:
        generator = torch.Generator().manual_seed(5)

        def run() -> Chains:
            x = task.start
            for _ in range(task.steps):
                _, score = lowland.value_and_score(task.net, x)
                ξ = torch.randn(x.shape, generator=generator)
                x = (
                    x
                    + step * task.step_size * score
                    + noise * math.sqrt(2 * task.step_size * task.temperature) * ξ
                )
            return Chains(x)

        return run

    return make


# What is sampled from


def test_the_plain_perceptron_has_the_energy_of_lowlands() -> None:
    energy = perceptron()
    x = torch.randn(64, 10)
    assert torch.allclose(Perceptron(energy)(x), energy(x), rtol=1e-5, atol=1e-5)


def test_the_gaussian_has_the_scales_it_names() -> None:
    net = ScaledGaussian(5, 0.01)
    assert net.scales.tolist() == pytest.approx([1.0, 0.1**0.5, 0.1, 0.1**1.5, 0.01])
    x = torch.randn(2000, 5, generator=torch.Generator().manual_seed(0)) * net.scales
    assert abs(net(x).mean().item() - 2.5) < 5 * math.sqrt(2.5 / 2000)
    own = rows_mcmc.gaussian_task(7, 1, 0.1)
    assert torch.allclose(own.net(own.start), own.energy(own.start), rtol=1e-4)


def test_the_residual_net_has_the_size_that_was_measured_before() -> None:
    assert 1.1e6 < sum(p.numel() for p in Residual().parameters()) < 1.3e6
    net = images("residual")
    assert not any(p.requires_grad for p in net.parameters()) and not net.training


@needs_jax
def test_the_energies_for_jax_are_those_of_torch(task: Task) -> None:
    from benchmarks.speed.rivals_jax import check_energies

    check_energies(task)
    check_energies(rows_mcmc.gaussian_task(20, 1, 0.1))
    with pytest.raises(ValueError, match="Residual came"):
        to_jax(images("residual"))


# The check


def test_equal_chains_pass_and_their_cost_is_told(task: Task) -> None:
    check = same_chains(task)
    reference = outcome(ours.floor, task, prove_moves)
    words = check(reference, outcome(langevin(), task, prove_moves))
    assert words.endswith("; a step: 1 gradients") and words.startswith("drift to")


@pytest.mark.parametrize(
    "wrong",
    [langevin(noise=0.9), langevin(noise=math.sqrt(0.5)), langevin(step=1.01), langevin(step=-1.0)],
)
def test_wrong_noise_and_wrong_steps_are_seen(task: Task, wrong: Callable[[Task], Run]) -> None:
    reference = outcome(ours.floor, task, prove_moves)
    with pytest.raises(Disagreement):
        same_chains(task)(reference, outcome(wrong, task, prove_moves))


def test_chains_that_end_elsewhere_or_accept_otherwise_are_seen(task: Task) -> None:
    check, here = same_chains(task), Proof(1.0, 0.0)
    good = Outcome(Chains(task.start, 0.9), here)
    assert "accepted 0.900" in check(good, good)
    with pytest.raises(Disagreement, match="the chains differ"):
        check(good, Outcome(Chains(1.2 * task.start, 0.9), here))
    with pytest.raises(Disagreement, match="acceptance"):
        check(good, Outcome(Chains(task.start.clone(), 0.5), here))


def test_acceptance_is_compared_in_standard_errors() -> None:
    a, b = (
        (torch.rand(2, 4000, generator=torch.Generator().manual_seed(0)) < 0.7)
        .double()
        .mean(1)
        .tolist()
    )
    assert abs(tasks.acceptance_z(4000, a, b)) < 5
    assert tasks.acceptance_z(4000, 0.7, 0.6) > 5
    assert tasks.acceptance_z(100, 1.0, 1.0) == 0.0


def test_costs_are_counted_in_rows_of_the_network(task: Task) -> None:
    assert prove_cost(ours.floor, task) == Proof(1.0, 0.0)
    hmc = prove_cost(ours.plain(ours.door(ours.hmc)), task)
    assert hmc.gradients == 10 and hmc.forwards == 0

    def wasteful(task: Task) -> Run:
        def run() -> Chains:
            for _ in range(task.steps):
                x = task.start.clone().requires_grad_(True)
                torch.autograd.grad(task.net(x).sum(), x)
                with torch.no_grad():
                    task.net(task.start[:100])
            return Chains(task.start)

        return run

    assert prove_cost(wasteful, task) == Proof(1.0, 0.5)


# Effective draws


def autoregressive(correlation: float, draws: int, seed: int) -> Tensor:
    """(draws, 4 chains, 100) of an AR(1) process, standard normal."""
    noise = torch.randn(draws, 4, 100, generator=torch.Generator().manual_seed(seed))
    x = [noise[0]]
    for ξ in noise[1:]:
        x.append(correlation * x[-1] + math.sqrt(1 - correlation**2) * ξ)
    return torch.stack(x)


@pytest.mark.skipif(find_spec("arviz_stats") is None, reason="arviz-stats is not installed")
def test_effective_draws_fall_with_correlation_as_theory_says() -> None:
    share = {c: rows_nuts.effective_draws(autoregressive(c, 2000, 1)) / 8000 for c in (0.0, 0.8)}
    assert 0.8 < share[0.0] < 1.2
    assert share[0.8] == pytest.approx((1 - 0.8) / (1 + 0.8), rel=0.3)


@pytest.mark.skipif(find_spec("arviz_stats") is None, reason="arviz-stats is not installed")
def test_nuts_draws_of_another_law_are_refused() -> None:
    task = rows_mcmc.gaussian_task(100, 10, 0.1)
    check = rows_nuts.SameLaw(task)
    assert isinstance(task.net, ScaledGaussian)
    exact = torch.randn(10, 100, 100, generator=torch.Generator().manual_seed(2)) * task.net.scales
    good = Outcome(rows_nuts.Draws("good", exact, 3.0), Proof())
    assert "effective per draw" in check(good, good)
    with pytest.raises(Disagreement, match="moments"):
        check(good, Outcome(rows_nuts.Draws("wide", 1.05 * exact, 3.0), Proof()))


def test_seconds_are_divided_by_the_effective_draws_of_their_round() -> None:
    benchmark = rows_nuts.nuts(4, 2)
    assert isinstance(benchmark.check, rows_nuts.SameLaw)
    benchmark.check.found["lowland"] = [99.0, 2.0, 4.0]  # the first belongs to the warm-up
    times = runner.Times({"lowland": [1.0, 1.0]}, {"lowland": [2.0, 2.0]}, {"lowland": [0, 0]})
    rows_nuts.per_effective_draw(benchmark, times)
    assert times.wall["lowland"] == [500.0, 250.0] and times.cpu["lowland"] == [1000.0, 500.0]


def test_log_z_is_that_of_the_weights_and_another_is_refused() -> None:
    weights = torch.randn(4000, generator=torch.Generator().manual_seed(3)) + 7
    found = rows_path.from_weights(weights)
    assert abs(found.value - 7.5) < 5 * found.error and found.error == pytest.approx(
        math.sqrt(math.e - 1) / 4000**0.5, rel=0.2
    )
    good = Outcome(found, Proof(6.0, 1.0))
    assert "6 gradients + 1 forwards" in rows_path.same_log_z(good, good)
    with pytest.raises(Disagreement, match="log Z"):
        rows_path.same_log_z(good, Outcome(found._replace(value=8.5), Proof()))


# Every row, in small


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name == "images-residual" else [])
        for name in table.rows()
    ],
)
def test_every_row_runs_in_small_with_who_is_installed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both rows of images are one function, of which the quick suite runs that of the small net."""
    row = table.rows()[name]
    monkeypatch.setattr(rows_train, "LANGEVIN", 3)
    try:
        benchmark = row.build(**row.small)
    except DataError as missing:
        pytest.skip(
            f"the row learns from images that are not here: {str(missing).partition(' was')[0]}"
        )
    assert benchmark.name == name
    known = {c.name for c in benchmark.contenders}
    for goal in benchmark.goals:
        assert goal.reference in known, "a goal against somebody who is not there"
    if not runner.installed(benchmark.contenders[0]):
        pytest.skip("the reference is not installed")
    times = runner.measure(benchmark, 1, 1)
    assert set(times.wall) == {c.name for c in benchmark.contenders if runner.installed(c)}
    row.finish(benchmark, times)
    assert all(seconds > 0 for measured in times.wall.values() for seconds in measured)


# The table


def found(goals: list[tuple[str, str, float, str]], seconds: dict[str, list[float]]) -> str:
    """A file of the runner with as much in it as the table reads; CPU time is half of the clock's
    for lowland.
    """
    contenders = [
        {
            "name": name,
            "installed": True,
            "wall_seconds": s,
            "cpu_seconds": [t / 2 if name == "lowland" else t for t in s],
        }
        for name, s in seconds.items()
    ]
    judged = [
        {"contender": c, "reference": r, "at_most": m, "ratio": {}, "verdict": v}
        for c, r, m, v in goals
    ]
    return json.dumps(
        {
            "goals": judged,
            "contenders": contenders,
            "machine": {"cpu": "a core", "torch": "2"},
            "commit": "abc",
        }
    )


def test_the_table_turns_times_into_speed_and_puts_both_threads_in_a_row(tmp_path: Path) -> None:
    aim = ("lowland", "torchebm", 0.5)
    files = {
        "hmc-mlp": found(
            [(*aim, "met")], {"lowland": [1.0, 1.0, 2.0], "torchebm": [2.5, 4.0, 4.0]}
        ),
        "hmc-mlp-2threads": found([(*aim, "missed")], {"lowland": [4.0], "torchebm": [5.0]}),
        "overhead-mlp": found(
            [("lowland", "floor", 1.05, "met")], {"lowland": [1.04], "floor": [1.0]}
        ),
    }
    for name, text in files.items():
        (tmp_path / f"{name}.json").write_text(text)
    page = table.table(tmp_path)
    row = "| [HMC-10, MLP, 1,000 chains](hmc-mlp.md) | lowland | torchebm | ≥ 2 × | "
    assert (
        row + "2.50 [2.00 … 4.00] × | 5.00 [4.00 … 8.00] × | met | 1.25 [1.25 … 1.25] × |" in page
    )
    floor = (
        "| lowland | floor | ≤ 1.05 | 1.040 [1.040 … 1.040] | 0.520 [0.520 … 0.520] | met | not "
        "measured |"
    )
    assert floor in page
    assert "a core, torch 2, lowland at abc" in page


def test_rows_that_are_not_there_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="rows ising were asked for; there are images-conv"):
        table.main(["ising"])
    assert table.main(["--list"]) == 0
    assert "nuts-100" in capsys.readouterr().out


def test_the_page_of_commands_says_which_goals_were_met_and_in_which_time() -> None:
    log = "lowland: precision float32 (bfloat16 is 9 times slower here) for gradients of Net at 64"
    said = commands.find_precision(f"{log} x (1, 28, 28) on cpu\n")
    assert said == ["float32 (bfloat16 is 9 times slower here)"]

    def timed(wall: float, cpu: float, goal: float | None) -> dict[str, Any]:
        rounds = [
            {"wall": wall, "cpu": cpu, "precision": said},
            {"wall": 99.0, "cpu": 99.0, "precision": said},
        ]
        return {"command": "sample mnist", "goal": goal, "rounds": rounds}

    found = {
        "quiet": timed(20.0, 19.0, 25.0),
        "busy": timed(30.0, 19.0, 25.0),
        "slow": timed(30.0, 29.0, 25.0),
        "free": timed(1.0, 1.0, None),
    }
    about = {"machine": {"cpu": "a core"}, "date": "today", "commit": "abc", "command": "python"}
    page = commands.markdown({"capabilities": {"avx2": {**about, "commands": found}}})
    rows = [line.split(" | ")[1:-1] for line in page.splitlines() if "sample mnist" in line]
    assert rows == [
        ["20.0", "19.0", "25", "met"],
        ["30.0", "19.0", "25", "met in CPU time"],
        ["30.0", "29.0", "25", "missed"],
        ["1.0", "1.0", "", ""],
    ]
    assert said[0] in page and "cpu a core, commit abc" in page


def test_a_command_that_fails_ends_the_benchmark_with_its_message(tmp_path: Path) -> None:
    words = ["sample", "no-such-run"]
    with pytest.raises(SystemExit, match=r"lowland sample no-such-run ended with 2: .*no-such-run"):
        commands.run_command(words, tmp_path)
