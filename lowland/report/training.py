HEAD

def trained(recipe: Values, logged: Rows) -> Section:
    """What was trained and how: one sentence, a line per part, the whole recipe folded away."""
    named = {key: str(part(recipe, key).get("name")) for key, _ in PARTS if part(recipe, key).get("name")}
    words = f"{_article(named['energy'])} was trained" if "energy" in named else "An energy was trained"
    words += f" on {named['data']}" if "data" in named else ""
    words += f" with the {named['objective']} objective" if "objective" in named else ""
    words += f" and {named['sampler']} chains" if "sampler" in named else ""
    words += f", for {count(curves.span(logged)[1])} updates" if logged else ""
    words += f"; seed {recipe['seed']}." if "seed" in recipe else "."
    rows = [
        (title, named.get(key, ""), _details(part(recipe, key)) if part(recipe, key) else "not in the recipe")
        for key, title in PARTS
        if part(recipe, key) or key in ("data", "energy", "objective")
    ]
    source = json.dumps(recipe, indent=2, ensure_ascii=False, default=str)
    return Section("recipe", "What was trained and how", words, [Facts(rows, source)])


def _article(name: str) -> str:
    return f"{'An' if name[:1].lower() in 'aeiou' else 'A'} {name}"


def _details(values: Values, most: int = 14) -> str:
    flat = [f"{key} {value}" for key, value in _flat(values) if key != "name"]
    rest = len(flat) - most
    return " · ".join(flat[:most]) + (f" · and {rest} more in the whole recipe" if rest > 0 else "")


def _flat(values: Any, path: str = "") -> list[tuple[str, str]]:
    if isinstance(values, Mapping) and values:
        return [pair for key, value in values.items() for pair in _flat(value, f"{path}.{key}" if path else str(key))]
    text = json.dumps(values, ensure_ascii=False, default=str) if not isinstance(values, str) else values
    return [(path, text if len(text) < 80 else f"{text[:76]} …")]


def health(logged: Rows, events: Rows) -> Section:
    """The strip of health with its events."""
    section = Section("health", "Health over time")
    cells = curves.health(logged)
    if cells:
        section.blocks.append(_timeline(logged, events, cells))
    else:
        section.blocks.append(Text("The log of this run holds no health verdicts.", absent=True))
    if events:
        rows = [
            (str(i + 1), count(e.get("step")), _happened(e), _sentence(e), str(e.get("remedy") or ""))
            for i, e in enumerate(events)
        ]
        head = ("no.", "update", "what", "in words", "remedy")
        section.blocks.append(Table("Events", head, rows, words=True))
    else:
        section.blocks.append(Text("No events were logged: no warning, no rollback, no stop.", absent=not logged))
    return section


def _happened(event: Mapping[str, Any]) -> str:
    words = str(event.get("event"))
    if event.get("event") == "verdict":
        words = f"{event.get('level', '')} verdict".strip()
    if event.get("to") is not None:
        words += f" to {count(event['to'])}"
    return f"{words}: {event['name']}" if event.get("name") else words


def _timeline(logged: Rows, events: Rows, cells: list[tuple[str, float]]) -> Timeline:
    first, last = curves.span(logged)
    levels = [r["health"] for r in logged if r.get("health") in curves.LEVELS]
    shares = [f"{level} {percent(levels.count(level) / len(levels))}" for level in curves.LEVELS]
    marks = [
        (i + 1, str(e.get("level")) if e.get("level") in curves.LEVELS else "warn",
         round(min(100.0, max(0.0, 100 * (float(e["step"]) - first) / max(last - first, 1e-9))), 2))
        for i, e in enumerate(events)
    ]  # fmt: skip
    caption = (
        f"From left to right the updates of training. Low and green is good, higher and yellow a warning, full and red bad; "
        f"of neighbouring steps the worst is shown. Logged steps: {', '.join(shares)}."
    )
    if marks:
        caption += " Numbers above refer to the events below."
    alt = f"Health from update {count(first)} to {count(last)}: {', '.join(shares)}"
    return Timeline("Health", caption, alt, cells, marks, (count(first), f"update {count(last)}"))


def training(logged: Rows, events: Rows) -> Section:
    """A curve for each logged quantity; those that were not logged are named."""
    section = Section("training", "Training curves")
    pictures, absent = [], []
    for title, caption, keys, options in CURVES:
        lines = [(line, label, colour) for key, label, colour in keys if (line := curves.series(logged, key)) is not None]
        if not lines:
            absent.append(title.lower())
        elif title != "Non-finite values" or lines[0][0].values.any():
            pictures.append(_curve(title, caption, lines, options, logged, events))
    if pictures:
        section.lead = "Thin lines are the logged values, thick lines a running mean. Dotted vertical lines are health events."
        section.blocks.append(Panels(pictures))
    else:
        section.blocks.append(Text("No training log was found, so there are no curves.", absent=True))
    absent = [a for a in absent if a != "non-finite values"]
    if absent and pictures:
        section.blocks.append(Text(f"Not logged in this run: {listed(absent)}.", absent=True))
    return section


def _curve(
    title: str, caption: str, lines: list[tuple[curves.Series, str, str]], options: dict[str, bool], logged: Rows, events: Rows
) -> Picture:  # fmt: skip
    spread = curves.series(logged, "spread") if title == "Energies" and lines[0][1] == "data" else None
    marks = [(float(e["step"]), str(e["level"])) for e in events if e.get("level") in curves.LEVELS][:20]
    figure = curves.curve([(line, colour) for line, _, colour in lines], spread=spread, events=marks, **options)
    drawn = [line for line, _, _ in lines]
    beyond = 0 if options.get("log") else curves.limits(drawn)[2]
    lost = sum(int((~np.isfinite(line.values)).sum()) for line in drawn)
    caption += f" {plural(beyond, 'value')} beyond the axis." if beyond else ""
    caption += f" {plural(lost, 'value')} not finite (red ticks at the top)." if lost else ""
    last = " / ".join(show(line.ends_at) for line in drawn)
    alt = f"{title} over updates; last: " + ", ".join(f"{name} {show(line.ends_at)}" for line, name, _ in lines)
    keys = tuple((name, colour) for _, name, colour in lines) if len(lines) > 1 else ()
    return Picture(draw.svg(figure, alt), title, caption, f"last {last}", keys)


def _sentence(event: Mapping[str, Any]) -> str:
    words = str(event.get("sentence") or event.get("name") or "no reason was logged")
    return words if words.endswith((".", "!", "?")) else f"{words}."
