"""Recovery likelihood: conditional laws and ladders on Gaussians in closed form, and a loss whose
minimiser is the truth.
"""

import math
from typing import Any

import pytest
import torch
from contract import checks
from contract.cases import seeded
from contract.checks import LIMIT, Bowl, z_scores
from torch import Tensor

from lowland import HMC, MALA, Function, Langevin, binary, box, energy_values, real, sample
from lowland.nets import MLP, ConvNet, NoiseMLP
from lowland.objectives import Batch, Context, DiffusionRecovery
from lowland.objectives import recovery as objectives_recovery
from lowland.samplers import diffusion_recovery_sample, recovery
from lowland.samplers.recovery import ConditionalEnergy
from lowland.targets import Gaussian

DOUBLE = torch.float64
LADDER = (4.0, 2.0, 1.0, 0.5, 0.2)


def normal_of_noise() -> Function:
    return Function(lambda x, sigma: 0.5 * x.square().sum(1) / (1 + sigma**2), real(2))


# ------------------------------------------------------------------------------ the conditional law


def test_the_conditional_energy_is_its_formula_and_knows_its_gradient() -> None:
    torch.manual_seed(0)
    net = MLP(real(3), hidden=(8,)).double()
    x, noisy = (torch.randn(5, 3, generator=seeded(i), dtype=DOUBLE) for i in range(2))
    spread = torch.tensor([0.3, 0.5, 1.0, 2.0, 4.0], dtype=DOUBLE)
    law = ConditionalEnergy(net, noisy, spread)
    expected = torch.stack(
        [net(x)[i] + (noisy[i] - x[i]).square().sum() / (2 * spread[i] ** 2) for i in range(5)]
    )
    torch.testing.assert_close(law(x), expected)
    checks.gradient_is_right(law, x)
    index = torch.tensor([3, 1])
    torch.testing.assert_close(
        energy_values(law.index_rows(index), x[index]), law(x)[index].detach()
    )


@pytest.mark.parametrize("shape", [(2,), (1, 3, 3)], ids=str)
def test_chains_of_the_conditional_law_have_its_mean_and_variance(shape: tuple[int, ...]) -> None:
    # E = ‖x‖²/2: precision 1 + 1/s², mean x̃ / (s² + 1); a row of its own s each
    n = 4000
    noisy, spread = 2 * torch.ones(n, *shape), torch.tensor([0.5, 2.0]).repeat(n // 2)
    law = ConditionalEnergy(
        Function(lambda x: 0.5 * x.square().flatten(1).sum(1), real(*shape)), noisy, spread
    )
    x = sample(
        law, recovery.scale_to_noise(MALA(0.3), spread), noisy, 60, generator=seeded()
    ).x.flatten(1)
    for s, rows in ((0.5, x[::2]), (2.0, x[1::2])):
        mean, variance = 2 / (s**2 + 1), 1 / (1 + 1 / s**2)
        assert z_scores(rows, mean).abs().max() < LIMIT
        assert z_scores((rows - mean).square(), variance).abs().max() < LIMIT


def test_walls_are_left_without_the_energys_own() -> None:
    law = ConditionalEnergy(
        ConvNet(box(0.0, 1.0, 1, 8, 8), channels=(4,), kernels=(3,), strides=(2,), hidden=8),
        torch.zeros(2, 1, 8, 8),
        0.5,
    )
    assert law.domain == real(1, 8, 8)


# ----------------------------------------------------------------------------------------- sampling


def recovered(n: int = 4000) -> Tensor:
    g = seeded(1)
    start = math.sqrt(1 + LADDER[0] ** 2) * torch.randn(n, 2, generator=g, dtype=DOUBLE)
    return diffusion_recovery_sample(
        normal_of_noise(), LADDER, start, MALA(0.3), 160, generator=g
    ).x


def test_gaussian_data_are_recovered_with_their_law() -> None:
    x = recovered()
    assert z_scores(x).abs().max() < LIMIT
    assert z_scores(x.square(), 1 + LADDER[-1] ** 2).abs().max() < LIMIT
    assert z_scores(x[:, :1] * x[:, 1:]).abs().max() < LIMIT


def test_both_humps_are_recovered_in_their_shares() -> None:
    # 0.3 N(−2, 0.2²) + 0.7 N(2, 0.2²) from N(0, 5²): chains of the clean law never cross
    def bumps(x: Tensor, sigma: Tensor) -> Tensor:
        variance = 0.04 + sigma**2
        logs = [
            math.log(w) - 0.5 * (x[:, 0] - m) ** 2 / variance - 0.5 * variance.log()
            for w, m in ((0.3, -2.0), (0.7, 2.0))
        ]
        return -torch.logsumexp(torch.stack(logs), 0)

    sigmas = (5.0, 3.0, 2.0, 1.3, 0.8, 0.5, 0.3, 0.15, 0.05)
    g = seeded(2)
    made = diffusion_recovery_sample(
        Function(bumps, real(1)),
        sigmas,
        5.3 * torch.randn(4000, 1, generator=g),
        MALA(0.3),
        240,
        generator=g,
    )
    right = (made.x > 0).double()
    assert z_scores(right, 0.7).abs().max() < LIMIT
    assert (made.x.abs() - 2).abs().mean() < 0.2 and made.diverged.sum() == 0


@pytest.mark.parametrize("bug", ["spread too wide", "spread too narrow", "step not scaled"])
def test_a_planted_bug_in_the_ladder_is_found(monkeypatch: pytest.MonkeyPatch, bug: str) -> None:
    right, scale_to_noise = recovery.ConditionalEnergy, recovery.scale_to_noise
    if bug.startswith("spread"):
        factor = 1.3 if bug == "spread too wide" else 0.7
        monkeypatch.setattr(recovery, "ConditionalEnergy", lambda e, x, s: right(e, x, factor * s))
    if bug == "step not scaled":
        monkeypatch.setattr(
            recovery, "scale_to_noise", lambda sampler, s: scale_to_noise(sampler, 0.02)
        )
    x = recovered()
    assert z_scores(x.square(), 1 + LADDER[-1] ** 2).abs().max() > LIMIT


def test_gradients_and_points_outside_are_counted() -> None:
    calls = []

    def counted(x: Tensor, sigma: Tensor) -> Tensor:
        calls.append(len(x))
        return 0.5 * x.square().sum(1) / (1 + sigma**2)

    made = diffusion_recovery_sample(
        Function(counted, box(-1.0, 1.0, 2)),
        LADDER,
        torch.randn(50, 2, generator=seeded()),
        MALA(0.3),
        10,
        generator=seeded(),
    )
    assert (
        made.num_grad_evals == len(calls) == 14 and made.sigma == 0.2 and len(made.acceptance) == 4
    )
    assert torch.equal(made.outside, (made.x.abs() > 1).any(1)) and made.outside.any()


# ---------------------------------------------------------------------------------------- objective


def gradients(
    theta: float, sigmas: tuple[float, ...], batches: int = 40, rows: int = 300
) -> Tensor:
    """∂θ of the loss for E = θx² / 2(1 + σ²) on data N(0, 1): (batches,)."""
    found, g = [], seeded(4)
    for _ in range(batches):
        bowl = Bowl(theta, noise=True)
        x = torch.randn(rows, 1, generator=g, dtype=DOUBLE)
        loss = DiffusionRecovery(sigmas, steps=15).loss(
            bowl, Batch(x), Context(g, sampler=MALA(0.4))
        )
        found.append(torch.autograd.grad(loss.value, bowl.theta)[0])
    return torch.stack(found)


def exact(theta: float, high: float, low: float) -> float:
    """∂θ of −log p_θ(x | x̃) on average: ½ {1 − E[x²] / (1 + σ²)}, x from the model given x̃ of the
    data.
    """
    s2, v = high**2 - low**2, 1 + low**2
    precision = theta / v + 1 / s2
    square = 1 / precision + (1 / s2 / precision) ** 2 * (1 + high**2)
    return 0.5 * (1 - square / v)


@pytest.mark.parametrize("sigmas", [(1.0, 0.3), (3.0, 1.5, 0.7)], ids=str)
def test_the_minimiser_is_the_true_law_at_every_level(sigmas: tuple[float, ...]) -> None:
    assert z_scores(gradients(1.0, sigmas)).abs() < LIMIT


@pytest.mark.parametrize("theta", [0.3, 2.5])
def test_the_gradient_is_that_of_the_exact_recovery_likelihood(theta: float) -> None:
    truth, found = exact(theta, 1.0, 0.3), gradients(theta, (1.0, 0.3))
    assert z_scores(found, truth).abs() < LIMIT
    assert (
        z_scores(found, -truth).abs() > 20 and z_scores(found, 0.0).abs() > 20
    )  # a sign; no gradient


def test_a_planted_spread_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        objectives_recovery, "ConditionalEnergy", lambda e, x, s: ConditionalEnergy(e, x, 0.7 * s)
    )
    assert z_scores(gradients(1.0, (1.0, 0.3))).abs() > 2 * LIMIT


