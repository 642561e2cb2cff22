"""Kinds of fault in energies, targets, log Z and adapters: each by its truth, not by one input."""

import copy
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import lowland
from lowland import log_likelihood, log_z
from lowland.domain import binary, box, categorical, real
from lowland.energy import Energy, Function
from lowland.energy.scales import measure_columns
from lowland.energy.sizes import MAX_LAYERS
from lowland.nets import DBM, DBN, MLP, RBM
from lowland.registry import parameters, registered
from lowland.samplers import BlockGibbs
from lowland.targets import Gaussian, GaussianMixture, Ising, Normal, fit_base


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def refuse(call: Callable[[], object]) -> str:
    """Return the message of a ValueError in three clauses."""
    with pytest.raises(ValueError) as caught:
        call()
    words = str(caught.value)
    assert words.count(";") >= 2, words
    return words


# ------------------------------------------------------------------ nothing is remembered wrongly


def small(make: Callable[[], Energy], seed: int = 0) -> Energy:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


MACHINES: dict[str, Callable[[], Energy]] = {
    "rbm": lambda: RBM(binary(6), n_hidden=4, init_std=1.0),
    "labels": lambda: RBM(binary(6), n_hidden=4, classes=3, init_std=1.0),
    "potts": lambda: RBM(categorical(3, 6), n_hidden=4, init_std=1.0),
    "gaussian": lambda: RBM(real(6), n_hidden=4, init_std=1.0),
    "dbm": lambda: DBM(binary(4), n_hidden=(3, 2), init_std=1.0),
    "dbn": lambda: DBN(binary(4), n_hidden=(2, 3), init_std=1.0),
    "tempered": lambda: small(MACHINES["rbm"]).paths.at_temperatures(torch.tensor([0.5]), 2),
    "mlp": lambda: MLP(real(6), hidden=(5,)),
    "sum": lambda: small(MACHINES["rbm"]) + 0.5 * small(MACHINES["rbm"], 1),
}


def look(energy: Energy, x: Tensor) -> list[Tensor]:
    """Return energies, gradients in all weights and scores, and what a sweep leaves."""
    value = energy(x)
    weights = [p for p in energy.parameters() if p.requires_grad]
    slopes = torch.autograd.grad(value.sum(), weights, allow_unused=True)
    found = [value.detach(), *(s for s in slopes if s is not None)]
    if energy.domain.kind != "categorical":
        found += [part.detach() for part in energy.value_and_score(x)]
    gibbs = energy.gibbs
    if gibbs is not None and gibbs.fields is not None and gibbs.energy_from is not None:
        found.append(gibbs.energy_from(x, gibbs.fields(x)).detach())
    if gibbs is not None and gibbs.sweep is not None:
        found.append(gibbs.sweep(x, 2, seeded(5)))
    return found


def change_data(energy: Energy, x: Tensor) -> None:
    for p in energy.parameters():
        p.data.copy_(p.data * 2 + 0.3)


def change_parameter(energy: Energy, x: Tensor) -> None:
    for module in energy.modules():
        for name, p in list(module.named_parameters(recurse=False)):
            setattr(module, name, torch.nn.Parameter(p.detach() * 2 + 0.3))


def change_by_assignment(energy: Energy, x: Tensor) -> None:
    energy.load_state_dict({k: v * 2 + 0.3 for k, v in energy.state_dict().items()}, assign=True)
    energy.requires_grad_(True)


def change_by_vector(energy: Energy, x: Tensor) -> None:
    vector = torch.nn.utils.parameters_to_vector(energy.parameters()).detach()
    torch.nn.utils.vector_to_parameters(2 * vector + 0.3, energy.parameters())


def change_by_average(energy: Energy, x: Tensor) -> None:
    for p in energy.parameters():
        p.data.lerp_(torch.ones_like(p), 0.5)


