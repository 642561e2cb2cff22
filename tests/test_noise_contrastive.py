"""Noise contrast: minimiser and log Z are the truth, whatever the noise; the flow descends what the
energy ascends.
"""

import dataclasses
import math
import sys
from typing import Any
from unittest import mock

import pytest
import torch
from contract.cases import seeded
from contract.checks import Bowl
from contract.truths import TRUTHS, Normal, at_the_table, planted, slopes
from torch import Tensor, nn
from torch.nn import functional as F

from lowland import Energy, Function, binary, box, categorical, real
from lowland.nets import MLP
from lowland.nets.noise_models import FlowNoise, NoisePartner, Truncated
from lowland.objectives import NCE, Batch, Context, FlowContrastive, RankingNCE
from lowland.targets.bases import Uniform, fit_base
from lowland.testing import LIMIT, caught, worst, z_scores

DOUBLE = torch.float64
ALL = {
    "nce": NCE(),
    "nce, three of noise": NCE(ratio=3),
    "ranking": RankingNCE(candidates=20),
    "flow": FlowContrastive(transforms=1, hidden=(8,)),
}
every = pytest.mark.parametrize("objective", ALL.values(), ids=ALL)


def made(objective: Any, energy: Energy, x: Tensor) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return objective.make_partner(energy, x)


def loss_of(
    objective: Any,
    energy: Energy,
    x: Tensor,
    partner: Any,
    seed: int = 0,
    labels: Tensor | None = None,
) -> Any:
    return objective.loss(energy, Batch(x, labels), Context(seeded(seed), partner=partner))


# ----------------------------------------------------------------------------- the minimiser, log Z


@every
@pytest.mark.parametrize("check", TRUTHS)
def test_minimiser_and_log_z_are_those_of_the_data(objective: Any, check: str) -> None:
    assert TRUTHS[check](objective) < LIMIT


@pytest.mark.parametrize(
    "objective", [NCE(), NCE("uniform", 2), RankingNCE(16), RankingNCE(16, "uniform")], ids=str
)
@pytest.mark.parametrize("classes", [2, 3])
def test_minimiser_and_log_z_on_discrete_domains(objective: Any, classes: int) -> None:
    assert at_the_table(objective, classes=classes) < LIMIT


@pytest.mark.parametrize("objective", [NCE(), RankingNCE(20)], ids=str)
@pytest.mark.parametrize("check", TRUTHS)
def test_another_law_is_no_minimiser(objective: Any, check: str) -> None:
    assert TRUTHS[check](objective, off=1.3) > LIMIT


def test_log_z_and_precision_of_fits_are_those_of_the_gaussian() -> None:
    # 60 data sets of 4000 points, each fitted to its end by Newton's steps; the truth is θ = 2, log
    # Z = ½ log(2π/θ)
    found = []
    for seed in range(60):
        g = seeded(seed)
        x = torch.randn(4000, 1, generator=g, dtype=DOUBLE) / 2**0.5
        energy, objective = Bowl(1.0), NCE(ratio=2)
        partner = made(objective, energy, x)
        weights = [energy.theta, partner.log_z]
        for _ in range(8):
            grad = torch.autograd.grad(
                loss_of(objective, energy, x, partner, seed).value, weights, create_graph=True
            )
            rows = [
                torch.stack(torch.autograd.grad(part, weights, retain_graph=True)) for part in grad
            ]
            step = torch.linalg.solve(torch.stack(rows), torch.stack(grad)).detach()
            for p, s in zip(weights, step, strict=True):
                p.data -= s.clamp(-0.5, 0.5)
        assert torch.stack(grad).abs().max() < 1e-6
        found.append(torch.stack([energy.theta.detach(), partner.log_z.detach()]))
    truth = torch.tensor([2.0, 0.5 * math.log(math.pi)], dtype=DOUBLE)
    assert worst(torch.stack(found), truth) < LIMIT
    assert torch.stack(found).std(0).max() < 0.2


