"""What was evaluated, as sections of the page.

Each function takes what the evaluation left behind (`figures`: evaluation.json; `arrays`: evaluation.safetensors) and
returns a section. What is absent becomes one sentence; nothing here raises because a part is missing.
"""

from collections.abc import Mapping
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
    count,
    estimate,
    listed,
    number,
    percent,
    plural,
    show,
)  # fmt: skip
from lowland.report.figures import Array

Arrays = Mapping[str, Array]
Values = Mapping[str, Any]
TASKS = {
    "inpaint": ("Inpainting", "Part of each image was hidden (blue-grey) and drawn again from the energy."),
    "denoise": ("Denoising", "Noise was added to each image and removed again with the energy as the prior."),
}
ROWS = ("original", "observed", "draws", "mean", "spread", "nearest")


def part(values: Any, name: str) -> dict[str, Any]:
    """A nested mapping, empty if absent."""
    found = values.get(name) if isinstance(values, Mapping) else None
    return found if isinstance(found, dict) else {}


def in_plane(array: Array | None) -> bool:
    """Whether an array holds points in the plane, (N, 2)."""
    return array is not None and array.ndim == 2 and array.shape[1] == 2 and len(array) > 0


# ---- samples -----------------------------------------------------------------------------------------------------------


def samples(values: Values, arrays: Arrays) -> Section:
    """Samples beside data, and what was measured on them."""
    section = Section("samples", "Samples beside data")
    found, data = arrays.get("samples"), arrays.get("data")
    measured = part(values, "samples")
    if found is None and not measured:
        section.blocks.append(Text("No samples were drawn: this run has not been evaluated.", absent=True))
        return section
    section.lead = _how_drawn(measured)
    if draw.is_images(found):
        section.blocks += _image_grids(found, data, arrays.get("samples_label"), measured)
    elif in_plane(found):
        section.blocks += _point_clouds(found, data)
    elif found is not None and found.ndim == 2 and len(found):
        section.blocks += _columns(found, data)
    else:
        section.blocks.append(Text("There is no picture of the samples: they are not images or points.", absent=True))
    if measured:
        section.blocks.append(_sample_table(measured))
    return section


def _how_drawn(measured: Values) -> str:
    if not measured:
        return ""
    start = {"noise": "from fresh noise", "chains": "from the chains kept during training"}.get(str(measured.get("start")), "")
    words = f"{count(measured.get('count'))} samples were drawn {start}".rstrip()
    if number(measured.get("steps")) is not None:
        words += f", {count(measured['steps'])} steps of {measured.get('sampler', 'the sampler')} each"
    return words + ". What is shown was not selected: it is the first of them, in order."


def _image_grids(found: Any, data: Any, labels: Any, measured: Values) -> list[Any]:
    shown = draw.room(found, 64)
    columns = int(np.ceil(np.sqrt(shown)))
    grid = draw.picture(draw.tile(draw.rgb(found[:shown]), columns), f"Grid of {shown} samples drawn from the energy")
    pictures = [Picture(grid, "Samples", "Drawn from the energy. They should look like the data, and unlike each other.")]
    if draw.is_images(data):
        real = draw.picture(draw.tile(draw.rgb(data[:shown]), columns), f"Grid of {len(data[:shown])} images of the data")
        pictures.append(Picture(real, "Data", "Real examples, in the same arrangement, for comparison."))
    blocks: list[Any] = [Panels(pictures, wide=True)]
    if not draw.is_images(data):
        blocks.append(Text("No data were stored beside the samples to compare with.", absent=True))
    names = class_names(measured, labels)
    if names and measured.get("class_counts"):
        blocks.append(Panels([_class_bars(measured, names)]))
    if names and labels is not None and len(labels) == len(found) and len(names) <= 12:
        blocks.append(_by_class(found, labels, names))
    if not names:
        blocks.append(Text("The samples carry no labels, so they are not sorted by class.", absent=True))
    return blocks


def class_names(measured: Values, labels: Any) -> list[str]:
    """The names of the classes, or their numbers, or nothing where there are none."""
    if measured.get("class_names"):
        return [str(name) for name in measured["class_names"]]
    amount = len(measured.get("class_counts") or []) or (int(np.max(labels)) + 1 if labels is not None and len(labels) else 0)
    return [str(i) for i in range(amount)]


