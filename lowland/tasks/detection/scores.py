"""Outlier scores that read an energy. High is unlikely, for all of them.

A score holds settings only. What it needs from inliers (a median, means and a covariance) `fit`
returns as tensors, which are passed to `compute`; those inliers must not be the calibration points,
or p-values lose their guarantee.

    "energy"          E(x)                              "typicality"    |E(x) − median E|
    "gradient-norm"   ‖∇E(x)‖                           "descent"       E after a few descent steps
    "background"      E(x) − E_0(x), E_0 of independent normal coordinates
    "multiscale"      Mahalanobis distance of log ‖∇E(x, σ)‖ at several noise levels
    "ensemble", "disagreement"    mean and deviation over the terms of a sum of energies

Those of classifiers are in `class_scores`. For another background model write
`Detector(energy - background)`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lowland.devices import to_float64
from lowland.energy import Energy, Sum, energy_values, noise_of, value_and_score
from lowland.samplers.kernel import per_row
from lowland.scalars import read_integer, read_number

Statistics = Mapping[str, Tensor]
MIN_GRADIENT_NORM = 1e-30  # of a gradient whose logarithm or direction is taken
MIN_SHARE = 1e-6  # of the mean variance, added to each


@dataclass(frozen=True)
class OutlierScore(ABC):
    """A rule that gives every point an outlier score.

    reads: what it asks of an energy, "energy" (E(x)), "noise" (E(x, σ)), "classes" (logits) or
    "terms" (the terms of a sum); needs_reference: True if `fit` must be called; follows_gradient:
    True if it differentiates E(x); batch: points computed together.
    """

    reads: ClassVar[Literal["energy", "noise", "classes", "terms"]] = "energy"
    needs_reference: ClassVar[bool] = False
    follows_gradient: ClassVar[bool] = False
    batch: ClassVar[int] = 256

    def fit(self, energy: Energy, x: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        """Compute the statistics of inliers x (N, *event), with labels (N,) if there are any."""
        return {}

    @abstractmethod
    def compute(self, energy: Energy, x: Tensor, statistics: Statistics) -> Tensor:
        """Compute outlier scores (B,) of points (B, *event)."""


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
    """|E(x) − median of E over inliers|: points that are too likely are outliers as well.

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
        values = energy_values(energy, x)
        return (values - statistics["median"].to(values.device)).abs()


@dataclass(frozen=True)
class GradientNorm(OutlierScore):
    """‖∇E(x)‖₂, small in the modes of the density.

    Source: Grathwohl et al. (2020), section 5.3 (approximate mass),
    https://arxiv.org/abs/1912.03263

    >>> import lowland
    >>> bowl = lowland.Function(lambda x: x.square().sum(1))
    >>> GradientNorm().compute(bowl, torch.tensor([[3.0, 4.0]]), {})
    tensor([10.])
    """

    follows_gradient: ClassVar[bool] = True

    def compute(self, energy: Energy, x: Tensor, statistics: Statistics) -> Tensor:
        return _norm(value_and_score(energy, x)[1])


@dataclass(frozen=True)
class Descent(OutlierScore):
    """E(x_K) after K normalised descent steps, x_{k+1} = x_k − s √D ∇E / ‖∇E‖, kept in a box.

    A few steps remove the noise on an inlier, but do not turn an outlier into an inlier. steps: K;
    step_size: s, the root mean square by which a coordinate moves in one step, whatever the unit of
    the energy. Steps keep this length near a minimum. Form: Du & Mordatch (2019), who run Langevin
    dynamics from the image, https://arxiv.org/abs/1903.08689

    >>> import lowland
    >>> bowl = lowland.Function(lambda x: x.square().sum(1))
    >>> Descent(steps=1, step_size=1.0).compute(bowl, torch.tensor([[3.0, 0.0, 0.0, 0.0]]), {})
    tensor([1.])
    """

    steps: int = 5
    step_size: float = 0.02
    follows_gradient: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", read_integer("steps", self.steps, least=1))
        object.__setattr__(self, "step_size", read_number("step_size", self.step_size, above=0))

    def compute(self, energy: Energy, x: Tensor, statistics: Statistics) -> Tensor:
        length = self.step_size * math.sqrt(x[0].numel())
        for _ in range(self.steps):
            score = value_and_score(energy, x)[1]
            x = x + per_row(length / _norm(score).clamp_min(MIN_GRADIENT_NORM), x) * score
            x = energy.domain.project(x)
        return energy_values(energy, x)


