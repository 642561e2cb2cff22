"""Outlier scores that read a classifier: its logits f(x) (B, K), or features of its layers.

High is unlikely, for all of them. A classifier is a function or module that gives logits, or an
energy with classes, whose logits are those of p(y | x). No score is tuned on outliers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from lowland.devices import to_float64
from lowland.energy import Energy, freeze, labels_of, view_module
from lowland.metrics.distances import distances
from lowland.scalars import read_integer, read_number
from lowland.tasks.detection.scores import (
    OutlierScore,
    Statistics,
    ensemble_members,
    fit_gaussians,
    mahalanobis_distance,
)

Classifier = Energy | Callable[[Tensor], Tensor]
MIN_FEATURE_LENGTH = 1e-12  # of features that are scaled to length 1


def logits(classifier: Classifier, x: Tensor) -> Tensor:
    """Compute logits (B, K) of points x (B, *event). Raises ValueError if there are none.

    >>> logits(lambda x: x @ torch.eye(2), torch.ones(1, 2))
    tensor([[1., 1.]])
    """
    values = _logits_function(classifier)(x)
    if values.dim() != 2 or len(values) != len(x) or values.shape[1] < 2:
        raise ValueError(
            f"the energy gave {tuple(values.shape)} for {len(x)} points; a score of classes needs "
            f"logits ({len(x)}, K) with K >= 2; pass a classifier, an energy with classes, or "
            "another score"
        )
    return values


def _logits_function(classifier: Classifier) -> Callable[[Tensor], Tensor]:
    """Return the function x -> logits of an energy with classes; a callable as it is."""
    labels = labels_of(classifier) if isinstance(classifier, Energy) else None
    return classifier if labels is None else labels.logits


def features(energy: nn.Module, x: Tensor, layers: Sequence[str] = ()) -> list[Tensor]:
    """Compute the outputs of layers of a network at x, one (B, D) each.

    layers: names in `energy.named_modules()`; maps (B, C, H, W) are averaged over space. Without
    names, the input of the last linear layer that runs. Raises ValueError for a name that does not
    exist, and for an energy without a linear layer.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 5))
    >>> features(net, torch.zeros(4, 2))[0].shape
    torch.Size([4, 3])
    """
    energy = view_module(energy, constant=False)  # its hooks are nobody else's
    known = dict(energy.named_modules())
    missing = [name for name in layers if name not in known]
    if missing:
        raise ValueError(
            f"there is no layer {missing[0]!r}; allowed are {', '.join(filter(None, known))}; name "
            "one of them"
        )
    outputs: dict[str, Tensor] = {}
    for name in layers:
        known[name].register_forward_hook(
            lambda _m, _in, output, name=name: outputs.__setitem__(name, output)
        )
    for module in () if layers else known.values():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(lambda _m, args: outputs.__setitem__("", args[0]))
    with torch.no_grad():
        _logits_function(energy)(x)
    names = layers or ("",)
    if not all(name in outputs and len(outputs[name]) == len(x) for name in names):
        raise ValueError(
            f"{type(energy).__name__} has no layer to read features (B, D) from; a linear layer "
            "that runs, or names of layers, are needed; pass layers=('name', ...) to the score"
        )
    return [to_float64(_average_maps(outputs[name])) for name in names]


def _average_maps(f: Tensor) -> Tensor:
    return f.flatten(2).mean(2) if f.dim() > 2 else f


@dataclass(frozen=True)
class ClassScore(OutlierScore):
    """An outlier score that reads a classifier."""

    reads: ClassVar[Literal["classes"]] = "classes"


@dataclass(frozen=True)
class MSP(ClassScore):
    """−log max_k p(k | x), the maximum softmax probability, computed from the other classes so
    that confident answers do not tie.

    Source: Hendrycks & Gimpel (2017), https://arxiv.org/abs/1610.02136

    >>> round(MSP().compute(nn.Identity(), torch.tensor([[0.0, 0.0]]), {}).item(), 4)
    0.6931
    """

    def compute(self, energy: Energy, x: Tensor, statistics: Statistics) -> Tensor:
        with torch.no_grad():
            return _negative_log_msp(logits(energy, x))


@dataclass(frozen=True)
class MaxLogit(ClassScore):
    """−max_k f_k(x).

    Source: Hendrycks et al. (2022), https://arxiv.org/abs/1911.11132

    >>> MaxLogit().compute(nn.Identity(), torch.tensor([[1.0, 3.0]]), {}).item()
    -3.0
    """

    def compute(self, energy: Energy, x: Tensor, statistics: Statistics) -> Tensor:
        with torch.no_grad():
            return -to_float64(logits(energy, x)).amax(1)


@dataclass(frozen=True)
class LogitEnergy(ClassScore):
    """−T log Σ_k exp(f_k(x) / T). temperature: T.

    Source: Liu et al. (2020), https://arxiv.org/abs/2010.03759

    >>> round(LogitEnergy().compute(nn.Identity(), torch.tensor([[0.0, 0.0]]), {}).item(), 4)
    -0.6931
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "temperature", _read_temperature(self.temperature))

    def compute(self, energy: Energy, x: Tensor, statistics: Statistics) -> Tensor:
        with torch.no_grad():
            scaled = to_float64(logits(energy, x)) / self.temperature
            return -self.temperature * scaled.logsumexp(1)


