"""The sections about energies and detection: energies of the sets, the detector's promise against
what was counted, and how well it finds outliers.
"""

import numpy as np

from lowland.report import figures, text
from lowland.report.blocks import Block, Picture, Section, Table, Values, get_part
from lowland.report.figures import keep_finite, plot
from lowland.report.pictures import Array, Arrays

SET_COLORS = {"train": "fourth", "test": "data", "samples": "model", "noise": "noise"}
OUTLIER_COLORS = ("third", "warn", "fifth", "bad")
BAND_QUANTILES = (0.05, 0.5, 0.95)


def energies_section(arrays: Arrays) -> Section:
    """Return histograms of the energies of train, test, samples, noise and outlier sets."""
    section = Section("energies", "Energies")
    stored = {
        name.removeprefix("energies/"): array
        for name, array in arrays.items()
        if name.startswith("energies/") and len(keep_finite(array))
    }
    outliers = sorted(set(stored) - set(SET_COLORS))
    sets = {name: stored[name] for name in [*SET_COLORS, *outliers] if name in stored}
    if not sets:
        section.add_absent("No energies were stored in this run.")
        return section
    section.lead = (
        "Low energy means likely. Fresh test data should look like training data; all else should "
        "be uphill."
    )
    cycle = {name: OUTLIER_COLORS[i % len(OUTLIER_COLORS)] for i, name in enumerate(outliers)}
    colors = SET_COLORS | cycle
    pictures = [_energy_histogram(sets, colors), _range_picture(sets, colors)]
    section.add_panels([*pictures, _quantile_table(sets)], "flow")
    return section


def _energy_histogram(sets: Arrays, colors: dict[str, str]) -> Picture:
    core = [values for name, values in sets.items() if name in ("train", "test")]
    others = [values for name, values in sets.items() if name not in ("train", "test")]
    window = figures.choose_window(core, others)
    drawn = [(values, colors[name]) for name, values in sets.items()]
    caption = (
        "Each outline is a density of area one: the further apart two of them, the better the "
        "energy tells these sets apart. The axis is cut to the bulk of the data and of the sets "
        f"near them.{_describe_beyond(sets, window)}"
    )
    alt = (
        f"Histograms of the energies of {text.join(list(sets))}; their medians are in the table "
        "that follows"
    )
    keys = tuple((name, colors[name]) for name in sets)
    figure = figures.draw_histogram(drawn, window, "energy", 280)
    return plot(figure, alt, "Energies of the sets", caption, keys=keys)


def _describe_beyond(sets: Arrays, window: tuple[float, float]) -> str:
    words = []
    for name, values in sets.items():
        left = float((keep_finite(values) < window[0]).mean())
        right = float((keep_finite(values) > window[1]).mean())
        if max(left, right) > 0.02:
            side = "right" if right >= left else "left"
            words.append(f"{text.percent(max(left, right), 0)} of {name} (to the {side})")
    if not words:
        return ""
    return f" Beyond it lie {text.join(words)}."


def _quantiles(values: Array) -> tuple[float, float, float]:
    low, middle, high = np.quantile(keep_finite(values), BAND_QUANTILES).tolist()
    return low, middle, high


def _range_picture(sets: Arrays, colors: dict[str, str]) -> Picture:
    rows = [(name, *_quantiles(values), colors[name]) for name, values in sets.items()]
    caption = (
        "Each bar holds the middle 90 % of a set, the dot is its median. Nothing is cut off here."
    )
    alt = "Bars from the 5 % to the 95 % quantile of each set's energies, with the median"
    return plot(figures.draw_ranges(rows), alt, "Where the sets lie", caption)


def _quantile_table(sets: Arrays) -> Table:
    rows = [
        (name, text.count(values.size), *map(text.show, _quantiles(values)))
        for name, values in sets.items()
    ]
    lost = {name: values.size - len(keep_finite(values)) for name, values in sets.items()}
    words = text.join([f"{amount:,} of {name}" for name, amount in lost.items() if amount])
    caption = "All energies are finite."
    if words:
        caption = f"Not finite, and left out: {words}."
    head = ("set", "points", "5 %", "median", "95 %")
    return Table("Energies in figures", head, rows, caption=caption)


