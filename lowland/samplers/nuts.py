"""The No-U-Turn sampler for many chains at once: Hamiltonian trajectories that stop when they begin
to return.

A trajectory doubles, forwards or backwards by the toss of a coin, until its ends approach each
other. All chains double together; a chain that is done leaves the batch and costs nothing more. A
subtree of 2^j leaves is walked in order, with the momenta at the left ends of its stretches kept in
at most j slots, so that no recursion is needed.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from lowland.energy import Energy
from lowland.registry import register
from lowland.samplers.hmc import leapfrog
from lowland.samplers.kernel import (
    Info,
    Sampler,
    State,
    normal_like,
    per_row,
    select,
    squared_norm,
    stride,
)
from lowland.samplers.settings import read_metric, read_positive, set_plain
from lowland.scalars import read_integer
from lowland.seeds import spawn

WORST = 1000.0  # an energy error of so many nats ends a trajectory
IDLE = 8  # the batch is drawn together when one row in so many has stopped
SLAB = 16  # leaves for which coins are tossed at once


class End(NamedTuple):
    """One end of a trajectory: what a leapfrog step needs."""

    x: Tensor
    p: Tensor
    score: Tensor


@dataclass
class Tree:
    """The trajectories of all B chains: their ends, their draws, their weights."""

    ends: tuple[End, End]  # backward, forward
    draw: State
    log_weight: Tensor  # log Σ exp(H0 − H) over the points
    start: Tensor  # H0
    rates: Tensor  # Σ min(1, exp(H0 − H)) over the leaves
    leaves: Tensor
    paid: Tensor  # gradients
    diverged: Tensor


@dataclass
class Subtree:
    """The subtree being built at one end. Rows: active chains, plus stopped ones masked by `alive`.

    Backward trajectories are walked forward with their momentum turned round. slots: momentum and
    position at the left ends of the stretches that are still open.
    """

    chain: Tensor
    alive: Tensor
    end: End
    draw: State
    log_weight: Tensor
    start: Tensor
    rates: Tensor
    leaves: Tensor
    diverged: Tensor
    coins: Tensor  # log u, for some leaves
    paid: int
    slots: list[tuple[Tensor, Tensor]]

    def keep(self, which: Tensor) -> "Subtree":
        """Return the rows `which` (indices)."""
        parts: dict[str, Any] = {
            name: v[which] for name, v in vars(self).items() if isinstance(v, Tensor)
        }
        for name, group in (("end", self.end), ("draw", self.draw)):
            parts[name] = type(group)(*(part[which] for part in group))
        return Subtree(**parts, paid=0, slots=[(a[which], b[which]) for a, b in self.slots])


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Compute ⟨a_i, b_i⟩ per row: (B, *event) → (B,)."""
    return torch.linalg.vecdot(a.flatten(1), b.flatten(1))