def test_no_gradient_reaches_the_negatives_and_nothing_is_kept() -> None:
    torch.manual_seed(0)
    net, x = NoiseMLP(real(2), hidden=(8,)), torch.randn(9, 2, generator=seeded())
    loss = DiffusionRecovery().loss(net, Batch(x), Context(seeded(1), sampler=Langevin(0.1)))
    assert (
        loss.negatives is not None
        and not loss.negatives.requires_grad
        and not DiffusionRecovery().persistent
    )
    assert loss.terms["gap"] == -loss.value.detach()


# -------------------------------------------------------------------------------------------- doors


@pytest.mark.parametrize(
    "settings",
    [{"sigmas": (1.0,)}, {"sigmas": (0.1, 1.0)}, {"sigmas": (1.0, 0.0)}, {"steps": 0}],
    ids=str,
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r";.*;"):
        DiffusionRecovery(**settings)


def test_what_cannot_be_recovered_is_refused() -> None:
    g = seeded()
    with pytest.raises(ValueError, match=r"no noise level;.*;"):
        DiffusionRecovery().loss(
            MLP(real(2), hidden=(4,)), Batch(torch.zeros(2, 2)), Context(g, sampler=MALA(0.1))
        )
    with pytest.raises(ValueError, match=r"HMC;.*;"):
        diffusion_recovery_sample(
            normal_of_noise(), LADDER, torch.zeros(2, 2), HMC(0.1, 3), 5, generator=g
        )
    with pytest.raises(ValueError, match=r"binary;.*;"):
        diffusion_recovery_sample(
            Function(lambda x, c: x.sum(1), binary(2)),
            LADDER,
            torch.zeros(2, 2),
            MALA(0.1),
            5,
            generator=g,
        )
    with pytest.raises(ValueError, match=r"falling;"):
        diffusion_recovery_sample(
            Gaussian(), (1.0, 2.0), torch.zeros(2, 2), MALA(0.1), 5, generator=g
        )
