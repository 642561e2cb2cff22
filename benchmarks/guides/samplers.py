"""Which sampler? Effective draws per second and per gradient on six distributions, and whether what
was drawn is right.

    python -m benchmarks.guides.samplers

Every sampler with an accept step is tuned by `tune` and then runs from three seeds: 32 chains from
where `domain.draw` puts them, as many gradient evaluations in a row for all samplers of a target
(replicas are one batch: they cost more gradients, in the same row), the first quarter discarded.
Samplers without an accept step take step and metric of the tuned sampler whose move is
theirs (MALA, GHMC): what is off is what the accept step had put right.

    ESS        smallest bulk ESS over the watched coordinates and the energy, all chains together
    R-hat      largest of the same quantities, worst seed
    z          (mean of the chains' means − truth) / standard error, over the chains of all seeds;
               the worst of the known truths

Draws that are wrong count for nothing: where |z| > 5 or R-hat > 1.05 the ESS is printed in
brackets, and samplers that are not adjusted get none. Writes
benchmarks/results/guides/samplers.{md,json} and the measured parts of docs/which-sampler.md.
"""

import argparse
import dataclasses
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.guides import RESULTS
from benchmarks.guides.samplers_page import APART, WRONG, filled, results_page
from benchmarks.guides.samplers_targets import TARGETS, Target
from benchmarks.machine import circumstances, pin
from benchmarks.record import write_record
from lowland.metrics import ess, rhat
from lowland.samplers import (
    DMALA,
    GHMC,
    HMC,
    MALA,
    NUTS,
    BlockGibbs,
    Draws,
    Energies,
    GibbsWithGradients,
    Langevin,
    LeimkuhlerMatthews,
    ParallelTempering,
    Recorder,
    ShortRun,
    Underdamped,
    choose,
    sample,
    tune,
)

PAGE = Path(__file__).parents[2] / "docs" / "which-sampler.md"
CHAINS, ROW, TUNING, SEEDS = 32, 2000, 200, (1, 2, 3)
KEPT = 600  # draws of each chain that are looked at, at least (fewer where there are fewer)
COLD = 0.01  # temperature of the short runs
Make = Callable[[dict[str, Any], Target], Any]


def ladder(target: Target, num_temperatures: int) -> tuple[float, ...]:
    return tuple(target.hottest ** (i / (num_temperatures - 1)) for i in range(num_temperatures))


def tempered(inner: str, num_temperatures: int = 5) -> Make:
    return lambda tuned, target: ParallelTempering(tuned[inner], ladder(target, num_temperatures))


def cold(tuned: dict[str, Any], target: Target) -> ShortRun:
    step, domain = tuned["MALA"].step_size, target.energy.domain
    return ShortRun(
        step,
        math.sqrt(2 * step * COLD),
        clamp=(domain.lo, domain.hi) if domain.kind == "box" else None,
    )


# What to start tuning from, or (not adjusted) what follows from a tuned one; in this order
CONTINUOUS: dict[str, Make] = {
    "MALA": lambda tuned, target: MALA(0.1),
    "HMC": lambda tuned, target: HMC(0.1, 10, jitter=0.2),
    "NUTS": lambda tuned, target: NUTS(0.1, 8),
    "GHMC": lambda tuned, target: GHMC(0.1),
    "ParallelTempering(MALA)": tempered("MALA"),
    "ParallelTempering(HMC)": tempered("HMC"),
    "Langevin": lambda tuned, target: Langevin(
        tuned["MALA"].step_size, inv_mass_sqrt=tuned["MALA"].inv_mass_sqrt
    ),
    "LeimkuhlerMatthews": lambda tuned, target: LeimkuhlerMatthews(
        tuned["MALA"].step_size, tuned["MALA"].inv_mass_sqrt
    ),
    "Underdamped": lambda tuned, target: Underdamped(
        tuned["GHMC"].step_size, inv_mass_sqrt=tuned["GHMC"].inv_mass_sqrt
    ),
    "ShortRun": cold,
}
DISCRETE: dict[str, Make] = {
    "BlockGibbs": lambda tuned, target: BlockGibbs(),
    "GibbsWithGradients": lambda tuned, target: GibbsWithGradients(),
    "DMALA": lambda tuned, target: DMALA(0.2),
    "ParallelTempering(BlockGibbs)": tempered("BlockGibbs", 3),
    "ParallelTempering(DMALA)": tempered("DMALA", 3),
}


