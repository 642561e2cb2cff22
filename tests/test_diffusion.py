"""From noise to data: maps and laws known in closed form, orders of convergence by regression,
planted mistakes.
"""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from contract.cases import seeded
from contract.checks import LIMIT, caught, worst
from torch import Tensor

from lowland import DMALA, HMC, MALA, Energy, Function, Langevin, binary, box, real, value_and_score
from lowland.energy import NoiseCondition
from lowland.nets import NoiseMLP
from lowland.samplers import (
    ParallelTempering,
    anneal,
    geometric_schedule,
    karras_sigmas,
    predictor_corrector,
    probability_flow,
    scale_step_sizes,
    vp_to_ve,
)
from lowland.samplers.kernel import normal_like

DOUBLE = torch.float64


class Noised(Energy):
    """Σ w_k N(m_k, s_k²) on the line, with noise: E(x, σ) = −log Σ w_k N(x; m_k, s_k² + σ²)."""

    condition = NoiseCondition()

    def __init__(
        self, means: tuple[float, ...], scales: tuple[float, ...], shares: tuple[float, ...]
    ) -> None:
        super().__init__(real(1))
        self.means, self.scales, self.shares = (
            torch.tensor(v, dtype=DOUBLE) for v in (means, scales, shares)
        )
        self.calls = 0

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        self.calls += x.requires_grad
        variance = self.scales.square() + torch.as_tensor(c, dtype=x.dtype).view(-1, 1) ** 2
        logs = (
            self.shares.log()
            - 0.5 * (x - self.means).square() / variance
            - 0.5 * (2 * math.pi * variance).log()
        )
        return -torch.logsumexp(logs, 1)

    def draw(self, count: int, sigma: float, g: torch.Generator) -> Tensor:
        """Exact draws (count, 1) at a noise level."""
        which = torch.multinomial(self.shares, count, replacement=True, generator=g)
        spread = (self.scales[which].square() + sigma**2).sqrt()
        return (
            self.means[which] + spread * torch.randn(count, generator=g, dtype=DOUBLE)
        ).unsqueeze(1)

    def below(self, x: Tensor, sigma: float) -> Tensor:
        """P(X ≤ x) at a noise level. The flow moves points along lines of equal probability: it
        keeps their order.
        """
        spread = (self.scales.square() + sigma**2).sqrt()
        return (self.shares * torch.special.ndtr((x - self.means) / spread)).sum(1)

    def path(self, sigmas: Any) -> list[Energy]:
        return [self.given(float(sigma)) for sigma in sigmas]


NORMAL = Noised((0.7,), (0.5,), (1.0,))
MODES = Noised((-1.5, 0.5, 2.0), (0.3, 0.2, 0.5), (0.3, 0.3, 0.4))
LAWS = {"normal": NORMAL, "modes": MODES}
HIGH, LOW = 20.0, 0.05


def map_error(flow: Any, law: Noised, count: int, order: int) -> float:
    """Largest error of the flow map in probability, from the first level to the last, over points
    at even quantiles.
    """
    sigmas = karras_sigmas(HIGH, LOW, count)
    x = law.draw(200, HIGH, seeded())
    y = flow(law.path(sigmas), sigmas, x, order=order).x
    return (law.below(y, LOW) - law.below(x, HIGH)).abs().max().item()


def right_order(flow: Any, law: Noised, order: int) -> None:
    """The power with which the error falls, by regression of logarithms, is the order."""
    counts = (33, 65, 129, 257)
    errors = [map_error(flow, law, count, order) for count in counts]
    found = -np.polyfit(np.log([count - 1 for count in counts]), np.log(errors), 1)[0]
    assert abs(found - order) < 0.15, f"order {found:.2f}, not {order}"
    assert errors[-1] < 0.02, "the flow ends elsewhere"


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("order", [1, 2])
def test_the_flow_converges_with_its_order_to_the_exact_map(law: str, order: int) -> None:
    right_order(probability_flow, LAWS[law], order)


def test_the_flow_map_of_a_gaussian_is_its_formula_both_ways() -> None:
    x = NORMAL.draw(50, HIGH, seeded())
    sigmas = karras_sigmas(HIGH, LOW, 1500)
    down = probability_flow(NORMAL.path(sigmas), sigmas, x)
    expected = 0.7 + (x - 0.7) * math.sqrt((0.25 + LOW**2) / (0.25 + HIGH**2))
    torch.testing.assert_close(down.x, expected, rtol=0, atol=1e-5)
    up = probability_flow(NORMAL.path(sigmas[::-1]), sigmas[::-1], down.x)
    torch.testing.assert_close(up.x, x, rtol=0, atol=2e-3)
    assert down.sigma == LOW and up.sigma == HIGH


