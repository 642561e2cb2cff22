"""The attack on a classifier and a detector at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lowland.energy import Energy, check_finite, check_gradient, energy_values, lift
from lowland.robustness.pgd import PGD
from lowland.robustness.threat_model import Model, check_attack, margin
from lowland.scalars import read_number

MISCLASSIFIED = 1e6  # rank of a misclassified row with the usual energy, above all other rows
MIN_SPREAD = 1e-6  # of the energies at the points attacked


@dataclass(frozen=True)
class AdaptivePGD(PGD):
    """PGD that misleads the classifier and keeps an energy low, to pass a detector of outliers.

        J(x') = min(margin(x'), 1) − w max(0, E(x') − m) / s

    m and s are the median of E at the points attacked and the median distance from it. energy: an
    energy or a callable (B, *event) -> (B,); weights: w, one per restart in turn. The best point is
    misclassified and has the lowest energy. early_stop must be False: a misclassified row may still
    lower its energy. Source: Carlini & Wagner (2017), https://arxiv.org/abs/1705.07263
    """

    energy: Energy | Callable[[Tensor], Tensor] | None = None
    weights: Sequence[float] = (0.3, 3.0)
    restarts: int = 2
    early_stop: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        weighted = isinstance(self.weights, Sequence) and not isinstance(self.weights, str)
        if weighted and callable(self.energy):
            weights = tuple(read_number("a weight", weight, least=0) for weight in self.weights)
            object.__setattr__(self, "weights", weights)
        if not callable(self.energy) or not weighted or not self.weights or self.early_stop:
            raise ValueError(
                f"AdaptivePGD was given a {type(self.energy).__name__} for its energy, weights "
                f"{self.weights} and early_stop {self.early_stop}; it needs an energy or a "
                "callable, weights of at least 0 and early_stop=False; correct them"
            )

    def __call__(
        self, model: Model, x: Tensor, labels: Tensor, epsilon: float, *, generator: torch.Generator
    ) -> Tensor:
        check_attack(model, x, labels, epsilon, self.bounds)
        assert self.energy is not None
        energy = lift(self.energy)
        usual = energy_values(energy, x.detach())
        check_finite(usual, "energies")
        check_gradient(energy, x.detach())
        watched = _Watched(model, energy, usual)
        return super().__call__(watched, x, labels, epsilon, generator=generator)

    def objective(
        self, model: Model, at: Tensor, labels: Tensor, turn: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        assert isinstance(model, _Watched)
        excess = margin(model(at).to(at.dtype), labels)
        energy = (model.energy(at) - model.median) / model.spread
        rank = torch.where(excess > 0, MISCLASSIFIED - energy, excess)
        weight = self.weights[turn[0] % len(self.weights)]
        return rank, excess.clamp_max(1.0) - weight * energy.clamp_min(0.0)


class _Watched(nn.Module):
    """A classifier with the energy of its detector, and the unit of that energy."""

    def __init__(self, model: Model, energy: Energy, usual: Tensor) -> None:
        super().__init__()
        self.model, self.energy = model, energy
        self.median = float(usual.median())
        self.spread = max(float((usual - self.median).abs().median()), MIN_SPREAD)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)
