"""What a warm-up must not hand on: a step that traps chains where they start, and a step that grew
without bound, for there may be nothing that could bound it.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lowland.devices import to_float64
from lowland.energy import Energy
from lowland.energy.checks import falls_far_out
from lowland.samplers.kernel import DISCRETE, Sampler
from lowland.samplers.langevin import MALA
from lowland.samplers.loop import run_chains
from lowland.samplers.settings import LARGEST
from lowland.samplers.tempering import ParallelTempering

AT_REST = 0.5  # moves to be expected of a chain in a trial, below which it is at rest
MIN_TRIAL = 50  # steps of a trial at least
TRIAL_SHARE = 6  # a trial has one step for so many of the warm-up
HALVINGS = 10  # of a step that traps chains
PATIENCE = 3  # halvings without a chain set free, after which no more are made
QUIET = 3  # halvings that need no word
GROWTH = 100.0  # of |x| in a warm-up, beyond which the tails are looked at
UNBOUNDED = 1e12  # growth beyond which nothing holds the chains
LARGEST_DISCRETE = 1e4  # step of DMALA, whose cost of moving is nothing there


def longest_step(energy: Energy, sampler: Sampler) -> float:
    """Return the log of the largest step size that means anything: the width of a box, no cost of
    moving on discrete domains, and on the real line what floating point holds.
    """
    if energy.domain.kind in DISCRETE:
        return math.log(LARGEST_DISCRETE)
    if energy.domain.kind == "box":
        width = energy.domain.hi - energy.domain.lo
        return math.log(width**2 / 2 if isinstance(sampler, MALA) else width)
    return math.log(LARGEST / 10)


def restart_trapped(energy: Energy, sampler: Sampler, state: Any, moved: Tensor, seed: int) -> Any:
    """Let chains that are at rest, while at least half of all move, begin anew where others are.

    moved (B,): moves to be expected of each chain lately; seed: of the choice among the others.
    """
    rest = moved < AT_REST
    if not bool(rest.any()) or to_float64(rest).mean().item() > 0.5:
        return state
    others = (~rest).nonzero().squeeze(1)
    g = torch.Generator().manual_seed(seed)
    pick = torch.randint(len(others), (int(rest.sum()),), generator=g).to(others.device)
    x = state.x.clone()
    x[rest] = x[others[pick]]
    return sampler.init(energy, x)


def free_chains(
    energy: Energy,
    sampler: Sampler,
    x: Tensor,
    steps: int,
    generator: torch.Generator,
    progress: Callable[[int], object] | None = None,
) -> tuple[Sampler, str]:
    """Halve the step of a tuned sampler until it traps no chain that starts at x (B, *event), in
    trials from there; return the sampler that traps fewest, and what is to be said of it, or
    nothing.

    steps: of the warm-up; progress: called with 1 after each step of a trial. The generator is left
    where it is. Raises ValueError if every chain stays
    where it starts, whatever the step.
    """
    length = max(steps // TRIAL_SHARE, MIN_TRIAL)
    best, fewest, since, tried = sampler, len(x) + 1, 0, sampler
    for _ in range(HALVINGS + 1):
        g = torch.Generator(x.device)
        g.set_state(generator.get_state())
        trace = run_chains(energy, tried, x, length, generator=g, progress=progress)
        trapped = int((to_float64(trace.acceptance) * length < AT_REST).sum())
        since += 1
        if trapped < fewest:
            best, fewest, since = tried, trapped, 0
        if trapped == 0 or since == PATIENCE:
            break
        tried = _scale_steps(tried, 0.5)
    return best, _describe(sampler, best, fewest, len(x), length)


def _describe(tuned: Sampler, best: Sampler, trapped: int, chains: int, length: int) -> str:
    """Say what is wrong with the starting points of chains, if anything is."""
    name = type(best).__name__
    if trapped == chains:
        raise ValueError(
            f"no chain of {name} moved in {length} steps from x, whatever the step size; chains "
            "need starting points that they can leave; start elsewhere, or look for overflow in "
            "the energy"
        )
    if trapped:
        return (
            f"{trapped} of {chains} chains that start at x did not move in {length} steps of the "
            f"tuned {name}, nor with shorter ones; what they give is where they start; start "
            "elsewhere, or use another sampler"
        )
    factor = _first_step(tuned) / _first_step(best)
    if factor > 2.0**QUIET:
        return (
            f"the tuned step of {name} was divided by {factor:.0f}, for chains that start at "
            "x to move at all; they then move slowly where they belong; tune and sample from "
            "points nearer to the bulk"
        )
    return ""


def _scale_steps(sampler: Sampler, factor: float) -> Sampler:
    if isinstance(sampler, ParallelTempering):
        return sampler.replace(step_sizes=tuple(s * factor for s in sampler.step_sizes or ()))
    return sampler.replace(step_size=_first_step(sampler) * factor)


def _first_step(sampler: Sampler) -> float:
    """Return the step size, or that of the coldest replica."""
    if isinstance(sampler, ParallelTempering):
        return (sampler.step_sizes or (1.0,))[0]
    return float(vars(sampler)["step_size"])


def check_proper(energy: Energy, sampler: Sampler, x: Tensor, end: Tensor) -> None:
    """Refuse an energy whose chains, begun at x (B, *event), are ever farther away at the end of a
    warm-up, because it does not rise there: exp(−E) has no normaliser.
    """
    if energy.domain.kind != "real":
        return
    tempered = isinstance(sampler, ParallelTempering)
    hottest = sampler.temperatures[-1] if isinstance(sampler, ParallelTempering) else 1.0
    before = max(1.0, x.abs().max().item())
    growth = max(end.abs().max().item(), _first_step(sampler) ** 0.5) / before
    if not growth > GROWTH:
        return
    law = energy / hottest if tempered else energy
    if growth > UNBOUNDED or falls_far_out(law, end[: len(x)]):
        where = f" at temperature {hottest:g}" if tempered else ""
        raise ValueError(
            f"chains went {growth:.1e} times as far out as they began, and the step size grew with "
            f"them, for the energy does not rise there{where}; exp(-E) may have no normaliser; add "
            "a partner that confines, or use a box"
        )
