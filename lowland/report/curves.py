"""Curves of logged quantities over training, and a strip of health.

A long log is thinned so that no spike is lost: of every block of rows the lowest and the highest
are kept. A value that is not finite is never drawn as a number: the curve breaks and a red tick
marks the step.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from lowland.report.figures import COLORS, TICK_STEPS, Style, label, new_figure, tick
from lowland.report.pictures import Array

LEVELS = ("good", "warn", "bad")
Rows = Sequence[Mapping[str, Any]]


class Series(NamedTuple):
    """One logged quantity: steps ascending, except where training was rolled back; values may be
    non-finite.
    """

    steps: Array
    values: Array

    @property
    def finite(self) -> Array:
        return np.isfinite(self.values)


def collect_series(rows: Rows, key: str) -> Series | None:
    """Collect all rows that hold the key; "nan", "inf" and "-inf" become these numbers. None if no
    row holds it.
    """
    found = [(r["step"], _to_float(r[key])) for r in rows if "step" in r and r.get(key) is not None]
    if not found:
        return None
    steps, values = np.asarray(found, dtype=np.float64).T
    return Series(steps, values)


def _to_float(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def thin(line: Series, most: int = 500) -> Series:
    """Keep at most about `most` points: of each block the lowest and the highest, in order. Breaks
    stay breaks.
    """
    if len(line.steps) <= most:
        return line
    kept: list[int] = []
    for block in np.array_split(np.arange(len(line.steps)), most // 2):
        known = block[line.finite[block]]
        if len(known):
            values = line.values[known]
            kept += sorted({int(known[values.argmin()]), int(known[values.argmax()])})
        else:
            kept.append(int(block[0]))
    return Series(line.steps[kept], line.values[kept])


def insert_breaks(line: Series) -> Series:
    """Insert a gap wherever the step does not rise, as after a rollback, and wherever the value is
    not finite.
    """
    back = np.flatnonzero(np.diff(line.steps) <= 0) + 1
    values = np.where(line.finite, line.values, np.nan)
    return Series(np.insert(line.steps, back, np.nan), np.insert(values, back, np.nan))


def smooth(line: Series) -> Series:
    """Return a centred running mean over a fortieth of the log; the finite values alone count."""
    half = max(1, len(line.values) // 80)
    sums = np.cumsum([0.0, *np.where(line.finite, line.values, 0.0)])
    counts = np.cumsum([0.0, *line.finite])
    places = np.arange(len(line.values))
    first, last = np.maximum(places - half, 0), np.minimum(places + half + 1, len(line.values))
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (sums[last] - sums[first]) / (counts[last] - counts[first])
    return Series(line.steps, np.where(line.finite, means, np.nan))


def axis_limits(lines: Sequence[Series]) -> tuple[float, float, int]:
    """Return (low, high, values beyond): all of them, or 98 % where a few would flatten the rest to
    a line.
    """
    values = np.concatenate([line.values[line.finite] for line in lines])
    if not len(values):
        return 0.0, 1.0, 0
    low, high = float(values.min()), float(values.max())
    inner_low, inner_high = (float(q) for q in np.quantile(values, [0.01, 0.99]))
    inner = inner_high - inner_low
    if len(values) >= 20 and inner > 0 and high - low > 3 * inner:
        low, high = max(low, inner_low - 0.3 * inner), min(high, inner_high + 0.3 * inner)
    pad = 0.06 * (high - low) or 0.5 * abs(high) or 0.5
    return low - pad, high + pad, _count_beyond(values, low, high)


def _count_beyond(values: Array, low: float, high: float) -> int:
    return int(((values < low) | (values > high)).sum())


def draw_curves(
    lines: Sequence[tuple[Series, str]],
    *,
    zero: bool = False,
    log: bool = False,
    plain: bool = False,
    spread: Series | None = None,
    events: Sequence[tuple[float, str]] = (),
) -> tuple[Figure, int]:
    """Draw curves over updates; returns the figure and the number of values beyond the axis.

    lines: (series, colour name); zero: show the zero line; log: logarithmic where the values span
    more than a decade; plain: no running mean; spread: half width of a band around the first line;
    events: (step, level).
    """
    figure, axes = new_figure()
    shown = [line for line, _ in lines]
    values = np.concatenate([line.values[line.finite] for line in shown])
    log = log and len(values) > 0 and values.min() > 0 and bool(values.max() > 20 * values.min())
    low, high, beyond = axis_limits(shown)
    if spread is not None and len(spread.steps) == len(shown[0].steps):
        wide = _draw_band(axes, shown[0], spread, COLORS[lines[0][1]])
        low, high = min(low, wide[0]), max(high, wide[1])
        beyond = sum(_count_beyond(line.values, low, high) for line in shown)
    if zero:
        low, high = min(low, -0.05 * (high - low)), max(high, 0.05 * (high - low))
        axes.axhline(0, color=COLORS["ink"], linewidth=1)
    for step, level in events:
        axes.axvline(step, color=COLORS[level], linewidth=1, dashes=(2, 2.5))
    for line, color in lines:
        _draw_line(axes, line, COLORS[color], plain)
    if log:
        beyond = 0
        axes.set_yscale("log")
        ticks = (1, 2, 5)[: 3 if values.max() < 300 * values.min() else 1]
        axes.yaxis.set_major_locator(LogLocator(subs=ticks))
        axes.yaxis.set_major_formatter(FuncFormatter(tick))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(low, high)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=TICK_STEPS, integer=True))
    label(axes, "update")
    return figure, beyond


def _draw_band(axes: Axes, line: Series, spread: Series, color: str) -> tuple[float, float]:
    """Fill a band around a line; returns the limits of an axis that holds it."""
    sides = [Series(line.steps, line.values + sign * spread.values) for sign in (-1, 1)]
    below, above = (insert_breaks(side) for side in sides)
    axes.fill_between(below.steps, below.values, above.values, color=color, alpha=0.13, linewidth=0)
    low, high, _ = axis_limits(sides)
    return low, high


def _draw_line(axes: Axes, line: Series, color: str, plain: bool) -> None:
    """Draw the logged values; where there are many, thin and with a running mean on top; red ticks
    where not finite.
    """
    noisy = len(line.steps) > 60 and not plain
    style: Style = {"linewidth": 1.6, "alpha": 1.0}
    if noisy:
        style = {"linewidth": 0.8, "alpha": 0.35}
    if len(line.steps) <= 20:
        style |= {"marker": "o", "markersize": 3}
    raw = insert_breaks(thin(line))
    axes.plot(raw.steps, raw.values, color=color, **style)
    if noisy:
        mean = insert_breaks(thin(smooth(line)))
        axes.plot(mean.steps, mean.values, color=color, linewidth=1.7)
    lost = line.steps[~line.finite][:200]
    if len(lost):
        top: Style = {"transform": axes.get_xaxis_transform(), "clip_on": False}
        axes.plot(lost, np.full(len(lost), 0.985), "|", color=COLORS["bad"], markersize=8, **top)


def health_strip(rows: Rows, cells: int = 240) -> list[tuple[str, float]]:
    """Return the strip as (level, width in percent), from the first to the last step; of each cell
    the worst level counts.
    """
    known = [
        (float(r["step"]), LEVELS.index(r["health"]))
        for r in rows
        if r.get("health") in LEVELS and "step" in r
    ]
    if not known:
        return []
    steps = np.array([step for step, _ in known])
    first, last = find_span(rows)
    cells = int(min(cells, max(1, len(set(steps)))))
    places = np.clip(((steps - first) / max(last - first, 1e-9) * cells).astype(int), 0, cells - 1)
    worst = np.full(cells, -1)
    np.maximum.at(worst, places, [level for _, level in known])
    strip: list[tuple[str, float]] = []
    name = "good"
    for level in worst:
        if level >= 0:
            name = LEVELS[level]
        width = 100 / cells
        if strip and strip[-1][0] == name:
            width += strip.pop()[1]
        strip.append((name, width))
    return [(name, round(width, 3)) for name, width in strip]


def find_span(rows: Rows) -> tuple[float, float]:
    """Return the first and the last step of the log."""
    steps = [float(r["step"]) for r in rows if "step" in r] or [0.0]
    return min(steps), max(steps)
