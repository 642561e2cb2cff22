"""Parallel tempering: what the swaps do, the account of their travels, and the ladder that tune
finds.
"""

import dataclasses
import math

import pytest
import torch
from contract.cases import seeded

from lowland import (
    DMALA,
    HMC,
    MALA,
    NUTS,
    BlockGibbs,
    Function,
    Langevin,
    ParallelTempering,
    binary,
    real,
    sample,
    tune,
)
from lowland.samplers.kernel import State
from lowland.samplers.tempering import Tempered, TemperedState, Tempering
from lowland.targets import Gaussian, GaussianMixture

DOUBLE = torch.float64
LADDER = (1.0, 2.0, 4.0, 8.0)


def bowl(dimension: int = 2) -> Function:
    return Function(lambda x: 0.5 * x.square().sum(1), real(dimension))


def test_all_replicas_are_evaluated_in_one_batch() -> None:
    sizes: list[int] = []
    energy = Function(lambda x: (sizes.append(len(x)), 0.5 * x.square().sum(1))[1], real(2))
    sampler = ParallelTempering(MALA(0.1), LADDER)
    state = sampler.init(energy, torch.zeros(5, 2))
    sizes.clear()
    sampler.step(energy, state, seeded())
    assert sizes == [20]


def test_every_pair_is_tried_every_other_step() -> None:
    """A rival's even pairs were tried, its odd ones never."""
    trace = sample(
        bowl(), ParallelTempering(MALA(0.1), LADDER), torch.zeros(3, 2), 10, generator=seeded()
    )
    assert trace.state.tempering.tried.tolist() == [15, 15, 15]
    assert (trace.state.tempering.swap_rates > 0.2).all() and trace.state.sweeps == 10


def stacked(values: list[float]) -> TemperedState:
    """One chain of one number on each rung of LADDER, under E = x²/2."""
    x = torch.tensor(values, dtype=DOUBLE).view(-1, 1)
    betas = 1 / torch.tensor(LADDER, dtype=DOUBLE)
    replicas = State(x, betas * x.square().sum(1) / 2, -betas.view(-1, 1) * x)
    pairs = torch.zeros(3, dtype=DOUBLE)
    direction = torch.tensor([[1], [0], [0], [0]])
    return TemperedState(
        x[:1],
        x[:1, 0] ** 2 / 2,
        replicas,
        0,
        Tempering(pairs, pairs, torch.zeros(1).long(), direction),
    )


def test_a_swap_moves_points_and_rescales_what_is_known_of_them() -> None:
    sampler = ParallelTempering(MALA(0.1), LADDER)
    state = sampler.swap(
        stacked([9.0, 0.0, 9.0, 0.0]), seeded()
    )  # a high point below a low one is always exchanged
    assert state.x.tolist() == [[0.0]] and state.energy.tolist() == [0.0]
    assert state.replicas.x.flatten().tolist() == [0.0, 9.0, 0.0, 9.0]
    betas = 1 / torch.tensor(LADDER, dtype=DOUBLE)
    torch.testing.assert_close(state.replicas.energy, betas * state.replicas.x.square().sum(1) / 2)
    torch.testing.assert_close(state.replicas.score, -betas.view(-1, 1) * state.replicas.x)
    later = sampler.swap(state._replace(replicas=stacked([0.0, 9.0, 0.0, 9.0]).replicas), seeded())
    assert later.replicas.x.flatten().tolist() == [0.0, 0.0, 9.0, 9.0], (
        "after an odd number of steps the middle pair is due"
    )


