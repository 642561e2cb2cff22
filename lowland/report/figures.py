"""Plots as markup, and plots of distributions: pure functions, no global state.

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
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from lowland.report.blocks import Keys, Picture
from lowland.report.pictures import Array

COLORS = {  # name in the style sheet: colour as drawn
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
Style = dict[str, Any]
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "lowland",
    "text.parse_math": False,
    "font.size": 11.5,
    "axes.xmargin": 0.015,
}
TICK_STEPS = [1, 2, 2.5, 5, 10]


def new_figure(width: float = 360, height: float = 220) -> tuple[Figure, Axes]:
    """Return a figure of this size in CSS pixels with one pair of quiet axes."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained")
        FigureCanvasAgg(figure)
        figure.patch.set_visible(False)
        axes = figure.add_subplot()
    axes.patch.set_visible(False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(COLORS["muted"])
    axes.tick_params(colors=COLORS["muted"], labelcolor=COLORS["muted"], length=3, width=0.8)
    axes.grid(True, color=COLORS["grid"], linewidth=0.8)
    axes.set_axisbelow(True)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=TICK_STEPS))
        axis.set_major_formatter(FuncFormatter(tick))
    return figure, axes


def label(axes: Axes, x: str, y: str = "") -> None:
    """Name the axes."""
    axes.set_xlabel(x, color=COLORS["muted"])
    if y:
        axes.set_ylabel(y, color=COLORS["muted"])


def tick(value: float, _: object = None) -> str:
    """Write a short tick label: 0.5, 20k, 3M, −1.2e−5."""
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


def plot(
    figure: Figure, alt: str, title: str, caption: str, *, aside: str = "", keys: Keys = ()
) -> Picture:
    """Return a figure as a block, with its text alternative, title, caption and legend."""
    return Picture(to_svg(figure, alt), title, caption, aside, keys)