def flow_with(mistake: str) -> Any:
    """The flow written anew with a slot for each mistake."""

    def flow(path: list[Energy], sigmas: Any, x: Tensor, *, order: int = 2) -> Any:
        def slope(energy: Energy, sigma: float, x: Tensor) -> Tensor:
            return (
                (1 if mistake == "sign" else -1)
                * (1 if mistake == "no sigma" else sigma)
                * value_and_score(energy, x)[1]
            )

        for (energy, sigma), (ahead, below) in pairwise(zip(path, sigmas, strict=True)):
            h, first = below - sigma, slope(energy, sigma, x)
            y = x + (0.97 if mistake == "step" else 1.0) * h * first
            if order == 2:
                second = {
                    "old sigma": lambda y=y: slope(ahead, sigma, y),  # noqa: B023
                    "old energy": lambda y=y: slope(energy, below, y),  # noqa: B023
                    "old point": lambda x=x: slope(ahead, below, x),  # noqa: B023
                    "first slope twice": lambda first=first: first,
                }.get(mistake, lambda y=y: slope(ahead, below, y))()  # noqa: B023
                share = 0.6 if mistake == "weights" else 0.5
                y = x + h * ((1 - share) * first + share * second)
            x = y
        return type("Flowed", (), {"x": x})

    return flow


MISTAKES = (
    "old sigma",
    "old energy",
    "old point",
    "first slope twice",
    "weights",
    "sign",
    "no sigma",
)


@pytest.mark.parametrize("law", ["normal", pytest.param("modes", marks=pytest.mark.slow)])
def test_mistakes_of_one_letter_in_the_flow_are_caught(law: str) -> None:
    x, sigmas = LAWS[law].draw(20, HIGH, seeded()), karras_sigmas(HIGH, LOW, 20)
    for order in (1, 2):
        mine = flow_with("")(LAWS[law].path(sigmas), sigmas, x, order=order).x
        torch.testing.assert_close(
            probability_flow(LAWS[law].path(sigmas), sigmas, x, order=order).x, mine
        )
    right_order(flow_with(""), LAWS[law], 2)
    assert not [m for m in MISTAKES if not caught(right_order, flow_with(m), LAWS[law], 2)]
    assert not [
        m
        for m in ("sign", "no sigma", "step")
        if not caught(right_order, flow_with(m), LAWS[law], 1)
    ]


def test_the_first_order_step_is_that_of_ddim() -> None:
    sigmas, x = (3.0, 2.0, 0.5), MODES.draw(9, 3.0, seeded())
    found = probability_flow(MODES.path(sigmas), sigmas, x, order=1, denoise=True)
    for sigma, below in pairwise((*sigmas, 0.0)):
        clean = x + sigma**2 * value_and_score(MODES.given(sigma), x)[1]
        x = clean + below / sigma * (x - clean)
    torch.testing.assert_close(found.x, x, rtol=1e-12, atol=1e-12)
    assert found.sigma == 0.0


# ---------------------------------------------------------------------------------- laws at the end


def law_error(x: Tensor, law: Noised, sigma: float) -> float:
    """Worst |z| of the shares below the quantiles of the law, its mean and its square, at points
    (N, 1).
    """
    shares = torch.tensor([0.002, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98, 0.998], dtype=DOUBLE)
    cuts = law.draw(200_000, sigma, seeded(99)).quantile(shares)
    exact = torch.stack([law.below(cut.view(1, 1), sigma)[0] for cut in cuts])
    mean = (law.shares * law.means).sum()
    square = (law.shares * (law.means.square() + law.scales.square() + sigma**2)).sum()
    features = torch.cat([(x <= cuts).double(), x, x.square()], 1)
    return worst(features, torch.cat([exact, mean.view(1), square.view(1)]))


COUNT = 10_000


def corrector(law: Noised, sigma: float) -> MALA:
    """A step that suits a noise level."""
    return MALA(0.6 * (sigma**2 + law.scales.min().item() ** 2))


