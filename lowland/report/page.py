"""A run directory as one HTML file.

`write_report` reads recipe.json, log.jsonl, time.jsonl and, where they exist, evaluation.json,
likelihood.json and the arrays beside them; nothing else, and no live object. The page is written
whole or not at all.
"""

import shlex
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from lowland.report import text, training
from lowland.report.blocks import Card, Values, get_part
from lowland.report.boltzmann import boltzmann_section
from lowland.report.chains import chains_section, neighbours_section
from lowland.report.curves import Rows, find_span
from lowland.report.detection import detection_section, energies_section, keeps_promise
from lowland.report.landscape import landscape_section
from lowland.report.likelihood import likelihood_card, likelihood_section
from lowland.report.pictures import Arrays
from lowland.report.restoration import TASKS, restoration_section, title_of
from lowland.report.samples import samples_section
from lowland.run import Run, RunError

HEALTH_WORDS = {
    "good": "in good health",
    "warn": "with a warning standing",
    "bad": "in bad health",
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
    """Return everything that the template needs: plain text, blocks, and markup of pictures."""
    header = run.header
    recipe = header.get("recipe") or {}
    rows = [
        row
        for row in run.rows()
        if isinstance(row, dict) and text.parse_number(row.get("step")) is not None
    ]
    logged = [row for row in rows if "event" not in row]
    events = [row for row in rows if "event" in row]
    values, arrays, problems = read_results(run, "evaluation")
    certificate, path, more = read_results(run, "likelihood")
    seconds = training_seconds(run.rows("time.jsonl"))
    sections = [
        training.recipe_section(recipe, logged),
        training.health_section(logged, events),
        training.curves_section(logged, events),
        samples_section(values, arrays),
        chains_section(arrays),
        boltzmann_section(values, arrays),
        landscape_section(arrays),
        energies_section(arrays),
        neighbours_section(arrays),
        detection_section(values, arrays),
        likelihood_section(certificate, path),
        restoration_section(values, arrays),
    ]
    name = str(recipe.get("name") or run.path.resolve().name)
    evaluation_seconds = text.parse_number(values.get("seconds"))
    return {
        "name": name,
        "about": str(recipe.get("about") or ""),
        "verdict": summarize(logged, events, seconds),
        "cards": headline_cards(logged, values, certificate, seconds),
        "notes": [str(note) for note in values.get("notes") or []],
        "problems": problems + more,
        "evaluated": bool(values or arrays),
        "evaluation_time": evaluation_seconds and text.duration(evaluation_seconds),
        "sections": [section for section in sections if section is not None],
        "devices": describe_devices(run.rows("time.jsonl"), values),
        "versions": [
            *(f"{key} {value}" for key, value in (header.get("versions") or {}).items()),
            *describe_precision(run.rows("time.jsonl")),
        ],
        "command": train_command(name, recipe),
        "directory": run.path.resolve().name,
    }


def read_results(run: Run, stem: str) -> tuple[dict[str, Any], Arrays, list[str]]:
    """Read STEM.json and STEM.safetensors; returns values, arrays and a sentence for each damaged
    file. Empty where a file is missing.
    """
    found: dict[str, Any] = {}
    problems = []
    for name, read in ((f"{stem}.json", run.read_json), (f"{stem}.safetensors", run.read_tensors)):
        try:
            found[name] = read(name) if (run.path / name).exists() else {}
        except RunError as error:
            problems.append(str(error))
    values, tensors = found.get(f"{stem}.json"), found.get(f"{stem}.safetensors", {})
    if not isinstance(values, dict):
        values = {}
    now = run.weights_digest()
    if values and values.get("weights", now) != now:
        problems.append(_describe_stale(run, f"{stem}.json"))
        values = {}
    if tensors and run.read_about(f"{stem}.safetensors").get("weights", now) != now:
        problems.append(_describe_stale(run, f"{stem}.safetensors"))
        tensors = {}
    arrays = {}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.itemsize < 4:  # NumPy has no bfloat16
            tensor = tensor.float()
        arrays[name] = tensor.numpy()
    return values, arrays, problems


def _describe_stale(run: Run, name: str) -> str:
    return (
        f"{run.path / name} was measured with other weights than those of the run now; results "
        "belong to their weights; `lowland evaluate` measures anew"
    )


# ---- header --------------------------------------------------------------------------------------


def describe_devices(rows: Rows, values: Mapping[str, object]) -> str:
    """Say on which devices a run was trained and measured; empty for runs of before they were
    logged.
    """
    trained = dict.fromkeys(str(row["device"]) for row in rows if row.get("device"))
    words = [f"Trained on {' and then '.join(trained)}."] if trained else []
    measured = [f"Measured on {values['device']}."] if values.get("device") else []
    return " ".join([*words, *measured])


def describe_precision(rows: Rows) -> list[str]:
    """Say in which precision products were computed since training last began, and why."""
    said = [row for row in rows if isinstance(row, dict) and isinstance(row.get("precision"), str)]
    return [f"products in {row['precision']} ({row.get('reason', '')})" for row in said[-1:]]


def training_seconds(rows: Rows) -> float | None:
    """Return the seconds of training: the furthest that its clock got. A resumed run goes on from
    its checkpoint's time.
    """
    clock = [text.parse_number(row.get("seconds")) for row in rows]
    return max((seconds for seconds in clock if seconds is not None), default=None)


def summarize(logged: Rows, events: Rows, seconds: float | None) -> str:
    """Say how far training got, in what health, how long it took, and what happened on the way."""
    if not logged:
        return "No training log was found in this run."
    words = f"Training reached update {text.count(logged[-1]['step'])}"
    if seconds is not None:
        words += f" in {text.duration(seconds)}"
    levels = [row["health"] for row in logged if row.get("health") in HEALTH_WORDS]
    if levels:
        words += f" and ended {HEALTH_WORDS[levels[-1]]}"
    sentences = [f"{words}."]
    stops = [event for event in events if event.get("event") == "stop"]
    if stops:
        update, reason = text.count(stops[-1]["step"]), training.sentence(stops[-1])
        sentences.append(f"It was stopped at update {update}: {reason}")
    kinds = [(event.get("event"), event.get("level")) for event in events]
    amounts = {
        "warning": kinds.count(("verdict", "warn")),
        "alarm": kinds.count(("verdict", "bad")),
        "rollback": sum(kind == "rollback" for kind, _ in kinds),
    }
    tally = [text.plural(amount, noun) for noun, amount in amounts.items() if amount]
    if tally:
        sentences.append(f"On the way: {text.join(tally)}.")
    return " ".join(sentences)


def headline_cards(
    logged: Rows, values: Values, certificate: Values, seconds: float | None
) -> list[Card]:
    """Return at most six headline figures, those that this run has."""
    cards = [_time_card(logged, seconds), *_health_card(logged)]
    cards += likelihood_card(certificate)
    cards += _sample_card(get_part(values, "samples"))
    cards += _alarm_card(get_part(values, "detection"))
    cards += _outlier_card(get_part(get_part(values, "detection"), "outliers"))
    cards += _restoration_card(get_part(get_part(values, "restoration"), "tasks"))
    return cards[:6]


def _time_card(logged: Rows, seconds: float | None) -> Card:
    note, time = "no training log", "not logged"
    if logged:
        note = f"{text.count(find_span(logged)[1])} updates"
    if logged and seconds:
        note += f" · {text.show(find_span(logged)[1] / seconds)} a second"
    if seconds is not None:
        time = text.duration(seconds)
    return Card("Training time", time, note)


def _health_card(logged: Rows) -> list[Card]:
    levels = [row["health"] for row in logged if row.get("health") in HEALTH_WORDS]
    if not levels:
        return []
    share = levels.count("good") / len(levels)
    value = f"{text.percent(share, int(0.99 < share < 1))} good"
    note = f"of the logged steps; ended {HEALTH_WORDS[levels[-1]]}"
    return [Card("Health", value, note, levels[-1])]


def _sample_card(measured: Values) -> list[Card]:
    for key, title, note in (
        ("agreement", "Right class", "samples that a judge calls by the class asked for"),
        ("confident", "Clear samples", "the judge is over 90 % sure of their class"),
        ("mmd", "Sample discrepancy", "squared MMD, samples against data; 0 is equal"),
    ):
        if measured.get(key) is not None:
            return [Card.of(title, text.estimate(measured[key], share=key != "mmd"), note)]
    return []


def _alarm_card(found: Values) -> list[Card]:
    alarm = get_part(found, "false_alarm")
    if not alarm:
        return []
    tone = {True: "good", False: "bad", None: ""}[keeps_promise(found)]
    note = (
        f"at most {text.percent(found.get('nominal'), 0)} promised; up to "
        f"{text.percent(alarm.get('high'))} is the luck of the draw"
    )
    return [Card("False alarms", text.percent(alarm.get("value")), note, tone)]


def _known_values(estimates: Values) -> dict[str, float]:
    """Return the values of those estimates that have one."""
    values = {name: text.parse_number(get_part(estimates, name).get("value")) for name in estimates}
    return {name: value for name, value in values.items() if value is not None}


def _outlier_card(outliers: Values) -> list[Card]:
    """Return the hardest outlier set: the one with the lowest AUROC."""
    estimates = {name: get_part(get_part(outliers, name), "auroc") for name in outliers}
    known = _known_values(estimates)
    if not known:
        return []
    name = min(known, key=lambda n: known[n])
    note = f"AUROC against {name}"
    if len(known) > 1:
        note += ", the hardest set"
    return [Card.of("Outlier detection", text.estimate(estimates[name]), note)]


def _restoration_card(tasks: Values) -> list[Card]:
    """Return the PSNR of the first restoration task beside its best rival."""
    for task in TASKS:
        measured = get_part(get_part(tasks, task), "psnr")
        known = _known_values(measured)
        if "lowland mean" in known:
            rivals = {name: value for name, value in known.items() if "lowland" not in name}
            rival = max(rivals, key=lambda name: rivals[name], default=None)
            note = "peak signal-to-noise ratio"
            if rival:
                note = f"{rival}: {text.show(rivals[rival])} dB"
            value = text.estimate(measured["lowland mean"], unit="dB")
            return [Card.of(title_of(task), value, note)]
    return []


def train_command(name: str, recipe: Values) -> str:
    """Return the command that trains this recipe again; evaluation and report follow by
    themselves.
    """
    root = get_part(recipe, "data").get("root")
    command = ["lowland", "train", name]
    if root:
        command += ["--data-root", str(root)]
    return shlex.join(command)
