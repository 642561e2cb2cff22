"""Pydantic model of a recipe, over everything that is registered."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import GenericAlias
from typing import Annotated, Any, Literal, Union, get_args

from pydantic import (
    BaseModel,
    Field,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)
from pydantic.functional_validators import ModelWrapValidatorHandler
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError
from pydantic_core.core_schema import ErrorType

from lowland.config.names import check_name
from lowland.config.sections import (
    STRICT,
    Data,
    Evaluation,
    Generation,
    Purification,
    Restoration,
)
from lowland.config.strictness import (
    MAX_COUNT,
    MAX_INNER_STEPS,
    MAX_SEED,
    collect_refusals,
    placeholder,
    strict_annotation,
)
from lowland.config.toml import to_toml
from lowland.registry import KINDS, Plain, build, from_plain, nests, parameters, registered
from lowland.training.settings import Training
from lowland.training.sizes import sketch_energy

CORE_ERRORS = get_args(ErrorType)  # that may be handed on by name


def model_of(cls: type, *, skip: Sequence[str] = (), tagged: bool = True) -> type[BaseModel]:
    """Make a strict pydantic model of a constructor's parameters; validating it also builds the
    object (an energy without its weights), to hear all that it refuses.
    """
    fields: Plain = {}
    if tagged:
        fields["name"] = (Literal[cls.__name__], ...)
    defaults: Plain = {}
    for name, p in parameters(cls).items():
        if name not in skip:
            most = MAX_INNER_STEPS if tagged else MAX_COUNT
            kind = _leaves(name) if name in KINDS else strict_annotation(name, p.annotation, most)
            fields[name] = (kind, ... if p.default is p.empty else p.default)
            defaults[name] = placeholder(p.annotation) if p.default is p.empty else p.default

    def make(values: Mapping[str, Any]) -> object:
        if skip:
            return sketch_energy({"name": cls.__name__, **values})
        return cls(**{name: _build_inner(value) for name, value in values.items()})

    def check(
        model: type[BaseModel], given: Any, handler: ModelWrapValidatorHandler[BaseModel]
    ) -> BaseModel:
        try:
            found = handler(given)
        except ValidationError as error:
            lines = [_repeat(problem) for problem in error.errors()]
            wrong = {line["loc"][:1] for line in lines}
            came = given if isinstance(given, Mapping) else {}
            sound = {n: came[n] for n in defaults if n in came and (n,) not in wrong}
            values = defaults | {n: from_plain(n, value) for n, value in sound.items()}
        else:
            lines, values = [], {name: vars(found)[name] for name in defaults}
        inner = [name for name in defaults if name in KINDS]
        refused = []
        if all(not isinstance(values[name], tuple) for name in inner):  # no placeholder
            plain = {name: value for name, value in defaults.items() if name not in KINDS}
            refused = collect_refusals(make, values, plain)
        lines += [_refuse(text) for text in refused]
        if lines:
            raise ValidationError.from_exception_data(cls.__name__, lines)
        return found

    validators = {"buildable": model_validator(mode="wrap")(classmethod(check))}  # type: ignore[arg-type]
    return create_model(
        cls.__name__,
        __config__=STRICT,
        __validators__=validators,  # type: ignore[arg-type]
        __doc__=cls.__doc__,
        **fields,
    )


def _build_inner(value: object) -> object:
    """Build the object that a validated section stands for; other values stay as they are."""
    if isinstance(value, BaseModel):
        return build("sampler", value.model_dump())
    return value


def _refuse(text: str) -> InitErrorDetails:
    """Return a mistake of a whole section, in words of our own."""
    return {"type": _own_words(text), "loc": (), "input": None}


def _own_words(text: str) -> PydanticCustomError:
    return PydanticCustomError("own_words", "{text}", {"text": text})


def _repeat(problem: ErrorDetails) -> InitErrorDetails:
    """Return a mistake as it must be handed on."""
    kind: str | PydanticCustomError = problem["type"]
    if kind in ("own_words", "value_error"):
        kind = _own_words(problem["msg"].removeprefix("Value error, "))
    elif kind not in CORE_ERRORS:
        kind = _own_words(f"{problem['msg']} (given: {problem['input']!r})")
    again: InitErrorDetails = {"type": kind, "loc": problem["loc"], "input": problem["input"]}
    if "ctx" in problem:
        again["ctx"] = problem["ctx"]
    return again


def _leaves(kind: str) -> object:
    """Return the union of the models of a kind that take no other object of that kind."""
    classes = [cls for cls in registered(kind).values() if not nests(cls, kind)]
    return _tagged_union(classes)


def _tagged_union(classes: Sequence[type], skip: Sequence[str] = ()) -> Any:
    models = tuple(model_of(c, skip=skip) for c in sorted(classes, key=lambda c: c.__name__))
    return Annotated[Union[models], Field(discriminator="name")]  # noqa: UP007


def _union(kind: str, skip: Sequence[str] = ()) -> Any:
    """Return the union of the models of a kind; of energies those with a domain, which learn."""
    classes = [
        c for c in registered(kind).values() if kind != "energy" or "domain" in parameters(c)
    ]
    return _tagged_union(classes, skip)


def recipe_model() -> type["Recipe"]:
    """Return the Recipe model over everything that is registered now."""
    return _recipe_model(tuple(cls for kind in KINDS for cls in registered(kind).values()))


@cache
def _recipe_model(classes: tuple[type, ...]) -> type["Recipe"]:
    sampler = _union("sampler") | None
    terms: Any = GenericAlias(list, (_union("term"),))
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
    """Settings that decide a run. Read them with `read_recipe`; `plain()` gives JSON values."""

    model_config = STRICT
    name: str
    about: str = Field("", max_length=1000)
    seed: int = Field(0, ge=0, le=MAX_SEED)
    data: Data
    energy: BaseModel
    objective: BaseModel
    terms: list[BaseModel] = Field([], max_length=100)
    sampler: BaseModel | None = None
    training: BaseModel
    generation: Generation
    restoration: Restoration | None = None
    purification: Purification | None = None
    evaluation: Evaluation = Field(default_factory=lambda: Evaluation.model_validate({}))

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        return check_name(name)

    @model_validator(mode="wrap")
    @classmethod
    def _check_together(cls, given: Any, handler: ModelWrapValidatorHandler["Recipe"]) -> "Recipe":
        """Compare sections with each other, also where single values are wrong."""
        lines: list[InitErrorDetails] = []
        try:
            found = handler(given)
        except ValidationError as error:
            lines = [_repeat(problem) for problem in error.errors()]
        if isinstance(given, Mapping):
            refused = (_check_binary_data(given), _check_sampler(given))
            lines += [_refuse(text) for text in refused if text]
        if lines:
            raise ValidationError.from_exception_data("Recipe", lines)
        return found

    def plain(self) -> Plain:
        """Return the recipe as JSON values, complete with every default."""
        return self.model_dump(mode="json")

    def __reduce__(self) -> tuple[Callable[[Plain], "Recipe"], tuple[Plain]]:
        """Return how to read the recipe again in another process, which has models of its own."""
        return read_plain, (self.plain(),)

    def toml(self) -> str:
        """Return the recipe as a TOML document that `read_recipe` reads back."""
        return to_toml(self.plain())


def read_plain(values: Plain) -> Recipe:
    """Return the recipe of plain values over everything that is registered now."""
    return recipe_model().model_validate(values)


def _section(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a section of values that may be of any kind; an empty one in place of others."""
    section = values.get(name)
    return section if isinstance(section, Mapping) else {}


def _check_binary_data(values: Mapping[str, Any]) -> str:
    """Say what would move binary data off 0 and 1, if anything."""
    binarize, training = _section(values, "data").get("binarize"), _section(values, "training")
    names = ("data_noise_std", "dequantise", "box_margin")
    moving = [f"training.{name}" for name in names if training.get(name)]
    if not binarize or not moving:
        return ""
    return (
        f"data.binarize is {binarize!r} and {' and '.join(moving)} would move the data off 0 and "
        "1; binary data have no grey levels to spread; leave out one or the other"
    )


def _check_sampler(values: Mapping[str, Any]) -> str:
    """Say that an objective lacks its sampler, if it does."""
    name, known = _section(values, "objective").get("name"), registered("objective")
    if not isinstance(name, str) or name not in known or values.get("sampler") is not None:
        return ""
    objective: Any = known[name]
    if not objective.sampled:
        return ""
    return (
        f"objective {name} runs chains and the recipe names no sampler; a [sampler] section is "
        "needed; add one, for example name = 'Langevin' and a step_size"
    )
