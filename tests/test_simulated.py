"""The simulated second device is as strict as a GPU, and forgets no synchronisation."""

import copy
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from simulated import count_per_step, count_synchronisations, excess, permitted, simulate
from torch import Tensor
from torch.func import functional_call, grad, hessian, jvp, vmap

from lowland.energy.algebra import Function
from lowland.energy.points import check_finite

MIXTURES: dict[str, Callable[[Tensor, Tensor], object]] = {
    "add": lambda x, y: x + y,
    "add, other way round": lambda x, y: y + x,
    "add in place": lambda x, y: y.add_(x),
    "add a scalar of the device": lambda x, y: y + x.sum(),
    "write into a CPU scalar": lambda x, y: y.sum().add_(x.sum()),
    "matmul": lambda x, y: x @ y.T,
    "cat": lambda x, y: torch.cat([x, y]),
    "stack with a CPU scalar": lambda x, y: torch.stack([x.sum(), y.sum()]),
    "where": lambda x, y: torch.where(x > 0, x, y),
    "where, a CPU condition": lambda x, y: torch.where(y > 0, x, x),
    "linear": lambda x, y: torch.nn.functional.linear(x, y),
    "convolution": lambda x, y: torch.nn.functional.conv1d(x[None], y[None]),
    "gather": lambda x, y: x.gather(0, y.argsort(0)),
    "embedding": lambda x, y: torch.nn.functional.embedding(y.argsort(0), x),
    "put": lambda x, y: x.index_put_((torch.tensor([0, 1, 2]),), y),
    "copy through out": lambda x, y: torch.add(x, x, out=y),
    "a CPU tensor indexed by the device": lambda x, y: y[x.argsort(0)[:, 0]],
}


@pytest.mark.parametrize("name", MIXTURES)
def test_a_tensor_of_the_device_refuses_a_cpu_tensor(name: str, sim: torch.device) -> None:
    x = torch.randn(3, 3, device=sim)
    with pytest.raises(RuntimeError, match=r"same device|index"):
        MIXTURES[name](x, torch.randn(3, 3))


def test_what_cuda_lets_meet_meets_here(sim: torch.device) -> None:
    x = torch.randn(3, 3, device=sim)
    scalar = torch.tensor(2.0)
    results = [
        x + scalar,
        scalar * x,
        torch.where(x > 0, scalar, x),
        x.clone().fill_(scalar),
        x.masked_fill(x > 0, scalar),
        x[torch.tensor([0, 2])],
        x[torch.tensor([True, False, True])],
        x.clone().copy_(torch.randn(3, 3)),
    ]
    assert {result.device for result in results} == {sim}
    assert torch.zeros(3, 3).copy_(x).device.type == "cpu"
    with pytest.raises(TypeError, match=r"Use Tensor\.cpu"):
        x.numpy()


def test_generators_belong_to_one_device(sim: torch.device) -> None:
    here = torch.Generator().manual_seed(7)
    there = torch.Generator(sim).manual_seed(7)
    assert there.device == sim
    assert isinstance(there, torch.Generator) and isinstance(here, torch.Generator)
    with pytest.raises(RuntimeError, match="Expected a 'sim' device type for generator"):
        torch.randn(3, device=sim, generator=here)
    with pytest.raises(RuntimeError, match="Expected a 'cpu' device type for generator"):
        torch.randn(3, generator=there)
    draws: list[Callable[[torch.device, torch.Generator], Tensor]] = [
        lambda d, g: torch.randn(3, device=d, generator=g),
        lambda d, g: torch.rand(3, device=d, generator=g),
        lambda d, g: torch.randint(9, (3,), device=d, generator=g),
        lambda d, g: torch.randperm(9, device=d, generator=g),
        lambda d, g: torch.bernoulli(torch.full((9,), 0.4, device=d), generator=g),
        lambda d, g: torch.multinomial(torch.ones(9, device=d), 4, generator=g),
        lambda d, g: torch.empty(3, device=d).exponential_(generator=g),
    ]
    for draw in draws:
        assert torch.equal(draw(sim, there).cpu(), draw(torch.device("cpu"), here))
    state = there.get_state()
    assert state.device.type == "cpu" and torch.equal(state, here.get_state())
    there.set_state(here.get_state())
    torch.manual_seed(3)
    first = torch.randn(3, device=sim)
    torch.manual_seed(3)
    assert torch.equal(torch.randn(3, device=sim), first)
    torch.manual_seed(3)
    with torch.random.fork_rng():
        torch.randn(3, device=sim)
    assert torch.equal(torch.randn(3, device=sim), first)


