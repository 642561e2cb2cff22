"""Restoring what was measured badly: the energy is the prior, the measurement a second energy.

For y = A x + σ ε with Gaussian noise, Bayes' rule is a sum of energies,

    E(x | y) = E(x) + ‖A x − y‖² / 2σ²,

and sampling from it gives not one answer but many: their mean is the best guess in mean square, their spread says where the
guess is worth nothing. (The factor is 1 / 2σ², so the drift carries ∇‖·‖² / 2σ² and not twice that.)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowland.energy import Energy, check_finite, check_points, lift
from lowland.samplers import Sampler, anneal
from lowland.tasks.generate import jump

Measure = Callable[[Tensor], Tensor]


class Likelihood(Energy):
    """‖A x − y‖² / 2σ² as an energy of x, row by row: y has as many rows as x will have.

    >>> import torch
    >>> from lowland.tasks import Identity
    >>> Likelihood(Identity(), torch.ones(2, 3), 0.5)(torch.zeros(2, 3))
    tensor([6., 6.])
    """

    def __init__(self, operator: Measure, y: Tensor, sigma: float) -> None:
        super().__init__()
        if not sigma > 0:
            raise ValueError(f"sigma is {sigma}; the noise of the measurement must be above 0; 0.05 is small for images")
        check_finite(y, "measurements")
        self.operator, self.y, self.sigma = operator, y, sigma

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        return (self.operator(x) - self.y).square().flatten(1).sum(1) / (2 * self.sigma**2)

    def rows(self, index: Tensor) -> "Likelihood":
        return Likelihood(self.operator, self.y[index], self.sigma)


def check_operator(operator: Measure, x: Tensor, y: Tensor) -> None:
    """Refuse an operator that does not turn points of x's shape into measurements of y's."""
    try:
        made = tuple(operator(x[:1]).shape[1:])
    except RuntimeError as error:
        made = str(error)  # type: ignore[assignment]
    if made != tuple(y.shape[1:]):
        raise ValueError(
            f"the measurement has shape {tuple(y.shape[1:])} and the operator gives {made} for points of shape "
            f"{tuple(x.shape[1:])}; they must agree; measure with the operator that is passed"
        )


@dataclass(frozen=True)
class Restoration:
    """mean and spread (B, *event): average and standard deviation over the draws; draws (D, B, *event)."""

    mean: Tensor
    spread: Tensor
    draws: Tensor


def resample(bank: Tensor, operator: Measure, y: Tensor, sigma: float, draws: int, generator: torch.Generator) -> Tensor:
    """For each measurement `draws` of the bank's points that explain it, by importance resampling: indices (draws, B).

        w_ij ∝ exp(−β_j ‖A x_i − y_j‖² / 2σ²),      x_i from the bank, draws of the prior

    β_j is the largest number up to 1 at which the weights are worth at least `draws` points (effective sample size); with a
    bank large enough it is 1 and the resampled points are draws of the posterior.
    Source: Gordon, Salmond & Smith (1993), https://doi.org/10.1049/ip-f-2.1993.0015; tempering after Del Moral et al. (2006)
    """
    loss = torch.cdist(y.flatten(1).double(), operator(bank).flatten(1).double()).square() / (2 * sigma**2)  # (B, bank)
    loss -= loss.min(1, keepdim=True).values
    low, high = torch.zeros_like(loss[:, :1]), torch.ones_like(loss[:, :1])
    for _ in range(30):
        beta = (low + high) / 2
        weights = torch.softmax(-beta * loss, 1)
        enough = weights.square().sum(1, keepdim=True) * draws <= 1
        low, high = torch.where(enough, beta, low), torch.where(enough, high, beta)
    return torch.multinomial(torch.softmax(-low * loss, 1), draws, replacement=True, generator=generator).T


def restore(
    prior: Energy,
    operator: Measure,
    y: Tensor,
    sigma: float,
    sampler: Sampler,
    *,
    generator: torch.Generator,
    steps: int = 500,
    draws: int = 1,
    start: Tensor | None = None,
    bank: Tensor | None = None,
    temperatures: Sequence[float] = (1.0,),
    jump_sigma: float = 0.0,
    progress: Callable[[int], object] | None = None,
) -> Restoration:
    """Draw from the posterior of x given y = A x + σ ε, `draws` chains for each row of y.

    prior: an energy of x alone, with an event shape; operator: any differentiable A; y (B, *measured); sigma: noise of
    the measurement; start: (B, *event), where the chains begin; draws of the domain's starting law unless given;
    bank (N, *event): draws of the prior instead, from which each chain takes one that explains its measurement (`resample`),
    so that chains begin in the right mode and need not find it;
    temperatures: a path, prior / T + likelihood for each T, the steps divided evenly among them. Ending at 1 gives draws of
    the posterior as far as the chains mix; from hot to 1 they mix better; jump_sigma: noise level of the data that the prior
    was trained on, removed from every draw by a last `jump` (the prior is then that of noisy points, so draws are those of a
    smoothed posterior: good guesses, but biased where the measurement is finer than that noise).

    Raises ValueError for a sigma that is not positive, measurements that are not finite, or shapes that A cannot relate.

    >>> import torch, lowland
    >>> from lowland.targets import Gaussian
    >>> from lowland.tasks import Identity
    >>> g = torch.Generator().manual_seed(0)
    >>> found = restore(Gaussian(), Identity(), torch.ones(1, 2), 1.0, lowland.MALA(0.3), generator=g, draws=500)
    >>> bool((found.mean - 0.5).abs().max() < 0.2)
    True
    """
    prior = lift(prior)
    if draws < 1:
        raise ValueError(f"draws is {draws}; at least 1 is needed; more give a better mean and a spread")
    if bank is not None and (start is not None or not len(bank)):
        raise ValueError(
            f"a bank of {len(bank)} points came with {'no' if start is None else 'a'} start; chains begin at points of the "
            f"one or at the other; pass a bank that holds points, or a start"
        )
    fit = Likelihood(operator, y.repeat(draws, *[1] * (y.dim() - 1)), sigma)
    if bank is not None:
        check_points(prior, bank)
        check_operator(operator, bank, y)
        x = bank[resample(jump(prior, bank, jump_sigma), operator, y, sigma, draws, generator)].flatten(0, 1)
    elif start is None:
        x = prior.domain.draw(draws * len(y), generator, dtype=y.dtype)
    else:
        x = start.repeat(draws, *[1] * (start.dim() - 1))
    if not temperatures or min(temperatures) <= 0 or len(x) != draws * len(y):
        raise ValueError(
            f"temperatures are {temperatures} and start has {len(x) // draws} rows for {len(y)} measurements; at least one T, "
            f"all above 0, and one row each are needed; correct them"
        )
    check_operator(operator, x, y)
    path = [prior / t + fit for t in temperatures]
    x = anneal(path, sampler, x, steps, generator=generator, progress=progress)[-1].x
    found = jump(prior, x, jump_sigma).view(draws, len(y), *x.shape[1:])
    return Restoration(found.mean(0), found.std(0, correction=0), found)
