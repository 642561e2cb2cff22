"""What must be true, as functions. The contract tests and the planted bugs of test_mutations.py use the same ones.

A statistical check returns the worst |z|, to be compared with `LIMIT`; an exact check raises AssertionError.
"""

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from contract.cases import Target, seeded
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

LIMIT = 5.0  # standard errors


def caught(check: Callable[..., Any], *args: Any, **kwargs: Any) -> bool:
    """Whether a check condemns what it is given: it raises AssertionError or returns more than LIMIT."""
    try:
        z = check(*args, **kwargs)
    except AssertionError:
        return True
    return z is not None and not z < LIMIT


def z_scores(values: Tensor, truth: Tensor | float = 0.0) -> Tensor:
    """(mean − truth) in standard errors of independent rows (N, ...); a column without spread must be right."""
    values = values.double()
    error = values.std(0) / math.sqrt(len(values))
    difference = values.mean(0) - truth
    exact = torch.where(difference == 0, 0.0, math.inf)
    return torch.where(error > 0, difference / error.clamp(min=1e-300), exact)


def worst(values: Tensor, truth: Tensor | float = 0.0) -> float:
    """The largest |z| of the columns."""
    return z_scores(values, truth).abs().max().item()


# ------------------------------------------------------------------------------------------------------------ samplers


def _features(x: Tensor, values: Tensor, cuts: Tensor) -> Tensor:
    """Moments (winsorised at the outer cuts, so that heavy tails keep the z-scores normal) and tail probabilities."""
    both = torch.cat([x, values.unsqueeze(1)], 1).double()
    clipped = both.clamp(cuts[0], cuts[-1])
    tails = (both.unsqueeze(2) > cuts.T.unsqueeze(0)).double().flatten(1)
    pair = (clipped[:, :1] * clipped[:, -2:-1]) if x.shape[1] > 1 else clipped[:, :0]
    return torch.cat([clipped, clipped.square(), pair, tails], 1)


def stationarity(
    sampler: Any,
    target: Target,
    *,
    dtype: torch.dtype = torch.float32,
    count: int = 20_000,
    steps: int = 12,
    seeds: Sequence[int] = (0, 1, 2),
) -> float:
    """Worst pooled |z| of moments, energies and tail probabilities after `steps` from exact draws, against the start.

    The differences f(x_steps) − f(x_0) are independent between chains and have mean zero if the law is left invariant.
    """
    pooled = []
    shares = torch.tensor([0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.995], dtype=torch.float64)
    for seed in seeds:
        g = seeded(seed)
        x, other = target.draw(count, g, dtype), target.draw(count, g, dtype)
        both = torch.cat([other, energy_values(target.energy, other).unsqueeze(1)], 1).double()
        cuts = both.quantile(shares, 0)
        trace = sample(target.energy, sampler, x, steps, generator=g)
        assert trace.acceptance.mean() > 0.1, f"acceptance is {trace.acceptance.mean():.3f}: a chain at rest proves nothing"
        after = _features(trace.x, energy_values(target.energy, trace.x), cuts)
        before = _features(x, energy_values(target.energy, x), cuts)
        pooled.append(z_scores(after - before))
    return (torch.stack(pooled).sum(0) / math.sqrt(len(pooled))).abs().max().item()


def temperature_law(sampler: Any, step_size: float, temperature: float, *, count: int = 20_000, steps: int = 15) -> float:
    """|z| of mean and variance of unadjusted Langevin on N(0, 1), which leaves N(0, T / (1 − h/2)) invariant exactly.

    x' = (1 − h) x + √(2hT) ξ keeps the variance v = (1 − h)² v + 2hT.
    """
    v = temperature / (1 - step_size / 2)
    bowl = Function(lambda x: 0.5 * x.square().sum(1), real(4))
    g = seeded(11)
    x = math.sqrt(v) * torch.randn(count, 4, generator=g)
    y = sample(bowl, sampler, x, steps, generator=g).x.double().flatten()
    return max(abs(z_scores(y).item()), abs(z_scores(y.square(), v).item()))


def diffusion_law(sampler: Any, step_size: float, temperature: float = 1.0) -> float:
    """|z| of one step from 0 on E(x) = b·x against N(−h b, 2hT), the law of y = x − h ∇E + √(2hT) ξ.

    A Metropolis sampler accepts all of it: on a linear energy the proposal is exact.
    """
    slope = 0.7
    energy = Function(lambda x: (slope * x).sum(1), real(4))
    trace = sample(energy, sampler, torch.zeros(20_000, 4), 1, generator=seeded(5))
    assert trace.acceptance.mean() > 0.999, "a proposal on a straight slope was refused"
    y = trace.x.double().flatten() + step_size * slope
    return max(abs(z_scores(y).item()), abs(z_scores(y.square(), 2 * step_size * temperature).item()))