def change_by_fused_adam(energy: Energy, x: Tensor) -> None:
    optimiser = torch.optim.Adam(energy.parameters(), lr=0.5, fused=True)
    energy(x).sum().backward()
    optimiser.step()
    optimiser.zero_grad()


def change_points(energy: Energy, x: Tensor) -> None:
    x.data.copy_(1 - x)


def change_shared_points(energy: Energy, x: Tensor) -> None:
    x.numpy()[:] = 1 - x.numpy()


CHANGES = [
    change_data,
    change_parameter,
    change_by_assignment,
    change_by_vector,
    change_by_average,
    change_by_fused_adam,
    change_points,
    change_shared_points,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", MACHINES)
def test_energies_gradients_and_sweeps_are_those_of_present_weights_and_points(
    name: str, change: Callable[[Energy, Tensor], None]
) -> None:
    energy = small(MACHINES[name])
    x = torch.ones(2, *energy.domain.shape)
    before = look(energy, x)
    change(energy, x)
    found, right = look(energy, x), look(copy.deepcopy(energy), x.clone())
    assert all(torch.equal(a, b) for a, b in zip(found, right, strict=True))
    assert not torch.equal(found[0], before[0])


def test_functional_calls_see_the_weights_that_they_are_given() -> None:
    for name in ("rbm", "gaussian", "dbm", "dbn", "mlp"):
        one, two = small(MACHINES[name]), small(MACHINES[name], 7)
        x = torch.ones(2, *one.domain.shape)
        torch.func.functional_call(one, dict(one.state_dict()), (x,))
        found = torch.func.functional_call(one, dict(two.state_dict()), (x,))
        assert torch.equal(found, two(x)), name


def test_log_z_follows_the_weights_and_a_lattice_its_settings() -> None:
    rbm = small(MACHINES["rbm"])
    before = log_z(rbm, generator=seeded()).value
    change_data(rbm, torch.empty(0))
    every = torch.cartesian_prod(*[torch.arange(2.0)] * 6)
    found = log_z(rbm, generator=seeded()).value
    assert found == pytest.approx((-rbm(every)).logsumexp(0).item(), abs=1e-4) != before
    lattice = Ising((4, 4), coupling=0.3)
    assert lattice.log_z == Ising((4, 4), coupling=0.3).log_z
    lattice.coupling = 0.6
    assert lattice.log_z == Ising((4, 4), coupling=0.6).log_z


# ------------------------------------------------------------------ scales learned from data


def columns(count: int = 300) -> Tensor:
    x = torch.randn(count, 6, generator=seeded(), dtype=torch.float64)
    return x * torch.tensor([1e-8, 1e8, 1.0, 0.05, 1.0, 0.0]) + torch.tensor(
        [0.0, 0.0, 0.0, 1e4, -3.0, 7.0]
    )


def test_a_gaussian_machine_means_the_same_in_every_unit() -> None:
    """A step of training on scaled columns is that on the columns themselves."""
    wide = columns()
    x = wide.float()
    made = []
    for factor in (1.0, 1e-6):
        rbm = small(lambda: RBM(real(6), n_hidden=3, init_std=0.1))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            rbm.init_from_data(x * factor)
        assert "1 of 6 columns of the data never change" in str(said[0].message) and len(said) == 1
        optimiser = torch.optim.SGD(rbm.parameters(), lr=0.1)
        for step in range(20):
            rbm.learner.update_offsets(x * factor)
            down = rbm.sweep(x * factor, 1, seeded(step))
            optimiser.zero_grad()
            (rbm(x * factor).mean() - rbm(down).mean()).backward()
            rbm.learner.center_gradients()
            optimiser.step()
        made.append(rbm)
    one, other = made
    assert one.sigma.tolist() == pytest.approx([*wide.std(0)[:5].tolist(), 1.0], rel=0.1)
    assert torch.allclose(one.weight[:5], other.weight[:5], rtol=1e-2, atol=1e-3)
    assert one.weight.abs().max() < 1 and one.visible_bias.abs().max() < 5
    drawn = one.sweep(x, 20, seeded(1)).double()
    spread = (drawn - wide).std(0) / one.sigma.double()
    assert bool((spread[:5] < 3).all()) and abs(drawn[:, 5].mean().item() - 7) < 1


def test_scales_are_the_data_s_own() -> None:
    wide = columns()
    found = measure_columns(wide)
    assert found.scale.tolist() == pytest.approx([*wide.std(0)[:5].tolist(), 1.0])
    assert found.mean[5] == 7.0
    assert measure_columns(wide[:1]).scale.tolist() == [1.0] * 6  # one row
    base = fit_base(real(6), wide)
    drawn = base.draw(2000, seeded()).double()
    assert drawn.std(0)[:5].tolist() == pytest.approx(wide.std(0)[:5].tolist(), rel=0.1)
    spread = lowland.nets.DenoiserMLP(real(1), hidden=(4,))
    spread.init_from_data(1e-4 * torch.randn(500, 1, generator=seeded()))
    assert spread.spread.item() == pytest.approx(1e-4, rel=0.15)


def test_machines_refuse_data_of_another_kind() -> None:
    refuse(lambda: RBM(binary(3)).init_from_data(torch.randn(9, 3)))
    refuse(lambda: RBM(categorical(3, 2)).init_from_data(torch.full((4, 2), 3.0)))
    with pytest.warns(UserWarning, match="nothing but 0 and 1 and the machine has Gaussian units"):
        RBM(real(3)).init_from_data(torch.rand(50, 3, generator=seeded()).round())


@pytest.mark.filterwarnings("ignore")
def test_estimators_live_through_flat_columns_and_any_unit() -> None:
    from lowland.interop import sklearn

    x = np.random.RandomState(0).normal(size=(200, 3))
    flat = np.c_[x, np.full(200, 7.0)]
    without = sklearn.RBM(3, n_iter=5, random_state=0).fit(x).score(x)
    found = sklearn.RBM(3, n_iter=5, random_state=0).fit(flat)
    assert found.score(flat) == pytest.approx(without - 0.919, abs=0.5)  # N(7, 1) at 7
    assert abs(found.sample(50, steps=20)[:, 3].mean() - 7) < 1
    scaled = flat * np.array([1e-8, 1e8, 1, 1]) + np.array([0, 0, 1e6, 0])
    again = sklearn.RBM(3, n_iter=5, random_state=0).fit(scaled)
    assert again.score(scaled) == pytest.approx(found.score(flat), abs=0.05)
    assert sklearn.DBN((3, 2), n_iter=3, random_state=0).fit(scaled).score(scaled) > without - 5
    with pytest.warns(UserWarning, match="1 of 4 columns never change; they get scale 1;?"):
        detector = sklearn.EnergyDetector(n_iter=3, random_state=0).fit(scaled)
    assert (detector.predict(scaled) == 1).mean() > 0.8
    assert (detector.predict(scaled + np.array([1e-6, 0, 0, 0])) == -1).all()


# ------------------------------------------------------------------ torch's global defaults


@pytest.fixture(params=[torch.float64, torch.float16, torch.bfloat16], ids=str)
def default(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(before)


@pytest.mark.filterwarnings("ignore")
def test_recipes_runs_and_estimators_are_float32_whatever_the_default(
    default: torch.dtype, tmp_path: Any
) -> None:
    from lowland.interop import sklearn

    model = lowland.load("digits")
    assert next(model.energy.parameters()).dtype == torch.float32
    x = lowland.load_data("moons", count=60).train.x
    assert x.dtype == torch.float32 and torch.get_default_dtype() == default
    start = torch.zeros(2, *model.shape, dtype=torch.float32)
    assert lowland.energy_values(model.energy, start).isfinite().all()
    rows = np.random.RandomState(0).rand(60, 4)
    assert np.isfinite(
        sklearn.RBM(2, n_iter=1, random_state=0).fit(rows.round()).score(rows.round())
    )
    assert sklearn.EnergyDetector(n_iter=1, random_state=0).fit(rows).predict(rows).shape == (60,)


@pytest.mark.filterwarnings("ignore")
def test_constructors_and_draws_follow_the_default(default: torch.dtype) -> None:
    for energy in (MLP(real(2), hidden=(4,)), Gaussian(), GaussianMixture(), RBM(binary(4), 3)):
        x = energy.domain.draw(5, seeded())
        assert x.dtype == default and energy(x).shape == (5,), type(energy)
    assert Gaussian().draw(3, seeded()).dtype == default
    assert Ising((2, 2)).draw(3, seeded()).dtype == default


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode], ids=lambda f: f.__name__)
@pytest.mark.filterwarnings("ignore")
def test_chains_and_training_run_where_no_gradients_are_kept(
    mode: Callable[[], Any], tmp_path: Any
) -> None:
    from lowland.interop import sklearn

    right = lowland.sample(Gaussian(), lowland.MALA(0.3), torch.zeros(4, 2), 5, generator=seeded())
    with mode():
        net = small(lambda: MLP(real(2), hidden=(4,), quadratic_weight=1.0))
        x = torch.zeros(4, 2)
        found = lowland.sample(Gaussian(), lowland.MALA(0.3), x, 5, generator=seeded())
        lowland.sample(net, lowland.MALA(0.3), x, 5, generator=seeded())
        lowland.sample(RBM(binary(4), 3), BlockGibbs(), torch.zeros(2, 4), 3, generator=seeded())
        sklearn.RBM(2, n_iter=1, random_state=0).fit(np.eye(4))
        recipe = lowland.read_recipe("moons", {"training.steps": 2})
        lowland.train_recipe(recipe, tmp_path / "run", progress=False)
    assert torch.equal(found.x, right.x)


