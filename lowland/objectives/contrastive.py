"""Contrastive objectives: push energy down at data, up at samples of the model.

The gradient of the negative log-likelihood of an energy-based model is a difference of two means,

    ∇_θ (−log p_θ) = E_data[∇_θ E_θ(x)] − E_model[∇_θ E_θ(x)],

and the objectives differ only in where the negatives come from:

    CD            chains start at the data               (Hinton 2002)
    PCD           chains start where they last got to    (Tieleman 2008)
    ShortRunML    chains start at noise                  (Nijkamp et al. 2019)

The value of the loss says little: near zero it means that data and samples have equal energy, not
that training is done. Watch the health report instead.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional as F

from lowland.energy import Energy, count_classes, freeze, gibbs_of, latent_of, learner_of
from lowland.objectives.labels import class_energies, masked_mean, select_energies
from lowland.objectives.loss import (
    Batch,
    Context,
    Loss,
    Objective,
    check_chains,
    condition_on,
    energy_terms,
    evaluate_energy,
)
from lowland.objectives.ranges import COUNT, FLAG, SHARE, WEIGHT, check_settings
from lowland.registry import register
from lowland.replay import ReplayBuffer
from lowland.samplers.discrete import BlockState
from lowland.samplers.kernel import Sampler
from lowland.samplers.loop import Trace, run_chains
from lowland.samplers.tempering import ParallelTempering, TemperedState


@runtime_checkable
class HasEnergy(Protocol):
    """A state of chains that carries their energies (B,)."""

    @property
    def energy(self) -> Tensor: ...


def contrast(
    energy: Energy,
    positives: Tensor,
    negatives: Tensor,
    *,
    labels: Tensor | None = None,
    negative_labels: Tensor | None = None,
    l2: float = 0.0,
    ce_weight: float = 0.0,
    fields: tuple[Tensor | None, Tensor | None] = (None, None),
) -> Loss:
    """Return mean E(positives) − mean E(negatives) + l2 · mean(E²) + ce_weight · cross-entropy, in
    one forward pass over both.

    Its gradient in the weights is that of −log p when the negatives are draws of the model; no
    gradient flows into the negatives. labels: (B,) for both sides or neither. l2 holds the level of
    the energies near zero, which the contrast leaves free (Du & Mordatch 2019). ce_weight, above 0
    for an energy with classes, adds −log p(y | x) of the data under softmax(−e(x)), the joint
    objective of JEM (Grathwohl et al. 2020, https://arxiv.org/abs/1912.03263): it sets the levels
    of the classes against each other, which a contrast within each class leaves free. fields: of
    positives and negatives, for an energy with block Gibbs, where they are known.

    >>> import torch, lowland
    >>> bowl = lowland.Function(lambda x: x.square().sum(1))
    >>> lowland.objectives.contrast(bowl, torch.zeros(2, 1), torch.ones(2, 1)).value
    tensor(-1.)
    """
    if (labels is None) != (negative_labels is None):
        raise ValueError(
            "labels came for one side only; positives and negatives need both or neither; pass the "
            "other"
        )
    negatives, size = negatives.detach(), len(positives)
    both, both_labels = torch.cat([positives, negatives]), None
    if labels is not None and negative_labels is not None:
        both_labels = torch.cat([labels, negative_labels])
    entropy = None
    if labels is not None and both_labels is not None and ce_weight:
        heads = class_energies(energy, both)
        entropy = F.cross_entropy(-heads[:size], labels)
        up, down = select_energies(heads, both_labels).tensor_split([size])
    elif gibbs_of(energy).energy_from is not None:
        up = energy_from_fields(energy, positives, fields[0], labels)
        down = energy_from_fields(energy, negatives, fields[1], negative_labels)
    else:
        up, down = evaluate_energy(energy, both, both_labels).tensor_split([size])
    value, terms = contrast_energies(up, down, l2)
    if entropy is not None:
        value = value + ce_weight * entropy
        terms["cross_entropy"] = entropy.detach()
    return Loss(value, terms, negatives, negative_labels)


def contrast_energies(
    up: Tensor, down: Tensor, l2: float = 0.0, mask: Tensor | None = None, weight: float = 1.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return weight · (mean up − mean down) + l2 · (mean up² + mean down²), and its terms.

    up: energies of data (B,), of which those count where mask (B,) is true; down: of negatives.
    """
    mean = Tensor.mean if mask is None else partial(masked_mean, mask=mask)
    gap = down.mean() - mean(up)
    value = -weight * gap
    if l2:
        value = value + l2 * (mean(up.square()) + down.square().mean())
    terms = energy_terms(up, gap=gap, energy_model=down.mean())
    return value, terms | {"energy_data": mean(up).detach()}


def chain_terms(start: Tensor, trace: Trace, energy: Energy) -> dict[str, Tensor]:
    """Return for the log how chains moved in an update: distance per number, acceptance, refused
    moves, share at the bounds.
    """
    distance = torch.linalg.vector_norm((trace.x - start).flatten(1), dim=1).mean()
    terms = {
        "movement": distance / math.sqrt(start[0].numel()),
        "acceptance": trace.acceptance.mean(),
        "diverged": trace.diverged.sum(),
    }
    if energy.domain.kind == "box":
        terms["bound_share"] = bound_share(trace.x, energy)
    return terms


def buffer_terms(buffer: ReplayBuffer, lost: Tensor | int) -> dict[str, Tensor]:
    """Return for the log the mean age of kept chains and the number of those lost in an update."""
    age = buffer.age.float().mean()
    if not isinstance(lost, Tensor):
        lost = torch.full((), lost, device=age.device)
    return {"age": age, "lost": lost}


def bound_share(x: Tensor, energy: Energy) -> Tensor:
    """Return the share of numbers within a twentieth of the box's width of a bound."""
    lo, hi = energy.domain.lo, energy.domain.hi
    edge = (hi - lo) / 20
    return ((x < lo + edge) | (x > hi - edge)).float().mean()


def _contrast_from(
    start: Tensor,
    energy: Energy,
    batch: Batch,
    context: Context,
    objective: Objective,
    l2: float,
) -> Loss:
    """Contrast a batch with chains run from `start` under the same labels."""
    x, labels = batch
    target = condition_on(energy, labels)
    sampler = context.require_sampler(type(objective).__name__)
    trace = run_chains(target, sampler, start, objective.steps, generator=context.generator)
    known = update_offsets(energy, x), fields_in(trace.state)
    loss = contrast(energy, x, trace.x, labels=labels, negative_labels=labels, l2=l2, fields=known)
    return loss._replace(terms=loss.terms | chain_terms(start, trace, energy))


def impute(energy: Energy, x: Tensor, generator: torch.Generator) -> Tensor:
    """Return data with hidden units filled in, by an energy whose points have such units."""
    fill = latent_of(energy).impute
    return x if fill is None else fill(x, generator)


def update_offsets(energy: Energy, x: Tensor) -> Tensor | None:
    """Show a batch to an energy that follows the means of data; return its fields of x, if any."""
    compute, update = gibbs_of(energy).fields, learner_of(energy).update_offsets
    fields = None if compute is None else compute(x)
    if update is not None:
        update(x, fields)
    return fields


def energy_from_fields(
    energy: Energy, x: Tensor, fields: Tensor | None, labels: Tensor | None
) -> Tensor:
    """Return energies (B,) of points x, from the fields of their block Gibbs if these are known."""
    energy_from = gibbs_of(energy).energy_from
    if fields is None or energy_from is None:
        return evaluate_energy(energy, x, labels)
    return energy_from(x, fields, labels)


def fields_in(state: Any) -> Tensor | None:
    """Return the fields that a state carries of its points, for energies with block Gibbs."""
    if isinstance(state, TemperedState):
        fields = fields_in(state.replicas)
        return None if fields is None else fields[: len(state.x)]
    return state.fields if isinstance(state, BlockState) else None


def add_sparsity(loss: Loss, energy: Energy, x: Tensor, weight: float, target: float) -> Loss:
    """Return the loss with weight · Σ_j (target − mean_B E[h_j | x])² added, which keeps hidden
    units seldom active.

    Source: Lee, Ekanadham & Ng (2008),
    https://papers.nips.cc/paper/2007/hash/4daa3db355ef2b0e64b472968cb70f0d-Abstract.html
    """
    if not weight:
        return loss
    hidden_mean = latent_of(energy).hidden_mean
    if hidden_mean is None:
        raise ValueError(
            f"sparsity is {weight} and {type(energy).__name__} has no hidden units; it needs some; "
            "set it to 0"
        )
    activity = hidden_mean(x).mean(0)
    penalty = weight * (target - activity).square().sum()
    return loss._replace(
        value=loss.value + penalty, terms=loss.terms | {"activity": activity.detach().mean()}
    )


@register("objective")
@dataclass(frozen=True)
class CD(Objective):
    """Contrastive divergence: `steps` sampler steps from the data itself.

    Biased towards what is near the data, low in variance. The negatives are the last points of the
    chains, so a Boltzmann machine is contrasted by p(h | x_k) of the last x_k. l2: see `contrast`;
    sparsity, sparse_target: see `add_sparsity`. Cost per update: steps + 1 gradients in x, and a
    forward and backward pass over data and negatives. Use it when chains hardly mix and a model of
    the neighbourhood of the data is enough: Boltzmann machines, fine tuning. Source: Hinton (2002),
    https://doi.org/10.1162/089976602760128018"""

    steps: int = 1
    l2: float = 0.0
    sparsity: float = 0.0
    sparse_target: float = 0.1

    def __post_init__(self) -> None:
        check_settings(self, steps=COUNT, l2=WEIGHT, sparsity=WEIGHT, sparse_target=SHARE)

    def loss(self, energy: Energy, batch: Batch, context: Context) -> Loss:
        x = impute(energy, batch.x, context.generator)
        loss = _contrast_from(x, energy, batch._replace(x=x), context, self, self.l2)
        return add_sparsity(loss, energy, x, self.sparsity, self.sparse_target)


@register("objective")
@dataclass(frozen=True)
class PCD(Objective):
    """Persistent contrastive divergence: `steps` sampler steps from where the chains last got to.

    buffer_size: chains in the replay buffer; num_chains: how many of them move at every update, as
    many as data unless given; reinit_prob: share of visited chains that begin anew at noise; l2,
    ce_weight: see `contrast`. Labels stay with their chains, so that every class keeps its share of
    them; with sample_labels = true a chain draws its label anew from p(y | x) = softmax(−e(x)) at
    the end of a visit, which samples the joint distribution of x and y and sets the levels of the
    classes against each other. With a ParallelTempering sampler every chain keeps its replicas at
    all temperatures, and the coldest is the negative. sparsity, sparse_target: see `add_sparsity`.
    Cost per update: steps + 1 gradients in x, and a forward and backward pass over data and
    negatives. Use it when one density is wanted for everything: scores, samples from noise,
    restoration, composition. Source: Tieleman (2008), https://doi.org/10.1145/1390156.1390290;
    tempered chains: Desjardins et al. (2010),
    https://proceedings.mlr.press/v9/desjardins10a.html"""

    steps: int = 20
    buffer_size: int = 10_000
    reinit_prob: float = 0.05
    l2: float = 0.0
    ce_weight: float = 0.0
    sample_labels: bool = False
    num_chains: int = 0
    sparsity: float = 0.0
    sparse_target: float = 0.1

    def __post_init__(self) -> None:
        check_chains(self)
        check_settings(
            self,
            l2=WEIGHT,
            sparsity=WEIGHT,
            sparse_target=SHARE,
            ce_weight=WEIGHT,
            sample_labels=FLAG,
        )

    def loss(self, energy: Energy, batch: Batch, context: Context) -> Loss:
        x, labels = batch
        buffer, generator = context.require_buffer("PCD"), context.generator
        if (self.ce_weight or self.sample_labels) and (labels is None or not count_classes(energy)):
            raise ValueError(
                f"the energy has {count_classes(energy)} classes and the data "
                f"{'no ' if labels is None else ''}labels; ce_weight and sample_labels need labels "
                "and an energy with classes; set energy.classes, or switch both off"
            )
        x = impute(energy, x, generator)
        visit = buffer.sample(self.num_chains or len(x), generator)
        negative_labels = visit.labels if labels is not None else None
        target = condition_on(energy, negative_labels)
        start, trace, ends = self._move(target, context.require_sampler("PCD"), visit.x, generator)
        if self.sample_labels and negative_labels is not None:
            negative_labels = draw_labels(energy, trace.x, generator)
        lost = buffer.update(visit, ends, self.steps, negative_labels)
        known = update_offsets(energy, x), fields_in(trace.state)
        loss = contrast(
            energy,
            x,
            trace.x,
            labels=labels,
            negative_labels=negative_labels,
            l2=self.l2,
            ce_weight=self.ce_weight,
            fields=known,
        )
        terms = chain_terms(start, trace, energy) | buffer_terms(buffer, lost)
        terms |= self._compare_reinitialized(visit.reinitialized, trace)
        loss = loss._replace(terms=loss.terms | terms)
        return add_sparsity(loss, energy, x, self.sparsity, self.sparse_target)

    def _compare_reinitialized(self, reinitialized: Tensor, trace: Trace) -> dict[str, Tensor]:
        """Return the mean energy of reinitialised chains minus that of old ones,
        importance-weighted by 1 / reinit_prob, so that its mean over updates has no bias."""
        if not self.reinit_prob or not isinstance(trace.state, HasEnergy):
            return {}
        values = trace.state.energy
        if values.shape != reinitialized.shape:
            return {}
        new = reinitialized.to(values.dtype)
        old = (values * (1 - new)).sum() / (1 - new).sum().clamp_min(1)
        return {"reinit_gap": ((values - old) * new).sum() / (self.reinit_prob * len(new))}

    def _move(
        self, target: Energy, sampler: Sampler, x: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Trace, Tensor]:
        """Move the chains; return their start, their trace, and the points for the buffer: with
        tempering, all replicas of each.
        """
        if not isinstance(sampler, ParallelTempering):
            trace = run_chains(target, sampler, x, self.steps, generator=generator)
            return x, trace, trace.x
        replicas = x.transpose(0, 1)  # (R, B, *event)
        with freeze(target) as target:
            state = sampler.from_replicas(target, replicas.flatten(0, 1))
            trace = run_chains(
                target, sampler, state.x, self.steps, generator=generator, state=state
            )
        return replicas[0], trace, trace.state.replicas.x.view_as(replicas).transpose(0, 1)


def draw_labels(energy: Energy, x: Tensor, generator: torch.Generator) -> Tensor:
    """Draw labels (B,) from p(y | x) = softmax(−e(x)): a Gibbs step in y, by the Gumbel-max
    rule."""
    with freeze(energy) as energy, torch.no_grad():
        heads = class_energies(energy, x)
    u = torch.rand(heads.shape, generator=generator, device=heads.device, dtype=heads.dtype)
    return (-heads - torch.log(-torch.log(u.clamp_min(1e-20)))).argmax(1)


@register("objective")
@dataclass(frozen=True)
class ShortRunML(Objective):
    """Maximum likelihood with short runs from noise: the negatives are what `steps` steps make of
    noise.

    The chains need not reach equilibrium; the energy learns to make a generator of the short run,
    and is a density only as far as the chains mix. l2: see `contrast`. Cost per update: steps + 1
    gradients in x, and a forward and backward pass over data and negatives. Use it when pictures
    from a fixed number of steps are wanted, and no density. Source: Nijkamp et al. (2019),
    https://arxiv.org/abs/1904.09770
    """

    steps: int = 60
    l2: float = 0.0

    def __post_init__(self) -> None:
        check_settings(self, steps=COUNT, l2=WEIGHT)

    def loss(self, energy: Energy, batch: Batch, context: Context) -> Loss:
        x = impute(energy, batch.x, context.generator)
        start = energy.domain.draw(len(x), context.generator, dtype=x.dtype)
        return _contrast_from(start, energy, batch._replace(x=x), context, self, self.l2)