@register("sampler")
@dataclass(frozen=True)
class NUTS(Sampler):
    """The No-U-Turn sampler: HMC that finds the length of each trajectory by itself.

        double the trajectory until p₋·S⁻¹(x₊ − x₋) ≤ 0 or p₊·S⁻¹(x₊ − x₋) ≤ 0, at its ends or those
        of a stretch within; draw a point in proportion to exp(−H), the newer half preferred

    Leaves exp(−E) invariant for every step size and metric S = diag(inv_mass_sqrt); reflects at
    the walls of a box. max_tree_depth: doublings at most. Cost: up to 2^max_tree_depth − 1
    gradients per step, counted per chain in Info.num_grad_evals; chains that are done leave the
    batch as soon as they are an eighth of it. Chooses chains on the host, so it waits for a GPU at
    every leaf. Info.diverged says that a trajectory met a point that was not finite, or an energy
    error above 1,000, and ended there. Source: Hoffman & Gelman (2014),
    https://jmlr.org/papers/v15/hoffman14a.html; multinomial draws: Betancourt (2017),
    https://arxiv.org/abs/1701.02434; without recursion: Phan, Pradhan & Jankowiak (2019),
    https://arxiv.org/abs/1912.11554
    """

    step_size: float
    max_tree_depth: int = 10
    inv_mass_sqrt: tuple[float, ...] | None = None
    num_grad_evals: ClassVar[int] = 0
    adjusted: ClassVar[bool] = True
    target_accept: ClassVar[float] = 0.8
    state_types: ClassVar[tuple[type, ...]] = (State,)

    def __post_init__(self) -> None:
        set_plain(
            self,
            step_size=read_positive("step_size", self.step_size),
            max_tree_depth=read_integer("max_tree_depth", self.max_tree_depth, least=1, most=20),
            inv_mass_sqrt=read_metric(self.inv_mass_sqrt),
        )

    def step(self, energy: Energy, state: State, generator: torch.Generator) -> tuple[State, Info]:
        p = normal_like(state.x, generator)
        coins = torch.rand(
            (self.max_tree_depth, 2, len(p)), generator=generator, device=p.device, dtype=p.dtype
        )
        # how many are used depends on all chains: a stream apart
        leaf_coins = spawn(generator)
        zero, whole = (
            torch.zeros_like(state.energy),
            torch.zeros(len(p), dtype=torch.long, device=p.device),
        )
        ends = tuple(End(state.x.clone(), p.clone(), state.score.clone()) for _ in range(2))
        draw, start = State(*(part.clone() for part in state)), state.energy + squared_norm(p) / 2
        counts = (whole, whole.clone(), whole.bool())
        tree = Tree(ends, draw, zero, start, zero.clone(), *counts)  # type: ignore[arg-type]
        growing = torch.arange(len(p), device=p.device)
        for level in range(self.max_tree_depth):
            growing = self._double(energy, tree, level, growing, coins[level], leaf_coins)
            if len(growing) == 0:
                break
        moved = (tree.draw.x != state.x).flatten(1).any(1)
        rate = tree.rates / tree.leaves.clamp(min=1)
        return tree.draw, Info(moved, tree.diverged, rate, tree.paid)

    def _double(
        self,
        energy: Energy,
        tree: Tree,
        level: int,
        growing: Tensor,
        coins: Tensor,
        leaf_coins: torch.Generator,
    ) -> Tensor:
        """Double the trajectories of the chains `growing`; returns those that may go on."""
        forward = coins[0] < 0.5
        sub = self._walk(energy, tree, level, growing, forward, leaf_coins)
        chain = sub.chain
        if len(chain) == 0:
            return chain
        accept = (
            (coins[1, chain].log() < sub.log_weight - tree.log_weight[chain]).nonzero().squeeze(1)
        )
        _put(tree.draw, chain[accept], sub.draw, accept)
        tree.log_weight[chain] = torch.logaddexp(tree.log_weight[chain], sub.log_weight)
        sign = per_row(torch.where(forward[chain], 1.0, -1.0).to(sub.end.p.dtype), sub.end.p)
        sub.end = sub.end._replace(p=sign * sub.end.p)
        for end, mine in zip(tree.ends, (~forward[chain], forward[chain]), strict=True):
            rows = mine.nonzero().squeeze(1)
            _put(end, chain[rows], sub.end, rows)
        first, last = (End(*(part[chain] for part in end)) for end in tree.ends)
        return chain[~self._returns(first.p, last.p, last.x - first.x)]

    def _walk(
        self,
        energy: Energy,
        tree: Tree,
        level: int,
        growing: Tensor,
        forward: Tensor,
        leaf_coins: torch.Generator,
    ) -> Subtree:
        """Walk 2^level leaves from the chosen ends; returns the chains whose subtree neither turned
        nor diverged.
        """
        sub = _sprout(tree, growing, forward[growing])
        here = energy.index_rows(growing) if len(growing) < len(tree.start) else energy
        for leaf in range(2**level):
            if leaf % SLAB == 0:
                shape, like = (len(tree.start), min(SLAB, 2**level)), tree.start
                u = torch.rand(shape, generator=leaf_coins, device=like.device, dtype=like.dtype)
                sub.coins = u[sub.chain].log()
            self._leaf(here, sub, leaf)
            stopped = len(sub.chain) - int(sub.alive.sum())
            if stopped * IDLE > len(sub.chain) or (stopped and leaf == 2**level - 1):
                _settle(tree, sub)
                sub = sub.keep(sub.alive.nonzero().squeeze(1))
                if len(sub.chain) == 0:
                    return sub
                here = energy.index_rows(sub.chain)
        _settle(tree, sub)
        return sub

    def _leaf(self, energy: Energy, sub: Subtree, leaf: int) -> None:
        """Make one leapfrog step and record it."""
        step: Any = self.step_size
        step = step[sub.chain] if isinstance(step, Tensor) and step.dim() else step
        here = State(sub.end.x, sub.log_weight, sub.end.score)  # the energy is not asked for
        new, p = leapfrog(energy, here, sub.end.p, stride(step, self.inv_mass_sqrt, sub.end.x), 1)
        gain = sub.start - new.energy - dot(p, p) / 2
        sound = torch.isfinite(gain) & (gain > -WORST)
        sub.leaves += sub.alive
        sub.paid += 1
        sub.diverged |= sub.alive & ~sound
        sub.alive &= sound
        gain = torch.where(sub.alive, gain, -math.inf)
        sub.rates += gain.clamp(max=0.0).exp()
        sub.log_weight = torch.logaddexp(sub.log_weight, gain)
        sub.draw = select(sub.coins[:, leaf % SLAB] < gain - sub.log_weight, new, sub.draw)
        sub.end = End(new.x, p, new.score)
        self._stretches(sub, leaf)

    def _stretches(self, sub: Subtree, leaf: int) -> None:
        """Open a slot at an even leaf; at an odd one, stop the rows of which a stretch that ends
        here returns.
        """
        slot = (leaf >> 1).bit_count()
        if leaf % 2 == 0:
            sub.slots[slot:] = [(sub.end.p, sub.end.x)]
            return
        ending = (
            (leaf + 1) & -(leaf + 1)
        ).bit_length() - 1  # trailing ones: the stretches that end here
        for p, x in sub.slots[slot - ending + 1 : slot + 1]:
            sub.alive &= ~self._returns(p, sub.end.p, sub.end.x - x)

    def _returns(self, first: Tensor, last: Tensor, way: Tensor) -> Tensor:
        """Return whether a stretch with these momenta at its ends and this way between them
        returns: (B,) bool.
        """
        way = way if self.inv_mass_sqrt is None else way / stride(1.0, self.inv_mass_sqrt, way)
        return (dot(first, way) <= 0) | (dot(last, way) <= 0)


