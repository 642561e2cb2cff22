"""The section about restoration: restored images in rows, and a table against simple baselines."""

import numpy as np

from lowland.report import text
from lowland.report.blocks import Panels, Section, Strips, Table, Values, get_part
from lowland.report.pictures import (
    Array,
    Arrays,
    count_shown,
    encode_png,
    is_images,
    tile,
    to_heatmap,
    to_rgb,
)

TASKS = {
    "inpaint": ("Inpainting", "Part of each image was hidden and drawn again from the energy."),
    "denoise": (
        "Denoising",
        "Noise was added to each image and removed again with the energy as the prior.",
    ),
}
PICTURE_ROWS = ("original", "observed", "draws", "mean", "spread", "nearest")
COLUMN_NAMES = {"psnr": "PSNR (dB)", "class_consistency": "same class"}
COLUMN_NOTES = {
    "class_consistency": " Same class: share of answers that the judge, a classifier, puts into "
    "the class of the original.",
    "coverage": " Coverage: share of the pixels on which draws differ whose true value lies in its "
    "90 % interval.",
}


def restoration_section(values: Values, arrays: Arrays) -> Section:
    """Return one figure and one table per task."""
    section = Section("restoration", "Restoration")
    found = get_part(values, "restoration")
    tasks = get_part(found, "tasks")
    known = {*tasks, *(name.split("/")[0] for name in arrays if name.endswith("/original"))}
    if not known:
        section.add_absent("Restoration was not evaluated in this run.")
        return section
    if text.parse_number(found.get("count")) is not None:
        images = text.plural(int(found["count"]), "test image")
        section.lead = f"Measured on {images} that the energy was not fitted to."
    for task in [*(task for task in TASKS if task in known), *sorted(known - set(TASKS))]:
        title, rows, measured = title_of(task), _image_rows(task, arrays), get_part(tasks, task)
        items: list[Strips | Table] = []
        if rows:
            items.append(Strips(title, _caption(task, arrays), rows))
        if measured:
            items.append(_table(title, measured))
        section.add(Panels(items, "wide"))
        if not rows:
            section.add_absent(f"{title}: no restored images were stored in this run.")
        if not measured:
            section.add_absent(f"{title}: nothing was measured in this run.")
    return section


def title_of(task: str) -> str:
    """Return the name of a task as a heading."""
    return TASKS[task][0] if task in TASKS else task.capitalize()


def _caption(task: str, arrays: Arrays) -> str:
    meaning = "Damaged images were restored with the energy as the prior."
    if task in TASKS:
        meaning = TASKS[task][1]
    mask, seen = arrays.get(f"{task}/mask"), arrays.get(f"{task}/observed")
    if mask is not None or (seen is not None and np.isnan(seen).any()):
        meaning += " What was hidden is blue-grey."
    return (
        f"{meaning} Each column is one image; each draw is one possible answer, the mean is their "
        "average, and the spread is bright where answers differ."
    )


def _image_rows(task: str, arrays: Arrays) -> list[tuple[str, str]]:
    original, mask = arrays.get(f"{task}/original"), arrays.get(f"{task}/mask")
    if not is_images(original):
        return []
    wide = min(count_shown(original, 8), max(2, 600 // original.shape[-1]))
    rows: list[tuple[str, Array]] = []
    for name in PICTURE_ROWS:
        array = arrays.get(f"{task}/{name}")
        if array is None or array.size == 0:
            continue
        if name == "draws" and array.ndim == 5:
            rows += [(f"draw {i}", to_rgb(draw[:wide])) for i, draw in enumerate(array[:3], 1)]
        if not is_images(array):
            continue
        shown = array[:wide]
        if name == "spread":
            rows.append((name, to_heatmap(shown, float(np.nanquantile(shown.mean(axis=1), 0.995)))))
            continue
        if name == "observed" and mask is not None:
            shown = np.where(mask > 0, shown, np.nan)
        rows.append((name, to_rgb(shown)))
    return [
        (name, encode_png(tile(row, wide), f"{title_of(task)}, {name}: {len(row)} images", 400))
        for name, row in rows
    ]


def _table(title: str, measured: Values) -> Table:
    keys = [key for key in measured if get_part(measured, key)]
    methods = dict.fromkeys(method for key in keys for method in get_part(measured, key))
    rows = [
        (
            str(m),
            *(text.estimate(get_part(measured, k).get(m), share=k in COLUMN_NOTES) for k in keys),
        )
        for m in methods
    ]
    caption = (
        "PSNR: closeness to the original, higher is better; for inpainting, in the hidden pixels "
        f"alone.{''.join(note for key, note in COLUMN_NOTES.items() if key in keys)} ± is one "
        "standard error."
    )
    head = ("method", *(COLUMN_NAMES.get(k, k.replace("_", " ")) for k in keys))
    return Table(f"{title} in figures", head, rows, caption=caption)