# ------------------------------------------------------------------ numbers at the door

DOMAINS: dict[str, Any] = {name: binary(6) for name in ("RBM", "DBM", "DBN")}
WRONG: list[Any] = [
    "3",
    float("nan"),
    1j,
    object(),
    {},
    np.array([[1.5, 2.5]]),
    [3] * (MAX_LAYERS + 1),
    ["a"],
    [True],
    [2.5, 2.5],
]
ENERGIES = sorted(registered("energy"))


def build(name: str, **values: object) -> Energy:
    cls = registered("energy")[name]
    if "domain" in parameters(cls):
        values["domain"] = DOMAINS.get(name, box(0.0, 1.0, 3, 8, 8))
    return cls(**values)


NAMED = [(name, key) for name in ENERGIES for key in parameters(registered("energy")[name])]
LISTS = {("GaussianMixture", "means"), ("Gaussian", "covariance")}  # of lists


@pytest.mark.parametrize(("name", "key"), [pair for pair in NAMED if pair[1] != "domain"])
def test_every_parameter_is_read_at_the_door(name: str, key: str) -> None:
    given = parameters(registered("energy")[name])[key].default
    wrong = [bad for bad in WRONG if not ((name, key) in LISTS and isinstance(bad, np.ndarray))]
    if key in ("mean", "weights"):
        wrong = [bad for bad in wrong if not (isinstance(bad, list) and bad == [2.5, 2.5])]
    if type(given) is int:
        wrong += [True, 2.5, -1, 10**13]
    elif type(given) is float:
        wrong += [True, math.inf, -math.inf]
    elif type(given) is bool:
        wrong += [1, 0, 1.0, None]
    elif isinstance(given, tuple) and given and type(given[0]) is int:
        wrong += [(0,) * len(given), 3, True]
        wrong += [(10**12,) * len(given)] * (key != "strides")  # the last place of an image
    if key in ("scale", "temperature", "trunk_scale"):
        wrong += [0, -1.0]
    for bad in wrong:
        refuse(lambda bad=bad: build(name, **{key: bad}))


