"""A Boltzmann machine looked into: filters, fantasy particles over time, hidden activity,
likelihood over training.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lowland.report import figures as draw
from lowland.report.blocks import (
    Film,
    Panels,
    Picture,
    Section,
    Table,
    Text,
    Values,
    count,
    estimate,
    number,
    part,
    plural,
    show,
)
from lowland.report.pictures import Array, Arrays, image, is_images, rgb, tile

SIGNED = LinearSegmentedColormap.from_list(
    "signed", [draw.COLOURS["data"], "#f1eee4", draw.COLOURS["model"]]
)
ACTIVE = LinearSegmentedColormap.from_list("active", ["#f4f1e7", "#5f9c86", "#0c3a45"])
KINDS = {"bernoulli": "binary", "relu": "rectified"}
MAP = (504, 400)  # width and height of the activity map, in pixels


def boltzmann(values: Values, arrays: Arrays) -> Section | None:
    """The section; None for a run of another energy."""
    found = part(values, "boltzmann")
    if not found:
        return None
    section = Section("boltzmann", "Inside the machine")
    kind = KINDS.get(str(found.get("units")), str(found.get("units")))
    section.lead = (
        "A restricted Boltzmann machine with "
        f"{plural(int(found.get('hidden') or 0), f'{kind} hidden unit')}."
    )
    filters, curve = arrays.get("boltzmann/filters"), found.get("likelihood") or []
    items: list[Any] = [_filters(filters)] if is_images(filters) else []
    items += [_bracket(curve), _bracket_table(curve)] if curve else []
    section.blocks += [Panels(items, "flow")] if items else []
    if not is_images(filters):
        section.blocks.append(
            Text(
                "No filters are shown: the visible units are not the pixels of images.", absent=True
            )
        )
    if not curve:
        section.blocks.append(
            Text("No likelihood over training was measured in this run.", absent=True)
        )
    section.blocks.append(_fantasies(arrays))
    activity, means = arrays.get("boltzmann/activity"), arrays.get("boltzmann/unit_means")
    if activity is not None and means is not None and activity.ndim == 2 and activity.size:
        labels = arrays.get("boltzmann/activity_labels")
        section.blocks.append(Panels([_map(activity, labels, found), _means(means, found)], "wide"))
    else:
        section.blocks.append(
            Text("No activity of hidden units was stored in this run.", absent=True)
        )
    return section


# ---- filters and particles -----------------------------------------------------------------------


def signed(images: Array, top: float) -> Array:
    """(N, C, H, W) of either sign to colours (N, H, W, 3): blue at −top, pale at zero, orange at
    top; channels averaged.
    """
    values = np.asarray(images, dtype=np.float64).mean(axis=1)
    return np.asarray(SIGNED(0.5 + 0.5 * np.clip(values / max(top, 1e-12), -1, 1)))[..., :3]


def _filters(filters: Array) -> Picture:
    top = float(np.quantile(np.abs(filters.mean(axis=1)), 0.998))
    sheet = tile(signed(filters, top), int(np.ceil(np.sqrt(len(filters)))))
    caption = (
        f"The weights of the {len(filters)} hidden units with the largest ones, one picture a "
        "unit, all on one scale. Strokes and spots are features that were learned; noise is a "
        "unit that learned nothing."
    )
    keys = (
        (f"off where the pixel is on (−{show(top, 2)})", "data"),
        (f"on where the pixel is on (+{show(top, 2)})", "model"),
    )
    return Picture(
        image(sheet, f"Grid of the weights of {len(filters)} hidden units"),
        "Filters",
        caption,
        keys=keys,
    )


def _fantasies(arrays: Arrays) -> Film | Text:
    draws, means, sweeps = (
        arrays.get(f"boltzmann/{name}") for name in ("draws", "means", "sweeps")
    )
    if (
        draws is None
        or means is None
        or sweeps is None
        or draws.shape != means.shape
        or not is_images(draws[0])
    ):
        return Text(
            "No fantasy particles are shown: the visible units are not the pixels of images.",
            absent=True,
        )
    columns = []
    for i, sweep in enumerate(sweeps.tolist()):
        for name, pictures in (("mean", means[i]), ("draw", draws[i])):
            if sweep or name == "draw":
                sheet = image(
                    tile(rgb(pictures), 1),
                    f"{len(pictures)} particles after {plural(sweep, 'sweep')}: {name}",
                    48,
                )
                columns.append(("p" if name == "mean" else str(sweep), sheet))
    start = (
        "chains kept from training"
        if bool(arrays.get("boltzmann/from_chains", np.False_))
        else "noise"
    )
    caption = (
        f"Each row is one particle, begun at {start}, after so many sweeps of block Gibbs. p, on "
        "the left of what was drawn, are the probabilities p(v | h) that it was drawn from. Early "
        "columns of a row resemble each other; by the last, a machine whose chains mix has moved "
        "on to something else."
    )
    return Film("Fantasy particles over time", caption, columns)


# ---- hidden units --------------------------------------------------------------------------------


def _map(activity: Array, labels: Array | None, found: Values) -> Picture:
    rows, units = activity.shape
    top = (
        1.0
        if found.get("units") == "bernoulli"
        else max(float(np.quantile(activity, 0.995)), 1e-12)
    )
    colours = np.asarray(ACTIVE(np.clip(activity / top, 0, 1)))
    wide, high = max(1, MAP[0] // units), max(1, MAP[1] // rows)
    big = np.repeat(np.repeat(colours, high, axis=0), wide, axis=1)
    grouped = labels is not None and len(labels) == rows
    if labels is not None and grouped:
        ends = high * (np.flatnonzero(np.diff(labels)) + 1)
        big = np.insert(big, np.repeat(ends, 3), 0.0, axis=0)  # a transparent line between classes
    order = "test examples sorted by class, a gap between classes" if grouped else "test examples"
    scale = "pale at 0 to dark at 1" if top == 1 else f"pale at 0 to dark at {show(top, 2)}"
    what = "p(h | v)" if top == 1 else "E[h | v]"
    caption = (
        f"{what} of {plural(units, 'hidden unit')} (columns, the most active on the left) for "
        f"{rows} {order} (rows), {scale}. Columns of one colour are units that say nothing; "
        "stripes that stop at a gap are units that know a class."
    )
    return Picture(
        image(big, f"Activity of {units} hidden units on {rows} test examples"),
        "Hidden activity",
        caption,
    )


def _means(means: Array, found: Values) -> Picture:
    bounded = found.get("units") == "bernoulli"
    edges = np.linspace(0, 1 if bounded else max(float(means.max()), 1e-6), 41)
    figure, axes = draw.blank(height=250)
    heights = np.histogram(means, edges)[0]
    axes.stairs(heights, edges, fill=True, color=draw.COLOURS["third"], alpha=0.75)
    axes.set_ylim(0, max(1.0, 1.08 * heights.max()))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    draw.label(axes, "mean activity on test data", "hidden units")
    alt = (
        f"Histogram of the mean activity of {len(means)} hidden units: median "
        f"{show(float(np.median(means)))}"
    )
    return Picture(
        draw.svg(figure, alt),
        "How active the units are",
        _useless(found),
        f"median {show(np.median(means))}",
    )


def _useless(found: Values) -> str:
    total, dead, saturated = (
        int(number(found.get(key)) or 0) for key in ("hidden", "dead", "saturated")
    )
    seen = f"the {count(found.get('count'))} test examples"
    if found.get("units") != "bernoulli":
        return (
            f"{dead} of {total} units are dead: their mean changes by less than 0.05 over {seen}."
        )
    return (
        f"{dead} of {plural(total, 'unit')} {'is' if dead == 1 else 'are'} dead (on with "
        f"probability below 5 % for every one of {seen}) and {saturated} saturated (above 95 % for "
        "every one)."
    )


# ---- likelihood over training --------------------------------------------------------------------


def _bracket(curve: Sequence[Mapping[str, Any]]) -> Picture:
    points = [
        p
        for p in curve
        if all(number(p.get(key)) is not None for key in ("step", "value", "lower", "upper"))
    ]
    exact = all(p.get("method") == "enumeration" for p in points)
    last, unsure = points[-1], [p for p in points if not p.get("certified")]
    caption = (
        f"Mean log-likelihood of {count(last.get('count'))} test examples ({last.get('data')}) in "
        "nats, at checkpoints of the run. "
    )
    caption += (
        "log Z is exact: every state of one side was added up."
        if exact
        else "The band reaches from the end of the bracket that errs low to the end that errs "
        "high, by short annealing runs."
    )
    if unsure:
        caption += f" {plural(len(unsure), 'checkpoint')} not certified (rings)."
    alt = "Test log-likelihood over updates: " + ", ".join(
        f"{count(p['step'])}: {show(p['value'], 4)}" for p in points
    )
    keys = (("log-likelihood", "data"), ("not certified", "bad")) if unsure else ()
    sure = last.get("certified")
    aside = (
        f"last {estimate(last)}"
        if sure
        else f"last between {show(last['lower'], 4)} and {show(last['upper'], 4)}"
    )
    return Picture(draw.svg(_course(points), alt), "Likelihood over training", caption, aside, keys)


def _bracket_table(curve: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        (
            count(p.get("step")),
            estimate(p),
            show(p.get("lower"), 5),
            show(p.get("upper"), 5),
            _sure(p),
        )
        for p in curve
    ]
    caption = (
        "± is one standard error over the examples; the two ends are those of the bracket of log Z."
    )
    return Table(
        "Likelihood in figures",
        ("update", "nats", "at least", "at most", "log Z"),
        rows,
        caption=caption,
    )


def _sure(point: Values) -> str:
    return (
        "exact"
        if point.get("method") == "enumeration"
        else "certified"
        if point.get("certified")
        else "not certified"
    )


def _course(points: Sequence[Mapping[str, Any]]) -> Figure:
    steps, value, lower, upper = (
        np.array([float(p[key]) for p in points]) for key in ("step", "value", "lower", "upper")
    )
    sure = np.array([bool(p.get("certified")) for p in points])
    figure, axes = draw.blank(height=250)
    axes.fill_between(steps, lower, upper, color=draw.COLOURS["data"], alpha=0.22, linewidth=0)
    axes.plot(steps, value, color=draw.COLOURS["data"], linewidth=1.6)
    axes.plot(steps[sure], value[sure], "o", color=draw.COLOURS["data"], markersize=4.5)
    axes.plot(
        steps[~sure],
        value[~sure],
        "o",
        markerfacecolor="none",
        markeredgecolor=draw.COLOURS["bad"],
        markersize=6,
    )
    axes.vlines(steps, lower, upper, color=draw.COLOURS["data"], linewidth=1.4)
    draw.label(axes, "update", "nats per example")
    return figure
