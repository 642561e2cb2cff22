"""Cooperative training: a generator starts the chains of the energy, and learns from where they
end.

    draft      z ~ N(0, I),  x̂ = G(z) + σ ξ                          the generator proposes
    revise     x: some steps of the energy's sampler from x̂           the energy improves
    explain    z': some steps of MALA in p(z | x) ∝ exp(−‖z‖²/2 − ‖x − G(z)‖²/2σ²), from z
    learn      E by the contrast of data and revisions; G by the likelihood of the revisions, ‖x −
               G(z')‖² / 2σ²

If both come to rest, chains do not change the distribution of drafts, which is then exp(−E), and
the contrast vanishes, so that it is that of the data as well. The explaining step matters: to
regress revisions on the z of their drafts would forget, little by little, all noise that chains
add, and the drafts would shrink to a point."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lowland.domain import real
from lowland.energy import ConditionLike, Energy
from lowland.nets.generators import Generator
from lowland.objectives.contrastive import chain_terms, contrast
from lowland.objectives.improved_cd import neighbour_entropy
from lowland.objectives.loss import Batch, Context, Loss, Objective, condition_on
from lowland.objectives.ranges import (
    COUNT,
    POSITIVE,
    WEIGHT,
    WHOLE,
    check_settings,
    each,
    freeze_sequences,
)
from lowland.registry import register
from lowland.samplers.kernel import CONTINUOUS, squared_norm
from lowland.samplers.langevin import MALA
from lowland.samplers.loop import run_chains


class LatentPosterior(Energy):
    """‖z‖²/2 + ‖x − G(z)‖² / 2σ²: posterior of the noise z (B, latent) from which a generator made
    points x (B, *event).
    """

    def __init__(self, generator: nn.Module, x: Tensor) -> None:
        super().__init__(real(int(generator.latent)))  # type: ignore[arg-type]
        self.generator, self.x = generator, x

    def forward(self, z: Tensor, c: ConditionLike = None) -> Tensor:
        sigma: Any = self.generator.sigma
        return 0.5 * squared_norm(z) + squared_norm(self.x - self.generator(z)) / (2 * sigma**2)


@register("objective")
@dataclass(frozen=True)
class Cooperative(Objective):
    """An energy and a generator that teach each other (MCMC teaching).

    loss = mean E(data) − mean E(revisions)  + mean ‖x − G(z')‖² / 2σ²d − diversity · H(drafts) / d

    steps: of the sampler, from drafts to revisions; infer_steps, infer_step_size: MALA steps, and
    their size in units of σ², from the z of a draft to a z' of its revision; sigma: σ, the
    generator's noise in units of the data; latent, hidden, channels: of the generator (channels
    above 0: transposed convolutions for images); diversity: weight of the entropy of the drafts by
    nearest neighbours, against generators that repeat themselves; partner_rate: of the generator,
    in units of the learning rate. Cost per update: CD's with `steps`, and `infer_steps` + 1
    gradients of the generator and its backward pass. Use it when samples are wanted at once, or
    chains from noise take too long: the generator does the travelling. Sample from it too
    (generation.start = "partner"): where no draft ever was, the energy is not trained, and chains
    from noise get lost. Source: Xie, Lu, Gao, Zhu & Wu (2018), https://arxiv.org/abs/1609.09408

    >>> Cooperative(steps=10).infer_steps
    10
    """

    steps: int = 20
    infer_steps: int = 10
    infer_step_size: float = 0.2
    sigma: float = 0.1
    latent: int = 8
    hidden: Sequence[int] = (128, 128)
    channels: int = 0
    diversity: float = 0.0
    partner_rate: float = 1.0

    def __post_init__(self) -> None:
        freeze_sequences(self, "hidden")
        check_settings(
            self,
            steps=COUNT,
            infer_steps=WHOLE,
            infer_step_size=POSITIVE,
            sigma=POSITIVE,
            latent=COUNT,
            hidden=each(COUNT),
            channels=WHOLE,
            diversity=WEIGHT,
            partner_rate=POSITIVE,
        )

    def make_partner(self, energy: Energy, x: Tensor) -> Generator:
        """Return a new generator for the domain of the energy, which starts at the mean and
        standard deviation of the data x (N, *event).
        """
        made = Generator(
            energy.domain,
            x,
            latent=self.latent,
            hidden=self.hidden,
            channels=self.channels,
            sigma=self.sigma,
        )
        return made.to(x.device)

    def loss(self, energy: Energy, batch: Batch, context: Context) -> Loss:
        x, labels = batch
        if energy.domain.kind not in CONTINUOUS:
            raise ValueError(
                f"the domain is {energy.domain.kind} and generators make real numbers; Cooperative "
                f"trains on {' or '.join(CONTINUOUS)} ones; use PCD"
            )
        partner: Any = context.require_partner("Cooperative")
        generator = context.generator
        z = partner.latents(len(x), generator)
        with torch.no_grad():
            start = partner.add_noise(partner(z), generator).to(x.dtype)
        target = condition_on(energy, labels)
        sampler = context.require_sampler("Cooperative")
        trace = run_chains(target, sampler, start, self.steps, generator=generator)
        loss = contrast(energy, x, trace.x, labels=labels, negative_labels=labels)
        if self.infer_steps:
            posterior = LatentPosterior(partner, trace.x)
            size = self.infer_step_size * self.sigma**2
            z = run_chains(posterior, MALA(size), z, self.infer_steps, generator=generator).x
        made = partner(z)
        taught = (trace.x - made).square().mean() / (2 * self.sigma**2)
        value = loss.value + taught
        if self.diversity:
            value = value - self.diversity * neighbour_entropy(made, made) / x[0].numel()
        terms = chain_terms(start, trace, energy) | {"taught": taught.detach()}
        return loss._replace(value=value, terms=loss.terms | terms)
