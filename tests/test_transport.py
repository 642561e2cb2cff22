"""Transport: lines along optimal-transport pairs, closed-form minimisers on Gaussians, and the law
that the contrast adds.
"""

import math
from itertools import permutations
from typing import Any

import pytest
import torch
from contract.cases import seeded
from contract.checks import LIMIT, Bowl, z_scores
from torch import Tensor

from lowland import MALA, Energy, Function, Langevin, ReplayBuffer, binary, box, real
from lowland.metrics import mmd
from lowland.nets import MLP
from lowland.objectives import (
    Batch,
    Context,
    EnergyMatching,
    EquilibriumMatching,
    Loss,
    contrast,
    matching,
)
from lowland.samplers import Sampler

DOUBLE = torch.float64
# standard deviation of the data; the noise has 1, so that x_t = (1 − t + t S) z and v = (S − 1) z
# along OT pairs
S = 0.5
PULL = (1 - S) * (1 + S) / 2 / ((1 + S + S * S) / 3)  # least squares of −v on x_t, over t and z


def gaussian(rows: int, g: torch.Generator) -> Tensor:
    return S * torch.randn(rows, 1, generator=g, dtype=DOUBLE)


def flow_minimiser(objective: Any, batches: int = 60, rows: int = 200) -> Tensor:
    """θ of E = θx²/2 that is best for each of many batches of Gaussian data, by Newton's step on a
    parabola: (batches,).
    """
    found, g = [], seeded(5)
    for _ in range(batches):
        bowl = Bowl(1.0)
        loss = objective.loss(bowl, Batch(gaussian(rows, g)), Context(g, progress=0.0))
        (slope,) = torch.autograd.grad(loss.value, bowl.theta, create_graph=True)
        (bend,) = torch.autograd.grad(slope, bowl.theta)
        found.append((bowl.theta - slope / bend).detach())
    return torch.stack(found)


# -------------------------------------------------------------------------------------------- pairs


def test_pairs_are_the_cheapest_of_all() -> None:
    # all 720 ways to pair six points of the plane
    x, noise = (
        torch.randn(6, 2, generator=seeded(), dtype=DOUBLE),
        torch.randn(6, 2, generator=seeded(1), dtype=DOUBLE),
    )
    cheapest = min(
        (noise[list(order)] - x).square().sum().item() for order in permutations(range(6))
    )
    found = matching.match_batch(noise, x)
    assert (found - x).square().sum().item() == pytest.approx(cheapest)
    assert sorted(found[:, 0].tolist()) == sorted(noise[:, 0].tolist())


def test_on_a_line_pairs_are_those_of_sorted_points() -> None:
    x, noise = torch.randn(300, 1, generator=seeded()), torch.randn(300, 1, generator=seeded(1))
    found = matching.match_batch(noise, x)
    assert torch.equal(found[x.squeeze(1).argsort()], noise.sort(0).values)


def test_noise_stays_with_its_class() -> None:
    x, noise = torch.randn(40, 2, generator=seeded()), torch.randn(40, 2, generator=seeded(1))
    labels = torch.arange(40) % 3
    found = matching.match_batch(noise, x, labels)
    for label in range(3):
        mine = labels == label
        assert torch.equal(found[mine], matching.match_batch(noise[mine], x[mine]))


@pytest.mark.parametrize("domain", [real(1, 3, 3), box(0.0, 1.0, 1, 3, 3)], ids=["real", "box"])
def test_lines_lead_from_the_noise_of_the_domain_to_the_data(domain: Any) -> None:
    energy, x = Function(lambda x: x.flatten(1).sum(1), domain), torch.full((2000, 1, 3, 3), 0.7)
    points, t, velocity = matching.lines(energy, x, None, seeded(), match=False, until=0.6)
    wide = t.view(-1, 1, 1, 1)
    noise = x - velocity
    torch.testing.assert_close(points, (1 - wide) * noise + wide * x)
    assert t.min() >= 0 and 0.59 < t.max() < 0.6
    mean, variance = (0.5, 1 / 12) if domain.kind == "box" else (0.0, 1.0)
    assert z_scores(noise.flatten(1), mean).abs().max() < LIMIT
    assert z_scores((noise.flatten(1) - mean).square(), variance).abs().max() < LIMIT
    assert domain.kind == "real" or energy.domain.contains(points).all()


# --------------------------------------------------------------------------------------------- flow


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_the_flow_between_gaussians_is_that_of_optimal_transport(temperature: float) -> None:
    # closed form: ε θ is the least-squares slope of (1 − S) z on (1 − t + t S) z
    found = temperature * flow_minimiser(EnergyMatching(temperature=temperature))
    assert z_scores(found, PULL).abs() < LIMIT
    assert found.std() < 0.2 * PULL  # and the band is narrow


