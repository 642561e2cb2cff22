"""Where the rungs of a path go, and how its samplers are set: found in a pilot run, fixed before
any weight is collected.

A pilot population starts at exact draws of the base and walks to the target in stages. A stage is
as long as it can be while the weights of its step keep about the same spread,

    s² = log( mean w² / (mean w)² ),    w = exp(E_β(x) − E_β'(x)),

which is the variance of the increment of log w where that is normal. Where moves forget slowly,
increments of neighbouring rungs add up, so a stage counts for s √τ, with τ = (1 + r) / (1 − r) from
the autocorrelation r of the increment over one move. Rungs are then set at equal steps of Σ s √τ,
the thermodynamic length of a walk with friction: more of them where chains are slow. On the way
each stage tunes the step size towards the sampler's acceptance. Source: Crooks (2007),
https://doi.org/10.1103/PhysRevLett.99.100602; friction: Sivak & Crooks (2012),
https://arxiv.org/abs/1201.4166
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from lowland.energy import Energy, frozen
from lowland.samplers import DMALA, HMC, BlockGibbs

Path = Callable[[Sequence[float]], Sequence[Energy]]

GOAL = 0.7  # spread of the weights of a stage
STAGES = 200  # beyond which stages grow
EVEN = 0.1  # share of rungs that is laid evenly in β, against a pilot that saw too little
MOVES = 4  # per stage
SLOWEST = 0.97  # correlation over the moves of a stage that is believed
FIRST = 30  # moves under the base, to find a first step size


class Stage(NamedTuple):
    """What the pilot saw at one β: spread of the weights of the step that follows, log step size;
    log scale (d,) or None; τ, by which increments there are worse than independent."""

    beta: float
    spread: float
    log_step: float
    log_scale: Tensor | None
    friction: float = 1.0


class Plan(NamedTuple):
    """Rungs β_0 = 0 … β_K = 1, a sampler for each, and how far it is from base to target in
    thermodynamic length.
    """

    betas: tuple[float, ...]
    samplers: list[Any]
    length: float


def default_sampler(path: Path) -> Any:
    """A sampler that runs on every rung: HMC, block Gibbs where conditionals are declared, DMALA
    where a gradient must do.
    """
    middle = path((0.0, 0.5, 1.0))[1]
    if middle.sweep is not None or (
        middle.domain.kind in BlockGibbs.domains and middle.conditional is not None
    ):
        return BlockGibbs()
    if middle.domain.kind in HMC.domains:
        return HMC(0.1, 5, jitter=0.3)
    return (
        DMALA(1.0) if middle.domain.kind == "binary" or middle.relaxed is not None else BlockGibbs()
    )


def planned(
    path: Path, sampler: Any, x: Tensor, rungs: int | Sequence[float], generator: torch.Generator
) -> Plan:
    """Run the pilot from draws x (B, *event) of the base and lay the rungs, or keep those that are
    given.

    sampler: its step size is a first guess.
    """
    stages = _pilot(path, sampler, x, generator)
    fixed = None if isinstance(rungs, int) else list(rungs)
    lengths = [stage.spread * math.sqrt(stage.friction) for stage in stages]
    betas = fixed or laid([stage.beta for stage in stages], lengths, cast(int, rungs))
    return Plan(
        tuple(betas),
        [_interpolated(sampler, stages, beta) for beta in betas],
        sum(s.spread for s in stages),
    )


def laid(betas: Sequence[float], spreads: Sequence[float], rungs: int) -> list[float]:
    """Rungs + 1 values of β from 0 to 1, at equal steps of the length Σ spreads between the betas,
    EVEN of it laid evenly.

    betas: where stages begin, from 0, and 1 at the end; spreads: of the stage that begins there.

    >>> laid([0.0, 0.5, 1.0], [1.0, 1.0, 0.0], 4)
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    at = torch.tensor(betas, dtype=torch.float64)
    lengths = torch.tensor(spreads[:-1], dtype=torch.float64).cumsum(0)
    total = lengths[-1].clamp(min=1e-12)
    covered = torch.cat([at.new_zeros(1), lengths / total]) * (1 - EVEN) + at * EVEN
    wanted = torch.linspace(0, 1, rungs + 1, dtype=torch.float64)
    right = torch.searchsorted(covered, wanted).clamp(1, len(at) - 1)
    share = (wanted - covered[right - 1]) / (covered[right] - covered[right - 1]).clamp(min=1e-300)
    found = at[right - 1] + share.clamp(0, 1) * (at[right] - at[right - 1])
    found[0], found[-1] = 0.0, 1.0
    return found.tolist()


