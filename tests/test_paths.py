"""Paths: searches against brute force, pyramids against exact laws."""

import itertools
import math
from typing import Any

import pytest
import torch
from contract.cases import seeded
from contract.checks import LIMIT, z_scores
from torch import Tensor

from lowland import (
    DMALA,
    HMC,
    MALA,
    NUTS,
    BlockGibbs,
    Energy,
    Function,
    Langevin,
    binary,
    box,
    real,
    sample,
)
from lowland.domain import Domain
from lowland.energy import Gibbs
from lowland.samplers import (
    GHMC,
    GibbsWithGradients,
    geometric_schedule,
    multiscale_sample,
    scale_step_sizes,
    simulated_annealing,
)
from lowland.targets import GaussianMixture, MaxCut

DOUBLE = torch.float64


class Pairs(Energy):
    """E(x) = ½ Σ_ij w_ij u(x_i) u(x_j) + Σ_i b_i u(x_i): u = 2x − 1 on binary sites, a table of
    spins on categorical ones.
    """

    weights: Tensor

    def __init__(self, domain: Domain, weights: Tensor, bias: Tensor) -> None:
        super().__init__(domain)
        self.weights, self.bias = weights, bias
        self.spins = torch.linspace(
            -1, 1, 2 if domain.kind == "binary" else domain.classes, dtype=weights.dtype
        )

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        if self.domain.kind == "binary":
            return self._of(2 * x - 1)
        return self._of(self.spins[x.long()])

    @property
    def gibbs(self) -> Gibbs:
        return Gibbs(one_hot_energy=self._relax)

    def _relax(self, z: Tensor, c: Any = None) -> Tensor:
        return self._of(z @ self.spins)

    def _of(self, u: Tensor) -> Tensor:
        return 0.5 * ((u @ self.weights) * u).sum(1) + u @ self.bias


def glass(domain: Domain, seed: int = 0, strength: float = 1.0) -> Pairs:
    """Random couplings and fields."""
    n = domain.shape[0]
    w = strength * torch.randn(n, n, generator=seeded(seed), dtype=DOUBLE).triu(1)
    return Pairs(domain, w + w.T, 0.5 * torch.randn(n, generator=seeded(seed + 1), dtype=DOUBLE))


def states(domain: Domain) -> Tensor:
    """Every event of a small discrete domain."""
    values = range(2 if domain.kind == "binary" else domain.classes)
    return torch.tensor(list(itertools.product(values, repeat=domain.shape[0])), dtype=DOUBLE)


# ------------------------------------------------------------------------------------------- search


def graph(nodes: int, seed: int) -> MaxCut:
    """Every pair of nodes, with weights 0 to 3."""
    w = torch.randint(0, 4, (nodes, nodes), generator=seeded(seed))
    return MaxCut(tuple((i, j, float(w[i, j])) for i in range(nodes) for j in range(i + 1, nodes)))


SEARCHERS = [BlockGibbs(), GibbsWithGradients(), DMALA(0.3)]


@pytest.mark.parametrize("sampler", SEARCHERS, ids=str)
@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))]
)
def test_search_finds_the_largest_cut(sampler: Any, seed: int) -> None:
    cut = graph(12, seed)
    truth = cut(states(cut.domain)).min().item()
    found = simulated_annealing(
        cut, sampler, cut.domain.draw(8, seeded(seed), dtype=DOUBLE), 400, generator=seeded(seed)
    )
    assert (
        found.energy == truth and cut(found.x.unsqueeze(0)).item() == truth and found.agreeing >= 4
    )
    assert torch.equal(cut(found.points), found.energies)


def test_a_graph_is_coloured_and_what_is_no_graph_is_refused() -> None:
    cut = MaxCut(((0, 1), (1, 2), (2, 3), (3, 0), (0, 2)))
    assert len(cut.gibbs.coloring) == 3 and torch.equal(
        cut.gibbs.coloring.sum(0), torch.ones(4).long()
    )
    assert all((cut.weights[colour][:, colour] == 0).all() for colour in cut.gibbs.coloring)
    for edges in ((), ((0, 0),), ((0, 1), (1, 0)), ((-1, 2),), ((0, 1, math.nan),)):
        with pytest.raises(ValueError, match=r";.*;"):
            MaxCut(edges)


