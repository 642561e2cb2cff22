"""Numbers, durations and lists of words as text for people."""

import math
from collections.abc import Mapping, Sequence
from numbers import Real

DASH = "–"


def parse_number(value: object) -> float | None:
    """Return a finite float, or None for anything else (absent, a word, "nan")."""
    if isinstance(value, bool) or not isinstance(value, (Real, str)):
        return None
    try:
        found = float(value)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def show(value: object, digits: int = 3) -> str:
    """Write a number in a few significant digits, with a true minus sign and thousands
    separated.
    """
    found = parse_number(value)
    if found is None:
        return DASH if value is None else str(value)
    if found == 0:
        return "0"
    size = math.floor(math.log10(abs(found)))
    if -4 <= size < 7:
        return minus(f"{found:,.{max(0, digits - 1 - size)}f}")
    mantissa, _, exponent = f"{found:.{digits - 1}e}".partition("e")
    return minus(f"{mantissa}e{int(exponent)}")


def minus(text: str) -> str:
    """Replace hyphens by true minus signs."""
    return text.replace("-", "−")


def _format(value: object, spec: str) -> str:
    found = parse_number(value)
    return DASH if found is None else minus(f"{found:{spec}}")


def count(value: object) -> str:
    """Write a whole number, thousands separated."""
    return _format(value, ",.0f")


def percent(value: object, digits: int = 1) -> str:
    """Write a share as a percentage."""
    return _format(value, f".{digits}%").replace("%", " %")


def estimate(values: object, *, share: bool = False, unit: str = "") -> str:
    """Write `{"value", "error"}` as "0.931 ± 0.008": the error in two digits, the value as far as
    the error reaches.
    """
    values = values if isinstance(values, Mapping) else {"value": values}
    value, error = parse_number(values.get("value")), parse_number(values.get("error"))
    if value is None:
        return DASH
    if share:
        value, error, unit = 100 * value, error and 100 * error, "%"
    if error:
        places = min(6, max(0, 1 - math.floor(math.log10(abs(error)))))
        text = f"{value:,.{places}f} ± {error:,.{places}f}"
    else:
        text = f"{value:.1f}" if share else show(value, 4)
    return f"{minus(text)} {unit}".rstrip()


def duration(seconds: float) -> str:
    """Write seconds in the two largest units that fit."""
    if seconds < 59.5:
        return f"{seconds:.{int(seconds < 9.95)}f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def join(words: Sequence[str]) -> str:
    """Write a list as "a, b and c"."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def plural(amount: int, noun: str) -> str:
    """Write an amount with its noun: 1 warning, 2 warnings."""
    return f"{amount:,} {noun}{'s' * (amount != 1)}"
