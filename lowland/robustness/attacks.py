"""Attacks on classifiers: points within ε of x whose label a classifier gets wrong, if there are
any to be found.

An attack is a callable (model, x, labels, epsilon, *, generator) -> x', with model: (B, *event) ->
logits (B, K). What it finds is inside the ball ‖x' − x‖ ≤ ε and inside the bounds; a row for which
it finds nothing still comes back as the best it saw. An attack that fails proves nothing.
`robustness` runs several and counts the rows that survive them all.

    PGD        steps along the slope of the model's loss; one step from x is FGSM; loss = "margin"
               is the CW loss
    CW         the smallest ‖x' − x‖₂ that does it, by descent with a growing weight
    Square     no slopes at all: random squares, kept if they help
    AdaptivePGD   fools the classifier and keeps an energy low, to pass by a detector
               (`metrics.adaptive`)
    TransferAttack   any of them on another model: a surrogate, or the same model with a backward of its
               own (BPDA)

A model that draws fresh noise at every call is attacked with eot = 20 or more: slopes averaged over
so many calls (expectation over transformation; Athalye et al. 2018,
https://arxiv.org/abs/1707.07397).
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from lowland.energy import frozen

Model = Callable[[Tensor], Tensor]
Bounds = tuple[float, float] | None
Norm = Literal["inf", "2"]


class Attack(Protocol):
    """The shape of an attack; see the module docstring."""

    def __call__(
        self, model: Model, x: Tensor, labels: Tensor, epsilon: float, *, generator: torch.Generator
    ) -> Tensor: ...


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """max over k ≠ y of f_k − f_y, (B,): above 0 where the label is lost.

    >>> margin(torch.tensor([[2.0, 5.0, 1.0]]), torch.tensor([1]))
    tensor([-3.])
    """
    own = logits.gather(1, labels.unsqueeze(1))
    return others(logits, labels).amax(1) - own.squeeze(1)


def others(logits: Tensor, labels: Tensor) -> Tensor:
    """The logits (B, K) with −∞ at the label."""
    return logits.scatter(1, labels.unsqueeze(1), -torch.inf)


def are_counts(*counts: int) -> bool:
    """Whether all are whole numbers of at least 1."""
    return all(isinstance(count, int) and count >= 1 for count in counts)


def distance(x: Tensor, other: Tensor, norm: Norm) -> Tensor:
    """‖x' − x‖ per row, (B,): the largest difference, or the Euclidean length."""
    gap = (other - x).flatten(1)
    return gap.abs().amax(1) if norm == "inf" else gap.norm(dim=1)


def check_attack(
    model: Model, x: Tensor, labels: Tensor, epsilon: float, bounds: Bounds = (0.0, 1.0)
) -> int:
    """Refuse points outside the bounds, labels that the model does not know, logits of another form,
    and ε < 0. Gives K.
    """
    if (
        not isinstance(x, Tensor)
        or not x.is_floating_point()
        or x.dim() < 2
        or not len(x)
        or not bool(x.isfinite().all())
    ):
        got = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(
            f"points came as {got}; finite floating point numbers (B, *event) with B > 0 are "
            "needed; convert them"
        )
    if not isinstance(epsilon, (int, float)) or not 0 <= epsilon < math.inf:
        raise ValueError(
            f"epsilon is {epsilon!r}; it is a finite number of at least 0; 0.3 is usual for MNIST"
        )
    low, high = x.detach().aminmax()
    if bounds is not None and not (len(bounds) == 2 and bounds[0] <= low <= high <= bounds[1]):
        raise ValueError(
            f"points reach from {low:g} to {high:g}; the bounds are {bounds}; rescale the points, or "
            "pass bounds=None"
        )
    if not callable(model):
        raise ValueError(
            f"the model is a {type(model).__name__}; a classifier is called, x -> logits (B, K); "
            "pass one"
        )
    with eval_frozen(model), torch.no_grad():
        logits = model(x[:2])
    sound = (
        isinstance(logits, Tensor)
        and logits.dim() == 2
        and len(logits) == len(x[:2])
        and logits.shape[1] > 1
    )
    if not sound or bool(logits.isnan().any()):
        got = (
            f"{tuple(logits.shape)}{' with nan' if sound else ''}"
            if isinstance(logits, Tensor)
            else type(logits).__name__
        )
        raise ValueError(
            f"the model gave {got} for {len(x[:2])} points; logits (B, K) with K >= 2 and no nan "
            "are needed; pass a classifier x -> logits"
        )
    classes = logits.shape[1]
    whole = isinstance(labels, Tensor) and labels.dtype == torch.long and labels.shape == (len(x),)
    if not whole or int(labels.min()) < 0 or int(labels.max()) >= classes:
        got = (
            f"{labels.dtype} of shape {tuple(labels.shape)}"
            if isinstance(labels, Tensor)
            else type(labels).__name__
        )
        got += f", from {int(labels.min())} to {int(labels.max())}" if whole else ""
        raise ValueError(
            f"labels are {got}; torch.long ({len(x)},) from 0 to {classes - 1} are needed; correct "
            "them"
        )
    return classes


