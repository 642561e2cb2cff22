"""Denoising score matching over all noise levels at once, for energies that are sampled along the
levels.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowland.energy import Energy, NoiseCondition, noise_of
from lowland.energy.gradient import differentiate_values
from lowland.objectives.loss import Batch, Context, Loss, Objective, energy_terms, evaluate_energy
from lowland.objectives.ranges import POSITIVE, SHARE, check_settings
from lowland.registry import register
from lowland.samplers.kernel import normal_like


@register("objective")
@dataclass(frozen=True)
class MultilevelDSM(Objective):
    """Denoising score matching with log-normal noise levels, for an energy of noise E(x, σ).

        x̃ = x + σ ε,   loss = ½ E (1 + σ²/s²) ‖σ s_θ(x̃, σ) + ε‖² / d, s_θ = −∇E(x̃, σ), ln σ ~
                        N(ln sigma_median, log_sigma_std²)

    The weight makes the loss that of a network whose target has variance one at every level (s:
    `sigma_data`, the standard deviation of the data), so that no level drowns the others. At the
    minimum s_θ(·, σ) is the score of the data blurred by σ, for every σ that is drawn; levels far
    outside ln sigma_median ± 2.5 log_sigma_std are extrapolation. (P_mean = ln sigma_median and
    P_std = log_sigma_std in the paper.) warmup_fraction: for an energy tied to a denoiser
    (NoiseUNet, DenoiserMLP), the share of the updates, at the beginning, in which the denoiser
    itself is trained with the same loss, at less than half the cost; what is left trains the
    energy's gradient. Where an energy has a question, it gets no noise: the loss is that of the
    answer given the question, E(y | x, σ). Cost per update: a gradient of an input gradient, about
    6 forward passes; 3 in the warm-up. Use it when samples must be good: no chains while training,
    and `generation.method = "flow"` draws in tens of gradients. Source: Vincent (2011),
    https://doi.org/10.1162/NECO_a_00142; levels and weight: Karras et al. (2022), table 1,
    https://arxiv.org/abs/2206.00364

    >>> MultilevelDSM(sigma_median=0.15, sigma_data=0.3).log_sigma_std
    1.2
    """

    sigma_median: float = 0.3
    log_sigma_std: float = 1.2
    sigma_data: float = 0.5
    warmup_fraction: float = 0.0
    sampled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_settings(
            self,
            sigma_median=POSITIVE,
            log_sigma_std=POSITIVE,
            sigma_data=POSITIVE,
            warmup_fraction=SHARE,
        )

    def loss(self, energy: Energy, batch: Batch, context: Context) -> Loss:
        self._check(energy, batch.labels)
        x, generator = batch.x, context.generator
        levels = torch.randn(len(x), generator=generator, device=x.device, dtype=x.dtype)
        sigma = (math.log(self.sigma_median) + self.log_sigma_std * levels).exp()
        wide = sigma.view(-1, *[1] * (x.dim() - 1))
        condition = noise_of(energy) or NoiseCondition()
        noise, asked = normal_like(x, generator), condition.target_mask
        noise = noise if asked is None else noise * asked
        noisy = x + wide * noise
        if context.progress < self.warmup_fraction:
            assert condition.denoised is not None
            error, terms = (noisy - condition.denoised(noisy, sigma)) / wide - noise, {}
        else:
            noisy = noisy.requires_grad_(True)
            values = evaluate_energy(energy, noisy, sigma)
            gradient = differentiate_values(values, noisy)
            error = wide * gradient - noise
            terms = energy_terms(values)
        weight = 1 + (sigma / self.sigma_data).square()
        rows = 0.5 * weight * error.square().flatten(1).mean(1)
        share = 1 - len(condition.conditioning_channels) / x.shape[1]
        return Loss(rows.mean() / share, terms)

    def _check(self, energy: Energy, labels: Tensor | None) -> None:
        if labels is not None or noise_of(energy) is None:
            raise ValueError(
                f"{type(energy).__name__} "
                f"{'takes labels' if labels is not None else 'knows no noise level'}; "
                "MultilevelDSM trains E(x, σ) without labels; use NoiseUNet for images or "
                "DenoiserMLP"
            )
        if self.warmup_fraction and (noise_of(energy) or NoiseCondition()).denoised is None:
            raise ValueError(
                f"warmup_fraction is {self.warmup_fraction} and {type(energy).__name__} is tied to "
                "no denoiser; only one that is can be warmed up; set it to 0 or use NoiseUNet or "
                "DenoiserMLP"
            )