WAITS: dict[str, Callable[[Tensor], object]] = {
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool(x.sum() > 0),
    "if": lambda x: 1 if (x > 0).all() else 0,
    "float": lambda x: float(x.sum()),
    "int": lambda x: int(x.argmax()),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "to": lambda x: x.to("cpu"),
    "copy_ to the CPU": lambda x: torch.empty(3, 3).copy_(x),
    "nonzero": lambda x: x.nonzero(),
    "where of one": lambda x: torch.where(x > 0),
    "argwhere": lambda x: torch.argwhere(x > 0),
    "masked_select": lambda x: x.masked_select(x > 0),
    "boolean index": lambda x: x[x > 0],
    "boolean row index": lambda x: x[x[:, 0] > 0],
    "boolean assignment of many": lambda x: x.index_put_((x > 9,), x[:0, 0]),
    "an index that is a tensor": lambda x: x[x.argmax() % 3],
    "a slice to a tensor": lambda x: x[: (x > 0).sum()],
    "unique": lambda x: x.unique(),
    "unique_consecutive": lambda x: x.unique_consecutive(),
    "repeat_interleave": lambda x: x.repeat_interleave(torch.ones_like(x[0]).long(), dim=0),
    "equal": lambda x: torch.equal(x, x),
    "allclose": lambda x: torch.allclose(x, x),
    "print": lambda x: repr(x),
    "format": lambda x: f"{x.sum():.3f}",
    "range": lambda x: range(x.argmax()),
    "bincount": lambda x: x.argsort(0).flatten().bincount(),
    "multinomial": lambda x: x.abs().multinomial(1),
    "cholesky": lambda x: torch.linalg.cholesky(torch.eye(3, device=x.device)),
    "eigh": lambda x: torch.linalg.eigh(x @ x.T),
    "isclose in assert": lambda x: torch.testing.assert_close(x, x),
}


@pytest.mark.parametrize("name", WAITS)
def test_every_synchronisation_is_counted(name: str, sim: torch.device) -> None:
    x = torch.randn(3, 3, device=sim)
    with count_synchronisations() as record:
        WAITS[name](x)
    assert record.waits.total() >= 1, record
    assert not record.uploads


ASYNCHRONOUS: dict[str, Callable[[Tensor], object]] = {
    "arithmetic": lambda x: (x * 2 + 1).exp().sum().sqrt(),
    "boolean assignment of one number": lambda x: x.__setitem__(x > 0, 0.0),
    "masked_fill": lambda x: x.masked_fill(x > 0, 1.0),
    "fill": lambda x: torch.full((), 0.5, device=x.device),
    "arange": lambda x: torch.arange(3, device=x.device),
    "draw": lambda x: torch.randn_like(x),
    "index": lambda x: x[x.argsort(0)[:, 0]],
    "topk": lambda x: x.topk(2),
    "one_hot": lambda x: torch.nn.functional.one_hot(x.argsort(0), 3),
    "matmul": lambda x: x @ x.T,
    "quantile": lambda x: x.quantile(0.5),
    "interleave a number": lambda x: x.repeat_interleave(2, dim=0),
    "isfinite": lambda x: torch.isfinite(x).all(),
    "shape": lambda x: (x.shape, x.numel(), len(x), x.dtype),
    "clip": lambda x: torch.nn.utils.clip_grad_norm_([torch.nn.Parameter(x)], 1.0),
    "from pinned memory": lambda x: torch.ones(3).pin_memory().to(x.device, non_blocking=True),
}


