"""Recipes with wrong numbers, types and names: read as they say, or refused by key."""

import math
import tomllib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st

import lowland
from lowland.registry import Plain
from tests.fuzz.outcomes import explore, judge

MANY = [25, pytest.param(300, marks=pytest.mark.slow)]
NAMES = ("moons", "digits", "digits-rbm")
VALUES = (
    True, False, 0, 1, -1, 3, 2.5, 10**30, math.inf, -math.inf, math.nan, "3", "", "x" * 300,
    "../../x", "/abs", "a\nb", "\x1b[31m", None, [], [1], [True], [math.inf], [[1]], {},
    {"name": "x"},
    {"name": "MALA", "step_size": True}, np.int64(3), np.float32(0.5), 1e-300, 0.1,
)  # fmt: skip


def list_keys(values: Plain, at: str = "") -> list[str]:
    """List the paths of all values of a recipe, sections too."""
    found = []
    for key, value in values.items():
        found.append(at + key)
        if isinstance(value, dict):
            found += list_keys(value, f"{at}{key}.")
    return found


def look_up(values: Plain, key: str) -> object:
    """Return the value at a path."""
    for part in key.split("."):
        values = values[part]
    return values


def equal(found: object, given: object) -> bool:
    """Return whether a value was taken as what it is: not True for 1, nor "3" for 3."""
    if isinstance(given, np.generic):
        given = given.item()
    if isinstance(given, bool) or isinstance(found, bool):
        return found is given
    if isinstance(given, (list, tuple)) and isinstance(found, (list, tuple)):
        return len(given) == len(found) and all(map(equal, found, given))
    if isinstance(given, dict) and isinstance(found, dict):
        return all(key in found and equal(found[key], value) for key, value in given.items())
    return (type(found) is type(given) and found == given) or (
        isinstance(found, float) and isinstance(given, int) and found == given
    )


@cache
def keys_of(name: str) -> list[str]:
    """List the paths of all values of a recipe that comes along."""
    return list_keys(lowland.read_recipe(name).plain())


@pytest.mark.parametrize("examples", MANY)
def test_values_of_recipes(examples: int) -> None:
    def check(case: tuple[str, int, object]) -> None:
        name, which, value = case
        keys = keys_of(name)
        key = keys[which % len(keys)]

        def find_error(recipe: lowland.config.Recipe) -> str:
            found = look_up(recipe.plain(), key)
            if isinstance(value, float) and not math.isfinite(value):
                return f"{key} = {value!r} was taken"
            return "" if equal(found, value) else f"{key} = {value!r} was read as {found!r}"

        judge("value of a recipe", lambda: lowland.read_recipe(name, {key: value}), find_error)

    explore(
        st.tuples(st.sampled_from(NAMES), st.integers(0, 200), st.sampled_from(VALUES)),
        check,
        examples,
    )


@pytest.mark.parametrize("examples", MANY)
def test_recipe_files_that_were_damaged(examples: int, tmp_path: Path) -> None:
    import random

    from tests.fuzz.mutations import mutate

    text = lowland.read_recipe("moons").toml().encode()
    path = tmp_path / "r.toml"

    def check(seed: int) -> None:
        path.write_bytes(mutate(text, random.Random(seed)))

        def find_error(recipe: lowland.config.Recipe) -> str:
            given = tomllib.loads(path.read_bytes().decode())
            return "" if equal(recipe.plain(), given) else "the recipe is not what the file says"

        judge("damaged recipe", lambda: lowland.read_recipe(path), find_error)

    explore(st.integers(0, 10**6), check, examples)
