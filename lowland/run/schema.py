"""Check what the JSON files of a run hold: every field is checked before it is used."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from lowland.domain import Domain


class Field(NamedTuple):
    """A field of a file: what it must be, in words, and the test of that."""

    words: str
    test: Callable[[Any], bool]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_list(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(test, value))


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_domain(value: object) -> bool:
    if not isinstance(value, dict) or not _is_list(_is_count)(value.get("shape")):
        return False
    try:
        Domain.from_dict(value)
    except (ValueError, TypeError, KeyError):
        return False
    known = value.get("kind") in ("real", "box", "binary", "categorical")
    return known and len(value["shape"]) < 16 and math.prod(value["shape"]) < 1 << 31


def _is_best(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    whole = _is_count(value.get("step")) and _is_count(value.get("waited", 0))
    return not value or (whole and _is_number(value.get("value", 0.0)))


def _is_position(value: object) -> bool:
    return (
        isinstance(value, dict)
        and {"epoch", "offset"} <= set(value)
        and all(map(_is_count, value.values()))
    )


COUNT = Field("a whole number of at least 0", _is_count)
TEXT = Field("text", _is_text)
TABLE = Field("a table of values", lambda value: isinstance(value, dict))
FACTOR = Field("a number above 0", lambda value: _is_number(value) and value > 0)
TEXTS = Field("a list of text", _is_list(_is_text))
NUMBERS = Field("a list of finite numbers", _is_list(_is_number))

STATE = {
    "step": COUNT,
    "processes": Field("a whole number of at least 1", lambda v: _is_count(v) and v > 0),
    "domain": Field("kind and shape of a domain", _is_domain),
    "batches": Field("epoch and offset, whole numbers", _is_position),
    "rate_factor": FACTOR,
    "step_factor": FACTOR,
    "best": Field("step and value of the best checkpoint", _is_best),
    "precision": Field("float32 or bfloat16", lambda v: v in ("float32", "bfloat16")),
    "rollbacks": COUNT,
    "health": Field("good, warn or bad", lambda v: v in ("good", "warn", "bad")),
    "log_size": COUNT,
    "recipe": TABLE,
    "device": TEXT,
}
HEADER = {"format": COUNT, "recipe": TABLE}
NAMED = Field(
    "a table with a name", lambda value: isinstance(value, dict) and _is_text(value.get("name"))
)
GENERATION = {
    "sampler": Field("a table with a name, or null", lambda v: v is None or NAMED.test(v)),
}
TRAINING = {"threads": COUNT, "steps": COUNT}
RECIPE = {
    "name": TEXT,
    "seed": COUNT,
    "data": NAMED,
    "energy": NAMED,
    "objective": NAMED,
    "training": TABLE,
    "generation": TABLE,
    "evaluation": TABLE,
}
DATA = {
    "name": TEXT,
    "classes": COUNT,
    "class_names": TEXTS,
    "num_gray_levels": Field("a whole number or null", lambda v: v is None or _is_count(v)),
    "note": TEXT,
    "mean": NUMBERS,
    "scale": NUMBERS,
    "columns": TEXTS,
    "binarization": TEXT,
    "sizes": Field(
        "a table of counts", lambda v: isinstance(v, dict) and all(map(_is_count, v.values()))
    ),
    "digests": Field(
        "a table of tables",
        lambda v: isinstance(v, dict) and all(isinstance(part, dict) for part in v.values()),
    ),
}
MANIFEST = {
    "format": COUNT,
    "sha256": Field(
        "a table of file names and checksums",
        lambda v: isinstance(v, dict) and bool(v) and all(map(_is_text, v.values())),
    ),
}


def find_problem(
    values: object, fields: Mapping[str, Field], required: Iterable[str] = ()
) -> str | None:
    """Say what is wrong with values that should have fields of a table; None if nothing is.

    required: fields that must be there; others are checked where they are.

    >>> find_problem({"step": -1}, STATE)
    'step is -1 and must be a whole number of at least 0'
    """
    if not isinstance(values, dict):
        return f"it holds {_show(values)} and must hold a table of values"
    missing = [name for name in required if name not in values]
    if missing:
        return f"{', '.join(missing)} is missing"
    for name, field in fields.items():
        if name in values and not field.test(values[name]):
            return f"{name} is {_show(values[name])} and must be {field.words}"
    return None


TEXT_COLUMNS = ("health", "device")  # in rows of measurements


def is_row(values: object) -> bool:
    """Tell whether values can be a row of a log: a table with a step and plain values."""
    if not isinstance(values, dict) or not _is_count(values.get("step")):
        return False
    event = "event" in values
    return all(
        event or name in TEXT_COLUMNS or _is_measure(value) for name, value in values.items()
    )


def _is_measure(value: object) -> bool:
    return isinstance(value, int | float) or value in ("nan", "inf", "-inf")


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
