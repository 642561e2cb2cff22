"""Chains of anything that samples, and the standard errors by which they are judged."""

import math
from collections.abc import Callable
from itertools import cycle, islice
from typing import Any

import torch
from torch import Tensor

from lowland.energy import Energy
from lowland.samplers import Sampler, run_chains
from lowland.samplers.kernel import HasMetric
from lowland.samplers.tempering import Tempered
from lowland.testing.targets import Target

LIMIT = 5.0  # standard errors
Move = Callable[[Energy, Tensor, int, torch.Generator], Tensor]


def seeded(seed: int = 0) -> torch.Generator:
    """A generator on the CPU."""
    return torch.Generator().manual_seed(seed)


class Chains:
    """Chains that go on where they stopped: of a sampler (their state is kept), or of a plain move.

    sampler: with `init` and `step`, or a callable move(energy, x, steps, generator) -> x; x: where
    they are (B, *event).
    """

    def __init__(
        self, sampler: Any, energy: Energy, x: Tensor, generator: torch.Generator, state: Any = None
    ) -> None:
        self.sampler, self.energy, self.x = fitted(sampler, x[0].numel()), energy, x
        self.generator, self.state = generator, state

    def walk(self, steps: int) -> Tensor:
        """Go on; returns where the chains are."""
        if isinstance(self.sampler, Sampler):
            trace = run_chains(
                self.energy, self.sampler, self.x, steps, generator=self.generator, state=self.state
            )
            self.x, self.state = trace.x, trace.state
        else:
            self.x = self.sampler(self.energy, self.x, steps, self.generator)
        return self.x


def has_replicas(sampler: Any) -> bool:
    """Return whether a sampler's state holds replicas at several temperatures."""
    return isinstance(sampler, Sampler) and sampler.num_replicas > 1


def fitted(sampler: Any, size: int) -> Any:
    """The sampler with its metric, if it has one, repeated to the size of an event."""
    if has_replicas(sampler):
        return sampler.replace(sampler=fitted(sampler.sampler, size))
    if not isinstance(sampler, Sampler) or not isinstance(sampler, HasMetric):
        return sampler
    if sampler.inv_mass_sqrt is None:
        return sampler
    return sampler.replace(inv_mass_sqrt=tuple(islice(cycle(sampler.inv_mass_sqrt), size)))


def stationary(
    sampler: Any, target: Target, count: int, generator: torch.Generator, dtype: torch.dtype
) -> Chains:
    """Chains that start from the law they should keep; the replicas of parallel tempering each from
    their own.
    """
    x = target.draw(count, generator, dtype)
    sampler = fitted(sampler, x[0].numel())
    if not has_replicas(sampler):
        return Chains(sampler, target.energy, x, generator)
    assert target.hot is not None, (
        "parallel tempering needs draws of the target at other temperatures"
    )
    others = [target.hot(t, count, generator, dtype) for t in sampler.temperatures[1:]]
    energy = Tempered(target.energy, sampler.betas(x), count)
    state = sampler.init(target.energy, x)._replace(
        replicas=sampler.sampler.init(energy, torch.cat([x, *others]))
    )
    return Chains(sampler, target.energy, x, generator, state)


def caught(check: Callable[..., Any], *args: Any, **kwargs: Any) -> bool:
    """Whether a check condemns what it is given: it raises AssertionError or returns more than
    LIMIT.
    """
    try:
        z = check(*args, **kwargs)
    except AssertionError:
        return True
    return z is not None and not z < LIMIT


def z_scores(values: Tensor, truth: Tensor | float = 0.0) -> Tensor:
    """(mean − truth) in standard errors of independent rows (N, ...); a column without spread must
    be right.
    """
    values = values.double()
    error = values.std(0) / math.sqrt(len(values))
    difference = values.mean(0) - truth
    exact = torch.where(difference == 0, 0.0, math.inf)
    return torch.where(error > 0, difference / error.clamp(min=1e-300), exact)


def worst(values: Tensor, truth: Tensor | float = 0.0) -> float:
    """The largest |z| of the columns."""
    return z_scores(values, truth).abs().max().item()
