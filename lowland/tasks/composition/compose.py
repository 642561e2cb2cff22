"""Composition of energies: AND, OR, NOT as expressions, in one unit, and chains that sample them.

    AND               a + b                                p ∝ p_a p_b
    OR                mixture(a, b)                        p ∝ w_a e^{−a} + w_b e^{−b}
    NOT               a + soft_not(b, level)               p ∝ p_a · σ(b − level)
    away from         a - w * b                            p ∝ p_a / p_b^w, where a confines it
    how much          w * a, a / T                         p_a to a power
    guidance          e + w * LabelGuidance(f, y)          p ∝ p_e · p(y | x)^w (Dhariwal & Nichol)
    without a judge   (1 + w) * e.given(y) - w * e         p ∝ p(x | y) (p(x | y) / p(x))^w (Ho &
                                                           Salimans, classifier-free)
    any judge         e - w * Function(similarity)         whatever is differentiable

AND, OR, NOT: Du, Li & Mordatch (2020), https://arxiv.org/abs/2004.06030; guidance:
https://arxiv.org/abs/2105.05233 and https://arxiv.org/abs/2207.12598

*Units.* A product of right distributions needs no common unit: a + b *is* p_a p_b. Where units are
accidents of training, `compose` standardises each energy on reference points.

*Samplers.* An expression is a distribution, and its right sampler has an accept step:
`sample_composed` tunes one. A sampler without (Langevin) has a bias for each part, and they add up;
it runs if it is passed.

*Noise.* E_1(x, σ) + E_2(x, σ) is **not** the energy of the product p_1 p_2 with noise σ, so reverse
diffusion with summed scores samples no distribution anyone wrote down. The sums are still a path
from an easy distribution to the product: `anneal_composed` follows it, correcting at each level,
and ends with corrected chains at the last, where σ is too small to matter. Source: Du et al.
(2023), Reduce, Reuse, Recycle, https://arxiv.org/abs/2302.11552
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from lowland.devices import to_float64
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
from lowland.scalars import read_integer, read_number
from lowland.tasks.generate import check_joint
from lowland.tasks.inverse.inputs import check_real
from lowland.tasks.settings import read_levels, read_weights

Unit = Literal["deviation", "robust", "score"]
ENERGY_UNITS = ("deviation", "robust", "score")
MAD_TO_STD = 1.4826  # standard deviation of a normal law in units of its median absolute deviation


@dataclass(frozen=True)
class EnergyStats:
    """Location and scale of an energy over reference points: its unit in a composition."""

    mean: float
    std: float


def energy_stats(
    energy: Energy | Callable[..., Tensor], x: Tensor, unit: str = "deviation"
) -> EnergyStats:
    """Measure location and scale of an energy over reference points x (N, *event).

    unit: "deviation", mean and standard deviation of the energies; "robust", their median and
    1.4826 times the median distance from it, which outliers cannot move; "score", the mean, and the
    root mean square of a number of the score, so that every part pushes equally hard.

    Raises ValueError for another unit, points that do not fit, and an energy that is not finite or
    does not vary there.

    >>> from lowland.targets import Gaussian
    >>> wide, g = Gaussian((0.0, 0.0), ((4.0, 0.0), (0.0, 4.0))), torch.Generator().manual_seed(0)
    >>> round(energy_stats(wide, wide.draw(4000, g), "score").std, 1)  # a score is x / 4
    0.5
    """
    if unit not in ENERGY_UNITS:
        raise ValueError(
            f"the unit is {unit!r}; energies are measured by {', '.join(ENERGY_UNITS)}; choose one "
            "of them"
        )
    check_points(lift(energy), x)
    values = to_float64(energy_values(energy, x))
    check_finite(values, "energies")
    mean, std = values.mean(), values.std(correction=min(1, len(values) - 1))
    if unit == "robust":
        mean = values.median()
        std = MAD_TO_STD * (values - mean).abs().median()
    elif unit == "score":
        std = to_float64(value_and_score(energy, x)[1]).square().mean().sqrt()
    if not std > 0:
        raise ValueError(
            f"the energy does not vary over {len(values)} reference points; a unit needs at least "
            "two different values; pass more points"
        )
    return EnergyStats(mean.item(), std.item())


class Constant(Energy):
    """A constant energy: the uniform distribution on a box, none elsewhere.

    >>> Constant(2.0)(torch.zeros(3, 5))
    tensor([2., 2., 2.])
    """

    coercive: ClassVar[bool] = False

    def __init__(self, value: float, domain: Domain | None = None) -> None:
        super().__init__(domain)
        self.value = read_number("the level of a constant energy", value)

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        return torch.full((len(x),), self.value, dtype=x.dtype, device=x.device)


def soft_not(energy: Energy | Callable[..., Tensor], level: float) -> Sum:
    """Negate a concept softly: softplus(level − E(x)), high where E is below the level.

        exp(−softplus(level − E)) = σ(E − level) = 1 / (1 + e^{level} p̃(x)),      p̃ = e^{−E}

    It multiplies a density by a number between 0 and 1, so the product has a normaliser with any
    partner that has one, at any weight; alone it has none, and is refused. It is the expression
    −mixture(E, level) + level. level: the energy at which a point counts half, such as the 0.95
    quantile of the energies of the concept's own points.

    >>> from lowland.targets import Gaussian
    >>> x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [9.0, 0.0]])
    >>> soft_not(Gaussian(), 2.0)(x).round(decimals=2)
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
    """Add energies in units measured on reference points: Σ w_k (E_k − mean_k) / std_k.

    references: for each energy points (N_k, *event) that measure its unit (`energy_stats`). A
    negative weight moves away from a concept and needs a positive partner that grows faster;
    `soft_not` needs only one that confines. At temperature 1 the result is sharper or flatter than
    its parts: weights are inverse temperatures in units of the standard deviations.

    Raises ValueError for lists of different lengths, different domains, and an expression that is
    not normalisable.

    >>> from lowland.targets import Gaussian
    >>> g = torch.Generator().manual_seed(0)
    >>> parts = [Gaussian((0.0, 0.0)), Gaussian((3.0, 0.0))]
    >>> both = compose(parts, [p.draw(100, g) for p in parts])
    >>> both.weights[0] > 0
    True
    """
    lists = [energies, references]
    if not all(isinstance(values, Sequence) for values in lists):
        raise ValueError(
            f"energies came as {type(energies).__name__} and references as "
            f"{type(references).__name__}; a list of each is needed; pass [energy] and [points]"
        )
    factors = (1.0,) * len(energies) if weights is None else read_weights("weights", weights)
    if not len(energies) == len(references) == len(factors):
        raise ValueError(
            f"{len(energies)} energies came with {len(references)} references and the weights "
            f"{factors}; one of each is needed; make the lists equally long"
        )
    terms = [lift(energy) for energy in energies]
    Sum(terms)  # refuses different domains before anything is measured
    stats = [energy_stats(energy, x, unit) for energy, x in zip(terms, references, strict=True)]
    scaled = [w / s.std for w, s in zip(factors, stats, strict=True)]
    offset = sum(f * s.mean for f, s in zip(scaled, stats, strict=True))
    composed = Sum([*terms, Constant(-offset)], [*scaled, 1.0])
    check_normalisable(composed, references[0])
    return composed


