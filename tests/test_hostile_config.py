"""Recipes that cannot be right: every number of every section, names, nests and odd sources."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import numpy as np
import pytest
import torch

from lowland import read_recipe
from lowland.config import ConfigError, parse_overrides, recipe_model
from lowland.registry import registered

LISTS = {"Sequence", "class 'list", "class 'tuple"}
FREE = {"low", "high"}  # settings that may be below 0


def kinds_of(annotation: Any) -> set[type]:
    """The kinds of number that a setting or its list holds."""
    if annotation in (int, float, bool):
        return {annotation}
    if get_origin(annotation) in (Union, UnionType, list, tuple) or get_args(annotation):
        return set().union(*(kinds_of(part) for part in get_args(annotation)))
    return set()


def takes_list(annotation: Any) -> bool:
    inner = [annotation, *get_args(annotation)]
    return any(str(get_origin(one)).split(".")[-1].strip("<>'") in LISTS for one in inner)


def numeric_fields() -> Iterator[tuple[str, str, str, set[type], bool]]:
    """Every section, class and setting of the schema that holds numbers."""
    model = recipe_model()
    classes = {
        "energy": [n for n, c in registered("energy").items() if hasattr(c, "init_from_data")],
        "objective": sorted(registered("objective")),
        "sampler": sorted(registered("sampler")),
    }
    for section, field in model.model_fields.items():
        if section in classes or section == "terms":
            continue
        inner = [m for m in (field.annotation, *get_args(field.annotation)) if _is_model(m)]
        fields = inner[0].model_fields if inner else {section: field}
        for name, one in fields.items():
            if kinds := kinds_of(one.annotation):
                key = f"{section}.{name}" if inner else section
                yield section, "", key, kinds, takes_list(one.annotation)
    for section in (*classes, "generation.sampler", "terms"):
        yield from class_fields(section)


def class_fields(section: str) -> Iterator[tuple[str, str, str, set[type], bool]]:
    kind = {"generation.sampler": "sampler", "terms": "term"}.get(section, section)
    for name, cls in registered(kind).items():
        annotations = {
            n: p.annotation for n, p in __import__("inspect").signature(cls).parameters.items()
        }
        if kind == "energy" and "domain" not in annotations:
            continue
        for setting, annotation in annotations.items():
            if setting != "domain" and (kinds := kinds_of(annotation)):
                yield section, name, f"{section}.{setting}", kinds, takes_list(annotation)


def _is_model(value: Any) -> bool:
    return hasattr(value, "model_fields")


def wrong_values(kinds: set[type], name: str) -> list[Any]:
    if kinds == {bool}:
        return [1, 0, "true", 1.0, math.nan]
    wrong: list[Any] = [True, "3", math.inf, -math.inf, math.nan, 10**30, 1e30, 10**400]
    if name not in FREE:
        wrong.append(-1)
    return [*wrong, 3.0, 2.5] if float not in kinds else wrong


def mistakes(overrides: Mapping[str, Any]) -> list[str]:
    values = dict(overrides)
    if any(key.startswith("restoration.") for key in values):
        values = {"restoration.sampler": {"name": "MALA", "step_size": 0.1}} | values
    with pytest.raises(ConfigError) as caught:
        read_recipe("moons", values)
    return str(caught.value).splitlines()[1:]


@pytest.mark.parametrize(
    "turn", [2, *(pytest.param(turn, marks=pytest.mark.slow) for turn in (0, 1, 3, 4, 5, 6, 7, 8))]
)
def test_every_number_of_every_section_and_class_is_read_strictly(turn: int) -> None:
    """All numbers of a class are wrong at once, in one way after the other; each is named."""
    groups: dict[tuple[str, str], list[tuple[str, set[type], bool]]] = {}
    for section, cls, key, kinds, many in numeric_fields():
        groups.setdefault((section, cls), []).append((key, kinds, many))
    assert len(groups) > 60
    for (section, cls), fields in groups.items():
        wrong = {key: (wrong_values(kinds, key), many) for key, kinds, many in fields}
        given = {
            k: [v[turn % len(v)]] if many else v[turn % len(v)] for k, (v, many) in wrong.items()
        }
        if section == "terms":
            values = {key.removeprefix("terms."): value for key, value in given.items()}
            lines = mistakes({"terms": [{"name": cls, **values}]})
        else:
            inner = {"name": "MALA", "step_size": 0.1}
            more = {f"{section}.sampler": inner} if cls == "ParallelTempering" else {}
            lines = mistakes(({f"{section}.name": cls} if cls else {}) | more | given)
        for key in given:
            name = key.rpartition(".")[2]
            words = (name, name.removesuffix("s").replace("_", " "))  # or "a temperature is ..."
            named = any(word in line for line in lines for word in words)
            assert named, (cls, key, given[key], lines)
        assert all(len(line) < 600 and line.isprintable() for line in lines)


def test_numbers_of_numpy_and_torch_are_numbers() -> None:
    given = {
        "seed": np.int64(3),
        "training.steps": torch.tensor(7),
        "training.learning_rate": np.float32(0.5),
        "training.betas": np.array([0.25, 0.5]),
        "training.compile": np.bool_(False),
        "energy.hidden": (np.int32(4), 5),
        "data.root": Path("data"),
    }
    plain = read_recipe("moons", given).plain()
    assert plain["seed"] == 3 and plain["training"]["steps"] == 7
    assert plain["training"]["learning_rate"] == 0.5 and plain["training"]["betas"] == [0.25, 0.5]
    assert plain["energy"]["hidden"] == [4, 5] and plain["data"]["root"] == "data"
    assert json.loads(json.dumps(plain)) == plain
    assert "training.steps: True" in mistakes({"training.steps": np.bool_(True)})[0]


def test_a_constructor_and_the_schema_name_all_mistakes_at_once() -> None:
    lines = mistakes(
        {
            "energy.hidden": [],
            "energy.classes": "two",
            "sampler.step_size": -1.0,
            "objective.steps": 0,
            "objective.l2": -1.0,
            "training.steps": 0,
            "training.batch": "many",
            "generation.sampler.step_size": math.nan,
            "evaluation.samples": 10**9,
            "name": "a/b",
        }
    )
    for name in (
        "hidden has 0",
        "classes",
        "sampler.MALA: step_size",
        "steps is 0",
        "l2",
        "batch",
        "nan",
    ):
        assert any(name in line for line in lines), (name, lines)
    assert any("samples" in line for line in lines) and any("folder" in line for line in lines)
    assert len(lines) >= 9


def test_sections_are_compared_also_where_a_number_is_wrong() -> None:
    lines = mistakes(
        {"data.binarize": "threshold", "training.dequantise": True, "training.steps": "x"}
    )
    assert len(lines) == 2 and "no grey levels to spread" in lines[1]


@pytest.mark.parametrize(
    "name",
    [
        "../../escaped", "/absolute", "..", ".", "a/b", "a\\b", "/" * 80, "a\nb", "a\0b", "x" * 300,
        "-rf", "\x1b[2Jx", "con", "NUL", "com1.txt", " x", "x ", "x.", "a:b", "a*", "~", "", "‮x",
        "日" * 80,
    ],
)  # fmt: skip
def test_names_that_are_no_folder_are_refused(name: str) -> None:
    (line,) = mistakes({"name": name})
    assert line.startswith("  name: ") and line.count(";") >= 2 and line.isprintable()


def test_names_of_other_scripts_are_names() -> None:
    for name in ("moons-2", "Zürich 3", "日本", "a.b_c", "x" * 80):
        assert read_recipe("moons", {"name": name}).name == name


@pytest.mark.parametrize("depth", [40, 5000, 100_000])
def test_nested_files_and_values_are_refused(depth: int, tmp_path: Path) -> None:
    nest = "[" * depth + "]" * depth
    (tmp_path / "r.toml").write_text(f"x = {nest}")
    (tmp_path / "r.json").write_text('{"recipe": {"x": ' + nest + "}}")
    for name in ("r.toml", "r.json"):
        with pytest.raises(ConfigError):
            read_recipe(tmp_path / name)
    with pytest.raises(ConfigError):
        read_recipe("moons", parse_overrides([f"training.steps={nest}"]))
    deep: Any = 1
    for _ in range(depth):
        deep = {"a": deep}
    with pytest.raises(ConfigError, match="nest deeper"):
        read_recipe(deep)
    with pytest.raises(ConfigError):
        read_recipe("moons", {".".join(["a"] * depth): 1})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"\xff\xfe", "UTF-8"),
        (b"a = 1\na = 2", "damaged"),
        (b"x" * 2_000_000, "bytes"),
        (b"training = {learning_rate = inf}", "training.learning_rate: inf"),
        (b"seed = " + b"9" * 5000, "."),
    ],
)
def test_files_that_are_no_recipe(text: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_bytes(text)
    with pytest.raises(ConfigError, match=says):
        read_recipe(tmp_path / "r.toml")


def test_a_mark_at_the_start_of_a_file_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(read_recipe("moons").toml().replace("\n", "\r\n"), encoding="utf-8-sig")
    assert read_recipe(path).plain() == read_recipe("moons").plain()


@pytest.mark.parametrize("source", [None, 3, ["moons"], b"moons", "x" * 300, "a\0b", "", ".", {}])
def test_sources_that_are_no_recipe(source: Any) -> None:
    with pytest.raises(ConfigError):
        read_recipe(source)


def test_a_recipe_that_was_read_is_a_recipe() -> None:
    recipe = read_recipe("moons", {"seed": 3})
    assert read_recipe(recipe, {"training.steps": 5}).seed == 3
