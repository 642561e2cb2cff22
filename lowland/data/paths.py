"""Data sets from paths: a folder of images, an array or a table, 70 % / 15 % / 15 % by a seeded
permutation.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from lowland.data.dataset import DataError, Dataset, Split, divide, refuse_nonfinite
from lowland.data.images import load_folder
from lowland.data.loading import Kind, Loader, Request
from lowland.data.tables import read_array, read_csv
from lowland.domain import Domain, binary, box, real

HELD_OUT = 0.15  # for calibration, and again for the test


def path_loader(name: str) -> Loader | None:
    """The loader for a folder or file of this name, or None if there is nothing there and it is not
    spelt like a path.

    Raises DataError if the file is of a kind that is not read, or the path does not exist.
    """
    path = Path(name).expanduser()
    suffix = path.suffix.lower()
    if name and path.is_dir():
        return lambda request, *, size=None, channels=None: _folder(request, path, size, channels)
    if path.is_file() and suffix in (".npy", ".npz"):
        return lambda request, *, standardise=False: _array(request, path, standardise)
    if path.is_file() and suffix == ".csv":
        return lambda request, *, label=None, standardise=False: _table(
            request, path, label, standardise
        )
    if path.is_file():
        raise DataError(
            f"{path} ends in {suffix!r}; .npy, .npz, .csv and folders of images are read; convert "
            "it"
        )
    if path.parent != Path() or suffix:
        raise DataError(
            f"there is no file or folder {path}; data are a named set or a path; correct the path"
        )
    return None


def _three_parts(whole: Split, name: str, seed: int) -> list[Split]:
    """70 % / 15 % / 15 % by a seeded permutation."""
    held_out = max(1, round(HELD_OUT * len(whole)))
    if len(whole) < 4:
        raise DataError(
            f"{name} holds {len(whole)} examples; training, calibration and test need 4 at the "
            "least; give more data"
        )
    return divide(whole, (len(whole) - 2 * held_out, held_out, held_out), seed)


PATH_NOTE = "read from a path; 70/15/15 by a seeded permutation"


def _folder(
    request: Request, path: Path, size: int | Sequence[int] | None, channels: int | None
) -> Dataset:
    whole, names = load_folder(path, size, channels)
    kind = Kind(str(path), box(0, 1, *whole.x.shape[1:]), len(names), names, 256, PATH_NOTE)
    return kind.build(request, _three_parts(whole, str(path), request.seed))


def _array(request: Request, path: Path, standardise: bool) -> Dataset:
    table = read_array(path)
    domain, x = _array_domain(table.x, path)
    levels = {torch.uint8: 256, torch.bool: 2}.get(x.dtype)
    kind = Kind(str(path), domain, len(table.class_names), table.class_names, levels, PATH_NOTE)
    dataset = kind.build(request, _three_parts(Split(x, table.y), str(path), request.seed))
    return _standardised(dataset) if standardise else dataset


def _array_domain(x: Tensor, path: Path) -> tuple[Domain, Tensor]:
    """bool: binary; uint8 or floats with 3 or 4 dimensions: images in [0, 1], (N, H, W) gets its
    channel; else real.
    """
    if x.is_floating_point():
        refuse_nonfinite(x, str(path))
    if x.dtype == torch.bool:
        return binary(*(x.shape[1:] or (1,))), x.reshape(len(x), *(x.shape[1:] or (1,)))
    if x.ndim <= 2:
        x = x.float().reshape(len(x), -1)
        return real(x.shape[1]), x
    x = x[:, None] if x.ndim == 3 else x
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise DataError(
            f"{path} holds an array of shape {tuple(x.shape)}; images are (N, 1 or 3, height, "
            "width), channels first; transpose it, for example with x.transpose(0, 3, 1, 2)"
        )
    if x.is_floating_point() and not (x.min() >= 0 and x.max() <= 1):
        raise DataError(
            f"{path} holds images with values {float(x.min()):g} to {float(x.max()):g}; they are "
            "floats in [0, 1] or uint8 of 0 to 255; rescale or convert them"
        )
    return box(0, 1, *x.shape[1:]), x


def _table(request: Request, path: Path, label: str | int | None, standardise: bool) -> Dataset:
    table = read_csv(path, label)
    refuse_nonfinite(table.x, str(path))
    classes = len(table.class_names)
    kind = Kind(
        str(path),
        real(table.x.shape[1]),
        classes,
        table.class_names,
        None,
        PATH_NOTE,
        table.columns,
    )
    dataset = kind.build(request, _three_parts(Split(table.x, table.y), str(path), request.seed))
    return _standardised(dataset) if standardise else dataset


def _standardised(dataset: Dataset) -> Dataset:
    """Mean 0 and scale 1 in each column of the training part; the other parts are moved by the same
    numbers.
    """
    if dataset.domain.kind != "real":
        raise DataError(
            f"standardise was asked for {dataset.name}; it is for real-valued columns, and these "
            f"are {dataset.domain.kind}; leave it out"
        )
    x = dataset.train.x.double()
    mean, scale = x.mean(0), x.std(0, correction=0)
    constant = [
        dataset.columns[i] if dataset.columns else str(i)
        for i in (x == x[:1]).all(0).nonzero().flatten().tolist()
    ]
    if constant:
        raise DataError(
            f"column {', '.join(constant)} of {dataset.name} has one value only in the training "
            "part; a column that never changes has no scale; remove it or leave standardise out"
        )
    moved = replace(dataset, mean=tuple(mean.tolist()), scale=tuple(scale.tolist()))

    def move(part: Split) -> Split:
        return Split(moved.standardise(part.x), part.y)

    return replace(
        moved,
        train=move(dataset.train),
        calibration=move(dataset.calibration),
        test=move(dataset.test),
        note=f"{dataset.note}; standardised by the training part's mean and scale",
    )
