"""What must be true of energies, objectives and chains, as functions; of samplers, lowland.testing
asks it.

The contract tests and the planted bugs of test_mutations.py use the same ones.

A statistical check returns the worst |z|, to be compared with `LIMIT`; an exact check raises
AssertionError.
"""

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lowland import (
    Energy,
    Function,
    Langevin,
    ReplayBuffer,
    ShortRun,
    box,
    energy_values,
    mixture,
    real,
    sample,
    value_and_score,
)
from lowland.energy import NoiseCondition
from lowland.objectives import Batch, Context
from lowland.testing import (  # noqa: F401  (test files import these from here)
    LIMIT,
    Probe,
    caught,
    chains_are_separate,
    diffusion_law,
    no_trace,
    sampling_leaves_no_trace,
    seeded,
    stationarity,
    temperature_law,
    unsettle,
    worst,
    z_scores,
)

# ----------------------------------------------------------------------------------------- samplers


def short_run_formula(sampler: Any) -> None:
    """y = clamp(x − step · clip(∇E) + noise · ξ), number by number, by numpy."""
    energy = Function(lambda x: x.pow(4).sum(1) + x[:, 0] * x[:, 1], real(2))
    x = torch.randn(500, 2, generator=seeded(1), dtype=torch.float64)
    y = sample(energy, sampler, x, 1, generator=seeded(9)).x.numpy()
    xi = torch.randn(500, 2, generator=seeded(9), dtype=torch.float64).numpy()
    a = x.numpy()
    gradient = 4 * a**3 + a[:, ::-1]
    if sampler.clip is not None:
        gradient = np.minimum(np.maximum(gradient, -sampler.clip), sampler.clip)
    expected = a - sampler.step_size * gradient + sampler.noise * xi
    if sampler.clamp is not None:
        expected = np.clip(expected, *sampler.clamp)
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)


def short_run_temperature(sampler: ShortRun) -> None:
    """Without clip and clamp, ShortRun is Langevin at its `temperature`."""
    bare = dataclasses.replace(sampler, clip=None, clamp=None)
    x = torch.randn(50, 2, generator=seeded(), dtype=torch.float64)
    bowl = Function(lambda x: x.square().sum(1))
    a = sample(bowl, bare, x, 5, generator=seeded(1)).x
    b = sample(bowl, Langevin(bare.step_size, bare.temperature), x, 5, generator=seeded(1)).x
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


# ----------------------------------------------------------------------------------------- energies


def gradient_error(energy: Energy, x: Tensor) -> float:
    """Worst difference of value_and_score's score from central differences, in units of the
    largest; float64.
    """
    energy, x, h = copy.deepcopy(energy).double().eval(), x.double(), 1e-5
    value, score = value_and_score(energy, x)
    torch.testing.assert_close(value, energy(x).detach())
    flat = x.flatten(1)
    sites = torch.linspace(0, flat.shape[1] - 1, min(flat.shape[1], 12)).long().unique()
    differences = []
    with torch.no_grad():
        for i in sites:
            step = torch.zeros_like(flat)
            step[:, i] = h
            up, down = ((flat + s * step).view_as(x) for s in (1, -1))
            differences.append((energy(up) - energy(down)) / (2 * h))
    expected = -torch.stack(differences, 1)
    scale = expected.abs().max().clamp(min=1e-3)
    return ((score.flatten(1)[:, sites] - expected).abs().max() / scale).item()


def gradient_is_right(energy: Energy, x: Tensor) -> None:
    """Central differences of step 1e-5 are good to about 1e-7 of the largest slope in float64."""
    error = gradient_error(energy, x)
    assert error < 1e-6, f"the score differs from central differences by {error:.2g}"


