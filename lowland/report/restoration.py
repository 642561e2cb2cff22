"""Restored images in rows, and a table against simple baselines."""

import numpy as np

from lowland.report.blocks import (
    Panels,
    Section,
    Strips,
    Table,
    Text,
    Values,
    estimate,
    number,
    part,
    plural,
)
from lowland.report.pictures import Arrays, heat, image, is_images, rgb, room, tile

TASKS = {
    "inpaint": ("Inpainting", "Part of each image was hidden and drawn again from the energy."),
    "denoise": (
        "Denoising",
        "Noise was added to each image and removed again with the energy as the prior.",
    ),
}
ROWS = ("original", "observed", "draws", "mean", "spread", "nearest")


def restoration(values: Values, arrays: Arrays) -> Section:
    """One figure and one table per task."""
    section = Section("restoration", "Restoration")
    found = part(values, "restoration")
    tasks = part(found, "tasks")
    stored = {name.split("/")[0] for name in arrays if name.endswith("/original")}
    names = [t for t in TASKS if t in tasks or t in stored] + sorted(
        (set(tasks) | stored) - set(TASKS)
    )
    if not names:
        section.blocks.append(Text("Restoration was not evaluated in this run.", absent=True))
        return section
    if number(found.get("count")) is not None:
        section.lead = (
            f"Measured on {plural(int(found['count']), 'test image')} that the energy was not "
            "fitted to."
        )
    for task in names:
        title = title_of(task)
        rows = _rows(task, arrays)
        items: list[Strips | Table] = [Strips(title, _caption(task, arrays), rows)] if rows else []
        if part(tasks, task):
            items.append(_table(title, part(tasks, task)))
        section.blocks.append(Panels(items, "wide"))
        if not rows:
            section.blocks.append(
                Text(f"{title}: no restored images were stored in this run.", absent=True)
            )
        if not part(tasks, task):
            section.blocks.append(Text(f"{title}: nothing was measured in this run.", absent=True))
    return section


def title_of(task: str) -> str:
    """The name of a task as a heading."""
    return TASKS[task][0] if task in TASKS else task.capitalize()


def _caption(task: str, arrays: Arrays) -> str:
    meaning = (
        TASKS[task][1]
        if task in TASKS
        else "Damaged images were restored with the energy as the prior."
    )
    mask, seen = arrays.get(f"{task}/mask"), arrays.get(f"{task}/observed")
    if mask is not None or (seen is not None and np.isnan(seen).any()):
        meaning += " What was hidden is blue-grey."
    return (
        f"{meaning} Each column is one image; each draw is one possible answer, the mean is their "
        "average, and the spread is bright where answers differ."
    )


def _rows(task: str, arrays: Arrays) -> list[tuple[str, str]]:
    original = arrays.get(f"{task}/original")
    if not is_images(original):
        return []
    wide = min(room(original, 8), max(2, 600 // original.shape[-1]))
    rows = []
    for name in ROWS:
        array = arrays.get(f"{task}/{name}")
        if array is None or array.size == 0:
            continue
        if name == "draws" and array.ndim == 5:
            rows += [(f"draw {i + 1}", rgb(draw[:wide])) for i, draw in enumerate(array[:3])]
        elif name == "spread" and is_images(array):
            rows.append(
                (name, heat(array[:wide], float(np.nanquantile(array[:wide].mean(axis=1), 0.995))))
            )
        elif is_images(array):
            mask = arrays.get(f"{task}/mask") if name == "observed" else None
            rows.append(
                (
                    name,
                    rgb(array[:wide] if mask is None else np.where(mask > 0, array[:wide], np.nan)),
                )
            )
    return [
        (n, image(tile(colours, wide), f"{title_of(task)}, {n}: {len(colours)} images", 400))
        for n, colours in rows
    ]


def _table(title: str, measured: Values) -> Table:
    keys = [key for key in measured if part(measured, key)]
    methods = list(dict.fromkeys(m for key in keys for m in part(measured, key)))
    names, shares = (
        {"psnr": "PSNR (dB)", "class_consistency": "same class"},
        ("class_consistency", "coverage"),
    )
    rows = [
        (str(m), *(estimate(part(measured, k).get(m), share=k in shares) for k in keys))
        for m in methods
    ]
    caption = (
        "PSNR: closeness to the original, higher is better; for inpainting, in the hidden pixels "
        "alone."
    )
    if "class_consistency" in keys:
        caption += (
            " Same class: share of answers that the judge, a classifier, puts into the class of "
            "the original."
        )
    if "coverage" in keys:
        caption += (
            " Coverage: share of the pixels on which draws differ whose true value lies in its 90 "
            "% interval."
        )
    head = ("method", *(names.get(k, k.replace("_", " ")) for k in keys))
    return Table(f"{title} in figures", head, rows, caption=f"{caption} ± is one standard error.")