def test_random_pairs_have_another_flow() -> None:
    # −E[v x_t] / E[x_t²] = (1 − S²)/2 / ((1 + S²)/3) where z and x are independent
    found = flow_minimiser(EquilibriumMatching(gain=1.0, start=1 - 1e-9, match=False))
    assert z_scores(found, (1 - S**2) / 2 / ((1 + S**2) / 3)).abs() < LIMIT
    assert z_scores(found, PULL).abs() > 20


@pytest.mark.parametrize(("gain", "start"), [(4.0, 0.8), (1.0, 0.0), (2.0, 0.5)])
def test_the_force_of_equilibrium_matching_dies_away_at_the_data(gain: float, start: float) -> None:
    # closed form with weights c(t) by a fine sum over t
    t = (torch.arange(200_000, dtype=DOUBLE) + 0.5) / 200_000
    pull = gain * ((1 - t) / (1 - start)).clamp(max=1.0)
    spread = 1 - t + t * S
    truth = ((1 - S) * (pull * spread).mean() / spread.square().mean()).item()
    found = flow_minimiser(EquilibriumMatching(gain=gain, start=start))
    assert z_scores(found, truth).abs() < LIMIT


def planted(monkeypatch: pytest.MonkeyPatch, bug: str) -> None:
    """Known mistakes of flow matching, put into the module."""
    right, error = matching.lines, matching.force_error

    def lines(*args: Any, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
        points, t, velocity = right(*args, **options)
        if bug == "velocity to noise":
            return points, t, -velocity
        if bug == "points left at the noise":
            return points - t.unsqueeze(1) * velocity, t, velocity
        return (
            right(*args, **options | {"match": False})
            if bug == "unmatched"
            else (points, t, velocity)
        )

    monkeypatch.setattr(matching, "lines", lines)
    if bug == "score for gradient":
        monkeypatch.setattr(
            matching,
            "force_error",
            lambda e, x, c, wanted, scale=1.0: error(e, x, c, wanted, -scale),
        )


@pytest.mark.parametrize(
    "bug", ["velocity to noise", "points left at the noise", "unmatched", "score for gradient"]
)
def test_a_planted_bug_is_found(monkeypatch: pytest.MonkeyPatch, bug: str) -> None:
    planted(monkeypatch, bug)
    assert z_scores(flow_minimiser(EnergyMatching(temperature=1.0)), PULL).abs() > 20


# ---------------------------------------------------------------------------------------------- law


class Exact(Sampler):
    """A sampler whose one step is an exact draw of N(0, 1/θ)."""

    adjusted, num_grad_evals = True, 0

    def init(self, energy: Bowl, x: Tensor) -> Any:
        from lowland.samplers.kernel import State

        return State(x, energy(x).detach(), -energy.theta.detach() * x)

    def step(self, energy: Bowl, state: Any, generator: torch.Generator) -> Any:
        from lowland.samplers.kernel import Info

        x = (
            torch.randn(state.x.shape, generator=generator, dtype=DOUBLE)
            / energy.theta.detach().sqrt()
        )
        moved = torch.ones(len(x), dtype=torch.bool)
        return self.init(energy, x), Info(moved, ~moved, moved.double())


def refined(objective: EnergyMatching, batches: int = 100, rows: int = 200) -> Tensor:
    """Gradients in θ at the true law, θ = 1/S², with exact negatives: (batches,)."""
    found, g = [], seeded(7)
    for _ in range(batches):
        bowl = Bowl(1 / S**2)
        buffer = ReplayBuffer(rows, real(1), generator=g, dtype=DOUBLE, reinit_prob=0.0)
        loss = objective.loss(
            bowl, Batch(gaussian(rows, g)), Context(g, sampler=Exact(), buffer=buffer)
        )
        found.append(torch.autograd.grad(loss.value, bowl.theta)[0])
    return torch.stack(found)


def test_the_minimiser_is_the_true_law_where_flow_and_law_agree() -> None:
    # at ε = PULL · S² the flow's minimiser is θ = 1/S² too, so the gradient of the whole must
    # vanish there
    agreeing = EnergyMatching(
        temperature=PULL * S**2,
        warmup_fraction=0.0,
        weight=0.5,
        steps=1,
        arrival_steps=1,
        buffer_size=400,
    )
    assert z_scores(refined(agreeing)).abs() < LIMIT


def test_the_minimiser_of_the_contrast_alone_is_the_true_law() -> None:
    heavy = EnergyMatching(
        temperature=1e-9, warmup_fraction=0.0, weight=1.0, steps=1, arrival_steps=1, buffer_size=400
    )
    assert z_scores(refined(heavy)).abs() < LIMIT


def test_a_contrast_with_its_sign_turned_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    # at a θ that is not the truth the gradient must pull towards it; the minus turns it away
    def pull(turned: bool) -> float:
        objective = EnergyMatching(
            temperature=1e-9,
            warmup_fraction=0.0,
            weight=1.0,
            steps=1,
            arrival_steps=1,
            buffer_size=400,
        )
        g, bowl = seeded(3), Bowl(1.0)
        buffer = ReplayBuffer(400, real(1), generator=g, dtype=DOUBLE, reinit_prob=0.0)
        if turned:
            right = contrast

            def wrong(*args: Any, **options: Any) -> Loss:
                loss = right(*args, **options)
                return loss._replace(value=-loss.value)

            monkeypatch.setattr(matching, "contrast", wrong)
        loss = objective.loss(
            bowl, Batch(gaussian(400, g)), Context(g, sampler=Exact(), buffer=buffer)
        )
        return torch.autograd.grad(loss.value, bowl.theta)[0].item()

    exact = (S**2 - 1) / 2  # ∂θ of the likelihood's loss at θ = 1
    assert pull(False) == pytest.approx(exact, abs=0.2) and pull(True) == pytest.approx(
        -exact, abs=0.2
    )


def test_chains_rest_while_the_flow_warms_up() -> None:
    net = MLP(real(2), hidden=(8,))
    buffer = ReplayBuffer(64, real(2), generator=seeded())
    before = buffer.x.clone()
    objective, x = (
        EnergyMatching(warmup_fraction=0.5, arrival_steps=10, buffer_size=64),
        torch.randn(16, 2, generator=seeded(1)),
    )
    early = objective.loss(
        net, Batch(x), Context(seeded(2), sampler=Langevin(0.01), buffer=buffer, progress=0.49)
    )
    assert early.negatives is None and torch.equal(buffer.x, before) and "gap" not in early.terms
    late = objective.loss(
        net, Batch(x), Context(seeded(2), sampler=Langevin(0.01), buffer=buffer, progress=0.5)
    )
    assert late.negatives is not None and not torch.equal(buffer.x, before) and "gap" in late.terms
    flow, _, velocity = matching.lines(net, x, None, seeded(2))
    expected = matching.force_error(net, flow, None, velocity, 0.1)[0] - 0.01 * late.terms["gap"]
    torch.testing.assert_close(late.value, expected)


def begun_anew(arrive: int, batches: int = 120, rows: int = 200) -> Tensor:
    """Gradients in θ at the true law when a fifth of the chains begins at N(0, 1) at every visit of
    ten steps: (40,).
    """
    objective = EnergyMatching(
        temperature=1e-9,
        warmup_fraction=0.0,
        weight=1.0,
        steps=10,
        arrival_steps=arrive,
        buffer_size=rows,
        reinit_prob=0.2,
    )
    found, g = [], seeded(8)
    buffer = ReplayBuffer(rows, real(1), generator=g, dtype=DOUBLE, reinit_prob=0.2)
    for _ in range(batches):
        bowl = Bowl(1 / S**2)
        loss = objective.loss(
            bowl, Batch(gaussian(rows, g)), Context(g, sampler=MALA(0.01), buffer=buffer)
        )
        found.append(torch.autograd.grad(loss.value, bowl.theta)[0])
    return torch.stack(found[::3])  # 30 steps apart


def test_chains_that_are_under_way_do_not_bend_the_law() -> None:
    # a chain forgets where it began by 4 % a step, its square by 8 %: 45 % of it is left after 10
    # steps, 1 % after 60
    assert z_scores(begun_anew(arrive=60)).abs() < LIMIT
    assert z_scores(begun_anew(arrive=0)).abs() > 10


def test_young_chains_move_and_are_not_counted() -> None:
    net, x = MLP(real(2), hidden=(8,)), torch.randn(16, 2, generator=seeded(1))
    objective = EnergyMatching(
        warmup_fraction=0.0, weight=1.0, steps=10, arrival_steps=25, buffer_size=16, reinit_prob=0.0
    )
    buffer, g = ReplayBuffer(16, real(2), generator=seeded(), reinit_prob=0.0), seeded(2)
    for visit in range(4):
        before, again = buffer.x.clone(), torch.Generator().set_state(g.get_state())
        loss = objective.loss(net, Batch(x), Context(g, sampler=Langevin(0.01), buffer=buffer))
        assert not torch.equal(buffer.x, before) and (buffer.age == 10 * (visit + 1)).all()
        points, _, velocity = matching.lines(net, x, None, again)
        flow = matching.force_error(net, points, None, velocity, objective.temperature)[0]
        own, alone = (
            torch.autograd.grad(value, list(net.parameters()), allow_unused=True)
            for value in (loss.value, flow)
        )
        pairs = zip(
            own[:-1], alone[:-1], strict=True
        )  # the last weight is the level, which the flow leaves free
        same = all(torch.allclose(a, b, atol=1e-6) for a, b in pairs)
        assert same == (visit < 2) and loss.terms["arrived"] == float(visit >= 2)
        assert (loss.terms["gap"] == 0) == (visit < 2)


def test_some_chains_count_and_others_do_not() -> None:
    # by hand: mean of a_i (E(x_i, y_i) − E(z_i, c_i)) over old chains z with their own labels c
    torch.manual_seed(0)
    net, x, labels = (
        MLP(real(2), hidden=(8,), classes=3),
        torch.randn(12, 2, generator=seeded(1)),
        torch.arange(12) % 3,
    )
    objective = EnergyMatching(
        temperature=1e-9,
        warmup_fraction=0.0,
        weight=1.0,
        steps=1,
        arrival_steps=50,
        buffer_size=12,
        reinit_prob=0.0,
    )
    buffer = ReplayBuffer(12, real(2), generator=seeded(), classes=3, reinit_prob=0.0)
    buffer.age[::2] = 49
    loss = objective.loss(
        net, Batch(x, labels), Context(seeded(2), sampler=Langevin(0.01), buffer=buffer)
    )
    old = buffer.age == 50
    assert old.sum() == 6 and loss.terms["arrived"] == 0.5 and buffer.labels is not None
    expected = (net(x, labels) * old - net(buffer.x, buffer.labels) * old).mean()
    torch.testing.assert_close(-loss.terms["gap"], expected.detach())


def test_lines_are_cut_off_only_after_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, right = [], matching.lines
    monkeypatch.setattr(
        matching, "lines", lambda *args, until: (seen.append(until), right(*args, until=until))[1]
    )
    net, x, buffer = (
        MLP(real(2), hidden=(8,)),
        torch.randn(8, 2),
        ReplayBuffer(8, real(2), generator=seeded()),
    )
    for progress in (0.0, 0.49, 0.5, 1.0):
        EnergyMatching(warmup_fraction=0.5, t_max=0.7, buffer_size=8).loss(
            net,
            Batch(x),
            Context(seeded(), sampler=Langevin(0.01), buffer=buffer, progress=progress),
        )
    assert seen == [1.0, 1.0, 0.7, 0.7]


def test_chains_in_replicas_are_refused() -> None:
    net, buffer = MLP(real(2), hidden=(8,)), ReplayBuffer(8, real(3, 2), generator=seeded())
    with pytest.raises(ValueError, match=r"\(3, 2\).*;.*;"):
        EnergyMatching(warmup_fraction=0.0).loss(
            net, Batch(torch.randn(8, 2)), Context(seeded(), Langevin(0.01), buffer)
        )


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.0},
        {"temperature": math.nan},
        {"warmup_fraction": 1.1},
        {"weight": -1.0},
        {"t_max": 0.0},
        {"steps": 0},
        {"arrival_steps": -1},
    ],
    ids=str,
)
def test_energy_matching_refuses_settings_that_mean_nothing(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r";.*;"):
        EnergyMatching(**settings)


