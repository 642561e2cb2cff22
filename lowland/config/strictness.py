"""Types and bounds of the settings of registered classes, and every mistake that they refuse."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import Field, Strict

MAX_COUNT = 1_000_000_000  # of any whole number in a recipe but a seed
MAX_FLOAT = 1e18  # of any other number: float32 holds its square
MAX_SEED = 2**63 - 1  # which torch's generators take
MAX_LAYERS = 64  # of a plain stack
MAX_DEPTH = 1000  # of blocks that are built one by one
MAX_INNER_STEPS = 100_000  # of chains within one update
MAX_LENGTH = 1_000_000  # of other lists
LAYERS = ("hidden", "n_hidden", "widths", "channels", "kernels", "strides", "separate_trunk")
BLOCKS = ("depth", "blocks", "transforms", "max_tree_depth")
REFUSALS = (ValueError, TypeError, ArithmeticError, LookupError, RuntimeError)
Make = Callable[[Mapping[str, Any]], object]


def strict_annotation(name: str, annotation: Any, most_steps: int) -> Any:
    """Return the annotation of a setting with bounds on its numbers and on the length of its list.

    most_steps: of settings called steps. What pydantic's strict mode would refuse a list for, a
    tuple, takes one.
    """
    if annotation is int:
        most = MAX_DEPTH if name in BLOCKS else MAX_COUNT
        if name.endswith("steps"):
            most = most_steps
        return Annotated[int, Field(ge=0, le=most)]
    if annotation is float:
        return Annotated[float, Field(ge=-MAX_FLOAT, le=MAX_FLOAT)]
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return Union[tuple(strict_annotation(name, part, most_steps) for part in parts)]  # noqa: UP007
    if origin is tuple:
        inner = tuple(p if p is ... else strict_annotation(name, p, most_steps) for p in parts)
        return Annotated[tuple[inner], Strict(False), Field(max_length=MAX_LENGTH)]  # type: ignore[valid-type]
    if origin is Sequence:
        longest = Field(max_length=MAX_LAYERS if name in LAYERS else MAX_LENGTH)
        return Annotated[Sequence[strict_annotation(name, parts[0], most_steps)], longest]  # type: ignore[misc]
    return annotation


def collect_refusals(
    make: Make, values: Mapping[str, Any], defaults: Mapping[str, Any]
) -> list[str]:
    """Return all that a constructor refuses of some values, a sentence each.

    A constructor names one mistake and stops. What it refused is therefore replaced by its default
    (defaults has one for every setting that may be replaced), and the rest is tried again.
    """
    left, found = dict(values), []
    for _ in range(len(left) + 1):
        message = _refusal(make, left)
        if message is None:
            break
        found.append(message)
        changed = [n for n in left if n in defaults and left[n] is not defaults[n]]
        guilty = [n for n in changed if _refusal(make, {**left, n: defaults[n]}) != message]
        if not guilty:
            break
        left |= {name: defaults[name] for name in guilty}
    return found


def _refusal(make: Make, values: Mapping[str, Any]) -> str | None:
    """Return why something cannot be made from values; None if it can."""
    try:
        make(values)
    except REFUSALS as error:
        if isinstance(error, ValueError):
            return str(error)
        given = ", ".join(f"{name} = {show(value)}" for name, value in values.items())
        return f"{given} came; nothing can be built from these ({error}); correct them"
    return None


def placeholder(annotation: Any) -> Any:
    """Return a value of a setting that has no default, for trying the others."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)[0]
    return {int: 1, float: 1.0}.get(annotation, (1.0, 2.0))


def show_path(path: Path) -> str:
    """Return a path as text that is safe to print."""
    text = str(path)
    return text if text.isprintable() else show(text)


def show(value: object) -> str:
    """Return a value as text on one line, of at most 60 characters."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a whole number of thousands of digits, or a deep nest
        text = f"a {type(value).__name__} too large to print"
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= 60 else f"{text[:57]}..."
