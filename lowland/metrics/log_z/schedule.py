"""Schedule of a path: where its inverse temperatures lie and how its samplers are set; found in a
pilot run, fixed before any weight is collected.

A pilot population starts at exact draws of the base and walks to the target in stages. A stage is
as long as it can be while the weights of its step keep about the same dispersion,

    s² = log( mean w² / (mean w)² ),    w = exp(E_β(x) − E_β'(x)),

which is the variance of the increment of log w where that is normal. Where moves forget slowly,
increments of neighbouring steps add up, so a stage counts for s √τ, with τ = (1 + r) / (1 − r) from
the autocorrelation r of the increment over one move. The β are then set at equal steps of Σ s √τ,
the thermodynamic length of a walk with friction: more of them where chains are slow. On the way the
step size follows the sampler's target acceptance. Source: Crooks (2007),
https://doi.org/10.1103/PhysRevLett.99.100602; friction: Sivak & Crooks (2012),
https://arxiv.org/abs/1201.4166
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lowland.devices import to_float64
from lowland.energy import Energy, freeze, gibbs_of
from lowland.energy.placement import wide_dtype, widen
from lowland.samplers import DMALA, HMC, BlockGibbs, Sampler
from lowland.samplers.adaptation import StepSizeAdaptation, log_deviations
from lowland.samplers.kernel import CONTINUOUS, DISCRETE, HasMetric
from lowland.samplers.loop import iterate, last_state

Path = Callable[[Sequence[float]], Sequence[Energy]]

STAGE_DISPERSION = 0.7  # of the weights of a stage
MAX_STAGES = 200  # beyond which stages grow
EVEN_SHARE = 0.1  # of the steps that is laid evenly in β, against a pilot that saw too little
MOVES_PER_STAGE = 4
MAX_CORRELATION = 0.97  # over the moves of a stage that is believed
FIRST_MOVES = 30  # under the base, to find a first step size
LONGEST_DISCRETE_STEP = 1e3  # every site is free to change


class Stage(NamedTuple):
    """Pilot's findings at one β: dispersion of the weights of the step that follows, log step size,
    log metric (d,) or None, and τ, by which increments there are worse than independent."""

    beta: float
    dispersion: float
    log_step: float
    log_metric: Tensor | None
    friction: float = 1.0


class Schedule(NamedTuple):
    """Inverse temperatures β_0 = 0 … β_K = 1, a sampler for each, and the thermodynamic length from
    base to target.
    """

    betas: tuple[float, ...]
    samplers: list[Sampler]
    length: float


def default_sampler(path: Path) -> Sampler:
    """Choose a sampler that runs on every energy of a path: HMC, block Gibbs where conditionals are
    declared, DMALA where a gradient must do.
    """
    middle = path((0.0, 0.5, 1.0))[1]
    gibbs, kind = gibbs_of(middle), middle.domain.kind
    if gibbs.sweep is not None or (kind in DISCRETE and gibbs.conditional is not None):
        return BlockGibbs()
    if kind in CONTINUOUS:
        return HMC(0.1, 5, jitter=0.3)
    informed = kind == "binary" or gibbs.one_hot_energy is not None
    return DMALA(1.0) if informed else BlockGibbs()


def plan_schedule(
    path: Path,
    sampler: Sampler,
    x: Tensor,
    steps: int | Sequence[float],
    generator: torch.Generator,
) -> Schedule:
    """Run the pilot from draws x (B, *event) of the base and place `steps` + 1 inverse
    temperatures, or keep those that are given.

    sampler: its step size is a first guess.
    """
    stages = _pilot(path, sampler, x, generator)
    if isinstance(steps, int):
        lengths = [stage.dispersion * math.sqrt(stage.friction) for stage in stages]
        betas = place_betas([stage.beta for stage in stages], lengths, steps)
    else:
        betas = list(steps)
    samplers = [_interpolate(sampler, stages, beta) for beta in betas]
    return Schedule(tuple(betas), samplers, sum(stage.dispersion for stage in stages))


def place_betas(at: Sequence[float], lengths: Sequence[float], steps: int) -> list[float]:
    """Place steps + 1 values of β from 0 to 1, at equal steps of the length Σ lengths between the
    betas `at`, EVEN_SHARE of it laid evenly.

    at: where stages begin, from 0, and 1 at the end; lengths: of the stage that begins there.

    >>> place_betas([0.0, 0.5, 1.0], [1.0, 1.0, 0.0], 4)
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    betas = torch.tensor(at, dtype=torch.float64)
    done = torch.tensor(lengths[:-1], dtype=torch.float64).cumsum(0)
    total = done[-1].clamp(min=1e-12)
    covered = torch.cat([betas.new_zeros(1), done / total]) * (1 - EVEN_SHARE) + betas * EVEN_SHARE
    wanted = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    right = torch.searchsorted(covered, wanted).clamp(1, len(betas) - 1)
    share = (wanted - covered[right - 1]) / (covered[right] - covered[right - 1]).clamp(min=1e-300)
    placed = betas[right - 1] + share.clamp(0, 1) * (betas[right] - betas[right - 1])
    placed[0], placed[-1] = 0.0, 1.0
    return placed.tolist()