def test_log_z_starts_near_its_truth() -> None:
    energy = Normal(torch.tensor([1.0, 0.0], dtype=DOUBLE), torch.eye(2, dtype=DOUBLE) * 4)
    x = torch.tensor([1.0, 0.0]) + 0.5 * torch.randn(5000, 2, generator=seeded(), dtype=DOUBLE)
    assert made(NCE(), energy, x).log_z.item() == pytest.approx(math.log(2 * math.pi / 4), abs=0.05)


def test_ranking_reports_log_z_of_the_energy() -> None:
    energy, x = Bowl(2.0), torch.randn(500, 1, generator=seeded(), dtype=DOUBLE) / 2**0.5
    objective = RankingNCE(20_000)
    assert loss_of(objective, energy, x, made(objective, energy, x)).terms[
        "log_z"
    ].item() == pytest.approx(0.5 * math.log(math.pi), abs=0.02)


# ----------------------------------------------------------------------------- the formulas by hand


def hand(kind: str) -> tuple[Energy, Tensor]:
    torch.manual_seed(0)
    domain = {"line": real(2), "box": box(-1.0, 2.0, 2)}[kind]
    return MLP(domain, hidden=(8,), quadratic_weight=0.2).double(), domain.draw(
        12, seeded(3), dtype=DOUBLE
    )


@pytest.mark.parametrize("ratio", [1, 4])
@pytest.mark.parametrize("kind", ["line", "box"])
def test_nce_written_out(kind: str, ratio: int) -> None:
    energy, x = hand(kind)
    objective = NCE(ratio=ratio)
    partner = made(objective, energy, x)
    loss = loss_of(objective, energy, x, partner, 5)
    noise = partner.law.draw(12 * ratio, seeded(5), dtype=DOUBLE)
    model, q = (
        (lambda z: (-energy(z) - partner.log_z).exp()),
        (lambda z: (-partner.law(z) - partner.law.log_z).exp()),
    )
    h = [model(z) / (model(z) + ratio * q(z)) for z in (x, noise)]  # p(datum | z)
    expected = -h[0].log().mean() - ratio * (1 - h[1]).log().mean()
    torch.testing.assert_close(loss.value, expected)
    assert (
        loss.terms["accuracy"] == ((h[0] > 0.5).double().mean() + (h[1] < 0.5).double().mean()) / 2
    )
    assert (
        loss.terms["log_z"] == partner.log_z and loss.terms["energy_noise"] == energy(noise).mean()
    )


def test_ranking_written_out() -> None:
    energy, x = hand("line")
    objective = RankingNCE(7)
    law = made(objective, energy, x)
    loss = loss_of(objective, energy, x, law, 5)
    noise = law.draw(7, seeded(5), dtype=DOUBLE)
    weight, others = ((-energy(z) + law(z)).exp() for z in (x, noise))
    torch.testing.assert_close(loss.value, -(weight / (weight + others.sum())).log().mean())
    assert loss.terms["accuracy"] == (weight[:, None] > others).float().mean()


def test_ranking_does_not_see_the_level_of_the_energies() -> None:
    energy, x = hand("line")
    objective = RankingNCE(7)
    law = made(objective, energy, x)
    lifted = Function(lambda z: energy(z) + 3, real(2))
    torch.testing.assert_close(
        loss_of(objective, energy, x, law).value, loss_of(objective, lifted, x, law).value
    )


@pytest.mark.parametrize(
    "objective", [NCE(), RankingNCE(9), FlowContrastive(transforms=1, hidden=(8,))], ids=str
)
def test_labels_are_judged_class_by_class(objective: Any) -> None:
    """The loss under labels is that of the rows of each class, noise under the label of the
    datum.
    """
    torch.manual_seed(0)
    energy = MLP(real(2), hidden=(8,), classes=3).double()
    x, y = torch.randn(10, 2, generator=seeded(), dtype=DOUBLE), torch.arange(10) % 3
    partner = made(objective, energy, x)
    found = loss_of(objective, energy, x, partner, 5, labels=y).value
    total = torch.zeros((), dtype=DOUBLE)
    for i in range(10):
        alone = energy.given(y[i])
        if isinstance(objective, RankingNCE):
            noise = partner.draw(9, seeded(5), dtype=DOUBLE)
            scores = torch.cat(
                [-alone(x[i : i + 1]) + partner(x[i : i + 1]), -alone(noise) + partner(noise)]
            )
            total = total - scores.log_softmax(0)[0]
            continue
        noise = partner.law.draw(10, seeded(5), dtype=DOUBLE)[i : i + 1]
        ratio = [
            -alone(z) - partner.log_z + partner.law(z) + partner.law.log_z
            for z in (x[i : i + 1], noise)
        ]
        total = total - F.logsigmoid(ratio[0]).sum() - F.logsigmoid(-ratio[1]).sum()
    torch.testing.assert_close(found, total / 10)


