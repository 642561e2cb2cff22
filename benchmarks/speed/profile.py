"""Where the time of a step goes, for the rows of benchmarks.speed.table whose goal is missed.

    python -m benchmarks.speed.profile        writes results/speed/profile.md

Tables: the parts of a MALA step and of a leapfrog on the perceptron (1,000 chains, 10 → 128 → 128 →
1), each timed by itself, interleaved, CPU time, median; the same of a restricted Boltzmann machine
784-500 (128 points, as in learning, and 100, as in annealing); and the kernels of the convolutional
net's gradient in float32 and bfloat16 by torch.profiler.
"""

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.speed import RESULTS, runner


def microseconds(parts: dict[str, Callable[[], Any]], rounds: int = 300) -> dict[str, float]:
    """Median CPU time of each part, in microseconds, all parts taking turns."""
    times: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(rounds):
        for name, part in parts.items():
            start = time.process_time()
            part()
            times[name].append(time.process_time() - start)
    return {name: 1e6 * statistics.median(found) for name, found in times.items()}


def perceptron_parts() -> dict[str, Callable[[], Any]]:
    import torch

    from benchmarks.speed.targets import perceptron
    from lowland.energy import by_autograd, differentiate, score_alone
    from lowland.samplers import HMC, MALA, Langevin, metropolis, normal_like, squared_norm

    energy, g = perceptron(), torch.Generator().manual_seed(0)
    x = torch.randn(1000, 10, generator=g)
    mala, hmc, langevin = MALA(0.001), HMC(0.01, 10), Langevin(0.001)
    state, other = mala.init(energy, x), mala.init(energy, x + 0.01)
    ratio = torch.randn(1000, generator=g)
    a, w = torch.randn(1000, 128, generator=g), torch.randn(128, 128, generator=g)
    out = torch.empty_like(a)
    return {
        "one product 1,000 × 128 × 128 (two a gradient)": lambda: torch.mm(a, w, out=out),
        "gradient by autograd": lambda: by_autograd(energy, x),
        "gradient by hand, with energies": lambda: differentiate(energy, x),
        "gradient by hand, scores alone": lambda: score_alone(energy, x),
        "normal numbers": lambda: normal_like(x, g),
        "accept or refuse": lambda: metropolis(state, other, ratio, g),
        "squared norm (two a step)": lambda: squared_norm(x),
        "Langevin step": lambda: langevin.step(energy, state, g),
        "MALA step": lambda: mala.step(energy, state, g),
        "HMC step, 10 leapfrogs": lambda: hmc.step(energy, state, g),
    }


def machine_parts() -> dict[str, Callable[[], Any]]:
    import torch

    from lowland.domain import binary
    from lowland.nets import RBM
    from lowland.nets.boltzmann.rbm import product
    from lowland.nets.boltzmann.units import coins
    from lowland.objectives import CD, Batch, Context
    from lowland.samplers import BlockGibbs
    from lowland.targets import Bernoulli

    g = torch.Generator().manual_seed(0)
    rbm = RBM(binary(784), 500, centred=False)
    x, weight = (torch.rand(128, 784, generator=g) < 0.2).float(), rbm.weight.detach()
    hidden, logits = torch.randn(128, 500, generator=g), torch.randn(128, 784, generator=g)
    objective, gibbs = CD(), BlockGibbs()
    path = rbm.bridge(Bernoulli((0.2,) * 784), (0.5, 0.6))
    few = x[:100].clone()

    def update() -> None:
        objective.loss(rbm, Batch(x), Context(g, sampler=gibbs)).value.backward()

    def half() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = objective.loss(rbm, Batch(x), Context(g, sampler=gibbs))
        loss.value.backward()

    def rung() -> None:
        with torch.no_grad():
            path[1](gibbs.step(path[0], gibbs.init(path[0], few), g)[0].x)

    return {
        "one product 128 × 784 × 500, float32 (five a CD-1 update)": lambda: x @ weight,
        "the same with factors rounded to bfloat16": lambda: product(x, weight, torch.bfloat16),
        "coins for 500 hidden units": lambda: coins(hidden, g),
        "coins for 784 visible units": lambda: coins(logits, g),
        "log-partition of the hidden units (two an update)": lambda: torch.nn.functional.softplus(
            hidden
        ).sum(1),
        "loss and gradient of CD-1": update,
        "loss and gradient of CD-1, bfloat16": half,
        "a rung of annealing, 100 points (two products)": rung,
    }


def kernels(half: bool, rows: int = 8) -> list[tuple[str, float, int]]:
    """The dearest kernels of the convolutional net's gradient: name, milliseconds and calls per
    gradient.
    """
    import torch
    from torch.profiler import ProfilerActivity, profile

    from benchmarks.speed.targets import images
    from lowland.energy import Function, differentiate

    energy = Function(images("conv"))
    x = torch.rand(128, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    times = 5

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            differentiate(energy, x)

    run()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(times):
            run()
    ranked = sorted(found.key_averages(), key=lambda event: -event.self_cpu_time_total)[:rows]
    return [
        (event.key, event.self_cpu_time_total / 1e3 / times, event.count // times)
        for event in ranked
    ]


def page() -> str:
    lines = ["# Where the time goes", "", "| part, perceptron, 1,000 chains | µs |", "|---|---:|"]
    lines += [
        f"| {name} | {value:,.0f} |" for name, value in microseconds(perceptron_parts()).items()
    ]
    lines += ["", "| part, RBM 784-500, 128 points | µs |", "|---|---:|"]
    lines += [
        f"| {name} | {value:,.0f} |" for name, value in microseconds(machine_parts(), 100).items()
    ]
    for half in (False, True):
        lines += [
            "",
            f"| kernel, conv net, 128 images, {'bfloat16' if half else 'float32'} | ms a gradient "
            "| calls |",
        ]
        lines += ["|---|---:|---:|"]
        lines += [f"| {name} | {value:.2f} | {calls} |" for name, value, calls in kernels(half)]
    where = runner.machine()
    known = ", ".join(f"{key} {value}" for key, value in where.items() if value is not None)
    return "\n".join(
        [*lines, "", f"- machine: {known}", "- command: `python -m benchmarks.speed.profile`", ""]
    )


def main() -> int:
    runner.pin(None, keep_heap=True)
    found = page()
    print(found)
    (RESULTS / "profile.md").write_text(found, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
