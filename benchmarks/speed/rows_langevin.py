"""Langevin: overhead over the bare loop, images in float32 and bfloat16, the perceptron; against
everybody who has it.
"""

import torch

import lowland
from benchmarks.speed import rivals_jax
from benchmarks.speed.ours import door, floor, langevin, plain
from benchmarks.speed.rivals import ebmkit_langevin, in_autocast, torchebm_langevin
from benchmarks.speed.rows_mcmc import COMPILED, OWN, PLAIN, mlp_task
from benchmarks.speed.runner import Benchmark, Goal
from benchmarks.speed.targets import images
from benchmarks.speed.tasks import (
    Entry,
    Task,
    contenders,
    prove_compiled,
    prove_moves,
    prove_roughly,
    same_chains,
)

BARE = "bare loop: forward, autograd.grad, randn_like, out of place; weights frozen"
EBMKIT = Entry(
    "ebmkit", ebmkit_langevin, "ebmkit", "LangevinDynamics(h, noise_scale=√(2h)).sample(net, x)"
)
TORCHEBM = Entry(
    "torchebm", torchebm_langevin, "torchebm", "LangevinDynamics(model, h, noise_scale=1).sample(x)"
)
CHUNK = {"conv": 64, "residual": 64}


def _image_entries(chunk: int) -> list[Entry]:
    half = door(langevin, precision="bfloat16")
    return [
        Entry("floor", floor, "", BARE),
        Entry("lowland", door(langevin), "lowland", "lowland.sample on Function(net)"),
        Entry(
            "lowland chunk", door(langevin, chunk=chunk), "lowland", f"the same with chunk={chunk}"
        ),
        Entry(
            "lowland bf16",
            half,
            "lowland",
            "the same with precision='bfloat16', no chunk",
            prove_roughly,
        ),
        EBMKIT,
        TORCHEBM,
        Entry(
            "ebmkit bf16",
            in_autocast(ebmkit_langevin),
            "ebmkit",
            "under torch.autocast(bfloat16)",
            prove_roughly,
        ),
    ]


def langevin_images(name: str, chains: int = 128, steps: int = 60) -> Benchmark:
    """One table for three rows: overhead over the loop, float32 in chunks, bfloat16."""
    net = images(name)
    start = torch.rand(chains, 1, 28, 28, generator=torch.Generator().manual_seed(7))
    task = Task(net, lowland.Function(net), start, steps, 0.01)
    faster = 2.4 if name == "conv" else 1.7
    goals = [Goal("lowland", "floor", 1.05)]
    goals += [Goal("lowland chunk", rival, 1 / 1.2) for rival in ("ebmkit", "torchebm")]
    goals += [Goal("lowland bf16", rival, 1 / faster) for rival in ("ebmkit", "torchebm")]
    return Benchmark(
        f"images-{name}",
        f"Langevin on images, {name} net, {chains} chains × {steps} steps",
        contenders(task, _image_entries(CHUNK[name]), prove_moves),
        same_chains(task),
        steps,
        "steps",
        goals,
        "lowland pays one gradient and one forward more than the others: for the energies and "
        "scores that its trace returns and to see that the energy is one. bfloat16 may part from "
        "float32 by a tenth of the noiseless way.",
    )


def overhead_mlp(chains: int = 1000, steps: int = 300) -> Benchmark:
    task = mlp_task(chains, steps, 0.1)
    entries = [
        Entry("floor", floor, "", BARE),
        Entry(
            "lowland plain",
            plain(door(langevin)),
            "lowland",
            "lowland.sample on Function(the plain module)",
        ),
        Entry("lowland", door(langevin), "lowland", f"lowland.sample {OWN}"),
    ]
    return Benchmark(
        "overhead-mlp",
        f"Langevin on a perceptron 10-128-128-1, {chains} chains × {steps} steps, float32: what "
        "sample adds to the loop",
        contenders(task, entries, prove_moves),
        same_chains(task),
        steps,
        "steps",
        [Goal("lowland plain", "floor", 1.05), Goal("lowland", "floor", 1.05)],
    )


def langevin_mlp(chains: int = 10000, steps: int = 50, compile: bool = True) -> Benchmark:
    task, ours = mlp_task(chains, steps, 0.1), door(langevin)
    entries = [
        Entry("floor", floor, "", BARE),
        Entry(
            "lowland",
            ours,
            "lowland",
            f"lowland.sample {OWN}, whose gradient by hand goes in blocks of its own",
        ),
        Entry(
            "lowland plain", plain(door(langevin, chunk=500)), "lowland", f"{PLAIN}, with chunk=500"
        ),
        Entry(
            "lowland bf16",
            door(langevin, precision="bfloat16"),
            "lowland",
            "precision='bfloat16'",
            prove_roughly,
        ),
        EBMKIT,
        TORCHEBM,
        Entry(
            "blackjax",
            rivals_jax.blackjax_langevin,
            "blackjax",
            f"sgld, {rivals_jax.HOW}",
            rivals_jax.prove_langevin,
        ),
    ]
    if compile:
        made = door(langevin, compile=True)
        entries.insert(3, Entry("lowland compiled", made, "lowland", COMPILED, prove_compiled))
    return Benchmark(
        "langevin-mlp",
        f"Langevin on a perceptron 10-128-128-1, {chains} chains × {steps} steps",
        contenders(task, entries, prove_moves),
        same_chains(task),
        steps,
        "steps",
        [Goal("lowland", "ebmkit", 1 / 1.7), Goal("lowland", "blackjax", 1.0)],
    )
