"""Expressions against their exact laws: quadrature in the plane, enumeration of small machines;
what is refused.
"""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lowland import MALA, Function, Langevin, binary, box, mixture, real, sample, tune
from lowland.energy import Energy, check_normalisable, energy_values
from lowland.nets import RBM
from lowland.samplers import DMALA, BlockGibbs, Sampler, predictor_corrector, scale_step_sizes
from lowland.targets import Gaussian, GaussianMixture
from lowland.tasks import (
    Constant,
    Identity,
    LabelGuidance,
    Likelihood,
    anneal_composed,
    compose,
    default_sampler,
    energy_stats,
    sample_composed,
    soft_not,
)
from lowland.testing import LIMIT, caught, seeded

RING = GaussianMixture(
    [[2 * math.cos(k * math.pi / 4), 2 * math.sin(k * math.pi / 4)] for k in range(8)], 0.8
)
RIGHT = GaussianMixture([[1.5, 0.0], [1.5, 1.5]], 0.7)
EXPRESSIONS: dict[str, Energy] = {
    "product": RING + RIGHT,
    "mixture": mixture(RING, RIGHT, weights=(1.0, 3.0)),
    "not, bounded": RING + soft_not(RIGHT, 3.0),
    "a - w b": RING - 0.3 * RIGHT,
    "power": RING / 2.0 + 0.5 * RIGHT,
}
CELLS, SIDE = 14, 7.0


def cells(energy: Energy) -> Tensor:
    """Probabilities of CELLS² squares of [−SIDE, SIDE]², by quadrature on a grid twelve times
    finer.
    """
    fine = CELLS * 12
    axis = (torch.arange(fine, dtype=torch.float64) + 0.5) / fine * 2 * SIDE - SIDE
    grid = torch.cartesian_prod(axis, axis)
    p = torch.softmax(-energy_values(energy, grid, batch_size=fine**2), 0).view(
        CELLS, 12, CELLS, 12
    )
    return p.sum((1, 3)).flatten()


def counts(x: Tensor) -> Tensor:
    place = ((x + SIDE) / (2 * SIDE) * CELLS).long().clamp(0, CELLS - 1)
    return torch.bincount(place[:, 0] * CELLS + place[:, 1], minlength=CELLS**2).double()


def variation(found: Tensor, p: Tensor) -> tuple[float, float]:
    """Total variation of counts from probabilities, and z: how far that is from what exact
    independent draws would show.
    """
    n = found.sum()
    sd = (p * (1 - p) / n).sqrt()
    expected, spread = (
        math.sqrt(2 / math.pi) * sd.sum() / 2,
        math.sqrt(1 - 2 / math.pi) * sd.square().sum().sqrt() / 2,
    )
    tv = (found / n - p).abs().sum() / 2
    return float(tv), float((tv - expected) / spread)


def chains(energy: Energy, sampler: Any = None, steps: int = 100) -> Tensor:
    """5,000 ends of independent chains: near enough to independent draws."""
    g = seeded(3)
    start = 2.0 * torch.randn(5000, 2, generator=g)
    sampler = sampler or default_sampler(energy, start[:200], generator=g, steps=100)
    return sample_composed(energy, start, steps, generator=g, sampler=sampler).x


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_corrected_draws_follow_the_exact_law(name: str) -> None:
    found = chains(EXPRESSIONS[name])
    tv, z = variation(counts(found), cells(EXPRESSIONS[name]))
    assert abs(z) < LIMIT, f"total variation {tv:.3f}"


def test_unadjusted_draws_show_their_bias() -> None:
    """At the step that MALA is tuned to, Langevin without an accept step is far from the law, and
    farther at larger steps.
    """
    energy = EXPRESSIONS["product"]
    tuned: Any = default_sampler(
        energy, torch.randn(200, 2, generator=seeded()), generator=seeded(), steps=100
    )
    h = tuned.step_size
    tv, z = zip(
        *(variation(counts(chains(energy, Langevin(s))), cells(energy)) for s in (h / 2, h)),
        strict=True,
    )
    assert z[1] > z[0] > LIMIT and tv[1] > 1.5 * tv[0]


