"""The section about samples: pictures beside data, and what was measured on them.

Each function of a section takes what the evaluation left behind; what is absent becomes one
sentence.
"""

import numpy as np

from lowland.report import text
from lowland.report.blocks import Block, Keys, Picture, Section, Strips, Table, Values, get_part
from lowland.report.figures import choose_window, draw_bars, draw_histogram, plot
from lowland.report.pictures import Array, Arrays, count_shown, encode_grid, is_images, is_planar
from lowland.report.planar import draw_scatter, frame_points

MEASURES = {  # key: name, how to read it
    "judge_test_accuracy": (
        "The judge's accuracy on test data",
        "The judge is a classifier of real images, trained apart from the energy; its word is "
        "worth this much.",
    ),
    "confident": (
        "Samples called with confidence",
        "Share of samples to which the judge gives a class with probability above 0.9.",
    ),
    "agreement": (
        "Called class is the asked class",
        "Share of samples, each drawn for a given class, that the judge calls by that class.",
    ),
    "class_entropy": (
        "Evenness over classes",
        "Entropy of the called classes as a share of the largest possible; 100 % is perfectly "
        "even.",
    ),
    "neighbour_ratio": (
        "Nearest-neighbour ratio",
        "Median distance to the nearest training example, samples against test data: near 1 is as "
        "new as fresh data, far below 1 is copying, far above 1 is off the data.",
    ),
    "copies": (
        "Possible copies",
        "Samples nearer to a training example than all but the closest 1 % of the test data; as "
        "many as expected is no sign of copying.",
    ),
    "mmd": (
        "Squared maximum mean discrepancy",
        "Distance between the laws of samples and of test data; zero on average when they are "
        "equal, so it may fall below.",
    ),
    "frechet": (
        "Fréchet distance",
        "Distance between Gaussians fitted to samples and to test data as they are, without a "
        "network: no FID. Smaller is better.",
    ),
    "gap": (
        "Energy gap",
        "Mean energy of samples less that of test data; near 0 the energy does not tell them "
        "apart.",
    ),
}
SHARES = ("judge_test_accuracy", "confident", "agreement", "class_entropy")
FEATURE_MEASURES = {  # key: name, how to read it
    "frechet": (
        "Fréchet distance",
        "Of Gaussians fitted to features of the judge; no FID, which has other features.",
    ),
    "precision": (
        "Precision",
        "Samples within reach of test images (k = 3): low where they are nothing.",
    ),
    "recall": (
        "Recall",
        "Test images within reach of samples: low where something is missing.",
    ),
    "two_sample_accuracy": (
        "Told apart",
        "How often a classifier of features tells samples from test images: 50 % is best.",
    ),
}


def samples_section(values: Values, arrays: Arrays) -> Section:
    """Return samples beside data, and what was measured on them."""
    section = Section("samples", "Samples beside data")
    found, measured = arrays.get("samples"), get_part(values, "samples")
    if found is None and not measured:
        section.add_absent("No samples were drawn: this run has not been evaluated.")
        return section
    section.lead = _describe_draws(measured)
    tables: list[Block] = []
    if measured:
        tables.append(_measured_table(measured))
    if is_images(found):
        tables += _add_images(section, found, arrays, measured)
    elif is_planar(found):
        section.add_panels(_point_clouds(found, arrays.get("data")), "wide")
    elif found is not None and found.ndim == 2 and found.size:
        columns = _columns(found, arrays.get("data"))
        section.add_text(
            f"The data are not images: {text.plural(len(columns), 'column')} of {found.shape[1]} "
            "are shown instead."
        )
        section.add_panels(columns)
    else:
        section.add_absent("There is no picture of the samples: they are not images or points.")
    if get_part(measured, "features"):
        tables.append(_feature_table(get_part(measured, "features")))
    section.add_panels(tables, "flow")
    if not measured:
        section.add_absent("Nothing was measured on the samples in this run.")
    return section


def _describe_draws(measured: Values) -> str:
    if not measured:
        return ""
    starts = {"noise": " from fresh noise", "chains": " from the chains kept during training"}
    start = starts.get(str(measured.get("start")), "")
    words = f"{text.count(measured.get('count'))} samples were drawn{start}"
    if text.parse_number(measured.get("steps")) is not None:
        sampler = measured.get("sampler", "the sampler")
        words += f", with {text.count(measured['steps'])} steps of {sampler}"
    return words + ". What is shown was not selected: it is the first of them, in order."


