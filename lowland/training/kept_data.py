"""Keep the examples of a run that came from memory beside it, so that what needs them later, an
evaluation or a detector, finds them.
"""

import warnings
from dataclasses import fields

from lowland.data import Dataset, Split
from lowland.domain import Domain
from lowland.run import Run, RunError
from lowland.training.settings import Plain, Row

EXAMPLES = "examples.safetensors"
MAX_BYTES = 1 << 30  # of examples that are kept
TEXTS = ("class_names", "columns", "skipped")


def describe_kept(data: Dataset) -> Row:
    """Return the section [data] of a recipe whose examples came from memory; warn if they are too
    many to be kept.
    """
    size = sum(part.x.numel() * part.x.element_size() for _, part in data.splits())
    kept = size <= MAX_BYTES
    if not kept:
        warnings.warn(
            f"{data.name} takes {size / 1e9:.1f} GB, more than the {MAX_BYTES / 1e9:.1f} GB that a "
            "run keeps a copy of; evaluate, report and detect need it: pass lowland.load(run, "
            "data=...), or train on a file",
            stacklevel=3,
        )
    return {"name": data.name, "kept": kept}


def keep_examples(run: Run, recipe: Plain, data: Dataset) -> None:
    """Write the examples beside a run whose recipe says that they are kept, once."""
    if not recipe.get("data", {}).get("kept") or (run.path / EXAMPLES).exists():
        return
    tensors = {}
    for name, part in data.splits():
        tensors[f"{name}.x"] = part.x.detach().cpu().contiguous()
        if part.y is not None:
            tensors[f"{name}.y"] = part.y.detach().cpu().contiguous()
    run.write_tensors(EXAMPLES, tensors)


def read_examples(run: Run, recipe: Plain) -> Dataset | None:
    """Read the examples that a run keeps; None if it keeps none.

    Raises RunError for a file that holds something else, and where the examples were too many.
    """
    section = recipe.get("data", {})
    if "kept" not in section or section["kept"] is None:
        return None
    if not section["kept"]:
        raise RunError(
            f"{run.path} was trained on {section['name']}, of which it keeps no copy; evaluation "
            "and detectors need it; pass lowland.load(..., data=...)"
        )
    tensors = run.read_tensors(EXAMPLES)
    domain = run.newest_state().get("domain")
    wanted = {f"{name}.x" for name in ("train", "calibration", "test")}
    if not wanted <= set(tensors) or domain is None:
        raise RunError(
            f"{run.path / EXAMPLES} is damaged: it must hold {', '.join(sorted(wanted))}; it is as "
            "training wrote it; restore it from a copy, or call lowland.fit again"
        )
    about = run.data
    known = {field.name for field in fields(Dataset)}
    described = {key: value for key, value in about.items() if key in known}
    for name in (*TEXTS, "mean", "scale"):
        described[name] = tuple(described.get(name) or ())
    train, calibration, test = (
        Split(tensors[f"{name}.x"], tensors.get(f"{name}.y"))
        for name in ("train", "calibration", "test")
    )
    return Dataset(
        **described,
        domain=Domain.from_dict(domain),
        train=train,
        calibration=calibration,
        test=test,
    )