def dispersion(log_weights: Tensor) -> float:
    """Compute s = √log(mean w² / (mean w)²): 0 for equal weights, at most √log B."""
    total = to_float64(log_weights)
    both = (2 * total).logsumexp(0) - 2 * total.logsumexp(0) + math.log(len(total))
    return math.sqrt(max(both.item(), 0.0)) if both.isfinite() else math.inf


def _pilot(path: Path, sampler: Sampler, x: Tensor, generator: torch.Generator) -> list[Stage]:
    beta, delta, log_w = 0.0, 1e-2, torch.zeros(len(x), dtype=wide_dtype(x.device), device=x.device)
    stages: list[Stage] = []
    correlations = [0.0]  # of increments before and after the moves of each stage
    points = _Population(sampler, x)
    points.move(path((0.0, 1.0))[0], FIRST_MOVES, generator)
    while beta < 1:
        goal = STAGE_DISPERSION * max(1.0, len(stages) / MAX_STAGES)
        delta, step, log_step = _stage(path, points.x, beta, 2 * delta, goal)
        stages.append(Stage(beta, step, points.log_step, points.log_deviations()))
        beta = beta + delta if beta + delta < 1 - 1e-12 else 1.0
        log_w = log_w + log_step
        if 1 / log_w.softmax(0).square().sum() < len(x) / 2:
            points.x, log_w = points.x[_systematic(log_w, generator)], torch.zeros_like(log_w)
        step_back = path((max(beta - delta, 0.0), beta))
        before = _increments(step_back, points.x)
        energy = path((beta, 1.0))[0] if beta < 1 else path((0.0, 1.0))[-1]
        points.move(energy, MOVES_PER_STAGE, generator)
        correlations.append(_correlation(before, _increments(step_back, points.x)))
    slow = [
        stage._replace(friction=_friction(correlations[max(i - 2, 0) : i + 3]))
        for i, stage in enumerate(stages)
    ]
    return [*slow, Stage(1.0, 0.0, points.log_step, points.log_deviations())]


def _increments(step: Sequence[Energy], x: Tensor) -> Tensor:
    """Compute E_β'(x) − E_β(x), (B,)."""
    with torch.no_grad(), freeze(step[0]) as old, freeze(step[1]) as new:
        return widen(new(x) - old(x))


def _correlation(a: Tensor, b: Tensor) -> float:
    """Correlate two series: from 0 to MAX_CORRELATION; 0 where one is constant or not finite."""
    found = torch.corrcoef(torch.stack([a, b]))[0, 1].nan_to_num(0.0)
    return found.clamp(0.0, MAX_CORRELATION).item()


def _friction(kept: Sequence[float]) -> float:
    """Compute τ of a single move from correlations over MOVES_PER_STAGE of them."""
    r = (sum(kept) / len(kept)) ** (1 / MOVES_PER_STAGE)
    return (1 + r) / (1 - r)


