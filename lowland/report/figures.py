"""Arrays to plots: pure functions, no global state.

A plot is a matplotlib `Figure` drawn in the colours below. `svg` turns it into markup in which
every one of these colours is a CSS variable, so that one drawing serves a light and a dark page,
and in which text stays text. Plots are about as wide as a phone (360 units), so that their letters
keep their size there; wide pages set several side by side.
"""

import html
import io
import re
import zlib
from collections.abc import Sequence
from typing import Any, cast

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from lowland.report.pictures import Array

COLOURS = {  # name in the style sheet: colour as drawn
    "ink": "#1c2531",
    "muted": "#5f6a77",
    "grid": "#e4e3dc",
    "data": "#2a6fb1",
    "model": "#d1662b",
    "noise": "#8c8f99",
    "third": "#7a5aa8",
    "fourth": "#2f8f83",
    "fifth": "#b0457c",
    "good": "#4d9062",
    "warn": "#d8a321",
    "bad": "#b9393c",
}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "lowland",
    "text.parse_math": False,
    "font.size": 11.5,
    "axes.xmargin": 0.015,
}
LAND = LinearSegmentedColormap.from_list(
    "lowland", ["#0c3a45", "#1f6a70", "#5f9c86", "#bfc096", "#f0e8d2"]
)
NICE = [1, 2, 2.5, 5, 10]  # steps between ticks
Limits = tuple[float, float, float, float]


def blank(width: float = 360, height: float = 220) -> tuple[Figure, Axes]:
    """A figure of this size in CSS pixels with one pair of quiet axes."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained")
        FigureCanvasAgg(figure)
        figure.patch.set_visible(False)
        axes = figure.add_subplot()
    axes.patch.set_visible(False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(COLOURS["muted"])
    axes.tick_params(colors=COLOURS["muted"], labelcolor=COLOURS["muted"], length=3, width=0.8)
    axes.grid(True, color=COLOURS["grid"], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=NICE))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=NICE))
    axes.xaxis.set_major_formatter(FuncFormatter(tick))
    axes.yaxis.set_major_formatter(FuncFormatter(tick))
    return figure, axes


def label(axes: Axes, x: str, y: str = "") -> None:
    """Name the axes."""
    axes.set_xlabel(x, color=COLOURS["muted"])
    if y:
        axes.set_ylabel(y, color=COLOURS["muted"])


def tick(value: float, _: Any = None) -> str:
    """A short tick label: 0.5, 20k, 3M, −1.2e−5."""
    size = abs(value)
    if size >= 1e9 or 0 < size < 1e-3:
        text = re.sub(r"e([+-])0*", lambda found: "e" + found[1].strip("+"), f"{value:.3g}")
    elif size >= 1e6:
        text = f"{value / 1e6:g}M"
    elif size >= 1e4:
        text = f"{value / 1e3:g}k"
    else:
        text = f"{round(value, 6):g}"
    return text.replace("-", "−")


def svg(figure: Figure, alt: str) -> str:
    """The figure as an <svg> element for use inside a page: no id shared between figures, no fonts,
    no addresses.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", dpi=216, metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(
        r"<metadata>.*?</metadata>|<!--.*?-->", "", text[text.index("<svg") :], flags=re.DOTALL
    )
    text = re.sub(r"font(?:-family)?:\s*([\d.]+px)?[^;\"]*DejaVu Sans[^;\"]*", _font, text)
    for name, colour in COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    prefix = f"f{zlib.crc32((alt + text).encode()):x}-"
    text = re.sub(r'\bid="', f'id="{prefix}', text.replace("xlink:href", "href")).replace(
        "url(#", f"url(#{prefix}"
    )
    text = text.replace('href="#', f'href="#{prefix}')
    box = re.search(r'viewBox="([^"]*)"', text)
    assert box is not None
    head = f'<svg viewBox="{box[1]}" role="img" aria-label="{html.escape(alt)}">'
    return head + re.sub(r"\n\s*", "\n", text[text.index(">") + 1 :]).strip()


def _font(found: re.Match[str]) -> str:
    return f"font-size: {found[1]}" if found[1] else "font-family: inherit"


# ---- distributions -------------------------------------------------------------------------------


def finite(values: Array | Sequence[float]) -> Array:
    """The finite values, flat, in double precision."""
    flat = np.asarray(values, dtype=np.float64).ravel()
    return cast(Array, flat[np.isfinite(flat)])


def histogram(
    sets: Sequence[tuple[Array, str]], window: tuple[float, float], x: str, height: float = 250
) -> Figure:
    """Overlaid densities. sets: (values, colour name). Each integrates to one over all of its
    values, drawn or not.
    """
    figure, axes = blank(height=height)
    edges = np.linspace(*window, 49)
    for values, colour in sets:
        values = finite(values)
        if not len(values):
            continue
        heights = np.histogram(values, edges)[0] / (len(values) * (edges[1] - edges[0]))
        axes.stairs(heights, edges, fill=True, color=COLOURS[colour], alpha=0.14, linewidth=0)
        axes.stairs(heights, edges, color=COLOURS[colour], linewidth=1.5)
    axes.set_xlim(*window)
    axes.set_ylim(bottom=0)
    label(axes, x, "density")
    return figure