def test_ranking_under_labels_needs_all_classes_at_once() -> None:
    energy = Function(lambda x, c=None: x.square().sum(1), real(2))
    x = torch.randn(6, 2)
    with pytest.raises(ValueError, match=r"no class_energies;.*;"):
        loss_of(
            RankingNCE(3), energy, x, fit_base(real(2), x), labels=torch.zeros(6, dtype=torch.long)
        )


# ----------------------------------------------------------------------------------------- the flow


def value_function(
    energy: Energy, partner: NoisePartner, x: Tensor, z: Tensor
) -> tuple[Tensor, Tensor]:
    """V of data x and of the flow's draws from z, with everything in its graph; and mean log q of
    the data.
    """
    law = partner.law
    drawn = law.centre + law.width * law.flow().transform.inv(z)
    real_ones, drawn_ones = (-energy(v) - partner.log_z + law(v) for v in (x, drawn))
    return F.logsigmoid(real_ones).mean() + F.logsigmoid(-drawn_ones).mean(), -law(x).mean()


@pytest.mark.parametrize("likelihood", [0.0, 0.7])
def test_energy_and_log_z_ascend_what_the_flow_descends(likelihood: float) -> None:
    energy, x = hand("line")
    objective = FlowContrastive(transforms=2, hidden=(8,), likelihood=likelihood)
    partner = made(objective, energy, x)
    loss = loss_of(objective, energy, x, partner, 5)
    z = torch.randn(12, 2, generator=seeded(5), dtype=DOUBLE)
    v, log_q = value_function(energy, partner, x, z)
    torch.testing.assert_close(loss.value, -v)
    own = slopes(loss.value, nn.ModuleList([energy]))
    torch.testing.assert_close(own, slopes(-v, nn.ModuleList([energy])))
    torch.testing.assert_close(
        torch.autograd.grad(loss.value, partner.log_z, retain_graph=True)[0],
        torch.autograd.grad(-v, partner.log_z, retain_graph=True)[0],
    )
    torch.testing.assert_close(
        slopes(loss.value, partner.law), slopes(v - likelihood * log_q, partner.law)
    )
    torch.testing.assert_close(loss.terms["flow_nll"], -log_q.detach())
    assert not loss.negatives.requires_grad


def test_the_flow_is_a_density_and_its_draws_are_its_own() -> None:
    # a flow moved away from the identity: its mass over a grid, and the mean of its draws against
    # that by the grid
    torch.manual_seed(0)
    flow = FlowNoise(
        real(2),
        torch.randn(500, 2, generator=seeded(), dtype=DOUBLE) + 1,
        transforms=2,
        hidden=(8,),
    )
    with torch.no_grad():
        for p in flow.parameters():
            p += 0.3 * torch.randn(p.shape, generator=seeded(1), dtype=DOUBLE)
        line = torch.linspace(-8, 10, 361, dtype=DOUBLE)
        grid = torch.cartesian_prod(line, line)
        mass = (-flow(grid)).exp() * (line[1] - line[0]) ** 2
        assert mass.sum().item() == pytest.approx(1, abs=2e-3)
        drawn, log_q = flow.walk(20_000, seeded(2))
        torch.testing.assert_close(log_q, -flow(drawn), rtol=1e-6, atol=1e-6)
        for f in (lambda x: x[:, 0], lambda x: x[:, 1].square(), lambda x: x[:, 0] * x[:, 1]):
            assert abs(z_scores(f(drawn), (mass * f(grid)).sum() / mass.sum()).item()) < LIMIT


