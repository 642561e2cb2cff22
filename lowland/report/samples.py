"""Samples beside data, the chains that led to them, and their nearest training examples.

Each function takes what the evaluation left behind and returns a section; what is absent becomes
one sentence.
"""

from typing import Any

import numpy as np

from lowland.report import figures as draw
from lowland.report.blocks import (
    Film,
    Panels,
    Picture,
    Section,
    Strips,
    Table,
    Text,
    Values,
    count,
    estimate,
    number,
    part,
    percent,
    plural,
    show,
)
from lowland.report.pictures import Array, Arrays, image, in_plane, is_images, rgb, room, row, tile

MEASURES = (  # key, name, how to read it
    (
        "judge_test_accuracy",
        "The judge's accuracy on test data",
        "The judge is a classifier of real images, trained apart from the energy; its word is "
        "worth this much.",
    ),
    (
        "confident",
        "Samples called with confidence",
        "Share of samples to which the judge gives a class with probability above 0.9.",
    ),
    (
        "agreement",
        "Called class is the asked class",
        "Share of samples, each drawn for a given class, that the judge calls by that class.",
    ),
    (
        "class_entropy",
        "Evenness over classes",
        "Entropy of the called classes as a share of the largest possible; 100 % is perfectly "
        "even.",
    ),
    (
        "neighbour_ratio",
        "Nearest-neighbour ratio",
        "Median distance to the nearest training example, samples against test data: near 1 is as "
        "new as fresh data, far below 1 is copying, far above 1 is off the data.",
    ),
    (
        "copies",
        "Possible copies",
        "Samples nearer to a training example than all but the closest 1 % of the test data; as "
        "many as expected is no sign of copying.",
    ),
    (
        "mmd",
        "Squared maximum mean discrepancy",
        "Distance between the laws of samples and of test data; zero on average when they are "
        "equal, so it may fall below.",
    ),
    (
        "frechet",
        "Fréchet distance",
        "Distance between Gaussians fitted to samples and to test data as they are, without a "
        "network: no FID. Smaller is better.",
    ),
    (
        "gap",
        "Energy gap",
        "Mean energy of samples less that of test data; near 0 the energy does not tell them "
        "apart.",
    ),
)
SHARES = ("judge_test_accuracy", "confident", "agreement", "class_entropy")


def samples(values: Values, arrays: Arrays) -> Section:
    """Samples beside data, and what was measured on them."""
    section = Section("samples", "Samples beside data")
    found, data = arrays.get("samples"), arrays.get("data")
    measured = part(values, "samples")
    if found is None and not measured:
        section.blocks.append(
            Text("No samples were drawn: this run has not been evaluated.", absent=True)
        )
        return section
    section.lead = _how_drawn(measured)
    beside: list[Any] = [_measured(measured)] if measured else []
    if is_images(found):
        section.blocks += _grids(found, data)
        labels = arrays.get("samples_label")
        beside += _classes(found, labels, measured)
        if not class_names(measured, labels):
            section.blocks.append(
                Text("The samples carry no labels, so they are not sorted by class.", absent=True)
            )
    elif in_plane(found):
        section.blocks.append(_clouds(found, data))
    elif found is not None and found.ndim == 2 and found.size:
        section.blocks += _columns(found, data)
    else:
        section.blocks.append(
            Text("There is no picture of the samples: they are not images or points.", absent=True)
        )
    beside += [_on_features(part(measured, "features"))] if part(measured, "features") else []
    if beside:
        section.blocks.append(Panels(beside, "flow"))
    if not measured:
        section.blocks.append(Text("Nothing was measured on the samples in this run.", absent=True))
    return section


def _how_drawn(measured: Values) -> str:
    if not measured:
        return ""
    starts = {"noise": " from fresh noise", "chains": " from the chains kept during training"}
    words = (
        f"{count(measured.get('count'))} samples were "
        f"drawn{starts.get(str(measured.get('start')), '')}"
    )
    if number(measured.get("steps")) is not None:
        words += (
            f", with {count(measured['steps'])} steps of {measured.get('sampler', 'the sampler')}"
        )
    return words + ". What is shown was not selected: it is the first of them, in order."