def test_the_conditionals_of_the_cut_are_those_of_its_energy() -> None:
    cut = graph(6, 3)
    x = states(cut.domain)
    for i in range(6):
        on, off = x.clone(), x.clone()
        on[:, i], off[:, i] = 1, 0
        torch.testing.assert_close(cut.conditional(x)[:, i], cut(off) - cut(on))


def torus(side: int) -> Tensor:
    """The adjacency of a square lattice without borders."""
    w = torch.zeros(side, side, side, side, dtype=DOUBLE)
    for i, j in itertools.product(range(side), repeat=2):
        w[i, j, (i + 1) % side, j] = w[i, j, i, (j + 1) % side] = 1
    w = w.view(side**2, side**2)
    return w + w.T


@pytest.mark.parametrize(
    "sampler",
    [
        pytest.param(s, marks=[] if isinstance(s, GibbsWithGradients) else [pytest.mark.slow])
        for s in SEARCHERS
    ],
    ids=str,
)
def test_search_finds_the_ground_states_of_magnets(sampler: Any) -> None:
    magnet = Pairs(binary(25), -torus(5), torch.zeros(25, dtype=DOUBLE))
    steps = 200 if isinstance(sampler, BlockGibbs) else 1500  # whole sweeps, or single moves
    found = simulated_annealing(
        magnet, sampler, magnet.domain.draw(16, seeded(), dtype=DOUBLE), steps, generator=seeded(1)
    )
    assert found.energy == -50.0 and found.agreeing >= 4
    ground = found.points[found.energies == -50.0].sum(1)
    assert set(ground.tolist()) == {0.0, 25.0}  # all up and all down, and both are found
    signs = torch.randint(0, 2, (16, 16), generator=seeded(5)).double().triu(1) * 2 - 1
    frustrated = Pairs(
        binary(16), torus(4) * (signs.triu(1) + signs.triu(1).T), torch.zeros(16, dtype=DOUBLE)
    )
    truth = frustrated(states(frustrated.domain)).min().item()
    assert truth > -32.0  # not every bond can be content
    assert (
        simulated_annealing(
            frustrated,
            sampler,
            frustrated.domain.draw(16, seeded(2), dtype=DOUBLE),
            steps,
            generator=seeded(3),
        ).energy
        == truth
    )


def test_search_keeps_the_lowest_point_ever_visited_and_says_where() -> None:
    energy, ladder, g = glass(binary(8)), (3.0, 2.0, 4.0), seeded(1)
    x = energy.domain.draw(6, seeded(), dtype=DOUBLE)
    heard: list[int] = []
    found = simulated_annealing(
        energy,
        GibbsWithGradients(),
        x,
        90,
        generator=seeded(1),
        temperatures=ladder,
        progress=heard.append,
    )
    visited = [x.unsqueeze(0)]
    for temperature in ladder:
        visited.append(
            sample(
                energy / temperature, GibbsWithGradients(), visited[-1][-1], 30, generator=g, thin=1
            ).draws
        )
    energies = [torch.stack([energy(x) for x in rung]).min(0).values for rung in visited]
    rungs = [torch.minimum(energies[0], energies[1]), *energies[2:]]
    lowest = torch.stack(rungs).min(0).values
    assert torch.equal(found.energies, lowest) and torch.equal(energy(found.points), lowest)
    assert all(
        rungs[k][i] == lowest[i] and all(r[i] > lowest[i] for r in rungs[:k])
        for i, k in enumerate(found.stages.tolist())
    )
    assert not torch.equal(
        energy(visited[-1][-1]), lowest
    )  # the last points are others, so that keeping those would be seen
    assert (
        sum(heard) == found.steps == 90
        and found.temperatures == ladder
        and found.num_grad_evals == 93
    )


def test_search_on_the_real_line_finds_the_deeper_well_with_a_step_that_follows() -> None:
    wells = GaussianMixture(((-3.0, 0.0), (3.0, 0.0)), 0.3, (1.0, 2.0))
    x = 3 * torch.randn(16, 2, generator=seeded(), dtype=DOUBLE)
    found = simulated_annealing(wells, MALA(1.0), x, 1000, generator=seeded(1))
    low = wells(torch.tensor([[3.0, 0.0]], dtype=DOUBLE)).item()
    assert found.energy - low < 0.02 and (found.x - torch.tensor([3.0, 0.0])).norm() < 0.1
    still = [
        sample(wells / t, MALA(1.0), found.points, 20, generator=seeded()).acceptance.mean()
        for t in found.temperatures[-3:]
    ]
    assert max(still) < 0.05  # the step as it came is refused where it is cold
    assert repr(found).startswith("MinimizationResult(energy ") and "20 temperatures" in repr(found)


