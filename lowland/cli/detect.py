"""Commands that tell outliers apart, and say how well."""

import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional


@dataclass
class Detect:
    """Tell outliers from inliers: `detect RUN PATH...`, after `detect fit RUN --calibration
    PATH...`.

    Prints path, outlier score, p-value and verdict of images, folders of images, .npy, .npz or .csv
    files. Ends with status 0 if none is an outlier, 1 if some are, 2 for mistakes. Without a
    detector fitted before, the energy is compared with the calibration part that the run was
    trained with.
    """

    run: Positional[str]
    """Run directory or name of a shipped run; or the word fit, and the run after it."""
    paths: Positional[list[Path]]
    """Files or folders; after fit: the run."""
    calibration: Annotated[list[Path], tyro.conf.UseAppendAction] = field(default_factory=list)
    """With fit: files or folders of inliers that the run was not trained on; repeat for more."""
    score: str = "energy"
    """With fit: energy, typicality, gradient-norm, multiscale, msp, mahalanobis, knn, ... (a wrong
    one lists all).
    """
    alpha: float = 0.05
    """Rate of false alarms that is promised."""
    guarantee: Literal["marginal", "training-conditional", "fdr"] = "marginal"
    """On average over calibration sets; for all but a share delta of them; or the share of false
    ones among the alarms.
    """
    delta: float = 0.05
    """With conditional: the share of calibration sets for which the promise may fail."""
    detector: Path | None = None
    """Detector to use; RUN/detector.safetensors unless given."""
    format: Literal["csv", "jsonl"] = "csv"
    """Form of the table."""
    out: Path | None = None
    """File to write: the table, or with fit the detector."""
    quiet: bool = False
    """No progress bar."""

    def main(self) -> None:
        if self.run == "fit":
            self._fit()
            return
        from lowland import verbs

        options = {
            name: getattr(self, name) for name in ("alpha", "guarantee", "delta", "detector")
        }
        if self.calibration:
            raise ValueError(
                "--calibration was given without fit; it belongs to `lowland detect fit RUN`; "
                "leave it out"
            )
        with warnings.catch_warnings():
            warnings.showwarning = _tell
            rows = verbs.detect(
                self.run,
                self.paths,
                **options,
                progress=not self.quiet and (self.out is not None or _piped()),
            )
            found = verbs.write_rows(rows, self.out, self.format)
        if found:
            raise SystemExit(1)

    def _fit(self) -> None:
        from lowland import verbs

        if len(self.paths) != 1 or not self.calibration:
            raise ValueError(
                f"fit was given {len(self.paths)} runs and {len(self.calibration)} calibration "
                "paths; it takes one run and inliers; write lowland detect fit RUN --calibration "
                "PATH"
            )
        path, detector = verbs.fit_detector(
            self.paths[0], self.calibration, score=self.score, alpha=self.alpha, out=self.out
        )
        print(path)
        print(verbs.promises(detector, self.delta), file=sys.stderr)


def _tell(message: Warning | str, *_: Any, **__: Any) -> None:
    """A warning as a line of its own, without the place in the code that spoke."""
    print(f"lowland: {message}", file=sys.stderr)


def _piped() -> bool:
    return not sys.stdout.isatty()