@pytest.mark.parametrize("name", LAWS)
def test_the_flow_ends_at_draws_of_the_last_level(name: str) -> None:
    law = LAWS[name]
    x = law.draw(COUNT, HIGH, seeded())
    for count, right in ((120, True), (6, False)):
        sigmas = karras_sigmas(HIGH, LOW, count)
        made = probability_flow(law.path(sigmas), sigmas, x)
        assert (law_error(made.x, law, LOW) < LIMIT) == right
        assert not made.diverged.any() and not made.outside.any()


@pytest.mark.parametrize("name", LAWS)
def test_a_corrector_mends_what_wide_steps_of_the_predictor_break(name: str) -> None:
    law, sigmas, g = LAWS[name], karras_sigmas(HIGH, LOW, 16), seeded(1)
    path, x, correctors = (
        law.path(sigmas),
        law.draw(COUNT, HIGH, seeded()),
        [corrector(law, s) for s in sigmas],
    )
    alone = predictor_corrector(path, sigmas, x, correctors, 0, generator=g)
    both = predictor_corrector(path, sigmas, x, correctors, 12 * 16, generator=g)
    assert law_error(alone.x, law, LOW) > 3 * LIMIT
    assert law_error(both.x, law, LOW) < LIMIT
    assert (
        len(both.acceptance) == 16
        and min(both.acceptance) > 0.4
        and alone.acceptance == (0.0,) * 16
    )


def test_the_ancestral_step_has_the_variance_of_its_recursion() -> None:
    # from N(m, v): v' = v (1 − δ / (s² + σ²))² + σ'² δ / σ², δ = σ² − σ'²: short of the exact law
    # by a known amount
    def recursion_error(noise: float) -> float:
        sigmas = (4.0, 2.0, 1.0, 0.5)
        x = NORMAL.draw(100_000, 4.0, seeded())
        if noise == 1.0:
            x = predictor_corrector(
                NORMAL.path(sigmas), sigmas, x, Langevin(0.1), 0, generator=seeded(1)
            ).x
        v, g = 0.25 + 16.0, seeded(1)
        for sigma, below in pairwise(sigmas):
            fall = sigma**2 - below**2
            v = v * (1 - fall / (0.25 + sigma**2)) ** 2 + below**2 * fall / sigma**2
            if noise != 1.0:
                score = value_and_score(NORMAL.given(sigma), x)[1]
                x = x + fall * score + noise * below * math.sqrt(fall) / sigma * normal_like(x, g)
        return max(worst(x, 0.7), worst((x - 0.7).square(), v))

    assert recursion_error(1.0) < LIMIT and recursion_error(0.97) > LIMIT


def test_many_levels_need_no_corrector() -> None:
    sigmas, x = karras_sigmas(HIGH, LOW, 400), MODES.draw(COUNT, HIGH, seeded())
    made = predictor_corrector(MODES.path(sigmas), sigmas, x, Langevin(0.1), 0, generator=seeded(1))
    assert law_error(made.x, MODES, LOW) < LIMIT


def test_annealed_langevin_reaches_the_same_law() -> None:
    sigmas, x = geometric_schedule(3.0, 0.3, 12), MODES.draw(COUNT, 3.0, seeded())
    ladder = scale_step_sizes(corrector(MODES, 0.3), sigmas)
    traces = anneal(MODES.path(sigmas), ladder, x, 600, generator=seeded(1))
    assert law_error(traces[-1].x, MODES, 0.3) < LIMIT
    direct = anneal(MODES.path(sigmas[-1:]), ladder[-1:], x, 50, generator=seeded(1))
    assert (
        law_error(direct[-1].x, MODES, 0.3) > LIMIT
    )  # one level alone leaves the modes with other shares


def test_the_jump_is_the_expected_clean_point() -> None:
    sigmas, x = (2.0, 0.8), NORMAL.draw(20, 2.0, seeded())
    still = probability_flow(NORMAL.path(sigmas), sigmas, x)
    jumped = probability_flow(NORMAL.path(sigmas), sigmas, x, denoise=True)
    expected = (
        still.x * 0.25 + 0.7 * 0.64
    ) / 0.89  # the posterior mean of x_0 for data N(0.7, 0.25) with noise 0.8
    torch.testing.assert_close(jumped.x, expected)
    assert jumped.sigma == 0.0 and jumped.num_grad_evals == still.num_grad_evals + 1
    a, b = (
        predictor_corrector(
            NORMAL.path(sigmas), sigmas, x, MALA(0.3), 6, generator=seeded(), denoise=j
        )
        for j in (False, True)
    )
    torch.testing.assert_close(b.x, (a.x * 0.25 + 0.7 * 0.64) / 0.89)
    assert a.num_grad_evals == b.num_grad_evals


