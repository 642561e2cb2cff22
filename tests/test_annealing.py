"""Annealed importance sampling against exact normalisers, in both directions, and what it must not
pay for twice.
"""

import math
from typing import Any

import pytest
import torch
from contract.cases import seeded
from contract.checks import LIMIT, caught, z_scores
from test_paths import DOUBLE, Pairs, glass, states
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
    ParallelTempering,
    binary,
    categorical,
    mixture,
    real,
    sample,
)
from lowland.domain import Domain
from lowland.samplers import GHMC, AISResult, GibbsWithGradients, ais, geometric_path
from lowland.targets import Gaussian, GaussianMixture

BASE = Gaussian()
TARGETS: dict[str, Any] = {
    "gaussian": Gaussian((1.5, -0.5), ((0.6, 0.3), (0.3, 0.4))),
    "mixture": GaussianMixture(((-1.5, 0.0), (1.5, 0.5)), 0.5, (1.0, 3.0)),
}
KERNELS: dict[str, Any] = {
    "mala": MALA(0.2),
    "hmc": HMC(0.35, 4),
    "ghmc": GHMC(0.3, 0.5),
    "nuts": NUTS(0.4, 4),
}


def flat(domain: Domain) -> Energy:
    return Pairs(
        domain, torch.zeros(2 * domain.shape, dtype=DOUBLE), torch.zeros(domain.shape, dtype=DOUBLE)
    )


def evenly(count: int) -> list[float]:
    return torch.linspace(0, 1, count, dtype=DOUBLE).tolist()


def unbiased(log_weights: Tensor, log_ratio: float) -> float:
    """|z| of the mean of exp(log w − log ratio) against 1. Weights so wide that their mean says
    nothing are condemned too.
    """
    shares = (log_weights - log_ratio).exp()
    assert shares.std() / math.sqrt(len(shares)) < 0.2, (
        "the weights are too wide for their mean to be known"
    )
    return abs(z_scores(shares, 1.0).item())


def run(
    path: list[Energy], sampler: Any, count: int = 4000, seed: int = 0, **options: Any
) -> AISResult:
    g = seeded(seed)
    return ais(path, sampler, BASE.draw(count, g, DOUBLE), generator=g, **options)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", TARGETS)
def test_the_ratio_of_normalisers_is_found(name: str, kernel: str) -> None:
    target = TARGETS[name]
    truth = target.log_z - BASE.log_z
    found = run(geometric_path(BASE, target, evenly(12)), KERNELS[kernel])
    assert (
        unbiased(found.log_weights, truth) < LIMIT
        and abs(found.log_ratio - truth) < LIMIT * found.error < 0.2
    )
    assert found.ess > 500 and min(found.acceptance) > 0.5 and len(found.acceptance) == 10


DISCRETE: dict[str, tuple[Domain, Any]] = {
    "gibbs": (binary(6), BlockGibbs()),
    "gwg": (binary(6), GibbsWithGradients()),
    "dmala": (binary(6), DMALA(0.5)),
    "categorical gibbs": (categorical(3, 4), BlockGibbs()),
    "categorical gwg": (categorical(3, 4), GibbsWithGradients()),
    "categorical dmala": (categorical(3, 4), DMALA(0.5)),
}


@pytest.mark.parametrize("case", DISCRETE)
@pytest.mark.parametrize("way", ["from the flat law", "from another"])
def test_the_ratio_is_found_on_discrete_domains(case: str, way: str) -> None:
    domain, sampler = DISCRETE[case]
    target, g, everything = glass(domain), seeded(1), states(domain)
    if way == "from the flat law":
        base, x = flat(domain), domain.draw(3000, g, dtype=DOUBLE)
        path: list[Energy] = [beta * target for beta in evenly(10)]
    else:
        base = glass(domain, seed=7, strength=0.3)
        x = everything[
            torch.multinomial(
                torch.softmax(-base(everything), 0), 3000, replacement=True, generator=g
            )
        ]
        path = geometric_path(base, target, evenly(10))
    truth = (torch.logsumexp(-target(everything), 0) - torch.logsumexp(-base(everything), 0)).item()
    found = ais(path, sampler, x, generator=g, steps=2)
    assert (
        unbiased(found.log_weights, truth) < LIMIT
        and abs(found.log_ratio - truth) < LIMIT * found.error < 0.5
    )


