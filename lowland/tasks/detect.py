"""Detecting outliers: an energy, a calibration split, a verdict with a promise.

A detector calls a point an outlier when its conformal p-value is at most the nominal rate. As long as nothing was trained on
the calibration points, at most that share of inliers is called an outlier, whatever the energy is worth; how many outliers
are found is up to the energy.
"""

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lowland.energy import Energy, check_finite, check_points, energy_values, lift
from lowland.metrics.calibration import AlarmRate, false_alarms, p_values
from lowland.metrics.detection import aupr, auroc, fpr95
from lowland.metrics.estimate import Estimate


@dataclass(frozen=True)
class Detector:
    """An energy with the energies of its calibration split (N,). Make one with `Detector.calibrate`.

    >>> import torch, lowland
    >>> g = torch.Generator().manual_seed(0)
    >>> bowl = lowland.Function(lambda x: x.square().sum(1))
    >>> detector = lowland.Detector.calibrate(bowl, torch.randn(999, 2, generator=g))
    >>> detector.outlier(torch.tensor([[0.0, 0.0], [9.0, 9.0]])).tolist()
    [False, True]
    """

    energy: Energy
    calibration: Tensor
    nominal: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.nominal < 1:
            raise ValueError(f"nominal is {self.nominal}; a false-alarm rate lies in (0, 1); 0.05 is common")
        if self.calibration.dim() != 1 or int(self.nominal * (len(self.calibration) + 1) + 1e-9) < 1:
            need = math.ceil(1 / self.nominal - 1e-9) - 1
            raise ValueError(
                f"{len(self.calibration)} calibration energies cannot promise a false-alarm rate of {self.nominal}; at "
                f"least {need} are needed; bring more points or raise the rate"
            )
        check_finite(self.calibration, "calibration energies")

    @classmethod
    def calibrate(cls, energy: Any, x: Tensor, nominal: float = 0.05) -> "Detector":
        """A detector from points (N, *event) that the energy was not trained on."""
        energy = lift(energy)
        check_points(energy, x)
        return cls(energy, energy_values(energy, x), nominal)

    def energies(self, x: Tensor) -> Tensor:
        """Energies (M,) of points (M, *event); high is unlikely."""
        check_points(self.energy, x)
        return energy_values(self.energy, x)

    def p_values(self, x: Tensor) -> Tensor:
        """Conformal p-values (M,); under 0.05 for at most about 5 % of inliers."""
        return p_values(self.calibration, self.energies(x))

    def outlier(self, x: Tensor) -> Tensor:
        """Verdicts (M,): True for points called outliers."""
        return self.p_values(x) <= self.nominal

    def check(self, inliers: Tensor) -> AlarmRate:
        """The false-alarm rate on fresh inliers, beside the interval in which it should lie."""
        return false_alarms(self.p_values(inliers), self.nominal, len(self.calibration))

    def compare(self, inliers: Tensor, outliers: Tensor) -> dict[str, Estimate]:
        """AUROC, AUPR and FPR95 of inliers against outliers (points, not energies)."""
        low, high = self.energies(inliers), self.energies(outliers)
        return {"auroc": auroc(low, high), "aupr": aupr(low, high), "fpr95": fpr95(low, high)}
