"""Annealing: run chains along a path, which is a list of energies."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lowland.energy import Energy, lift
from lowland.samplers.doors import check_sampler
from lowland.samplers.kernel import HasStepSize, Sampler
from lowland.samplers.langevin import MALA, Langevin, LeimkuhlerMatthews, ShortRun
from lowland.samplers.loop import Trace, sample
from lowland.samplers.recorders import Frames
from lowland.samplers.settings import read_count, read_path, read_steps


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
    their energy. Source: Song & Ermon (2019), algorithm 1, https://arxiv.org/abs/1907.05600

    >>> import torch, lowland
    >>> bowl = lowland.Function(lambda x: x.square().sum(1))
    >>> g = torch.Generator().manual_seed(0)
    >>> traces = anneal([bowl / 4.0, bowl], lowland.MALA(0.1), torch.zeros(3, 2), 5, generator=g)
    >>> len(traces)
    2
    """
    samplers, steps = one_each(samplers, path), read_count("steps", steps, least=0)
    path, frames = [lift(energy) for energy in path], read_steps("frames", frames, least=0)
    traces: list[Trace] = []
    done = 0
    for energy, sampler, share in zip(path, samplers, divide_steps(steps, len(path)), strict=True):
        here = tuple(step - done for step in frames if done < step <= done + share)
        recorders = [Frames(here)] if here else []
        traces.append(
            sample(
                energy,
                sampler,
                x,
                share,
                generator=generator,
                recorders=recorders,
                progress=progress,
            )
        )
        x, done = traces[-1].x, done + share
    return traces


def one_each(samplers: Sampler | Sequence[Sampler], path: Sequence[Energy]) -> list[Sampler]:
    """Return one sampler for each energy of a path. Raises ValueError for an empty path or lists
    that are not equally long.
    """
    if isinstance(samplers, str) or not isinstance(samplers, Sequence):
        check_sampler(samplers)
        samplers = [samplers] * len(path)
    each = list(samplers)
    for sampler in each:
        check_sampler(sampler)
    if len(each) != len(path) or not path:
        raise ValueError(
            f"{len(each)} samplers came with {len(path)} energies; there must be one each, or one "
            "sampler for all; make the lists equally long"
        )
    return each


def divide_steps(steps: int, parts: int) -> list[int]:
    """Divide steps into parts (at least 1), as evenly as can be; the later ones get what does not
    divide.

    >>> divide_steps(20, 3)
    [6, 7, 7]
    """
    steps, parts = read_count("steps", steps, least=0), read_count("parts", parts)
    return [steps // parts + (i >= parts - steps % parts) for i in range(parts)]


def scale_step_sizes(sampler: Sampler, sigmas: Sequence[float]) -> list[Sampler]:
    """Scale the step size with the noise level: h_i = h · (σ_i / σ_last)², the rule of annealed
    Langevin dynamics. Returns one sampler per level.

    The step of HMC, NUTS, GHMC and Underdamped is a length, not its square: ε_i = ε · σ_i / σ_last.

    >>> import lowland
    >>> [round(s.step_size, 3) for s in scale_step_sizes(lowland.Langevin(0.01), (1.0, 0.1))]
    [1.0, 0.01]
    """
    check_sampler(sampler)
    sigmas = read_path("sigmas", sigmas)
    if not isinstance(sampler, HasStepSize):
        raise ValueError(
            f"{type(sampler).__name__} has no step size; it needs one to scale; use MALA, "
            "HMC or Langevin"
        )
    power = 2 if isinstance(sampler, (Langevin, LeimkuhlerMatthews, ShortRun, MALA)) else 1
    base = sampler.step_size
    return [sampler.replace(step_size=base * (s / sigmas[-1]) ** power) for s in sigmas]
