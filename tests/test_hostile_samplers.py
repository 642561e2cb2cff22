"""Inputs at which samplers are easily wrong or raise raw errors: each is answered rightly, or
refused in three clauses.
"""

import math
import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

import lowland
from lowland.domain import binary, box
from lowland.energy import Function
from lowland.metrics import autocorrelation, ess, rhat
from lowland.replay import ReplayBuffer
from lowland.samplers import (
    DMALA,
    GHMC,
    HMC,
    MALA,
    NUTS,
    BlockGibbs,
    Draws,
    Energies,
    Frames,
    GibbsWithGradients,
    Langevin,
    LeimkuhlerMatthews,
    Moments,
    ParallelTempering,
    Sampler,
    ShortRun,
    Underdamped,
    ais,
    anneal,
    geometric_path,
    sample,
    simulated_annealing,
    tune,
)
from lowland.samplers.verdict import NothingMoved
from lowland.seeds import make_generator
from lowland.targets import Gaussian
from lowland.testing import prove

LADDER = ParallelTempering(MALA(0.3), (1.0, 2.0))
ADJUSTED = [MALA(0.3), HMC(0.3, 3), NUTS(0.3, 4), GHMC(0.3), LADDER]
CONTINUOUS = [
    *ADJUSTED,
    Langevin(0.1),
    LeimkuhlerMatthews(0.1),
    Underdamped(0.1),
    ShortRun(0.1, 0.1),
]
SPINS = [DMALA(1.0), GibbsWithGradients(), BlockGibbs()]


def name(value: object) -> str:
    return type(value).__name__


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bowl(x: Tensor) -> Tensor:
    return 0.5 * x.square().sum(1)


def refuse(words: str | None, act: Callable[[], object]) -> None:
    """Check that an act raises ValueError in three clauses, with these words in it."""
    with pytest.raises(ValueError, match=words) as error:
        act()
    assert str(error.value).count(";") >= 2, error.value


# ---- warm-ups that leave chains behind


def ring(x: Tensor) -> Tensor:
    return 8 * (x.norm(dim=1) - 2).square() + (x[:, 0] - 2).square()


def share_above(energy: Callable[[Tensor], Tensor], level: float) -> float:
    """Return the exact mass of a density of the plane where the energy is above a level."""
    axis = torch.linspace(-6, 6, 1201, dtype=torch.float64)
    value = energy(torch.cartesian_prod(axis, axis))
    weight = torch.exp(-value)
    return (weight[value > level].sum() / weight.sum()).item()


@pytest.mark.parametrize("sampler", [MALA(0.1), HMC(0.1, 5), GHMC(0.1)], ids=name)
def test_a_tuned_sampler_traps_no_chain_at_the_centre_of_a_ring(sampler: Sampler) -> None:
    g = seeded(1)
    tuned = tune(ring, sampler, torch.randn(300, 2, generator=g), 200, generator=g)
    trace = sample(ring, tuned, torch.randn(1000, 2, generator=g), 250, generator=g)
    for level in (2.0, 4.0):
        exact, found = share_above(ring, level), (ring(trace.x) > level).double().mean().item()
        assert abs(found - exact) < 5 * math.sqrt(exact * (1 - exact) / 1000), (level, found)
    assert (trace.acceptance > 0.01).all()


def test_a_step_that_would_trap_chains_far_out_is_shortened_in_words() -> None:
    start = 4 * torch.randn(60, 2, generator=seeded())
    quartic = Function(lambda x: x.pow(4).sum(1))
    with pytest.warns(UserWarning, match="start at x"):
        tuned = tune(quartic, MALA(0.1), start, 100, generator=seeded())
    trace = sample(quartic, tuned, start, 150, generator=seeded(1))
    assert (trace.acceptance > 0.01).all()


