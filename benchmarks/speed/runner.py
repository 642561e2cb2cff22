"""One runner for every benchmark: pinned, interleaved, paired, and only between contenders that do
the same.

A time on a shared machine means little; a ratio of two times taken one after the other on one core
means more. So

    round i:   every contender runs once, in turn; odd rounds go through them backwards
    ratio_i = t_i / t_ref,i          both from round i, so that a slow minute slows both

and a table shows the median of the ratios with their smallest and largest. With 7 rounds the span
from smallest to largest covers the true median with probability 1 − 2 · 2⁻⁷ = 98 % (sign test),
whatever the distribution of the noise.

A contender's set-up stays outside the clock. Before anything is timed, and again after every round,
the benchmark's check compares what each contender returned with what the reference returned;
contenders that disagree are an error, not a row. Contenders whose packages are missing are rows
that say "not installed".
"""

import argparse
import datetime
import gc
import resource
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.machine import commit, machine, pin
from benchmarks.record import write_record
from benchmarks.speed import RESULTS


class Disagreement(Exception):  # noqa: N818
    """Two contenders do not compute the same thing, so their times must not be compared."""


@dataclass(frozen=True)
class Contender:
    """Something to time.

    prepare: outside the clock; returns the work, a callable without arguments whose return value is
    checked. prove: run once, untimed; whatever else the check wants to see (noise switched off,
    counts of evaluations, ...). packages: distributions it needs. how: how it is called and by
    which convention, for the reader.
    """

    name: str
    prepare: Callable[[], Callable[[], Any]]
    prove: Callable[[], Any] = lambda: None
    packages: tuple[str, ...] = ()
    how: str = ""


class Outcome(NamedTuple):
    """What a contender's timed work returned, and its proof."""

    result: Any
    proof: Any


@dataclass(frozen=True)
class Goal:
    """`contender` takes at most `at_most` times as long as `reference`."""

    contender: str
    reference: str
    at_most: float


@dataclass(frozen=True)
class Benchmark:
    """Contenders that do the same, the first of which is the reference.

    amount: units of work in one run (steps, updates), so that `amount / seconds` is a rate in
    `unit` per second. check(reference, other): says in a few words how well they agree; raises
    Disagreement if they do not. It is also called with the reference twice, to hold the reference
    itself against the truth.
    """

    name: str
    title: str
    contenders: Sequence[Contender]
    check: Callable[[Outcome, Outcome], str]
    amount: float = 1.0
    unit: str = "runs"
    goals: Sequence[Goal] = ()
    notes: str = ""

    def __post_init__(self) -> None:
        names = [c.name for c in self.contenders]
        if not names or len(set(names)) < len(names):
            raise ValueError(
                f"the contenders are {names}; there must be at least one and no name twice; rename "
                "them"
            )


class Spread(NamedTuple):
    """Median, smallest and largest of a list of numbers."""

    median: float
    least: float
    most: float

    def __format__(self, spec: str) -> str:
        return f"{self.median:{spec}} [{self.least:{spec}} … {self.most:{spec}}]"


def spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


@dataclass
class Times:
    """Seconds per round of each contender: on the wall and of CPU time; and its page faults per
    round.
    """

    wall: dict[str, list[float]] = field(default_factory=dict)
    cpu: dict[str, list[float]] = field(default_factory=dict)
    faults: dict[str, list[int]] = field(default_factory=dict)
    agreement: dict[str, str] = field(default_factory=dict)

    def ratio(self, name: str, reference: str, *, cpu: bool = False) -> Spread:
        """Paired ratios: round by round, then median, smallest, largest."""
        seconds = self.cpu if cpu else self.wall
        return spread([a / b for a, b in zip(seconds[name], seconds[reference], strict=True)])


def versions_of(contender: Contender) -> dict[str, str | None]:
    """The version of each package that a contender needs; None where it is not installed."""
    found: dict[str, str | None] = {}
    for package in contender.packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def installed(contender: Contender) -> bool:
    return None not in versions_of(contender).values()


