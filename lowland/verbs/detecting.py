"""detect: a detector fitted to a run and kept beside it, files told apart by it, and the board of a
run.
"""

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from lowland.data.images import load_batch
from lowland.evaluation.ood import board, losses, other_data, outlier_sets, rows_of, table
from lowland.metrics import benjamini_hochberg, calibration_size
from lowland.run import RunError, shipped_folder
from lowland.tasks import Detector
from lowland.tasks.detection.registry import get_outlier_score
from lowland.trained import Model, load
from lowland.trained.detector import energy_for
from lowland.trained.jobs import Points
from lowland.training import cpu_threads
from lowland.verbs.scoring import format_rows

FILE = "detector.safetensors"
COLUMNS = ("path", "score", "p_value", "verdict")
SCORED = 256  # points read and scored together


def fit_detector(
    run: str | Path,
    calibration: Sequence[str | Path],
    *,
    score: str = "energy",
    alpha: float = 0.05,
    out: str | Path | None = None,
) -> tuple[Path, Detector]:
    """Fit a detector of a run to points in files and folders, and write it to
    RUN/detector.safetensors, or `out`.

    The points must be inliers that the run was not trained on; a score that learns takes every
    other one for that. alpha: a rate that they must be able to promise. Raises ValueError if they
    cannot, for unreadable points, an unknown score, and for a shipped run without `out`.
    """
    s = load(run)
    if out is None and s.run.path.parent == shipped_folder():
        raise RunError(
            f"{s.run.path.name} is shipped with lowland and is not written to; a detector of it "
            "needs a place of its own; give --out FILE, and --detector FILE to use it"
        )
    how = get_outlier_score(score)
    with cpu_threads(s.recipe["training"]["threads"]):
        x = s.transform(load_batch(list(calibration), s.shape)[1])
        detector = Detector(energy_for(s, how), how).fit(x)
        detector.ranks(alpha)
        return detector.save(s.run.path / FILE if out is None else Path(out)), detector


def detect(
    run: str | Path,
    paths: Sequence[str | Path],
    *,
    alpha: float = 0.05,
    guarantee: str = "marginal",
    delta: float = 0.05,
    detector: str | Path | None = None,
    progress: bool = False,
) -> Iterator[dict[str, Any]]:
    """Rows {path, score, p_value, verdict} of every image or row in files and folders, a piece at a
    time in memory.

    detector: a file that `fit_detector` wrote; RUN/detector.safetensors unless given, and where
    there is none, the energy against the calibration part that the run was trained with. guarantee:
    as in `Detector.predict`; "fdr" judges all rows together and so yields none before all are
    scored. What is refused is refused before the first row.
    """
    s = load(run)
    fitted = _detector(s, detector)
    ranks = fitted.ranks(alpha, guarantee, delta)
    points = Points.of(list(paths), s.shape, SCORED)
    scored = _scored(s, fitted, points, progress)
    if guarantee == "fdr":
        whole = list(scored)
        called = benjamini_hochberg(
            torch.tensor([p for _, _, p in whole], dtype=torch.float64), alpha
        ).tolist()
        return (_row(*row, verdict) for row, verdict in zip(whole, called, strict=True))
    limit = (ranks + 0.5) / (fitted.calibration_size + 1)
    return (_row(*row, row[2] < limit) for row in scored)


def _row(name: str, score: float, p: float, outlier: bool) -> dict[str, Any]:
    return {
        "path": name,
        "score": score,
        "p_value": p,
        "verdict": "outlier" if outlier else "inlier",
    }