@pytest.mark.parametrize(
    ("name", "planted"),
    [
        ("product", RING + 0.8 * RIGHT),
        ("mixture", mixture(RING, RIGHT)),
        ("not, bounded", RING + soft_not(RIGHT, 2.0)),
        ("a - w b", RING - 0.2 * RIGHT),
        ("power", RING / 2.0 + 0.8 * RIGHT),
    ],
)
def test_a_planted_bug_is_seen(name: str, planted: Energy) -> None:
    """The law of an expression that is slightly another lies outside the band."""
    assert variation(counts(chains(planted)), cells(EXPRESSIONS[name]))[1] > LIMIT


# ----------------------------------------------------------------------------------- small machines


def machine(seed: int) -> RBM:
    torch.manual_seed(seed)
    rbm = RBM(binary(8), n_hidden=5, init_std=1.0)
    torch.nn.init.normal_(rbm.visible_bias, std=0.5)
    return rbm.eval()


A, B = machine(0), machine(1)
STATES = torch.cartesian_prod(*[torch.arange(2.0)] * 8)
MACHINES: dict[str, Energy] = {
    "product": A + B,
    "mixture": mixture(A, B),
    "not, bounded": A + soft_not(B, float(energy_values(B, STATES).median())),
    "a - w b": A - 0.5 * B,
}


@pytest.mark.parametrize("name", MACHINES)
def test_machines_compose_exactly(name: str) -> None:
    energy = MACHINES[name]
    p = torch.softmax(-energy_values(energy, STATES).double(), 0)
    g = seeded(5)
    start = energy.domain.draw(4000, g)
    x = sample_composed(energy, start, 60, generator=g, sampler=BlockGibbs()).x
    index = (x.long() * 2 ** torch.arange(7, -1, -1)).sum(1)
    tv, z = variation(torch.bincount(index, minlength=256).double(), p)
    assert abs(z) < LIMIT, f"total variation {tv:.3f}"


def test_composed_machines_are_drawn_with_an_accept_step_by_default() -> None:
    energy, g = MACHINES["a - w b"], seeded(6)
    p = torch.softmax(-energy_values(energy, STATES).double(), 0)
    start = energy.domain.draw(4000, g)
    sampler = default_sampler(energy, start[:200], generator=g, steps=60)
    assert isinstance(sampler, DMALA) and isinstance(
        default_sampler(A, start, generator=g), BlockGibbs
    )
    trace = sample_composed(energy, start, 80, generator=g, sampler=sampler)
    index = (trace.x.long() * 2 ** torch.arange(7, -1, -1)).sum(1)
    assert abs(variation(torch.bincount(index, minlength=256).double(), p)[1]) < LIMIT
    assert 0.3 < float(trace.acceptance.mean()) < 0.9


# ---------------------------------------------------------------------------------------- the terms


def test_bounded_is_softplus_and_multiplies_by_a_number_below_one() -> None:
    x = torch.randn(100, 2, generator=seeded())
    expected = torch.nn.functional.softplus(3.0 - RIGHT(x))
    assert torch.allclose(soft_not(RIGHT, 3.0)(x), expected, atol=1e-5)
    far = soft_not(Function(lambda x: 1e4 * x[:, 0], real(2)), 5.0)(
        torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    )
    assert torch.allclose(far, torch.tensor([1e4 + 5, 0.0]))  # no overflow
    with pytest.raises(
        ValueError, match="constant energy is nan; it must be a finite number; pass"
    ):
        soft_not(RIGHT, math.nan)


def test_guidance_by_a_classifier_is_the_posterior() -> None:
    """Two Gaussians, Bayes' classifier: p(x) p(y | x) is p(x | y)."""
    parts = Gaussian((-1.0, 0.0)), Gaussian((1.0, 0.0))
    classifier = lambda x: -torch.stack([part(x) for part in parts], 1)  # noqa: E731
    x = torch.randn(50, 2, generator=seeded())
    told = mixture(*parts) + LabelGuidance(classifier, 1)
    assert torch.allclose(told(x) - told(x[:1]), parts[1](x) - parts[1](x[:1]), atol=1e-5)
    free = 3.0 * parts[1] - 2.0 * mixture(
        *parts
    )  # without a classifier, w = 2: the same as p(x | y) p(y | x)²
    by_class = parts[1] + 2.0 * LabelGuidance(classifier, 1)
    assert torch.allclose(free(x) - free(x[:1]), by_class(x) - by_class(x[:1]), atol=1e-4)
    check_normalisable(free)


