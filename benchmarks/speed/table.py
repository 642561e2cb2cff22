"""The speed table: lowland's continuous samplers against ebmkit, torchebm, blackjax and numpyro,
every goal a paired ratio.

    python -m benchmarks.speed.table                    all rows, one thread, then the table
    python -m benchmarks.speed.table --threads 2        the same with two threads, for the second
    column
    python -m benchmarks.speed.table hmc-mlp nuts       some rows

Every row writes results/speed/ROW.{json,md} (with two threads: ROW-2threads), every command
ends by writing results/speed/table.md from the files that are there. Rows run in a process of
their own,
so that no row inherits a heap. With --default-malloc give another --out: there all torch programs
pay for page faults that small blocks do not have.
"""

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.record import read_record
from benchmarks.speed import runner
from benchmarks.speed.runner import Benchmark, Disagreement, Times


@dataclass(frozen=True)
class Row:
    """A row: the work as the table names it, a builder, arguments for small sizes, what to do to
    the times afterwards.
    """

    work: str
    build: Callable[..., Benchmark]
    small: dict[str, Any]
    finish: Callable[[Benchmark, Times], Benchmark] = lambda benchmark, times: benchmark


def rows() -> dict[str, Row]:
    """All rows by name. Imported late: torch and JAX must not start before the process is
    pinned.
    """
    from functools import partial

    from benchmarks.speed import (
        rows_langevin,
        rows_mcmc,
        rows_nuts,
        rows_path,
        rows_rbm,
        rows_train,
    )

    tiny, bare = {"chains": 8, "steps": 5}, {"chains": 50, "steps": 10, "compile": False}
    few = {"chains": 20, "steps": 20}
    return {
        "images-conv": Row(
            "Langevin, images, conv net", partial(rows_langevin.langevin_images, "conv"), tiny
        ),
        "images-residual": Row(
            "Langevin, images, residual net",
            partial(rows_langevin.langevin_images, "residual", steps=30),
            {"chains": 2, "steps": 3},
        ),
        "overhead-mlp": Row(
            "Langevin, MLP, 1,000 chains", rows_langevin.overhead_mlp, {"chains": 50, "steps": 10}
        ),
        "langevin-mlp": Row("Langevin, MLP, 10,000 chains", rows_langevin.langevin_mlp, bare),
        "pcd": Row("PCD step, 20 Langevin steps", rows_train.pcd, {"chains": 8, "buffer": 100}),
        "hmc-mlp": Row("HMC-10, MLP, 1,000 chains", rows_mcmc.hmc_mlp, bare),
        "hmc-gaussian": Row("HMC-10, 100-d Gaussian, 1,000 chains", rows_mcmc.hmc_gaussian, bare),
        "mala-mlp": Row("MALA, MLP, 1,000 chains", rows_mcmc.mala_mlp, bare),
        "nuts": Row(
            "NUTS, 100-d Gaussian, 1,000 chains, ESS/s",
            rows_nuts.nuts,
            few,
            rows_nuts.per_effective_draw,
        ),
        "nuts-100": Row(
            "NUTS, the same with 100 chains",
            partial(rows_nuts.nuts, 100, name="nuts-100"),
            {"steps": 20},
            rows_nuts.per_effective_draw,
        ),
        "tempering": Row(
            "Parallel tempering, 8 × 128", rows_mcmc.parallel_tempering, {"chains": 8, "steps": 10}
        ),
        "rbm-cd1": Row("RBM 784-500, CD-1", partial(rows_rbm.learning, 1), {"count": 512}),
        "rbm-cd10": Row(
            "RBM 784-500, CD-10", partial(rows_rbm.learning, 10, count=1920), {"count": 512}
        ),
        "rbm-ais": Row(
            "AIS of an RBM, 1,000 × 100",
            rows_rbm.annealing,
            {"chains": 20, "num_temperatures": 50, "updates": 20},
        ),
        "ais": Row("AIS, 200 temperatures × 64 chains", rows_path.ais, {"chains": 16, "steps": 10}),
    }


def pin(threads: int, core: int | None, keep_heap: bool) -> None:
    """One thread on one core by the runner; more threads on as many cores, in the same way."""
    if threads == 1:
        return runner.pin(core, keep_heap=keep_heap)
    cores = sorted(os.sched_getaffinity(0))[-threads:]
    if len(cores) < threads:
        raise SystemExit(
            f"{threads} threads were asked for; this process may use {len(cores)} cores; ask for "
            "fewer"
        )
    os.sched_setaffinity(0, cores)
    needed = {name: str(threads) for name in runner.ONE_THREAD} | (
        runner.KEPT_HEAP if keep_heap else {}
    )
    if any(os.environ.get(name) != value for name, value in needed.items()):
        os.environ.update(needed)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    import torch

    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)


def run_row(name: str, args: argparse.Namespace) -> int:
    """Measure one row in this process and write its files; 1 with a message when contenders
    disagree.
    """
    pin(args.threads, args.core, not args.default_malloc)
    row = rows()[name]
    benchmark = row.build(**(row.small if args.small else {}))
    try:
        times = runner.measure(
            benchmark,
            args.rounds,
            args.warmups,
            say=lambda line: print(line, file=sys.stderr, flush=True),
        )
    except Disagreement as error:
        print(f"refused: {error}", file=sys.stderr)
        return 1
    benchmark = row.finish(benchmark, times)
    if args.threads > 1:
        benchmark = replace(benchmark, name=f"{benchmark.name}-{args.threads}threads")
    command = shlex.join(["python", *sys.orig_argv[1:]])
    found = runner.record(benchmark, times, warmups=args.warmups, command=command)
    files = runner.write(found, args.out)
    print(runner.markdown(found))
    print("wrote", *files)
    return 0


