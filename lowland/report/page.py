"""The run directory to one HTML file.

`write_report` reads recipe.json, log.jsonl, time.jsonl and, where they exist, evaluation.json,
likelihood.json and the arrays beside them; nothing else, and no live object. The page is written
whole or not at all.
"""

import shlex
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from lowland.report import (
    boltzmann,
    curves,
    detection,
    landscape,
    likelihood,
    restoration,
    samples,
    training,
)
from lowland.report.blocks import (
    Card,
    Values,
    count,
    duration,
    estimate,
    listed,
    number,
    part,
    percent,
    plural,
    show,
)
from lowland.report.pictures import Arrays
from lowland.report.training import Rows
from lowland.run import Run, RunError

ENDS = {"good": "in good health", "warn": "with a warning standing", "bad": "in bad health"}
GLOSSARY = {
    "Energy": "A number for every point; low is likely. The model is p(x) ∝ exp(−E(x)): lower by one is "
    "e times as likely.",
    "Chain": "A point that a sampler moves, step after step, downhill and with noise, until it is a "
    "sample.",
    "Update": "One change of the weights. In each update the chains move by several steps.",
    "Gap": "Mean energy of samples less that of data. Near zero the model cannot tell them apart, "
    "which is what training aims for; a gap near zero alone is no proof of good samples.",
    "Movement": "How far chains travel in an update. Near zero they are frozen.",
    "Border share": "The share of pixels (or coordinates) that sit at the end of their range.",
    "Acceptance": "The share of proposed steps that an exact sampler accepts.",
    "Buffer age": "For how many steps the kept chains have been running since they were last started "
    "afresh.",
    "Gradient norm": "The size of the change that the loss asks of the weights.",
    "Health": "Good, warn or bad: the verdict on each logged step. A bad step can lead to a rollback to "
    "an earlier state.",
    "Hidden unit": "A unit of a Boltzmann machine that no data set shows: it learns to stand for a "
    "feature.",
    "Fantasy particle": "A chain of a Boltzmann machine kept running through training: what the machine "
    "imagines.",
    "Judge": "A classifier trained on real images, apart from the energy, that is asked what the "
    "samples show.",
    "False alarm": "A genuine example that the detector calls an outlier.",
    "Standard error": "How far a figure would typically move if measured again on fresh examples; written after "
    "±.",
    "AUROC": "The chance that a random outlier has a higher energy than a random test example.",
    "PSNR": "Peak signal-to-noise ratio in decibels: how close a restored image is to the original. "
    "Ten more is a tenth of the squared error.",
}