@pytest.mark.parametrize(("name", "key"), NAMED)
def test_whole_numbers_of_numpy_are_read_as_python_s(name: str, key: str) -> None:
    given = parameters(registered("energy")[name])[key].default
    if type(given) is int and given:
        assert getattr(build(name, **{key: np.int64(given)}), key) == given
    if isinstance(given, tuple) and given and type(given[0]) is int:
        assert getattr(build(name, **{key: np.array(given)}), key) == given


def test_domains_of_another_type_are_refused() -> None:
    for name in ENERGIES:
        cls = registered("energy")[name]
        if "domain" in parameters(cls):
            for bad in (2, "real", [2], (3,), object()):
                refuse(lambda cls=cls, bad=bad: cls(bad))
    assert "784" in refuse(lambda: RBM(4.0))  # type: ignore[arg-type]


def test_absurd_sizes_are_refused_with_their_bytes() -> None:
    assert "bytes" in refuse(lambda: MLP(real(2), hidden=[10**12]))
    assert "bytes" in refuse(lambda: MLP(real(2**31), hidden=[2**14]))
    assert "bytes" in refuse(lambda: RBM(binary(10**6), n_hidden=10**9))
    assert "64" in refuse(lambda: MLP(real(2), hidden=[8] * 200))


# ------------------------------------------------------------------ certificates

