"""Checks without statistics, of a sampler on a kind of domain; each raises AssertionError.

Events are four numbers, so that a sampler with a metric of four can be tried on all kinds.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from lowland.domain import Domain, binary, box, categorical, real
from lowland.energy import Energy, Function, Gibbs, energy_values, gibbs_of, value_and_score
from lowland.samplers import Sampler, run_chains, sample
from lowland.samplers.kernel import HasStepSize, per_row
from lowland.samplers.tempering import ParallelTempering
from lowland.testing.chains import has_replicas, seeded
from lowland.testing.requirements import require

CLASSES, SITES = 3, 4


def domain_of(kind: str, *shape: int) -> Domain:
    """Return the domain of a kind on which the checks are tried."""
    makers = {"real": real, "binary": binary, "box": lambda *s: box(0.0, 1.0, *s)}
    return categorical(CLASSES, *shape) if kind == "categorical" else makers[kind](*shape)


class Ground(Energy):
    """E(x) = ½ Σ w_i u_i² + (Σ u_i)² / 10 with u = x as a vector, for every kind and shape.

    rows_paid: rows that were evaluated with a graph, for a gradient.
    """

    def __init__(self, domain: Domain) -> None:
        super().__init__(domain)
        self.rows_paid = 0

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        self.rows_paid += len(x) * torch.is_grad_enabled()
        u = x.flatten(1)
        weights = torch.linspace(0.5, 1.5, u.shape[1], dtype=x.dtype, device=x.device)
        return 0.5 * (weights * u.square()).sum(1) + 0.1 * u.sum(1).square()

    @property
    def gibbs(self) -> Gibbs | None:
        if self.domain.kind != "categorical":
            return None
        values = torch.arange(CLASSES)
        return Gibbs(one_hot_energy=lambda z, c=None: self.forward(z @ values.to(z)))


def one_hot_energy(energy: Energy) -> Callable[..., Tensor]:
    """Return the energy of one-hot floats, which the categorical ones here have."""
    found = gibbs_of(energy).one_hot_energy
    assert found is not None
    return found


def parts(state: Any) -> list[Tensor]:
    """Return all tensors of a state, at every depth."""
    if isinstance(state, Tensor):
        return [state]
    return [found for part in state for found in parts(part)] if isinstance(state, tuple) else []


def repeats(sampler: Sampler, kind: str = "real") -> None:
    """Check that a generator fixes all bits, 5 + 5 steps are 10, the global generator is unused."""
    energy = Ground(domain_of(kind, SITES))
    x = energy.domain.draw(20, seeded(4))
    before = torch.get_rng_state()
    ten = sample(energy, sampler, x, 10, generator=seeded(7), thin=1)
    again = sample(energy, sampler, x, 10, generator=seeded(7), thin=1)
    require(torch.equal(ten.draws, again.draws), "the same generator gave other bits")
    require(torch.equal(before, torch.get_rng_state()), "the global generator was used")
    g = seeded(7)
    half = sample(energy, sampler, x, 5, generator=g)
    rest = sample(energy, sampler, half.x, 5, generator=g, state=half.state)
    for a, b in zip(parts(ten.state), parts(rest.state), strict=True):
        require(torch.equal(a, b), "five steps and five more are not ten")
    torch.testing.assert_close((5 * half.acceptance + 5 * rest.acceptance) / 10, ten.acceptance)


def gradients_as_declared(sampler: Sampler, kind: str = "real") -> None:
    """Compare rows evaluated for gradients with what sampler, Info and Trace declare."""
    energy, chains = Ground(domain_of(kind, SITES)), 4
    x = energy.domain.draw(chains, seeded())
    state = sampler.init(energy, x)
    started = sampler.num_init_grad_evals * chains
    require(
        energy.rows_paid == started, f"init paid for {energy.rows_paid} rows, {started} declared"
    )
    g, declared, energy.rows_paid = seeded(), 0.0, 0
    for _ in range(4):
        state, info = sampler.step(energy, state, g)
        declared += sampler.num_grad_evals * chains + (
            0 if info.num_grad_evals is None else info.num_grad_evals.sum().item()
        )
    require(
        energy.rows_paid == declared,
        f"{energy.rows_paid} rows were paid for in 4 steps, {declared:g} declared",
    )
    for start in (None, state):
        energy.rows_paid = 0
        trace = run_chains(
            energy, sampler, x if start is None else state.x, 5, generator=seeded(), state=start
        )
        require(
            trace.num_grad_evals * chains == energy.rows_paid,
            "Trace.num_grad_evals is not what was paid",
        )


def state_is_fresh(sampler: Sampler, kind: str = "real") -> None:
    """Check that energy, score and gains in the state are those of its points."""
    energy = Ground(domain_of(kind, SITES))
    state = sampler.init(energy, energy.domain.draw(50, seeded()).double())
    g = seeded(3)
    for _ in range(5):
        state, _ = sampler.step(energy, state, g)
        _is_fresh(energy, state)
        if has_replicas(sampler):
            betas = sampler.betas(state.x).repeat_interleave(len(state.x))
            _is_fresh(energy, state.replicas, betas)
            require(
                torch.equal(state.x, state.replicas.x[: len(state.x)]),
                "the cold chains are not the coldest replicas",
            )


def _is_fresh(energy: Energy, state: Any, beta: Any = 1.0) -> None:
    close: Any = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(
        state.energy, beta * energy_values(energy, state.x), **close, msg="energies are stale"
    )
    if hasattr(state, "score"):
        score = per_row(beta, state.x) * value_and_score(energy, state.x)[1]
        torch.testing.assert_close(state.score, score, **close, msg="scores are stale")
    if hasattr(state, "gains"):
        first = first_order_gains(energy, state.x)
        torch.testing.assert_close(
            state.gains, per_row(beta, first) * first, **close, msg="gains are stale or wrong"
        )


def first_order_gains(energy: Energy, x: Tensor) -> Tensor:
    """Return the first-order change of −E for each change of a site: (B, sites[, K])."""
    if energy.domain.kind == "binary":
        return (value_and_score(energy, x)[1] * (1 - 2 * x)).flatten(1)
    z = one_hot(x.long(), energy.domain.classes).to(x.dtype)
    score = value_and_score(one_hot_energy(energy), z)[1].flatten(1, -2)
    here = score.gather(2, x.flatten(1).long().unsqueeze(2))
    return score - here


def chains_are_separate(sampler: Sampler, kind: str = "real") -> None:
    """Check that no chain depends on where the others are, and that each is accepted by itself."""
    energy = Ground(domain_of(kind, SITES))
    near = energy.domain.draw(400, seeded(1))
    far = torch.cat([near[:200], energy.domain.elsewhere(near[200:])])
    a, b = (sample(energy, sampler, x, 6, generator=seeded(2), thin=1) for x in (near, far))
    require(torch.equal(a.draws[:, :200], b.draws[:, :200]), "moving some chains moved others")
    if sampler.adjusted and isinstance(sampler, HasStepSize):
        big = sampler.replace(step_size=3 * sampler.step_size)
        wide = sample(energy, big, near, 6, generator=seeded(2)).acceptance
        require(wide.min() < wide.max(), "all chains were accepted or refused together")


HOLES: dict[str, Callable[[Tensor], Tensor]] = {  # energies that are not finite beyond x₀ = 1
    "inf": lambda x: torch.where(x[:, 0] > 1, math.inf, 0.5 * x.square().sum(1)),
    "minus inf": lambda x: torch.where(x[:, 0] > 1, -math.inf, 0.5 * x.square().sum(1)),
    "nan": lambda x: torch.where(x[:, 0] > 1, math.nan, 0.5 * x.square().sum(1)),
    "nan score": lambda x: 0.5 * x.square().sum(1) - 0.1 * torch.log(1 - x[:, 0]),
}


class Holed(Energy):
    """Discrete sites whose energy is not finite where the first one has its last value."""

    def __init__(self, domain: Domain, value: float) -> None:
        super().__init__(domain)
        self.value = value

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        return torch.where(x[:, 0] > self.domain.hi - 0.5, self.value, 0.3 * x.sum(1))

    @property
    def gibbs(self) -> Gibbs | None:
        if not self.domain.classes:
            return None
        values = torch.arange(CLASSES)
        return Gibbs(one_hot_energy=lambda z, c=None: self.forward(z @ values.to(z)))


def refuses_holes(sampler: Sampler, hole: str = "nan", kind: str = "real") -> None:
    """Check that non-finite proposals are refused and counted, and their chains stay, bit for bit.

    What a chain draws anew at every step (momentum, noise) may change. Samplers whose proposals are
    many points (NUTS, several replicas) may move and report a divergence. Gibbs never proposes what
    has no probability, so it has nothing to count.
    """
    if kind == "real":
        energy: Energy = Function(HOLES[hole], real(SITES))
        x = 0.8 + 0.1 * torch.rand(200, SITES, generator=seeded(1))
    else:
        value = {"inf": math.inf, "minus inf": -math.inf}.get(hole, math.nan)
        energy = Holed(domain_of(kind, SITES), value)
        x = torch.zeros(200, SITES)
    g, state, counts = seeded(3), sampler.init(energy, x), torch.zeros(200, dtype=torch.long)
    for _ in range(10):
        new, info = sampler.step(energy, state, g)
        single = sampler.num_replicas == 1
        one_proposal = single and info.num_grad_evals is None
        require(
            not (one_proposal and (info.accepted & info.diverged).any()),
            "a divergence was accepted",
        )
        for was, now in zip(state[:3], new[:3], strict=True) if single else ():
            require(torch.equal(was[~info.accepted], now[~info.accepted]), "a refused chain moved")
        require(
            all(part.isfinite().all() for part in parts(new)),
            "the state holds numbers that are not finite",
        )
        require(
            energy_values(energy, new.x).isfinite().all(),
            "a chain entered the region where the energy is not finite",
        )
        state, counts = new, counts + info.diverged
    require(
        counts.sum() > 0 or not sampler.num_init_grad_evals, "no proposal was counted as diverged"
    )
    trace = sample(energy, sampler, x, 10, generator=seeded(3))
    require(
        torch.equal(trace.diverged, counts) and torch.equal(trace.x, state.x),
        "`sample` counts otherwise",
    )


def any_event_shape(
    sampler: Sampler,
    kind: str,
    shape: tuple[int, ...],
    rows: int,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Check that chains of arrays equal chains of the same numbers as vectors."""
    energy, flat = Ground(domain_of(kind, *shape)), Ground(domain_of(kind, math.prod(shape)))
    x = energy.domain.draw(rows, seeded(), dtype=dtype)
    a = sample(energy, sampler, x, 3, generator=seeded(1))
    b = sample(flat, sampler, x.flatten(1), 3, generator=seeded(1))
    require(
        a.x.shape == x.shape and a.x.dtype == dtype and a.acceptance.shape == (rows,),
        "the shape or dtype has changed",
    )
    torch.testing.assert_close(a.x.flatten(1), b.x)
    torch.testing.assert_close(a.state.energy, energy_values(energy, a.x))