@pytest.mark.parametrize("name", ASYNCHRONOUS)
def test_what_a_gpu_does_alone_is_not_counted(name: str, sim: torch.device) -> None:
    x = torch.randn(3, 3, device=sim)
    with count_synchronisations() as record:
        ASYNCHRONOUS[name](x)
    assert not record.places, record


def test_blocking_copies_to_the_device_stand_apart(sim: torch.device) -> None:
    with count_synchronisations() as record:
        torch.tensor([1.0, 2.0], device=sim)
        torch.ones(3).to(sim)
        torch.ones(3, device=sim)[torch.tensor([0])]
    assert record.uploads.total() == 3
    assert not record.waits


def test_a_planted_synchronisation_is_found_with_its_line(sim: torch.device) -> None:
    def energy(x: Tensor) -> Tensor:
        return x.square().sum(1)

    lifted = Function(energy)
    x = torch.randn(4, 2, device=sim)

    def run(steps: int, planted: bool) -> None:
        for _ in range(steps):
            value = lifted(x)
            if planted and value.sum() < 0:
                return

    assert not count_per_step(lambda steps: run(steps, False))
    grown = count_per_step(lambda steps: run(steps, True), steps=5)
    assert grown.total() == 5
    assert {place.kind for place in grown} == {"item"}

    with count_synchronisations() as record:
        check_finite(x, "points")
    assert {place.file for place in record.waits} == {"energy/points.py"}


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(
            torch.nn.Conv2d(1, 4, 3),
            torch.nn.GroupNorm(2, 4),
            torch.nn.SiLU(),
            torch.nn.Flatten(),
            torch.nn.Linear(144, 8),
            torch.nn.LayerNorm(8),
            torch.nn.Linear(8, 1),
        )
        self.register_buffer("offset", torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).squeeze(1) + self.offset


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_a_net_trains_there_as_here(kind: type[torch.optim.Adam], sim: torch.device) -> None:
    torch.manual_seed(0)
    here = Net()
    there = copy.deepcopy(here).to(sim)
    optimizers = [kind(net.parameters(), lr=0.01) for net in (here, there)]
    x = torch.randn(2, 1, 8, 8)
    moved = x.to(sim)
    with count_synchronisations() as record:
        for _ in range(3):
            for optimizer, net, batch in zip(optimizers, (here, there), (x, moved), strict=True):
                optimizer.zero_grad()
                net(batch).square().sum().backward()
                optimizer.step()
    assert not record.places, record
    twin = copy.deepcopy(there)
    twin.load_state_dict(here.state_dict())
    for name, value in there.state_dict().items():
        assert value.device == sim
        assert torch.allclose(value.cpu(), here.state_dict()[name], atol=1e-5), name
        assert torch.equal(twin.state_dict()[name].cpu(), here.state_dict()[name])
    optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))


def test_functional_transforms_work_there_as_here(sim: torch.device) -> None:
    x = torch.randn(3, 4)
    moved = x.to(sim)
    net = torch.nn.Linear(4, 4)
    weights = {name: value.to(sim) for name, value in net.state_dict().items()}

    def energy(z: Tensor) -> Tensor:
        return z.square().sum().exp()

    pairs = [
        (vmap(grad(energy))(moved), vmap(grad(energy))(x)),
        (vmap(hessian(energy))(moved), vmap(hessian(energy))(x)),
        (jvp(energy, (moved,), (moved,))[1], jvp(energy, (x,), (x,))[1]),
        (functional_call(net, weights, (moved,)), net(x)),
    ]
    for there, here in pairs:
        assert there.device == sim
        assert torch.allclose(there.cpu(), here, rtol=1e-5)
    with torch.autocast("sim", enabled=False):
        assert (moved @ moved.T).dtype == torch.float32


def test_backward_runs_where_inference_mode_was_left(sim: torch.device) -> None:
    with torch.inference_mode(), torch.inference_mode(False), torch.enable_grad():
        x = torch.ones(3, device=sim, requires_grad=True)
        (slope,) = torch.autograd.grad(x.square().sum(), x)
    assert slope.tolist() == [2, 2, 2]


