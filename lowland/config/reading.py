"""Read a recipe from a name, a file or plain values, and explain every mistake in it."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from lowland.config.recipe import Recipe, recipe_model
from lowland.config.sections import ConfigError
from lowland.registry import Plain, suggest


def recipes_folder() -> Path:
    """Return the folder of shipped recipes: inside the wheel, or beside the package."""
    inside = Path(__file__).parents[1] / "recipes"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "recipes"


def recipe_names() -> dict[str, str]:
    """Return the line of description of every shipped recipe, by name."""
    return {
        path.stem: str(tomllib.loads(path.read_text()).get("about", ""))
        for path in sorted(recipes_folder().glob("*.toml"), key=lambda path: path.stem)
    }


def read_recipe(
    source: str | Path | Mapping[str, object], overrides: Mapping[str, object] | None = None
) -> Recipe:
    """Read a recipe: the name of a shipped one, the path of a TOML file or of a run's recipe.json,
    or plain values.

    overrides: {"training.steps": 100, ...}, applied before checking. Raises ConfigError, a
    ValueError, that lists every mistake with its path.

    >>> read_recipe("digits", {"training.steps": 50}).training.steps
    50
    """
    if isinstance(source, Mapping):
        origin, values = "the recipe", dict(source)
    else:
        origin, values = str(source), _read(_find(str(source)))
    classes_first = sorted(
        (overrides or {}).items(), key=lambda item: not item[0].endswith(".name")
    )
    for key, value in classes_first:
        _put(values, key, value)
    try:
        return recipe_model().model_validate(values)
    except ValidationError as error:
        lines = [f"  {_explain(problem)}" for problem in error.errors()]
        many = "1 mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
        raise ConfigError("\n".join([f"{origin} has {many}:", *lines])) from None


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
        try:
            found[key.strip()] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            found[key.strip()] = text
    return found


def _read(path: Path) -> Plain:
    """Read a recipe in TOML, or the recipe.json of a run."""
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix != ".json":
            return tomllib.loads(text)
        found = json.loads(text)
        if isinstance(found, dict) and isinstance(found.get("recipe"), dict):
            return found["recipe"]
        problem = "no section 'recipe' in it"
    except ValueError as error:
        problem = str(error)
    raise ConfigError(
        f"{path} is no recipe: {problem}; a recipe is a TOML file, or the recipe.json of a run; "
        "correct it"
    )


def _find(name: str) -> Path:
    shipped = recipes_folder() / f"{name}.toml"
    if shipped.is_file():
        return shipped
    if Path(name).is_file():
        return Path(name)
    names = list(recipe_names())
    hint = suggest(name, names, "`lowland recipes` lists them")
    raise ConfigError(
        f"there is no recipe {name!r}; shipped are {', '.join(names)}, or give a .toml file; {hint}"
    )


def _put(values: Plain, key: str, value: object) -> None:
    """Set the value at a path such as "training.steps"."""
    *path, last = key.split(".")
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


def _explain(problem: ErrorDetails) -> str:
    """Say in a line what is wrong, and where."""
    place, message = problem["loc"], problem["msg"].removeprefix("Value error, ")
    path = ".".join(map(str, place)) or "recipe"
    if problem["type"] == "extra_forbidden":
        allowed = _list_keys(place[:-1])
        otherwise = f"allowed are {', '.join(sorted(allowed))}"
        return f"{path}: no such key; {suggest(str(place[-1]), allowed, otherwise)}"
    if problem["type"] == "missing":
        return f"{path}: missing; add it"
    if problem["type"].startswith("union_tag"):
        return f"{path}: {_explain_name(problem.get('ctx', {}))}"
    if not place:
        return f"{path}: {message}"
    return f"{path}: {message} (given: {problem['input']!r})"


def _explain_name(context: Plain) -> str:
    """Say which names a section may have, in place of the one that it has."""
    expected, name = context.get("expected_tags", "").replace("'", ""), context.get("tag", "")
    given = f"name is {name!r}" if name else "name is missing"
    if not expected:
        return f"{given}; add name = ..."
    hint = suggest(name, expected.split(", "), "choose one of them")
    return f"{given}; allowed are {expected}; {hint}"


def _list_keys(path: Sequence[int | str]) -> list[str]:
    """List the keys that may stand at a path of the recipe; a class is a part of the path too."""
    models: list[type[BaseModel]] = [recipe_model()]
    for part in path:
        named = [model for model in models if model.__name__ == part]
        fields = [m.model_fields[str(part)] for m in models if str(part) in m.model_fields]
        models = named or [model for field in fields for model in _models_in(field.annotation)]
    if len(models) != 1:
        return []
    return list(models[0].model_fields)


def _models_in(annotation: object) -> list[type[BaseModel]]:
    """List the models in an annotation such as `A | B | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models_in(inner)]
