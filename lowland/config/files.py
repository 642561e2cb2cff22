"""Read TOML and JSON files of bounded size and depth, in words where that fails."""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path

from lowland.config.sections import ConfigError
from lowland.registry import Plain

MAX_BYTES = 1_000_000  # of a file; a shipped recipe has two thousand
MAX_DEPTH = 16  # of values inside values; a recipe has five


def read_values(path: Path, kind: str, allowed: str) -> Plain:
    """Read the values of a TOML file, or of a JSON file whose name says so.

    kind, allowed: what the file should be, for messages. Raises ConfigError for files that are missing, too
    large, not UTF-8, damaged, or nested too deeply.
    """
    text = _read_text(path, kind, allowed)
    try:
        if path.suffix == ".json":
            found = json.loads(text, object_pairs_hook=_refuse_twice)
        else:
            found = tomllib.loads(text)
        check_depth(found)
    except RecursionError:
        problem = f"its values nest deeper than {MAX_DEPTH}"
    except ValueError as error:
        problem = str(error)
    else:
        if isinstance(found, dict):
            return found
        problem = f"it holds a {type(found).__name__} and no named values"
    raise ConfigError(f"{path} is no {kind}: {problem}; {allowed}; correct it")


def check_depth(values: object) -> None:
    """Raise ValueError for values inside values beyond a depth of 16."""
    level = [values]
    for _ in range(MAX_DEPTH):
        inner = [part for part in level if isinstance(part, Mapping | list | tuple)]
        if not inner:
            return
        level = [x for part in inner for x in (part.values() if isinstance(part, Mapping) else part)]
    raise ValueError(f"its values nest deeper than {MAX_DEPTH}")


def _read_text(path: Path, kind: str, allowed: str) -> str:
    """Read a text of at most a million bytes, without the mark that some editors put first."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) <= MAX_BYTES:
            return data.decode("utf-8-sig").replace("\r\n", "\n")
        problem = f"it has more than {MAX_BYTES:,} bytes"
    except UnicodeDecodeError as error:
        problem = f"byte {error.start} is not UTF-8"
    except OSError as error:
        problem = error.strerror or "it cannot be opened"
    except ValueError:
        problem = "its name holds a NUL"
    raise ConfigError(f"{path} is no {kind}: {problem}; {allowed}; correct it")


def _refuse_twice(pairs: list[tuple[str, object]]) -> Plain:
    """Return pairs as a mapping. Raises ValueError for a key that comes twice, as TOML does."""
    found: Plain = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {key!r} comes twice")
        found[key] = value
    return found
