"""The No-U-Turn sampler for many chains at once: Hamiltonian trajectories that stop when they begin to return.

A trajectory doubles, forwards or backwards by the toss of a coin, until its ends approach each other. All chains double
together; a chain that is done leaves the batch and costs nothing more. A subtree of 2^j leaves is walked in order, with the
momenta at the left ends of its sub-subtrees kept in j slots, so that no recursion is needed.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lowland.energy import Energy
from lowland.registry import register
from lowland.samplers.hmc import leapfrog
from lowland.samplers.kernel import (
    CONTINUOUS,
    Info,
    State,
    init,
    normal_like,
    per_row,
    positive,
    positive_scale,
    select,
    squared_norm,
    stride,
)

WORST = 1000.0  # an energy error of so many nats ends a trajectory


@dataclass
class Tree:
    """A trajectory of every chain of the batch: its two ends, its draw, its weight; all fields have B rows."""

    left: tuple[State, Tensor]  # end and momentum
    right: tuple[State, Tensor]
    draw: State
    log_weight: Tensor  # of exp(H0 − H) summed over the points
    rho: Tensor  # sum of the momenta
    start: Tensor  # H0
    rates: Tensor  # sum of min(1, exp(H0 − H)) over the leaves
    leaves: Tensor
    diverged: Tensor


@dataclass
class Subtree:
    """What grows at one end; its rows are the chains that still grow. slots: momenta and sums at open left ends."""

    chain: Tensor
    end: State
    p: Tensor
    draw: State
    log_weight: Tensor
    rho: Tensor
    start: Tensor
    epsilon: Any
    slots: list[tuple[Tensor, Tensor]]

    def keep(self, which: Tensor) -> "Subtree":
        """The rows `which` (indices)."""

        def take(value: Any) -> Any:
            if isinstance(value, State):
                return State(*(part[which] for part in value))
            if isinstance(value, list):
                return [(a[which], b[which]) for a, b in value]
            return value[which]

        return Subtree(**{name: take(value) for name, value in vars(self).items()})


def turned(first: Tensor, last: Tensor, rho: Tensor) -> Tensor:
    """Whether a stretch with these momenta at its ends and this sum of momenta returns: (B,) bool."""
    product = torch.stack([first, last]).mul(rho).flatten(2).sum(2)
    return (product <= 0).any(0)


@register("sampler")
@dataclass(frozen=True)
class NUTS:
    """The No-U-Turn sampler: HMC that finds the length of each trajectory by itself.

        double the trajectory until p₋·ρ ≤ 0 or p₊·ρ ≤ 0,     ρ = Σ p over its points, p₋ and p₊ at its ends;
        draw a point in proportion to exp(−H), the newer half preferred

    Leaves exp(−E) invariant for every step size and diagonal metric (scale: S² = M⁻¹); reflects at the walls of a box.
    depth: of the tree at most; Cost: up to 2^depth − 1 gradients per step, counted per chain in Info.gradients; chains that
    are done leave the batch. Chooses chains on the host, so it waits for a GPU at every leaf.
    Source: Hoffman & Gelman (2014), https://jmlr.org/papers/v15/hoffman14a.html; multinomial draws and ρ: Betancourt (2017),
    https://arxiv.org/abs/1701.02434; without recursion: Phan, Pradhan & Jankowiak (2019), https://arxiv.org/abs/1912.11554
    """

    step_size: float
    depth: int = 10
    scale: tuple[float, ...] | None = None
    gradients: ClassVar[int] = 0
    adjusted: ClassVar[bool] = True
    order: ClassVar[int | None] = None
    domains: ClassVar[tuple[str, ...]] = CONTINUOUS
    target: ClassVar[float] = 0.8

    def __post_init__(self) -> None:
        positive("step_size", self.step_size)
        positive_scale(self.scale)
        if not 1 <= self.depth <= 20:
            raise ValueError(f"depth is {self.depth}; it is from 1 to 20; 10 (1,023 gradients at most) is the default")

    def init(self, energy: Energy, x: Tensor) -> State:
        return init(energy, x)

    def step(self, energy: Energy, state: State, generator: torch.Generator) -> tuple[State, Info]:
        p = normal_like(state.x, generator)
        coins = torch.rand((2, self.depth, len(p)), generator=generator, device=p.device, dtype=p.dtype)
        seed = int(torch.randint(2**62, (), generator=generator, device=p.device))
        leaf_coins = torch.Generator(p.device).manual_seed(seed)  # how many are used depends on all chains: a stream apart
        start = state.energy + squared_norm(p) / 2
        zero = torch.zeros_like(start)
        none = torch.zeros(len(p), dtype=torch.bool, device=p.device)
        tree = Tree((state, p), (state, p), state, zero, p, start, zero.clone(), zero.clone(), none)
        growing = torch.arange(len(p), device=p.device)
        for level in range(self.depth):
            growing = self._double(energy, tree, level, growing, coins[:, level], leaf_coins)
            if len(growing) == 0:
                break
        moved = (tree.draw.x != state.x).flatten(1).any(1)
        rate = tree.rates / tree.leaves.clamp(min=1)
        return tree.draw, Info(moved, tree.diverged, rate, tree.leaves)

    def _double(
        self, energy: Energy, tree: Tree, level: int, growing: Tensor, coins: Tensor, leaf_coins: torch.Generator
    ) -> Tensor:
        """Double the trajectories of the chains `growing`; returns those that may go on."""
        forward = coins[0] < 0.5
        sub = self._walk(energy, tree, level, growing, forward, leaf_coins)
        chain = sub.chain
        if len(chain) == 0:
            return chain
        accept = coins[1, chain].log() < sub.log_weight - tree.log_weight[chain]
        tree.draw = State(*(a.index_copy(0, chain[accept], b[accept]) for a, b in zip(tree.draw, sub.draw, strict=True)))
        tree.log_weight = tree.log_weight.index_copy(0, chain, torch.logaddexp(tree.log_weight[chain], sub.log_weight))
        tree.rho = tree.rho.index_copy(0, chain, tree.rho[chain] + sub.rho)
        ahead = forward[chain]
        tree.right = _advance(tree.right, chain[ahead], sub, ahead)
        tree.left = _advance(tree.left, chain[~ahead], sub, ~ahead)
        return chain[~turned(tree.left[1][chain], tree.right[1][chain], tree.rho[chain])]

    def _walk(
        self, energy: Energy, tree: Tree, level: int, growing: Tensor, forward: Tensor, leaf_coins: torch.Generator
    ) -> Subtree:
        """Walk 2^level leaves from the chosen ends; chains whose subtree turns or diverges drop out."""
        ends, p = _choose(forward[growing], tree.right, tree.left, growing)
        sign = torch.where(forward[growing], 1.0, -1.0).to(p.dtype)
        epsilon = stride(self.step_size * sign, self.scale, p)
        minus = torch.full_like(sign, -math.inf)
        sub = Subtree(growing, ends, p, ends, minus, torch.zeros_like(p), tree.start[growing], epsilon, [])
        here = energy.rows(growing) if len(growing) < len(tree.start) else energy
        for leaf in range(2**level):
            u = torch.rand(tree.start.shape, generator=leaf_coins, device=p.device, dtype=p.dtype)
            going = self._leaf(here, tree, sub, leaf, u)
            if not bool(going.all()):
                sub = sub.keep(going.nonzero().squeeze(1))
                if len(sub.chain) == 0:
                    break
                here = energy.rows(sub.chain)
        return sub

    @staticmethod
    def _leaf(energy: Energy, tree: Tree, sub: Subtree, leaf: int, u: Tensor) -> Tensor:
        """One leapfrog step and its bookkeeping; returns which rows go on (bool)."""
        sub.end, sub.p = leapfrog(energy, sub.end, sub.p, sub.epsilon, 1)
        gain = sub.start - sub.end.energy - squared_norm(sub.p) / 2
        sound = torch.isfinite(gain + sub.end.x.flatten(1).sum(1)) & (gain > -WORST)
        gain = torch.where(sound, gain, -math.inf)
        tree.rates.index_add_(0, sub.chain, gain.clamp(max=0.0).exp())
        tree.leaves.index_add_(0, sub.chain, torch.ones_like(gain))
        tree.diverged[sub.chain] |= ~sound
        sub.log_weight = torch.logaddexp(sub.log_weight, gain)
        sub.draw = select(u[sub.chain].log() < gain - sub.log_weight, sub.end, sub.draw)
        sub.rho = sub.rho + sub.p
        return sound & ~_closes_a_turn(sub, leaf)


def _closes_a_turn(sub: Subtree, leaf: int) -> Tensor:
    """Open a slot at an even leaf; at an odd one, check every stretch that ends here."""
    slot = (leaf >> 1).bit_count()
    if leaf % 2 == 0:
        sub.slots[slot:] = [(sub.p, sub.rho)]
        return torch.zeros(len(sub.p), dtype=torch.bool, device=sub.p.device)
    ending = ((leaf + 1) & -(leaf + 1)).bit_length() - 1  # trailing ones: the stretches that end here
    found = [turned(p, sub.p, sub.rho - rho + p) for p, rho in sub.slots[slot - ending + 1 : slot + 1]]
    return torch.stack(found).any(0)


def _choose(which: Tensor, a: tuple[State, Tensor], b: tuple[State, Tensor], rows: Tensor) -> tuple[State, Tensor]:
    """Ends and momenta of some rows: a where `which`, else b."""
    end = select(which, State(*(part[rows] for part in a[0])), State(*(part[rows] for part in b[0])))
    return end, torch.where(per_row(which, a[1]), a[1][rows], b[1][rows])


def _advance(end: tuple[State, Tensor], rows: Tensor, sub: Subtree, which: Tensor) -> tuple[State, Tensor]:
    """The end of the trajectory moved to that of the subtree, for some rows."""
    state = State(*(old.index_copy(0, rows, new[which]) for old, new in zip(end[0], sub.end, strict=True)))
    return state, end[1].index_copy(0, rows, sub.p[which])