def measure(
    benchmark: Benchmark,
    rounds: int = 7,
    warmups: int = 1,
    *,
    clock: Callable[[], float] = time.perf_counter,
    cpu_clock: Callable[[], float] = time.process_time,
    say: Callable[[str], object] = lambda line: None,
) -> Times:
    """Warm up, check, and run the rounds. Contenders that are not installed are left out here and
    listed by `record`.

    Raises Disagreement when a contender does not compute what the reference computes.
    """
    if rounds < 1 or warmups < 1:
        raise ValueError(
            f"{rounds} rounds and {warmups} warm-ups are too few; both must be at least 1; ask for "
            "more"
        )
    present = [c for c in benchmark.contenders if installed(c)]
    if not present or present[0] is not benchmark.contenders[0]:
        raise ValueError(
            f"the reference {benchmark.contenders[0].name!r} is not installed; nothing can be "
            "compared"
        )
    works = {c.name: c.prepare() for c in present}
    times = Times(
        {name: [] for name in works}, {name: [] for name in works}, {name: [] for name in works}
    )

    def run(name: str) -> Any:
        faults, cpu, start = _page_faults(), cpu_clock(), clock()
        result = works[name]()
        stop, cpu_stop = clock(), cpu_clock()
        times.faults[name].append(_page_faults() - faults)
        times.wall[name].append(stop - start)
        times.cpu[name].append(cpu_stop - cpu)
        return result

    proofs = {c.name: c.prove() for c in present}

    def compare(results: dict[str, Any]) -> None:
        reference = Outcome(results[present[0].name], proofs[present[0].name])
        for name, result in results.items():
            try:
                words = benchmark.check(reference, Outcome(result, proofs[name]))
            except Disagreement as error:
                raise Disagreement(
                    f"{name} and {present[0].name} do not compute the same: {error}"
                ) from error
            times.agreement.setdefault(name, words)

    for _ in range(warmups):
        compare({c.name: run(c.name) for c in present})
    for name in works:
        times.wall[name], times.cpu[name], times.faults[name] = [], [], []
    for i in range(rounds):
        gc.collect()
        order = present if i % 2 == 0 else present[::-1]
        compare({c.name: run(c.name) for c in order})
        say(
            f"round {i + 1} of {rounds}: "
            + ", ".join(f"{name} {s[-1]:.3g} s" for name, s in times.wall.items())
        )
    return times


