"""Hostile energies, points and callers: a right value, or a ValueError in three clauses."""

import copy
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import lowland
from lowland.energy import energy_values, freeze, value_and_score, view_module
from lowland.energy.scales import measure_columns
from lowland.testing.side_effects import no_trace
from lowland.training.memory import recompute
from tests.contract.checks import seeded

# ------------------------------------------------------------------------------------------- views


class Hooked(lowland.Energy):
    """An energy that reads features which a hook of its own, by method and by closure, keeps."""

    def __init__(self, closure: bool) -> None:
        super().__init__(lowland.real(3))
        self.net, self.seen, self.calls = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5)), None, 0
        self.net.register_forward_hook(
            (lambda _m, _in, out: self.keep(None, None, out)) if closure else self.keep
        )

    def keep(self, _module: Any, _inputs: Any, out: Tensor) -> None:
        self.seen: Any = out

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        self.calls += 1
        self.net(x)
        return self.seen.square().sum(1)


class Recurrent(nn.Module):
    """A GRU, which keeps a list of its weights, and a helper that keeps the module."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.drop = nn.GRU(1, 4, batch_first=True), nn.Dropout(0.5)
        self.helpers = {"read": self.read}

    def read(self, x: Tensor) -> Tensor:
        return self.drop(self.gru(x.unsqueeze(2))[0])

    def forward(self, x: Tensor) -> Tensor:
        return self.helpers["read"](x).square().sum((1, 2))


def spectral(old: bool) -> nn.Module:
    norm = nn.utils.spectral_norm if old else parametrizations.spectral_norm
    layers = (norm(nn.Linear(3, 4)), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
    return nn.Sequential(*layers, nn.Flatten(0))


def compiled(in_place: bool) -> nn.Module:
    net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1), nn.Flatten(0))
    if not in_place:
        return torch.compile(net, backend="eager")
    net.compile(backend="eager")
    return net


def tied() -> nn.Module:
    net = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.Linear(3, 3), nn.Linear(3, 1))
    net[2].weight = net[0].weight
    return net.append(nn.Flatten(0))


def checkpointed() -> nn.Module:
    block = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Dropout(0.5)})

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = block

        def forward(self, x: Tensor) -> Tensor:
            return self.inner["b"](self.inner["a"](x))

    net = nn.Sequential(Block(), nn.Linear(3, 1), nn.Flatten(0))
    recompute(net)
    return net


MODULES: dict[str, Callable[[], nn.Module]] = {
    "spectral norm": lambda: spectral(False),
    "spectral norm by hooks": lambda: spectral(True),
    "a hook that is a method": lambda: Hooked(False),
    "a hook that is a closure": lambda: Hooked(True),
    "a GRU": Recurrent,
    "compiled": lambda: compiled(False),
    "compiled in place": lambda: compiled(True),
    "tied weights": tied,
    "checkpointed blocks": checkpointed,
    "a sum": lambda: 2 * Hooked(True) + lowland.Function(spectral(False), lowland.real(3)),
    "a mixture": lambda: lowland.mixture(Hooked(False), lowland.Function(tied(), lowland.real(3))),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_view_is_the_module_in_eval_mode_and_leaves_it_alone(name: str) -> None:
    torch.manual_seed(0)
    module, x = MODULES[name](), torch.randn(6, 3, generator=seeded())
    module.train()
    with no_trace(module):
        value, score = value_and_score(module, x)
    expected = module.eval()(x)
    torch.testing.assert_close(value, expected.detach())
    module.train()
    with freeze(module) as view:
        assert view is not module and not any(m.training for m in view.modules())
        assert not any(p.requires_grad for p in view.parameters())
        leaf = x.clone().requires_grad_(True)
        total = view(leaf).sum()
        assert torch.allclose(torch.autograd.grad(total, leaf)[0], -score)
        with torch.no_grad():  # it follows the weights in place
            for p in module.parameters():
                p.mul_(1.5)
        after = view(x)
    assert all(m.training for m in module.modules())
    torch.testing.assert_close(after.detach(), module.eval()(x).detach())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_scripted_module_is_copied() -> None:
    net = torch.jit.script(nn.Sequential(nn.Linear(3, 1), nn.Dropout(0.5), nn.Flatten(0)))
    x = torch.randn(6, 3, generator=seeded())
    value, _ = value_and_score(net, x)
    assert net.training and all(p.requires_grad for p in net.parameters())
    torch.testing.assert_close(value, net.eval()(x).detach())


def test_what_a_forward_counts_is_added_to_the_module() -> None:
    energy = Hooked(False)
    trace = lowland.sample(energy, lowland.Langevin(0.1), torch.zeros(2, 3), 5, generator=seeded())
    assert energy.calls >= trace.num_grad_evals and energy.seen is None


def test_hooks_on_a_view_are_its_own() -> None:
    net, heard = nn.Linear(3, 1), []
    view_module(net, constant=False).register_forward_hook(lambda *_: heard.append(1))
    net(torch.zeros(1, 3))
    assert not heard


def test_threads_sample_train_and_score_one_energy_at_once() -> None:
    torch.manual_seed(0)
    energy = lowland.nets.MLP(lowland.real(3), hidden=(8, 8), spectral_norm=True)
    net = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1), nn.Flatten(0))
    both = energy + lowland.Function(net, lowland.real(3))
    optimizer = torch.optim.SGD(both.parameters(), lr=1e-4)
    x, failures, done = torch.randn(16, 3, generator=seeded()), [], threading.Event()

    def keep_going(act: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            try:
                while not done.is_set():
                    act()
            except Exception as error:
                failures.append(repr(error))

        return run

    def sample(seed: int) -> None:
        lowland.sample(both, lowland.MALA(0.1), x, 10, generator=seeded(seed))

    def score() -> None:
        assert energy_values(both, x).isfinite().all()

    acts: list[Callable[[], object]] = [lambda s=s: sample(s) for s in range(4)]
    threads = [threading.Thread(target=keep_going(act)) for act in [*acts, score]]
    for thread in threads:
        thread.start()
    for _ in range(100):
        loss = both(x).mean()
        if not loss.requires_grad or not both.training:
            failures.append("the trainer saw a frozen module")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    done.set()
    for thread in threads:
        thread.join()
    assert not failures, failures[:3]
    assert all(m.training for m in both.modules())
    assert all(p.requires_grad for p in both.parameters())


def test_a_view_of_a_copy_and_a_copy_of_a_view() -> None:
    energy = lowland.nets.MLP(lowland.real(2), hidden=(4,))
    x = torch.randn(3, 2, generator=seeded())
    with freeze(energy) as view:
        again = copy.deepcopy(view)
        assert torch.equal(again(x), energy(x))
        with freeze(view + view) as double:
            assert torch.allclose(double(x), 2 * energy(x))


# ---------------------------------------------------------------------- independence and gradients


def bowl(x: Tensor) -> Tensor:
    return 0.5 * x.square().sum(1)


class Weighted(nn.Module):
    """A function with a weight, so that it is no plain one."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.weight, self.function = nn.Parameter(torch.ones(())), function

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * self.function(x)


