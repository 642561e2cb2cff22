"""Commands detect, detect fit and bench."""

import sys
from pathlib import Path
from typing import Literal

from lowland.devices import AUTO


def detect(
    run: str | Path,
    paths: list[Path],
    /,
    *,
    alpha: float = 0.05,
    guarantee: Literal["marginal", "training-conditional", "fdr"] = "marginal",
    delta: float = 0.05,
    detector: str | Path | None = None,
    format: Literal["csv", "jsonl"] = "csv",
    out: str | Path | None = None,
    resize: bool = False,
    skip_bad: bool = False,
    force: bool = False,
    device: str = AUTO,
    quiet: bool = False,
) -> int:
    """Tell outliers from inliers: `detect RUN PATH...`, after `detect fit RUN --calibration
    PATH...`.

    Prints path, outlier score, p-value and verdict of images, folders of images, .npy, .npz or .csv
    files, and returns the number of outliers. Ends with status 0 if none is an outlier, 1 if some
    are, 2 for mistakes. Without a detector fitted before, the energy is compared with the
    calibration part that the run was trained with.

    Args:
        run: Run directory or name of a shipped run.
        paths: Files or folders.
        alpha: Rate of false alarms that is promised.
        guarantee: On average over calibration sets; for all but a share delta of them; or the share
            of false ones among the alarms.
        delta: With training-conditional: the share of calibration sets for which the promise may
            fail.
        detector: Detector to use; RUN/detector.safetensors unless given.
        format: Form of the table.
        out: File to write; standard output unless given.
        resize: Resize pictures of another size than the run's, which are refused otherwise.
        skip_bad: Leave out files that cannot be read, and list them; at most half of all.
        force: Replace a file that exists.
        device: Where to compute: auto (a GPU if there is one, else the CPU), cpu, cuda, cuda:1,
            mps, xpu.
        quiet: No progress bar.
    """
    from functools import partial

    from tqdm.auto import tqdm

    from lowland.trained import load
    from lowland.trained.scoring import SCORE_COLUMNS, detect_points, load_detector
    from lowland.trained.tables import write_rows
    from lowland.trained.targets import check_new, make_folder
    from lowland.training import cpu_threads

    model = load(run, device=device)
    if out is not None:
        check_new([out], [*paths, model.run.path], force=force)
    hidden = quiet or (out is None and sys.stdout.isatty())
    with cpu_threads(model.threads):
        rows = detect_points(
            model,
            load_detector(model, detector),
            paths,
            alpha=alpha,
            guarantee=guarantee,
            delta=delta,
            resize=resize,
            skip_bad=skip_bad,
            progress=partial(tqdm, desc=f"detect on {model.device}", unit="piece", disable=hidden),
        )
        if out is not None:
            make_folder(Path(out))
        return write_rows(rows, out, format, SCORE_COLUMNS)