# ----------------------------------------------------------------------------------------- contract


def test_gradients_are_those_that_are_declared() -> None:
    law = Noised((0.0, 1.0), (0.5, 0.5), (0.5, 0.5))
    sigmas, x = karras_sigmas(HIGH, LOW, 9), law.draw(5, HIGH, seeded())
    for order in (1, 2):
        for jump in (False, True):
            law.calls = 0
            assert (
                probability_flow(
                    law.path(sigmas), sigmas, x, order=order, denoise=jump
                ).num_grad_evals
                == law.calls
                == 8 * order + jump
            )
    law.calls = 0
    made = predictor_corrector(
        law.path(sigmas), sigmas, x, HMC(0.1, 3), 20, generator=seeded(), denoise=True
    )
    assert made.num_grad_evals == law.calls == 9 + 20 * 3


def test_runs_repeat_and_leave_module_and_points_alone() -> None:
    torch.manual_seed(0)
    net = NoiseMLP(box(0.0, 1.0, 1, 4, 4), hidden=(8,)).train()
    sigmas, x = karras_sigmas(5.0, 0.1, 6), 5 * torch.randn(3, 1, 4, 4, generator=seeded())
    path, before, heard = [net.given(s) for s in sigmas], x.clone(), []
    flows = [probability_flow(path, sigmas, x, progress=heard.append) for _ in range(2)]
    chains = [
        predictor_corrector(
            path, sigmas, x, Langevin(0.001), 12, generator=seeded(1), progress=heard.append
        )
        for _ in range(2)
    ]
    other = predictor_corrector(path, sigmas, x, Langevin(0.001), 12, generator=seeded(2))
    for a, b in (flows, chains):
        assert torch.equal(a.x, b.x) and a.x.shape == x.shape and a.x.dtype == torch.float32
    assert not torch.equal(chains[0].x, other.x) and sum(heard) == 2 * 5 + 2 * (12 + 6)
    assert (
        torch.equal(x, before)
        and net.training
        and all(p.requires_grad and p.grad is None for p in net.parameters())
    )
    alone = probability_flow(path, sigmas, x[1:2]).x
    torch.testing.assert_close(alone, flows[0].x[1:2], rtol=1e-4, atol=1e-5)


def test_walls_do_not_stop_noise_and_points_beyond_them_are_counted() -> None:
    # data at ½ ± 0.2 in the unit box, so that some of its Gaussian lies outside
    law = lambda x, sigma: 0.5 * (x - 0.5).square().sum(1) / (0.04 + sigma**2)  # noqa: E731
    sigmas = karras_sigmas(HIGH, LOW, 60)
    x = 0.5 + math.sqrt(0.04 + HIGH**2) * torch.randn(5000, 1, generator=seeded(), dtype=DOUBLE)
    boxed, free = (Function(law, domain) for domain in (box(0.0, 1.0, 1), real(1)))
    for make in (
        lambda e: probability_flow([e.given(s) for s in sigmas], sigmas, x),
        lambda e: predictor_corrector(
            [e.given(s) for s in sigmas], sigmas, x, Langevin(1e-3), 60, generator=seeded(1)
        ),
    ):
        a, b = make(boxed), make(free)
        assert torch.equal(a.x, b.x) and torch.equal(a.outside, ((a.x < 0) | (a.x > 1)).squeeze(1))
        assert (
            20 < int(a.outside.sum()) < 200
            and not b.outside.any()
            and "outside the domain" in repr(a)
        )


def test_scores_that_are_not_finite_stop_their_point_and_are_counted() -> None:
    def broken(x: Tensor, sigma: Tensor) -> Tensor:
        return (
            torch.where((x[:, 0] > 5) & (sigma < 1), math.nan, 1.0)
            * 0.5
            * x.square().sum(1)
            / (1 + sigma**2)
        )

    energy, sigmas = Function(broken, real(1)), karras_sigmas(4.0, 0.1, 20)
    x = torch.tensor([[-3.0], [0.5], [40.0]], dtype=DOUBLE)
    for made in (
        probability_flow([energy.given(s) for s in sigmas], sigmas, x),
        predictor_corrector(
            [energy.given(s) for s in sigmas], sigmas, x, MALA(1e-3), 20, generator=seeded()
        ),
    ):
        assert made.diverged[2] > 3 and made.x[2] > 5 and bool(torch.isfinite(made.x).all())
        assert not made.diverged[:2].any() and repr(made).endswith(
            "1 met non-finite scores and are no draws)"
        )


