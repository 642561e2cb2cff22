"""Diffusion recovery likelihood: a sequence of easy problems in place of one hard one.

The distribution of data has many modes and its chains do not mix. That of a point given the same
point with a little more noise,

    p(x | x̃) ∝ exp(−E(x, σ) − ‖x̃ − x‖² / (2 s²)),      x̃ = x + s ξ,   s² = σ̃² − σ²,

has one mode, so that chains from x̃ are draws of it after some tens of steps, and the likelihood of
x given x̃ can be climbed as it is. The quadratic does not depend on the weights: the gradient is
the contrast of E(·, σ) at data and at what was recovered.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lowland.energy import Energy, noise_of
from lowland.objectives.contrastive import contrast
from lowland.objectives.loss import Batch, Context, Loss, Objective, detach_terms
from lowland.objectives.ranges import COUNT, check_settings, freeze_sequences
from lowland.registry import register
from lowland.samplers.kernel import Sampler, normal_like, per_row
from lowland.samplers.langevin import MALA
from lowland.samplers.loop import run_chains
from lowland.samplers.recovery import ConditionalEnergy, check_levels, scale_to_noise
from lowland.transfer import constants


@register("objective")
@dataclass(frozen=True)
class DiffusionRecovery(Objective):
    """Recovery likelihood along falling noise levels, for an energy E(x, σ).

        x = data + σ ξ,   x̃ = x + s ξ',   s² = σ̃² − σ²,      σ̃ and σ neighbours, drawn row by row
        loss = mean E(x, σ) − mean E(x⁻, σ),      x⁻: `steps` sampler steps from x̃ in p(x | x̃)

    sigmas: falling; the energy learns all levels but the first, from which sampling starts. The
    sampler's step_size is in units of s², one number for all levels: 0.1 and some 10 to 30 steps
    suit. The minimiser is exp(−E(·, σ)) = the density of data with noise σ, level by level, as far
    as the chains reach theirs; sample it with `lowland.samplers.diffusion_recovery_sample`. Cost
    per update: `steps` + 1 gradients and one contrast, as CD, and no chains are kept. Use it when
    chains of a plain energy do not mix and an energy of noise is welcome: training is as calm as
    score matching, and the levels are laws from the contrast of samples, not from a regression.
    Source: Gao, Song, Poole, Wu & Kingma (2021), https://arxiv.org/abs/2012.08125

    >>> DiffusionRecovery(sigmas=(1.0, 0.3, 0.1)).steps
    20
    """

    sigmas: Sequence[float] = (2.0, 1.0, 0.5, 0.25, 0.12)
    steps: int = 20

    def __post_init__(self) -> None:
        freeze_sequences(self, "sigmas")
        check_levels(self.sigmas)
        check_settings(self, steps=COUNT)

    def initial_sampler(self, energy: Energy, x: Tensor) -> Sampler:
        """Return MALA(0.15): steps are in units of s²."""
        return MALA(0.15)

    def loss(self, energy: Energy, batch: Batch, context: Context) -> Loss:
        x, generator = batch.x, context.generator
        sampler = context.require_sampler("DiffusionRecovery")
        if noise_of(energy) is None:
            raise ValueError(
                f"DiffusionRecovery came with {type(energy).__name__}, which knows no noise level; "
                "it needs E(x, σ); use NoiseMLP"
            )
        levels = constants(self.sigmas, x)
        which = torch.randint(1, len(levels), (len(x),), generator=generator, device=x.device)
        sigma = levels[which]
        width = (levels[which - 1].square() - sigma.square()).sqrt()
        clear = x + per_row(sigma, x) * normal_like(x, generator)
        noisy = clear + per_row(width, x) * normal_like(x, generator)
        target = ConditionalEnergy(energy.given(sigma), noisy, width)
        sampler = scale_to_noise(sampler, width)
        trace = run_chains(target, sampler, noisy, self.steps, generator=generator)
        loss = contrast(energy, clear, trace.x, labels=sigma, negative_labels=sigma)
        moved = ((trace.x - noisy).flatten(1).square().mean(1).sqrt() / width).mean()
        terms = detach_terms(
            movement=moved, acceptance=trace.acceptance.mean(), diverged=trace.diverged.sum()
        )
        return Loss(loss.value, loss.terms | terms, trace.x)