def test_search_refuses_what_it_cannot_use() -> None:
    energy, x = glass(binary(4)), torch.zeros(3, 4, dtype=DOUBLE)
    for more, words in (
        ({}, "one energy"),
        ({"temperatures": ()}, "empty"),
        ({"temperatures": (1.0, 0.0)}, "temperatures is 0"),
    ):
        with pytest.raises(ValueError, match=words) as error:
            simulated_annealing(energy, BlockGibbs(), x, 10, generator=seeded(), **more)
        assert str(error.value).count(";") >= 2
    with pytest.raises(ValueError, match="domain"):
        simulated_annealing(energy, MALA(0.1), x, 10, generator=seeded(), temperatures=(1.0,))


def test_cooling_falls_by_equal_factors_between_its_ends() -> None:
    ladder = geometric_schedule(7.0, 0.3, 9)
    factors = [b / a for a, b in itertools.pairwise(ladder)]
    assert (
        ladder[0] == 7.0
        and ladder[-1] == 0.3
        and factors == pytest.approx([(0.3 / 7.0) ** (1 / 8)] * 8)
    )
    assert geometric_schedule(2.0, 1.0, 1) == (1.0,)
    for bad in ((1.0, 2.0, 3), (1.0, 0.0, 3), (1.0, 0.5, 0), (math.inf, 1.0, 3)):
        with pytest.raises(ValueError, match=r";.*;"):
            geometric_schedule(*bad)


def test_the_steps_of_a_noise_ladder_are_lengths_or_their_squares() -> None:
    for sampler, power in (
        (Langevin(0.01), 2),
        (MALA(0.01), 2),
        (HMC(0.01), 1),
        (NUTS(0.01), 1),
        (GHMC(0.01), 1),
    ):
        steps = [s.step_size for s in scale_step_sizes(sampler, (1.0, 0.5, 0.1))]  # type: ignore[attr-defined]
        assert steps == pytest.approx([0.01 * 10**power, 0.01 * 5**power, 0.01])
    with pytest.raises(ValueError, match=r"no step size;.*;"):
        scale_step_sizes(BlockGibbs(), (1.0, 0.5))


# -------------------------------------------------------------------------------- multiscale_sample


def test_a_pyramid_is_sampling_and_enlarging_in_turn() -> None:
    sizes: list[Energy] = [
        Function(lambda x: x.square().flatten(1).sum(1), real(2, n, 2 * n)) for n in (2, 3, 6)
    ]
    x, heard = torch.randn(4, 2, 2, 4, generator=seeded()), []
    samplers = [MALA(0.1), MALA(0.05), Langevin(0.01)]
    traces = multiscale_sample(
        sizes, samplers, x, (5, 3, 2), generator=seeded(1), progress=heard.append
    )
    g = seeded(1)
    for k, (energy, sampler, steps) in enumerate(zip(sizes, samplers, (5, 3, 2), strict=True)):
        x = sample(energy, sampler, x, steps, generator=g).x
        assert torch.equal(traces[k].x, x) and traces[k].steps == steps
        if k == 0:
            x = x[:, :, [0, 0, 1]][
                :, :, :, [0, 0, 1, 2, 2, 3]
            ]  # nearest: the middle of a new number lies in an old one
        if k == 1:
            x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert sum(heard) == 10
    assert [
        t.steps
        for t in multiscale_sample(sizes, MALA(0.1), torch.zeros(1, 2, 2, 4), 8, generator=g)
    ] == [2, 3, 3]


@pytest.mark.parametrize("shape", [(1, 3), (2, 3, 3), (1, 2, 3, 2)], ids=str)
@pytest.mark.parametrize("smooth", [False, True])
def test_enlarged_points_stay_inside_a_box(shape: tuple[int, ...], smooth: bool) -> None:
    large = (shape[0], *(2 * n + 1 for n in shape[1:]))
    sizes: list[Energy] = [
        Function(lambda x: 0 * x.flatten(1).sum(1), box(0.1, 0.7, *s)) for s in (shape, large)
    ]
    x = torch.where(torch.rand(500, *shape, generator=seeded()) < 0.5, 0.1, 0.7)
    first, second = multiscale_sample(sizes, MALA(0.1), x, 0, generator=seeded(), smooth=smooth)
    assert second.x.shape == (500, *large) and torch.equal(first.x, x)
    assert second.x.min() >= 0.1 and second.x.max() <= 0.7
    wide = second.x.flatten(1)
    between = ((wide > 0.101) & (wide < 0.699)).any()
    assert bool(between) == smooth


