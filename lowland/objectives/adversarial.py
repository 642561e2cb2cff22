"""Adversarial training and TRADES: classifiers whose labels hold in a ball about every point.

    madry    −log p(y | x'), x' = argmax over ‖x' − x‖_∞ ≤ ε of −log p(y | x')
    trades   −log p(y | x) + β KL(p(· | x) ‖ p(· | x')), x' = argmax over the same ball of that KL

Both are what a classifier can do for itself, and the yardstick for every defence that cleans its
input (`tasks.purify`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from lowland.energy import Energy, freeze
from lowland.energy.gradient import differentiate_values
from lowland.objectives.labels import (
    accuracy,
    class_energies,
    cross_entropy,
    relative_class_energies,
    require_labels,
)
from lowland.objectives.loss import Batch, Context, Loss, Objective, detach_terms
from lowland.objectives.ranges import COUNT, POSITIVE, SHARE, WEIGHT, check_settings, one_of
from lowland.registry import register
from lowland.samplers.kernel import normal_like


def attack(
    energy: Energy,
    x: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    steps: int,
    step_size: float,
    generator: torch.Generator,
) -> Tensor:
    """Find points within ε of x in every number, and inside the domain, whose labels the energy
    gets wrong.

        x' ← Π(x' + α sign ∇ −log p(y | x')),    Π: into {‖x' − x‖_∞ ≤ ε} and the domain; x' starts
                                                 in that ball at random

    Projected gradient ascent; the weights get no gradient. Points labelled −1 go to where they
    start. Source: Madry et al. (2018), https://arxiv.org/abs/1706.06083

    >>> import torch, lowland
    >>> two = lowland.nets.ClassifierEnergy(lambda x: torch.cat([x, -x], 1), 2, lowland.real(1))
    >>> g = torch.Generator().manual_seed(0)
    >>> size = {"epsilon": 0.5, "steps": 9, "step_size": 0.2}
    >>> attack(two, torch.ones(1, 1), torch.tensor([0]), **size, generator=g)
    tensor([[0.5000]])
    """
    start = x + epsilon * (
        2 * torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype) - 1
    )

    def objective(energy: Energy, at: Tensor) -> Tensor:
        return cross_entropy(class_energies(energy, at), labels)

    return ascend(energy, objective, x, start, epsilon, steps, step_size)


def ascend(
    energy: Energy,
    objective: Callable[[Energy, Tensor], Tensor],
    x: Tensor,
    start: Tensor,
    epsilon: float,
    steps: int,
    step_size: float,
) -> Tensor:
    """Return points (B, *event) within epsilon of x in every number, and inside the domain, after
    steps of sign-gradient ascent of an objective from `start`. The weights get no gradient.
    """
    lo, hi = energy.domain.project(x - epsilon), energy.domain.project(x + epsilon)
    found = start
    with freeze(energy) as energy, torch.enable_grad():
        for _ in range(steps):
            at = torch.clamp(found, lo, hi).detach().requires_grad_()
            slope = differentiate_values(objective(energy, at), at)
            found = at + step_size * slope.sign()
    return torch.clamp(found, lo, hi).detach()


@register("objective")
@dataclass(frozen=True)
class Robust(Objective):
    """Cross-entropy at the worst point of a ball about each example ("madry"), or cross-entropy and
    stability ("trades").

        madry:  L = −log p(y | x') trades: L = −log p(y | x) + β KL(p(· | x) ‖ p(· | x'))

    x' is found by projected sign-gradient ascent, `steps` steps of step_size · ε, from a random
    point of the ball of radius epsilon (for trades from x and a little noise), inside the domain.
    Over the first `warmup_fraction` of the updates the radius grows from 0 along a line: at full
    size from the start, a net on MNIST may learn nothing but the most frequent class. p(y | x) =
    softmax(−e(x)), as in `JEM`; labels of −1 count in the KL alone. epsilon = 0 is cross-entropy
    alone.

    kind: "madry" or "trades"; beta: β, what a wrong label nearby costs against one on the spot.
    Cost per update: forward and backward over B points (2 B for trades), and B · steps gradients in
    x. Use it when a classifier must not change its mind within ε; its energies are no density.
    Source: Madry et al. (2018), https://arxiv.org/abs/1706.06083; Zhang et al. (2019),
    https://arxiv.org/abs/1901.08573

    >>> import torch, lowland
    >>> g = torch.Generator().manual_seed(0)
    >>> energy = lowland.nets.MLP(lowland.real(2), hidden=(8,), classes=3)
    >>> x, y = torch.randn(12, 2, generator=g), torch.arange(12) % 3
    >>> loss = Robust(epsilon=0.1).loss(energy, Batch(x, y), Context(g))
    >>> sorted(loss.terms)
    ['accuracy', 'cross_entropy', 'radius']
    """

    kind: Literal["madry", "trades"] = "madry"
    epsilon: float = 0.1
    steps: int = 7
    step_size: float = 0.3
    beta: float = 6.0
    warmup_fraction: float = 0.3
    sampled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_settings(
            self,
            kind=one_of("madry", "trades"),
            epsilon=WEIGHT,
            steps=COUNT,
            step_size=POSITIVE,
            beta=WEIGHT,
            warmup_fraction=SHARE,
        )

    def loss(self, energy: Energy, batch: Batch, context: Context) -> Loss:
        x, labels = batch
        labels, generator = require_labels("Robust", energy, labels), context.generator
        radius = self.epsilon * self._radius_share(context.progress)
        if self.kind == "madry":
            step = self.step_size * radius
            if radius:
                x = attack(
                    energy,
                    x,
                    labels,
                    epsilon=radius,
                    steps=self.steps,
                    step_size=step,
                    generator=generator,
                )
            odds = relative_class_energies(energy, x)
            value, more = cross_entropy(odds, labels), {}
        else:
            far = self._furthest(energy, x, radius, generator)
            odds, others = relative_class_energies(energy, torch.cat([x, far])).tensor_split(
                [len(x)]
            )
            give = divergence(odds, others).mean()
            value, more = cross_entropy(odds, labels) + self.beta * give, {"divergence": give}
        terms = detach_terms(
            cross_entropy=cross_entropy(odds, labels),
            accuracy=accuracy(odds, labels),
            radius=torch.full((), radius, device=x.device),
            **more,
        )
        return Loss(value, terms)

    def _radius_share(self, progress: float) -> float:
        """Return the radius in units of epsilon after a share of the updates."""
        if not self.warmup_fraction:
            return 1.0
        return min(1.0, progress / self.warmup_fraction)

    def _furthest(
        self, energy: Energy, x: Tensor, radius: float, generator: torch.Generator
    ) -> Tensor:
        """Return points x' near x whose p(y | x') is far from p(y | x): ascent of the KL from
        beside x, since it has no slope at x.
        """
        with freeze(energy) as energy, torch.no_grad():
            odds = relative_class_energies(energy, x)

        def objective(energy: Energy, at: Tensor) -> Tensor:
            return divergence(odds, relative_class_energies(energy, at)).sum()

        start = x + 0.01 * radius * normal_like(x, generator)
        steps = self.steps if radius else 0
        return ascend(energy, objective, x, start, radius, steps, self.step_size * radius)


def divergence(heads: Tensor, others: Tensor) -> Tensor:
    """Return KL(softmax(−e) ‖ softmax(−e')) of rows of energies (B, K): (B,).

    >>> even = torch.tensor([[0.0, 0.0]])
    >>> divergence(torch.tensor([[0.0, 50.0]]), even).round(decimals=3)  # ln 2
    tensor([0.6930])
    """
    return F.kl_div(
        F.log_softmax(-others, 1), F.log_softmax(-heads, 1), log_target=True, reduction="none"
    ).sum(1)