def _sprout(tree: Tree, growing: Tensor, forward: Tensor) -> Subtree:
    """Start a subtree without leaves at the chosen ends of the chains `growing`."""
    like = tree.ends[0].x
    side, sign = per_row(forward, like), torch.where(forward, 1.0, -1.0).to(like.dtype)
    x, p, score = (
        torch.where(side, b[growing], a[growing]) for a, b in zip(*tree.ends, strict=True)
    )
    minus = torch.full_like(sign, -math.inf)
    draw = State(
        torch.empty_like(x), torch.empty_like(sign), torch.empty_like(x)
    )  # the first sound leaf is always drawn
    none, whole = torch.zeros_like(forward), torch.zeros_like(growing)
    end, start, rates = (
        End(x, per_row(sign, p) * p, score),
        tree.start[growing],
        torch.zeros_like(sign),
    )
    return Subtree(growing, ~none, end, draw, minus, start, rates, whole, none, minus, 0, [])


def _settle(tree: Tree, sub: Subtree) -> None:
    """Record what the rows of a subtree have done since the last time."""
    tree.rates.index_add_(0, sub.chain, sub.rates)
    tree.leaves.index_add_(0, sub.chain, sub.leaves)
    tree.paid[sub.chain] += sub.paid
    tree.diverged[sub.chain] |= sub.diverged
    sub.rates, sub.leaves = torch.zeros_like(sub.rates), torch.zeros_like(sub.leaves)


def _put(to: tuple[Tensor, ...], rows: Tensor, source: tuple[Tensor, ...], of: Tensor) -> None:
    """Copy, field by field, the rows `of` of one into the rows `rows` of the other."""
    for a, b in zip(to, source, strict=True):
        a.index_copy_(0, rows, b[of])
