"""What was trained and how, its health over time, and the training curves: recipe.json and
log.jsonl as sections.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lowland.report import curves
from lowland.report import figures as draw
from lowland.report.blocks import (
    Facts,
    Panels,
    Picture,
    Section,
    Table,
    Text,
    Timeline,
    Values,
    count,
    listed,
    part,
    percent,
    plural,
    show,
)

Rows = Sequence[Mapping[str, Any]]
PARTS = {
    "data": "Data",
    "energy": "Energy",
    "objective": "Objective",
    "sampler": "Chains in training",
    "training": "Training",
    "generation": "Generation",
    "restoration": "Restoration",
    "evaluation": "Evaluation",
}
EVENTS_SHOWN = 50


class Panel(NamedTuple):
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


PANELS = (
    Panel(
        "Loss",
        "What the optimiser minimised. For an energy-based model it is no score: a loss near zero "
        "is not convergence.",
        (("loss", "loss", "ink"),),
    ),
    Panel(
        "Energy gap",
        "Mean energy of samples less that of data. It should settle near the zero line: far above "
        "it the chains cannot follow the energy, far below it they have found holes that data do "
        "not fill.",
        (("gap", "gap", "ink"),),
        zero=True,
    ),
    Panel(
        "Energies",
        "Mean energies of data (with a band of one standard deviation) and of samples. The two "
        "should run together.",
        (("energy_data", "data", "data"), ("energy_model", "samples", "model")),
    ),
    Panel(
        "Gradient norm",
        "Size of the gradient with respect to the weights. A steady climb comes before an "
        "explosion.",
        (("gradient_norm", "gradient norm", "ink"),),
        log=True,
    ),
    Panel(
        "Chain movement",
        "How far the chains travel in one update (root mean square per number). At zero they are "
        "frozen.",
        (("movement", "movement", "model"),),
    ),
    Panel(
        "Border share",
        "Share of numbers at the end of their range. The samples should come close to the data.",
        (("border_data", "data", "data"), ("border", "samples", "model")),
    ),
    Panel(
        "Acceptance",
        "Share of proposed steps that were accepted: very low wastes work. A sampler without an "
        "accept step shows one.",
        (("acceptance", "acceptance", "model"),),
    ),
    Panel(
        "Buffer age",
        "Mean number of steps that the kept chains have run since they were last started afresh. "
        "It rises, then levels off.",
        (("age", "age", "model"),),
    ),
    Panel(
        "Classification loss",
        "Cross-entropy of the labels of the data under the energy. Lower is better.",
        (("cross_entropy", "cross-entropy", "ink"),),
        rare=True,
    ),
    Panel(
        "Learning rate",
        "Step size of the optimiser, as scheduled.",
        (("rate", "learning rate", "ink"),),
        plain=True,
    ),
    Panel(
        "Updates refused",
        "Updates since the row before whose loss or gradient was not finite; they were not "
        "applied. It should be zero.",
        (("nonfinite", "refused", "bad"),),
        plain=True,
        rare=True,
    ),
    Panel(
        "Diverged steps",
        "Proposed chain steps since the row before that were not finite; they were rejected. It "
        "should be zero.",
        (("diverged", "diverged", "bad"),),
        plain=True,
        rare=True,
    ),
)


# ---- recipe --------------------------------------------------------------------------------------


def trained(recipe: Values, logged: Rows) -> Section:
    """One sentence, a line per part of the recipe, and the whole recipe folded away."""
    named = {key: str(part(recipe, key)["name"]) for key in PARTS if part(recipe, key).get("name")}
    words = (
        f"{_article(named['energy'])} was trained" if "energy" in named else "An energy was trained"
    )
    words += f" on {named['data']}" if "data" in named else ""
    words += f" with the {named['objective']} objective" if "objective" in named else ""
    words += f" and {named['sampler']} chains" if "sampler" in named else ""
    words += f", for {count(curves.span(logged)[1])} updates" if logged else ""
    words += f"; seed {recipe['seed']}." if "seed" in recipe else "."
    rows = [
        (
            title,
            named.get(key, ""),
            _details(part(recipe, key)) if part(recipe, key) else "not in the recipe",
        )
        for key, title in PARTS.items()
        if part(recipe, key) or key in ("data", "energy", "objective")
    ]
    source = json.dumps(recipe, indent=2, ensure_ascii=False, default=str)
    return Section("recipe", "What was trained and how", words, [Facts(rows, source)])


def _article(name: str) -> str:
    spelled = name[:2].isupper() and name[0] in "AEFHILMNORSX"  # an MLP, an RBM
    first = "An" if spelled or (name[:1] in "AEIOaeio" and not name[:2].isupper()) else "A"
    return f"{first} {name}" + ("" if name.lower().endswith("energy") else " energy")


def _details(values: Values, most: int = 14) -> str:
    flat = [f"{key} {text}" for key, text in _flat(values) if key != "name" and text != "null"]
    rest = len(flat) - most
    return " · ".join(flat[:most]) + (f" · and {rest} more in the whole recipe" if rest > 0 else "")


def _flat(values: Any, path: str = "") -> list[tuple[str, str]]:
    if isinstance(values, Mapping) and values:
        return [
            pair
            for key, value in values.items()
            for pair in _flat(value, f"{path}.{key}" if path else str(key))
        ]
    text = (
        json.dumps(values, ensure_ascii=False, default=str)
        if not isinstance(values, str)
        else values
    )
    return [(path, text if len(text) < 80 else f"{text[:76]} …")]


# ---- health --------------------------------------------------------------------------------------


def health(logged: Rows, events: Rows) -> Section:
    """The strip of health, and a table of its events."""
    section = Section("health", "Health over time")
    cells = curves.health(logged)
    if cells:
        section.blocks.append(_timeline(logged, events, cells))
    else:
        section.blocks.append(Text("The log of this run holds no health verdicts.", absent=True))
    if not events:
        section.blocks.append(
            Text("No events were logged: no warning, no rollback, no stop.", absent=not logged)
        )
        return section
    rows = [
        (str(i + 1), count(e.get("step")), _happened(e), sentence(e), str(e.get("remedy") or ""))
        for i, e in enumerate(events[:EVENTS_SHOWN])
    ]
    rest = len(events) - len(rows)
    head = ("no.", "update", "what", "in words", "remedy")
    section.blocks.append(
        Table(
            "Events",
            head,
            rows,
            words=True,
            caption=f"And {rest:,} more in log.jsonl." if rest else "",
        )
    )
    return section


def sentence(event: Mapping[str, Any]) -> str:
    """What an event says, as a sentence."""
    words = str(event.get("sentence") or event.get("name") or "no reason was logged")
    return words if words.endswith((".", "!", "?")) else f"{words}."


def _happened(event: Mapping[str, Any]) -> str:
    words = {"warn": "warning", "bad": "alarm"}.get(str(event.get("level")), "verdict")
    words = words if event.get("event") == "verdict" else str(event.get("event"))
    if event.get("to") is not None:
        words += f" to {count(event['to'])}"
    return f"{words}: {event['name']}" if event.get("name") else words


def _timeline(logged: Rows, events: Rows, cells: list[tuple[str, float]]) -> Timeline:
    first, last = curves.span(logged)
    levels = [r["health"] for r in logged if r.get("health") in curves.LEVELS]
    shares = [f"{level} {percent(levels.count(level) / len(levels))}" for level in curves.LEVELS]
    caption = (
        "From left to right the updates of training. Low and green is good, higher and yellow a "
        "warning, full and red bad; of neighbouring steps the worst is shown. Logged steps: "
        f"{', '.join(shares)}."
    )
    if events:
        caption += " Numbers above refer to the events below."
    alt = f"Health from update {count(first)} to {count(last)}: {', '.join(shares)}"
    ends = (count(first), f"update {count(last)}")
    return Timeline(
        "Verdict at each logged step", caption, alt, cells, _marks(events, first, last), ends
    )


def _marks(events: Rows, first: float, last: float) -> list[tuple[str, str, float]]:
    """(numbers, worst level, position in percent); marks that would overlap are joined."""
    marks: list[tuple[int, int, str, float]] = []
    for i, event in sorted(
        enumerate(events[:EVENTS_SHOWN], 1), key=lambda pair: float(pair[1]["step"])
    ):
        level = str(event.get("level")) if event.get("level") in curves.LEVELS else "warn"
        place = round(
            min(100.0, max(0.0, 100 * (float(event["step"]) - first) / max(last - first, 1e-9))), 2
        )
        if marks and place - marks[-1][3] < 6:
            low, high, before, left = marks.pop()
            marks.append(
                (min(low, i), max(high, i), max(level, before, key=curves.LEVELS.index), left)
            )
        else:
            marks.append((i, i, level, place))
    return [(str(a) if a == b else f"{a}–{b}", level, place) for a, b, level, place in marks]


# ---- curves --------------------------------------------------------------------------------------


def training(logged: Rows, events: Rows) -> Section:
    """A curve for each logged quantity; those that were not logged are named."""
    section = Section("training", "Training curves")
    pictures, absent = [], []
    for panel in PANELS:
        found = [(curves.series(logged, key), name, colour) for key, name, colour in panel.lines]
        lines = [(line, name, colour) for line, name, colour in found if line is not None]
        if lines and (not panel.rare or any(line.values.any() for line, _, _ in lines)):
            pictures.append(_curve(panel, lines, logged, events))
        elif not lines and not panel.rare:
            absent.append(panel.title.lower())
    if pictures:
        section.lead = "Thin lines are the logged values, thick lines a running mean."
        section.lead += " Dotted vertical lines are health events." if events else ""
        section.blocks.append(Panels(pictures))
    else:
        section.blocks.append(
            Text("No training log was found, so there are no curves.", absent=True)
        )
    if absent and pictures:
        section.blocks.append(Text(f"Not logged in this run: {listed(absent)}.", absent=True))
    return section


def _curve(
    panel: Panel, lines: list[tuple[curves.Series, str, str]], logged: Rows, events: Rows
) -> Picture:
    spread = (
        curves.series(logged, "spread")
        if lines[0][1] == "data" and panel.title == "Energies"
        else None
    )
    marks = [
        (float(e["step"]), str(e["level"])) for e in events if e.get("level") in curves.LEVELS
    ][:EVENTS_SHOWN]
    figure, beyond = curves.curve(
        [(line, colour) for line, _, colour in lines],
        zero=panel.zero,
        log=panel.log,
        plain=panel.plain,
        spread=spread,
        events=marks,
    )
    lost = sum(int((~np.isfinite(line.values)).sum()) for line, _, _ in lines)
    caption = panel.caption
    caption += f" {plural(beyond, 'value')} beyond the axis." if beyond else ""
    caption += f" {plural(lost, 'value')} not finite (red ticks at the top)." if lost else ""
    last = [show(line.ends_at) for line, _, _ in lines]
    alt = f"{panel.title} over updates; last: " + ", ".join(
        f"{n} {v}" for (_, n, _), v in zip(lines, last, strict=True)
    )
    keys = tuple((name, colour) for _, name, colour in lines) if len(panel.lines) > 1 else ()
    return Picture(draw.svg(figure, alt), panel.title, caption, f"last {' / '.join(last)}", keys)
