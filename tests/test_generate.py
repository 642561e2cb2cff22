"""Generation: a path that ends at the energy itself, labels that are obeyed, films that say which
steps they show.
"""

import math
from typing import Any, get_type_hints

import pytest
import torch
from contract.cases import Case, seeded
from contract.checks import LIMIT, caught, worst
from torch import Tensor

from lowland import MALA, Energy, Function, Langevin, ShortRun, box, real, sample
from lowland.energy import LabelCondition, NoiseCondition
from lowland.registry import registered
from lowland.samplers import anneal, divide_steps
from lowland.targets import Gaussian, GaussianMixture
from lowland.tasks import (
    Samples,
    balanced_labels,
    bind_smallest_sigma,
    generate,
    generate_from_recipe,
)

TARGET = Gaussian((1.0, -1.0), ((1.0, 0.8), (0.8, 1.5)))


class Labelled(Energy):
    """Class c lives around 10 c."""

    classes = 3

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        centres = 10.0 * torch.arange(3)
        each = 0.5 * (x.sum(1, keepdim=True) - centres).square()
        return (
            -torch.logsumexp(-each, 1)
            if c is None
            else each.gather(1, c.long().unsqueeze(1)).squeeze(1)
        )


class Smoothed(Energy):
    """N(1, 0.2²) with noise σ added: E(x, σ) = (x − 1)² / 2 (0.04 + σ²); the exact energy of
    noise.
    """

    condition = NoiseCondition()

    def __init__(self) -> None:
        super().__init__(real(2))
        self.seen: list[float] = []

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        assert c is not None, "an energy of noise was called without a level"
        self.seen.append(float(c[0]))
        return ((x - 1).square() / (2 * (0.04 + c.square().unsqueeze(1)))).sum(1)


def law_error(made: Tensor, mean: Tensor, covariance: Tensor) -> float:
    """Worst |z| of mean and covariance over independent chains."""
    away = made.double() - mean
    return max(worst(away), worst(torch.einsum("ni,nj->nij", away, away), covariance))


def hot_to_cold(temperatures: tuple[float, ...]) -> float:
    start = 4 * torch.randn(4000, 2, generator=seeded(0))
    made = generate(TARGET, MALA(0.3), start, 300, generator=seeded(1), temperatures=temperatures)
    covariance = torch.tensor([[1.0, 0.8], [0.8, 1.5]], dtype=torch.float64)
    return law_error(made.x, torch.tensor([1.0, -1.0], dtype=torch.float64), covariance)


def test_a_path_of_temperatures_ends_in_the_law_of_the_energy() -> None:
    assert hot_to_cold((1.0,)) < LIMIT
    assert hot_to_cold((16.0, 4.0, 1.0)) < LIMIT


def test_a_path_that_stops_short_is_caught() -> None:
    assert caught(hot_to_cold, (16.0, 4.0, 1.2))
    assert caught(hot_to_cold, (1.0, 4.0))


def test_a_path_is_annealing_by_hand_bit_for_bit() -> None:
    start = torch.randn(6, 2, generator=seeded(2))
    made = generate(TARGET, MALA(0.2), start, 30, generator=seeded(3), temperatures=(4.0, 2.0, 1.0))
    by_hand = anneal(
        [TARGET / 4.0, TARGET / 2.0, TARGET], MALA(0.2), start, 30, generator=seeded(3)
    )
    assert torch.equal(made.x, by_hand[-1].x)
    assert made.labels is None and made.trajectory is None and made.trajectory_steps == []


def test_a_hot_path_reaches_both_modes() -> None:
    """From one mode: the cold chain stays there, the annealed one shares itself out."""
    modes = GaussianMixture(((-4.0, 0.0), (4.0, 0.0)), 0.5)
    start = torch.tensor([[-4.0, 0.0]]).expand(400, 2)
    cold = generate(modes, MALA(0.1), start, 400, generator=seeded(4)).x
    warm = generate(
        modes, MALA(0.1), start, 2000, generator=seeded(4), temperatures=(30.0, 10.0, 3.0, 1.0)
    ).x
    assert bool((cold[:, 0] < 0).all())
    assert 0.2 < float((warm[:, 0] > 0).double().mean()) < 0.8


def test_labels_are_bound_to_their_chains() -> None:
    labels = balanced_labels(60, 3)
    assert labels is not None and torch.equal(labels, torch.arange(60) % 3)
    made = generate(
        Labelled(real(1)), MALA(0.5), torch.randn(60, 1), 200, generator=seeded(5), labels=labels
    )
    assert torch.equal((made.x[:, 0] / 10).round().long(), labels)
    assert made.labels is labels
    swapped = generate(
        Labelled(real(1)),
        MALA(0.5),
        torch.randn(60, 1),
        200,
        generator=seeded(5),
        labels=2 - labels,
    )
    assert torch.equal((swapped.x[:, 0] / 10).round().long(), 2 - labels)


