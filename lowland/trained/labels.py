"""Classes of a trained run, asked for by number or by name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, overload

from lowland.run import RunError
from lowland.scalars import read_integer

if TYPE_CHECKING:
    from lowland.trained.model import Model

MAX_LISTED = 30  # names of classes in one message


@overload
def find_label(model: Model, label: int | str) -> int: ...
@overload
def find_label(model: Model, label: int | str | None) -> int | None: ...
def find_label(model: Model, label: int | str | None) -> int | None:
    """Return the number of a class; None stays None.

    label: a whole number counts from 0; text is the name of a class in the data of the run, also
    where it looks like a number, and counts only where no class has a number for a name. Raises
    ValueError for a label that is none of the energy's classes.
    """
    if label is None:
        return None
    names = class_names(model)
    number = label
    if isinstance(label, str):
        if label in names:
            return names.index(label)
        counts = not any(map(_is_whole, names)) or names == [str(k) for k in range(len(names))]
        if not (counts and _is_whole(label)):
            raise _refuse(model, label, names)
        number = int(label)
    index = read_integer("label", number)
    if not 0 <= index < model.classes:
        raise _refuse(model, label, names)
    return index


def class_names(model: Model) -> list[str]:
    """Return the names of the classes that the energy can be asked for, [] if they have none."""
    try:
        names = [str(name) for name in model.description.get("class_names") or ()]
    except RunError:  # runs of before names were kept
        return []
    return names if len(names) == model.classes else []


def _is_whole(text: str) -> bool:
    return re.fullmatch(r"[+-]?[0-9]{1,18}", text) is not None


def _refuse(model: Model, label: int | str, names: list[str]) -> ValueError:
    plain = [str(k) for k in range(model.classes)]
    allowed = f"0 to {model.classes - 1}" if model.classes else "none"
    if names and names != plain:
        more = ", ..." if len(names) > MAX_LISTED else ""
        allowed = f"{', '.join(names[:MAX_LISTED])}{more} (numbers {allowed} in Python)"
    return ValueError(
        f"label {label} was asked of {model.name}; its classes are {allowed}; choose another "
        "or leave the label out"
    )
