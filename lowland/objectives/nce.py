"""Noise contrast: an energy learns to tell data from draws of a known distribution.

The best classifier between data and noise q knows their log-ratio, so one of the form −E(x) − log Z
− log q(x) makes exp(−E)/Z the density of the data, with log Z a number to be learned like any
weight:

    NCE               data or noise, point by point; learns log Z (Gutmann & Hyvärinen 2010)
    RankingNCE        which of K + 1 points is the datum; log Z drops out   (Ma & Collins 2018)
    FlowContrastive   NCE against a flow that learns to be hard to tell     (Gao et al. 2020)

The further noise is from data, the less is learned: at an accuracy near 1 the classifier is right
wherever it looks, and the energy between data and noise is arbitrary.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowland.energy import Energy, freeze
from lowland.nets.noise_models import FlowNoise, NoisePartner, Truncated
from lowland.objectives.labels import class_energies
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
    WEIGHT,
    check_settings,
    each,
    freeze_sequences,
    one_of,
)
from lowland.registry import register
from lowland.samplers.kernel import CONTINUOUS, DISCRETE
from lowland.targets.bases import Uniform, fit_base

PILOT_DRAWS = 1000  # of the noise, from which log Z is estimated before it is learned


@register("objective")
@dataclass(frozen=True)
class NCE(Objective):
    """Noise-contrastive estimation: tell data from noise q, and learn log Z with the weights.

        G(x) = −E(x) − log Z − log q(x) − log ν,     loss = E_data[softplus(−G)] + ν
                                                     E_q[softplus(G)]

    At the minimum exp(−E)/Z is the density of the data, normalised: E(x) + log Z is a negative
    log-likelihood in nats. With labels the noise takes those of the data, and E(x, y) + log Z =
    −log p(x | y): one log Z for all classes.

    noise: "fitted" to mean and spread of the data (`targets.fit_base`; normal numbers cut off at
    the bounds of a box), or "uniform" on a bounded domain; ratio: ν, draws of noise per datum;
    partner_rate: learning rate of log Z, in units of that of the weights. Terms: `accuracy` (mean
    of both sides), `log_z`. Use it in few dimensions, or with noise that is close to the data, when
    a normalised energy is wanted at the price of a classifier. Cost: 1 + ν evaluations of the
    energy per point, no gradient in x. Source: Gutmann & Hyvärinen (2010),
    http://proceedings.mlr.press/v9/gutmann10a.html

    >>> import torch, lowland
    >>> energy, g = lowland.nets.MLP(lowland.real(2), hidden=(8,)), torch.Generator().manual_seed(0)
    >>> x, objective = torch.randn(200, 2, generator=g), NCE()
    >>> context = Context(g, partner=objective.make_partner(energy, x))
    >>> loss = objective.loss(energy, Batch(x), context)
    >>> sorted(loss.terms)
    ['accuracy', 'energy_data', 'energy_noise', 'energy_std', 'log_z']
    """

    noise: Literal["fitted", "uniform"] = "fitted"
    ratio: int = 1
    partner_rate: float = 10.0
    sampled: ClassVar[bool] = False
    differentiates: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_settings(self, noise=one_of("fitted", "uniform"), ratio=COUNT, partner_rate=POSITIVE)

    def make_partner(self, energy: Energy, x: Tensor) -> NoisePartner:
        """Return the noise, fitted to x (N, *event), and log Z as it is before training."""
        check_domain("NCE", energy, (*CONTINUOUS, *DISCRETE), "use PCD")
        return _with_log_z(fit_noise(self.noise, energy, x), energy, x)

    def loss(self, energy: Energy, batch: Batch, context: Context) -> Loss:
        x, labels = batch
        partner: Any = context.require_partner("NCE")
        law, count = partner.law, len(x) * self.ratio
        both = torch.cat([x, law.draw(count, context.generator, dtype=x.dtype)])
        repeated = None if labels is None else labels.repeat(1 + self.ratio)
        values = evaluate_energy(energy, both, repeated)
        contrast = -values - partner.log_z + law(both) + law.log_z - math.log(self.ratio)
        up, down = contrast.tensor_split([len(x)])
        value = F.softplus(-up).mean() + self.ratio * F.softplus(down).mean()
        log_z = partner.log_z.detach().clone()
        return Loss(value, _accuracy_terms(values, up, down) | {"log_z": log_z})


@register("objective")
@dataclass(frozen=True)
class RankingNCE(Objective):
    """Ranking noise contrast: pick the datum out of K draws of noise q.

        s(x) = −E(x) − log q(x),      loss = E[ log( exp s(x) + Σ_k exp s(x'_k) ) − s(x) ], x'_k ~ q

    log Z drops out, so nothing but the energy is learned, and energies with one log Z for each
    condition are right too; as K grows the gradient becomes that of the likelihood. One set of
    draws serves all points of a batch. With labels every class is evaluated on the same draws,
    which takes an energy with `class_energies`.

    candidates: K; noise: as in `NCE`. Terms: `accuracy` (share of pairs ranked rightly), `log_z`
    (of the energy, estimated from the draws). Use it where NCE struggles with log Z, or noise is
    cheap: many candidates make up for noise that is far from data. Cost: 1 evaluation of the energy
    per point and K per batch, no gradient in x. Source: Ma & Collins (2018),
    https://arxiv.org/abs/1809.01812

    >>> import torch, lowland
    >>> energy, g = lowland.nets.MLP(lowland.real(2), hidden=(8,)), torch.Generator().manual_seed(0)
    >>> x, objective = torch.randn(200, 2, generator=g), RankingNCE(candidates=64)
    >>> context = Context(g, partner=objective.make_partner(energy, x))
    >>> loss = objective.loss(energy, Batch(x), context)
    >>> loss.value.shape, loss.negatives
    (torch.Size([]), None)
    """

    candidates: int = 256
    noise: Literal["fitted", "uniform"] = "fitted"
    sampled: ClassVar[bool] = False
    differentiates: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_settings(self, noise=one_of("fitted", "uniform"), candidates=COUNT)

    def make_partner(self, energy: Energy, x: Tensor) -> nn.Module:
        """Return the noise, fitted to x (N, *event); it learns nothing."""
        check_domain("RankingNCE", energy, (*CONTINUOUS, *DISCRETE), "use PCD")
        return fit_noise(self.noise, energy, x)

    def loss(self, energy: Energy, batch: Batch, context: Context) -> Loss:
        x, labels = batch
        partner: Any = context.require_partner("RankingNCE")
        both = torch.cat([x, partner.draw(self.candidates, context.generator, dtype=x.dtype)])
        log_q = -partner(both) - partner.log_z
        if labels is None:
            up, down = evaluate_energy(energy, both, None).tensor_split([len(x)])
            down = down.expand(len(x), -1)
        else:
            heads, others = class_energies(energy, both).tensor_split([len(x)])
            up, down = heads.gather(1, labels.unsqueeze(1)).squeeze(1), others.t()[labels]
        first, rest = -up - log_q[: len(x)], -down - log_q[len(x) :]
        total = torch.logsumexp(torch.cat([first.unsqueeze(1), rest], 1), 1)
        with torch.no_grad():
            log_z = (torch.logsumexp(rest, 1) - math.log(self.candidates)).mean()
            terms = _accuracy_terms(torch.cat([up, down.flatten()]), up, down) | {"log_z": log_z}
            terms["accuracy"] = (first.unsqueeze(1) > rest).float().mean()
        return Loss((total - first).mean(), terms)


@register("objective")
@dataclass(frozen=True)
class FlowContrastive(Objective):
    """Flow-contrastive estimation: NCE against a flow q that learns, so that noise comes close to
    data.

        G(x) = −E(x) − log Z − log q(x),      V = E_data[log σ(G)] + E_q[log σ(−G)]

    The energy and log Z ascend V, the flow descends it: it minimises the Jensen-Shannon divergence
    from the data as far as G is right, through its draws. likelihood adds so much of −E_data[log q]
    to the flow's loss, which holds it to all of the data (0: the game alone, as in the source,
    which begins from a flow fitted before). At the minimum of the energy, whatever the flow,
    exp(−E)/Z is the density of the data.

    transforms, hidden: of the flow, a neural spline in coupling form (zuko, the extra
    `lowland[zuko]`); partner_rate: learning rate of flow and log Z in units of that of the weights.
    Terms: `accuracy`, `log_z`, `flow_nll` (−E_data[log q]). Use it when plain noise is told apart
    at a glance (accuracy near 1) and the dimension is moderate. Cost: 3 evaluations of the energy
    per point, one of them with a gradient in x, and two passes of the flow. Source: Gao et al.
    (2020), https://arxiv.org/abs/1912.00589

    >>> import torch, lowland
    >>> energy, g = lowland.nets.MLP(lowland.real(2), hidden=(8,)), torch.Generator().manual_seed(0)
    >>> x, objective = torch.randn(200, 2, generator=g), FlowContrastive()
    >>> context = Context(g, partner=objective.make_partner(energy, x))
    >>> loss = objective.loss(energy, Batch(x), context)
    >>> sorted(loss.terms)
    ['accuracy', 'energy_data', 'energy_noise', 'energy_std', 'flow_nll', 'log_z']
    """

    transforms: int = 4
    hidden: tuple[int, ...] = (64, 64)
    likelihood: float = 1.0
    partner_rate: float = 1.0
    sampled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        freeze_sequences(self, "hidden")
        check_settings(
            self, transforms=COUNT, hidden=each(COUNT), likelihood=WEIGHT, partner_rate=POSITIVE
        )

    def make_partner(self, energy: Energy, x: Tensor) -> NoisePartner:
        """Return a flow with the scales of x (N, *event), and log Z as it is before training."""
        check_domain("FlowContrastive", energy, CONTINUOUS, "use NCE")
        return _with_log_z(FlowNoise(energy.domain, x, self.transforms, self.hidden), energy, x)

    def loss(self, energy: Energy, batch: Batch, context: Context) -> Loss:
        x, labels = batch
        partner: Any = context.require_partner("FlowContrastive")
        with torch.autocast(x.device.type, enabled=False):  # splines are not made for eight bits
            drawn, log_q_drawn = partner.law.walk(len(x), context.generator)
            log_q = -partner.law(x)
        negatives = drawn.detach()
        both, both_labels = torch.cat([x, negatives]), None if labels is None else labels.repeat(2)
        values = evaluate_energy(energy, both, both_labels)
        up, down = (
            -values - partner.log_z - torch.cat([log_q, log_q_drawn]).detach()
        ).tensor_split([len(x)])
        value = F.softplus(-up).mean() + F.softplus(down).mean()
        with freeze(energy) as energy:  # the flow sees the energy, and leaves it alone
            pushed = -evaluate_energy(energy, drawn, labels) - partner.log_z.detach() - log_q_drawn
        pulled = up.detach() + log_q.detach() - log_q
        game = -F.softplus(-pulled).mean() - F.softplus(pushed).mean()
        game = game - self.likelihood * log_q.mean()
        terms = {"log_z": partner.log_z.detach().clone(), "flow_nll": -log_q.detach().mean()}
        terms |= _accuracy_terms(values, up, down)
        return Loss(value + game - game.detach(), terms, negatives, labels)


def fit_noise(noise: str, energy: Energy, x: Tensor) -> Any:
    """Return the named noise for the energy's domain, fitted to data x (N, *event)."""
    domain = energy.domain
    if noise == "uniform":
        bounded = ("box", "binary", "categorical")
        check_domain("uniform noise", energy, bounded, 'use noise = "fitted"')
        return Uniform(domain)
    if domain.kind == "box":
        return Truncated(domain, x)
    return fit_base(domain, x)


def _with_log_z(law: Any, energy: Energy, x: Tensor) -> NoisePartner:
    """Return a partner whose log Z starts at log mean exp(−E)/q over draws of the noise."""
    seed = int(torch.randint(2**31, ()))  # of the global generator, which is seeded here
    with freeze(energy) as energy, torch.no_grad():
        drawn = law.draw(PILOT_DRAWS, torch.Generator(x.device).manual_seed(seed), dtype=x.dtype)
        weights = -evaluate_energy(energy, drawn, None) + law(drawn) + law.log_z
    return NoisePartner(law, torch.logsumexp(weights, 0) - math.log(PILOT_DRAWS))


def _accuracy_terms(values: Tensor, up: Tensor, down: Tensor) -> dict[str, Tensor]:
    """Return for the log the energies of data, which come first, and of noise, and the mean
    accuracy on both sides."""
    count = len(up)
    right = ((up > 0).float().mean() + (down < 0).float().mean()) / 2
    return energy_terms(values[:count], energy_noise=values[count:].mean(), accuracy=right)
