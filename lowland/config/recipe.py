"""Pydantic model of a recipe, over everything that is registered."""

from collections.abc import Sequence
from functools import cache
from types import GenericAlias
from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel, Field, create_model, model_validator

from lowland.config.sections import (
    STRICT,
    Data,
    Evaluation,
    Generation,
    Purification,
    Restoration,
)
from lowland.config.toml import to_toml
from lowland.registry import KINDS, Plain, build, nests, parameters, registered
from lowland.training.settings import Training


def model_of(cls: type, *, skip: Sequence[str] = (), tagged: bool = True) -> type[BaseModel]:
    """Make a strict pydantic model of a constructor's parameters; validating it also builds the
    object, to hear its errors.
    """
    fields: Plain = {}
    if tagged:
        fields["name"] = (Literal[cls.__name__], ...)
    for name, p in parameters(cls).items():
        if name not in skip:
            kind = _leaves(name) if name in KINDS else p.annotation
            fields[name] = (kind, ... if p.default is p.empty else p.default)

    def check_buildable(model: BaseModel) -> BaseModel:
        if "domain" not in skip:
            names = (name for name in fields if name != "name" or not tagged)
            cls(**{name: _build_inner(name, getattr(model, name)) for name in names})
        return model

    validators = {"buildable": model_validator(mode="after")(check_buildable)}
    return create_model(
        cls.__name__,
        __config__=STRICT,
        __validators__=validators,  # type: ignore[arg-type]
        __doc__=cls.__doc__,
        **fields,
    )


def _build_inner(name: str, value: object) -> object:
    """Build the object that a validated section stands for; other values stay as they are."""
    if isinstance(value, BaseModel):
        return build(name, value.model_dump())
    return value


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
    name: str = Field(min_length=1, max_length=80)
    about: str = ""
    seed: int = Field(0, ge=0)
    data: Data
    energy: BaseModel
    objective: BaseModel
    terms: list[BaseModel] = []
    sampler: BaseModel | None = None
    training: BaseModel
    generation: Generation
    restoration: Restoration | None = None
    purification: Purification | None = None
    evaluation: Evaluation = Field(default_factory=lambda: Evaluation.model_validate({}))

    @model_validator(mode="after")
    def _check_binary_data(self) -> "Recipe":
        training = self.training.model_dump()
        moving = [
            f"training.{name}"
            for name in ("data_noise_std", "dequantise", "box_margin")
            if training.get(name)
        ]
        if self.data.binarize and moving:
            raise ValueError(
                f"data.binarize is {self.data.binarize!r} and {' and '.join(moving)} would move "
                "the data off 0 and 1; binary data have no grey levels to spread; leave out one "
                "or the other"
            )
        return self

    @model_validator(mode="after")
    def _check_sampler(self) -> "Recipe":
        name = type(self.objective).__name__
        objective: Any = registered("objective")[name]
        if self.sampler is None and objective.sampled:
            raise ValueError(
                f"objective {name} runs chains and the recipe names no sampler; a "
                "[sampler] section is needed; add one, for example name = 'Langevin' and a "
                "step_size"
            )
        return self

    def plain(self) -> Plain:
        """Return the recipe as JSON values, complete with every default."""
        return self.model_dump(mode="json")

    def toml(self) -> str:
        """Return the recipe as a TOML document that `read_recipe` reads back."""
        return to_toml(self.plain())