def _grids(found: Array, data: Array | None) -> list[Any]:
    shown = room(found, 64)
    columns = int(np.ceil(np.sqrt(shown)))
    grid = image(
        tile(rgb(found[:shown]), columns), f"Grid of {shown} samples drawn from the energy"
    )
    caption = "Drawn from the energy. They should look like the data, and unlike each other."
    pictures = [Picture(grid, "Samples", caption)]
    if not is_images(data):
        return [
            Panels(pictures, "wide"),
            Text("No data were stored beside the samples to compare with.", absent=True),
        ]
    real = image(
        tile(rgb(data[:shown]), columns), f"Grid of {len(data[:shown])} images of the data"
    )
    pictures.append(
        Picture(real, "Data", "Real examples, in the same arrangement, for comparison.")
    )
    return [Panels(pictures, "wide")]


def class_names(measured: Values, labels: Array | None) -> list[str]:
    """The names of the classes, or their numbers, or nothing where there are none."""
    named = [str(name) for name in measured.get("class_names") or []]
    highest = int(labels.max()) + 1 if labels is not None and labels.size else 0
    amount = max(len(measured.get("class_counts") or []), highest)
    return [*named, *(str(i) for i in range(len(named), amount))]


def _classes(found: Array, labels: Array | None, measured: Values) -> list[Any]:
    names = class_names(measured, labels)
    items: list[Any] = []
    if names and measured.get("class_counts") and len(names) <= 60:
        items.append(_class_bars([number(c) or 0.0 for c in measured["class_counts"]], names))
    if labels is not None and len(labels) == len(found) and 0 < len(names) <= 12:
        items.append(_by_class(found, labels, names))
    return items


def _class_bars(counts: list[float], names: list[str]) -> Picture:
    names = names[: len(counts)]
    words = ", ".join(f"{name} {amount:.0f}" for name, amount in zip(names, counts, strict=True))
    caption = (
        "How many samples the judge assigns to each class. The dashed line is an equal share; a "
        "class with hardly any samples is one that the energy has lost."
    )
    alt = f"Bar chart of samples per called class: {words}"
    return Picture(draw.svg(draw.bars(counts, names), alt), "Samples per class", caption)