def window(
    core: Sequence[Array], others: Sequence[Array] = (), reach: float = 3.0
) -> tuple[float, float]:
    """An axis that shows 99 % of the core sets, and 98 % of each other set whose middle lies within
    `reach` widths.
    """
    inner = (
        [v for v in map(finite, core) if len(v)]
        or [v for v in map(finite, others) if len(v)]
        or [np.array([0.0, 1.0])]
    )
    low, high = (float(q) for q in np.quantile(np.concatenate(inner), [0.005, 0.995]))
    width = (high - low) or max(1e-6, abs(low) * 1e-3)
    first, last = low, high
    for values in map(finite, others):
        if not len(values):
            continue
        start, middle, end = (float(q) for q in np.quantile(values, [0.01, 0.5, 0.99]))
        if low - reach * width <= middle <= high + reach * width:
            first, last = (
                min(first, max(start, low - reach * width)),
                max(last, min(end, high + reach * width)),
            )
    pad = 0.05 * (last - first or width)
    return first - pad, last + pad


def calibration(
    nominal: Array,
    empirical: Array,
    low: Array | None,
    high: Array | None,
    point: tuple[float, float] | None,
) -> Figure:
    """Empirical against nominal false-alarm rate in the band of a sound detector. point: (nominal,
    value) in use.
    """
    figure, axes = blank(height=320)
    order = np.argsort(nominal)
    top = float(np.nanmax(np.concatenate([finite(nominal), finite(empirical)]))) * 1.04
    axes.plot([0, top], [0, top], color=COLOURS["muted"], linewidth=1.1, dashes=(4, 3))
    if low is not None and high is not None:
        axes.fill_between(
            nominal[order], low[order], high[order], color=COLOURS["noise"], alpha=0.25, linewidth=0
        )
    axes.plot(nominal[order], empirical[order], color=COLOURS["data"], linewidth=1.8)
    if point is not None:
        axes.plot(*point, "o", color=COLOURS["model"], markersize=6.5)
    axes.set(xlim=(0, top), ylim=(0, top), aspect="equal")
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=NICE))
    label(axes, "false alarms promised", "false alarms counted")
    return figure


def bars(counts: Sequence[float], names: Sequence[str]) -> Figure:
    """Counts per class, with the level at which all would be equal."""
    figure, axes = blank(height=max(110.0, 46 + 19.0 * len(counts)))
    axes.barh(np.arange(len(counts)), counts, color=COLOURS["model"], height=0.66)
    axes.axvline(float(np.mean(counts)), color=COLOURS["ink"], linewidth=1.1, dashes=(4, 3))
    _names(axes, names)
    label(axes, "samples")
    return figure


def ranges(rows: Sequence[tuple[str, float, float, float, str]]) -> Figure:
    """One line per set from low to high with a dot at its middle. rows: (name, low, middle, high,
    colour name).
    """
    figure, axes = blank(height=46 + 22.0 * len(rows))
    for i, (_, low, middle, high, colour) in enumerate(rows):
        axes.plot(
            [low, high],
            [i, i],
            color=COLOURS[colour],
            linewidth=5,
            alpha=0.4,
            solid_capstyle="round",
        )
        axes.plot([middle], [i], "o", color=COLOURS[colour], markersize=7)
    _names(axes, [row[0] for row in rows])
    axes.margins(x=0.04)
    label(axes, "energy")
    return figure


def _names(axes: Axes, names: Sequence[str]) -> None:
    """Names down the left side, as they are: a $ in a name is a $."""
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(
        np.arange(len(names)), [name if len(name) < 17 else f"{name[:15]}…" for name in names]
    )
    for text in axes.get_yticklabels():
        text.set_parse_math(False)
    axes.grid(False, axis="y")


# ---- points in the plane -------------------------------------------------------------------------


def frame(points: Array) -> Limits:
    """x and y limits that hold the points but a few stragglers, with a margin."""
    points = points[np.isfinite(points).all(axis=1)]
    if not len(points):
        return -1.0, 1.0, -1.0, 1.0
    low, high = np.quantile(points, 0.002, axis=0), np.quantile(points, 0.998, axis=0)
    pad = 0.12 * np.maximum(high - low, 1e-6)
    return (
        float(low[0] - pad[0]),
        float(high[0] + pad[0]),
        float(low[1] - pad[1]),
        float(high[1] + pad[1]),
    )


def _height(limits: Limits, margin: float = 50) -> float:
    """The height at which a plane of these limits fills a figure without blank bands."""
    across, up = max(limits[1] - limits[0], 1e-12), max(limits[3] - limits[2], 1e-12)
    return float(np.clip((360 - margin) * up / across + 26, 150, 330))