def test_units_that_can_be_named() -> None:
    law = Gaussian((0.0, 0.0), ((4.0, 0.0), (0.0, 4.0)))
    x = law.draw(5000, seeded())
    far = torch.cat([x, torch.full((50, 2), 100.0)])
    plain, robust = energy_stats(law, x), energy_stats(law, x, "robust")
    assert abs(energy_stats(law, far, "robust").std / robust.std - 1) < 0.05
    assert energy_stats(law, far).std > 10 * plain.std
    values = energy_values(law, x).double()
    assert robust.mean == pytest.approx(float(values.median()))
    assert energy_stats(law, x, "score").std == pytest.approx(0.5, rel=0.05)
    thousand = Function(lambda x: 1000 * law(x) + 7, real(2))
    for unit in ("deviation", "robust", "score"):
        same = [energy_values(compose([e], [x], unit=unit), x[:99]) for e in (law, thousand)]
        assert torch.allclose(*same, atol=1e-3)
    with pytest.raises(
        ValueError,
        match="the unit is 'mad'; energies are measured by deviation, robust, score; choose",
    ):
        energy_stats(law, x, "mad")


# ---------------------------------------------------------------------------------- what is refused


def test_what_has_no_normaliser_is_refused_in_a_sentence() -> None:
    a, wide = Gaussian(), Gaussian((1.0, 0.0), ((4.0, 0.0), (0.0, 4.0)))
    moved = Gaussian((1.0, 0.0))
    conditional = Function(lambda x, c=None: x.square().sum(1), real(2))
    bad = [
        -a,
        (-conditional).given(0.5),  # the hole of old
        -((-1.0) * -(a / 2)),
        a - 2 * a,
        a - a,
        wide - a,  # falls like −3/8 r²
        a - moved,  # a tilted plane
        a - 1.5 * moved,
        mixture(a, -wide),
        soft_not(a, 2.0),
        Constant(1.0) - a,
        Constant(1.0, real(2)) + soft_not(a, 1.0),
        3 * soft_not(a, 2.0) + 2 * soft_not(wide, 2.0),
    ]
    for energy in bad:
        with pytest.raises(ValueError, match=r";.*;") as refused:
            check_normalisable(energy)
        assert "no normaliser" in str(refused.value) and str(refused.value).count(";") == 2
        with pytest.raises(ValueError, match="no normaliser"):
            sample(energy, MALA(0.1), torch.zeros(2, 2), 1, generator=seeded())


def test_what_has_a_normaliser_passes() -> None:
    a, wide = Gaussian(), Gaussian((1.0, 0.0), ((4.0, 0.0), (0.0, 4.0)))
    five = torch.zeros(5, 2)
    held = Function(lambda x: (x - five).square().sum(1), real(2))  # rows of its own
    good = [
        a,
        a - wide,
        a + soft_not(wide, 2.0),
        wide + 100 * soft_not(a, 2.0),
        mixture(a, wide) - 0.2 * wide,
        -((-1.0) * a),
        a + Constant(2.0),
        held - 0.1 * a,
        RING - 0.5 * RIGHT,
        a - mixture(a, wide),
        -Function(lambda x: x.square().sum(1), box(-1.0, 1.0, 2)),
    ]
    for energy in good:
        check_normalisable(energy)
    x = torch.randn(3, 2, generator=seeded())
    check_normalisable(Function(a) - Function(wide), x)  # the shape is that of the points
    with pytest.raises(ValueError, match="does not rise far out"):
        check_normalisable(Function(wide) - Function(a), x)
    with pytest.raises(ValueError, match="does not rise far out"):
        compose([wide, a], [wide.draw(50, seeded()), a.draw(50, seeded())], [1.0, -3.0])


def test_domains_that_differ_are_refused() -> None:
    plane, square = Gaussian(), Function(lambda x: x.sum(1), box(0.0, 1.0, 2))
    for other in (
        square,
        Function(lambda x: x.sum(1), real(3)),
        Function(lambda x: x.sum(1), binary(2)),
    ):
        for combined in (
            lambda a, b: a + b,
            mixture,
            lambda a, b: a + soft_not(b, 1.0),
            lambda a, b: compose([a, b], [None, None]),
        ):
            with pytest.raises(
                ValueError,
                match=r"different domains were combined \(.*\); all must share one domain; build",
            ):
                combined(plane, other)


