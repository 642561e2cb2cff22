"""energy: every image or row of files and folders scored by a run, with a verdict."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from lowland.energy import energy_values
from lowland.tasks import Detector
from lowland.trained import Model, load
from lowland.trained.jobs import PATIENCE, Job, Points, fingerprint
from lowland.training import cpu_threads
from lowland.training.distributed import team

SCORED = 1024  # points scored together


def energies(
    run: str | Path, paths: Sequence[str | Path], *, nominal: float | None = None
) -> list[dict[str, Any]]:
    """Energy, p-value against the calibration split and verdict of every image or row in files and
    folders.
    """
    scorer = _Scorer(run, paths, nominal)
    return [row for number in range(len(scorer.points.pieces)) for row in scorer.rows(number)]


def score(
    run: str | Path,
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    form: str = "csv",
    nominal: float | None = None,
) -> Path:
    """`energies` into a file, "csv" or "jsonl": over all processes, a piece at a time in memory,
    resumed after a break.
    """
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
        self.s = load(run)
        self.level = nominal if nominal is not None else self.s.recipe["evaluation"]["alpha"]
        self.detector = Detector(self.s.marginal, calibration=_calibration(self.s))
        self.detector.ranks(self.level)  # refuses a rate that the calibration part cannot promise
        self.points = Points.of(list(paths), self.s.shape, SCORED)

    def rows(self, number: int) -> list[dict[str, Any]]:
        """Energy, p-value and verdict of the points of a piece."""
        names, x = self.points.load(number)
        values = self.detector.outlier_scores(self.s.transform(x))
        p = self.detector.p_value_of_scores(values)
        return [
            {
                "path": name,
                "energy": float(e),
                "p_value": float(q),
                "verdict": "outlier" if q <= self.level else "inlier",
            }
            for name, e, q in zip(names, values, p, strict=True)
        ]


def _calibration(s: Model) -> Tensor:
    """The energies of the calibration part, as evaluate left them, or computed now."""
    if (s.run.path / "calibration.safetensors").exists():
        return s.run.read_tensors("calibration.safetensors")["energies"]
    return energy_values(s.marginal, s.data.calibration.x)


def format_rows(
    rows: Sequence[dict[str, Any]],
    form: str,
    *,
    header: bool = True,
    columns: Sequence[str] = ("path", "energy", "p_value", "verdict"),
) -> str:
    """Rows as "csv", with a header if wanted, or "jsonl"."""
    if form == "jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else columns)
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
