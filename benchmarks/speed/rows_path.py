"""Annealed importance sampling on the perceptron against ebmkit."""

import math
from typing import Any, NamedTuple

import torch

import lowland
from benchmarks.speed.ours import plain
from benchmarks.speed.rows_mcmc import PLAIN, mlp_task
from benchmarks.speed.runner import Benchmark, Disagreement, Goal, Outcome
from benchmarks.speed.targets import CONFINE, DIMENSION
from benchmarks.speed.tasks import Entry, Run, Task, contenders, cost_words, prove_cost
from lowland.targets import Gaussian

LEAPFROGS = 5


class LogZ(NamedTuple):
    """An estimate of log Z, its standard error, the effective number of chains."""

    value: float
    error: float
    effective: float
    gradients: float | None = None


def from_weights(log_weights: torch.Tensor) -> LogZ:
    """From the log weights (chains,), the same for everybody."""
    w = (log_weights - log_weights.max()).double().exp()
    value = w.mean().log() + log_weights.max()
    return LogZ(
        value.item(),
        (w.std() / w.mean() / math.sqrt(len(w))).item(),
        (w.sum().square() / w.square().sum()).item(),
    )


def ebmkit(task: Task) -> Run:
    from ebm import ais_log_z
    from ebm.samplers import HMC

    def run() -> Any:
        kernel = HMC(task.step_size, LEAPFROGS, steps=1)
        found = ais_log_z(
            task.net,
            (DIMENSION,),
            base_scale=CONFINE**-0.5,
            n_temps=task.steps,
            n_chains=len(task.start),
            sampler=kernel,
            adapt_step_size=False,
        )
        return from_weights(found.log_weights.double())

    return run


def ours(task: Task) -> Run:
    from lowland.samplers import ais, geometric_path

    generator = torch.Generator().manual_seed(1)
    base = Gaussian([0.0] * DIMENSION, (torch.eye(DIMENSION) / CONFINE).tolist())
    path = geometric_path(base, task.energy, torch.linspace(0, 1, task.steps + 1).tolist())
    kernel = lowland.HMC(task.step_size, LEAPFROGS)

    def run() -> Any:
        found = ais(path, kernel, base.draw(len(task.start), generator), generator=generator)
        return from_weights(found.log_weights + base.log_z)._replace(gradients=found.num_grad_evals)

    return run


def same_log_z(reference: Outcome, other: Outcome) -> str:
    a, b = other.result, reference.result
    z = (a.value - b.value) / math.hypot(a.error, b.error) if a is not b else 0.0
    if not abs(z) < 5:
        raise Disagreement(
            f"log Z is {a.value:.3f} ± {a.error:.3f} and {b.value:.3f} ± {b.error:.3f}, z = {z:.1f}"
        )
    return (
        f"log Z {a.value:.3f} ± {a.error:.3f}, z {z:+.1f}, {a.effective:.0f} effective "
        f"chains{cost_words(other.proof)}"
    )


def ais(chains: int = 64, steps: int = 200) -> Benchmark:
    task = mlp_task(chains, steps, 1.0)
    entries = [
        Entry(
            "lowland",
            ours,
            "lowland",
            "ais(geometric_path(base, energy, betas), HMC(ε, 5), draws of the base)",
        ),
        Entry("lowland plain", plain(ours), "lowland", PLAIN),
        Entry(
            "ebmkit", ebmkit, "ebmkit", "ais_log_z(net, sampler=HMC(ε, 5), adapt_step_size=False)"
        ),
    ]
    return Benchmark(
        "ais",
        f"AIS, {steps} temperatures, {chains} chains, one HMC-{LEAPFROGS} transition each, "
        "perceptron 10-128-128-1",
        contenders(task, entries, prove_cost),
        same_log_z,
        steps,
        "temperatures",
        [Goal("lowland", "ebmkit", 1 / 1.6)],
        "ebmkit moves once more than lowland, under the last energy, where no weight is left to be "
        "had.",
    )
