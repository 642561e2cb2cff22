"""Outlier detection: an energy, an outlier score, calibration points, verdicts with a guarantee.

A detector calls a point an outlier if its conformal p-value is small enough. As long as neither the
energy nor the score has seen the calibration points, inliers are called outliers no more often than
promised, whatever the energy is worth; the share of outliers found depends on the energy. Three
guarantees (see `metrics.calibration`):

    "marginal"                on average over calibration sets
    "training-conditional"    for all but a share δ of calibration sets (PAC)
    "fdr"                     on the share of inliers among the points called in a batch
"""

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from lowland.devices import find_device, place, to_float64
from lowland.energy import Energy, check_finite, check_gradient, check_points, freeze, lift
from lowland.energy.points import explain_mismatch
from lowland.metrics.calibration import alarm_ranks, benjamini_hochberg, p_values
from lowland.tasks.detection.checks import (
    check_labels,
    not_fitted_error,
    place_statistic,
    read_scores,
)
from lowland.tasks.detection.files import read_detector, write_detector
from lowland.tasks.detection.registry import get_outlier_score, outlier_score_to_dict
from lowland.tasks.detection.scores import OutlierScore, Statistics
from lowland.tasks.detection.summary import DataSummary
from lowland.tasks.detection.witness import (
    NUM_WITNESSES,
    OTHER_BATCH,
    OTHER_MACHINE,
    SAME_PROCESS,
    Witnesses,
    check_apart,
    digest_weights,
    find_drift,
    has_weights,
    spread_rows,
    warn_of_equal_scores,
    warn_of_repeats,
)

DISCRETE = ("binary", "categorical")