def test_python_numbers_do_not_change_the_type(sim: torch.device) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        x = torch.ones((), device=sim, dtype=torch.float32)
        results = [x + 2.0, x % 2.0, 2.0 * x, x / 3, x.clamp(min=0.5), x**2.0, 2.0**x, 1 - x]
        results += [torch.maximum(x, torch.tensor(2.0)).float(), torch.where(x > 0, x, 2.0)]
        assert {result.dtype for result in results} == {torch.float32}
        assert (x.long() % 2).dtype == torch.int64
    finally:
        torch.set_default_dtype(torch.float32)


def test_views_share_memory_and_versions(sim: torch.device) -> None:
    x = torch.zeros(2, 3, device=sim)
    x.view(-1)[1:3].add_(1)
    x.T[2].mul_(5)
    assert x.tolist() == [[0, 1, 5], [0, 0, 0]]
    leaf = torch.ones(3, device=sim, requires_grad=True)
    product = leaf.exp()
    product.view(-1).add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()


def test_a_device_without_float64_refuses_it(sim32: torch.device) -> None:
    makers: list[Callable[[], object]] = [
        lambda: torch.zeros(2, dtype=torch.float64, device=sim32),
        lambda: torch.zeros(2, device=sim32).double(),
        lambda: torch.zeros(2, device=sim32).sum(dtype=torch.float64),
        lambda: torch.zeros(2, dtype=torch.float64).to(sim32),
        lambda: torch.full((2,), 1.0, dtype=torch.float64, device=sim32),
    ]
    for make in makers:
        with pytest.raises(TypeError, match="doesn't support float64"):
            make()
    assert torch.zeros(2, device=sim32).to("cpu", torch.float64).dtype == torch.float64
    assert (torch.zeros(2, device=sim32) + torch.tensor(1.0, dtype=torch.float64)).dtype == (
        torch.float32
    )


def test_the_device_is_gone_outside_its_fixture() -> None:
    original = torch.Generator
    with simulate() as device:
        assert torch.accelerator.is_available()
        assert torch.accelerator.current_accelerator() == torch.device("sim")
        assert torch.ones(1).pin_memory().is_pinned()
        copy.deepcopy(torch.ones(1, device=device))
    assert not torch.accelerator.is_available()
    assert torch.Generator is original
    assert not torch.ones(1).is_pinned()


THREADS = """
import threading, torch
from simulated import count_per_step, count_synchronisations, excess, permitted, simulate
with simulate(threads=True) as sim:
    seen = []
    x = torch.ones(3, device=sim, requires_grad=True)
    y = x * 2
    y.register_hook(lambda g: seen.append(threading.current_thread()) or None)
    y.sum().backward()
    assert x.grad.tolist() == [2, 2, 2]
    assert seen != [threading.main_thread()], seen
"""


@pytest.mark.slow
def test_backward_works_in_the_thread_of_the_device() -> None:
    """Needs a process of its own: autograd starts its threads at the first backward."""
    done = subprocess.run(
        [sys.executable, "-c", THREADS],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_page_prints_the_table_of_permitted_synchronisations() -> None:
    page = (permitted.PAGE).read_text(encoding="utf-8")
    assert permitted.write_table() in page, (
        "docs/devices.md is stale; write it anew: cd tests; python -m simulated"
    )


def test_a_permission_is_for_its_own_places_and_no_more_than_it_says() -> None:
    inside = permitted.Place("item", "samplers/caching.py", "CachingEnergy.look_up", 1)
    outside = permitted.Place("item", "samplers/ais.py", "ais", 1)
    assert not excess(Counter({inside: 4}), 4, [permitted.AIS])
    assert excess(Counter({inside: 4}), 4, [])
    assert excess(Counter({inside: 9}), 4, [permitted.AIS])
    assert excess(Counter({outside: 1}), 4, [permitted.AIS])