# ---- the detector --------------------------------------------------------------------------------


def detection_section(values: Values, arrays: Arrays) -> Section:
    """Return the false-alarm rate against the promise, and the table of outlier sets."""
    section = Section("detection", "The detector and its promise")
    found = get_part(values, "detection")
    nominal, empirical = arrays.get("alarm_nominal"), arrays.get("alarm_empirical")
    if not found and nominal is None:
        section.add_absent("Outlier detection was not evaluated in this run.")
        return section
    alarm, outliers = get_part(found, "false_alarm"), get_part(found, "outliers")
    if alarm:
        section.lead = (
            "An example is called an outlier when its energy lies above a threshold set on "
            f"{text.count(found.get('calibration_count'))} calibration examples. Promised: at most "
            f"{text.percent(found.get('nominal'))} false alarms. Counted on "
            f"{text.count(alarm.get('count'))} fresh test examples: "
            f"{text.percent(alarm.get('value'))}; a sound detector would show "
            f"{text.percent(alarm.get('low'))} to {text.percent(alarm.get('high'))} in 95 of 100 "
            "such counts."
        )
    items: list[Block] = []
    if nominal is not None and empirical is not None and len(nominal) == len(empirical) > 0:
        items.append(_calibration_picture(found, arrays))
    curve = bool(items)
    if outliers:
        items.append(_outlier_table(outliers))
    section.add_panels(items, "wide")
    if not alarm:
        section.add_absent("No false-alarm rate was counted in this run.")
    if not curve:
        section.add_absent("No calibration curve was stored in this run.")
    if not outliers:
        section.add_absent("No outlier sets were evaluated in this run.")
    return section


def _calibration_picture(found: Values, arrays: Arrays) -> Picture:
    nominal = text.parse_number(found.get("nominal"))
    value = text.parse_number(get_part(found, "false_alarm").get("value"))
    point = None if nominal is None or value is None else (nominal, value)
    curve, low, high = (arrays.get(f"alarm_{name}") for name in ("empirical", "low", "high"))
    assert curve is not None
    figure = figures.draw_calibration(arrays["alarm_nominal"], curve, low, high, point)
    keys = [
        ("counted", "data"),
        ("exact promise (dashed), and where a sound detector falls", "noise"),
    ]
    if point is not None:
        keys.append(("threshold in use", "model"))
    caption = (
        "On the dashed diagonal the detector raises exactly as many false alarms as promised; "
        "above the grey band it breaks its promise, within the band it keeps it up to the luck of "
        "the draw."
    )
    alt = (
        "Counted against promised false-alarm rate, with the diagonal and the band of a sound "
        "detector"
    )
    return plot(figure, alt, "Calibration", caption, keys=tuple(keys))


def keeps_promise(found: Values) -> bool | None:
    """Return True if the counted false-alarm rate is within what a sound detector shows, or below;
    None if unknown.
    """
    alarm = get_part(found, "false_alarm")
    value, high = text.parse_number(alarm.get("value")), text.parse_number(alarm.get("high"))
    return None if value is None or high is None else value <= high


def _outlier_table(outliers: Values) -> Table:
    rows = []
    for name in outliers:
        scores = get_part(outliers, name)
        pair = [text.estimate(scores.get(key)) for key in ("auroc", "aupr")]
        fpr95 = text.estimate(scores.get("fpr95"), share=True)
        rows.append((str(name), text.count(scores.get("count")), *pair, fpr95))
    caption = (
        "AUROC: chance that an outlier has a higher energy than a test example (0.5 is guessing, 1 "
        "is perfect). AUPR: precision averaged over recall. FPR95: share of outliers that pass "
        "where 95 % of the test examples pass; smaller is better. ± is one standard error."
    )
    head = ("outliers", "count", "AUROC", "AUPR", "FPR95")
    return Table("How well outliers are found", head, rows, caption=caption)