def detect_fit(
    run: str | Path,
    /,
    *,
    calibration: list[Path],
    outlier_score: str = "energy",
    alpha: float = 0.05,
    delta: float = 0.05,
    out: str | Path | None = None,
    resize: bool = False,
    skip_bad: bool = False,
    force: bool = False,
    device: str = AUTO,
    quiet: bool = False,
) -> Path:
    """Fit a detector of a run to inliers in files and folders; write RUN/detector.safetensors.

    Raises ValueError if the points cannot promise the rate alpha, for unreadable points, an unknown
    score, and for a shipped run without --out.

    Args:
        run: Run directory or name of a shipped run.
        calibration: Files or folders of inliers that the run was not trained on; repeat for more.
            A score that learns takes every other one for that.
        outlier_score: energy, typicality, gradient-norm, multiscale, msp, mahalanobis, knn, ... (a
            wrong one lists all).
        alpha: Rate of false alarms that the points must be able to promise.
        delta: Share of calibration sets for which a training-conditional promise may fail.
        out: File to write; RUN/detector.safetensors unless given.
        resize: Resize pictures of another size than the run's, which are refused otherwise.
        skip_bad: Leave out files that cannot be read, and list them; at most half of all.
        force: Replace a file that exists; the run's own detector is replaced without it.
        device: Where to compute: auto (a GPU if there is one, else the CPU), cpu, cuda, cuda:1,
            mps, xpu.
        quiet: Say nothing of what the points can promise.
    """
    from lowland.data.images import load_batch
    from lowland.pretrained import pretrained_folder
    from lowland.run import RunError
    from lowland.tasks import Detector
    from lowland.tasks.detection.registry import get_outlier_score
    from lowland.trained import load
    from lowland.trained.detector import check_unseen, describe_promises, energy_for
    from lowland.trained.scoring import DETECTOR_FILE
    from lowland.trained.targets import check_new, make_folder
    from lowland.training import cpu_threads

    if not calibration:
        raise ValueError(
            "no calibration points came; fit takes inliers that the run was not trained on; write "
            "lowland detect fit RUN --calibration PATH"
        )
    model = load(run, device=device)
    if out is None and model.run.path.parent == pretrained_folder():
        raise RunError(
            f"{model.run.path.name} is shipped with lowland and is not written to; a detector of "
            "it needs a place of its own; give --out FILE, and --detector FILE to use it"
        )
    own = model.run.path / DETECTOR_FILE
    target = own if out is None else Path(out)
    check_new([target], [*calibration, model.run.path], force=force, own=own)
    score = get_outlier_score(outlier_score)
    with cpu_threads(model.threads):
        points = load_batch(
            list(calibration),
            model.shape,
            resize=resize,
            skip_bad=skip_bad,
            format=model.format,
        )[1]
        x = model.transform(points)
        check_unseen(model, x, points)
        fitted = Detector(energy_for(model, score), score).fit(x)
        fitted.ranks(alpha)
    if not quiet:
        print(describe_promises(fitted, delta), file=sys.stderr)
    return fitted.save(make_folder(target))


def bench(
    board: Literal["ood"],
    runs: list[str],
    /,
    *,
    count: int = 1000,
    outlier_scores: list[str] = [],  # noqa: B006
    draws: int = 1000,
    seed: int = 0,
    out: str | Path | None = None,
    force: bool = False,
    device: str = AUTO,
    quiet: bool = False,
) -> str:
    """Compare every outlier score of runs on sets near and far, with intervals: `bench ood RUN...`.

    Returns the tables in Markdown.

    Args:
        board: Which comparison.
        runs: Run directories, or names of shipped runs.
        count: Test points, and points of each set.
        outlier_scores: Outlier scores; all that the run can give unless named; repeat for more.
        draws: Of the bootstrap.
        seed: Of sets and bootstrap.
        out: JSON file with all rank metrics of every cell.
        force: Replace a file that exists.
        device: Where to compute: auto (a GPU if there is one, else the CPU), cpu, cuda, cuda:1,
            mps, xpu.
        quiet: No progress bar.
    """
    from tqdm.auto import tqdm

    from lowland.evaluation.ood import compare_scores
    from lowland.trained import load
    from lowland.trained.targets import check_new, write_json
    from lowland.training import cpu_threads

    if count < 20:
        raise ValueError(f"count is {count}; at least 20 points say anything; 1000 is common")
    if out is not None:
        check_new([out], runs, force=force)
    boards, lines = {}, []
    for run in runs:
        model = load(run, device=device)
        what = f"{run} on {model.device}"
        with cpu_threads(model.threads), tqdm(desc=what, disable=quiet) as bar:
            found = compare_scores(
                model,
                count=count,
                names=outlier_scores or None,
                draws=draws,
                seed=seed,
                progress=lambda _: bar.update(),
            )
        boards[run] = found
        lines += [f"\n{run}: AUROC in %, 95 % bootstrap interval, {found['count']} test points\n"]
        lines += [*found["table"], "", *found["losses"], *found["notes"]]
    if out is not None:
        write_json(Path(out), boards)
        lines.append(str(out))
    return "\n".join(lines)
