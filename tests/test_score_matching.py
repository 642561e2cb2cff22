"""Score matching: the trace is that of the Hessian, the minimiser is the law of the data, on the
line and between walls.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from contract.cases import seeded
from contract.truths import TRUTHS, Normal, planted, slopes
from torch import Tensor, nn

from lowland import Energy, Function, box, real
from lowland.nets import MLP
from lowland.objectives import Batch, Context, ScoreMatching
from lowland.testing import LIMIT, caught, worst

DOUBLE = torch.float64
METHODS = [
    {"method": "exact"},
    {"method": "hutchinson"},
    {"method": "hutchinson", "probes": 3},
    {"method": "sliced"},
    {"method": "sliced", "variance_reduced": False},
]
every = pytest.mark.parametrize("settings", METHODS, ids=lambda s: "-".join(map(str, s.values())))


def value(
    objective: Any, energy: Energy, x: Tensor, seed: int = 0, labels: Tensor | None = None
) -> Tensor:
    return objective.loss(energy, Batch(x, labels), Context(seeded(seed))).value


def hessian_loss(energy: Energy, x: Tensor) -> Tensor:
    """The loss written out anew from whole Hessians, row by row, with g and g' of a box by hand."""
    total = torch.zeros((), dtype=DOUBLE)
    lo, hi = energy.domain.lo, energy.domain.hi
    for row in x:

        def alone(z: Tensor, shape: torch.Size = row.shape) -> Tensor:
            return energy(z.view(1, *shape)).squeeze(0)

        flat = row.flatten()
        slope = torch.autograd.functional.jacobian(alone, flat, create_graph=True)
        bend = torch.autograd.functional.hessian(alone, flat, create_graph=True).diagonal()
        g, turn = torch.ones_like(flat), torch.zeros_like(flat)
        if energy.domain.kind == "box":
            u = (flat - lo) / (hi - lo)
            g, turn = 4 * u * (1 - u), 4 * (1 - 2 * u) / (hi - lo)
        total = total + (g * slope**2 / 2 - g * bend - turn * slope).sum()
    return total / len(x)


def network(kind: str) -> tuple[Energy, Tensor]:
    torch.manual_seed(0)
    domain = real(4) if kind == "line" else box(-1.0, 2.0, 4)
    return MLP(domain, hidden=(8, 8), quadratic_weight=0.3).double(), domain.draw(
        6, seeded(1), dtype=DOUBLE
    )


def like_the_hessian(objective: Any) -> float:
    """|z| of value and gradient against whole Hessians over 80 draws of directions, of an MLP on
    the line and in a box.
    """
    found = []
    for kind in ("line", "box"):
        energy, x = network(kind)
        expected = hessian_loss(energy, x)
        truth = torch.cat([expected.detach().view(1), slopes(expected, energy)])
        rows = []
        for seed in range(2 if objective.method == "exact" else 80):
            loss = value(objective, energy, x, seed)
            rows.append(torch.cat([loss.detach().view(1), slopes(loss, energy)]))
        if objective.method == "exact":
            torch.testing.assert_close(rows[0], truth, rtol=1e-9, atol=1e-9)
        else:
            moving = torch.stack(rows).std(0) > 1e-9
            found.append(worst(torch.stack(rows)[:, moving], truth[moving]))
            torch.testing.assert_close(rows[0][~moving], truth[~moving], rtol=1e-7, atol=1e-7)
    return max(found, default=0.0)


@every
def test_the_trace_is_that_of_the_hessian(settings: dict[str, Any]) -> None:
    assert like_the_hessian(ScoreMatching(**settings)) < LIMIT


@every
@pytest.mark.parametrize("check", TRUTHS)
def test_the_minimiser_is_the_law_of_the_data(settings: dict[str, Any], check: str) -> None:
    assert TRUTHS[check](ScoreMatching(**settings)) < LIMIT


@pytest.mark.parametrize("check", TRUTHS)
def test_another_law_is_no_minimiser(check: str) -> None:
    assert TRUTHS[check](ScoreMatching(), off=1.1) > LIMIT


def test_on_gaussians_score_matching_is_the_method_of_moments() -> None:
    # exactly, on any sample: the gradient vanishes at mean and inverse covariance of the sample
    # (Hyvärinen 2005, section 3.1)
    x = torch.randn(50, 3, generator=seeded(), dtype=DOUBLE) * torch.tensor(
        [1.0, 2.0, 0.5], dtype=DOUBLE
    )
    energy = Normal(x.mean(0), torch.cov(x.T, correction=0).inverse())
    assert slopes(value(ScoreMatching(), energy, x), energy).abs().max() < 1e-10


def test_slope_and_curvature_agree_at_the_minimum() -> None:
    x = torch.randn(40, 2, generator=seeded(), dtype=DOUBLE)
    energy = Normal(x.mean(0), torch.cov(x.T, correction=0).inverse())
    terms = ScoreMatching().loss(energy, Batch(x), Context(seeded())).terms
    torch.testing.assert_close(terms["slope"], terms["curvature"])


