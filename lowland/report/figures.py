"""Arrays to figures: pure functions, no global state.

A plot is a matplotlib `Figure` drawn in the colours below. `svg` turns it into markup in which every one of these colours
is a CSS variable, so that one drawing serves a light and a dark page, and in which text stays text. Drawings are about as
wide as a phone (360 units), so that their letters keep their size there; wide pages set several side by side.

Pictures (images in [0, 1], channels first) are tiled into one array and become a PNG, pixel for pixel.
"""

import base64
import html
import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

Array = NDArray[Any]

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
SETS = ("third", "fourth", "fifth", "warn")  # colours for shifted sets, in turn
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "lowland",
    "text.parse_math": False,
    "axes.unicode_minus": True,
    "font.size": 11.5,
    "path.simplify": True,
}
LAND = LinearSegmentedColormap.from_list("lowland", ["#0c3a45", "#1f6a70", "#5f9c86", "#bfc096", "#f0e8d2"])
UNKNOWN = (0.49, 0.60, 0.74)  # the colour of a pixel that was not observed


# ---- drawing ---------------------------------------------------------------------------------------------------------


def blank(width: float = 360, height: float = 220) -> tuple[Figure, Axes]:
    """A figure of this size in CSS pixels with one pair of quiet axes."""
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
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(tick))
    axes.yaxis.set_major_formatter(FuncFormatter(tick))
    return figure, axes


def label(axes: Axes, x: str, y: str = "") -> None:
    """Name the axes."""
    axes.set_xlabel(x, color=COLOURS["muted"])
    if y:
        axes.set_ylabel(y, color=COLOURS["muted"])


def tick(value: float, _: Any = None) -> str:
    """A short tick label: 0.5, 20k, 3M, −1.2e-5."""
    size = abs(value)
    if size >= 1e9 or 0 < size < 1e-3:
        text = re.sub(r"e([+-])0*", lambda m: "e" + m[1].strip("+"), f"{value:.3g}")
    elif size >= 1e6:
        text = f"{value / 1e6:g}M"
    elif size >= 1e4:
        text = f"{value / 1e3:g}k"
    else:
        text = f"{round(value, 6):g}"
    return text.replace("-", "−")


def svg(figure: Figure, alt: str) -> str:
    """The figure as an <svg> element for use inside a page: no ids shared between figures, no fonts, no addresses."""
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", dpi=216, metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r"font(-family)?:\s*([\d.]+px)?[^;\"]*DejaVu Sans[^;\"]*", _font, text)
    text = text.replace("xlink:href", "href")
    for name, colour in COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    prefix = f"f{abs(hash_of(text)):x}-"
    text = re.sub(r'\bid="', f'id="{prefix}', text).replace("url(#", f"url(#{prefix}")
    text = text.replace('href="#', f'href="#{prefix}')
    box = re.search(r'viewBox="([^"]*)"', text)
    assert box is not None
    head = f'<svg viewBox="{box[1]}" role="img" aria-label="{html.escape(alt)}">'
    return head + re.sub(r"\n\s*", "\n", text[text.index(">") + 1 :])


def hash_of(text: str) -> int:
    """A short number that is the same for the same text in every process."""
    import zlib

    return zlib.crc32(text.encode())


def _font(found: re.Match[str]) -> str:
    return f"font-size: {found[2]}" if found[2] else "font-family: inherit"


# ---- pictures --------------------------------------------------------------------------------------------------------


def is_images(array: Array | None) -> bool:
    """Whether an array holds images, (N, C, H, W) with one or three channels."""
    return array is not None and array.ndim == 4 and len(array) > 0 and array.shape[1] in (1, 3)


def rgb(images: Array) -> Array:
    """(N, C, H, W) in [0, 1] to (N, H, W, 3), unknown (NaN) pixels in the colour of the unknown."""
    images = np.asarray(images, dtype=np.float64)
    unknown = ~np.isfinite(images).all(axis=1)
    colours = np.repeat(images, 3, axis=1) if images.shape[1] == 1 else images
    colours = np.moveaxis(np.clip(np.nan_to_num(colours), 0, 1), 1, -1)
    colours[unknown] = UNKNOWN
    return colours


def heat(images: Array, top: float) -> Array:
    """(N, C, H, W) of sizes to colours (N, H, W, 3): black at zero, bright at `top`, channels averaged."""
    sizes = np.nan_to_num(np.asarray(images, dtype=np.float64)).mean(axis=1)
    return np.asarray(matplotlib.colormaps["inferno"](np.clip(sizes / max(top, 1e-12), 0, 1)))[..., :3]


