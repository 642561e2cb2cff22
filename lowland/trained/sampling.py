"""Samples of a trained run in a file, drawn a piece at a time over any number of processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor
from tqdm.auto import tqdm

from lowland.data import save_grid
from lowland.seeds import make_generator
from lowland.trained.editing import check_label
from lowland.trained.files import SUFFIXES
from lowland.trained.jobs import PATIENCE, Job, fingerprint, write_npy, write_npz
from lowland.training.distributed import team

if TYPE_CHECKING:
    from lowland.trained.model import Model

PIECE = 256  # samples drawn together


def check_request(model: Model, count: int, out: Path, label: int | None) -> None:
    """Raise ValueError for a file that cannot hold samples of a run, a count below 1, and a label
    that is none of its classes.
    """
    if out.suffix not in SUFFIXES:
        raise ValueError(
            f"{out.name} ends in {out.suffix!r}; samples are written as .npy, .npz or .png; choose "
            "one"
        )
    if count < 1:
        raise ValueError(
            f"count is {count}; at least one sample must be asked for; 64 makes a good grid"
        )
    if out.suffix == ".png" and len(model.shape) != 3:
        raise ValueError(
            f"{model.name} makes vectors, not images; a .png needs images; write .npy or .npz"
        )
    check_label(model, label)


def sample_to_file(
    model: Model,
    count: int,
    out: Path,
    *,
    label: int | None = None,
    seed: int = 0,
    quiet: bool = False,
) -> Path:
    """Draw `count` samples into a .npy, .npz or .png file, in pieces of 256.

    Each piece has a generator of its own, a function of seed and piece: the same seed gives the
    same file on any number of processes. Started again after a break, it draws only what is
    missing. quiet: show no progress bar.
    """
    check_request(model, count, out, label)
    with team(patience=PATIENCE) as members:
        plan = {
            "count": count,
            "seed": seed,
            "label": label,
            "generation": model.recipe["generation"],
            "weights": fingerprint(model.energy),
        }
        job = Job(out, plan, -(-count // PIECE), members)
        missing, how = job.missing(), model.recipe["generation"]
        pieces = [torch.arange(k * PIECE, min(count, (k + 1) * PIECE)) for k in missing]
        by_flow = how.get("method") == "flow"
        total = sum(map(len, pieces)) if by_flow else len(missing) * how["steps"]
        unit, hidden = "image" if by_flow else "step", quiet or not members.is_main
        with tqdm(total=total, unit=unit, disable=hidden) as bar:
            for number, rows in zip(missing, pieces, strict=True):
                job.keep(number, _draw_piece(model, rows, label, seed, number, bar.update))
        return job.finish(lambda path: _write_samples(path, out.suffix, count, job))


def _draw_piece(
    model: Model,
    rows: Tensor,
    label: int | None,
    seed: int,
    number: int,
    progress: Callable[[int], object],
) -> bytes:
    """Draw the samples of one piece, rows of the whole, as a safetensors file."""
    labels = None
    if model.classes:
        labels = rows % model.classes
    if label is not None:
        labels = torch.full_like(rows, label)
    made = model.sample(
        len(rows), generator=make_generator(seed, number), labels=labels, progress=progress
    )
    kept = {"x": model.inverse_transform(made.x).contiguous()}
    if made.labels is not None:
        kept["labels"] = made.labels.contiguous()
    return dump_tensors(kept)


def _write_samples(path: Path, suffix: str, count: int, job: Job) -> None:
    """Write the pieces of a job as one file; one piece at a time is in memory, but for pictures."""

    def parts(name: str) -> Iterator[Tensor]:
        return (load_tensors(data)[name] for data in job)

    names = list(load_tensors(next(iter(job))))
    if suffix == ".png":
        save_grid(torch.cat(list(parts("x"))), path)
    elif suffix == ".npy":
        with path.open("wb") as file:
            write_npy(file, count, parts("x"))
    else:
        ordered = [name for name in ("x", "labels") if name in names]
        write_npz(path, count, {name: partial(parts, name) for name in ordered})