def _scored(
    s: Model, detector: Detector, points: Points, progress: bool
) -> Iterator[tuple[str, float, float]]:
    """Name, score and p-value of every point; one warning for all pieces that look unlike the
    calibration points.
    """
    odd: list[str] = []
    with cpu_threads(s.recipe["training"]["threads"]):
        for number in tqdm(
            range(len(points.pieces)), desc="detect", unit="piece", disable=not progress
        ):
            names, x = points.load(number)
            x = s.transform(x)
            odd += [
                f"from {names[0]} on, {what}"
                for what in (detector.summary.differences(x) if detector.summary else [])
            ]
            scores = detector.outlier_scores(x)
            yield from zip(
                names, scores.tolist(), detector.p_value_of_scores(scores).tolist(), strict=True
            )
    if odd:
        warnings.warn(
            "the points look unlike the calibration points: "
            f"{'; '.join(odd[:3])}{'; ...' if odd[3:] else ''}. The promise holds for inliers of "
            "the same kind and preparation only",
            stacklevel=2,
        )


def _detector(s: Model, path: str | Path | None) -> Detector:
    own = s.run.path / FILE
    if path is None and not own.exists():
        kept = s.run.path / "calibration.safetensors"
        known: Tensor | None = s.run.read_tensors(kept.name)["energies"] if kept.exists() else None
        return (
            Detector(s.marginal, calibration=known)
            if known is not None
            else Detector(s.marginal).fit(s.data.calibration.x)
        )
    target = own if path is None else Path(path)
    how = Detector.settings(target)
    return Detector.load(target, energy_for(s, how))


def write_rows(
    rows: Iterator[dict[str, Any]], out: str | Path | None = None, form: str = "csv"
) -> int:
    """Write rows as they come, as "csv" or "jsonl", to standard output or into a file, which is
    then whole or absent. Returns how many of them are outliers."""
    target = None if out is None else Path(out)
    aside = None if target is None else target.with_name(f".{target.name}.tmp")
    called = 0
    try:
        with (
            nullcontext(sys.stdout) if aside is None else aside.open("w", encoding="utf-8") as file
        ):
            if form == "csv":
                file.write(format_rows([], form, columns=COLUMNS))
            for row in rows:
                file.write(format_rows([row], form, header=False))
                called += row["verdict"] == "outlier"
        if target is not None and aside is not None:
            aside.replace(target)
    except OSError as error:
        raise ValueError(
            f"{target} could not be written ({error.strerror}); a folder that exists, and room in "
            "it, are needed; name another"
        ) from None
    finally:
        if aside is not None:
            aside.unlink(missing_ok=True)
    return called


def promises(detector: Detector, delta: float = 0.05) -> str:
    """One line: how many points, and the least rates that they can promise."""
    n = detector.calibration_size
    rates = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
    sure = next((a for a in rates if calibration_size(a, "training-conditional", delta) <= n), 1)
    words = (
        f"from {sure:g} for {1 - delta:.0%} of them"
        if sure < 1
        else f"none for {1 - delta:.0%} of them"
    )
    return (
        f"{n} calibration points: promises from {1 / (n + 1):.3g} on average over calibration "
        f"sets, {words}"
    )


def bench_ood(
    runs: Sequence[str | Path],
    *,
    count: int = 1000,
    scores: Sequence[str] = (),
    draws: int = 1000,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, Any]:
    """The board of runs: every score that a run can give, or `scores`, against sets that are not
    its data.

    count: test points, and points of each set. Returns {run: {"found": figures, "table": Markdown
    lines, "notes": [...]}}.
    """
    boards: dict[str, Any] = {}
    for path in runs:
        s = load(path)
        g = torch.Generator().manual_seed(seed)
        with cpu_threads(s.recipe["training"]["threads"]):
            others, notes = other_data(s.data.name, s.shape, count)
            test = s.data.test.x[:count]
            sets = outlier_sets(test, g, others)
            rows = rows_of(s, scores or None)
            bar = tqdm(total=len(rows) * len(sets), desc=str(path), disable=not progress)
            found = board(rows, test, sets, g, draws=draws, progress=_each(bar))
            bar.close()
        boards[str(path)] = {
            "found": found,
            "count": len(test),
            "notes": notes,
            "table": table(found),
            "losses": losses(found),
        }
    return boards


def _each(bar: Any) -> Callable[[str], object]:
    return lambda _: bar.update()