def test_the_flow_fills_a_box() -> None:
    torch.manual_seed(0)
    flow = FlowNoise(
        box(-1.0, 2.0, 1), 2 - 0.4 * torch.rand(500, 1, generator=seeded(), dtype=DOUBLE), 2, (8,)
    )
    grid = torch.linspace(-0.99, 1.99, 20_001, dtype=DOUBLE).unsqueeze(1)
    with torch.no_grad():
        drawn, log_q = flow.walk(20_000, seeded(2))
        p = (-flow(grid)).exp()
    assert torch.trapezoid(p, grid[:, 0]).item() == pytest.approx(
        ((drawn > -0.99) & (drawn < 1.99)).double().mean().item(), abs=5e-3
    )
    assert flow.domain.contains(drawn).all() and drawn.mean() > 1.6
    inner = ((drawn > -0.9) & (drawn < 1.9)).squeeze(1)
    torch.testing.assert_close(log_q[inner], -flow(drawn[inner]).detach(), rtol=1e-6, atol=1e-6)


def test_without_zuko_the_message_names_the_extra() -> None:
    with (
        mock.patch.dict(sys.modules, {"zuko": None}),
        pytest.raises(ImportError, match=r"zuko.*; run pip install 'lowland\[zuko\]'"),
    ):
        FlowContrastive().make_partner(MLP(real(2), hidden=(4,)), torch.randn(10, 2))


# ---------------------------------------------------------------------------------- noise, refusals


def test_normal_numbers_cut_off_at_the_walls() -> None:
    # mass by a grid; draws against moments by the grid, n = 50,000
    x = 0.9 + 0.3 * torch.randn(1000, 1, generator=seeded(), dtype=DOUBLE)
    law = Truncated(box(0.0, 1.0, 1), x)
    grid = torch.linspace(0, 1, 20_001, dtype=DOUBLE).unsqueeze(1)
    p = (-law(grid)).exp()
    assert torch.trapezoid(p, grid[:, 0]).item() == pytest.approx(1, abs=1e-6)
    drawn = law.draw(50_000, seeded(1), DOUBLE)
    assert law.domain.contains(drawn).all()
    for power in (1, 2, 5):
        truth = torch.trapezoid(p * grid[:, 0] ** power, grid[:, 0])
        assert abs(z_scores(drawn**power, truth).item()) < LIMIT


def test_the_noise_of_a_domain() -> None:
    g = seeded()
    for domain, kind in (
        (real(2), "Gaussian"),
        (box(0.0, 1.0, 2), "Truncated"),
        (binary(3), "Bernoulli"),
    ):
        law = made(NCE(), MLP(domain, hidden=(4,)), domain.draw(100, g)).law
        assert type(law).__name__ == kind and law.domain == domain
    uniform = made(NCE("uniform"), MLP(box(0.0, 1.0, 2), hidden=(4,)), torch.rand(10, 2)).law
    assert isinstance(uniform, Uniform)
    table = Function(lambda x: x.sum(1), categorical(3, 2))
    assert type(made(RankingNCE(), table, categorical(3, 2).draw(50, g))).__name__ == "Categorical"
    with pytest.raises(ValueError, match=r"uniform noise met a real domain;.*;"):
        made(NCE("uniform"), MLP(real(2), hidden=(4,)), torch.randn(10, 2))


@every
def test_an_energy_with_a_column_too_many_is_refused(objective: Any) -> None:
    """(B, 1) energies would be broadcast against (B,) log-densities."""
    x = torch.randn(6, 2)
    partner = made(objective, MLP(real(2), hidden=(4,)), x)
    with pytest.raises(ValueError, match=r"one number per point.*;"):
        loss_of(objective, Function(lambda z: z.sum(1, keepdim=True), real(2)), x, partner)


def test_settings_that_mean_nothing_are_refused() -> None:
    bad: list[Any] = [
        (NCE, {"noise": "salt"}),
        (NCE, {"ratio": 0}),
        (NCE, {"partner_rate": 0.0}),
        (RankingNCE, {"candidates": 0}),
    ]
    bad += [
        (FlowContrastive, {"transforms": 0}),
        (FlowContrastive, {"hidden": ()}),
        (FlowContrastive, {"likelihood": -1.0}),
    ]
    for cls, settings in bad:
        with pytest.raises(ValueError, match=r";.*;"):
            cls(**settings)
    with pytest.raises(ValueError, match="FlowContrastive met a binary domain"):
        made(FlowContrastive(), MLP(binary(3), hidden=(4,)), binary(3).draw(20, seeded()))


