"""Sampling from a trained energy: along a path, by probability flow, or as a recipe says."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lowland.devices import check_generator, find_device
from lowland.energy import (
    Energy,
    LabelCondition,
    count_classes,
    draw_start,
    given_channels,
    labels_of,
    latent_of,
    noise_of,
)
from lowland.energy.sizes import parameter_dtype
from lowland.registry import build
from lowland.samplers import (
    Sampler,
    anneal,
    denoise,
    diffusion_recovery_sample,
    karras_sigmas,
    probability_flow,
    scale_step_sizes,
)
from lowland.samplers.precision import PrecisionChoice, autocast, resolve_precision
from lowland.samplers.verdict import warn_of_lost
from lowland.scalars import MAX_STEPS, read_integer, read_number
from lowland.tasks.settings import read_levels

Progress = Callable[[int], object] | None
BATCH = 256  # points that go down the levels together
MAX_ROUNDS = 50  # of rejection sampling, until every label has its sample


class Samples(NamedTuple):
    """Samples x (N, *event), the labels (N,) they were asked for, and states of the chains.

    trajectory (frames, N, *event): states from the start to the result, after trajectory_steps
    steps each; None and empty unless frames were asked for.
    """

    x: Tensor
    labels: Tensor | None
    trajectory: Tensor | None
    trajectory_steps: list[int]


def bind_smallest_sigma(energy: Energy, sigmas: Sequence[float] | None) -> Energy:
    """Return an energy of noise levels at the smallest of them; other energies as they are."""
    return energy.given(min(sigmas)) if sigmas and noise_of(energy) else energy


def check_joint(energy: Energy) -> None:
    """Raise ValueError if a term models part of a point given the rest, E(y | x, σ)."""
    for part in energy.modules():
        channels = given_channels(part) if isinstance(part, Energy) else ()
        if channels:
            raise ValueError(
                f"{type(part).__name__} was trained to answer the question in entries "
                f"{list(channels)}; what moves whole points needs an energy of whole points; use "
                "tasks.conditional_sample, or generation.method = 'flow'"
            )


def balanced_labels(count: int, classes: int, device: torch.device | str = "cpu") -> Tensor | None:
    """Return labels 0 1 2 ... 0 1 2 ..., (count,), or None without classes."""
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
    progress: Progress = None,
) -> Samples:
    """Run chains from `start` (N, *event) along a path that ends at the energy itself.

    labels (N,): bound to the chains; temperatures: the path energy / T, among which the steps are
    divided evenly; sigmas: noise levels of an energy E(x, σ), run as annealed Langevin dynamics
    instead; denoise_sigma: noise level of the data trained on, removed at the end by `denoise`, and
    what left a box by that is projected onto it, where the expected clean point must lie; frames:
    number of states to keep in the trajectory, evenly spaced from the start to the last step; the
    result follows them as one more.

    Raises ValueError for an empty path, a single frame, an energy of noise without sigmas, or one
    that models part of a point given the rest.

    >>> import torch, lowland
    >>> from lowland.targets import Gaussian
    >>> g = torch.Generator().manual_seed(0)
    >>> made = generate(Gaussian(), lowland.MALA(0.5), torch.zeros(4, 2), 20, generator=g, frames=3)
    >>> made.trajectory.shape, made.trajectory_steps
    (torch.Size([4, 4, 2]), [0, 10, 20, 20])
    """
    temperatures = read_levels("temperatures", temperatures, least_count=1)
    frames, steps = _read_frames(frames), read_integer("steps", steps, least=0, most=MAX_STEPS)
    sigmas = None if sigmas is None else read_levels("sigmas", sigmas)
    check_joint(energy)
    if noise_of(energy):
        if not sigmas:
            raise ValueError(
                "the energy is one of noise and no levels came; annealing needs them; pass "
                "sigmas=(1.0, ..., 0.1)"
            )
        path: list[Energy] = [energy.given(sigma) for sigma in sigmas]
        samplers: Sampler | list[Sampler] = scale_step_sizes(sampler, sigmas)
    else:
        bound = energy if labels is None else energy.given(labels.to(start.device))
        path = [bound if t == 1.0 else bound / t for t in temperatures]
        samplers = sampler
    stops = _space_frames(frames, steps)
    traces = anneal(
        path, samplers, start, steps, generator=generator, frames=stops, progress=progress
    )
    x = path[-1].domain.project(denoise(path[-1], traces[-1].x, denoise_sigma))
    if not stops:
        return Samples(x, labels, None, [])
    states = [trace.records["frames"] for trace in traces if trace.records]
    trajectory = torch.cat([start.unsqueeze(0), *states, x.unsqueeze(0)])
    return Samples(x, labels, trajectory, [*stops, steps])


def _read_frames(frames: int) -> int:
    """Return a number of frames, which is 0 or at least 2."""
    frames = read_integer("frames", frames, least=0)
    if frames == 1:
        raise ValueError("frames is 1; a trajectory has 2 frames or more, or none at 0; pass 2")
    return frames


def _space_frames(frames: int, last: int) -> list[int]:
    """Return the steps of `frames` states spaced evenly from 0 to `last`."""
    return sorted({round(i * last / (frames - 1)) for i in range(frames)}) if frames > 1 else []


def generate_by_flow(
    energy: Energy,
    sigmas: Sequence[float],
    count: int,
    *,
    generator: torch.Generator,
    temperature: float = 1.0,
    frames: int = 0,
    batch: int = BATCH,
    progress: Progress = None,
) -> Samples:
    """Draw `count` samples from an energy of noise by probability flow (Heun) along falling sigmas.

    Points start at N(0, σ²) of the first level, or where the energy says (`NoiseCondition.start`),
    move in parts of `batch`, and are denoised from the last level. temperature: the path is that of
    E / T; below 1 samples are more typical and less varied. frames: as in `generate`, evenly spaced
    over the levels; progress: called with the number of points that are done. Inside
    `torch.autocast` the network computes as that says. Cost: 2 len(sigmas) − 1 gradients per
    sample. Points whose score is not finite stay where they were.

    Raises ValueError for an energy without noise levels, and as `probability_flow` does. Source:
    Song et al. (2021), https://arxiv.org/abs/2011.13456; Karras et al. (2022),
    https://arxiv.org/abs/2206.00364

    >>> import torch, lowland
    >>> g, sigmas = torch.Generator().manual_seed(0), lowland.samplers.karras_sigmas(5.0, 0.05, 6)
    >>> energy = lowland.nets.NoiseMLP(lowland.real(2), hidden=(8,))
    >>> generate_by_flow(energy, sigmas, 3, generator=g, frames=3).trajectory.shape
    torch.Size([3, 3, 2])
    """
    count, batch = read_integer("count", count, least=1), read_integer("batch", batch, least=1)
    frames, sigmas = _read_frames(frames), read_levels("sigmas", sigmas)
    temperature = read_number("temperature", temperature, above=0)
    if not noise_of(energy) or len(sigmas) < 2:
        raise ValueError(
            f"flow was given {type(energy).__name__} and {len(sigmas)} levels; it needs an energy "
            "E(x, σ) and 2 levels or more; use generate for other energies"
        )
    path: list[Energy] = [energy.given(sigma) for sigma in sigmas]
    if temperature != 1.0:
        path = [bound / temperature for bound in path]
    check_generator(generator, find_device(energy) or generator.device)
    last = len(sigmas) - 1
    stops = _space_frames(frames, last)[1:] or [last]
    dtype = parameter_dtype(energy)
    parts: list[Tensor] = []
    for size in [batch] * (count // batch) + [count % batch] * (count % batch > 0):
        x = draw_start(energy, size, sigmas[0], generator, dtype=dtype)
        states, before, lost = [x], 0, torch.zeros(size, dtype=torch.long, device=x.device)
        for stop in stops:
            piece = slice(before, stop + 1)
            end = probability_flow(path[piece], sigmas[piece], x, denoise=stop == last)
            x, lost = end.x, lost + end.diverged
            states, before = [*states, x], stop
        warn_of_lost(lost)
        if progress is not None:
            progress(size)
        parts.append(torch.stack(states))
    trajectory = torch.cat(parts, 1)
    if not frames:
        return Samples(trajectory[-1], None, None, [])
    return Samples(trajectory[-1], None, trajectory, [0, *stops])


# --------------------------------------------------------------------------------------- of recipes


def noise_levels(energy: Energy, recipe: Mapping[str, Any]) -> list[float] | None:
    """Return the falling noise levels along which a recipe samples E(x, σ), else None.

    They are those of the objective, if it names some, else those of [generation].
    """
    if not noise_of(energy):
        return None
    how = recipe["generation"]
    sigmas = recipe["objective"].get("sigmas")
    if sigmas:
        return sorted(sigmas, reverse=True)
    return list(karras_sigmas(how["sigma_max"], how["sigma_min"], how["num_levels"]))


def choose_precision(
    energy: Energy, recipe: Mapping[str, Any], count: int, device: torch.device | str = "cpu"
) -> PrecisionChoice:
    """Choose the precision in which a recipe makes `count` samples: by flow that of its
    [generation], "auto" unless it names one; chains are float32.
    """
    how, sigmas = recipe["generation"], noise_levels(energy, recipe)
    if how.get("method") != "flow" or not sigmas:
        return PrecisionChoice("float32", "chains")
    shape, dtype = (1, *energy.domain.shape), parameter_dtype(energy)
    x = torch.zeros(shape, dtype=dtype, device=device)
    bound = energy.given(sigmas[0])
    return resolve_precision(how.get("precision", "auto"), bound, x, rows=min(count, BATCH))


def generate_from_recipe(
    energy: Energy,
    recipe: Mapping[str, Any],
    count: int,
    *,
    generator: torch.Generator,
    labels: Tensor | None = None,
    start: Tensor | None = None,
    frames: int = 0,
    progress: Progress = None,
) -> Samples:
    """Draw `count` samples as the recipe's [generation] says: chains, probability flow or recovery.

    recipe: plain values; labels (count,): balanced unless given; start (count, *event): of the
    chains, drawn from the domain unless given; frames, progress: as in `generate`. Units that data
    do not have are left out. Chains run under their labels, or, if the energy says so
    (`LabelCondition.ancestral`), in p(x), and those are kept of which a draw of p(y | x) is the
    label asked for.

    Raises ValueError for a method that needs noise levels and an energy without, and for a label
    that is never drawn.

    >>> import lowland
    >>> recipe = lowland.read_recipe("moons", {"generation.steps": 5}).plain()
    >>> energy, g = lowland.nets.MLP(lowland.real(2)), torch.Generator().manual_seed(0)
    >>> generate_from_recipe(energy, recipe, 3, generator=g).x.shape
    torch.Size([3, 2])
    """
    how, sigmas = recipe["generation"], noise_levels(energy, recipe)
    check_generator(generator, find_device(energy) or generator.device)
    method = how.get("method", "chains")
    if method != "chains" and not sigmas:
        raise ValueError(
            f"generation.method is {method!r} and {type(energy).__name__} knows no noise level; "
            "flow and recovery go down an energy E(x, σ); use 'chains'"
        )
    if method == "flow":
        choice = choose_precision(energy, recipe, count, generator.device)
        with autocast(choice.precision, generator.device):
            return generate_by_flow(
                energy,
                sigmas or (),
                count,
                generator=generator,
                temperature=how["temperatures"][-1],
                frames=frames,
                progress=progress,
            )
    if how.get("sampler") is None:
        raise ValueError(
            "the recipe names no sampler of chains; a [generation.sampler] is needed; add one, or "
            "draw with lowland.tasks.generate and a sampler"
        )
    sampler = build("sampler", how["sampler"])
    if method == "recovery":
        return _sample_by_recovery(energy, sampler, sigmas or [], how, count, generator, progress)
    if labels is None:
        labels = balanced_labels(count, count_classes(energy), generator.device)
    run = partial(
        generate,
        energy,
        sampler,
        steps=how["steps"],
        generator=generator,
        temperatures=how["temperatures"],
        sigmas=sigmas,
        denoise_sigma=how["denoise_sigma"],
        frames=frames,
    )
    condition = labels_of(energy)
    if labels is not None and start is None and condition and condition.ancestral:
        return _sample_by_rejection(energy, condition, run, labels, generator, progress)
    if start is None:
        start = energy.domain.draw(count, generator, dtype=parameter_dtype(energy))
    return _drop_latent_units(energy, run(start=start, labels=labels, progress=progress))


def _sample_by_rejection(
    energy: Energy,
    condition: LabelCondition,
    run: Callable[..., Samples],
    labels: Tensor,
    generator: torch.Generator,
    progress: Progress,
) -> Samples:
    """Draw from p(x | y) for every label: x from p(x), y from p(y | x), kept if y is wanted."""
    wanted = torch.ones_like(labels, dtype=torch.bool)
    slots: list[Tensor] = []
    points: list[Tensor] = []
    trajectories: list[Tensor] = []
    for i in range(MAX_ROUNDS):
        size = max(2 * int(wanted.sum()), len(labels) // 4, 16)  # rare labels take many
        start = energy.domain.draw(size, generator, dtype=parameter_dtype(energy))
        samples = run(start=start, progress=None if i else progress)
        with torch.no_grad():
            p = torch.softmax(-condition.class_energies(samples.x).float(), 1)
        drawn = torch.multinomial(p, 1, generator=generator).squeeze(1)
        for label in labels[wanted].unique():
            here = (drawn == label).nonzero().flatten()
            there = (wanted & (labels == label)).nonzero().flatten()
            here, there = here[: len(there)], there[: len(here)]
            slots.append(there)
            points.append(samples.x[here])
            if samples.trajectory is not None:
                trajectories.append(samples.trajectory[:, here])
            wanted[there] = False
        if not wanted.any():
            order = torch.cat(slots).argsort()
            trajectory = torch.cat(trajectories, 1)[:, order] if trajectories else None
            return Samples(torch.cat(points)[order], labels, trajectory, samples.trajectory_steps)
    raise ValueError(
        f"no more draws of class {labels[wanted].unique().tolist()} came in {MAX_ROUNDS} rounds; "
        "the energy holds them for very unlikely; ask for other classes, or train it longer"
    )


def _sample_by_recovery(
    energy: Energy,
    sampler: Sampler,
    sigmas: list[float],
    how: Mapping[str, Any],
    count: int,
    generator: torch.Generator,
    progress: Progress,
) -> Samples:
    """Draw at each noise level given the sample at the level above, and denoise the last."""
    shape, device = (count, *energy.domain.shape), generator.device
    dtype = parameter_dtype(energy)
    start = sigmas[0] * torch.randn(shape, generator=generator, device=device, dtype=dtype)
    made = diffusion_recovery_sample(
        energy, sigmas, start, sampler, how["steps"], generator=generator, progress=progress
    )
    warn_of_lost(made.diverged)
    x = denoise(energy.given(sigmas[-1]), made.x, how["denoise_sigma"])
    x = energy.domain.project(x)
    return Samples(x, None, torch.stack([start, made.x, x]), [0, how["steps"], how["steps"]])


def _drop_latent_units(energy: Energy, samples: Samples) -> Samples:
    """Return samples without the units that data do not have."""
    latent = latent_of(energy)
    if latent.visible is None:
        return samples
    trajectory = samples.trajectory
    if trajectory is not None:
        flat = latent.visible(trajectory.flatten(0, 1))
        trajectory = flat.unflatten(0, trajectory.shape[:2])
    return samples._replace(x=latent.visible(samples.x), trajectory=trajectory)
