"""Domains: reflection is a billiard, an involution, and preserves the uniform law; draws and walls
are what they say.
"""

import json
import math

import pytest
import torch
from contract.cases import seeded
from contract.checks import LIMIT, wall_count_matches, z_scores

from lowland import binary, box, categorical, real
from lowland.domain import Domain

DOUBLE = torch.float64


def test_reflection_is_the_path_of_a_ball_that_turns_at_every_wall() -> None:
    wall_count_matches()


def test_points_inside_stay_with_their_momentum() -> None:
    x = torch.linspace(-1, 2, 31, dtype=DOUBLE).unsqueeze(1)
    p = torch.randn(31, 1, generator=seeded(), dtype=DOUBLE)
    y, q = box(-1.0, 2.0, 1).reflect(x, p)
    torch.testing.assert_close(y, x, rtol=0, atol=1e-15)
    assert q is not None and torch.equal(q, p)


def test_momentum_turns_by_the_parity_of_wall_hits() -> None:
    x = 20 * torch.randn(2000, 3, generator=seeded(), dtype=DOUBLE)
    p = torch.ones_like(x)
    _, q = box(0.0, 1.5, 3).reflect(x, p)
    hits = (x / 1.5).floor().abs().long()
    assert q is not None and torch.equal(q, torch.where(hits % 2 == 1, -p, p))


def test_drift_and_reflect_run_backwards_is_the_way_home() -> None:
    """(x, p) ↦ reflect(x + p, p), the momentum turned round, is its own inverse: what makes
    reflected steps reversible.
    """
    domain = box(-0.5, 1.0, 4)
    x = domain.draw(500, seeded(), dtype=DOUBLE)
    p = 5 * torch.randn(500, 4, generator=seeded(1), dtype=DOUBLE)
    y, q = domain.reflect(x + p, p)
    assert q is not None and domain.contains(y).all()
    back, r = domain.reflect(y - q, -q)
    assert r is not None
    torch.testing.assert_close(back, x, rtol=0, atol=1e-12)
    torch.testing.assert_close(r, -p, rtol=0, atol=0)


def test_reflection_folds_the_line_evenly() -> None:
    # a uniform law over a whole number of widths folds to the uniform law: n = 40,000; mean 1/2,
    # variance 1/12
    x = 7 * torch.rand(40_000, 1, generator=seeded(2), dtype=DOUBLE) - 3
    y, _ = box(0.0, 1.0, 1).reflect(x)
    assert abs(z_scores(y, 0.5).item()) < LIMIT
    assert abs(z_scores((y - 0.5).square(), 1 / 12).item()) < LIMIT


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_rounding_never_leaves_the_box(dtype: torch.dtype) -> None:
    domain = box(0.1, 0.7, 1)
    near = torch.tensor([0.1, 0.7], dtype=dtype)
    tiny = torch.tensor([-1e-30, 1e-30, -1e-9, 1e-9, -1e-7, 1e-7], dtype=dtype)
    x = torch.cat(
        [(near.unsqueeze(1) + tiny).flatten(), near, torch.tensor([1e6, -1e6, 1e30], dtype=dtype)]
    )
    y, _ = domain.reflect(x.unsqueeze(1))
    assert domain.contains(y).all() or (y - y.clamp(0.1, 0.7)).abs().max() == 0


def test_points_that_are_not_finite_stay_so() -> None:
    y, _ = box(0.0, 1.0, 1).reflect(torch.tensor([[math.inf], [-math.inf], [math.nan]]))
    assert y.isnan().all()


def test_the_real_line_reflects_nothing() -> None:
    x, p = torch.tensor([[1e9]]), torch.tensor([[1.0]])
    y, q = real(1).reflect(x, p)
    assert y is x and q is p


@pytest.mark.parametrize(
    ("domain", "inside", "outside"),
    [
        (real(2), [[1e9, -1e9]], [[math.inf, 0.0], [0.0, math.nan]]),
        (box(0.0, 1.0, 2), [[0.0, 1.0], [0.5, 0.5]], [[-1e-6, 0.5], [0.5, 1.1], [math.nan, 0.5]]),
        (binary(2), [[0.0, 1.0]], [[0.5, 0.0], [2.0, 1.0], [-1.0, 0.0]]),
        (categorical(3, 2), [[0.0, 2.0]], [[0.5, 0.0], [3.0, 1.0], [-1.0, 0.0]]),
    ],
    ids=["real", "box", "binary", "categorical"],
)
def test_contains(domain: Domain, inside: list, outside: list) -> None:
    assert domain.contains(torch.tensor(inside)).all()
    assert not domain.contains(torch.tensor(outside)).any()
    assert domain.contains(domain.draw(200, seeded())).all()


def test_starting_points_have_their_law() -> None:
    # n = 20,000 rows of 2; mean and variance of N(0,1), U(−1,3), fair coins and a fair three-sided
    # die
    laws = [
        (real(2), 0.0, 1.0),
        (box(-1.0, 3.0, 2), 1.0, 16 / 12),
        (binary(2), 0.5, 0.25),
        (categorical(3, 2), 1.0, 2 / 3),
    ]
    for domain, mean, variance in laws:
        x = domain.draw(20_000, seeded(1), dtype=DOUBLE)
        assert x.dtype == DOUBLE and x.shape == (20_000, 2)
        assert z_scores(x, mean).abs().max() < LIMIT
        if domain.kind != "binary":
            assert z_scores((x - mean).square(), variance).abs().max() < LIMIT


def test_same_generator_same_points() -> None:
    for domain in (real(2), box(0.0, 1.0, 2), binary(2), categorical(4, 2)):
        assert torch.equal(domain.draw(5, seeded(3)), domain.draw(5, seeded(3)))


def survives(domain: Domain) -> None:
    again = Domain.from_dict(json.loads(json.dumps(domain.to_dict())))
    assert again == domain and hash(again) == hash(domain)


@pytest.mark.parametrize("domain", [real(), real(3), box(-1.0, 2.5, 1, 4, 4)], ids=str)
def test_survives_json(domain: Domain) -> None:
    survives(domain)


@pytest.mark.parametrize("domain", [binary(2), categorical(5, 2)], ids=str)
def test_discrete_domains_survive_json(domain: Domain) -> None:
    survives(domain)


def test_domains_that_mean_nothing_are_refused() -> None:
    for lo, hi in ((1.0, 0.0), (0.0, 0.0), (0.0, math.inf), (math.nan, 1.0)):
        with pytest.raises(ValueError, match=r";.*;"):
            box(lo, hi, 2)
    for bad in (lambda: real(0), lambda: real(2, -1), lambda: real(1.5), lambda: categorical(1, 2)):
        with pytest.raises(ValueError, match=r";.*;"):
            bad()
    with pytest.raises(ValueError, match="no event shape"):
        real().draw(3, seeded())