def test_labels_survive_a_path() -> None:
    labels = balanced_labels(30, 3)
    assert labels is not None
    made = generate(
        Labelled(real(1)),
        MALA(0.5),
        torch.zeros(30, 1),
        200,
        generator=seeded(6),
        labels=labels,
        temperatures=(4.0, 1.0),
    )
    assert torch.equal((made.x[:, 0] / 10).round().long(), labels)


class Blind(Labelled):
    """p(x) = N(0, 1) in the first number, p(y = 1 | x) = sigmoid(2 x), class 2 never; no slope of
    p(y | x) to follow.
    """

    @property
    def condition(self) -> LabelCondition:
        return LabelCondition(3, self.class_energies, ancestral=True)

    def class_energies(self, x: Tensor) -> Tensor:
        odds = torch.cat([-x[:, :1], x[:, :1], torch.full_like(x[:, :1], -1e4)], 1)
        return x[:, :1].square() / 2 - torch.log_softmax(odds, 1)

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        assert c is None, "an ancestral energy walks without labels"
        return x.square().sum(1) / 2


RECIPE: dict[str, Any] = {
    "generation": {
        "sampler": {"name": "MALA", "step_size": 1.0},
        "steps": 30,
        "temperatures": [1.0],
        "denoise_sigma": 0.0,
    },
    "objective": {},
}


def means_of_called(energy: Energy) -> Tensor:
    """z of the mean of the first number under labels 0 and 1 against ∓E[x tanh x], by quadrature;
    4,000 draws.
    """
    made = generate_from_recipe(
        energy, RECIPE, 4000, generator=seeded(), labels=torch.arange(4000) % 2
    )
    x = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    truth = float(
        torch.trapezoid(x * x.tanh() * torch.exp(-x.square() / 2), x) / (2 * math.pi) ** 0.5
    )
    first = torch.stack([-made.x[made.labels == 0, 0], made.x[made.labels == 1, 0]])
    return (first.mean(1) - truth) / (first.std(1) / first.shape[1] ** 0.5)


def test_ancestral_draws_have_the_law_given_their_label() -> None:
    assert means_of_called(Blind(real(2))).abs().max() < LIMIT


def test_calling_by_the_likeliest_class_is_caught() -> None:
    class Likeliest(Blind):
        def class_energies(self, x: Tensor) -> Tensor:
            return 1e3 * super().class_energies(x)

    assert means_of_called(Likeliest(real(2))).abs().max() > LIMIT


def test_ancestral_draws_keep_their_films_and_refuse_a_class_that_never_comes() -> None:
    made = generate_from_recipe(
        Blind(real(2)), RECIPE, 6, generator=seeded(), labels=torch.arange(6) % 2, frames=4
    )
    assert (
        made.trajectory is not None
        and made.trajectory.shape == (5, 6, 2)
        and made.trajectory_steps == [0, 10, 20, 30, 30]
    )
    torch.testing.assert_close(made.trajectory[-1], made.x)
    with pytest.raises(ValueError, match=r"class \[2\].*;.*;"):
        generate_from_recipe(Blind(real(2)), RECIPE, 3, generator=seeded())


def test_no_classes_no_labels() -> None:
    assert balanced_labels(5, 0) is None


# -------------------------------------------------------------------------------------------- noise


def test_annealing_over_noise_levels_ends_in_the_law_of_the_smallest() -> None:
    energy, sigmas = Smoothed(), (2.0, 0.5, 0.1)
    start = 2 * torch.randn(4000, 2, generator=seeded(7))
    made = generate(energy, MALA(0.01), start, 600, generator=seeded(8), sigmas=sigmas)
    covariance = (0.04 + 0.01) * torch.eye(2, dtype=torch.float64)
    assert law_error(made.x, torch.ones(2, dtype=torch.float64), covariance) < LIMIT
    order = [s for i, s in enumerate(energy.seen) if i == 0 or s != energy.seen[i - 1]]
    assert order == pytest.approx(list(sigmas))  # each level once, large to small


def test_wrong_order_of_noise_levels_is_caught() -> None:
    start = torch.randn(2000, 2, generator=seeded(7))
    made = generate(Smoothed(), MALA(0.01), start, 600, generator=seeded(8), sigmas=(0.1, 0.5))
    covariance = (0.04 + 0.01) * torch.eye(2, dtype=torch.float64)
    assert caught(law_error, made.x, torch.ones(2, dtype=torch.float64), covariance)