@dataclass(frozen=True, init=False, eq=False)
class Detector:
    """An energy, an outlier score, and once fitted the scores of calibration points.

    energy: an Energy, any callable (B, *event) -> (B,), or for scores of classes also a classifier
    that gives logits (B, K); outlier_score: a name of `OUTLIER_SCORES`, or an `OutlierScore` with
    its settings; calibration: scores (N,) of calibration points, if they are known. Immutable:
    `fit` returns a new detector, and sets the other fields: statistics, what the score has fitted
    to inliers; summary, of the calibration points; witnesses, a few of these points with their
    scores, by which the energy is recognised at every use: one that was trained on since is
    refused.

    It lives where its energy does: points of any device are sent there, a part at a time. Tensors
    are copied. Raises ValueError for an unknown score and for calibration scores that are
    no finite vector. Warns of scores that look like copies of fewer.

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
    witnesses: Witnesses | None = None

    def __init__(
        self,
        energy: Energy | Callable[..., Tensor],
        outlier_score: str | OutlierScore = "energy",
        *,
        calibration: Tensor | None = None,
        statistics: Statistics | None = None,
        summary: DataSummary | None = None,
        witnesses: Witnesses | None = None,
    ) -> None:
        lifted = lift(energy)
        if calibration is not None:
            calibration = read_scores(calibration)
            if witnesses is None:
                discrete = lifted.domain.kind in DISCRETE
                warn_of_equal_scores(calibration, discrete, stacklevel=2)
                witnesses = Witnesses(None, None, digest_weights(lifted))
        values = {
            "energy": lifted,
            "outlier_score": get_outlier_score(outlier_score),
            "calibration": calibration,
            "statistics": {
                name: place_statistic(torch.as_tensor(t).detach().clone(), find_device(lifted))
                for name, t in (statistics or {}).items()
            },
            "summary": summary,
            "witnesses": witnesses,
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
        score that the energy cannot give, calibration points that the score was fitted to, and
        scores that are not finite or depend on other points of the batch. Warns of calibration
        points that repeat others.
        """
        check_points(self.energy, calibration, sent=True)
        check_labels(labels, calibration if reference is None else reference)
        discrete = self.energy.domain.kind in DISCRETE
        warn_of_repeats(calibration, discrete, stacklevel=2)
        if self.outlier_score.follows_gradient:
            check_gradient(self.energy, self._send(calibration[:NUM_WITNESSES]))
        if self.outlier_score.needs_reference and reference is None:
            reference, calibration = calibration[::2], calibration[1::2]
            labels = None if labels is None else labels[::2]
        statistics: Statistics = {}
        if self.outlier_score.needs_reference and reference is not None:
            check_points(self.energy, reference, sent=True)
            if len(reference) < 2 or len(calibration) < 1:
                raise ValueError(
                    f"{len(reference)} points are left to fit the score to and {len(calibration)} "
                    "to calibrate on; at least 2 and 1 are needed; bring more points, or pass "
                    "reference=..."
                )
            check_apart(calibration, reference, discrete, stacklevel=2)
            known = self._send(reference)
            labels = None if labels is None else labels.to(known.device)
            with freeze(self.energy) as energy, explain_mismatch(self.energy, reference):
                statistics = self.outlier_score.fit(energy, known, labels)
        detector = Detector(
            self.energy,
            self.outlier_score,
            statistics=statistics,
            summary=DataSummary.of(calibration),
        )
        scores = detector._compute(calibration)
        chosen = calibration[spread_rows(scores).to(calibration.device)].detach().clone()
        again = detector._compute(chosen)
        witnesses = Witnesses(chosen, again, digest_weights(self.energy))
        detector._check_independent(chosen, again, scores)
        return replace(detector, calibration=scores, witnesses=witnesses)

    def _check_independent(self, x: Tensor, alone: Tensor, scores: Tensor) -> None:
        """Raise ValueError if scores depend on the batch: those of points x (K, *event) alone must
        be those among all (N,), and must stay when another point of the batch moves.
        """
        deviation = _deviation(scores)
        near = scores[spread_rows(scores)]
        drift = find_drift(near, alone, deviation, x.dtype, OTHER_BATCH)
        for moved in {0, len(x) // 2, len(x) - 1} if len(x) > 1 else ():
            others = torch.arange(len(x), device=alone.device) != moved
            other = x.clone()
            other[moved] = self.energy.domain.elsewhere(x[moved : moved + 1])[0]
            after = self._compute(other)
            apart = find_drift(alone[others], after[others], deviation, x.dtype, OTHER_BATCH)
            drift = max(drift, apart)
        if drift:
            raise ValueError(
                f"moving one point changed the score of another by {drift:.3g}; a score treats "
                "every point by itself, or nothing can be promised; put batch norm in eval mode or "
                "replace it, and sum over the event only"
            )

    def outlier_scores(self, x: Tensor) -> Tensor:
        """Compute outlier scores (M,) of points (M, *event); high is unlikely.

        Raises ValueError as `fit` does, for points of another shape or precision than those of
        calibration, and if the energy is no longer the one that was calibrated.
        """
        check_points(self.energy, x, sent=True)
        known = None if self.witnesses is None else self.witnesses.points
        if self.summary is not None:
            self.summary.check_shape(x)
        if known is not None and x.dtype != known.dtype:
            raise ValueError(
                f"points are {x.dtype} and the detector was calibrated on {known.dtype}; equal "
                f"points need equal scores; convert the points with .to({known.dtype}), or fit "
                "again"
            )
        self._check_energy()
        return self._compute(x)

    def _compute(self, x: Tensor) -> Tensor:
        """Compute outlier scores (M,) of points that were checked."""
        check_points(self.energy, x, sent=True)
        score = self.outlier_score
        if score.needs_reference and not self.statistics:
            raise not_fitted_error()
        with freeze(self.energy) as energy, explain_mismatch(self.energy, x):
            parts = [
                score.compute(energy, self._send(part), self.statistics)
                for part in x.split(score.batch)
            ]
        scores = torch.cat(parts)
        if not scores.is_floating_point():
            raise ValueError(
                f"the energy gave {scores.dtype}; outlier scores are real floating point numbers; "
                "convert what it returns with .float()"
            )
        check_finite(scores, "energies")
        return scores.detach()

    def _send(self, x: Tensor) -> Tensor:
        """Return points on the device of the energy; as they are where it has no tensors."""
        return place(x, find_device(self.energy) or x.device)

    def p_value(self, x: Tensor) -> Tensor:
        """Compute conformal p-values (M,) in float64, on the CPU, of points (M, *event).

        They are at most α for at most a share α of inliers, for every α. Warns if the points as a
        whole look unlike those of calibration: they are then not exchangeable, and nothing is
        promised. Raises ValueError before `fit`, and for points of another shape.
        """
        return self._p_values(x)

    def _p_values(self, x: Tensor) -> Tensor:
        """Compute p-values; called by public methods only, so that warnings name their callers."""
        calibration = self._scores()
        scores = self.outlier_scores(x)
        differences = self.summary.differences(x) if self.summary else []
        if differences:
            warnings.warn(
                f"the points look unlike the calibration points: {'; '.join(differences)}. The "
                "promise holds for inliers of the same kind and preparation only",
                stacklevel=3,
            )
        return p_values(calibration, scores)

    def p_value_of_scores(self, scores: Tensor) -> Tensor:
        """Compute p-values (M,) from known outlier scores (M,).

        Raises ValueError before `fit`, and if the energy is no longer the one that was calibrated.
        """
        calibration = self._scores()
        self._check_energy()
        return p_values(calibration, scores)

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
            raise not_fitted_error()
        return self.calibration

    def save(self, path: str | Path) -> Path:
        """Write all but the energy into one safetensors file, whole or not at all.

        The header holds the settings as JSON, and a digest of the numbers. Raises ValueError before
        `fit`, for a score of one's own, and for a path that cannot be written.
        """
        tensors = {"calibration": self._scores()}
        self._check_energy()
        tensors |= {f"statistics/{name}": value for name, value in self.statistics.items()}
        seen = self.witnesses
        if seen is not None:
            tensors["weights"] = seen.weights
        if seen is not None and seen.points is not None and seen.scores is not None:
            tensors |= {"probes": seen.points, "probe_scores": seen.scores}
        about = {
            "outlier_score": outlier_score_to_dict(self.outlier_score),
            "summary": self.summary and asdict(self.summary),
        }
        return write_detector(Path(path), tensors, about)

    @classmethod
    def load(cls, path: str | Path, energy: Energy | Callable[..., Tensor]) -> "Detector":
        """Read a file that `save` wrote, and return its detector with an energy.

        Nothing is unpickled. Raises ValueError if the file is missing, damaged or of another
        format, and if the energy gives other scores than the one that was calibrated.
        """
        score, summary, tensors = read_detector(path)
        seen = Witnesses(
            tensors.get("probes"),
            tensors.get("probe_scores"),
            tensors.get("weights", torch.zeros(0, 2, dtype=torch.float64)),
        )
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
            witnesses=seen,
        )
        detector._check_energy(path)
        # Scores as this machine rounds
        here = None if seen.points is None else detector._compute(seen.points)
        weights = digest_weights(detector.energy)
        return replace(detector, witnesses=Witnesses(seen.points, here, weights))

    @staticmethod
    def settings(path: str | Path) -> OutlierScore:
        """Read only the outlier score of the detector in a file. Raises ValueError as `load`."""
        return read_detector(path)[0]

    def _check_energy(self, path: str | Path | None = None) -> None:
        """Raise ValueError if the energy is not the one that was calibrated, here or in a file."""
        seen = self.witnesses
        if self.calibration is None or seen is None:
            return
        if seen.points is None or seen.scores is None:
            changed = not has_weights(self.energy, seen.weights)
            how = "has other weights than it had when its scores came"
        else:
            now = self._compute(seen.points)
            tolerance = OTHER_MACHINE if path else SAME_PROCESS
            deviation = _deviation(self.calibration)
            drift = find_drift(seen.scores, now, deviation, seen.points.dtype, tolerance)
            changed = drift > 0
            of = f" of {path}" if path else ""
            how = (
                f"gives the calibration points{of} other scores than it gave then (off by "
                f"{drift:.3g})"
            )
        if changed:
            raise ValueError(
                f"the energy {how}; a detector belongs to its energy; load that one, or fit again"
            )


def call_outliers(p: Tensor, count: int, ranks: int, alpha: float, guarantee: str) -> Tensor:
    """Call outliers, (M,) bool, from p-values (M,) against `count` calibration points.

    p ≤ ranks / (count + 1), or for the guarantee "fdr" the procedure of Benjamini & Hochberg.
    """
    if guarantee == "fdr":
        return benjamini_hochberg(p, alpha)
    return p * (count + 1) < ranks + 0.5


def _deviation(scores: Tensor) -> float:
    return float(to_float64(scores).std(correction=0))
