"""Samplers, expressions of energies and targets on a second device: nothing meets a CPU tensor,
results stay there and are those of the CPU, and a step waits for nothing that the table does not
permit.
"""

import copy
import warnings
from collections.abc import Callable, Sequence

import pytest
import torch
from simulated import Permission, compare_devices, count_per_step, excess, permitted
from torch import Tensor

from lowland import (
    DMALA,
    MALA,
    BlockGibbs,
    Energy,
    Function,
    ParallelTempering,
    ReplayBuffer,
    binary,
    box,
    mixture,
    real,
    sample,
)
from lowland.energy import Gibbs
from lowland.nets import RBM
from lowland.registry import registered
from lowland.samplers import (
    ConditionalEnergy,
    Draws,
    Energies,
    Frames,
    Lowest,
    Moments,
    Sampler,
    accelerate,
    run_chains,
)
from lowland.targets import (
    Banana,
    Bernoulli,
    Categorical,
    Funnel,
    Gaussian,
    GaussianMixture,
    Ising,
    MaxCut,
    Normal,
    Potts,
    Uniform,
    fit_base,
)
from lowland.testing import all_samplers

STEPS = 2
CHAINS = 4
Start = Callable[[int, torch.device, torch.Generator], object]


def wavy(x: Tensor) -> Tensor:
    return 0.5 * x.square().sum(1) + 0.3 * x.cos().sum(1) + 0.2 * x[:, 0] * x[:, 1]


RING = MaxCut(tuple((i, (i + 1) % 6) for i in range(6)))
ENERGIES: dict[str, Energy] = {
    "real": Function(wavy, real(3)),
    "box": Function(wavy, box(-1.0, 1.0, 3)),
    "binary": RING,
    "categorical": Potts((2, 3), 3, 0.5),
}


def place(energy: Energy, device: torch.device) -> Energy:
    return copy.deepcopy(energy).to(device)


def points_of(energy: Energy, device: torch.device, count: int = CHAINS) -> Tensor:
    g = torch.Generator().manual_seed(3)
    return energy.domain.draw(count, g, dtype=torch.float64).to(device)


