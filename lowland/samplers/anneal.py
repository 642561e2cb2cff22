"""A path is a list of energies; going along it is a short caller of the loop."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lowland.domain import Domain
from lowland.energy import Energy, check_points, energy_values, lift
from lowland.samplers.kernel import DISCRETE, Sampler, per_row, positive
from lowland.samplers.langevin import MALA, Langevin, LeimkuhlerMatthews, ShortRun
from lowland.samplers.loop import Trace, check_arguments, sample
from lowland.samplers.recorders import Frames, Lowest


def anneal(
    path: Sequence[Energy],
    samplers: Sampler | Sequence[Sampler],
    x: Tensor,
    steps: int,
    *,
    generator: torch.Generator,
    frames: Sequence[int] = (),
    progress: Callable[[int], object] | None = None,
) -> list[Trace]:
    """Run chains through the energies of a path one after the other, `steps` in all, divided
    evenly. One trace per energy.

    samplers: one for all or one per energy. With path = [energy / T for T in temperatures] this is
    simulated annealing; with path = [energy.given(σ) for σ in sigmas] annealed Langevin dynamics.
    frames: steps, counted over the whole path, whose points are kept under "frames" in the trace of
    their rung. Source: Song & Ermon (2019), algorithm 1, https://arxiv.org/abs/1907.05600

    >>> import torch, lowland
    >>> bowl = lowland.Function(lambda x: x.square().sum(1))
    >>> g = torch.Generator().manual_seed(0)
    >>> traces = anneal([bowl / 4.0, bowl], lowland.MALA(0.1), torch.zeros(3, 2), 5, generator=g)
    >>> len(traces)
    2
    """
    rungs = one_each(samplers, path)
    traces: list[Trace] = []
    done = 0
    for energy, sampler, share in zip(path, rungs, divide_steps(steps, len(path)), strict=True):
        here = tuple(step - done for step in frames if done < step <= done + share)
        keep = [Frames(here)] if here else []
        traces.append(
            sample(energy, sampler, x, share, generator=generator, keep=keep, progress=progress)
        )
        x, done = traces[-1].x, done + share
    return traces


def one_each(samplers: Sampler | Sequence[Sampler], path: Sequence[Energy]) -> list[Sampler]:
    """A sampler for each energy of a path. Raises ValueError for an empty path or lists that are
    not equally long.
    """
    rungs = list(samplers) if isinstance(samplers, Sequence) else [samplers] * len(path)
    if len(rungs) != len(path) or not path:
        raise ValueError(
            f"{len(rungs)} samplers came with {len(path)} energies; there must be one each, or one "
            "sampler for all; make the lists equally long"
        )
    return rungs


def divide_steps(steps: int, rungs: int) -> list[int]:
    """Steps for each rung, as even as can be; the later rungs get what does not divide.

    >>> divide_steps(20, 3)
    [6, 7, 7]
    """
    return [steps // rungs + (i >= rungs - steps % rungs) for i in range(rungs)]


def scale_step_sizes(sampler: Sampler, sigmas: Sequence[float]) -> list[Sampler]:
    """Samplers whose step follows the noise level: h_i = h · (σ_i / σ_last)², the rule of annealed
    Langevin dynamics.

    The step of HMC, NUTS, GHMC and Underdamped is a length, not its square: ε_i = ε · σ_i / σ_last.

    >>> import lowland
    >>> [round(s.step_size, 3) for s in scale_step_sizes(lowland.Langevin(0.01), (1.0, 0.1))]
    [1.0, 0.01]
    """
    base = getattr(sampler, "step_size", None)
    if base is None:
        raise ValueError(
            f"{type(sampler).__name__} has no step size; a ladder needs one to scale; use MALA, "
            "HMC or Langevin"
        )
    power = 2 if isinstance(sampler, (Langevin, LeimkuhlerMatthews, ShortRun, MALA)) else 1
    return [
        dataclasses.replace(sampler, step_size=base * (s / sigmas[-1]) ** power)  # type: ignore[type-var]
        for s in sigmas
    ]


# ------------------------------------------------------------------------------ from small to large


def multiscale_sample(
    energies: Sequence[Energy],
    samplers: Sampler | Sequence[Sampler],
    x: Tensor,
    steps: int | Sequence[int],
    *,
    generator: torch.Generator,
    smooth: bool = False,
    progress: Callable[[int], object] | None = None,
) -> list[Trace]:
    """Sample images from small to large: run chains at the smallest size, enlarge them, refine, and
    so on. One trace per size.

    energies: from the smallest size to the largest, each with the shape (channels, sizes...) of its
    events; x: at the smallest; samplers: one for all or one per size; steps: in all, divided
    evenly, or a list with those of each size. Points are enlarged by repeating the nearest, or, if
    `smooth`, linearly in every direction; either way each new number is a mean of old ones, so that
    points stay inside a box. What a size leaves behind is only where the next begins: a law that
    the last sampler does not reach in its own steps is not reached.

    Raises ValueError where a size shrinks, channels differ, nothing grows, or `smooth` meets a
    discrete domain. Source: Gao et al. (2018), https://arxiv.org/abs/1709.08868

    >>> import torch, lowland
    >>> sizes = [lowland.Function(lambda x: x.square().flatten(1).sum(1), lowland.real(1, n, n)) for n in (2, 4)]
    >>> g = torch.Generator().manual_seed(0)
    >>> [tuple(t.x.shape) for t in multiscale_sample(sizes, lowland.MALA(0.1), torch.zeros(3, 1, 2, 2), 10, generator=g)]
    [(3, 1, 2, 2), (3, 1, 4, 4)]
    """
    rungs = one_each(samplers, energies)
    for small, large in pairwise(energies):
        _check_growth(small.domain, large.domain, smooth)
    shares = divide_steps(steps, len(energies)) if isinstance(steps, int) else list(steps)
    if len(shares) != len(energies):
        raise ValueError(
            f"{len(shares)} numbers of steps came for {len(energies)} sizes; one each is needed; "
            "or pass a sum"
        )
    traces: list[Trace] = []
    for energy, sampler, share in zip(energies, rungs, shares, strict=True):
        x = _enlarged(x, energy.domain, smooth) if traces else x
        traces.append(sample(energy, sampler, x, share, generator=generator, progress=progress))
        x = traces[-1].x
    return traces


def _check_growth(small: Domain, large: Domain, smooth: bool) -> None:
    a, b = small.shape, large.shape
    grows = (
        len(a) == len(b) in (2, 3, 4)
        and a[0] == b[0]
        and a != b
        and all(m <= n for m, n in zip(a, b, strict=True))
    )
    if not grows:
        raise ValueError(
            f"events of {a} are followed by events of {b}; both need a shape (channels, sizes...) "
            "with equal channels and sizes that grow; order the energies from small to large"
        )
    if smooth and large.kind in DISCRETE:
        raise ValueError(
            f"smooth enlarging came to a {large.kind} domain; means of its values are none; leave "
            "smooth out"
        )


def _enlarged(x: Tensor, domain: Domain, smooth: bool) -> Tensor:
    mode = ("linear", "bilinear", "trilinear")[len(domain.shape) - 2] if smooth else "nearest"
    large = interpolate(x, domain.shape[1:], mode=mode, align_corners=False if smooth else None)
    return domain.reflect(large)[
        0
    ]  # folds back the last rounding error of a mean of numbers at a wall


# --------------------------------------------------------------------------------- the lowest point


@dataclass(frozen=True, repr=False)
class MinimizationResult:
    """What a search found: x (*event) and its energy, the lowest of all chains.

    points (B, *event) and energies (B,): the lowest that each chain visited; rungs (B,): the place
    on the ladder of temperatures where it did; temperatures; steps and gradients, per chain.
    """

    points: Tensor
    energies: Tensor
    rungs: Tensor
    temperatures: tuple[float, ...]
    steps: int
    gradients: float

    @property
    def x(self) -> Tensor:
        return self.points[self.energies.argmin()]

    @property
    def energy(self) -> float:
        return self.energies.min().item()

    @property
    def agreeing(self) -> int:
        """How many chains came as low as the lowest, up to rounding: if it is one alone, more steps
        may well find lower.
        """
        lowest = self.energies.min()
        return int((self.energies <= lowest + 1e-5 * lowest.abs().clamp(min=1e-3)).sum())

    def __repr__(self) -> str:
        return (
            f"MinimizationResult(energy {self.energy:.6g} by {self.agreeing} of {len(self.energies)} chains, "
            f"temperatures {self.temperatures[0]:.3g} to {self.temperatures[-1]:.3g} in "
            f"{len(self.temperatures)} rungs, {self.steps} steps, {self.gradients:g} gradients)"
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
    """Look for the point of lowest energy by annealing: sample exp(−E / T) while T falls, and keep
    the lowest point visited.

    x (B, *event): where the chains begin; steps: in all, divided evenly among the temperatures.
    temperatures: a ladder, such as `geometric_schedule(4.0, 0.05, 20)`; unless given, 20 from 4 δ down to δ /
    50 (`δ` = spread of the energies of x over √(numbers in an event), about what a change of one
    number changes; so let x be random points). The step of a sampler that has an accept step
    follows its acceptance from rung to rung, for a cold law is narrow; nothing here needs an
    invariant law. Any domain: BlockGibbs, GibbsWithGradients or DMALA on discrete ones. No sampler
    guarantees the minimum; see `agreeing`.

    Raises ValueError for a ladder that is empty or not positive, and where all points of x have one
    energy and no ladder came. Source: Kirkpatrick, Gelatt & Vecchi (1983),
    https://doi.org/10.1126/science.220.4598.671

    >>> import torch, lowland
    >>> edges = torch.tensor([[0, 1], [1, 2], [2, 3], [3, 4], [4, 0]])  # a ring of five: 4 of its 5 edges can be cut
    >>> cut = lowland.Function(lambda x: -(x[:, edges[:, 0]] != x[:, edges[:, 1]]).float().sum(1), lowland.binary(5))
    >>> g = torch.Generator().manual_seed(0)
    >>> simulated_annealing(cut, lowland.BlockGibbs(), cut.domain.draw(8, g), 100, generator=g).energy
    -4.0
    """
    energy = lift(energy)
    check_arguments(steps, generator, x)
    check_points(energy, x)
    points, lowest = x, energy_values(energy, x)
    ladder = tuple(temperatures) if temperatures is not None else _cooling_for(lowest, x)
    if not ladder:
        raise ValueError(
            "the ladder of temperatures is empty; it needs at least one; see geometric_schedule(high, low, "
            "count)"
        )
    rungs, gradients = torch.zeros(len(x), dtype=torch.long, device=x.device), 0.0
    for k, (temperature, share) in enumerate(
        zip(ladder, divide_steps(steps, len(ladder)), strict=True)
    ):
        positive("a temperature", temperature)
        trace = sample(
            energy / temperature,
            sampler,
            x,
            share,
            generator=generator,
            keep=Lowest(),
            progress=progress,
        )
        visited = trace.kept["lowest"][0]
        found = energy_values(energy, visited)
        lower = found < lowest
        points, lowest = (
            torch.where(per_row(lower, x), visited, points),
            torch.where(lower, found, lowest),
        )
        rungs, gradients = torch.where(lower, k, rungs), gradients + trace.gradients
        sampler, x = _followed(sampler, trace), trace.x
    return MinimizationResult(points, lowest, rungs, ladder, steps, gradients)


def geometric_schedule(high: float, low: float, count: int) -> tuple[float, ...]:
    """A ladder of `count` numbers from high to low, each the same fraction of the one before.

    >>> geometric_schedule(4.0, 1.0, 3)
    (4.0, 2.0, 1.0)
    """
    positive("high", high)
    positive("low", low)
    if count < 1 or low > high:
        raise ValueError(
            f"{count} rungs from {high} to {low}; at least one is needed, from high to low; "
            "correct them"
        )
    return (
        (*(high * (low / high) ** (i / (count - 1)) for i in range(count - 1)), low)
        if count > 1
        else (low,)
    )


def _cooling_for(energies: Tensor, x: Tensor) -> tuple[float, ...]:
    """20 temperatures on the scale of what a change of one number of x changes the energy."""
    spread, size = energies.double().std(correction=0).item(), energies.abs().max().item()
    if not spread > 1e-6 * size:
        raise ValueError(
            f"the {len(x)} starting points all have one energy; a ladder of temperatures is read "
            "off their spread; start from random points or pass temperatures"
        )
    delta = spread / x[0].numel() ** 0.5
    return geometric_schedule(4 * delta, delta / 50, 20)


def _followed(sampler: Any, trace: Trace) -> Any:
    """The sampler with its step a little longer where more was accepted than its target, shorter
    where less.
    """
    target = getattr(sampler, "target", None)
    if target is None or not hasattr(sampler, "step_size") or not trace.steps:
        return sampler
    surplus = trace.acceptance.mean().item() - target
    return dataclasses.replace(sampler, step_size=sampler.step_size * math.exp(2 * surplus))