def annealed(
    path: list[Energy], sampler: Any, x: Tensor, g: torch.Generator, mistake: str = ""
) -> tuple[Tensor, Tensor]:
    """Annealed importance sampling written out, with a slot for each mistake: points and log
    weights.
    """
    log_w = torch.zeros(len(x), dtype=DOUBLE)
    for k in range(1, len(path)):
        before = x
        if mistake == "weighed before it moved under the next":
            x = sample(path[k], sampler, x, 1, generator=g).x
        change = path[k](x) - path[k - 1](x)
        if mistake == "off by one" and k + 1 < len(path):
            change = path[k + 1](x) - path[k](x)
        if mistake == "the old energy of another point":
            change = path[k](x) - path[k - 1](before.roll(1, 0))
        log_w = log_w + change if mistake == "sign" else log_w - change
        if k + 1 < len(path) and mistake != "weighed before it moved under the next":
            x = sample(
                path[k - 1] if mistake == "moved under the last" else path[k],
                sampler,
                x,
                1,
                generator=g,
            ).x
    return x, log_w


MISTAKES = (
    "weighed before it moved under the next",
    "off by one",
    "the old energy of another point",
    "sign",
    "moved under the last",
)


@pytest.mark.parametrize("name", TARGETS)
def test_planted_mistakes_are_caught_and_the_right_way_is_not(name: str) -> None:
    target = TARGETS[name]
    uneven = [beta**1.5 for beta in evenly(8)]  # between even ones, to be off by one is to be right
    path, truth = geometric_path(BASE, target, uneven), target.log_z - BASE.log_z
    x = BASE.draw(20_000, seeded(), DOUBLE)
    points, log_w = annealed(path, MALA(0.3), x, seeded(1))
    found = ais(path, MALA(0.3), x, generator=seeded(1))
    torch.testing.assert_close(found.x, points, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.log_weights, log_w, rtol=1e-9, atol=1e-9)
    assert unbiased(log_w, truth) < LIMIT
    missed = [
        m
        for m in MISTAKES
        if not caught(lambda m=m: unbiased(annealed(path, MALA(0.3), x, seeded(1), m)[1], truth))
    ]
    assert not missed


def opaque(path: list[Energy]) -> list[Energy]:
    """The same path, of energies that do not say what they are sums of."""
    return [Function(energy, energy.domain) for energy in path]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("base", [BASE, Function(BASE, real(2))], ids=["by hand", "by autograd"])