def write_report(run_path: str | Path) -> Path:
    """Write RUN/report.html from what the run directory holds, and return its path.

    One self-contained file: no network, no scripts, pictures inside. Parts that the run does not
    have are named in a sentence each. Raises RunError if there is no run at `run_path`.
    """
    run = Run.open(run_path)
    source = files("lowland.report").joinpath("template.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return run.write("report.html", environment.from_string(source).render(describe(run)).encode())


def describe(run: Run) -> dict[str, Any]:
    """Everything that the template needs: plain text, blocks, and markup of pictures."""
    header = run.header
    recipe = header.get("recipe") or {}
    rows = [
        row for row in run.rows() if isinstance(row, dict) and number(row.get("step")) is not None
    ]
    logged = [row for row in rows if "event" not in row]
    events = [row for row in rows if "event" in row]
    values, arrays, problems = evaluation(run)
    certificate, course, more = evaluation(run, "likelihood")
    seconds = elapsed(run.rows("time.jsonl"))
    sections = [
        training.trained(recipe, logged),
        training.health(logged, events),
        training.training(logged, events),
        samples.samples(values, arrays),
        samples.chains(arrays),
        boltzmann.boltzmann(values, arrays),
        landscape.landscape(arrays),
        detection.energies(arrays),
        samples.neighbours(arrays),
        detection.detection(values, arrays),
        likelihood.likelihood(certificate, course),
        restoration.restoration(values, arrays),
    ]
    name = str(recipe.get("name") or run.path.resolve().name)
    return {
        "name": name,
        "about": str(recipe.get("about") or ""),
        "verdict": verdict(logged, events, seconds),
        "cards": cards(logged, events, values, seconds, certificate),
        "notes": [str(note) for note in values.get("notes") or []],
        "problems": problems + more,
        "evaluated": bool(values or arrays),
        "evaluation_time": None
        if number(values.get("seconds")) is None
        else duration(float(values["seconds"])),
        "sections": [section for section in sections if section is not None],
        "glossary": GLOSSARY,
        "versions": [f"{key} {value}" for key, value in (header.get("versions") or {}).items()],
        "command": command(name, recipe),
        "directory": run.path.resolve().name,
    }


def evaluation(run: Run, stem: str = "evaluation") -> tuple[dict[str, Any], Arrays, list[str]]:
    """What a verb left in STEM.json and STEM.safetensors; empty where missing, with a sentence
    where damaged.
    """
    values: dict[str, Any] = {}
    arrays: dict[str, Any] = {}
    problems = []
    try:
        if (run.path / f"{stem}.json").exists():
            read = run.read_json(f"{stem}.json")
            values = read if isinstance(read, dict) else {}
    except RunError as error:
        problems.append(str(error))
    try:
        if (run.path / f"{stem}.safetensors").exists():
            for name, tensor in run.read_tensors(f"{stem}.safetensors").items():
                half = tensor.is_floating_point() and tensor.itemsize < 4
                arrays[name] = (tensor.float() if half else tensor).numpy()
    except RunError as error:
        problems.append(str(error))
    return values, arrays, problems


# ---- header --------------------------------------------------------------------------------------


def elapsed(rows: Rows) -> float | None:
    """Seconds of training: the furthest that its clock got. A resumed run goes on from its
    checkpoint's time.
    """
    clock = [t for t in (number(row.get("seconds")) for row in rows) if t is not None]
    return max(clock, default=None)


def verdict(logged: Rows, events: Rows, seconds: float | None) -> str:
    """How far training got, in what health, how long it took, and what happened on the way."""
    if not logged:
        return "No training log was found in this run."
    words = f"Training reached update {count(logged[-1]['step'])}"
    words += f" in {duration(seconds)}" if seconds is not None else ""
    level = next((row["health"] for row in reversed(logged) if row.get("health") in ENDS), None)
    words += f" and ended {ENDS[level]}." if level else "."
    stop = next((event for event in reversed(events) if event.get("event") == "stop"), None)
    if stop is not None:
        words += f" It was stopped at update {count(stop['step'])}: {training.sentence(stop)}"
    kinds = {
        "warning": _tally(events, "verdict", "warn"),
        "alarm": _tally(events, "verdict", "bad"),
    }
    kinds["rollback"] = _tally(events, "rollback")
    tally = [plural(amount, noun) for noun, amount in kinds.items() if amount]
    return words + (f" On the way: {listed(tally)}." if tally else "")


def _tally(events: Rows, kind: str, level: str | None = None) -> int:
    return sum(
        event.get("event") == kind and level in (None, event.get("level")) for event in events
    )


def cards(
    logged: Rows, events: Rows, values: Values, seconds: float | None, certificate: Values
) -> list[Card]:
    """At most six headline figures, those that this run has."""
    steps = curves.span(logged)[1]
    rate = f" · {show(steps / seconds)} a second" if seconds else ""
    time = "not logged" if seconds is None else duration(seconds)
    found = [
        Card(
            "Training time", time, f"{count(steps)} updates{rate}" if logged else "no training log"
        )
    ]
    levels = [row["health"] for row in logged if row.get("health") in ENDS]
    if levels:
        note = f"of the logged steps; ended {ENDS[levels[-1]]}"
        share = levels.count("good") / len(levels)
        found.append(
            Card("Health", f"{percent(share, int(0.99 < share < 1))} good", note, levels[-1])
        )
    found += likelihood.card(certificate)
    found += _sample_card(part(values, "samples"))
    found += _alarm_card(part(values, "detection"))
    found += _outlier_card(part(part(values, "detection"), "outliers"))
    found += _restoration_card(part(part(values, "restoration"), "tasks"))
    return found[:6]


def _sample_card(measured: Values) -> list[Card]:
    for key, title, note in (
        ("agreement", "Right class", "samples that a judge calls by the class asked for"),
        ("confident", "Clear samples", "the judge is over 90 % sure of their class"),
        ("mmd", "Sample discrepancy", "squared MMD, samples against data; 0 is equal"),
    ):
        if measured.get(key) is not None:
            return [Card.of(title, estimate(measured[key], share=key != "mmd"), note)]
    return []


def _alarm_card(found: Values) -> list[Card]:
    alarm = part(found, "false_alarm")
    if not alarm:
        return []
    tone = {True: "good", False: "bad", None: ""}[detection.kept(found)]
    note = (
        f"at most {percent(found.get('nominal'), 0)} promised; up to {percent(alarm.get('high'))} "
        "is the luck of the draw"
    )
    return [Card("False alarms", percent(alarm.get("value")), note, tone)]


def _outlier_card(outliers: Values) -> list[Card]:
    """The hardest outlier set: the one with the lowest AUROC."""
    scores = {name: number(part(part(outliers, name), "auroc").get("value")) for name in outliers}
    known = {name: score for name, score in scores.items() if score is not None}
    if not known:
        return []
    name = min(known, key=lambda n: known[n])
    note = f"AUROC against {name}" + (", the hardest set" if len(known) > 1 else "")
    return [Card.of("Outlier detection", estimate(outliers[name]["auroc"]), note)]


def _restoration_card(tasks: Values) -> list[Card]:
    for task in restoration.TASKS:
        measured = part(part(tasks, task), "psnr")
        scores = {name: number(part(measured, name).get("value")) for name in measured}
        if scores.get("lowland mean") is not None:
            others = {
                name: score
                for name, score in scores.items()
                if score is not None and "lowland" not in name
            }
            rival = max(others, key=lambda name: others[name], default=None)
            note = f"{rival}: {show(others[rival])} dB" if rival else "peak signal-to-noise ratio"
            return [
                Card.of(
                    restoration.title_of(task), estimate(measured["lowland mean"], unit="dB"), note
                )
            ]
    return []


def command(name: str, recipe: Values) -> str:
    """What to type to train this recipe again; evaluation and report follow by themselves."""
    root = part(recipe, "data").get("root")
    return f"lowland train {shlex.quote(name)}" + (
        f" --data-root {shlex.quote(str(root))}" if root else ""
    )
