"""Recovery: from a noisy point back to one that is less noisy, by the distribution of the
second given the first.

Let x_σ be data with noise N(0, σ²) and E(x, σ) the energy of its distribution. Given the same point
at a higher level, x̃ = x_σ + s ξ with s² = σ̃² − σ², it follows

    p(x | x̃) ∝ exp(−E(x, σ) − ‖x̃ − x‖² / (2 s²)),

which has one mode where s is small, although E may have many: chains from x̃ reach it in a few
steps. Down a ladder of levels, each draw is the start of the next (`diffusion_recovery_sample`),
and ends as a draw of the lowest level's distribution. Source: Bengio et al. (2013),
https://arxiv.org/abs/1305.6663; Gao et al. (2021), https://arxiv.org/abs/2012.08125
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from lowland.energy import ConditionLike, Energy, Wrapper, check_points, lift
from lowland.energy.gradient import call
from lowland.samplers.anneal import divide_steps
from lowland.samplers.diffusion import DiffusionResult
from lowland.samplers.doors import check_arguments
from lowland.samplers.kernel import CONTINUOUS, Sampler, per_row, squared_norm
from lowland.samplers.langevin import MALA, Langevin, LeimkuhlerMatthews
from lowland.samplers.loop import run_chains


class ConditionalEnergy(Wrapper):
    """E(x) + ‖x̃ − x‖² / (2 s²): the distribution of a point given a noisier one. x̃ (B, *event);
    s: one number, or one per row (B,).

    Rows belong to chains. Noise knows no walls, so that the domain of E is left without its own.

    >>> import torch
    >>> from lowland.targets import Gaussian
    >>> ConditionalEnergy(Gaussian(), torch.tensor([[1.0, 1.0]]), 0.5)(torch.zeros(1, 2))
    tensor([4.])
    """

    noisy: Tensor
    pull: Tensor

    def __init__(self, energy: Energy, noisy: Tensor, spread: Tensor | float) -> None:
        free = dataclasses.replace(energy.domain, kind="real", lo=-math.inf, hi=math.inf)
        super().__init__(energy, free)
        sigma = torch.as_tensor(spread, dtype=noisy.dtype, device=noisy.device)
        self.register_rows("noisy", noisy)
        self.register_rows("pull", 1 / sigma**2)

    def forward(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        return call(self.energy, x, c) + self.pull / 2 * squared_norm(x - self.noisy)

    def value_and_score(self, x: Tensor, c: ConditionLike = None) -> tuple[Tensor, Tensor]:
        value, score = call(self.energy.value_and_score, x, c)
        away = x - self.noisy
        return value + self.pull / 2 * squared_norm(away), score - per_row(self.pull, x) * away


def check_levels(sigmas: Sequence[float]) -> None:
    """Raise ValueError unless there are two levels or more, falling, all above 0."""
    if (
        len(sigmas) < 2
        or not all(a > b for a, b in pairwise(sigmas))
        or not 0 < sigmas[-1] <= sigmas[0] < math.inf
    ):
        raise ValueError(
            f"sigmas are {tuple(sigmas)}; at least two noise levels above 0 are needed, falling; "
            "see karras_sigmas(high, low, count)"
        )


def scale_to_noise(sampler: Sampler, spread: Tensor | float) -> Sampler:
    """Return the sampler with its step in units of s²: h = step_size · s², so that one number
    serves all levels.

    Raises ValueError for a sampler other than Langevin, MALA and LeimkuhlerMatthews, whose step is
    of that kind.
    """
    if not isinstance(sampler, (Langevin, MALA, LeimkuhlerMatthews)):
        raise ValueError(
            f"recovery came with {type(sampler).__name__}; its step follows the noise as a square, "
            "which that of Langevin, MALA and LeimkuhlerMatthews does; use one of them"
        )
    return sampler.replace(step_size=sampler.step_size * spread**2)


def diffusion_recovery_sample(
    energy: Energy | Callable[..., Tensor],
    sigmas: Sequence[float],
    x: Tensor,
    sampler: Sampler,
    steps: int,
    *,
    generator: torch.Generator,
    progress: Callable[[int], object] | None = None,
) -> DiffusionResult:
    """Draw down a ladder: at each level from the distribution of the point given where the level
    above ended.

    energy: of a point and a noise level, E(x, σ); sigmas: falling; x (B, *event): draws of the
    first level, for which N(0, σ²) serves where σ is far above the size of the data; sampler: its
    step_size is in units of s² = σ̃² − σ²; steps: in all, divided evenly among the levels below the
    first. The error is that of the steps at each level, and it adds up. Cost: one gradient per
    step, and one per level.

    Raises ValueError for levels that do not fall, a sampler whose step is no square, points that do
    not fit. Source: Gao et al. (2021), algorithm 2, https://arxiv.org/abs/2012.08125

    >>> import torch, lowland
    >>> from lowland.samplers import diffusion_recovery_sample
    >>> normal = lowland.Function(lambda x, sigma: 0.5 * x.square().sum(1) / (1 + sigma**2))
    >>> g = torch.Generator().manual_seed(0)
    >>> x = 3 * torch.randn(5, 2, generator=g)
    >>> sigmas, sampler = (3.0, 1.0, 0.1), lowland.MALA(0.2)  # data N(0, 1)
    >>> diffusion_recovery_sample(normal, sigmas, x, sampler, 20, generator=g)
    DiffusionResult(5 points of (2,) at sigma 0.1, 22 gradients)
    """
    energy = lift(energy)
    check_levels(sigmas)
    steps = check_arguments(steps, generator, x)
    if energy.domain.kind not in CONTINUOUS:
        raise ValueError(
            f"the domain is {energy.domain.kind}; noise is added to real numbers; use anneal or "
            "simulated_annealing there"
        )
    free = dataclasses.replace(energy.domain, kind="real", lo=-math.inf, hi=math.inf)
    check_points(Energy(free), x)
    diverged, rates, paid = torch.zeros(len(x), dtype=torch.long, device=x.device), [], 0.0
    for (above, sigma), share in zip(
        pairwise(sigmas), divide_steps(steps, len(sigmas) - 1), strict=True
    ):
        spread = math.sqrt(above**2 - sigma**2)
        conditional = ConditionalEnergy(energy.given(sigma), x, spread)
        trace = run_chains(
            conditional,
            scale_to_noise(sampler, spread),
            x,
            share,
            generator=generator,
            progress=progress,
        )
        x, diverged, paid = trace.x, diverged + trace.diverged, paid + trace.num_grad_evals
        rates.append(trace.acceptance.mean())
    acceptance = tuple(torch.stack(rates).tolist())
    return DiffusionResult(x, sigmas[-1], diverged, ~energy.domain.contains(x), paid, acceptance)
