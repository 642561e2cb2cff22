"""Read a recipe from a name, a file or plain values, and explain every mistake in it."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Union

from pydantic import BaseModel, ValidationError

from lowland.config.recipe import Recipe, recipe_model
from lowland.config.sections import ConfigError


def recipes_folder() -> Path:
    """Where the shipped recipes lie: inside the wheel, or beside the package in a checkout."""
    inside = Path(__file__).parents[1] / "recipes"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "recipes"


def recipe_names() -> dict[str, str]:
    """Shipped recipes: name to its line of description."""
    return {
        path.stem: str(tomllib.loads(path.read_text()).get("about", ""))
        for path in sorted(recipes_folder().glob("*.toml"), key=lambda path: path.stem)
    }


def read_recipe(
    source: str | Path | Mapping[str, Any], overrides: Mapping[str, Any] | None = None
) -> Recipe:
    """Read a recipe: the name of a shipped one, the path of a TOML file or of a run's recipe.json,
    or plain values.

    overrides: {"training.steps": 100, ...}, applied before checking. Raises ConfigError, a
    ValueError, that lists every mistake with its path.

    >>> read_recipe("digits", {"training.steps": 50}).training.steps
    50
    """
    if isinstance(source, Mapping):
        values, origin = dict(source), "the recipe"
    else:
        path = _find(str(source))
        origin = str(source)
        try:
            values = _read(path)
        except (
            tomllib.TOMLDecodeError,
            json.JSONDecodeError,
            KeyError,
            TypeError,
            UnicodeDecodeError,
        ) as error:
            raise ConfigError(
                f"{path} is no recipe: {error}; a recipe is a TOML file, or the recipe.json of a "
                "run; correct it"
            ) from None
    overrides = overrides or {}
    for key, value in sorted(
        overrides.items(), key=lambda item: not item[0].endswith(".name")
    ):  # a class first, then its values
        _put(values, key, value)
    try:
        return recipe_model().model_validate(values)
    except ValidationError as error:
        lines = [_explain(problem) for problem in error.errors()]
        many = "1 mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
        raise ConfigError(
            f"{origin} has {many}:\n" + "\n".join(f"  {line}" for line in lines)
        ) from None


def parse_overrides(pairs: Sequence[str]) -> dict[str, Any]:
    """`--set a.b=c` arguments as overrides; the value is read as TOML, else taken as a word.

    >>> parse_overrides(["training.steps=100", "sampler.clamp=[0, 1]", "data.name=mnist"])
    {'training.steps': 100, 'sampler.clamp': [0, 1], 'data.name': 'mnist'}
    """
    found: dict[str, Any] = {}
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


def _read(path: Path) -> dict[str, Any]:
    """A recipe in TOML, or the recipe.json of a run."""
    if path.suffix == ".json":
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or not isinstance(found.get("recipe"), dict):
            raise TypeError("no section 'recipe' in it")
        return found["recipe"]
    return tomllib.loads(path.read_text())


def _find(name: str) -> Path:
    shipped = recipes_folder() / f"{name}.toml"
    if shipped.is_file():
        return shipped
    if Path(name).is_file():
        return Path(name)
    names = list(recipe_names())
    near = get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "`lowland recipes` lists them"
    raise ConfigError(
        f"there is no recipe {name!r}; shipped are {', '.join(names)}, or give a .toml file; {hint}"
    )


def _put(values: dict[str, Any], key: str, value: Any) -> None:
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


def _explain(problem: Any) -> str:
    path = ".".join(str(part) for part in problem["loc"]) or "recipe"
    kind, message = problem["type"], problem["msg"].removeprefix("Value error, ")
    if kind == "extra_forbidden":
        allowed = _allowed(problem["loc"][:-1])
        near = get_close_matches(str(problem["loc"][-1]), allowed, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"allowed are {', '.join(sorted(allowed))}"
        return f"{path}: no such key; {hint}"
    if kind == "missing":
        return f"{path}: missing; add it"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        context = problem["ctx"]
        expected = str(context.get("expected_tags", "")).replace("'", "")
        tag = str(context.get("tag", ""))
        near = get_close_matches(tag, expected.split(", "), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        given = f"name is {tag!r}" if tag else "name is missing"
        return f"{path}: {given}; " + (
            f"allowed are {expected}{hint}" if expected else "add name = ..."
        )
    return f"{path}: {message}" + (f" (given: {problem['input']!r})" if problem["loc"] else "")


def _allowed(path: Sequence[Any]) -> list[str]:
    """The keys that may stand at a path of the recipe."""
    model: Any = recipe_model()
    for part in path:
        models = (
            _models_in(model.model_fields[part].annotation)
            if part in getattr(model, "model_fields", {})
            else []
        )
        chosen = [m for m in _models_in(model) if m.__name__ == part] or models
        if not chosen:
            return []
        model = chosen[0] if len(chosen) == 1 else Union[tuple(chosen)]  # noqa: UP007
    return list(getattr(model, "model_fields", {}))


def _models_in(annotation: Any) -> list[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for inner in getattr(annotation, "__args__", ()) for m in _models_in(inner)]