@dataclasses.dataclass(frozen=True)
class Size:
    """chains; row: gradient evaluations one after the other in a run of most targets; tuning: steps
    of tune; seeds.
    """

    chains: int = CHAINS
    row: int = ROW
    tuning: int = TUNING
    seeds: Sequence[int] = SEEDS


class Run(NamedTuple):
    """One seed: seconds of the discarded and of the kept part; gradients per chain, effective
    draws, ... of the kept one.
    """

    discarded: float
    seconds: float
    gradients: float
    ess: float
    rhat: float
    diverged: int
    means: Tensor  # of the known truths, chain by chain: (truths, chains)


def samplers_of(target: Target) -> dict[str, Make]:
    return DISCRETE if target.energy.domain.kind == "binary" else CONTINUOUS


def tuned_samplers(target: Target, size: Size) -> tuple[dict[str, Any], dict[str, float]]:
    """All samplers of a target, tuned where they have an accept step and a step size, and the
    seconds that took.
    """
    found: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    for name, make in samplers_of(target).items():
        g = torch.Generator().manual_seed(0)
        sampler, began = make(found, target), time.perf_counter()
        if sampler.adjusted and hasattr(getattr(sampler, "sampler", sampler), "step_size"):
            sampler = tune(
                target.energy,
                sampler,
                target.energy.domain.draw(size.chains, g),
                size.tuning,
                generator=g,
            )
        found[name], seconds[name] = sampler, time.perf_counter() - began
    return found, seconds


def steps_of(sampler: Any, target: Target, size: Size) -> int:
    """How many steps make `size.row` gradient evaluations in a row, times `target.longer`; without
    gradients, of the energy.
    """
    inner = getattr(sampler, "sampler", sampler)
    each: float = max(inner.num_grad_evals, 1)
    if isinstance(inner, NUTS):
        g = torch.Generator().manual_seed(0)
        each = (
            sample(
                target.energy, inner, target.energy.domain.draw(size.chains, g), 20, generator=g
            ).num_grad_evals
            / 20
        )
    return max(round(target.longer * size.row / each), 40)


