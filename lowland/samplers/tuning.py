"""Tuning pays the warm-up once and returns a new sampler: step size, diagonal metric, ladder of
temperatures.

    log ε_{t+1} = μ − √t / γ · H̄_t,    H̄_t = running mean of (target − rate), answer: a weighted
                                        mean of log ε

is Nesterov's dual averaging; the rate is the mean acceptance probability over chains, 0 where a
proposal was not finite. The metric is the spread of every coordinate over chains and over windows
that double in length. Source: Hoffman & Gelman (2014), section 3.2,
https://jmlr.org/papers/v15/hoffman14a.html
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowland.energy import Energy, check_energy, check_normalisable, check_points, frozen, lift
from lowland.samplers.kernel import Sampler
from lowland.samplers.loop import check_arguments, check_domain
from lowland.samplers.tempering import ParallelTempering, rescaled


@dataclass
class DualAveraging:
    """Finds log ε at which a noisy, falling rate meets its target."""

    start: float  # log of the first step
    target: float
    gamma: float = 0.05
    delay: float = 10.0
    kappa: float = 0.75
    count: int = 0
    error: float = 0.0
    mean: float = 0.0

    def __post_init__(self) -> None:
        self.now = self.start

    def update(self, rate: float) -> None:
        """Take the acceptance rate at `now` and move on."""
        self.count += 1
        t = self.count
        self.error += (self.target - rate - self.error) / (t + self.delay)
        self.now = min(
            self.start + math.log(10) - math.sqrt(t) / self.gamma * self.error, self.start + 60.0
        )
        weight = t**-self.kappa
        self.mean = weight * self.now + (1 - weight) * self.mean


def tune(
    energy: Energy | Callable[..., Tensor],
    sampler: Sampler | str,
    x: Tensor,
    steps: int = 300,
    *,
    target: float | None = None,
    metric: bool = True,
    generator: torch.Generator,
    say: Callable[[str], object] = print,
) -> Any:
    """Warm up: find step size, diagonal metric and, for parallel tempering, the ladder. Returns a
    new sampler.

    x: (B, *event) points to warm up from; they and the old sampler are left alone. steps: of the
    warm-up. target: acceptance rate, the sampler's own unless given (0.574 for MALA and DMALA, 0.8
    for HMC and NUTS). metric: set `scale` too, for samplers that have one: the spreads of the
    coordinates over their geometric mean. Non-finite proposals count as refused. With "auto" for a
    sampler, candidates are tuned and compared, and `say` is told which was chosen and why: see
    `choose`.

    Raises ValueError for samplers without an accept step, whose step cannot be judged by
    acceptance, or without a step size.

    >>> import torch, lowland
    >>> g = torch.Generator().manual_seed(0)
    >>> start = torch.randn(200, 2, generator=g)
    >>> bowl = lambda x: 50 * x.square().sum(1)
    >>> lowland.tune(bowl, lowland.MALA(1.0), start / 10, generator=g).step_size < 0.1
    True
    """
    energy = lift(energy)
    check_arguments(steps, generator, x)
    check_points(energy, x)
    check_normalisable(energy, x)
    if isinstance(sampler, str):
        from lowland.samplers.auto import choose

        if sampler != "auto":
            raise ValueError(
                f"the sampler is {sampler!r}; a sampler or 'auto' is needed; pass one of them"
            )
        choice = choose(energy, x, steps, generator=generator)
        say(str(choice))
        return choice.sampler
    inner = sampler.sampler if isinstance(sampler, ParallelTempering) else sampler
    target = _tunable(inner, target)
    if steps < 20:
        raise ValueError(f"steps is {steps}; tuning needs at least 20; 300 is the default")
    check_domain(sampler, energy)
    with frozen(energy):
        check_energy(energy, x)
        if isinstance(sampler, ParallelTempering):
            return _tune_ladder(energy, sampler, x, steps, target, generator)
        return _tune_steps(
            energy, sampler, x, steps, target, metric and hasattr(sampler, "scale"), generator
        )


def _tunable(sampler: Any, target: float | None) -> float:
    name = type(sampler).__name__
    if not sampler.adjusted or not dataclasses.is_dataclass(sampler):
        raise ValueError(
            f"{name} accepts every proposal; tune needs a sampler with an accept step; use MALA or "
            "HMC, or set it by hand"
        )
    if not hasattr(sampler, "step_size"):
        raise ValueError(f"{name} has no step size; there is nothing to tune; use it as it is")
    target = target if target is not None else getattr(sampler, "target", 0.8)
    if not 0 < target < 1:
        raise ValueError(
            f"target is {target}; an acceptance rate lies between 0 and 1; leave it out for the "
            "default"
        )
    return target


def _first_step(
    energy: Energy, sampler: Any, state: Any, target: float, generator: torch.Generator
) -> float:
    """A step whose rate is about the target, by doubling or halving."""
    step, direction = sampler.step_size, 0
    for _ in range(60):
        _, info = dataclasses.replace(sampler, step_size=step).step(energy, state, generator)
        wanted = 1 if info.rate.mean().item() > target else -1
        if direction and wanted != direction:
            break
        direction, step = wanted, step * 2.0**wanted
    return step


def _windows(steps: int) -> tuple[int, list[int]]:
    """Where learning the metric starts, and after which steps it is set: windows that double; the
    last tenth is the step's.
    """
    begin, end = steps // 6, steps - max(steps // 10, 10)
    marks, width = [], max(steps // 12, 5)
    at = begin + width
    while at + 2 * width < end:
        marks.append(at)
        width *= 2
        at += width
    return begin, [*marks, end]


def _tune_steps(
    energy: Energy,
    sampler: Any,
    x: Tensor,
    steps: int,
    target: float,
    metric: bool,
    generator: torch.Generator,
) -> Any:
    state = sampler.init(energy, x)
    sampler = dataclasses.replace(
        sampler, step_size=_first_step(energy, sampler, state, target, generator)
    )
    averaging = DualAveraging(math.log(sampler.step_size), target)
    begin, marks = _windows(steps)
    spread = _Spread()
    for t in range(1, steps + 1):
        trial = dataclasses.replace(sampler, step_size=math.exp(averaging.now))
        state, info = trial.step(energy, state, generator)
        averaging.update(info.rate.mean().item())
        if metric and t > begin:
            spread.add(state.x)
            if t in marks:
                sampler = dataclasses.replace(sampler, scale=spread.scale())
                averaging = DualAveraging(averaging.now, target)
                spread = _Spread()
    return dataclasses.replace(sampler, step_size=math.exp(averaging.mean))


class _Spread:
    """Pooled mean and variance of every coordinate (float64), by Welford's update."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Any = 0.0
        self.squares: Any = 0.0

    def add(self, x: Tensor) -> None:
        flat = x.double().flatten(1)
        n, delta = len(flat), flat.mean(0) - self.mean
        self.squares = (
            self.squares
            + (flat - flat.mean(0)).square().sum(0)
            + delta**2 * (self.count * n / (self.count + n))
        )
        self.mean = self.mean + delta * n / (self.count + n)
        self.count += n

    def scale(self) -> tuple[float, ...]:
        """Deviations over their geometric mean, drawn a little towards equal ones where there were
        few points.
        """
        variance = self.squares / max(self.count - 1, 1)
        level = variance.mean().clamp(min=1e-300)
        kept = self.count / (self.count + 5)
        log = (kept * variance + (1 - kept) * level).clamp(min=1e-12 * level).log() / 2
        return tuple((log - log.mean()).exp().tolist())


