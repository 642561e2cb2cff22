"""sample: draws from a run into a file, a piece at a time, over any number of processes."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor
from tqdm.auto import tqdm

from lowland.config import read_recipe
from lowland.data import save_grid
from lowland.trained import Model, load
from lowland.trained.jobs import (
    PATIENCE,
    Job,
    fingerprint,
    piece_generator,
    write_npy,
    write_npz,
)
from lowland.training import cpu_threads
from lowland.training.distributed import team

PIECE = 256  # samples drawn together


def sample(
    run: str | Path,
    count: int,
    out: str | Path,
    *,
    label: int | None = None,
    seed: int = 0,
    changes: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Path:
    """Draw samples from a run into a file: .npy or .npz (numbers, with labels) or .png (a grid), by
    suffix.

    changes: values of the recipe's [generation] for this time, e.g. {"generation.num_levels": 30}; the
    run is left as it is. They are drawn in pieces of 256, each from a generator of its own, a
    function of seed and piece: the same seed gives the same file on any number of processes.
    Started again after a break, it draws only what is missing.
    """
    out = Path(out)
    if out.suffix not in (".npy", ".npz", ".png"):
        raise ValueError(
            f"{out.name} ends in {out.suffix!r}; samples are written as .npy, .npz or .png; choose "
            "one"
        )
    if count < 1:
        raise ValueError(
            f"count is {count}; at least one sample must be asked for; 64 makes a good grid"
        )
    s = _made_otherwise(load(run), changes or {})
    if out.suffix == ".png" and len(s.shape) != 3:
        raise ValueError(
            f"{s.recipe['name']} makes vectors, not images; a .png needs images; write .npy or .npz"
        )
    if label is not None and not 0 <= label < s.classes:
        raise ValueError(
            f"label {label} was asked for; the energy has {s.classes} classes, from 0; "
            + (f"choose 0 to {s.classes - 1}" if s.classes else "leave the label out")
        )
    with team(patience=PATIENCE) as members, cpu_threads(s.recipe["training"]["threads"]):
        plan = {
            "count": count,
            "seed": seed,
            "label": label,
            "how": s.recipe["generation"],
            "weights": fingerprint(s.energy),
        }
        job = Job(out, plan, -(-count // PIECE), members)
        _draw_pieces(s, job, count, label, seed, progress and members.chief)
        return job.finish(lambda path: _write_samples(path, out.suffix, count, job))


def _made_otherwise(s: Model, changes: Mapping[str, Any]) -> Model:
    """The subject with other values in its recipe's [generation]."""
    others = [key for key in changes if not key.startswith("generation.")]
    if others:
        raise ValueError(
            f"sample was told to change {', '.join(others)}; a trained run stays as it was "
            "trained, and only generation.* can be changed; leave out the rest"
        )
    return replace(s, recipe=read_recipe(s.recipe, changes).plain()) if changes else s


def _draw_pieces(
    s: Model, job: Job, count: int, label: int | None, seed: int, progress: bool
) -> None:
    """Draw this process's share of the pieces of `sample` that are missing."""
    missing, how = job.missing(), s.recipe["generation"]
    pieces = [torch.arange(number * PIECE, min(count, (number + 1) * PIECE)) for number in missing]
    flown = how.get("method") == "flow"
    total, unit = (
        (sum(map(len, pieces)), "image") if flown else (len(missing) * how["steps"], "step")
    )
    with tqdm(total=total, unit=unit, disable=not progress) as bar:
        for number, rows in zip(missing, pieces, strict=True):
            labels = (
                torch.full_like(rows, label)
                if label is not None
                else rows % s.classes
                if s.classes
                else None
            )
            made = s.sample(
                len(rows),
                generator=piece_generator(seed, number),
                labels=labels,
                progress=bar.update,
            )
            kept = {} if made.labels is None else {"labels": made.labels.contiguous()}
            job.keep(number, dump_tensors({"x": s.inverse_transform(made.x).contiguous(), **kept}))


def _write_samples(path: Path, suffix: str, count: int, job: Job) -> None:
    """The pieces of `sample` as one file, of which one piece at a time is held, but for
    pictures.
    """

    def parts(name: str) -> Iterator[Tensor]:
        return (load_tensors(data)[name] for data in job)

    labelled = "labels" in load_tensors(next(iter(job)))
    if suffix == ".png":
        save_grid(torch.cat(list(parts("x"))), path)
    elif suffix == ".npy":
        with path.open("wb") as file:
            write_npy(file, count, parts("x"))
    else:
        write_npz(
            path, count, {name: partial(parts, name) for name in ("x", "labels")[: 1 + labelled]}
        )