def chains_are_separate(sampler: Any) -> None:
    """What chain 0 does must not depend on where the others are; and decisions are taken one by one."""
    bowl = Function(lambda x: 0.5 * x.square().sum(1), real(2))
    near = torch.randn(400, 2, generator=seeded(1))
    far = torch.cat([near[:200], near[200:] + 3.0])
    a, b = (sample(bowl, sampler, x, 6, generator=seeded(2), keep=1) for x in (near, far))
    assert torch.equal(a.draws[:, :200], b.draws[:, :200]), "moving some chains moved others"
    if sampler.adjusted:
        big = dataclasses.replace(sampler, step_size=3 * sampler.step_size) if hasattr(sampler, "step_size") else sampler
        wide = sample(bowl, big, near, 6, generator=seeded(2)).acceptance
        assert wide.min() < wide.max(), "all chains were accepted or refused together"


class Counting(Energy):
    """E(x) = ½‖x‖² that counts evaluations which build a graph: the gradient evaluations."""

    def __init__(self, domain: Any = None) -> None:
        super().__init__(domain)
        self.calls = 0

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        self.calls += torch.is_grad_enabled()
        return 0.5 * x.square().flatten(1).sum(1)


def gradients_as_declared(sampler: Any) -> None:
    """`gradients` per step, one for init, and Trace.gradients, against counted evaluations."""
    energy = Counting()
    state = sampler.init(energy, torch.ones(3, 2))
    assert energy.calls == 1, f"init took {energy.calls} gradients"
    energy.calls = 0
    for _ in range(4):
        state, _ = sampler.step(energy, state, seeded())
    assert energy.calls == 4 * sampler.gradients, f"{energy.calls} gradients in 4 steps, {sampler.gradients} declared each"
    energy.calls = 0
    trace = sample(energy, sampler, torch.ones(3, 2), 5, generator=seeded())
    assert trace.gradients == energy.calls
    energy.calls = 0
    more = sample(energy, sampler, trace.x, 5, generator=seeded(), state=trace.state)
    assert more.gradients == energy.calls