def test_steps_follow_the_noise_level() -> None:
    """h_i = h (σ_i / σ_last)²: the same as annealing by hand with these steps."""
    energy, start = Smoothed(), torch.zeros(5, 2)
    made = generate(energy, Langevin(0.01), start, 20, generator=seeded(9), sigmas=(0.4, 0.1))
    path, rungs = (
        [energy.given(0.4), energy.given(0.1)],
        [Langevin(0.01 * (0.4 / 0.1) ** 2), Langevin(0.01)],
    )
    assert torch.equal(made.x, anneal(path, rungs, start, 20, generator=seeded(9))[-1].x)


def test_an_energy_of_noise_needs_its_levels() -> None:
    for sigmas in (None, ()):
        with pytest.raises(ValueError, match="energy is one of noise"):
            generate(
                Smoothed(), MALA(0.1), torch.zeros(2, 2), 5, generator=seeded(0), sigmas=sigmas
            )


def test_bind_noise_takes_the_smallest_level_and_leaves_others_alone() -> None:
    energy, x = Smoothed(), torch.zeros(1, 2)
    assert torch.equal(bind_smallest_sigma(energy, (1.0, 0.3))(x), energy.given(0.3)(x))
    assert (
        bind_smallest_sigma(TARGET, (1.0, 0.3)) is TARGET
        and bind_smallest_sigma(energy, None) is energy
    )


NOISY = [
    name
    for name, cls in registered("energy").items()
    if get_type_hints(cls.condition.fget)["return"] is NoiseCondition
]


@pytest.mark.parametrize("name", NOISY)
@pytest.mark.parametrize(
    "sampler", [Langevin(0.001), ShortRun(0.001, 0.01), MALA(0.001)], ids=lambda s: type(s).__name__
)
def test_every_network_of_noise_generates(name: str, sampler: Any) -> None:
    energy = Case("energy", name, {}).build()
    start = torch.zeros(4, *energy.domain.shape)
    made = generate(
        energy, sampler, start, 12, generator=seeded(1), sigmas=(1.0, 0.5, 0.1), frames=4
    )
    assert (
        made.x.shape == start.shape
        and bool(made.x.isfinite().all())
        and made.trajectory is not None
    )
    assert made.trajectory.shape == (5, *start.shape) and made.trajectory_steps == [0, 4, 8, 12, 12]


def test_there_is_a_network_of_noise() -> None:
    assert NOISY


# -------------------------------------------------------------------------------------------- films


def film_of(
    steps: int, frames: int, temperatures: tuple[float, ...] = (1.0,), denoise_sigma: float = 0.0
) -> Samples:
    return generate(
        TARGET,
        MALA(0.2),
        torch.randn(3, 2, generator=seeded(10)),
        steps,
        generator=seeded(11),
        temperatures=temperatures,
        frames=frames,
        denoise_sigma=denoise_sigma,
    )


def by_hand(steps: int, temperatures: tuple[float, ...] = (1.0,)) -> Tensor:
    """Every state of the same chains, the start included: one rung after the other, all steps
    kept.
    """
    x, g = torch.randn(3, 2, generator=seeded(10)), seeded(11)
    states = [x.unsqueeze(0)]
    for temperature, share in zip(
        temperatures, divide_steps(steps, len(temperatures)), strict=True
    ):
        energy = TARGET if temperature == 1.0 else TARGET / temperature
        trace = sample(energy, MALA(0.2), x, share, generator=g, thin=1)
        x = trace.x
        states.append(trace.draws)
    return torch.cat(states)


HOT = (4.0, 2.0, 1.0)
FILMS = [
    *[(20, frames, (1.0,)) for frames in (2, 3, 4, 5, 8, 11, 21)],
    (12, 2, (1.0,)),
    *[(30, frames, HOT) for frames in (2, 3, 7, 31)],
    *[(21, 11, HOT), (20, 6, HOT), (2, 3, HOT)],
]


@pytest.mark.parametrize("denoise_sigma", [0.0, 0.5])
@pytest.mark.parametrize(("steps", "frames", "temperatures"), FILMS)
def test_a_film_shows_the_chains_at_the_steps_it_names_and_then_the_result(
    steps: int, frames: int, temperatures: tuple[float, ...], denoise_sigma: float
) -> None:
    """As many states as asked for, evenly spread from the start to the end of the chains, and what
    the jump made of them.
    """
    made = film_of(steps, frames, temperatures, denoise_sigma)
    assert made.trajectory is not None and made.trajectory.shape == (frames + 1, 3, 2)
    *shown, last = made.trajectory_steps
    assert shown == [round(i * steps / (frames - 1)) for i in range(frames)] and (
        shown[0],
        shown[-1],
        last,
    ) == (0, steps, steps)
    states = by_hand(steps, temperatures)
    assert len(states) == steps + 1 and torch.equal(made.trajectory[:-1], states[shown])
    assert torch.equal(made.trajectory[-1], made.x) and torch.equal(made.x, states[-1]) == (
        denoise_sigma == 0.0
    )


