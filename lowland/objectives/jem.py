"""Joint energy-based model: a classifier whose K logits f_k(x) also make a density of x.

    p(y | x) = softmax(f(x))_y          p(x) ∝ Σ_k exp f_k(x)          p(x, y) ∝ exp f_y(x)

Cross-entropy trains −log p(y | x), a contrast with samples −log p(x) or −log p(x | y). The energies
e_k = −f_k are the heads of the energy (`objectives.labels`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lowland.energy import Energy, labels_of
from lowland.objectives.adversarial import attack
from lowland.objectives.augment import augment, check_augment
from lowland.objectives.contrastive import buffer_terms, chain_terms, contrast_energies
from lowland.objectives.labels import (
    UNKNOWN,
    accuracy,
    class_energies,
    cross_entropy,
    relative_class_energies,
    require_labels,
    select_energies,
)
from lowland.objectives.loss import (
    Batch,
    Context,
    Loss,
    Objective,
    check_chains,
    condition_on,
    detach_terms,
)
from lowland.objectives.ranges import COUNT, POSITIVE, SHARE, WEIGHT, check_settings
from lowland.registry import register
from lowland.samplers.loop import run_chains


@register("objective")
@dataclass(frozen=True)
class JEM(Objective):
    """A classifier that is also an energy of its data: cross-entropy on labels and a contrast with
    persistent chains.

        L = w_py_x (−log p(y | x)) + w_px (E(x⁺) − E(x⁻)) + w_pxy (E(x⁺, y) − E(x⁻, y⁻)) + l2 (mean
        E⁺² + mean E⁻²)

    whose gradient is that of w_py_x (−log p(y | x)) + w_px (−log p(x)) + w_pxy (−log p(x | y)) if
    the chains are draws. With weight_px the chains walk in p(x) = Σ_y p(x, y); with weight_pxy each
    has a class of its own, walks in p(x | y) and keeps its class, so that the buffer is divided
    evenly among the classes; one buffer cannot do both. Both zero: a classifier trained by
    cross-entropy alone, for comparison.

    steps: sampler steps per visit; buffer_size, reinit_prob: the replay buffer and the share of
    visited chains that begin anew; num_chains: how many move at every update, as many as data
    unless given; warmup_fraction: share of the updates, at the start, with cross-entropy alone.
    Semi-supervised: points labelled −1 count in E(x⁺) only; labelled_fraction: the share of the
    training part whose labels are used (`hide_labels`). augment: transforms (`objectives.augment`)
    of the points at which the cross-entropy is taken; adversarial: with attack_epsilon above 0
    these points are then moved by `attack`, attack_steps of attack_step_size. In both cases the
    contrast takes data as they are, as many as chains move.

    Cost per update: forward and backward over B + chains points (B + 2 chains if augmented), and
    chains · steps gradients; adversarial: B · attack_steps gradients more. Use it when one model
    must classify, know how sure it is, and tell what is no data. Source: Grathwohl et al. (2020),
    https://arxiv.org/abs/1912.03263; adversarial: Zhu et al. (2021),
    https://arxiv.org/abs/2108.09093

    >>> import torch, lowland
    >>> g = torch.Generator().manual_seed(0)
    >>> energy = lowland.nets.MLP(lowland.real(2), hidden=(8,), classes=3)
    >>> buffer = lowland.ReplayBuffer(64, energy.domain, generator=g, classes=3)
    >>> x, y = torch.randn(12, 2, generator=g), torch.arange(12) % 3
    >>> context = Context(g, sampler=lowland.Langevin(0.01), buffer=buffer)
    >>> loss = JEM(steps=5).loss(energy, Batch(x, y), context)
    >>> sorted(loss.terms)[:4]
    ['acceptance', 'accuracy', 'age', 'cross_entropy']
    """

    steps: int = 20
    buffer_size: int = 10_000
    reinit_prob: float = 0.05
    num_chains: int = 0
    weight_px: float = 1.0
    weight_py_x: float = 1.0
    weight_pxy: float = 0.0
    l2: float = 0.0
    warmup_fraction: float = 0.0
    labelled_fraction: float = 1.0
    augment: Sequence[str] = ()
    attack_epsilon: float = 0.0
    attack_steps: int = 5
    attack_step_size: float = 0.01

    def __post_init__(self) -> None:
        check_augment(self.augment)
        check_chains(self)
        check_settings(
            self,
            weight_px=WEIGHT,
            weight_py_x=WEIGHT,
            weight_pxy=WEIGHT,
            l2=WEIGHT,
            warmup_fraction=SHARE,
            labelled_fraction=SHARE,
            attack_epsilon=WEIGHT,
            attack_steps=COUNT,
            attack_step_size=POSITIVE,
        )
        if self.weight_px and self.weight_pxy:
            raise ValueError(
                f"weight_px is {self.weight_px} and weight_pxy is {self.weight_pxy}; the chains of "
                "a buffer walk in one distribution; set one of them to 0"
            )

    def loss(self, energy: Energy, batch: Batch, context: Context) -> Loss:
        x, labels = batch.x, require_labels("JEM", energy, batch.labels)
        context.require_buffer("JEM")
        negatives, its = None, None
        terms: dict[str, Tensor] = {}
        if (self.weight_px or self.weight_pxy) and context.progress >= self.warmup_fraction:
            negatives, its, terms = self._move_chains(energy, x, context)
        points = self._perturb(energy, x, labels, context.generator)
        heads, up, down = self._energies(energy, x, labels, points, negatives, its)
        entropy = cross_entropy(heads, labels)
        terms |= detach_terms(cross_entropy=entropy, accuracy=accuracy(heads, labels))
        value = self.weight_py_x * entropy
        if up is not None and down is not None:
            added, more = self._contrast(up, labels[: len(up)], down, its)
            value, terms = value + added, terms | more
        return Loss(value, terms, negatives, its)

    @staticmethod
    def _energies(
        energy: Energy,
        x: Tensor,
        labels: Tensor,
        points: Tensor,
        negatives: Tensor | None,
        its: Tensor | None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the heads at the points of the cross-entropy, and the energies to contrast, of
        data and of negatives, in as few passes as possible.
        """
        if negatives is None:
            return relative_class_energies(energy, points), None, None
        some = x if points is x else x[: len(negatives)]
        condition = labels_of(energy)
        separate = condition is not None and condition.class_logits is not None
        if its is None and (points is not x or separate):  # E(x) may cost less than its heads
            both = energy(torch.cat([some, negatives])).to(x.dtype)
            return relative_class_energies(energy, points), both[: len(some)], both[len(some) :]
        parts = [some, negatives]
        if points is not x and not separate:
            parts.append(points)
        heads = class_energies(energy, torch.cat(parts)).split([len(part) for part in parts])
        up = select_energies(heads[0], None if its is None else labels[: len(some)])
        down = select_energies(heads[1], its)
        if separate:
            return relative_class_energies(energy, points), up, down
        return heads[0 if points is x else 2], up, down

    def _perturb(
        self, energy: Energy, x: Tensor, labels: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Return the points of the cross-entropy: x itself, or x augmented and attacked."""
        if self.augment:
            x = augment(x, self.augment, generator, energy.domain)
        if not self.attack_epsilon:
            return x
        return attack(
            energy,
            x,
            labels,
            epsilon=self.attack_epsilon,
            steps=self.attack_steps,
            step_size=self.attack_step_size,
            generator=generator,
        )

    def _move_chains(
        self, energy: Energy, x: Tensor, context: Context
    ) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        """Return negatives, their labels if they have some, and the chains' terms for the log."""
        buffer, sampler = context.require_buffer("JEM"), context.require_sampler("JEM")
        visit = buffer.sample(self.num_chains or len(x), context.generator)
        if self.weight_pxy and visit.labels is None:
            raise ValueError(
                "the chains have no labels; weight_pxy needs a class for each; pass "
                "ReplayBuffer(..., classes=K)"
            )
        labels = visit.labels if self.weight_pxy else None
        target = condition_on(energy, labels)
        trace = run_chains(target, sampler, visit.x, self.steps, generator=context.generator)
        lost = buffer.update(visit, trace.x, self.steps)
        terms = chain_terms(visit.x, trace, energy) | buffer_terms(buffer, lost)
        return trace.x, labels, terms

    def _contrast(
        self, up: Tensor, labels: Tensor, down: Tensor, its: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted contrast, and its terms, of energies of data, of the labelled ones
        where chains have labels, with those of negatives.
        """
        known = torch.ones_like(labels, dtype=torch.bool) if its is None else labels != UNKNOWN
        return contrast_energies(up, down, self.l2, known, self.weight_px or self.weight_pxy)