def state_is_fresh(sampler: Any) -> None:
    """The state's energy and score are those of its point, for moved and for refused chains alike."""
    energy = Function(lambda x: (x.square() - 1).square().sum(1), real(2))
    state = sampler.init(energy, torch.randn(50, 2, generator=seeded()).double())
    g = seeded(3)
    for _ in range(5):
        state, _ = sampler.step(energy, state, g)
    value, score = value_and_score(energy, state.x)
    torch.testing.assert_close(state.energy, value, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(state.score, score, rtol=1e-12, atol=1e-12)


def repeats(sampler: Any) -> None:
    """Same generator, same bits; five steps and five more equal ten; the global generator is left alone."""
    bowl = Function(lambda x: 0.5 * x.square().sum(1), real(2))
    x = torch.randn(20, 2, generator=seeded(4))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    ten = sample(bowl, sampler, x, 10, generator=seeded(7), keep=1)
    again = sample(bowl, sampler, x, 10, generator=seeded(7), keep=1)
    assert torch.equal(ten.draws, again.draws), "the same generator gave other bits"
    assert torch.equal(before, torch.get_rng_state()), "the global generator was used"
    g = seeded(7)
    half = sample(bowl, sampler, x, 5, generator=g)
    rest = sample(bowl, sampler, half.x, 5, generator=g, state=half.state)
    for a, b in zip(ten.state, rest.state, strict=True):
        assert torch.equal(a, b), "five steps and five more are not ten"
    total = (5 * half.acceptance + 5 * rest.acceptance) / 10
    torch.testing.assert_close(total, ten.acceptance)


HOLES: dict[str, Callable[[Tensor], Tensor]] = {  # energies that end at x = 1
    "inf": lambda x: torch.where(x[:, 0] > 1, math.inf, 0.5 * x.square().sum(1)),
    "minus inf": lambda x: torch.where(x[:, 0] > 1, -math.inf, 0.5 * x.square().sum(1)),
    "nan": lambda x: torch.where(x[:, 0] > 1, math.nan, 0.5 * x.square().sum(1)),
    "nan score": lambda x: 0.5 * x.square().sum(1) - 0.1 * torch.log(1 - x[:, 0]),
}


def refuses_holes(sampler: Any, hole: str) -> None:
    """A non-finite proposal is refused and counted, and its chain stays where it was, bit for bit."""
    energy = Function(HOLES[hole], real(2))
    x = 0.8 + 0.1 * torch.rand(200, 2, generator=seeded(1))
    g, state, counts = seeded(3), sampler.init(energy, x), torch.zeros(200, dtype=torch.long)
    for _ in range(10):
        new, info = sampler.step(energy, state, g)
        assert not (info.accept & info.diverged).any(), "a diverged proposal was accepted"
        for was, now in zip(state, new, strict=True):
            assert torch.equal(was[~info.accept], now[~info.accept]), "a refused chain moved"
        assert new.x.isfinite().all() and new.energy.isfinite().all() and new.score.isfinite().all()
        assert (new.x[:, 0] <= 1).all(), "a chain entered the region where the energy is not finite"
        state, counts = new, counts + info.diverged
    assert counts.sum() > 0, "no proposal was counted as diverged"
    trace = sample(energy, sampler, x, 10, generator=seeded(3))
    assert torch.equal(trace.diverged, counts) and torch.equal(trace.x, state.x)


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


# ------------------------------------------------------------------------------------------------------------ energies


def gradient_error(energy: Energy, x: Tensor) -> float:
    """Worst difference of value_and_score's score from central differences, in units of the largest; float64."""
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
        torch.testing.assert_close(energy_values(energy, moved)[rest], before[rest], rtol=1e-5, atol=1e-5)


def algebra_error() -> float:
    """Worst relative difference of +, −, *, /, unary − and mixture from their definitions, in float64, by numpy."""
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


# --------------------------------------------------------------------------------------------------------- leave no trace


def unsettle(module: nn.Module) -> None:
    """Mixed modes, mixed requires_grad and some gradients from before: what must be found again."""
    for i, part in enumerate(module.modules()):
        part.training = i % 3 != 1
    for i, p in enumerate(module.parameters()):
        p.requires_grad_(i % 3 != 2)
        if i % 2:
            p.grad = torch.full_like(p, 0.5)


@contextmanager
def no_trace(module: nn.Module, *, buffers: bool = True) -> Iterator[None]:
    """Asserts that the block, which may raise, leaves modes, buffers, weights, requires_grad and gradients as they were."""
    modes = {name: part.training for name, part in module.named_modules()}
    tensors = {name: (p, p.detach().clone()) for name, p in module.named_parameters()}
    wanted = {name: p.requires_grad for name, p in module.named_parameters()}
    grads = {name: (p.grad, None if p.grad is None else p.grad.clone()) for name, p in module.named_parameters()}
    held = {name: (b, b.clone()) for name, b in module.named_buffers()}
    try:
        yield
    finally:
        assert modes == {name: part.training for name, part in module.named_modules()}, "a mode changed"
        assert wanted == {name: p.requires_grad for name, p in module.named_parameters()}, "requires_grad changed"
        for name, p in module.named_parameters():
            assert p is tensors[name][0] and torch.equal(p.detach(), tensors[name][1]), f"weight {name} changed"
            assert p.grad is grads[name][0], f"the gradient of {name} was replaced"
            assert p.grad is None or torch.equal(p.grad, grads[name][1]), f"the gradient of {name} changed"
        assert not buffers or {n for n, _ in module.named_buffers()} == set(held), "buffers came or went"
        for name, b in module.named_buffers() if buffers else ():
            assert b is held[name][0] and torch.equal(b, held[name][1]), f"buffer {name} changed"


class Probe(Energy):
    """A module with everything that a careless loop disturbs: batch norm, dropout, spectral norm, a frozen layer."""

    def __init__(self) -> None:
        super().__init__(real(3))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = nn.Sequential(
                nn.utils.parametrizations.spectral_norm(nn.Linear(3, 8)),
                nn.BatchNorm1d(8),
                nn.SiLU(),
                nn.Dropout(0.5),
                nn.Linear(8, 8),
                nn.SiLU(),
                nn.Linear(8, 1),
            )
        self.calls = 0
        self.fuse = math.inf  # forward raises from this call on

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        self.calls += 1
        if self.calls > self.fuse:
            raise ArithmeticError("the fuse has blown")
        return self.net(x).squeeze(1) + 0.5 * x.square().sum(1)


def sampling_leaves_no_trace(sampler: Any) -> None:
    """`sample` on the probe in mixed modes: nothing moved, and what was sampled is the module in eval mode."""
    probe = Probe()
    unsettle(probe)
    x = torch.randn(16, 3, generator=seeded())
    with no_trace(probe):
        trace = sample(probe, sampler, x, 4, generator=seeded(1))
    still = copy.deepcopy(probe).eval()
    assert torch.equal(trace.x, sample(still, sampler, x, 4, generator=seeded(1)).x), "another function was sampled"
    torch.testing.assert_close(trace.state.energy, still(trace.x).detach())
    assert not any(t.requires_grad for t in trace.state)


# ---------------------------------------------------------------------------------------------------- chains, objectives


class Bowl(Energy):
    """E(x) = θ ‖x‖² / 2: log Z = d/2 · log(2π/θ); with a noise level, θ ‖x‖² / 2(1 + σ²)."""

    def __init__(self, theta: float, *, noise: bool = False, dim: int = 1) -> None:
        super().__init__(real(dim))
        self.theta = nn.Parameter(torch.tensor(float(theta), dtype=torch.float64))
        self.noise = noise

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        value = self.theta * x.square().sum(1) / 2
        return value if c is None else value / (1 + c.square())


def likelihood_gradient(contrast: Callable[..., Any], *, batches: int = 300, rows: int = 200) -> float:
    """|z| of the contrast's gradient against that of the exact −log p, with exact draws as negatives.

    For θx²/2: ∇(−log p) = mean(x²)/2 − 1/(2θ). The negatives z/√θ are differentiable in θ, as a sampler's would be.
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

    Data N(0, 1) blurred by σ is N(0, 1 + σ²): E = θ x² / 2(1 + σ²) at θ = 1. The value there is ½ mean_σ 1/(1 + σ²).
    """
    sigmas = torch.tensor(objective.sigmas, dtype=torch.float64)
    several = len(sigmas) > 1
    energy = Bowl(1.0, noise=True) if several else Bowl(1 / (1 + sigmas[0].item() ** 2))
    g, found = seeded(8), []
    for _ in range(batches):
        x = torch.randn(rows, 1, generator=g, dtype=torch.float64)
        loss = objective.loss(energy, x, None, sampler=None, buffer=None, generator=g)
        (gradient,) = torch.autograd.grad(loss.value, energy.theta)
        found.append(torch.stack([gradient, loss.value.detach()]))
    truth = torch.stack([torch.zeros((), dtype=torch.float64), 0.5 * (1 / (1 + sigmas.square())).mean()])
    return worst(torch.stack(found), truth)


def buffer_keeps_slots(buffer: ReplayBuffer, count: int) -> None:
    """What is put goes to the slots that were taken, row by row, and nowhere else; labels do not move."""
    before, ages = buffer.x.clone(), buffer.age.clone()
    labels = None if buffer.labels is None else buffer.labels.clone()
    visit = buffer.take(count, seeded(5))
    assert len(visit.slots.unique()) == count, "slots were drawn twice"
    assert torch.equal(visit.x[~visit.fresh], before[visit.slots][~visit.fresh]), "points are not those of the slots"
    moved = visit.x + torch.arange(count).view(-1, *[1] * (visit.x.dim() - 1)) / (1000 * count)
    buffer.put(visit, moved, 7)
    assert torch.equal(buffer.x[visit.slots], moved), "points were not written to their slots"
    rest = torch.ones(len(buffer), dtype=torch.bool)
    rest[visit.slots] = False
    assert torch.equal(buffer.x[rest], before[rest]) and torch.equal(buffer.age[rest], ages[rest]), "others changed"
    assert torch.equal(buffer.age[visit.slots], torch.where(visit.fresh, 0, ages[visit.slots]) + 7), "ages are wrong"
    assert labels is None or (torch.equal(buffer.labels, labels) and torch.equal(visit.labels, labels[visit.slots]))


def pcd_keeps_slots(objective: Any) -> None:
    """PCD's negatives go back to the slots they came from, and its labels are those of the slots."""
    seen: list[Any] = []

    class Spy(Bowl):
        def forward(self, x: Tensor, c: Any = None) -> Tensor:
            seen.append(c)
            return super().forward(x) + (0.0 if c is None else 0.1 * c)

    energy = Spy(1.0, dim=2)
    buffer = ReplayBuffer(64, real(2), generator=seeded(), classes=4, restart=0.2)
    before = buffer.x.clone()
    visit = copy.deepcopy(buffer).take(16, seeded(1))
    labels = torch.arange(16) % 4
    loss = objective.loss(energy, torch.zeros(16, 2), labels, sampler=Langevin(0.1), buffer=buffer, generator=seeded(1))
    rest = torch.ones(64, dtype=torch.bool)
    rest[visit.slots] = False
    assert torch.equal(buffer.x[rest], before[rest]), "slots that were not visited changed"
    assert torch.equal(buffer.x[visit.slots], loss.negatives), "negatives are not in the slots they came from"
    assert not torch.equal(buffer.x[visit.slots], visit.x), "the chains did not move"
    assert all(torch.equal(c, visit.labels) for c in seen[:-1]), "chains ran under labels that are not theirs"
    assert torch.equal(seen[-1], torch.cat([labels, visit.labels])), "the loss used labels that are not the chains'"


def direct_contrast(energy: Energy, positives: Tensor, negatives: Tensor, l2: float, c: Any, d: Any) -> list[Tensor]:
    """Gradients in the weights of mean E(x⁺) − mean E(x⁻) + l2 (mean E(x⁺)² + mean E(x⁻)²), written out anew."""
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
        assert q is not None and q.item() == abs(travel) * sign, "the momentum was not turned once per wall"
