"""Make a data set of what the user holds in Python: its domain, its scale, its three parts.

    bytes, images            divided by 255, in [0, 1]
    floats, images           in [0, 1] they live in a box, else on the real line
    True and False           binary
    floats of 0 and 1 alone  binary, unless chains move along gradients
    other numbers            real
    DataFrames               real, standardized by mean and deviation of the training part

An energy that has a domain decides itself; then values must lie in it.
"""

import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lowland.data.arrays import read_labels
from lowland.data.classes import number_labels
from lowland.data.collect import LABEL_KINDS, Examples, collect
from lowland.data.dataset import (
    DataError,
    Dataset,
    Split,
    center,
    check_data,
    random_split,
    refuse_nonfinite,
)
from lowland.data.load import load_data
from lowland.data.precision import is_flat
from lowland.domain import Domain, binary, box, real
from lowland.scalars import read_number

BYTES = 255.0
LEAST = 4  # examples


def make_dataset(
    data: object,
    domain: Domain | None = None,
    *,
    labels: object = None,
    inputs: Any = None,
    validation: object = 0.3,
    standardize: bool | None = None,
    discrete: bool | None = None,
    seed: int = 0,
) -> Dataset:
    """Make a data set of a name, a path, or of what `collect` reads.

    domain: of the energy, None or one without a shape where it is to be found from the values;
    validation: share of the examples that is held out, or those examples themselves; half of them
    set thresholds, half are the test part; standardize: columns, by the training part: None for
    DataFrames alone; discrete: whether chains move on sites; seed: of the division.

    >>> make_dataset(torch.zeros(10, 3, 8, 8, dtype=torch.uint8).random_()).domain
    Domain(kind='box', shape=(3, 8, 8), lo=0.0, hi=1.0, classes=0)

    Raises DataError for data that cannot be read or do not fit the domain.
    """
    if isinstance(data, Dataset):
        return data
    if isinstance(data, str | Path):
        options: dict[str, Any] = {"label": labels} if isinstance(labels, str) else {}
        if standardize is not None:
            options["standardize"] = standardize
        return load_data(data, seed=seed, discrete=discrete, **options)
    known = domain if domain is not None and domain.shape else None
    event = known.shape if known else ()
    found = collect(data, labels=labels, inputs=inputs, event=event, seed=seed)
    if standardize is None:
        standardize = bool(found.columns) and (known or real(1)).kind == "real"
    points = _place(found, known, discrete, standardize)
    rows = torch.arange(len(points.x))
    if isinstance(validation, int | float | np.number):
        parts = _divide(rows, validation, found.name, seed)
    else:
        label = found.label if isinstance(labels, str) else None
        more = collect(validation, labels=label, inputs=inputs, event=event, seed=seed)
        other = _place(more, points.domain, discrete, standardize)
        found = replace(found, y=_join(found.y, more.y))
        held = torch.arange(len(other.x)) + len(rows)
        parts = [rows, *_halve(held, more.name, seed)]
        points = points._replace(x=torch.cat([points.x, other.x]))
    y, names = _read_classes(found.y, len(points.x), found.name)
    whole = Split(points.x, y)
    mean: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    if standardize:
        mean, scale = _measure(points.x[parts[0]], found)
        whole = Split(center(points.x, mean, scale), y)
    notes = [found.note, points.note, "standardized by the training part" if standardize else ""]
    train, calibration, test = (whole.take(part) for part in parts)
    made = Dataset(
        found.name,
        points.domain,
        train,
        calibration,
        test,
        classes=len(names),
        class_names=names,
        num_gray_levels=points.num_gray_levels,
        note="; ".join(filter(None, notes)),
        mean=mean,
        scale=scale,
        columns=found.columns,
        label=found.label,
    )
    check_data(made)
    return made


class _Points(NamedTuple):
    """Points (N, *event) in the units of the energy but for standardization, their domain, the
    number of grey levels of their source, and how the domain was found, in a sentence.
    """

    x: Tensor
    domain: Domain
    num_gray_levels: int | None = None
    note: str = ""


