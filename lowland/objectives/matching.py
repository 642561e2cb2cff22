"""Transport: fit a time-independent force to the straight lines along which noise is carried to
data.

A point of noise x₀ and an example x₁ are paired, and the line between them is followed:

    x_t = (1 − t) x₀ + t x₁,      t ~ U(0, 1),      velocity v = x₁ − x₀

One scalar learns to pull along all lines at all times, −ε ∇E(x_t) ≈ v: it is never told t. Where
lines cross it can only learn their mean, so noise and data are paired by optimal transport within a
batch, which keeps lines from crossing.

    EnergyMatching         the lines, and near the data a contrast that makes exp(−E) their density
                           (Balcerak et al. 2025)
    EquilibriumMatching    the lines, with a force that dies away at the data: no density
                           (Wang & Du 2025)

Noise is what chains start from: N(0, I) on the real line, uniform on a box. A sampler that starts
there and follows the force is the generator, and no setting of generation is special.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowland.devices import to_float64
from lowland.energy import Energy
from lowland.energy.gradient import differentiate_values
from lowland.objectives.contrastive import buffer_terms, chain_terms, contrast
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
from lowland.objectives.ranges import (
    FLAG,
    POSITIVE,
    SHARE,
    WEIGHT,
    WHOLE,
    Range,
    check_settings,
    read_real,
)
from lowland.registry import register
from lowland.samplers.kernel import CONTINUOUS, Sampler, per_row, uniform_like
from lowland.samplers.langevin import Langevin
from lowland.samplers.loop import run_chains


def match_batch(noise: Tensor, x: Tensor, labels: Tensor | None = None) -> Tensor:
    """Return the rows of noise (B, *event) in the order that makes Σ ‖noise_i − x_i‖² least:
    optimal transport within the batch.

    With labels (B,), noise stays with the class of the row that it came with, so that every class
    is reached from all of the noise. Cost: B² distances, and an assignment on the CPU, about 5 ms
    for 256 rows. Source: Pooladian et al. (2023), https://arxiv.org/abs/2304.14772

    >>> import torch
    >>> match_batch(torch.tensor([[5.0], [0.0]]), torch.tensor([[1.0], [4.0]]))
    tensor([[0.],
            [5.]])
    """
    from scipy.optimize import linear_sum_assignment

    a, b = to_float64(x.flatten(1)), to_float64(noise.flatten(1))
    costs = torch.cdist(a - b.mean(0), b - b.mean(0)).square()  # products far out lose digits
    if labels is not None:
        other = (labels.unsqueeze(1) != labels).to(costs.device)
        costs = costs + other * (1e3 * (1 + costs.max()))
    _, order = linear_sum_assignment(costs.cpu().numpy())
    return noise[torch.as_tensor(order, device=noise.device)]


def lines(
    energy: Energy,
    x: Tensor,
    labels: Tensor | None,
    generator: torch.Generator,
    match: bool = True,
    until: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw points x_t (B, *event) on the lines from noise to the data x; return them, their times
    t (B,) up to `until`, and the velocities x₁ − x₀.

    Raises ValueError on a discrete domain, where there are no lines.
    """
    if energy.domain.kind not in CONTINUOUS:
        raise ValueError(
            f"the domain is {energy.domain.kind} and has no straight lines; transport moves on "
            f"{' or '.join(CONTINUOUS)} ones; use PCD with a discrete sampler"
        )
    noise = energy.domain.draw(len(x), generator, dtype=x.dtype)
    noise = match_batch(noise, x, labels) if match else noise
    t = until * uniform_like(x.flatten(1)[:, 0], generator)
    return torch.lerp(noise, x, per_row(t, x)), t, x - noise


