"""The attack that knows of an energy on the watch: it fools a classifier with points that the
energy finds likely.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lowland.energy import Energy, check_finite, energy_values, frozen, lift
from lowland.robustness.attacks import PGD, Model, check_attack, margin

FOOLED = 1e6  # rank of a fooled row above every row that is not


@dataclass(frozen=True)
class AdaptivePGD(PGD):
    """Fools the classifier and keeps an energy low, so that a detector that calls high energies
    outliers lets the point pass.

        J(x') = min(margin(x'), 1) − w max(0, E(x') − m) / s,      m, s: median and spread of E at
                                                                   the points attacked

    energy: an energy or a callable (B, *event) -> (B,); weights: w, one per restart in turn. Of the
    points seen, the best is one that is fooled and has the lowest energy. early_stop has no say: a
    fooled row may still come down. Source: Carlini & Wagner (2017),
    https://arxiv.org/abs/1705.07263
    """

    energy: Any = None
    weights: Sequence[float] = (0.3, 3.0)
    restarts: int = 2
    early_stop: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if (
            not callable(self.energy)
            or not self.weights
            or not all(w >= 0 for w in self.weights)
            or self.early_stop
        ):
            raise ValueError(
                f"AdaptivePGD was given a {type(self.energy).__name__} for its energy, weights "
                f"{self.weights} and early_stop {self.early_stop}; it needs an energy or a callable, "
                "weights of at least 0 and early_stop=False; correct them"
            )

    def __call__(
        self, model: Model, x: Tensor, labels: Tensor, epsilon: float, *, generator: torch.Generator
    ) -> Tensor:
        check_attack(model, x, labels, epsilon, self.bounds)
        energy = lift(self.energy)
        usual = energy_values(energy, x.detach())
        check_finite(usual, "energies")
        with frozen(energy):
            return super().__call__(
                _Watched(model, energy, usual), x, labels, epsilon, generator=generator
            )

    def objective(
        self, model: Any, at: Tensor, labels: Tensor, turn: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        lost = margin(model(at).to(at.dtype), labels)
        high = (model.energy(at) - model.level) / model.spread
        rank = torch.where(lost > 0, FOOLED - high, lost)
        return rank, lost.clamp_max(1.0) - self.weights[
            turn[0] % len(self.weights)
        ] * high.clamp_min(0.0)


class _Watched(nn.Module):
    """A model, and the energy that watches what is shown to it."""

    def __init__(self, model: Model, energy: Energy, usual: Tensor) -> None:
        super().__init__()
        self.model, self.energy = model, energy
        self.level = float(usual.median())
        self.spread = max(float((usual - self.level).abs().median()), 1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)