SMALL = {"chains": 60, "num_temperatures": 60}


def test_a_wide_bracket_is_not_certified_and_a_narrow_one_is() -> None:
    law, base = Gaussian(), Normal([0.0, 0.0], [2.0, 2.0])
    found = log_z(law, base=base, generator=seeded(), **SMALL)
    assert found.certified and found.upper - found.lower <= found.tolerance
    strict = log_z(law, base=base, generator=seeded(), tolerance=0.1, **SMALL)
    assert not strict.certified and strict.upper - strict.lower > 0.1


def test_a_constant_energy_is_known_exactly() -> None:
    for energy, truth in (
        (Function(lambda x: 0 * x.sum(1), binary(40)), 40 * math.log(2)),
        (Function(lambda x: 0 * x.sum(1) + 3, box(0.0, 2.0, 3)), 3 * math.log(2) - 3),
    ):
        found = log_z(energy, generator=seeded(), exact=False, chains=20, num_temperatures=10)
        assert found.certified and found.value == pytest.approx(truth, abs=1e-4), found
    one = Function(lambda x: 2 * x[:, 0], binary(1))
    truth = math.log1p(math.exp(-2))
    assert log_z(one, generator=seeded()).value == pytest.approx(truth)
    assert "presumes" not in repr(log_z(one, generator=seeded()))
    found = log_z(one, generator=seeded(), exact=False, **SMALL)
    assert found.lower < truth < found.upper


class Plain(Energy):
    """A law that hides its exact draws."""

    def __init__(self, law: Energy) -> None:
        super().__init__(law.domain)
        self.law = law

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        return self.law(x)


def test_tails_that_do_not_rise_are_noticed() -> None:
    base = Normal([0.0], [1.0])
    for f, words in (
        (lambda x: (x.square() - x.pow(4) / 100).sum(1), "falls"),
        (lambda x: x.square().sum(1).tanh(), "too slowly"),
    ):
        found = log_z(Function(f, real(1)), base=base, generator=seeded(), **SMALL)
        assert not found.certified and words in found.verdict
    cauchy = Function(lambda x: x.square().log1p().sum(1), real(1))
    found = log_z(cauchy, base=Normal([0.0], [3.0]), generator=seeded(), **SMALL)
    assert "far" not in found.verdict and "slowly" not in found.verdict
    assert found.lower < math.log(math.pi) < found.upper