# ---------------------------------------------------------------------------------- levels of noise

MEANS = (torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.4], [1.0, -2.0]]))


def noisy(means: Tensor, width: float = 0.5) -> Energy:
    """The energy of noise of a mixture of Gaussians, exact at every level."""

    def energy(x: Tensor, sigma: Tensor) -> Tensor:
        variance = (width**2 + sigma**2).unsqueeze(1)
        distance = (x.unsqueeze(1) - means.to(x)).square().sum(2)
        return -torch.logsumexp(-distance / (2 * variance), 1) + 2 * variance.squeeze(1).log() / 2

    return Function(energy, real(2))


def drawn(sampler: Any = None, final: int = 80, steps: int = 120) -> tuple[float, float]:
    """Total variation, and z, of an annealed product of two mixtures from the exact product at the
    last level.
    """
    both, g = noisy(MEANS[0]) + noisy(MEANS[1]), seeded(9)
    sigmas = (6.0, 2.0, 0.8, 0.3, 0.1, 0.02)
    start = sigmas[0] * torch.randn(5000, 2, generator=g)
    found = anneal_composed(
        both, sigmas, start, steps, generator=g, sampler=sampler, final=final, denoise=False
    )
    assert found.outside.sum() == 0 and found.sigma == sigmas[-1]
    return variation(counts(found.x), cells(both.given(sigmas[-1])))


def test_an_annealed_composition_ends_in_its_law() -> None:
    tv, z = drawn(
        MALA(0.15 * 0.02**2)
    )  # a short corrector; the tuned chains at the end do the rest
    assert abs(z) < LIMIT, f"total variation {tv:.3f}"


def test_summed_scores_alone_draw_from_another_law() -> None:
    """The ancestral path with summed scores, and nothing corrected: what composed diffusion models
    do. It is far off.
    """
    both, g = noisy(MEANS[0]) + noisy(MEANS[1]), seeded(9)
    sigmas = [6.0 * (0.02 / 6.0) ** (i / 29) for i in range(30)]
    start = sigmas[0] * torch.randn(5000, 2, generator=g)
    path = [both.given(sigma) for sigma in sigmas]
    x = predictor_corrector(
        path, sigmas, start, scale_step_sizes(MALA(1e-4), sigmas), 0, generator=g
    ).x
    tv, z = variation(counts(x), cells(path[-1]))
    assert z > 4 * LIMIT and tv > 0.1


def test_a_path_without_its_last_correction_is_seen() -> None:
    assert caught(lambda: abs(drawn(MALA(1e-9), final=0, steps=6)[1]))


@pytest.mark.parametrize(
    ("sampler", "tail"),
    [(None, 50 + 50 + 100 + 1), (Langevin(0.01), 100 + 1)],
    ids=["tuned", "given"],
)
def test_annealing_reports_all_its_steps(sampler: Sampler | None, tail: int) -> None:
    """Also those after the last level: warm-up, trial and run of the final chains."""
    energy = Function(lambda x, sigma: 0.5 * x.square().sum(1) / (1 + sigma**2))
    heard: list[int] = []
    how = {"generator": seeded(), "sampler": sampler, "progress": heard.append}
    anneal_composed(energy, (3.0, 1.0, 0.3), 3 * torch.randn(20, 1), 12, **how)
    assert heard == [1] * (12 + 3 + tail)


def test_composed_chains_report_the_steps_that_tune_them() -> None:
    heard: list[int] = []
    x = torch.randn(20, 2, generator=seeded())
    sample_composed(RING + RIGHT, x, 10, generator=seeded(), progress=heard.append)
    assert sum(heard) == 300 + 50 + 10 and max(heard) == 1


def test_annealing_refuses_uneven_lists() -> None:
    with pytest.raises(
        ValueError, match=r"1 energies came with the levels \[1.0, 0.1\]; one each is needed.*; see"
    ):
        anneal_composed([Gaussian()], (1.0, 0.1), torch.zeros(3, 2), 10, generator=seeded())


