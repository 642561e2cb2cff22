"""train · resume · evaluate · report: a recipe becomes a run, and a run is looked at."""

import sys
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from lowland.config import Recipe
from lowland.evaluation import evaluate_model, measure_likelihood
from lowland.run import Run
from lowland.trained import load
from lowland.training import cpu_threads, fit
from lowland.training.distributed import launched


def train(recipe: Recipe, run: str | Path, *, progress: bool = True) -> Path:
    """Train a recipe in a new run directory, evaluate it, write its report; returns the path of
    report.html.
    """
    if (Path(run) / "recipe.json").exists() and launched().chief:
        Run.create(run, {})  # refuses, in words
    return _finish(recipe.plain(), run, progress)


def resume(run: str | Path, *, progress: bool = True) -> Path:
    """Go on with a run from its last whole checkpoint, then evaluate and report; returns the path
    of report.html.
    """
    found = Run.open(run)
    return _finish(found.recipe, found.path, progress)


def _finish(recipe: dict[str, Any], run: str | Path, progress: bool) -> Path:
    from lowland.training import TrainingStoppedError

    try:
        fit(recipe, run, progress=progress)
    except TrainingStoppedError:
        if launched().chief:
            report(run)  # what went wrong is in there
        raise
    if launched().chief:
        evaluate(run, progress=progress)
        report(run)
    return Path(run) / "report.html"


def evaluate(run: str | Path, *, progress: bool = True) -> dict[str, Any]:
    """Measure samples, detection and restoration on the test part; writes evaluation.json and
    returns its figures.
    """
    found = Run.open(run)
    with found.locked(), cpu_threads(found.recipe["training"]["threads"]):
        return evaluate_model(load(run), say=_say if progress else lambda _: None)


def likelihood(
    run: str | Path, *, chains: int = 200, rungs: int = 1000, progress: bool = True
) -> dict[str, Any]:
    """Bracket log Z and the likelihood of the test part; writes likelihood.json and returns its
    figures.
    """
    found = Run.open(run)
    quiet = not progress
    with (
        found.locked(),
        cpu_threads(found.recipe["training"]["threads"]),
        tqdm(
            total=4 * rungs, unit="step", disable=quiet
        ) as bar,  # both directions, and the chains between them
    ):
        return measure_likelihood(
            load(run),
            chains=chains,
            rungs=rungs,
            say=(lambda _: None) if quiet else _say,
            progress=bar.update,
        )


def _say(text: str) -> None:
    tqdm.write(f"evaluate: {text}", file=sys.stderr)


def report(run: str | Path) -> Path:
    """Write RUN/report.html from what the run directory holds."""
    from lowland.report import write_report

    return write_report(Run.open(run).path)
