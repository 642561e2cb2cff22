"""Samples of a trained run in a file, drawn a piece at a time over any number of processes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor
from tqdm.auto import tqdm

from lowland.data import save_grid
from lowland.data.grids import grid_size
from lowland.samplers.verdict import NothingMoved
from lowland.scalars import read_integer
from lowland.seeds import make_generator
from lowland.tasks.generate import choose_precision
from lowland.trained.files import SUFFIXES, check_drawn
from lowland.trained.jobs import PATIENCE, Job, fingerprint, write_npy, write_npz
from lowland.trained.labels import find_label
from lowland.trained.sizes import check_disk
from lowland.trained.targets import check_new
from lowland.training.distributed import team

if TYPE_CHECKING:
    from lowland.trained.model import Model

PIECE = 256  # samples drawn together


def check_request(model: Model, count: int, out: Path) -> None:
    """Raise ValueError for a file that cannot hold samples of a run, a count below 1, or one that
    the disk cannot hold.
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
    if out.suffix == ".png":
        grid_size(count, model.shape[1:])
    numbers = count * math.prod(model.shape)
    check_disk(f"a file of {count} samples of {math.prod(model.shape)} numbers", numbers, out)


def sample_to_file(
    model: Model,
    count: int,
    out: Path,
    *,
    label: int | str | None = None,
    seed: int = 0,
    force: bool = False,
    quiet: bool = False,
) -> Path:
    """Draw `count` samples into a .npy, .npz or .png file, in pieces of 256.

    label: a class by its number or its name; force: whether an older file may be replaced.

    Each piece has a generator of its own, a function of seed and piece: the same seed gives the
    same file on any number of processes, on devices of one kind. Started again after a break, it
    draws only what is missing. quiet: show no progress bar.
    """
    count, seed = read_integer("count", count), read_integer("seed", seed)
    check_new([out], [model.run.path], force=force)
    check_request(model, count, out)
    label = find_label(model, label)
    with team(patience=PATIENCE) as members:
        how = model.recipe["generation"]
        rows = min(count, PIECE)
        choice = choose_precision(model.energy, model.recipe, rows, model.device)
        choice = members.broadcast(choice)
        how = {**how, "precision": choice.precision}  # one for all pieces, also of a later process
        model = replace(model, recipe={**model.recipe, "generation": how})
        plan = {
            "count": count,
            "seed": seed,
            "label": label,
            "generation": how,
            "weights": fingerprint(model.energy),
            "device": model.device.type,
        }
        job = Job(out, plan, -(-count // PIECE), members)
        with job.open() as missing:
            _make_pieces(model, job, missing, count, label, seed, quiet or not members.is_main)
            return job.finish(lambda path: _write_samples(path, out.suffix, count, job))


def _make_pieces(
    model: Model,
    job: Job,
    missing: list[int],
    count: int,
    label: int | None,
    seed: int,
    hidden: bool,
) -> None:
    """Draw the pieces that are missing, with a progress bar unless hidden."""
    how = model.recipe["generation"]
    pieces = [torch.arange(k * PIECE, min(count, (k + 1) * PIECE)) for k in missing]
    by_flow = how.get("method") == "flow"
    total = sum(map(len, pieces)) if by_flow else len(missing) * how["steps"]
    unit, place = "image" if by_flow else "step", str(model.device)
    with tqdm(total=total, desc=place, unit=unit, disable=hidden) as bar:
        for number, rows in zip(missing, pieces, strict=True):
            job.keep(number, _draw_piece(model, rows, label, seed, number, bar.update))


@contextmanager
def refuse_standstill() -> Iterator[None]:
    """Raise ValueError where chains did not move at all: what they give is their starting noise."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", NothingMoved)
        try:
            yield
        except NothingMoved as found:
            what = str(found).partition(";")[0]
            raise ValueError(
                f"{what}; samples must have moved, so nothing is written; shorten the step "
                "(--set generation.sampler.step_size=...), or train the run longer"
            ) from None


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
    generator = make_generator(seed, number, device=model.device)
    with refuse_standstill():
        made = model.sample(len(rows), generator=generator, labels=labels, progress=progress)
    kept = {"x": model.inverse_transform(made.x.cpu()).contiguous()}
    check_drawn(kept["x"])
    if made.labels is not None:
        kept["labels"] = made.labels.cpu().contiguous()
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
