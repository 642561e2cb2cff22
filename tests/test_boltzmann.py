"""Truths about restricted Boltzmann machines: everything against full enumeration, and gradients
against exact likelihoods.
"""

import copy
import itertools
import math
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

import lowland
from lowland import BlockGibbs, binary, categorical, real
from lowland.domain import Domain
from lowland.energy import Function
from lowland.nets import RBM
from lowland.nets.boltzmann.units import UNITS, coins
from lowland.nets.boltzmann.visible import Binary
from lowland.objectives import Batch, Context
from lowland.objectives.contrastive import CD, PCD, contrast
from lowland.samplers import DMALA, AISResult, ParallelTempering, ais
from lowland.targets import Bernoulli, Gaussian
from lowland.testing import LIMIT, seeded

WIDE = torch.float64


def machine(
    domain: Domain, hidden: int = 4, scale: float = 0.7, seed: int = 0, **options: Any
) -> RBM:
    """A machine with normal weights in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = RBM(domain, n_hidden=hidden, **options).double()
        for p in made.parameters():
            nn.init.normal_(p, std=scale)
    return made


def states(values: int, sites: int) -> Tensor:
    """All events of so many sites, in the order of their codes."""
    return torch.cartesian_prod(*[torch.arange(values, dtype=WIDE)] * sites).view(-1, sites)


def law(energy: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.softmax(-energy(x), 0)


def drawn(p: Tensor, x: Tensor, count: int, seed: int) -> Tensor:
    return x[torch.multinomial(p, count, True, generator=seeded(seed))]


def misfit(x: Tensor, p: Tensor, values: int) -> float:
    """How far the counts of events are from p, as the worst |z| over events that are expected ten
    times or more.
    """
    powers = values ** torch.arange(x.shape[1] - 1, -1, -1, dtype=WIDE)
    share = torch.bincount((x @ powers).long(), minlength=len(p)) / len(x)
    z = (share - p) / (p * (1 - p) / len(x)).sqrt()
    return z[p * len(x) > 10].abs().max().item()


KINDS = [
    pytest.param(
        domain, values, options, id=f"{domain.kind}-{'-'.join(map(str, options.values()))}"
    )
    for domain, values in ((binary(5), 2), (categorical(3, 4), 3))
    for options in (
        {"hidden_type": "bernoulli"},
        {"hidden_type": "relu"},
        {"hidden_type": "bernoulli", "classes": 3},
    )
]


# -------------------------------------------------------------------------------------------- units


@pytest.mark.parametrize("name", UNITS)
def test_units_integrate_to_their_log_partition_and_mean(name: str) -> None:
    units, z = UNITS[name], torch.linspace(-6.0, 6.0, 25, dtype=WIDE)
    h = (
        torch.tensor([0.0, 1.0], dtype=WIDE)
        if name == "bernoulli"
        else torch.linspace(0.0, 20.0, 40001, dtype=WIDE)
    )
    weights = torch.exp(z.unsqueeze(1) * h - units.base(h))
    if name == "bernoulli":
        total, first = weights.sum(1), (weights * h).sum(1)
    else:
        total, first = torch.trapezoid(weights, h, dim=1), torch.trapezoid(weights * h, h, dim=1)
    assert torch.allclose(units.log_partition(z), total.log(), atol=1e-6)
    assert torch.allclose(units.mean(z), first / total, atol=1e-5)
    assert math.isclose(
        units.at_rest, units.log_partition(torch.zeros((), dtype=WIDE)).item(), rel_tol=1e-12
    )


@pytest.mark.parametrize("name", UNITS)
def test_units_mean_is_the_slope_of_their_log_partition_and_all_is_finite_far_out(
    name: str,
) -> None:
    units = UNITS[name]
    z = torch.tensor(
        [-300.0, -40.0, -5.0, 0.0, 5.0, 40.0, 300.0], dtype=torch.float32, requires_grad=True
    )
    (slope,) = torch.autograd.grad(units.log_partition(z).sum(), z)
    assert torch.allclose(slope, units.mean(z.detach()), rtol=2e-3, atol=1e-6)
    assert bool(units.draw(z.detach(), seeded()).isfinite().all())


@pytest.mark.parametrize("z", [-60.0, -31.0, -8.0, -1.0, 0.0, 2.0, 9.0])
def test_rectified_units_are_drawn_from_a_normal_law_cut_off_at_zero(z: float) -> None:
    draws = UNITS["relu"].draw(torch.full((100_000,), z, dtype=WIDE), seeded(3))
    mean = UNITS["relu"].mean(torch.tensor(z, dtype=WIDE)).item()
    assert bool((draws >= 0).all())
    assert abs(draws.mean().item() - mean) / (draws.std().item() / math.sqrt(len(draws))) < LIMIT


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_coins_have_their_probability_at_every_place(dtype: torch.dtype) -> None:
    logits = torch.tensor([-9.0, -2.0, 0.0, 1.0, 7.0], dtype=dtype).repeat(
        40_000, 13
    )  # an odd number of coins per row
    flips, p = coins(logits, seeded(1)), torch.sigmoid(logits[0].double())
    z = (flips.double().mean(0) - p) / (p * (1 - p) / len(flips)).sqrt()
    assert flips.dtype == dtype and set(flips.unique().tolist()) == {0.0, 1.0}
    assert z.abs().max() < LIMIT


def test_coins_without_the_highest_bit_are_caught() -> None:
    logits = torch.zeros(40_000, 2)
    words = torch.empty(40_000, dtype=torch.int64).random_(
        generator=seeded()
    )  # 63 bits: what random_() gives unasked
    bits = words.view(torch.int32).view(40_000, 2).float()
    share = bits.lt_(torch.sigmoid(logits) * 2.0**32 - 2.0**31).mean(0)
    assert ((share - 0.5) / (0.5 / 200)).abs().max() > LIMIT


# ----------------------------------------------------------------------------------------- energies


@pytest.mark.parametrize(("domain", "values", "options"), KINDS)
def test_free_energy_is_the_sum_over_hidden_units(
    domain: Domain, values: int, options: dict[str, Any]
) -> None:
    rbm, x = machine(domain, 2, **options), states(values, domain.shape[0])
    if options["hidden_type"] == "relu":
        x = x[::4]
        h = torch.cartesian_prod(*[torch.linspace(0.0, 12.0, 601, dtype=WIDE)] * 2)
        weight = math.log(0.02) * 2 + math.log(0.5) * (h == 0).double().sum(1)  # trapezoids
    else:
        h, weight = states(2, 2), torch.zeros(4, dtype=WIDE)
    f = one_hot(x.long(), values).double().flatten(1) if domain.kind == "categorical" else x
    for y in range(options.get("classes") or 1):
        field, own = rbm.weight, -(f @ rbm.visible_bias)
        joint = (
            own.unsqueeze(1)
            - f @ field @ h.t()
            - (h @ rbm.hidden_bias)
            + rbm.hidden_units.base(h).sum(1)
        )
        if options.get("classes"):
            joint = joint - (h @ rbm.label_weight[y]) - rbm.label_bias[y]
            found = rbm(x, torch.full((len(x),), y))
            assert torch.allclose(rbm.class_energies(x)[:, y], found)
        else:
            found = rbm(x)
            assert torch.allclose(rbm.joint(x[:1].expand(len(h), -1), h), joint[0], atol=1e-9)
        expected = -torch.logsumexp(weight - joint, 1)
        assert torch.allclose(
            found, expected, atol=2e-3 if options["hidden_type"] == "relu" else 1e-9
        )


@pytest.mark.parametrize(("domain", "values", "options"), KINDS)
def test_the_hidden_side_has_the_same_normaliser(
    domain: Domain, values: int, options: dict[str, Any]
) -> None:
    rbm = machine(domain, 4, **options)
    if options["hidden_type"] == "relu":
        assert rbm.latent.hidden_marginal is None
        return
    own = torch.logsumexp(-rbm(states(values, domain.shape[0])), 0)
    assert torch.allclose(own, torch.logsumexp(-rbm.hidden_marginal()(states(2, 4)), 0))


def test_the_hidden_side_of_gaussian_units_integrates_them_out() -> None:
    rbm = machine(real(1), 3)
    rbm.sigma.fill_(1.7)
    line = torch.linspace(-40.0, 40.0, 80_001, dtype=WIDE).unsqueeze(1)
    integral = torch.trapezoid(torch.exp(-rbm(line)), line.squeeze(1)).log()
    assert torch.allclose(
        integral, torch.logsumexp(-rbm.hidden_marginal()(states(2, 3)), 0), atol=1e-8
    )


def test_relaxed_energies_agree_with_one_hot_ones() -> None:
    for options in ({}, {"classes": 3}):
        rbm, x = machine(categorical(3, 4), **options), states(3, 4)
        assert torch.allclose(rbm.one_hot_energy(one_hot(x.long(), 3).double()), rbm(x))


def test_remembered_fields_never_outlive_points_or_weights() -> None:
    rbm, x = machine(binary(5)), states(2, 5)
    before = rbm(x).detach()
    with torch.no_grad():
        x[0, 0] = 1 - x[0, 0]
        assert torch.equal(rbm(x), copy.deepcopy(rbm)(x.clone())) and not torch.equal(
            rbm(x), before
        )
        rbm.weight.add_(0.1)
        assert torch.equal(rbm(x), copy.deepcopy(rbm)(x.clone()))
        rbm.hidden_bias.add_(0.1)
        assert torch.equal(rbm(x), copy.deepcopy(rbm)(x.clone()))
        rbm.load_state_dict(machine(binary(5), seed=7).state_dict())
        assert torch.equal(rbm(x), machine(binary(5), seed=7)(x.clone()))
        gaussian, y = machine(real(3)), torch.randn(8, 3, generator=seeded(), dtype=WIDE)
        before = gaussian(y)
        gaussian.init_from_data(4 * y)  # other scales, the same weights
        assert torch.equal(gaussian(y), copy.deepcopy(gaussian)(y.clone())) and not torch.equal(
            gaussian(y), before
        )
        with torch.autocast("cpu", torch.bfloat16):
            half = rbm(x.float().double())
        assert not torch.equal(half, rbm(x))


@pytest.mark.parametrize("domain", [binary(5), real(3), categorical(3, 4)], ids=lambda d: d.kind)
def test_gradients_in_weights_and_points_are_those_of_the_plain_formula(domain: Domain) -> None:
    rbm = machine(domain, 4)
    x = domain.draw(6, seeded(), dtype=WIDE)

    def plain(x: Tensor) -> Tensor:
        f = one_hot(x.long(), 3).double().flatten(1) if domain.kind == "categorical" else x
        own = (
            0.5 * (f - rbm.visible_bias).square().sum(1)
            if domain.kind == "real"
            else -(f @ rbm.visible_bias)
        )
        return own - nn.functional.softplus(f @ rbm.weight + rbm.hidden_bias).sum(1)

    weights = list(rbm.parameters())
    scale = torch.arange(6.0, dtype=WIDE)
    found = torch.autograd.grad((rbm(x) * scale).sum(), weights)
    expected = torch.autograd.grad((plain(x) * scale).sum(), weights)
    assert all(torch.allclose(a, b) for a, b in zip(found, expected, strict=True))
    if domain.kind == "real":
        leaf = x.clone().requires_grad_(True)
        assert torch.allclose(
            torch.autograd.grad(rbm(leaf).sum(), leaf)[0],
            torch.autograd.grad(plain(leaf).sum(), leaf)[0],
        )


# -------------------------------------------------------------------------------------- block Gibbs


def gibbs_misfit(rbm: Any, values: int, sites: int, labels: Tensor | None = None) -> float:
    """Chains that start at exact draws, after a sweep: worst |z| of their law."""
    x = states(values, sites)
    energy = rbm if labels is None else rbm.given(labels)
    p = law(energy, x)
    moved = (
        BlockGibbs(3)
        .step(energy, BlockGibbs().init(energy, drawn(p, x, 60_000, 1)), seeded(2))[0]
        .x
    )
    return misfit(moved, p, values)


@pytest.mark.parametrize(("domain", "values", "options"), KINDS)
def test_block_gibbs_leaves_the_exact_law_as_it_is(
    domain: Domain, values: int, options: dict[str, Any]
) -> None:
    rbm = machine(domain, 4, 1.2, **options)
    assert gibbs_misfit(rbm, values, domain.shape[0]) < LIMIT
    if options.get("classes"):
        assert gibbs_misfit(rbm, values, domain.shape[0], torch.tensor(2)) < LIMIT


@pytest.mark.parametrize("bug", ["bias forgotten", "halves exchanged", "labels not drawn"])
def test_a_wrong_block_gibbs_is_caught(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rbm = machine(binary(5), 5, 1.2, classes=3)
    with torch.no_grad():
        rbm.label_bias.zero_()  # so that no label stands out
    if bug == "bias forgotten":
        monkeypatch.setattr(Binary, "_logits", staticmethod(lambda machine, y, beta, law: y))
    elif bug == "halves exchanged":
        monkeypatch.setattr(RBM, "visible_fields", lambda self, h: h @ self.weight)
    else:
        monkeypatch.setattr(
            RBM, "_draw_labels", staticmethod(lambda logits, generator: logits.argmax(1))
        )
    assert gibbs_misfit(rbm, 2, 5) > LIMIT


def test_block_gibbs_of_gaussian_units_keeps_mean_and_variance() -> None:
    rbm = machine(real(2), 3, 1.0)
    rbm.sigma.copy_(torch.tensor([0.5, 2.0]))
    h = states(2, 3)
    chosen = drawn(torch.softmax(-rbm.hidden_marginal()(h), 0).detach(), h, 100_000, 0)
    with torch.no_grad():
        x = rbm.draw_visible(chosen, seeded(1))  # exact draws
        y = rbm.sweep(x, 3, seeded(2))
    for a, b in ((x, y), (x.square(), y.square()), (x[:, :1] * x[:, 1:], y[:, :1] * y[:, 1:])):
        z = (a.mean(0) - b.mean(0)) / ((a.var(0) + b.var(0)) / len(a)).sqrt()
        assert z.abs().max() < LIMIT
    trace = lowland.sample(
        rbm, lowland.MALA(0.1), x[:20_000], 5, generator=seeded(3)
    )  # and by its energy, from the same draws
    assert ((trace.x.mean(0) - x.mean(0)) / (x.var(0) / 20_000).sqrt()).abs().max() < LIMIT


def test_discrete_langevin_agrees_with_block_gibbs() -> None:
    rbm, x = machine(categorical(3, 4), 4), states(3, 4)
    p = law(rbm, x)
    trace = lowland.sample(rbm, DMALA(0.5), drawn(p, x, 100_000, 1), 3, generator=seeded(2))
    assert misfit(trace.x, p, 3) < LIMIT


# ---------------------------------------------------------------------- paths, tempering, annealing


def test_the_bridge_begins_at_the_base_and_ends_at_the_machine() -> None:
    for rbm, base in (
        (machine(binary(5)), Bernoulli((0.1, 0.5, 0.3, 0.9, 0.7)).double()),
        (machine(binary(5), classes=3), Bernoulli((0.1, 0.5, 0.3, 0.9, 0.7)).double()),
        (machine(real(2)), Gaussian((1.0, -1.0), ((2.0, 0.0), (0.0, 0.5))).double()),
    ):
        x = rbm.domain.draw(50, seeded(), dtype=WIDE)
        path = rbm.path_from(base, (0.0, 0.4, 1.0))
        assert torch.allclose(path[0](x), base(x), atol=1e-6) and torch.allclose(
            path[-1](x), rbm(x), atol=1e-6
        )
    correlated = Gaussian((0.0, 0.0), ((1.0, 0.5), (0.5, 1.0)))
    assert machine(real(2)).float().path_from(correlated, (0.0, 1.0)) is None
    assert rbm.path_from(machine(binary(5)), (0.0, 1.0)) is None


@pytest.mark.parametrize(("domain", "values", "options"), KINDS)
def test_every_rung_has_block_gibbs_that_leaves_its_law(
    domain: Domain, values: int, options: dict[str, Any]
) -> None:
    rbm, x = machine(domain, 4, 1.2, **options), states(values, domain.shape[0])
    betas = torch.tensor([1.0, 0.6, 0.0], dtype=WIDE)
    count = 40_000
    with torch.no_grad():
        laws = [law(rbm.at_temperatures(beta.view(1), len(x)), x) for beta in betas]
        start = torch.cat([drawn(p, x, count, seed) for seed, p in enumerate(laws)])
        ends = rbm.at_temperatures(betas, count).sweep(start, 2, seeded(9)).split(count)
    assert max(misfit(end, p, values) for end, p in zip(ends, laws, strict=True)) < LIMIT


@pytest.mark.parametrize("planted", [False, True])
def test_parallel_tempering_keeps_the_law_of_every_rung(
    planted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rbm, x = machine(binary(6), 4, 2.0), states(2, 6)
    sampler, count = ParallelTempering(BlockGibbs(), (1.0, 1.6, 3.0, 12.0)), 60_000
    betas = sampler.betas(x)
    laws = [law(rbm.at_temperatures(beta.view(1), len(x)), x) for beta in betas]
    with torch.no_grad():
        state = sampler.from_replicas(
            rbm, torch.cat([drawn(p, x, count, seed) for seed, p in enumerate(laws)])
        )
        if planted:  # swaps judged as if energies were β E
            monkeypatch.setattr(
                "lowland.samplers.tempering.at_temperatures",
                lambda energy, betas, size: rbm.at_temperatures(betas.flip(0), size),
            )
        generator = seeded(5)
        for _ in range(4):
            state = sampler.step(rbm, state, generator)[0]
        ends = state.replicas.x.split(count)
    wrong = max(misfit(end, p, 2) for end, p in zip(ends, laws, strict=True))
    assert wrong > LIMIT if planted else wrong < LIMIT
    if not planted:
        again = rbm.at_temperatures(betas, count)(state.replicas.x)
        assert torch.allclose(again, state.replicas.energy) and torch.equal(state.x, ends[0])
        assert bool((state.tempering.swap_rates > 0.05).all())


def test_annealed_importance_sampling_finds_the_normaliser_and_pays_one_product_a_rung(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rbm = machine(binary(8), 6, 1.0)
    exact = torch.logsumexp(-rbm(states(2, 8)), 0).item()
    base = Bernoulli((0.5,) * 8).double()
    products, times = Counter[bool](), RBM._times

    def counted(self: RBM, a: Tensor, transposed: bool) -> Tensor:
        products[transposed] += 1
        return times(self, a, transposed)

    monkeypatch.setattr(RBM, "_times", counted)

    def anneal(rungs: int) -> AISResult:
        products.clear()
        path = rbm.path_from(base, torch.linspace(0, 1, rungs).tolist())
        start = base.draw(2000, seeded()).double()
        return ais(path, BlockGibbs(), start, generator=seeded(1))

    anneal(51)
    few = products.copy()
    found = anneal(101)
    assert abs(found.log_ratio + base.log_z - exact) / found.error < LIMIT
    assert products[True] == 99  # 99 moves, two products each
    assert products[False] - few[False] == 50, "a rung must cost one product each way"
    assert products[False] <= 99 + 12  # the ends, and the door's look at the energy


# ----------------------------------------------------------------------------------------- learning


def exact_gradients(rbm: RBM, data: Tensor, x: Tensor) -> list[Tensor]:
    """Of −log p(data), by autograd of the enumerated likelihood."""
    plain = copy.deepcopy(rbm)
    loss = plain(data).mean() + torch.logsumexp(-plain(x), 0)
    return list(torch.autograd.grad(loss, list(plain.parameters())))


def gradients(loss: Tensor, rbm: RBM) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(rbm.parameters())))


@pytest.mark.parametrize("options", [{}, {"classes": 3}], ids=["plain", "labels"])
def test_pcd_with_chains_at_the_model_has_the_exact_gradient(options: dict[str, Any]) -> None:
    rbm, x, count = machine(binary(10), 10, 0.5, **options), states(2, 10), 20_000
    data = (torch.rand(64, 10, generator=seeded(3)) < 0.3).double()
    chains = drawn(law(rbm, x), x, count, 4)
    buffer = lowland.ReplayBuffer(
        count, rbm.domain, generator=seeded(), reinit_prob=0.0, dtype=WIDE
    )
    buffer.x = chains
    objective = PCD(steps=2, buffer_size=count, num_chains=count, reinit_prob=0.0)
    loss = objective.loss(rbm, Batch(data), Context(seeded(6), sampler=BlockGibbs(), buffer=buffer))
    each = torch.func.vmap(
        torch.func.grad(lambda p, x: torch.func.functional_call(Plain(rbm), p, (x,)).sum()),
        (None, 0),
    )
    spread = each({f"rbm.{n}": p for n, p in rbm.named_parameters()}, buffer.x[:4000].unsqueeze(1))
    for found, exact, rows in zip(
        gradients(loss.value, rbm), exact_gradients(rbm, data, x), spread.values(), strict=True
    ):
        z = (found - exact) / (rows.var(0) / count).sqrt().clamp_min(1e-9)
        assert z.abs().max() < LIMIT


class Plain(nn.Module):
    """The free energy without the memory, for functional transforms."""

    def __init__(self, rbm: RBM) -> None:
        super().__init__()
        self.rbm = rbm

    def forward(self, x: Tensor) -> Tensor:
        rbm = self.rbm
        z = x @ rbm.weight + rbm.hidden_bias
        if not rbm.classes:
            return -(x @ rbm.visible_bias) - nn.functional.softplus(z).sum(1)
        heads = rbm.label_bias + nn.functional.softplus(z.unsqueeze(1) + rbm.label_weight).sum(2)
        return -(x @ rbm.visible_bias) - heads.logsumexp(1) + math.log(rbm.classes)


def test_cd_has_the_gradient_of_its_enumerated_chains() -> None:
    rbm, x, h = machine(binary(7), 6, 0.8), states(2, 7), states(2, 6)
    data = x[torch.tensor([3, 77, 120])]
    with torch.no_grad():
        up = torch.stack(
            [
                torch.exp(
                    -nn.functional.binary_cross_entropy_with_logits(
                        (x @ rbm.weight + rbm.hidden_bias), s.expand(len(x), -1), reduction="none"
                    ).sum(1)
                )
                for s in h
            ],
            1,
        )
        down = torch.stack(
            [
                torch.exp(
                    -nn.functional.binary_cross_entropy_with_logits(
                        (h @ rbm.weight.t() + rbm.visible_bias),
                        s.expand(len(h), -1),
                        reduction="none",
                    ).sum(1)
                )
                for s in x
            ],
            1,
        )
        after = (up @ down)[
            (data @ (2.0 ** torch.arange(6, -1, -1, dtype=WIDE))).long()
        ]  # p(x' | x), (3, 128)
    exact = gradients(rbm(data).mean() - (after.mean(0) * rbm(x)).sum(), rbm)
    repeats = 20_000
    loss = CD(steps=1).loss(
        rbm, Batch(data.repeat(repeats, 1)), Context(seeded(2), sampler=BlockGibbs())
    )
    for found, expected in zip(gradients(loss.value, rbm), exact, strict=True):
        assert ((found - expected).abs() / (0.5 / math.sqrt(3 * repeats))).max() < LIMIT


def test_the_negative_phase_of_cd_uses_the_last_point_so_hidden_biases_learn() -> None:
    rbm, data = machine(binary(6), 5, 0.8), states(2, 6)[10:40]
    captured: list[Tensor] = []

    class Seen(BlockGibbs):
        def step(self, *args: Any) -> Any:
            state, info = super().step(*args)
            captured.append(state.x)
            return state, info

    loss = CD(steps=1).loss(rbm, Batch(data), Context(seeded(2), sampler=Seen()))
    found = dict(
        zip([n for n, _ in rbm.named_parameters()], gradients(loss.value, rbm), strict=True)
    )
    with torch.no_grad():
        p0, p1 = rbm.hidden_mean(data), rbm.hidden_mean(captured[-1])
    assert torch.allclose(found["hidden_bias"], p1.mean(0) - p0.mean(0))
    assert torch.allclose(found["weight"], (captured[-1].t() @ p1 - data.t() @ p0) / len(data))
    usual = p0.mean(0) - p0.mean(0)  # p(h | v of the step before), as much code has it
    assert found["hidden_bias"].abs().max() > 0.01 > usual.abs().max()


@pytest.mark.parametrize("options", [{}, {"classes": 3}], ids=["plain", "labels"])
def test_the_centred_gradient_is_that_of_the_centred_machine(options: dict[str, Any]) -> None:
    rbm, x = machine(binary(8), 6, 0.6, **options), states(2, 8)
    data = x[torch.randperm(256, generator=seeded())[:20]]
    rbm.visible_offset.copy_(data.mean(0))
    rbm.hidden_offset.copy_(rbm.hidden_mean(data).mean(0).detach())
    mu, lam = rbm.visible_offset, rbm.hidden_offset
    even = torch.full((3,), 1 / 3, dtype=WIDE)
    names = [n for n, _ in rbm.named_parameters()]
    with torch.no_grad():  # the same law, in the parameters of (x − μ)ᵀ W (h − λ) + a'·x + c'·h
        own = dict(zip(names, [p.clone() for p in rbm.parameters()], strict=True))
        own["visible_bias"] += own["weight"] @ lam
        own["hidden_bias"] += mu @ own["weight"]
        if options:
            own["hidden_bias"] += even @ own["label_weight"]
            own["label_bias"] += own["label_weight"] @ lam
    leaves = {n: p.requires_grad_(True) for n, p in own.items()}

    def mapped(p: dict[str, Tensor]) -> dict[str, Tensor]:
        made = dict(p)
        made["visible_bias"] = p["visible_bias"] - p["weight"] @ lam
        made["hidden_bias"] = (
            p["hidden_bias"] - mu @ p["weight"] - (even @ p["label_weight"] if options else 0.0)
        )
        if options:
            made["label_bias"] = p["label_bias"] - p["label_weight"] @ lam
        return made

    plain = Plain(rbm)

    def call(x: Tensor) -> Tensor:
        weights = {f"rbm.{n}": p for n, p in mapped(leaves).items()}
        return torch.func.functional_call(plain, weights, (x,))

    steps = torch.autograd.grad(
        call(data).mean() + torch.logsumexp(-call(x), 0), list(leaves.values())
    )
    with torch.no_grad():
        before = mapped(leaves)
        moved = mapped({n: p - 0.1 * s for (n, p), s in zip(leaves.items(), steps, strict=True)})
    for p, g in zip(rbm.parameters(), exact_gradients(rbm, data, x), strict=True):
        p.grad = g
    rbm.center_gradients()
    for name, p in rbm.named_parameters():
        assert p.grad is not None and torch.allclose(
            -0.1 * p.grad, moved[name] - before[name], atol=1e-12
        ), name


def test_centring_makes_the_polarity_of_the_data_irrelevant_and_plain_gradients_do_not() -> None:
    def direction(flipped: bool, centred: bool) -> float:
        rbm = machine(binary(8), 5, 0.4, centered=centred)
        x = states(2, 8)
        data = x[torch.randperm(256, generator=seeded())[:40]] * (
            torch.rand(40, 8, generator=seeded(1)) < 0.5
        )
        if flipped:  # the same law of 1 − x
            with torch.no_grad():
                rbm.hidden_bias.add_(rbm.weight.sum(0))
                rbm.weight.neg_()
                rbm.visible_bias.neg_()
            data = 1 - data
        rbm.visible_offset.copy_(data.mean(0))
        rbm.hidden_offset.copy_(rbm.hidden_mean(data).mean(0).detach())
        for p, g in zip(rbm.parameters(), exact_gradients(rbm, data, x), strict=True):
            p.grad = g
        if centred:
            rbm.center_gradients()
        with torch.no_grad():
            for p in rbm.parameters():
                p.sub_(0.5 * p.grad)
            return (rbm(data).mean() + torch.logsumexp(-rbm(x), 0)).item()

    assert math.isclose(direction(False, True), direction(True, True), rel_tol=1e-9)
    assert abs(direction(False, False) - direction(True, False)) > 1e-3


def test_sparsity_pulls_the_mean_activity_to_its_target() -> None:
    rbm, data = machine(binary(6), 5, 0.3), states(2, 6)
    for objective in (CD(sparsity=50.0, sparse_target=0.05), CD()):
        trained = copy.deepcopy(rbm)
        optimizer = torch.optim.SGD(trained.parameters(), lr=0.05)
        for step in range(150):
            loss = objective.loss(trained, Batch(data), Context(seeded(step), sampler=BlockGibbs()))
            optimizer.zero_grad()
            loss.value.backward()
            optimizer.step()
        activity = trained.hidden_mean(data).mean().item()
        assert (activity < 0.12) == bool(objective.sparsity)
    with pytest.raises(ValueError, match="hidden units"):
        mlp = lowland.nets.MLP(real(2), hidden=(4,))
        CD(sparsity=1.0).loss(
            mlp, Batch(torch.zeros(4, 2)), Context(seeded(), sampler=lowland.MALA(0.1))
        )


def test_contrast_judges_apart_what_it_would_judge_together() -> None:
    rbm, x = machine(binary(6), 5), states(2, 6)
    found = contrast(rbm, x[:20], x[20:50], l2=0.1)
    together = contrast(Function(Plain(rbm)), x[:20], x[20:50], l2=0.1)
    assert torch.allclose(found.value, together.value)
    for a, b in zip(gradients(found.value, rbm), gradients(together.value, rbm), strict=True):
        assert torch.allclose(a, b)


def test_tempered_chains_keep_their_replicas_between_updates() -> None:
    rbm = machine(binary(6), 4, 0.5).float()
    sampler = ParallelTempering(BlockGibbs(), (1.0, 3.0, 20.0))
    buffer = lowland.ReplayBuffer(32, binary(3, 6), generator=seeded(), reinit_prob=0.0)
    before = buffer.x.clone()
    objective = PCD(steps=2, buffer_size=32, num_chains=32, reinit_prob=0.0)
    loss = objective.loss(
        rbm, Batch(before[:8, 0]), Context(seeded(1), sampler=sampler, buffer=buffer)
    )
    assert loss.negatives is not None and torch.equal(loss.negatives, buffer.x[:, 0])
    assert all(not torch.equal(before[:, r], buffer.x[:, r]) for r in range(3))
    assert bool((buffer.age == 2).all())


# ----------------------------------------------------------------------------------------- training


def recipe(**changes: Any) -> dict[str, Any]:
    values = {
        "data.binarize": "threshold",
        "energy.n_hidden": 12,
        "training.steps": 60,
        "training.batch": 20,
        "training.log_every": 10,
        "training.checkpoint_every": 20,
        "objective.num_chains": 24,
        "objective.buffer_size": 24,
    }
    return lowland.read_recipe("digits-rbm", values | changes).plain()


VARIANTS = {
    "sgd": {},
    "momentum in bfloat16": {
        "training.momentum": 0.5,
        "training.precision": "bfloat16",
        "training.weight_decay": 1e-3,
    },
    "stochastic": {"data.binarize": "stochastic"},
    "labels": {"energy.classes": 10, "objective.sample_labels": True},
    "cd": {
        "objective": {"name": "CD", "steps": 2},
        "generation.start": "noise",  # CD keeps no chains
    },
    "tempering": {
        "sampler": {
            "name": "ParallelTempering",
            "sampler": {"name": "BlockGibbs"},
            "temperatures": [1.0, 2.0, 8.0],
        }
    },
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_resumed_equals_uninterrupted(variant: str, tmp_path: Any) -> None:
    values = recipe(**VARIANTS[variant])
    lowland.train_recipe(values, tmp_path / "whole", progress=False)
    first = lowland.Run.create(tmp_path / "parts", values)
    from lowland.training.loop import load_recipe_data
    from lowland.training.session import Session

    session = Session(values, load_recipe_data(values))
    first.save_checkpoint(session.checkpoint(0))
    for _ in range(20):
        session.advance()
    session.row()
    first.save_checkpoint(session.checkpoint(0))
    lowland.train_recipe(values, tmp_path / "parts", progress=False)
    whole, parts = (
        lowland.Run.open(tmp_path / name).load_checkpoint(60).tensors for name in ("whole", "parts")
    )
    assert all(
        torch.equal(whole[stem][name], parts[stem][name]) for stem in whole for name in whole[stem]
    )


def test_training_raises_the_exact_likelihood(tmp_path: Any) -> None:
    values = recipe(**{"training.steps": 1000, "training.checkpoint_every": 500})
    energy = lowland.train_recipe(values, tmp_path / "run", progress=False)
    from lowland.training.loop import load_recipe_data

    data = load_recipe_data(values)
    with torch.no_grad():
        exact = -energy(data.test.x).mean() - torch.logsumexp(
            -energy.hidden_marginal()(states(2, 12).float()), 0
        )
    share = data.train.x.flatten(1).mean(0).clamp(1e-3, 1 - 1e-3)
    independent = (
        torch.distributions.Bernoulli(share).log_prob(data.test.x.flatten(1)).sum(1).mean()
    )
    assert exact > independent + 3


# ---------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "make",
    [
        lambda: RBM(lowland.box(0.0, 1.0, 4)),
        lambda: RBM(lowland.real()),
        lambda: RBM(binary(4), hidden_type="tanh"),
        lambda: RBM(binary(4), n_hidden=0),
        lambda: RBM(binary(4), classes=1),
        lambda: RBM(binary(4), init_std=math.nan),
        lambda: RBM(binary(4), classes=2).joint(torch.zeros(1, 4), torch.zeros(1, 500)),
        lambda: RBM(binary(4), n_hidden=3).joint(torch.zeros(1, 4), torch.zeros(1, 4)),
        lambda: RBM(binary(4))(torch.zeros(1, 4), torch.tensor([1])),
        lambda: RBM(binary(4), classes=2)(torch.zeros(1, 4), torch.tensor([2])),
        lambda: PCD(num_chains=20, buffer_size=10),
        lambda: CD(sparsity=-1.0),
    ],
)
def test_what_nobody_can_mean_is_refused_in_three_clauses(make: Any) -> None:
    with pytest.raises(ValueError) as refused:
        make()
    assert len(str(refused.value).split(";")) == 3


def test_a_power_of_the_law_is_sampled_by_other_means() -> None:
    rbm, x = machine(binary(4), 3), states(2, 4)
    half = rbm / 2
    p = law(half, x)
    trace = lowland.sample(half, BlockGibbs(), drawn(p, x, 50_000, 0), 2, generator=seeded(1))
    assert misfit(trace.x, p, 2) < LIMIT


def test_all_pairs_of_states_are_enumerated() -> None:
    assert [tuple(row) for row in states(2, 2).tolist()] == list(
        itertools.product([0.0, 1.0], repeat=2)
    )