def spread(log_weights: Tensor) -> float:
    """s = √log(mean w² / (mean w)²): 0 for equal weights, at most √log B."""
    total = log_weights.double()
    both = (2 * total).logsumexp(0) - 2 * total.logsumexp(0) + math.log(len(total))
    return math.sqrt(max(both.item(), 0.0)) if both.isfinite() else math.inf


def _pilot(path: Path, sampler: Any, x: Tensor, generator: torch.Generator) -> list[Stage]:
    beta, delta, log_w = 0.0, 1e-2, torch.zeros(len(x), dtype=torch.float64, device=x.device)
    stages: list[Stage] = []
    kept = [0.0]  # what is left, after the moves of a stage, of how increments differ among points
    walker = _Walker(sampler, x)
    walker.move(path((0.0, 1.0))[0], FIRST, generator)
    while beta < 1:
        goal = GOAL * max(1.0, len(stages) / STAGES)
        delta, step, log_step = _stage(path, walker.x, beta, 2 * delta, goal)
        stages.append(Stage(beta, step, walker.log_step, walker.log_scale()))
        beta = beta + delta if beta + delta < 1 - 1e-12 else 1.0
        log_w = log_w + log_step
        if 1 / log_w.softmax(0).square().sum() < len(x) / 2:
            walker.x, log_w = walker.x[_systematic(log_w, generator)], torch.zeros_like(log_w)
        step_back = path((max(beta - delta, 0.0), beta))
        before = _increments(step_back, walker.x)
        walker.move(path((beta, 1.0))[0] if beta < 1 else path((0.0, 1.0))[-1], MOVES, generator)
        kept.append(_correlation(before, _increments(step_back, walker.x)))
    slow = [
        stage._replace(friction=_friction(kept[max(i - 2, 0) : i + 3]))
        for i, stage in enumerate(stages)
    ]
    return [*slow, Stage(1.0, 0.0, walker.log_step, walker.log_scale())]


def _increments(step: Sequence[Energy], x: Tensor) -> Tensor:
    """E_β'(x) − E_β(x), (B,)."""
    with torch.no_grad(), frozen(step[0]), frozen(step[1]):
        return (step[1](x) - step[0](x)).double()


def _correlation(a: Tensor, b: Tensor) -> float:
    """Of two series, from 0 to SLOWEST; 0 where one of them is constant or not finite."""
    return torch.corrcoef(torch.stack([a, b]))[0, 1].nan_to_num(0.0).clamp(0.0, SLOWEST).item()


def _friction(kept: Sequence[float]) -> float:
    """τ of a single move from correlations over MOVES of them."""
    r = (sum(kept) / len(kept)) ** (1 / MOVES)
    return (1 + r) / (1 - r)


def _stage(
    path: Path, x: Tensor, beta: float, delta: float, goal: float
) -> tuple[float, float, Tensor]:
    """The longest step from β whose weights keep to the goal: its length, their spread, and log w
    (B,).
    """
    delta = min(delta, 1 - beta)
    for _ in range(60):
        old, new = path((beta, min(beta + delta, 1.0)))
        with torch.no_grad(), frozen(old), frozen(new):
            value = new(x).double()
            log_w = torch.where(value == math.inf, -math.inf, old(x).double() - value)
        if bool(log_w.isnan().any()):
            raise ValueError(
                f"{int(log_w.isnan().sum())} of {len(x)} energies on the path are not numbers at β "
                f"= {beta:.3g}; every energy must be a number, or inf at a point of no weight, "
                "where the base goes; look for overflow, or fit the base"
            )
        if not bool(log_w.isfinite().any()):
            raise ValueError(
                f"all of {len(x)} points are without weight at β = {beta:.3g}; the energy must be "
                "finite at some points that the base reaches; pass a base that covers the energy"
            )
        found = spread(log_w)
        if found <= 1.5 * goal or delta < 1e-12:
            break
        delta *= min(max(0.8 * goal / found, 0.05), 0.5)
    return delta, min(found, 10.0), log_w


