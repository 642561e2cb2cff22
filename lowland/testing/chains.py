"""Chains of a sampler or of a plain move, and z-scores of their draws."""

import math
from collections.abc import Callable
from itertools import cycle, islice
from typing import Any, TypeGuard

import torch
from torch import Tensor

from lowland.energy import Energy
from lowland.samplers import Sampler, run_chains
from lowland.samplers.kernel import HasMetric
from lowland.samplers.tempering import ParallelTempering, Tempered
from lowland.scalars import read_integer
from lowland.testing.targets import Target

LIMIT = 5.0  # standard errors
Move = Callable[[Energy, Tensor, int, torch.Generator], Tensor]
AnySampler = Sampler | Move


def seeded(seed: int = 0) -> torch.Generator:
    """Return a generator on the CPU."""
    return torch.Generator().manual_seed(read_integer("seed", seed, least=0, most=2**64 - 1))


class Chains:
    """Chains at x (B, *event) that go on where they stopped.

    sampler: a Sampler, whose state is kept, or a callable move(energy, x, steps, generator) -> x.
    """

    def __init__(
        self,
        sampler: AnySampler,
        energy: Energy,
        x: Tensor,
        generator: torch.Generator,
        state: Any = None,
    ) -> None:
        self.sampler, self.energy, self.x = fit_metric(sampler, x[0].numel()), energy, x
        self.generator, self.state = generator, state

    def walk(self, steps: int) -> Tensor:
        """Move all chains; return where they are."""
        if isinstance(self.sampler, Sampler):
            trace = run_chains(
                self.energy, self.sampler, self.x, steps, generator=self.generator, state=self.state
            )
            self.x, self.state = trace.x, trace.state
        else:
            self.x = self.sampler(self.energy, self.x, steps, self.generator)
        return self.x


def has_replicas(sampler: AnySampler) -> TypeGuard[ParallelTempering]:
    """Return True for parallel tempering, also that of a module with a planted bug."""
    return isinstance(sampler, Sampler) and sampler.num_replicas > 1


def fit_metric(sampler: Any, size: int) -> Any:
    """Repeat the metric of a sampler, if it has one, to the size of an event."""
    if has_replicas(sampler):
        return sampler.replace(sampler=fit_metric(sampler.sampler, size))
    if not isinstance(sampler, Sampler) or not isinstance(sampler, HasMetric):
        return sampler
    if sampler.inv_mass_sqrt is None:
        return sampler
    return sampler.replace(inv_mass_sqrt=tuple(islice(cycle(sampler.inv_mass_sqrt), size)))


def stationary(
    sampler: AnySampler, target: Target, count: int, generator: torch.Generator, dtype: torch.dtype
) -> Chains:
    """Start chains, and replicas of parallel tempering, from exact draws of a target."""
    x = target.draw(count, generator, dtype)
    sampler = fit_metric(sampler, x[0].numel())
    if not has_replicas(sampler):
        return Chains(sampler, target.energy, x, generator)
    if target.hot is None:
        raise ValueError(
            "the target came without draws at other temperatures; parallel tempering starts its "
            "replicas from them; give the target hot(temperature, count, generator, dtype)"
        )
    others = [target.hot(t, count, generator, dtype) for t in sampler.temperatures[1:]]
    energy = Tempered(target.energy, sampler.betas(x), count)
    state = sampler.init(target.energy, x)._replace(
        replicas=sampler.sampler.init(energy, torch.cat([x, *others]))
    )
    return Chains(sampler, target.energy, x, generator, state)


def caught(check: Callable[..., Any], *args: Any, **kwargs: Any) -> bool:
    """Return True if a check raises AssertionError or returns more than LIMIT."""
    try:
        z = check(*args, **kwargs)
    except AssertionError:
        return True
    return z is not None and not z < LIMIT


def z_scores(values: Tensor, truth: Tensor | float = 0.0) -> Tensor:
    """Return (mean − truth) in standard errors of independent rows (N, ...).

    A column without spread has z = 0 if it equals the truth, else infinity.
    """
    values = values.double()
    error = values.std(0) / math.sqrt(len(values))
    difference = values.mean(0) - truth
    exact = torch.where(difference == 0, 0.0, math.inf)
    return torch.where(error > 0, difference / error.clamp(min=1e-300), exact)


def worst(values: Tensor, truth: Tensor | float = 0.0) -> float:
    """Return the largest |z| of the columns."""
    return z_scores(values, truth).abs().max().item()
