HEAD

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