# ------------------------------------------------------------------------------------- planted bugs

NCE_LOSS, RANK, FLOW = "NCE.loss", "RankingNCE.loss", "FlowContrastive.loss"
BUGS = {
    "sign of the energy": (NCE_LOSS, "-values - partner.log_z", "values - partner.log_z", NCE()),
    "sign of log Z": (NCE_LOSS, "-values - partner.log_z", "-values + partner.log_z", NCE()),
    "sign of log q": (NCE_LOSS, "+ law(both) + law.log_z", "- law(both) - law.log_z", NCE()),
    "log Z of the noise forgotten": (NCE_LOSS, " + law.log_z", "", NCE()),
    "log ν forgotten": (NCE_LOSS, " - math.log(self.ratio)", "", NCE(ratio=3)),
    "ν forgotten": (NCE_LOSS, "self.ratio * F.softplus(down)", "F.softplus(down)", NCE(ratio=3)),
    "labels swapped": (NCE_LOSS, "F.softplus(-up).mean()", "F.softplus(up).mean()", NCE()),
    "noise unweighted in ranking": (
        RANK,
        "-partner(both) - partner.log_z",
        "0 * partner(both)",
        RankingNCE(20),
    ),
    "sign of the energy in ranking": (
        RANK,
        "-up - log_q[: len(x)], -down -",
        "up - log_q[: len(x)], down -",
        RankingNCE(20),
    ),
    "sign of the flow's density": (
        FLOW,
        "torch.cat([log_q, log_q_drawn]).detach()",
        "-torch.cat([log_q, log_q_drawn])",
        ALL["flow"],
    ),
    "Jacobian forgotten": (
        FLOW,
        "torch.cat([log_q, log_q_drawn])",
        "torch.cat([log_q, 0 * log_q_drawn])",
        ALL["flow"],
    ),
}


@pytest.mark.parametrize(("where", "old", "new", "sound"), BUGS.values(), ids=BUGS)
def test_planted_bugs_are_seen(where: str, old: str, new: str, sound: Any) -> None:
    broken = getattr(planted("nce", where, old, new), type(sound).__name__)
    check = TRUTHS[
        "mixture" if isinstance(sound, RankingNCE) else "gaussian"
    ]  # on the Gaussian, the fitted noise is the truth
    assert caught(check, broken(**dataclasses.asdict(sound)))


def test_a_datum_that_is_not_among_the_candidates_is_seen() -> None:
    broken = planted("nce", RANK, "torch.cat([first.unsqueeze(1), rest], 1)", "rest").RankingNCE
    with (
        mock.patch.object(sys.modules[__name__], "RankingNCE", broken),
        pytest.raises(AssertionError),
    ):
        test_ranking_written_out()


FLOW_BUGS = {
    "the flow ascends too": ("value + game", "value - game"),
    "the energy sees the flow's loss": (
        "        with freeze(energy) as energy:  # the flow sees the energy, and leaves it alone\n",
        "        if True:\n",
    ),
    "log Z sees it": ("- partner.log_z.detach()", "- partner.log_z"),
    "no gradient through the draws": (
        "-evaluate_energy(energy, drawn, labels)",
        "-evaluate_energy(energy, negatives, labels)",
    ),
    "the data do not count": ("game = -F.softplus(-pulled).mean() -", "game = -"),
}


@pytest.mark.parametrize(("old", "new"), FLOW_BUGS.values(), ids=FLOW_BUGS)
def test_planted_bugs_of_the_game_are_seen(old: str, new: str) -> None:
    broken = planted("nce", FLOW, old, new).FlowContrastive
    with (
        mock.patch.object(sys.modules[__name__], "FlowContrastive", broken),
        pytest.raises(AssertionError),
    ):
        test_energy_and_log_z_ascend_what_the_flow_descends(0.7)
