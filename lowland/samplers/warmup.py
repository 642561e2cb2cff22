"""Warm-up: run chains while a sampler adapts, and keep what it learned."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowland.energy import Energy, check_energy, freeze
from lowland.energy.gradient import check_shape
from lowland.samplers.adaptation import DEFAULT_TARGET, DualAveraging, WindowAdaptation
from lowland.samplers.doors import Witness, check_domain, check_resolution
from lowland.samplers.kernel import HasMetric, HasStepSize, Info, Sampler, State, values_of
from lowland.samplers.loop import iterate, last_state
from lowland.samplers.rescue import raise_at_start
from lowland.samplers.tempering import ParallelTempering, TemperedState, rescale
from lowland.samplers.trial import check_proper, free_chains, longest_step, restart_trapped
from lowland.scalars import read_number

MIN_STEPS = 20  # of a warm-up
MAX_DOUBLINGS = 60  # of the first step size
STRETCH = 25  # steps after which chains at rest begin anew
LADDER_ROUNDS = (0.15, 0.2, 0.25, 0.4)  # shares of the steps after which temperatures are set anew


def warm_up(
    energy: Energy,
    sampler: Sampler,
    x: Tensor,
    steps: int,
    *,
    target_accept: float | None = None,
    metric: bool = True,
    generator: torch.Generator,
    progress: Callable[[int], object] | None = None,
) -> tuple[Sampler, str]:
    """Adapt a sampler on chains from x (B, *event) and return it: step size and diagonal metric, or
    for parallel tempering step sizes and temperatures. Beside it, what is wrong with it in words,
    or nothing: see `trial.free_chains`.

    target_accept: the sampler's own unless given; progress: called with the number of steps done,
    those that try the result from x included. Raises ValueError as `tune` does.
    """
    target = _check_tunable(sampler, target_accept)
    if steps < MIN_STEPS:
        raise ValueError(f"steps is {steps}; tuning needs at least {MIN_STEPS}; 300 is the default")
    check_domain(sampler, energy)
    x = x.detach()
    with freeze(energy) as energy:
        with raise_at_start(), torch.no_grad():
            value = check_shape(values_of(energy, x), x)
        check_energy(Witness(energy), x)
        check_resolution(energy, x, value)
        if isinstance(sampler, ParallelTempering):
            sampler, end = _warm_up_ladder(energy, sampler, x, steps, target, generator, progress)
        else:
            sampler, end = _warm_up_steps(
                energy, sampler, x, steps, target, metric, generator, progress
            )
        check_proper(energy, sampler, x, end)
        return free_chains(energy, sampler, x, steps, generator, progress)


def _check_tunable(sampler: Sampler, target_accept: float | None) -> float:
    """Return the target acceptance; raise ValueError for a sampler without accept step or step
    size.
    """
    inner = sampler.sampler if isinstance(sampler, ParallelTempering) else sampler
    name = type(inner).__name__
    if not inner.adjusted:
        raise ValueError(
            f"{name} accepts every proposal; tune needs a sampler with an accept step; use MALA or "
            "HMC, or set it by hand"
        )
    if not isinstance(inner, HasStepSize):
        raise ValueError(f"{name} has no step size; there is nothing to tune; use it as it is")
    target = inner.target_accept or DEFAULT_TARGET
    if target_accept is not None:
        target = read_number("target_accept", target_accept)
    if not 0 < target < 1:
        raise ValueError(
            f"target_accept is {target}; an acceptance probability lies between 0 and 1; leave it "
            "out for the default"
        )
    return target


def _warm_up_steps(
    energy: Energy,
    sampler: Sampler,
    x: Tensor,
    steps: int,
    target: float,
    metric: bool,
    generator: torch.Generator,
    progress: Callable[[int], object] | None,
) -> tuple[Sampler, Tensor]:
    """Adapt step size and metric; chains that are at rest while most move begin anew where others
    are. Returns the sampler, and the points where chains ended.
    """
    state, highest = sampler.init(energy, x), longest_step(energy, sampler)
    log_step = math.log(_first_step_size(energy, sampler, state, target, highest, generator))
    metric = metric and isinstance(sampler, HasMetric)
    adaptation = WindowAdaptation.of(log_step, target, steps, metric, highest)
    sampler = adapted = sampler.replace(step_size=math.exp(log_step))

    def adapt(sampler: Sampler, state: State, info: Info) -> Sampler:
        nonlocal adapted
        adapted = adaptation(sampler, state, info)
        return adapted

    for done in range(0, steps, STRETCH):
        moved = torch.zeros_like(state.energy)
        count = min(STRETCH, steps - done)
        moves = iterate(energy, adapted, state, count, generator, adapt)
        for after, info in moves:
            state, moved = after, moved + info.acceptance_prob
            if progress is not None:
                progress(1)
        if count == STRETCH:
            state = restart_trapped(energy, adapted, state, moved, done)
    return adapted.replace(step_size=math.exp(adaptation.averaging.mean)), state.x


def _first_step_size(
    energy: Energy,
    sampler: Sampler,
    state: Any,
    target: float,
    highest: float,
    generator: torch.Generator,
) -> float:
    """Double or halve the step size until the acceptance probability crosses the target; highest:
    the log of the largest one.
    """
    assert isinstance(sampler, HasStepSize)
    step, direction = min(sampler.step_size, math.exp(highest)), 0
    for _ in range(MAX_DOUBLINGS):
        trial = sampler.replace(step_size=step)
        ((_, info),) = iterate(energy, trial, state, 1, generator)
        wanted = 1 if info.acceptance_prob.mean().item() > target else -1
        if (direction and wanted != direction) or math.log(step * 2.0**wanted) > highest:
            break
        direction, step = wanted, step * 2.0**wanted
    return step


# ------------------------------------------------------------------------------- parallel tempering


@dataclass
class LadderAdaptation:
    """Dual averaging of one step size per temperature."""

    averages: list[DualAveraging]

    def __call__(self, sampler: Sampler, state: TemperedState, info: Info) -> Sampler:
        assert state.local is not None
        rates = state.local.acceptance_prob.view(len(self.averages), -1).mean(1).tolist()
        for average, rate in zip(self.averages, rates, strict=True):
            average.update(rate)
        return sampler.replace(step_sizes=tuple(math.exp(a.now) for a in self.averages))


def _warm_up_ladder(
    energy: Energy,
    sampler: ParallelTempering,
    x: Tensor,
    steps: int,
    target: float,
    generator: torch.Generator,
    progress: Callable[[int], object] | None,
) -> tuple[ParallelTempering, Tensor]:
    """Adapt the step size at each temperature, and between rounds the temperatures, so that all
    pairs are refused equally often. Returns the sampler, and the points of all replicas.
    """
    highest = longest_step(energy, sampler.sampler)
    if sampler.step_sizes is None:
        assert isinstance(sampler.sampler, HasStepSize)
        sizes = (sampler.sampler.step_size,) * len(sampler.temperatures)
        sampler = sampler.replace(step_sizes=sizes)
    state = sampler.init(energy, x)
    for share in LADDER_ROUNDS:
        sizes = sampler.step_sizes or ()
        averages = [DualAveraging(math.log(step), target, highest=highest) for step in sizes]
        sampler = sampler.replace(step_sizes=tuple(math.exp(a.now) for a in averages))
        before, count = state.tempering, max(int(share * steps), 10)
        adapt = LadderAdaptation(averages)
        state = last_state(iterate(energy, sampler, state, count, generator, adapt))
        if progress is not None:
            progress(count)
        sampler = sampler.replace(step_sizes=tuple(math.exp(a.mean) for a in averages))
        if share != LADDER_ROUNDS[-1]:
            tried = (state.tempering.tried - before.tried).clamp(min=1)
            refused = 1 - (state.tempering.accepted - before.accepted) / tried
            sampler, state = _respace(sampler, state, refused.cpu().numpy())
    return sampler, state.replicas.x


def _respace(
    sampler: ParallelTempering, state: TemperedState, refused: np.ndarray
) -> tuple[ParallelTempering, TemperedState]:
    """Move temperatures to equal distances of the communication barrier: the integral of the
    refusal rate along the ladder. Returns the sampler and the state under it.
    """
    barrier = np.concatenate([[0.0], np.cumsum(np.maximum(refused, 1e-3))])
    even = np.linspace(0, barrier[-1], len(barrier))
    log_t = np.log(sampler.temperatures)
    temperatures = np.exp(np.interp(even, barrier, log_t))
    steps = np.exp(np.interp(np.log(temperatures), log_t, np.log(sampler.step_sizes or ())))
    new = sampler.replace(
        temperatures=(1.0, *map(float, temperatures[1:-1]), sampler.temperatures[-1]),
        step_sizes=tuple(map(float, steps)),
    )
    ratio = new.betas(state.x) / sampler.betas(state.x)
    return new, state._replace(
        replicas=rescale(state.replicas, ratio.repeat_interleave(len(state.x)))
    )
