"""Read the files of recipes and tasks, in TOML or JSON."""

from pathlib import Path

from lowland.config.sections import ConfigError
from lowland.config.strictness import show_path
from lowland.reading import ReadError, parse_json, parse_toml, read_bytes
from lowland.registry import Plain

MAX_BYTES = 1_000_000  # of a file; a shipped recipe has two thousand


def read_values(path: Path, cure: str) -> Plain:
    """Read the values of a TOML file, or of a JSON file whose name says so.

    cure: the last clause of messages. Raises ConfigError for files that are missing, too large, not
    UTF-8, damaged, nested too deeply, or that hold no named values. Numbers are not judged here.
    """
    name = show_path(path)
    parse = parse_json if path.suffix == ".json" else parse_toml
    try:
        found = parse(read_bytes(path, most=MAX_BYTES), name, cure, bounds=False)
    except ReadError as error:
        raise ConfigError(str(error)) from None
    except OSError as error:
        raise ConfigError(f"{name} cannot be read: {error.strerror}; {cure}") from None
    except ValueError:
        raise ConfigError(f"{name} cannot be read: it holds a NUL; {cure}") from None
    if isinstance(found, dict):
        return found
    raise ConfigError(f"{name} holds a {type(found).__name__}; named values are needed; {cure}")
