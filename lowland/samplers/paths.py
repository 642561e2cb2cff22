"""A path is a list of energies; going along it is a short caller of the loop."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lowland.energy import Energy
from lowland.samplers.kernel import Sampler
from lowland.samplers.loop import Trace, sample


def anneal(
    path: Sequence[Energy],
    samplers: Sampler | Sequence[Sampler],
    x: Tensor,
    steps: int,
    *,
    generator: torch.Generator,
    **kwargs: Any,
) -> list[Trace]:
    """Run chains through the energies of a path one after the other, `steps` on each. Returns one trace per energy.

    samplers: one for all or one per energy. With path = [energy / T for T in temperatures] this is simulated annealing;
    with path = [energy.given(σ) for σ in sigmas] annealed Langevin dynamics.
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
    traces = []
    for energy, sampler in zip(path, rungs, strict=True):
        traces.append(sample(energy, sampler, x, steps, generator=generator, **kwargs))
        x = traces[-1].x
    return traces


def noise_ladder(sampler: Sampler, sigmas: Sequence[float]) -> list[Sampler]:
    """Samplers whose step follows the noise level: h_i = h · (σ_i / σ_last)², the rule of annealed Langevin dynamics."""
    base = sampler.step_size  # type: ignore[attr-defined]
    return [
        dataclasses.replace(sampler, step_size=base * (s / sigmas[-1]) ** 2)  # type: ignore[type-var]
        for s in sigmas
    ]