def _place(
    found: Examples, known: Domain | None, discrete: bool | None, standardize: bool
) -> _Points:
    """Bring examples to the domain of an energy, or find a domain for them."""
    x = found.x if found.x.dim() > 1 else found.x.unsqueeze(-1)
    if found.x.dim() < 1 or not len(x) or not math.prod(x.shape):
        raise DataError(
            f"{found.name} is empty (shape {tuple(found.x.shape)}); examples come in rows, (N, "
            "...); check how it was made"
        )
    if x.is_floating_point():
        refuse_nonfinite(x, found.name)
    elif x.is_complex():
        raise DataError(
            f"{found.name} holds {x.dtype}; an energy reads real numbers; take real and imaginary "
            "parts as numbers of their own"
        )
    if known is None:
        return _infer(x, found.name, discrete, standardize)
    x = _fit_shape(x, known, found.name)
    if x.dtype == torch.uint8 and len(known.shape) > 1 and known.kind in ("real", "box"):
        if known.kind == "box" and (known.lo, known.hi) != (0, 1):
            raise DataError(
                f"{found.name} holds bytes, 0 to 255, and the energy lives in a box from "
                f"{known.lo:g} to {known.hi:g}; bytes are divided by 255, into [0, 1]; build the "
                "energy on box(0, 1, shape=...), or pass floats in its box"
            )
        return _Points(x.float() / BYTES, known, 256, "bytes were divided by 255")
    return _Points(x.double() if standardize else x.float(), known)


def _fit_shape(x: Tensor, domain: Domain, name: str) -> Tensor:
    """Return examples in the event shape of a domain; one channel need not be written."""
    shape, wanted = tuple(x.shape[1:]), domain.shape
    if shape == wanted:
        return x
    if (1, *shape) == wanted:
        return x.unsqueeze(1)
    cure = "reshape the data, or build the energy for their shape"
    if len(shape) == 3 and (shape[2], *shape[:2]) == wanted:
        cure = "move the channels first with x.permute(0, 3, 1, 2)"
    raise DataError(f"{name} has examples of shape {shape}; the energy takes {wanted}; {cure}")


def _infer(x: Tensor, name: str, discrete: bool | None, standardize: bool) -> _Points:
    """Find the domain of examples from their type and values."""
    shape = tuple(x.shape[1:])
    said = "pass ll.Function(network, domain) to choose another"
    if x.dtype == torch.bool or (discrete is not False and _holds_bits(x) and not standardize):
        note = f"every value is 0 or 1, so the domain is binary; {said}"
        return _Points(x.float(), binary(*shape), 2, note)
    if x.dtype == torch.uint8 and len(shape) > 1:
        note = f"bytes were divided by 255, and the domain is the box [0, 1]; {said}"
        return _Points(x.float() / BYTES, box(0, 1, *shape), 256, note)
    if x.is_floating_point() and len(shape) > 1 and 0 <= float(x.min()) <= float(x.max()) <= 1:
        note = f"images in [0, 1], so the domain is that box; {said}"
        return _Points(x.float(), box(0, 1, *shape), None, note)
    if x.dtype == torch.int64 and (discrete or len(shape) > 1):
        raise DataError(
            f"{name} holds whole numbers ({x.dtype}, {int(x.min())} to {int(x.max())}); they may "
            "be states of sites or real numbers; pass an energy with a domain, such as "
            "categorical(K, ...), or floats"
        )
    note = f"the domain is the real line in {math.prod(shape)} numbers; {said}"
    return _Points(x.double() if standardize else x.float(), real(*shape), None, note)


def _holds_bits(x: Tensor) -> bool:
    return bool(((x == 0) | (x == 1)).all()) and bool((x != x.reshape(-1)[0]).any())


