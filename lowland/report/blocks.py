"""The blocks that a page is made of.

A section is a list of blocks; the template knows how to set each kind. Strings are plain text and
are escaped by the template; only pictures are markup, and it is made by `figures` and `pictures`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Values = Mapping[str, Any]
Keys = tuple[tuple[str, str], ...]  # of a legend: label, name of the colour


class Block:
    """A piece of a section; `kind` names the macro of the template that sets it."""

    @property
    def kind(self) -> str:
        return type(self).__name__.lower()


@dataclass(frozen=True)
class Paragraph(Block):
    """One paragraph. absent: it says that something is missing from the run."""

    words: str
    absent: bool = False


@dataclass(frozen=True)
class Picture(Block):
    """A figure: markup that carries its own text alternative, a title, a caption, and a legend."""

    body: str
    title: str
    caption: str
    aside: str = ""
    keys: Keys = ()


@dataclass(frozen=True)
class Panels(Block):
    """Pictures, strips and tables side by side where there is room, one below the other on a phone.

    layout: "grid" in rows of up to three, "wide" in rows of two, "flow" in two columns that are
    read downwards.
    """

    items: Sequence[Block]
    layout: str = "grid"


@dataclass(frozen=True)
class Strips(Block):
    """A figure of rows of small pictures with a name each. rows: (name, markup)."""

    title: str
    caption: str
    rows: list[tuple[str, str]]


@dataclass(frozen=True)
class Film(Block):
    """A figure of columns, one per frame. columns: (heading, markup)."""

    title: str
    caption: str
    columns: list[tuple[str, str]]


@dataclass(frozen=True)
class Table(Block):
    """A table. head: column names; rows: cells as text, the first one naming the row; notes: a line
    below each row's name.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    words: bool = False
    caption: str = ""


@dataclass(frozen=True)
class Timeline(Block):
    """Health over time. cells: (level, width in percent); marks: (numbers of events, level,
    position in percent).
    """

    title: str
    caption: str
    alt: str
    cells: list[tuple[str, float]]
    marks: list[tuple[str, str, float]]
    ends: tuple[str, str]


@dataclass(frozen=True)
class Facts(Block):
    """A definition list. rows: (term, what it is, details); source: the whole recipe as text."""

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
    def of(cls, label: str, text: str, note: str, tone: str = "") -> "Card":
        """Split an estimate as text: "91.0 ± 1.2 %" becomes "91.0 %" and "± 1.2"."""
        value, _, rest = text.partition(" ± ")
        error, _, unit = rest.partition(" ")
        if error:
            error = f"± {error}"
        return cls(label, f"{value} {unit}".strip(), note, tone, error)


@dataclass
class Section:
    """A heading with its blocks."""

    name: str
    title: str
    lead: str = ""
    blocks: list[Block] = field(default_factory=list)

    def add(self, *blocks: Block) -> None:
        """Append blocks."""
        self.blocks += blocks

    def add_panels(self, items: Sequence[Block], layout: str = "grid") -> None:
        """Append items side by side, if there are any."""
        if items:
            self.blocks.append(Panels(items, layout))

    def add_text(self, words: str) -> None:
        """Append a paragraph."""
        self.blocks.append(Paragraph(words))

    def add_absent(self, words: str) -> None:
        """Append a sentence about something that is missing from the run."""
        self.blocks.append(Paragraph(words, absent=True))


def get_part(values: object, name: str) -> dict[str, Any]:
    """Return a nested mapping, empty if absent."""
    found = values.get(name) if isinstance(values, Mapping) else None
    return found if isinstance(found, dict) else {}
