"""Data sets from the user's files: a folder of images, an array or a table, split 70 % / 15 % /
15 % by a seeded permutation.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from lowland.data.dataset import DataError, Dataset, Split, random_split, refuse_nonfinite
from lowland.data.images import load_folder
from lowland.data.loader import Loader, LoadOptions, build_dataset
from lowland.data.tables import Table, read_array, read_csv
from lowland.domain import Domain, binary, box, real

HELD_OUT = 0.15  # for calibration, and again for the test
NOTE = "read from a path; 70/15/15 by a seeded permutation"


def path_loader(name: str) -> Loader | None:
    """Return the loader for a folder or file of this name, or None if there is nothing there and it
    is not spelt like a path.

    Raises DataError if the file is of a kind that is not read, or the path does not exist.
    """
    path = Path(name).expanduser()
    suffix = path.suffix.lower()
    if name and path.is_dir():
        return lambda options, *, size=None, channels=None, skip_bad=False: _load_folder(
            options, path, size, channels, skip_bad
        )
    if path.is_file() and suffix in (".npy", ".npz"):
        return lambda options, *, standardize=False: _load_array(options, path, standardize)
    if path.is_file() and suffix == ".csv":
        return lambda options, *, label=None, standardize=False: _load_table(
            options, path, label, standardize
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


def _build(
    options: LoadOptions,
    path: Path,
    domain: Domain,
    table: Table,
    num_gray_levels: int | None,
    standardize: bool = False,
) -> Dataset:
    """Return the examples of a file as a data set, split 70 % / 15 % / 15 %."""
    count = len(table.x)
    held_out = max(1, round(HELD_OUT * count))
    if count < 4:
        raise DataError(
            f"{path} holds {count} examples; training, calibration and test need 4 at the least; "
            "give more data"
        )
    sizes = (count - 2 * held_out, held_out, held_out)
    splits = random_split(Split(table.x, table.y), sizes, options.seed)
    labels, columns = table.class_names, table.columns
    dataset = build_dataset(
        options, str(path), domain, splits, labels, num_gray_levels, NOTE, columns
    )
    if standardize:
        return _standardize(dataset)
    return dataset


def _load_folder(
    options: LoadOptions,
    path: Path,
    size: int | Sequence[int] | None,
    channels: int | None,
    skip_bad: bool,
) -> Dataset:
    images, names, skipped = load_folder(path, size, channels, skip_bad=skip_bad)
    domain = box(0, 1, *images.x.shape[1:])
    dataset = _build(options, path, domain, Table(images.x, images.y, names), 256)
    if not skipped:
        return dataset
    note = f"{dataset.note}; {len(skipped)} files that cannot be read were skipped"
    listed = tuple(f"{file}: {why}" for file, why in skipped.items())
    return replace(dataset, note=note, skipped=listed)


def _load_array(options: LoadOptions, path: Path, standardize: bool) -> Dataset:
    table = read_array(path)
    domain, x = _infer_domain(table.x, path)
    num_gray_levels = {torch.uint8: 256, torch.bool: 2}.get(x.dtype)
    table = replace(table, x=x)
    return _build(options, path, domain, table, num_gray_levels, standardize)


def _infer_domain(x: Tensor, path: Path) -> tuple[Domain, Tensor]:
    """Return the domain of an array and its examples in the shape of that domain.

    bool: binary; uint8 or floats with 3 or 4 dimensions: images in [0, 1], where (N, H, W) gets its
    channel; everything else real vectors.
    """
    if x.is_floating_point():
        refuse_nonfinite(x, str(path))
    if x.dtype == torch.bool:
        shape = x.shape[1:] or (1,)
        return binary(*shape), x.reshape(len(x), *shape)
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


def _load_table(
    options: LoadOptions, path: Path, label: str | int | None, standardize: bool
) -> Dataset:
    table = read_csv(path, label)
    refuse_nonfinite(table.x, str(path))
    return _build(options, path, real(table.x.shape[1]), table, None, standardize)


def _standardize(dataset: Dataset) -> Dataset:
    """Shift and scale each column to mean 0 and deviation 1 on the training split; the other splits
    are moved by the same numbers.
    """
    if dataset.domain.kind != "real":
        raise DataError(
            f"standardize was asked for {dataset.name}; it is for real-valued columns, and these "
            f"are {dataset.domain.kind}; leave it out"
        )
    x = dataset.train.x.double()
    constant = (x == x[:1]).all(0).nonzero().flatten().tolist()
    if constant:
        names = dataset.columns or [str(i) for i in range(x.shape[1])]
        raise DataError(
            f"column {', '.join(names[i] for i in constant)} of {dataset.name} has one value only "
            "in the training part; a column that never changes has no scale; remove it or leave "
            "standardize out"
        )
    mean, scale = x.mean(0), x.std(0, correction=0)
    moved = replace(dataset, mean=tuple(mean.tolist()), scale=tuple(scale.tolist()))
    train, calibration, test = (
        Split(moved.standardize(split.x), split.y) for _, split in dataset.splits()
    )
    note = f"{dataset.note}; standardized by the training part's mean and scale"
    return replace(moved, train=train, calibration=calibration, test=test, note=note)