def stays_in_its_box(sampler: Sampler) -> None:
    """Check that no chain leaves a box whose wall a steep slope pushes it against."""
    energy = Function(lambda x: (-9 * x).flatten(1).sum(1), box(0.0, 1.0, 1, 2, 2))
    trace = sample(
        energy, sampler, energy.domain.draw(50, seeded()), 20, generator=seeded(), thin=1
    )
    require(((trace.draws >= 0) & (trace.draws <= 1)).all(), "a chain left the box")
    require(trace.draws.std() > 0, "all chains are at one point")


# ------------------------------------------------------------------------------- parallel tempering


def replicas_travel(sampler: ParallelTempering) -> None:
    """Check swaps and round trips of replicas on a flat energy, where every swap is accepted.

    After an even number of steps pairs (0, 1), (2, 3), ... change places, after an odd one (1, 2),
    (3, 4), ...
    """
    kind = "real" if "real" in (sampler.domains or ("real",)) else "binary"
    energy = Function(lambda x: (0 * x).flatten(1).sum(1), domain_of(kind, SITES))
    rungs, size = len(sampler.temperatures), 3
    state, g = sampler.init(energy, torch.zeros(size, SITES)), seeded()
    at, heading, trips, tried = list(range(rungs)), {0: "up"}, 0, [0] * (rungs - 1)
    for sweep in range(4 * rungs + 1):
        state, _ = sampler.step(energy, state, g)
        for low in range(sweep % 2, rungs - 1, 2):
            at[low], at[low + 1] = at[low + 1], at[low]
            tried[low] += size
        trips += heading.get(at[0]) == "down"
        heading[at[0]] = "up"
        if heading.get(at[-1]) == "up":
            heading[at[-1]] = "down"
    found = state.tempering
    require(
        found.tried.tolist() == tried,
        f"swaps of each pair were tried {found.tried.tolist()} times, not {tried}",
    )
    torch.testing.assert_close(
        found.accepted, found.tried, msg="swaps between equal energies were refused"
    )
    require(
        trips > 0 and found.round_trips.tolist() == [trips] * size,
        f"round trips are {found.round_trips.tolist()}, not {trips}",
    )
