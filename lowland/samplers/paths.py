"""A path is a list of energies; going along it is a short caller of the loop."""

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lowland.energy import Energy
from lowland.samplers.kernel import Sampler
from lowland.samplers.loop import Frames, Trace, sample


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
    """Run chains through the energies of a path one after the other, `steps` in all, divided evenly. One trace per energy.

    samplers: one for all or one per energy. With path = [energy / T for T in temperatures] this is simulated annealing;
    with path = [energy.given(σ) for σ in sigmas] annealed Langevin dynamics. frames: steps, counted over the whole path, whose
    points are kept under "frames" in the trace of their rung.
    Source: Song & Ermon (2019), algorithm 1, https://arxiv.org/abs/1907.05600

    >>> import torch, lowland
    >>> bowl = lowland.Function(lambda x: x.square().sum(1))
    >>> g = torch.Generator().manual_seed(0)
    >>> traces = anneal([bowl / 4.0, bowl], lowland.MALA(0.1), torch.zeros(3, 2), 5, generator=g)
    >>> len(traces)
    2
    """
    rungs = list(samplers) if isinstance(samplers, Sequence) else [samplers] * len(path)
    if len(rungs) != len(path) or not path:
        raise ValueError(
            f"{len(rungs)} samplers came with {len(path)} energies; there must be one each, or one sampler for all; "
            f"make the lists equally long"
        )
    traces: list[Trace] = []
    done = 0
    for energy, sampler, share in zip(path, rungs, divide_steps(steps, len(path)), strict=True):
        here = tuple(step - done for step in frames if done < step <= done + share)
        keep = [Frames(here)] if here else []
        traces.append(sample(energy, sampler, x, share, generator=generator, keep=keep, progress=progress))
        x, done = traces[-1].x, done + share
    return traces


def divide_steps(steps: int, rungs: int) -> list[int]:
    """Steps for each rung, as even as can be; the later rungs get what does not divide.

    >>> divide_steps(20, 3)
    [6, 7, 7]
    """
    return [steps // rungs + (i >= rungs - steps % rungs) for i in range(rungs)]


def noise_ladder(sampler: Sampler, sigmas: Sequence[float]) -> list[Sampler]:
    """Samplers whose step follows the noise level: h_i = h · (σ_i / σ_last)², the rule of annealed Langevin dynamics."""
    base = sampler.step_size  # type: ignore[attr-defined]
    return [
        dataclasses.replace(sampler, step_size=base * (s / sigmas[-1]) ** 2)  # type: ignore[type-var]
        for s in sigmas
    ]
