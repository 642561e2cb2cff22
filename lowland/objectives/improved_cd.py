"""Improved contrastive divergence: the gradient term that contrastive divergence leaves out, and
chains that are augmented.

The weights move not only the energies of the negatives but the negatives themselves, because a
sampler that follows E makes them. With q_θ the distribution after K steps, contrastive divergence
minimises KL(data ‖ p_θ) − KL(q_θ ‖ p_θ), and leaves out

    ∂/∂θ KL(q_θ ‖ p_sg(θ)) = ∂/∂θ { E_{x ~ q_θ}[E_sg(θ)(x)] − H(q_θ) },       sg: held constant

The first part says that the sampler should get downhill with the energy that there is; the second
that its samples should not all end in one place. The first is differentiated through the last step
of the chain, the second is estimated by distances to nearest neighbours.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lowland.energy import Energy, freeze, view_module
from lowland.energy.gradient import differentiate_values
from lowland.objectives.augment import augment, check_augment
from lowland.objectives.contrastive import buffer_terms, contrast
from lowland.objectives.loss import (
    Batch,
    Context,
    Loss,
    Objective,
    check_chains,
    condition_on,
    detach_terms,
    evaluate_energy,
)
from lowland.objectives.ranges import SHARE, WEIGHT, check_settings, freeze_sequences
from lowland.registry import register
from lowland.samplers.defaults import initial_sampler
from lowland.samplers.kernel import HasStepSize, Sampler, normal_like, per_row
from lowland.samplers.langevin import Langevin, ShortRun
from lowland.samplers.loop import run_chains

MAX_NEIGHBOURS = 1000  # chains of the buffer among which the nearest are looked for


def differentiable_step(
    energy: Energy, sampler: Langevin | ShortRun, x: Tensor, generator: torch.Generator
) -> Tensor:
    """Make one step of a Langevin or short-run sampler, differentiable in the weights of the
    energy.

        y = x − h ∇E(x) + noise · ξ,      ξ ~ N(0, I), for Langevin with noise √(2hT)

    Source: as the samplers'; differentiated as in Du et al. (2021),
    https://arxiv.org/abs/2012.01316
    """
    h = sampler.step_size
    noise = sampler.noise if isinstance(sampler, ShortRun) else (2 * h * sampler.temperature) ** 0.5
    x = x.detach().requires_grad_(True)
    as_in_chains = view_module(energy, constant=False, training=False)
    gradient = differentiate_values(evaluate_energy(as_in_chains, x), x)
    if isinstance(sampler, ShortRun) and sampler.clip is not None:
        gradient = gradient.clamp(-sampler.clip, sampler.clip)
    y = x.detach() - h * gradient + noise * normal_like(x, generator)
    if not isinstance(sampler, ShortRun):
        return energy.domain.reflect(y)[0]
    if sampler.clamp is None:
        return y
    return y.clamp(*sampler.clamp)


def neighbour_entropy(x: Tensor, others: Tensor) -> Tensor:
    """Estimate the entropy in nats of the distribution of x (B, *event), up to a constant: d · mean
    log distance to the nearest of other draws.

    others (N, *event): held constant; rows equal to the point itself do not count. Source:
    Kozachenko & Leonenko (1987), https://www.mathnet.ru/eng/ppi797

    >>> import torch
    >>> neighbour_entropy(torch.tensor([[0.0]]), torch.tensor([[3.0], [-1.0]])) == 0.0
    tensor(True)
    """
    flat, others = x.flatten(1), others.detach().flatten(1).to(x.dtype)
    with torch.no_grad():  # products would round to zero
        distances = torch.cdist(flat, others, compute_mode="donot_use_mm_for_euclid_dist")
        nearest = torch.where(distances > 0, distances, math.inf).argmin(1)
    square = (flat - others[nearest]).square().sum(1)
    return flat.shape[1] / 2 * square.clamp_min(1e-12).log().mean()


@register("objective")
@dataclass(frozen=True)
class ImprovedCD(Objective):
    """Persistent contrastive divergence with the gradient through the sampler, and augmented
    chains.

        loss = mean E(x⁺) − mean E(x⁻)  +  kl · { mean E_sg(x⁻(θ)) − entropy · H(x⁻(θ)) }

    x⁻(θ) is where the last step of the chain leads, as a function of the weights; sg: weights held
    constant. augment: transforms of the chains before they move on ("flip", "shift", "rotate",
    "blur", "colour", "noise"), each visited chain with probability `augment_prob`: a way between
    modes that the sampler lacks. Choose those under which the data stay data. steps, buffer_size,
    reinit_prob: as in PCD. The sampler is Langevin or ShortRun, whose steps are differentiable.
    Cost per update: PCD's, and one gradient with its own backward pass, a forward and backward pass
    in x, and distances to 1000 chains. Use it when PCD with a deep net blows up although its rate
    is low, or its chains crowd together. Source: Du, Li, Tenenbaum & Mordatch (2021),
    https://arxiv.org/abs/2012.01316

    >>> ImprovedCD(steps=5, augment=("noise",)).kl
    0.3
    """

    steps: int = 20
    buffer_size: int = 10_000
    reinit_prob: float = 0.05
    kl: float = 0.3
    entropy: float = 1.0
    augment: Sequence[str] = ()
    augment_prob: float = 0.5

    def __post_init__(self) -> None:
        freeze_sequences(self, "augment")
        check_augment(self.augment)
        check_chains(self)
        check_settings(self, kl=WEIGHT, entropy=WEIGHT, augment_prob=SHARE)

    def initial_sampler(self, energy: Energy, x: Tensor) -> Sampler:
        """Return Langevin, a step of which can be differentiated."""
        found = initial_sampler(energy, x)
        return Langevin(found.step_size) if isinstance(found, HasStepSize) else found

    def loss(self, energy: Energy, batch: Batch, context: Context) -> Loss:
        x, labels = batch
        sampler, generator = context.sampler, context.generator
        buffer = context.require_buffer("ImprovedCD")
        if not isinstance(sampler, (Langevin, ShortRun)):
            raise ValueError(
                f"ImprovedCD came with {type(sampler).__name__}; it differentiates a step of "
                "Langevin or ShortRun; use one of them"
            )
        visit = buffer.sample(len(x), generator)
        negative_labels = None if labels is None else visit.labels
        target = condition_on(energy, negative_labels)
        start = self._augment(visit.x, energy, generator)
        trace = run_chains(target, sampler, start, self.steps - 1, generator=generator)
        last = differentiable_step(target, sampler, trace.x, generator)
        lost = buffer.update(visit, last.detach(), self.steps)
        loss = contrast(energy, x, last.detach(), labels=labels, negative_labels=negative_labels)
        penalty, entropy = self._penalize_sampler(target, last, buffer.x[:MAX_NEIGHBOURS])
        terms = detach_terms(
            entropy=entropy,
            movement=(last.detach() - start).flatten(1).square().mean(1).sqrt().mean(),
            diverged=trace.diverged.sum(),
        )
        terms |= buffer_terms(buffer, lost)
        return loss._replace(value=loss.value + penalty, terms=loss.terms | terms)

    def _penalize_sampler(
        self, target: Energy, last: Tensor, others: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return kl · {mean E_sg(last) − entropy · H(last)}, differentiable through `last` alone,
        and the entropy.
        """
        entropy = last.new_zeros(())
        if not self.kl:
            return entropy, entropy
        with freeze(target) as target:
            downhill = target(last).mean()
        if self.entropy:
            entropy = neighbour_entropy(last, others)
        return self.kl * (downhill - self.entropy * entropy), entropy

    def _augment(self, x: Tensor, energy: Energy, generator: torch.Generator) -> Tensor:
        if not self.augment:
            return x
        chosen = torch.rand(len(x), generator=generator, device=x.device) < self.augment_prob
        moved = augment(x, self.augment, generator, energy.domain)
        return torch.where(per_row(chosen, x), moved, x)
