"""The section about a Boltzmann machine: filters, fantasy particles over time, hidden activity,
likelihood over training.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lowland.report import text
from lowland.report.blocks import Block, Film, Keys, Picture, Section, Table, Values, get_part
from lowland.report.figures import COLORS, Style, label, new_figure, plot
from lowland.report.pictures import Array, Arrays, encode_grid, encode_png, is_images, tile

SIGNED = LinearSegmentedColormap.from_list("signed", [COLORS["data"], "#f1eee4", COLORS["model"]])
ACTIVE = LinearSegmentedColormap.from_list("active", ["#f4f1e7", "#5f9c86", "#0c3a45"])
UNIT_NAMES = {"bernoulli": "binary", "relu": "rectified"}
MAP_WIDTH, MAP_HEIGHT = 504, 400  # of the activity map, in pixels
NO_PIXELS = "the visible units are not the pixels of images."


def boltzmann_section(values: Values, arrays: Arrays) -> Section | None:
    """Return the section; None for a run of another energy."""
    found = get_part(values, "boltzmann")
    if not found:
        return None
    section = Section("boltzmann", "Inside the machine")
    kind = UNIT_NAMES.get(str(found.get("units")), str(found.get("units")))
    units = text.plural(int(found.get("hidden") or 0), f"{kind} hidden unit")
    section.lead = f"A restricted Boltzmann machine with {units}."
    filters, curve = arrays.get("boltzmann/filters"), found.get("likelihood") or []
    items: list[Block] = []
    if is_images(filters):
        items.append(_filter_picture(filters))
    if curve:
        items += [_likelihood_picture(curve), _likelihood_table(curve)]
    section.add_panels(items, "flow")
    if not is_images(filters):
        section.add_absent(f"No filters are shown: {NO_PIXELS}")
    if not curve:
        section.add_absent("No likelihood over training was measured in this run.")
    film = _particle_film(arrays)
    if film is None:
        section.add_absent(f"No fantasy particles are shown: {NO_PIXELS}")
    else:
        section.add(film)
    activity, means = arrays.get("boltzmann/activity"), arrays.get("boltzmann/unit_means")
    if activity is not None and means is not None and activity.ndim == 2 and activity.size:
        labels = arrays.get("boltzmann/activity_labels")
        pictures = [_activity_map(activity, labels, found), _mean_histogram(means, found)]
        section.add_panels(pictures, "wide")
    else:
        section.add_absent("No activity of hidden units was stored in this run.")
    return section


# ---- filters and particles -----------------------------------------------------------------------


def color_signed(images: Array, top: float) -> Array:
    """Map (N, C, H, W) of either sign to colours (N, H, W, 3): blue at −top, pale at zero, orange
    at top; channels averaged.
    """
    values = np.asarray(images, dtype=np.float64).mean(axis=1)
    return np.asarray(SIGNED(0.5 + 0.5 * np.clip(values / max(top, 1e-12), -1, 1)))[..., :3]


def _filter_picture(filters: Array) -> Picture:
    top = float(np.quantile(np.abs(filters.mean(axis=1)), 0.998))
    sheet = tile(color_signed(filters, top), int(np.ceil(np.sqrt(len(filters)))))
    caption = (
        f"The weights of the {len(filters)} hidden units with the largest ones, one picture a "
        "unit, all on one scale. Strokes and spots are features that were learned; noise is a "
        "unit that learned nothing."
    )
    keys = (
        (f"off where the pixel is on (−{text.show(top, 2)})", "data"),
        (f"on where the pixel is on (+{text.show(top, 2)})", "model"),
    )
    markup = encode_png(sheet, f"Grid of the weights of {len(filters)} hidden units")
    return Picture(markup, "Filters", caption, keys=keys)


def _particle_film(arrays: Arrays) -> Film | None:
    draws, means, sweeps = (
        arrays.get(f"boltzmann/{name}") for name in ("draws", "means", "sweeps")
    )
    if draws is None or means is None or sweeps is None:
        return None
    if draws.shape != means.shape or not is_images(draws[0]):
        return None
    columns = []
    for i, sweep in enumerate(sweeps.tolist()):
        alt = f"{len(draws[i])} particles after {text.plural(sweep, 'sweep')}: "
        if sweep:
            columns.append(("p", encode_grid(means[i], 1, f"{alt}mean", 48)))
        columns.append((str(sweep), encode_grid(draws[i], 1, f"{alt}draw", 48)))
    from_chains = bool(arrays.get("boltzmann/from_chains", np.False_))
    start = "chains kept from training" if from_chains else "noise"
    caption = (
        f"Each row is one particle, begun at {start}, after so many sweeps of block Gibbs. p, on "
        "the left of what was drawn, are the probabilities p(v | h) that it was drawn from. Early "
        "columns of a row resemble each other; by the last, a machine whose chains mix has moved "
        "on to something else."
    )
    return Film("Fantasy particles over time", caption, columns)


# ---- hidden units --------------------------------------------------------------------------------


def _activity_map(activity: Array, labels: Array | None, found: Values) -> Picture:
    rows, units = activity.shape
    top, quantity, scale = 1.0, "p(h | v)", "1"
    if found.get("units") != "bernoulli":
        top = max(float(np.quantile(activity, 0.995)), 1e-12)
        quantity, scale = "E[h | v]", text.show(top, 2)
    colors = np.asarray(ACTIVE(np.clip(activity / top, 0, 1)))
    wide, high = max(1, MAP_WIDTH // units), max(1, MAP_HEIGHT // rows)
    colors = np.repeat(np.repeat(colors, high, axis=0), wide, axis=1)
    order = "test examples"
    if labels is not None and len(labels) == rows:
        ends = high * (np.flatnonzero(np.diff(labels)) + 1)
        colors = np.insert(colors, np.repeat(ends, 3), 0.0, axis=0)  # transparent, between classes
        order = "test examples sorted by class, a gap between classes"
    caption = (
        f"{quantity} of {text.plural(units, 'hidden unit')} (columns, the most active on the left) "
        f"for {rows} {order} (rows), pale at 0 to dark at {scale}. Columns of one colour are units "
        "that say nothing; stripes that stop at a gap are units that know a class."
    )
    alt = f"Activity of {units} hidden units on {rows} test examples"
    return Picture(encode_png(colors, alt), "Hidden activity", caption)


def _mean_histogram(means: Array, found: Values) -> Picture:
    top = 1 if found.get("units") == "bernoulli" else max(float(means.max()), 1e-6)
    edges = np.linspace(0, top, 41)
    figure, axes = new_figure(height=250)
    heights = np.histogram(means, edges)[0]
    axes.stairs(heights, edges, fill=True, color=COLORS["third"], alpha=0.75)
    axes.set_ylim(0, max(1.0, 1.08 * heights.max()))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    label(axes, "mean activity on test data", "hidden units")
    median = text.show(np.median(means))
    alt = f"Histogram of the mean activity of {len(means)} hidden units: median {median}"
    title, caption = "How active the units are", _describe_dead(found)
    return plot(figure, alt, title, caption, aside=f"median {median}")


def _describe_dead(found: Values) -> str:
    total, dead, saturated = (
        int(text.parse_number(found.get(key)) or 0) for key in ("hidden", "dead", "saturated")
    )
    examples = f"the {text.count(found.get('count'))} test examples"
    if found.get("units") != "bernoulli":
        return (
            f"{dead} of {total} units are dead: their mean changes by less than 0.05 over "
            f"{examples}."
        )
    return (
        f"{dead} of {text.plural(total, 'unit')} {'is' if dead == 1 else 'are'} dead (on with "
        f"probability below 5 % for every one of {examples}) and {saturated} saturated (above 95 % "
        "for every one)."
    )


# ---- likelihood over training --------------------------------------------------------------------


def _likelihood_picture(curve: Sequence[Mapping[str, Any]]) -> Picture:
    needed = ("step", "value", "lower", "upper")
    points = [p for p in curve if all(text.parse_number(p.get(key)) is not None for key in needed)]
    last, unsure = points[-1], [p for p in points if not p.get("certified")]
    how = (
        "The band reaches from the end of the bracket that errs low to the end that errs high, by "
        "short annealing runs."
    )
    if all(p.get("method") == "enumeration" for p in points):
        how = "log Z is exact: every state of one side was added up."
    caption = (
        f"Mean log-likelihood of {text.count(last.get('count'))} test examples "
        f"({last.get('data')}) in nats, at checkpoints of the run. {how}"
    )
    keys: Keys = ()
    if unsure:
        caption += f" {text.plural(len(unsure), 'checkpoint')} not certified (rings)."
        keys = (("log-likelihood", "data"), ("not certified", "bad"))
    shown = (f"{text.count(p['step'])}: {text.show(p['value'], 4)}" for p in points)
    aside = f"last between {text.show(last['lower'], 4)} and {text.show(last['upper'], 4)}"
    if last.get("certified"):
        aside = f"last {text.estimate(last)}"
    return plot(
        _draw_bracket(points),
        f"Test log-likelihood over updates: {', '.join(shown)}",
        "Likelihood over training",
        caption,
        aside=aside,
        keys=keys,
    )


def _likelihood_table(curve: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        (
            text.count(p.get("step")),
            text.estimate(p),
            text.show(p.get("lower"), 5),
            text.show(p.get("upper"), 5),
            _name_certainty(p),
        )
        for p in curve
    ]
    caption = (
        "± is one standard error over the examples; the two ends are those of the bracket of log Z."
    )
    head = ("update", "nats", "at least", "at most", "log Z")
    return Table("Likelihood in figures", head, rows, caption=caption)


def _name_certainty(point: Values) -> str:
    if point.get("method") == "enumeration":
        return "exact"
    return "certified" if point.get("certified") else "not certified"


def _draw_bracket(points: Sequence[Mapping[str, Any]]) -> Figure:
    steps, value, lower, upper = (
        np.array([float(p[key]) for p in points]) for key in ("step", "value", "lower", "upper")
    )
    sure = np.array([bool(p.get("certified")) for p in points])
    figure, axes = new_figure(height=250)
    color = COLORS["data"]
    ring: Style = {"markerfacecolor": "none", "markeredgecolor": COLORS["bad"], "markersize": 6}
    axes.fill_between(steps, lower, upper, color=color, alpha=0.22, linewidth=0)
    axes.plot(steps, value, color=color, linewidth=1.6)
    axes.plot(steps[sure], value[sure], "o", color=color, markersize=4.5)
    axes.plot(steps[~sure], value[~sure], "o", **ring)
    axes.vlines(steps, lower, upper, color=color, linewidth=1.4)
    label(axes, "update", "nats per example")
    return figure
