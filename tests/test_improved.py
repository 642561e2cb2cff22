"""Improved contrastive divergence: the KL term against a chain unrolled by hand, entropy by
neighbours, chains shaken up.
"""

import copy
import math
from typing import Any

import pytest
import torch
from contract import checks
from contract.cases import seeded
from contract.checks import LIMIT, Bowl, z_scores
from torch import Tensor

from lowland import MALA, Function, Langevin, ReplayBuffer, ShortRun, binary, box, real
from lowland.nets import MLP
from lowland.objectives import Batch, Context, ImprovedCD, contrast, improved_cd
from lowland.objectives.augment import TRANSFORMS, augment

DOUBLE = torch.float64


def buffer_of(rows: int, seed: int = 0, **more: Any) -> ReplayBuffer:
    return ReplayBuffer(
        rows, real(1), generator=seeded(seed), dtype=DOUBLE, reinit_prob=0.0, **more
    )


def kl_gradient(
    objective: ImprovedCD, theta: float, sampler: Any, rows: int = 400, seed: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """∂θ of the KL term alone: the loss less its contrast; with where the chains were before and
    after the last step.
    """
    bowl, buffer = Bowl(theta), buffer_of(rows, seed)
    before = copy.deepcopy(buffer).sample(rows, seeded(seed + 1)).x
    x = torch.zeros(rows, 1, dtype=DOUBLE)
    loss = objective.loss(bowl, Batch(x), Context(seeded(seed + 1), sampler=sampler, buffer=buffer))
    plain = contrast(bowl, x, loss.negatives)
    return torch.autograd.grad(loss.value - plain.value, bowl.theta)[0], before, loss.negatives


@pytest.mark.parametrize(
    "sampler", [Langevin(0.05), Langevin(0.2, temperature=0.5), ShortRun(0.1, 0.3)], ids=repr
)
def test_the_downhill_part_is_the_gradient_through_an_unrolled_step(sampler: Any) -> None:
    # x' = x − hθx + noise: ∂θ of θ₀ x'²/2 with θ₀ held is θ₀ x' · (−h x), row by row
    theta, h = 1.7, sampler.step_size
    found, before, after = kl_gradient(
        ImprovedCD(steps=1, buffer_size=400, kl=0.6, entropy=0.0), theta, sampler
    )
    torch.testing.assert_close(
        found, 0.6 * (theta * after * (-h * before)).mean(), rtol=1e-10, atol=1e-12
    )


def test_the_downhill_part_has_the_mean_of_its_closed_form() -> None:
    # chains at N(0, 1): E[θ x' (−h x)] = −hθ (1 − hθ)
    theta, h = 1.7, 0.1
    objective = ImprovedCD(steps=1, buffer_size=400, kl=1.0, entropy=0.0)
    found = torch.stack(
        [kl_gradient(objective, theta, Langevin(h), seed=3 * seed)[0] for seed in range(150)]
    )
    truth = -h * theta * (1 - h * theta)
    assert z_scores(found, truth).abs() < LIMIT
    assert (
        z_scores(found, -truth).abs() > 20 and z_scores(found, 0.0).abs() > 20
    )  # a sign, and a term left out


def test_the_entropy_part_is_the_gradient_of_log_distances() -> None:
    # −∂θ mean log |x' − nearest| = mean h x / (x' − nearest)
    theta, h, rows = 1.2, 0.1, 300
    objective = ImprovedCD(steps=1, buffer_size=rows, kl=1.0, entropy=1.0)
    whole, before, after = kl_gradient(objective, theta, Langevin(h), rows)
    downhill, _, _ = kl_gradient(
        ImprovedCD(steps=1, buffer_size=rows, kl=1.0, entropy=0.0), theta, Langevin(h), rows
    )
    flat = after.squeeze(1)
    gaps = flat.unsqueeze(1) - flat + torch.eye(rows, dtype=DOUBLE) * 1e9
    nearest = gaps.gather(1, gaps.abs().argmin(1, keepdim=True)).squeeze(1)
    expected = (h * before.squeeze(1) / nearest).mean()
    torch.testing.assert_close(whole - downhill, expected, rtol=1e-6, atol=1e-8)


def test_the_weights_are_held_where_the_energy_is_read_off(monkeypatch: pytest.MonkeyPatch) -> None:
    # planted: without the hold, the term would hold ∂E/∂θ of the negatives too
    from contextlib import nullcontext

    objective = ImprovedCD(steps=1, buffer_size=400, kl=1.0, entropy=0.0)
    right, _, after = kl_gradient(objective, 1.7, Langevin(0.1))
    monkeypatch.setattr(improved_cd, "freeze", nullcontext)
    wrong, _, _ = kl_gradient(objective, 1.7, Langevin(0.1))
    torch.testing.assert_close(wrong - right, after.square().mean() / 2)
    assert (wrong - right).abs() > 0.1


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_entropy_by_neighbours_follows_the_scale(scale: float) -> None:
    # H(scale · x) − H(x) = d log scale, in three dimensions, exactly; a bank that holds the points
    # themselves changes nothing
    x, bank = torch.randn(50, 3, generator=seeded()), torch.randn(400, 3, generator=seeded(1))
    one, other = (
        improved_cd.neighbour_entropy(x, bank),
        improved_cd.neighbour_entropy(scale * x, scale * bank),
    )
    assert (other - one).item() == pytest.approx(3 * math.log(scale), abs=1e-4)
    assert improved_cd.neighbour_entropy(x, torch.cat([bank, x[:1]])) <= one


def test_entropy_by_neighbours_tells_normal_from_uniform() -> None:
    # 2000 draws and a bank of 2000: differences of entropies in nats, to within the estimator's
    # standard error
    found = []
    for seed in range(20):
        g = seeded(seed)
        a, b = (torch.randn(500, 1, generator=g) for _ in range(2))
        u, v = (math.sqrt(12) * torch.rand(500, 1, generator=g) for _ in range(2))
        found.append(improved_cd.neighbour_entropy(a, b) - improved_cd.neighbour_entropy(u, v))
    truth = 0.5 * math.log(2 * math.pi * math.e) - 0.5 * math.log(12)
    assert z_scores(torch.stack(found), truth).abs() < LIMIT


def test_without_the_term_it_is_pcd() -> None:
    torch.manual_seed(0)
    net = MLP(real(2), hidden=(8,))
    x, buffer = (
        torch.randn(10, 2, generator=seeded()),
        ReplayBuffer(20, real(2), generator=seeded(1)),
    )
    loss = ImprovedCD(steps=3, buffer_size=20, kl=0.0).loss(
        net, Batch(x), Context(seeded(2), sampler=Langevin(0.05), buffer=buffer)
    )
    assert loss.negatives is not None
    torch.testing.assert_close(loss.value, contrast(net, x, loss.negatives).value)


def test_chains_go_back_to_their_own_slots() -> None:
    checks.pcd_keeps_slots(ImprovedCD(steps=3, buffer_size=64, kl=0.0))


def test_spectral_norm_does_not_move_through_the_last_step() -> None:
    torch.manual_seed(0)
    net = MLP(real(2), hidden=(8,), spectral_norm=True).train()
    reference = copy.deepcopy(net)
    x, buffer = (
        torch.randn(10, 2, generator=seeded()),
        ReplayBuffer(20, real(2), generator=seeded(1)),
    )
    loss = ImprovedCD(steps=2, buffer_size=20).loss(
        net, Batch(x), Context(seeded(2), sampler=Langevin(0.05), buffer=buffer)
    )
    contrast(reference, x, loss.negatives)  # one training forward, as anywhere
    for a, b in zip(net.buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(a, b)


# ------------------------------------------------------------------------------------- augmentation


def image(rows: int = 6, seed: int = 0) -> Tensor:
    return torch.rand(rows, 3, 8, 8, generator=seeded(seed))


@pytest.mark.parametrize("name", sorted(TRANSFORMS))
def test_a_transform_moves_images_inside_their_box_by_its_own_generator(name: str) -> None:
    x, domain = image(40), box(0.0, 1.0, 3, 8, 8)
    before, state = x.clone(), torch.get_rng_state()
    a, b = (augment(x, (name,), seeded(1), domain) for _ in range(2))
    assert (
        torch.equal(a, b) and torch.equal(x, before) and torch.equal(torch.get_rng_state(), state)
    )
    assert a.shape == x.shape and domain.contains(a).all() and not torch.equal(a, x)
    assert not torch.equal(a, augment(x, (name,), seeded(2), domain))


def test_transforms_do_what_they_are_called() -> None:
    x, domain = image(400), real(3, 8, 8)
    flipped = augment(x, ("flip",), seeded(1), domain)
    turned = (flipped == x.flip(-1)).flatten(1).all(1)
    assert (turned | (flipped == x).flatten(1).all(1)).all() and 0.4 < turned.float().mean() < 0.6
    even = torch.ones(20, 1, 8, 8)
    for name in ("shift", "rotate", "blur"):  # means of neighbours
        torch.testing.assert_close(augment(even, (name,), seeded(1), real(1, 8, 8)), even)
    ramp = torch.linspace(0, 1, 64).view(1, 1, 1, 64).expand(50, 1, 64, 64)
    moves = (augment(ramp, ("shift",), seeded(1), real(1, 64, 64)) - ramp)[:, 0, 32, 20:40].mean(
        1
    ) * 63
    assert moves.abs().max() < 8.01 and moves.std() > 2  # an eighth of 64
    torch.testing.assert_close(moves, moves.round(), rtol=0.0, atol=1e-3)  # by whole pixels
    blurred = augment(x, ("blur",), seeded(1), domain)
    changed = (blurred != x).flatten(1).any(1)
    assert (
        0.4 < changed.float().mean() < 0.6 and (blurred.var((2, 3)) < x.var((2, 3)))[changed].all()
    )
    noisy = augment(
        torch.zeros(100, 2) + torch.randn(100, 2, generator=seeded(3)),
        ("noise",),
        seeded(1),
        real(2),
    )
    assert noisy.shape == (100, 2)


def test_vectors_and_bits_refuse_transforms_of_images() -> None:
    with pytest.raises(ValueError, match=r"pictures.*;"):
        augment(torch.zeros(3, 2), ("flip",), seeded(), real(2))
    with pytest.raises(ValueError, match=r"binary.*;"):
        augment(torch.zeros(3, 2), ("noise",), seeded(), binary(2))


def test_a_share_of_the_visited_chains_is_augmented() -> None:
    objective = ImprovedCD(steps=1, buffer_size=2000, augment=("noise",), augment_prob=0.3, kl=0.0)
    x = torch.randn(2000, 1, generator=seeded(), dtype=DOUBLE)
    moved = (objective._augment(x, Bowl(1.0), seeded(1)) != x).double()
    assert z_scores(moved, 0.3).abs().max() < LIMIT
    still = ImprovedCD(augment=("noise",), augment_prob=0.0)._augment(x, Bowl(1.0), seeded(1))
    assert torch.equal(still, x)


# -------------------------------------------------------------------------------------------- doors


@pytest.mark.parametrize(
    "settings",
    [
        {"kl": -1.0},
        {"entropy": math.nan},
        {"augment_prob": 1.5},
        {"buffer_size": 0},
        {"steps": 0},
        {"augment": ("mirror",)},
    ],
    ids=str,
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r";.*;"):
        ImprovedCD(**settings)


def test_a_sampler_that_cannot_be_differentiated_is_refused() -> None:
    flat = Function(lambda x: x.square().sum(1), real(1))
    for sampler, buffer in ((MALA(0.1), buffer_of(8)), (Langevin(0.1), None)):
        with pytest.raises(ValueError, match=r"(Langevin or ShortRun|ReplayBuffer).*;"):
            ImprovedCD().loss(
                flat, Batch(torch.zeros(4, 1)), Context(seeded(), sampler=sampler, buffer=buffer)
            )
