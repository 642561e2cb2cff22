"""What a detector is given: calibration scores, labels of a reference, statistics of a score."""

import torch
from torch import Tensor

from lowland.devices import has_float64
from lowland.energy import check_finite
from lowland.energy.points import describe


def place_statistic(statistic: Tensor, device: torch.device | None) -> Tensor:
    """Return a statistic on a device, or on its own where that device cannot hold it."""
    if device is None or (statistic.dtype == torch.float64 and not has_float64(device)):
        return statistic
    return statistic.to(device)


def not_fitted_error() -> ValueError:
    """Return the error of a detector that is asked before it was calibrated."""
    return ValueError(
        "the detector has seen no calibration points; p-values and verdicts compare with some; "
        "call detector = detector.fit(x) with inliers that the energy was not trained on"
    )


def read_scores(calibration: Tensor) -> Tensor:
    """Return a copy of calibration scores; refuse what is no finite floating point vector."""
    vector = isinstance(calibration, Tensor) and calibration.dim() == 1
    if not vector or len(calibration) == 0 or not calibration.is_floating_point():
        raise ValueError(
            f"calibration scores are {describe(calibration)}; a floating point vector (N,) is "
            "needed; pass points to `fit`"
        )
    check_finite(calibration, "calibration energies")
    return calibration.detach().clone()


def check_labels(labels: Tensor | None, points: Tensor) -> None:
    """Raise ValueError unless labels are None or one whole number per point."""
    if labels is None:
        return
    whole = isinstance(labels, Tensor) and not (
        labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool
    )
    if not whole or labels.shape != (len(points),):
        raise ValueError(
            f"{len(points)} reference points came with labels {describe(labels)}; a tensor of "
            "whole numbers, one per point is needed; match them"
        )
