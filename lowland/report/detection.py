HEAD

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
