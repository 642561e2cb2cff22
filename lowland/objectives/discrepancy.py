"""Objectives that compare data with their neighbours: no chains, no gradient in x, no normaliser.

A point and what becomes of it when it is perturbed have energies whose difference is a log-ratio of
probabilities, whatever Z:

    EnergyDiscrepancy   data against points two perturbations away (Schröder et al. 2023; any
                        domain)
    PseudoLikelihood    every site against its other values            (Besag 1975; discrete)
    RatioMatching       the same ratios, squared                       (Hyvärinen 2007; binary)

What they see is the neighbourhood of the data, so none of them learns the shares of modes that are
far apart on the scale of the perturbation.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lowland.domain import Domain
from lowland.energy import Energy, gibbs_of
from lowland.objectives.loss import (
    Batch,
    Context,
    Loss,
    Objective,
    check_domain,
    condition_on,
    energy_terms,
    evaluate_energy,
)
from lowland.objectives.ranges import (
    COUNT,
    POSITIVE,
    WEIGHT,
    WHOLE,
    Range,
    check_settings,
    read_real,
)
from lowland.registry import register
from lowland.samplers.kernel import CONTINUOUS, DISCRETE, normal_like, uniform_like

# neighbours in one forward pass; more come in chunks, whose graphs are made anew in backward
MAX_ROWS = 8192


@register("objective")
@dataclass(frozen=True)
class EnergyDiscrepancy(Objective):
    """Energy discrepancy: data against points that a perturbation, and one more, may have brought
    them to.

        y ~ q(· | x),   x'_j ~ q(· | y), j = 1 … M loss = E log( w/M + 1/M Σ_j exp(E(x) − E(x'_j)) )

    q adds N(0, sigma²) noise to numbers, reflected at the bounds of a box. On bits and classes it
    sets every site, with probability flip, to another value; with flip = 0 it changes one site,
    chosen evenly: a step on the grid. q is symmetric, so with w = 1 the loss is that of telling x
    from the x'_j, all of them as likely to have come from y before the data are known: its
    minimiser is the energy of the data for every sigma, flip and M. With another w that holds for M
    → ∞ only.

    sigma near the width of a mode is a good start: smaller ones see the slope alone (score
    matching), larger ones all modes. samples: M; stabilise: w, 0 for none, which blows up where no
    x'_j is likelier than x. Use it when gradients in x are dear or the domain is discrete, and D is
    moderate: neighbours of images are told apart at a glance. Cost: 1 + M evaluations of the energy
    per point, no gradient in x. Source: Schröder et al. (2023), https://arxiv.org/abs/2307.06431;
    discrete: Schröder et al. (2024), https://arxiv.org/abs/2412.01019; M = w = 1 is conditional
    noise contrast: Ceylan & Gutmann (2018), https://arxiv.org/abs/1806.03664

    >>> import torch, lowland
    >>> bowl = lowland.Function(lambda x: 0.5 * x.square().sum(1), lowland.real(2))
    >>> context = Context(torch.Generator().manual_seed(0))
    >>> loss = EnergyDiscrepancy(samples=4).loss(bowl, Batch(torch.ones(8, 2)), context)
    >>> loss.value.shape, sorted(loss.terms)
    (torch.Size([]), ['energy_data', 'energy_moved', 'energy_std'])
    """

    sigma: float = 0.3
    flip: float = 0.1
    samples: int = 16
    stabilise: float = 1.0
    sampled: ClassVar[bool] = False
    differentiates: ClassVar[bool] = False

    def __post_init__(self) -> None:
        flip = Range("a share in [0, 1)", lambda value: 0 <= value < 1, read_real)
        check_settings(self, sigma=POSITIVE, flip=flip, samples=COUNT, stabilise=WEIGHT)

    def loss(self, energy: Energy, batch: Batch, context: Context) -> Loss:
        x, labels = batch
        check_domain("EnergyDiscrepancy", energy, (*CONTINUOUS, *DISCRETE), "use PCD")
        here = self._perturb(energy, x, context.generator)
        there = self._perturb(energy, here.repeat_interleave(self.samples, 0), context.generator)
        twice = None
        if labels is not None:
            twice = torch.cat([labels, labels.repeat_interleave(self.samples)])
        up, down = evaluate_energy(energy, torch.cat([x, there]), twice).tensor_split([len(x)])
        rises = up.unsqueeze(1) - down.view(len(x), self.samples)
        if self.stabilise:
            rises = torch.cat([rises, rises.new_full((len(x), 1), math.log(self.stabilise))], 1)
        rows = torch.logsumexp(rises, 1) - math.log(self.samples)
        return Loss(rows.mean(), energy_terms(up, energy_moved=down.mean()))

    def _perturb(self, energy: Energy, x: Tensor, generator: torch.Generator) -> Tensor:
        """Draw from q(· | x) for every row; symmetric: q(y | x) = q(x | y)."""
        domain = energy.domain
        if domain.kind not in DISCRETE:
            return domain.reflect(x + self.sigma * normal_like(x, generator))[0]
        values = _count_values(domain)
        flat = x.flatten(1)
        step = torch.randint(1, values, flat.shape, generator=generator, device=x.device)
        if self.flip:
            moved = uniform_like(flat, generator) < self.flip
        else:
            site = torch.randint(flat.shape[1], (len(x), 1), generator=generator, device=x.device)
            moved = torch.zeros_like(flat, dtype=torch.bool).scatter_(1, site, True)
        return torch.where(moved, (flat + step) % values, flat).view_as(x)


@register("objective")
@dataclass(frozen=True)
class PseudoLikelihood(Objective):
    """Pseudo-likelihood of binary and categorical data: every site predicted from all others.

        loss = −E Σ_i log p(x_i | rest),      p(x_i | rest) = exp(−E(x)) / Σ_k exp(−E(x with x_i =
                                              k))

    Its minimiser is the distribution of the data, at no partition function; the gradient differs
    from that of the likelihood. sites: how many sites of a point are looked at in one update, drawn
    anew for each row without replacement and weighed by D / sites, so that the gradient is
    unbiased; 0 for all. The term `predicted` is the share of them predicted rightly. An energy that
    declares `conditional` (lattices do) answers for all sites at once. Use it for discrete data as
    the first thing to try: no chains, nothing to tune. Cost: one evaluation with `conditional`,
    else 1 + sites · (K − 1), in chunks whose graphs are made anew in backward (one more evaluation
    each). Source: Besag (1975), https://doi.org/10.2307/2987782

    >>> import torch, lowland
    >>> coins = lowland.Function(lambda x: x.sum(1) * 0, lowland.binary(3))
    >>> context = Context(torch.Generator())
    >>> loss = PseudoLikelihood().loss(coins, Batch(torch.zeros(1, 3)), context)
    >>> round(loss.value.item() / 3, 4)  # log 2 for each coin
    0.6931
    """

    sites: int = 0
    sampled: ClassVar[bool] = False
    differentiates: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_settings(self, sites=WHOLE)

    def loss(self, energy: Energy, batch: Batch, context: Context) -> Loss:
        x, labels = batch
        check_domain("PseudoLikelihood", energy, DISCRETE, "use ScoreMatching or DSM")
        target = condition_on(energy, labels)
        index, weight = _choose_sites(x, self.sites, context.generator)
        conditional = gibbs_of(target).conditional
        if conditional is not None:
            with torch.no_grad():
                own = evaluate_energy(energy, x, labels)
            rises = _conditional_rises(conditional(x), target.domain, x, index)
        else:
            own, others = neighbours(energy, x, labels, index)
            rises = own[:, None, None] - others
        rows = weight * torch.logsumexp(F.pad(rises, (1, 0)), 2).sum(1)  # x itself rises by 0
        predicted = (rises < 0).all(2).float().mean()
        return Loss(rows.mean(), energy_terms(own, predicted=predicted))


@register("objective")
@dataclass(frozen=True)
class RatioMatching(Objective):
    """Ratio matching of binary data: probabilities of a bit and its flip, compared without a
    normaliser.

        loss = E Σ_i p(flipped x_i | rest)²,      p(flipped x_i | rest) = 1 / (1 + exp(E(x with x_i
                                                  flipped) − E(x)))

    The squared distance of g(p(x)/p(x flipped)), g(u) = 1/(1 + u), from that of the data, up to a
    constant: its minimiser is the distribution of the data. Bits that the model thinks impossible
    count for at most 1, where pseudo-likelihood gives them −log p: calmer with outliers, slower
    while the model is far off. sites, `predicted`: see `PseudoLikelihood`. Use it for binary data
    with flipped bits in them. Cost: 1 + sites evaluations, in chunks. Source: Hyvärinen (2007),
    https://doi.org/10.1016/j.csda.2006.09.003; compared: Marlin et al. (2010),
    https://proceedings.mlr.press/v9/marlin10a.html

    >>> import torch, lowland
    >>> coins = lowland.Function(lambda x: x.sum(1) * 0, lowland.binary(3))
    >>> context = Context(torch.Generator())
    >>> RatioMatching().loss(coins, Batch(torch.zeros(1, 3)), context).value
    tensor(0.7500)
    """

    sites: int = 0
    sampled: ClassVar[bool] = False
    differentiates: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_settings(self, sites=WHOLE)

    def loss(self, energy: Energy, batch: Batch, context: Context) -> Loss:
        x, labels = batch
        instead = "use PseudoLikelihood for classes, ScoreMatching for numbers"
        check_domain("RatioMatching", energy, ("binary",), instead)
        index, weight = _choose_sites(x, self.sites, context.generator)
        own, flipped = neighbours(energy, x, labels, index)
        rises = own[:, None] - flipped.squeeze(2)
        rows = weight * torch.sigmoid(rises).square().sum(1)
        predicted = (rises < 0).float().mean()
        return Loss(rows.mean(), energy_terms(own, predicted=predicted))


def _count_values(domain: Domain) -> int:
    """Return how many values a site has."""
    return 2 if domain.kind == "binary" else domain.classes


def _choose_sites(x: Tensor, sites: int, generator: torch.Generator) -> tuple[Tensor, float]:
    """Choose sites (B, S), different ones in every row; return them and their weight D / S."""
    count = x[0].numel()
    if not 0 < sites < count:
        return torch.arange(count, device=x.device).expand(len(x), count), 1.0
    return uniform_like(x.flatten(1), generator).argsort(1)[:, :sites], count / sites


def neighbours(
    energy: Energy, x: Tensor, labels: Tensor | None, index: Tensor
) -> tuple[Tensor, Tensor]:
    """Return energies (B,) of x and (B, S, K − 1) of x with the site index[b, s] set to each of its
    other values.

    Beyond MAX_ROWS neighbours they come in chunks of sites that are evaluated again in backward, so
    that one chunk's graph is alive at a time."""
    values = _count_values(energy.domain)
    own = evaluate_energy(energy, x, labels)
    step = max(1, MAX_ROWS // (len(x) * (values - 1)))
    chunks = index.split(step, 1)
    if len(chunks) == 1:
        return own, _change_sites(energy, x, labels, index, values)
    again: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    return own, torch.cat(
        [checkpoint(_change_sites, energy, x, labels, chunk, values, **again) for chunk in chunks],
        1,
    )


def _change_sites(
    energy: Energy, x: Tensor, labels: Tensor | None, index: Tensor, values: int
) -> Tensor:
    """Return energies (B, S, values − 1) of x with one site changed."""
    rows, sites = index.shape
    flat = x.flatten(1)
    old = flat.gather(1, index)
    others = torch.arange(1, values, device=x.device, dtype=x.dtype)
    new = (old.unsqueeze(2) + others) % values
    wide = flat[:, None, None].expand(rows, sites, values - 1, -1)
    moved = wide.scatter(
        3, index[:, :, None, None].expand(rows, sites, values - 1, 1), new.unsqueeze(3)
    )
    again = None if labels is None else labels.repeat_interleave(sites * (values - 1))
    return evaluate_energy(energy, moved.reshape(-1, *x.shape[1:]), again).view(
        rows, sites, values - 1
    )


def _conditional_rises(logits: Tensor, domain: Domain, x: Tensor, index: Tensor) -> Tensor:
    """Return E(x) − E(x with a site changed), (B, S, K − 1), from the energy's conditionals."""
    flat = x.flatten(1).gather(1, index)
    if domain.kind == "binary":
        return ((1 - 2 * flat) * logits.flatten(1).gather(1, index)).unsqueeze(2)
    table = logits.view(len(x), -1, domain.classes)
    table = table.gather(1, index.unsqueeze(2).expand(-1, -1, domain.classes))
    others = torch.arange(1, domain.classes, device=x.device)
    own = flat.long().unsqueeze(2)
    return table.gather(2, (own + others) % domain.classes) - table.gather(2, own)