# ---------------------------------------------------------------------------------------- samplers


def default_sampler(
    energy: Energy,
    x: Tensor,
    *,
    generator: torch.Generator,
    steps: int = 300,
    progress: Callable[[int], object] | None = None,
) -> Sampler:
    """Choose and tune a sampler with an accept step for an expression, from points x (B, *event).

    MALA on continuous domains; on discrete ones BlockGibbs if the energy knows its conditionals or
    a sweep, else DMALA. progress: called with the number of steps of the warm-up done.
    """
    if energy.domain.kind not in DISCRETE:
        return tune(energy, MALA(0.1), x, steps, generator=generator, progress=progress)
    if gibbs_of(energy).draws or energy.domain.kind != "binary":
        return BlockGibbs()
    return tune(energy, DMALA(1.0), x, steps, generator=generator, progress=progress)


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
    """Sample an expression by chains from x (B, *event), with an accept step unless `sampler` says
    otherwise. progress: called with the number of steps done, those that tune a sampler included.

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
    sampler = sampler or default_sampler(energy, x, generator=generator, progress=progress)
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
    """Sample a composition of energies of noise down falling levels, with corrected chains at the
    end.

    energy: an expression of energies of noise, to be bound to each level, or a path with one energy
    per level; x (B, *event): draws of the first level, such as N(0, σ²) where σ is large; steps: of
    the corrector in all, divided among the levels; sampler: the corrector at the *last* level,
    lengthened with σ (`scale_step_sizes`), unless given MALA of h = 1.36 d^{−1/3} σ², right for a
    distribution as wide as its noise; final: steps of MALA, tuned there, at the last level (a
    sampler without an accept step is used for both); denoise: end at the expected clean point;
    progress: called with 1 after each step, those of warm-up and final chains too, and each level.

    Only the last distribution is sampled, as far as the final chains mix; the levels above bring
    them near it. Raises ValueError as `predictor_corrector` does. Source: Du et al. (2023),
    https://arxiv.org/abs/2302.11552; the step: Roberts & Rosenthal (1998),
    https://doi.org/10.1111/1467-9868.00123

    >>> normal = lift(lambda x, sigma: 0.5 * x.square().sum(1) / (1 + sigma**2))
    >>> g = torch.Generator().manual_seed(0)
    >>> start = 8 * torch.randn(500, 1, generator=g)
    >>> found = anneal_composed(normal + normal, (8.0, 2.0, 0.5, 0.1), start, 80, generator=g)
    >>> bool((found.x.var() - 0.5).abs() < 0.15)
    True
    """
    sigmas = read_levels("sigmas", sigmas, least_count=1)
    final = read_integer("final", final, least=0)
    check_real(x)
    if isinstance(energy, Sequence):
        path = [lift(one) for one in energy]
    else:
        check_joint(lift(energy))
        path = [lift(energy).given(sigma) for sigma in sigmas]
    if len(path) != len(sigmas):
        raise ValueError(
            f"{len(path)} energies came with the levels {list(sigmas)}; one each is needed, above "
            "0 and falling; see karras_sigmas(high, low, count)"
        )
    corrector = sampler or MALA(1.36 * x[0].numel() ** (-1 / 3) * sigmas[-1] ** 2)
    samplers = scale_step_sizes(corrector, sigmas)
    down = predictor_corrector(
        path, sigmas, x, samplers, steps, generator=generator, progress=progress
    )
    last = path[-1]
    if last.domain.kind == "box":
        last = Scaled(last, 1.0, real(*x.shape[1:]))
    if corrector.adjusted and final:
        corrector = tune(
            last,
            corrector,
            down.x,
            max(final // 2, 20),
            metric=False,
            generator=generator,
            progress=progress,
        )
    end = predictor_corrector(
        [last],
        sigmas[-1:],
        down.x,
        corrector,
        final,
        generator=generator,
        denoise=denoise,
        progress=progress,
    )
    return replace(
        end,
        diverged=down.diverged + end.diverged,
        outside=~path[-1].domain.contains(end.x),
        num_grad_evals=down.num_grad_evals + end.num_grad_evals,
        acceptance=(*down.acceptance, *end.acceptance),
    )
