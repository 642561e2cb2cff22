"""Parallel tempering: replicas at several temperatures, of which the hot ones cross barriers and
the cold ones count.

All replicas of all chains move in one batch: R temperatures and B chains are R · B rows, ordered
by temperature.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from lowland.energy import Energy, Gibbs, LabelCondition, Latent, Wrapper, gibbs_of, latent_of
from lowland.energy.capabilities import Condition, ConditionLike
from lowland.energy.composition import share_targets
from lowland.energy.gradient import call
from lowland.energy.placement import constant, wide_dtype, widen
from lowland.registry import register
from lowland.samplers.discrete import BlockState, evaluate_points
from lowland.samplers.kernel import (
    HasStepSize,
    Info,
    Sampler,
    describe_sampler,
    per_row,
    uniform_like,
)
from lowland.samplers.settings import read_path, set_plain

LINEAR = ("energy", "score", "gains")  # fields of a state proportional to the inverse temperature


class Tempered(Wrapper):
    """β E(x) with one β for each row of a batch; `size` chains at each temperature."""

    beta: Tensor

    def __init__(self, energy: Energy, betas: Tensor, size: int) -> None:
        every = torch.arange(size, device=betas.device).repeat(len(betas))
        super().__init__(energy.index_rows(every))
        self.register_rows("beta", betas.repeat_interleave(size))

    def forward(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        return self.beta * call(self.energy, x, c)

    def value_and_score(self, x: Tensor, c: ConditionLike = None) -> tuple[Tensor, Tensor]:
        value, score = call(self.energy.value_and_score, x, c)
        return self.beta * value, per_row(self.beta, x) * score

    def score(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        return per_row(self.beta, x) * call(self.energy.score, x, c)

    @property
    def gibbs(self) -> Gibbs | None:
        """Return conditionals times β; block Gibbs beta by beta, of an energy that takes any β."""
        inner = self.energy.gibbs
        if inner is None:
            return None
        return replace(
            inner,
            conditional=self._times_beta(inner.conditional),
            one_hot_energy=self._times_beta(inner.one_hot_energy),
            sweep=self._sweep if inner.sweep is not None and inner.any_beta else None,
            energy_from=self._times_beta(inner.energy_from),
        )

    def _times_beta(self, function: Callable[..., Tensor] | None) -> Callable[..., Tensor] | None:
        if function is None:
            return None

        def scale(*args: object) -> Tensor:
            value = function(*args)
            return per_row(self.beta, value) * value

        return scale

    def _sweep(
        self, x: Tensor, sweeps: int, generator: torch.Generator, beta: float = 1.0, **options: Any
    ) -> Tensor:
        moved = torch.empty_like(x)
        for own in dict.fromkeys(self.beta.tolist()):
            rows = (self.beta == own).nonzero().squeeze(1)
            sweep = gibbs_of(self.energy.index_rows(rows)).sweep
            assert sweep is not None
            moved[rows] = sweep(x[rows], sweeps, generator, beta=own * beta)
        return moved

    @property
    def latent(self) -> Latent | None:
        return latent_of(self.energy).data_only()

    @property
    def condition(self) -> Condition | None:
        found = self.energy.condition
        if not isinstance(found, LabelCondition):
            return None if found is None else share_targets([found])
        heads = found.class_energies
        return LabelCondition(found.classes, lambda x: self.beta.unsqueeze(1) * heads(x))


def at_temperatures(energy: Energy, betas: Tensor, size: int) -> Energy:
    """Return the energy of R · size rows at R inverse temperatures: the energy's own (Boltzmann
    machines), or β E.
    """
    if energy.paths is None:
        return Tempered(energy, betas, size)
    return energy.paths.at_temperatures(betas, size)


class Tempering(NamedTuple):
    """Account of swaps and of the way of the replicas: swaps accepted and tried (R − 1,), as sums
    of probabilities and counts over chains; round trips from the coldest to the hottest and back
    (B,); direction (R, B) of the replica at each temperature: +1 to the hot end, −1 back, 0 not yet
    at an end.
    """

    accepted: Tensor
    tried: Tensor
    round_trips: Tensor
    direction: Tensor

    @property
    def swap_rates(self) -> Tensor:
        """Return the mean probability of a swap, pair by pair (R − 1,)."""
        return self.accepted / self.tried.clamp(min=1)


class TemperedState(NamedTuple):
    """State of parallel tempering: cold chains x and energy (B rows), all replicas (R · B rows,
    under β E), steps so far, how replicas have travelled, and the report of their last local step
    (R · B rows).
    """

    x: Tensor
    energy: Tensor
    replicas: Any
    sweeps: int
    tempering: Tempering
    local: Info | None = None


@register("sampler")
@dataclass(frozen=True)
class ParallelTempering(Sampler):
    """Replica exchange: a sampler at every temperature, and swaps of neighbours that leave all
    distributions as they are.

        every replica moves under E / T_r;   then x_r ↔ x_{r+1} with probability min(1, e^{Δβ ΔE}),
        for even r after even steps and odd r after odd ones,      β = 1 / T

    (An energy with a path of its own, `paths`, as Boltzmann machines have, moves under those, and
    swaps by their energies.) Even and odd pairs alternate, so that replicas travel instead of
    diffusing. Leaves exp(−E) invariant for the chains of the sample (T = 1), if `sampler` leaves
    its distribution invariant; all replicas are evaluated in one batch. temperatures: ascending
    from 1; step_sizes: one per temperature, the sampler's own unless given. `tune` sets both so
    that all pairs swap equally often. The state reports swaps and round trips. Cost: R times that
    of the sampler. Source: Swendsen & Wang (1986), https://doi.org/10.1103/PhysRevLett.57.2607;
    even and odd pairs, equal rates: Syed et al. (2022), https://arxiv.org/abs/1905.02939

    >>> import torch, lowland
    >>> far = lowland.targets.GaussianMixture(means=((-6.0, 0.0), (6.0, 0.0)))
    >>> g = torch.Generator().manual_seed(0)
    >>> start = torch.tensor([[-6.0, 0.0]]).repeat(50, 1)
    >>> steps = (0.1, 0.3, 0.9, 2.7, 8.1)
    >>> sampler = ParallelTempering(lowland.MALA(0.1), (1.0, 3.0, 9.0, 27.0, 81.0), steps)
    >>> trace = lowland.sample(far, sampler, start, 600, generator=g)
    >>> trips = trace.state.tempering.round_trips.sum()
    >>> bool((trace.x[:, 0] > 0).float().mean() > 0.2), bool(trips > 50)
    (True, True)
    """

    sampler: Sampler
    temperatures: tuple[float, ...]
    step_sizes: tuple[float, ...] | None = None
    state_types: ClassVar[tuple[type, ...]] = (TemperedState,)

    def __post_init__(self) -> None:
        if not isinstance(self.sampler, Sampler) or isinstance(self.sampler, ParallelTempering):
            raise ValueError(
                f"parallel tempering came with {describe_sampler(self.sampler)}; it needs a "
                "sampler of single chains; pass for example MALA(0.1)"
            )
        ladder = read_path("temperatures", self.temperatures)
        steps = None if self.step_sizes is None else read_path("step_sizes", self.step_sizes)
        set_plain(self, temperatures=ladder, step_sizes=steps)
        if len(ladder) < 2 or ladder[0] != 1 or sorted(set(ladder)) != list(ladder):
            raise ValueError(
                f"temperatures are {ladder}; they must ascend from 1 and be at least two; for "
                "example (1.0, 2.0, 4.0)"
            )
        if self.step_sizes is not None and (
            len(self.step_sizes) != len(ladder) or not isinstance(self.sampler, HasStepSize)
        ):
            raise ValueError(
                f"{len(self.step_sizes)} step sizes came with {len(ladder)} temperatures and "
                f"{type(self.sampler).__name__}; there must be one each, and a sampler that has a "
                "step; correct them or leave them out"
            )

    @property
    def num_grad_evals(self) -> int:
        return self.sampler.num_grad_evals * self.num_replicas

    @property
    def num_replicas(self) -> int:  # type: ignore[override]
        return len(self.temperatures)

    @property
    def num_init_grad_evals(self) -> int:  # type: ignore[override]
        return self.sampler.num_init_grad_evals

    @property
    def adjusted(self) -> bool:  # type: ignore[override]
        return self.sampler.adjusted

    @property
    def domains(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.sampler.domains

    @property
    def target_accept(self) -> float | None:  # type: ignore[override]
        return self.sampler.target_accept

    def runs_on(self, energy: Energy) -> bool:
        return self.sampler.runs_on(energy)

    def betas(self, like: Tensor) -> Tensor:
        """Return inverse temperatures (R,)."""
        return 1 / constant(self.temperatures, like.dtype, like.device)

    def init(self, energy: Energy, x: Tensor) -> TemperedState:
        size = len(x)
        if energy.paths is not None:
            return self.from_replicas(
                energy, x.repeat(len(self.temperatures), *[1] * (x.dim() - 1))
            )
        cold, betas = self.sampler.init(energy, x), self.betas(x)
        copies = {
            k: v.repeat(len(betas), *[1] * (v.dim() - 1))
            for k, v in cold._asdict().items()
            if v is not None
        }
        replicas = rescale(cold._replace(**copies), betas.repeat_interleave(size))
        return TemperedState(x, cold.energy, replicas, 0, self._departure(x))

    def from_replicas(self, energy: Energy, x: Tensor) -> TemperedState:
        """Return a state whose replicas are x (R · B, *event), from the coldest on: chains that go
        on where they were.
        """
        size, betas = len(x) // len(self.temperatures), self.betas(x)
        replicas = self.sampler.init(at_temperatures(energy, betas, size), x)
        return TemperedState(
            replicas.x[:size], replicas.energy[:size], replicas, 0, self._departure(x[:size])
        )

    def _departure(self, x: Tensor) -> Tempering:
        size = len(x)
        pairs = x.new_zeros(self.num_replicas - 1, dtype=wide_dtype(x.device))
        trips = x.new_zeros(size, dtype=torch.long)
        direction = x.new_zeros(self.num_replicas, size, dtype=torch.long)
        direction[0] = 1
        return Tempering(pairs, pairs.clone(), trips, direction)

    def step(
        self, energy: Energy, state: TemperedState, generator: torch.Generator
    ) -> tuple[TemperedState, Info]:
        replicas, info = self.local_step(energy, state, generator)
        size, evals = len(state.x), info.num_grad_evals
        state = self.swap(state._replace(replicas=replicas, local=info), generator, energy)
        return state, Info(
            info.accepted[:size],
            info.diverged.view(-1, size).any(0),
            info.acceptance_prob[:size],
            None if evals is None else evals.view(-1, size).sum(0),
        )

    def local_step(
        self, energy: Energy, state: TemperedState, generator: torch.Generator
    ) -> tuple[Any, Info]:
        """Move all replicas; returns their state and what happened, R · B rows."""
        size, sampler = len(state.x), self.sampler
        if self.step_sizes is not None:
            steps = constant(self.step_sizes, state.x.dtype, state.x.device).repeat_interleave(size)
            sampler = sampler.replace(step_size=steps)
        return sampler.step(
            at_temperatures(energy, self.betas(state.x), size), state.replicas, generator
        )

    def swap(
        self, state: TemperedState, generator: torch.Generator, energy: Energy | None = None
    ) -> TemperedState:
        """Exchange neighbours: even pairs after an even number of steps, odd pairs after an odd
        one.

        energy: needed where it has a path of its own; otherwise what the state knows is enough.
        """
        size, betas, old = len(state.x), self.betas(state.x), state.replicas
        each = torch.arange(len(betas), device=betas.device)
        active = (each[:-1] % 2 == state.sweeps % 2).unsqueeze(1)
        crossed = None
        if energy is None or energy.paths is None:
            energies = old.energy.view(-1, size) / betas.unsqueeze(1)
            ratio = (betas[:-1] - betas[1:]).unsqueeze(1) * (energies[:-1] - energies[1:])
        else:
            partner = each.clone()
            partner[:-1] += active.squeeze(1).long()
            partner[1:] -= active.squeeze(1).long()
            with torch.no_grad():
                other = at_temperatures(energy, betas[partner], size)
                fields = old.fields if isinstance(old, BlockState) else None
                crossed = evaluate_points(other, old.x, fields).energy
            change = (old.energy - crossed).view(-1, size)
            ratio = change[:-1] + change[1:]
        chance = ratio.clamp(max=0.0).exp()
        accept = (uniform_like(ratio, generator) < chance) & active
        source = each.unsqueeze(1).repeat(1, size)
        source[:-1] += accept.long()
        source[1:] -= accept.long()
        rows = (source * size + torch.arange(size, device=betas.device)).flatten()
        moved = type(old)(*(None if part is None else part[rows] for part in old))
        if crossed is None:
            replicas = rescale(moved, (betas.unsqueeze(1) / betas[source]).flatten())
        else:
            stayed = source == each.unsqueeze(1)
            replicas = moved._replace(
                energy=torch.where(stayed.flatten(), old.energy, crossed[rows])
            )
        way = _count_trips(
            state.tempering,
            source,
            widen(chance * active).sum(1),
            widen(active.squeeze(1)) * size,
        )
        cold = replicas.energy[:size] / betas[0]
        return TemperedState(replicas.x[:size], cold, replicas, state.sweeps + 1, way, state.local)


def rescale(state: Any, factor: Tensor) -> Any:
    """Multiply the fields of a state that are proportional to β by a factor per row."""
    parts = state._asdict()
    return state._replace(
        **{name: parts[name] * per_row(factor, parts[name]) for name in LINEAR if name in parts}
    )


def _count_trips(way: Tempering, source: Tensor, accepted: Tensor, tried: Tensor) -> Tempering:
    """Return the account after a swap: replicas carry their direction along; one that comes home
    from the hot end has made a trip.
    """
    direction = way.direction.gather(0, source)
    home = direction[0] == -1
    direction[0] = 1
    direction[-1] = torch.where(direction[-1] == 1, -1, direction[-1])
    return Tempering(
        way.accepted + accepted, way.tried + tried, way.round_trips + home.long(), direction
    )
