"""Combining concepts: AND, OR, NOT as expressions, in one unit, and the chains that draw from them.

    AND               a + b                                 p ∝ p_a p_b
    OR                mixture(a, b)                         p ∝ w_a e^{−a} + w_b e^{−b}
    NOT               a + soft_not(b, level) p ∝ p_a · σ(b − level): b's own are taken out of a
    away from         a - w * b p ∝ p_a / p_b^w, where a still confines it
    how much          w * a, a / T                          a power of p_a
    guidance          e + w * LabelGuidance(classifier, y) p ∝ p_e · p(y | x)^w (Dhariwal & Nichol)
    without one       (1 + w) * told - w * untold p ∝ p(x | y) (p(x | y) / p(x))^w (Ho & Salimans)
    a critic          e - w * Function(similarity) whatever is differentiable and says how much it
                      likes x

AND, OR, NOT: Du, Li & Mordatch (2020), https://arxiv.org/abs/2004.06030; guidance:
https://arxiv.org/abs/2105.05233 and https://arxiv.org/abs/2207.12598

*Units.* Energies that were trained apart have units and levels of their own. A product of laws that
are right needs no other unit: a + b *is* p_a p_b. Where the units are accidents of training,
`compose` measures each on reference points.

*Samplers.* An expression is a law, and its right sampler is one with an accept step:
`sample_composed` tunes one. A sampler without (Langevin) has a bias for each part, and they add up;
it runs if it is asked for by name.

*Noise.* E_1(x, σ) + E_2(x, σ) is **not** the energy of the product p_1 p_2 with noise σ: noise does
not pass through a product. So reverse diffusion with summed scores draws from no law that anyone
wrote down. The sums are still a path, from a law that is easy to one that is wanted:
`anneal_composed` walks it, correcting at each level, and ends with corrected chains in the last,
where σ is too small to matter. Source: Du et al. (2023), Reduce, Reuse, Recycle,
https://arxiv.org/abs/2302.11552
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from lowland.domain import Domain, real
from lowland.energy import (
    Energy,
    Mixture,
    Sum,
    check_finite,
    check_normalisable,
    check_points,
    energy_values,
    gibbs_of,
    lift,
    value_and_score,
)
from lowland.samplers import (
    DMALA,
    MALA,
    BlockGibbs,
    DiffusionResult,
    Recorder,
    Sampler,
    Trace,
    predictor_corrector,
    sample,
    scale_step_sizes,
    tune,
)
from lowland.samplers.diffusion import Scaled
from lowland.samplers.kernel import DISCRETE
from lowland.tasks.generate import check_whole

UNITS = ("deviation", "robust", "score")


@dataclasses.dataclass(frozen=True)
class EnergyStats:
    """Where an energy lies over reference points (mean, or the median) and how far it spreads: the
    unit in which it counts.
    """

    mean: float
    std: float


def energy_stats(
    energy: Energy | Callable[..., Tensor], x: Tensor, unit: str = "deviation"
) -> EnergyStats:
    """Measure an energy over reference points (N, *event), such as its own calibration split.

    unit: "deviation", mean and standard deviation of the energies; "robust", their median and
    1.4826 times the median distance from it, which is the deviation of a normal law and which
    outliers cannot move; "score", the mean, and the root mean square of a number of the score, so
    that every part pushes equally hard.

    Raises ValueError for another unit, points that do not fit, or if the energy is not finite or
    does not vary there.

    >>> from lowland.targets import Gaussian
    >>> x = Gaussian((0.0, 0.0), ((4.0, 0.0), (0.0, 4.0))).draw(4000, torch.Generator().manual_seed(0))
    >>> round(energy_stats(Gaussian((0.0, 0.0), ((4.0, 0.0), (0.0, 4.0))), x, "score").std, 1)  # a score is x / 4
    0.5
    """
    if unit not in UNITS:
        raise ValueError(
            f"the unit is {unit!r}; energies are measured by {', '.join(UNITS)}; choose one of them"
        )
    check_points(lift(energy), x)
    values = energy_values(energy, x).double()
    check_finite(values, "energies")
    middle, spread = values.mean(), values.std() if len(values) > 1 else values.new_zeros(())
    if unit == "robust":
        middle = values.median()
        spread = 1.4826 * (values - middle).abs().median()
    elif unit == "score":
        spread = value_and_score(energy, x)[1].double().square().mean().sqrt()
    if not spread > 0:
        raise ValueError(
            f"the energy does not vary over {len(values)} reference points; a unit needs at least "
            "two different values; pass more points"
        )
    return EnergyStats(middle.item(), spread.item())


class Constant(Energy):
    """The same energy everywhere: uniform, a law only inside walls.

    >>> Constant(2.0)(torch.zeros(3, 5))
    tensor([2., 2., 2.])
    """

    coercive: ClassVar[bool] = False

    def __init__(self, value: float, domain: Domain | None = None) -> None:
        super().__init__(domain)
        if not math.isfinite(value):
            raise ValueError(
                f"the level is {value}; an energy is a finite number; measure it on points of the "
                "concept"
            )
        self.value = value

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        return torch.full((len(x),), self.value, dtype=x.dtype, device=x.device)


def soft_not(energy: Energy | Callable[..., Tensor], level: float) -> Sum:
    """NOT, bounded: softplus(level − E(x)), high where E is below the level, 0 where it is far
    above.

        exp(−softplus(level − E)) = σ(E − level) = 1 / (1 + e^{level} p̃(x)),      p̃ = e^{−E}

    It multiplies a law by a number between 0 and 1 and takes from it what the energy holds for
    likely, so with any partner that confines, and any weight, it has a normaliser; alone it has
    none, and is refused. In the algebra it is one more expression, −mixture(E, level) + level:
    whatever is not E or uniform. level: the energy at which a point counts half, such as the 0.95
    quantile of the energies of the concept's own points.

    >>> from lowland.targets import Gaussian
    >>> soft_not(Gaussian(), 2.0)(torch.tensor([[0.0, 0.0], [2.0, 0.0], [9.0, 0.0]])).round(decimals=2)
    tensor([2.1300, 0.6900, 0.0000])
    """
    energy = lift(energy)
    floor = Constant(level, energy.domain)
    return Sum([Mixture([energy, floor], (1.0, 1.0)), floor], [-1.0, 1.0])


def compose(
    energies: Sequence[Energy | Callable[..., Tensor]],
    references: Sequence[Tensor],
    weights: Sequence[float] | None = None,
    *,
    unit: str = "deviation",
) -> Sum:
    """Σ w_k (E_k − mean_k) / spread_k: a conjunction in which each concept counts by its weight,
    not by its unit.

    references: for each energy points (N_k, *event) that measure its unit (`energy_stats`). A negative
    weight moves away from a concept and needs a positive partner that rises faster; `soft_not` needs
    only one that confines. Sampling the result at temperature 1 is sharper or flatter than the
    parts: the weights are inverse temperatures in units of the spreads.

    Raises ValueError for lists of different lengths, different domains, and an expression that is
    not normalisable.

    >>> from lowland.targets import Gaussian
    >>> g = torch.Generator().manual_seed(0)
    >>> parts = [Gaussian((0.0, 0.0)), Gaussian((3.0, 0.0))]
    >>> both = compose(parts, [p.draw(100, g) for p in parts])
    >>> both.weights[0] > 0
    True
    """
    weights = [1.0] * len(energies) if weights is None else list(weights)
    if not len(energies) == len(references) == len(weights) or not all(map(math.isfinite, weights)):
        raise ValueError(
            f"{len(energies)} energies came with {len(references)} references and the weights "
            f"{weights}; one of each is needed, weights finite; make the lists equally long"
        )
    terms = [lift(energy) for energy in energies]
    Sum(terms)  # refuses different domains before anything is measured
    scales = [energy_stats(energy, x, unit) for energy, x in zip(terms, references, strict=True)]
    factors = [w / s.std for w, s in zip(weights, scales, strict=True)]
    offset = sum(f * s.mean for f, s in zip(factors, scales, strict=True))
    whole = Sum([*terms, Constant(-offset)], [*factors, 1.0])
    check_normalisable(whole, references[0])
    return whole


# ---------------------------------------------------------------------------------- drawing from it


def default_sampler(
    energy: Energy, x: Tensor, *, generator: torch.Generator, steps: int = 300
) -> Sampler:
    """A sampler with an accept step for an expression, tuned from x (B, *event): MALA, or on
    discrete domains BlockGibbs where the energy declares its conditionals or a sweep of its own,
    and DMALA where it declares neither.
    """
    if energy.domain.kind not in DISCRETE:
        return tune(energy, MALA(0.1), x, steps, generator=generator)
    if gibbs_of(energy).draws or energy.domain.kind != "binary":
        return BlockGibbs()
    return tune(energy, DMALA(1.0), x, steps, generator=generator)


def sample_composed(
    energy: Energy | Callable[..., Tensor],
    x: Tensor,
    steps: int,
    *,
    generator: torch.Generator,
    sampler: Sampler | None = None,
    thin: int | None = None,
    recorders: Recorder | Sequence[Recorder] = (),
    progress: Callable[[int], object] | None = None,
) -> Trace:
    """Draw from an expression: chains from x (B, *event), with an accept step unless a sampler is
    named that has none.

    Raises ValueError for an expression that is not normalisable, and as `sample` does.

    >>> from lowland.targets import Gaussian
    >>> g = torch.Generator().manual_seed(0)
    >>> both = Gaussian((-1.0, 0.0)) + Gaussian((1.0, 0.0))  # N(0, I / 2)
    >>> x = sample_composed(both, torch.zeros(2000, 2), 50, generator=g).x
    >>> bool((x.var(0) - 0.5).abs().max() < 0.1)
    True
    """
    energy = lift(energy)
    check_normalisable(energy, x)
    sampler = sampler or default_sampler(energy, x, generator=generator)
    return sample(
        energy,
        sampler,
        x,
        steps,
        generator=generator,
        thin=thin,
        recorders=recorders,
        progress=progress,
    )


def anneal_composed(
    energy: Energy | Callable[..., Tensor] | Sequence[Energy],
    sigmas: Sequence[float],
    x: Tensor,
    steps: int,
    *,
    generator: torch.Generator,
    final: int = 100,
    sampler: Sampler | None = None,
    denoise: bool = True,
    progress: Callable[[int], object] | None = None,
) -> DiffusionResult:
    """Draw from a composition of energies of noise: down falling levels, corrected at each, and
    corrected chains at the end.

    energy: an expression of energies of noise, to be bound to each level, or a path with one energy
    per level; x (B, *event): draws of the first level, such as N(0, σ²) where σ is large; steps: of
    the corrector in all, divided among the levels; sampler: the corrector for the *last* level,
    made longer with σ (`scale_step_sizes`); unless given MALA of h = 1.36 d^{−1/3} σ², right for a law
    as wide as its noise; final: steps of MALA, tuned there, in the law of the last level; a sampler
    without an accept step is used for both, for then that was asked for. denoise: end at the expected
    clean point.

    Only the last law is drawn from, as far as the final chains reach: the levels above bring them
    near it. Raises ValueError as `predictor_corrector` does. Source: Du et al. (2023),
    https://arxiv.org/abs/2302.11552; the step: Roberts & Rosenthal (1998),
    https://doi.org/10.1111/1467-9868.00123

    >>> normal = lift(lambda x, sigma: 0.5 * x.square().sum(1) / (1 + sigma**2))
    >>> g = torch.Generator().manual_seed(0)
    >>> found = anneal_composed(normal + normal, (8.0, 2.0, 0.5, 0.1), 8 * torch.randn(500, 1, generator=g), 80, generator=g)
    >>> bool((found.x.var() - 0.5).abs() < 0.15)
    True
    """
    if not isinstance(energy, Sequence):
        check_whole(lift(energy))
    path = (
        list(energy)
        if isinstance(energy, Sequence)
        else [lift(energy).given(sigma) for sigma in sigmas]
    )
    if not path or len(path) != len(sigmas) or not all(0 < sigma < math.inf for sigma in sigmas):
        raise ValueError(
            f"{len(path)} energies came with the levels {list(sigmas)}; one each is needed, above "
            "0 and falling; see karras_sigmas(high, low, count)"
        )
    size = x[0].numel()
    own = sampler or MALA(1.36 * size ** (-1 / 3) * sigmas[-1] ** 2)
    found = predictor_corrector(
        path,
        sigmas,
        x,
        scale_step_sizes(own, sigmas),
        steps,
        generator=generator,
        progress=progress,
    )
    last = Scaled(path[-1], 1.0, real(*x.shape[1:])) if path[-1].domain.kind == "box" else path[-1]
    if own.adjusted and final:
        own = tune(last, own, found.x, max(final // 2, 20), metric=False, generator=generator)
    ended = predictor_corrector(
        [last], sigmas[-1:], found.x, own, final, generator=generator, denoise=denoise
    )
    outside = ~path[-1].domain.contains(ended.x)
    return dataclasses.replace(
        ended,
        diverged=found.diverged + ended.diverged,
        outside=outside,
        num_grad_evals=found.num_grad_evals + ended.num_grad_evals,
        acceptance=(*found.acceptance, *ended.acceptance),
    )
