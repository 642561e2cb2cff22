"""Outlier detection: an energy, an outlier score, calibration points, verdicts with a guarantee.

A detector calls a point an outlier if its conformal p-value is small enough. As long as neither the
energy nor the score has seen the calibration points, inliers are called outliers no more often than
promised, whatever the energy is worth; the share of outliers found depends on the energy. Three
guarantees (see `metrics.calibration`):

    "marginal"                on average over calibration sets
    "training-conditional"    for all but a share δ of calibration sets (PAC)
    "fdr"                     on the share of inliers among the points called in a batch
"""

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as dump_tensors
from torch import Tensor

from lowland.atomic import write_bytes
from lowland.energy import Energy, check_finite, check_points, freeze, lift
from lowland.energy.points import describe, explain_mismatch
from lowland.metrics.calibration import alarm_ranks, benjamini_hochberg, p_values
from lowland.tasks.detection.registry import (
    get_outlier_score,
    outlier_score_from_dict,
    outlier_score_to_dict,
)
from lowland.tasks.detection.scores import OutlierScore, Statistics
from lowland.tasks.detection.summary import DataSummary

DETECTOR_FORMAT = 1
LOAD_ERRORS = (
    OSError,
    SafetensorError,
    LookupError,
    TypeError,
    AttributeError,
    json.JSONDecodeError,
)
NUM_PROBES = 8  # calibration points kept in a file, to recognise the energy