def run(target: Target, sampler: Any, steps: int, chains: int, seed: int) -> Run:
    """A run of one seed; its first quarter is discarded."""
    g = torch.Generator().manual_seed(seed)
    start, first = target.energy.domain.draw(chains, g), steps // 4
    began = time.perf_counter()
    warm = sample(target.energy, sampler, start, first, generator=g)
    middle = time.perf_counter()
    steps -= first
    every = max(steps // KEPT, 1)
    recorders: list[Recorder] = [Draws(every), Energies()]
    trace = sample(
        target.energy, sampler, warm.x, steps, generator=g, state=warm.state, recorders=recorders
    )
    seconds = time.perf_counter() - middle
    energies = trace.records["energies"][every - 1 :: every]
    flat, one = trace.draws.flatten(0, 1), energies.flatten()
    watched = torch.cat([target.watched(flat), one.unsqueeze(1)], 1).view(*energies.shape, -1)
    worth = (
        ess(watched, layout="draws chains ...").nan_to_num(1.0).min().item()
    )  # nan: a coordinate that never moved
    apart = rhat(watched, layout="draws chains ...").nan_to_num(math.inf).max().item()
    means = torch.stack(
        [t.function(flat, one).double().view_as(energies).mean(0) for t in target.truths]
    )
    diverged = int((warm.diverged + trace.diverged).sum())
    return Run(middle - began, seconds, trace.num_grad_evals, worth, apart, diverged, means)


def held_against(target: Target, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Every truth with what was found, over the chains of all seeds."""
    means = torch.cat([one.means for one in runs], 1)
    errors = means.std(1) / math.sqrt(means.shape[1])
    found = zip(target.truths, means.mean(1).tolist(), errors.tolist(), strict=True)
    return [
        {"name": t.name, "truth": t.value, "found": mean, "z": (mean - t.value) / max(error, 1e-12)}
        for t, mean, error in found
    ]


def mean_sd(values: Sequence[float]) -> dict[str, float]:
    return {
        "mean": statistics.fmean(values),
        "sd": statistics.stdev(values) if len(values) > 1 else 0.0,
    }


def cell(
    name: str, sampler: Any, target: Target, runs: Sequence[Run], tuning: float, steps: int
) -> dict[str, Any]:
    truths = held_against(target, runs)
    worst = max(truths, key=lambda t: abs(t["z"]))
    chains, paid = runs[0].means.shape[1], all(one.gradients for one in runs)
    return {
        "sampler": name,
        "settings": repr(sampler),
        "adjusted": sampler.adjusted,
        "steps": steps,
        "tuning_seconds": tuning,
        "discarded_seconds": statistics.fmean(one.discarded for one in runs),
        "seconds": [one.seconds for one in runs],
        "gradients": statistics.fmean(one.gradients for one in runs),
        "ess": [one.ess for one in runs],
        "ess_per_second": mean_sd([one.ess / one.seconds for one in runs]),
        "ess_per_1000_gradients": mean_sd(
            [1000 * one.ess / (chains * one.gradients) for one in runs]
        )
        if paid
        else None,
        "rhat": max(one.rhat for one in runs),
        "diverged": sum(one.diverged for one in runs),
        "truths": truths,
        "worst": worst,
        "right": abs(worst["z"]) <= WRONG and max(one.rhat for one in runs) <= APART,
    }


def chosen(target: Target, size: Size) -> dict[str, Any]:
    """What `tune(energy, "auto", ...)` takes."""
    g = torch.Generator().manual_seed(0)
    began = time.perf_counter()
    choice = choose(
        target.energy, target.energy.domain.draw(size.chains, g), size.tuning, generator=g
    )
    name = type(choice.sampler).__name__
    return {"sampler": name, "why": choice.why, "seconds": time.perf_counter() - began}


def measure(
    targets: Sequence[Target], size: Size = Size(), say: Callable[[str], object] = lambda _: None
) -> dict[str, Any]:
    """All samplers on all targets: tuned once, then seed by seed, so that a slow minute does not
    fall on one of them alone.
    """
    record = []
    for target in targets:
        say(f"{target.name}: tuning")
        samplers, tuning = tuned_samplers(target, size)
        steps = {name: steps_of(sampler, target, size) for name, sampler in samplers.items()}
        runs: dict[str, list[Run]] = {name: [] for name in samplers}
        for seed in size.seeds:
            for name, sampler in samplers.items():
                runs[name].append(run(target, sampler, steps[name], size.chains, seed))
                say(f"{target.name}: {name}, seed {seed}, {runs[name][-1].seconds:.2f} s")
        cells = [
            cell(name, s, target, runs[name], tuning[name], steps[name])
            for name, s in samplers.items()
        ]
        truths = [t.name for t in target.truths]
        record.append(
            {
                "name": target.name,
                "title": target.title,
                "longer": target.longer,
                "truths": truths,
                "cells": cells,
                "auto": chosen(target, size),
            }
        )
    return {"size": dataclasses.asdict(size), "targets": record}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.guides.samplers", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--targets", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--core", type=int, help="the core to pin to (the last that is allowed)")
    parser.add_argument(
        "--out", type=Path, default=RESULTS, help="folder of the JSON and Markdown files"
    )
    options = parser.parse_args(argv)
    pin(options.core)
    began = time.perf_counter()
    found = measure(
        [TARGETS[name]() for name in options.targets],
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    found |= circumstances() | {"seconds": round(time.perf_counter() - began)}
    out = options.out / "samplers"
    write_record(out.with_suffix(".json"), found)
    out.with_suffix(".md").write_text(results_page(found))
    print(results_page(found))
    if options.out == RESULTS and set(options.targets) == set(TARGETS):
        PAGE.write_text(filled(PAGE.read_text(), found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
