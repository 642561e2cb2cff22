"""A detector as one of pytorch-ood."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lowland.extras import import_extra
from lowland.tasks.detection.detector import Detector

if TYPE_CHECKING:
    from pytorch_ood.api import Detector as OODDetector


def to_pytorch_ood(detector: Detector) -> "OODDetector":
    """Return a `pytorch_ood.api.Detector`: `predict` gives our outlier scores, `fit` calibrates on
    what a loader of (x, y) yields.

    Rows with a label below 0, pytorch-ood's mark of outliers, are left out of the fit. p-values and
    verdicts are those of its attribute `detector`. Raises ImportError without pytorch-ood. Source:
    Kirchheim, Filax & Ortmeier (2022), https://github.com/kkirchheim/pytorch-ood

    >>> adapted = to_pytorch_ood(Detector(lambda x: x.square().sum(1)))  # doctest: +SKIP
    >>> adapted(torch.ones(2, 3)).tolist()  # doctest: +SKIP
    [3.0, 3.0]
    """
    api = import_extra("pytorch_ood.api")

    class Adapted(api.Detector):  # type: ignore[name-defined]
        requires_fit = detector.outlier_score.needs_reference

        def __init__(self, detector: Detector) -> None:
            self.detector = detector

        def fit(self, data_loader: Iterable[tuple[Tensor, object]]) -> "Adapted":
            batches = [(x, torch.as_tensor(y)) for x, y in data_loader]
            if not batches:
                raise ValueError(
                    "the loader yields no batches; inliers (x, y) are needed to calibrate on; pass "
                    "a loader that is not empty"
                )
            x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
            self.detector = self.detector.fit(x[y >= 0], labels=y[y >= 0])
            return self

        def predict(self, x: Tensor) -> Tensor:
            if self.requires_fit and not self.detector.statistics:
                raise api.RequiresFittingException()
            return self.detector.outlier_scores(x)

    return Adapted(detector)
