"""Read files that others may have changed: regular ones only, within bounds of size and depth.

Every JSON and TOML file of the library is read here, so that 100,000 nested brackets, a number of a
million digits, a named pipe or the same key twice are refused in words at every door.
"""

import json
import math
import os
import stat
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lowland.systems import READ

MAX_BYTES = 1 << 28  # of a file of JSON or TOML
MAX_DEPTH = 64  # of lists and tables in one another
MAX_INTEGER = 1 << 64  # seeds reach that far


class ReadError(ValueError):
    """A file that is damaged, or none that can be read at all."""


def read_bytes(path: Path, *, most: int | None = None, within: Path | None = None) -> bytes:
    """Read a regular file whole.

    most: bytes; within: a folder out of which no symbolic link may lead. Raises FileNotFoundError
    where there is none, ReadError for a folder, a device, a pipe, a link out of the folder and a
    file that is too large, OSError as the disk does.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "numbers.json"
    >>> _ = path.write_bytes(b"[1, 2]")
    >>> read_bytes(path)
    b'[1, 2]'
    """
    if within is not None:
        check_within(path, within)
    _check_regular(path, path.stat().st_mode)
    handle = os.open(path, os.O_RDONLY | READ)
    with os.fdopen(handle, "rb") as file:
        about = os.fstat(handle)
        _check_regular(path, about.st_mode)
        if most is not None and about.st_size > most:
            raise ReadError(
                f"{path} holds {about.st_size} bytes; at most {most} are read; it is no such file, "
                "or damaged: restore or remove it"
            )
        return file.read()


def check_within(path: Path, folder: Path) -> None:
    """Raise ReadError if a symbolic link leads from a path out of the folder that it lies in."""
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(os.path.realpath(folder)):
        raise ReadError(
            f"{path} is a symbolic link that leads out of {folder}; what belongs to a folder lies "
            "in it; put a copy in the place of the link"
        )


def read_json(path: Path, *, within: Path | None = None, cure: str = "restore or remove it") -> Any:
    """Read a JSON file; see `parse_json` and `read_bytes`, whose errors it raises."""
    return parse_json(read_bytes(path, most=MAX_BYTES, within=within), str(path), cure)


def parse_json(
    data: bytes | str, what: str, cure: str = "restore or remove it", *, bounds: bool = True
) -> Any:
    """Parse JSON into plain values.

    what: names the text in messages; cure: their last clause; bounds: whether numbers are judged,
    which a recipe does better, by their names. Raises ReadError for text that is no
    JSON, not UTF-8, nested deeper than 64, with a key twice, with NaN, infinities, or whole numbers
    that no 64 bits hold.

    >>> parse_json('{"a": [1, 2.5]}', "a word")
    {'a': [1, 2.5]}
    """
    try:
        text = data if isinstance(data, str) else data.decode("utf-8-sig")
        refuse = _refuse_constant if bounds else None
        found = json.loads(text, object_pairs_hook=_read_object, parse_constant=refuse)
        check_plain(found, bounds=bounds)
    except (ValueError, RecursionError) as error:
        raise ReadError(_describe(what, error, "JSON", cure)) from None
    return found


def parse_toml(
    data: bytes | str, what: str, cure: str = "correct it", *, bounds: bool = True
) -> dict[str, Any]:
    """Parse TOML into plain values. Raises ReadError as `parse_json` does.

    >>> parse_toml("a = [1, 2.5]", "a word")
    {'a': [1, 2.5]}
    """
    try:
        text = data if isinstance(data, str) else data.decode("utf-8-sig").replace("\r\n", "\n")
        found = tomllib.loads(text)
        check_plain(found, bounds=bounds)
    except (ValueError, RecursionError) as error:
        raise ReadError(_describe(what, error, "TOML", cure)) from None
    return found


def check_plain(values: object, *, bounds: bool = True) -> None:
    """Raise ValueError for values nested too deep, numbers out of `bounds`, text that is no
    Unicode, and everything that is neither a mapping, a list, text, a number, a truth value nor
    None.
    """
    level: list[object] = [values]
    for _ in range(MAX_DEPTH):
        level = [inner for value in level for inner in _look_into(value, bounds)]
        if not level:
            return
    raise ValueError(f"it is nested deeper than {MAX_DEPTH}")


def _look_into(value: object, bounds: bool) -> Iterable[object]:
    """Return the values inside a list or mapping; check every other value."""
    if isinstance(value, dict):
        return [*value, *value.values()]
    if isinstance(value, list):
        return value
    if isinstance(value, str):
        value.encode()  # lone surrogates are no text
    elif isinstance(value, int):
        if bounds and abs(value) > MAX_INTEGER:
            raise ValueError("a whole number in it does not fit into 64 bits")
    elif isinstance(value, float):
        if bounds and not math.isfinite(value):
            raise ValueError("a number in it is not finite")
    elif value is not None:
        raise ValueError(f"it holds a {type(value).__name__}")
    return ()


def _read_object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:40]!r} stands twice in it")
    return found


def _refuse_constant(text: str) -> object:
    raise ValueError(f"{text} is no number of JSON")


def _describe(what: str, error: Exception, language: str, cure: str) -> str:
    problem = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
    if isinstance(error, RecursionError):
        problem = f"it is nested deeper than {MAX_DEPTH}"
    if isinstance(error, UnicodeError):
        problem = "it is no UTF-8 text"
    return f"{what} is damaged ({problem}); it must be {language}; {cure}"


def _check_regular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = "folder" if stat.S_ISDIR(mode) else "device, pipe or socket"
        raise ReadError(
            f"{path} is a {kind}; a regular file is needed; put the file there, or name another"
        )