def _class_bars(measured: Values, names: list[str]) -> Picture:
    counts = [number(c) or 0.0 for c in measured["class_counts"]]
    names = [*names, *map(str, range(len(names), len(counts)))][: len(counts)]
    words = ", ".join(f"{name} {c:.0f}" for name, c in zip(names, counts, strict=True))
    return Picture(
        draw.svg(draw.bars(counts, names), f"Bar chart of samples per called class: {words}"),
        "Samples per class",
        "How many samples the judge, an independent classifier, assigns to each class. The dashed line is an equal share; "
        "a class with hardly any samples is one that the energy has lost.",
    )  # fmt: skip


def _by_class(found: Array, labels: Array, names: list[str]) -> Strips:
    wide = min(12, max(1, 600 // found.shape[-1]))
    rows = []
    for i, name in enumerate(names):
        mine = found[labels == i][:wide]
        if len(mine):
            body = draw.picture(draw.tile(draw.rgb(mine), wide), f"Samples called {name}", 440)
        else:
            body = ""
        rows.append((name, body))
    caption = "The first samples of each class, as the judge calls them. Within a row, look for variety."
    return Strips("The same samples by class", caption, rows)


def _point_clouds(found: Any, data: Any) -> list[Any]:
    limits = draw.frame(data if in_plane(data) else found)
    x, y = found[:, 0], found[:, 1]
    outside = ~((limits[0] <= x) & (x <= limits[1]) & (limits[2] <= y) & (y <= limits[3]))
    lost = f" {percent(outside.mean())} of the samples lie outside the frame." if outside.any() else ""
    pictures = [
        Picture(
            draw.svg(draw.scatter(found[:4000], limits, "model"), f"Scatter plot of {len(found[:4000])} samples"),
            "Samples", f"Drawn from the energy. They should cover what the data cover, and nothing else.{lost}",
        )
    ]  # fmt: skip
    if in_plane(data):
        plot = draw.svg(draw.scatter(data[:4000], limits, "data"), f"Scatter plot of {len(data[:4000])} data points")
        pictures.append(Picture(plot, "Data", "Real examples in the same frame, for comparison."))
    return [Panels(pictures)]


def _columns(found: Array, data: Array | None) -> list[Any]:
    pictures = []
    real = data if data is not None and data.ndim == 2 and data.shape[1] == found.shape[1] else None
    for i in range(min(6, found.shape[1])):
        sets = [(found[:, i], "model")] if real is None else [(real[:, i], "data"), (found[:, i], "model")]
        frame = draw.window([sets[0][0]], [found[:, i]], reach=0.5)
        keys = (("samples", "model"),) if real is None else (("data", "data"), ("samples", "model"))
        plot = draw.svg(draw.histogram(sets, frame, "value", 200), f"Histogram of column {i + 1}, samples against data")
        caption = "The two outlines should agree; the axis shows 99 % of the data."
        pictures.append(Picture(plot, f"Column {i + 1}", caption, keys=keys))
    words = f"The data are not images: the first {plural(len(pictures), 'column')} of {found.shape[1]} follow."
    return [Text(words), Panels(pictures)]


def _sample_table(measured: Values) -> Table:
    rows: list[tuple[str, str, str]] = []

    def add(key: str, name: str, text: str, note: str) -> None:
        if measured.get(key) is not None:
            rows.append((name, text, note))

    value = measured.get
    frechet = part(measured, "frechet").get("value", value("frechet"))
    add("judge_test_accuracy", "The judge's accuracy on test data", percent(value("judge_test_accuracy")),
        "The judge is a classifier trained apart from the energy; its word is worth this much.")  # fmt: skip
    add("confident", "Samples called with confidence", estimate(value("confident"), share=True),
        "Share to which the judge gives a class with probability above 0.9.")  # fmt: skip
    add("agreement", "Called class is the asked class", estimate(value("agreement"), share=True),
        "Share of samples, drawn for a given class, that the judge calls by that class.")  # fmt: skip
    add("class_entropy", "Evenness over classes", percent(value("class_entropy")),
        "Entropy of the called classes as a share of the largest possible; 100 % is perfectly even.")  # fmt: skip
    add("neighbour_ratio", "Nearest-neighbour ratio", show(value("neighbour_ratio")),
        "Median distance to the nearest training example, samples against test data: near 1 is as novel as fresh data, "
        "far below 1 is copying, far above 1 is off the data.")  # fmt: skip
    expected = f" (expected {show(value('expected_copies'))})" if value("expected_copies") is not None else ""
    add("copies", "Copies", count(value("copies")) + expected,
        "Samples nearer to a training example than all but 1 % of the test data are.")  # fmt: skip
    add("mmd", "Maximum mean discrepancy", estimate(value("mmd")),
        "Distance between the laws of samples and of data; 0 is equal.")  # fmt: skip
    add("frechet", "Fréchet distance", show(frechet, 4),
        "Distance between Gaussian fits in the judge's features; smaller is better. Not comparable with a published FID.")  # fmt: skip
    add("gap", "Energy gap", estimate(value("gap")),
        "Mean energy of samples against that of data; near 0 the energy does not tell them apart.")  # fmt: skip
    return Table("What was measured on the samples", ("figure", "value"), [r[:2] for r in rows], [r[2] for r in rows],
                 caption="± is one standard error.")  # fmt: skip


# ---- chains ------------------------------------------------------------------------------------------------------------


def chains(values: Values, arrays: Arrays) -> Section:
    """The film: the same chains at several steps."""
    section = Section("chains", "Chains over time")
    film, steps = arrays.get("film"), arrays.get("film_steps")
    if film is None or film.ndim < 3 or not film.size:
        section.blocks.append(Text("No film of the chains was stored in this run.", absent=True))
        return section
    names = steps.tolist() if steps is not None and len(steps) == len(film) else list(range(len(film)))
    chosen = np.unique(np.linspace(0, len(film) - 1, min(10, len(film))).round().astype(int))
    heads = [f"{float(names[i]):,.0f}" for i in chosen]
    if film.ndim == 5 and film.shape[2] in (1, 3):
        rows = draw.room(film[0], 8, 60_000)
        columns = [
            (head, draw.picture(draw.tile(draw.rgb(film[i][:rows]), 1), f"{rows} chains after {head} steps", 48))
            for head, i in zip(heads, chosen, strict=True)
        ]
        caption = (
            "Each row is one chain, each column a number of steps. A healthy chain finds a clean image and goes on "
            "changing; one that stands still is stuck."
        )
        section.blocks.append(Film("From the start to the sample", caption, columns))
    elif film.ndim == 3 and film.shape[2] == 2:
        section.blocks.append(Panels(_point_film(film, chosen, heads)))
    else:
        section.blocks.append(Text("The chains are not images or points in the plane, so no film is shown.", absent=True))
    return section


def _point_film(film: Array, chosen: Array, heads: list[str]) -> list[Picture]:
    limits = draw.frame(np.concatenate([film[0], film[-1]]))
    kept = sorted({0, len(chosen) // 4, len(chosen) // 2, len(chosen) - 1})
    return [
        Picture(
            draw.svg(draw.scatter(film[chosen[k]], limits, "model", 300), f"{film.shape[1]} chains after {heads[k]} steps"),
            f"After {heads[k]} steps",
            "Each dot is one chain; the cloud should settle into the shape of the data and stay there.",
        )
        for k in kept
    ]


# ---- energies ----------------------------------------------------------------------------------------------------------


def energies(values: Values, arrays: Arrays) -> Section:
    """Histograms of the energy of train, test, noise and shifted sets."""
    section = Section("energies", "Energies")
    sets = {name.removeprefix("energies/"): array for name, array in arrays.items() if name.startswith("energies/")}
    order = [n for n in ("train", "test", "noise") if n in sets] + sorted(set(sets) - {"train", "test", "noise"})
    order = [name for name in order if len(draw.finite(sets[name]))]
    if not order:
        section.blocks.append(Text("No energies were stored in this run.", absent=True))
        return section
    section.lead = "Low energy means likely. Fresh test data should look like training data; everything else should be uphill."
    colours = dict(zip(["train", "test", "noise"], ["fourth", "data", "noise"], strict=True))
    shifted = [name for name in order if name not in colours]
    colours |= {name: ("model", "third", "fifth", "warn")[i % 4] for i, name in enumerate(shifted)}
    core = [sets[n] for n in order if n in ("train", "test")]
    low, high = draw.window(core, [sets[n] for n in order if n not in ("train", "test")])
    figure = draw.histogram([(sets[n], colours[n]) for n in order], (low, high), "energy", 300)
    outside = []
    for name in order:
        shown = sets[name][np.isfinite(sets[name])]
        share = float(((shown < low) | (shown > high)).mean())
        if share > 0.02:
            side = "right" if np.median(shown) > (low + high) / 2 else "left"
            outside.append(f"{percent(share, 0)} of {name} (to the {side})")
    lost = f" Beyond the axis lie {listed(outside)}." if outside else ""
    section.blocks.append(Panels([Picture(
        draw.svg(figure, f"Histograms of the energies of {listed(order)}; medians in the table below"),
        "Energies of the sets",
        f"Each outline is a density of area one: the further apart two of them, the better the energy tells these sets apart. "
        f"The axis is cut to the range of 99 % of the data and three of its widths beyond.{lost}",
        keys=tuple((n, colours[n]) for n in order),
    )], wide=True))  # fmt: skip
    section.blocks.append(_energy_table(sets, order))
    return section


def _energy_table(sets: Arrays, order: list[str]) -> Table:
    rows = []
    for name in order:
        seen = draw.finite(sets[name])
        low, middle, high = np.quantile(seen, [0.05, 0.5, 0.95])
        rows.append((name, count(len(sets[name])), show(middle, 4), f"{show(low, 4)} to {show(high, 4)}",
                     count(sets[name].size - len(seen))))  # fmt: skip
    return Table("Energies in figures", ("set", "points", "median", "5 % to 95 %", "non-finite"), rows)


# ---- neighbours --------------------------------------------------------------------------------------------------------


def neighbours(values: Values, arrays: Arrays) -> Section:
    """Samples above their nearest training examples, and both distributions of distances."""
    section = Section("neighbours", "Nearest training examples")
    section.lead = "Has the energy learned a law, or the examples by heart?"
    mine, nearest = arrays.get("neighbour_samples"), arrays.get("neighbour_of")
    mine = arrays["samples"][: len(nearest)] if mine is None and nearest is not None and "samples" in arrays else mine
    if mine is not None and nearest is not None and draw.is_images(mine) and draw.is_images(nearest):
        wide = min(draw.room(mine, 10), len(nearest), max(1, 700 // mine.shape[-1]))
        pairs = [("sample", mine[:wide], "Samples"), ("nearest", nearest[:wide], "Their nearest training examples")]
        rows = [(name, draw.picture(draw.tile(draw.rgb(a), wide), alt, 440)) for name, a, alt in pairs]
        caption = "Each sample stands above the training example nearest to it. Related is good; identical is a copy."
        section.blocks.append(Strips("Samples and their nearest training examples", caption, rows))
    else:
        section.blocks.append(
            Text("No pairs are shown: the samples are not images, or no neighbours were stored.", absent=True)
        )
    own, fresh = arrays.get("distances_samples"), arrays.get("distances_test")
    if own is None or fresh is None or not len(draw.finite(own)) or not len(draw.finite(fresh)):
        section.blocks.append(Text("No distances to the training data were stored in this run.", absent=True))
        return section
    figure = draw.histogram([(fresh, "data"), (own, "model")], draw.window([fresh], [own]), "distance to the nearest")
    section.blocks.append(Panels([Picture(
        draw.svg(figure, f"Histograms of distances to the nearest training example: median {show(np.median(draw.finite(own)))} "
                         f"for samples, {show(np.median(draw.finite(fresh)))} for test data"),
        "Distance to the nearest training example",
        "If samples lie as far from the training data as fresh test data do, nothing was copied; a heap near zero would be copies. "
        "The axis is cut to 99 % of the test data and three of its widths beyond.",
        keys=(("test data", "data"), ("samples", "model")),
    )]))  # fmt: skip
    return section


# ---- detection ---------------------------------------------------------------------------------------------------------


def detection(values: Values, arrays: Arrays) -> Section:
    """The detector's promise against what was counted, and how well it finds outliers."""
    section = Section("detection", "The detector and its promise")
    found = part(values, "detection")
    nominal, empirical = arrays.get("alarm_nominal"), arrays.get("alarm_empirical")
    if not found and nominal is None:
        section.blocks.append(Text("Outlier detection was not evaluated in this run.", absent=True))
        return section
    alarm = part(found, "false_alarm")
    if alarm:
        section.lead = (
            f"An example is called an outlier when its energy lies above a threshold set on {count(found.get('calibration_count'))} "
            f"calibration examples. Promised: at most {percent(found.get('nominal'))} false alarms. Counted on "
            f"{count(alarm.get('count'))} fresh test examples: {percent(alarm.get('value'))} "
            f"(interval {percent(alarm.get('low'))} to {percent(alarm.get('high'))})."
        )  # fmt: skip
    if nominal is not None and empirical is not None and len(nominal) == len(empirical) > 0:
        point = [number(found.get("nominal")), *(number(alarm.get(k)) for k in ("value", "low", "high"))]
        whole = tuple(p for p in point if p is not None)
        figure = draw.calibration(nominal, empirical, arrays.get("alarm_low"), arrays.get("alarm_high"),
                                  whole if len(whole) == 4 else None)  # fmt: skip
        keys = (("counted, with its band", "data"), ("exact promise", "muted"), ("threshold in use", "model"))
        section.blocks.append(Panels([Picture(
            draw.svg(figure, "Counted against promised false-alarm rate, with its band and the diagonal"), "Calibration",
            "On the dashed diagonal the detector raises exactly as many false alarms as promised; above it, more. "
            "The promise holds where the band touches the diagonal or lies below it.",
            keys=keys if len(whole) == 4 else keys[:2],
        )]))  # fmt: skip
    else:
        section.blocks.append(Text("No calibration curve was stored in this run.", absent=True))
    section.blocks.append(_outlier_table(part(found, "outliers")))
    return section


def _outlier_table(outliers: Values) -> Any:
    if not outliers:
        return Text("No outlier sets were evaluated in this run.", absent=True)
    rows = [
        (str(name), count(part(outliers, name).get("count")),
         *(estimate(part(outliers, name).get(key), share=key == "fpr95") for key in ("auroc", "aupr", "fpr95")))
        for name in outliers
    ]  # fmt: skip
    caption = (
        "AUROC: chance that an outlier has a higher energy than a test example (0.5 is guessing, 1 is perfect). AUPR: "
        "precision averaged over recall. FPR95: false alarms when 95 % of the outliers are caught; smaller is better. "
        "± is one standard error."
    )
    return Table("How well outliers are found", ("outliers", "count", "AUROC", "AUPR", "FPR95"), rows, caption=caption)


# ---- restoration -------------------------------------------------------------------------------------------------------


def restoration(values: Values, arrays: Arrays) -> Section:
    """Restored images in rows, and a table against simple baselines."""
    section = Section("restoration", "Restoration")
    found = part(values, "restoration")
    tasks = part(found, "tasks")
    stored = {name.split("/")[0] for name in arrays if name.endswith("/original")}
    names = [t for t in TASKS if t in tasks or t in stored] + sorted((set(tasks) | stored) - set(TASKS))
    if not names:
        section.blocks.append(Text("Restoration was not evaluated in this run.", absent=True))
        return section
    if found.get("count") is not None:
        section.lead = (
            f"Measured on {plural(int(number(found['count']) or 0), 'test image')} that the energy was not fitted to."
        )
    for task in names:
        title, meaning = TASKS.get(task, (task.capitalize(), "Damaged images were restored with the energy as the prior."))
        rows = _restored_rows(task, arrays)
        if rows:
            caption = (
                f"{meaning} Each column is one image; each draw is one possible answer, the mean is their average, and the "
                f"spread is bright where the answers differ."
            )
            section.blocks.append(Strips(title, caption, rows))
        else:
            section.blocks.append(Text(f"{title}: no restored images were stored in this run.", absent=True))
        if part(tasks, task):
            section.blocks.append(_restoration_table(title, part(tasks, task)))
        else:
            section.blocks.append(Text(f"{title}: nothing was measured in this run.", absent=True))
    return section


def _restored_rows(task: str, arrays: Arrays) -> list[tuple[str, str]]:
    original = arrays.get(f"{task}/original")
    if original is None or not draw.is_images(original):
        return []
    wide = min(draw.room(original, 8), max(2, 600 // original.shape[-1]))
    rows = []
    for name in ROWS:
        array = arrays.get(f"{task}/{name}")
        if array is None or array.size == 0:
            continue
        if name == "draws" and array.ndim == 5:
            rows += [(f"draw {i + 1}", draw.rgb(d[:wide])) for i, d in enumerate(array[:3])]
        elif name == "spread" and draw.is_images(array):
            rows.append((name, draw.heat(array[:wide], float(np.nanquantile(array[:wide].mean(axis=1), 0.995)))))
        elif draw.is_images(array):
            mask = arrays.get(f"{task}/mask") if name == "observed" else None
            rows.append((name, draw.rgb(array[:wide] if mask is None else np.where(mask > 0, array[:wide], np.nan))))
    return [(n, draw.picture(draw.tile(c, wide), f"{task}, {n}: {len(c)} images", 440)) for n, c in rows]


def _restoration_table(title: str, measured: Values) -> Table:
    methods = list(dict.fromkeys(m for key in measured for m in part(measured, key)))
    names = {"psnr": "PSNR (dB)", "class_consistency": "same class"}
    keys = [key for key in measured if part(measured, key)]
    rows = [(str(m), *(estimate(part(measured, k).get(m), share=k == "class_consistency") for k in keys)) for m in methods]
    caption = "PSNR: closeness to the original, higher is better; the mean of the draws is the answer that maximises it."
    if "class_consistency" in keys:
        caption += " Same class: share of answers that the judge calls by the class of the original."
    head = ("method", *(names.get(k, k.replace("_", " ")) for k in keys))
    return Table(f"{title} in figures", head, rows, caption=f"{caption} ± is one standard error.")


# ---- landscape ---------------------------------------------------------------------------------------------------------


def landscape(values: Values, arrays: Arrays) -> Section | None:
    """The energy over the plane; only for two-dimensional data."""
    x, y, energy = (arrays.get(f"landscape/{name}") for name in ("x", "y", "energy"))
    points, vectors = arrays.get("field/points"), arrays.get("field/vectors")
    plane = in_plane(arrays.get("samples")) or in_plane(arrays.get("data")) or energy is not None
    if not plane:
        return None
    section = Section("landscape", "The landscape")
    if x is None or y is None or energy is None:
        section.blocks.append(Text("No landscape was stored in this run.", absent=True))
        x = y = energy = None
    pictures = []
    if energy is not None and x is not None and y is not None:
        section.lead = "The energy over the plane. Data live in the lowlands (dark); everything else is uphill (pale)."
        tail = "Heights are above the lowest point; above 15, or above 95 % of the map, the colour no longer changes."
        for name, colour in (("data", "#ffffff"), ("samples", "#f2893f")):
            dots = arrays.get(name)
            if dots is None or not in_plane(dots):
                section.blocks.append(Text(f"No {name} were stored to set into the landscape.", absent=True))
                continue
            figure = draw.landscape(x, y, energy, dots[:1200], colour)
            pictures.append(Picture(
                draw.svg(figure, f"Contour map of the energy with {len(dots[:1200])} points ({name})"),
                f"Energy and {name}", f"The {name} as dots: they should fill the dark valleys and leave none empty. {tail}",
            ))  # fmt: skip
    if points is not None and vectors is not None and len(points) == len(vectors) > 0:
        figure = draw.field(points, vectors, x, y, energy)
        pictures.append(Picture(
            draw.svg(figure, f"Vector field of minus the gradient of the energy at {len(points)} points"), "Downhill: −∇E",
            "Arrows point the way a chain is pushed; stronger colour means a stronger push. They should lead to the data.",
        ))  # fmt: skip
    else:
        section.blocks.append(Text("No vector field was stored in this run.", absent=True))
    if pictures:
        section.blocks.insert(0, Panels(pictures))
    return section
