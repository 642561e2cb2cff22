"""Energies of the sets, the detector's promise against what was counted, and how well it finds
outliers.
"""

from typing import Any

import numpy as np

from lowland.report import figures as draw
from lowland.report.blocks import (
    Panels,
    Picture,
    Section,
    Table,
    Text,
    Values,
    count,
    estimate,
    listed,
    number,
    part,
    percent,
    show,
)
from lowland.report.pictures import Arrays

FIXED = {"train": "fourth", "test": "data", "samples": "model", "noise": "noise"}  # set: colour
QUANTILES = (0.05, 0.5, 0.95)
SHIFTED = ("third", "warn", "fifth", "bad")


def energies(arrays: Arrays) -> Section:
    """Histograms of the energies of train, test, samples, noise and shifted sets."""
    section = Section("energies", "Energies")
    sets = {
        name.removeprefix("energies/"): a
        for name, a in arrays.items()
        if name.startswith("energies/")
    }
    order = [name for name in FIXED if name in sets] + sorted(set(sets) - set(FIXED))
    order = [name for name in order if len(draw.finite(sets[name]))]
    if not order:
        section.blocks.append(Text("No energies were stored in this run.", absent=True))
        return section
    section.lead = (
        "Low energy means likely. Fresh test data should look like training data; all else should "
        "be uphill."
    )
    shifted = [name for name in order if name not in FIXED]
    colours = FIXED | {name: SHIFTED[i % len(SHIFTED)] for i, name in enumerate(shifted)}
    window = draw.window(
        [sets[n] for n in order if n in ("train", "test")],
        [sets[n] for n in order if n not in ("train", "test")],
    )
    figure = draw.histogram([(sets[n], colours[n]) for n in order], window, "energy", 280)
    caption = (
        "Each outline is a density of area one: the further apart two of them, the better the "
        "energy tells these sets apart. The axis is cut to the bulk of the data and of the sets "
        f"near them.{_beyond(sets, order, window)}"
    )
    alt = (
        f"Histograms of the energies of {listed(order)}; their medians are in the table that "
        "follows"
    )
    keys = tuple((name, colours[name]) for name in order)
    picture = Picture(draw.svg(figure, alt), "Energies of the sets", caption, keys=keys)
    section.blocks.append(
        Panels([picture, _ranges(sets, order, colours), _quantiles(sets, order)], "flow")
    )
    return section


def _ranges(sets: Arrays, order: list[str], colours: Values) -> Picture:
    rows = [
        (name, *(float(q) for q in np.quantile(draw.finite(sets[name]), QUANTILES)), colours[name])
        for name in order
    ]
    caption = (
        "Each bar holds the middle 90 % of a set, the dot is its median. Nothing is cut off here."
    )
    alt = "Bars from the 5 % to the 95 % quantile of each set's energies, with the median"
    return Picture(draw.svg(draw.ranges(rows), alt), "Where the sets lie", caption)


def _beyond(sets: Arrays, order: list[str], window: tuple[float, float]) -> str:
    words = []
    for name in order:
        seen = draw.finite(sets[name])
        left, right = float((seen < window[0]).mean()), float((seen > window[1]).mean())
        if max(left, right) > 0.02:
            words.append(
                f"{percent(max(left, right), 0)} of {name} (to the "
                f"{'right' if right >= left else 'left'})"
            )
    return f" Beyond it lie {listed(words)}." if words else ""


def _quantiles(sets: Arrays, order: list[str]) -> Table:
    rows = []
    for name in order:
        seen = draw.finite(sets[name])
        low, middle, high = np.quantile(seen, QUANTILES)
        rows.append((name, count(sets[name].size), show(low), show(middle), show(high)))
    lost = {name: int(sets[name].size - len(draw.finite(sets[name]))) for name in order}
    words = listed([f"{amount:,} of {name}" for name, amount in lost.items() if amount])
    caption = f"Not finite, and left out: {words}." if words else "All energies are finite."
    return Table(
        "Energies in figures", ("set", "points", "5 %", "median", "95 %"), rows, caption=caption
    )


