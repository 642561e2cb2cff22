"""Outlier scores: what a detector reads from an energy. High is unlikely, for all of them.

A score is settings and nothing else. What it has to learn from inliers (a median, means and a
covariance) it returns from `learn` as tensors, and is handed again by `values`; those inliers must
not be the calibration points, or p-values lose their promise.

    "energy"          E(x)                              "typicality"    |E(x) − median E|
    "gradient-norm"   ‖∇E(x)‖ "descent" E where a few steps down from x end
    "background"      E(x) − E_0(x), E_0 a law of single coordinates
    "multiscale"      how far the norms ‖∇E(x, σ)‖ at several noise levels are from those of inliers
    "ensemble", "disagreement"    mean and spread of the members of a sum of energies

and of classifiers (`tasks.class_scores`): "msp", "max-logit", "logit-energy", "odin",
"mahalanobis", "knn", "ensemble-msp", "mutual-information". A background model of your own needs no score:
`Detector(energy - background)`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from lowland.energy import Energy, Sum, energy_values, noise_of, value_and_score
from lowland.samplers.kernel import per_row

Statistics = Mapping[str, Tensor]


@dataclass(frozen=True)
class OutlierScore:
    """What all scores share. reads: what they ask of an energy, "energy" (E(x)), "noise" (E(x, σ)),
    "classes" (logits) or "terms" (the members of a sum); learns: whether they need reference
    points; batch: points scored together.
    """

    reads: ClassVar[str] = "energy"
    needs_reference: ClassVar[bool] = False
    batch: ClassVar[int] = 256

    def fit(self, energy: Energy, x: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        """What inliers x (N, *event) teach, and their labels (N,) if there are any."""
        return {}

    def compute(self, energy: Energy, x: Tensor, statistics: Statistics) -> Tensor:
        """Outlier scores (B,) of points (B, *event)."""
        raise NotImplementedError


@dataclass(frozen=True)
class PlainEnergy(OutlierScore):
    """E(x), the negative log-density up to a constant.

    >>> import lowland
    >>> bowl = lowland.Function(lambda x: x.square().sum(1))
    >>> PlainEnergy().compute(bowl, torch.tensor([[0.0, 2.0]]), {})
    tensor([4.])
    """

    batch: ClassVar[int] = 1024

    def compute(self, energy: Energy, x: Tensor, statistics: Statistics) -> Tensor:
        return energy_values(energy, x)


@dataclass(frozen=True)
class Typicality(OutlierScore):
    """|E(x) − median of E over inliers|: what is too likely is an outlier as well.

    In many dimensions inliers fill a shell of energies, and flat images may lie below it.
    Source: Nalisnick et al. (2019), https://arxiv.org/abs/1906.02994

    >>> import lowland
    >>> bowl = lowland.Function(lambda x: x.square().sum(1))
    >>> Typicality().compute(bowl, torch.zeros(1, 2), {"median": torch.tensor(3.0)})
    tensor([3.])
    """

    needs_reference: ClassVar[bool] = True
    batch: ClassVar[int] = 1024

    def fit(self, energy: Energy, x: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        return {"median": energy_values(energy, x).median()}

    def compute(self, energy: Energy, x: Tensor, statistics: Statistics) -> Tensor:
        return (energy_values(energy, x) - statistics["median"]).abs()


@dataclass(frozen=True)
class GradientNorm(OutlierScore):
    """‖∇E(x)‖₂: at the foot of a valley the slope is small.

    Source: Grathwohl et al. (2020), section 5.3 (approximate mass),
    https://arxiv.org/abs/1912.03263

    >>> import lowland
    >>> bowl = lowland.Function(lambda x: x.square().sum(1))
    >>> GradientNorm().compute(bowl, torch.tensor([[3.0, 4.0]]), {})
    tensor([10.])
    """

    def compute(self, energy: Energy, x: Tensor, statistics: Statistics) -> Tensor:
        return _norm(value_and_score(energy, x)[1])


@dataclass(frozen=True)
class Descent(OutlierScore):
    """E(x_K) after K steps down, x_{k+1} = x_k − s √D ∇E / ‖∇E‖, inside the walls of a box.

    Noise on an inlier is gone after a few steps, another kind of thing is not. steps: K; step_size:
    s, the root mean square by which a coordinate moves in one step, whatever the unit of the
    energy. Steps have this length also at the bottom. Form: Du & Mordatch (2019), who run Langevin
    from the image, https://arxiv.org/abs/1903.08689

    >>> import lowland
    >>> bowl = lowland.Function(lambda x: x.square().sum(1))
    >>> Descent(steps=1, step_size=1.0).compute(bowl, torch.tensor([[3.0, 0.0, 0.0, 0.0]]), {})
    tensor([1.])
    """

    steps: int = 5
    step_size: float = 0.02

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.step_size > 0:
            raise ValueError(
                f"steps is {self.steps} and step_size {self.step_size}; at least 1 and above 0; "
                "correct them"
            )

    def compute(self, energy: Energy, x: Tensor, statistics: Statistics) -> Tensor:
        length = self.step_size * math.sqrt(x[0].numel())
        for _ in range(self.steps):
            score = value_and_score(energy, x)[1]
            x = x + per_row(length / _norm(score).clamp_min(1e-30), x) * score
            x = energy.domain.project(x)
        return energy_values(energy, x)


@dataclass(frozen=True)
class Background(OutlierScore):
    """E(x) − E_0(x) with E_0 the law of single coordinates, N(μ_d, v_d), fitted to inliers: a
    likelihood ratio.

    What bright or dark backgrounds add to the energy of everything is taken out again. Both must be
    in nats, as after training at temperature 1. floor: the least deviation √v_d, in units of the
    deviation of all numbers, for pixels that hardly change. For another background model write
    `Detector(energy - background)`. Source: Ren et al. (2019), https://arxiv.org/abs/1906.02845

    >>> import lowland
    >>> bowl = lowland.Function(lambda x: x.square().sum(1))
    >>> statistics = Background().fit(bowl, torch.tensor([[0.0, 1.0], [2.0, 3.0]]), None)
    >>> statistics["mean"].tolist(), Background().compute(bowl, torch.tensor([[1.0, 2.0]]), statistics).item() > 0
    ([1.0, 2.0], True)
    """

    floor: float = 0.1
    needs_reference: ClassVar[bool] = True
    batch: ClassVar[int] = 1024

    def fit(self, energy: Energy, x: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        least = self.floor * (x - x.mean(0)).std()
        return {
            "mean": x.mean(0),
            "variance": x.var(0, correction=0).clamp_min(least.square().clamp_min(1e-12)),
        }

    def compute(self, energy: Energy, x: Tensor, statistics: Statistics) -> Tensor:
        mean, variance = statistics["mean"].to(x), statistics["variance"].to(x)
        terms = (x - mean).square() / (2 * variance) + (2 * math.pi * variance).log() / 2
        return energy_values(energy, x) - terms.flatten(1).sum(1)


@dataclass(frozen=True)
class Multiscale(OutlierScore):
    """How far the slopes at several noise levels are from those of inliers, for an energy E(x, σ):

        f_l(x) = log ‖∇E(x, σ_l)‖,      score = (f − m)ᵀ C⁻¹ (f − m)

    m and C are the mean and covariance of f over inliers, its variances raised by a share
    `shrinkage`. One level sees texture, another shape; together they know the typical set of each
    scale. Cost: one gradient per level. The noise is in the energy: x itself gets none. Raises
    ValueError for fewer than 2 levels, levels or shrinkage not above 0, or an energy that knows no
    noise. Source: Mahmood, Oliva & Styner (2021), https://arxiv.org/abs/2010.13132 (norms
    themselves, and other densities of them)

    >>> import lowland
    >>> energy, x = lowland.nets.DenoiserMLP(lowland.real(2), hidden=(8,)), torch.randn(50, 2)
    >>> statistics = Multiscale((0.1, 1.0)).fit(energy, x, None)
    >>> Multiscale((0.1, 1.0)).compute(energy, torch.full((3, 2), 9.0), statistics).shape
    torch.Size([3])
    """

    sigmas: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    shrinkage: float = 0.01
    reads: ClassVar[str] = "noise"
    needs_reference: ClassVar[bool] = True
    batch: ClassVar[int] = 128

    def __post_init__(self) -> None:
        if len(self.sigmas) < 2 or min(self.sigmas) <= 0 or not self.shrinkage > 0:
            raise ValueError(
                f"sigmas are {self.sigmas} and shrinkage {self.shrinkage}; two levels or more "
                "above 0 and a share above 0 are needed; correct them"
            )

    def fit(self, energy: Energy, x: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        f = torch.cat([self._slopes(energy, part) for part in x.split(self.batch)])
        return gaussian(f, torch.zeros(len(f), dtype=torch.long, device=f.device), self.shrinkage)

    def compute(self, energy: Energy, x: Tensor, statistics: Statistics) -> Tensor:
        return distance(self._slopes(energy, x), statistics)

    def _slopes(self, energy: Energy, x: Tensor) -> Tensor:
        if noise_of(energy) is None:
            raise ValueError(
                f"{type(energy).__name__} knows no noise level; the score 'multiscale' compares "
                "slopes of E(x, σ) over σ; pass an energy of noise, not bound to a level, or "
                "another score"
            )
        norms = [_norm(value_and_score(energy.given(sigma), x)[1]) for sigma in self.sigmas]
        return torch.stack(norms, 1).double().clamp_min(1e-30).log()


@dataclass(frozen=True)
class EnsembleMean(OutlierScore):
    """Mean over the members of a sum of energies, each in its own unit: mean_k (E_k(x) − median_k)
    / deviation_k.

    The median and the absolute deviation from it are those of inliers. For energies in one unit,
    `Detector((a + b) / 2)` does. Source: Choi, Jang & Alemi (2018),
    https://arxiv.org/abs/1810.01392

    >>> import lowland
    >>> bowl = lowland.Function(lambda x: x.square().sum(1))
    >>> statistics = EnsembleMean().fit(bowl + 5 * bowl, torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]]), None)
    >>> EnsembleMean().compute(bowl + 5 * bowl, torch.tensor([[2.0, 0.0], [3.0, 0.0]]), statistics).tolist()
    [0.0, 1.6666666269302368]
    """

    reads: ClassVar[str] = "terms"
    needs_reference: ClassVar[bool] = True
    batch: ClassVar[int] = 1024

    def fit(self, energy: Energy, x: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        found = self._each(energy, x)
        median = found.median(0).values
        return {
            "median": median,
            "deviation": (found - median).abs().median(0).values.clamp_min(1e-12),
        }

    def compute(self, energy: Energy, x: Tensor, statistics: Statistics) -> Tensor:
        return self._standard(energy, x, statistics).mean(1)

    def _standard(self, energy: Energy, x: Tensor, statistics: Statistics) -> Tensor:
        return (self._each(energy, x) - statistics["median"].to(x)) / statistics["deviation"].to(x)

    def _each(self, energy: Energy, x: Tensor) -> Tensor:
        return torch.stack([energy_values(member, x) for member in members(energy)], 1)


@dataclass(frozen=True)
class Disagreement(EnsembleMean):
    """Standard deviation over the members of a sum of energies, each in its own unit (see
    `EnsembleMean`).

    Members that were trained alike agree where there were data.
    Source: Lakshminarayanan, Pritzel & Blundell (2017), https://arxiv.org/abs/1612.01474

    >>> import lowland
    >>> bowl = lowland.Function(lambda x: x.square().sum(1))
    >>> statistics = {"median": torch.zeros(2), "deviation": torch.ones(2)}
    >>> round(Disagreement().compute(bowl + 3 * bowl, torch.tensor([[1.0, 0.0]]), statistics).item(), 3)
    0.0
    """

    def compute(self, energy: Energy, x: Tensor, statistics: Statistics) -> Tensor:
        return self._standard(energy, x, statistics).std(1)


def members(energy: Energy) -> list[Energy]:
    """The terms of a sum of energies, whatever their weights above 0. Raises ValueError for
    anything else.
    """
    if not isinstance(energy, Sum) or len(energy.energies) < 2 or min(energy.weights) <= 0:
        raise ValueError(
            f"a {type(energy).__name__} was given as an ensemble; one is a sum of two members or "
            "more with weights above 0; write a + b + c"
        )
    return [cast(Energy, member) for member in energy.energies]


def gaussian(f: Tensor, labels: Tensor, shrinkage: float) -> dict[str, Tensor]:
    """Means (K, D) of features f (N, D) by label, and the inverse (D, D) of their common covariance
    about them, in float64.

    Variances are raised by a share `shrinkage`, and by a trifle where a feature is constant.
    """
    f = f.double()
    classes, place = labels.unique(return_inverse=True)
    sums = torch.zeros(len(classes), f.shape[1], dtype=f.dtype, device=f.device).index_add_(
        0, place, f
    )
    means = sums / torch.bincount(place).unsqueeze(1)
    rest = f - means[place]
    covariance = rest.T @ rest / max(len(f) - len(classes), 1)
    raised = shrinkage * covariance.diagonal() + 1e-6 * covariance.diagonal().mean() + 1e-12
    return {"means": means, "precision": torch.linalg.inv(covariance + raised.diag())}


def distance(f: Tensor, statistics: Statistics) -> Tensor:
    """min_k (f − m_k)ᵀ P (f − m_k), (N,), for means (K, D) and precision P (D, D)."""
    means, precision = statistics["means"].to(f.device), statistics["precision"].to(f.device)
    rest = f.double().unsqueeze(1) - means
    return torch.einsum("nkd,de,nke->nk", rest, precision, rest).amin(1)


def _norm(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1) if x.dim() > 1 else x.abs()
