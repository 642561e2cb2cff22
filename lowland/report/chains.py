"""The sections about chains over time and about the nearest training examples of samples."""

import numpy as np

from lowland.report import text
from lowland.report.blocks import Block, Film, Picture, Section, Strips
from lowland.report.figures import choose_window, draw_histogram, keep_finite, plot, tick
from lowland.report.pictures import Array, Arrays, count_shown, encode_grid, is_images, is_planar
from lowland.report.planar import draw_paths, draw_scatter, frame_points


def chains_section(arrays: Arrays) -> Section:
    """Return the film: the same chains at several steps."""
    section = Section("chains", "Chains over time")
    film, steps = arrays.get("film"), arrays.get("film_steps")
    if film is None or film.ndim < 3 or not film.size:
        section.add_absent("No film of the chains was stored in this run.")
        return section
    if steps is None or len(steps) != len(film):
        steps = np.arange(len(film))
    chosen = np.unique(np.linspace(0, len(film) - 1, min(11, len(film))).round().astype(int))
    heads = [tick(float(steps[i])) for i in chosen]
    if film.ndim == 5 and film.shape[2] in (1, 3):
        section.add(_image_film(film[chosen], heads))
    elif film.ndim == 3 and film.shape[2] == 2 and film.shape[1] < 60:
        section.add_panels([_path_picture(film, arrays.get("data"), heads)], "wide")
    elif film.ndim == 3 and film.shape[2] == 2:
        section.add_panels(_point_film(film[chosen], heads))
    else:
        section.add_absent("The chains are not images or points in the plane, so no film is shown.")
    return section


def _image_film(film: Array, heads: list[str]) -> Film:
    rows = count_shown(film[0], 8, 60_000)
    columns = [
        (head, encode_grid(frame_images[:rows], 1, f"{rows} chains after {head} steps", 48))
        for head, frame_images in zip(heads, film, strict=True)
    ]
    caption = (
        "Each row is one chain, each column a number of steps. A healthy chain finds a clean "
        "image and goes on changing; one that stands still is stuck."
    )
    return Film("From the start to the sample", caption, columns)


def _path_picture(film: Array, data: Array | None, heads: list[str]) -> Picture:
    under = ""
    if is_planar(data):
        data, under = data[:1000], " over the data (grey)"
    else:
        data = None
    caption = (
        f"Paths of {text.plural(film.shape[1], 'chain')}{under}: from the ring, after {heads[0]} "
        f"steps, to the dot, after {heads[-1]}, seen at {len(film)} moments. They should end where "
        "the data are."
    )
    alt = f"Paths of {film.shape[1]} chains in the plane"
    return plot(draw_paths(film, data), alt, "Paths of chains", caption)


def _point_film(film: Array, heads: list[str]) -> list[Picture]:
    limits = frame_points(np.concatenate([film[0], film[-1]]))
    count = len(film)
    caption = (
        "Each dot is one chain. The cloud should settle into the shape of the data and stay there."
    )
    pictures = []
    for k in sorted({0, count // 8, count // 4, count // 2, 3 * count // 4, count - 1}):
        alt = f"{film.shape[1]} chains after {heads[k]} steps"
        figure = draw_scatter(film[k], limits, "model")
        pictures.append(plot(figure, alt, f"After {heads[k]} steps", caption))
    return pictures


# ---- neighbours ----------------------------------------------------------------------------------


def neighbours_section(arrays: Arrays) -> Section:
    """Return samples above their nearest training examples, and both distributions of distances."""
    lead = "Has the energy learned a law, or the examples by heart?"
    section = Section("neighbours", "Nearest training examples", lead)
    mine, nearest = arrays.get("neighbour_samples"), arrays.get("neighbour_of")
    own, fresh = (
        keep_finite(arrays.get(f"distances_{name}", np.zeros(0))) for name in ("samples", "test")
    )
    items: list[Block] = []
    if is_images(mine) and is_images(nearest):
        items.append(_pair_strips(mine, nearest))
    if len(own) and len(fresh):
        items.append(_distance_histogram(own, fresh))
    section.add_panels(items, "wide")
    if not (is_images(mine) and is_images(nearest)):
        section.add_absent(
            "No pairs are shown: the samples are not images, or no neighbours were stored."
        )
    if not (len(own) and len(fresh)):
        section.add_absent("No distances to the training data were stored in this run.")
    return section


def _distance_histogram(own: Array, fresh: Array) -> Picture:
    limits = choose_window([fresh], [own])
    figure = draw_histogram([(fresh, "data"), (own, "model")], limits, "distance")
    alt = (
        f"Histograms of distances: median {text.show(np.median(own))} for samples, "
        f"{text.show(np.median(fresh))} for test data"
    )
    caption = (
        "If samples lie as far from the training data as fresh test data do, nothing was copied; a "
        "heap near zero would be copies. The axis is cut to the bulk of both."
    )
    keys = (("test data", "data"), ("samples", "model"))
    return plot(figure, alt, "Distance to the nearest training example", caption, keys=keys)


def _pair_strips(mine: Array, nearest: Array) -> Strips:
    per_row = max(1, min(8, 700 // mine.shape[-1]))
    amount = min(count_shown(mine, 16), len(nearest))
    rows = []
    for start in range(0, amount, per_row):
        rows_shown = slice(start, min(start + per_row, amount))
        wide = len(mine[rows_shown])
        alt = "The nearest training example of each sample above"
        rows.append(("sample", encode_grid(mine[rows_shown], wide, "Samples", 400)))
        rows.append(("nearest", encode_grid(nearest[rows_shown], wide, alt, 400)))
    caption = (
        "Each sample stands above the training example nearest to it. Related is good; identical "
        "is a copy."
    )
    return Strips("Samples and their nearest training examples", caption, rows)