def test_a_path_that_preserves_the_variance_is_the_same_path() -> None:
    # data N(0.7, 0.25): x_t = α x_0 + √(1 − α²) ξ ~ N(0.7 α, 0.25 α² + 1 − α²)
    alphas = [1 / math.sqrt(1 + s**2) for s in karras_sigmas(HIGH, LOW, 40)]
    shrunk = [
        Function(
            lambda x, a=a: 0.5 * (x - 0.7 * a).square().sum(1) / (0.25 * a**2 + 1 - a**2), real(1)
        )
        for a in alphas
    ]
    path, sigmas = vp_to_ve(shrunk, alphas)
    assert sigmas == pytest.approx(karras_sigmas(HIGH, LOW, 40))
    x = NORMAL.draw(30, HIGH, seeded())
    a, b = (probability_flow(p, sigmas, x) for p in (path, NORMAL.path(sigmas)))
    torch.testing.assert_close(a.x, b.x, rtol=1e-8, atol=1e-8)
    value, score = value_and_score(path[3], x)
    torch.testing.assert_close(score, value_and_score(NORMAL.given(sigmas[3]), x)[1])
    torch.testing.assert_close(value, shrunk[3](alphas[3] * x))
    for bad in (alphas[:-1], [0.0, *alphas[1:]], [*alphas[:-1], 1.0]):
        with pytest.raises(ValueError, match=r"alphas.*;.*;"):
            vp_to_ve(shrunk, bad)


def test_a_ladder_of_levels_is_even_in_its_power() -> None:
    for rho in (1.0, 3.0, 7.0):
        ladder = karras_sigmas(80.0, 0.002, 18, rho)
        roots = np.array(ladder) ** (1 / rho)
        np.testing.assert_allclose(np.diff(roots), (roots[-1] - roots[0]) / 17)
        assert ladder[0] == 80.0 and ladder[-1] == 0.002
    for bad in (
        (0.1, 1.0, 5),
        (1.0, 0.0, 5),
        (1.0, 0.1, 1),
        (math.inf, 0.1, 5),
        (1.0, 0.1, 5, 0.0),
    ):
        with pytest.raises(ValueError, match=r";.*;"):
            karras_sigmas(*bad)


PAIR = [NORMAL.given(2.0), NORMAL.given(1.0)]
X = torch.zeros(3, 1, dtype=DOUBLE)


@pytest.mark.parametrize(
    ("path", "sigmas", "x", "more", "words"),
    [
        (PAIR, (2.0,), X, {}, "one each"),
        ([], (), X, {}, "one each"),
        (PAIR, (1.0, 1.0), X, {}, "falling"),
        (PAIR, (1.0, 0.0), X, {}, "above 0"),
        (PAIR, (1.0, 2.0), X, {"denoise": True}, "falling"),
        (PAIR, (2.0, 1.0), X + math.nan, {}, "finite"),
        (PAIR, (2.0, 1.0), torch.zeros(3, 2), {}, "event shape"),
        (PAIR, (2.0, 1.0), X, {"order": 3}, "order is 3"),
        ([Function(lambda x: x.sum().expand(len(x)))] * 2, (2.0, 1.0), X, {}, "energy of another"),
        ([Function(lambda x: x.sum(1), binary(1))] * 2, (2.0, 1.0), X, {}, "binary"),
    ],
)
def test_flows_refuse_what_is_no_path(
    path: Any, sigmas: Any, x: Tensor, more: Any, words: str
) -> None:
    with pytest.raises(ValueError, match=words) as error:
        probability_flow(path, sigmas, x, **more)
    assert str(error.value).count(";") >= 2


def test_the_corrector_is_refused_where_it_cannot_be_used() -> None:
    for sampler, sigmas, words in (
        (ParallelTempering(MALA(0.1), (1.0, 2.0)), (2.0, 1.0), "keeps no score"),
        (DMALA(0.1), (2.0, 1.0), "domain"),
        ([MALA(0.1)], (2.0, 1.0), "one each"),
        (MALA(0.1), (1.0, 2.0), "falling;"),
    ):
        with pytest.raises(ValueError, match=words) as error:
            predictor_corrector(PAIR, sigmas, X, sampler, 4, generator=seeded())
        assert str(error.value).count(";") >= 2
