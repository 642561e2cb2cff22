"""Plain values of a recipe, as training takes them, and the data that they name."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from lowland.data import Dataset, load_data
from lowland.scalars import read_integer
from lowland.training.settings import Plain, Row
from lowland.training.sites import lives_on_sites


@runtime_checkable
class PlainRecipe(Protocol):
    """A recipe that turns into plain values."""

    def plain(self) -> Row: ...


def plain_recipe(recipe: Plain | PlainRecipe) -> dict[str, Any]:
    """Return the plain values of a recipe. Raises ValueError for anything else."""
    if isinstance(recipe, PlainRecipe):
        return recipe.plain()
    if not isinstance(recipe, Mapping):
        raise ValueError(
            f"the recipe is {recipe!r:.60}; a Recipe or its plain values are needed; read it with "
            "lowland.read_recipe"
        )
    values = dict(recipe)
    missing = [name for name in ("seed", "objective", "training") if name not in values]
    if missing:
        raise ValueError(
            f"the recipe has no {', '.join(missing)}; training needs these; complete it with "
            "lowland.read_recipe"
        )
    values["seed"] = read_integer("seed", values["seed"], least=0, most=2**63 - 1)
    return values


def load_recipe_data(recipe: Plain) -> Dataset:
    """Load the data set that a recipe names."""
    options = {key: value for key, value in recipe["data"].items() if value is not None}
    named = {"seed": recipe["seed"], "discrete": lives_on_sites(recipe)}
    return load_data(options.pop("name"), **{**named, **options})