@contextmanager
def eval_frozen(model: Model) -> Iterator[None]:
    """Inside: the model in eval mode, no weight requires a gradient; afterwards all as it was. A
    plain function is as it is.
    """
    if isinstance(model, nn.Module):
        with frozen(model):
            yield
    else:
        yield


@dataclass(frozen=True)
class PGD:
    """Projected gradient ascent in a ball, from x itself or from random points of the ball; the
    best point seen is kept.

        x' ← Π(x' + α_t ε sign ∇J(x'))   ("inf"), x' ← Π(x' + α_t ε ∇J / ‖∇J‖₂) ("2"), α_t = α (1 −
                                         t / steps)

    steps; restarts: from a new random point each; step_size: α, in units of ε, long enough to cross
    the ball twice unless given; loss: J = "cross_entropy" (as log Σ_{k≠y} exp f_k − f_y, which has
    its direction and does not vanish where the classifier is sure), "margin" (f_k − f_y of the best
    other class k, the CW loss), or "targeted": the i-th restart aims at the i-th runner-up; random:
    False starts at x, so PGD(steps=1, random_start=False) is FGSM; eot: calls of the model over which J
    is averaged; early_stop: rows that are fooled are left alone from then on, which must be False for
    models with noise; bounds: of the points, None for none.

    Cost: restarts · eot · steps gradients, fewer for rows that stop early. Source: Madry et al. (2018),
    https://arxiv.org/abs/1706.06083; FGSM: Goodfellow et al. (2015),
    https://arxiv.org/abs/1412.6572; margin: Carlini & Wagner (2017),
    https://arxiv.org/abs/1608.04644

    >>> two = lambda x: torch.cat([x, -x], 1)
    >>> g, y = torch.Generator().manual_seed(0), torch.tensor([0])
    >>> PGD(steps=1, random_start=False)(two, torch.full((1, 1), 0.75), y, 0.5, generator=g)  # FGSM
    tensor([[0.2500]])
    """

    steps: int = 40
    restarts: int = 1
    step_size: float | None = None
    loss: Literal["cross_entropy", "margin", "targeted"] = "cross_entropy"
    norm: Norm = "inf"
    random_start: bool = True
    eot: int = 1
    early_stop: bool = True
    bounds: Bounds = (0.0, 1.0)

    def __post_init__(self) -> None:
        sized = self.step_size is None or 0 < self.step_size < math.inf
        known = self.norm in ("inf", "2") and self.loss in ("cross_entropy", "margin", "targeted")
        if not (are_counts(self.steps, self.restarts, self.eot) and sized and known):
            raise ValueError(
                f"PGD was given {self.steps} steps, {self.restarts} restarts, eot {self.eot}, "
                f"step_size {self.step_size}, norm {self.norm!r} and loss {self.loss!r}; counts "
                "are at least 1, sizes above 0, norms 'inf' and '2', losses 'cross_entropy', "
                "'margin' and 'targeted'; correct them"
            )

    def __call__(
        self, model: Model, x: Tensor, labels: Tensor, epsilon: float, *, generator: torch.Generator
    ) -> Tensor:
        classes, x = check_attack(model, x, labels, epsilon, self.bounds), x.detach()
        found, rank = x.clone(), torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
        with eval_frozen(model):
            for turn in range(self.restarts):
                at = (
                    self.project(x, x + epsilon * self._direction(x, generator), epsilon)
                    if self.random_start
                    else x.clone()
                )
                self._climb(model, x, labels, epsilon, at, found, rank, (turn, classes))
        return found

    def _climb(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        epsilon: float,
        at: Tensor,
        found: Tensor,
        rank: Tensor,
        turn: tuple[int, int],
    ) -> None:
        """One restart: `found` and its `rank` are written where something better is seen."""
        size = self.step_size if self.step_size is not None else max(0.25, 4 / (self.steps + 1))
        for step in range(self.steps + 1):
            rows = (
                (rank <= 0).nonzero().flatten()
                if self.early_stop
                else torch.arange(len(x), device=x.device)
            )
            if not len(rows):
                return
            now, slope = self.look(model, at[rows], y[rows], step < self.steps, turn)
            better = now > rank[rows]
            found[rows[better]], rank[rows[better]] = at[rows[better]], now[better]
            if slope is not None:
                move = slope.sign() if self.norm == "inf" else slope / _length(slope)
                pace = epsilon * size * (1 - step / self.steps)
                at[rows] = self.project(x[rows], at[rows] + pace * move, epsilon)

    def look(
        self, model: Model, at: Tensor, labels: Tensor, slope: bool, turn: tuple[int, int]
    ) -> tuple[Tensor, Tensor | None]:
        """How good points are (B,), above 0 where the label is lost, and the slope that is climbed;
        means over `eot` calls.
        """
        total, slopes = torch.zeros(len(at), dtype=at.dtype, device=at.device), torch.zeros_like(at)
        for _ in range(self.eot):
            with torch.set_grad_enabled(slope):
                leaf = at.detach().requires_grad_(slope)
                good, climbed = self.objective(model, leaf, labels, turn)
                total += good.detach() / self.eot
                if climbed.requires_grad:  # a model may hide its slope; then the points stay
                    slopes += torch.autograd.grad(climbed.sum(), leaf)[0].nan_to_num(0.0) / self.eot
        return total, slopes if slope else None

    def objective(
        self, model: Model, at: Tensor, labels: Tensor, turn: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """One call of the model: the margin (B,), and J (B,), which is climbed."""
        logits = model(at).to(at.dtype)
        lost = margin(logits, labels)
        if (
            self.loss == "cross_entropy"
        ):  # the same way uphill, and a slope even where softmax is 1 to the last digit
            return lost, torch.logsumexp(others(logits, labels), 1) - logits.gather(
                1, labels.unsqueeze(1)
            ).squeeze(1)
        if self.loss == "margin":
            return lost, lost
        order = others(logits.detach(), labels).argsort(1, descending=True)
        aim = order[:, turn[0] % (turn[1] - 1)].unsqueeze(1)
        return lost, (logits.gather(1, aim) - logits.gather(1, labels.unsqueeze(1))).squeeze(1)

    def project(self, x: Tensor, at: Tensor, epsilon: float) -> Tensor:
        """The nearest point in the ball around x, then inside the bounds, which leaves no ball whose
        centre is inside.
        """
        gap = at - x
        gap = (
            gap.clamp(-epsilon, epsilon)
            if self.norm == "inf"
            else gap * (epsilon / _length(gap)).clamp_max(1.0)
        )
        return x + gap if self.bounds is None else (x + gap).clamp(*self.bounds)

    def _direction(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Random points of the unit ball."""
        if self.norm == "inf":
            return 2 * torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device) - 1
        way = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        return (
            way
            / _length(way)
            * torch.rand(len(x), generator=generator, device=x.device).view(
                -1, *[1] * (x.dim() - 1)
            )
        )


def _length(x: Tensor) -> Tensor:
    """‖x‖₂ per row, laid out to divide x; never 0."""
    return x.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, *[1] * (x.dim() - 1))


@dataclass(frozen=True)
class CW:
    """The nearest point in the Euclidean sense that is fooled, by descent with a weight that a
    bisection finds, row by row.

        min ‖x' − x‖₂² + c max(0, f_y − max_{k≠y} f_k + κ)

    by Adam, `steps` per weight c, `searches` weights; x' stays inside the bounds. κ: confidence. A
    point further away than ε is drawn back to the ball, where it fools nobody as a rule. Cost:
    steps · searches gradients. Source: Carlini & Wagner (2017), https://arxiv.org/abs/1608.04644
    (their change of variables is here a clamp)

    >>> two = lambda x: torch.cat([x - 0.5, 0.5 - x], 1)
    >>> CW().nearest(two, torch.full((1, 1), 0.75), torch.tensor([0])).round(decimals=1)
    tensor([[0.5000]])
    """

    steps: int = 100
    searches: int = 5
    rate: float = 0.02
    confidence: float = 0.0
    weight: float = 1.0
    bounds: Bounds = (0.0, 1.0)

    def __post_init__(self) -> None:
        if not (
            are_counts(self.steps, self.searches)
            and self.rate > 0
            and self.weight > 0
            and self.confidence >= 0
        ):
            raise ValueError(
                f"{self} was asked for; counts are at least 1, rate and weight above 0; correct "
                "them"
            )

    def __call__(
        self, model: Model, x: Tensor, labels: Tensor, epsilon: float, *, generator: torch.Generator
    ) -> Tensor:
        check_attack(model, x, labels, epsilon, self.bounds)
        x = x.detach()
        nearest = self.nearest(model, x, labels)
        return PGD(norm="2", bounds=self.bounds).project(x, nearest, epsilon)

    def nearest(self, model: Model, x: Tensor, labels: Tensor) -> Tensor:
        """The nearest fooled points that were found (B, *event); x itself where none was."""
        best, reach = x.clone(), torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
        weight = torch.full_like(reach, self.weight)
        low, high = torch.zeros_like(reach), torch.full_like(reach, torch.inf)
        for _ in range(self.searches):
            at, size = self._descend(model, x, labels, weight)
            won = size < torch.inf
            closer = size < reach
            best[closer], reach[closer] = at[closer], size[closer]
            high, low = (
                torch.where(won, torch.minimum(high, weight), high),
                torch.where(won, low, torch.maximum(low, weight)),
            )
            weight = torch.where(high < torch.inf, (low + high) / 2, 10 * weight)
        return best

    def _descend(
        self, model: Model, x: Tensor, labels: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The nearest fooled points seen at a weight, and how far they are; infinitely far where
        none was.
        """
        leaf = x.clone().requires_grad_(True)
        adam = torch.optim.Adam([leaf], lr=self.rate)
        best, reach = x.clone(), torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
        with eval_frozen(model), torch.enable_grad():
            for _ in range(self.steps):
                lost = margin(model(leaf).to(x.dtype), labels)
                square = (leaf - x).square().flatten(1).sum(1)
                closer = (lost.detach() > 0) & (square.detach().sqrt() < reach)
                best[closer], reach[closer] = leaf.detach()[closer], square.detach().sqrt()[closer]
                adam.zero_grad()
                leaf.grad = torch.autograd.grad(
                    (square + weight * (self.confidence - lost).clamp_min(0.0)).sum(), leaf
                )[0]
                adam.step()
                if self.bounds is not None:
                    leaf.data.clamp_(*self.bounds)
        return best, reach


@dataclass(frozen=True)
class Square:
    """A search without slopes, on images (B, C, H, W): a random square of ±ε is kept where it
    raises the margin.

    It begins at vertical stripes of ±ε. The side of the squares falls with time: a share `share` of
    the pixels at first, halved at 0.1, 0.5, 2, 5, 10, 20, 40, 60 and 80 % of the queries. A defence
    that falls to it and not to PGD hides its slopes. early_stop: as in `PGD`; eot: calls averaged per
    query. The ball is that of the largest difference. Cost: queries · eot forward passes. Source:
    Andriushchenko et al. (2020), https://arxiv.org/abs/1912.00049
    """

    queries: int = 1000
    share: float = 0.5
    eot: int = 1
    early_stop: bool = True
    bounds: Bounds = (0.0, 1.0)

    def __post_init__(self) -> None:
        if not are_counts(self.queries, self.eot) or not 0 < self.share <= 1:
            raise ValueError(
                f"{self} was asked for; counts are at least 1 and the share in (0, 1]; correct them"
            )

    def __call__(
        self, model: Model, x: Tensor, labels: Tensor, epsilon: float, *, generator: torch.Generator
    ) -> Tensor:
        check_attack(model, x, labels, epsilon, self.bounds)
        x = x.detach()
        if x.dim() != 4:
            raise ValueError(
                f"points have shape {tuple(x.shape)}; Square needs images (B, C, H, W); attack "
                "others by PGD"
            )
        stripes = epsilon * _signs((len(x), x.shape[1], 1, x.shape[3]), x, generator).expand_as(x)
        found = self._clamped(x + stripes)
        with eval_frozen(model), torch.no_grad():
            rank = self._margin(model, found, labels)
            for query in range(1, self.queries):
                rows = (
                    (rank <= 0).nonzero().flatten()
                    if self.early_stop
                    else torch.arange(len(x), device=x.device)
                )
                if not len(rows):
                    break
                tried = self._squared(x[rows], found[rows], epsilon, query, generator)
                now = self._margin(model, tried, labels[rows])
                better = now > rank[rows]
                found[rows[better]], rank[rows[better]] = tried[better], now[better]
        return found

    def _squared(
        self, x: Tensor, at: Tensor, epsilon: float, query: int, generator: torch.Generator
    ) -> Tensor:
        """Points with one more square each, at a place of its own."""
        height, width = x.shape[2:]
        halvings = sum(
            query >= share * self.queries
            for share in (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
        )
        side = max(
            1, min(round(math.sqrt(self.share / 2**halvings * height * width)), height, width)
        )
        corners = torch.rand(2, len(x), 1, generator=generator, device=x.device)
        top, left = (
            (corners[0] * (height - side + 1)).long(),
            (corners[1] * (width - side + 1)).long(),
        )
        down, along = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
        rows, columns = (down >= top) & (down < top + side), (along >= left) & (along < left + side)
        inside = (rows.unsqueeze(2) & columns.unsqueeze(1)).unsqueeze(1)
        return self._clamped(
            torch.where(inside, x + epsilon * _signs((*x.shape[:2], 1, 1), x, generator), at)
        )

    def _margin(self, model: Model, at: Tensor, labels: Tensor) -> Tensor:
        return torch.stack([margin(model(at).to(at.dtype), labels) for _ in range(self.eot)]).mean(
            0
        )

    def _clamped(self, x: Tensor) -> Tensor:
        return x if self.bounds is None else x.clamp(*self.bounds)


def _signs(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    """±1, evenly."""
    return 2.0 * torch.randint(2, shape, generator=generator, device=like.device).to(like.dtype) - 1


@dataclass(frozen=True)
class TransferAttack:
    """An attack run on another model: on a surrogate that an attacker trained himself, or, as BPDA,
    on the same model with a backward pass of its own (`PurifiedClassifier.with_identity_gradient`). The model attacked is
    not asked.

    Source: Papernot, McDaniel & Goodfellow (2016), https://arxiv.org/abs/1605.07277
    """

    surrogate: Model
    attack: Attack

    def __call__(
        self, model: Model, x: Tensor, labels: Tensor, epsilon: float, *, generator: torch.Generator
    ) -> Tensor:
        return self.attack(self.surrogate, x, labels, epsilon, generator=generator)