def to_svg(figure: Figure, alt: str) -> str:
    """Return the figure as an <svg> element for use inside a page: no id shared between figures, no
    fonts, no addresses.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", dpi=216, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"font(?:-family)?:\s*([\d.]+px)?[^;\"]*DejaVu Sans[^;\"]*", _inherit_font, text)
    for name, color in COLORS.items():
        text = text.replace(color, f"var(--{name})")
    prefix = f"f{zlib.crc32((alt + text).encode()):x}-"
    text = text.replace("xlink:href", "href")
    text = re.sub(r'\bid="', f'id="{prefix}', text).replace("url(#", f"url(#{prefix}")
    text = text.replace('href="#', f'href="#{prefix}')
    box = re.search(r'viewBox="([^"]*)"', text)
    assert box is not None
    head = f'<svg viewBox="{box[1]}" role="img" aria-label="{html.escape(alt)}">'
    return head + re.sub(r"\n\s*", "\n", text[text.index(">") + 1 :]).strip()


def _inherit_font(found: re.Match[str]) -> str:
    return f"font-size: {found[1]}" if found[1] else "font-family: inherit"


# ---- distributions -------------------------------------------------------------------------------


def keep_finite(values: Array | Sequence[float]) -> Array:
    """Return the finite values, flat, in double precision."""
    flat: Array = np.asarray(values, dtype=np.float64).ravel()
    return flat[np.isfinite(flat)]


def draw_histogram(
    sets: Sequence[tuple[Array, str]], limits: tuple[float, float], x: str, height: float = 250
) -> Figure:
    """Draw overlaid densities. sets: (values, colour name). Each integrates to one over all of its
    values, drawn or not.
    """
    figure, axes = new_figure(height=height)
    edges = np.linspace(*limits, 49)
    for values, color in sets:
        values = keep_finite(values)
        if not len(values):
            continue
        heights = np.histogram(values, edges)[0] / (len(values) * (edges[1] - edges[0]))
        axes.stairs(heights, edges, fill=True, color=COLORS[color], alpha=0.14, linewidth=0)
        axes.stairs(heights, edges, color=COLORS[color], linewidth=1.5)
    axes.set_xlim(*limits)
    axes.set_ylim(bottom=0)
    label(axes, x, "density")
    return figure


def choose_window(
    core: Sequence[Array], others: Sequence[Array] = (), reach: float = 3.0
) -> tuple[float, float]:
    """Return an axis that shows 99 % of the core sets, and 98 % of each other set whose middle lies
    within `reach` widths.
    """
    core, others = ([v for v in map(keep_finite, sets) if len(v)] for sets in (core, others))
    bulk = np.concatenate(core or others or [np.array([0.0, 1.0])])
    low, high = (float(q) for q in np.quantile(bulk, [0.005, 0.995]))
    width = (high - low) or max(1e-6, abs(low) * 1e-3)
    least, most = low - reach * width, high + reach * width
    for values in others:
        start, middle, end = (float(q) for q in np.quantile(values, [0.01, 0.5, 0.99]))
        if least <= middle <= most:
            low, high = min(low, max(start, least)), max(high, min(end, most))
    pad = 0.05 * (high - low or width)
    return low - pad, high + pad


def draw_calibration(
    nominal: Array,
    empirical: Array,
    low: Array | None,
    high: Array | None,
    point: tuple[float, float] | None,
) -> Figure:
    """Draw empirical against nominal false-alarm rate in the band of a sound detector. point:
    (nominal, value) in use.
    """
    figure, axes = new_figure(height=320)
    order = np.argsort(nominal)
    x = nominal[order]
    top = float(np.nanmax(np.concatenate([keep_finite(nominal), keep_finite(empirical)]))) * 1.04
    axes.plot([0, top], [0, top], color=COLORS["muted"], linewidth=1.1, dashes=(4, 3))
    if low is not None and high is not None:
        band: Style = {"color": COLORS["noise"], "alpha": 0.25, "linewidth": 0}
        axes.fill_between(x, low[order], high[order], **band)
    axes.plot(x, empirical[order], color=COLORS["data"], linewidth=1.8)
    if point is not None:
        axes.plot(*point, "o", color=COLORS["model"], markersize=6.5)
    axes.set(xlim=(0, top), ylim=(0, top), aspect="equal")
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=TICK_STEPS))
    label(axes, "false alarms promised", "false alarms counted")
    return figure


def draw_bars(counts: Sequence[float], names: Sequence[str]) -> Figure:
    """Draw counts per class, with the level at which all would be equal."""
    figure, axes = new_figure(height=max(110.0, 46 + 19.0 * len(counts)))
    axes.barh(np.arange(len(counts)), counts, color=COLORS["model"], height=0.66)
    axes.axvline(float(np.mean(counts)), color=COLORS["ink"], linewidth=1.1, dashes=(4, 3))
    _name_rows(axes, names)
    label(axes, "samples")
    return figure


def draw_ranges(rows: Sequence[tuple[str, float, float, float, str]]) -> Figure:
    """Draw one line per set from low to high with a dot at its middle. rows: (name, low, middle,
    high, colour name).
    """
    figure, axes = new_figure(height=46 + 22.0 * len(rows))
    for i, (_, low, middle, high, color) in enumerate(rows):
        style: Style = {"linewidth": 5, "alpha": 0.4, "solid_capstyle": "round"}
        axes.plot([low, high], [i, i], color=COLORS[color], **style)
        axes.plot([middle], [i], "o", color=COLORS[color], markersize=7)
    _name_rows(axes, [row[0] for row in rows])
    axes.margins(x=0.04)
    label(axes, "energy")
    return figure


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Write names down the left side, as they are: a $ in a name is a $."""
    axes.set_ylim(len(names) - 0.4, -0.6)
    short = [name if len(name) < 17 else f"{name[:15]}…" for name in names]
    axes.set_yticks(np.arange(len(names)), short)
    for tick_label in axes.get_yticklabels():
        tick_label.set_parse_math(False)
    axes.grid(False, axis="y")