def test_a_film_longer_than_the_chains_shows_every_state_once() -> None:
    made = film_of(3, 30)
    assert made.trajectory is not None and made.trajectory_steps == [0, 1, 2, 3, 3]
    assert torch.equal(made.trajectory[:-1], by_hand(3)) and torch.equal(
        made.trajectory[-1], made.x
    )


@pytest.mark.parametrize("frames", [1, -1])
def test_a_film_has_a_beginning_and_an_end(frames: int) -> None:
    with pytest.raises(ValueError, match=rf"frames is {frames};.*;"):
        film_of(20, frames)


def test_filming_does_not_change_the_chains() -> None:
    assert torch.equal(film_of(20, 0).x, film_of(20, 5).x)
    assert torch.equal(film_of(20, 0, HOT).x, film_of(20, 7, HOT).x)
    assert film_of(20, 0).trajectory is None and film_of(20, 0).trajectory_steps == []


@pytest.mark.parametrize("steps", [20, 2])
def test_all_steps_are_made(steps: int) -> None:
    made: list[int] = []
    generate(
        TARGET,
        MALA(0.2),
        torch.zeros(2, 2),
        steps,
        generator=seeded(0),
        temperatures=(4.0, 2.0, 1.0),
        progress=made.append,
    )
    assert sum(made) == steps


def test_no_steps_return_the_start() -> None:
    start = torch.randn(3, 2, generator=seeded(10))
    made = generate(TARGET, MALA(0.2), start, 0, generator=seeded(0), frames=4)
    assert torch.equal(made.x, start)
    assert (
        made.trajectory is not None
        and made.trajectory_steps == [0, 0]
        and torch.equal(made.trajectory, torch.stack([start, start]))
    )


def test_the_start_is_left_alone_and_seeds_repeat() -> None:
    start = torch.zeros(3, 2)
    runs = [generate(TARGET, MALA(0.2), start, 10, generator=seeded(s)).x for s in (1, 1, 2)]
    assert not bool(start.any())
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


def test_progress_hears_every_step() -> None:
    heard: list[int] = []
    generate(
        TARGET,
        MALA(0.2),
        torch.zeros(3, 2),
        12,
        generator=seeded(0),
        temperatures=(2.0, 1.0),
        progress=heard.append,
    )
    assert sum(heard) == 12


def test_an_empty_path_is_refused() -> None:
    with pytest.raises(ValueError, match=";"):
        generate(TARGET, MALA(0.2), torch.zeros(3, 2), 5, generator=seeded(0), temperatures=())


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_is_positive(temperature: float) -> None:
    with pytest.raises(ValueError, match="one of temperatures is"):
        generate(
            TARGET,
            MALA(0.2),
            torch.zeros(3, 2),
            5,
            generator=seeded(0),
            temperatures=(temperature, 1.0),
        )


def test_a_last_jump_is_tweedies_formula() -> None:
    """For N(m, C) with noise σ in C the expected clean point is x − σ² C⁻¹ (x − m)."""
    runs = [
        generate(
            TARGET, MALA(0.2), torch.zeros(4, 2), 5, generator=seeded(1), denoise_sigma=s
        ).x.double()
        for s in (0.0, 0.5)
    ]
    precision = torch.linalg.inv(torch.tensor([[1.0, 0.8], [0.8, 1.5]], dtype=torch.float64))
    offset = runs[0] - torch.tensor([1.0, -1.0], dtype=torch.float64)
    assert torch.allclose(runs[1], runs[0] - 0.25 * offset @ precision, atol=1e-5)
    assert math.isfinite(float(runs[1].sum()))


def test_samples_that_are_denoised_stay_in_their_box() -> None:
    # the score is −5 everywhere, so the expected clean point lies 0.04 · 5 below the noisy one
    slope = Function(lambda x: 5 * x.sum(1), box(0, 1, 2))
    g = torch.Generator().manual_seed(0)
    start = torch.rand(200, 2, generator=g)
    made = generate(slope, MALA(0.05), start, 5, generator=g, denoise_sigma=0.2).x
    assert made.min() == 0 and made.max() < 1
