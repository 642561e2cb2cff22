HEAD

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