def rows_are_independent(energy: Energy, x: Tensor) -> None:
    """Moving row j leaves every other energy as it was, up to rounding."""
    before = energy_values(energy, x)
    for j in (0, len(x) // 2, len(x) - 1):
        moved = x.clone()
        moved[j] = x[j].flip(0) if x[j].dim() > 1 else x[j - 1] * 0.5
        rest = torch.arange(len(x)) != j
        torch.testing.assert_close(
            energy_values(energy, moved)[rest], before[rest], rtol=1e-5, atol=1e-5
        )


def algebra_error() -> float:
    """Worst relative difference of +, −, *, /, unary − and mixture from their definitions, in
    float64, by numpy.
    """
    g = seeded(2)
    x = torch.randn(50, 2, generator=g, dtype=torch.float64)
    a = Function(lambda x: 0.5 * x.square().sum(1))
    b = Function(lambda x: (x[:, 0] - 1).square() + x[:, 1].abs())
    ea, eb = a(x).numpy(), b(x).numpy()
    pairs = [
        (a + b, ea + eb),
        (a - b, ea - eb),
        (-a, -ea),
        (3 * a, 3 * ea),
        (a * 0.5, 0.5 * ea),
        (a / 4.0, ea / 4),
        (2 * (a - b / 2) - (a + b) / 5, 2 * (ea - eb / 2) - (ea + eb) / 5),
        (mixture(a, b), -np.logaddexp(np.log(0.5) - ea, np.log(0.5) - eb)),
        (mixture(a, b, weights=(0.2, 3.0)), -np.logaddexp(np.log(0.2) - ea, np.log(3.0) - eb)),
        (a + mixture(-a, b, weights=(1.0, 2.0)), ea - np.logaddexp(ea, np.log(2.0) - eb)),
    ]
    return max(np.abs((e(x).numpy() - truth) / (1 + np.abs(truth))).max() for e, truth in pairs)


def algebra_is_right() -> None:
    error = algebra_error()
    assert error < 1e-12, f"an expression differs from its definition by {error:.2g}"


# ------------------------------------------------------------------------------- chains, objectives


class Bowl(Energy):
    """E(x) = θ ‖x‖² / 2: log Z = d/2 · log(2π/θ); with a noise level, θ ‖x‖² / 2(1 + σ²)."""

    def __init__(self, theta: float, *, noise: bool = False, dim: int = 1) -> None:
        super().__init__(real(dim))
        self.theta = nn.Parameter(torch.tensor(float(theta), dtype=torch.float64))
        self.noise = noise

    @property
    def condition(self) -> NoiseCondition | None:
        return NoiseCondition() if self.noise else None

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        value = self.theta * x.square().sum(1) / 2
        return value if c is None else value / (1 + c.square())


def likelihood_gradient(
    contrast: Callable[..., Any], *, batches: int = 300, rows: int = 200
) -> float:
    """|z| of the contrast's gradient against that of the exact −log p, with exact draws as
    negatives.

    For θx²/2: ∇(−log p) = mean(x²)/2 − 1/(2θ). The negatives z/√θ are differentiable in θ, as a
    sampler's would be.
    """
    g, theta = seeded(3), 2.5
    energy, errors = Bowl(theta), []
    for _ in range(batches):
        data = 0.8 * torch.randn(rows, 1, generator=g, dtype=torch.float64)
        negatives = torch.randn(rows, 1, generator=g, dtype=torch.float64) / energy.theta.sqrt()
        (gradient,) = torch.autograd.grad(contrast(energy, data, negatives).value, energy.theta)
        exact = data.square().mean() / 2 - 1 / (2 * theta)
        errors.append(gradient - exact)
    return abs(z_scores(torch.stack(errors)).item())


def dsm_minimiser(objective: Any, *, batches: int = 200, rows: int = 500) -> float:
    """|z| of the DSM gradient at the true energy of blurred Gaussian data, where it must vanish.

    Data N(0, 1) blurred by σ is N(0, 1 + σ²): E = θ x² / 2(1 + σ²) at θ = 1. The value there is ½
    mean_σ 1/(1 + σ²).
    """
    sigmas = torch.tensor(objective.sigmas, dtype=torch.float64)
    several = len(sigmas) > 1
    energy = Bowl(1.0, noise=True) if several else Bowl(1 / (1 + sigmas[0].item() ** 2))
    g, found = seeded(8), []
    for _ in range(batches):
        x = torch.randn(rows, 1, generator=g, dtype=torch.float64)
        loss = objective.loss(energy, Batch(x), Context(g))
        (gradient,) = torch.autograd.grad(loss.value, energy.theta)
        found.append(torch.stack([gradient, loss.value.detach()]))
    truth = torch.stack(
        [torch.zeros((), dtype=torch.float64), 0.5 * (1 / (1 + sigmas.square())).mean()]
    )
    return worst(torch.stack(found), truth)


def buffer_keeps_slots(buffer: ReplayBuffer, count: int) -> None:
    """What is put goes to the slots that were taken, row by row, and nowhere else; labels do not
    move.
    """
    before, ages = buffer.x.clone(), buffer.age.clone()
    labels = None if buffer.labels is None else buffer.labels.clone()
    visit = buffer.sample(count, seeded(5))
    assert len(visit.slots.unique()) == count, "slots were drawn twice"
    assert torch.equal(visit.x[~visit.reinitialized], before[visit.slots][~visit.reinitialized]), (
        "points are not those of the slots"
    )
    moved = visit.x + torch.arange(count).view(-1, *[1] * (visit.x.dim() - 1)) / (1000 * count)
    buffer.update(visit, moved, 7)
    assert torch.equal(buffer.x[visit.slots], moved), "points were not written to their slots"
    rest = torch.ones(len(buffer), dtype=torch.bool)
    rest[visit.slots] = False
    assert torch.equal(buffer.x[rest], before[rest]) and torch.equal(
        buffer.age[rest], ages[rest]
    ), "others changed"
    assert torch.equal(
        buffer.age[visit.slots], torch.where(visit.reinitialized, 0, ages[visit.slots]) + 7
    ), "ages are wrong"
    assert labels is None or (
        torch.equal(buffer.labels, labels) and torch.equal(visit.labels, labels[visit.slots])
    )


def pcd_keeps_slots(objective: Any) -> None:
    """PCD's negatives go back to the slots they came from, and its labels are those of the
    slots.
    """
    seen: list[Any] = []

    class Spy(Bowl):
        def forward(self, x: Tensor, c: Any = None) -> Tensor:
            seen.append(c)
            return super().forward(x) + (0.0 if c is None else 0.1 * c)

    energy = Spy(1.0, dim=2)
    buffer = ReplayBuffer(64, real(2), generator=seeded(), classes=4, reinit_prob=0.2)
    before = buffer.x.clone()
    visit = copy.deepcopy(buffer).sample(16, seeded(1))
    labels = torch.arange(16) % 4
    loss = objective.loss(
        energy,
        Batch(torch.zeros(16, 2), labels),
        Context(seeded(1), sampler=Langevin(0.1), buffer=buffer),
    )
    rest = torch.ones(64, dtype=torch.bool)
    rest[visit.slots] = False
    assert torch.equal(buffer.x[rest], before[rest]), "slots that were not visited changed"
    assert torch.equal(buffer.x[visit.slots], loss.negatives), (
        "negatives are not in the slots they came from"
    )
    assert not torch.equal(buffer.x[visit.slots], visit.x), "the chains did not move"
    assert all(torch.equal(c, visit.labels) for c in seen[:-1]), (
        "chains ran under labels that are not theirs"
    )
    assert torch.equal(seen[-1], torch.cat([labels, visit.labels])), (
        "the loss used labels that are not the chains'"
    )


def direct_contrast(
    energy: Energy, positives: Tensor, negatives: Tensor, l2: float, c: Any, d: Any
) -> list[Tensor]:
    """Gradients in the weights of mean E(x⁺) − mean E(x⁻) + l2 (mean E(x⁺)² + mean E(x⁻)²), written
    out anew.
    """
    up = energy(positives) if c is None else energy(positives, c)
    down = energy(negatives.detach()) if d is None else energy(negatives.detach(), d)
    value = up.mean() - down.mean() + l2 * (up.pow(2).mean() + down.pow(2).mean())
    return list(torch.autograd.grad(value, [p for p in energy.parameters() if p.requires_grad]))


def wall_count_matches() -> None:
    """Reflection against a ball that is walked in small steps and turned at every wall."""
    domain = box(-1.0, 2.0, 1)
    g = np.random.default_rng(0)
    for _ in range(60):
        start, travel = g.uniform(-1, 2), g.uniform(-20, 20)
        x, left, sign = start, abs(travel), math.copysign(1.0, travel)
        while left > 0:
            gap = (2 - x) if sign > 0 else (x + 1)
            hop = min(gap, left)
            x, left = x + sign * hop, left - hop
            sign = -sign if left > 0 else sign
        p = torch.tensor([[travel]], dtype=torch.float64)
        y, q = domain.reflect(torch.tensor([[start + travel]], dtype=torch.float64), p)
        assert abs(y.item() - x) < 1e-9, "the point is not where the ball is"
        assert q is not None and q.item() == abs(travel) * sign, (
            "the momentum was not turned once per wall"
        )
