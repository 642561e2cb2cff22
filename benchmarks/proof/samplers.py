"""The proof table: every sampler that lowland ships, against all that it claims, in float32 and
float64; then planted bugs.

    python -m benchmarks.proof.samplers                     # everything, about an hour; writes
                                                   results/proof/samplers.{md,json}
    python -m benchmarks.proof.samplers --only MALA,NUTS --count 5000 --out /tmp

Forms of samplers that differ are proven apart (scale, jitter, several leapfrogs or sweeps), and so
are samplers made by `tune`: NUTS with its metric, a ladder of temperatures. What each check does is
said in lowland.testing. The mutation table lists every planted bug, the check that should see it,
what the check says to the bug and to the sound sampler. Exits with 1 if a claim fails, a bug goes
unseen or a sound sampler is condemned.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import machine
from benchmarks.proof import RESULTS
from benchmarks.record import write_record
from lowland import MALA, NUTS, ParallelTempering, tune
from lowland.testing import (
    LIMIT,
    MUTANTS,
    TARGETS,
    Mutant,
    Report,
    Row,
    all_samplers,
    prove,
    seeded,
)


def tuned() -> dict[str, Any]:
    """What `tune` returns on two targets: a metric, a ladder."""
    funnel, mixture = TARGETS["funnel"], TARGETS["mixture"]
    ladder = ParallelTempering(MALA(0.2), (1.0, 2.0, 4.0))
    return {
        "NUTS, tuned": tune(
            funnel.energy,
            NUTS(0.3, 5),
            funnel.draw(100, seeded(), torch.float32),
            200,
            generator=seeded(1),
        ),
        "Tempering of MALA, tuned": tune(
            mixture.energy,
            ladder,
            mixture.draw(100, seeded(), torch.float32),
            200,
            generator=seeded(1),
        ),
    }


# ------------------------------------------------------------------------------------------- tables


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    return "\n".join(
        [
            f"| {' | '.join(head)} |",
            f"|{'---|' * len(head)}",
            *(f"| {' | '.join(cells)} |" for cells in lines),
        ]
    )


def grid(reports: Sequence[Report], wanted: Callable[[Row], str | None]) -> str:
    """Samplers × columns, where wanted(row) names the column; a cell holds the worst |z| of its
    rows, failures in bold.
    """
    columns = list(
        dict.fromkeys(
            name for report in reports for row in report.rows if (name := wanted(row)) is not None
        )
    )
    lines = []
    for report in reports:
        cells = [_cell([row for row in report.rows if wanted(row) == column]) for column in columns]
        if any(cells):
            lines.append([report.name, *cells])
    return markdown(["sampler", *columns], lines)


def _cell(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    figures = [row.figure for row in rows if row.figure is not None]
    notes = (
        f" ({max(row.note for row in rows).removeprefix('total variation ')})"
        if rows[0].check == "enumeration"
        else ""
    )
    holds = all(row.holds for row in rows)
    text = f"{max(figures):.1f}{notes}" if figures else "yes" if holds else ""
    return text if holds else f"**{text} FAILS**".replace("** ", "**")


def on_target(row: Row) -> str | None:
    return row.target if row.check == "stationarity" else None


def other_laws(row: Row) -> str | None:
    names = {"joint": f"joint, {row.target}", "arrival": f"arrival, {row.target}", "walls": "walls"}
    return names.get(row.check)


def listed(row: Row) -> str | None:
    return row.target if row.check == "enumeration" else None


def conduct(row: Row) -> str | None:
    statistical = {
        "stationarity",
        "arrival",
        "enumeration",
        "joint",
        "walls",
        "bias order",
        "temperature law",
    }
    return None if row.check in statistical else row.check


def orders(reports: Sequence[Report]) -> str:
    rows = [
        (report.name, row)
        for report in reports
        for row in report.rows
        if row.check in ("bias order", "temperature law")
    ]
    lines = [
        [name, row.check, row.note or row.target, f"{row.figure or 0:.1f}", _verdict(row)]
        for name, row in rows
    ]
    return markdown(["sampler", "check", "", "\\|z\\|", "verdict"], lines)


def _verdict(row: Row) -> str:
    return "holds" if row.holds else f"**FAILS** {row.note}"


# ---------------------------------------------------------------------------------------- mutations


def judged(mutant: Mutant, which: str) -> tuple[bool, str]:
    """Whether the check condemns the sound or the wrong sampler, and what it says."""
    try:
        z = mutant.check(getattr(mutant, which))
    except AssertionError as problem:
        return True, str(problem).strip().splitlines()[0][:60]
    except ValueError as problem:
        return False, str(problem)
    return z is not None and not z < LIMIT, "nothing" if z is None else f"z = {abs(z):.1f}"


def mutations(mutants: Sequence[Mutant], told: Callable[[str], object]) -> list[dict[str, Any]]:
    sound: dict[tuple[str, str], tuple[bool, str]] = {}
    found = []
    for mutant in mutants:
        key = (str(mutant.sound), mutant.seen_by)
        if key not in sound:
            sound[key] = judged(mutant, "sound")
        caught, says = judged(mutant, "wrong")
        found.append(
            {
                "family": mutant.family,
                "bug": mutant.bug,
                "check": mutant.seen_by,
                "says": says,
                "to the sound one": sound[key][1],
                "caught": caught and not sound[key][0],
            }
        )
        told(f"{mutant.family}: {mutant.bug}: {'caught' if found[-1]['caught'] else 'NOT CAUGHT'}")
    return found


# ---------------------------------------------------------------------------------------------- run


def page(reports: Sequence[Report], bugs: Sequence[dict[str, Any]], meta: dict[str, Any]) -> str:
    rows = [row for report in reports for row in report.rows]
    caught = sum(bug["caught"] for bug in bugs)
    lines = [
        [
            b["family"],
            b["bug"],
            b["check"],
            b["says"],
            b["to the sound one"],
            "yes" if b["caught"] else "**NO**",
        ]
        for b in bugs
    ]
    return f"""# Proof of the samplers

