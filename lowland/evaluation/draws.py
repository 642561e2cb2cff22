"""Draws of a run: samples as its recipe makes them, and the bank of draws that restoration starts from."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lowland.evaluation.subjects import Subject
from lowland.samplers import run_chains
from lowland.tasks import even_labels, generate
from lowland.tasks.generate import Generated, flow


class Kept(NamedTuple):
    """Chains of training: points x (N, *event), labels (N,) or None."""

    x: Tensor
    labels: Tensor | None


def draw(
    s: Subject,
    count: int,
    generator: torch.Generator,
    *,
    labels: Tensor | None = None,
    frames: int = 0,
    progress: Callable[[int], object] | None = None,
) -> Generated:
    """Samples as the recipe's [generation] says, labels dealt evenly unless given."""
    how = s.recipe["generation"]
    if how.get("method") == "flow":
        return _flown(s, count, generator, frames, progress)
    labels = labels if labels is not None else even_labels(count, s.classes)
    start = s.energy.domain.draw(count, generator)
    if how["start"] == "chains":
        start, labels = _from_chains(s, count, generator, labels)
    made = generate(
        s.energy,
        s.sampler,
        start,
        how["steps"],
        generator=generator,
        labels=labels,
        temperatures=how["temperatures"],
        sigmas=s.sigmas,
        jump_sigma=how["jump"],
        frames=frames,
        progress=progress,
    )
    return made if s.energy.data_domain is None else _seen(s.energy, made)


def _flown(
    s: Subject, count: int, generator: torch.Generator, frames: int, progress: Callable[[int], object] | None
) -> Generated:
    """Samples by probability flow down the noise levels."""
    if not s.sigmas:
        raise ValueError(
            f"{s.run.path} holds {type(s.energy).__name__}, which knows no noise level; generation.method = 'flow' follows an "
            f"energy E(x, σ); use 'chains'"
        )
    half = s.recipe["generation"]["precision"] == "bfloat16"
    with torch.autocast(next(s.energy.parameters()).device.type, torch.bfloat16, enabled=half):
        return flow(s.energy, s.sigmas, count, generator=generator, frames=frames, progress=progress)


def _seen(energy: Any, made: Generated) -> Generated:
    """What was drawn, without the units that data do not have."""
    film = None if made.film is None else energy.visible(made.film.flatten(0, 1)).unflatten(0, made.film.shape[:2])
    return made._replace(x=energy.visible(made.x), film=film)


def kept_chains(s: Subject) -> Kept | None:
    """The older half of the chains that training left behind, of tempered ones the coldest replicas; None if there are none."""
    saved = s.run.load_checkpoint().tensors.get("chains")
    if saved is None:
        return None
    old = saved["age"] >= saved["age"].float().median()
    x = saved["x"] if saved["x"].dim() == 1 + len(s.shape) else saved["x"][:, 0]
    return Kept(x[old], saved["labels"][old] if "labels" in saved else None)


def _from_chains(s: Subject, count: int, generator: torch.Generator, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Starting points among the training chains, old ones only, of the classes asked for."""
    kept = kept_chains(s)
    if kept is None:
        raise ValueError(
            f"{s.run.path} kept no chains; generation.start = 'chains' needs an objective that does (PCD); use 'noise'"
        )
    if labels is None or kept.labels is None:
        return kept.x[torch.randint(len(kept.x), (count,), generator=generator)], None
    chosen = torch.empty_like(labels)
    for label in labels.unique():
        pool = (kept.labels == label).nonzero().flatten()
        wanted = labels == label
        chosen[wanted] = pool[torch.randint(len(pool), (int(wanted.sum()),), generator=generator)]
    return kept.x[chosen], labels


def prior_bank(s: Subject) -> Tensor | None:
    """Draws of the prior for restoration, made once and kept in the run: chains of training walked on with averaged weights.

    Every 50 steps their states are added until the recipe's [restoration] bank is full. None if the recipe asks for none.
    """
    count = s.recipe["restoration"].get("bank", 0)
    if not count:
        return None
    checkpoint = s.run.load_checkpoint()
    if (s.run.path / "bank.safetensors").exists():
        kept = s.run.read_tensors("bank.safetensors")
        if len(kept["x"]) == count and int(kept["step"]) == checkpoint.step:
            return kept["x"]
    saved = kept_chains(s)
    if saved is None:
        raise ValueError(f"{s.run.path} kept no chains; restoration.bank needs an objective that does (PCD); set it to 0")
    x, energy = saved.x, s.energy.given(saved.labels) if s.classes else s.energy
    walked: list[Tensor] = []
    generator = torch.Generator().manual_seed(int(s.recipe["seed"]) + 3_000_017)  # its own: made or read, the rest is the same
    while sum(map(len, walked)) < count:
        x = run_chains(energy, s.sampler, x, 50, generator=generator).x
        walked.append(x)
    bank = torch.cat(walked)[:count]
    s.run.write_tensors("bank.safetensors", {"x": bank, "step": torch.tensor(checkpoint.step)})
    return bank
