"""Score matching: fit ∇E to data without drawing a single sample of the model.

The normaliser does not depend on x, so the score s = ∇ log p = −∇E does not know it. Two ways to a
loss of scores alone:

    DSM              compare s at noised data with the direction of the noise    (Vincent 2011)
    ScoreMatching    integrate by parts: ½ ‖s‖² + div s at data                  (Hyvärinen 2005)

The first learns the distribution of noised data, at one gradient an update; the second that of the
data, at the cost of the trace of a Hessian, and of what a finite set of points allows: the
loss falls without bound where the energy sharpens around them. A little `training.data_noise_std`
keeps it from doing so."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lowland.energy import Energy, noise_of
from lowland.energy.gradient import differentiate_values
from lowland.objectives.loss import (
    Batch,
    Context,
    Loss,
    Objective,
    check_domain,
    energy_terms,
    evaluate_energy,
)
from lowland.objectives.ranges import (
    COUNT,
    POSITIVE,
    check_settings,
    each,
    freeze_sequences,
    one_of,
)
from lowland.registry import register
from lowland.samplers.kernel import normal_like
from lowland.transfer import constants


@register("objective")
@dataclass(frozen=True)
class DSM(Objective):
    """Denoising score matching at one or several noise levels.

        x̃ = x + σ ε,   loss = ½ E ‖σ s(x̃) + ε‖² / d,      s = −∇E(x̃, σ),  ε ~ N(0, I)

    At the minimum s is the score of the data blurred by σ. The factor σ weighs all levels alike.
    With several levels, each row draws one, and the energy must be one of noise, E(x, σ) (for
    example NoiseMLP). Cost per update: one gradient in x with its own backward pass, some three
    times a forward and backward pass. Use it when samples are wanted soon and safely, and a
    distribution with a little noise in it will do. Source: Vincent (2011),
    https://doi.org/10.1162/NECO_a_00142; Song & Ermon (2019), https://arxiv.org/abs/1907.05600

    >>> DSM(sigmas=(1.0, 0.1))
    DSM(sigmas=(1.0, 0.1))
    """

    sigmas: Sequence[float] = (0.1,)
    sampled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        freeze_sequences(self, "sigmas")
        check_settings(self, sigmas=each(POSITIVE))

    def loss(self, energy: Energy, batch: Batch, context: Context) -> Loss:
        x, generator = batch.x, context.generator
        of_noise = noise_of(energy) is not None
        if len(self.sigmas) > 1 and not of_noise:
            raise ValueError(
                f"{len(self.sigmas)} noise levels came with an energy that knows none; several "
                "levels need E(x, σ); use NoiseMLP or give one sigma"
            )
        levels = constants(self.sigmas, x)
        which = torch.randint(len(levels), (len(x),), generator=generator, device=x.device)
        sigma = levels[which]
        wide = sigma.view(-1, *[1] * (x.dim() - 1))
        noise = normal_like(x, generator)
        noisy = (x + wide * noise).requires_grad_(True)
        values = evaluate_energy(energy, noisy, sigma if of_noise else batch.labels)
        gradient = differentiate_values(values, noisy)
        rows = 0.5 * (noise - wide * gradient).square().flatten(1).mean(1)
        return Loss(rows.mean(), energy_terms(values))


@register("objective")
@dataclass(frozen=True)
class ScoreMatching(Objective):
    """Score matching by parts: the slope of the energy at data against its curvature there.

        loss = E[ ½ Σ_i g_i (∂_i E)² − Σ_i g_i ∂²_i E − Σ_i g'_i ∂_i E ],      g = 1, g' = 0 on the
                                                                               real line

    that is ½ ‖∇E‖² − tr ∇²E. On a box g_i = 4 (x_i − lo)(hi − x_i) / (hi − lo)² vanishes at the
    bounds, where otherwise the integral by parts would leave a term behind; data that sit on the
    walls have no density there and want dequantising.

    method: how the trace is found. "exact": number by number, D second derivatives, refused for D >
    limit. "hutchinson": vᵀ(∇²E)v with signs v. "sliced": the same with normal v and, unless
    variance_reduced, (vᵀ∇E)² in place of ‖∇E‖². probes: directions v per point. At the minimum the
    energy is that of the data, and the terms `slope` (E‖∇E‖²) and `curvature` (E tr ∇²E) agree. Use
    it when the energy is smooth, D is small or moderate and the distribution of data itself
    is wanted; DSM is calmer. Cost: one gradient, and one gradient of a gradient (some 3 more) for
    each probe, or for each number if exact. Source: Hyvärinen (2005),
    https://jmlr.org/papers/v6/hyvarinen05a.html; on bounded domains: Hyvärinen (2007),
    https://doi.org/10.1016/j.csda.2006.09.003; sliced: Song et al. (2019),
    https://arxiv.org/abs/1905.07088; signs: Hutchinson (1990),
    https://doi.org/10.1080/03610919008812866

    >>> import torch, lowland
    >>> bowl = lowland.Function(lambda x: 0.5 * x.square().sum(1), lowland.real(2))
    >>> x, g = torch.ones(4, 2), torch.Generator()
    >>> ScoreMatching().loss(bowl, Batch(x), Context(g)).value.item()  # ½ · 2 − 2
    -1.0
    """

    method: Literal["exact", "hutchinson", "sliced"] = "exact"
    probes: int = 1
    variance_reduced: bool = True
    limit: int = 64
    sampled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_settings(
            self, method=one_of("exact", "hutchinson", "sliced"), probes=COUNT, limit=COUNT
        )
        if not self.variance_reduced and self.method != "sliced":
            raise ValueError(
                f"variance_reduced is off and method is {self.method!r}; only sliced has a form "
                "with more variance; leave it on"
            )

    def loss(self, energy: Energy, batch: Batch, context: Context) -> Loss:
        check_domain(
            "ScoreMatching", energy, ("real", "box"), "use PseudoLikelihood or EnergyDiscrepancy"
        )
        if self.method == "exact" and batch.x[0].numel() > self.limit:
            raise ValueError(
                f"an event has {batch.x[0].numel()} numbers; the exact trace takes a second "
                "derivative "
                f'for each and is for at most {self.limit}; set method = "hutchinson"'
            )
        x = batch.x.detach().requires_grad_(True)
        values = evaluate_energy(energy, x, batch.labels)
        gradient = differentiate_values(values, x)
        weight, turn = _wall_weight(x.detach(), energy)
        slope = _total(weight * gradient.square())
        curvature = x.new_zeros(len(x))
        projected = x.new_zeros(len(x))
        for v, share in self._directions(x.detach(), context.generator):
            bent = _differentiate_along(gradient, x, v)
            curvature = curvature + share * _total(weight * v * bent)
            projected = projected + share * _total(weight.sqrt() * v * gradient).square()
        square = slope if self.variance_reduced else projected
        rows = 0.5 * square - curvature - _total(turn * gradient)
        bend = (curvature + _total(turn * gradient)).mean()
        return Loss(rows.mean(), energy_terms(values, slope=slope.mean(), curvature=bend))

    def _directions(self, x: Tensor, generator: torch.Generator) -> Iterator[tuple[Tensor, float]]:
        """Yield directions v, each like x, with their shares: Σ share · v vᵀ is the identity,
        exactly or on average.
        """
        if self.method == "exact":
            for axis in torch.eye(x[0].numel(), dtype=x.dtype, device=x.device):
                yield axis.view_as(x[0]).expand_as(x), 1.0
            return
        draw = normal_like if self.method == "sliced" else _signs
        for _ in range(self.probes):
            yield draw(x, generator), 1 / self.probes


def _differentiate_along(gradient: Tensor, x: Tensor, v: Tensor) -> Tensor:
    """Return the gradient of v · gradient in x, with a graph; zeros where it is constant in x."""
    if not gradient.requires_grad:
        return torch.zeros_like(x)
    (bent,) = torch.autograd.grad(
        gradient,
        x,
        v,
        create_graph=True,
        retain_graph=True,
        allow_unused=True,
        materialize_grads=True,
    )
    return bent


def _signs(x: Tensor, generator: torch.Generator) -> Tensor:
    """Draw −1 or 1 with equal chances, like x."""
    return 2 * torch.randint(2, x.shape, generator=generator, device=x.device, dtype=x.dtype) - 1


def _wall_weight(x: Tensor, energy: Energy) -> tuple[Tensor, Tensor]:
    """Return g and g' of every number of x: 1 and 0 on the real line, a parabola that vanishes at
    the bounds of a box.
    """
    if energy.domain.kind != "box":
        return torch.ones_like(x), torch.zeros_like(x)
    lo, hi = energy.domain.lo, energy.domain.hi
    scale = 4 / (hi - lo) ** 2
    return (scale * (x - lo) * (hi - x)).clamp(min=0), scale * (lo + hi - 2 * x)


def _total(x: Tensor) -> Tensor:
    """Sum over the event: (B, *event) → (B,)."""
    return x.flatten(1).sum(1)
