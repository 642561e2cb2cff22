"""Adaptation of samplers while they run: step size by dual averaging, diagonal metric by variances.

    log ε_{t+1} = μ − √t / γ · H̄_t,    H̄_t = running mean of (target − acceptance probability)

is Nesterov's dual averaging; its answer is a weighted mean of log ε. The acceptance probability is
the mean over chains, 0 where a proposal was not finite. The metric is the standard deviation of
every coordinate over chains and over windows that double in length.
Source: Hoffman & Gelman (2014), section 3.2, https://jmlr.org/papers/v15/hoffman14a.html
"""

import math
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from lowland.devices import float64_device, to_float64
from lowland.samplers.kernel import HasStepSize, Info, Sampler, State
from lowland.samplers.settings import LARGEST, SMALLEST

DEFAULT_TARGET = 0.8  # acceptance for samplers that name none
PRIOR_COUNT = 5  # points' worth of equal variances in an estimated metric
MIN_WINDOW = 5  # steps of the first window at least


class Adaptation(Protocol):
    """A rule that returns the sampler of the next step, given what the last one did."""

    def __call__(self, sampler: Sampler, state: Any, info: Info) -> Sampler: ...


@dataclass
class DualAveraging:
    """Search for the log ε at which a noisy, falling acceptance probability meets its target.

    start: log of the first step size; shift: how far above it the search is centred (log 10 to find
    a step, 0 to follow one); lowest, highest: bounds on log ε.
    """

    start: float
    target: float
    shift: float = math.log(10)
    highest: float = math.log(LARGEST / 10)
    lowest: float = math.log(SMALLEST * 10)
    gamma: float = 0.05
    delay: float = 10.0
    kappa: float = 0.75
    count: int = 0
    error: float = 0.0
    mean: float = 0.0

    def __post_init__(self) -> None:
        self.now = self.start

    def update(self, acceptance: float) -> None:
        """Take the acceptance probability at `now` and move on."""
        self.count += 1
        t = self.count
        self.error += (self.target - acceptance - self.error) / (t + self.delay)
        log_step = self.start + self.shift - math.sqrt(t) / self.gamma * self.error
        self.now = max(min(log_step, self.start + 60.0, self.highest), self.lowest)
        weight = t**-self.kappa
        self.mean = weight * self.now + (1 - weight) * self.mean


@dataclass
class StepSizeAdaptation:
    """Step size that follows its target acceptance, also where the distribution changes slowly."""

    averaging: DualAveraging

    @classmethod
    def of(cls, sampler: Sampler) -> "StepSizeAdaptation | None":
        """Return an adaptation from the sampler's step size on, None for one that has no step size
        or no accept step.
        """
        if not isinstance(sampler, HasStepSize) or not sampler.adjusted:
            return None
        target = sampler.target_accept or DEFAULT_TARGET
        return cls(DualAveraging(math.log(sampler.step_size), target, shift=0.0))

    def __call__(self, sampler: Sampler, state: State, info: Info) -> Sampler:
        self.averaging.update(to_float64(info.acceptance_prob).mean().item())
        return self.current(sampler)

    def current(self, sampler: Sampler) -> Sampler:
        """Return the sampler with the step size of the next step."""
        return sampler.replace(step_size=math.exp(self.averaging.now))


class RunningMoments:
    """Mean and sum of squared deviations over all rows seen, in float64 (Welford's update).

    shape, device: of an event; needed only where the moments of no rows are asked for.
    """

    def __init__(self, shape: tuple[int, ...] = (), device: torch.device | None = None) -> None:
        self.count = 0
        place = None if device is None else float64_device(device)
        self.mean = self.squares = torch.zeros(shape, dtype=torch.float64, device=place)

    def add(self, x: Tensor) -> None:
        """Take rows x (B, *event)."""
        x = to_float64(x)
        n, batch_mean = len(x), x.mean(0)
        delta, total = batch_mean - self.mean, self.count + n
        within = (x - batch_mean).square().sum(0)
        self.squares = self.squares + within + delta.square() * (self.count * n / total)
        self.mean = self.mean + delta * n / total
        self.count = total

    @property
    def variance(self) -> Tensor:
        """Return the unbiased variance of the event's shape."""
        return self.squares / max(self.count - 1, 1)


def log_deviations(variance: Tensor, count: int) -> Tensor:
    """Compute log standard deviations (d,) less their mean from variances over `count` points.

    Variances are shrunk towards equal ones, as PRIOR_COUNT more points would.
    """
    level = variance.mean().clamp(min=1e-300)
    weight = count / (count + PRIOR_COUNT)
    log = (weight * variance + (1 - weight) * level).clamp(min=1e-12 * level).log() / 2
    return log - log.mean()


def estimate_metric(moments: RunningMoments) -> tuple[float, ...]:
    """Estimate inv_mass_sqrt: standard deviations over their geometric mean, flattened."""
    return tuple(log_deviations(moments.variance, moments.count).exp().tolist())


@dataclass
class WindowAdaptation:
    """Step size at every step; diagonal metric at the end of windows that double, after which the
    search for the step size begins anew. The last tenth of the steps is the step size's.
    """

    averaging: DualAveraging
    begin: int
    window_ends: tuple[int, ...]
    step: int = 0
    moments: RunningMoments = field(default_factory=RunningMoments)

    @classmethod
    def of(
        cls, log_step: float, target: float, steps: int, metric: bool, highest: float
    ) -> "WindowAdaptation":
        """Lay out the windows of a warm-up of `steps`; without metric there are none. highest:
        bound on the log of the step size.
        """
        averaging = DualAveraging(log_step, target, highest=highest)
        if not metric:
            return cls(averaging, steps, ())
        begin, end, width = steps // 6, steps - max(steps // 10, 10), max(steps // 12, MIN_WINDOW)
        ends, at = [], begin + width
        while at + 2 * width < end:
            ends.append(at)
            width *= 2
            at += width
        return cls(averaging, begin, (*ends, end))

    def __call__(self, sampler: Sampler, state: State, info: Info) -> Sampler:
        self.step += 1
        self.averaging.update(info.acceptance_prob.mean().item())
        if self.step > self.begin:
            self.moments.add(state.x.flatten(1))
            if self.step in self.window_ends:
                sampler = sampler.replace(inv_mass_sqrt=estimate_metric(self.moments))
                old = self.averaging
                self.averaging = DualAveraging(old.now, old.target, highest=old.highest)
                self.moments = RunningMoments()
        return sampler.replace(step_size=math.exp(self.averaging.now))