def test_swaps_happen_with_the_probability_that_keeps_both_laws() -> None:
    # n = 200,000 pairs; min(1, exp((β1 − β2)(E1 − E2))) with E1 = 0, E2 = 1/2; binomial error
    n = 200_000
    sampler = ParallelTempering(MALA(0.1), (1.0, 2.0))
    energy = bowl(1)
    state = sampler.init(energy, torch.zeros(n, 1))
    x = torch.cat([torch.zeros(n, 1), torch.ones(n, 1)])
    replicas = State(x, torch.cat([torch.zeros(n), torch.full((n,), 0.25)]), x)
    share = sampler.swap(state._replace(replicas=replicas), seeded()).x.mean().item()
    p = math.exp((1 - 0.5) * (0 - 0.5))
    assert abs(share - p) / math.sqrt(p * (1 - p) / n) < 5


def test_round_trips_are_counted_once_per_way_there_and_back() -> None:
    sampler = ParallelTempering(MALA(0.1), (1.0, 2.0, 4.0))
    state = sampler.init(bowl(1), torch.zeros(1, 1))

    def forced(state: TemperedState, low: int) -> TemperedState:
        """Exchange rungs low and low + 1 for certain."""
        values = torch.zeros(3)
        values[low] = 100.0
        state = state._replace(replicas=state.replicas._replace(energy=values), sweeps=low)
        return sampler.swap(state, seeded())

    seen = []
    for low in (
        0,
        1,
        1,
        0,
        0,
        1,
        1,
        0,
    ):  # replica a goes up and home, twice; b and c never see both ends in order
        state = forced(state, low)
        seen.append(state.tempering.round_trips.item())
    assert seen == [0, 0, 0, 1, 1, 1, 1, 2]


def test_chains_cross_barriers_that_the_sampler_alone_does_not() -> None:
    far = GaussianMixture(((-6.0, 0.0), (6.0, 0.0)))
    start = torch.tensor([[-6.0, 0.0]]).repeat(200, 1)
    alone = sample(far, MALA(0.1), start, 500, generator=seeded())
    tempered = ParallelTempering(MALA(0.1), (1.0, 3.0, 9.0, 27.0, 81.0), (0.1, 0.3, 0.9, 2.7, 8.1))
    trace = sample(far, tempered, start, 500, generator=seeded())
    assert (alone.x[:, 0] > 0).sum() == 0 and 70 < (trace.x[:, 0] > 0).sum() < 130
    assert (trace.state.tempering.round_trips > 0).float().mean() > 0.5


@pytest.mark.parametrize(
    "inner", [MALA(0.5), HMC(0.3, 5), NUTS(0.3, 5), DMALA(0.5), BlockGibbs()], ids=str
)
def test_any_sampler_can_be_tempered_and_its_state_goes_on(inner: object) -> None:
    bits = isinstance(inner, (DMALA, BlockGibbs))
    energy = Function(
        lambda x: (x[:, 0] - 0.3).square() + x[:, 0] * x[:, 1], binary(2) if bits else real(2)
    )
    sampler = ParallelTempering(inner, (1.0, 2.0, 5.0))  # type: ignore[arg-type]
    x, g = torch.zeros(8, 2), seeded(1)
    ten = sample(energy if bits else bowl(), sampler, x, 10, generator=seeded(1))
    half = sample(energy if bits else bowl(), sampler, x, 5, generator=g)
    rest = sample(energy if bits else bowl(), sampler, half.x, 5, generator=g, state=half.state)
    assert torch.equal(ten.x, rest.x) and torch.equal(
        ten.state.tempering.round_trips, rest.state.tempering.round_trips
    )
    with torch.no_grad():
        torch.testing.assert_close(ten.state.energy, (energy if bits else bowl())(ten.x))


