"""Recipes are read strictly: what is right survives a round trip, what is wrong is named all at
once.
"""

import json
import math
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from lowland import read_recipe, registry
from lowland.config import (
    ConfigError,
    Recipe,
    parse_overrides,
    recipe_model,
    recipe_names,
    recipes_folder,
)
from lowland.domain import binary, box, real
from lowland.registry import build, registered

RECIPES = sorted(recipe_names())


def mistakes(source: Any, overrides: dict[str, Any] | None = None) -> list[str]:
    """The lines of a refusal, without its head, which must count them."""
    with pytest.raises(ConfigError) as caught:
        read_recipe(source, overrides)
    head, *lines = str(caught.value).splitlines()
    assert head.endswith(f"{len(lines)} mistake{'s' * (len(lines) > 1)}:"), head
    return [line.strip() for line in lines]


# ---------------------------------------------------------------------------------- what is shipped


def test_there_are_recipes() -> None:
    assert {"digits", "moons"} <= set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_every_shipped_recipe_reads_and_says_what_it_is(name: str) -> None:
    recipe = read_recipe(name)
    assert recipe.name == name and len(recipe.about) > 20
    assert recipe_names()[name] == recipe.about


@pytest.mark.parametrize("name", RECIPES)
def test_every_shipped_recipe_survives_toml_json_and_a_file(name: str, tmp_path: Path) -> None:
    recipe = read_recipe(name)
    plain = recipe.plain()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert read_recipe(plain).plain() == plain
    assert read_recipe(tomllib.loads(recipe.toml())).plain() == plain
    path = tmp_path / "mine.toml"
    path.write_text(recipe.toml(), encoding="utf-8")
    assert read_recipe(path).plain() == read_recipe(str(path)).plain() == plain


@pytest.mark.parametrize("name", RECIPES)
def test_every_shipped_recipe_can_be_built(name: str) -> None:
    """Defaults included, as a run stores them."""
    plain = read_recipe(name).plain()
    for section in ("objective", "sampler"):
        if plain[section] is not None:
            assert type(build(section, plain[section])).__name__ == plain[section]["name"]
    for how in (plain["generation"], plain["restoration"]):
        if how is not None and how["sampler"] is not None:
            assert type(build("sampler", how["sampler"])).__name__ == how["sampler"]["name"]
    grey, colour = box(0.0, 1.0, 1, 28, 28), box(0.0, 1.0, 3, 32, 32)
    for domain in (real(2), grey, colour, binary(1, 28, 28)):  # the first that the network takes
        try:
            assert (
                sum(
                    p.numel()
                    for p in build("energy", plain["energy"] | {"domain": domain}).parameters()
                )
                > 0
            )
            return
        except ValueError:
            continue
    pytest.fail("the energy could not be built")


def test_a_complete_recipe_names_every_setting() -> None:
    plain = read_recipe("moons").plain()
    assert (
        plain["training"]["warmup"] == 100 and plain["training"]["keep_checkpoints"] == 2
    )  # which moons.toml leaves to Training
    assert plain["evaluation"]["alpha"] == 0.05 and plain["objective"]["name"] == "PCD"
    assert set(plain) == set(Recipe.model_fields)


def test_words_with_quotes_and_other_scripts_survive_toml() -> None:
    about = 'A "quoted" \\ back\nslash, a tab\t, ∇ and 日本'
    recipe = read_recipe("moons", {"about": about})
    assert read_recipe(tomllib.loads(recipe.toml())).about == about


def test_a_setting_that_was_switched_off_survives_toml() -> None:
    """TOML has no null: clipping is switched off by 0, and no setting of training may be None."""
    recipe = read_recipe("moons", {"training.grad_clip_norm": 0})
    assert recipe.plain()["training"]["grad_clip_norm"] == 0.0
    assert read_recipe(tomllib.loads(recipe.toml())).plain() == recipe.plain()
    (line,) = mistakes("moons", {"training.grad_clip_norm": -1.0})
    assert "grad_clip_norm is -1.0" in line
    assert mistakes("moons", {"training.grad_clip_norm": None})


# ----------------------------------------------------------------------------------------- mistakes


