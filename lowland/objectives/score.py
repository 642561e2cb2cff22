"""Score matching: fit ∇E to data without drawing a single sample of the model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowland.chains import ReplayBuffer
from lowland.energy import Energy
from lowland.objectives.contrastive import Loss
from lowland.registry import register
from lowland.samplers.kernel import Sampler, normal_like


@register("objective")
@dataclass(frozen=True)
class DSM:
    """Denoising score matching at one or several noise levels.

        x̃ = x + σ ε,   loss = ½ E ‖σ s(x̃) + ε‖² / d,      s = −∇E(x̃, σ),  ε ~ N(0, I)

    At the minimum s is the score of the data blurred by σ. The factor σ weighs all levels alike. With several levels,
    each row draws one, and the energy must be one of noise, E(x, σ) (for example NoiseMLP).
    Source: Vincent (2011), https://doi.org/10.1162/NECO_a_00142; Song & Ermon (2019), https://arxiv.org/abs/1907.05600

    >>> DSM(sigmas=(1.0, 0.1))
    DSM(sigmas=(1.0, 0.1))
    """

    sigmas: Sequence[float] = (0.1,)
    persistent: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigmas", tuple(self.sigmas))
        if not self.sigmas or not all(0 < sigma < math.inf for sigma in self.sigmas):
            raise ValueError(f"sigmas are {self.sigmas}; at least one noise level above 0 is needed; 0.1 is common")

    def loss(
        self,
        energy: Energy,
        x: Tensor,
        labels: Tensor | None,
        *,
        sampler: Sampler | None,
        buffer: ReplayBuffer | None,
        generator: torch.Generator,
    ) -> Loss:
        of_noise = getattr(energy, "noise", False)
        if len(self.sigmas) > 1 and not of_noise:
            raise ValueError(
                f"{len(self.sigmas)} noise levels came with an energy that knows none; several levels need E(x, σ); "
                f"use NoiseMLP or give one sigma"
            )
        levels = torch.tensor(self.sigmas, dtype=x.dtype, device=x.device)
        which = torch.randint(len(levels), (len(x),), generator=generator, device=x.device)
        sigma = levels[which]
        wide = sigma.view(-1, *[1] * (x.dim() - 1))
        noise = normal_like(x, generator)
        noisy = (x + wide * noise).requires_grad_(True)
        values = energy(noisy, sigma) if of_noise else energy(noisy) if labels is None else energy(noisy, labels)
        (gradient,) = torch.autograd.grad(values.sum(), noisy, create_graph=True)
        rows = 0.5 * (noise - wide * gradient).square().flatten(1).mean(1)
        terms = {"energy_data": values.detach().mean(), "spread": values.detach().std(correction=0)}
        return Loss(rows.mean(), terms, None)
