"""Collect examples from whatever Python holds them in: tensors, arrays, DataFrames, pairs (x, y),
torch Datasets and DataLoaders, tables of columns, iterables of batches. All of it is put into
memory, within a bound.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torch.utils.data import Dataset as TorchDataset

from lowland.data.dataset import DataError
from lowland.data.format import Frame
from lowland.data.room import format_bytes
from lowland.memory import available_bytes

INPUTS = ("x", "image", "images", "img", "pixel_values", "inputs", "input", "data", "features")
LABELS = ("y", "label", "labels", "target", "targets", "fine_label")
FLOAT_BYTES = 4  # of a number in float32, as which examples are held
LABEL_KINDS = "biuUO"  # of NumPy: whole numbers and text


@dataclass(frozen=True, eq=False)
class Examples:
    """Examples x (N, ...) as they came, targets (N,) or None, and where they came from: what they
    are called in messages, names of columns, name of the column of labels, a sentence.
    """

    x: Tensor
    y: Any = None
    name: str = "the tensor"
    columns: tuple[str, ...] = ()
    label: str = ""
    note: str = ""


@runtime_checkable
class Columns(Protocol):
    """A table of named columns, such as a dataset of Hugging Face."""

    @property
    def column_names(self) -> Any: ...

    def __getitem__(self, name: Any, /) -> Any: ...

    def __len__(self) -> int: ...


def collect(
    data: object,
    *,
    labels: object = None,
    inputs: str | Sequence[str] | None = None,
    event: tuple[int, ...] = (),
    seed: int = 0,
) -> Examples:
    """Put examples from any source into memory.

    data: a tensor, an array, nested lists; a pair (x, y); a DataFrame, or a table of columns (a
    mapping of arrays, a Hugging Face dataset); a torch Dataset, a DataLoader; an iterable of
    batches, or of examples where `event` tells them apart. labels: name of the column of labels, or
    the labels (N,) themselves; inputs: names of the columns to read; event: shape of one example,
    if known; seed: of torch's global generator while a Dataset, a DataLoader or an iterable is
    read, so that the same seed gives the same order.

    Raises DataError for what holds no examples, and for more than memory holds.
    """
    found = _collect(data, labels if isinstance(labels, str) else None, inputs, event, seed)
    if labels is None or isinstance(labels, str):
        if isinstance(labels, str) and not found.label and found.y is None:
            raise DataError(
                f"labels is {labels!r} and {found.name} has no columns; a name of a column, or the "
                "labels themselves, are taken; pass labels=y, or data=(x, y)"
            )
        return found
    return replace(found, y=labels)


def _collect(
    data: object,
    label: str | None,
    inputs: str | Sequence[str] | None,
    event: tuple[int, ...],
    seed: int,
) -> Examples:
    if isinstance(data, Tensor):
        return Examples(data.detach().cpu(), name="the tensor")
    if isinstance(data, np.ndarray):
        return Examples(_to_tensor(data), name="the array")
    if isinstance(data, TensorDataset):
        return _from_pair(tuple(data.tensors), "the TensorDataset")
    if isinstance(data, DataLoader | TorchDataset) and not isinstance(data, Columns):
        return _from_items(data, label, inputs, event, seed)
    if isinstance(data, Mapping | Columns):
        return _from_columns(data, label, inputs)
    if isinstance(data, Frame):
        return _from_frame(data, label, inputs)
    if isinstance(data, tuple | list) and _is_pair(data):
        return _from_pair(tuple(data), "the pair (x, y)")
    if isinstance(data, tuple) and len(data) == 2 and all(map(_is_array, data)):
        x, y = map(_shape_of, data)
        raise DataError(
            f"data is a tuple of two, of shapes {x} and {y}; a tuple is a pair (x, y), examples "
            "and one label for each; correct y, or pass torch.cat([x, y]) if both are examples"
        )
    if isinstance(data, list | tuple) and data and not isinstance(data[0], Tensor | np.ndarray):
        listed = _read_nested(data)
        if listed is not None:
            return Examples(listed, name="the list")
    if isinstance(data, Iterable) and not isinstance(data, str | bytes):
        return _from_items(data, label, inputs, event, seed)
    raise DataError(
        f"data is a {type(data).__name__}; a tensor, an array, a DataFrame, a pair (x, y), a name "
        "or path, a torch Dataset or DataLoader, or an iterable of batches is needed; pass one"
    )


def _is_array(value: object) -> bool:
    return isinstance(value, Tensor | np.ndarray | Frame)


def _shape_of(value: Any) -> tuple[int, ...]:
    return tuple(value.shape)


def _is_pair(data: Sequence[Any]) -> bool:
    """Tell whether a sequence is examples (N, ...) and as many labels: (N,), or in a tuple (N, K)
    too.
    """
    if len(data) != 2 or not isinstance(data[0], Tensor | np.ndarray | Frame | list):
        return False
    x, y = data
    if isinstance(x, list) and isinstance(y, list):
        return bool(x) and bool(y) and isinstance(x[0], list) and not isinstance(y[0], list)
    values = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    if values.ndim == 0 or len(values) != len(x):
        return False
    if isinstance(data, tuple):
        return values.ndim <= 2
    return values.ndim == 1 and (isinstance(x, Frame | list) or x.ndim > 1)


def _from_pair(parts: tuple[Any, ...], name: str) -> Examples:
    if len(parts) > 2:
        raise DataError(
            f"{name} holds {len(parts)} tensors; examples, or examples and labels, are taken; pass "
            "(x, y)"
        )
    inner = _collect(parts[0], None, None, (), 0)
    return replace(inner, y=parts[1] if len(parts) == 2 else None, name=name)


def _read_nested(data: Sequence[object]) -> Tensor | None:
    """Read nested lists of numbers as a tensor; None for others."""
    try:
        array = np.asarray(data)
    except (ValueError, TypeError):  # rows of different lengths, objects
        return None
    return torch.from_numpy(array) if array.dtype.kind in "biuf" else None


# ---- columns ------------------------------------------------------------------------------------


def _from_frame(frame: Frame, label: str | None, inputs: str | Sequence[str] | None) -> Examples:
    """Read the columns of numbers of a DataFrame, but for that of the labels."""
    names = [str(name) for name in frame.columns]
    originals = dict(zip(names, frame.columns, strict=True))
    if len(originals) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise DataError(
            f"the DataFrame has several columns of the name {', '.join(map(repr, twice))}; columns "
            "are taken by name, which must be unique; rename or remove all but one"
        )
    chosen = _choose_columns(names, label, inputs, "the DataFrame")
    y = None if label is None else np.asarray(frame[originals[label]])
    columns = [_read_numbers(np.asarray(frame[originals[name]]), name) for name in chosen]
    x = torch.from_numpy(np.stack(columns, axis=1))
    return Examples(x, y, "the DataFrame", tuple(chosen), label or "")


def _choose_columns(
    names: Sequence[str], label: str | None, inputs: str | Sequence[str] | None, where: str
) -> list[str]:
    """Return the names of the columns to read, in the order of the table unless named."""
    asked = [inputs] if isinstance(inputs, str) else list(inputs or ())
    unknown = [name for name in [*asked, *([label] if label else [])] if name not in names]
    if unknown:
        raise DataError(
            f"{where} has no column {', '.join(map(repr, unknown))}; it has "
            f"{', '.join(map(repr, names))}; name one of these"
        )
    found = asked or [name for name in names if name != label]
    if not found:
        raise DataError(
            f"{where} has no column besides the labels; an energy reads one at the least; bring "
            "columns of numbers"
        )
    return found


def _read_numbers(values: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, Any]:
    """Return a column of numbers in float64. Raises DataError for text, dates and gaps."""
    if values.dtype.kind == "O":
        with suppress(TypeError, ValueError):
            values = values.astype(np.float64)
    if values.dtype.kind not in "biuf":
        raise DataError(
            f"column {name!r} of the DataFrame holds values of type {values.dtype}, no numbers; an "
            f"energy reads numbers; name it as labels={name!r}, convert it, or leave it out"
        )
    gaps = int((~np.isfinite(values.astype(np.float64))).sum())
    if gaps:
        raise DataError(
            f"column {name!r} of the DataFrame has {gaps} missing or infinite values; every value "
            "must be finite; fill them in or drop these rows"
        )
    return values.astype(np.float64)


def _from_columns(
    data: Mapping[Any, Any] | Columns, label: str | None, inputs: str | Sequence[str] | None
) -> Examples:
    """Read the examples, and the labels if there are some, from a table of columns."""
    named = data if isinstance(data, Mapping) else data.column_names
    where = f"the {type(data).__name__}"
    if not isinstance(data, Mapping) and isinstance(named, Mapping):
        raise DataError(
            f"{where} holds the parts {', '.join(map(str, named))}; one part is trained on; pass "
            "for example data['train'], and validation=data['test']"
        )
    names = [str(name) for name in named]
    label = label or next((name for name in LABELS if name in names), None)
    if inputs is None:
        usual = [name for name in INPUTS if name in names]
        inputs = usual[0] if usual else None
    chosen = _choose_columns(names, label, inputs, where)
    y = None if label is None else _stack_labels(data[label])
    parts = [_stack(list(data[name]), where) for name in chosen]
    if len(parts) == 1:
        return Examples(parts[0], y, where, label=label or "")
    odd = [name for name, part in zip(chosen, parts, strict=True) if part.dim() != 1]
    if odd:
        raise DataError(
            f"{where} has the columns {', '.join(map(repr, names))}; one column of examples or "
            "several of plain numbers are read; name it with inputs="
        )
    x = torch.stack([part.double() for part in parts], 1)
    return Examples(x, y, where, tuple(chosen), label or "")


# ---- items --------------------------------------------------------------------------------------


def _from_items(
    source: Iterable[object] | TorchDataset[Any],
    label: str | None,
    inputs: str | Sequence[str] | None,
    event: tuple[int, ...],
    seed: int,
) -> Examples:
    """Read a Dataset, a DataLoader or an iterable to its end, and stack what came."""
    single = isinstance(source, TorchDataset)
    where = f"the {type(source).__name__}"
    if not isinstance(source, DataLoader | TorchDataset):
        where = "the iterable"
    free, held = available_bytes(), 0
    xs: list[Tensor] = []
    ys: list[object] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for item in _iterate(source):
            x, y = _split_item(item, label, inputs, where)
            one = single or (bool(event) and tuple(x.shape) == event)
            xs.append(x.unsqueeze(0) if one else x)
            if xs[0].shape[1:] != xs[-1].shape[1:] or xs[-1].dim() < 1:
                raise DataError(
                    f"{where} gave examples of shape {tuple(xs[0].shape[1:])} and of shape "
                    f"{tuple(xs[-1].shape[1:])}; all have one shape; resize, crop or pad them"
                )
            if y is not None:
                ys.append([y] if one else y)
            held += FLOAT_BYTES * x.numel()
            if 2 * held > free:  # once more while they are put together
                raise DataError(
                    f"{where} gave {sum(map(len, xs)):,} examples, {format_bytes(held)}, and goes "
                    f"on; examples are held in memory, of which {format_bytes(free)} were free; "
                    "end it earlier, for example with itertools.islice"
                )
    if not sum(map(len, xs)):
        raise DataError(
            f"{where} gave no examples; there must be some; an iterator that was read once is "
            "empty: make it anew"
        )
    x = torch.cat(xs)
    y = np.concatenate([_stack_labels(part) for part in ys]) if len(ys) == len(xs) else None
    note = f"{len(x):,} examples of {where} were read into memory, {format_bytes(4 * x.numel())}"
    return Examples(x, y, where, label=label or "", note=note)


def _iterate(source: Iterable[object] | TorchDataset[Any]) -> Iterator[object]:
    if isinstance(source, TorchDataset) and not isinstance(source, IterableDataset):
        count = len(source)  # type: ignore[arg-type]
        return (source[i] for i in range(count))
    assert isinstance(source, Iterable)
    return iter(source)


def _split_item(
    item: object, label: str | None, inputs: str | Sequence[str] | None, where: str
) -> tuple[Tensor, Any]:
    """Return the examples and the targets of one item, None without."""
    if isinstance(item, Mapping):
        names = [str(name) for name in item]
        label = label or next((name for name in LABELS if name in names), None)
        wanted = inputs if isinstance(inputs, str) else next(iter(inputs or ()), None)
        wanted = wanted or next((name for name in INPUTS if name in names), None)
        if wanted is None or wanted not in names:
            raise DataError(
                f"{where} gives items with {', '.join(map(repr, names))}; one of them holds the "
                "examples; name it with inputs="
            )
        return _to_tensor(item[wanted], where), item[label] if label in names else None
    if isinstance(item, tuple | list) and 1 <= len(item) <= 2 and not _is_number(item[0]):
        return _to_tensor(item[0], where), item[1] if len(item) == 2 else None
    return _to_tensor(item, where), None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number)


def _to_tensor(value: object, where: str = "the array") -> Tensor:
    """Return a tensor, an array, a picture, a number or nested lists as a tensor on the CPU;
    pictures with channels first.
    """
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, Image.Image):
        colours = "L" if value.mode in ("1", "L", "I;16") else "RGB"
        array = np.array(value.convert(colours))
        return torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1).copy())
    if isinstance(value, np.ma.MaskedArray):
        raise DataError(
            f"{where} is a masked array, with {np.ma.count_masked(value)} masked values; a mask "
            "would be read through, and plain arrays are needed; fill the gaps with "
            "values.filled(...), or drop these rows"
        )
    found = np.asarray(value)
    if found.dtype.kind not in "biuf":
        raise DataError(
            f"{where} holds values of type {found.dtype} ({type(value).__name__}); examples are "
            "numbers, in tensors, arrays or pictures; convert them, or name the column with inputs="
        )
    return torch.from_numpy(np.ascontiguousarray(found))


def _stack(values: Sequence[object], where: str) -> Tensor:
    """Stack the values of a column."""
    parts = [_to_tensor(value, where) for value in values]
    shapes = sorted({tuple(part.shape) for part in parts})
    if len(shapes) != 1:
        raise DataError(
            f"{where} has examples of the shapes {', '.join(map(str, shapes[:3])) or 'of none'}; "
            "all have one shape, and there is one at least; resize, crop or pad them"
        )
    return torch.stack(parts)


def _stack_labels(values: Any) -> np.ndarray[Any, Any]:
    """Return labels as an array (N,)."""
    if isinstance(values, Tensor):
        return values.detach().cpu().numpy()
    return np.asarray(list(values) if isinstance(values, Iterable) else [values])
