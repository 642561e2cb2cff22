"""Functions of the user's that are called while a session trains, and how they stop it.

A callback is a plain function of one `Event`. Events come in this order: "update" after every
update, "verdict" for what health found, "log" after a row was written, "checkpoint" after one was
saved. To stop, a callback returns or raises `StopTraining`: the run then saves a checkpoint and
ends in good order, and the same line goes on from there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import nn

from lowland.run import Run
from lowland.training.findings import Finding
from lowland.training.settings import Row

if TYPE_CHECKING:
    from lowland.training.session import Session

Moment = Literal["update", "log", "checkpoint", "verdict"]


class StopTraining(Exception):  # noqa: N818  # a signal, as StopIteration is
    """Returned or raised by a callback: save a checkpoint and end the training."""


@dataclass(frozen=True)
class Event:
    """What a callback may read; it changes nothing of the session's own.

    moment: "update", "log", "checkpoint" or "verdict"; step: updates done, of `steps`; row: the
    figures of the newest row of the log, empty before the first; findings: what health says of that
    row; health: "good", "warn" or "bad"; energy: the network with averaged weights, as samples are
    drawn from it; rollbacks: how often the run went back; run: its directory.
    """

    moment: Moment
    step: int
    steps: int
    row: Row
    findings: tuple[Finding, ...]
    health: str
    energy: nn.Module
    rollbacks: int
    run: Run


Callback = Callable[[Event], object]


def check_callbacks(callbacks: Sequence[Callback]) -> tuple[Callback, ...]:
    """Return callbacks as a tuple. Raises ValueError for what cannot be called."""
    if callable(callbacks):
        raise ValueError(
            f"callbacks is {callbacks!r:.60}; it is a list of functions of one event; put it in "
            "brackets: callbacks=[...]"
        )
    for callback in callbacks:
        if not callable(callback):
            raise ValueError(
                f"a callback is {callback!r:.60}; it must be a function of one event; pass for "
                "example lambda event: print(event.step, event.row)"
            )
    return tuple(callbacks)


class Callbacks:
    """The callbacks of a training loop, the newest row, and whether one of them asked to stop.

    With several processes they are called in the main one, which decides for all.
    """

    def __init__(self, functions: Sequence[Callback], session: "Session", run: Run) -> None:
        self.functions, self.session, self.run = tuple(functions), session, run
        self.row: Row = {}
        self.findings: tuple[Finding, ...] = ()
        self.stopped = False

    def call(self, moment: Moment) -> None:
        """Call every function with an event of the present state of the session."""
        if not self.functions:
            return
        session = self.session
        if session.team.is_main:
            event = Event(
                moment,
                session.step,
                session.settings.steps,
                dict(self.row),
                self.findings,
                session.health,
                session.ema.module,
                session.rollbacks,
                self.run,
            )
            for function in self.functions:
                self.stopped |= _stops(function, event)
        self.stopped = session.team.broadcast(self.stopped)


def _stops(function: Callback, event: Event) -> bool:
    """Call a function, and tell whether it wants the training to end."""
    try:
        answer = function(event)
    except StopTraining:
        return True
    return answer is StopTraining or isinstance(answer, StopTraining)
