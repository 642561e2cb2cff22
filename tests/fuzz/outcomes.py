"""Judge what a public door does with one input: right, refused, or a fault.

There is no third good outcome: a value is compared with an independent computation, and a refusal
is a ValueError that says what came, what is allowed and what to do, within 10 seconds of the
processor and 1 GB.
"""

import signal
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TypeVar

from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy

SECONDS, MEGABYTES = 10.0, 1024.0  # that refusing one input may take
T = TypeVar("T")
C = TypeVar("C")
TALLY: Counter[tuple[str, str]] = Counter()  # (door, outcome) of everything judged so far


class FaultError(AssertionError):
    """An input that was neither answered rightly nor refused in words."""


def judge(door: str, action: Callable[[], T], find_error: Callable[[T], str]) -> str:
    """Run an action on one input and return "right" or "refused".

    find_error: says what is wrong with a result, or "" if nothing is. Raises FaultError for a wrong
    result, any other exception, a refusal without three clauses, or one that took too much.
    """
    _forget_peak()
    before, began = _read_status("VmRSS"), time.process_time()
    try:
        with _stop_after(3 * SECONDS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = action()
    except ValueError as error:
        outcome, wrong = "refused", find_missing_clauses(error)
    except Exception as error:
        raise FaultError(f"{door}: {type(error).__name__}: {str(error)[:200]}") from error
    else:
        outcome, wrong = "right", find_error(result)
    took, held = time.process_time() - began, (_read_status("VmHWM") - before) / 1024
    if outcome == "refused" and (took > SECONDS or held > MEGABYTES):
        wrong = f"the refusal took {took:.0f} s and {held:.0f} MB"
    if wrong:
        raise FaultError(f"{door}: {wrong}")
    TALLY[door, outcome] += 1
    return outcome


def find_missing_clauses(error: ValueError) -> str:
    """Say what an error's text lacks: three clauses, parted by semicolons, or in a list
    of mistakes the key, what is allowed and what was given.
    """
    lines = [line for line in str(error).splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].endswith(":"):
        short = [line for line in lines[1:] if "; " not in line and "(given: " not in line]
    else:
        short = [str(error)] if str(error).count(";") < 2 else []
    return f"{type(error).__name__} lacks clauses: {short[0][:200]}" if short else ""


def explore(cases: SearchStrategy[C], check: Callable[[C], object], examples: int) -> None:
    """Draw cases, the same in every run, and check each; a failing one is made small."""

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(cases)
    def run(case: C) -> None:
        check(case)

    run()


@contextmanager
def _stop_after(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in what takes more of the processor, however busy it is."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"still at work after {seconds:.0f} s")

    old = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, old)


def _forget_peak() -> None:
    """Let the kernel measure the peak of resident memory anew, where it can."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return


def _read_status(key: str) -> float:
    """Return a figure in kB of /proc/self/status; 0 where there is none."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0.0
    return next((float(line.split()[1]) for line in lines if line.startswith(key)), 0.0)