def test_conditions_of_chains_go_along_with_their_replicas() -> None:
    class Pulled(type(Gaussian())):  # type: ignore[misc]
        def forward(self, x: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
            return super().forward(x) if c is None else super().forward(x - c)

    c = 10.0 * torch.arange(6).view(6, 1).repeat(1, 2)
    energy = Function(Pulled()).given(c)
    trace = sample(
        energy, ParallelTempering(MALA(0.3), (1.0, 2.0)), c.clone(), 200, generator=seeded(), thin=1
    )
    assert ((trace.draws.mean(0) - c).abs() < 1.5).all()


def test_tempered_energies_are_those_of_their_rungs() -> None:
    energy, betas = Gaussian(), torch.tensor([1.0, 0.25])
    x = torch.randn(6, 2, generator=seeded())
    tempered = Tempered(energy, betas, 3)
    torch.testing.assert_close(tempered(x), torch.cat([energy(x[:3]), 0.25 * energy(x[3:])]))
    index = torch.tensor([5, 0])
    torch.testing.assert_close(tempered.index_rows(index)(x[index]), tempered(x)[index])


# --------------------------------------------------------------------------------------------- tune


def test_tune_spaces_the_ladder_so_that_all_pairs_swap_equally_often() -> None:
    """From a ladder crowded at the cold end; on a Gaussian equal rates mean equal ratios of
    temperatures.
    """
    energy = Gaussian((0.0,) * 10, torch.eye(10).tolist())
    uneven = ParallelTempering(MALA(0.1), (1.0, 1.1, 1.2, 1.4, 10.0))
    tuned = tune(energy, uneven, energy.draw(200, seeded()), 400, generator=seeded(1))
    t = torch.tensor(tuned.temperatures)
    ratios = t[1:] / t[:-1]
    assert (
        tuned.temperatures[0] == 1
        and tuned.temperatures[-1] == 10
        and ratios.max() / ratios.min() < 1.25
    )
    trace = sample(energy, tuned, energy.draw(200, seeded(2)), 300, generator=seeded(3))
    rates = trace.state.tempering.swap_rates
    assert rates.max() - rates.min() < 0.1
    before = sample(
        energy, dataclasses.replace(uneven), energy.draw(200, seeded(2)), 300, generator=seeded(3)
    )
    assert trace.state.tempering.round_trips.sum() > 2 * before.state.tempering.round_trips.sum()


def test_tune_gives_every_rung_its_own_step() -> None:
    """MALA at its target: the step follows the temperature on a Gaussian, whose rung T has T times
    the variance.
    """
    energy = Gaussian((0.0,) * 5, torch.eye(5).tolist())
    tuned = tune(
        energy,
        ParallelTempering(MALA(1e-3), LADDER),
        energy.draw(200, seeded()),
        400,
        generator=seeded(1),
    )
    assert tuned.step_sizes is not None and len(tuned.step_sizes) == 4
    relative = torch.tensor(tuned.step_sizes) / torch.tensor(tuned.temperatures)
    assert ((relative / relative.mean()) - 1).abs().max() < 0.1
    rate = sample(
        energy, tuned, energy.draw(500, seeded(2)), 50, generator=seeded(3)
    ).acceptance.mean()
    assert abs(rate - 0.574) < 0.03


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((MALA(0.1), (1.0,)), "at least two"),
        ((MALA(0.1), (2.0, 4.0)), "ascend from 1"),
        ((MALA(0.1), (1.0, 4.0, 2.0)), "ascend from 1"),
        ((MALA(0.1), (1.0, 2.0), (0.1,)), "one each"),
        ((BlockGibbs(), (1.0, 2.0), (0.1, 0.2)), "has a step"),
        ((MALA(0.1), (1.0, math.inf)), "finite"),
    ],
)
def test_a_ladder_that_cannot_be_meant_is_refused(arguments: tuple, words: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError, match=rf"(?s)(;.*{words}|{words}.*;)"):
        ParallelTempering(*arguments)


def test_tempering_is_exact_if_its_sampler_is() -> None:
    assert (
        ParallelTempering(MALA(0.1), LADDER).adjusted
        and not ParallelTempering(Langevin(0.1), LADDER).adjusted
    )
    with pytest.raises(ValueError, match="domain that is binary"):
        sample(
            Function(lambda x: x.sum(1), binary(2)),
            ParallelTempering(MALA(0.1), LADDER),
            torch.zeros(2, 2),
            1,
            generator=seeded(),
        )
