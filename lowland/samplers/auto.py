"""An automatic choice among samplers, which says what it chose and why: `tune(energy, "auto",
...)`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lowland.devices import to_float64
from lowland.energy import Energy, gibbs_of
from lowland.samplers.discrete import DMALA, BlockGibbs, GibbsWithGradients
from lowland.samplers.hmc import HMC
from lowland.samplers.kernel import DISCRETE, HasStepSize, Sampler
from lowland.samplers.langevin import MALA
from lowland.samplers.loop import run_chains
from lowland.samplers.nuts import NUTS
from lowland.samplers.recorders import Energies
from lowland.samplers.tempering import ParallelTempering
from lowland.samplers.warmup import warm_up

BUDGET = 10  # gradients in a row of a trial, for each step of the warm-up
LADDER = (1.0, 2.0, 4.0, 8.0, 16.0)
STRETCHES = 32  # means over so many stretches of chains tell how slow they are
STUCK = 1.1  # ratio of total to within-chain spread above which chains are called stuck


@dataclass(frozen=True)
class Pilot:
    """A candidate, tuned and tried: effective draws per step and per gradient of its slowest
    quantity (see `effective`); note: what its warm-up has to say.
    """

    sampler: Sampler
    per_step: float
    per_gradient: float
    stuck: bool
    note: str = ""


@dataclass(frozen=True)
class Choice:
    """The sampler that was chosen, the sentence that says why, and all candidates."""

    sampler: Sampler
    why: str
    pilots: tuple[Pilot, ...]

    def __str__(self) -> str:
        return f"lowland chose {type(self.sampler).__name__}: {self.why}"


def effective(draws: Tensor, energies: Tensor) -> tuple[float, bool]:
    """Return effective draws per draw of the slowest quantity, and whether chains disagree.

    draws (n, B, *event), energies (n, B). Of each coordinate and of the energy: ESS / n = V / (m ·
    V_m), at most 1, with V the variance of all draws and V_m that of the means of stretches of m
    draws: whole chains where there are enough of them, parts of chains where there are few. Stuck
    chains count as slow.
    """
    values = to_float64(torch.cat([draws.flatten(2), energies.unsqueeze(2)], 2))
    steps, chains = values.shape[:2]
    parts = min(max(STRETCHES // chains, 1), steps)
    length = steps // parts
    means = values[: parts * length].view(parts, length, chains, -1).mean(1).flatten(0, 1)
    variance = values.flatten(0, 1).var(0).clamp(min=1e-300)
    share = (variance / (length * means.var(0)).clamp(min=1e-300)).clamp(max=1.0)
    within = (values - values.mean(0)).square().mean((0, 1))
    stuck = bool(((variance / within.clamp(min=1e-300)).sqrt() > STUCK).any()) and chains > 1
    return max(share.min().item(), 1e-6), stuck


def candidates(energy: Energy) -> list[Sampler]:
    """Return the samplers that could run: by domain, and by what the energy can do."""
    if energy.domain.kind not in DISCRETE:
        return [MALA(0.1), HMC(0.1, 8, jitter=0.2), NUTS(0.1, 8)]
    if gibbs_of(energy).draws:
        return [BlockGibbs()]
    if energy.domain.kind == "binary" or gibbs_of(energy).one_hot_energy is not None:
        return [DMALA(1.0), GibbsWithGradients()]
    return [BlockGibbs()]


def choose(energy: Energy, x: Tensor, steps: int, *, generator: torch.Generator) -> Choice:
    """Tune each candidate on chains from x, run it, and take the one with most effective draws per
    gradient.

    If its chains stay apart, a ladder of temperatures over it is tried too, and taken if its chains
    meet. An energy that declares its conditionals is given BlockGibbs at once: exact conditionals
    are never refused.
    """
    found = candidates(energy)
    if isinstance(found[0], BlockGibbs):
        why = (
            "the domain is categorical and the energy has no one-hot energy; sites go one by one, "
            "slowly"
        )
        if gibbs_of(energy).draws:
            why = "the energy declares its conditionals, and draws from them are never refused"
        return Choice(found[0], why, ())
    pilots = [_pilot(energy, sampler, x, steps, generator) for sampler in found]
    best = max(pilots, key=_rate)
    why = "most effective draws per gradient of its slowest quantity"
    if best.stuck and isinstance(best.sampler, HasStepSize):
        pilots.append(_pilot(energy, ParallelTempering(best.sampler, LADDER), x, steps, generator))
        if not pilots[-1].stuck:
            best, why = (
                pilots[-1],
                "chains of the others that began apart stay apart; effective draws per gradient",
            )
        else:
            best = max(pilots, key=_rate)
    table = ", ".join(f"{type(p.sampler).__name__} {p.per_gradient:.2g}" for p in pilots)
    why += f" ({table})"
    if best.stuck:
        why += "; chains that began apart stay apart: take more steps"
    if best.note:
        why += f"; {best.note}"
    return Choice(best.sampler, why, tuple(pilots))


def _rate(pilot: Pilot) -> float:
    return pilot.per_gradient


def _pilot(
    energy: Energy, sampler: Sampler, x: Tensor, steps: int, generator: torch.Generator
) -> Pilot:
    """Tune a sampler and try it for BUDGET gradients a step of the warm-up: short trials flatter
    cheap steps.
    """
    note = ""
    if sampler.num_replicas > 1 or isinstance(sampler, HasStepSize):
        sampler, note = warm_up(energy, sampler, x, steps, generator=generator)
    warm = run_chains(energy, sampler, x, steps // 2, generator=generator)
    each = warm.num_grad_evals / max(steps // 2, 1) / sampler.num_replicas
    length = max(round(BUDGET * steps / max(each, 1)), 20)
    every = max(length // steps, 1)
    trace = run_chains(
        energy,
        sampler,
        warm.x,
        length,
        generator=generator,
        state=warm.state,
        thin=every,
        recorders=Energies(),
    )
    share, stuck = effective(trace.draws, trace.records["energies"][every - 1 :: every])
    return Pilot(
        sampler, share / every, share * len(trace.draws) / max(trace.num_grad_evals, 1), stuck, note
    )
