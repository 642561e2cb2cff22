"""HMC, MALA and parallel tempering on a perceptron and a Gaussian, against torchebm, ebmkit and
blackjax.
"""

import torch

import lowland
from benchmarks.speed import rivals, rivals_jax
from benchmarks.speed.ours import door, hmc, mala, plain, tempered
from benchmarks.speed.runner import Benchmark, Goal
from benchmarks.speed.targets import (
    CONFINE,
    DIMENSION,
    Perceptron,
    ScaledGaussian,
    gaussian,
    perceptron,
)
from benchmarks.speed.tasks import Entry, Task, contenders, prove_cost, prove_said, same_chains

OWN = "on lowland's own energy"
PLAIN = "the same on Function(the plain module)"
COMPILED = "the same with compile=True; compiled outside the clock"


def mlp_task(chains: int, steps: int, step_size: float) -> Task:
    """Chains of the perceptron that have come to rest."""
    energy = perceptron()
    generator = torch.Generator().manual_seed(7)
    start = torch.randn(chains, DIMENSION, generator=generator) / CONFINE**0.5
    start = lowland.sample(energy, lowland.HMC(0.5, 10), start, 20, generator=generator).x
    return Task(Perceptron(energy), energy, start, steps, step_size)


def gaussian_task(chains: int, steps: int, step_size: float) -> Task:
    """Exact draws of a Gaussian in 100 dimensions with scales from 0.1 to 1."""
    net = ScaledGaussian()
    start = (
        torch.randn(chains, len(net.scales), generator=torch.Generator().manual_seed(7))
        * net.scales
    )
    return Task(net, gaussian(net), start, steps, step_size)


def _hmc(name: str, task: Task, compile: bool) -> Benchmark:
    entries = [
        Entry("lowland", door(hmc), "lowland", f"lowland.sample with HMC(ε, 10) {OWN}"),
        Entry("lowland plain", plain(door(hmc)), "lowland", PLAIN),
        Entry("ebmkit", rivals.ebmkit_hmc, "ebmkit", "HMC(ε, leapfrog_steps=10)"),
        Entry(
            "torchebm",
            rivals.torchebm_hmc,
            "torchebm",
            "HamiltonianMonteCarlo(model, ε, n_leapfrog_steps=10)",
        ),
        Entry(
            "blackjax",
            rivals_jax.blackjax_hmc,
            "blackjax",
            f"hmc(−E, ε, ones, 10), {rivals_jax.HOW}",
            rivals_jax.prove_hmc,
        ),
    ]
    if compile:
        entries.insert(
            2, Entry("lowland compiled", door(hmc, compile=True), "lowland", COMPILED, prove_said)
        )
    return Benchmark(
        f"hmc-{name}",
        f"HMC, 10 leapfrogs of {task.step_size:g}, on a {name}, {len(task.start)} chains × "
        f"{task.steps} transitions, float32",
        contenders(task, entries, prove_cost),
        same_chains(task),
        task.steps,
        "transitions",
        [
            Goal("lowland", "torchebm", 1 / 2),
            Goal("lowland", "ebmkit", 1 / 1.4),
            Goal("lowland", "blackjax", 1.0),
        ],
    )


def hmc_mlp(chains: int = 1000, steps: int = 30, compile: bool = True) -> Benchmark:
    return _hmc("mlp", mlp_task(chains, steps, 1.2), compile)


def hmc_gaussian(chains: int = 1000, steps: int = 100, compile: bool = True) -> Benchmark:
    return _hmc("gaussian", gaussian_task(chains, steps, 0.08), compile)


def mala_mlp(chains: int = 1000, steps: int = 200, compile: bool = True) -> Benchmark:
    task = mlp_task(chains, steps, 1.0)
    entries = [
        Entry("lowland", door(mala), "lowland", f"lowland.sample with MALA(h) {OWN}"),
        Entry("lowland plain", plain(door(mala)), "lowland", PLAIN),
        Entry("ebmkit", rivals.ebmkit_mala, "ebmkit", "MALA(h)"),
        Entry(
            "blackjax",
            rivals_jax.blackjax_mala,
            "blackjax",
            f"mala(−E, h), {rivals_jax.HOW}",
            rivals_jax.prove_mala,
        ),
    ]
    if compile:
        entries.insert(
            2, Entry("lowland compiled", door(mala, compile=True), "lowland", COMPILED, prove_said)
        )
    return Benchmark(
        "mala-mlp",
        f"MALA on a perceptron 10-128-128-1, {chains} chains × {steps} steps, float32",
        contenders(task, entries, prove_cost),
        same_chains(task),
        steps,
        "steps",
        [Goal("lowland", "ebmkit", 1 / 2.2), Goal("lowland", "blackjax", 1.0)],
    )


def parallel_tempering(chains: int = 128, steps: int = 50) -> Benchmark:
    task = mlp_task(chains, steps, 0.5)._replace(
        temperatures=(1.0, 1.2, 1.44, 1.73, 2.07, 2.49, 2.99, 3.58)
    )
    entries = [
        Entry(
            "lowland",
            tempered,
            "lowland",
            f"lowland.sample with ParallelTempering(MALA(h), T, (h, ..., h)) {OWN}",
        ),
        Entry("lowland plain", plain(tempered), "lowland", PLAIN),
        Entry(
            "ebmkit",
            rivals.ebmkit_tempering,
            "ebmkit",
            "ParallelTempering(MALA(h), T, swap_every=1)",
        ),
    ]
    return Benchmark(
        "tempering",
        f"Parallel tempering, 8 replicas × {chains} chains × {steps} sweeps of MALA, perceptron "
        "10-128-128-1, float32",
        contenders(task, entries, prove_cost),
        same_chains(task),
        steps,
        "sweeps",
        [Goal("lowland", "ebmkit", 1 / 2.3)],
        "The acceptance that is compared is the mean swap rate over the seven pairs.",
    )
