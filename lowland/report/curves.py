"""What was logged over time, as curves and as a strip of health.

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

from lowland.report.figures import COLOURS, NICE, blank, label, tick
from lowland.report.pictures import Array

LEVELS = ("good", "warn", "bad")


class Series(NamedTuple):
    """One logged quantity: steps ascending, except where training was rolled back; values may be
    non-finite.
    """

    steps: Array
    values: Array

    @property
    def ends_at(self) -> float:
        return float(self.values[-1])


def series(rows: Sequence[Mapping[str, Any]], key: str) -> Series | None:
    """All rows that hold the key; "nan", "inf" and "-inf" become these numbers. None if no row
    holds it.
    """
    found = [(r["step"], _number(r[key])) for r in rows if "step" in r and r.get(key) is not None]
    if not found:
        return None
    steps, values = zip(*found, strict=True)
    return Series(np.asarray(steps, dtype=np.float64), np.asarray(values, dtype=np.float64))


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def thin(line: Series, most: int = 500) -> Series:
    """At most about `most` points: of each block the lowest and the highest, in order. Breaks stay
    breaks.
    """
    if len(line.steps) <= most:
        return line
    kept = []
    for block in np.array_split(np.arange(len(line.steps)), most // 2):
        values = line.values[block]
        seen = np.flatnonzero(np.isfinite(values))
        ends = {seen[values[seen].argmin()], seen[values[seen].argmax()]} if len(seen) else {0}
        kept += [int(block[i]) for i in sorted(ends)]
    return Series(line.steps[kept], line.values[kept])


def _holes(values: Array) -> Array:
    return np.where(np.isfinite(values), values, np.nan)


def broken(line: Series) -> Series:
    """With a gap wherever the step does not rise, as after a rollback, and wherever the value is
    not finite.
    """
    back = np.flatnonzero(np.diff(line.steps) <= 0) + 1
    return Series(np.insert(line.steps, back, np.nan), np.insert(_holes(line.values), back, np.nan))


def smooth(line: Series) -> Series:
    """A centred running mean over a fortieth of the log; the finite values alone count."""
    half = max(1, len(line.values) // 80)
    weights = np.isfinite(line.values).astype(np.float64)
    sums = np.cumsum(
        np.concatenate([[0.0], np.where(weights > 0, np.nan_to_num(line.values), 0.0)])
    )
    counts = np.cumsum(np.concatenate([[0.0], weights]))
    places = np.arange(len(line.values))
    first, last = np.maximum(places - half, 0), np.minimum(places + half + 1, len(line.values))
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (sums[last] - sums[first]) / (counts[last] - counts[first])
    return Series(line.steps, np.where(weights > 0, means, np.nan))


def limits(lines: Sequence[Series]) -> tuple[float, float, int]:
    """(low, high, values beyond): all of them, or 98 % where a few would flatten the rest to a
    line.
    """
    values = np.concatenate([line.values[np.isfinite(line.values)] for line in lines])
    if not len(values):
        return 0.0, 1.0, 0
    low, high = float(values.min()), float(values.max())
    inner_low, inner_high = (float(q) for q in np.quantile(values, [0.01, 0.99]))
    inner = inner_high - inner_low
    if len(values) >= 20 and inner > 0 and high - low > 3 * inner:
        low, high = max(low, inner_low - 0.3 * inner), min(high, inner_high + 0.3 * inner)
    pad = 0.06 * (high - low) or 0.5 * abs(high) or 0.5
    return low - pad, high + pad, int(((values < low) | (values > high)).sum())


def curve(
    lines: Sequence[tuple[Series, str]],
    *,
    zero: bool = False,
    log: bool = False,
    plain: bool = False,
    spread: Series | None = None,
    events: Sequence[tuple[float, str]] = (),
) -> tuple[Figure, int]:
    """Curves over updates, and how many values lie beyond the axis.

    lines: (series, colour name); zero: show the zero line; log: logarithmic where the values span
    more than a decade; plain: no running mean; spread: half width of a band around the first line;
    events: (step, level).
    """
    figure, axes = blank()
    shown = [line for line, _ in lines]
    values = np.concatenate([line.values for line in shown])
    values = values[np.isfinite(values)]
    log = (
        log
        and len(values) > 0
        and float(values.min()) > 0
        and float(values.max()) > 20 * float(values.min())
    )
    low, high, beyond = (0.0, 1.0, 0) if log else limits(shown)
    if spread is not None and len(spread.steps) == len(shown[0].steps):
        sides = [Series(shown[0].steps, shown[0].values + sign * spread.values) for sign in (-1, 1)]
        below, above = (broken(side) for side in sides)
        axes.fill_between(
            below.steps,
            below.values,
            above.values,
            color=COLOURS[lines[0][1]],
            alpha=0.13,
            linewidth=0,
        )
        wide = limits(sides)
        low, high = min(low, wide[0]), max(high, wide[1])
        beyond = sum(
            int(((v < low) | (v > high)).sum()) for v in (line.values for line in shown if not log)
        )
    if zero:
        low, high = min(low, -0.05 * (high - low)), max(high, 0.05 * (high - low))
        axes.axhline(0, color=COLOURS["ink"], linewidth=1)
    for step, level in events:
        axes.axvline(step, color=COLOURS[level], linewidth=1, dashes=(2, 2.5))
    for line, colour in lines:
        _trace(axes, line, COLOURS[colour], plain)
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(
            LogLocator(subs=(1, 2, 5) if values.max() < 300 * values.min() else (1,))
        )
        axes.yaxis.set_major_formatter(FuncFormatter(tick))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(low, high)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=NICE, integer=True))
    label(axes, "update")
    return figure, beyond


def _trace(axes: Axes, line: Series, colour: str, plain: bool) -> None:
    """The logged values; where there are many, thin and with a running mean on top; red ticks where
    not finite.
    """
    noisy = len(line.steps) > 60 and not plain
    raw = broken(thin(line))
    marker = "o" if len(line.steps) <= 20 else ""
    width, alpha = (0.8, 0.35) if noisy else (1.6, 1.0)
    axes.plot(
        raw.steps,
        raw.values,
        color=colour,
        linewidth=width,
        alpha=alpha,
        marker=marker,
        markersize=3,
    )
    if noisy:
        even = broken(thin(smooth(line)))
        axes.plot(even.steps, even.values, color=colour, linewidth=1.7)
    lost = line.steps[~np.isfinite(line.values)][:200]
    if len(lost):
        height = np.full(len(lost), 0.985)
        transform = axes.get_xaxis_transform()
        axes.plot(
            lost,
            height,
            "|",
            color=COLOURS["bad"],
            markersize=8,
            transform=transform,
            clip_on=False,
        )


def health(rows: Sequence[Mapping[str, Any]], cells: int = 240) -> list[tuple[str, float]]:
    """The strip as (level, width in percent), from the first to the last step; of each cell the
    worst level counts.
    """
    known = [
        (float(r["step"]), LEVELS.index(r["health"]))
        for r in rows
        if r.get("health") in LEVELS and "step" in r
    ]
    if not known:
        return []
    steps = np.array([step for step, _ in known])
    first, last = span(rows)
    cells = int(min(cells, max(1, len(set(steps)))))
    places = np.clip(((steps - first) / max(last - first, 1e-9) * cells).astype(int), 0, cells - 1)
    worst = np.full(cells, -1)
    for place, (_, level) in zip(places, known, strict=True):
        worst[place] = max(worst[place], level)
    strip: list[tuple[str, float]] = []
    for level in worst:
        name = LEVELS[level] if level >= 0 else (strip[-1][0] if strip else "good")
        width = 100 / cells
        if strip and strip[-1][0] == name:
            width += strip.pop()[1]
        strip.append((name, width))
    return [(name, round(width, 3)) for name, width in strip]


def span(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """The first and the last step of the log."""
    steps = [float(r["step"]) for r in rows if "step" in r]
    return (min(steps), max(steps)) if steps else (0.0, 0.0)
