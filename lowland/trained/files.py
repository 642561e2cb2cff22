"""Pictures and numbers in files, as commands read and write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lowland import atomic
from lowland.atomic import write_aside
from lowland.data import DataError, load_image, save_grid

if TYPE_CHECKING:
    from lowland.trained.model import Model

SUFFIXES = (".npy", ".npz", ".png")


def read_points(model: Model, path: str | Path) -> Tensor:
    """Read the points of a file as the energy of a run takes them: (N, *event)."""
    return model.transform(load_image(path, model.shape, format=model.format))


def read_channels(model: Model, path: str | Path, channels: Sequence[int]) -> Tensor:
    """Read pictures with all channels, or with the given channels alone, beside which stand zeros.

    Returns (N, *event). Raises DataError for files of another shape.
    """
    try:
        return read_points(model, path)
    except DataError as error:
        try:
            part = load_image(path, (len(channels), *model.shape[1:]))
        except DataError:
            raise error from None
    whole = part.new_zeros(len(part), *model.shape)
    whole[:, list(channels)] = part
    return model.transform(whole)


def name_beside(image: str | Path, out: str | Path | None, ending: str) -> Path:
    """Return `out`, or IMAGE-ending.png beside the image if it is None."""
    return Path(out or Path(image).with_name(f"{Path(image).stem}-{ending}.png"))


def check_target(out: str | Path, shape: Sequence[int], read: Sequence[str | Path] = ()) -> Path:
    """Return the path of a file to write, its folder made.

    Raises ValueError for a suffix that does not fit events of a shape, a folder, one of the files
    that are read, and a file that cannot be written.
    """
    target = Path(out)
    if target.suffix not in SUFFIXES or (target.suffix == ".png" and len(shape) != 3):
        raise ValueError(
            f"{target.name} was to hold draws of shape {tuple(shape)}; images are written as .png, "
            ".npy or .npz and vectors as .npy or .npz; choose another name"
        )
    written = {target.resolve(), target.with_suffix(".npz").resolve()}
    if target.is_dir() or written & {Path(path).resolve() for path in read}:
        raise ValueError(
            f"{target} is a folder, or it or {target.with_suffix('.npz').name} beside it is the "
            "file that is read; results are written to new files; choose another name"
        )
    check_writable(target)
    return target


def check_writable(target: Path) -> None:
    """Make the folder of a file. Raises ValueError if the file could not be written there."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        atomic.check_writable(target)
    except OSError as error:
        raise ValueError(
            f"{target} could not be written ({error.strerror}); a folder that may be written to, "
            "and room in it, are needed; choose another with --out"
        ) from None


def write_strip(
    model: Model, target: Path, columns: Sequence[Tensor], arrays: Mapping[str, Tensor]
) -> Path:
    """Write versions of points (N, *event) as a picture, a row for each point and a column for each
    version; arrays beside it.
    """
    x = model.inverse_transform(torch.stack(list(columns), 1).flatten(0, 1))
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
    check_target(target, x.shape[1:])
    if target.suffix == ".png":
        save_grid(x, target, columns)
    if target.suffix == ".npy":
        with write_aside(target) as aside:
            np.save(aside, x.numpy())
    elif target.suffix == ".npz" or arrays:
        write_arrays(target.with_suffix(".npz"), {"x": x} | dict(arrays or {}))
    return target


def write_arrays(target: Path, arrays: Mapping[str, Tensor]) -> None:
    """Write named arrays as one .npz file."""
    values = {name: x.numpy() for name, x in arrays.items()}
    with write_aside(target) as aside, aside.open("wb") as file:
        np.savez(file, **values)  # type: ignore[arg-type]