def test_an_expression_bound_to_a_level_takes_its_rows_along() -> None:
    """Blocks of chains, and more of them than one call takes, see the rows that terms hold."""
    prior = Function(lambda x, sigma: 0.5 * x.square().sum(1) / (1 + sigma**2))
    prior.noise = True  # type: ignore[assignment]
    places = torch.arange(1500.0).unsqueeze(1)
    held = prior.given(0.5) + Likelihood(Identity(), places, 1.0)
    picked = torch.tensor([3, 1400])
    torch.testing.assert_close(held.index_rows(picked)(places[picked]), held(places)[picked])
    whole = (prior + Likelihood(Identity(), places, 1.0)).given(0.5)
    torch.testing.assert_close(whole.index_rows(picked)(places[picked]), whole(places)[picked])
    made = predictor_corrector([whole, whole], [0.5, 0.1], places, MALA(0.1), 2, generator=seeded())
    assert made.x.shape == (1500, 1)


# --------------------------------------------------------------------------- found by trying it out


def test_plain_functions_compose_and_anneal() -> None:
    """Any callable is an energy, also at these doors."""
    x = torch.randn(200, 2, generator=seeded())
    bowls = [lambda x: x.square().sum(1), lambda x: 5 * (x - 1).square().sum(1)]
    made = [compose(parts, [x, x]) for parts in (bowls, [Function(bowl) for bowl in bowls])]
    assert torch.equal(made[0](x), made[1](x)) and energy_stats(bowls[0], x) == energy_stats(
        Function(bowls[0]), x
    )
    normal = lambda x, sigma: 0.5 * x.square().sum(1) / (1 + sigma**2)  # noqa: E731
    drawn = [
        anneal_composed(law, (3.0, 0.3), x, 20, generator=seeded()).x
        for law in (normal, Function(normal))
    ]
    assert torch.equal(*drawn)


def test_references_that_do_not_fit_and_energies_that_are_not_finite_are_told_apart() -> None:
    x = torch.randn(20, 2, generator=seeded())
    for energy, points, said in (
        (RIGHT, torch.randn(20, 3), "points have event shape"),
        (RIGHT, torch.ones(20, 2).long(), "points came as torch.int64"),
        (RIGHT, x * math.nan, "20 of 20 points are not finite"),
        (lambda x: x.sum(1) / 0, x, "20 of 20 energies are not finite"),
        (Constant(2.0), x, "the energy does not vary over 20"),
    ):
        for unit in ("deviation", "robust", "score"):
            with pytest.raises(ValueError, match=f"{said}.*;.*;"):
                energy_stats(energy, points, unit)
    for weights in ([1.0, math.nan], [1.0, math.inf], [1.0]):
        with pytest.raises(
            ValueError,
            match=r"2 references and the weights .*; one of each .*; make|one of weights is .*;.*;",
        ):
            compose([RIGHT, RIGHT], [x, x], weights)


def test_levels_that_are_none_are_refused_by_name() -> None:
    for sigmas in ((1.0, 0.0), (1.0, math.nan), (math.inf, 1.0), ()):
        with pytest.raises(
            ValueError,
            match=r"one of sigmas is .*above 0; pass|finite number above 0|0 sigmas came; .*;",
        ):
            anneal_composed(noisy(MEANS[0]), sigmas, torch.zeros(3, 2), 10, generator=seeded())


def test_functions_without_a_shape_are_looked_at_far_from_the_points() -> None:
    """Where the domain says no shape, the points do: narrow minus wide is drawn, wide minus narrow
    refused.
    """
    wide, narrow = (
        Function(lambda x: x.square().sum(1) / 8),
        Function(lambda x: x.square().sum(1) / 2),
    )
    x = torch.randn(20, 2, generator=seeded())
    assert sample(narrow - wide, MALA(0.1), x, 2, generator=seeded()).x.shape == x.shape
    for call in (sample, tune):
        with pytest.raises(ValueError, match="does not rise far out"):
            call(wide - narrow, MALA(0.1), x, 20, generator=seeded())
    with pytest.raises(ValueError, match="does not rise far out"):
        compose(
            [lambda x: x.square().sum(1), lambda x: (x - 1).square().sum(1)], [x, x], [1.0, -3.0]
        )
