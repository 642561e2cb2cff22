"""What makes a run the run that it is: its recipe and its data, which a resumed training must not
change.
"""

import json
import warnings
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from lowland.data import Dataset
from lowland.data.identity import PointHashes, digest_data, find_changes
from lowland.energy import Energy
from lowland.registry import parameters, registered, spec
from lowland.run import Run, RunError
from lowland.run.changes import RULE, compare_recipes
from lowland.systems import expand_home
from lowland.training.own_energy import describe_own
from lowland.training.settings import Plain, Row

HASHES = "training_points.safetensors"


def describe_trained(recipe: Plain, data: Dataset | None, energy: Energy | None) -> Row:
    """Return the recipe with the data and the energy that are used in place of what it names.

    A registered energy is described by its plain values, another by its import path; a data set by
    its name.
    """
    values = dict(recipe)
    named = values.get("data", {})
    if data is not None and not _is_name(data.name, named.get("name")):
        values["data"] = {**dict.fromkeys(named), "name": data.name}
    if energy is not None:
        values["energy"] = describe_energy(energy)
    return values


def _is_name(name: str, named: object) -> bool:
    return name == named or (isinstance(named, str) and expand_home(named) == expand_home(name))


def describe_energy(energy: Energy) -> Row:
    """Return the plain values of a registered energy; of another those of `describe_own`."""
    kind = type(energy)
    if registered("energy").get(kind.__name__) is kind and "domain" in parameters(kind):
        with suppress(AttributeError, TypeError, ValueError):
            values = {key: v for key, v in spec(energy).items() if key != "domain"}
            return dict(json.loads(json.dumps(values, allow_nan=False)))
    return describe_own(energy)


def check_recipe(run: Run, recipe: Plain, *, allow_changes: bool = False) -> None:
    """Raise RunError if a run was trained with another recipe; bring recipe.json up to date where
    the change is allowed.

    What the newest checkpoint says was trained counts; before the first one, recipe.json, in which
    sections may still be open.
    """
    header = run.header
    known = run.newest_state().get("recipe")
    if known is None and run.steps():
        warnings.warn(
            f"the checkpoints of {run.path} do not say with which recipe they were trained: an "
            "earlier lowland wrote them; recipe.json is believed",
            stacklevel=2,
        )
    changes = compare_recipes(header["recipe"] if known is None else known, recipe)
    if not run.steps():  # training fills in the data and the energy that it was given
        changes = [c for c in changes if "." in c.path or c.path in header["recipe"]]
    wrong = "; ".join(str(change) for change in changes if not change.allowed)
    if wrong and not allow_changes:
        raise RunError(
            f"{run.path} was trained with another recipe: {wrong.replace('; ', ', ')}; {RULE}; "
            "restore the recipe, train a new run, or resume with --allow-changes"
        )
    if wrong:
        warnings.warn(f"{run.path} goes on with a changed recipe: {wrong}", stacklevel=2)
    if compare_recipes(header["recipe"], recipe):
        run.write_recipe(recipe, header.get("versions"))


def check_identity(run: Run, data: Dataset) -> None:
    """Raise RunError unless the data are those that a run was trained on."""
    about = run.data
    if not about.get("digests"):
        warnings.warn(
            f"{run.path} holds no digests of its data, as an earlier lowland wrote it; whether "
            "they changed since cannot be told",
            stacklevel=2,
        )
        return
    changes = find_changes(about["digests"], data)
    if not _same_units(about, data):
        changes.append("the columns have other means or deviations")
    if changes:
        raise RunError(
            f"the data of {run.path} ({data.name}) are not those that it was trained on: "
            f"{', '.join(changes)}; a run belongs to its data and their division; restore them, "
            "pass the data set that was trained on as data=..., train a new run, or resume with "
            "--allow-changes"
        )


def _same_units(about: Plain, data: Dataset) -> bool:
    """Tell whether a data set was standardized by the numbers that a run knows, up to rounding."""
    pairs = [(about["mean"], data.mean), (about["scale"], data.scale)]
    if any(len(then) != len(now) for then, now in pairs):
        return False
    return all(
        abs(then - now) <= 1e-6 * max(abs(now), abs(data.scale[i]))
        for known, found in pairs
        for i, (then, now) in enumerate(zip(known, found, strict=True))
    )


def record_data(run: Run, data: Dataset, *, allow_changes: bool = False) -> None:
    """Write what a run must know of its data, or raise RunError if it knows others."""
    known = (run.path / "data.json").exists()
    if known and not allow_changes:
        check_identity(run, data)
    elif known:
        try:
            check_identity(run, data)
        except RunError as error:
            warnings.warn(str(error), stacklevel=2)
            known = False
    if not known or not (run.path / HASHES).exists():
        run.write_tensors(HASHES, PointHashes.of(data)._asdict())
    if not known:
        run.write_json("data.json", describe_data(data))
        if run.steps():
            run.save_checkpoint(run.load_checkpoint())  # which knows data.json


def describe_data(data: Dataset) -> Row:
    """Return what scoring and sampling need to know of the data when these are not at hand."""
    return {
        "name": data.name,
        "classes": data.classes,
        "class_names": data.class_names,
        "num_gray_levels": data.num_gray_levels,
        "note": data.note,
        "mean": data.mean,
        "scale": data.scale,
        "columns": data.columns,
        "label": data.label,
        "kind": data.domain.kind,
        "binarization": data.binarization,
        "binarization_note": data.binarization_note,
        "skipped": data.skipped,
        "sizes": {name: len(part) for name, part in data.splits()},
        "digests": digest_data(data),
    }


def read_hashes(run: Run) -> PointHashes | None:
    """Read the hashes of the training points of a run, None if it keeps none.

    Raises RunError for a file that holds something else.
    """
    if not (run.path / HASHES).exists():
        return None
    found: Mapping[str, Any] = run.read_tensors(HASHES)
    if set(found) != set(PointHashes._fields) or len(found["chance"]) != 2:
        raise RunError(
            f"{run.path / HASHES} is damaged: it must hold {', '.join(PointHashes._fields)}; it is "
            "as training wrote it; restore it from a copy"
        )
    return PointHashes(**found)