def scatter(points: Array, limits: Limits, colour: str) -> Figure:
    """Points in the plane."""
    figure, axes = blank(height=_height(limits))
    _dots(axes, points, COLOURS[colour], 0.55)
    axes.set(xlim=limits[:2], ylim=limits[2:])
    axes.set_aspect("equal", adjustable="box")
    return figure


def paths(film: Array, data: Array | None) -> Figure:
    """Paths of chains (frames, chains, 2) over the data: a ring where each starts, a dot where it
    ends.
    """
    ends = [film.reshape(-1, 2)] if data is None else [film.reshape(-1, 2), data]
    limits = frame(np.concatenate(ends))
    figure, axes = blank(height=_height(limits))
    if data is not None:
        _dots(axes, data, COLOURS["noise"], 0.35)
    for chain in np.moveaxis(film, 1, 0):
        axes.plot(chain[:, 0], chain[:, 1], color=COLOURS["model"], linewidth=1, alpha=0.7)
        axes.plot(
            *chain[0], "o", markerfacecolor="none", markeredgecolor=COLOURS["model"], markersize=5
        )
        axes.plot(*chain[-1], "o", color=COLOURS["model"], markersize=5.5)
    axes.set(xlim=limits[:2], ylim=limits[2:])
    axes.set_aspect("equal", adjustable="box")
    return figure


def _dots(axes: Axes, points: Array, colour: str, alpha: float = 0.9, edge: str = "none") -> None:
    size = float(np.clip(5000 / max(1, len(points)), 4, 16))
    axes.scatter(
        points[:, 0],
        points[:, 1],
        s=size,
        c=colour,
        alpha=alpha,
        edgecolors=edge,
        linewidths=0.3,
        rasterized=True,
    )


def landscape(x: Array, y: Array, energy: Array, points: Array | None, colour: str) -> Figure:
    """Filled contours of the energy above its floor (row = y), with points on top."""
    limits = (float(x.min()), float(x.max()), float(y.min()), float(y.max()))
    figure, axes = blank(height=_height(limits, 85))
    values, levels = _levels(energy)
    land = axes.contourf(x, y, values, levels=levels, cmap=LAND, extend="max")
    land.set_rasterized(True)
    axes.contour(
        x, y, values, levels=levels[1::2], colors="#ffffff", linewidths=0.5, alpha=0.5
    ).set_rasterized(True)
    if points is not None and len(points):
        _dots(axes, points, colour, edge="#1c2530")
    bar = figure.colorbar(land, ax=axes, fraction=0.045, pad=0.02, format=FuncFormatter(tick))
    cast(Any, bar.outline).set_visible(False)
    bar.ax.tick_params(colors=COLOURS["muted"], labelcolor=COLOURS["muted"], length=0)
    bar.locator = MaxNLocator(5)
    bar.update_ticks()
    axes.grid(False)
    axes.set(xlim=limits[:2], ylim=limits[2:], aspect="equal")
    return figure


def field(
    points: Array, vectors: Array, x: Array | None, y: Array | None, energy: Array | None
) -> Figure:
    """Arrows along −∇E, all of one length and coloured by size, over contours of the energy."""
    plane = (points[:, 0], points[:, 1]) if x is None or y is None else (x, y)
    limits = (
        float(plane[0].min()),
        float(plane[0].max()),
        float(plane[1].min()),
        float(plane[1].max()),
    )
    figure, axes = blank(height=_height(limits))
    if x is not None and y is not None and energy is not None:
        values, levels = _levels(energy)
        axes.contour(
            x, y, values, levels=levels[1::2], colors=COLOURS["noise"], linewidths=0.7, alpha=0.6
        )
        axes.set(xlim=limits[:2], ylim=limits[2:])
    sizes = np.linalg.norm(vectors, axis=1)
    steps = vectors / np.maximum(sizes, 1e-12)[:, None]
    across = max(4, len(np.unique(points[:, 0].round(6))))
    for i, part in enumerate(np.array_split(np.argsort(sizes), 4)):
        axes.quiver(
            points[part, 0],
            points[part, 1],
            steps[part, 0],
            steps[part, 1],
            color=COLOURS["data"],
            alpha=(0.3, 0.5, 0.75, 1.0)[i],
            scale=1.2 * across,
            width=0.1 / across,
            pivot="mid",
        )
    axes.grid(False)
    axes.set_aspect("equal")
    return figure


def _levels(energy: Array) -> tuple[Array, Array]:
    """The energy above its floor, and the heights to draw: up to 95 % of the map, and to 15 at
    most.
    """
    energy = np.asarray(energy, dtype=np.float64)
    seen = finite(energy)
    if not len(seen):
        return np.zeros_like(energy), np.linspace(0, 1, 13)
    floor = float(seen.min())
    top = min(15.0, max(float(np.quantile(seen, 0.95)) - floor, 1e-6))
    return np.nan_to_num(energy - floor, nan=2 * top, posinf=2 * top, neginf=0), np.linspace(
        0, top, 13
    )