@pytest.mark.parametrize(
    "settings", [{"gain": 0.0}, {"gain": math.inf}, {"start": 1.0}, {"start": -0.1}], ids=str
)
def test_equilibrium_matching_refuses_settings_that_mean_nothing(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r";.*;"):
        EquilibriumMatching(**settings)


@pytest.mark.parametrize(
    "objective", [EnergyMatching(), EquilibriumMatching()], ids=lambda o: type(o).__name__
)
def test_there_are_no_lines_between_bits(objective: Any) -> None:
    bits = Function(lambda x: x.sum(1), binary(4))
    with pytest.raises(ValueError, match=r"binary.*;.*;"):
        objective.loss(bits, Batch(torch.zeros(3, 4)), Context(seeded()))


def test_a_flow_that_is_followed_makes_data() -> None:
    # two clusters; a small network, 400 updates, 20 steps of its own flow at almost no temperature
    torch.manual_seed(0)
    net: Energy = MLP(real(2), hidden=(64, 64), scale=10.0)
    optimizer, g = torch.optim.Adam(net.parameters(), lr=3e-3), seeded(1)

    def data(rows: int) -> Tensor:
        side = 2 * torch.randint(2, (rows, 1), generator=g) - 1
        return torch.cat([1.5 * side, 0.5 * side], 1) + 0.2 * torch.randn(rows, 2, generator=g)

    for _ in range(300):
        loss = EnergyMatching().loss(net, Batch(data(128)), Context(g, progress=0.0))
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
    from lowland import sample

    start = torch.randn(500, 2, generator=g)
    made = sample(net, Langevin(0.1 * 0.05, temperature=1e-6), start, 20, generator=g).x
    test = data(500)
    assert mmd(made, test).value < 0.1 * mmd(start, test).value
