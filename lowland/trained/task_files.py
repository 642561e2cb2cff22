"""TOML files that hold the arguments of compose, edit or interpolate."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lowland.config.files import read_values
from lowland.registry import Plain

Kind = type | tuple[type, ...] | list[type | tuple[type, ...]]  # of a value; [kind]: a list of such

COMPOSE: dict[str, Kind] = {
    "runs": [str],
    "weights": [float],
    "labels": [(int, str)],
    "count": int,
    "steps": int,
    "num_levels": int,
    "seed": int,
    "out": str,
    "sigma_max": float,
    "sigma_min": float,
    "sampler": dict,
}
EDIT: dict[str, Kind] = {
    "run": str,
    "image": str,
    "label": (int, str),
    "classifier": str,
    "steps": int,
    "draws": int,
    "seed": int,
    "out": str,
    "weight": float,
    "proximal_sigma": float,
    "sigma": float,
}
INTERPOLATE: dict[str, Kind] = {
    "run": str,
    "a": str,
    "b": str,
    "points": int,
    "sigma": float,
    "steps": int,
    "out": str,
}
NAMES = {str: "a text", int: "a whole number", float: "a number", dict: "a table"}


def read_task(path: str | Path, kinds: Mapping[str, Kind], needed: Sequence[str]) -> Plain:
    """Read the values of a task from a TOML file.

    Raises ValueError for keys that are unknown, missing or of another kind.
    """
    values = read_values(Path(path), f"a TOML file with {needed[0]} = ... is needed; correct it")
    missing = [name for name in needed if values.get(name, "") in ("", [])]
    wrong = sorted(set(values) - set(kinds)) + missing
    if wrong:
        raise ValueError(
            f"{path} has the keys {', '.join(sorted(values)) or 'none'}; it needs "
            f"{', '.join(needed)} and may have {', '.join(sorted(set(kinds) - set(needed)))}; "
            f"correct {', '.join(wrong)}"
        )
    odd = [name for name, value in values.items() if not _is_of_kind(kinds[name], value)]
    if odd:
        raise ValueError(
            f"{path} has {', '.join(f'{name} = {values[name]!r}' for name in odd)}; needed are "
            f"{', '.join(f'{name}: {_describe(kinds[name])}' for name in odd)}; correct "
            f"{', '.join(odd)}"
        )
    return values


def _is_of_kind(kind: Kind, value: object) -> bool:
    if isinstance(kind, list):
        return isinstance(value, list) and all(_is_of_kind(kind[0], one) for one in value)
    if isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if kind is float else kind)


def _describe(kind: Kind) -> str:
    if isinstance(kind, list):
        return f"a list, each {_describe(kind[0])}"
    if isinstance(kind, tuple):
        return " or ".join(NAMES[one] for one in kind)
    return NAMES[kind]