def test_all_mistakes_are_reported_at_once_with_path_and_suggestion() -> None:
    lines = mistakes(
        "moons",
        {
            "trainng.steps": 3,
            "energy.hiden": [2],
            "training.steps": "many",
            "sampler.name": "MLA",
            "data.coun": 3,
            "objective.step": 3,
            "generation.sampler.step": 2,
            "evaluation.alpha": 2,
        },
    )
    expected = {
        "trainng": "did you mean 'training'?",
        "energy.MLP.hiden": "did you mean 'hidden'?",
        "training.steps": "'many' was given; it must be a whole number",
        "sampler": "did you mean 'MALA'?",
        "data.coun": "did you mean 'count'?",
        "objective.PCD.step": "did you mean 'steps'?",
        "generation.sampler.MALA.step": "did you mean 'step_size'?",
        "evaluation.alpha": "2 was given; it must be below 1",
    }
    assert len(lines) == len(expected)
    for path, hint in expected.items():
        (line,) = [line for line in lines if line.startswith(f"{path}: ")]
        assert hint in line


def test_a_key_that_resembles_nothing_gets_the_list() -> None:
    (line,) = mistakes("moons", {"evaluation.zzz": 1})
    assert line.startswith(
        "evaluation.zzz: no such key; allowed are alpha, classifier_steps, outlier_score, "
        "outliers, samples"
    )


@pytest.mark.parametrize("section", ["energy", "objective", "sampler", "generation.sampler"])
def test_unknown_and_missing_classes(section: str) -> None:
    kind = "sampler" if section.endswith("sampler") else section
    (line,) = mistakes("moons", {f"{section}.name": "Nonsense"})
    assert line.startswith(f"{section}: name is 'Nonsense'; allowed are ")
    allowed = [
        name
        for name, cls in registered(kind).items()
        if kind != "energy" or "domain" in registry.parameters(cls)
    ]
    assert all(name in line for name in allowed)
    values = read_recipe("moons").plain()
    target = values["generation"] if section.startswith("generation") else values
    del target[kind]["name"]
    (line,) = mistakes(values)
    assert line == f"{section}: name is missing; add name = ..."


@pytest.mark.parametrize(
    ("typed", "meant"), [("MPL", "MLP"), ("ConvNt", "ConvNet"), ("IGEB", "IGEBM")]
)
def test_a_misspelt_class_gets_a_suggestion(typed: str, meant: str) -> None:
    (line,) = mistakes("moons", {"energy.name": typed})
    assert line.endswith(f"did you mean {meant!r}?")


def test_targets_without_weights_cannot_be_trained() -> None:
    (line,) = mistakes("moons", {"energy.name": "Gaussian"})
    assert "allowed are" in line and "Banana" not in line


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", -1),
        ("seed", 1.5),
        ("seed", "zero"),
        ("name", ""),
        ("data", "moons"),
        ("data.count", 3),
        ("energy.hidden", 128),
        ("energy.hidden", ["wide"]),
        ("energy.quadratic_weight", "yes"),
        ("objective.buffer_size", 0.5),
        ("training.betas", [0.5]),
        ("training.dequantise", "perhaps"),
        ("training.on_failure", "pray"),
        ("generation.start", "here"),
        ("generation.temperatures", []),
        ("generation.temperatures", [0.0]),
        ("generation.steps", -1),
        ("evaluation.samples", 2),
        ("evaluation.outliers", "mnist"),
    ],
)
def test_wrong_types_and_ranges_are_named_by_path(key: str, value: Any) -> None:
    lines = mistakes("moons", {key: value})
    assert all(line.startswith(key.split(".")[0]) for line in lines)
    assert any(repr(value) in line or "given" in line or "missing" in line for line in lines)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("sampler.step_size", 0.0, "step_size is 0.0"),
        ("sampler.step_size", math.nan, "nan was given; it must be a finite number"),
        ("objective.steps", 0, "steps"),
        ("training.steps", 0, "steps is 0"),
        ("training.checkpoint_every", 15, "checkpoint_every is 15"),
        ("generation.sampler.step_size", -1.0, "step_size is -1.0"),
    ],
)
def test_what_a_constructor_refuses_the_recipe_refuses(key: str, value: Any, says: str) -> None:
    lines = mistakes("moons", {key: value})
    assert any(line.startswith(key.rpartition(".")[0]) and says in line for line in lines)


def test_training_reports_its_own_problems_together() -> None:
    (line,) = mistakes(
        "moons", {"training.steps": 0, "training.batch": 1, "training.ema_decay": 1.0}
    )
    assert all(part in line for part in ("steps is 0", "batch is 1", "ema_decay is 1.0"))


