"""compose, edit and interpolate as a TOML file says: the words of the command, kept, so that it can
be done again.
"""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lowland.verbs.composing import compose_runs, edit_image, interpolate_images

MANY = {
    "runs": [str],
    "weights": [float],
    "labels": [int],
    "count": int,
    "steps": int,
    "levels": int,
    "seed": int,
    "out": str,
}
COMPOSE: dict[str, Any] = MANY | {"sigma_max": float, "sigma_min": float, "sampler": dict}
ONE = {
    "run": str,
    "image": str,
    "label": int,
    "classifier": str,
    "steps": int,
    "draws": int,
    "seed": int,
    "out": str,
}
EDIT: dict[str, Any] = ONE | {"weight": float, "pull": float, "noise": float}
PATH: dict[str, Any] = {
    "run": str,
    "a": str,
    "b": str,
    "points": int,
    "noise": float,
    "steps": int,
    "out": str,
}


def compose_file(path: str | Path, *, progress: bool = True, **changes: Any) -> Path:
    """`compose_runs` as a file says: runs, weights, labels (-1 for none), count, steps, levels,
    seed, out, [sampler], ...

    changes: what is to be otherwise than in the file. Raises ValueError for keys that are unknown,
    missing or of another kind.
    """
    values = _told(path, COMPOSE, ["runs"])
    values["labels"] = [None if y < 0 else y for y in values.get("labels", [])]
    return compose_runs(**(values | changes), progress=progress)


def edit_file(path: str | Path, *, progress: bool = True, **changes: Any) -> Path:
    """`edit_image` as a file says: run, image, label, classifier, weight, pull, noise, steps,
    draws, seed, out.
    """
    return edit_image(**(_told(path, EDIT, ["run", "image", "label"]) | changes), progress=progress)


def interpolate_file(path: str | Path, *, progress: bool = True, **changes: Any) -> Path:
    """`interpolate_images` as a file says: run, a, b, points, noise, steps, out."""
    return interpolate_images(**(_told(path, PATH, ["run", "a", "b"]) | changes), progress=progress)


def _told(path: str | Path, kinds: Mapping[str, Any], needed: Sequence[str]) -> dict[str, Any]:
    """What a file says, of the kinds that its keys need."""
    try:
        values = tomllib.loads(Path(path).read_text())
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} cannot be read: {error}; a TOML file with {needed[0]} = ... is needed; "
            "correct it"
        ) from None
    wrong = sorted(set(values) - set(kinds)) + [
        name for name in needed if values.get(name, "") in ("", [])
    ]
    if wrong:
        raise ValueError(
            f"{path} has the keys {', '.join(sorted(values)) or 'none'}; it needs "
            f"{', '.join(needed)} and may have {', '.join(sorted(set(kinds) - set(needed)))}; "
            f"correct {', '.join(wrong)}"
        )
    odd = [name for name, value in values.items() if not _is(kinds[name], value)]
    if odd:
        raise ValueError(
            f"{path} has {', '.join(f'{name} = {values[name]!r}' for name in odd)}; needed are "
            f"{', '.join(f'{name}: {_named(kinds[name])}' for name in odd)}; correct "
            f"{', '.join(odd)}"
        )
    return values


def _is(kind: Any, value: Any) -> bool:
    if isinstance(kind, list):
        return isinstance(value, list) and all(_is(kind[0], one) for one in value)
    return isinstance(value, (int, float) if kind is float else kind) and not isinstance(
        value, bool
    )


def _named(kind: Any) -> str:
    names = {str: "a text", int: "a whole number", float: "a number", dict: "a table"}
    return f"a list, each {names[kind[0]]}" if isinstance(kind, list) else names[kind]