def sample_from(
    energy: Energy, sampler: Sampler, device: torch.device, g: torch.Generator
) -> list[Tensor]:
    """Run chains with all checks of the door."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a few steps of few chains
        trace = sample(energy, sampler, points_of(energy, device), STEPS, generator=g)
    return [trace.x, trace.state.energy, trace.acceptance, trace.diverged]


def count(
    run: Start, sim: torch.device, allowed: Sequence[Permission] = (), steps: int = STEPS
) -> None:
    """Raise AssertionError if a step waits for what is not permitted."""
    grown = count_per_step(lambda n: run(n, sim, torch.Generator(sim).manual_seed(1)), steps)
    problems = excess(grown, steps, allowed)
    assert not problems, problems


def check_chains(
    make: Callable[[torch.device], Energy],
    sampler: Sampler,
    sim: torch.device,
    allowed: Sequence[Permission] = (),
) -> None:
    """Compare chains with those of the CPU, and count what their steps wait for."""
    compare_devices(lambda d, g: sample_from(make(d), sampler, d, g), sim)
    energy = make(sim)
    x = points_of(energy, sim)
    count(lambda n, _, g: run_chains(energy, sampler, x, n, generator=g), sim, allowed)


def forms() -> list[tuple[str, str]]:
    """List the forms of all samplers: plain ones on each kind of domain, others on one."""
    found = []
    for name, sampler in all_samplers().items():
        kinds = [kind for kind in ENERGIES if kind in sampler.domains]
        found += [(name, kind) for kind in (kinds if name in registered("sampler") else kinds[-1:])]
    return found


@pytest.mark.parametrize(("name", "kind"), forms())
def test_every_sampler_runs_there_as_here(name: str, kind: str, sim: torch.device) -> None:
    allowed = [permitted.NUTS] if "NUTS" in name else []
    check_chains(lambda d: place(ENERGIES[kind], d), all_samplers()[name], sim, allowed)


def test_every_registered_sampler_is_among_them() -> None:
    assert {type(all_samplers()[name]).__name__ for name, _ in forms()} == {*registered("sampler")}


@pytest.mark.parametrize("sampler", [MALA(0.1), ParallelTempering(MALA(0.1), (1.0, 2.0))], ids=str)
def test_a_planted_synchronisation_is_found_in_a_step(sampler: Sampler, sim: torch.device) -> None:
    def nosy(x: Tensor) -> Tensor:
        assert x.sum() < 1e9
        return x.square().sum(1)

    with pytest.raises(AssertionError, match="1 per step: item"):
        check_chains(lambda d: Function(nosy, real(3)), sampler, sim)


def test_planted_mixing_is_found_in_a_step(sim: torch.device) -> None:
    forgotten = torch.ones(3)
    energy = Function(lambda x: (x - forgotten).square().sum(1), real(3))
    with pytest.raises(RuntimeError, match="same device"):
        check_chains(lambda d: energy, MALA(0.1), sim)


# ---- expressions --------------------------------------------------------------------------------

PLANE = Gaussian((0.0, 1.0), ((1.0, 0.3), (0.3, 0.5)))
MODES = GaussianMixture(((-1.0, 0.0), (2.0, 0.5)), 0.7, (1.0, 2.0))
NOISY = Function(lambda x, sigma: 0.5 * x.square().sum(1) / (0.3 + sigma**2), real(2))
LEVELS = torch.linspace(0.1, 1, CHAINS)
EXPRESSIONS: dict[str, Callable[[torch.device], Energy]] = {
    "sum": lambda d: place(PLANE, d) + 2 * place(MODES, d),
    "difference": lambda d: 2 * place(PLANE, d) - place(MODES, d) / 4,
    "temperature": lambda d: place(MODES, d) / 3,
    "negated in a box": lambda d: -Function(lambda x: x.square().sum(1), box(-2.0, 2.0, 2)),
    "mixture": lambda d: mixture(place(PLANE, d), place(MODES, d), weights=(0.3, 0.7)),
    "mixture by autograd": lambda d: mixture(place(MODES, d), place(MODES, d)),
    "one condition for all": lambda d: NOISY.given(0.5),
    "conditions on the CPU": lambda d: NOISY.given(LEVELS),
    "conditions there": lambda d: NOISY.given(LEVELS.to(d)),
    "condition of a sum": lambda d: (NOISY + place(PLANE, d)).given(0.5),
    "conditional": lambda d: ConditionalEnergy(
        place(PLANE, d), points_of(PLANE, torch.device("cpu")).to(d), 0.4
    ),
    "in blocks": lambda d: accelerate(place(PLANE, d), chunk=3),
}


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_expressions_run_there_as_here(name: str, sim: torch.device) -> None:
    check_chains(EXPRESSIONS[name], MALA(0.2), sim)


# ---- targets ------------------------------------------------------------------------------------


def machine(**more: int) -> Energy:
    torch.manual_seed(0)
    return RBM(binary(6), n_hidden=5, init_std=0.5, **more).double()


TARGETS: dict[str, Callable[[], Energy]] = {
    "Gaussian": lambda: PLANE,
    "GaussianMixture": lambda: MODES,
    "Banana": Banana,
    "Funnel": Funnel,
    "Normal": lambda: Normal([0.0, 1.0], [1.0, 2.0]),
    "Uniform": lambda: Uniform(box(0.0, 1.0, 2)),
    "Uniform on classes": lambda: Uniform(binary(3)),
    "Bernoulli": lambda: Bernoulli((0.1, 0.7)),
    "Categorical": lambda: Categorical([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]),
    "MaxCut": lambda: RING,
    "Ising": lambda: Ising((4, 4), 0.3, 0.1),
    "Ising, free": lambda: Ising((3, 4), 0.3, periodic=False),
    "Ising, odd": lambda: Ising((3, 3), 0.3),
    "Potts": lambda: Potts((3, 4), 3, 0.5),
    "RBM": machine,
}


@pytest.mark.parametrize("name", TARGETS)
def test_targets_draw_and_run_there_as_here(name: str, sim: torch.device) -> None:
    target = TARGETS[name]()

    def draw(device: torch.device, g: torch.Generator) -> object:
        energy = place(target, device)
        x = points_of(energy, device, 7)
        drawn = energy.draw(5, g) if hasattr(energy, "draw") else x
        return drawn, energy(drawn.to(x.dtype)), energy.domain.contains(drawn)

    compare_devices(draw, sim)
    discrete = target.domain.kind in ("binary", "categorical")
    sampler = BlockGibbs() if discrete else MALA(0.1)
    wide = isinstance(target, Ising) and name != "Ising, odd"
    check_chains(lambda d: place(target, d), sampler, sim, [permitted.LATTICES] if wide else [])


def test_block_gibbs_by_differences_waits_for_nothing(sim: torch.device) -> None:
    energy = Function(lambda x: -0.4 * (x[:, 1:] * x[:, :-1]).sum(1), binary(4))
    check_chains(lambda d: energy, BlockGibbs(), sim)


class Colored(Energy):
    """Bits in a row with a coloring and no conditionals."""

    def forward(self, x: Tensor, c: object = None) -> Tensor:
        return -0.4 * (x[:, 1:] * x[:, :-1]).sum(1)

    @property
    def gibbs(self) -> Gibbs:
        return Gibbs(torch.tensor([[True, False, True, False], [False, True, False, True]]))


def test_colorings_without_conditionals_and_of_sums_wait_as_the_table_says(
    sim: torch.device,
) -> None:
    check_chains(lambda d: Colored(binary(4)), BlockGibbs(), sim, [permitted.SITES])
    both = MaxCut(tuple((i, i + 1) for i in range(5)))
    check_chains(
        lambda d: place(RING, d) + place(both, d), BlockGibbs(), sim, [permitted.COLORINGS]
    )


@pytest.mark.parametrize("kind", ["real", "box", "binary", "categorical"])
def test_bases_are_fitted_there_as_here(kind: str, sim: torch.device) -> None:
    energy = ENERGIES[kind]

    def fit(device: torch.device, g: torch.Generator) -> object:
        x = points_of(energy, device, 30)
        base = fit_base(energy.domain, x).to(device)
        return base.log_z, base(x), base.draw(3, g)

    compare_devices(fit, sim)


# ---- recorders, replay buffer -------------------------------------------------------------------


def record(steps: int, device: torch.device, g: torch.Generator) -> object:
    """Run chains with every recorder and a progress bar."""
    every = [Draws(2), Energies(), Moments(), Lowest(), Frames((1,))]
    energy = place(PLANE, device)
    trace = run_chains(
        energy,
        MALA(0.3),
        points_of(energy, device),
        steps,
        generator=g,
        recorders=every if steps > 1 else every[:4],
        progress=lambda n: None,
    )
    return trace.records


def test_recorders_record_there(sim: torch.device) -> None:
    compare_devices(lambda d, g: record(4, d, g), sim)
    count(record, sim)


def visit(steps: int, device: torch.device, g: torch.Generator, whole: bool) -> object:
    """Sample and update a replay buffer; one of its chains leaves the numbers."""
    size = 8 if whole else 32
    prob = 0.0 if whole else 0.2
    buffer = ReplayBuffer(size, box(0.0, 1.0, 3), generator=g, classes=4, reinit_prob=prob)
    for _ in range(steps):
        batch = buffer.sample(8, g)
        x = batch.x * 0.5
        x[2] = torch.inf
        lost = buffer.update(batch, x, 5, batch.labels)
    buffer.load_state_dict(buffer.state_dict())
    return buffer.state_dict(), lost, buffer.reinit(0.1, g), buffer.x


@pytest.mark.parametrize("whole", [False, True])
def test_replay_buffers_live_there_and_wait_for_nothing(whole: bool, sim: torch.device) -> None:
    compare_devices(lambda d, g: visit(2, d, g, whole), sim)
    count(lambda n, d, g: visit(n, d, g, whole), sim)


@pytest.mark.parametrize("device", ["cpu", "sim"])
def test_an_update_of_all_chains_leaves_the_batch_as_it_was(device: str, sim: torch.device) -> None:
    g = torch.Generator(device)
    buffer = ReplayBuffer(4, real(2), generator=g, reinit_prob=0.0)
    batch = buffer.sample(4, g)
    before, moved = batch.x.clone(), batch.x + 1
    moved[1] = torch.nan
    assert int(buffer.update(batch, moved, 5)) == 1
    assert torch.equal(batch.x, before)
    assert torch.equal(buffer.x[1], before[1]) and torch.equal(buffer.x[0], moved[0])
    assert buffer.age.tolist() == [5, 0, 5, 5]


# ---- a device without float64 -------------------------------------------------------------------


def test_samplers_run_without_float64(sim32: torch.device) -> None:
    g = torch.Generator(sim32).manual_seed(0)
    runs: list[tuple[Energy, Sampler]] = [
        (PLANE, ParallelTempering(MALA(0.2), (1.0, 2.0))),
        (ENERGIES["box"], MALA(0.1)),
        (Ising((4, 4), 0.3), BlockGibbs()),
        (RING, DMALA(0.5)),
    ]
    for energy, sampler in runs:
        x = points_of(energy, torch.device("cpu")).float().to(sim32)
        trace = sample(place(energy, sim32), sampler, x, 2, generator=g)
        assert trace.x.device == sim32 and trace.acceptance.device == sim32
    for name in ("Bernoulli", "Categorical", "Ising", "Normal"):
        assert place(TARGETS[name](), sim32).draw(3, g).isfinite().all()  # type: ignore[operator]


def test_moments_are_float64_without_float64_too(sim32: torch.device) -> None:
    x = points_of(PLANE, torch.device("cpu")).float().to(sim32)
    energy = place(PLANE, sim32)

    def run(steps: int, device: torch.device, g: torch.Generator) -> object:
        trace = run_chains(energy, MALA(0.3), x, steps, generator=g, recorders=Moments())
        return trace.records["moments"]

    count(run, sim32, [permitted.MOMENTS])
    mean, variance, _ = run(4, sim32, torch.Generator(sim32).manual_seed(0))  # type: ignore[misc]
    assert mean.dtype == variance.dtype == torch.float64
