"""Training: steps of persistent contrastive divergence with 20 Langevin steps on the image net,
against ebmkit.

All start every run from the same weights; chains stay in the buffer (10,000, 5 % restarted at
noise). One step: 20 Langevin steps of 128 chains, two forwards with gradients in the weights, one
update by Adam.
"""

import copy
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import lowland
from benchmarks.speed.langevin import ImageEnergy
from benchmarks.speed.runner import Benchmark, Disagreement, Goal, Outcome
from benchmarks.speed.tasks import Entry, Make, Run, Task, contenders, cost_words, prove_cost, welch
from lowland import real
from lowland.objectives import Batch, Context

RATE, STEP, LANGEVIN = 1e-4, 0.01, 20


class Trained(NamedTuple):
    """The negatives of the last step (B, *event) and the weights, laid flat, after it."""

    x: Tensor
    weights: Tensor
    gradients: None = None  # counted from outside


def flat(net: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def lowland_pcd(buffer_size: int, data: Tensor, **options: Any) -> Make:
    """lowland's own objective; options: what `accelerate` takes, for the gradients of the chains
    alone.
    """

    def make(task: Task) -> Run:
        from lowland.samplers import accelerate

        generator = torch.Generator().manual_seed(1)
        net = copy.deepcopy(task.net).requires_grad_(True)
        before = copy.deepcopy(net.state_dict())
        energy = accelerate(lowland.Function(net, real(1, 28, 28)), exact=False, **options)
        chains = lowland.ReplayBuffer(buffer_size, energy.domain, generator=generator)
        sampler, objective = (
            lowland.Langevin(STEP),
            lowland.objectives.PCD(steps=LANGEVIN, buffer_size=buffer_size),
        )

        def run() -> Any:
            net.load_state_dict(before)
            optimizer = torch.optim.Adam(net.parameters(), lr=RATE)
            for _ in range(task.steps):
                x = data[torch.randint(len(data), (len(task.start),), generator=generator)]
                loss = objective.loss(
                    energy, Batch(x), Context(generator, sampler=sampler, buffer=chains)
                )
                optimizer.zero_grad(set_to_none=True)
                loss.value.backward()
                optimizer.step()
            assert loss.negatives is not None
            return Trained(loss.negatives, flat(net))

        return run

    return make


def ebmkit_pcd(buffer_size: int, data: Tensor) -> Make:
    def make(task: Task) -> Run:
        from ebm.buffer import ReplayBuffer
        from ebm.losses import ContrastiveDivergence
        from ebm.samplers import LangevinDynamics
        from ebm.training import Trainer

        net = copy.deepcopy(task.net).requires_grad_(True)
        before = copy.deepcopy(net.state_dict())
        loss = ContrastiveDivergence(
            LangevinDynamics(STEP, LANGEVIN), ReplayBuffer(buffer_size, (1, 28, 28))
        )
        kept: list[Tensor] = []

        def run() -> Any:
            net.load_state_dict(before)
            trainer = Trainer(net, loss, lr=RATE, callback=lambda step, out: kept.append(out.x_neg))
            trainer.fit(data, steps=task.steps, batch_size=len(task.start), verbose=False)
            return Trained(kept[-1], flat(net))

        return run

    return make


def same_training(task: Task) -> Callable[[Outcome, Outcome], str]:
    """Energies of the negatives under the first weights agree, |z| < 5; the weights have gone as
    far, to a tenth.
    """
    first = flat(task.net)

    def check(reference: Outcome, other: Outcome) -> str:
        a, b = other.result, reference.result
        with torch.no_grad():
            z = welch(task.net(a.x).double(), task.net(b.x).double()) if a is not b else 0.0
        far = ((a.weights - first).norm() / (b.weights - first).norm()).item()
        if not (abs(z) < 5 and abs(math.log(far)) < 0.1):
            raise Disagreement(
                f"the negatives differ (z = {z:.1f}) or the weights have gone {far:.3f} times as "
                "far"
            )
        return f"negatives z {z:+.1f}, weights gone {far:.3f} as far{cost_words(other.proof)}"

    return check


def pcd(chains: int = 128, buffer: int = 10_000, steps: int = 2) -> Benchmark:
    torch.manual_seed(0)
    net, data = ImageEnergy(), torch.rand(max(1000, chains), 1, 28, 28)
    task = Task(net, lowland.Function(net), data[:chains], steps, STEP)
    entries = [
        Entry(
            "lowland", lowland_pcd(buffer, data), "lowland", "PCD(steps=20).loss and Adam, float32"
        ),
        Entry(
            "lowland bf16",
            lowland_pcd(buffer, data, precision="bfloat16"),
            "lowland",
            "the same, the gradients of the chains in bfloat16, those of the weights in float32",
        ),
        Entry(
            "ebmkit",
            ebmkit_pcd(buffer, data),
            "ebmkit",
            "Trainer(net, ContrastiveDivergence(sampler, buffer)).fit",
        ),
    ]
    return Benchmark(
        "pcd",
        f"PCD, conv net, {LANGEVIN} Langevin steps of {chains} chains a step, buffer of {buffer}",
        contenders(task, entries, prove_cost),
        same_training(task),
        steps,
        "training steps",
        [Goal("lowland bf16", "ebmkit", 1 / 1.8)],
    )
