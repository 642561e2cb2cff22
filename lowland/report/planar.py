"""Plots of the plane: points, paths of chains, contours of the energy, and its field."""

from typing import Any, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from lowland.report.figures import COLORS, Style, keep_finite, new_figure, tick
from lowland.report.pictures import Array

LAND = LinearSegmentedColormap.from_list(
    "lowland", ["#0c3a45", "#1f6a70", "#5f9c86", "#bfc096", "#f0e8d2"]
)
Limits = tuple[float, float, float, float]


def frame_points(points: Array) -> Limits:
    """Return x and y limits that hold the points but a few stragglers, with a margin."""
    points = points[np.isfinite(points).all(axis=1)]
    if not len(points):
        return -1.0, 1.0, -1.0, 1.0
    low, high = np.quantile(points, 0.002, axis=0), np.quantile(points, 0.998, axis=0)
    pad = 0.12 * np.maximum(high - low, 1e-6)
    low, high = (low - pad).tolist(), (high + pad).tolist()
    return low[0], high[0], low[1], high[1]


def _blank_plane(limits: Limits, margin: float = 50) -> tuple[Figure, Axes]:
    """Return axes at whose height a plane of these limits fills the figure without blank bands."""
    across, up = max(limits[1] - limits[0], 1e-12), max(limits[3] - limits[2], 1e-12)
    return new_figure(height=float(np.clip((360 - margin) * up / across + 26, 150, 330)))


def _set_limits(axes: Axes, limits: Limits) -> None:
    axes.set(xlim=limits[:2], ylim=limits[2:])
    axes.set_aspect("equal", adjustable="box")


def _draw_points(
    axes: Axes, points: Array, color: str, alpha: float = 0.9, edge: str = "none"
) -> None:
    size = float(np.clip(5000 / max(1, len(points)), 4, 16))
    style: Style = {"edgecolors": edge, "linewidths": 0.3, "rasterized": True}
    axes.scatter(points[:, 0], points[:, 1], s=size, c=color, alpha=alpha, **style)


def draw_scatter(points: Array, limits: Limits, color: str) -> Figure:
    """Draw points in the plane."""
    figure, axes = _blank_plane(limits)
    _draw_points(axes, points, COLORS[color], 0.55)
    _set_limits(axes, limits)
    return figure


def draw_paths(film: Array, data: Array | None) -> Figure:
    """Draw paths of chains (frames, chains, 2) over the data: a ring where each starts, a dot where
    it ends.
    """
    points = film.reshape(-1, 2)
    if data is not None:
        points = np.concatenate([points, data])
    limits = frame_points(points)
    figure, axes = _blank_plane(limits)
    if data is not None:
        _draw_points(axes, data, COLORS["noise"], 0.35)
    color = COLORS["model"]
    for chain in np.moveaxis(film, 1, 0):
        axes.plot(chain[:, 0], chain[:, 1], color=color, linewidth=1, alpha=0.7)
        axes.plot(*chain[0], "o", markerfacecolor="none", markeredgecolor=color, markersize=5)
        axes.plot(*chain[-1], "o", color=color, markersize=5.5)
    _set_limits(axes, limits)
    return figure


def draw_landscape(x: Array, y: Array, energy: Array, points: Array | None, color: str) -> Figure:
    """Draw filled contours of the energy above its floor (row = y), with points on top."""
    limits = _bounds(x, y)
    figure, axes = _blank_plane(limits, 85)
    values, levels = _contour_levels(energy)
    land = axes.contourf(x, y, values, levels=levels, cmap=LAND, extend="max")
    land.set_rasterized(True)
    style: Style = {"colors": "#ffffff", "linewidths": 0.5, "alpha": 0.5}
    axes.contour(x, y, values, levels=levels[1::2], **style).set_rasterized(True)
    if points is not None and len(points):
        _draw_points(axes, points, color, edge="#1c2530")
    bar = figure.colorbar(land, ax=axes, fraction=0.045, pad=0.02, format=FuncFormatter(tick))
    cast(Any, bar.outline).set_visible(False)
    bar.ax.tick_params(colors=COLORS["muted"], labelcolor=COLORS["muted"], length=0)
    bar.locator = MaxNLocator(5)
    bar.update_ticks()
    axes.grid(False)
    axes.set(xlim=limits[:2], ylim=limits[2:], aspect="equal")
    return figure


def draw_field(
    points: Array, vectors: Array, x: Array | None, y: Array | None, energy: Array | None
) -> Figure:
    """Draw arrows along −∇E, all of one length and coloured by size, over contours of the
    energy.
    """
    limits = _bounds(*points.T)
    if x is not None and y is not None:
        limits = _bounds(x, y)
    figure, axes = _blank_plane(limits)
    if x is not None and y is not None and energy is not None:
        values, levels = _contour_levels(energy)
        style: Style = {"colors": COLORS["noise"], "linewidths": 0.7, "alpha": 0.6}
        axes.contour(x, y, values, levels=levels[1::2], **style)
        axes.set(xlim=limits[:2], ylim=limits[2:])
    sizes = np.linalg.norm(vectors, axis=1)
    steps = vectors / np.maximum(sizes, 1e-12)[:, None]
    across = max(4, len(np.unique(points[:, 0].round(6))))
    quarters = np.array_split(np.argsort(sizes), 4)
    arrow: Style = {"scale": 1.2 * across, "width": 0.1 / across, "pivot": "mid"}
    for alpha, rows in zip((0.3, 0.5, 0.75, 1.0), quarters, strict=True):
        axes.quiver(*points[rows].T, *steps[rows].T, color=COLORS["data"], alpha=alpha, **arrow)
    axes.grid(False)
    axes.set_aspect("equal")
    return figure


def _bounds(x: Array, y: Array) -> Limits:
    return float(x.min()), float(x.max()), float(y.min()), float(y.max())


def _contour_levels(energy: Array) -> tuple[Array, Array]:
    """Return the energy above its floor, and the heights to draw: up to 95 % of the map, and to 15
    at most.
    """
    energy = np.asarray(energy, dtype=np.float64)
    known = keep_finite(energy)
    if not len(known):
        return np.zeros_like(energy), np.linspace(0, 1, 13)
    floor = float(known.min())
    top = min(15.0, max(float(np.quantile(known, 0.95)) - floor, 1e-6))
    values = np.nan_to_num(energy - floor, nan=2 * top, posinf=2 * top, neginf=0)
    return values, np.linspace(0, top, 13)
