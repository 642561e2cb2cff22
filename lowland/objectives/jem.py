"""Objectives of a classifier that is an energy: what its K logits f_k(x) say of the label, and of
x.

    p(y | x) = softmax(f(x))_y          p(x) ∝ Σ_k exp f_k(x)          p(x, y) ∝ exp f_y(x)

    JEM                −log p(y | x) by cross-entropy, −log p(x) or −log p(x | y) by contrast with
                       samples
    OutlierExposure    −log p(y | x), and a margin between the energies of data and of outliers: no
                       samples

Here the energies e_k = −f_k are the heads (`nets.conditions`), so that E(x, y) = e_y(x) and p(y |
x) = softmax(−e). A label of −1 says that nobody knows it: such a point counts in the terms that
need no label.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from lowland.energy import Energy, frozen
from lowland.objectives.augment import augmented, check_augment
from lowland.objectives.contrastive import Loss, chain_terms, check_steps
from lowland.registry import register
from lowland.replay import ReplayBuffer
from lowland.samplers.kernel import Sampler
from lowland.samplers.loop import run_chains

UNKNOWN = -1  # the label of a point whose label nobody knows


def cross_entropy(heads: Tensor, labels: Tensor) -> Tensor:
    """The mean of −log softmax(−heads)_y over the labelled rows of heads (B, K); 0 if there is
    none.

    >>> import torch
    >>> cross_entropy(torch.tensor([[0.0, 50.0], [7.0, 7.0]]), torch.tensor([0, -1]))
    tensor(0.)
    """
    total = F.cross_entropy(-heads, labels, ignore_index=UNKNOWN, reduction="sum")
    return total / (labels != UNKNOWN).sum().clamp_min(1)


def attack(
    energy: Energy,
    x: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    steps: int,
    step_size: float,
    generator: torch.Generator,
) -> Tensor:
    """Points within ε of x in every number, and inside the domain, whose labels the energy finds
    hard to tell.

        x' ← Π(x' + α sign ∇ −log p(y | x')),    Π: into {‖x' − x‖_∞ ≤ ε} and the walls; x' starts
                                                 in that ball at random

    Projected gradient ascent; the weights get no gradient. Points labelled −1 go to where they
    start. Source: Madry et al. (2018), https://arxiv.org/abs/1706.06083

    >>> import torch, lowland
    >>> two = lowland.ClassifierEnergy(lambda x: torch.cat([x, -x], 1), 2, lowland.real(1))
    >>> g = torch.Generator().manual_seed(0)
    >>> attack(two, torch.ones(1, 1), torch.tensor([0]), epsilon=0.5, steps=9, step_size=0.2, generator=g)
    tensor([[0.5000]])
    """
    lo, hi = x - epsilon, x + epsilon
    if energy.domain.kind == "box":
        lo, hi = lo.clamp_min(energy.domain.lo), hi.clamp_max(energy.domain.hi)
    found = x + epsilon * (
        2 * torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype) - 1
    )
    with frozen(energy), torch.enable_grad():
        for _ in range(steps):
            at = torch.clamp(found, lo, hi).detach().requires_grad_()
            loss = cross_entropy(_heads(energy, at), labels)
            (slope,) = torch.autograd.grad(loss, at)
            found = at + step_size * slope.sign()
    return torch.clamp(found, lo, hi).detach()


def _heads(energy: Energy, x: Tensor) -> Tensor:
    """The energies of every class (B, K), in the precision of x."""
    return energy.class_energies(x).to(x.dtype)  # type: ignore[operator]


def _odds(energy: Energy, x: Tensor) -> Tensor:
    """What cross-entropy needs of the heads (B, K): themselves, but for a number they share.

    The slope of that number is zero and comes out as rounding, which Adam would make as large as
    any other.
    """
    return (
        -energy.class_logits(x).to(x.dtype)
        if hasattr(energy, "class_logits")
        else _heads(energy, x)
    )  # type: ignore


def _refuse(name: str, energy: Energy, labels: Tensor | None) -> None:
    if labels is None or not getattr(energy, "classes", 0):
        raise ValueError(
            f"the energy has {getattr(energy, 'classes', 0)} classes and the data "
            f"{'no ' if labels is None else ''}labels; {name} needs labels and an energy with "
            "classes; set energy.classes, or train by PCD"
        )
    if energy.domain.kind not in ("real", "box"):
        raise ValueError(
            f"the domain is {energy.domain.kind}; {name} takes numbers, real or in a box; train "
            "such data by PCD"
        )


def _of(heads: Tensor, labels: Tensor | None) -> Tensor:
    """Energies (B,) of x and its label, or of x alone, from the heads."""
    if labels is not None:
        return heads.gather(1, labels.clamp_min(0).unsqueeze(1)).squeeze(1)
    return torch.log(heads.new_tensor(float(heads.shape[1]))) - torch.logsumexp(-heads, 1)


def _mean(values: Tensor, known: Tensor) -> Tensor:
    """The mean over the rows that count; 0 if none does."""
    return torch.where(known, values, 0.0).sum() / known.sum().clamp_min(1)


@register("objective")
@dataclass(frozen=True)
class JEM:
    """A classifier that is also an energy of its data: cross-entropy on labels and a contrast with
    persistent chains.

        L = w_py_x (−log p(y | x)) + w_px (E(x⁺) − E(x⁻)) + w_pxy (E(x⁺, y) − E(x⁻, y⁻)) + l2 (mean
        E⁺² + mean E⁻²)

    whose gradient is that of w_py_x (−log p(y | x)) + w_px (−log p(x)) + w_pxy (−log p(x | y)) if
    the chains are draws. With weight_px the chains walk in p(x) = Σ_y p(x, y); with weight_pxy each
    has a class of its own, walks in p(x | y) and keeps its class, so that the buffer is divided
    evenly among the classes; one buffer cannot do both. Both zero: a classifier trained by
    cross-entropy alone, for comparison.

    steps: sampler steps per visit; capacity, restart: the replay buffer and the share of visited
    chains that begin anew; chains: how many move at every update, as many as data unless given;
    after: share of the updates, at the start, with cross-entropy alone. Semi-supervised: points
    labelled −1 count in E(x⁺) only; labelled: the share of the training part whose labels a session
    tells (`told`). augment: transforms (`augmented`) of the points at which the cross-entropy is
    taken; adversarial: with attack_epsilon above 0 these points are then moved by `attack`,
    attack_steps of attack_step_size. In both cases the contrast takes data as they are, as many as
    chains move.

    Cost per update: forward and backward over B + chains points (B + 2 chains if augmented), and
    chains · steps gradients; adversarial: B · attack_steps gradients more. Use it when one model
    must classify, know how sure it is, and tell what is no data. Source: Grathwohl et al. (2020),
    https://arxiv.org/abs/1912.03263; adversarial: Zhu et al. (2021),
    https://arxiv.org/abs/2108.09093

    >>> import torch, lowland
    >>> g = torch.Generator().manual_seed(0)
    >>> energy = lowland.MLP(lowland.real(2), hidden=(8,), classes=3)
    >>> buffer = lowland.ReplayBuffer(64, energy.domain, generator=g, classes=3)
    >>> x, y = torch.randn(12, 2, generator=g), torch.arange(12) % 3
    >>> loss = JEM(steps=5).loss(energy, x, y, sampler=lowland.Langevin(0.01), buffer=buffer, generator=g)
    >>> sorted(loss.terms)[:4]
    ['acceptance', 'accuracy', 'age', 'cross_entropy']
    """

    steps: int = 20
    capacity: int = 10_000
    restart: float = 0.05
    chains: int = 0
    weight_px: float = 1.0
    weight_py_x: float = 1.0
    weight_pxy: float = 0.0
    l2: float = 0.0
    after: float = 0.0
    labelled: float = 1.0
    augment: Sequence[str] = ()
    attack_epsilon: float = 0.0
    attack_steps: int = 5
    attack_step_size: float = 0.01
    persistent: ClassVar[bool] = True
    sampled: ClassVar[bool] = True
    scheduled: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_steps(self.steps, self.l2)
        check_augment(self.augment)
        weights = (self.weight_px, self.weight_py_x, self.weight_pxy)
        if (
            not all(weight >= 0 for weight in weights)
            or not 0 <= self.after <= 1
            or not 0 <= self.labelled <= 1
        ):
            raise ValueError(
                f"the weights are {weights}, after is {self.after} and labelled {self.labelled}; "
                "at least 0 and shares in [0, 1] are needed; correct them"
            )
        if self.weight_px and self.weight_pxy:
            raise ValueError(
                f"weight_px is {self.weight_px} and weight_pxy is {self.weight_pxy}; the chains of "
                "a buffer walk in one law; set one of them to 0"
            )
        if not 0 <= self.chains <= self.capacity or self.capacity < 1 or not 0 <= self.restart <= 1:
            raise ValueError(
                f"capacity is {self.capacity}, chains {self.chains} and restart {self.restart}; at "
                "least 1, at most the capacity and a share in [0, 1] are needed; correct them"
            )
        if not self.attack_epsilon >= 0 or self.attack_steps < 1 or not self.attack_step_size > 0:
            raise ValueError(
                f"attack_epsilon is {self.attack_epsilon}, attack_steps {self.attack_steps} and "
                f"attack_step_size {self.attack_step_size}; at least 0, at least 1 and above 0 are "
                "needed; correct them"
            )

    def loss(
        self,
        energy: Energy,
        x: Tensor,
        labels: Tensor | None,
        *,
        sampler: Sampler,
        buffer: ReplayBuffer | None,
        generator: torch.Generator,
        progress: float = 1.0,
    ) -> Loss:
        _refuse("JEM", energy, labels)
        assert labels is not None
        if buffer is None:
            raise ValueError(
                "JEM was given no chains; it needs a ReplayBuffer; pass buffer=ReplayBuffer(...)"
            )
        negatives, its = None, None
        terms: dict[str, Tensor] = {}
        if (self.weight_px or self.weight_pxy) and progress >= self.after:
            negatives, its, terms = self._walk(energy, x, sampler, buffer, generator)
        read = self._read(energy, x, labels, generator)
        known, up, down = self._energies(energy, x, labels, read, negatives, its)
        entropy = cross_entropy(known, labels)
        value, terms = (
            self.weight_py_x * entropy,
            terms | {"cross_entropy": entropy, "accuracy": accuracy(known, labels)},
        )
        if up is not None and down is not None:
            added, more = self._contrast(up, labels[: len(up)], down, its)
            value, terms = value + added, terms | more
        return Loss(value, {name: term.detach() for name, term in terms.items()}, negatives, its)

    @staticmethod
    def _energies(
        energy: Energy,
        x: Tensor,
        labels: Tensor,
        read: Tensor,
        negatives: Tensor | None,
        its: Tensor | None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Heads at the points read, and the energies that are compared, of data and of
        negatives.
        """
        if negatives is None:
            return _odds(energy, read), None, None
        some = x if read is x else x[: len(negatives)]
        parted = getattr(
            energy, "level", False
        )  # logits are then not the heads: they are asked for apart (`_odds`)
        if its is None and (read is not x or parted):  # E(x) may cost less than its heads
            both = energy(torch.cat([some, negatives])).to(x.dtype)
            return _odds(energy, read), both[: len(some)], both[len(some) :]
        together = [some, negatives] if read is x or parted else [some, negatives, read]
        heads = _heads(energy, torch.cat(together)).split([len(part) for part in together])
        known = _odds(energy, read) if parted else heads[0] if read is x else heads[2]
        return (
            known,
            _of(heads[0], None if its is None else labels[: len(some)]),
            _of(heads[1], its),
        )

    def _read(
        self, energy: Energy, x: Tensor, labels: Tensor, generator: torch.Generator
    ) -> Tensor:
        """The points at which the cross-entropy is taken: x itself, or x augmented and attacked."""
        x = augmented(x, self.augment, generator, energy.domain) if self.augment else x
        if not self.attack_epsilon:
            return x
        return attack(
            energy,
            x,
            labels,
            epsilon=self.attack_epsilon,
            steps=self.attack_steps,
            step_size=self.attack_step_size,
            generator=generator,
        )

    def _walk(
        self,
        energy: Energy,
        x: Tensor,
        sampler: Sampler,
        buffer: ReplayBuffer,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        """Negatives, their labels if they have some, and what the log says of the chains."""
        visit = buffer.take(self.chains or len(x), generator)
        if self.weight_pxy and visit.labels is None:
            raise ValueError(
                "the chains have no labels; weight_pxy needs a class for each; pass "
                "ReplayBuffer(..., classes=K)"
            )
        labels = visit.labels if self.weight_pxy else None
        trace = run_chains(
            energy if labels is None else energy.given(labels),
            sampler,
            visit.x,
            self.steps,
            generator=generator,
        )
        lost = buffer.put(visit, trace.x, self.steps)
        age = {"age": buffer.age.float().mean(), "lost": torch.tensor(lost, device=x.device)}
        return trace.x, labels, chain_terms(visit.x, trace, energy) | age

    def _contrast(
        self, up: Tensor, labels: Tensor, down: Tensor, its: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted contrast of the energies of data, under their labels if chains have some,
        with those of negatives.
        """
        known = torch.ones_like(labels, dtype=torch.bool) if its is None else labels != UNKNOWN
        gap = down.mean() - _mean(up, known)
        value = -(self.weight_px or self.weight_pxy) * gap
        if self.l2:
            value = value + self.l2 * (_mean(up.square(), known) + down.square().mean())
        terms = {
            "gap": gap,
            "energy_data": _mean(up, known),
            "energy_model": down.mean(),
            "spread": up.std(correction=0),
        }
        return value, terms


def told(labels: Tensor, share: float, seed: int) -> Tensor:
    """Labels (N,) of which so large a share is kept, picked by the seed; the others become unknown
    (−1).

    >>> import torch
    >>> told(torch.arange(5), 0.4, seed=0).tolist()
    [0, -1, -1, -1, 4]
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).to(
        labels.device
    )
    kept = torch.zeros_like(labels, dtype=torch.bool).index_fill(
        0, order[: math.ceil(share * len(labels))], True
    )
    return torch.where(kept, labels, UNKNOWN)


def accuracy(heads: Tensor, labels: Tensor) -> Tensor:
    """Share of the labelled rows of heads (B, K) whose lowest energy is that of their label; 0 if
    none is labelled.
    """
    return _mean((heads.argmin(1) == labels).to(heads.dtype), labels != UNKNOWN)


Kind = Literal["patches", "noise", "mixtures"]


def outliers(x: Tensor, kind: Kind, domain: Any, generator: torch.Generator) -> Tensor:
    """Points (B, *event) that are no data, made from data: what the marginals allow and the whole
    does not.

    patches: images cut into 4 × 4 tiles that are put back in another order (vectors: every number
    from another row); noise: draws of the domain's starting law; mixtures: the mean of two rows.
    """
    if kind == "noise":
        return domain.draw(len(x), generator, dtype=x.dtype)
    if kind == "mixtures":
        return (x + x[torch.randperm(len(x), generator=generator, device=x.device)]) / 2
    if x.dim() != 4:
        keys = torch.rand(x.shape, generator=generator, device=x.device)
        return x.gather(0, keys.argsort(0))
    return _shuffled(x, generator)


def _shuffled(x: Tensor, generator: torch.Generator) -> Tensor:
    """Images (B, C, H, W) with their 4 × 4 tiles in an order of their own; what does not divide by
    4 stays at the border.
    """
    b, c, h, w = x.shape
    p, q = h // 4, w // 4
    tiles = (
        x[:, :, : 4 * p, : 4 * q]
        .reshape(b, c, 4, p, 4, q)
        .permute(0, 2, 4, 1, 3, 5)
        .reshape(b, 16, c, p, q)
    )
    order = torch.rand(b, 16, generator=generator, device=x.device).argsort(1).view(b, 16, 1, 1, 1)
    tiles = tiles.gather(1, order.expand_as(tiles)).view(b, 4, 4, c, p, q).permute(0, 3, 1, 4, 2, 5)
    found = x.clone()
    found[:, :, : 4 * p, : 4 * q] = tiles.reshape(b, c, 4 * p, 4 * q)
    return found


@register("objective")
@dataclass(frozen=True)
class OutlierExposure:
    """A classifier told what is no data: its energy is pushed below `low` on data and above `high`
    on outliers.

        L = −log p(y | x) + w [mean max(0, E(x) − low)² + mean max(0, high − E(x'))²]

    x' are outliers made from the batch (`outliers`), one row each of the named kinds in turn. E is
    no density after this, but a detector. Usually a short run over a classifier that is trained
    already (`fit(..., energy=...)`), at a low rate.

    Cost per update: forward and backward over 2 B points. Use it when only detection is wanted and
    samples are not. Source: Liu et al. (2020), https://arxiv.org/abs/2010.03759

    >>> import torch, lowland
    >>> g = torch.Generator().manual_seed(0)
    >>> energy = lowland.MLP(lowland.real(2), hidden=(8,), classes=3)
    >>> x, y = torch.randn(12, 2, generator=g), torch.arange(12) % 3
    >>> sorted(OutlierExposure().loss(energy, x, y, sampler=None, buffer=None, generator=g).terms)
    ['accuracy', 'cross_entropy', 'energy_data', 'energy_outliers', 'hinge']
    """

    low: float = -7.0
    high: float = -1.0
    weight: float = 0.1
    kinds: Sequence[Kind] = ("patches", "noise", "mixtures")
    persistent: ClassVar[bool] = False
    sampled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.low < self.high or not self.weight >= 0:
            raise ValueError(
                f"low is {self.low}, high is {self.high} and weight {self.weight}; data lie below "
                "outliers and the weight is at least 0; correct them"
            )
        if not self.kinds or set(self.kinds) - {"patches", "noise", "mixtures"}:
            raise ValueError(
                f"kinds is {self.kinds}; some of 'patches', 'noise' and 'mixtures' are needed; "
                "name them"
            )

    def loss(
        self,
        energy: Energy,
        x: Tensor,
        labels: Tensor | None,
        *,
        sampler: Sampler | None,
        buffer: ReplayBuffer | None,
        generator: torch.Generator,
    ) -> Loss:
        _refuse("OutlierExposure", energy, labels)
        assert labels is not None
        strange = torch.cat(
            [
                outliers(x, kind, energy.domain, generator)[i :: len(self.kinds)]
                for i, kind in enumerate(self.kinds)
            ]
        )
        heads = _heads(energy, torch.cat([x, strange]))
        down, up = _of(heads, None).tensor_split([len(x)])
        hinge = F.relu(down - self.low).square().mean() + F.relu(self.high - up).square().mean()
        entropy = cross_entropy(heads[: len(x)], labels)
        terms = {
            "cross_entropy": entropy,
            "accuracy": accuracy(heads[: len(x)], labels),
            "hinge": hinge,
            "energy_data": down.mean(),
            "energy_outliers": up.mean(),
        }
        return Loss(
            entropy + self.weight * hinge,
            {name: term.detach() for name, term in terms.items()},
            None,
        )
