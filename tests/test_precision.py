"""`precision="auto"`: chosen by one timing for each class of work, which leaves no trace, and only
where nothing that was asked for is lost.
"""

import logging
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

import lowland
from lowland.energy import Energy, Function
from lowland.samplers import HMC, MALA, BlockGibbs, GibbsWithGradients, Langevin, precision, sample
from lowland.samplers.precision import (
    PrecisionChoice,
    forget_choices,
    measure,
    resolve_precision,
    slowdown_of_bfloat16,
)
from lowland.targets import Gaussian, Ising

Times = Callable[[float, float], None]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    forget_choices()
    yield
    forget_choices()


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> Times:
    """Give a function that plays a machine on which a gradient takes so long in each precision."""

    def play(full: float, half: float) -> None:
        monkeypatch.setattr(precision, "slowdown_of_bfloat16", lambda device: half / full)
        monkeypatch.setattr(precision, "measure", lambda *_: (full, half))
        monkeypatch.setattr(precision.slowdown_of_bfloat16, "cache_clear", int, raising=False)

    return play


def network(**options: object) -> Energy:
    torch.manual_seed(0)
    return lowland.nets.MLP(lowland.real(6), hidden=(16, 16), **options)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_bfloat16_is_taken_only_where_it_is_clearly_faster(times: Times) -> None:
    for half, found in ((0.3, "bfloat16"), (0.6, "bfloat16"), (0.75, "float32"), (30, "float32")):
        forget_choices()
        times(1.0, half)
        assert resolve_precision("auto", network(), torch.zeros(4, 6)).precision == found


def test_each_class_of_work_is_timed_once(
    times: Times, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    times(1.0, 0.5)
    timed: list[int] = []
    monkeypatch.setattr(
        precision, "measure", lambda energy, x, rows, exact: (timed.append(rows), (1.0, 0.5))[1]
    )
    with caplog.at_level(logging.INFO, "lowland"):
        for rows in (100, 128, 65, 129):  # up to a power of two they are of two classes
            found = resolve_precision("auto", network(), torch.zeros(rows, 6))
    assert timed == [128, 256]
    assert found == ("bfloat16", "1e+03 ms in float32, 500 ms in bfloat16", 1.0, 0.5)
    assert len(caplog.records) == 2
    said = caplog.records[0].getMessage()
    assert "bfloat16 (1e+03 ms in float32, 500 ms in bfloat16)" in said
    assert "MLP at 128 x (6,) on cpu" in said
    other = lowland.nets.MLP(lowland.real(6), hidden=(16, 17))
    resolve_precision("auto", other, torch.zeros(128, 6))
    assert timed == [128, 256, 128]


class Rows(Energy):
    """A density that somebody wrote down, with a matrix among its weights."""

    def __init__(self) -> None:
        super().__init__(lowland.real(6))
        self.matrix = nn.Parameter(torch.eye(6))

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * ((x @ self.matrix) * x).sum(1)


def test_what_must_keep_its_digits_is_float32_and_never_timed(
    times: Times, monkeypatch: pytest.MonkeyPatch
) -> None:
    times(1.0, 0.1)
    monkeypatch.setattr(precision, "measure", None)
    x = torch.zeros(4, 6)
    cases: tuple[tuple[Energy, Tensor, str], ...] = (
        (Function(lambda x: x.square().sum(1)), x, "no layers"),
        (Rows(), x, "no layers"),
        (Gaussian((0.0, 0.0)), x[:, :2], "no layers"),
        (network().double(), x.double(), "points are float64"),
        (network(), x[:0], "no layers"),
    )
    for energy, points, words in cases:
        found = resolve_precision("auto", energy, points)
        assert found.precision == "float32" and words in found.reason
        assert found.float32 is None and "float32" not in found.to_dict()
    with torch.autocast("cpu", torch.bfloat16):
        assert "autocast" in resolve_precision("auto", network(), x).reason
    grid = Ising((3, 3), 0.4)
    start = grid.domain.draw(2, seeded())
    assert sample(grid, BlockGibbs(), start, 1, generator=seeded()).precision[0] == "float32"


def test_weights_of_two_axes_count_as_a_network_in_training(times: Times) -> None:
    times(1.0, 0.5)
    x = torch.zeros(4, 6)
    assert resolve_precision("auto", Rows(), x).precision == "float32"
    assert resolve_precision("auto", Rows(), x, matrices=True).precision == "bfloat16"


@pytest.mark.parametrize("sampler", [Langevin(0.01), MALA(0.01), HMC(0.05, 3)])
def test_under_auto_gradients_are_rounded_and_energies_never(times: Times, sampler) -> None:  # type: ignore[no-untyped-def]
    times(1.0, 0.5)
    energy, x = network(), torch.randn(8, 6, generator=seeded())
    found = {
        how: sample(energy, sampler, x, 5, generator=seeded(1), precision=how)
        for how in ("auto", "bfloat16", "float32")
    }
    assert [t.precision.precision for t in found.values()] == ["bfloat16", "bfloat16", "float32"]
    assert found["auto"].precision.bfloat16 == 0.5 and found["float32"].precision.float32 is None
    assert torch.equal(found["auto"].x, found["bfloat16"].x)
    assert not torch.equal(found["auto"].x, found["float32"].x)
    exact = lowland.energy_values(energy, found["auto"].x)
    torch.testing.assert_close(found["auto"].state.energy, exact, rtol=1e-6, atol=1e-6)


def test_five_steps_and_five_equal_ten_under_auto(times: Times) -> None:
    times(1.0, 0.5)
    energy, x, g = network(), torch.zeros(4, 6), seeded()
    first = sample(energy, Langevin(0.01), x, 5, generator=g)
    rest = sample(energy, Langevin(0.01), first.x, 5, generator=g, state=first.state)
    assert torch.equal(rest.x, sample(energy, Langevin(0.01), x, 10, generator=seeded()).x)


def test_proposals_rounded_by_auto_leave_the_distribution_as_it_is(times: Times) -> None:
    """An accept step in float32 makes any gradient exact: the variance of a layer's Gaussian."""
    times(1.0, 0.5)

    class Layer(Energy):
        def __init__(self) -> None:
            super().__init__(lowland.real(2))
            self.layer = nn.Linear(2, 2, bias=False)
            self.layer.weight.data = torch.tensor([[1.003, 0.0], [0.7071, 0.7071]])

        def forward(self, x: Tensor) -> Tensor:
            return 0.5 * self.layer(x.to(self.layer.weight.dtype)).float().square().sum(1)

    energy = Layer()
    root = torch.linalg.inv(energy.layer.weight.data.double())
    truth = (root @ root.T).diagonal()
    start = torch.randn(4000, 2, generator=seeded(), dtype=torch.float64) @ root.T
    trace = sample(energy, MALA(0.5), start.float(), 40, generator=seeded(1))
    assert trace.precision.precision == "bfloat16"
    z = (trace.x.double().var(0) / truth - 1) / (2 / 4000) ** 0.5
    assert (z.abs() < 5).all()


class Noisy(Energy):
    """A network with everything that a forward in training could move."""

    def __init__(self) -> None:
        super().__init__(lowland.real(6))
        self.layer = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 8))
        self.norm, self.drop = nn.BatchNorm1d(8), nn.Dropout(0.5)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        draw = torch.rand(1)  # of the global generator
        return self.drop(self.norm(self.layer(x))).square().sum(1) + draw.square().sum()


