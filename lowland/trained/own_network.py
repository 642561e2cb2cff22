"""Build the energy of a run whose network is the user's: from code that the user passes or has
asked to import, and from no other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lowland.data import Dataset
from lowland.domain import Domain
from lowland.energy import Energy, Function
from lowland.energy.sizes import build_in_float32
from lowland.registry import Plain, find_class
from lowland.run import Run, RunError
from lowland.training.kept_data import read_examples
from lowland.training.own_energy import describe_own, digest_layout, takes_domain

if TYPE_CHECKING:
    AnyEnergy = Energy | nn.Module | Callable[..., Tensor]

NOWHERE = ("__main__", "<")  # where no import finds a class: a script, a notebook, a function


def accept_energy(run: Run, values: Plain, energy: AnyEnergy, domain: Domain) -> Energy:
    """Return an energy that the user passed, lifted to the domain of a run, or raise RunError if it
    is built in another way than the one that was trained.
    """
    found = energy if isinstance(energy, Energy) else Function(energy, domain)
    if ":" in values["name"]:
        _check_layout(run, values, found, "energy")
    return found


def build_own(
    run: Run, values: Plain, domain: Domain, code: Callable[..., object] | None
) -> Energy:
    """Build the energy that a run names by its import path.

    code: its class, or a function that builds the network; unless given the class is looked up in
    the modules that `registry.import_code` imported. Raises RunError where there is neither, where
    the constructor refuses, and for a network of another layout.
    """
    made = code or find_class(values["name"])
    if made is None:
        raise _explain_missing(run, values)
    if not callable(made) or (isinstance(made, type) and not issubclass(made, nn.Module)):
        raise RunError(
            f"{run.path} was trained with {values['name']} and {made!r:.60} came for its code; a "
            "subclass of torch.nn.Module or a function that builds one is needed; pass "
            f"code={_short(values)}"
        )
    arguments = values.get("arguments")
    options = dict(arguments or {}) if isinstance(made, type) else {}
    if isinstance(made, type) and takes_domain(made):
        options["domain"] = domain
    try:
        with torch.random.fork_rng(devices=[]), build_in_float32():
            built = made(**options)
    except Exception as error:
        unknown = "" if arguments is not None else ", whose arguments the run does not know"
        raise RunError(
            f"{run.path} was trained with {values['name']}{unknown}, and it cannot be built "
            f"({type(error).__name__}: {str(error)[:200]}); the constructor takes the arguments "
            "that it keeps as attributes of their names; pass energy= with the network built as "
            "for training"
        ) from error
    if not isinstance(built, nn.Module):
        raise RunError(
            f"the code for {run.path} built {built!r:.60}; it must build the network, a "
            "torch.nn.Module; return it"
        )
    energy = built if isinstance(built, Energy) else Function(built, domain)
    _check_layout(run, values, energy, "code")
    return energy


def _explain_missing(run: Run, values: Plain) -> RunError:
    """Say how a run of a network of the user's is read."""
    module, _, name = values["name"].partition(":")
    where = f"{run.path} was trained with a network of your own, {values['name']}"
    path = str(run.path)
    if module == NOWHERE[0] or NOWHERE[1] in name:
        return RunError(
            f"{where}, which no import finds: it was defined in a script, in a notebook or inside "
            f"a function; lowland needs its code; pass lowland.load({path!r}, code={_short(values)}"
            ") or energy= in Python, and for the shell put the class into a module, say "
            "nets.py, and train with it from there"
        )
    if module.startswith("torch.nn."):
        return RunError(
            f"{where}, whose layers were put together without a class of yours; lowland needs the "
            f"same network again; pass lowland.load({path!r}, energy=) with one built alike, and "
            "for the shell write a class in a module, say nets.py, and train with that"
        )
    return RunError(
        f"{where}; lowland imports no code because a file names it; in the shell add --import "
        f"{module}, in Python pass lowland.load({path!r}, code={_short(values)})"
    )


def _short(values: Plain) -> str:
    """Return the name of the class alone."""
    return str(values["name"]).rpartition(":")[2].rpartition(".")[2]


def _check_layout(run: Run, values: Plain, energy: Energy, what: str) -> None:
    """Raise RunError unless a network is built as the one that was trained."""
    if values.get("layout") in (None, digest_layout(energy)):
        return
    found = describe_own(energy)
    known = values.get("arguments")
    trained = f"{values['name']} with {_count(values)}"
    if known:
        trained += f" and {', '.join(f'{key} = {value!r}' for key, value in known.items())}"
    cure = "pass energy= with the network built as for training"
    if what == "code" and known is None:
        cure = (
            "its arguments are unknown, for the constructor does not keep each as an attribute of "
            f"its name; {cure}"
        )
    raise RunError(
        f"{run.path} was trained with {trained}, and {what}= gave {found['name']} with "
        f"{_count(found)}; names and shapes of weights and kinds of layers must be those of "
        f"training; {cure}"
    )


def _count(values: Plain) -> str:
    return f"{values['num_parameters']:,} parameters"


def begin_again(run: Run, recipe: Plain) -> tuple[Energy | None, Dataset | None]:
    """Build the network of a run of the user's as it was before training, and read the examples
    that the run keeps; None of what the recipe names itself.

    Raises RunError where the module of the network was not imported.
    """
    data = read_examples(run, recipe)
    if ":" not in recipe["energy"]["name"]:
        return None, data
    domain = Domain.from_dict(run.newest_state()["domain"])
    return build_own(run, recipe["energy"], domain, None), data