@dataclass(frozen=True)
class ODIN(ClassScore):
    """−log max_k softmax(f(x̃) / T)_k with x̃ = x + ε sign ∇_x log max_k softmax(f(x) / T)_k.

    A small step towards the predicted class lifts inliers more than outliers. temperature: T;
    epsilon: ε, in the unit of x. The defaults are the paper's middle values for images in [0, 1];
    there, both were tuned on outliers, here they are not. Source: Liang, Li & Srikant (2018),
    https://arxiv.org/abs/1706.02690

    >>> score = ODIN(temperature=1.0, epsilon=1.0)
    >>> round(score.compute(nn.Identity(), torch.tensor([[1.0, 0.0]]), {}).item(), 4)
    0.0486
    """

    temperature: float = 1000.0
    epsilon: float = 0.0014

    def __post_init__(self) -> None:
        object.__setattr__(self, "temperature", _read_temperature(self.temperature))
        object.__setattr__(self, "epsilon", read_number("epsilon", self.epsilon, least=0))

    def compute(self, energy: Energy, x: Tensor, statistics: Statistics) -> Tensor:
        with freeze(energy) as energy, torch.inference_mode(False), torch.enable_grad():
            leaf = x.detach().clone().requires_grad_(True)
            loss = _negative_log_msp(logits(energy, leaf) / self.temperature).sum()
            gradient = None
            if loss.requires_grad:
                (gradient,) = torch.autograd.grad(loss, leaf, allow_unused=True)
        if gradient is None:
            raise ValueError(
                "no gradient of the classifier reaches the points; 'odin' takes a step along it; "
                "keep x in the graph (no .detach() or .numpy() inside), or use 'msp'"
            )
        with torch.no_grad():
            moved = to_float64(logits(energy, x - self.epsilon * gradient.sign()))
            return _negative_log_msp(moved / self.temperature)


@dataclass(frozen=True)
class Mahalanobis(ClassScore):
    """Σ_l min_k (h_l − μ_lk)ᵀ C_l⁻¹ (h_l − μ_lk) of features h_l of layer l, to the nearest class.

    Means of the classes and their common covariance are those of inliers by label, or by predicted
    class without labels; an energy without classes counts as one class. layers: as in `features`;
    shrinkage: a share by which variances are raised. Layers are added with equal weights: those of
    the paper were fitted to outliers. Source: Lee et al. (2018), https://arxiv.org/abs/1807.03888

    >>> net, x = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)), torch.randn(50, 2)
    >>> statistics = Mahalanobis().fit(net, x, torch.arange(50) % 2)
    >>> statistics["0/means"].shape, Mahalanobis().compute(net, x, statistics).shape
    (torch.Size([2, 3]), torch.Size([50]))
    """

    layers: tuple[str, ...] = ()
    shrinkage: float = 0.01
    needs_reference: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "shrinkage", read_number("shrinkage", self.shrinkage, above=0))

    def fit(self, energy: Energy, x: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        if labels is None:
            labels = torch.cat([_predict_class(energy, part) for part in x.split(self.batch)])
        layers = _split_features(energy, x, self.layers, self.batch)
        return {
            f"{i}/{name}": tensor
            for i, f in enumerate(layers)
            for name, tensor in fit_gaussians(f, labels, self.shrinkage).items()
        }

    def compute(self, energy: Energy, x: Tensor, statistics: Statistics) -> Tensor:
        distances = [
            mahalanobis_distance(
                f, {name: statistics[f"{i}/{name}"] for name in ("means", "precision")}
            )
            for i, f in enumerate(features(energy, x, self.layers))
        ]
        return torch.stack(distances).sum(0)


@dataclass(frozen=True)
class KNN(ClassScore):
    """Distance from the features of x to the k-th nearest of inliers, features scaled to length 1.

    neighbours: k; layers: as in `features`, concatenated; bank: number of inliers stored, the first
    ones. Raises ValueError for fewer inliers than k. Source: Sun et al. (2022),
    https://arxiv.org/abs/2204.06507

    >>> net, x = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)), torch.randn(50, 2)
    >>> score = KNN(neighbours=1)
    >>> score.compute(net, x, score.fit(net, x, None)).amax().item() < 1e-3
    True
    """

    neighbours: int = 10
    layers: tuple[str, ...] = ()
    bank: int = 5000
    needs_reference: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "neighbours", read_integer("neighbours", self.neighbours))
        object.__setattr__(self, "bank", read_integer("bank", self.bank))
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
        layers = _split_features(energy, x[: self.bank], self.layers, self.batch)
        return {"bank": _normalize(layers)}

    def compute(self, energy: Energy, x: Tensor, statistics: Statistics) -> Tensor:
        points, bank = _normalize(features(energy, x, self.layers)), statistics["bank"]
        return distances(points, bank.to(points.device)).kthvalue(self.neighbours, 1).values