def test_the_timing_leaves_no_trace() -> None:
    energy = Noisy().train()
    before = {name: value.clone() for name, value in energy.state_dict().items()}
    drawn = torch.random.get_rng_state()
    times = measure(energy, torch.randn(5, 6, generator=seeded()), 64)
    assert all(0 < seconds < 1 for seconds in times)
    assert energy.calls == 0 and energy.training and energy.norm.training
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert all(torch.equal(before[name], value) for name, value in energy.state_dict().items())
    assert all(weight.grad is None for weight in energy.parameters())


def test_rows_of_conditions_are_timed_with_their_points() -> None:
    energy = lowland.nets.MLP(lowland.real(6), hidden=(8,), classes=3).given(torch.arange(3))
    full, half = measure(energy, torch.zeros(3, 6), 64)
    assert full > 0 and half > 0


def test_a_network_that_cannot_be_timed_is_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Noisy):
        def forward(self, x: Tensor) -> Tensor:
            raise FloatingPointError

    monkeypatch.setattr(precision, "slowdown_of_bfloat16", lambda device: 1.0)
    monkeypatch.setattr(precision.slowdown_of_bfloat16, "cache_clear", int, raising=False)
    found = resolve_precision("auto", Broken(), torch.zeros(4, 6))
    assert found.precision == "float32" and "FloatingPointError" in found.reason


def test_a_timing_is_bounded_where_bfloat16_is_emulated() -> None:
    """On a machine that takes 65 times as long, a slice says so; large batches are timed in
    part.
    """
    spent: list[float] = []

    def play(rows: int, half: bool, row: float, slowdown: float) -> float:
        spent.append(rows * row * (slowdown if half else 1.0))
        return spent[-1]

    for row, slowdown in ((1e-5, 65.0), (1e-3, 65.0), (5e-3, 65.0), (5e-2, 65.0), (1e-3, 0.5)):
        spent.clear()
        full, half = precision._compare(
            lambda rows, half: play(rows, half, row, slowdown),  # noqa: B023
            256,
        )
        assert (half > 3 * full) == (slowdown > 3)
        assert sum(spent) < 1.0 + 2 * row * slowdown * precision.SLICE


def test_this_machine_is_measured_as_what_it_is() -> None:
    found = slowdown_of_bfloat16(torch.device("cpu"))
    if torch.backends.cpu.get_cpu_capability() == "AVX2":
        assert found > precision.MAX_SLOWDOWN  # 6 to 65 times
        auto = resolve_precision("auto", network(), torch.zeros(64, 6))
        assert auto.precision == "float32" and "times slower here" in auto.reason
    assert found > 0


def test_a_machine_in_training_rounds_no_chains_with_an_accept_step(times: Times) -> None:
    times(1.0, 0.5)
    from lowland.training.build import choose_precision
    from lowland.training.settings import Training

    settings = Training()
    assert settings.precision == "auto"
    device = torch.device("cpu")
    found = {
        sampler: choose_precision(settings, network(), sampler, device).precision
        for sampler in (None, Langevin(0.01), MALA(0.01), GibbsWithGradients())
    }
    assert list(found.values()) == ["bfloat16", "bfloat16", "float32", "float32"]


def test_a_choice_is_plain(times: Times) -> None:
    times(1.0, 0.5)
    choice = resolve_precision("auto", network(), torch.zeros(4, 6))
    assert choice.to_dict()["bfloat16"] == 0.5 and choice.to_dict()["precision"] == "bfloat16"
    assert str(PrecisionChoice("float32", "as asked")) == "float32 (as asked)"


def test_a_stride_makes_another_class_of_work() -> None:
    from lowland.samplers.precision import _describe_weights

    def net(stride: int) -> lowland.Energy:
        layers = [torch.nn.Conv2d(1, 4, 3, stride, 1), torch.nn.Flatten()]
        return lowland.Function(torch.nn.Sequential(*layers))

    assert _describe_weights(net(1)) == _describe_weights(net(1))
    assert _describe_weights(net(1)) != _describe_weights(net(2))
