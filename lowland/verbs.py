"""The verbs in Python: what the command line does, over the same functions.

train · resume · sample · energy · restore · evaluate · report

Under torchrun, several processes share the work of train, resume, sample and energy; the first of them writes and speaks.
"""

import csv
import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor
from tqdm.auto import tqdm

from lowland.config import Recipe, read_recipe
from lowland.data import load_image, save_grid
from lowland.energy import energy_values
from lowland.evaluation import Subject, draw, evaluate_run, measure_likelihood, prior_bank, restoration_settings, subject
from lowland.evaluation.pieces import PATIENCE, Job, Points, fingerprint, piece_generator, write_npy, write_npz
from lowland.metrics import p_values
from lowland.registry import build
from lowland.run import Run
from lowland.tasks import Detector, Identity, Mask, Restoration
from lowland.tasks import restore as restore_task
from lowland.training import cpu_threads, fit
from lowland.training.distributed import launched, team

PIECE = 256  # samples drawn together
SCORED = 1024  # points scored together
HIDDEN = ("lower", "upper", "left", "right", "centre")


def train(recipe: Recipe, run: str | Path, *, progress: bool = True) -> Path:
    """Train a recipe in a new run directory, evaluate it, write its report; returns the path of report.html."""
    if (Path(run) / "recipe.json").exists() and launched().chief:
        Run.create(run, {})  # refuses, in words
    return _finish(recipe.plain(), run, progress)


def resume(run: str | Path, *, progress: bool = True) -> Path:
    """Go on with a run from its last whole checkpoint, then evaluate and report; returns the path of report.html."""
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
    """Measure samples, detection and restoration on the test part; writes evaluation.json and returns its figures."""
    found = Run.open(run)
    with found.locked(), cpu_threads(found.recipe["training"]["threads"]):
        return evaluate_run(found, say=_say if progress else lambda _: None)


def likelihood(run: str | Path, *, chains: int = 200, rungs: int = 1000, progress: bool = True) -> dict[str, Any]:
    """Bracket log Z and the likelihood of the test part; writes likelihood.json and returns its figures."""
    found = Run.open(run)
    quiet = not progress
    with (
        found.locked(),
        cpu_threads(found.recipe["training"]["threads"]),
        tqdm(total=4 * rungs, unit="step", disable=quiet) as bar,  # both directions, and the chains between them
    ):
        return measure_likelihood(
            found, chains=chains, rungs=rungs, say=(lambda _: None) if quiet else _say, progress=bar.update
        )


def _say(text: str) -> None:
    tqdm.write(f"evaluate: {text}", file=sys.stderr)


def report(run: str | Path) -> Path:
    """Write RUN/report.html from what the run directory holds."""
    from lowland.report import write_report

    return write_report(Run.open(run).path)


