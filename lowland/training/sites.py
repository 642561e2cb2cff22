"""Tell whether a recipe's energy lives on discrete sites, which decides how data are read."""

from lowland.registry import registered
from lowland.samplers import Sampler
from lowland.samplers.kernel import DISCRETE
from lowland.training.settings import Plain

MACHINES = ("RBM", "DBM", "DBN")


def lives_on_sites(recipe: Plain) -> bool | None:
    """Tell whether a recipe trains on discrete sites: Boltzmann machines do unless the data say
    otherwise, other energies if their sampler does; None if neither says.
    """
    if recipe["energy"]["name"] in MACHINES:
        return True
    for section in (recipe, recipe.get("generation") or {}):
        sampler = section.get("sampler")
        while sampler and "sampler" in sampler:  # a sampler around another
            sampler = sampler["sampler"]
        found = registered("sampler").get(sampler["name"]) if sampler else None
        if found is not None and issubclass(found, Sampler):
            return set(found.domains) <= set(DISCRETE)
    return None
