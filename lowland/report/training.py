"""The sections about training: the recipe, its health over time, and the training curves, from
recipe.json and log.jsonl.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from lowland.report import curves, text
from lowland.report.blocks import (
    Facts,
    Paragraph,
    Picture,
    Section,
    Table,
    Timeline,
    Values,
    get_part,
)
from lowland.report.curves import LEVELS, Rows
from lowland.report.figures import plot

RECIPE_PARTS = {
    "data": "Data",
    "energy": "Energy",
    "objective": "Objective",
    "sampler": "Chains in training",
    "training": "Training",
    "generation": "Generation",
    "restoration": "Restoration",
    "evaluation": "Evaluation",
}
CLAUSES = {"data": " on {}", "objective": " with the {} objective", "sampler": " and {} chains"}
MAX_EVENTS = 50


class Curve(NamedTuple):
    """A curve to draw if it was logged. lines: (key in the log, name, colour); rare: shown only if
    it is ever not zero.
    """

    title: str
    caption: str
    lines: tuple[tuple[str, str, str], ...]
    zero: bool = False
    log: bool = False
    plain: bool = False
    rare: bool = False


CURVES = (
    Curve(
        "Loss",
        "What the optimiser minimised. For an energy-based model it is no score: a loss near zero "
        "is not convergence.",
        (("loss", "loss", "ink"),),
    ),
    Curve(
        "Energy gap",
        "Mean energy of samples less that of data. It should settle near the zero line: far above "
        "it the chains cannot follow the energy, far below it they have found holes that data do "
        "not fill.",
        (("gap", "gap", "ink"),),
        zero=True,
    ),
    Curve(
        "Energies",
        "Mean energies of data (with a band of one standard deviation) and of samples. The two "
        "should run together.",
        (("energy_data", "data", "data"), ("energy_model", "samples", "model")),
    ),
    Curve(
        "Gradient norm",
        "Size of the gradient with respect to the weights. A steady climb comes before an "
        "explosion.",
        (("gradient_norm", "gradient norm", "ink"),),
        log=True,
    ),
    Curve(
        "Chain movement",
        "How far the chains travel in one update (root mean square per number). At zero they are "
        "frozen.",
        (("movement", "movement", "model"),),
    ),
    Curve(
        "Border share",
        "Share of numbers at the end of their range. The samples should come close to the data.",
        (("data_bound_share", "data", "data"), ("bound_share", "samples", "model")),
    ),
    Curve(
        "Acceptance",
        "Share of proposed steps that were accepted: very low wastes work. A sampler without an "
        "accept step shows one.",
        (("acceptance", "acceptance", "model"),),
    ),
    Curve(
        "Buffer age",
        "Mean number of steps that the kept chains have run since they were last started afresh. "
        "It rises, then levels off.",
        (("age", "age", "model"),),
    ),
    Curve(
        "Classification loss",
        "Cross-entropy of the labels of the data under the energy. Lower is better.",
        (("cross_entropy", "cross-entropy", "ink"),),
        rare=True,
    ),
    Curve(
        "Learning rate",
        "Step size of the optimiser, as scheduled.",
        (("rate", "learning rate", "ink"),),
        plain=True,
    ),
    Curve(
        "Updates refused",
        "Updates since the row before whose loss or gradient was not finite; they were not "
        "applied. It should be zero.",
        (("nonfinite", "refused", "bad"),),
        plain=True,
        rare=True,
    ),
    Curve(
        "Diverged steps",
        "Proposed chain steps since the row before that were not finite; they were rejected. It "
        "should be zero.",
        (("diverged", "diverged", "bad"),),
        plain=True,
        rare=True,
    ),
)


# ---- recipe --------------------------------------------------------------------------------------


def recipe_section(recipe: Values, logged: Rows) -> Section:
    """Return one sentence, a line per part of the recipe, and the whole recipe folded away."""
    parts = {key: get_part(recipe, key) for key in RECIPE_PARTS}
    named = {key: str(values["name"]) for key, values in parts.items() if values.get("name")}
    words = f"{_with_article(named.get('energy', 'energy'))} was trained"
    for key, clause in CLAUSES.items():
        if key in named:
            words += clause.format(named[key])
    if logged:
        words += f", for {text.count(curves.find_span(logged)[1])} updates"
    if "seed" in recipe:
        words += f"; seed {recipe['seed']}"
    rows = [
        (RECIPE_PARTS[key], named.get(key, ""), _list_values(values))
        for key, values in parts.items()
        if values or key in ("data", "energy", "objective")
    ]
    source = json.dumps(recipe, indent=2, ensure_ascii=False, default=str)
    return Section("recipe", "What was trained and how", f"{words}.", [Facts(rows, source)])


def _with_article(name: str) -> str:
    vowels = "AEIOaeio"
    if name[:2].isupper():  # spelled: an MLP, an RBM
        vowels = "AEFHILMNORSX"
    phrase = f"An {name}" if name[:1] in vowels else f"A {name}"
    if not name.lower().endswith("energy"):
        phrase += " energy"
    return phrase


def _list_values(values: Values, most: int = 14) -> str:
    if not values:
        return "not in the recipe"
    flat = [
        f"{key} {value}" for key, value in _flatten(values) if key != "name" and value != "null"
    ]
    if len(flat) > most:
        flat[most:] = [f"and {len(flat) - most} more in the whole recipe"]
    return " · ".join(flat)


def _flatten(values: Any, path: str = "") -> list[tuple[str, str]]:
    if isinstance(values, Mapping) and values:
        return [
            pair
            for key, value in values.items()
            for pair in _flatten(value, f"{path}.{key}".lstrip("."))
        ]
    if not isinstance(values, str):
        values = json.dumps(values, ensure_ascii=False, default=str)
    return [(path, values if len(values) < 80 else f"{values[:76]} …")]


# ---- health --------------------------------------------------------------------------------------


def health_section(logged: Rows, events: Rows) -> Section:
    """Return the strip of health, and a table of its events."""
    section = Section("health", "Health over time")
    cells = curves.health_strip(logged)
    if cells:
        section.add(_timeline(logged, events, cells))
    else:
        section.add_absent("The log of this run holds no health verdicts.")
    if not events:
        words = "No events were logged: no warning, no rollback, no stop."
        section.add(Paragraph(words, absent=not logged))
        return section
    rows = [
        (str(i), text.count(e.get("step")), _name_event(e), sentence(e), str(e.get("remedy") or ""))
        for i, e in enumerate(events[:MAX_EVENTS], 1)
    ]
    rest = len(events) - len(rows)
    caption = f"And {rest:,} more in log.jsonl." if rest else ""
    head = ("no.", "update", "what", "in words", "remedy")
    section.add(Table("Events", head, rows, words=True, caption=caption))
    return section


def sentence(event: Values) -> str:
    """Return the message of an event, ended by a full stop."""
    words = str(event.get("sentence") or event.get("name") or "no reason was logged")
    if event.get("event") == "preflight":
        said = [str(one) for one in event.get("sentences") or []]
        words = "; ".join(said) or "a copy was tried for three updates, and nothing was odd"
        words = words[:1].upper() + words[1:]
    return words if words.endswith((".", "!", "?")) else f"{words}."


def _name_event(event: Values) -> str:
    words = str(event.get("event"))
    if words == "verdict":
        words = {"warn": "warning", "bad": "alarm"}.get(str(event.get("level")), words)
    if event.get("to") is not None:
        words += f" to {text.count(event['to'])}"
    if event.get("name"):
        words += f": {event['name']}"
    return words


def _timeline(logged: Rows, events: Rows, cells: list[tuple[str, float]]) -> Timeline:
    first, last = curves.find_span(logged)
    levels = [r["health"] for r in logged if r.get("health") in LEVELS]
    shares = ", ".join(f"{x} {text.percent(levels.count(x) / len(levels))}" for x in LEVELS)
    caption = (
        "From left to right the updates of training. Low and green is good, higher and yellow a "
        "warning, full and red bad; of neighbouring steps the worst is shown. Logged steps: "
        f"{shares}."
    )
    if events:
        caption += " Numbers above refer to the events below."
    title, ends = "Verdict at each logged step", (text.count(first), f"update {text.count(last)}")
    alt = f"Health from update {ends[0]} to {text.count(last)}: {shares}"
    return Timeline(title, caption, alt, cells, _place_marks(events, first, last), ends)


def _place_marks(events: Rows, first: float, last: float) -> list[tuple[str, str, float]]:
    """Return (numbers, worst level, position in percent); marks that would overlap are joined."""
    marks: list[tuple[int, int, str, float]] = []
    numbered = sorted(enumerate(events[:MAX_EVENTS], 1), key=lambda pair: float(pair[1]["step"]))
    for i, event in numbered:
        low, high = i, i
        level = str(event.get("level")) if event.get("level") in LEVELS else "warn"
        share = (float(event["step"]) - first) / max(last - first, 1e-9)
        place = round(min(100.0, max(0.0, 100 * share)), 2)
        if marks and place - marks[-1][3] < 6:
            before_low, before_high, before, place = marks.pop()
            low, high = min(before_low, i), max(before_high, i)
            level = max(level, before, key=LEVELS.index)
        marks.append((low, high, level, place))
    return [(str(a) if a == b else f"{a}–{b}", level, place) for a, b, level, place in marks]


# ---- curves --------------------------------------------------------------------------------------


def curves_section(logged: Rows, events: Rows) -> Section:
    """Return a curve for each logged quantity; those that were not logged are named."""
    section = Section("training", "Training curves")
    pictures, absent = [], []
    for curve in CURVES:
        found = [
            (curves.collect_series(logged, key), name, color) for key, name, color in curve.lines
        ]
        lines = [(line, name, color) for line, name, color in found if line is not None]
        if lines and (not curve.rare or any(line.values.any() for line, _, _ in lines)):
            pictures.append(_picture(curve, lines, logged, events))
        elif not lines and not curve.rare:
            absent.append(curve.title.lower())
    if not pictures:
        section.add_absent("No training log was found, so there are no curves.")
        return section
    section.lead = "Thin lines are the logged values, thick lines a running mean."
    if events:
        section.lead += " Dotted vertical lines are health events."
    section.add_panels(pictures)
    if absent:
        section.add_absent(f"Not logged in this run: {text.join(absent)}.")
    return section


def _picture(
    curve: Curve, lines: list[tuple[curves.Series, str, str]], logged: Rows, events: Rows
) -> Picture:
    spread = None
    if lines[0][1] == "data" and curve.title == "Energies":
        spread = curves.collect_series(logged, "energy_std")
    marks = [(float(e["step"]), str(e["level"])) for e in events if e.get("level") in LEVELS]
    figure, beyond = curves.draw_curves(
        [(line, color) for line, _, color in lines],
        zero=curve.zero,
        log=curve.log,
        plain=curve.plain,
        spread=spread,
        events=marks[:MAX_EVENTS],
    )
    lost = sum(int((~line.finite).sum()) for line, _, _ in lines)
    caption = curve.caption
    if beyond:
        caption += f" {text.plural(beyond, 'value')} beyond the axis."
    if lost:
        caption += f" {text.plural(lost, 'value')} not finite (red ticks at the top)."
    last = [text.show(float(line.values[-1])) for line, _, _ in lines]
    named = (f"{name} {value}" for (_, name, _), value in zip(lines, last, strict=True))
    alt = f"{curve.title} over updates; last: {', '.join(named)}"
    keys = tuple((name, color) for _, name, color in lines) if len(curve.lines) > 1 else ()
    return plot(figure, alt, curve.title, caption, aside=f"last {' / '.join(last)}", keys=keys)
