"""Record what would make a CPU wait for a GPU, and which line of lowland asked for it."""

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

PACKAGE = str(Path(__file__).parents[2] / "lowland") + "/"
RECORDS: "list[Record]" = []


@dataclass(frozen=True)
class Place:
    """Name a synchronisation: its kind, and the file, function and line of lowland it is in."""

    kind: str
    file: str
    function: str
    line: int

    def __str__(self) -> str:
        return f"{self.kind} at {self.file}:{self.line} ({self.function})"


@dataclass
class Record:
    """Count synchronisations by place.

    `waits` are those for which the CPU stands still until the device has computed everything
    that was asked; `uploads` are blocking copies of unpinned memory to the device.
    """

    places: Counter[Place] = field(default_factory=Counter)

    @property
    def waits(self) -> Counter[Place]:
        return Counter({p: n for p, n in self.places.items() if p.kind != "upload"})

    @property
    def uploads(self) -> Counter[Place]:
        return Counter({p: n for p, n in self.places.items() if p.kind == "upload"})

    def __str__(self) -> str:
        return "\n".join(f"{n:5d} {place}" for place, n in self.places.most_common())


def _caller() -> FrameType | None:
    main = threading.main_thread().ident
    if threading.get_ident() == main or main is None:
        return sys._getframe(2)
    return sys._current_frames().get(main)


def find_place(kind: str) -> Place:
    """Return the innermost line of lowland that is running."""
    frame = _caller()
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith(PACKAGE):
            file = code.co_filename.removeprefix(PACKAGE)
            return Place(kind, file, code.co_qualname, frame.f_lineno)
        frame = frame.f_back
    return Place(kind, "(outside lowland)", "", 0)


def note(kind: str) -> None:
    """Count one synchronisation in every record that is open."""
    if RECORDS:
        place = find_place(kind)
        for record in RECORDS:
            record.places[place] += 1


@contextmanager
def count_synchronisations() -> Iterator[Record]:
    """Record every synchronisation of the body."""
    record = Record()
    RECORDS.append(record)
    try:
        yield record
    finally:
        RECORDS.remove(record)


def count_per_step(run: Callable[[int], object], steps: int = 4) -> Counter[Place]:
    """Return by place how many synchronisations a step costs more, from `steps` to 2 `steps`.

    The counts are differences over all `steps` additional steps; an empty counter is the wish.
    """
    run(1)  # what happens once per process (kernels, timings, caches) is not counted
    with count_synchronisations() as few:
        run(steps)
    with count_synchronisations() as many:
        run(2 * steps)
    grown = Counter(many.places)
    grown.subtract(few.places)
    return Counter({place: n for place, n in grown.items() if n > 0})
