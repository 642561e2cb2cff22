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
from lowland.objectives.augment import augmented, check_augment
from lowland.objectives.contrastive import chain_terms
from lowland.objectives.labels import (
    UNKNOWN,
    accuracy,
    class_energies,
    cross_entropy,
    masked_mean,
    relative_class_energies,
    require_labels,
    select_energies,
)
from lowland.objectives.loss import Batch, Context, Loss, Objective, check_chains, detach_terms
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
    training part whose labels are used (`hide_labels`). augment: transforms (`augmented`) of the
    points at which the cross-entropy is taken; adversarial: with attack_epsilon above 0 these
    points are then moved by `attack`, attack_steps of attack_step_size. In both cases the contrast
    takes data as they are, as many as chains move.

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
        x, labels = batch
        labels = require_labels("JEM", energy, labels)
        context.require_buffer("JEM")
        negatives, its = None, None
        terms: dict[str, Tensor] = {}
        if (self.weight_px or self.weight_pxy) and context.progress >= self.warmup_fraction:
            negatives, its, terms = self._walk(energy, x, context)
        read = self._read(energy, x, labels, context.generator)
        known, up, down = self._energies(energy, x, labels, read, negatives, its)
        entropy = cross_entropy(known, labels)
        value, terms = (
            self.weight_py_x * entropy,
            terms | {"cross_entropy": entropy, "accuracy": accuracy(known, labels)},
        )
        if up is not None and down is not None:
            added, more = self._contrast(up, labels[: len(up)], down, its)
            value, terms = value + added, terms | more
        return Loss(value, detach_terms(terms), negatives, its)

    @staticmethod
    def _energies(
        energy: Energy,
        x: Tensor,
        labels: Tensor,
        read: Tensor,
        negatives: Tensor | None,
        its: Tensor | None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Heads at the points read, and the energies that are compared, of data and of
        negatives.
        """
        if negatives is None:
            return relative_class_energies(energy, read), None, None
        some = x if read is x else x[: len(negatives)]
        condition = labels_of(energy)
        parted = condition is not None and condition.class_logits is not None
        if its is None and (read is not x or parted):  # E(x) may cost less than its heads
            both = energy(torch.cat([some, negatives])).to(x.dtype)
            return relative_class_energies(energy, read), both[: len(some)], both[len(some) :]
        together = [some, negatives] if read is x or parted else [some, negatives, read]
        heads = class_energies(energy, torch.cat(together)).split([len(part) for part in together])
        known = (
            relative_class_energies(energy, read) if parted else heads[0] if read is x else heads[2]
        )
        return (
            known,
            select_energies(heads[0], None if its is None else labels[: len(some)]),
            select_energies(heads[1], its),
        )

    def _read(
        self, energy: Energy, x: Tensor, labels: Tensor, generator: torch.Generator
    ) -> Tensor:
        """The points at which the cross-entropy is taken: x itself, or x augmented and attacked."""
        x = augmented(x, self.augment, generator, energy.domain) if self.augment else x
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

    def _walk(
        self, energy: Energy, x: Tensor, context: Context
    ) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        """Negatives, their labels if they have some, and what the log says of the chains."""
        buffer, sampler = context.require_buffer("JEM"), context.require_sampler("JEM")
        visit = buffer.sample(self.num_chains or len(x), context.generator)
        if self.weight_pxy and visit.labels is None:
            raise ValueError(
                "the chains have no labels; weight_pxy needs a class for each; pass "
                "ReplayBuffer(..., classes=K)"
            )
        labels = visit.labels if self.weight_pxy else None
        trace = run_chains(
            energy if labels is None else energy.given(labels),
            sampler,
            visit.x,
            self.steps,
            generator=context.generator,
        )
        lost = buffer.update(visit, trace.x, self.steps)
        age = {"age": buffer.age.float().mean(), "lost": torch.tensor(lost, device=x.device)}
        return trace.x, labels, chain_terms(visit.x, trace, energy) | age

    def _contrast(
        self, up: Tensor, labels: Tensor, down: Tensor, its: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted contrast of the energies of data, under their labels if chains have some,
        with those of negatives.
        """
        known = torch.ones_like(labels, dtype=torch.bool) if its is None else labels != UNKNOWN
        gap = down.mean() - masked_mean(up, known)
        value = -(self.weight_px or self.weight_pxy) * gap
        if self.l2:
            value = value + self.l2 * (masked_mean(up.square(), known) + down.square().mean())
        terms = {
            "gap": gap,
            "energy_data": masked_mean(up, known),
            "energy_model": down.mean(),
            "spread": up.std(correction=0),
        }
        return value, terms
