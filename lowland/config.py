"""Recipes: a TOML file that says everything about a run, read strictly.

The models for energies, objectives and samplers are made from the registry, one per class and told
apart by `name`, so a newly registered class can be named in a recipe at once. Unknown keys are
refused; all mistakes are reported together, each with its path and, where one is near, the name
that was probably meant.
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)

from lowland.registry import KINDS, parameters, registered
from lowland.training.settings import Training

STRICT = ConfigDict(extra="forbid", protected_namespaces=())


class ConfigError(ValueError):
    """A recipe with mistakes; the message lists them all."""


JUMP = (
    "noise level σ of a last jump x + σ² score(x), for an energy of data with that much noise "
    "added; 0 for none"
)


class Data(BaseModel):
    """Which data: a named set, or the path of a folder of images, an .npy, .npz or .csv file."""

    model_config = STRICT
    name: str
    root: str | None = Field(
        None, description="where to look first; else LOWLAND_DATA, the cache, a download"
    )
    limit: int | None = Field(None, ge=16, description="train on so many examples only")
    count: int | None = Field(None, ge=64, description="points of a toy set")
    size: int | None = Field(None, ge=2, description="side to which images of a folder are resized")
    channels: Literal[1, 3] | None = Field(None, description="colours of a folder's images")
    label: str | None = Field(None, description="label column of a table")
    seed: int | None = Field(
        None,
        ge=0,
        description="of the division and of a fixed draw; the seed of the run if left out",
    )
    binarize: Literal["threshold", "stochastic", "fixed"] | None = Field(
        None, description="make grey images binary: 1 above 0.5; drawn anew each time; drawn once"
    )
    standardize: bool | None = Field(
        None, description="tables and arrays: subtract the mean, divide by the deviation"
    )


class _Drawing(BaseModel):
    """What making samples and restoring have in common: chains, or a way down the noise levels of
    an energy E(x, σ).
    """

    model_config = STRICT
    method: str = "chains"
    sampler: Any = None
    temperatures: list[Annotated[float, Field(gt=0)]] = Field(
        [1.0], min_length=1, description="a path: the steps are divided among energy / T for each T"
    )
    denoise_sigma: float = Field(0.0, ge=0, description=JUMP)
    num_levels: int = Field(
        18, ge=2, description="noise levels of an energy E(x, σ) whose objective does not name them"
    )
    sigma_max: float = Field(
        20.0, gt=0, description="the first of them, far above the size of the data"
    )
    sigma_min: float = Field(0.01, gt=0, description="the last; flow ends with a jump from there")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the matrix products on the way down"
    )

    @model_validator(mode="after")
    def _what_the_method_needs(self) -> "_Drawing":
        name = type(self).__name__.lower()
        if self.method in ("chains", "recovery") and self.sampler is None:
            other = "flow" if name == "generation" else "split-gibbs"
            raise ValueError(
                f"chains were chosen and no sampler; a [{name}.sampler] is needed; add one, or "
                f"method = '{other}'"
            )
        if self.method in ("chains", "recovery") and self.precision != "float32":
            raise ValueError(
                "precision is 'bfloat16' for chains; only a way down the levels is drawn in "
                "bfloat16; omit it"
            )
        if self.sigma_max <= self.sigma_min:
            raise ValueError(
                f"levels fall from {self.sigma_max} to {self.sigma_min}; the first must be higher; "
                "exchange them"
            )
        return self


class Generation(_Drawing):
    """How samples are made from the trained energy."""

    method: Literal["chains", "flow", "recovery"] = Field(
        "chains", description="or down the levels: by flow, or draw by draw"
    )
    steps: int = Field(500, ge=0)
    start: Literal["noise", "chains", "partner"] = Field(
        "noise",
        description="fresh noise; where the training chains got to; or what the generator trained beside "
        "makes",
    )


class Restoration(_Drawing):
    """How posterior draws are made: the same kind of settings, with the noise of the
    measurement.
    """

    method: Literal["chains", "split-gibbs"] = Field(
        "chains", description="Markov chains; or a split Gibbs sampler down the noise levels"
    )
    steps: int = Field(500, ge=1)
    draws: int = Field(8, ge=1)
    sigma: float = Field(0.1, gt=0, description="noise of the measurement, in units of the data")
    count: int = Field(100, ge=0, description="test images restored by evaluate; 0 for none")
    prior_samples: int = Field(
        0, ge=0, description="draws of the prior from which chains start; 0 starts them at noise"
    )
    num_levels: int = Field(
        20, ge=1, description="passes on the way down; means lag behind like 1 / num_levels"
    )
    denoise_steps: int = Field(
        3, ge=1, description="noise levels inside a pass; draws are narrow like 1 / denoise_steps"
    )
    sigma_max: float = Field(
        1.5, gt=0, description="where the way down begins, a few times the spread of the data"
    )
    sigma_min: float = Field(0.02, gt=0, description="noise too small to matter")

    @classmethod
    def for_noise(cls) -> "Restoration":
        """Return the settings for an energy of noise levels whose recipe names none."""
        return cls.model_validate({"method": "split-gibbs"})


class Purification(BaseModel):
    """How points are purified: the settings of `lowland.tasks.purify`."""

    model_config = STRICT
    method: Literal["langevin", "map", "denoise"] = "langevin"
    steps: int = Field(
        10, ge=1, description="of Langevin or descent; noise levels of denoise, 1 for a jump"
    )
    sigma: float = Field(
        0.0, ge=0, description="noise added first; the width of the pull to the start for map"
    )
    step_size: float = Field(0.01, gt=0)
    temperature: float = Field(1.0, ge=0)
    clip: float | None = Field(
        None, gt=0, description="bound on every number of the energy's gradient"
    )

    @model_validator(mode="after")
    def _some_ways_need_a_width(self) -> "Purification":
        if self.method != "langevin" and not self.sigma:
            raise ValueError(
                f"method is {self.method!r} and sigma 0; it needs a sigma above 0; 0.3 suits "
                "pixels in [0, 1]"
            )
        return self


class Evaluation(BaseModel):
    """What evaluate measures."""

    model_config = STRICT
    samples: int = Field(500, ge=16)
    nominal: float = Field(0.05, gt=0, lt=1, description="false-alarm rate of the detector")
    outlier_score: str = Field(
        "energy", description="what the detector reads: energy, typicality, multiscale, msp, ..."
    )
    outliers: list[str] = Field(
        [], description="data sets to tell apart, besides noise and a shifted test set"
    )
    judge_steps: int = Field(
        600, ge=0, description="updates of the classifier that judges labelled images; 0 for none"
    )

    @field_validator("outlier_score")
    @classmethod
    def _check_outlier_score(cls, name: str) -> str:
        from lowland.tasks.detection.detector import get_outlier_score

        get_outlier_score(name)
        return name


def model_of(cls: type, *, skip: Sequence[str] = (), tagged: bool = True) -> type[BaseModel]:
    """A strict pydantic model with the constructor's parameters; building it also builds the
    object, to hear its errors.
    """
    fields: dict[str, Any] = {"name": (Literal[cls.__name__], ...)} if tagged else {}
    for name, p in parameters(cls).items():
        if name not in skip:
            fields[name] = (p.annotation, ... if p.default is p.empty else p.default)

    def buildable(model: BaseModel) -> BaseModel:
        if "domain" not in skip:
            cls(**{name: getattr(model, name) for name in fields if name != "name" or not tagged})
        return model

    return create_model(
        cls.__name__,
        __config__=STRICT,
        __validators__={"buildable": model_validator(mode="after")(buildable)},  # type: ignore[dict-item]
        __doc__=cls.__doc__,
        **fields,
    )


def _union(kind: str, skip: Sequence[str] = ()) -> Any:
    from lowland.energy import (
        Energy,  # only classes that learn belong in a recipe; targets have no weights
    )

    classes = [
        c for c in registered(kind).values() if kind != "energy" or "domain" in parameters(c)
    ]
    assert kind != "energy" or all(issubclass(c, Energy) for c in classes)
    models = tuple(model_of(c, skip=skip) for c in sorted(classes, key=lambda c: c.__name__))
    return Annotated[Union[models], Field(discriminator="name")]  # noqa: UP007


def recipe_model() -> type["Recipe"]:
    """The Recipe model over everything registered now."""
    return _recipe_model(tuple(cls for kind in KINDS for cls in registered(kind).values()))


@cache
def _recipe_model(classes: tuple[type, ...]) -> type["Recipe"]:
    sampler, terms = cast(Any, Union[_union("sampler"), None]), cast(Any, list)[_union("term")]  # noqa: UP007
    generation = create_model("Generation", __base__=Generation, sampler=(sampler, None))
    restoration = create_model("Restoration", __base__=Restoration, sampler=(sampler, None))
    return create_model(
        "Recipe",
        __base__=Recipe,
        energy=(_union("energy", skip=["domain"]), ...),
        objective=(_union("objective"), ...),
        terms=(terms, []),
        sampler=(sampler, None),
        training=(
            model_of(Training, tagged=False),
            Field(default_factory=dict, validate_default=True),
        ),
        generation=(generation, ...),
        restoration=(Union[restoration, None], None),  # type: ignore[arg-type]  # noqa: UP007
    )


class Recipe(BaseModel):
    """Everything that decides a run. Read one with `read_recipe`; `plain()` gives JSON values."""

    model_config = STRICT
    name: str = Field(min_length=1, max_length=80)
    about: str = ""
    seed: int = Field(0, ge=0)
    data: Data
    energy: Any
    objective: Any
    terms: list[Any] = []
    sampler: Any = None
    training: Any
    generation: Any
    restoration: Any = None
    purification: Purification | None = None
    evaluation: Evaluation = Field(default_factory=lambda: Evaluation.model_validate({}))

    @model_validator(mode="after")
    def _binary_data_stay_binary(self) -> "Recipe":
        spread = [
            f"training.{name}"
            for name in ("noise", "dequantise", "margin")
            if getattr(self.training, name, 0)
        ]
        if self.data.binarize and spread:
            raise ValueError(
                f"data.binarize is {self.data.binarize!r} and {' and '.join(spread)} would move "
                "the data off 0 and 1; binary data have no grey levels to spread; leave out one "
                "or the other"
            )
        return self

    @model_validator(mode="after")
    def _chains_need_a_sampler(self) -> "Recipe":
        objective = registered("objective")[self.objective.name]
        if self.sampler is None and cast(Any, objective).sampled:
            raise ValueError(
                f"objective {self.objective.name} runs chains and the recipe names no sampler; a "
                "[sampler] section is needed; add one, for example name = 'Langevin' and a "
                "step_size"
            )
        return self

    def plain(self) -> dict[str, Any]:
        """The recipe as JSON values, complete with every default."""
        return self.model_dump(mode="json")

    def toml(self) -> str:
        """The recipe as a TOML document that `read_recipe` reads back."""
        return _toml(self.plain())


def recipes_folder() -> Path:
    """Where the shipped recipes lie: inside the wheel, or beside the package in a checkout."""
    inside = Path(__file__).parent / "recipes"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "recipes"


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


def _toml(values: Mapping[str, Any], section: str = "") -> str:
    inner = {
        key: value for key, value in values.items() if isinstance(value, Mapping) or _tables(value)
    }
    lines = [f"{k} = {_literal(v)}" for k, v in values.items() if v is not None and k not in inner]
    text = (
        (f"[{section}]\n" if section and lines else "") + "\n".join(lines) + ("\n" if lines else "")
    )
    for key, value in inner.items():
        name = f"{section}.{key}" if section else key
        for part in value if isinstance(value, list) else [value]:
            table = _toml(part, name).lstrip("\n")
            text += "\n" + (
                table.replace(f"[{name}]", f"[[{name}]]", 1) if isinstance(value, list) else table
            )
    return text


def _tables(value: Any) -> bool:
    return (
        isinstance(value, list) and bool(value) and all(isinstance(part, Mapping) for part in value)
    )


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return (
        "[" + ", ".join(map(_literal, value)) + "]"
        if isinstance(value, (list, tuple))
        else repr(value)
    )
