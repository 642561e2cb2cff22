"""Pictures and numbers in files, as commands read and write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lowland.atomic import write_aside
from lowland.data import DataError, load_image, save_grid
from lowland.trained.targets import check_new, describe_refusal, make_folder

if TYPE_CHECKING:
    from lowland.trained.model import Model

SUFFIXES = (".npy", ".npz", ".png")


def read_points(model: Model, path: str | Path, *, resize: bool = False) -> Tensor:
    """Read the points of a file as the energy of a run takes them: (N, *event).

    resize: whether pictures of another size are resized, or refused.
    """
    return model.transform(load_image(path, model.shape, resize=resize, format=model.format))


def read_channels(
    model: Model, path: str | Path, channels: Sequence[int], *, resize: bool = False
) -> Tensor:
    """Read pictures with all channels, or with the given channels alone, beside which stand zeros.

    Returns (N, *event). Raises DataError for files of another shape.
    """
    try:
        return read_points(model, path, resize=resize)
    except DataError as error:
        try:
            part = load_image(path, (len(channels), *model.shape[1:]), resize=resize)
        except DataError:
            raise error from None
    whole = part.new_zeros(len(part), *model.shape)
    whole[:, list(channels)] = part
    return model.transform(whole)


def check_target(
    out: str | Path,
    shape: Sequence[int],
    read: Sequence[str | Path] = (),
    *,
    force: bool = False,
    beside: bool = False,
) -> Path:
    """Return the path of a file that is to be written.

    read: files and folders that the command reads; force: whether an older file may be replaced;
    beside: whether numbers are written into an .npz file beside a picture. Raises ValueError for a
    suffix that does not fit events of a shape, and as `check_new` does.
    """
    target = Path(out)
    if target.suffix not in SUFFIXES or (target.suffix == ".png" and len(shape) != 3):
        raise ValueError(
            f"{target.name} was to hold draws of shape {tuple(shape)}; images are written as .png, "
            ".npy or .npz and vectors as .npy or .npz; choose another name"
        )
    twin = [target.with_suffix(".npz")] if beside and target.suffix == ".png" else []
    check_new([target, *twin], read, force=force)
    return target


def check_drawn(x: Tensor) -> None:
    """Raise ValueError if some points (N, *event) that are to be written are not finite."""
    bad = int((~x.isfinite().flatten(1).all(1)).sum())
    if bad:
        raise ValueError(
            f"{bad} of {len(x)} points are not finite, so nothing is written; what is drawn must "
            "be numbers; shorten the step, lower generation.denoise_sigma or the like"
        )


def write_strip(
    model: Model, target: Path, columns: Sequence[Tensor], arrays: Mapping[str, Tensor]
) -> Path:
    """Write versions of points (N, *event) as a picture, a row for each point and a column for each
    version; arrays beside it.
    """
    x = model.inverse_transform(torch.stack([x.cpu() for x in columns], 1).flatten(0, 1))
    return write_points(target, x, len(columns), arrays)


def write_points(
    target: Path,
    x: Tensor,
    columns: int | None = None,
    arrays: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write points (N, *event) as numbers or as a picture grid, by the suffix of target; arrays go
    beside a picture into an .npz file.
    """
    x = x.cpu()
    check_drawn(x)
    make_folder(target)
    try:
        if target.suffix == ".png":
            save_grid(x, target, columns)
        if target.suffix == ".npy":
            with write_aside(target) as aside, aside.open("wb") as file:
                np.save(file, x.numpy())
        elif target.suffix == ".npz" or arrays:
            write_arrays(target.with_suffix(".npz"), {"x": x} | dict(arrays or {}))
    except OSError as error:
        raise describe_refusal(target, error) from None
    return target


def write_arrays(target: Path, arrays: Mapping[str, Tensor]) -> None:
    """Write named arrays as one .npz file."""
    values = {name: x.numpy(force=True) for name, x in arrays.items()}
    with write_aside(target) as aside, aside.open("wb") as file:
        np.savez(file, **values)  # type: ignore[arg-type]
