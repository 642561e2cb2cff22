"""Rebuild the energy of a run from its recipe and a checkpoint, each checked against the other."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lowland.config.sections import list_defaults
from lowland.domain import Domain
from lowland.energy import Energy
from lowland.energy.sizes import build_in_float32
from lowland.registry import Plain, build
from lowland.run import Checkpoint, Run, RunError
from lowland.run.changes import compare_recipes
from lowland.run.schema import GENERATION, RECIPE, TRAINING, find_problem
from lowland.trained.own_network import accept_energy, build_own
from lowland.training import Training
from lowland.training.identity import describe_energy

# sections that say how a run is used, not how it was trained
USES = ("about", "generation", "evaluation", "restoration", "purification")


def read_recipe_of(run: Run) -> Plain:
    """Read the recipe of a run, with the sections that every use of it needs.

    What the run was trained without, as plain values may be, gets defaults. Raises RunError if
    another section is missing, or one is of another type.
    """
    recipe = _complete(run)
    problem = (
        find_problem(recipe, RECIPE, RECIPE)
        or find_problem(recipe["generation"], GENERATION, GENERATION)
        or find_problem(recipe["training"], TRAINING, TRAINING)
    )
    if problem is not None:
        raise RunError(
            f"{run.path / 'recipe.json'} is damaged: {problem}; it must hold the complete recipe; "
            "restore it from a copy, or train the recipe again"
        )
    return recipe


def _complete(run: Run) -> Plain:
    """Return the recipe of a run with defaults for what neither it nor the one that was trained
    holds.
    """
    recipe = run.recipe
    if not _lacks(recipe):
        return recipe
    trained = run.newest_state().get("recipe", {})
    sections = {"training": dataclasses.asdict(Training()), **list_defaults()}
    filled = _fill({"name": run.path.resolve().name}, recipe, trained)
    for name, defaults in sections.items():
        if name in recipe or name not in trained:
            filled[name] = _fill(defaults, recipe.get(name, {}), trained.get(name))
    return filled


def _lacks(recipe: Plain) -> bool:
    parts = [(recipe, RECIPE), (recipe.get("generation"), GENERATION)]
    parts.append((recipe.get("training"), TRAINING))
    return any(values is None or not fields.keys() <= values.keys() for values, fields in parts)


def _fill(defaults: Plain, values: Plain, trained: object) -> dict[str, Any]:
    known = trained if isinstance(trained, dict) else {}
    return {key: value for key, value in defaults.items() if key not in known} | dict(values)


def rebuild_energy(
    run: Run,
    recipe: Plain,
    checkpoint: Checkpoint,
    weights: str,
    energy: Energy | Callable[..., Tensor] | None,
    code: Callable[..., object] | None = None,
) -> Energy:
    """Return the energy of a recipe, or the one given, with the weights of a checkpoint, in eval
    mode.

    weights: "ema" or "energy"; code: the class of a network of the user's, or what builds it.
    Torch's global generator stays where it is. Raises RunError for a recipe that was changed since
    training, and for weights that do not fit.
    """
    where = f"{run.path}/step-{checkpoint.step:08d}"
    _compare(run, run.recipe, checkpoint)
    if weights not in checkpoint.tensors:
        raise RunError(
            f"{where} keeps no weights {weights!r}; it has {', '.join(checkpoint.tensors)}; choose "
            "weights='ema', or a newer step"
        )
    own = ":" in recipe["energy"]["name"]
    if energy is None:
        energy = _build(run, recipe, checkpoint, code)
    elif own or not isinstance(energy, Energy):
        domain = _read_domain(run, checkpoint)
        energy = accept_energy(run, recipe["energy"], energy, domain)
    elif describe_energy(energy)["name"] != recipe["energy"]["name"]:
        raise RunError(
            f"{run.path} was trained with an energy {recipe['energy']['name']} and "
            f"{describe_energy(energy)['name']} came; weights belong to one architecture; pass one "
            "that is built as it was for training"
        )
    found = checkpoint.tensors[weights]
    _check_weights(energy.state_dict(), found, f"{where}/{weights}.safetensors")
    energy.load_state_dict(found)
    return energy.eval()


def _build(
    run: Run, recipe: Plain, checkpoint: Checkpoint, code: Callable[..., object] | None
) -> Energy:
    """Build the energy that a recipe names, on the domain of a checkpoint."""
    domain = _read_domain(run, checkpoint)
    if ":" in recipe["energy"]["name"]:
        return build_own(run, recipe["energy"], domain, code)
    if code is not None:
        raise RunError(
            f"{run.path} was trained with lowland's own {recipe['energy']['name']} and code came; "
            "code is for a network of one's own; leave it out"
        )
    try:
        with torch.random.fork_rng(devices=[]), build_in_float32():
            energy: Energy = build("energy", {**recipe["energy"], "domain": domain})
    except (ValueError, TypeError, RuntimeError, MemoryError) as error:
        problem = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise RunError(
            f"{run.path / 'recipe.json'} names an energy that cannot be built ({problem}); it must "
            "be as it was for training; restore it from a copy"
        ) from None
    return energy


def _read_domain(run: Run, checkpoint: Checkpoint) -> Domain:
    if "domain" not in checkpoint.state:
        raise RunError(
            f"{run.path}/step-{checkpoint.step:08d}/state.json is damaged: domain is missing; the "
            "energy is built on it; remove the folder, and an older checkpoint is used"
        )
    return Domain.from_dict(checkpoint.state["domain"])


def _compare(run: Run, recipe: Plain, checkpoint: Checkpoint) -> None:
    """Raise RunError if the energy of recipe.json is another than the trained one; warn of other
    changes.
    """
    known = checkpoint.state.get("recipe")
    changes = [] if known is None else compare_recipes(known, recipe)
    changes = [c for c in changes if not c.allowed and c.path.partition(".")[0] not in USES]
    energies = [str(change) for change in changes if change.path.startswith("energy")]
    if energies:
        raise RunError(
            f"{run.path / 'recipe.json'} names another energy than was trained: "
            f"{', '.join(energies)}; weights belong to one architecture; restore the recipe from "
            "a copy"
        )
    if changes:
        warnings.warn(
            f"{run.path / 'recipe.json'} differs from the recipe that was trained: "
            f"{', '.join(map(str, changes))}",
            stacklevel=4,
        )


def _check_weights(wanted: dict[str, Tensor], found: dict[str, Tensor], file: str) -> None:
    """Raise RunError unless names, shapes and kinds of weights are those of an energy."""
    odd = sorted(set(found) ^ set(wanted))
    problem = f"{odd[0]} is {'missing' if odd[0] in wanted else 'unknown'}" if odd else ""
    for name in set(wanted) & set(found):
        mine, own = found[name], wanted[name]
        if mine.shape != own.shape:
            problem = f"{name} has shape {tuple(mine.shape)} and must have {tuple(own.shape)}"
        elif mine.is_floating_point() != own.is_floating_point():
            problem = f"{name} is {mine.dtype} and must be {own.dtype}"
    if problem:
        raise RunError(
            f"{file} does not fit the energy of the recipe: {problem}; weights belong to one "
            "architecture; restore the file, or remove the folder to use an older checkpoint"
        )