@dataclass(frozen=True)
class EnsembleMSP(OutlierScore):
    """−log max_k p̄_k(x), p̄ the mean class probabilities over the terms of a sum of classifiers.

    Source: Lakshminarayanan, Pritzel & Blundell (2017), https://arxiv.org/abs/1612.01474

    >>> import lowland
    >>> same = lowland.Function(lambda x: x)
    >>> round(EnsembleMSP().compute(same + same, torch.tensor([[0.0, 0.0]]), {}).item(), 4)
    0.6931
    """

    reads: ClassVar[Literal["terms"]] = "terms"

    def compute(self, energy: Energy, x: Tensor, statistics: Statistics) -> Tensor:
        p = _member_probabilities(energy, x).mean(0).sort(1).values
        return -torch.log1p(-p[:, :-1].sum(1))


@dataclass(frozen=True)
class MutualInformation(OutlierScore):
    """H(p̄) − mean_m H(p_m), the mutual information of class and ensemble member (BALD).

    It measures disagreement among the terms of a sum of classifiers, not the doubt of each. Source:
    Houlsby et al. (2011), https://arxiv.org/abs/1112.5745

    >>> import lowland
    >>> both = lowland.Function(lambda x: x) + lowland.Function(lambda x: -x)
    >>> x = torch.tensor([[50.0, -50.0], [0.0, 0.0]])
    >>> round(MutualInformation().compute(both, x, {})[0].item(), 4)
    0.6931
    """

    reads: ClassVar[Literal["terms"]] = "terms"

    def compute(self, energy: Energy, x: Tensor, statistics: Statistics) -> Tensor:
        p = _member_probabilities(energy, x)
        return _entropy(p.mean(0)) - _entropy(p).mean(0)


def _negative_log_msp(f: Tensor) -> Tensor:
    """Compute −log max_k softmax(f)_k (B,) of logits (B, K), as log(1 + Σ exp(f_k − max f))."""
    descending = to_float64(f).sort(1, descending=True).values
    return torch.log1p((descending[:, 1:] - descending[:, :1]).exp().sum(1))


def _member_probabilities(energy: Energy, x: Tensor) -> Tensor:
    """Compute class probabilities (members, B, K) in float64."""
    with torch.no_grad():
        members = [to_float64(logits(member, x)).softmax(1) for member in ensemble_members(energy)]
    return torch.stack(members)


def _entropy(p: Tensor) -> Tensor:
    return torch.special.entr(p).sum(-1)


def _normalize(layers: Sequence[Tensor]) -> Tensor:
    """Scale features (B, D) of each layer to length 1 and concatenate them."""
    lengths = [f.norm(dim=1, keepdim=True).clamp_min(MIN_FEATURE_LENGTH) for f in layers]
    return torch.cat([f / length for f, length in zip(layers, lengths, strict=True)], 1)


def _split_features(energy: Energy, x: Tensor, layers: Sequence[str], batch: int) -> list[Tensor]:
    """Compute `features` in batches."""
    parts = [features(energy, part, layers) for part in x.split(batch)]
    return [torch.cat(layer) for layer in zip(*parts, strict=True)]


def _predict_class(energy: Energy, x: Tensor) -> Tensor:
    """Return the predicted class (B,), 0 for an energy without classes."""
    with torch.no_grad():
        try:
            return logits(energy, x).argmax(1)
        except ValueError:
            return torch.zeros(len(x), dtype=torch.long, device=x.device)


def _read_temperature(temperature: float) -> float:
    """Return a temperature as a plain number; logits are divided by it."""
    return read_number("temperature", temperature, above=0)