def tile(colours: Array, columns: int, gap: int | None = None) -> Array:
    """(N, H, W, 3) to one picture (rows, columns, 4) with transparent gaps."""
    amount, height, width, _ = colours.shape
    gap = max(1, width // 14) if gap is None else gap
    rows = -(-amount // columns)
    sheet = np.zeros((rows * (height + gap) - gap, columns * (width + gap) - gap, 4))
    for i, picture in enumerate(colours):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        sheet[top : top + height, left : left + width, :3] = picture
        sheet[top : top + height, left : left + width, 3] = 1
    return sheet


def picture(sheet: Array, alt: str, widest: int = 500) -> str:
    """A tiled picture as an <img> of whole pixels, at most about `widest` CSS pixels wide."""
    buffer = io.BytesIO()
    imsave(buffer, (255 * sheet + 0.5).astype(np.uint8), format="png", metadata={"Software": None})
    code = base64.b64encode(buffer.getvalue()).decode()
    height, width = sheet.shape[:2]
    size = width * max(1, widest // width)
    return (
        f'<img src="data:image/png;base64,{code}" alt="{html.escape(alt)}" width="{width}" height="{height}" '
        f'style="width:{size}px">'
    )


def room(images: Array, most: int, pixels: int = 400_000) -> int:
    """How many of these images to show: at most `most`, fewer when they are large."""
    return min(len(images), most, max(4, pixels // (images.shape[-1] * images.shape[-2])))


# ---- plots -----------------------------------------------------------------------------------------------------------


def finite(values: Array | Sequence[float]) -> Array:
    """The finite values, flat, in double precision."""
    flat = np.asarray(values, dtype=np.float64).ravel()
    return flat[np.isfinite(flat)]


def histogram(sets: Sequence[tuple[Array, str]], window: tuple[float, float], x: str, height: float = 260) -> Figure:
    """Overlaid densities. sets: (values, colour name). Each integrates to one over all of its values, drawn or not."""
    figure, axes = blank(height=height)
    edges = np.linspace(*window, 49)
    for values, colour in sets:
        values = finite(values)
        if not len(values):
            continue
        heights = np.histogram(values, edges)[0] / (len(values) * (edges[1] - edges[0]))
        axes.stairs(heights, edges, fill=True, color=COLOURS[colour], alpha=0.16, linewidth=0)
        axes.stairs(heights, edges, color=COLOURS[colour], linewidth=1.5)
    axes.set_xlim(*window)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    label(axes, x, "density")
    return figure


def window(core: Sequence[Array], others: Sequence[Array] = (), reach: float = 3.0) -> tuple[float, float]:
    """An axis that shows 99 % of the core sets, and of the others what lies within `reach` widths of these."""
    pooled = np.concatenate([finite(v) for v in core] or [np.zeros(0)])
    if not len(pooled):
        pooled = np.concatenate([finite(v) for v in others] or [np.zeros(1)])
    low, high = (float(q) for q in np.quantile(pooled, [0.005, 0.995])) if len(pooled) else (0.0, 1.0)
    width = (high - low) or max(1e-6, abs(low) * 1e-3)
    ends = [np.quantile(v, [0.005, 0.995]) for v in map(finite, others) if len(v)]
    first = min([low, *(max(float(e[0]), low - reach * width) for e in ends)])
    last = max([high, *(min(float(e[1]), high + reach * width) for e in ends)])
    return first - 0.05 * width, last + 0.05 * width


def calibration(
    nominal: Array, empirical: Array, low: Array | None, high: Array | None, point: tuple[float, ...] | None
) -> Figure:
    """Empirical against nominal false-alarm rate. point: (nominal, value, low, high) of the threshold in use."""
    figure, axes = blank(height=330)
    order = np.argsort(nominal)
    top = float(np.nanmax([np.max(nominal), np.max(empirical)])) * 1.04
    axes.plot([0, top], [0, top], color=COLOURS["muted"], linewidth=1.1, dashes=(4, 3))
    if low is not None and high is not None:
        axes.fill_between(nominal[order], low[order], high[order], color=COLOURS["data"], alpha=0.2, linewidth=0)
    axes.plot(nominal[order], empirical[order], color=COLOURS["data"], linewidth=1.8)
    if point is not None:
        x, y, below, above = point
        axes.plot([x, x], [below, above], color=COLOURS["model"], linewidth=1.6)
        axes.plot([x], [y], "o", color=COLOURS["model"], markersize=6)
    axes.set(xlim=(0, top), ylim=(0, top), aspect="equal")
    label(axes, "false alarms promised", "false alarms counted")
    return figure


def bars(counts: Sequence[float], names: Sequence[str]) -> Figure:
    """Counts per class, with the level at which all would be equal."""
    figure, axes = blank(height=max(150.0, 40 + 19.0 * len(counts)))
    places = np.arange(len(counts))
    axes.barh(places, counts, color=COLOURS["model"], height=0.66)
    axes.axvline(float(np.mean(counts)), color=COLOURS["muted"], linewidth=1.1, dashes=(4, 3))
    axes.set_yticks(places, [n if len(n) < 15 else f"{n[:13]}…" for n in names])
    axes.yaxis.set_major_formatter(FuncFormatter(_names(names)))
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    label(axes, "samples")
    return figure


def _names(names: Sequence[str]) -> Callable[[float, Any], str]:
    short = [n if len(n) < 15 else f"{n[:13]}…" for n in names]
    return lambda value, _=None: short[int(value)] if 0 <= value < len(short) else ""


def frame(points: Array) -> tuple[float, float, float, float]:
    """x and y limits that hold the points but a few stragglers, with a margin."""
    points = points[np.isfinite(points).all(axis=1)]
    if not len(points):
        return -1.0, 1.0, -1.0, 1.0
    low, high = np.quantile(points, 0.002, axis=0), np.quantile(points, 0.998, axis=0)
    pad = 0.12 * np.maximum(high - low, 1e-6)
    return float(low[0] - pad[0]), float(high[0] + pad[0]), float(low[1] - pad[1]), float(high[1] + pad[1])


def scatter(points: Array, limits: tuple[float, float, float, float], colour: str, height: float = 330) -> Figure:
    """Points in the plane."""
    figure, axes = blank(height=height)
    _dots(axes, points, COLOURS[colour], 0.55)
    axes.set(xlim=limits[:2], ylim=limits[2:])
    axes.set_aspect("equal", adjustable="box")
    return figure


def _dots(axes: Axes, points: Array, colour: str, alpha: float = 0.9, edge: str = "none") -> None:
    size = float(np.clip(4000 / max(1, len(points)), 3, 14))
    axes.scatter(points[:, 0], points[:, 1], s=size, c=colour, alpha=alpha, edgecolors=edge, linewidths=0.3, rasterized=True)


def landscape(x: Array, y: Array, energy: Array, points: Array | None, colour: str) -> Figure:
    """Filled contours of the energy above its floor (row = y), with points on top."""
    figure, axes = blank(height=330)
    values, levels = _levels(energy)
    land = axes.contourf(x, y, values, levels=levels, cmap=LAND, extend="max")
    land.set_rasterized(True)
    axes.contour(x, y, values, levels=levels[1::2], colors="#ffffff", linewidths=0.5, alpha=0.5).set_rasterized(True)
    if points is not None and len(points):
        _dots(axes, points, colour, edge="#1c2530")
    bar = figure.colorbar(land, ax=axes, fraction=0.045, pad=0.02, format=FuncFormatter(tick))
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.ax.tick_params(colors=COLOURS["muted"], labelcolor=COLOURS["muted"], length=0)
    bar.locator = MaxNLocator(5)
    bar.update_ticks()
    axes.grid(False)
    axes.set(xlim=(float(x.min()), float(x.max())), ylim=(float(y.min()), float(y.max())), aspect="equal")
    return figure


def field(points: Array, vectors: Array, x: Array | None, y: Array | None, energy: Array | None) -> Figure:
    """Arrows along −∇E, all of one length and coloured by size, over contours of the energy."""
    figure, axes = blank(height=330)
    if x is not None and y is not None and energy is not None:
        values, levels = _levels(energy)
        axes.contour(x, y, values, levels=levels[::2], colors=COLOURS["grid"], linewidths=0.9)
    sizes = np.linalg.norm(vectors, axis=1)
    steps = vectors / np.maximum(sizes, 1e-12)[:, None]
    strength = np.argsort(np.argsort(sizes)) / max(1, len(sizes) - 1)
    for part in np.array_split(np.argsort(sizes), 4):
        axes.quiver(
            *points[part].T, *steps[part].T, color=COLOURS["data"], alpha=float(0.35 + 0.65 * strength[part].mean()),
            scale=26, width=0.006, pivot="mid",
        )  # fmt: skip
    axes.grid(False)
    axes.set_aspect("equal")
    return figure


def _levels(energy: Array) -> tuple[Array, Array]:
    energy = np.asarray(energy, dtype=np.float64)
    seen = finite(energy)
    if not len(seen):
        return np.zeros_like(energy), np.linspace(0, 1, 13)
    floor = float(seen.min())
    top = min(15.0, max(float(np.quantile(seen, 0.95)) - floor, 1e-6))
    return np.nan_to_num(energy - floor, nan=2 * top, posinf=2 * top, neginf=0), np.linspace(0, top, 13)
