"""The run directory to one HTML file.

`write_report` reads recipe.json, log.jsonl, time.jsonl and, where they exist, evaluation.json and
evaluation.safetensors; nothing else, and no live object. The page is written whole or not at all.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np
from markupsafe import Markup

from lowland.report import curves, sections
from lowland.report import figures as draw
from lowland.report.blocks import (
    Card,
    Facts,
    Panels,
    Picture,
    Section,
    Table,
    Text,
    Timeline,
    count,
    duration,
    estimate,
    listed,
    number,
    percent,
    plural,
    show,
)  # fmt: skip
from lowland.report.sections import Arrays, Values, part
from lowland.run import Run, RunError

Rows = Sequence[Mapping[str, Any]]
PARTS = (
    ("data", "Data"), ("energy", "Energy"), ("objective", "Objective"), ("sampler", "Chains in training"),
    ("training", "Training"), ("generation", "Generation"), ("restoration", "Restoration"),
)  # fmt: skip
GLOSSARY = (
    ("Energy", "A number for every point; low is likely. The model is p(x) ∝ exp(−E(x)): one nat lower is e times as likely."),
    ("Chain", "A point that a sampler moves, step after step, downhill and with noise, until it is a sample."),
    ("Update", "One change of the weights. Each update usually moves the chains by several steps."),
    ("Gap", "The difference of the mean energies of data and of samples. Near zero the model cannot tell them apart, "
            "which is what training aims for, but a gap near zero alone is no proof of good samples."),
    ("Movement", "How far chains travel in an update. Near zero they are frozen; very large, they only jitter."),
    ("Border share", "The share of pixels (or coordinates) that sit at the end of their range. Samples should have about "
                     "as many as the data."),
    ("Acceptance", "The share of proposed steps that an exact sampler accepts."),
    ("Buffer age", "How long the chains in the replay buffer have been running since they were last started afresh."),
    ("Gradient norm", "The size of the change that the loss asks of the weights. A sudden rise comes before an explosion."),
    ("Health", "Good, warn or bad: the monitor's verdict on each logged step. Bad steps can trigger a rollback to an earlier state."),
    ("Standard error", "How far a figure would typically move if measured again on as many fresh examples; written after ±."),
    ("AUROC", "The chance that a random outlier has a higher energy than a random test example."),
    ("PSNR", "Peak signal-to-noise ratio in decibels: how close a restored image is to the original. Ten more is a tenth "
             "of the squared error."),
)  # fmt: skip


def write_report(run_path: str | Path) -> Path:
    """Write RUN/report.html from what the run directory holds, and return its path.

    One self-contained file: no network, no scripts, pictures inside. Parts that the run does not have are named in a
    sentence each. Raises RunError if there is no run at `run_path`.
    """
    run = Run.open(run_path)
    with matplotlib.rc_context(draw.STYLE):
        context = describe(run)
    source = files("lowland.report").joinpath("template.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["markup"] = Markup  # only ever applied to pictures made by lowland.report.figures
    return run.write("report.html", environment.from_string(source).render(context).encode())


def describe(run: Run) -> dict[str, Any]:
    """Everything the template needs: plain text, blocks and markup of pictures."""
    header = run.header
    recipe = header.get("recipe") or {}
    rows = run.rows()
    logged = [r for r in rows if "event" not in r and "step" in r]
    events = [r for r in rows if "event" in r and "step" in r]
    values, arrays, problems = _evaluation(run)
    seconds = elapsed(run.rows("time.jsonl"))
    found = [
        trained(recipe, logged),
        health(logged, events),
        training(logged, events),
        sections.samples(values, arrays),
        sections.chains(values, arrays),
        sections.energies(values, arrays),
        sections.neighbours(values, arrays),
        sections.detection(values, arrays),
        sections.restoration(values, arrays),
        sections.landscape(values, arrays),
    ]
    name = str(recipe.get("name") or run.path.resolve().name)
    return {
        "name": name,
        "verdict": verdict(logged, events, seconds),
        "cards": cards(logged, events, values, seconds),
        "notes": [str(note) for note in values.get("notes") or []],
        "problems": problems,
        "evaluated": _evaluated(values, arrays),
        "sections": [section for section in found if section is not None],
        "glossary": GLOSSARY,
        "versions": [f"{key} {value}" for key, value in (header.get("versions") or {}).items()],
        "commands": commands(name),
        "directory": run.path.resolve().name,
    }


def _evaluation(run: Run) -> tuple[dict[str, Any], Arrays, list[str]]:
    """evaluation.json and evaluation.safetensors; empty where missing, with a sentence where damaged."""
    values: dict[str, Any] = {}
    arrays: dict[str, Any] = {}
    problems = []
    try:
        if (run.path / "evaluation.json").exists():
            read = run.read_json("evaluation.json")
            values = read if isinstance(read, dict) else {}
        if (run.path / "evaluation.safetensors").exists():
            for name, tensor in run.read_tensors("evaluation.safetensors").items():
                arrays[name] = (tensor.float() if tensor.is_floating_point() and tensor.itemsize < 4 else tensor).numpy()
    except RunError as error:
        problems.append(str(error))
    return values, arrays, problems


def _evaluated(values: Values, arrays: Arrays) -> str:
    if not values and not arrays:
        return "This run has not been evaluated yet: run the evaluate verb, then write this report again."
    seconds = number(values.get("seconds"))
    return "" if seconds is None else f"Evaluation took {duration(seconds)}."


# ---- header ------------------------------------------------------------------------------------------------------------


def elapsed(rows: Rows) -> float | None:
    """Seconds of training. The clock starts anew when a run is resumed; the sessions add up."""
    clock = [t for t in (number(row.get("seconds")) for row in rows) if t is not None]
    return sum(b - a if b >= a else b for a, b in zip([0.0, *clock], clock, strict=False)) if clock else None


def verdict(logged: Rows, events: Rows, seconds: float | None) -> str:
    """One or two sentences: how far training got, in what health, and how long it took."""
    if not logged:
        return "No training log was found in this run."
    words = f"Training reached update {count(curves.span(logged)[1])}"
    words += f" in {duration(seconds)}" if seconds is not None else ""
    level = next((r["health"] for r in reversed(logged) if r.get("health") in curves.LEVELS), None)
    ends = {"good": "in good health", "warn": "with a warning standing", "bad": "in bad health"}
    words += f" and ended {ends[str(level)]}." if level else "."
    stop = next((e for e in reversed(events) if e.get("event") == "stop"), None)
    if stop is not None:
        words += f" It was stopped at update {count(stop.get('step'))}: {_sentence(stop)}"
    tally = [plural(sum(e.get("event") == kind for e in events), noun)
             for kind, noun in (("verdict", "health verdict"), ("rollback", "rollback"))
             if any(e.get("event") == kind for e in events)]  # fmt: skip
    return words + (f" On the way: {listed(tally)}." if tally else "")


def _sentence(event: Mapping[str, Any]) -> str:
    words = str(event.get("sentence") or event.get("name") or "no reason was logged")
    return words if words.endswith((".", "!", "?")) else f"{words}."


def cards(logged: Rows, events: Rows, values: Values, seconds: float | None) -> list[Card]:
    """At most six headline figures, the ones this run has."""
    found: list[Card] = []
    steps = curves.span(logged)[1]
    if seconds is None:
        found.append(Card("Training time", "not logged", f"{count(steps)} updates" if logged else "no log"))
    else:
        rate = f" · {show(steps / seconds)} updates/s" if seconds > 0 else ""
        found.append(Card("Training time", duration(seconds), f"{count(steps)} updates{rate}"))
    levels = [r["health"] for r in logged if r.get("health") in curves.LEVELS]
    if levels:
        notes = [plural(sum(e.get("event") == k for e in events), k) for k in ("verdict", "rollback")]
        value = f"{percent(levels.count('good') / len(levels), 0)} good"
        found.append(Card("Health", value, f"{notes[0]}, {notes[1]}; ends {levels[-1]}", levels[-1]))
    measured, detected = part(values, "samples"), part(values, "detection")
    for key, title, note in (
        ("agreement", "Samples of the asked class", "called so by an independent judge"),
        ("confident", "Confident samples", "the judge is over 90 % sure of a class"),
        ("mmd", "Maximum mean discrepancy", "samples against data; 0 is equal"),
    ):
        if measured.get(key) is not None and not any(c.label.startswith(("Samples", "Confident")) for c in found):
            found.append(Card(title, estimate(measured[key], share=key != "mmd"), note))
    alarm = part(detected, "false_alarm")
    if alarm:
        kept = (number(alarm.get("low")) or 0.0) <= (number(detected.get("nominal")) or 0.0)
        note = f"at most {percent(detected.get('nominal'), 0)} promised; interval {percent(alarm.get('low'))} to {percent(alarm.get('high'))}"
        found.append(Card("False alarms", percent(alarm.get("value")), note, "good" if kept else "warn"))
    found += _detection_card(part(detected, "outliers")) + _restoration_card(part(part(values, "restoration"), "tasks"))
    return found[:6]


def _detection_card(outliers: Values) -> list[Card]:
    """The hardest outlier set: the one with the lowest AUROC."""
    scores = {n: number(part(part(outliers, n), "auroc").get("value")) for n in outliers}
    known = {n: s for n, s in scores.items() if s is not None}
    if not known:
        return []
    name = min(known, key=lambda n: known[n])
    note = f"AUROC against {name}" + (", the hardest set" if len(known) > 1 else "")
    return [Card("Outlier detection", estimate(outliers[name]["auroc"]), note)]


def _restoration_card(tasks: Values) -> list[Card]:
    for task, (title, _) in sections.TASKS.items():
        scores = {
            n: v for n, v in part(part(tasks, task), "psnr").items() if number(part({"v": v}, "v").get("value")) is not None
        }
        if "lowland mean" in scores:
            others = [n for n in scores if n != "lowland mean"]
            rival = max(others, key=lambda n: scores[n]["value"], default=None)
            note = f"{rival}: {estimate(scores[rival]['value'])} dB" if rival else "peak signal-to-noise ratio"
            return [Card(title, estimate(scores["lowland mean"], unit="dB"), note)]
    return []


def commands(name: str) -> list[str]:
    """What to type to train this recipe again, evaluate it and write its report."""
    again = shlex.quote(f"runs/{name}-again")
    return [
        f"lowland train {shlex.quote(name)} --run {again}",
        f"lowland evaluate {again}",
        f"lowland report {again}",
    ]


# ---- training ----------------------------------------------------------------------------------------------------------


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


CURVES: tuple[tuple[str, str, tuple[tuple[str, str, str], ...], dict[str, bool]], ...] = (
    ("Loss", "What the optimiser minimised. For an energy-based model it is no score: a loss near zero is not convergence.",
     (("loss", "loss", "ink"),), {}),
    ("Energy gap", "Mean energies of data and samples, subtracted. It should settle near the zero line; drifting away "
     "without return is the usual way to fail.", (("gap", "gap", "ink"),), {"zero": True}),
    ("Energies", "Mean energies of data (with a band of one standard deviation) and of samples. The two should run together.",
     (("energy_data", "data", "data"), ("energy_model", "samples", "model")), {}),
    ("Gradient norm", "Size of the gradient with respect to the weights. Bounded is healthy; a steady climb comes before "
     "an explosion.", (("gradient_norm", "gradient norm", "ink"),), {"log": True}),
    ("Chain movement", "How far the chains travel in one update. At zero they are frozen.", (("movement", "movement", "model"),), {}),
    ("Border share", "Share of coordinates at the end of their range. Samples should come close to the data.",
     (("border_data", "data", "data"), ("border", "samples", "model")), {}),
    ("Acceptance", "Share of proposed steps that were accepted. Very low wastes work; exactly one takes needlessly small steps.",
     (("acceptance", "acceptance", "model"),), {}),
    ("Buffer age", "How long the chains in the replay buffer have been running. It should rise and then level off.",
     (("age", "age", "model"),), {}),
    ("Learning rate", "Step size of the optimiser, as scheduled.", (("rate", "learning rate", "ink"),), {}),
    ("Non-finite values", "Values per step that were not finite and were refused. It should be zero.",
     (("nonfinite", "non-finite", "bad"),), {}),
)  # fmt: skip


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
