"""Arguments that tyro does not read by itself: paths, and values with commas between."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Union, get_args, get_origin

if TYPE_CHECKING:
    from tyro.constructors import PrimitiveConstructorSpec, PrimitiveTypeInfo


def read_argument(info: "PrimitiveTypeInfo") -> "PrimitiveConstructorSpec[object] | None":
    """Read `str | Path`, also with what only Python can pass, as one path, `int | str` as a name,
    and `tuple[T, ...]` as one word with commas; leave other types to tyro.
    """
    kinds = get_args(info.type)
    if info.type_origin is tuple:
        kind = str if str in get_args(kinds[0]) else kinds[0]
        return _read_word(partial(split_list, kind), "A,B")
    if get_origin(info.type) in (Union, UnionType) and Path in kinds:
        return _read_word(Path, "PATH")
    if get_origin(info.type) in (Union, UnionType) and str in kinds and int in kinds:
        return _read_word(str, "NAME")
    return None


def _read_word(read: Callable[[str], object], metavar: str) -> "PrimitiveConstructorSpec[object]":
    """Return tyro's description of an argument of one word."""
    from tyro.constructors import PrimitiveConstructorSpec

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda words: read(words[0]),
        is_instance=lambda value: True,
        str_from_instance=lambda value: [str(value).strip("()")],
    )


def split_list(kind: Callable[[str], object], text: str) -> tuple[object, ...]:
    """Split "1,2" into (1, 2), each part of a kind."""
    try:
        return tuple(kind(part) for part in text.split(",") if part)
    except ValueError:
        raise ValueError(
            f"{text!r} came; values with commas between are taken; write for example 1,1"
        ) from None
