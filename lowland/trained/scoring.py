"""Energies and outlier verdicts of points in files, a piece at a time."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from lowland.data import DataError
from lowland.metrics import benjamini_hochberg
from lowland.tasks import Detector
from lowland.trained.detector import energy_for
from lowland.trained.jobs import PATIENCE, Job, fingerprint
from lowland.trained.placement import compute_energies
from lowland.trained.points import Points
from lowland.trained.tables import Row, format_rows
from lowland.training.distributed import team

if TYPE_CHECKING:
    from lowland.trained.model import Model

ENERGY_COLUMNS = ("path", "energy", "p_value", "verdict")
SCORE_COLUMNS = ("path", "score", "p_value", "verdict")
CALIBRATION_FILE = "calibration.safetensors"
DETECTOR_FILE = "detector.safetensors"
ENERGY_PIECE = 1024  # points whose energies are computed together
SCORE_PIECE = 256  # points read and scored together by a detector
Guarantee = Literal["marginal", "training-conditional", "fdr"]


class EnergyTable:
    """Energy, p-value against the calibration part and verdict of points in files and folders.

    alpha: false-alarm rate of the verdict, the recipe's unless given. Raises ValueError for a rate
    that the calibration part cannot promise, and for unreadable points.
    """

    def __init__(
        self,
        model: Model,
        paths: Sequence[str | Path],
        alpha: float | None,
        *,
        resize: bool = False,
        skip_bad: bool = False,
    ) -> None:
        self.model = model
        self.alpha = model.recipe["evaluation"]["alpha"] if alpha is None else alpha
        self.detector = Detector(model.marginal, calibration=_calibration_energies(model))
        self.detector.ranks(self.alpha)
        self.points = Points.of(
            list(paths), model.format, ENERGY_PIECE, resize=resize, skip_bad=skip_bad
        )

    def rows(self, number: int) -> list[Row]:
        """Compute the rows of the points of a piece."""
        names, x = self.points.load(number)
        values = self.detector.outlier_scores(self.model.transform(x))
        p_values = self.detector.p_value_of_scores(values).tolist()
        return [
            {
                "path": name,
                "energy": e,
                "p_value": p,
                "verdict": _verdict(p <= self.alpha),
            }
            for name, e, p in zip(names, values.tolist(), p_values, strict=True)
        ]

    def all_rows(self) -> list[Row]:
        """Compute the rows of all points."""
        return [row for number in range(len(self.points.pieces)) for row in self.rows(number)]

    def text(self, form: str) -> str:
        """Format the rows of all points, of which no more than a piece is in memory as rows."""
        return "".join(
            format_rows(self.rows(number), form, ENERGY_COLUMNS, header=number == 0)
            for number in range(len(self.points.pieces))
        )

    def write(self, out: Path, form: str) -> Path:
        """Write all rows into a file, over all processes, resumed after a break."""
        with team(patience=PATIENCE) as members:
            points = [self.points.marks(), self.points.resize]
            marks = {"points": points, "weights": fingerprint(self.model.energy)}
            place = self.model.device.type
            plan = {"form": form, "alpha": self.alpha, "device": place, **marks}
            job = Job(out, plan, len(self.points.pieces), members)
            with job.open() as missing:
                for number in missing:
                    text = format_rows(self.rows(number), form, ENERGY_COLUMNS, header=number == 0)
                    job.keep(number, text.encode(errors="surrogateescape"))
                return job.finish(lambda path: _join(path, job))


def _join(path: Path, job: Job) -> None:
    """Write the pieces of a job one behind the other."""
    with path.open("wb") as file:
        for data in job:
            file.write(data)


def _verdict(outlier: bool) -> str:
    return "outlier" if outlier else "inlier"


def _calibration_energies(model: Model) -> Tensor:
    """Return the energies of the calibration part, as evaluate left them for these very weights, or
    computed now; also where the file holds no digest, which would tell whether they changed.
    """
    about = model.run.read_about(CALIBRATION_FILE)
    if about.get("weights") == model.digest and "sha256" in about:
        energies = model.run.read_tensors(CALIBRATION_FILE).get("energies")
        if energies is not None:
            return energies
    try:
        data = model.data
    except DataError as error:
        raise DataError(
            f"the data that {model.run.path} was trained on cannot be read ({error}); p-values "
            "compare with their calibration part, whose energies `lowland evaluate` leaves in the "
            "run; bring the data back, or evaluate the run where they are"
        ) from None
    return compute_energies(model, data.calibration.x)


def load_detector(model: Model, path: str | Path | None = None) -> Detector:
    """Read a fitted detector of a run from a file, RUN/detector.safetensors unless given.

    Where there is none, the energy is compared with the calibration part of training.
    """
    own = model.run.path / DETECTOR_FILE
    if path is None and not own.exists():
        return Detector(model.marginal, calibration=_calibration_energies(model))
    target = path or own
    return Detector.load(target, energy_for(model, Detector.settings(target)))


def detect_points(
    model: Model,
    detector: Detector,
    paths: Sequence[str | Path],
    *,
    alpha: float = 0.05,
    guarantee: Guarantee = "marginal",
    delta: float = 0.05,
    resize: bool = False,
    skip_bad: bool = False,
    progress: Callable[[Sequence[int]], Sequence[int]] = lambda pieces: pieces,
) -> Iterator[Row]:
    """Yield {path, score, p_value, verdict} of every point in files and folders, a piece at a time
    in memory.

    guarantee: as in `Detector.predict`; "fdr" judges all points together and so yields none before
    all are scored. resize, skip_bad: as `load_batch` takes them. progress: wraps the pieces.
    Settings are refused before the first row.
    """
    ranks = detector.ranks(alpha, guarantee, delta)
    points = Points.of(list(paths), model.format, SCORE_PIECE, resize=resize, skip_bad=skip_bad)
    scored = _score_points(model, detector, points, progress)
    if guarantee != "fdr":
        limit = (ranks + 0.5) / (detector.calibration_size + 1)
        return (_row(*point, point[2] < limit) for point in scored)
    whole = list(scored)
    p_values = torch.tensor([p for _, _, p in whole], dtype=torch.float64)
    called = benjamini_hochberg(p_values, alpha).tolist()
    return (_row(*point, outlier) for point, outlier in zip(whole, called, strict=True))


def _row(name: str, score: float, p_value: float, outlier: bool) -> Row:
    return {"path": name, "score": score, "p_value": p_value, "verdict": _verdict(outlier)}


def _score_points(
    model: Model,
    detector: Detector,
    points: Points,
    progress: Callable[[Sequence[int]], Sequence[int]],
) -> Iterator[tuple[str, float, float]]:
    """Yield name, outlier score and p-value of every point; warn once of all pieces that look
    unlike the calibration points.
    """
    odd: list[str] = []
    for number in progress(range(len(points.pieces))):
        names, x = points.load(number)
        x = model.transform(x)
        if detector.summary:
            odd += [f"from {names[0]} on, {found}" for found in detector.summary.differences(x)]
        scores = detector.outlier_scores(x)
        p_values = detector.p_value_of_scores(scores).tolist()
        yield from zip(names, scores.tolist(), p_values, strict=True)
    if odd:
        warnings.warn(
            "the points look unlike the calibration points: "
            f"{'; '.join(odd[:3])}{'; ...' if odd[3:] else ''}. The promise holds for inliers of "
            "the same kind and preparation only",
            stacklevel=2,
        )