def _tune_ladder(
    energy: Energy,
    sampler: ParallelTempering,
    x: Tensor,
    steps: int,
    target: float,
    generator: torch.Generator,
) -> ParallelTempering:
    """Step sizes per rung by dual averaging, temperatures so that all pairs are refused equally
    often, in four rounds.
    """
    rungs, base = len(sampler.temperatures), sampler.sampler.step_size  # type: ignore[attr-defined]
    if sampler.step_sizes is None:
        sampler = dataclasses.replace(sampler, step_sizes=(base,) * rungs)
    state = sampler.init(energy, x)
    for share in (0.15, 0.2, 0.25, 0.4):
        averages = [DualAveraging(math.log(step), target) for step in sampler.step_sizes or ()]
        before = state.tempering
        for _ in range(max(int(share * steps), 10)):
            trial = dataclasses.replace(
                sampler, step_sizes=tuple(math.exp(a.now) for a in averages)
            )
            replicas, info = trial.explore(energy, state, generator)
            for average, rate in zip(
                averages, info.rate.view(rungs, -1).mean(1).tolist(), strict=True
            ):
                average.update(rate)
            state = trial.swap(state._replace(replicas=replicas), generator, energy)
        sampler = dataclasses.replace(sampler, step_sizes=tuple(math.exp(a.mean) for a in averages))
        if share < 0.4:
            tried = (state.tempering.tried - before.tried).clamp(min=1)
            refused = 1 - (state.tempering.accepted - before.accepted) / tried
            sampler, state = _respaced(sampler, state, refused.cpu().numpy())
    return sampler


def _respaced(
    sampler: ParallelTempering, state: Any, refused: np.ndarray
) -> tuple[ParallelTempering, Any]:
    """Temperatures at equal distances of the communication barrier: the integral of the refusal
    rate along the ladder.
    """
    barrier = np.concatenate([[0.0], np.cumsum(np.maximum(refused, 1e-3))])
    even = np.linspace(0, barrier[-1], len(barrier))
    log_t = np.log(sampler.temperatures)
    temperatures = np.exp(np.interp(even, barrier, log_t))
    steps = np.exp(np.interp(np.log(temperatures), log_t, np.log(sampler.step_sizes or ())))
    new = dataclasses.replace(
        sampler,
        temperatures=(1.0, *map(float, temperatures[1:-1]), sampler.temperatures[-1]),
        step_sizes=tuple(map(float, steps)),
    )
    ratio = new.betas(state.x) / sampler.betas(state.x)
    return new, state._replace(
        replicas=rescaled(state.replicas, ratio.repeat_interleave(len(state.x)))
    )