def test_the_readme_programs_numbers_are_those_of_its_density() -> None:
    g = seeded()
    circle = Function(lambda x: 8 * (x.norm(dim=1) - 2).square())
    both = circle + Function(lambda x: 2 * (x[:, 0] - 2).square())
    draws = sample(both, MALA(0.05), torch.randn(4000, 2, generator=g), 300, generator=g).x
    axis = torch.linspace(-4, 6, 1001, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    weight = torch.softmax(-both(grid), 0)
    mean = (weight * grid[:, 0]).sum()
    sd = (weight * (grid[:, 0] - mean).square()).sum().sqrt()
    assert abs(mean - 1.785) < 0.001
    assert abs(sd - 0.331) < 0.001
    assert abs(draws[:, 0].mean() - mean) < 5 * sd / math.sqrt(4000)
    p_values = [share_above(both, both(torch.tensor([[2.0, y]])).item()) for y in (0.0, -2.0)]
    assert [p < 0.05 for p in p_values] == [False, True]
    detector = lowland.Detector(both).fit(draws)
    assert detector.predict(torch.tensor([[2.0, 0.0], [2.0, -2.0]]), alpha=0.05).tolist() == [
        False,
        True,
    ]


# ---- laws without a normaliser


def rises_on_one_side(x: Tensor) -> Tensor:
    return torch.logaddexp(torch.zeros(()), -x).sum(1)


@pytest.mark.parametrize(
    "sampler", [MALA(0.1), HMC(0.5, 3), GHMC(0.1), LADDER, "auto"], ids=lambda s: str(s)[:8]
)
def test_a_step_that_grows_without_bound_is_refused(sampler: Sampler) -> None:
    start = torch.zeros(20, 1)
    refuse("normaliser", lambda: tune(rises_on_one_side, sampler, start, generator=seeded()))


def test_wide_heavy_and_bounded_laws_are_tuned() -> None:
    wide = tune(lambda x: bowl(x / 1e4), MALA(0.1), torch.zeros(20, 1), generator=seeded())
    assert 1e7 < wide.step_size < 1e9
    cauchy = tune(
        lambda x: x.square().log1p().sum(1), MALA(0.1), torch.zeros(20, 1), generator=seeded()
    )
    assert 0.1 < cauchy.step_size < 30
    flat = Function(lambda x: 0 * x.sum(1), box(0, 1, 2))
    inside = tune(flat, MALA(0.1), torch.rand(20, 2, generator=seeded()), 60, generator=seeded())
    assert inside.step_size <= 0.5001
    line = Function(lambda x: 0.01 * x.sum(1), binary(6))
    spins = tune(line, DMALA(1.0), line.domain.draw(30, seeded()), 60, generator=seeded())
    assert spins.step_size <= 1.001e4


# ---- energies that floating point cannot tell apart


@pytest.mark.parametrize("sampler", ADJUSTED, ids=name)
def test_an_offset_that_hides_differences_is_refused(sampler: Sampler) -> None:
    for hidden in (lambda x: 1e8 + bowl(x), lambda x: (1e8 + bowl(x)) - 1e8):
        for start in (torch.randn(50, 2, generator=seeded()), torch.zeros(3, 2)):
            refuse("offset", partial(sample, hidden, sampler, start, 5, generator=seeded()))
    refuse(
        "offset",
        lambda: tune(lambda x: 1e8 + bowl(x), sampler, torch.zeros(9, 2), generator=seeded()),
    )


def test_every_path_refuses_what_cannot_be_told_apart_and_float64_can() -> None:
    hidden, start = Function(lambda x: 1e8 + bowl(x)), torch.randn(400, 2, generator=seeded())
    path = geometric_path(Gaussian(), hidden, (0.0, 0.5, 1.0))
    refuse("offset", lambda: ais(path, MALA(0.3), start, generator=seeded()))
    refuse(
        "offset", lambda: anneal([hidden / 2.0, hidden], MALA(0.3), start, 4, generator=seeded())
    )
    refuse("offset", lambda: simulated_annealing(hidden, MALA(0.3), start, 4, generator=seeded()))
    spins = Function(lambda x: 1e8 + x.sum(1), binary(6))
    for sampler in SPINS:
        points = spins.domain.draw(9, seeded())
        refuse("offset", partial(sample, spins, sampler, points, 4, generator=seeded()))
    assert sample(hidden, Langevin(0.1), start, 4, generator=seeded()).x.isfinite().all()
    exact = sample(hidden, MALA(0.5), start.double(), 60, generator=seeded()).x
    assert ((exact.var(0) - 1).abs() < 5 * math.sqrt(2 / 400)).all()
    for stiff in (torch.zeros(1, 2), torch.randn(50, 2, generator=seeded())):
        sample(lambda x: 1e8 * bowl(x), MALA(1e-9), stiff, 4, generator=seeded())


# ---- runs in which nothing moved


@pytest.mark.parametrize("sampler", CONTINUOUS, ids=name)
def test_a_run_in_which_nothing_moved_says_so_once(sampler: Sampler) -> None:
    huge = {"step_size": 1e30} if sampler is not LADDER else {"step_sizes": (1e30, 1e30)}
    with pytest.warns(NothingMoved) as heard:
        trace = sample(bowl, sampler.replace(**huge), torch.ones(4, 2), 5, generator=seeded())
    assert len(heard) == 1
    assert trace.x.isfinite().all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample(bowl, sampler, torch.ones(4, 2), 60, generator=seeded())


def test_single_chains_at_rest_and_lost_moves_are_counted() -> None:
    start = torch.cat([torch.ones(3, 2), torch.full((1, 2), 50.0)])
    with pytest.warns(UserWarning, match="1 of 4 chains did not move"):
        sample(lambda x: x.pow(4).sum(1), MALA(0.1), start, 60, generator=seeded())
    with pytest.warns(UserWarning, match="met non-finite numbers"):
        sample(lambda x: x.pow(4).sum(1), Langevin(0.1), start, 60, generator=seeded())


# ---- what the caller passes stays as it is


@pytest.mark.parametrize("sampler", CONTINUOUS, ids=name)
def test_points_with_graphs_and_shared_memory_are_left_alone(sampler: Sampler) -> None:
    leaf = torch.zeros(6, 2, requires_grad=True)
    with torch.inference_mode():
        inference = torch.zeros(6, 2)
    shared = np.zeros((6, 2), np.float32)
    points = (leaf, leaf * 1, torch.zeros(1, 2).expand(6, 2), torch.zeros(2, 6).T, inference)
    for x in (*points, torch.from_numpy(shared)):
        trace = sample(bowl, sampler, x, 2, generator=seeded(), thin=1)
        kept = (trace.x, trace.draws, trace.acceptance, trace.state.energy)
        assert not any(part.requires_grad for part in kept)
        assert bool((x == 0).all())
        assert not torch.equal(trace.x, x)
    assert leaf.grad is None


@pytest.mark.parametrize("sampler", [*CONTINUOUS, *SPINS], ids=name)
def test_sampling_leaves_torchs_own_generator_alone(sampler: Sampler) -> None:
    energy = Function(bowl, binary(3)) if sampler in SPINS else Function(bowl)
    before = torch.get_rng_state()
    sample(energy, sampler, torch.ones(4, 3), 3, generator=seeded())
    assert torch.equal(torch.get_rng_state(), before)


# ---- states of others


def test_states_of_other_energies_samplers_and_temperatures_are_refused() -> None:
    x, weight = torch.ones(5, 2), torch.nn.Parameter(torch.ones(2))
    energy = Function(lambda x: bowl(weight * x))
    trace = sample(energy, MALA(0.1), x, 5, generator=seeded())

    def go_on(energy: object, sampler: Sampler, of: lowland.samplers.Trace = trace) -> object:
        return sample(energy, sampler, of.x, 3, generator=seeded(), state=of.state)  # type: ignore

    refuse("another energy", lambda: go_on(lambda x: 3 * bowl(x), MALA(0.1)))
    refuse("goes on from", lambda: go_on(energy, LADDER))
    refuse("goes on from", lambda: go_on(energy, GHMC(0.1)))
    go_on(energy, HMC(0.1, 2))
    tempered = sample(energy, LADDER, x, 5, generator=seeded())
    go_on(energy, LADDER, tempered)
    refuse("temperatures", lambda: go_on(energy, LADDER.replace(temperatures=(1, 3)), tempered))
    refuse("replicas", lambda: go_on(energy, LADDER.replace(temperatures=(1, 2, 4)), tempered))
    refuse("goes on from", lambda: go_on(energy, MALA(0.1), tempered))
    with torch.no_grad():
        weight.mul_(1.5)
    refuse("weights have changed", lambda: go_on(energy, MALA(0.1)))
    refuse("other temperatures", lambda: go_on(energy, LADDER, tempered))


@pytest.mark.parametrize("sampler", CONTINUOUS, ids=name)
def test_five_steps_then_five_equal_ten(sampler: Sampler) -> None:
    g, h, x = seeded(), seeded(), torch.ones(4, 2)
    first = sample(bowl, sampler, x, 5, generator=g)
    second = sample(bowl, sampler, first.x, 5, generator=g, state=first.state)
    assert torch.equal(second.x, sample(bowl, sampler, x, 10, generator=h).x)


# ---- errors inside an energy


def fails_outside(x: Tensor) -> Tensor:
    """Evaluate a normal energy by a factor that exists where |x_0| < 1 alone."""
    off = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    torch.linalg.cholesky(torch.eye(2) + x[:, :1, None] * off)
    return bowl(x)


@pytest.mark.parametrize("sampler", [MALA(0.1), HMC(0.3, 2), NUTS(0.3, 3), LADDER], ids=name)
def test_a_point_at_which_the_energy_fails_is_refused_and_counted(sampler: Sampler) -> None:
    with pytest.warns(UserWarning, match="LinAlgError"):
        trace = sample(fails_outside, sampler, torch.zeros(20, 2), 60, generator=seeded(), thin=4)
    assert trace.diverged.sum() > 0
    draws = trace.draws[5:]
    assert (draws[..., 0].abs() < 1).all()
    # of a normal number inside (−1, 1); 20 chains are as good as a hundred draws at least
    assert abs(draws[..., 0].square().mean() - 0.2911) < 5 * 0.25 / math.sqrt(100)
    assert abs(draws[..., 1].square().mean() - 1) < 5 * math.sqrt(2 / 100)


def test_errors_at_the_start_and_of_the_program_go_through() -> None:
    with pytest.raises(torch.linalg.LinAlgError):
        sample(fails_outside, MALA(0.1), torch.full((3, 2), 2.0), 5, generator=seeded())

    def slips(x: Tensor) -> Tensor:
        if bool((x.abs() > 0.5).any()):
            raise TypeError("a slip of the program")
        return bowl(x)

    with pytest.raises(TypeError, match="a slip"):
        sample(slips, MALA(0.3), torch.zeros(3, 2), 50, generator=seeded())


# ---- settings and arguments


@pytest.mark.parametrize(
    "act",
    [
        lambda: MALA("a"),
        lambda: MALA(True),
        lambda: MALA(1e300),
        lambda: MALA(1e-300),
        lambda: MALA(math.nan),
        lambda: MALA(np.array([0.1, 0.2])),
        lambda: MALA(0.1, inv_mass_sqrt="ab"),
        lambda: MALA(0.1, inv_mass_sqrt=(1.0, -1.0)),
        lambda: HMC(0.1, 2.5),
        lambda: HMC(0.1, True),
        lambda: HMC(0.1, 3, jitter="a"),
        lambda: NUTS(0.1, 21),
        lambda: Langevin(0.1, "hot"),
        lambda: ShortRun(1.0, 0.1, clamp=(1.0, 0.0)),
        lambda: Underdamped(0.1, friction=0.0),
        lambda: BlockGibbs(2.5),
        lambda: ParallelTempering(MALA, (1.0, 2.0)),
        lambda: ParallelTempering(LADDER, (1.0, 2.0)),
        lambda: ParallelTempering(MALA(0.1), 2.0),
        lambda: ParallelTempering(MALA(0.1), "12"),
        lambda: Draws("all"),
        lambda: Frames(1),
        lambda: make_generator("a"),
        lambda: prove(MALA),
        lambda: prove("MALA"),
        lambda: prove(lambda energy, x, steps, generator: x),
        lambda: prove(MALA(0.1), count=2.5),
        lambda: prove(MALA(0.1), steps=True),
        lambda: make_generator(2.5),
        lambda: ReplayBuffer(2.5, lowland.real(2), generator=seeded()),
        lambda: ReplayBuffer(10**15, lowland.real(2), generator=seeded()),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(act: Callable[[], object]) -> None:
    refuse(None, act)


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        ("instance", {"sampler": MALA}),
        ("auto", {"sampler": "auto"}),
        ("thin", {"thin": "all"}),
        ("steps", {"steps": 10**30}),
        ("steps", {"steps": 2.0}),
        ("steps", {"steps": True}),
        ("unsqueeze", {"x": torch.zeros(4)}),
        ("B > 0", {"x": torch.zeros(0, 2)}),
        ("bytes", {"steps": 10**10, "thin": 1}),
        ("bytes", {"steps": 10**10, "recorders": Energies(), "x": torch.zeros(100_000, 1)}),
        ("recorders", {"recorders": "draws"}),
        ("recorders", {"recorders": Energies}),
        ("name", {"recorders": [Draws(), Draws(2)]}),
        ("tensor", {"sampler": MALA(torch.full((3,), 0.1))}),  # type: ignore[arg-type]
        ("real numbers", {"energy": lambda x: bowl(x) + 0j}),
        ("state", {"state": "a"}),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(words: str, settings: dict) -> None:
    given = {"energy": bowl, "sampler": MALA(0.1), "x": torch.zeros(4, 2), "steps": 3, **settings}
    positional = [given.pop(key) for key in ("energy", "sampler", "x", "steps")]
    refuse(words, lambda: sample(*positional, generator=seeded(), **given))


@pytest.mark.parametrize("sampler", CONTINUOUS, ids=name)
def test_events_without_a_dimension_are_refused_by_every_sampler(sampler: Sampler) -> None:
    refuse(
        "unsqueeze",
        lambda: sample(lambda x: 0.5 * x**2, sampler, torch.zeros(4), 3, generator=seeded()),
    )


def test_numbers_of_numpy_and_tensors_mean_what_pythons_mean() -> None:
    three, tenth = np.int64(3), np.float32(0.1)
    samplers = [
        MALA(tenth, inv_mass_sqrt=torch.ones(2)),
        HMC(tenth, three, jitter=np.float64(0.1)),
        NUTS(tenth, three),
        GHMC(tenth, tenth, three),
        Langevin(torch.tensor(0.1), np.float64(1)),
        Underdamped(tenth, tenth),
        ShortRun(1, 0, clip=np.float32(1), clamp=[0, 1]),
        ParallelTempering(MALA(tenth), [1, 2], np.array([0.1, 0.2])),
    ]
    for sampler in samplers:
        assert all(type(v) is not np.float32 for v in vars(sampler).values())
        trace = sample(bowl, sampler, torch.ones(4, 2), three, generator=seeded(), thin=np.int32(1))
        assert trace.draws.shape == (3, 4, 2)
        assert type(trace.steps) is int
    recorders = [Moments(np.int64(1)), Frames(np.arange(1, 3))]
    sample(bowl, MALA(0.1), torch.ones(4, 2), 3, generator=seeded(), recorders=recorders)
    draws = torch.randn(50, 4, generator=seeded())
    assert len(autocorrelation(draws, three, layout="draws chains ...")) == 4
    assert ess(draws, np.float32(0.5), layout="draws chains ...") > 0
    seeds = [0, -1, 2**63, 2**64, 2**64 + 1, -(2**64), 10**40]
    assert len({make_generator(seed).initial_seed() for seed in seeds}) == len(seeds)
    assert make_generator(np.int64(7)).initial_seed() == make_generator(7).initial_seed()


def test_diagnostics_of_chains_that_are_constant_whole_or_far_from_zero() -> None:
    layout = "draws chains ..."
    draws = torch.randn(400, 4, generator=seeded(), dtype=torch.float64)
    near, far = (rhat(x, layout=layout) for x in (draws, draws + 1e6))
    assert abs(near - far) < 1e-6
    assert (
        abs(ess(draws + 1e6, "mean", layout=layout) / ess(draws, "mean", layout=layout) - 1) < 1e-3
    )
    assert rhat(torch.ones(400, 4), layout=layout).isnan()
    assert rhat((draws > 0), layout=layout) < 1.05
    assert rhat((10 * draws).long(), layout=layout) < 1.05
    assert rhat(draws[:, :1], layout=layout) < 1.05
    refuse("not finite", lambda: rhat(draws.masked_fill(draws > 2, math.nan), layout=layout))
    refuse("lags", lambda: autocorrelation(draws, 400, layout=layout))
    refuse("lags", lambda: autocorrelation(draws, True, layout=layout))