def force_error(
    energy: Energy, x: Tensor, labels: Tensor | None, wanted: Tensor, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return mean ‖−scale · ∇E(x) − wanted‖² / d, differentiable in the weights, and the energies
    (B,) at x, detached.
    """
    x = x.detach().requires_grad_(True)
    values = evaluate_energy(energy, x, labels)
    gradient = differentiate_values(values, x)
    return (scale * gradient + wanted).square().mean(), values.detach()


@register("objective")
@dataclass(frozen=True)
class EnergyMatching(Objective):
    """Flow matching of one time-independent scalar, then contrastive refinement of it: E is a
    density and a generator at once.

        loss = mean ‖−ε ∇E(x_t) − (x₁ − x₀)‖² / d  + weight · mean_i a_i (E(data_i) − E(chain_i)), p
                                                   ∝ exp(−E)

    The potential of the paper is V = ε E: ε (temperature) is how much noise the data have
    in units of the flow. For the first share `warmup_fraction` of the updates the weight is 0 and
    no chain moves: E then only carries noise to data, t = 0 to 1. After it chains follow the
    sampler from noise and are kept, as in PCD, and their contrast shapes E where the data are; the
    flow keeps it whole elsewhere. A Langevin sampler of step_size ε · dt makes 1 / dt steps of the
    flow in unit time.

    arrival_steps: a chain counts, a_i = 1, once it has made so many steps since it began at noise:
    1 / dt of them carry it to the data, and until then it lies far above them by construction.
    Counted at once, such chains would make a contrast as wide as the whole landscape, which says
    nothing of the density and teaches E to pull from noise harder than the flow does. t_max: from
    the end of the warm-up lines count up to this t only, after which the density of the data alone
    should decide; steps, buffer_size, reinit_prob: of the chains, as in PCD. Where flow and density
    disagree the minimiser is a compromise. A flow that is not told t carries on past the data, so
    chains end below them: a gap that stays under zero by a good part of the spread asks for a
    larger weight. A gap that runs away upwards asks for a smaller one: the contrast moves E faster
    than chains can follow, and tears the flow. The flow is a mean over the numbers of an event and
    E is of the whole event in units of 1/ε: 0.3 suits the plane, 5e-4 images of 8 × 8. The step h =
    ε dt must suit the density and not the flow alone. A little noise σ on the data
    (training.data_noise_std, dequantise) makes them σ wide, without which it has no energy, and
    Langevin follows a density so wide only where h < 2 σ²: keep h below σ². On a box the flow comes
    to rest about 2 ε from a bound, and data that end there (black pixels) want noise of that size.
    Cost per update: one gradient with its own backward pass, and an assignment; after the warm-up
    as much as PCD besides. Use it when a single noise-free energy is to make good samples from
    scratch: its chains need not mix to be trained, because the flow has brought them to the data.
    Source: Balcerak et al. (2025), https://arxiv.org/abs/2504.10612

    >>> import torch, lowland
    >>> g, net = torch.Generator().manual_seed(0), lowland.nets.MLP(lowland.real(2), hidden=(8,))
    >>> flow = EnergyMatching().loss(net, Batch(torch.ones(4, 2)), Context(g, progress=0.0))
    >>> sorted(flow.terms), flow.negatives
    (['energy_data', 'flow'], None)
    """

    temperature: float = 0.1
    warmup_fraction: float = 0.6
    weight: float = 0.01
    t_max: float = 1.0
    steps: int = 10
    arrival_steps: int = 50
    buffer_size: int = 4000
    reinit_prob: float = 0.02

    def __post_init__(self) -> None:
        time = Range("a time in (0, 1]", lambda value: 0 < value <= 1, read_real)
        check_chains(self)
        check_settings(
            self,
            temperature=POSITIVE,
            warmup_fraction=SHARE,
            weight=WEIGHT,
            t_max=time,
            arrival_steps=WHOLE,
        )

    def initial_sampler(self, energy: Energy, x: Tensor) -> Sampler:
        """Return Langevin with steps of which `arrival_steps` carry a chain to the data."""
        return Langevin(self.temperature / max(self.arrival_steps, 1))

    def loss(self, energy: Energy, batch: Batch, context: Context) -> Loss:
        x, labels = batch
        warm = context.progress < self.warmup_fraction
        points, _, velocity = lines(
            energy, x, labels, context.generator, until=1.0 if warm else self.t_max
        )
        flow, values = force_error(energy, points, labels, velocity, self.temperature)
        if warm:
            return Loss(flow, {"flow": flow.detach(), "energy_data": values.mean()})
        refined = self._contrast_arrived(energy, batch, context)
        return refined._replace(
            value=flow + self.weight * refined.value,
            terms={"flow": flow.detach()} | refined.terms,
        )

    def _contrast_arrived(self, energy: Energy, batch: Batch, context: Context) -> Loss:
        """Contrast data with the chains that have arrived. The data themselves stand in for the
        others: a_i = 0 without a gap.
        """
        x, labels = batch
        buffer = context.require_buffer("EnergyMatching")
        sampler = context.require_sampler("EnergyMatching")
        visit = buffer.sample(len(x), context.generator)
        if visit.x.shape[1:] != x.shape[1:]:
            raise ValueError(
                f"the chains have shape {tuple(visit.x.shape[1:])} and the data "
                f"{tuple(x.shape[1:])}; EnergyMatching moves one point per chain; use a sampler "
                "without replicas"
            )
        target = condition_on(energy, None if labels is None else visit.labels)
        trace = run_chains(target, sampler, visit.x, self.steps, generator=context.generator)
        lost = buffer.update(visit, trace.x, self.steps)
        arrived = buffer.age[visit.slots] >= self.arrival_steps
        negatives = torch.where(per_row(arrived, x), trace.x, x)
        negative_labels = None
        if labels is not None and visit.labels is not None:
            negative_labels = torch.where(arrived, visit.labels, labels)
        loss = contrast(energy, x, negatives, labels=labels, negative_labels=negative_labels)
        terms = chain_terms(visit.x, trace, energy) | buffer_terms(buffer, lost)
        terms["arrived"] = arrived.float().mean()
        return loss._replace(terms=loss.terms | terms)


@register("objective")
@dataclass(frozen=True)
class EquilibriumMatching(Objective):
    """A landscape that pulls noise to data and lies still there: descend it by any optimiser, from
    anywhere.

        loss = mean ‖−∇E(x_t) − c(t) (x₁ − x₀)‖² / d,      c(t) = gain · min(1, (1 − t) / (1 −
                                                           start))

    The force dies away between t = start and the data at t = 1, so that gradient descent comes to
    rest at the data. No chain moves. Low energy marks the data, but exp(−E) is not their density:
    samples are where descent arrives, such as Langevin at almost no temperature. Arrived, it still
    creeps along the data towards the lowest points: in two dimensions 40 steps of 0.01 give the
    right distribution and 200 a few clumps, so that the number of steps matters after all. match:
    pair noise and data by optimal transport (the paper pairs at random). Cost per update: one
    gradient with its own backward pass (and an assignment). Use it when samples and outlier scores
    are wanted quickly and no density is. Source: Wang & Du (2025), https://arxiv.org/abs/2510.02300

    >>> EquilibriumMatching()
    EquilibriumMatching(gain=4.0, start=0.8, match=True)
    """

    gain: float = 4.0
    start: float = 0.8
    match: bool = True
    sampled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        start = Range("a time in [0, 1)", lambda value: 0 <= value < 1, read_real)
        check_settings(self, gain=POSITIVE, start=start, match=FLAG)

    def loss(self, energy: Energy, batch: Batch, context: Context) -> Loss:
        x, labels = batch
        points, t, velocity = lines(energy, x, labels, context.generator, self.match)
        pull = self.gain * ((1 - t) / (1 - self.start)).clamp(max=1.0)
        error, values = force_error(energy, points, labels, per_row(pull, x) * velocity)
        return Loss(error, energy_terms(values))