def sample(
    run: str | Path,
    count: int,
    out: str | Path,
    *,
    label: int | None = None,
    seed: int = 0,
    changes: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Path:
    """Draw samples from a run into a file: .npy or .npz (numbers, with labels) or .png (a grid), by suffix.

    changes: values of the recipe's [generation] for this time, e.g. {"generation.levels": 30}; the run is left as it is.
    They are drawn in pieces of 256, each from a generator of its own, a function of seed and piece: the same seed gives the
    same file on any number of processes. Started again after a break, it draws only what is missing.
    """
    out = Path(out)
    if out.suffix not in (".npy", ".npz", ".png"):
        raise ValueError(f"{out.name} ends in {out.suffix!r}; samples are written as .npy, .npz or .png; choose one")
    if count < 1:
        raise ValueError(f"count is {count}; at least one sample must be asked for; 64 makes a good grid")
    s = _made_otherwise(subject(Run.open(run)), changes or {})
    if out.suffix == ".png" and len(s.shape) != 3:
        raise ValueError(f"{s.recipe['name']} makes vectors, not images; a .png needs images; write .npy or .npz")
    if label is not None and not 0 <= label < s.classes:
        raise ValueError(
            f"label {label} was asked for; the energy has {s.classes} classes, from 0; "
            + (f"choose 0 to {s.classes - 1}" if s.classes else "leave the label out")
        )
    with team(patience=PATIENCE) as members, cpu_threads(s.recipe["training"]["threads"]):
        plan = {"count": count, "seed": seed, "label": label, "how": s.recipe["generation"], "weights": fingerprint(s.energy)}
        job = Job(out, plan, -(-count // PIECE), members)
        _draw_pieces(s, job, count, label, seed, progress and members.chief)
        return job.finish(lambda path: _write_samples(path, out.suffix, count, job))


def _made_otherwise(s: Subject, changes: Mapping[str, Any]) -> Subject:
    """The subject with other values in its recipe's [generation]."""
    others = [key for key in changes if not key.startswith("generation.")]
    if others:
        raise ValueError(
            f"sample was told to change {', '.join(others)}; a trained run stays as it was trained, and only generation.* "
            f"can be changed; leave out the rest"
        )
    return replace(s, recipe=read_recipe(s.recipe, changes).plain()) if changes else s


def _draw_pieces(s: Subject, job: Job, count: int, label: int | None, seed: int, progress: bool) -> None:
    """Draw this process's share of the pieces of `sample` that are missing."""
    missing, how = job.missing(), s.recipe["generation"]
    pieces = [torch.arange(number * PIECE, min(count, (number + 1) * PIECE)) for number in missing]
    flown = how.get("method") == "flow"
    total, unit = (sum(map(len, pieces)), "image") if flown else (len(missing) * how["steps"], "step")
    with tqdm(total=total, unit=unit, disable=not progress) as bar:
        for number, rows in zip(missing, pieces, strict=True):
            labels = torch.full_like(rows, label) if label is not None else rows % s.classes if s.classes else None
            made = draw(s, len(rows), piece_generator(seed, number), labels=labels, progress=bar.update)
            kept = {} if made.labels is None else {"labels": made.labels.contiguous()}
            job.keep(number, dump_tensors({"x": s.original(made.x).contiguous(), **kept}))


def _write_samples(path: Path, suffix: str, count: int, job: Job) -> None:
    """The pieces of `sample` as one file, of which one piece at a time is held, but for pictures."""

    def parts(name: str) -> Iterator[Tensor]:
        return (load_tensors(data)[name] for data in job)

    labelled = "labels" in load_tensors(next(iter(job)))
    if suffix == ".png":
        save_grid(torch.cat(list(parts("x"))), path)
    elif suffix == ".npy":
        with path.open("wb") as file:
            write_npy(file, count, parts("x"))
    else:
        write_npz(path, count, {name: partial(parts, name) for name in ("x", "labels")[: 1 + labelled]})


def energies(run: str | Path, paths: Sequence[str | Path], *, nominal: float | None = None) -> list[dict[str, Any]]:
    """Energy, p-value against the calibration split and verdict of every image or row in files and folders."""
    scorer = _Scorer(run, paths, nominal)
    return [row for number in range(len(scorer.points.pieces)) for row in scorer.rows(number)]


def score(
    run: str | Path, paths: Sequence[str | Path], out: str | Path, *, form: str = "csv", nominal: float | None = None
) -> Path:
    """`energies` into a file, "csv" or "jsonl": over all processes, a piece at a time in memory, resumed after a break."""
    scorer, out = _Scorer(run, paths, nominal), Path(out)
    with team(patience=PATIENCE) as members, cpu_threads(scorer.s.recipe["training"]["threads"]):
        marks = {"points": scorer.points.marks(), "weights": fingerprint(scorer.s.energy)}
        plan = {"form": form, "nominal": scorer.level, **marks}
        job = Job(out, plan, len(scorer.points.pieces), members)
        for number in job.missing():
            job.keep(number, format_rows(scorer.rows(number), form, header=number == 0).encode())
        return job.finish(lambda path: _joined(path, job))


def _joined(path: Path, job: Job) -> None:
    with path.open("wb") as file:
        file.writelines(job)


class _Scorer:
    """A run that scores points in files, piece by piece."""

    def __init__(self, run: str | Path, paths: Sequence[str | Path], nominal: float | None) -> None:
        self.s = subject(Run.open(run))
        self.level = nominal if nominal is not None else self.s.recipe["evaluation"]["nominal"]
        self.detector = Detector(self.s.marginal, _calibration(self.s), self.level)
        self.points = Points.of(list(paths), self.s.shape, SCORED)

    def rows(self, number: int) -> list[dict[str, Any]]:
        """Energy, p-value and verdict of the points of a piece."""
        names, x = self.points.load(number)
        values = self.detector.energies(self.s.standardised(x))
        p = p_values(self.detector.calibration, values)
        return [
            {"path": name, "energy": float(e), "p_value": float(q), "verdict": "outlier" if q <= self.level else "inlier"}
            for name, e, q in zip(names, values, p, strict=True)
        ]


def _calibration(s: Subject) -> Tensor:
    """The energies of the calibration part, as evaluate left them, or computed now."""
    if (s.run.path / "calibration.safetensors").exists():
        return s.run.read_tensors("calibration.safetensors")["energies"]
    return energy_values(s.marginal, s.data.calibration.x)


def format_rows(rows: Sequence[dict[str, Any]], form: str, *, header: bool = True) -> str:
    """Rows as "csv", with a header if wanted, or "jsonl"."""
    if form == "jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else ["path", "energy", "p_value", "verdict"])
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def restore(
    run: str | Path,
    image: str | Path,
    *,
    task: str,
    mask: str = "lower",
    sigma: float | None = None,
    draws: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    progress: bool = True,
) -> Path:
    """Denoise or inpaint an image with a run as prior; writes a .png strip: observed, mean, spread, three draws.

    mask: what to fill in, one of lower, upper, left, right, centre, or a picture whose white pixels are to be filled;
    sigma: noise of the image, in units of the data; the numbers go beside the picture as .npz.
    """
    s = subject(Run.open(run))
    how = s.recipe.get("restoration")
    if how is None or len(s.shape) != 3:
        raise ValueError(f"{s.recipe['name']} says nothing about restoration; its recipe needs a [restoration] part; add it")
    seen = load_image(image, s.shape)
    known = torch.ones(s.shape, dtype=torch.bool)
    if task == "inpaint":
        known = ~_hidden(mask, s)
        seen = seen * known
    elif task != "denoise":
        raise ValueError(f"the task is {task!r}; lowland restores by 'denoise' or 'inpaint'; choose one")
    generator = torch.Generator().manual_seed(seed)
    settings = restoration_settings(how) | ({} if draws is None else {"draws": draws}) | {"bank": prior_bank(s)}
    with tqdm(total=how["steps"], unit="step", disable=not progress) as bar:
        answer = restore_task(
            s.marginal,
            Mask(known) if task == "inpaint" else Identity(),
            seen,
            sigma if sigma is not None else how["sigma"],
            build("sampler", how["sampler"]),
            generator=generator,
            progress=bar.update,
            **settings,
        )
    target = Path(out) if out else Path(image).with_name(f"{Path(image).stem}-{task}.png")
    return _write_restoration(target, seen, answer)


def _hidden(mask: str, s: Subject) -> Tensor:
    """True where to fill in."""
    shape = s.shape
    if mask in HIDDEN:
        hidden = torch.zeros(shape, dtype=torch.bool)
        _, h, w = shape
        rows = {"lower": slice(h // 2, h), "upper": slice(0, h // 2), "centre": slice(h // 4, h - h // 4)}
        columns = {"left": slice(0, w // 2), "right": slice(w // 2, w), "centre": slice(w // 4, w - w // 4)}
        hidden[:, rows.get(mask, slice(None)), columns.get(mask, slice(None))] = True
        return hidden
    if not Path(mask).is_file():
        raise ValueError(f"the mask is {mask!r}; it must be {', '.join(HIDDEN)} or a picture; white pixels are filled in")
    hidden = load_image(mask, (1, *shape[1:]))[0] > 0.5
    if bool(hidden.all()) or not bool(hidden.any()):
        raise ValueError(f"{mask} hides all or nothing; a mask needs white and black pixels; white is filled in")
    return hidden.expand(shape)


def _write_restoration(target: Path, seen: Tensor, answer: Restoration) -> Path:
    import numpy as np

    target.parent.mkdir(parents=True, exist_ok=True)
    rows = [seen, answer.mean, answer.spread / answer.spread.amax().clamp_min(1e-12), *answer.draws[:3]]
    save_grid(torch.stack(rows, 1).flatten(0, 1), target.with_suffix(".png"), columns=len(rows))
    arrays = {"observed": seen, "mean": answer.mean, "spread": answer.spread, "draws": answer.draws}
    np.savez(target.with_suffix(".npz"), **{name: x.numpy() for name, x in arrays.items()})  # type: ignore[arg-type]
    return target.with_suffix(".png")
