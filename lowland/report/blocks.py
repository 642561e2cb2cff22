"""What a page is made of, and how numbers are written in it.

A section is a list of blocks; the template knows how to set each kind. Strings are plain text and
are escaped by the template; only `Picture.body` is markup, and it is made by `figures`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

DASH = "–"


@dataclass(frozen=True)
class Text:
    """One paragraph. absent: it says that something is missing from the run."""

    kind: ClassVar[str] = "text"
    words: str
    absent: bool = False


@dataclass(frozen=True)
class Picture:
    """A figure: markup that carries its own text alternative, a title, a caption, and keys (label,
    colour name).
    """

    kind: ClassVar[str] = "picture"
    body: str
    title: str
    caption: str
    aside: str = ""
    keys: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Panels:
    """Pictures, strips and tables side by side where there is room, one below the other on a phone.

    layout: "grid" in rows of up to three, "wide" in rows of two, "flow" in two columns that are
    read downwards.
    """

    kind: ClassVar[str] = "panels"
    items: Sequence[Any]
    layout: str = "grid"


@dataclass(frozen=True)
class Strips:
    """A figure of rows of small pictures with a name each. rows: (name, markup)."""

    kind: ClassVar[str] = "strips"
    title: str
    caption: str
    rows: list[tuple[str, str]]


@dataclass(frozen=True)
class Film:
    """A figure of columns, one per frame. columns: (heading, markup)."""

    kind: ClassVar[str] = "film"
    title: str
    caption: str
    columns: list[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """head: column names; rows: cells as text, the first one naming the row; notes: a line below
    each row's name.
    """

    kind: ClassVar[str] = "table"
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    words: bool = False
    caption: str = ""


@dataclass(frozen=True)
class Timeline:
    """Health over time. cells: (level, width in percent); marks: (numbers of events, level,
    position in percent).
    """

    kind: ClassVar[str] = "timeline"
    title: str
    caption: str
    alt: str
    cells: list[tuple[str, float]]
    marks: list[tuple[str, str, float]]
    ends: tuple[str, str]


@dataclass(frozen=True)
class Facts:
    """A definition list. rows: (term, what it is, details); source: the whole recipe as text."""

    kind: ClassVar[str] = "facts"
    rows: list[tuple[str, str, str]]
    source: str


@dataclass(frozen=True)
class Card:
    """A headline figure. tone: good, warn, bad, or nothing; error: what stands after ±."""

    label: str
    value: str
    note: str
    tone: str = ""
    error: str = ""

    @classmethod
    def of(cls, label: str, text: str, note: str) -> "Card":
        """From an estimate as text: "91.0 ± 1.2 %" becomes "91.0 %" and "± 1.2"."""
        value, _, rest = text.partition(" ± ")
        error, _, unit = rest.partition(" ")
        return cls(label, f"{value} {unit}".strip(), note, error=f"± {error}" if error else "")


@dataclass
class Section:
    """A heading with its blocks."""

    name: str
    title: str
    lead: str = ""
    blocks: list[Any] = field(default_factory=list)


Values = Mapping[str, Any]


def part(values: Any, name: str) -> dict[str, Any]:
    """A nested mapping, empty if absent."""
    found = values.get(name) if isinstance(values, Mapping) else None
    return found if isinstance(found, dict) else {}


# ---- numbers -------------------------------------------------------------------------------------


def number(value: Any) -> float | None:
    """A finite float, or None for anything else (absent, text, "nan")."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def show(value: Any, digits: int = 3) -> str:
    """A number in a few significant digits, with a true minus sign and thousands separated."""
    found = number(value)
    if found is None:
        return DASH if value is None else str(value)
    if found == 0:
        return "0"
    size = math.floor(math.log10(abs(found)))
    if size >= 7 or size < -4:
        text = f"{found:.{digits - 1}e}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")
    else:
        text = f"{found:,.{max(0, digits - 1 - size)}f}"
    return text.replace("-", "−")


def count(value: Any) -> str:
    """A whole number, thousands separated."""
    found = number(value)
    return DASH if found is None else f"{found:,.0f}".replace("-", "−")


def percent(value: Any, digits: int = 1) -> str:
    """A share as a percentage."""
    found = number(value)
    return DASH if found is None else f"{100 * found:.{digits}f} %".replace("-", "−")


def estimate(values: Any, *, share: bool = False, unit: str = "") -> str:
    """`{"value", "error"}` as "0.931 ± 0.008": the error in two digits, the value as far as the
    error reaches.
    """
    values = values if isinstance(values, dict) else {"value": values}
    value, error = number(values.get("value")), number(values.get("error"))
    tail = " %" if share else f" {unit}" if unit else ""
    if value is None:
        return DASH
    scale = 100 if share else 1
    value, error = scale * value, None if error is None else scale * error
    if not error:
        return (f"{value:.1f}" if share else show(value, 4)).replace("-", "−") + tail
    places = min(6, max(0, 1 - math.floor(math.log10(abs(error)))))
    return f"{value:,.{places}f} ± {error:,.{places}f}".replace("-", "−") + tail


def duration(seconds: float) -> str:
    """Seconds in the two largest units that fit."""
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def listed(words: Sequence[str]) -> str:
    """a, b and c."""
    return (
        words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""
    )


def plural(amount: int, noun: str) -> str:
    """1 warning, 2 warnings."""
    return f"{amount:,} {noun}" + ("" if amount == 1 else "s")