def test_an_empty_recipe_says_all_that_is_missing() -> None:
    lines = mistakes({})
    assert {"name", "data", "energy", "objective", "generation"} == {
        line.split(":")[0] for line in lines
    }
    assert all(line.endswith("missing; add it") for line in lines)


def test_a_recipe_without_a_sampler_is_for_objectives_that_run_no_chains() -> None:
    with pytest.raises(
        ConfigError, match="objective PCD runs chains and the recipe names no sampler"
    ):
        read_recipe("moons", {"sampler": None})
    assert read_recipe("moons-dsm", {"sampler": None}).sampler is None


def test_terms_are_a_list_of_tables_that_survives_toml() -> None:
    terms = [{"name": "EnergyL2", "weight": 0.1}, {"name": "EnergyL2", "weight": 0.2}]
    recipe = read_recipe("moons", {"terms": terms})
    assert (
        tomllib.loads(recipe.toml())["terms"] == recipe.plain()["terms"] and len(recipe.terms) == 2
    )
    with pytest.raises(ConfigError, match=r"terms.*EnergyL2"):
        read_recipe("moons", {"terms": [{"name": "EnergyL3"}]})


def test_unknown_recipes_and_files() -> None:
    with pytest.raises(ConfigError, match="did you mean 'moons'"):
        read_recipe("mons")
    with pytest.raises(
        ConfigError, match=r"there is no recipe '/nowhere/x.toml'; shipped are .*digits"
    ):
        read_recipe("/nowhere/x.toml")


def test_bad_toml_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text('name = "x"\n[data\n')
    with pytest.raises(
        ConfigError, match=r"broken.toml is damaged .*line 2.*; a recipe is a TOML file"
    ):
        read_recipe(path)
    path.write_bytes(b"\xff\xfe\x00name")
    with pytest.raises(ConfigError, match="is no UTF-8 text"):
        read_recipe(path)


def test_the_recipe_of_a_run_can_be_read_again(tmp_path: Path) -> None:
    recipe, path = read_recipe("digits", {"training.steps": 30}), tmp_path / "recipe.json"
    path.write_text(
        json.dumps({"format": 1, "versions": {}, "recipe": recipe.plain()}), encoding="utf-8"
    )
    assert read_recipe(path).plain() == recipe.plain()
    assert read_recipe(path, {"seed": 7}).plain() == recipe.plain() | {"seed": 7}


@pytest.mark.parametrize(
    "text", ["{", "{}", "[1]", "3", '{"recipe": {}}', '{"recipe": 3}', '{"recipe": [1]}']
)
def test_a_json_file_that_is_no_recipe_is_refused_in_words(tmp_path: Path, text: str) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(text)
    with pytest.raises(
        ConfigError, match=r"recipe.json (is no recipe|is damaged|holds a|has 5 mistakes)"
    ):
        read_recipe(path, {"training.steps": 3} if text != '{"recipe": {}}' else None)


def test_a_configuration_mistake_is_a_value_error() -> None:
    assert issubclass(ConfigError, ValueError)


# ---------------------------------------------------------------------------------------- overrides


def test_overrides_are_read_as_toml_or_words() -> None:
    pairs = [
        "training.steps=100",
        "sampler.clamp=[0, 1]",
        "data.name=mnist",
        "a.b=1e-3",
        "c=true",
        'd="x=y"',
        "e=x=y",
        "f=",
    ]
    assert parse_overrides(pairs) == {
        "training.steps": 100,
        "sampler.clamp": [0, 1],
        "data.name": "mnist",
        "a.b": 1e-3,
        "c": True,
        "d": "x=y",
        "e": "x=y",
        "f": "",
    }


@pytest.mark.parametrize("pair", ["training.steps", "=3", " =3"])
def test_an_override_needs_path_and_value(pair: str) -> None:
    with pytest.raises(ConfigError, match="it takes path=value"):
        parse_overrides([pair])


def test_overrides_change_only_what_they_name() -> None:
    before, after = (
        read_recipe("digits").plain(),
        read_recipe("digits", {"training.steps": 30, "seed": 7}).plain(),
    )
    assert (after["training"]["steps"], after["seed"]) == (30, 7)
    before["training"]["steps"], before["seed"] = 30, 7
    assert after == before