@dataclass(frozen=True, init=False, eq=False)
class Detector:
    """An energy, an outlier score, and once fitted the scores of calibration points.

    energy: an Energy, any callable (B, *event) -> (B,), or for scores of classes also a classifier
    that gives logits (B, K); outlier_score: a name of `OUTLIER_SCORES`, or an `OutlierScore` with
    its settings; calibration: scores (N,) of calibration points, if they are known. Immutable:
    `fit` returns a new detector, and sets the other fields: statistics, what the score has fitted
    to inliers; summary, of the calibration points; probes, a few of these points.

    Raises ValueError for an unknown score and for calibration scores that are no finite vector.

    >>> import torch, lowland
    >>> g = torch.Generator().manual_seed(0)
    >>> bowl = lowland.Function(lambda x: x.square().sum(1))
    >>> detector = lowland.Detector(bowl).fit(torch.randn(999, 2, generator=g))
    >>> x = torch.tensor([[0.5, -0.5], [4.0, 2.0]])
    >>> detector.predict(x).tolist(), detector.p_value(x)[1].item()
    ([False, True], 0.001)
    """

    energy: Energy
    outlier_score: OutlierScore
    calibration: Tensor | None = None
    statistics: Statistics = field(default_factory=dict)
    summary: DataSummary | None = None
    probes: Tensor | None = None

    def __init__(
        self,
        energy: Energy | Callable[..., Tensor],
        outlier_score: str | OutlierScore = "energy",
        *,
        calibration: Tensor | None = None,
        statistics: Statistics | None = None,
        summary: DataSummary | None = None,
        probes: Tensor | None = None,
    ) -> None:
        if calibration is not None:
            vector = isinstance(calibration, Tensor) and calibration.dim() == 1
            if not vector or len(calibration) == 0:
                raise ValueError(
                    f"calibration scores are {describe(calibration)}; a vector (N,) is needed; "
                    "pass points to `fit`"
                )
            check_finite(calibration, "calibration energies")
        values = {
            "energy": lift(energy),
            "outlier_score": get_outlier_score(outlier_score),
            "calibration": calibration,
            "statistics": statistics or {},
            "summary": summary,
            "probes": probes,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def fit(
        self, calibration: Tensor, *, reference: Tensor | None = None, labels: Tensor | None = None
    ) -> "Detector":
        """Return a new detector, calibrated on points (N, *event) unseen by energy and score.

        reference (R, *event): inliers to which the score is fitted, if it needs some, new ones or
        those the energy was trained on; unless given, every other calibration point, from the
        first, and calibration uses the rest. labels: of the reference, or where there is none of
        the calibration points; only "mahalanobis" reads them.

        Raises ValueError for points outside the domain or not finite, labels that do not match, a
        score that the energy cannot give, and scores that are not finite or depend on other points
        of the batch.
        """
        check_points(self.energy, calibration)
        _check_labels(labels, calibration if reference is None else reference)
        if self.outlier_score.needs_reference and reference is None:
            reference, calibration = calibration[::2], calibration[1::2]
            labels = None if labels is None else labels[::2]
        statistics: Statistics = {}
        if self.outlier_score.needs_reference and reference is not None:
            check_points(self.energy, reference)
            if len(reference) < 2 or len(calibration) < 1:
                raise ValueError(
                    f"{len(reference)} points are left to fit the score to and {len(calibration)} "
                    "to calibrate on; at least 2 and 1 are needed; bring more points, or pass "
                    "reference=..."
                )
            with freeze(self.energy) as energy, explain_mismatch(self.energy, reference):
                statistics = self.outlier_score.fit(energy, reference, labels)
        detector = Detector(
            self.energy,
            self.outlier_score,
            statistics=statistics,
            summary=DataSummary.of(calibration),
            probes=calibration[:NUM_PROBES].detach().clone(),
        )
        scores = detector.outlier_scores(calibration)
        detector._check_independent(calibration[-NUM_PROBES:])
        return replace(detector, calibration=scores)

    def _check_independent(self, x: Tensor) -> None:
        """Raise ValueError if the scores of points change when the last one moves."""
        moved = torch.cat([x[:-1], self.energy.domain.elsewhere(x[-1:])])
        before, after = self.outlier_scores(x)[:-1], self.outlier_scores(moved)[:-1]
        if not torch.allclose(after, before, rtol=1e-3, atol=1e-4):
            raise ValueError(
                "moving one point changed the score of another; a score treats every point by "
                "itself, or nothing can be promised; put batch norm in eval mode or replace it, "
                "and sum over the event only"
            )

    def outlier_scores(self, x: Tensor) -> Tensor:
        """Compute outlier scores (M,) of points (M, *event); high is unlikely.

        Raises ValueError as `fit` does.
        """
        check_points(self.energy, x)
        score = self.outlier_score
        if score.needs_reference and not self.statistics:
            raise _not_fitted_error()
        with freeze(self.energy) as energy, explain_mismatch(self.energy, x):
            parts = [score.compute(energy, p, self.statistics) for p in x.split(score.batch)]
        scores = torch.cat(parts)
        check_finite(scores, "energies")
        return scores.detach()

    def p_value(self, x: Tensor) -> Tensor:
        """Compute conformal p-values (M,) in float64 of points (M, *event).

        They are at most α for at most a share α of inliers, for every α. Warns if the points as a
        whole look unlike those of calibration: they are then not exchangeable, and nothing is
        promised. Raises ValueError before `fit`, and for points of another shape.
        """
        return self._p_values(x)

    def _p_values(self, x: Tensor) -> Tensor:
        """Compute p-values; called by public methods only, so that warnings name their callers."""
        calibration = self._scores()
        points = isinstance(x, Tensor) and x.dim() > 0 and len(x) > 0  # or `outlier_scores` refuses
        differences = self.summary.differences(x) if points and self.summary else []
        scores = self.outlier_scores(x)
        if differences:
            warnings.warn(
                f"the points look unlike the calibration points: {'; '.join(differences)}. The "
                "promise holds for inliers of the same kind and preparation only",
                stacklevel=3,
            )
        return p_values(calibration, scores)

    def p_value_of_scores(self, scores: Tensor) -> Tensor:
        """Compute p-values (M,) from known outlier scores (M,). Raises ValueError before `fit`."""
        return p_values(self._scores(), scores)

    def predict(
        self, x: Tensor, alpha: float = 0.05, *, guarantee: str = "marginal", delta: float = 0.05
    ) -> Tensor:
        """Call points (M, *event) inliers or outliers: (M,) bool, True for outliers.

        guarantee: "marginal", inliers are called outliers at a rate of at most alpha on average
        over calibration sets; "training-conditional", with probability 1 − delta over calibration
        sets the rate is at most alpha; "fdr", on average at most a share alpha of what is called in
        this batch are inliers (Benjamini & Hochberg).

        Raises ValueError for rates outside (0, 1), too few calibration points for the rate (it says
        how many are needed), and as `p_value` does.
        """
        ranks = self.ranks(alpha, guarantee, delta)
        return call_outliers(self._p_values(x), self.calibration_size, ranks, alpha, guarantee)

    def ranks(self, alpha: float, guarantee: str = "marginal", delta: float = 0.05) -> int:
        """Return r: points with p-value ≤ r / (n + 1) are called; see `metrics.alarm_ranks`."""
        return alarm_ranks(self.calibration_size, alpha, guarantee, delta)

    @property
    def calibration_size(self) -> int:
        """Number of calibration scores, n. Raises ValueError before `fit`."""
        return len(self._scores())

    def _scores(self) -> Tensor:
        if self.calibration is None:
            raise _not_fitted_error()
        return self.calibration

    def save(self, path: str | Path) -> Path:
        """Write all but the energy into one safetensors file, whole or not at all.

        The header holds the settings as JSON. Raises ValueError before `fit`, for a score of one's
        own, and for a path that cannot be written.
        """
        tensors = {"calibration": self._scores()}
        tensors |= {f"statistics/{name}": value for name, value in self.statistics.items()}
        if self.probes is not None:
            tensors |= {"probes": self.probes, "probe_scores": self.outlier_scores(self.probes)}
        about = {
            "format": DETECTOR_FORMAT,
            "outlier_score": outlier_score_to_dict(self.outlier_score),
            "summary": self.summary and asdict(self.summary),
        }
        data = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
        target = Path(path)
        try:
            write_bytes(target, dump_tensors(data, {"detector": json.dumps(about)}))
        except OSError as error:
            raise ValueError(
                f"{target} could not be written ({error.strerror}); a path in a folder that exists "
                "is needed, and room on the disk; choose another"
            ) from None
        return target

    @classmethod
    def load(cls, path: str | Path, energy: Energy | Callable[..., Tensor]) -> "Detector":
        """Read a file that `save` wrote, and return its detector with an energy.

        Nothing is unpickled. Raises ValueError if the file is missing, damaged or of another
        format, and if the energy gives other scores than the one that was calibrated.
        """
        score, summary, tensors = _read(path)
        detector = cls(
            energy,
            score,
            calibration=tensors["calibration"],
            statistics={
                name.removeprefix("statistics/"): tensor
                for name, tensor in tensors.items()
                if name.startswith("statistics/")
            },
            summary=summary,
            probes=tensors.get("probes"),
        )
        detector._check_energy(path, tensors.get("probe_scores"))
        return detector

    @staticmethod
    def settings(path: str | Path) -> OutlierScore:
        """Read only the outlier score of the detector in a file. Raises ValueError as `load`."""
        return _read(path)[0]

    def _check_energy(self, path: str | Path, then: Tensor | None) -> None:
        """Raise ValueError if the probes have other scores than those written in a file."""
        if self.probes is None or then is None:
            return
        now = self.outlier_scores(self.probes).cpu()
        deviation = float(self._scores().double().std(correction=0))
        slack = 0.02 * deviation + 1e-3 * then.abs() + 1e-6
        if bool(((now - then).abs() > slack).any()):
            raise ValueError(
                f"the energy gives the calibration points of {path} other scores than it gave then "
                f"(off by {float((now - then).abs().max()):.3g}); a detector belongs to its "
                "energy; load that one, or fit again"
            )


def call_outliers(p: Tensor, count: int, ranks: int, alpha: float, guarantee: str) -> Tensor:
    """Call outliers, (M,) bool, from p-values (M,) against `count` calibration points.

    p ≤ ranks / (count + 1), or for the guarantee "fdr" the procedure of Benjamini & Hochberg.
    """
    if guarantee == "fdr":
        return benjamini_hochberg(p, alpha)
    return p * (count + 1) < ranks + 0.5


def _not_fitted_error() -> ValueError:
    return ValueError(
        "the detector has seen no calibration points; p-values and verdicts compare with some; "
        "call detector = detector.fit(x) with inliers that the energy was not trained on"
    )


def _check_labels(labels: Tensor | None, points: Tensor) -> None:
    """Raise ValueError unless labels are None or one per point."""
    if labels is None or (isinstance(labels, Tensor) and labels.shape == (len(points),)):
        return
    raise ValueError(
        f"{len(points)} reference points came with labels {describe(labels)}; a tensor with one "
        "per point is needed; match them"
    )


def _read(path: str | Path) -> tuple[OutlierScore, DataSummary | None, dict[str, Tensor]]:
    """Return the score, the data summary and the tensors of a file that `Detector.save` wrote.

    Raises ValueError for anything else.
    """
    try:
        with safe_open(str(path), "pt") as file:
            about = json.loads((file.metadata() or {})["detector"])
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
        if about["format"] != DETECTOR_FORMAT:
            raise ValueError(
                f"{path} is a detector of format {about['format']}; this lowland reads "
                f"{DETECTOR_FORMAT}; fit it again"
            )
        _ = tensors["calibration"]
        summary = about["summary"] and _summary_from_dict(about["summary"])
        return outlier_score_from_dict(about["outlier_score"]), summary, tensors
    except LOAD_ERRORS as error:
        raise ValueError(
            f"{path} holds no detector ({error}); a file that Detector.save wrote is needed; fit "
            "and save one"
        ) from None


def _summary_from_dict(values: Mapping[str, Any]) -> DataSummary:
    plain: dict[str, Any] = {
        name: v if name == "points" else tuple(v) for name, v in values.items()
    }
    return DataSummary(**plain)