def test_what_is_carried_along_a_path_is_what_would_be_evaluated(base: Energy, kernel: str) -> None:
    path = geometric_path(base, mixture(TARGETS["gaussian"], TARGETS["mixture"]), evenly(8))
    a, b = (run(p, KERNELS[kernel], 200, steps=2) for p in (path, opaque(path)))
    torch.testing.assert_close(a.x, b.x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(a.log_weights, b.log_weights, rtol=1e-9, atol=1e-9)
    saved = (
        1 if kernel == "nuts" else 7
    )  # entering an energy is free where points are known, as at the start
    assert b.num_grad_evals - a.num_grad_evals == saved and a.moves == b.moves == 12


@pytest.mark.parametrize("case", DISCRETE)
def test_what_is_carried_is_right_on_discrete_domains(case: str) -> None:
    domain, sampler = DISCRETE[case]
    path, x = (
        geometric_path(flat(domain), glass(domain), evenly(8)),
        domain.draw(300, seeded(), dtype=DOUBLE),
    )
    same = [energy + flat(domain) for energy in path[:-1]] + [
        1.0 * path[-1]
    ]  # the terms of the last differ: paid for
    a, b = (ais(p, sampler, x, generator=seeded(2)) for p in (path, same))
    assert torch.equal(a.x, b.x)
    torch.testing.assert_close(a.log_weights, b.log_weights, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("domain", [binary(4), categorical(3, 3)], ids=str)
def test_samplers_may_take_turns_along_a_path(domain: Domain) -> None:
    target, x = glass(domain), domain.draw(3000, seeded(), dtype=DOUBLE)
    turns = [(BlockGibbs(), GibbsWithGradients(), DMALA(0.5))[k % 3] for k in range(10)]
    truth = torch.logsumexp(-target(states(domain)), 0).item() - math.log(len(states(domain)))
    found = ais(geometric_path(flat(domain), target, evenly(10)), turns, x, generator=seeded(1))
    assert unbiased(found.log_weights, truth) < LIMIT and len(found.acceptance) == 8


@pytest.mark.parametrize("kernel", KERNELS)
def test_on_a_path_that_goes_nowhere_chains_move_as_ever(kernel: str) -> None:
    target, x = TARGETS["gaussian"], TARGETS["gaussian"].draw(20, seeded(), DOUBLE)
    found = ais([target] * 7, KERNELS[kernel], x, generator=seeded(1))
    assert torch.equal(
        found.x, sample(target, KERNELS[kernel], x, 5, generator=seeded(1)).x
    )  # momenta are kept too
    assert not found.log_weights.any()


class Counted(Energy):
    """½‖x‖² / s² that counts how often it is differentiated."""

    def __init__(self, s: float) -> None:
        super().__init__(real(2))
        self.s, self.calls = s, 0

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        self.calls += x.requires_grad
        return 0.5 * x.square().sum(1) / self.s**2


@pytest.mark.parametrize(("sampler", "cost"), [(MALA(0.3), 1), (HMC(0.3, 4), 4), (GHMC(0.3), 1)])
def test_each_term_is_judged_once_per_point(sampler: Any, cost: int) -> None:
    base, target = Counted(1.0), Counted(0.7)
    found = ais(
        geometric_path(base, target, evenly(9)),
        sampler,
        torch.randn(5, 2, generator=seeded()),
        generator=seeded(),
        steps=3,
    )
    assert base.calls == target.calls == found.num_grad_evals == 1 + 7 * 3 * cost


def test_without_energies_between_it_is_importance_sampling() -> None:
    target, x = TARGETS["gaussian"], BASE.draw(50, seeded(), DOUBLE)
    found = ais([BASE, target], MALA(0.1), x, generator=seeded())
    assert torch.equal(found.x, x) and found.moves == 0 and found.acceptance == ()
    torch.testing.assert_close(found.log_weights, BASE(x) - target(x), rtol=1e-12, atol=1e-12)


def test_both_directions_bracket_the_truth_and_are_unbiased() -> None:
    target = TARGETS["gaussian"]
    path, truth, g = geometric_path(BASE, target, evenly(20)), target.log_z - BASE.log_z, seeded(3)
    up = ais(path, HMC(0.35, 4), BASE.draw(4000, g, DOUBLE), generator=g)
    down = ais(path[::-1], HMC(0.35, 4), target.draw(4000, g, DOUBLE), generator=g)
    assert unbiased(up.log_weights, truth) < LIMIT and unbiased(down.log_weights, -truth) < LIMIT
    assert (
        z_scores(up.log_weights, truth).item() < -LIMIT
        and z_scores(-down.log_weights, truth).item() > LIMIT
    )


def test_weighted_points_have_the_moments_of_the_target() -> None:
    target, found = (
        TARGETS["mixture"],
        run(geometric_path(BASE, TARGETS["mixture"], evenly(12)), MALA(0.2), 20_000),
    )
    shares = torch.softmax(found.log_weights, 0) * len(found.x)
    exact = target.draw(400_000, seeded(9), DOUBLE)
    for f in (lambda x: x[:, 0], lambda x: x[:, 0].square(), lambda x: (x[:, 1] > 0.5).double()):
        mean = (shares * f(found.x)).mean()
        error = (shares * (f(found.x) - mean)).std() / math.sqrt(len(shares))
        assert abs((mean - f(exact).mean()) / error) < LIMIT


def test_points_without_weight_count_for_nothing() -> None:
    wall = Function(
        lambda x: torch.where(x[:, 0] > 0.3, 0.5 * x.square().sum(1), math.inf), real(2)
    )
    x = BASE.draw(5000, seeded(), DOUBLE)
    found = ais(geometric_path(BASE, wall, evenly(6)), MALA(0.3), x, generator=seeded(1))
    inside = x[:, 0] > 0.3
    assert torch.equal(found.log_weights == -math.inf, ~inside)
    assert found.log_weights[inside].abs().max() < 1e-12 and bool((found.x[inside, 0] > 0.3).all())
    truth = math.log(0.5 * math.erfc(0.3 / math.sqrt(2)))
    assert (
        abs(found.log_ratio - truth) < LIMIT * found.error
        and bool(found.diverged.any())
        and "refused" in repr(found)
    )


def test_the_estimate_is_made_of_its_weights() -> None:
    found = run(geometric_path(BASE, TARGETS["gaussian"], evenly(4)), MALA(0.2), 30)
    w = found.log_weights.exp()
    assert found.log_ratio == pytest.approx(w.mean().log().item()) and found.ess == pytest.approx(
        (w.sum() ** 2 / w.square().sum()).item()
    )
    assert found.error == pytest.approx((w.std() / w.mean() / math.sqrt(30)).item())
    assert repr(found).startswith(
        "AISResult(30 points of (2,), log Z ratio "
    ) and "2 moves, 3 gradients" in repr(found)


def test_ais_repeats_and_leaves_its_arguments_alone() -> None:
    path, x = geometric_path(BASE, TARGETS["mixture"], evenly(5)), BASE.draw(20, seeded())
    path[2].train()
    before, heard = x.clone(), []
    a, b = (
        ais(path, MALA(0.2), x, generator=seeded(4), steps=2, progress=heard.append)
        for _ in range(2)
    )
    assert (
        torch.equal(a.log_weights, b.log_weights)
        and torch.equal(a.x, b.x)
        and torch.equal(x, before)
    )
    assert path[2].training and sum(heard) == 2 * 4 and a.log_weights.dtype == DOUBLE
    samplers = [MALA(0.1 * (k + 1)) for k in range(5)]
    c = ais(path, samplers, x, generator=seeded(4), steps=2)
    assert not torch.equal(a.x, c.x) and c.acceptance == tuple(sorted(c.acceptance, reverse=True))


def broken(x: Tensor) -> Tensor:
    return torch.where(x[:, 0] > 0, math.nan, 0.0) + x.square().sum(1)


@pytest.mark.parametrize(
    ("path", "sampler", "words"),
    [
        ([BASE], MALA(0.1), "at least two"),
        ([BASE, BASE], Langevin(0.1), "leave exp"),
        ([BASE, BASE], ParallelTempering(MALA(0.1), (1.0, 2.0)), "leave exp"),
        ([BASE, BASE], BlockGibbs(), "domain"),
        ([BASE, BASE], [MALA(0.1)], "one each"),
        ([BASE, Function(broken, real(2))], MALA(0.1), "not numbers"),
        (
            [BASE, Function(lambda x: x.sum().expand(len(x)), real(2))],
            MALA(0.1),
            "energy of another",
        ),
    ],
)
def test_ais_refuses_what_would_make_it_wrong(path: Any, sampler: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        run(path, sampler, 20)
    assert str(error.value).count(";") >= 2


def test_a_geometric_path_goes_from_base_to_target() -> None:
    x, target = BASE.draw(5, seeded(), DOUBLE), TARGETS["mixture"]
    path = geometric_path(BASE, target, (0.0, 0.3, 1.0))
    for energy, expected in zip(
        path, (BASE(x), 0.7 * BASE(x) + 0.3 * target(x), target(x)), strict=True
    ):
        torch.testing.assert_close(energy(x), expected)
    for betas in ((0.0,), (0.0, 1.5), (-0.1, 1.0), (0.0, math.nan)):
        with pytest.raises(ValueError, match=r"betas are .*;.*;"):
            geometric_path(BASE, target, betas)