{sum(row.holds for row in rows)} of {len(rows)} claims of {len(reports)} forms of samplers hold;
{caught} of {len(bugs)} planted
bugs are caught. {measured(meta)}

A figure is the worst |z| of its checks, over float32 and float64; below {LIMIT:g} the claim holds.
Every statistical check
compares independent chains: {meta["count"]:,} chains, {len(meta["seeds"])} seeds pooled. Samplers
as they were built are in
`samplers.json`, with every row.

## Stationarity: from exact draws, after 12 steps

Moments, energies and tail probabilities against those at the start. "gamma" and "cut" (and the
holed ones) end where the energy
is not a number; "truncated", "exponential" and "flat" have walls.

{grid(reports, on_target)}

## Arrival, joint test, histogram up to the walls

Chains that start at one point against exact draws, after 200 steps; Geweke's joint test of
parameters and data; 12 bins of
exp(−2x) on [0, 1].

{grid(reports, other_laws)}

## Against the list of all states

Chains from exact draws, after 12 steps: |z| of Pearson's statistic, and (in brackets) the larger
total variation, nearly all of
it the noise of so many draws.

{grid(reports, listed)}

## Order of the bias, temperature

Slope of log |bias| on log h of the samplers without an accept step; the exact variance of Langevin
on a Gaussian.

{orders(reports)}

## Promises without statistics

{grid(reports, conduct)}

## Planted bugs

One line of the library is changed; the check that is named must see it, and must not condemn the
sound sampler.

{markdown(["sampler", "bug", "check", "says to the bug", "says to the sound one", "caught"], lines)}
"""


def measured(meta: dict[str, Any]) -> str:
    """When, how and on what."""
    on = meta["machine"]
    return (
        f"Measured {meta['date']} by `{meta['command']}` in {meta['minutes']:.0f} minutes: "
        f"{on['cpu']}, one thread, Python {on['python']}, torch {on['torch']}."
    )


def circumstances(start: float, args: argparse.Namespace) -> dict[str, Any]:
    return {
        "date": date.today().isoformat(),
        "command": " ".join(
            [f"python -m benchmarks.proof.{Path(sys.argv[0]).stem}", *sys.argv[1:]]
        ),
        "machine": machine(),
        "minutes": (time.time() - start) / 60,
        "count": args.count,
        "seeds": list(range(args.seeds)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", default="", help="names of samplers, separated by commas; also limits the bugs"
    )
    parser.add_argument("--count", type=int, default=10_000, help="chains")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    start, only = time.time(), {name.strip() for name in args.only.split(",") if name.strip()}
    samplers = {
        name: s for name, s in (all_samplers() | tuned()).items() if not only or name in only
    }
    reports = []
    for name, sampler in samplers.items():
        reports.append(prove(sampler, name=name, count=args.count, seeds=range(args.seeds)))
        _tell(
            f"{name}: {sum(r.holds for r in reports[-1].rows)} of {len(reports[-1].rows)} hold "
            f"({time.time() - start:.0f} s)"
        )
        for row in reports[-1].failures:
            _tell(f"    {row}")
    bugs = mutations([m for m in MUTANTS if not only or m.family in only], _tell)
    meta = circumstances(start, args)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "samplers.md").write_text(page(reports, bugs, meta), encoding="utf-8")
    data = {
        **meta,
        "samplers": {name: str(sampler) for name, sampler in samplers.items()},
        "rows": [
            {"sampler": report.name, **row._asdict()} for report in reports for row in report.rows
        ],
        "mutations": bugs,
    }
    write_record(args.out / "samplers.json", data)
    sys.exit(not (all(report.holds for report in reports) and all(bug["caught"] for bug in bugs)))


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