def _stage(
    path: Path, x: Tensor, beta: float, delta: float, goal: float
) -> tuple[float, float, Tensor]:
    """Find the longest step from β whose weights keep to the goal. Returns its length, the
    dispersion of the weights, and log w (B,).
    """
    delta = min(delta, 1 - beta)
    for _ in range(60):
        old, new = path((beta, min(beta + delta, 1.0)))
        with torch.no_grad(), freeze(old) as old, freeze(new) as new:
            value = widen(new(x))
            log_w = torch.where(value == math.inf, -math.inf, widen(old(x)) - value)
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
        found = dispersion(log_w)
        if found <= 1.5 * goal or delta < 1e-12:
            break
        delta *= min(max(0.8 * goal / found, 0.05), 0.5)
    return delta, min(found, 10.0), log_w


def _systematic(log_w: Tensor, generator: torch.Generator) -> Tensor:
    """Resample by systematic sampling: indices (B,) of points, each in proportion to its weight."""
    n = len(log_w)
    u = (
        torch.rand(1, generator=generator, device=log_w.device, dtype=log_w.dtype)
        + torch.arange(n, device=log_w.device)
    ) / n
    return torch.searchsorted(log_w.softmax(0).cumsum(0), u).clamp(max=n - 1)


class _Population:
    """Points that move under one energy after the other, with a sampler that adapts to each: step
    size by its acceptance, metric by the standard deviations of the points.
    """

    def __init__(self, sampler: Sampler, x: Tensor) -> None:
        self.x, self.sampler = x, sampler
        self.adapt = StepSizeAdaptation.of(sampler)
        self.own_metric = not isinstance(sampler, HasMetric) or sampler.inv_mass_sqrt is not None

    @property
    def log_step(self) -> float:
        return 0.0 if self.adapt is None else self.adapt.averaging.now

    def log_deviations(self) -> Tensor | None:
        """Return log standard deviations of the coordinates less their mean; None where the sampler
        has no metric to be set.
        """
        if self.adapt is None or self.own_metric or self.x[0].numel() == 1:
            return None
        return log_deviations(to_float64(self.x).flatten(1).var(0), len(self.x))

    def move(self, energy: Energy, moves: int, generator: torch.Generator) -> None:
        """Move under an energy while the step size adapts."""
        sampler = self.sampler
        if self.adapt is not None:
            self.adapt.averaging.highest = math.log(self._longest_step(energy))
            sampler = with_settings(sampler, self.log_step, self.log_deviations())
        with freeze(energy) as energy:
            state = sampler.init(energy, self.x)
            self.x = last_state(iterate(energy, sampler, state, moves, generator, self.adapt)).x

    def _longest_step(self, energy: Energy) -> float:
        """Bound the step size: a box is crossed, a cloud is left, every site is free to change."""
        if energy.domain.kind == "box":
            return energy.domain.hi - energy.domain.lo
        if energy.domain.kind == "real":
            return 10 * to_float64(self.x).std().clamp(min=1e-6).item()
        return LONGEST_DISCRETE_STEP


def with_settings(sampler: Sampler, log_step: float, log_metric: Tensor | None) -> Sampler:
    """Return the sampler with another step size and diagonal metric."""
    sampler = sampler.replace(step_size=math.exp(log_step))
    if log_metric is None:
        return sampler
    return sampler.replace(inv_mass_sqrt=tuple(log_metric.exp().tolist()))


def _interpolate(sampler: Sampler, stages: list[Stage], beta: float) -> Sampler:
    """Return the sampler as the stages on both sides of β had it."""
    if StepSizeAdaptation.of(sampler) is None:
        return sampler
    right = next((i for i, stage in enumerate(stages) if stage.beta >= beta), len(stages) - 1)
    a, b = stages[max(right - 1, 0)], stages[right]
    share = (beta - a.beta) / (b.beta - a.beta) if b.beta > a.beta else 1.0
    log_metric = None
    if a.log_metric is not None and b.log_metric is not None:
        log_metric = (1 - share) * a.log_metric + share * b.log_metric
    return with_settings(sampler, (1 - share) * a.log_step + share * b.log_step, log_metric)
