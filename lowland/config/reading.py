"""Read a recipe from a name, a file or plain values, and explain every mistake in it."""

import tomllib
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Protocol, runtime_checkable

from pydantic import ValidationError

from lowland.config.explanations import explain
from lowland.config.files import read_values
from lowland.config.recipe import Recipe, recipe_model
from lowland.config.sections import ConfigError
from lowland.config.strictness import show, show_path
from lowland.registry import Plain, suggest

MAX_LINES = 50  # of mistakes that are printed
MAX_DEPTH = 16  # of values inside values; a recipe has five
CURE = "a recipe is a TOML file, or the recipe.json of a run; correct it"


@runtime_checkable
class Numbers(Protocol):
    """An array, a tensor or a number of NumPy."""

    def tolist(self) -> object: ...


def recipes_folder() -> Path:
    """Return the folder of shipped recipes: inside the wheel, or beside the package."""
    inside = Path(__file__).parents[1] / "recipes"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "recipes"


def recipe_names() -> dict[str, str]:
    """Return the line of description of every shipped recipe, by name."""
    return {
        path.stem: str(tomllib.loads(path.read_text("utf-8")).get("about", ""))
        for path in sorted(recipes_folder().glob("*.toml"), key=lambda path: path.stem)
    }


def read_recipe(
    source: str | PathLike[str] | Mapping[str, object] | Recipe,
    overrides: Mapping[str, object] | None = None,
) -> Recipe:
    """Read a recipe: the name of a shipped one, the path of a TOML file or of a run's recipe.json,
    plain values, or a recipe that was read.

    overrides: {"training.steps": 100, ...}, applied before checking. Numbers of NumPy and tensors
    of one number are taken for numbers; text and booleans are not. Raises ConfigError, a
    ValueError, that lists every mistake with its path.

    >>> read_recipe("digits", {"training.steps": 50}).training.steps
    50
    """
    origin, values = _read_source(source)
    if overrides is not None and not isinstance(overrides, Mapping):
        raise ConfigError(
            f"overrides are {show(overrides)}; a mapping from paths to values is needed; pass for "
            "example {'training.steps': 100}"
        )
    own = _data_name(values)
    pairs = [(str(key), value) for key, value in (overrides or {}).items()]
    for key, value in sorted(pairs, key=lambda pair: not pair[0].endswith(".name")):
        _put(values, key, value)
    if _data_name(values) != own and "about" not in dict(pairs):
        values["about"] = f"Trained on {_data_name(values)} with the settings of {origin}."
    try:
        _check_depth(values)
    except ValueError as error:
        raise ConfigError(
            f"{origin} is no recipe: {error}; `lowland recipes show moons` prints one; correct it"
        ) from None
    try:
        return recipe_model().model_validate(_to_plain(values))
    except ValidationError as error:
        lines = [f"  {explain(problem)}" for problem in error.errors()]
    many = "1 mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
    if len(lines) > MAX_LINES:
        lines = [*lines[:MAX_LINES], f"  ... and {len(lines) - MAX_LINES} more"]
    raise ConfigError("\n".join([f"{origin} has {many}:", *lines]))


def _data_name(values: Plain) -> str:
    """Return the name of the data of a recipe, to which its description belongs."""
    data = values.get("data")
    return show_path(Path(str(data.get("name", "")))) if isinstance(data, Mapping) else ""


def _read_source(source: object) -> tuple[str, Plain]:
    """Return what a recipe is called in messages, and its values as they stand."""
    if isinstance(source, Recipe):
        return "the recipe", source.plain()
    if isinstance(source, Mapping):
        return "the recipe", {str(key): value for key, value in source.items()}
    if isinstance(source, str | PathLike):
        path = _find(str(source))
        return show_path(Path(str(source))), _read(path)
    raise ConfigError(
        f"the recipe is {show(source)}; it is the name of a shipped one, the path of a file or a "
        "mapping of plain values; pass one of these"
    )


def _check_depth(values: object) -> None:
    """Raise ValueError for values inside values beyond a depth of 16."""
    level = [values]
    for _ in range(MAX_DEPTH):
        inner = [part for part in level if isinstance(part, Mapping | list | tuple)]
        if not inner:
            return
        level = [
            x for part in inner for x in (part.values() if isinstance(part, Mapping) else part)
        ]
    raise ValueError(f"its values nest deeper than {MAX_DEPTH}")


def _to_plain(value: object) -> object:
    """Return values as TOML has them: numbers of NumPy and of tensors as Python's, sequences as
    lists, paths as text; others as they are.
    """
    if isinstance(value, Mapping):
        return {str(key): _to_plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | range):
        return [_to_plain(inner) for inner in value]
    if isinstance(value, PathLike):
        return str(value)
    if isinstance(value, Numbers):
        return value.tolist()
    return value


def parse_overrides(pairs: Sequence[str]) -> Plain:
    """Read `--set a.b=c` arguments as overrides; values are TOML, or else words.

    >>> parse_overrides(["training.steps=100", "sampler.clamp=[0, 1]", "data.name=mnist"])
    {'training.steps': 100, 'sampler.clamp': [0, 1], 'data.name': 'mnist'}
    """
    found: Plain = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            raise ConfigError(
                f"--set was given {pair!r}; it takes path=value; write for example "
                "training.steps=100"
            )
        found[key.strip()] = _read_override(key.strip(), text)
    return found


def _read_override(key: str, text: str) -> object:
    """Read one value as TOML, or else as words."""
    try:
        read = tomllib.loads(f"value = {text}")
        _check_depth(read)
    except RecursionError:
        raise ConfigError(
            f"--set {key} nests deeper than {MAX_DEPTH}; a value is a number, words or a list; "
            "write less brackets"
        ) from None
    except ValueError:
        return text
    return read["value"] if len(read) == 1 else text  # several lines are words


def _read(path: Path) -> Plain:
    """Read a recipe in TOML, or the recipe.json of a run."""
    found = read_values(path, CURE)
    if path.suffix != ".json":
        return found
    if isinstance(found.get("recipe"), dict):
        return dict(found["recipe"])
    raise ConfigError(f"{show_path(path)} is no recipe: no section 'recipe' in it; {CURE}")


def _find(name: str) -> Path:
    names = list(recipe_names())
    if name in names:
        return recipes_folder() / f"{name}.toml"
    try:
        if Path(name).is_file():
            return Path(name)
    except (OSError, ValueError):  # a name too long for a file, or with a NUL
        pass
    hint = suggest(name, names, "`lowland recipes` lists them")
    raise ConfigError(
        f"there is no recipe {show(name)}; shipped are {', '.join(names)}, or give a .toml file; "
        f"{hint}"
    )


def _put(values: Plain, key: str, value: object) -> None:
    """Set the value at a path such as "training.steps"."""
    *path, last = key.split(".")
    if len(path) >= MAX_DEPTH:
        raise ConfigError(
            f"--set {show(key)} has {len(path) + 1} parts; a recipe nests no deeper than "
            f"{MAX_DEPTH}; see `recipes`"
        )
    for part in path:
        inner = values.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ConfigError(
                f"--set {key}: {part} is a value, not a section; give the path of a value; see "
                "`recipes`"
            )
        values[part] = dict(inner)
        values = values[part]
    if last == "name" and values.get("name") != value and path:
        values.clear()  # another class: what belonged to the old one does not belong to it
    values[last] = value
