"""The training loop: update, log, diagnose, checkpoint; roll back when health says so."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from tqdm.auto import tqdm

from lowland.data import Dataset, load_data
from lowland.energy import Energy
from lowland.run import Run
from lowland.training.health import Finding, diagnose, worst
from lowland.training.session import Session, cpu_threads


class TrainingStoppedError(RuntimeError):
    """Health stopped the run. The last good checkpoint stands; the message says what was seen and what to do."""


def load_recipe_data(recipe: Mapping[str, Any]) -> Dataset:
    """The data set that a recipe names."""
    options = {key: value for key, value in recipe["data"].items() if key != "name" and value is not None}
    return load_data(recipe["data"]["name"], **{"seed": recipe["seed"], **options})


def fit(
    recipe: Mapping[str, Any] | Any,
    run: Run | str | Path,
    *,
    data: Dataset | None = None,
    energy: Energy | None = None,
    progress: bool = True,
) -> Energy:
    """Train a recipe in a run directory, or go on where the run stopped; returns the energy with averaged weights.

    recipe: a `Recipe` or its plain values; run: a Run or a path, made if it is not there; data, energy: used in place of
    what the recipe names (pass them again when resuming). A run that was killed and resumed equals one that was not, bit
    for bit: weights, averages, chains and log.

    Raises ValueError for data or settings that cannot be trained on, RunError if the directory refuses, TrainingStoppedError
    if health stops the run.

    >>> import lowland, tempfile
    >>> recipe = lowland.read_recipe("moons", {"training.steps": 20, "training.checkpoint_every": 20})
    >>> energy = lowland.fit(recipe, tempfile.mkdtemp() + "/run", progress=False)
    >>> energy.domain.shape
    (2,)
    """
    values = recipe.plain() if hasattr(recipe, "plain") else dict(recipe)
    session = Session(values, data or load_recipe_data(values), energy)
    with cpu_threads(session.settings.threads):
        if not isinstance(run, Run):
            run = Run.open(run) if (Path(run) / "recipe.json").exists() else Run.create(run, values)
        with run.locked():
            _train(session, run, progress)
    return cast(Energy, session.ema.module)


def _train(session: Session, run: Run, progress: bool) -> None:
    """Begin or go on, and update until all steps are done."""
    run.check_versions()
    run.write_json("data.json", _about(session.data))
    rows = _begin(session, run)
    spent = [row["seconds"] for row in run.rows("time.jsonl") if row["step"] == session.step]
    began = time.monotonic() - (spent[-1] if spent else 0.0)
    with _bar(session.settings.steps, session.step, progress) as bar:
        while session.step < session.settings.steps:
            before = session.step
            _update(session, run, rows, bar, began)
            bar.update(session.step - before)


def _about(data: Dataset) -> dict[str, Any]:
    """What scoring and sampling need to know of the data when the data are not at hand."""
    sizes = {part: len(getattr(data, part)) for part in ("train", "calibration", "test")}
    kept = {
        name: getattr(data, name)
        for name in (
            "name",
            "classes",
            "class_names",
            "levels",
            "note",
            "mean",
            "scale",
            "columns",
            "binarisation",
            "binarised",
        )
    }
    return {**kept, "sizes": sizes}


def _bar(total: int, done: int, shown: bool) -> Any:
    calm = 0.2 if sys.stderr.isatty() else 20.0  # a log file wants a line now and then, not thousands
    return tqdm(total=total, initial=done, unit="step", disable=not shown, mininterval=calm, maxinterval=2 * calm)


def _begin(session: Session, run: Run) -> list[dict[str, Any]]:
    """Restore the newest checkpoint, or write the first; returns the log rows that lead up to it."""
    if run.steps():
        checkpoint = run.load_checkpoint()
        session.restore(checkpoint)
        run.keep_checkpoints({step for step in run.steps() if step <= session.step})
        run.cut_log(checkpoint.state["log_size"])
    else:
        run.cut_log(0)
        run.save_checkpoint(session.checkpoint(0))
    return lineage(run.rows())


def lineage(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that lead to the present state: events dropped, and what was rolled back dropped too."""
    kept: list[dict[str, Any]] = []
    for row in rows:
        if row.get("event") == "rollback":
            kept = [earlier for earlier in kept if earlier["step"] <= row["to"]]
        elif "event" not in row:
            kept.append(row)
    return kept


def _update(session: Session, run: Run, rows: list[dict[str, Any]], bar: Any, began: float) -> None:
    settings = session.settings
    sound = session.advance()
    if sound and session.step % settings.log_every and session.step < settings.steps:
        return
    row = session.row()
    findings = diagnose([*rows, row])
    session.health = row["health"] = worst(findings)
    _log(run, rows, row, findings, settings.on_failure, time.monotonic() - began)
    gap = f"gap {row['gap']:+.3g}, " if "gap" in row else ""
    bar.set_postfix_str(f"{gap}health {row['health']}", refresh=False)
    if session.health == "bad" and settings.on_failure in ("roll-back", "stop"):
        _intervene(session, run, rows, findings)
    elif session.step % settings.checkpoint_every == 0 or session.step == settings.steps:
        run.save_checkpoint(session.checkpoint(run.log_size()))
        run.keep_checkpoints({*run.steps()[-settings.keep :], session.good_step})


def _log(
    run: Run, rows: list[dict[str, Any]], row: dict[str, Any], findings: list[Finding], policy: str, seconds: float
) -> None:
    """Write the row, and an event for every finding that is new or has changed its level."""
    known = {(f.name, f.level) for f in diagnose(rows)}
    rows.append(row)
    run.log(row)
    run.log({"step": row["step"], "seconds": round(seconds, 3)}, "time.jsonl")
    for finding in findings:
        if (finding.name, finding.level) not in known:
            run.log({"step": row["step"], "event": "verdict", **finding._asdict()})
            if policy != "continue":
                tqdm.write(f"step {row['step']}: {finding.level}: {finding.sentence} {finding.remedy}", file=sys.stderr)


def _intervene(session: Session, run: Run, rows: list[dict[str, Any]], findings: list[Finding]) -> None:
    """Roll back to the newest checkpoint in good health with half the learning rate, or stop."""
    cause = next(f for f in findings if f.level == "bad")
    step, settings, rollbacks, factor = session.step, session.settings, session.rollbacks, session.rate_factor
    if settings.on_failure == "stop" or rollbacks >= settings.rollbacks:
        run.log({"step": step, "event": "stop", **cause._asdict()})
        raise TrainingStoppedError(
            f"training stopped at step {step}: {cause.sentence} {cause.remedy} The newest checkpoint is step "
            f"{run.steps()[-1]} in {run.path}."
        )
    checkpoint = run.load_checkpoint(session.good_step)
    session.restore(checkpoint)
    session.rate_factor, session.rollbacks = factor / 2, rollbacks + 1
    run.keep_checkpoints({kept for kept in run.steps() if kept <= checkpoint.step})
    run.log({"step": step, "event": "rollback", "to": checkpoint.step, **cause._asdict()})
    rows[:] = [row for row in rows if row["step"] <= checkpoint.step]
    tqdm.write(f"step {step}: rolled back to step {checkpoint.step} with a lower rate. {cause.sentence}", file=sys.stderr)