# ---- the detector --------------------------------------------------------------------------------


def detection(values: Values, arrays: Arrays) -> Section:
    """The false-alarm rate against the promise, and the table of outlier sets."""
    section = Section("detection", "The detector and its promise")
    found = part(values, "detection")
    nominal, empirical = arrays.get("alarm_nominal"), arrays.get("alarm_empirical")
    if not found and nominal is None:
        section.blocks.append(Text("Outlier detection was not evaluated in this run.", absent=True))
        return section
    alarm = part(found, "false_alarm")
    if alarm:
        section.lead = (
            "An example is called an outlier when its energy lies above a threshold set on "
            f"{count(found.get('calibration_count'))} calibration examples. Promised: at most "
            f"{percent(found.get('nominal'))} false alarms. Counted on {count(alarm.get('count'))} "
            f"fresh test examples: {percent(alarm.get('value'))}; a sound detector would show "
            f"{percent(alarm.get('low'))} to {percent(alarm.get('high'))} in 95 of 100 such counts."
        )
    items: list[Any] = []
    words = [] if alarm else ["No false-alarm rate was counted in this run."]
    if nominal is not None and empirical is not None and len(nominal) == len(empirical) > 0:
        items.append(_calibration(found, arrays))
    else:
        words.append("No calibration curve was stored in this run.")
    if part(found, "outliers"):
        items.append(_outliers(part(found, "outliers")))
    else:
        words.append("No outlier sets were evaluated in this run.")
    section.blocks += [Panels(items, "wide")] if items else []
    section.blocks += [Text(sentence, absent=True) for sentence in words]
    return section


def _calibration(found: Values, arrays: Arrays) -> Picture:
    nominal, value = number(found.get("nominal")), number(part(found, "false_alarm").get("value"))
    point = None if nominal is None or value is None else (nominal, value)
    figure = draw.calibration(
        arrays["alarm_nominal"],
        arrays["alarm_empirical"],
        arrays.get("alarm_low"),
        arrays.get("alarm_high"),
        point,
    )
    keys = [
        ("counted", "data"),
        ("exact promise (dashed), and where a sound detector falls", "noise"),
    ]
    caption = (
        "On the dashed diagonal the detector raises exactly as many false alarms as promised; "
        "above the grey band it breaks its promise, within the band it keeps it up to the luck of "
        "the draw."
    )
    alt = (
        "Counted against promised false-alarm rate, with the diagonal and the band of a sound "
        "detector"
    )
    return Picture(
        draw.svg(figure, alt),
        "Calibration",
        caption,
        keys=(*keys, ("threshold in use", "model")) if point else tuple(keys),
    )


def kept(found: Values) -> bool | None:
    """Whether the counted false-alarm rate is within what a sound detector shows, or below; None if
    unknown.
    """
    alarm = part(found, "false_alarm")
    value, high = number(alarm.get("value")), number(alarm.get("high"))
    return None if value is None or high is None else value <= high


def _outliers(outliers: Values) -> Table:
    rows = []
    for name in outliers:
        scores = part(outliers, name)
        cells = (
            estimate(scores.get(key), share=key == "fpr95") for key in ("auroc", "aupr", "fpr95")
        )
        rows.append((str(name), count(scores.get("count")), *cells))
    caption = (
        "AUROC: chance that an outlier has a higher energy than a test example (0.5 is guessing, 1 "
        "is perfect). AUPR: precision averaged over recall. FPR95: share of outliers that pass "
        "where 95 % of the test examples pass; smaller is better. ± is one standard error."
    )
    return Table(
        "How well outliers are found",
        ("outliers", "count", "AUROC", "AUPR", "FPR95"),
        rows,
        caption=caption,
    )
