"""Repeat on a device what the CPU computes, and compare; then time Langevin there.

    python -m benchmarks.proof.devices --device cuda

Every sampler, objective, kind of net, task and run of `benchmarks.proof.devices_cases`, the list
that the tests run on a simulated device. Draws are those of the CPU (`devices_cases.twins`), so
that results can be compared number by number: they agree up to rounding, but for decisions that
rounding turns, in at most a tenth of the rows. Then every case is made twice more with the device's
own draws: are the bits the same? At the end Langevin is timed step by step, compiled, and as a CUDA
graph, in turn, round by round. Writes benchmarks/results/proof/devices-KIND.{json,md}, and ends
with 1 if anything differs or fails. Under ten minutes on a GPU.
"""

import argparse
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.machine import circumstances
from benchmarks.proof import RESULTS
from benchmarks.proof.devices_cases import draws, runs, updates, uses
from benchmarks.proof.devices_cases.case import Case, Numbers, compare
from benchmarks.proof.devices_cases.twins import draw_alike
from benchmarks.proof.devices_speed import Timing, time_ways
from benchmarks.record import write_record
from lowland.devices import list_devices, pick_device

CASES = [*uses.CASES, *draws.CASES, *updates.CASES, *runs.CASES]
CPU = torch.device("cpu")


class Outcome(NamedTuple):
    """What came of a case: how it differs from the CPU, whether its bits repeat, its seconds."""

    room: str
    name: str
    problem: str
    repeats: str
    seconds: float

    @property
    def good(self) -> bool:
        """Tell whether it agrees and repeats."""
        return not self.problem and self.repeats in ("yes", "")


def run_case(case: Case, device: torch.device) -> Numbers:
    """Make a case in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return case.run(device, Path(folder))


def try_case(case: Case, device: torch.device) -> Outcome:
    """Compare a case with the CPU, and with itself."""
    began = time.monotonic()
    problem, repeats = "", ""
    try:
        if case.alike:
            with draw_alike(CPU):
                wanted = run_case(case, CPU)
            with draw_alike(device) as twins:
                found = run_case(case, device)
            problem = compare(wanted, found, case)
            if twins.strays:
                problem = f"{problem} products stayed on the CPU: {twins.strays}".strip()
        once, again = run_case(case, device), run_case(case, device)
        other = [name for name, x in once.items() if not torch.equal(x.cpu(), again[name].cpu())]
        repeats = f"no: {', '.join(other[:3])}" if other else "yes"
    except Exception as error:  # every failure is a row of the table
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = " ".join(str(error).split())[:200]
        problem = f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}: {text}"
    return Outcome(case.room, case.name, problem, repeats, round(time.monotonic() - began, 2))


def write_page(record: dict[str, Any], outcomes: list[Outcome], timings: list[Timing]) -> str:
    """Return the page of a record."""
    bad = [outcome for outcome in outcomes if not outcome.good]
    lines = [
        f"# lowland on {record['name']}",
        "",
        f"`{record['command']}`, {record['date']}, torch {record['torch']}",
        "",
        f"{len(outcomes)} cases, {len(bad)} that differ, fail or do not repeat; "
        f"{record['seconds']:.0f} s.",
        "",
    ]
    if record["device"] == "cpu":
        lines += [
            "No GPU was at hand: this is the CPU beside itself. It shows that the script runs and "
            "what it prints, and says nothing about a GPU.",
            "",
        ]
    lines += [
        "A case agrees if no more rows than rounding can turn differ from the CPU's by more than "
        "rounding; draws are the CPU's. Bits repeat if two runs with the device's own draws are "
        "equal.",
        "",
        "| room | case | agrees with the CPU | bits repeat | s |",
        "|---|---|---|---|---|",
    ]
    for one in outcomes:
        agrees = one.problem or "yes"
        lines.append(f"| {one.room} | {one.name} | {agrees} | {one.repeats} | {one.seconds} |")
    lines += [
        "",
        f"Langevin: {record['chains']} chains of pictures of 28 × 28, {record['steps']} steps, "
        f"median of {record['rounds']} rounds in turn; ratio to eager of the same round, "
        "median [smallest … largest].",
        "",
        "| way | ms | time / eager | why not |",
        "|---|---|---|---|",
        *(timing.describe() for timing in timings),
    ]
    return "\n".join(lines) + "\n"


def name_device(device: torch.device) -> str:
    """Return the name of a device as its maker writes it."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} (CUDA)"
    if device.type == "xpu":
        return f"{torch.xpu.get_device_name(device)} (XPU)"
    return {"mps": "Apple's GPU (MPS)", "cpu": "the CPU"}.get(device.type, device.type)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto", help=f"here: {', '.join(list_devices())}")
    parser.add_argument("--only", default="", help="cases whose room or name holds this")
    parser.add_argument("--chains", type=int, default=256)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device, began = pick_device(options.device), time.monotonic()
    torch.backends.cudnn.allow_tf32 = False  # numbers are compared
    torch.backends.cuda.matmul.allow_tf32 = False
    outcomes = []
    for case in CASES:
        if options.only in str(case):
            outcomes.append(try_case(case, device))
            print(*outcomes[-1], sep=" | ", flush=True)
    timings = time_ways(device, options.chains, options.steps, options.rounds)
    record = {
        **circumstances(),
        "device": device.type,
        "name": name_device(device),
        "torch": torch.__version__,
        "seconds": round(time.monotonic() - began, 1),
        "chains": options.chains,
        "steps": options.steps,
        "rounds": options.rounds,
        "cases": [outcome._asdict() for outcome in outcomes],
        "timings": [timing._asdict() for timing in timings],
    }
    out = options.out or RESULTS / f"devices-{device.type}"
    write_record(out.with_suffix(".json"), record)
    page = write_page(record, outcomes, timings)
    out.with_suffix(".md").write_text(page, encoding="utf-8")
    print("\n".join(timing.describe() for timing in timings))
    raise SystemExit(not all(outcome.good for outcome in outcomes))


if __name__ == "__main__":
    main()