def _page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def record(
    benchmark: Benchmark,
    times: Times,
    *,
    warmups: int = 1,
    command: str = "",
    where: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything measured, as plain values: what the JSON file holds and the Markdown file is made
    from.
    """
    reference = benchmark.contenders[0].name
    rows = []
    for contender in benchmark.contenders:
        row: dict[str, Any] = {
            "name": contender.name,
            "how": contender.how,
            "packages": versions_of(contender),
        }
        row["installed"] = contender.name in times.wall
        if row["installed"]:
            wall, cpu = times.wall[contender.name], times.cpu[contender.name]
            row |= {
                "seconds": spread(wall)._asdict(),
                "rate": spread([benchmark.amount / s for s in wall])._asdict(),
                "ratio": times.ratio(contender.name, reference)._asdict(),
                "agreement": times.agreement.get(contender.name, ""),
                "wall_seconds": wall,
                "cpu_seconds": cpu,
                "page_faults": times.faults[contender.name],
                "cpu_share": min(c / w for c, w in zip(cpu, wall, strict=True)),
            }
            if all(times.cpu[reference]):
                row["cpu_ratio"] = times.ratio(contender.name, reference, cpu=True)._asdict()
        rows.append(row)
    return {
        "benchmark": benchmark.name,
        "title": benchmark.title,
        "notes": benchmark.notes,
        "unit": benchmark.unit,
        "amount": benchmark.amount,
        "reference": reference,
        "rounds": len(times.wall[reference]),
        "warmups": warmups,
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": command,
        "machine": machine() if where is None else where,
        "commit": commit(),
        "contenders": rows,
        "goals": [_judge(goal, times) for goal in benchmark.goals],
    }


def _judge(goal: Goal, times: Times) -> dict[str, Any]:
    judged: dict[str, Any] = {
        "contender": goal.contender,
        "reference": goal.reference,
        "at_most": goal.at_most,
    }
    if goal.contender not in times.wall or goal.reference not in times.wall:
        return judged | {"verdict": "not measured"}
    ratio = times.ratio(goal.contender, goal.reference)
    verdict = "met" if ratio.median <= goal.at_most else "missed"
    resolved = ratio.most <= goal.at_most if verdict == "met" else ratio.least > goal.at_most
    return judged | {
        "ratio": ratio._asdict(),
        "verdict": verdict if resolved else f"{verdict} in the median only",
    }


def markdown(found: dict[str, Any]) -> str:
    """The record as a page."""
    unit, reference = found["unit"], found["reference"]
    lines = [f"# {found['benchmark']}: {found['title']}", ""]
    if found["notes"]:
        lines += [found["notes"], ""]
    head = [
        "contender",
        f"{unit}/s",
        "seconds a run",
        f"time / {reference}",
        f"CPU time / {reference}",
        f"same as {reference}?",
    ]
    lines += ["| " + " | ".join(head) + " |", "|---|" + "---:|" * 4 + "---|"]
    for row in found["contenders"]:
        version = ", ".join(f"{name} {v or 'not installed'}" for name, v in row["packages"].items())
        name = row["name"] + (f" ({version})" if version else "")
        if not row["installed"]:
            lines.append(f"| {name} | not installed | | | | |")
            continue
        cells = [name, f"{Spread(**row['rate']):.2f}", f"{Spread(**row['seconds']):.3f}"]
        cells.append(f"{Spread(**row['ratio']):.3f}")
        cells.append(f"{Spread(**row['cpu_ratio']):.3f}" if "cpu_ratio" in row else "")
        lines.append("| " + " | ".join([*cells, row["agreement"]]) + " |")
    lines += [
        "",
        "Median [smallest … largest] over the rounds; times are divided round by round.",
        "",
    ]
    if found["goals"]:
        lines += ["| goal | measured | verdict |", "|---|---:|---|"]
        for goal in found["goals"]:
            ratio = f"{Spread(**goal['ratio']):.3f}" if "ratio" in goal else ""
            words = f"{goal['contender']} ≤ {goal['at_most']:g} × {goal['reference']}"
            lines.append(f"| {words} | {ratio} | {goal['verdict']} |")
        lines.append("")
    lines += ["How each contender was called:", ""]
    lines += [f"- *{row['name']}*: {row['how']}" for row in found["contenders"] if row["how"]]
    present = [row for row in found["contenders"] if row["installed"]]
    shares = [f"{row['cpu_share']:.0%} ({row['name']})" for row in present]
    faults = [f"{statistics.median(row['page_faults']):.0f} ({row['name']})" for row in present]
    known = {
        key.replace("_", " "): value for key, value in found["machine"].items() if value is not None
    }
    where = ", ".join(f"{key} {value}" for key, value in known.items())
    lines += [
        "",
        f"- rounds: {found['rounds']}, warm-ups: {found['warmups']}; {found['date']}; lowland at "
        f"{found['commit']}",
        f"- machine: {where}",
        f"- least share of its core that a contender had in any round: {', '.join(shares)}",
        f"- page faults a run, median: {', '.join(faults)}",
        f"- command: `{found['command']}`",
        "",
    ]
    return "\n".join(lines)


def write(found: dict[str, Any], folder: Path = RESULTS) -> tuple[Path, Path]:
    """Write NAME.json and NAME.md; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    data, page = folder / f"{found['benchmark']}.json", folder / f"{found['benchmark']}.md"
    write_record(data, found)
    page.write_text(markdown(found))
    return data, page


def parser(name: str, about: str | None) -> argparse.ArgumentParser:
    """The options that all benchmarks share."""
    made = argparse.ArgumentParser(
        f"python -m benchmarks.speed.{name}", description=(about or "").split("\n")[0]
    )
    made.add_argument("--rounds", type=int, default=7, help="timed rounds (7)")
    made.add_argument("--warmups", type=int, default=1, help="untimed rounds before them (1)")
    made.add_argument("--core", type=int, help="the core to pin to (the last that is allowed)")
    made.add_argument(
        "--default-malloc",
        action="store_true",
        help="let glibc give memory back, as it does by default",
    )
    made.add_argument(
        "--out", type=Path, default=RESULTS, help="folder of the JSON and Markdown files"
    )
    made.add_argument("--list", action="store_true", help="list the contenders, run nothing")
    return made


def main(args: argparse.Namespace, build: Callable[[], Benchmark]) -> int:
    """Run a benchmark as its options ask; 0, or 1 with a message when contenders disagree."""
    if args.list:
        benchmark = build()
        print(f"{benchmark.name}: {benchmark.title}")
        for contender in benchmark.contenders:
            version = ", ".join(
                f"{name} {v or 'not installed'}" for name, v in versions_of(contender).items()
            )
            print(f"  {contender.name:24} {version:28} {contender.how}")
        return 0
    pin(args.core, keep_heap=not args.default_malloc)
    benchmark = build()
    try:
        times = measure(
            benchmark,
            args.rounds,
            args.warmups,
            say=lambda line: print(line, file=sys.stderr, flush=True),
        )
    except Disagreement as error:
        print(f"refused: {error}", file=sys.stderr)
        return 1
    command = shlex.join(["python", *sys.orig_argv[1:]])
    found = record(benchmark, times, warmups=args.warmups, command=command)
    files = write(found, args.out)
    print(markdown(found))
    print("wrote", *files)
    return 0