def _by_class(found: Array, labels: Array, names: list[str]) -> Strips:
    wide = min(
        10, max(1, 600 // found.shape[-1]), max(int((labels == i).sum()) for i in range(len(names)))
    )
    rows = []
    for i, name in enumerate(names):
        mine = found[labels == i][:wide]
        rows.append(
            (
                name,
                image(tile(rgb(mine), wide), f"{len(mine)} samples called {name}", 400)
                if len(mine)
                else "",
            )
        )
    caption = (
        "The first samples of each class, as the judge calls them. Within a row, look for variety."
    )
    return Strips("The same samples by class", caption, rows)


def _clouds(found: Array, data: Array | None) -> Panels:
    limits = draw.frame(data if in_plane(data) else found)
    x, y = found[:, 0], found[:, 1]
    outside = ~((limits[0] <= x) & (x <= limits[1]) & (limits[2] <= y) & (y <= limits[3]))
    caption = "Drawn from the energy. They should cover what the data cover, and nothing else."
    if outside.any():
        caption += f" {percent(outside.mean())} of them lie outside the frame."
    plot = draw.svg(
        draw.scatter(found[:2000], limits, "model"), f"Scatter plot of {len(found[:2000])} samples"
    )
    pictures = [Picture(plot, "Samples", caption)]
    if in_plane(data):
        plot = draw.svg(
            draw.scatter(data[:2000], limits, "data"),
            f"Scatter plot of {len(data[:2000])} data points",
        )
        pictures.append(Picture(plot, "Data", "Real examples in the same frame, for comparison."))
    return Panels(pictures, "wide")


def _columns(found: Array, data: Array | None) -> list[Any]:
    real = data if data is not None and data.ndim == 2 and data.shape[1] == found.shape[1] else None
    pictures = []
    for i in range(min(6, found.shape[1])):
        both = (
            [(found[:, i], "model")]
            if real is None
            else [(real[:, i], "data"), (found[:, i], "model")]
        )
        keys = (("samples", "model"),) if real is None else (("data", "data"), ("samples", "model"))
        figure = draw.histogram(both, draw.window([values for values, _ in both]), "value", 200)
        caption = "The two outlines should agree; the axis shows 99 % of the points."
        pictures.append(
            Picture(
                draw.svg(figure, f"Histogram of column {i + 1}"),
                f"Column {i + 1}",
                caption,
                keys=keys,
            )
        )
    words = (
        f"The data are not images: {plural(len(pictures), 'column')} of {found.shape[1]} are shown "
        "instead."
    )
    return [Text(words), Panels(pictures)]


def _measured(measured: Values) -> Table:
    rows, notes = [], []
    for key, name, note in MEASURES:
        value = measured.get(key)
        if value is None:
            continue
        text = estimate(value, share=key in SHARES)
        if key == "copies":
            expected = measured.get("expected_copies")
            text = count(value) + ("" if expected is None else f" (expected {show(expected, 2)})")
        rows.append((name, text))
        notes.append(note)
    return Table(
        "What was measured", ("figure", "value"), rows, notes, caption="± is one standard error."
    )


COMPARED = (
    (
        "frechet",
        "Fréchet distance",
        "Of Gaussians fitted to features of the judge; no FID, which has other features.",
    ),
    (
        "precision",
        "Precision",
        "Samples within reach of test images (k = 3): low where they are nothing.",
    ),
    ("recall", "Recall", "Test images within reach of samples: low where something is missing."),
    (
        "two_sample_accuracy",
        "Told apart",
        "How often a classifier of features tells samples from test images: 50 % is best.",
    ),
)


def _on_features(compared: Values) -> Table:
    """Samples, and beside them training images, against as many test images."""
    columns = [part(compared, name) for name in ("samples", "real")]
    rows = [
        (name, *(estimate(c.get(key), share=key != "frechet") for c in columns))
        for key, name, _ in COMPARED
    ]
    caption = (
        f"{count(compared.get('count'))} images each. The last column is what no model can beat."
    )
    notes = [note for _, _, note in COMPARED]
    return Table(
        "Beside test images",
        ("on the judge's features", "samples", "training images"),
        rows,
        notes,
        caption=caption,
    )


# ---- chains --------------------------------------------------------------------------------------


def chains(arrays: Arrays) -> Section:
    """The film: the same chains at several steps."""
    section = Section("chains", "Chains over time")
    film, steps = arrays.get("film"), arrays.get("film_steps")
    if film is None or film.ndim < 3 or not film.size:
        section.blocks.append(Text("No film of the chains was stored in this run.", absent=True))
        return section
    names = (
        steps.tolist() if steps is not None and len(steps) == len(film) else list(range(len(film)))
    )
    chosen = np.unique(np.linspace(0, len(film) - 1, min(11, len(film))).round().astype(int))
    heads = [draw.tick(float(names[i])) for i in chosen]
    if film.ndim == 5 and film.shape[2] in (1, 3):
        rows = room(film[0], 8, 60_000)
        columns = [
            (head, image(tile(rgb(film[i][:rows]), 1), f"{rows} chains after {head} steps", 48))
            for head, i in zip(heads, chosen, strict=True)
        ]
        caption = (
            "Each row is one chain, each column a number of steps. A healthy chain finds a clean "
            "image and goes on changing; one that stands still is stuck."
        )
        section.blocks.append(Film("From the start to the sample", caption, columns))
    elif film.ndim == 3 and film.shape[2] == 2:
        data = arrays.get("data")
        if film.shape[1] < 60:
            section.blocks.append(
                Panels([_paths(film, data if in_plane(data) else None, heads)], "wide")
            )
        else:
            section.blocks.append(Panels(_point_film(film, chosen, heads)))
    else:
        words = "The chains are not images or points in the plane, so no film is shown."
        section.blocks.append(Text(words, absent=True))
    return section


def _paths(film: Array, data: Array | None, heads: list[str]) -> Picture:
    under = "" if data is None else " over the data (grey)"
    caption = (
        f"Paths of {plural(film.shape[1], 'chain')}{under}: from the ring, after {heads[0]} steps, "
        f"to the dot, after {heads[-1]}, seen at {len(film)} moments. They should end where the "
        "data are."
    )
    figure = draw.paths(film, None if data is None else data[:1000])
    return Picture(
        draw.svg(figure, f"Paths of {film.shape[1]} chains in the plane"),
        "Paths of chains",
        caption,
    )


def _point_film(film: Array, chosen: Array, heads: list[str]) -> list[Picture]:
    limits = draw.frame(np.concatenate([film[0], film[-1]]))
    kept = sorted(
        {
            0,
            len(chosen) // 8,
            len(chosen) // 4,
            len(chosen) // 2,
            3 * len(chosen) // 4,
            len(chosen) - 1,
        }
    )
    caption = (
        "Each dot is one chain. The cloud should settle into the shape of the data and stay there."
    )
    pictures = []
    for k in kept:
        figure = draw.scatter(film[chosen[k]], limits, "model")
        alt = f"{film.shape[1]} chains after {heads[k]} steps"
        pictures.append(Picture(draw.svg(figure, alt), f"After {heads[k]} steps", caption))
    return pictures


# ---- neighbours ----------------------------------------------------------------------------------


def neighbours(arrays: Arrays) -> Section:
    """Samples above their nearest training examples, and both distributions of distances."""
    section = Section(
        "neighbours",
        "Nearest training examples",
        "Has the energy learned a law, or the examples by heart?",
    )
    mine, nearest = arrays.get("neighbour_samples"), arrays.get("neighbour_of")
    items: list[Any] = []
    words = ""
    if is_images(mine) and is_images(nearest):
        items.append(_pairs(mine, nearest))
    else:
        words = "No pairs are shown: the samples are not images, or no neighbours were stored."
    own, fresh = (
        draw.finite(arrays.get(f"distances_{name}", np.zeros(0))) for name in ("samples", "test")
    )
    if len(own) and len(fresh):
        figure = draw.histogram(
            [(fresh, "data"), (own, "model")], draw.window([fresh], [own]), "distance"
        )
        alt = (
            f"Histograms of distances: median {show(np.median(own))} for samples, "
            f"{show(np.median(fresh))} for test data"
        )
        caption = (
            "If samples lie as far from the training data as fresh test data do, nothing was "
            "copied; a heap near zero would be copies. The axis is cut to the bulk of both."
        )
        keys = (("test data", "data"), ("samples", "model"))
        items.append(
            Picture(
                draw.svg(figure, alt),
                "Distance to the nearest training example",
                caption,
                keys=keys,
            )
        )
    section.blocks += [Panels(items, "wide")] if items else []
    section.blocks += [Text(words, absent=True)] if words else []
    if not (len(own) and len(fresh)):
        section.blocks.append(
            Text("No distances to the training data were stored in this run.", absent=True)
        )
    return section


def _pairs(mine: Array, nearest: Array) -> Strips:
    per_row = max(1, min(8, 700 // mine.shape[-1]))
    amount = min(room(mine, 16), len(nearest))
    rows = []
    for start in range(0, amount, per_row):
        part_of = slice(start, min(start + per_row, amount))
        rows.append(("sample", row(mine[part_of], "Samples", 400)))
        rows.append(
            (
                "nearest",
                row(nearest[part_of], "The nearest training example of each sample above", 400),
            )
        )
    caption = (
        "Each sample stands above the training example nearest to it. Related is good; identical "
        "is a copy."
    )
    return Strips("Samples and their nearest training examples", caption, rows)