@dataclass(frozen=True)
class Background(OutlierScore):
    """Likelihood ratio E(x) − E_0(x) to independent coordinates N(μ_d, v_d), fitted to inliers.

    It removes what a bright or dark background adds to every energy. Both energies must be in nats,
    as after training at temperature 1. floor: the least deviation √v_d, in units of the deviation
    of all numbers, for pixels that hardly change. Source: Ren et al. (2019),
    https://arxiv.org/abs/1906.02845

    >>> import lowland
    >>> bowl = lowland.Function(lambda x: x.square().sum(1))
    >>> statistics = Background().fit(bowl, torch.tensor([[0.0, 1.0], [2.0, 3.0]]), None)
    >>> statistics["mean"].tolist()
    [1.0, 2.0]
    >>> Background().compute(bowl, torch.tensor([[1.0, 2.0]]), statistics).item() > 0
    True
    """

    floor: float = 0.1
    needs_reference: ClassVar[bool] = True
    batch: ClassVar[int] = 1024

    def __post_init__(self) -> None:
        object.__setattr__(self, "floor", read_number("floor", self.floor, above=0))

    def fit(self, energy: Energy, x: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        wide = to_float64(x)
        mean = wide.mean(0)
        rest = wide - mean
        least = (self.floor * rest.std()).square()
        smallest = torch.finfo(torch.float64).tiny if bool(rest.any()) else 1.0
        variance = rest.square().mean(0).clamp_min(least).clamp_min(smallest)
        return {"mean": mean, "variance": variance}

    def compute(self, energy: Energy, x: Tensor, statistics: Statistics) -> Tensor:
        values, wide = energy_values(energy, x), to_float64(x)
        mean, variance = (statistics[n].to(wide) for n in ("mean", "variance"))
        terms = (wide - mean).square() / (2 * variance) + (2 * math.pi * variance).log() / 2
        return values.to(wide.device) - terms.flatten(1).sum(1)


@dataclass(frozen=True)
class Multiscale(OutlierScore):
    """Mahalanobis distance of the gradient norms of E(x, σ) at several noise levels:

        f_l(x) = log ‖∇E(x, σ_l)‖,      (f − m)ᵀ C⁻¹ (f − m)

    m and C are the mean and covariance of f over inliers, variances raised by a share `shrinkage`.
    Small levels see texture, large ones shape. Cost: one gradient per level; no noise is added to
    x. Raises ValueError for fewer than 2 levels, levels or shrinkage not above 0, or an energy
    without noise levels. Source: Mahmood, Oliva & Styner (2021), https://arxiv.org/abs/2010.13132
    (norms themselves, and other densities of them)

    >>> import lowland
    >>> energy, x = lowland.nets.DenoiserMLP(lowland.real(2), hidden=(8,)), torch.randn(50, 2)
    >>> statistics = Multiscale((0.1, 1.0)).fit(energy, x, None)
    >>> Multiscale((0.1, 1.0)).compute(energy, torch.full((3, 2), 9.0), statistics).shape
    torch.Size([3])
    """

    sigmas: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    shrinkage: float = 0.01
    reads: ClassVar[Literal["noise"]] = "noise"
    needs_reference: ClassVar[bool] = True
    batch: ClassVar[int] = 128

    def __post_init__(self) -> None:
        sigmas, shrinkage = self.sigmas, read_number("shrinkage", self.shrinkage, above=0)
        if isinstance(sigmas, (str, bytes)) or not isinstance(sigmas, Sequence) or len(sigmas) < 2:
            raise ValueError(
                f"sigmas are {sigmas!r}; two levels or more above 0 are needed; pass for example "
                "(0.1, 1.0)"
            )
        levels = tuple(read_number("a level of sigmas", sigma, above=0) for sigma in sigmas)
        object.__setattr__(self, "sigmas", levels)
        object.__setattr__(self, "shrinkage", shrinkage)

    def fit(self, energy: Energy, x: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        f = torch.cat([self._log_norms(energy, part) for part in x.split(self.batch)])
        one_class = torch.zeros(len(f), dtype=torch.long, device=f.device)
        return fit_gaussians(f, one_class, self.shrinkage)

    def compute(self, energy: Energy, x: Tensor, statistics: Statistics) -> Tensor:
        return mahalanobis_distance(self._log_norms(energy, x), statistics)

    def _log_norms(self, energy: Energy, x: Tensor) -> Tensor:
        if not noise_of(energy):
            raise ValueError(
                f"{type(energy).__name__} knows no noise level; the score 'multiscale' compares "
                "slopes of E(x, σ) over σ; pass an energy of noise, not bound to a level, or "
                "another score"
            )
        norms = [_norm(value_and_score(energy.given(sigma), x)[1]) for sigma in self.sigmas]
        return to_float64(torch.stack(norms, 1)).clamp_min(MIN_GRADIENT_NORM).log()


@dataclass(frozen=True)
class EnsembleMean(OutlierScore):
    """Mean over the terms of a sum, each standardised: mean_k (E_k(x) − median_k) / deviation_k.

    The medians and the median absolute deviations are those of inliers. For energies in one unit
    use `Detector((a + b) / 2)`. Source: Choi, Jang & Alemi (2018), https://arxiv.org/abs/1810.01392

    >>> import lowland
    >>> bowl = lowland.Function(lambda x: x.square().sum(1))
    >>> both, x = bowl + 5 * bowl, torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]])
    >>> statistics = EnsembleMean().fit(both, x, None)
    >>> EnsembleMean().compute(both, x[1:], statistics).tolist()
    [0.0, 1.6666666269302368]
    """

    reads: ClassVar[Literal["terms"]] = "terms"
    needs_reference: ClassVar[bool] = True
    batch: ClassVar[int] = 1024

    def fit(self, energy: Energy, x: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        values = self._values(energy, x)
        median = values.median(0).values
        deviation = (values - median).abs().median(0).values
        spread = (values - median).abs().mean(0)
        deviation = torch.where(deviation > 0, deviation, torch.where(spread > 0, spread, 1.0))
        return {"median": median, "deviation": deviation}

    def compute(self, energy: Energy, x: Tensor, statistics: Statistics) -> Tensor:
        return self._standardise(energy, x, statistics).mean(1)

    def _standardise(self, energy: Energy, x: Tensor, statistics: Statistics) -> Tensor:
        values = self._values(energy, x)
        return (values - statistics["median"].to(values)) / statistics["deviation"].to(values)

    def _values(self, energy: Energy, x: Tensor) -> Tensor:
        members = ensemble_members(energy)
        return torch.stack([energy_values(term, x) for term in members], 1)


@dataclass(frozen=True)
class Disagreement(EnsembleMean):
    """Standard deviation over the terms of a sum, standardised as in `EnsembleMean`.

    Energies trained alike agree where there were data.
    Source: Lakshminarayanan, Pritzel & Blundell (2017), https://arxiv.org/abs/1612.01474

    >>> import lowland
    >>> bowl = lowland.Function(lambda x: x.square().sum(1))
    >>> statistics, x = {"median": torch.zeros(2), "deviation": torch.ones(2)}, torch.ones(1, 1)
    >>> round(Disagreement().compute(bowl + 3 * bowl, x, statistics).item(), 3)
    0.0
    """

    def compute(self, energy: Energy, x: Tensor, statistics: Statistics) -> Tensor:
        return self._standardise(energy, x, statistics).std(1)


def ensemble_members(energy: Energy) -> list[Energy]:
    """Return the terms of a sum of energies with weights above 0, without their weights.

    Raises ValueError for anything else.
    """
    if not isinstance(energy, Sum) or len(energy.energies) < 2 or min(energy.weights) <= 0:
        raise ValueError(
            f"a {type(energy).__name__} was given as an ensemble; one is a sum of two members or "
            "more with weights above 0; write a + b + c"
        )
    return [term for term in energy.energies if isinstance(term, Energy)]


def fit_gaussians(f: Tensor, labels: Tensor, shrinkage: float) -> dict[str, Tensor]:
    """Fit Gaussians with one covariance to features f (N, D) by label: means (K, D) and the
    precision (D, D), in float64.

    Variances are raised by a share `shrinkage`, and a little where a feature is constant.
    """
    f = to_float64(f)
    classes, index = labels.to(f.device).unique(return_inverse=True)
    sums = f.new_zeros(len(classes), f.shape[1]).index_add_(0, index, f)
    means = sums / torch.bincount(index).unsqueeze(1)
    rest = f - means[index]
    covariance = rest.T @ rest / max(len(f) - len(classes), 1)
    variance = covariance.diagonal()
    ridge = shrinkage * variance + MIN_SHARE * variance.mean()
    ridge = torch.where(ridge > 0, ridge, 1.0)  # no feature varies
    return {"means": means, "precision": torch.linalg.inv(covariance + ridge.diag())}


def mahalanobis_distance(f: Tensor, statistics: Statistics) -> Tensor:
    """Compute min_k (f − m_k)ᵀ P (f − m_k), (N,), for means (K, D) and a precision P (D, D)."""
    f = to_float64(f)
    means, precision = statistics["means"].to(f.device), statistics["precision"].to(f.device)
    rest = f.unsqueeze(1) - means
    return torch.einsum("nkd,de,nke->nk", rest, precision, rest).amin(1)


def _norm(x: Tensor) -> Tensor:
    return x.reshape(len(x), -1).norm(dim=1)