@torch.no_grad()
def without_graph(x: Tensor) -> Tensor:
    return bowl(x)


COUPLED: dict[str, Callable[[Tensor], Tensor]] = {
    "row 0 for all": lambda x: bowl(x) + 3 * x[0].sum(),
    "centred on row 0": lambda x: bowl(x - x[:1]),
    "centred on the mean": lambda x: bowl(x - x.mean(0)),
    "above 32 rows": lambda x: bowl(x) + (x[:32].sum() if len(x) > 32 else 0.0),
    "odd numbers of rows": lambda x: bowl(x) + (x.sum() if len(x) % 2 else 0.0),
    "50 nats behind a million": lambda x: bowl(x) + 1e6 + 50 * x.mean(),
    "150 nats behind a hundred million": lambda x: bowl(x) + 1e8 + 150 * x.mean(),
    "the largest": lambda x: bowl(x) + x.max(),
    "a neighbour": lambda x: bowl(x) + bowl(x - x.roll(2, 0)),
    "one row alone": lambda x: bowl(x) + (5.0 if len(x) == 1 else 0.0),
    "random numbers": lambda x: bowl(x) + torch.randn(len(x)),
    "writes into x": lambda x: bowl(x.mul_(2)),
}
CUT: dict[str, Callable[[Tensor], Tensor]] = {
    "detached": lambda x: bowl(x.detach()),
    "no_grad": without_graph,
    "NumPy": lambda x: torch.as_tensor(0.5 * (x.detach().numpy() ** 2).sum(1)),
    "one term": lambda x: bowl(x) + bowl(x.detach() - 1),
    "one coordinate": lambda x: bowl(torch.cat([x[:, :2], x[:, 2:].detach()], 1)),
    "some points": lambda x: bowl(torch.where(x[:, :1] > 0, x.detach(), x)),
    "half the rows": lambda x: bowl(torch.cat([x[: len(x) // 2], x[len(x) // 2 :].detach()])),
    "behind an offset": lambda x: bowl(x.detach()) + 1e4,
    "rounded": lambda x: bowl(x.round()),
}


@pytest.mark.parametrize("module", [False, True])
@pytest.mark.parametrize("name", [*COUPLED, *CUT])
def test_what_is_no_energy_is_refused_at_the_door(name: str, module: bool) -> None:
    function = (COUPLED | CUT)[name]
    energy = Weighted(function) if module else function
    for x in (torch.randn(64, 3, generator=seeded()), torch.zeros(16, 3)):
        with pytest.raises(ValueError, match=r".*;.*;.*"):
            lowland.check_energy(energy, x)
    with pytest.raises(ValueError, match=r".*;.*;.*"):
        lowland.sample(energy, lowland.Langevin(0.1), x, 3, generator=seeded())


class Wrong(lowland.Energy):
    """A bowl whose `value_and_score` is another function's."""

    def __init__(self, value: float, slope: float) -> None:
        super().__init__(lowland.real(3))
        self.value, self.slope = value, slope

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        return bowl(x)

    def value_and_score(self, x: Tensor, c: Any = None) -> tuple[Tensor, Tensor]:
        return self.value * bowl(x), -self.slope * x


@pytest.mark.parametrize("factors", [(1.0, -1.0), (1.0, 0.5), (1.0, 0.0), (2.0, 1.0)])
def test_a_gradient_by_hand_must_be_that_of_forward(factors: tuple[float, float]) -> None:
    x = torch.randn(9, 3, generator=seeded())
    lowland.check_energy(Wrong(1.0, 1.0), x)
    with pytest.raises(ValueError, match="value_and_score"):
        lowland.check_energy(Wrong(*factors), x)


RELU = nn.Sequential(nn.Linear(3, 32, bias=False), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(0))
LEGAL: dict[str, Callable[[Tensor], Tensor]] = {
    "constant": lambda x: torch.zeros(len(x)).to(x),
    "constant, expanded": lambda x: x.new_ones(()).expand(len(x)),
    "a weight alone": Weighted(lambda x: torch.ones(len(x)).to(x)),
    "kinks": lambda x: x.abs().sum(1) + x.amax(1),
    "flat inside": lambda x: 100 * (x.abs() - 1).relu().sum(1),
    "a cone": lambda x: x.square().sum(1).sqrt(),
    "an offset of 1e8": lambda x: bowl(x) + 1e8,
    "narrow": lambda x: 1e10 * bowl(x),
    "shallow": lambda x: 1e-8 * bowl(x),
    "ripples": lambda x: bowl(x) + (50 * x).cos().sum(1),
    "a wall": lambda x: torch.where(x.abs().amax(1) < 3, bowl(x), bowl(x) + 1e4),
    "in bfloat16": lambda x: bowl(x.bfloat16()).to(x),
    "a ReLU network without bias": RELU,
}


@pytest.mark.parametrize("name", LEGAL)
def test_energies_that_are_flat_steep_or_far_off_are_taken(name: str) -> None:
    x = torch.randn(64, 3, generator=seeded())
    for points in (x, x[:1], torch.zeros(16, 3), 1e-3 * x, 1000 + 300 * x, 1e4 + x):
        lowland.check_energy(LEGAL[name], points)


# ------------------------------------------------------------------------------------------ points

IMAGES = lowland.Function(
    nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 1), nn.Flatten(0))
)
SHAPED = lowland.Function(IMAGES.function, lowland.real(1, 8, 8))
PIXELS = torch.zeros(3, 1, 8, 8)
NO_POINTS: dict[str, Any] = {
    "channels last": PIXELS.permute(0, 2, 3, 1),
    "bytes": PIXELS.byte(),
    "integers": PIXELS.long(),
    "booleans": PIXELS.bool(),
    "complex numbers": PIXELS.to(torch.complex64),
    "NaN": PIXELS * torch.nan,
    "infinity": PIXELS + torch.inf,
    "another width": torch.zeros(3, 1, 8, 7),
    "no channels": torch.zeros(3, 8, 8, 8),
    "NumPy": PIXELS.numpy(),
    "a list": PIXELS.tolist(),
    "None": None,
    "double precision": PIXELS.double(),
    "half precision": PIXELS.half(),
}


@pytest.mark.parametrize("name", NO_POINTS)
@pytest.mark.parametrize("energy", [IMAGES, SHAPED], ids=["open", "shaped"])
def test_what_is_no_batch_of_points_is_refused(name: str, energy: lowland.Energy) -> None:
    asked = (energy_values, value_and_score, lowland.check_energy)
    if name == "half precision":  # scored in float32, for 65,504 is its greatest number
        found = energy_values(energy, NO_POINTS[name])
        torch.testing.assert_close(found, energy_values(energy, NO_POINTS[name].float()))
        asked = asked[1:]
    for ask in asked:
        with pytest.raises(ValueError, match=r"^[^;]+;[^;]+;[^;]+$"):
            ask(energy, NO_POINTS[name])


def test_memory_layout_and_graphs_of_points_do_not_matter() -> None:
    x = torch.randn(4, 1, 8, 8, generator=seeded())
    expected = energy_values(SHAPED, x)
    strided = torch.stack([x, x], 1)[:, 0]
    for same in (x.to(memory_format=torch.channels_last), strided, x.clone().requires_grad_(True)):
        value = energy_values(SHAPED, same)
        torch.testing.assert_close(value, expected)
        assert not value.requires_grad
    assert len(energy_values(SHAPED, x[:0])) == 0
    assert len(energy_values(SHAPED, x[:1].expand(5, -1, -1, -1))) == 5


@pytest.mark.parametrize("kind", ["coo", "csr", "nested"])
def test_points_in_other_layouts_are_refused(kind: str) -> None:
    dense = torch.eye(3)
    if kind == "nested":
        x = torch.nested.nested_tensor([dense[0], dense[1]])
    else:
        x = dense.to_sparse() if kind == "coo" else dense.to_sparse_csr()
    bowl = lowland.Function(lambda x: x.square().sum(1), lowland.real(3))
    with pytest.raises(ValueError, match="convert it with") as caught:
        energy_values(bowl, x)
    assert str(caught.value).count("; ") == 2


@pytest.mark.parametrize("size", [1e300, 1e-200, 1e-310, 1.0])
def test_columns_of_any_size_are_measured(size: float) -> None:
    x = torch.rand(50, 3, dtype=torch.float64, generator=seeded(0))
    found = measure_columns(x * size)
    assert torch.allclose(found.mean / size, x.mean(0)) and torch.allclose(
        found.scale / size, x.std(0)
    )
