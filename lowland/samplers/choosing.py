"""An automatic choice among samplers, which says what it chose and why: `tune(energy, "auto", ...)`."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowland.energy import Energy
from lowland.samplers.discrete import DMALA, BlockGibbs, GibbsWithGradients
from lowland.samplers.hmc import HMC
from lowland.samplers.keepers import Draws, Energies
from lowland.samplers.kernel import DISCRETE
from lowland.samplers.langevin import MALA
from lowland.samplers.loop import sample
from lowland.samplers.nuts import NUTS
from lowland.samplers.tuning import tune

STUCK = 1.1  # ratio of total to within-chain spread above which chains are called stuck


@dataclass(frozen=True)
class Pilot:
    """A candidate, tuned and tried: effective draws per step and per gradient of its slowest quantity (see `effective`)."""

    sampler: Any
    per_step: float
    per_gradient: float
    stuck: bool


@dataclass(frozen=True)
class Choice:
    """The sampler that was chosen, the sentence that says why, and all candidates."""

    sampler: Any
    why: str
    pilots: tuple[Pilot, ...]

    def __str__(self) -> str:
        return f"lowland chose {type(self.sampler).__name__}: {self.why}"


def effective(draws: Tensor, energies: Tensor) -> tuple[float, bool]:
    """Effective draws per step of the slowest quantity, and whether chains disagree.

    draws (n, B, *event), energies (n, B). Each coordinate and the energy is taken for an autoregression of order one:
    ESS / n = (1 − ρ₁) / (1 + ρ₁), at most 1, with ρ₁ about the mean over all chains, so that stuck chains count as slow.
    """
    values = torch.cat([draws.flatten(2), energies.unsqueeze(2)], 2).double()
    centred = values - values.mean((0, 1))
    variance = centred.square().mean((0, 1)).clamp(min=1e-300)
    rho = (centred[1:] * centred[:-1]).mean((0, 1)) / variance
    share = ((1 - rho) / (1 + rho).clamp(min=1e-9)).clamp(max=1.0)
    within = (values - values.mean(0)).square().mean((0, 1))
    stuck = bool(((variance / within.clamp(min=1e-300)).sqrt() > STUCK).any()) and values.shape[1] > 1
    return max(share.min().item(), 1e-6), stuck


def candidates(energy: Energy) -> list[Any]:
    """What could run: by domain, and by what the energy can do."""
    if energy.domain.kind in DISCRETE:
        gibbs = [BlockGibbs()] if energy.conditional is not None or energy.sweep is not None else []
        informed = [DMALA(1.0), GibbsWithGradients()] if energy.domain.kind == "binary" or energy.relaxed is not None else []
        return gibbs or informed or [BlockGibbs()]
    return [MALA(0.1), HMC(0.1, 8, jitter=0.2), NUTS(0.1, 8)]


def choose(energy: Energy, x: Tensor, steps: int, *, generator: torch.Generator) -> Choice:
    """Tune each candidate on chains from x, run it, and take the one with most effective draws per gradient.

    An energy that declares its conditionals is given BlockGibbs at once: exact conditionals are never refused.
    """
    found = candidates(energy)
    if isinstance(found[0], BlockGibbs):
        why = (
            "the energy declares its conditionals, and draws from them are never refused"
            if energy.conditional is not None or energy.sweep is not None
            else "the domain is categorical and the energy has no `relaxed` gradient; sites go one by one, slowly"
        )
        return Choice(found[0], why, ())
    pilots = [_pilot(energy, sampler, x, steps, generator) for sampler in found]
    best = max(pilots, key=lambda pilot: pilot.per_gradient)
    table = ", ".join(f"{type(p.sampler).__name__} {p.per_gradient:.2g}" for p in pilots)
    why = f"most effective draws per gradient of its slowest quantity ({table})"
    if best.stuck:
        why += "; chains that began apart stay apart: try ParallelTempering, or more steps"
    return Choice(best.sampler, why, tuple(pilots))


def _pilot(energy: Energy, sampler: Any, x: Tensor, steps: int, generator: torch.Generator) -> Pilot:
    if hasattr(sampler, "step_size"):
        sampler = tune(energy, sampler, x, steps, generator=generator)
    warm = sample(energy, sampler, x, steps // 2, generator=generator)
    trace = sample(energy, sampler, warm.x, steps, generator=generator, state=warm.state, keep=[Draws(), Energies()])
    share, stuck = effective(trace.draws, trace.kept["energies"])
    return Pilot(sampler, share, share * steps / max(trace.gradients, 1), stuck)
