"""Say of each mistake in a recipe where it is, what is allowed and what to do."""

from collections.abc import Sequence
from typing import get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from lowland.config.recipe import recipe_model
from lowland.config.strictness import show
from lowland.registry import Plain, suggest

NEEDS = {
    "int": "a whole number",
    "float": "a number",
    "finite_number": "a finite number",
    "bool": "true or false",
    "string": "text",
    "list": "a list",
    "tuple": "a list",
    "sequence_str": "a list",
    "model": "a section",
    "dict": "a section",
    "is_instance_of": "a list",
}
BOUNDS = {
    "greater_than_equal": "at least {ge}",
    "greater_than": "above {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "below {lt}",
    "literal_error": "{expected}",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
    "string_too_long": "a text of at most {max_length} characters",
}


def explain(problem: ErrorDetails) -> str:
    """Say in a line what is wrong, and where."""
    place, kind = problem["loc"], problem["type"]
    path = ".".join(_print(str(part)) for part in place) or "recipe"
    if kind in ("own_words", "value_error"):
        return f"{path}: {problem['msg'].removeprefix('Value error, ')}"
    if kind == "extra_forbidden":
        allowed = _list_keys(place[:-1])
        otherwise = f"allowed are {', '.join(sorted(allowed))}"
        return f"{path}: no such key; {suggest(str(place[-1]), allowed, otherwise)}"
    if kind == "missing":
        return f"{path}: missing; add it"
    if kind.startswith("union_tag"):
        return f"{path}: {_explain_name(problem.get('ctx', {}))}"
    return f"{path}: {show(problem['input'])} was given; it must be {_need(problem)}; correct it"


def _need(problem: ErrorDetails) -> str:
    """Say what a value must be: by its bound, or by its kind."""
    kind, context = problem["type"], problem.get("ctx", {})
    if kind in BOUNDS:
        return BOUNDS[kind].format(**context)
    found = [words for start, words in NEEDS.items() if kind.startswith(start)]
    return found[0] if found else f"otherwise ({problem['msg']})"


def _print(part: str) -> str:
    """Return a key as text that is safe to print."""
    return part if part.isprintable() and len(part) <= 60 else show(part)


def _explain_name(context: Plain) -> str:
    """Say which names a section may have, in place of the one that it has."""
    expected, name = context.get("expected_tags", "").replace("'", ""), context.get("tag", "")
    given = f"name is {show(name)}" if name else "name is missing"
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