def test_variance_is_reduced() -> None:
    energy, x = network("line")
    plain, reduced = (
        torch.stack(
            [
                value(ScoreMatching("sliced", 1, less), energy, x, seed).detach()
                for seed in range(100)
            ]
        ).var()
        for less in (False, True)
    )
    assert reduced < plain


def test_an_energy_that_is_linear_has_no_curvature() -> None:
    layer = nn.Linear(3, 1).double()
    energy = Function(lambda x: layer(x).squeeze(1), real(3))
    found = value(ScoreMatching(), energy, torch.randn(5, 3, dtype=DOUBLE))
    torch.testing.assert_close(found, 0.5 * layer.weight.square().sum())


def test_labels_are_the_condition() -> None:
    classes = MLP(real(3), hidden=(8,), classes=2).double()
    x, y = torch.randn(6, 3, generator=seeded(), dtype=DOUBLE), torch.tensor([0, 1, 0, 1, 1, 1])
    whole = value(ScoreMatching(), classes, x, labels=y)
    parts = [hessian_loss(classes.given(k), x[y == k]) * (y == k).sum() / 6 for k in (0, 1)]
    torch.testing.assert_close(whole, sum(parts))


def test_a_long_event_is_refused_in_words_that_help() -> None:
    image = MLP(box(0.0, 1.0, 1, 9, 9), hidden=(4,))
    with pytest.raises(ValueError, match=r'81 numbers.*at most 64; set method = "hutchinson"'):
        value(ScoreMatching(), image, image.domain.draw(2, seeded()))
    assert value(ScoreMatching(limit=81), image, image.domain.draw(2, seeded())).isfinite()
    assert value(ScoreMatching("hutchinson"), image, image.domain.draw(2, seeded())).isfinite()


def test_what_makes_no_sense_is_refused() -> None:
    for settings in (
        {"method": "exactly"},
        {"probes": 0},
        {"limit": 0},
        {"method": "exact", "variance_reduced": False},
    ):
        with pytest.raises(ValueError, match=r";.*;"):
            ScoreMatching(**settings)
    from lowland import binary
    from lowland.nets import RBM

    rbm = RBM(binary(4), 3)
    with pytest.raises(
        ValueError, match="binary domain; it is for real and box ones; use PseudoLikelihood"
    ):
        value(ScoreMatching(), rbm, rbm.domain.draw(3, seeded()))


# ------------------------------------------------------------------------------------- planted bugs

SEEN_BY: dict[str, Callable[..., float]] = {**TRUTHS, "hessian": like_the_hessian}
LOSS, WALL, DIRECTIONS = "ScoreMatching.loss", "_wall_weight", "ScoreMatching._directions"
BUGS = {
    "trace divided by D": (
        LOSS,
        "share * _total(weight * v * bent)",
        "share * _total(weight * v * bent) / 3",
        "gaussian",
        0,
    ),
    "sign of the trace": (
        LOSS,
        "0.5 * square - curvature",
        "0.5 * square + curvature",
        "gaussian",
        0,
    ),
    "half forgotten": (LOSS, "0.5 * square - curvature", "square - curvature", "gaussian", 0),
    "gradient of the mean": (
        LOSS,
        "differentiate_values(values, x)",
        "differentiate_values(values / len(x), x)",
        "gaussian",
        0,
    ),
    "trace without a graph": (
        LOSS,
        "share * _total(weight * v * bent)",
        "share * _total(weight * v * bent.detach())",
        "mixture",
        0,
    ),
    "not summed over probes": (LOSS, "curvature + share *", "share *", "gaussian", 2),
    "probes not averaged": (DIRECTIONS, "1 / self.probes", "1.0", "gaussian", 2),
    "signs that are not signs": ("_signs", "2 * torch.randint", "torch.randint", "gaussian", 1),
    "projection not squared": (
        LOSS,
        "* v * gradient).square()",
        "* v * gradient).abs()",
        "gaussian",
        4,
    ),
    "no weight at the walls": (WALL, '!= "box"', '!= "boxes"', "walls", 0),
    "sign of the weight's slope": (WALL, "(lo + hi - 2 * x)", "(2 * x - lo - hi)", "walls", 0),
    "weight's slope forgotten": (LOSS, "- _total(turn * gradient)\n", "\n", "walls", 0),
    "width not squared: another scale": (WALL, "(hi - lo) ** 2", "(hi - lo)", "hessian", 0),
    "weight twice in the projection": (LOSS, "weight.sqrt() * v", "weight * v", "walls", 4),
}


@pytest.mark.parametrize(("where", "old", "new", "check", "method"), BUGS.values(), ids=BUGS)
def test_planted_bugs_are_seen(where: str, old: str, new: str, check: str, method: int) -> None:
    broken = planted("score", where, old, new).ScoreMatching(**METHODS[method])
    assert caught(SEEN_BY[check], broken)
    if method == 0:
        assert caught(like_the_hessian, broken)
