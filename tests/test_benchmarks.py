"""The benchmark runner: its statistics, its refusals and its files, on contenders that move a fake
clock.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.speed import langevin, runner
from benchmarks.speed.runner import (
    Benchmark,
    Contender,
    Disagreement,
    Goal,
    Outcome,
    measure,
    record,
    spread,
    write,
)

ABSENT = "no-such-package"


class FakeClock:
    """A clock that only moves when a contender says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []

    def __call__(self) -> float:
        return self.now

    def contender(
        self, name: str, seconds: list[float], result: Any = 1.0, package: str | None = None
    ) -> Contender:
        """Takes seconds[i] in its i-th run; its set-up takes 1000 s, which must not be counted."""

        def prepare() -> Callable[[], Any]:
            self.now += 1000.0
            left = iter(seconds)

            def work() -> Any:
                self.now += next(left)
                self.order.append(name)
                return result

            return work

        return Contender(name, prepare, packages=(package,) if package else (), how=f"{name}.run()")


def same(reference: Outcome, other: Outcome) -> str:
    if other.result != reference.result:
        raise Disagreement(f"{other.result} is not {reference.result}")
    return "equal"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def timed(clock: FakeClock, benchmark: Benchmark, rounds: int) -> runner.Times:
    return measure(benchmark, rounds, clock=clock, cpu_clock=clock)


def three(clock: FakeClock) -> Benchmark:
    """A floor, disturbed in round 2, a contender that takes about twice as long, and one without
    its package.
    """
    return Benchmark(
        "fake",
        "three contenders",
        [
            clock.contender("floor", [9.0, 1.0, 10.0, 1.5]),
            clock.contender("double", [9.0, 2.0, 20.0, 3.3]),
            clock.contender("absent", [], package=ABSENT),
        ],
        same,
        amount=30.0,
        unit="steps",
        goals=[
            Goal("double", "floor", 2.0),
            Goal("double", "floor", 1.9),
            Goal("double", "absent", 1.0),
        ],
    )