def test_plain_values_are_not_changed_by_overrides() -> None:
    values = read_recipe("digits").plain()
    copy = json.loads(json.dumps(values))
    read_recipe(
        values, {"training.steps": 30, "sampler.name": "MALA", "sampler.step_size": 0.1, "seed": 3}
    )
    assert values == copy


def test_another_class_starts_without_the_old_ones_keys() -> None:
    recipe = read_recipe(
        "digits", {"sampler.name": "HMC", "sampler.step_size": 0.1, "sampler.num_leapfrog_steps": 4}
    )
    assert recipe.plain()["sampler"] == {
        "name": "HMC",
        "step_size": 0.1,
        "num_leapfrog_steps": 4,
        "inv_mass_sqrt": None,
        "jitter": 0.0,
    }
    (line,) = mistakes("digits", {"sampler.name": "MALA"})
    assert line == "sampler.MALA.step_size: missing; add it"
    same = read_recipe("digits", {"sampler.name": "Langevin"})  # the class it already is
    assert same.plain()["sampler"] == read_recipe("digits").plain()["sampler"]


def test_the_order_of_overrides_does_not_matter() -> None:
    values = {"sampler.step_size": 0.2, "sampler.name": "MALA"}
    assert read_recipe("digits", values).plain()["sampler"] == {
        "name": "MALA",
        "step_size": 0.2,
        "inv_mass_sqrt": None,
    }


def test_an_override_below_a_value_is_refused() -> None:
    with pytest.raises(ConfigError, match="steps is a value, not a section"):
        read_recipe("moons", {"training.steps.x": 1})


def test_an_override_can_add_a_section() -> None:
    given = {
        "restoration.sampler.name": "MALA",
        "restoration.sampler.step_size": 0.1,
        "restoration.sigma": 0.2,
    }
    recipe = read_recipe("moons", given)
    assert recipe.plain()["restoration"]["sampler"] == {
        "name": "MALA",
        "step_size": 0.1,
        "inv_mass_sqrt": None,
    }
    assert recipe.plain()["restoration"]["sigma"] == 0.2


# -------------------------------------------------------------------------------------- new classes


@dataclass(frozen=True)
class Meander:
    """A sampler that someone else registers."""

    step_size: float
    bends: int = 3
    num_grad_evals: ClassVar[int] = 1
    adjusted: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.bends < 1:
            raise ValueError(f"bends is {self.bends}; a river has at least 1; add one")


@pytest.fixture
def clean_registry() -> Iterator[None]:
    """Whatever is registered inside is forgotten."""
    before = dict(registered("sampler"))
    yield
    registry._classes["sampler"].clear()
    registry._classes["sampler"].update(before)


@pytest.mark.usefixtures("clean_registry")
def test_a_new_class_can_be_named_in_a_recipe() -> None:
    registry.register("sampler")(Meander)
    given = {"sampler.name": "Meander", "sampler.step_size": 0.1}
    recipe = read_recipe("moons", given)
    assert recipe.plain()["sampler"] == {"name": "Meander", "step_size": 0.1, "bends": 3}
    assert build("sampler", recipe.plain()["sampler"]) == Meander(0.1)
    assert read_recipe(tomllib.loads(recipe.toml())).plain() == recipe.plain()
    (line,) = mistakes("moons", given | {"sampler.bend": 2})
    assert line.endswith("did you mean 'bends'?")
    (line,) = mistakes("moons", given | {"sampler.bends": 0})
    assert "a river has at least 1" in line


@pytest.mark.usefixtures("clean_registry")
def test_a_new_class_can_be_named_at_once() -> None:
    read_recipe("moons")
    registry.register("sampler")(Meander)
    assert (
        read_recipe("moons", {"sampler.name": "Meander", "sampler.step_size": 0.1}).plain()[
            "sampler"
        ]["bends"]
        == 3
    )


def test_the_model_of_recipes_is_made_once_for_what_is_registered() -> None:
    assert recipe_model() is recipe_model()


def test_the_registry_is_clean_again() -> None:
    assert "Meander" not in registered("sampler")
    with pytest.raises(ConfigError, match="name is 'Meander'"):
        read_recipe("moons", {"sampler.name": "Meander"})


def test_recipes_lie_in_one_folder() -> None:
    assert {path.stem for path in recipes_folder().glob("*.toml")} == set(RECIPES)
