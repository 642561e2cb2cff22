"""Time Langevin on a device three ways: step by step, compiled, and as one CUDA graph."""

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

import lowland
from benchmarks.proof.devices_cases.draws import seeded

SIDE = 28
STEP = 0.01


class Way(NamedTuple):
    """A way to move chains: its name, and a function that moves them by so many steps."""

    name: str
    run: Callable[[], Tensor]


class Timing(NamedTuple):
    """Seconds of a way in each round, and its ratio to `eager` of the same round, or why it could
    not be timed.
    """

    name: str
    seconds: tuple[float, ...] = ()
    ratios: tuple[float, ...] = ()
    problem: str = ""

    def describe(self) -> str:
        """Return the row of a table."""
        if self.problem:
            return f"| {self.name} | | | {self.problem} |"
        middle, ratio = statistics.median(self.seconds), statistics.median(self.ratios)
        span = f"{ratio:.2f} [{min(self.ratios):.2f} … {max(self.ratios):.2f}]"
        return f"| {self.name} | {1e3 * middle:.1f} | {span} | |"


def build_net(device: torch.device) -> lowland.Energy:
    """Return a convolutional energy of pictures, in eval mode with frozen weights."""
    square = lowland.box(0.0, 1.0, 1, SIDE, SIDE)
    net = seeded(lambda: lowland.nets.ConvNet(square, channels=(32, 64, 64), hidden=64))
    moved: lowland.Energy = net.to(device).eval().requires_grad_(False)
    return moved


def list_ways(device: torch.device, chains: int, steps: int) -> list[tuple[str, Callable[[], Way]]]:
    """Return the names of the ways, each with what prepares it."""
    energy = build_net(device)
    generator = torch.Generator(device).manual_seed(0)
    start = energy.domain.draw(chains, generator)

    def sample(net: lowland.Energy, name: str) -> Way:
        def run() -> Tensor:
            how = lowland.Langevin(STEP)
            return lowland.sample(net, how, start, steps, generator=generator).x

        return Way(name, run)

    def compiled() -> Way:
        net = build_net(device)
        net.compile()
        return sample(net, "compiled")

    def graphed() -> Way:
        return capture(energy, start, steps)

    return [
        ("eager", lambda: sample(energy, "eager")),
        ("compiled", compiled),
        ("CUDA graph", graphed),
    ]


def capture(energy: lowland.Energy, start: Tensor, steps: int) -> Way:
    """Return Langevin as one CUDA graph of a step, replayed.

    x' = x − h ∇E(x) + √(2h) ξ, reflected into the box; noise by the device's own generator, which
    a graph advances. Raises ValueError without CUDA.
    """
    if start.device.type != "cuda":
        raise ValueError("CUDA graphs are CUDA's")
    x = start.clone()

    def step() -> None:
        _, score = energy.value_and_score(x)
        x.copy_(
            energy.domain.reflect(x + STEP * score + (2 * STEP) ** 0.5 * torch.randn_like(x))[0]
        )

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # a graph is captured after a warm-up on a stream of its own
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()

    def run() -> Tensor:
        x.copy_(start)
        for _ in range(steps):
            graph.replay()
        return x

    return Way("CUDA graph", run)


def synchronise(device: torch.device) -> None:
    """Wait until a device has done all it was asked."""
    if device.type != "cpu":
        torch.zeros(1, device=device).item()


def time_ways(device: torch.device, chains: int, steps: int, rounds: int) -> list[Timing]:
    """Time all ways in turn, in every round, after one run of each that is not counted."""
    ways, failed = [], []
    for name, prepare in list_ways(device, chains, steps):
        try:
            way = prepare()
            assert way.run().isfinite().all(), "chains are not finite"
            ways.append(way)
        except Exception as error:  # a way that this machine does not go is a row without figures
            failed.append(Timing(name, problem=" ".join(str(error).split())[:120]))
    seconds: dict[str, list[float]] = {way.name: [] for way in ways}
    for _ in range(rounds):
        for way in ways:
            synchronise(device)
            began = time.perf_counter()
            way.run()
            synchronise(device)
            seconds[way.name].append(time.perf_counter() - began)
    floor = seconds["eager"]
    timed = [
        Timing(name, tuple(own), tuple(a / b for a, b in zip(own, floor, strict=True)))
        for name, own in seconds.items()
    ]
    return timed + failed