def test_ratios_are_paired_by_round_and_warm_up_and_set_up_are_not_counted(
    clock: FakeClock,
) -> None:
    times = timed(clock, three(clock), 3)
    assert times.wall["floor"] == pytest.approx([1.0, 10.0, 1.5])
    assert times.wall["double"] == pytest.approx([2.0, 20.0, 3.3])
    assert times.ratio("double", "floor") == pytest.approx((2.0, 2.0, 2.2))
    assert times.ratio("floor", "floor") == (1.0, 1.0, 1.0)
    assert spread([3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0)


def test_rounds_are_interleaved_and_every_other_one_runs_backwards(clock: FakeClock) -> None:
    timed(clock, three(clock), 3)
    warm, rounds = clock.order[:2], clock.order[2:]
    assert warm == ["floor", "double"]
    assert rounds == ["floor", "double", "double", "floor", "floor", "double"]


def test_contenders_that_differ_are_refused_before_anything_is_timed(clock: FakeClock) -> None:
    wrong = clock.contender("wrong", [1.0] * 9, result=2.0)
    benchmark = Benchmark("fake", "", [clock.contender("floor", [1.0] * 9), wrong], same)
    with pytest.raises(
        Disagreement, match=r"wrong and floor do not compute the same: 2\.0 is not 1\.0"
    ):
        timed(clock, benchmark, 3)
    assert len(clock.order) == 2


def test_a_contender_that_goes_wrong_later_is_refused_too(clock: FakeClock) -> None:
    results = iter([1.0, 1.0, 7.0])
    late = Contender("late", lambda: lambda: next(results))
    with pytest.raises(Disagreement, match="late"):
        timed(clock, Benchmark("fake", "", [clock.contender("floor", [1.0] * 9), late], same), 3)


def test_nonsense_is_refused(clock: FakeClock) -> None:
    one = clock.contender("one", [1.0] * 9)
    with pytest.raises(ValueError, match="no name twice"):
        Benchmark("fake", "", [one, one], same)
    with pytest.raises(ValueError, match="at least 1"):
        measure(Benchmark("fake", "", [one], same), 0)
    with pytest.raises(ValueError, match="the reference 'absent' is not installed"):
        absent = clock.contender("absent", [], package=ABSENT)
        measure(Benchmark("fake", "", [absent, one], same))


def test_record_and_files(clock: FakeClock, tmp_path: Path) -> None:
    benchmark = three(clock)
    found = record(benchmark, timed(clock, benchmark, 3), command="python -m benchmarks.fake")
    data, page = write(found, tmp_path / "new")
    assert json.loads(data.read_text()) == found
    floor, double, absent = found["contenders"]
    assert double["rate"] == pytest.approx({"median": 30 / 3.3, "least": 1.5, "most": 15.0})
    assert len(double["page_faults"]) == 3 and double["wall_seconds"] == double["cpu_seconds"]
    assert floor["ratio"]["median"] == 1.0 and floor["agreement"] == "equal"
    assert not absent["installed"] and absent["packages"] == {ABSENT: None}
    assert found["rounds"] == 3 and found["machine"]["torch"] == torch.__version__
    assert [goal["verdict"] for goal in found["goals"]] == [
        "met in the median only",
        "missed",
        "not measured",
    ]
    text = page.read_text()
    assert (
        "| double | 9.09 [1.50 … 15.00] | 3.300 [2.000 … 20.000] | 2.000 [2.000 … 2.200] |" in text
    )
    assert "| absent (no-such-package not installed) | not installed |" in text
    assert "`python -m benchmarks.fake`" in text and "double ≤ 1.9 × floor" in text


def test_main_lists_runs_writes_and_refuses(
    clock: FakeClock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pinned: list[tuple[int | None, bool]] = []
    monkeypatch.setattr(runner, "pin", lambda core, keep_heap: pinned.append((core, keep_heap)))
    parser = runner.parser("fake", "A fake.")
    assert runner.main(parser.parse_args(["--list"]), lambda: three(clock)) == 0
    assert "not installed" in capsys.readouterr().out and not pinned
    args = parser.parse_args(["--rounds", "2", "--core", "0", "--out", str(tmp_path)])
    assert runner.main(args, lambda: three(clock)) == 0
    assert (
        pinned == [(0, True)]
        and (tmp_path / "fake.json").exists()
        and (tmp_path / "fake.md").exists()
    )
    wrong = [clock.contender("floor", [1.0] * 9), clock.contender("wrong", [1.0] * 9, result=2.0)]
    assert runner.main(args, lambda: Benchmark("bad", "", wrong, same)) == 1
    assert (
        "refused: wrong and floor" in capsys.readouterr().err and not (tmp_path / "bad.md").exists()
    )


STEPS, CHAINS = 2, 32


@pytest.fixture(scope="module")
def task() -> langevin.Task:
    torch.manual_seed(0)
    net = langevin.ImageEnergy().eval().requires_grad_(False)
    return langevin.Task(net, torch.rand(CHAINS, 1, 28, 28), STEPS)


def outcome(make: Callable[[langevin.Task], langevin.Run], task: langevin.Task) -> Outcome:
    return Outcome(make(task)(), langevin.prove(make, task))


def test_lowland_makes_the_move_of_the_floor_and_costs_one_gradient_more(
    task: langevin.Task,
) -> None:
    floor, door = outcome(langevin.floor, task), outcome(langevin.lowland_door, task)
    assert "2 gradients" in langevin.check(floor, floor)
    assert langevin.check(floor, outcome(langevin.lowland_loop, task)).endswith("; 3 gradients")
    assert "4 gradients + 13 forwards" in langevin.check(floor, door)  # 1 + 13 look at the energy
    longer = langevin.prove(langevin.lowland_door, task._replace(steps=STEPS + 3))
    assert longer.calls == (4 + 3, 13), "the door's look must cost the same whatever the steps"


def biased(task: langevin.Task, noise: float = 1.0, drift: float = 1.0) -> langevin.Run:
    """The floor with its noise or its drift multiplied by a factor."""

    def run() -> torch.Tensor:
        x = task.start
        for _ in range(task.steps):
            quiet = langevin.floor(langevin.Task(task.net, x, 1, 0.0))()
            xi = torch.randn_like(x) * (2 * langevin.STEP * task.temperature) ** 0.5
            x = x + drift * (quiet - x) + noise * xi
        return x

    return run


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"noise": 0.97}, "of its variance"), ({"drift": 0.99}, "without noise they part")],
)
def test_the_check_sees_a_wrong_move(
    task: langevin.Task, wrong: dict[str, float], message: str
) -> None:
    floor = outcome(langevin.floor, task)
    langevin.check(floor, outcome(biased, task))
    with pytest.raises(Disagreement, match=message):
        langevin.check(floor, outcome(lambda t: biased(t, **wrong), task))
