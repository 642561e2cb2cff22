"""Terms that add up: each holds something still that an objective leaves free. A recipe lists them
as [[terms]].

    EnergyL2          the level of the energies for contrastive objectives, which fix differences
                      only
    GradientPenalty   the length of ∇E                   where the score outgrows the sampler's step
    HingeMargin       which side of two levels where energies are to be read off as verdicts, as a
                      detector does
    PullAway          the features of different samples  where the samples are all alike

A term is a frozen dataclass with add(loss, energy, batch, context) -> Loss. It runs no chains: it
looks at the data and at the negatives that the objective left in the loss, as constants. Weights
are in units of the objective's value.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lowland.energy import Energy, view_module
from lowland.energy.gradient import differentiate_values
from lowland.objectives.loss import Batch, Context, Loss, Term, evaluate_energy
from lowland.objectives.ranges import NUMBER, WEIGHT, check_settings, one_of
from lowland.registry import register
from lowland.samplers.kernel import CONTINUOUS, per_row, uniform_like


def add_term(loss: Loss, name: str, term: Tensor, weight: float) -> Loss:
    """Return the loss with weight · term, and the term in its log."""
    return loss._replace(value=loss.value + weight * term, terms=loss.terms | {name: term.detach()})


def evaluate_sides(loss: Loss, energy: nn.Module, batch: Batch) -> tuple[Tensor, Tensor | None]:
    """Return energies of the data (B,), and of the negatives (C,) if there are any, in one forward
    pass.
    """
    x, labels = batch
    if loss.negatives is None:
        return evaluate_energy(energy, x, labels), None
    negatives = loss.negatives.detach()
    both = None
    if labels is not None:
        both = torch.cat([labels, labels if loss.labels is None else loss.labels])
    up, down = evaluate_energy(energy, torch.cat([x, negatives]), both).tensor_split([len(x)])
    return up, down


def require_negatives(name: str, loss: Loss) -> Tensor:
    """Return the negatives of a loss, detached; raise ValueError if the objective has none."""
    if loss.negatives is None:
        raise ValueError(
            f"{name} met an objective without negatives; it compares data with them; use one with "
            "chains, such as PCD"
        )
    return loss.negatives.detach()


@register("term")
@dataclass(frozen=True)
class EnergyL2(Term):
    """weight · (mean E(x⁺)² + mean E(x⁻)²): energies stay near zero on both sides.

    The contrast fixes differences of energies and not their level, which drifts, and grows with the
    weights. `l2` of the contrastive objectives is the same without a pass of its own; this one
    serves every objective, on the data alone where there are no negatives. Cost: a forward pass
    over both sides. Source: Du & Mordatch (2019), https://arxiv.org/abs/1903.08689

    >>> import torch, lowland
    >>> from lowland.objectives import EnergyL2, contrast
    >>> bowl = lowland.Function(lambda x: x.square().sum(1))
    >>> loss = contrast(bowl, torch.ones(2, 1), 2 * torch.ones(2, 1))
    >>> EnergyL2(0.1).add(loss, bowl, Batch(torch.ones(2, 1)), Context(torch.Generator())).value
    tensor(-1.3000)
    """

    weight: float = 0.001

    def __post_init__(self) -> None:
        check_settings(self, weight=WEIGHT)

    def add(self, loss: Loss, energy: Energy, batch: Batch, context: Context) -> Loss:
        up, down = evaluate_sides(loss, energy, batch)
        square = up.square().mean() + (0.0 if down is None else down.square().mean())
        return add_term(loss, "square", square, self.weight)


@register("term")
@dataclass(frozen=True)
class GradientPenalty(Term):
    """weight · mean (‖∇E(x)‖ − target)²: the score is of a known length where it is looked at.

    at "data": the points of the data, with target 0, which flattens the valleys where data lie
    (R1); at "lines": points drawn on lines from data to negatives, with target 1, which holds the
    slope between the two sides (WGAN-GP). An energy in nats whose data are s wide has slopes of
    about 1/s: a target far below it biases the density. Cost: one gradient with its own backward
    pass. Source: Mescheder et al. (2018), https://arxiv.org/abs/1801.04406; Gulrajani et al.
    (2017), https://arxiv.org/abs/1704.00028

    >>> GradientPenalty(0.1, target=1.0, at="lines")
    GradientPenalty(weight=0.1, target=1.0, at='lines')
    """

    weight: float = 0.01
    target: float = 0.0
    at: Literal["data", "lines"] = "data"

    def __post_init__(self) -> None:
        check_settings(self, weight=WEIGHT, target=WEIGHT, at=one_of("data", "lines"))

    def add(self, loss: Loss, energy: Energy, batch: Batch, context: Context) -> Loss:
        x, labels = batch
        if energy.domain.kind not in CONTINUOUS:
            raise ValueError(
                f"GradientPenalty met a domain that is {energy.domain.kind}; gradients live on "
                f"{' or '.join(CONTINUOUS)} ones; leave the term out"
            )
        points = x.detach()
        if self.at == "lines":
            negatives = require_negatives("GradientPenalty at lines", loss)
            u = uniform_like(points.flatten(1)[:, 0], context.generator)
            rows = torch.arange(len(x), device=x.device) % len(negatives)
            points = torch.lerp(points, negatives[rows].to(points.dtype), per_row(u, points))
        points = points.requires_grad_(True)
        gradient = differentiate_values(evaluate_energy(energy, points, labels), points)
        square = gradient.square().flatten(1).sum(1)
        if self.target:  # the root has no slope at zero
            square = ((square + 1e-12).sqrt() - self.target).square()
        return add_term(loss, "slope", square.mean(), self.weight)


@register("term")
@dataclass(frozen=True)
class HingeMargin(Term):
    """weight · (mean max(0, E(x⁺) − low)² + mean max(0, high − E(x⁻))²): data below one level,
    negatives above another.

    Both sides are left alone where they are right, so that the levels mean something to a
    threshold. With negatives of the model the two wishes never come true together, and their
    balance bounds the energies; with outliers as negatives they can. Cost: a forward pass over both
    sides. Source: Liu et al. (2020), equation 8, https://arxiv.org/abs/2010.03759; margins of an
    energy: Zhao, Mathieu & LeCun (2017), https://arxiv.org/abs/1609.03126

    >>> HingeMargin(0.1, low=-1.0, high=1.0)
    HingeMargin(weight=0.1, low=-1.0, high=1.0)
    """

    weight: float = 0.1
    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        check_settings(self, weight=WEIGHT, low=NUMBER, high=NUMBER)
        if not -math.inf < self.low < self.high < math.inf:
            raise ValueError(
                f"low is {self.low} and high is {self.high}; low < high are needed, both finite; "
                "exchange or move them"
            )

    def add(self, loss: Loss, energy: Energy, batch: Batch, context: Context) -> Loss:
        require_negatives("HingeMargin", loss)
        up, down = evaluate_sides(loss, energy, batch)
        assert down is not None
        hinge = (up - self.low).relu().square().mean() + (self.high - down).relu().square().mean()
        return add_term(loss, "hinge", hinge, self.weight)


@register("term")
@dataclass(frozen=True)
class PullAway(Term):
    """weight · mean over pairs i ≠ j of cos²(f(x_i), f(x_j)), x the negatives: samples that differ
    have features that differ.

    Features f are what the last linear layer of the energy is fed with. An energy that gives all
    its samples one feature pulls all chains one way; pushing features towards right angles keeps
    the pulls apart. Cost: a forward pass over the negatives. Use it when the health monitor reports
    loss of modes. Source: Zhao, Mathieu & LeCun (2017), section 2.4,
    https://arxiv.org/abs/1609.03126

    >>> PullAway(0.1)
    PullAway(weight=0.1)
    """

    weight: float = 0.1

    def __post_init__(self) -> None:
        check_settings(self, weight=WEIGHT)

    def add(self, loss: Loss, energy: Energy, batch: Batch, context: Context) -> Loss:
        negatives = require_negatives("PullAway", loss)
        features = nn.functional.normalize(
            last_features(energy, negatives, batch.labels if loss.labels is None else loss.labels),
            dim=1,
        )
        count = len(features)
        alike = ((features @ features.T).square().sum() - count) / (count * (count - 1))
        return add_term(loss, "alike", alike, self.weight)


def last_features(energy: nn.Module, x: Tensor, labels: Tensor | None = None) -> Tensor:
    """Return the inputs (B, F) of the last linear layer of an energy at x (B, *event).

    Raises ValueError for an energy without a linear layer.
    """
    view = view_module(energy, constant=False)  # the hook is nobody else's
    layers = [module for module in view.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise ValueError(
            f"{type(energy).__name__} has no linear layer to take features from; PullAway needs "
            "one; use MLP, ConvNet or IGEBM"
        )
    seen: list[Any] = []
    layers[-1].register_forward_pre_hook(lambda module, fed: seen.append(fed[0]))
    evaluate_energy(view, x, labels)
    features = seen[0].flatten(1)
    return features.to(torch.promote_types(features.dtype, torch.float32))