def test_smooth_enlarging_is_linear() -> None:
    sizes: list[Energy] = [
        Function(lambda x: x.square().flatten(1).sum(1), real(1, n)) for n in (2, 4)
    ]
    last = multiscale_sample(
        sizes, MALA(0.1), torch.tensor([[[0.0, 1.0]]]), 0, generator=seeded(), smooth=True
    )[-1]
    assert last.x.flatten().tolist() == [0.0, 0.25, 0.75, 1.0]


def test_a_pyramid_keeps_the_values_of_discrete_points() -> None:
    sizes: list[Energy] = [Function(lambda x: x.flatten(1).sum(1), binary(1, n, n)) for n in (2, 4)]
    traces = multiscale_sample(
        sizes, BlockGibbs(), sizes[0].domain.draw(20, seeded()), 2, generator=seeded()
    )
    assert set(traces[-1].x.unique().tolist()) <= {0.0, 1.0}
    with pytest.raises(ValueError, match=r"binary domain;.*;"):
        multiscale_sample(
            sizes,
            BlockGibbs(),
            sizes[0].domain.draw(2, seeded()),
            2,
            generator=seeded(),
            smooth=True,
        )


def rough(size: int, mass: float) -> Energy:
    """A Gaussian field on a ring: neighbours agree, so that its mean moves slowly.  E = Σ (x_i −
    x_{i+1})² / 2h + m
    h x² / 2
    """
    h = 1 / size

    def energy(x: Tensor) -> Tensor:
        return ((x - x.roll(1, 2)).square() / (2 * h) + mass * h * x.square() / 2).flatten(1).sum(1)

    return Function(energy, real(1, size))


def test_a_pyramid_reaches_what_the_largest_size_alone_does_not() -> None:
    mass, sizes = 4.0, (1, 2, 4, 8, 16, 32)  # the mean of the field is N(0, 1 / mass) at every size
    energies = [rough(n, mass) for n in sizes]
    samplers = [HMC(0.5 / n**0.5 if n > 1 else 0.5, 6, jitter=0.3) for n in sizes]
    start = torch.full((4000, 1, 1), 3.0, dtype=DOUBLE)
    fine = multiscale_sample(energies, samplers, start, 60, generator=seeded())[-1].x.mean((1, 2))
    alone = sample(
        energies[-1], samplers[-1], start.expand(4000, 1, 32).contiguous(), 10, generator=seeded()
    ).x.mean((1, 2))
    assert abs(z_scores(fine)) < LIMIT and abs(z_scores(fine.square(), 1 / mass)) < LIMIT
    assert abs(z_scores(alone)) > 10 * LIMIT


SHAPES = [
    ((1, 4, 4), (1, 2, 2)),
    ((1, 4, 4), (1, 4, 4)),
    ((1, 4, 4), (3, 8, 8)),
    ((1, 4, 4), (1, 8)),
    ((1, 4, 4), (1, 8, 2)),
    ((4,), (8,)),
]


@pytest.mark.parametrize("pair", SHAPES, ids=str)
def test_a_pyramid_refuses_shapes_that_do_not_grow(pair: tuple[tuple[int, ...], ...]) -> None:
    sizes: list[Energy] = [Function(lambda x: x.flatten(1).sum(1), real(*shape)) for shape in pair]
    with pytest.raises(ValueError, match="that grow") as error:
        multiscale_sample(sizes, MALA(0.1), torch.zeros(2, *pair[0]), 4, generator=seeded())
    assert str(error.value).count(";") == 2


def test_a_pyramid_refuses_lists_of_other_lengths() -> None:
    sizes: list[Energy] = [Function(lambda x: x.flatten(1).sum(1), real(1, n)) for n in (2, 4)]
    with pytest.raises(ValueError, match=r"3 numbers of steps.*;.*;"):
        multiscale_sample(sizes, MALA(0.1), torch.zeros(2, 1, 2), (1, 2, 3), generator=seeded())
    with pytest.raises(ValueError, match=r"1 samplers.*;.*;"):
        multiscale_sample(sizes, [MALA(0.1)], torch.zeros(2, 1, 2), 3, generator=seeded())
