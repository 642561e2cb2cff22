"""Detecting outliers: an energy, a score, a calibration part, a verdict with a promise.

A detector calls a point an outlier when its conformal p-value is small enough. As long as nothing
was trained on the calibration points, inliers are called outliers no more often than promised,
whatever the energy and the score are worth; how many outliers are found is up to them. Three
promises: on average over calibration sets ("marginal"), for all but a share δ of calibration sets
("training-conditional"), or on the share of inliers among what is called in a batch ("fdr"); see
`metrics.calibration`.
"""

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as dump_tensors
from torch import Tensor

from lowland.energy import Energy, check_finite, check_points, lift
from lowland.energy.gradient import frozen
from lowland.metrics.calibration import alarm_ranks, benjamini_hochberg, p_values
from lowland.tasks.detection.class_scores import (
    KNN,
    MSP,
    ODIN,
    EnsembleMSP,
    LogitEnergy,
    Mahalanobis,
    MaxLogit,
    MutualInformation,
)
from lowland.tasks.detection.scores import (
    Background,
    Descent,
    Disagreement,
    EnsembleMean,
    GradientNorm,
    Multiscale,
    OutlierScore,
    PlainEnergy,
    Typicality,
)
from lowland.tasks.inverse.posterior import of_one_dtype

FORMAT = 1
WORDS = {
    "mean": "mean",
    "deviation": "deviation",
    "least": "smallest number",
    "largest": "largest number",
}
NUM_WITNESSES = 8  # calibration points kept in a file, to know the energy again
OUTLIER_SCORES: dict[str, type[OutlierScore]] = {
    "energy": PlainEnergy,
    "typicality": Typicality,
    "gradient-norm": GradientNorm,
    "descent": Descent,
    "background": Background,
    "multiscale": Multiscale,
    "ensemble": EnsembleMean,
    "disagreement": Disagreement,
    "msp": MSP,
    "max-logit": MaxLogit,
    "logit-energy": LogitEnergy,
    "odin": ODIN,
    "mahalanobis": Mahalanobis,
    "knn": KNN,
    "ensemble-msp": EnsembleMSP,
    "mutual-information": MutualInformation,
}


class DataSummary(NamedTuple):
    """What calibration points looked like: event shape, how many, and of the mean, deviation, least
    and largest number of one point: median and deviation over points."""

    shape: tuple[int, ...]
    points: int
    mean: tuple[float, float]
    deviation: tuple[float, float]
    least: tuple[float, float]
    largest: tuple[float, float]

    @classmethod
    def of(cls, x: Tensor) -> "DataSummary":
        """Of points (N, *event)."""
        found = _moments(x).items()
        return cls(
            tuple(x.shape[1:]),
            len(x),
            **{name: (float(v.median()), float(v.std(correction=0))) for name, v in found},
        )

    def differences(self, x: Tensor) -> list[str]:
        """In words, where points x (M, *event) as a whole differ so much that calibration hardly
        speaks for them.

        The median over the batch must be off by more than the deviation of single points and by
        more than 5 standard errors, so a few outliers in a batch say nothing. Raises ValueError for
        another shape.
        """
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(
                f"points have event shape {tuple(x.shape[1:])}; the detector was calibrated on "
                f"{self.shape}; reshape them, batch first, or calibrate anew"
            )
        found = []
        for name, values in _moments(x).items():
            (middle, spread), here = getattr(self, name), float(values.median())
            error = 1.25 * spread * (1 / len(x) + 1 / self.points) ** 0.5  # of a median
            if abs(here - middle) > max(spread, 5 * error) + 0.01 * abs(middle):
                found.append(
                    f"the {WORDS[name]} of a point is {here:.3g} (calibration: {middle:.3g} ± "
                    f"{spread:.2g})"
                )
        return found


