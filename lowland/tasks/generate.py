"""Making samples from a trained energy: a start, a path of energies, a sampler, steps."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lowland.energy import Energy, draw_start, given_channels, noise_of
from lowland.samplers import Sampler, anneal, denoise, probability_flow, scale_step_sizes


class Samples(NamedTuple):
    """x (N, *event); labels (N,) that were asked for, or None; trajectory (frames, N, *event) and its
    steps, or None.
    """

    x: Tensor
    labels: Tensor | None
    trajectory: Tensor | None
    trajectory_steps: list[int]


def bind_smallest_sigma(energy: Energy, sigmas: Sequence[float] | None) -> Energy:
    """A noise-conditional energy at its smallest level, the law closest to the data; other energies
    as they are.
    """
    return energy.given(min(sigmas)) if noise_of(energy) and sigmas else energy


def check_whole(energy: Energy) -> None:
    """Refuse an energy of answers, E(y | x, σ), and expressions of one, where whole points are
    moved.
    """
    for part in energy.modules():
        channels = given_channels(part) if isinstance(part, Energy) else ()
        if channels:
            raise ValueError(
                f"{type(part).__name__} was trained to answer the question in entries "
                f"{list(channels)}; what moves whole points needs an energy of "
                "whole points; use tasks.conditional_sample, or generation.method = 'flow'"
            )


def balanced_labels(count: int, classes: int, device: torch.device | str = "cpu") -> Tensor | None:
    """Labels dealt evenly, 0 1 2 ... 0 1 2 ..., or None without classes."""
    return torch.arange(count, device=device) % classes if classes else None


def generate(
    energy: Energy,
    sampler: Sampler,
    start: Tensor,
    steps: int,
    *,
    generator: torch.Generator,
    labels: Tensor | None = None,
    temperatures: Sequence[float] = (1.0,),
    sigmas: Sequence[float] | None = None,
    denoise_sigma: float = 0.0,
    frames: int = 0,
    progress: Callable[[int], object] | None = None,
) -> Samples:
    """Run chains from `start` (N, *event) along a path that ends at the energy itself.

    labels: bound to the chains; temperatures: the path energy / T, the steps divided evenly among
    them; sigmas: noise levels of an energy of noise, run as annealed Langevin dynamics instead;
    denoise_sigma: noise level of a last `denoise`; frames: how many states of the chains to keep, evenly
    spaced from the start to the last step; the trajectory ends with one more, the denoised result.

    Raises ValueError for an empty path, a single frame, an energy of noise without sigmas, or one
    of answers to a question.

    >>> import torch, lowland
    >>> from lowland.targets import Gaussian
    >>> g = torch.Generator().manual_seed(0)
    >>> made = generate(Gaussian(), lowland.MALA(0.5), torch.zeros(4, 2), 20, generator=g, frames=3)
    >>> made.trajectory.shape, made.trajectory_steps
    (torch.Size([4, 4, 2]), [0, 10, 20, 20])
    """
    if not temperatures or (frames and frames < 2):
        raise ValueError(
            f"temperatures are {temperatures} and frames {frames}; at least one T and 0 or 2 "
            "frames; correct them"
        )
    check_whole(energy)
    if noise_of(energy):
        if not sigmas:
            raise ValueError(
                "the energy is one of noise and no levels came; annealing needs them; pass "
                "sigmas=(1.0, ..., 0.1)"
            )
        path: list[Energy] = [energy.given(sigma) for sigma in sigmas]
        samplers: Sampler | list[Sampler] = scale_step_sizes(sampler, sigmas)
    else:
        bound = energy if labels is None else energy.given(labels)
        path = [bound if t == 1.0 else bound / t for t in temperatures]
        samplers = sampler
    shown = sorted({round(i * steps / (frames - 1)) for i in range(frames)}) if frames > 1 else []
    traces = anneal(
        path, samplers, start, steps, generator=generator, frames=shown, progress=progress
    )
    x = denoise(path[-1], traces[-1].x, denoise_sigma)
    if not shown:
        return Samples(x, labels, None, [])
    trajectory = torch.cat(
        [
            start.unsqueeze(0),
            *(trace.records["frames"] for trace in traces if trace.records),
            x.unsqueeze(0),
        ]
    )
    return Samples(x, labels, trajectory, [*shown, steps])


def generate_by_flow(
    energy: Energy,
    sigmas: Sequence[float],
    count: int,
    *,
    generator: torch.Generator,
    temperature: float = 1.0,
    frames: int = 0,
    batch: int = 256,
    progress: Callable[[int], object] | None = None,
) -> Samples:
    """Draw `count` samples from an energy of noise by probability flow (Heun's steps) along falling
    sigmas, and denoise the last.

    Points begin at N(0, σ²) of the first level, or where the energy itself says (`energy.condition.start`).
    They move in parts of `batch`, which stay in cache. temperature: the path is that of E / T;
    below 1 samples are more typical and less varied, and of no law that training aimed at. frames:
    as in `generate`, evenly spaced over the levels; progress: hears how many points have arrived.
    Inside `torch.autocast` the network computes as that says. Cost: 2 len(sigmas) − 1 gradients per
    sample. Points whose score is not finite stay where they were.

    Raises ValueError for an energy that knows no noise, and as `probability_flow` does. Source:
    Song et al. (2021), https://arxiv.org/abs/2011.13456; Karras et al. (2022),
    https://arxiv.org/abs/2206.00364

    >>> import torch, lowland
    >>> g, sigmas = torch.Generator().manual_seed(0), lowland.samplers.karras_sigmas(5.0, 0.05, 6)
    >>> energy = lowland.nets.NoiseMLP(lowland.real(2), hidden=(8,))
    >>> generate_by_flow(energy, sigmas, 3, generator=g, frames=3).trajectory.shape
    torch.Size([3, 3, 2])
    """
    if not noise_of(energy) or frames == 1 or batch < 1 or len(sigmas) < 2:
        raise ValueError(
            f"flow was given {type(energy).__name__}, {len(sigmas)} levels, {frames} frames and "
            f"batch {batch}; it needs an energy E(x, σ), 2 levels or more, 0 or 2 frames or more "
            "and a batch; use generate for other energies"
        )
    path = [
        energy.given(sigma) if temperature == 1.0 else energy.given(sigma) / temperature
        for sigma in sigmas
    ]
    last = len(sigmas) - 1
    dtype = next((p.dtype for p in energy.parameters()), torch.get_default_dtype())
    stops = sorted(
        {round(i * last / max(frames - 1, 1)) for i in range(1, max(frames - 1, 1))} | {last}
    )
    parts: list[Tensor] = []
    films: list[Tensor] = []
    for size in [batch] * (count // batch) + [count % batch] * (count % batch > 0):
        x = draw_start(energy, size, sigmas[0], generator, dtype=dtype)
        trajectory, before = [x], 0
        for stop in stops:
            piece = slice(before, stop + 1)
            x = probability_flow(path[piece], sigmas[piece], x, denoise=stop == last).x
            trajectory, before = [*trajectory, x], stop
        if progress is not None:
            progress(size)
        parts, films = [*parts, x], [*films, torch.stack(trajectory)]
    return Samples(
        torch.cat(parts),
        None,
        torch.cat(films, 1) if frames else None,
        [0, *stops] if frames else [],
    )
