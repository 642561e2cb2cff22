"""Samplers for binary and categorical events.

`BlockGibbs` draws sites from their conditionals, all sites of one color at once.
`GibbsWithGradients` and `DMALA` read off the gradient which changes pay, and correct by Metropolis'
rule what the gradient gets wrong: the first changes one site a step, the second any number.

With d(x)_{i,k} ≈ E(x) − E(x with x_i = k), exact where E is linear in every site, both propose in
proportion to exp(d / 2): locally balanced proposals, which need no tuning of their greed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from lowland.energy import Energy, Function, Gibbs, gibbs_of
from lowland.registry import register
from lowland.samplers.kernel import (
    DISCRETE,
    Info,
    Sampler,
    init,
    metropolis,
    per_row,
    uniform_like,
    values_of,
)
from lowland.samplers.settings import read_count, read_positive, set_plain
from lowland.transfer import send


class Points(NamedTuple):
    """Chains without scores: points x (B, *event) and their energies (B,)."""

    x: Tensor
    energy: Tensor


class BlockState(NamedTuple):
    """Points whose energy begins block Gibbs with a product, and the fields it gave (B, n)."""

    x: Tensor
    energy: Tensor
    fields: Tensor


def evaluate_points(energy: Energy, x: Tensor, fields: Tensor | None = None) -> Points | BlockState:
    """Return the state of chains at x; fields: what `gibbs.fields` gave for x, if that is known."""
    gibbs = gibbs_of(energy)
    if gibbs.fields is None or gibbs.energy_from is None:
        return Points(x, values_of(energy, x))
    fields = gibbs.fields(x) if fields is None else fields
    return BlockState(x, gibbs.energy_from(x, fields), fields)


def fields_for(energy: Energy, state: object, old: Energy) -> Tensor | None:
    """Return the fields in a state under the energy `old` if they are those of `energy` too."""
    same = gibbs_of(energy).fields == gibbs_of(old).fields
    return state.fields if same and isinstance(state, BlockState) else None


class LocalState(NamedTuple):
    """Chains with what each change of one site would gain.

    gains: (B, sites) for flipping each site of a binary event; (B, sites, K) for setting each site
    to each value.
    """

    x: Tensor
    energy: Tensor
    gains: Tensor


def local_state(energy: Energy, x: Tensor) -> LocalState:
    """Compute energies and first-order gains −ΔE of every change of one site: one gradient.

    A binary event is differentiated as it is; a categorical one as one-hot floats, by the energy's
    `gibbs.one_hot_energy`.
    """
    if energy.domain.kind == "binary":
        _, value, score = init(energy, x)
        return LocalState(x, value, ((1 - 2 * x) * score).flatten(1))
    one_hot_energy = gibbs_of(energy).one_hot_energy
    if one_hot_energy is None:
        raise ValueError(
            f"{type(energy).__name__} on a categorical domain has no gradient between its values; "
            "it needs gibbs.one_hot_energy(z), which takes one-hot floats (B, *event, "
            f"{energy.domain.classes}); write one, or use BlockGibbs"
        )
    z = one_hot(x.long(), energy.domain.classes).to(x.dtype)
    _, value, score = init(Function(one_hot_energy), z)
    here = (score * z).sum(-1, keepdim=True)
    return LocalState(x, value, (score - here).flatten(1, -2))


def coloring_of(gibbs: Gibbs, x: Tensor) -> Tensor:
    """Return the coloring (n, *event) that an energy declares, or one color per site."""
    if gibbs.coloring is not None:
        return send(gibbs.coloring, x.device)
    return torch.eye(x[0].numel(), dtype=torch.bool, device=x.device).view(-1, *x.shape[1:])


def list_sites(gibbs: Gibbs, coloring: Tensor) -> list[list[int]]:
    """List the sites of each color, flattened, where conditionals are differences of energies; no
    sites where the energy declares its conditionals.
    """
    if gibbs.conditional is not None:
        return [[]] * len(coloring)
    if gibbs.coloring is None:  # known without asking a GPU
        return [[site] for site in range(len(coloring))]
    marks = gibbs.coloring.flatten(1).tolist()
    return [[site for site, member in enumerate(row) if member] for row in marks]


def conditional_of(energy: Energy, gibbs: Gibbs, x: Tensor, sites: Sequence[int]) -> Tensor:
    """Return conditionals of the sites of one color, as declared or by differences of energies.

    The differences take K evaluations of every site of the color; energies that know better define
    `gibbs.conditional`. A value at which the energy is not finite has no probability. Returns
    log-odds (B, *event) if binary, log-probabilities up to a constant (B, *event, K) if
    categorical.
    """
    if gibbs.conditional is not None:
        return gibbs.conditional(x)
    classes = 2 if energy.domain.kind == "binary" else energy.domain.classes
    logits = x.new_zeros(len(x), x[0].numel(), classes)
    for site in sites:
        for k in range(classes):
            changed = x.flatten(1).clone()
            changed[:, site] = k
            value = values_of(energy, changed.view_as(x))
            logits[:, site, k] = torch.where(value.isfinite(), -value, -torch.inf)
    logits = logits.view(*x.shape, classes)
    if energy.domain.kind == "binary":
        return logits[..., 1] - logits[..., 0]
    return logits


def draw_conditional(logits: Tensor, binary: bool, generator: torch.Generator) -> Tensor:
    """Draw at every site: of log-odds (B, *event), or of log-probabilities (B, *event, K) by the
    Gumbel maximum.
    """
    if binary:
        return (uniform_like(logits, generator) < torch.sigmoid(logits)).to(logits.dtype)
    return (logits + _gumbel(logits, generator)).argmax(-1).to(logits.dtype)


def _gumbel(like: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.empty_like(like).exponential_(generator=generator)
    return -noise.log()


@register("sampler")
@dataclass(frozen=True)
class BlockGibbs(Sampler):
    """Gibbs sampling by colors: every site is drawn from its distribution given all others, sites
    that do not meet at once.

        for each color:  x_i ~ p(x_i | the rest) for all sites i of the color

    Leaves exp(−E) invariant. The energy declares its coloring and conditionals (lattices,
    Boltzmann machines do); without them sites go one by one and conditionals are differences of
    energies, K evaluations a site: right, and slow. sweeps: over all colors, per step; energies
    with a sweep of their own (bit-sliced lattices) pay for packing once a step. Cost: no gradient;
    one evaluation of the energy per step. Source: Geman & Geman (1984),
    https://doi.org/10.1109/TPAMI.1984.4767596
    """

    sweeps: int = 1
    num_grad_evals: ClassVar[int] = 0
    num_init_grad_evals: ClassVar[int] = 0
    adjusted: ClassVar[bool] = True
    domains: ClassVar[tuple[str, ...]] = DISCRETE
    state_types: ClassVar[tuple[type, ...]] = (Points, BlockState)

    def __post_init__(self) -> None:
        set_plain(self, sweeps=read_count("sweeps", self.sweeps))

    def runs_on(self, energy: Energy) -> bool:
        """Return whether sites are discrete, or the energy has block Gibbs of its own."""
        return gibbs_of(energy).sweep is not None or super().runs_on(energy)

    def init(self, energy: Energy, x: Tensor) -> Points | BlockState:
        with torch.no_grad():
            return evaluate_points(energy, x)

    def step(
        self, energy: Energy, state: Points | BlockState, generator: torch.Generator
    ) -> tuple[Points | BlockState, Info]:
        gibbs = gibbs_of(energy)
        fields = state.fields if isinstance(state, BlockState) else None
        with torch.no_grad():
            if gibbs.sweep is None:
                x = self._sweep(energy, gibbs, state.x, generator)
            else:
                x = gibbs.sweep(state.x, self.sweeps, generator, fields=fields)
            return metropolis(state, evaluate_points(energy, x), None, generator)

    def _sweep(self, energy: Energy, gibbs: Gibbs, x: Tensor, generator: torch.Generator) -> Tensor:
        if energy.domain.kind not in DISCRETE:
            raise ValueError(
                f"BlockGibbs came to a {type(energy).__name__} on a real domain that has no block "
                "Gibbs of its own at this temperature; it needs one, or discrete sites; use MALA, "
                "HMC or NUTS"
            )
        coloring = coloring_of(gibbs, x)
        colors = [*zip(coloring, list_sites(gibbs, coloring), strict=True)]
        for color, sites in colors * self.sweeps:
            logits = conditional_of(energy, gibbs, x, sites)
            x = torch.where(
                color, draw_conditional(logits, energy.domain.kind == "binary", generator), x
            )
        return x


@register("sampler")
@dataclass(frozen=True)
class GibbsWithGradients(Sampler):
    """One site at a time, chosen by what the gradient says its change would gain, then accepted or
    refused.

        propose (i, k) with probability q(i, k | x) ∝ exp(d(x)_{i,k} / 2);
        accept with probability min(1, exp(E(x) − E(x')) q(i, x_i | x') / q(i, x'_i | x))

    Leaves exp(−E) invariant. Binary energies are differentiated in x, categorical ones through
    `gibbs.one_hot_energy`. Cost: one gradient per step. Source: Grathwohl et al. (2021),
    https://arxiv.org/abs/2102.04509
    """

    num_grad_evals: ClassVar[int] = 1
    adjusted: ClassVar[bool] = True
    domains: ClassVar[tuple[str, ...]] = DISCRETE
    state_types: ClassVar[tuple[type, ...]] = (LocalState,)

    def init(self, energy: Energy, x: Tensor) -> LocalState:
        return local_state(energy, x)

    def step(
        self, energy: Energy, state: LocalState, generator: torch.Generator
    ) -> tuple[LocalState, Info]:
        flat = state.x.flatten(1)
        classes = 1 if energy.domain.kind == "binary" else energy.domain.classes
        forth = self._log_probabilities(state, flat)
        chosen = (forth + _gumbel(forth, generator)).argmax(1, keepdim=True)
        site, value = chosen // classes, (chosen % classes).to(flat.dtype)
        old = flat.gather(1, site)
        changed = flat.scatter(1, site, 1 - old if classes == 1 else value)
        new = self.init(energy, changed.view_as(state.x))
        undo = chosen if classes == 1 else site * classes + old.long()
        back = self._log_probabilities(new, changed).gather(1, undo)
        log_ratio = state.energy - new.energy + (back - forth.gather(1, chosen)).squeeze(1)
        return metropolis(state, new, log_ratio, generator)

    @staticmethod
    def _log_probabilities(state: LocalState, flat: Tensor) -> Tensor:
        """Compute log q of every change (B, changes); staying put is no change."""
        logits = state.gains / 2
        if logits.dim() == 3:
            logits = logits.scatter(2, flat.long().unsqueeze(2), -torch.inf).flatten(1)
        return logits.log_softmax(1)


@register("sampler")
@dataclass(frozen=True)
class DMALA(Sampler):
    """Discrete Langevin, accepted or refused: every site decides for itself, by the gradient and a
    cost of moving.

        q(x' | x) = Π_i softmax_k( d(x)_{i,k} / 2 − [k ≠ x_i] / (2h) )
        accept with probability min(1, exp(E(x) − E(x')) q(x | x') / q(x' | x))

    Leaves exp(−E) invariant for every step size h. A large h flips many sites at once; tune finds
    the one at which a share of 0.574 is accepted. Binary energies are differentiated in x,
    categorical ones through `gibbs.one_hot_energy`. Cost: one gradient per step. Source: Zhang, Liu
    & Liu (2022), https://arxiv.org/abs/2206.09914
    """

    step_size: float
    num_grad_evals: ClassVar[int] = 1
    adjusted: ClassVar[bool] = True
    domains: ClassVar[tuple[str, ...]] = DISCRETE
    state_types: ClassVar[tuple[type, ...]] = (LocalState,)
    target_accept: ClassVar[float] = 0.574

    def __post_init__(self) -> None:
        set_plain(self, step_size=read_positive("step_size", self.step_size))

    def init(self, energy: Energy, x: Tensor) -> LocalState:
        return local_state(energy, x)

    def step(
        self, energy: Energy, state: LocalState, generator: torch.Generator
    ) -> tuple[LocalState, Info]:
        flat = state.x.flatten(1)
        forth = self._log_probabilities(state, flat)
        binary = energy.domain.kind == "binary"
        if binary:  # the choice is between staying and flipping
            flips = uniform_like(flat, generator) < forth[..., 1].exp()
            choice, undo = flips.long(), flips.long()
            changed = torch.where(flips, 1 - flat, flat)
        else:
            choice = (forth + _gumbel(forth, generator)).argmax(2)
            changed, undo = choice.to(flat.dtype), flat.long()
        new = self.init(energy, changed.view_as(state.x))
        back = self._log_probabilities(new, changed)
        difference = back.gather(2, undo.unsqueeze(2)) - forth.gather(2, choice.unsqueeze(2))
        log_ratio = state.energy - new.energy + difference.flatten(1).sum(1)
        return metropolis(state, new, log_ratio, generator)

    def _log_probabilities(self, state: LocalState, flat: Tensor) -> Tensor:
        """Compute log q of every site's choices: (B, sites, 2) to stay or flip, or (B, sites, K)
        to take each value.
        """
        cost = 1 / (2 * per_row(self.step_size, state.gains))
        if state.gains.dim() == 2:
            logits = state.gains / 2 - cost
            return torch.stack([torch.zeros_like(logits), logits], 2).log_softmax(2)
        moved = torch.ones_like(state.gains).scatter(2, flat.long().unsqueeze(2), 0.0)
        return (state.gains / 2 - cost * moved).log_softmax(2)