def _add_images(
    section: Section, found: Array, arrays: Arrays, measured: Values
) -> list[Picture | Strips]:
    """Append grids of samples and data to the section; returns the figures about classes."""
    data, labels = arrays.get("data"), arrays.get("samples_label")
    shown = count_shown(found, 64)
    columns = int(np.ceil(np.sqrt(shown)))
    alt = f"Grid of {shown} samples drawn from the energy"
    caption = "Drawn from the energy. They should look like the data, and unlike each other."
    pictures = [Picture(encode_grid(found[:shown], columns, alt), "Samples", caption)]
    if is_images(data):
        alt = f"Grid of {len(data[:shown])} images of the data"
        caption = "Real examples, in the same arrangement, for comparison."
        pictures.append(Picture(encode_grid(data[:shown], columns, alt), "Data", caption))
    section.add_panels(pictures, "wide")
    if not is_images(data):
        section.add_absent("No data were stored beside the samples to compare with.")
    names = _class_names(measured, labels)
    if not names:
        section.add_absent("The samples carry no labels, so they are not sorted by class.")
    figures: list[Picture | Strips] = []
    if measured.get("class_counts") and len(names) <= 60:
        counts = [text.parse_number(c) or 0.0 for c in measured["class_counts"]]
        figures.append(_class_bars(counts, names[: len(counts)]))
    if labels is not None and len(labels) == len(found) and 0 < len(names) <= 12:
        figures.append(_class_strips(found, labels, names))
    return figures


def _class_names(measured: Values, labels: Array | None) -> list[str]:
    """Return the names of the classes, or their numbers, or nothing where there are none."""
    named = [str(name) for name in measured.get("class_names") or []]
    amount = len(measured.get("class_counts") or [])
    if labels is not None and labels.size:
        amount = max(amount, int(labels.max()) + 1)
    return [*named, *(str(i) for i in range(len(named), amount))]


def _class_bars(counts: list[float], names: list[str]) -> Picture:
    words = ", ".join(f"{name} {amount:.0f}" for name, amount in zip(names, counts, strict=True))
    caption = (
        "How many samples the judge assigns to each class. The dashed line is an equal share; a "
        "class with hardly any samples is one that the energy has lost."
    )
    alt = f"Bar chart of samples per called class: {words}"
    return plot(draw_bars(counts, names), alt, "Samples per class", caption)


def _class_strips(found: Array, labels: Array, names: list[str]) -> Strips:
    most = max(int((labels == i).sum()) for i in range(len(names)))
    wide = min(10, max(1, 600 // found.shape[-1]), most)
    rows = []
    for i, name in enumerate(names):
        mine = found[labels == i][:wide]
        alt = f"{len(mine)} samples called {name}"
        rows.append((name, encode_grid(mine, wide, alt, 400) if len(mine) else ""))
    caption = (
        "The first samples of each class, as the judge calls them. Within a row, look for variety."
    )
    return Strips("The same samples by class", caption, rows)


def _point_clouds(found: Array, data: Array | None) -> list[Picture]:
    limits = frame_points(data if is_planar(data) else found)
    x, y = found[:, 0], found[:, 1]
    outside = ~((limits[0] <= x) & (x <= limits[1]) & (limits[2] <= y) & (y <= limits[3]))
    caption = "Drawn from the energy. They should cover what the data cover, and nothing else."
    if outside.any():
        caption += f" {text.percent(outside.mean())} of them lie outside the frame."
    shown = found[:2000]
    alt = f"Scatter plot of {len(shown)} samples"
    pictures = [plot(draw_scatter(shown, limits, "model"), alt, "Samples", caption)]
    if is_planar(data):
        shown = data[:2000]
        alt = f"Scatter plot of {len(shown)} data points"
        caption = "Real examples in the same frame, for comparison."
        pictures.append(plot(draw_scatter(shown, limits, "data"), alt, "Data", caption))
    return pictures


def _columns(found: Array, data: Array | None) -> list[Picture]:
    sets, keys = [(found, "model")], [("samples", "model")]
    if data is not None and data.ndim == 2 and data.shape[1] == found.shape[1]:
        sets, keys = [(data, "data"), *sets], [("data", "data"), *keys]
    caption = "The two outlines should agree; the axis shows 99 % of the points."
    legend: Keys = tuple(keys)
    pictures = []
    for i in range(min(6, found.shape[1])):
        columns = [(rows[:, i], color) for rows, color in sets]
        limits = choose_window([values for values, _ in columns])
        figure, alt = draw_histogram(columns, limits, "value", 200), f"Histogram of column {i + 1}"
        pictures.append(plot(figure, alt, f"Column {i + 1}", caption, keys=legend))
    return pictures


def _measured_table(measured: Values) -> Table:
    rows, notes = [], []
    for key, (name, note) in MEASURES.items():
        value = measured.get(key)
        if value is None:
            continue
        cell = text.estimate(value, share=key in SHARES)
        if key == "copies":
            cell = text.count(value)
            if measured.get("expected_copies") is not None:
                cell += f" (expected {text.show(measured['expected_copies'], 2)})"
        rows.append((name, cell))
        notes.append(note)
    caption = "± is one standard error."
    return Table("What was measured", ("figure", "value"), rows, notes, caption=caption)


def _feature_table(compared: Values) -> Table:
    """Compare samples, and beside them training images, with as many test images."""
    columns = [get_part(compared, name) for name in ("samples", "real")]
    rows = [
        (name, *(text.estimate(c.get(key), share=key != "frechet") for c in columns))
        for key, (name, _) in FEATURE_MEASURES.items()
    ]
    amount = text.count(compared.get("count"))
    caption = f"{amount} images each. The last column is what no model can beat."
    notes = [note for _, note in FEATURE_MEASURES.values()]
    head = ("on the judge's features", "samples", "training images")
    return Table("Beside test images", head, rows, notes, caption=caption)