def run_apart(names: Sequence[str], args: argparse.Namespace) -> int:
    """Each row in its own process; how many failed."""
    options = [
        "--rounds",
        str(args.rounds),
        "--warmups",
        str(args.warmups),
        "--threads",
        str(args.threads),
    ]
    options += ["--out", str(args.out)] + (
        ["--core", str(args.core)] if args.core is not None else []
    )
    options += [
        flag
        for flag, on in (("--small", args.small), ("--default-malloc", args.default_malloc))
        if on
    ]
    return sum(
        subprocess.run(
            [
                sys.executable,
                "-W",
                "ignore",
                "-m",
                "benchmarks.speed.table",
                name,
                "--alone",
                *options,
            ]
        ).returncode
        != 0
        for name in names
    )


def ratios(found: dict[str, Any], goal: dict[str, Any]) -> tuple[str, str]:
    """Speed over the reference, by the clock and by CPU time: median [smallest … largest] of the
    rounds.

    Against the floor, whose goal is a bound on time, the share of its time instead.
    """
    rows = {row["name"]: row for row in found["contenders"] if row["installed"]}
    if "ratio" not in goal:
        return "not measured", ""
    own, other = rows[goal["contender"]], rows[goal["reference"]]
    cells = []
    for kind in ("wall_seconds", "cpu_seconds"):
        pairs = zip(own[kind], other[kind], strict=True)
        if goal["reference"] == "floor":
            cells.append(f"{runner.spread([a / b for a, b in pairs]):.3f}")
        else:
            cells.append(f"{runner.spread([b / a for a, b in pairs]):.2f} ×")
    return cells[0], cells[1]


def table(folder: Path) -> str:
    """The table of all rows whose files are in the folder."""
    lines = [
        "# Speed of the continuous samplers",
        "",
        "| work | lowland as | against | goal | one thread | by CPU time | verdict | two threads |",
        "|---|---|---|---|---|---|---|---|",
    ]
    machines = set()
    unmeasured: dict[str, Any] = {}
    for name, row in rows().items():
        files = [folder / f"{name}{suffix}.json" for suffix in ("", "-2threads")]
        one, two = (read_record(file, {"goals": [], "contenders": []}) for file in files)
        for found in (one, two):
            if "machine" in found:
                known = found["machine"]
                machines.add(
                    f"{known['cpu']}, torch {known['torch']}, lowland at {found['commit']}"
                )
        for goal in one["goals"] or two["goals"]:
            same = {
                "contender": goal["contender"],
                "reference": goal["reference"],
                "at_most": goal["at_most"],
            }
            first, second = (
                next((g for g in f["goals"] if same.items() <= g.items()), unmeasured)
                for f in (one, two)
            )
            aim = (
                f"≤ {goal['at_most']:g}"
                if goal["reference"] == "floor"
                else f"≥ {1 / goal['at_most']:.3g} ×"
            )
            cells = [f"[{row.work}]({name}.md)", goal["contender"], goal["reference"], aim]
            cells += [
                *ratios(one, first),
                first.get("verdict", "not measured"),
                ratios(two, second)[0],
            ]
            lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "× faster: seconds of the other divided by seconds of lowland, both from the same round; "
        "median [smallest … largest]",
        "over the rounds. Against the floor (the bare loop over forward, gradient and noise): "
        "seconds of lowland divided by",
        "seconds of the loop. A verdict is *in the median only* where the rounds do not all agree. "
        "Where clock and CPU time",
        "differ, another program had the core: believe CPU time. The work of all contenders of a "
        "row was checked to be the",
        "same; the pages of the rows say how, how each was called, and every figure.",
        "",
        *[f"- {machine}" for machine in sorted(machines)],
        "- commands: `python -m benchmarks.speed.table`, `python -m benchmarks.speed.table "
        "--threads 2`",
        "",
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = runner.parser("table", __doc__)
    parser.add_argument("names", nargs="*", help="rows to run (all)")
    parser.add_argument("--threads", type=int, default=1, help="threads and cores (1)")
    parser.add_argument(
        "--small",
        action="store_true",
        help="tiny sizes: to see that everything runs, not to be quoted",
    )
    parser.add_argument("--alone", action="store_true", help="run the one row in this process")
    args = parser.parse_args(argv)
    if args.alone:
        return run_row(args.names[0], args)
    known = list(rows())
    unknown = sorted(set(args.names) - set(known))
    if unknown:
        raise SystemExit(
            f"rows {', '.join(unknown)} were asked for; there are {', '.join(known)}; choose among "
            "these"
        )
    if args.list:
        print("\n".join(f"{name:16} {row.work}" for name, row in rows().items()))
        return 0
    names = args.names or known
    failed = run_apart(names, args)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "table.md").write_text(table(args.out))
    print(table(args.out))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
