"""Recipes: TOML files that decide all of a run, read strictly.

The models for energies, objectives and samplers are made from the registry, one per class and told
apart by `name`, so a newly registered class can be named in a recipe at once. Unknown keys are
refused; all mistakes are reported together, each with its path and, where one is near, the name
that was probably meant. A default stands in the signature of the class or function that uses it,
and is read from there.
"""

from lowland.config.reading import (
    parse_overrides,
    read_recipe,
    recipe_names,
    recipes_folder,
)
from lowland.config.recipe import Recipe, recipe_model
from lowland.config.sections import ConfigError

__all__ = [
    "ConfigError",
    "Recipe",
    "parse_overrides",
    "read_recipe",
    "recipe_model",
    "recipe_names",
    "recipes_folder",
]