def _divide(rows: Tensor, share: object, name: str, seed: int) -> list[Tensor]:
    """Divide rows into training, calibration and test parts, by a seeded permutation."""
    part = read_number("validation", share, above=0, most=1)
    held = max(2, round(part * len(rows)))
    if len(rows) < LEAST or held >= len(rows) - 1:
        raise DataError(
            f"{name} holds {len(rows)} examples, of which {held} would be held out; training needs "
            f"2 at the least, and {LEAST} are needed in all; bring more, or a smaller validation="
        )
    sizes = (len(rows) - held, held - held // 2, held // 2)
    return [part.x for part in random_split(Split(rows), sizes, seed)]


def _halve(rows: Tensor, name: str, seed: int) -> list[Tensor]:
    """Divide held-out rows into calibration and test parts."""
    if len(rows) < 2:
        raise DataError(
            f"{name} of validation holds {len(rows)} examples; one half sets thresholds and one "
            "is for tests; bring 2 at the least"
        )
    sizes = (len(rows) - len(rows) // 2, len(rows) // 2)
    return [part.x for part in random_split(Split(rows), sizes, seed)]


def _measure(x: Tensor, found: Examples) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation of each column of the training part."""
    if x.dim() != 2:
        raise DataError(
            f"standardize was asked for {found.name}; it is for columns of real numbers, and these "
            f"are of shape {tuple(x.shape[1:])}; leave it out"
        )
    values = x.double()
    names = found.columns or tuple(str(i) for i in range(x.shape[1]))
    flat = is_flat(values.numpy()).nonzero()[0].tolist()
    if flat:
        raise DataError(
            f"column {', '.join(names[i] for i in flat)} of {found.name} has one value only in the "
            "training part; a column that never changes has no scale; remove it, or pass "
            "standardize=False"
        )
    return tuple(values.mean(0).tolist()), tuple(values.std(0, correction=0).tolist())


def _join(y: Any, more: Any) -> Any:
    """Return the labels of two parts together, None unless both have some."""
    if y is None or more is None:
        return None
    return np.concatenate([_to_array(y), _to_array(more)])


def _to_array(y: Any) -> np.ndarray[Any, Any]:
    if isinstance(y, np.ma.MaskedArray):
        raise DataError(
            f"the labels are a masked array, with {np.ma.count_masked(y)} masked values; a mask "
            "would be read through, and every example needs its label; fill the gaps with "
            "values.filled(...), or drop these rows"
        )
    found = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    if found.dtype.kind == "O":
        return np.asarray([str(value) for value in found])
    return found


def _take_whole_numbers(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return labels (N,) of one-hot rows, of a column, and of whole numbers in floating point;
    others as they are.
    """
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim == 2 and values.dtype.kind in "biuf" and values.shape[1] > 1:
        marks = values != 0
        if bool((marks.sum(1) == 1).all()) and bool((values[marks] == 1).all()):
            return marks.argmax(1)
    if values.dtype.kind == "f" and bool((np.isfinite(values) & (values == values.round())).all()):
        return values.astype(np.int64)
    return values


def _read_classes(y: Any, count: int, name: str) -> tuple[Tensor | None, tuple[str, ...]]:
    """Return labels (N,) as int64 and the names of their classes; None of targets that are no
    classes, with a warning.

    Whole numbers in floating point and columns of one are taken, and one-hot rows (N, K) by the
    place of their 1.
    """
    if y is None:
        return None, ()
    values = _take_whole_numbers(_to_array(y))
    if values.dtype.kind not in LABEL_KINDS or values.ndim != 1:
        if values.shape[:1] != (count,):
            raise DataError(
                f"{name} has {count} examples and labels of shape {values.shape}; there is one for "
                "each; check that both come from the same source"
            )
        warnings.warn(
            f"{name} has targets of type {values.dtype} and shape {values.shape}, which are no "
            "classes and are not used (classes are whole numbers or text, one for each example)",
            stacklevel=2,
        )
        return None, ()
    if values.dtype.kind == "U" and len(values) == count:
        return number_labels([str(value).strip() for value in values], name)
    return read_labels(values, count, name)
