"""log Z and likelihoods against exact answers; and what must break the certificate does."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from contract.cases import seeded
from contract.checks import LIMIT, z_scores
from torch import Tensor

from benchmarks.proof.certificate import bars_and_stripes, exact_draws, needle, random_machine
from lowland import HMC, MALA, BlockGibbs, Energy, Function, binary, box, categorical, mixture, real
from lowland.energy import Sum
from lowland.metrics import LogZ, bennett, bits_per_dim, dequantise, log_likelihood, log_z
from lowland.metrics.log_z import bracket
from lowland.metrics.log_z.certificate import interval
from lowland.metrics.log_z.enumeration import countable, sum_states
from lowland.metrics.log_z.schedule import EVEN_SHARE, dispersion, plan_schedule
from lowland.nets import RBM
from lowland.report.likelihood import draw_gap, draw_path, likelihood_card, likelihood_section
from lowland.samplers import geometric_path
from lowland.samplers.kernel import select
from lowland.targets import (
    Bernoulli,
    Funnel,
    Gaussian,
    GaussianMixture,
    Ising,
    MaxCut,
    Normal,
    Potts,
    Uniform,
)

DOUBLE = torch.float64


def machine(seed: int, visible: int = 8, hidden: int = 4, strength: float = 1.0) -> RBM:
    """A small machine with random weights and biases that centre it, in float64."""
    g = seeded(seed)
    rbm = RBM(binary(visible), n_hidden=hidden).double()
    with torch.no_grad():
        rbm.weight.copy_(strength * torch.randn(visible, hidden, generator=g, dtype=DOUBLE))
        rbm.visible_bias.copy_(
            torch.randn(visible, generator=g, dtype=DOUBLE) - rbm.weight.sum(1) / 2
        )
        rbm.hidden_bias.copy_(
            torch.randn(hidden, generator=g, dtype=DOUBLE) - rbm.weight.sum(0) / 2
        )
    return rbm


def states(sites: int, classes: int = 2) -> Tensor:
    return torch.cartesian_prod(*[torch.arange(classes, dtype=DOUBLE)] * sites).view(-1, sites)


def draws_of(rbm: RBM, count: int, seed: int = 0) -> Tensor:
    with torch.no_grad():
        every = states(rbm.domain.shape[0])
        return every[
            torch.multinomial(
                (-rbm(every)).softmax(0), count, replacement=True, generator=seeded(seed)
            )
        ]


# -------------------------------------------------------------------------------------- enumeration


def test_enumeration_of_a_lattice_is_its_exact_log_z() -> None:
    for lattice in (
        Ising((3, 5), coupling=0.4, field=0.2),
        Potts((3, 3), 3, 0.7),
        Ising((2, 2), coupling=-1.0),
    ):
        assert sum_states(lattice).value == pytest.approx(lattice.log_z, abs=1e-9)


def test_both_sides_of_a_machine_have_the_same_log_z() -> None:
    rbm = machine(0, 10, 6)
    direct = (-rbm(states(10))).logsumexp(0).item()
    found = sum_states(rbm)
    assert (
        found.value == pytest.approx(direct, abs=1e-10)
        and found.states == 2**6
        and "hidden" in found.side
    )
    tall = machine(0, 6, 10)
    assert sum_states(tall).states == 2**6 and sum_states(tall).side == "states"


def test_enumeration_is_chosen_where_it_can_be_done_and_said() -> None:
    rbm, g = machine(1), seeded()
    found = log_z(rbm, generator=g)
    assert (
        found.method == "enumeration"
        and found.lower == found.value == found.upper
        and found.certified
        and found.gap == 0
    )
    assert repr(found).startswith(
        "LogZ("
    ) and "exact: sum over 16 states of its hidden units in float64" in repr(found)
    assert (
        countable(Ising((4, 6))) is not None
        and countable(Ising((5, 5))) is None
        and countable(Gaussian()) is None
    )
    assert (
        countable(RBM(binary(784), n_hidden=24)) is not None
        and countable(RBM(binary(784), n_hidden=25)) is None
    )
    with pytest.raises(ValueError, match=r"cannot be enumerated;.*;"):
        log_z(Ising((5, 5)), exact=True, generator=g)
    with pytest.raises(ValueError, match=r"generator is a int;.*;"):
        log_z(rbm, generator=3)  # type: ignore[arg-type]


def test_enumeration_is_in_float64_and_leaves_the_energy_alone() -> None:
    rbm = machine(2, 12, 12, 2.0)
    exact = sum_states(rbm).value
    single = RBM(binary(12), n_hidden=12)
    single.load_state_dict(rbm.state_dict())
    single.train()
    found, heard = sum_states(single), []
    assert found.dtype == DOUBLE and abs(found.value - exact) < 1e-5
    assert single.weight.dtype == torch.float32 and single.training and single.weight.requires_grad
    w = torch.ones(5, 5)
    stubborn = Function(lambda x: -((x @ w) * x).sum(1), binary(5))
    found = sum_states(stubborn, heard.append)
    assert found.dtype == torch.float32 and sum(heard) == 32
    assert found.value == pytest.approx(
        torch.logsumexp(((states(5) @ w.double()) * states(5)).sum(1), 0).item(), rel=1e-6
    )


def test_states_without_weight_are_left_out_and_broken_energies_refused() -> None:
    wall = Function(lambda x: torch.where(x[:, 0] > 0, math.inf, 0.0), binary(3))
    assert sum_states(wall).value == pytest.approx(math.log(4))
    with pytest.raises(ValueError, match=r"4 of 8 states have an energy that is NaN.*;.*;"):
        sum_states(Function(lambda x: torch.where(x[:, 0] > 0, math.nan, 0.0), binary(3)))


# ---------------------------------------------------------------------------------- the certificate


def test_bennetts_ratio_is_found_with_its_error() -> None:
    g, truth, found = seeded(1), 2.0, []
    for _ in range(300):
        up = (
            truth - 0.5 + torch.randn(80, generator=g, dtype=DOUBLE)
        )  # normal work of variance 1 in both directions
        down = -(truth + 0.5 + torch.randn(120, generator=g, dtype=DOUBLE))
        value, error = bennett(up, down)
        found.append((value - truth) / error)
    z = torch.tensor(found, dtype=DOUBLE)
    assert abs(z.mean().item()) * math.sqrt(300) < LIMIT and abs(
        z.std().item() - 1
    ) < LIMIT / math.sqrt(2 * 300)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.5])
def test_the_low_end_is_below_whatever_the_tails(sigma: float) -> None:
    """The mean of exp(N(−σ²/2, σ²)) is 1: its interval may begin above 0 in 0.5 % of samples; of
    200, with LIMIT errors, 4.
    """
    g = seeded(2)
    ends = [
        interval(sigma * torch.randn(100, generator=g, dtype=DOUBLE) - sigma**2 / 2, g)
        for _ in range(200)
    ]
    assert sum(low > 0 for _, low, _ in ends) <= 4
    if (
        sigma < 0.5
    ):  # the same is true of the other end where tails are light, and the interval is not idle
        assert (
            sum(high < 0 for _, _, high in ends) <= 4
            and max(high - low for _, low, high in ends) < 0.3
        )


CHEAP: dict[str, Any] = {"chains": 60, "num_temperatures": 40, "exact": False}


def holds(found: LogZ, truth: float) -> bool:
    return found.certified and found.lower <= truth <= found.upper


STRONG = (2.0, 3.0)


def covered(count: int, strengths: tuple[float, ...] = STRONG, **options: Any) -> int:
    """How many of so many small machines are certified with log Z inside."""
    held = 0
    for seed in range(count):
        rbm = machine(seed, 8, 4, strengths[seed % len(strengths)])
        draws = draws_of(rbm, 120, seed)
        held += holds(
            log_z(rbm, draws=draws, generator=seeded(seed), **CHEAP | options),
            sum_states(rbm).value,
        )
    return held


def test_the_certificate_contains_log_z() -> None:
    assert covered(32, (0.3, 1.0, *STRONG)) >= 30


def excess() -> float:
    """z of the mean of forward mean weights over Z against 1: weights of rungs that were fixed
    before are unbiased.
    """
    rbm = machine(0, 6, 3, 2.0)
    truth, draws, found = sum_states(rbm).value, draws_of(rbm, 80), []
    for seed in range(30):
        run = log_z(
            rbm, draws=draws, chains=40, num_temperatures=12, exact=False, generator=seeded(seed)
        ).forward
        assert run is not None
        found.append(math.exp(run.value - truth))
    return z_scores(torch.tensor(found, dtype=DOUBLE), 1.0).item()


def plant(monkeypatch: pytest.MonkeyPatch, change: Callable[..., Any]) -> None:
    """Change what annealed importance sampling gives to log_z."""
    original = bracket.ais
    monkeypatch.setattr(bracket, "ais", lambda *args, **options: change(original, *args, **options))


def best_of_five(ais: Any, *args: Any, **options: Any) -> Any:
    """As if the run were made anew, with other rungs, until its weights look well."""
    return max((ais(*args, **options) for _ in range(5)), key=lambda run: run.log_ratio)


def test_weights_are_unbiased_and_what_is_adapted_to_them_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert abs(excess()) < LIMIT
    plant(monkeypatch, best_of_five)
    assert excess() > LIMIT


def turned(ais: Any, *args: Any, **options: Any) -> Any:
    found = ais(*args, **options)
    found.log_weights.neg_()
    return found


def from_the_base(ais: Any, path: Any, samplers: Any, x: Tensor, **options: Any) -> Any:
    """The reverse run begins at draws of the base, and has few rungs to forget it."""
    if path[0].beta == 1.0:
        return ais(
            path[::8],
            samplers[::8],
            (torch.rand(x.shape, generator=seeded(5)) < 0.5).to(x),
            **options,
        )
    return ais(path, samplers, x, **options)


class Lazy(BlockGibbs):
    """Gibbs sampling after which one bit in four is set to one: no rung keeps its law."""

    def step(self, energy: Energy, state: Any, generator: torch.Generator) -> Any:
        state, info = super().step(energy, state, generator)
        x = torch.where(torch.rand(state.x.shape, generator=generator) < 1 / 4, 1.0, state.x)
        return self.init(energy, x), info


@pytest.mark.parametrize("bug", [turned, from_the_base], ids=lambda bug: bug.__name__)
def test_planted_bugs_break_the_coverage(bug: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, bug)
    assert covered(12) <= 8


def test_a_sampler_that_moves_the_law_breaks_the_coverage() -> None:
    assert covered(12, sampler=Lazy()) <= 8


def test_draws_of_another_energy_are_seen() -> None:
    draws = Gaussian((4.0, 0.0)).draw(60, seeded())
    found = log_z(
        Gaussian(),
        base=Normal([0.0, 0.0], [2.0, 2.0]),
        draws=draws,
        generator=seeded(1),
        chains=60,
        num_temperatures=6,
    )
    assert (
        not found.certified
        and "not certified" in repr(found)
        and "the forward run is above" in found.verdict
    )


def test_single_and_double_precision_agree() -> None:
    rbm = machine(5, 12, 8, 2.0)
    truth, draws = sum_states(rbm).value, draws_of(rbm, 400)
    single = RBM(binary(12), n_hidden=8)
    single.load_state_dict(rbm.state_dict())
    a, b = (
        log_z(e, draws=draws.to(d), generator=seeded(1), **CHEAP)
        for e, d in ((rbm, DOUBLE), (single, torch.float32))
    )
    assert holds(a, truth) and holds(b, truth)
    assert abs(a.value - b.value) < LIMIT * math.hypot(a.error, b.error)


@pytest.mark.parametrize("dim", [2, pytest.param(10, marks=pytest.mark.slow), 50])
@pytest.mark.parametrize("name", ["gaussian", "mixture", "funnel"])
def test_continuous_laws_lie_within_their_interval(name: str, dim: int) -> None:
    law: Any = {
        "gaussian": Gaussian([1.0] * dim, (0.5 * torch.eye(dim) + 0.02).tolist()),
        "mixture": GaussianMixture(
            ([-2.0 / dim**0.5] * dim, [3.0 / dim**0.5] * dim), 1.0, (1.0, 3.0)
        ),
        "funnel": Funnel(dim, 1.0),
    }[name]
    base = Normal([0.0] * dim, [1.5] * dim)
    found = log_z(
        law, base=base, chains=100, num_temperatures=150 if dim < 50 else 250, generator=seeded(dim)
    )
    assert found.lower <= law.log_z <= found.upper and found.upper - found.lower < 2.5
    assert "exact draws" in repr(found) and found.sampler == "HMC" and found.base == "Normal"


class Slope(Energy):
    """E(x) = a Σ x_i on [0, 1]^d: log Z = d log((1 − e^−a)/a)."""

    def __init__(self, dim: int) -> None:
        super().__init__(box(0.0, 1.0, dim))
        self.log_z = dim * math.log(-math.expm1(-5.0) / 5.0)

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        return 5.0 * x.sum(1)


def test_on_a_box_walls_reflect() -> None:
    law = Slope(4)
    found = log_z(
        law, chains=100, num_temperatures=60, warm_up=300, generator=seeded(1), tolerance=0.6
    )
    assert found.certified and found.lower <= law.log_z <= found.upper
    assert (
        found.draws
        == "100 chains after 300 steps, 100 of them from ends of the forward run and none from data"
    )
    assert (
        found.base == "Uniform"
        and found.sampler == "HMC"
        and found.rhat is not None
        and found.rhat < 1.1
    )
    other = log_z(
        law, chains=60, num_temperatures=60, sampler=MALA(0.1), warm_up=300, generator=seeded(2)
    )
    assert other.lower <= law.log_z <= other.upper and other.sampler == "MALA"


@pytest.mark.parametrize(
    "lattice", [Ising((8, 8), coupling=0.4), Potts((4, 6), 3, 0.8)], ids=["ising", "potts"]
)
def test_lattices_against_their_exact_solution(lattice: Any) -> None:
    found = log_z(lattice, chains=100, num_temperatures=120, exact=False, generator=seeded(2))
    assert (
        found.certified
        and found.lower <= lattice.log_z <= found.upper
        and found.sampler == "BlockGibbs"
    )


@pytest.mark.parametrize("domain", [real(5), categorical(3, 4), binary(2, 3)], ids=str)
def test_machines_with_other_visible_units(domain: Any) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        rbm = RBM(domain, n_hidden=5, init_std=0.7)
    g = seeded(1)
    data = domain.draw(200, g)
    found = log_z(rbm, data=data, chains=60, num_temperatures=60, exact=False, generator=g)
    assert found.lower <= sum_states(rbm).value <= found.upper
    own = ("BlockGibbs", "the energy's own bridge")  # real units: from independent normals
    assert (found.sampler, found.details.split(",")[0]) == own


def test_discrete_energies_without_conditionals_take_gradients() -> None:
    cut = MaxCut(((0, 1), (1, 2, 2.0), (2, 3), (3, 0), (0, 2), (3, 4)))
    plain = Function(lambda x: cut(x), binary(5))
    found = log_z(
        plain, chains=100, num_temperatures=60, warm_up=300, exact=False, generator=seeded(3)
    )
    assert found.sampler == "DMALA" and holds(found, sum_states(cut).value)


def test_a_mode_that_nothing_reaches_is_seen_from_the_other_side() -> None:
    """A far and narrow mode of half the mass: a run from the base never finds it, exact draws
    do.
    """
    law = mixture(
        Gaussian(), Gaussian((30.0, 0.0), ((0.01, 0.0), (0.0, 0.01))), weights=(1.0, 100.0)
    )
    truth = math.log(2 * math.pi * 2)
    g = seeded(4)
    both = torch.cat(
        [Gaussian().draw(150, g), Gaussian((30.0, 0.0), ((0.01, 0.0), (0.0, 0.01))).draw(150, g)]
    )
    found = log_z(law, base=Gaussian(), draws=both, chains=150, num_temperatures=60, generator=g)
    assert not found.certified and "disagree" in found.verdict and found.lower < truth < found.upper
    assert (
        found.forward is not None and found.forward.value < truth - 0.5 and found.forward.ess > 100
    )  # and flatters itself


# ------------------------------------------------------------------------- base, path, rungs, draws


def test_rungs_are_laid_at_equal_thermodynamic_length() -> None:
    """From N(0, I) to precision λ all laws between are normal and the length to β is proportional
    to log(1 + β (λ − 1)).
    """
    precision, dim = 100.0, 10
    base, target = Normal([0.0] * dim, [1.0] * dim), Normal([0.0] * dim, [precision**-0.5] * dim)
    plan = plan_schedule(
        lambda betas: geometric_path(base, target, betas),
        HMC(0.1, 5),
        base.draw(300, seeded()),
        50,
        seeded(1),
    )
    betas = torch.tensor(plan.betas, dtype=DOUBLE)
    covered = (1 - EVEN_SHARE) * (betas * (precision - 1)).log1p() / math.log(
        precision
    ) + EVEN_SHARE * betas
    assert (
        covered - torch.linspace(0, 1, 51, dtype=DOUBLE)
    ).abs().max() < 0.15  # friction of HMC is not the same everywhere
    exact = math.sqrt(dim / 2) * math.log(precision)
    assert abs(plan.length / exact - 1) < 0.25
    steps = torch.tensor([sampler.step_size for sampler in plan.samplers])
    assert 5 < steps[0] / steps[-1] < 20  # deviations shrink tenfold on the way
    assert dispersion(torch.zeros(50)) == 0
    assert dispersion(torch.tensor([0.0] + [-math.inf] * 99)) == pytest.approx(math.log(100) ** 0.5)


@dataclasses.dataclass(frozen=True)
class Sluggish(HMC):
    """HMC that hardly ever moves beyond β = 0.3."""

    def step(self, energy: Any, state: Any, generator: torch.Generator) -> Any:
        new, info = HMC.step(self, energy, state, generator)
        slow = isinstance(energy, Sum) and energy.weights[-1] > 0.3
        return select(
            torch.rand(len(state.x), generator=generator) < (0.03 if slow else 1.0), new, state
        ), info


def test_rungs_are_denser_where_chains_are_slow() -> None:
    base, target = Normal([0.0] * 50, [1.0] * 50), Normal([0.0] * 50, [0.1] * 50)
    shares = []
    for sampler in (HMC(0.3, 5), Sluggish(0.3, 5)):
        plan = plan_schedule(
            lambda betas: geometric_path(base, target, betas),
            sampler,
            base.draw(300, seeded()),
            200,
            seeded(1),
        )
        shares.append(sum(beta > 0.3 for beta in plan.betas) / 200)
        assert plan.length == pytest.approx(
            math.sqrt(25) * math.log(100), rel=0.35
        )  # of the path, whoever walks it
    assert shares[1] > shares[0] + 0.05


def test_the_curves_meet_where_log_z_is_known() -> None:
    law = GaussianMixture(((-1.0, 0.0), (2.0, 0.0)), 0.6)
    found = log_z(law, base=Gaussian(), chains=50, num_temperatures=30, generator=seeded())
    assert found.forward is not None and found.reverse is not None
    for run in (found.forward, found.reverse):
        assert len(run.curve) == 31 == len(found.betas) and run.curve[0] == pytest.approx(
            Gaussian().log_z
        )
        assert run.curve[-1] == pytest.approx(run.value)
    assert (
        found.num_temperatures == 30
        and found.betas[0] == 0
        and found.betas[-1] == 1
        and found.gap == found.reverse.value - found.forward.value
    )
    plain = found.to_dict()
    assert plain["certified"] == found.certified and plain["forward"]["curve"] == list(
        found.forward.curve
    )


def test_the_same_generator_gives_the_same_certificate() -> None:
    a, b, c = (
        log_z(Funnel(3), chains=30, num_temperatures=10, generator=seeded(s)) for s in (1, 1, 2)
    )
    assert a == b and a != c


def test_progress_hears_of_every_rung_and_step() -> None:
    heard: list[int] = []
    log_z(
        Slope(2),
        chains=20,
        num_temperatures=10,
        warm_up=30,
        generator=seeded(),
        progress=heard.append,
    )
    assert sum(heard) == 10 + 10 + 30


def test_reverse_draws_are_kept_apart_from_what_the_base_is_fitted_to() -> None:
    law = Gaussian((3.0, 3.0))
    x = law.draw(300, seeded())
    found = log_z(
        Function(law, real(2)), draws=x, chains=200, num_temperatures=10, generator=seeded(1)
    )
    assert (
        found.draws == "150 draws given by the caller"
        and found.base == "Gaussian"
        and found.certified
    )
    assert found.lower <= law.log_z <= found.upper


def test_chains_start_at_data_too_and_both_ensembles_must_agree() -> None:
    near, far = Gaussian((-5.0, 0.0), ((0.1, 0.0), (0.0, 0.1))), Gaussian((5.0, 0.0))
    law, g = mixture(near, far, weights=(10.0, 1.0)), seeded()  # half of the mass in either
    x = torch.cat([near.draw(250, g), far.draw(250, g)])
    found = log_z(law, data=x, chains=60, num_temperatures=60, generator=seeded(3), tolerance=1.0)
    assert (
        "30 of them from ends of the forward run and 30 from data" in found.draws
        and found.rhat is not None
    )
    assert (
        found.rhat > 1.1 and found.certified
    )  # nobody crosses, but both ensembles hold both modes in their shares
    assert found.lower <= math.log(4 * math.pi) <= found.upper
    base = Gaussian((0.0, 0.0), ((25.0, 0.0), (0.0, 25.0)))
    law = mixture(Gaussian((-5.0, 0.0)), far, weights=(20.0, 1.0)) / 1.0
    lopsided = log_z(
        law, base=base, data=far.draw(500, g), chains=100, num_temperatures=200, generator=seeded(2)
    )
    assert "have not met" in lopsided.verdict  # data in one mode only


def test_paths_of_ones_own() -> None:
    base, law = Gaussian(), Gaussian((2.0, 0.0))
    rungs = geometric_path(base, law, [k / 20 for k in range(21)])
    a = log_z(law, base=base, path=rungs, chains=60, num_temperatures=20, generator=seeded())
    b = log_z(
        law,
        base=base,
        path=lambda betas: geometric_path(base, law, betas),
        chains=60,
        num_temperatures=20,
        generator=seeded(),
    )
    for found, words in ((a, "the caller's energies"), (b, "the caller's path")):
        assert (
            holds(found, law.log_z)
            and found.details.startswith(words)
            and found.num_temperatures == 20
        )


def test_an_energy_bridges_by_itself() -> None:
    rbm = machine(6)
    found = log_z(rbm, draws=draws_of(rbm, 100), generator=seeded(), **CHEAP)
    assert found.details.startswith("the energy's own bridge") and found.base == "Bernoulli"
    assert log_z(rbm, base=Uniform(binary(8)), generator=seeded(), **CHEAP).base == "Uniform"


@pytest.mark.parametrize(
    ("energy", "options", "words"),
    [
        (Function(lambda x: x.square().sum(1), real(2)), {}, "without base, data or draws"),
        (-1.0 * Gaussian(), {}, "negated"),
        (Slope(2), {"chains": 5}, "at least 20 chains"),
        (Slope(2), {"num_temperatures": 1}, "2 temperatures"),
        (Slope(2), {"warm_up": 3}, "20 steps of warm-up"),
        (Slope(2), {"tolerance": 0.0}, "it must be a finite number above 0"),
        (Slope(2), {"draws": torch.rand(10, 2)}, "10 draws came"),
        (Slope(2), {"draws": torch.rand(30, 3)}, "event shape"),
        (Slope(2), {"draws": 2 + torch.rand(30, 2)}, "outside the domain"),
        (
            Function(lambda x: torch.where(x[:, 0] > 0.5, math.nan, 0.0), box(0.0, 1.0, 2)),
            {},
            "not numbers",
        ),
        (
            Function(lambda x: torch.full((len(x),), math.inf), box(0.0, 1.0, 2)),
            {},
            "without weight",
        ),
    ],
)
def test_what_has_no_log_z_is_refused_in_three_clauses(
    energy: Any, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words) as error:
        log_z(
            energy,
            generator=seeded(),
            **{"chains": 20, "num_temperatures": 5, "warm_up": 20} | options,
        )
    assert str(error.value).count(";") >= 2


# --------------------------------------------------------------------------------------- likelihood


def test_the_likelihood_of_exact_draws_is_minus_the_entropy() -> None:
    law = Gaussian((1.0, 2.0), ((2.0, 0.5), (0.5, 1.0)))
    x = law.draw(20_000, seeded(), DOUBLE)
    found = log_likelihood(law, x, law.log_z)
    entropy = math.log(2 * math.pi * math.e) + 0.5 * math.log(2 * 1 - 0.25)
    assert (
        abs(found.value + entropy) < LIMIT * found.error < 0.05
        and found.count == 20_000
        and found.dims == 2
    )
    assert (
        found.error == pytest.approx((law(x).std() / math.sqrt(20_000)).item()) and found.certified
    )
    assert found.lower == found.value == found.upper


def test_the_bracket_of_log_z_becomes_one_of_the_likelihood() -> None:
    rbm = machine(7)
    x = draws_of(rbm, 50)
    known = log_z(rbm, draws=draws_of(rbm, 120, 1), generator=seeded(), **CHEAP)
    found = log_likelihood(rbm, x, known, binarization="drawn from the machine")
    energy = rbm(x).mean().item()
    expected = [-energy - value for value in (known.upper, known.value, known.lower)]
    assert [found.lower, found.value, found.upper] == pytest.approx(expected)
    assert (
        "drawn from the machine" in repr(found)
        and "certified" in repr(found)
        and found.to_dict()["log_z"]["certified"]
    )
    doubtful = LogZ(
        1.0, 0.1, 0.5, 2.0, "annealed importance sampling", "", problems=("for a test",)
    )
    said = log_likelihood(rbm, x, doubtful, binarization="drawn")
    assert not said.certified and "not certified: for a test" in repr(said)
    assert "not certified" in repr(bits_per_dim(said, levels=2))


def test_binary_data_must_name_their_binarization() -> None:
    with pytest.raises(ValueError, match=r"binarization;.*;"):
        log_likelihood(machine(0), states(8)[:3], 0.0)
    with pytest.raises(ValueError, match=r"1 of 3 energies are not numbers;.*;"):
        log_likelihood(lambda x: x[:, 0].log(), torch.tensor([[1.0], [2.0], [-1.0]]), 0.0)


def test_a_uniform_density_takes_eight_bits_of_256_levels() -> None:
    grey = torch.randint(256, (200, 1, 4, 4), generator=seeded())
    x = dequantise(grey, 256, seeded(1))
    flat = Uniform(box(0.0, 1.0, 1, 4, 4))
    found = bits_per_dim(log_likelihood(flat, x, flat.log_z, dequantisation="uniform"))
    assert (
        found.value == found.lower == found.upper == 8.0
        and found.error == 0.0
        and "uniform" in repr(found)
    )
    wide = Uniform(
        box(-0.5, 1.5, 1, 4, 4)
    )  # half of its mass in every direction is outside the levels
    assert bits_per_dim(log_likelihood(wide, x, wide.log_z)).value == pytest.approx(9.0)
    doubled = 2 * x  # the same images in other units
    two = Uniform(box(0.0, 2.0, 1, 4, 4))
    assert bits_per_dim(log_likelihood(two, doubled, two.log_z), width=2.0).value == pytest.approx(
        8.0
    )


def test_bits_of_a_density_that_is_flat_on_every_cell_are_those_of_the_levels() -> None:
    p = torch.tensor([0.1, 0.2, 0.3, 0.4])
    cells = Function(
        lambda x: -p[(4 * x).long().clamp(max=3)].log().sum(1) - x.shape[1] * math.log(4),
        box(0.0, 1.0, 3),
    )
    grey = torch.multinomial(p, 3 * 5000, replacement=True, generator=seeded()).view(-1, 3)
    found = bits_per_dim(log_likelihood(cells, dequantise(grey, 4, seeded(1)), 0.0), levels=4)
    exact = -p[grey].log2().mean().item()
    assert (
        found.value == pytest.approx(exact, abs=1e-5)
        and abs(exact + (p * p.log2()).sum().item()) < LIMIT * found.error
    )


def test_grey_values_are_spread_over_their_cells() -> None:
    grey = torch.tensor([[0, 3, 7]]).repeat(20_000, 1)
    x = dequantise(grey, 8, seeded(2))
    assert x.dtype == torch.float32 and torch.equal((8 * x).floor(), grey.float()) and x.max() < 1
    assert z_scores(8 * x.double() - grey, 0.5).abs().max() < LIMIT
    for wrong in (torch.tensor([[8]]), torch.tensor([[-1]]), torch.tensor([[0.5]])):
        with pytest.raises(ValueError, match=r";.*;"):
            dequantise(wrong, 8, seeded())
    with pytest.raises(ValueError, match=r"levels is 1.*;.*;"):
        bits_per_dim(log_likelihood(Uniform(box(0.0, 1.0, 1)), torch.rand(5, 1), 0.0), levels=1)


@pytest.mark.slow
def test_coverage_of_more_and_harder_machines() -> None:
    held = 0
    for seed in range(150):
        rbm = machine(seed, 10, 6, (0.5, 1.5, 3.0)[seed % 3])
        found = log_z(
            rbm,
            draws=draws_of(rbm, 200, seed),
            chains=100,
            num_temperatures=100,
            exact=False,
            generator=seeded(seed),
        )
        held += found.lower <= sum_states(rbm).value <= found.upper
    assert held >= 143


@pytest.mark.slow
@pytest.mark.parametrize("base", [None, Bernoulli([0.5] * 25)], ids=["fitted", "given"])
def test_a_lattice_beyond_enumeration_by_its_own_chains(base: Any) -> None:
    lattice = Ising((5, 5), coupling=0.35)
    plain = Function(lambda x: lattice(x.view(-1, 5, 5)), binary(25))
    found = log_z(plain, base=base, chains=100, num_temperatures=200, generator=seeded(9))
    assert found.lower <= lattice.log_z <= found.upper and found.sampler == "DMALA"
    assert (
        "have not met" in found.verdict
    )  # 400 steps of single-site gradients are few, and it says so


# -------------------------------------------------------------------------------- report, benchmark


def test_the_report_says_what_is_certain_and_what_is_not() -> None:
    log = {
        "value": 3.0,
        "lower": 2.5,
        "upper": 3.5,
        "method": "annealed importance sampling",
        "chains": 50,
    }
    test = {
        "value": -80.0,
        "error": 0.4,
        "lower": -80.5,
        "upper": -79.5,
        "count": 100,
        "data": "threshold 0.5",
    }
    for sure, verdict, tone in (
        (True, "certified", "good"),
        (False, "not certified: they disagree", "bad"),
    ):
        values = {
            "test": test,
            "log_z": log | {"certified": sure, "verdict": verdict},
            "notes": ["A note."],
        }
        section = likelihood_section(values, {})
        assert (
            section is not None
            and "threshold 0.5" in section.lead
            and "−80.00 ± 0.40" in section.lead
        )
        words = " ".join(block.words for block in section.blocks)
        assert ("not certified: they disagree" in words) != sure and "A note." in words
        (headline,) = likelihood_card(values)
        assert headline.tone == tone and ("not certified" in headline.note) != sure
    summed = {
        "method": "enumeration",
        "value": 3.0,
        "details": "sum over 16 states",
        "verdict": "certified",
    }
    exact = likelihood_section({"test": test, "log_z": summed}, {})
    assert exact is not None and "is exact: sum over 16 states" in exact.lead
    assert likelihood_section({}, {}) is None and likelihood_card({}) == []


def test_the_curves_are_drawn_as_they_are() -> None:
    betas, forward = np.linspace(0, 1, 11), np.linspace(5, 2, 11)
    reverse = forward + 0.4 * betas
    lines = draw_gap(betas, forward, reverse).axes[0].lines[1:]
    np.testing.assert_allclose(lines[0].get_ydata(), -0.2 * betas, atol=1e-12)
    np.testing.assert_allclose(lines[1].get_ydata(), 0.2 * betas, atol=1e-12)
    for line, values in zip(
        draw_path(betas, forward, reverse).axes[0].lines, (forward, reverse), strict=True
    ):
        np.testing.assert_allclose(line.get_ydata(), values)


def test_the_machines_of_the_benchmark_are_what_they_are_called() -> None:
    sharp = needle(5.0, 3)
    lowest = sharp(Uniform(sharp.domain).draw(2000, seeded(), DOUBLE)).min()
    share = (sharp(exact_draws(sharp, 2000, 0)) < lowest - 3).double().mean()
    assert (
        0.1 < share < 0.95
        # one pattern and its neighbours weigh about as much as all else, and are never drawn at
        # random
    )
    rbm = random_machine(1.0, 0)
    x, every = exact_draws(rbm, 20_000, 1), states(8)
    law = (-rbm.hidden_marginal()(every)).softmax(0)
    means = law @ torch.sigmoid(rbm.visible_bias + every @ rbm.weight.T)
    assert z_scores(x, means.detach()).abs().max() < LIMIT
    assert len(bars_and_stripes(3)) == 2 * 8 - 2