@dataclass(frozen=True, init=False, eq=False)
class Detector:
    """An energy, a score, and once fitted the scores of its calibration part.

    energy: an Energy, any callable (B, *event) -> (B,), or for scores of classes also logits (B,
    K); score: a name from `OUTLIER_SCORES`, or a `OutlierScore` with settings of its own; calibration: scores (N,)
    of calibration points, where they are known already. Immutable: `fit` returns a new one. Raises
    ValueError for an unknown score and for calibration scores that are no finite vector.

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
    statistics: Mapping[str, Tensor] = field(default_factory=dict)
    summary: DataSummary | None = None
    witnesses: Tensor | None = None

    def __init__(
        self,
        energy: Any,
        outlier_score: str | OutlierScore = "energy",
        *,
        calibration: Tensor | None = None,
    ) -> None:
        self._set(
            energy=lift(energy),
            outlier_score=get_outlier_score(outlier_score),
            calibration=calibration,
            statistics={},
            summary=None,
            witnesses=None,
        )
        if calibration is not None:
            if (
                not isinstance(calibration, Tensor)
                or calibration.dim() != 1
                or len(calibration) == 0
            ):
                got = (
                    tuple(calibration.shape)
                    if isinstance(calibration, Tensor)
                    else type(calibration).__name__
                )
                raise ValueError(
                    f"calibration scores have shape {got}; a vector (N,) is needed; pass points to "
                    "`fit`"
                )
            check_finite(calibration, "calibration energies")

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def fit(
        self, calibration: Tensor, *, reference: Tensor | None = None, labels: Tensor | None = None
    ) -> "Detector":
        """A new detector, calibrated on points (N, *event) that neither the energy nor the score
        was fitted to.

        reference (R, *event): inliers for what the score has to learn, fresh ones or those that the
        energy was trained on. Scores that learn and get none take every other calibration point for
        it, from the first, and calibrate on the rest. labels: of the reference, or where there is
        none of the calibration points; only "mahalanobis" looks at them. Raises ValueError for
        points outside the domain or not finite, labels that do not match, a score that the energy
        cannot give, and scores that are not finite or depend on other points of the batch.
        """
        check_points(self.energy, calibration)
        taught = calibration if reference is None else reference
        if labels is not None and (
            not isinstance(labels, Tensor) or labels.shape != (len(taught),)
        ):
            got = (
                tuple(labels.shape)
                if isinstance(labels, Tensor)
                else f"as a {type(labels).__name__}"
            )
            raise ValueError(
                f"{len(taught)} reference points came with labels {got}; a tensor with one per "
                "point is needed; match them"
            )
        if self.outlier_score.needs_reference and reference is None:
            reference, labels = calibration[::2], None if labels is None else labels[::2]
            calibration = calibration[1::2]
        statistics: Mapping[str, Tensor] = {}
        if self.outlier_score.needs_reference and reference is not None:
            check_points(self.energy, reference)
            if len(reference) < 2 or len(calibration) < 1:
                raise ValueError(
                    f"{len(reference)} points are left to learn from and {len(calibration)} to "
                    "calibrate on; at least 2 and 1 are needed; bring more points, or pass "
                    "reference=..."
                )
            with frozen(self.energy), of_one_dtype(self.energy, reference):
                statistics = self.outlier_score.fit(self.energy, reference, labels)
        new = Detector(self.energy, self.outlier_score)
        new._set(
            statistics=statistics,
            summary=DataSummary.of(calibration),
            witnesses=calibration[:NUM_WITNESSES].detach().clone(),
        )
        scores = new.outlier_scores(calibration)
        new._check_independent(calibration[-NUM_WITNESSES:])
        new._set(calibration=scores)
        return new

    def _check_independent(self, x: Tensor) -> None:
        moved = torch.cat([x[:-1], self.energy.domain.elsewhere(x[-1:])])
        if not torch.allclose(
            self.outlier_scores(moved)[:-1], self.outlier_scores(x)[:-1], rtol=1e-3, atol=1e-4
        ):
            raise ValueError(
                "moving one point changed the score of another; a score treats every point by "
                "itself, or nothing can be promised; put batch norm in eval mode or replace it, "
                "and sum over the event only"
            )

    def outlier_scores(self, x: Tensor) -> Tensor:
        """Outlier scores (M,) of points (M, *event); high is unlikely. Raises ValueError as `fit`
        does.
        """
        check_points(self.energy, x)
        if self.outlier_score.needs_reference and not self.statistics:
            raise self._not_fitted_error()
        with frozen(self.energy), of_one_dtype(self.energy, x):
            found = torch.cat(
                [
                    self.outlier_score.compute(self.energy, part, self.statistics)
                    for part in x.split(self.outlier_score.batch)
                ]
            )
        check_finite(found, "energies")
        return found.detach()

    def _not_fitted_error(self) -> ValueError:
        return ValueError(
            "the detector has seen no calibration points; p-values and verdicts compare with some; "
            "call detector = detector.fit(x) with inliers that the energy was not trained on"
        )

    def p_value(self, x: Tensor) -> Tensor:
        """Conformal p-values (M,) in float64: at most α for at most a share α of inliers, for every
        α.

        Warns where the points as a whole look unlike those of calibration: then they are not
        exchangeable, and the promise is void. Raises ValueError before `fit`, and for points of
        another shape.
        """
        return self._p_values(x)

    def _p_values(self, x: Tensor) -> Tensor:
        if self.calibration is None:
            raise self._not_fitted_error()
        known = (
            isinstance(x, Tensor) and x.dim() > 0 and len(x) > 0 and self.summary is not None
        )  # what is not, `score` refuses
        differences = self.summary.differences(x) if known and self.summary is not None else []
        scores = self.outlier_scores(x)
        if differences:
            warnings.warn(
                f"the points look unlike the calibration points: {'; '.join(differences)}. The "
                "promise holds for inliers of the same kind and preparation only",
                stacklevel=3,
            )
        return self.p_value_of_scores(scores)

    def p_value_of_scores(self, scores: Tensor) -> Tensor:
        """`p_value` of points whose outlier scores (M,) are known. Raises ValueError before
        `fit`.
        """
        if self.calibration is None:
            raise self._not_fitted_error()
        return p_values(self.calibration, scores)

    def predict(
        self, x: Tensor, alpha: float = 0.05, *, guarantee: str = "marginal", delta: float = 0.05
    ) -> Tensor:
        """Verdicts (M,): True for points called outliers.

        guarantee: "marginal", inliers are called at a rate of at most alpha on average over
        calibration sets; "training-conditional", with probability 1 − delta over calibration sets the rate
        is at most alpha; "fdr", on average at most a share alpha of what is called in this batch
        are inliers (Benjamini & Hochberg). Raises ValueError for rates outside (0, 1), too few
        calibration points for the rate (it says how many are needed), and as `p_value` does.
        """
        ranks = self.ranks(alpha, guarantee, delta)
        return call_outliers(self._p_values(x), self.calibration_size, ranks, alpha, guarantee)

    def ranks(self, alpha: float, guarantee: str = "marginal", delta: float = 0.05) -> int:
        """r: points are called whose p-value is at most r / (n + 1); see `metrics.alarm_ranks`."""
        return alarm_ranks(self.calibration_size, alpha, guarantee, delta)

    @property
    def calibration_size(self) -> int:
        """n, the number of calibration scores. Raises ValueError before `fit`."""
        if self.calibration is None:
            raise self._not_fitted_error()
        return len(self.calibration)

    def save(self, path: str | Path) -> Path:
        """Write all but the energy into one safetensors file, whole or not at all; its header says
        the settings in JSON.
        """
        tensors = {"calibration": self.calibration} if self.calibration_size else {}
        tensors |= {f"learned/{name}": value for name, value in self.statistics.items()}
        if self.witnesses is not None:
            tensors |= {
                "witnesses": self.witnesses,
                "witness_scores": self.outlier_scores(self.witnesses),
            }
        about = {
            "format": FORMAT,
            "score": outlier_score_to_dict(self.outlier_score),
            "summary": None if self.summary is None else self.summary._asdict(),
        }
        data = {
            name: t.detach().cpu().contiguous().clone()
            for name, t in tensors.items()
            if t is not None
        }
        target = Path(path)
        aside = target.with_name(f".{target.name}.tmp")
        try:
            aside.write_bytes(dump_tensors(data, {"detector": json.dumps(about)}))
            aside.replace(target)
        except OSError as error:
            aside.unlink(missing_ok=True)
            raise ValueError(
                f"{target} could not be written ({error.strerror}); a path in a folder that exists "
                "is needed, and room on the disk; choose another"
            ) from None
        return target

    @classmethod
    def load(cls, path: str | Path, energy: Any) -> "Detector":
        """The detector in a file that `save` wrote, with its energy. Nothing is unpickled.

        Raises ValueError if the file is missing, damaged or of another format, and if the energy
        gives other scores than the one that was calibrated.
        """
        about, tensors = _read(path)
        detector = cls(
            energy, outlier_score_from_dict(about["score"]), calibration=tensors["calibration"]
        )
        statistics = {
            name.removeprefix("learned/"): t
            for name, t in tensors.items()
            if name.startswith("learned/")
        }
        plain: Any = {
            name: tuple(v) if isinstance(v, list) else v
            for name, v in (about["summary"] or {}).items()
        }
        seen = DataSummary(**plain) if plain else None
        detector._set(statistics=statistics, summary=seen, witnesses=tensors.get("witnesses"))
        detector._check_energy(path, tensors.get("witness_scores"))
        return detector

    @staticmethod
    def settings(path: str | Path) -> OutlierScore:
        """The score of the detector in a file, which says what energy it reads (`OutlierScore.reads`).
        Raises ValueError as `load`.
        """
        return outlier_score_from_dict(_read(path)[0]["score"])

    def _check_energy(self, path: str | Path, then: Tensor | None) -> None:
        if self.witnesses is None or then is None or self.calibration is None:
            return
        now = self.outlier_scores(self.witnesses).cpu()
        slack = 0.02 * float(self.calibration.double().std(correction=0)) + 1e-3 * then.abs() + 1e-6
        if bool(((now - then).abs() > slack).any()):
            raise ValueError(
                f"the energy gives the calibration points of {path} other scores than it gave then "
                f"(off by {float((now - then).abs().max()):.3g}); a detector belongs to its "
                "energy; load that one, or fit again"
            )


def call_outliers(p: Tensor, count: int, ranks: int, alpha: float, guarantee: str) -> Tensor:
    """Verdicts (M,) from p-values against `count` calibration points: p ≤ ranks / (count + 1), or
    Benjamini & Hochberg's.
    """
    return benjamini_hochberg(p, alpha) if guarantee == "fdr" else p * (count + 1) < ranks + 0.5


def get_outlier_score(score: str | OutlierScore) -> OutlierScore:
    """A score by name, or as it is. Raises ValueError for other names."""
    if isinstance(score, OutlierScore):
        return score
    if not isinstance(score, str) or score not in OUTLIER_SCORES:
        near = get_close_matches(str(score), OUTLIER_SCORES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "choose one of them"
        raise ValueError(
            f"score {score!r} is not known; there are {', '.join(OUTLIER_SCORES)}; {hint}"
        )
    return OUTLIER_SCORES[score]()


def outlier_score_to_dict(score: OutlierScore) -> dict[str, Any]:
    """The plain values from which `outlier_score_from_dict` makes an equal score.

    >>> outlier_score_to_dict(LogitEnergy(2.0)), outlier_score_from_dict({"name": "knn", "neighbours": 3}).neighbours
    ({'name': 'logit-energy', 'temperature': 2.0}, 3)
    """
    name = next((name for name, cls in OUTLIER_SCORES.items() if cls is type(score)), None)
    if name is None:
        raise ValueError(
            f"{type(score).__name__} is a score of your own; a file holds only those of lowland, "
            f"{', '.join(OUTLIER_SCORES)}; keep the calibration scores, and hand them to Detector(energy, "
            "score, calibration=...)"
        )
    return {"name": name, **asdict(score)}


def outlier_score_from_dict(values: Mapping[str, Any]) -> OutlierScore:
    """The inverse of `spec`."""
    settings = {
        name: tuple(v) if isinstance(v, list) else v for name, v in values.items() if name != "name"
    }
    return OUTLIER_SCORES[values["name"]](**settings)


def _read(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The settings and tensors in a file that `Detector.save` wrote. Raises ValueError for anything
    else.
    """
    try:
        with safe_open(str(path), "pt") as file:
            about = json.loads((file.metadata() or {})["detector"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        if about["format"] != FORMAT:
            raise ValueError(
                f"{path} is a detector of format {about['format']}; this lowland reads {FORMAT}; "
                "fit it again"
            )
        outlier_score_from_dict(about["score"])
        _ = tensors["calibration"], about["summary"] is None or DataSummary(**about["summary"])
        return about, tensors
    except (
        OSError,
        SafetensorError,
        KeyError,
        TypeError,
        AttributeError,
        json.JSONDecodeError,
    ) as error:
        raise ValueError(
            f"{path} holds no detector ({error}); a file that Detector.save wrote is needed; fit "
            "and save one"
        ) from None


def _moments(x: Tensor) -> dict[str, Tensor]:
    flat = x.detach().double().flatten(1) if x.dim() > 1 else x.detach().double().unsqueeze(1)
    return {
        "mean": flat.mean(1),
        "deviation": flat.std(1, correction=0),
        "least": flat.amin(1),
        "largest": flat.amax(1),
    }
