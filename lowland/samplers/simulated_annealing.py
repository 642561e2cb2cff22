"""Simulated annealing: sample exp(−E / T) while T falls, to find a point of low energy.

Source: Kirkpatrick, Gelatt & Vecchi (1983), https://doi.org/10.1126/science.220.4598.671
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lowland.devices import to_float64
from lowland.energy import (
    Energy,
    check_energy,
    check_normalisable,
    check_points,
    energy_values,
    freeze,
    lift,
)
from lowland.samplers.adaptation import StepSizeAdaptation
from lowland.samplers.anneal import divide_steps
from lowland.samplers.doors import Witness, check_arguments, check_resolution, check_sampler
from lowland.samplers.kernel import Sampler, per_row
from lowland.samplers.loop import run_chains
from lowland.samplers.recorders import Lowest
from lowland.samplers.settings import read_count, read_path, read_positive

NUM_TEMPERATURES = 20  # of the default schedule


@dataclass(frozen=True, repr=False)
class MinimizationResult:
    """Result of simulated annealing: x (*event) and its energy, the lowest of all chains.

    points (B, *event) and energies (B,): the lowest that each chain visited; stages (B,): place in
    the schedule of temperatures where it did; temperatures; steps and num_grad_evals, per chain.
    """

    points: Tensor
    energies: Tensor
    stages: Tensor
    temperatures: tuple[float, ...]
    steps: int
    num_grad_evals: float

    @property
    def x(self) -> Tensor:
        return self.points[self.energies.argmin()]

    @property
    def energy(self) -> float:
        return self.energies.min().item()

    @property
    def agreeing(self) -> int:
        """Count the chains that came as low as the lowest, up to rounding: if it is one alone, more
        steps may well find lower.
        """
        lowest = self.energies.min()
        return int((self.energies <= lowest + 1e-5 * lowest.abs().clamp(min=1e-3)).sum())

    def __repr__(self) -> str:
        return (
            f"MinimizationResult(energy {self.energy:.6g} by {self.agreeing} of "
            f"{len(self.energies)} chains, {len(self.temperatures)} temperatures from "
            f"{self.temperatures[0]:.3g} to {self.temperatures[-1]:.3g}, {self.steps} steps, "
            f"{self.num_grad_evals:g} gradients)"
        )


def simulated_annealing(
    energy: Energy | Callable[..., Tensor],
    sampler: Sampler,
    x: Tensor,
    steps: int,
    *,
    generator: torch.Generator,
    temperatures: Sequence[float] | None = None,
    progress: Callable[[int], object] | None = None,
) -> MinimizationResult:
    """Search for the point of lowest energy: sample exp(−E / T) while T falls, and keep the lowest
    point visited.

    x (B, *event): where the chains begin; steps: in all, divided evenly among the temperatures.
    temperatures: a schedule, such as `geometric_schedule(4.0, 0.05, 20)`; unless given, 20 from 4 δ
    down to δ / 50 (δ: standard deviation of the energies of x over √(numbers in an event), about
    what a change of one number changes; so let x be random points). The step size of a sampler with
    an accept step follows its acceptance all the way, for a cold distribution is narrow; nothing
    here needs an invariant one. Any domain: BlockGibbs, GibbsWithGradients or DMALA on discrete
    ones. No sampler guarantees the minimum; see `agreeing`.

    Raises ValueError for a schedule that is empty or not positive, and where all points of x have
    one energy and no schedule came.

    >>> import torch, lowland
    >>> a, b = torch.tensor([0, 1, 2, 3, 4]), torch.tensor([1, 2, 3, 4, 0])  # a ring of five edges
    >>> cut = lowland.Function(lambda x: -(x[:, a] != x[:, b]).float().sum(1), lowland.binary(5))
    >>> g = torch.Generator().manual_seed(0)
    >>> start = cut.domain.draw(8, g)
    >>> simulated_annealing(cut, lowland.BlockGibbs(), start, 100, generator=g).energy
    -4.0
    """
    energy = lift(energy)
    steps = check_arguments(steps, generator, x)
    check_points(energy, x)
    check_normalisable(energy, x)
    check_sampler(sampler)
    x = x.detach()
    points, lowest = x, energy_values(energy, x, batch_size=len(x))
    check_resolution(energy, x, lowest)
    if temperatures is None:
        temperatures = _default_schedule(lowest, x)
    schedule = read_path("temperatures", temperatures)
    if not schedule:
        raise ValueError(
            "the schedule of temperatures is empty; it needs at least one; see "
            "geometric_schedule(high, low, count)"
        )
    stages, num_grad_evals = torch.zeros(len(x), dtype=torch.long, device=x.device), 0.0
    adapt = StepSizeAdaptation.of(sampler)
    with freeze(energy) as energy:
        check_energy(Witness(energy), x)
        for k, share in enumerate(divide_steps(steps, len(schedule))):
            trace = run_chains(
                energy / schedule[k],
                sampler,
                x,
                share,
                generator=generator,
                recorders=Lowest(),
                adapt=adapt,
                progress=progress,
            )
            visited, x = trace.records["lowest"][0], trace.x
            value = energy_values(energy, visited)
            lower = value < lowest
            points = torch.where(per_row(lower, x), visited, points)
            lowest = torch.where(lower, value, lowest)
            stages = torch.where(lower, k, stages)
            num_grad_evals += trace.num_grad_evals
            if adapt is not None:
                sampler = adapt.current(sampler)
    return MinimizationResult(points, lowest, stages, schedule, steps, num_grad_evals)


def geometric_schedule(high: float, low: float, count: int) -> tuple[float, ...]:
    """Compute `count` temperatures from high to low, each the same fraction of the one before.

    >>> geometric_schedule(4.0, 1.0, 3)
    (4.0, 2.0, 1.0)
    """
    high, low = read_positive("high", high), read_positive("low", low)
    count = read_count("count", count)
    if low > high:
        raise ValueError(
            f"{count} temperatures from {high} to {low}; high comes first, and is not below low; "
            "exchange them"
        )
    return (*(high * (low / high) ** (i / (count - 1)) for i in range(count - 1)), low)


def _default_schedule(energies: Tensor, x: Tensor) -> tuple[float, ...]:
    """Choose temperatures on the scale of what a change of one number of x changes the energy."""
    deviation, size = to_float64(energies).std(correction=0).item(), energies.abs().max().item()
    if not deviation > 1e-6 * size:
        raise ValueError(
            f"the {len(x)} starting points all have one energy; the temperatures are read off "
            "their differences; start from random points or pass temperatures"
        )
    delta = deviation / x[0].numel() ** 0.5
    return geometric_schedule(4 * delta, delta / 50, NUM_TEMPERATURES)