@pytest.mark.slow
def test_modes_that_the_caller_knows_are_weighed() -> None:
    law = Plain(GaussianMixture(((0.0, 0.0), (20.0, 0.0)), 1.0, (0.1, 0.9)))
    size = {"chains": 60, "num_temperatures": 150}
    blind = log_z(law, base=Gaussian(), generator=seeded(), **size)
    assert blind.value == pytest.approx(math.log(0.1), abs=0.1) and "presumes" in repr(blind)
    starts = torch.tensor([[20.0, 0.0]])
    found = log_z(law, base=Gaussian(), starts=starts, generator=seeded(), **size)
    assert found.lower < 0 < found.upper and abs(found.value) < 0.5
    ladder = [(1 - b) * Gaussian() + b * law for b in np.linspace(0, 1, 20).tolist()]
    kept = log_z(
        law, base=Gaussian(), path=ladder, starts=starts, generator=seeded(), chains=30, warm_up=20
    )
    assert "no chain of the forward run ended near starts 0" in kept.verdict


def test_a_number_that_was_typed_in_is_not_certified() -> None:
    found = log_likelihood(Gaussian(), Gaussian().draw(50, seeded()), 10.0)
    assert not found.certified and "given as a number" in repr(found)


# ------------------------------------------------------------------ adapters


def test_adapters_stand_beside_each_other() -> None:
    for name in ("to_arviz", "to_deepinv", "to_pyod", "to_pytorch_ood"):
        assert getattr(lowland, name) is getattr(lowland.interop, name)
    assert lowland.interop.sklearn.RBM and lowland.interop.fit_flow


@pytest.mark.filterwarnings("ignore")
def test_estimators_read_their_parameters_and_rows() -> None:
    from sklearn.model_selection import GridSearchCV

    from lowland.interop import sklearn

    x = (np.random.RandomState(0).rand(40, 4) < 0.5) * 1.0
    grid = {"n_components": np.arange(2, 4)}
    assert GridSearchCV(sklearn.RBM(n_iter=1), grid, cv=2).fit(x).best_params_["n_components"] in (
        2,
        3,
    )
    assert sklearn.DBN(np.array([3, 2]), n_iter=np.int64(1)).fit(x).transform(x).shape == (40, 2)
    for key, bads in {
        "n_components": (2.5, True, "a", 0, [], 10**12),
        "n_iter": (1.5, "2", True, 0, 10**12),
        "batch_size": (2.5, True, 1),
        "n_chains": (2.5, 0),
        "gibbs_steps": (1.5, True),
        "learning_rate": ("a", True, math.nan, 0),
        "weight_decay": ("a", -1),
        "momentum": ("a", 2),
    }.items():
        for bad in bads:
            refuse(lambda key=key, bad=bad: sklearn.RBM(n_iter=1).set_params(**{key: bad}).fit(x))
    for key, bads in {
        "contamination": ("a", True, 2),
        "false_alarms": ("a", 0, True),
        "calibration": ("a", 1),
        "objective": ("x",),
        "training": ({"steps": 1e9}, {"steps": 10**9}, {"steps": 0}),
    }.items():
        for bad in bads:
            refuse(lambda key=key, bad=bad: sklearn.EnergyDetector(**{key: bad}).fit(x))
    refuse(lambda: sklearn.EnergyDetector(n_iter=1).fit(x * 1e300 * np.arange(1, 41)[:, None]))
    fitted = sklearn.RBM(2, n_iter=1, random_state=0).fit(x)
    refuse(lambda: fitted.inverse_transform(np.ones((2, 5))))
    refuse(lambda: fitted.sample(2.5))


def test_log_z_of_a_gaussian_machine_goes_along_its_own_path_in_every_unit() -> None:
    x = torch.randn(300, 2, generator=seeded()) * torch.tensor([1e-3, 50.0]) + 1e3
    rbm = small(lambda: RBM(real(2), n_hidden=6, init_std=0.5))
    rbm.init_from_data(x)
    found = log_z(rbm, data=x, generator=seeded(), exact=False, chains=30, num_temperatures=30)
    assert found.sampler == "BlockGibbs" and found.details.startswith("the energy's own bridge")
    assert found.lower < log_z(rbm, generator=seeded()).value < found.upper