def _systematic(log_w: Tensor, generator: torch.Generator) -> Tensor:
    """Which points to go on with, so that each comes up in proportion to its weight."""
    n = len(log_w)
    u = (
        torch.rand(1, generator=generator, device=log_w.device, dtype=torch.float64)
        + torch.arange(n, device=log_w.device)
    ) / n
    return torch.searchsorted(log_w.softmax(0).cumsum(0), u).clamp(max=n - 1)


class _Walker:
    """Points that move under one energy after the other, and a step size that follows the
    acceptance.
    """

    def __init__(self, sampler: Any, x: Tensor) -> None:
        self.x, self.sampler, self.moves = x, sampler, 0
        self.tuned = hasattr(sampler, "step_size") and dataclasses.is_dataclass(sampler)
        self.scaled = (
            self.tuned and hasattr(sampler, "scale") and sampler.scale is None and x[0].numel() > 1
        )
        self.log_step = math.log(sampler.step_size) if self.tuned else 0.0
        self.target = getattr(sampler, "target", 0.8)

    def log_scale(self) -> Tensor | None:
        """Log deviations of the coordinates over their geometric mean, drawn towards equal ones as
        by ten more points.
        """
        if not self.scaled:
            return None
        variance = self.x.double().flatten(1).var(0)
        level = variance.mean().clamp(min=1e-300)
        kept = len(self.x) / (len(self.x) + 10)
        log = (kept * variance + (1 - kept) * level).clamp(min=1e-12 * level.item()).log() / 2
        return log - log.mean()

    def move(self, energy: Energy, moves: int, generator: torch.Generator) -> None:
        """Move under an energy; the log step size gains what acceptance is above its target, less
        and less.
        """
        with frozen(energy):
            scale, state = self.log_scale(), None
            for _ in range(moves):
                sampler = (
                    adjusted(self.sampler, self.log_step, scale) if self.tuned else self.sampler
                )
                state = sampler.init(energy, self.x) if state is None else state
                state, info = sampler.step(energy, state, generator)
                if self.tuned:
                    self.moves += 1
                    gain = max(3.0 / math.sqrt(self.moves), 0.3)
                    log_step = self.log_step + gain * (
                        info.rate.double().mean().item() - self.target
                    )
                    self.log_step = min(log_step, math.log(self._widest(energy)))
            if state is not None:
                self.x = state.x

    def _widest(self, energy: Energy) -> float:
        """No step need be longer: a box is crossed, a cloud is left, every site is free to
        change.
        """
        if energy.domain.kind == "box":
            return energy.domain.hi - energy.domain.lo
        return (
            10 * self.x.double().std().clamp(min=1e-6).item()
            if energy.domain.kind == "real"
            else 1e3
        )


def adjusted(sampler: Any, log_step: float, log_scale: Tensor | None) -> Any:
    """The sampler with another step size and diagonal metric."""
    changes: dict[str, Any] = {"step_size": math.exp(log_step)}
    if log_scale is not None:
        changes["scale"] = tuple(log_scale.exp().tolist())
    return dataclasses.replace(sampler, **changes)


def _interpolated(sampler: Any, stages: list[Stage], beta: float) -> Any:
    """The sampler as the stages on both sides of β had it."""
    if not (hasattr(sampler, "step_size") and dataclasses.is_dataclass(sampler)):
        return sampler
    right = next((i for i, stage in enumerate(stages) if stage.beta >= beta), len(stages) - 1)
    a, b = stages[max(right - 1, 0)], stages[right]
    share = (beta - a.beta) / (b.beta - a.beta) if b.beta > a.beta else 1.0
    log_scale = None
    if a.log_scale is not None and b.log_scale is not None:
        log_scale = (1 - share) * a.log_scale + share * b.log_scale
    return adjusted(sampler, (1 - share) * a.log_step + share * b.log_step, log_scale)
