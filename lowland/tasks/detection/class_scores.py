"""Outlier scores that read a classifier: its logits f(x) (B, K), or what a layer makes of x. High
is unlikely, for all of them.

The energy is a function or module that gives logits, a `ClassifierEnergy`, or any energy with
classes: then f = −(energies of the classes), or, where an energy keeps its level apart from its
classes, the logits of p(y | x) alone. No score is tuned on outliers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lowland.energy import Energy, labels_of
from lowland.energy.gradient import frozen
from lowland.tasks.detection.scores import OutlierScore, Statistics, distance, gaussian, members


def logits(energy: Any, x: Tensor) -> Tensor:
    """Logits (B, K) of x. Raises ValueError for an energy that gives none.

    >>> logits(lambda x: x @ torch.eye(2), torch.ones(1, 2))
    tensor([[1., 1.]])
    """
    found = _classify(energy)(x)
    if found.dim() != 2 or len(found) != len(x) or found.shape[1] < 2:
        raise ValueError(
            f"the energy gave {tuple(found.shape)} for {len(x)} points; a score of classes needs "
            f"logits ({len(x)}, K) with K >= 2; pass a classifier, an energy with classes, or "
            "another score"
        )
    return found


def _classify(energy: Any) -> Callable[[Tensor], Tensor]:
    """Return the function x -> logits of an energy with labels; any other callable as it is."""
    labels = labels_of(energy) if isinstance(energy, Energy) else None
    return energy if labels is None else labels.logits


def features(energy: Energy, x: Tensor, layers: Sequence[str] = ()) -> list[Tensor]:
    """What layers of a network make of x: one (B, D) each. Without names, what the last linear
    layer that runs is given.

    layers: names of modules in `energy.named_modules()`; maps (B, C, H, W) are averaged over space.
    Raises ValueError for a name that is not there, and for an energy without a linear layer.

    >>> features(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 5)), torch.zeros(4, 2))[0].shape
    torch.Size([4, 3])
    """
    known = dict(energy.named_modules())
    missing = [name for name in layers if name not in known]
    if missing:
        raise ValueError(
            f"there is no layer {missing[0]!r}; allowed are {', '.join(filter(None, known))}; name "
            "one of them"
        )
    caught: dict[str, Tensor] = {}

    def keep(name: str, value: Tensor) -> None:
        caught[name] = value

    if layers:
        hooks = [
            known[name].register_forward_hook(lambda _m, _i, out, name=name: keep(name, out))
            for name in layers
        ]
    else:
        linear = [module for module in known.values() if isinstance(module, nn.Linear)]
        hooks = [
            module.register_forward_pre_hook(lambda _m, given: keep("", given[0]))
            for module in linear
        ]
    try:
        with torch.no_grad():
            _classify(energy)(x)
    finally:
        for hook in hooks:
            hook.remove()
    found = [caught.get(name) for name in layers or ("",)]
    if any(f is None or len(f) != len(x) for f in found):
        raise ValueError(
            f"{type(energy).__name__} has no layer to read features (B, D) from; a linear layer "
            "that runs, or names of layers, are needed; pass layers=('name', ...) to the score"
        )
    return [
        f.flatten(2).mean(2).float() if f.dim() > 2 else f.float() for f in found if f is not None
    ]


@dataclass(frozen=True)
class MSP(OutlierScore):
    """−log max_k p(k | x): the classifier's doubt, from the other classes, so that sure answers do
    not tie.

    Source: Hendrycks & Gimpel (2017), https://arxiv.org/abs/1610.02136

    >>> round(MSP().compute(nn.Identity(), torch.tensor([[0.0, 0.0]]), {}).item(), 4)
    0.6931
    """

    reads: ClassVar[str] = "classes"

    def compute(self, energy: Energy, x: Tensor, statistics: Statistics) -> Tensor:
        with torch.no_grad():
            return _doubt(logits(energy, x))


@dataclass(frozen=True)
class MaxLogit(OutlierScore):
    """−max_k f_k(x).

    Source: Hendrycks et al. (2022), https://arxiv.org/abs/1911.11132

    >>> MaxLogit().compute(nn.Identity(), torch.tensor([[1.0, 3.0]]), {}).item()
    -3.0
    """

    reads: ClassVar[str] = "classes"

    def compute(self, energy: Energy, x: Tensor, statistics: Statistics) -> Tensor:
        with torch.no_grad():
            return -logits(energy, x).double().amax(1)


@dataclass(frozen=True)
class LogitEnergy(OutlierScore):
    """−T log Σ_k exp(f_k(x) / T). temperature: T.

    Source: Liu et al. (2020), https://arxiv.org/abs/2010.03759

    >>> round(LogitEnergy().compute(nn.Identity(), torch.tensor([[0.0, 0.0]]), {}).item(), 4)
    -0.6931
    """

    temperature: float = 1.0
    reads: ClassVar[str] = "classes"

    def __post_init__(self) -> None:
        _check_temperature(self.temperature)

    def compute(self, energy: Energy, x: Tensor, statistics: Statistics) -> Tensor:
        with torch.no_grad():
            return -self.temperature * (logits(energy, x).double() / self.temperature).logsumexp(1)


@dataclass(frozen=True)
class ODIN(OutlierScore):
    """−log max_k softmax(f(x̃) / T)_k with x̃ = x + ε sign ∇_x log max_k softmax(f(x) / T)_k.

    A small step towards the class that is called lifts inliers more than outliers. temperature: T;
    epsilon: ε, in the unit of x. The defaults are the paper's middle values for images in [0, 1];
    there, both were tuned on outliers, here they are not. Source: Liang, Li & Srikant (2018),
    https://arxiv.org/abs/1706.02690

    >>> round(ODIN(temperature=1.0, epsilon=1.0).compute(nn.Identity(), torch.tensor([[1.0, 0.0]]), {}).item(), 4)
    0.0486
    """

    temperature: float = 1000.0
    epsilon: float = 0.0014
    reads: ClassVar[str] = "classes"

    def __post_init__(self) -> None:
        _check_temperature(self.temperature)
        if not self.epsilon >= 0:
            raise ValueError(
                f"epsilon is {self.epsilon}; a step is 0 or above; 0.0014 suits images in [0, 1]"
            )

    def compute(self, energy: Energy, x: Tensor, statistics: Statistics) -> Tensor:
        with frozen(energy), torch.inference_mode(False), torch.enable_grad():
            leaf = x.detach().clone().requires_grad_(True)
            (slope,) = torch.autograd.grad(
                _doubt(logits(energy, leaf) / self.temperature).sum(), leaf
            )
        with torch.no_grad():
            return _doubt(
                logits(energy, x - self.epsilon * slope.sign()).double() / self.temperature
            )


@dataclass(frozen=True)
class Mahalanobis(OutlierScore):
    """Σ_l min_k (h_l − μ_lk)ᵀ C_l⁻¹ (h_l − μ_lk): how far features h_l of layer l are from the
    nearest class.

    Means of the classes and their common covariance are those of inliers by label, or by the class
    that the classifier calls where there are no labels; an energy without classes counts as one
    class. layers: as in `features`; shrinkage: a share by which variances are raised. Layers are
    added as they are: the weights of the paper were fitted to outliers. Source: Lee et al. (2018),
    https://arxiv.org/abs/1807.03888

    >>> net, x = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)), torch.randn(50, 2)
    >>> statistics = Mahalanobis().fit(net, x, torch.arange(50) % 2)
    >>> statistics["0/means"].shape, Mahalanobis().compute(net, x, statistics).shape
    (torch.Size([2, 3]), torch.Size([50]))
    """

    layers: tuple[str, ...] = ()
    shrinkage: float = 0.01
    reads: ClassVar[str] = "classes"
    needs_reference: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.shrinkage > 0:
            raise ValueError(
                f"shrinkage is {self.shrinkage}; covariances are raised by a share above 0; 0.01 "
                "is common"
            )

    def fit(self, energy: Energy, x: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        if labels is None:
            labels = torch.cat([_called(energy, part) for part in x.split(self.batch)])
        found = _split_features(energy, x, self.layers, self.batch)
        return {
            f"{i}/{name}": t
            for i, f in enumerate(found)
            for name, t in gaussian(f, labels, self.shrinkage).items()
        }

    def compute(self, energy: Energy, x: Tensor, statistics: Statistics) -> Tensor:
        parts = [
            {name: statistics[f"{i}/{name}"] for name in ("means", "precision")}
            for i in range(max(len(self.layers), 1))
        ]
        return torch.stack(
            [distance(f, p) for f, p in zip(features(energy, x, self.layers), parts, strict=True)]
        ).sum(0)


@dataclass(frozen=True)
class KNN(OutlierScore):
    """Distance from the features of x to the k-th nearest of inliers, features scaled to length 1.

    neighbours: k; layers: as in `features`, put side by side; bank: how many inliers are kept, the
    first. Raises ValueError for fewer inliers than k. Source: Sun et al. (2022),
    https://arxiv.org/abs/2204.06507

    >>> net, x = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)), torch.randn(50, 2)
    >>> score = KNN(neighbours=1)
    >>> score.compute(net, x, score.fit(net, x, None)).amax().item() < 1e-3
    True
    """

    neighbours: int = 10
    layers: tuple[str, ...] = ()
    bank: int = 5000
    reads: ClassVar[str] = "classes"
    needs_reference: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 1 <= self.neighbours <= self.bank:
            raise ValueError(
                f"neighbours is {self.neighbours} of a bank of {self.bank}; 1 to all of them; "
                "correct one"
            )

    def fit(self, energy: Energy, x: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        if len(x) < self.neighbours:
            raise ValueError(
                f"{len(x)} reference points came for the {self.neighbours} nearest; at least as "
                "many are needed; bring more, or set fewer neighbours"
            )
        return {
            "bank": self._unit(_split_features(energy, x[: self.bank], self.layers, self.batch))
        }

    def compute(self, energy: Energy, x: Tensor, statistics: Statistics) -> Tensor:
        near = torch.cdist(
            self._unit(features(energy, x, self.layers)), statistics["bank"].to(x.device)
        )
        return near.kthvalue(self.neighbours, 1).values

    @staticmethod
    def _unit(found: Sequence[Tensor]) -> Tensor:
        return torch.cat([f / f.norm(dim=1, keepdim=True).clamp_min(1e-12) for f in found], 1)


@dataclass(frozen=True)
class EnsembleMSP(OutlierScore):
    """−log max_k p̄_k(x), p̄ the mean of the class probabilities of the members of a sum: a deep
    ensemble's doubt.

    Source: Lakshminarayanan, Pritzel & Blundell (2017), https://arxiv.org/abs/1612.01474

    >>> import lowland
    >>> same = lowland.Function(lambda x: x)
    >>> round(EnsembleMSP().compute(same + same, torch.tensor([[0.0, 0.0]]), {}).item(), 4)
    0.6931
    """

    reads: ClassVar[str] = "terms"

    def compute(self, energy: Energy, x: Tensor, statistics: Statistics) -> Tensor:
        p = _probabilities(energy, x).mean(0).sort(1).values
        return -torch.log1p(-p[:, :-1].sum(1))


@dataclass(frozen=True)
class MutualInformation(OutlierScore):
    """H(p̄) − mean_m H(p_m): what the members of a sum of classifiers disagree about, and not what
    each of them doubts.

    Source: Houlsby et al. (2011), https://arxiv.org/abs/1112.5745

    >>> import lowland
    >>> one, other = lowland.Function(lambda x: x), lowland.Function(lambda x: -x)
    >>> round(MutualInformation().compute(one + other, torch.tensor([[50.0, -50.0], [0.0, 0.0]]), {})[0].item(), 4)
    0.6931
    """

    reads: ClassVar[str] = "terms"

    def compute(self, energy: Energy, x: Tensor, statistics: Statistics) -> Tensor:
        p = _probabilities(energy, x)
        return _entropy(p.mean(0)) - _entropy(p).mean(0)


def _doubt(f: Tensor) -> Tensor:
    """log Σ_k exp f_k − max_k f_k, as log(1 + Σ exp(f_k − max f)) over the other classes."""
    ordered = f.double().sort(1, descending=True).values
    return torch.log1p((ordered[:, 1:] - ordered[:, :1]).exp().sum(1))


def _probabilities(energy: Energy, x: Tensor) -> Tensor:
    """Class probabilities (members, B, K) in float64."""
    with torch.no_grad():
        return torch.stack([logits(member, x).double().softmax(1) for member in members(energy)])


def _entropy(p: Tensor) -> Tensor:
    return torch.special.entr(p).sum(-1)


def _split_features(energy: Energy, x: Tensor, layers: Sequence[str], batch: int) -> list[Tensor]:
    parts = [features(energy, part, layers) for part in x.split(batch)]
    return [torch.cat(found) for found in zip(*parts, strict=True)]


def _called(energy: Energy, x: Tensor) -> Tensor:
    """The class that the classifier calls (B,), or 0 for an energy without classes."""
    with torch.no_grad():
        try:
            return logits(energy, x).argmax(1)
        except ValueError:
            return torch.zeros(len(x), dtype=torch.long, device=x.device)


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(
            f"temperature is {temperature}; logits are divided by it, so it is above 0; 1 leaves "
            "them as they are"
        )
