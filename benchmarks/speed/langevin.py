"""Langevin steps per second on a small convolutional energy of MNIST images, one thread, float32.

The network is 1 → 64 → 128 channels (kernels 4, strides 2, padding 1), then 6272 → 256 → 1, with
SiLU; 128 chains of 60 steps on unconstrained 28 × 28 images. Weights are random (seed 0): a step
costs the same whatever they are. All contenders get the same network object, in eval mode and with
frozen weights.

The move is one and the same,   x ← x − h ∇E(x) + √(2hT) ξ,   ξ ~ N(0, I):

    floor      a loop over forward, autograd.grad with respect to x, and randn_like
    lowland    Langevin(step_size=h, temperature=T)
    ebmkit     LangevinDynamics(step_size=h, noise_scale=σ): x ← x − h ∇E(x) + σ ξ, so σ = √(2hT)
    torchebm   LangevinDynamics(step_size=h, noise_scale=s): x ← x − h ∇E(x) + s √(2h) ξ, so s = √T

Agreement is checked four ways: (1) without noise, all reach the same x, to 10⁻⁴ of the way they
went (torchebm refuses a noise of 0 and gets 10⁻¹²); (2) in one noisy step, what is left after the
drift has variance 2h, |z| < 5; after the timed runs (3) the squared displacement and (4) the energy
of the chains agree, |z| < 5 by Welch's test over chains.
"""

import math
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import lowland
from benchmarks.speed import runner
from benchmarks.speed.runner import Benchmark, Contender, Disagreement, Goal, Outcome

STEP = 0.01


class Task(NamedTuple):
    """One run: the network, where chains start, how many steps, at which temperature."""

    net: nn.Module
    start: Tensor
    steps: int
    temperature: float = 1.0


class ImageEnergy(nn.Module):
    """(B, 1, 28, 28) → (B,). The factor makes the drift of a step visible beside its noise."""

    def __init__(self, scale: float = 1000.0) -> None:
        super().__init__()
        self.scale = scale
        self.layers = nn.Sequential(
            nn.Conv2d(1, 64, 4, 2, 1),
            nn.SiLU(),
            nn.Conv2d(64, 128, 4, 2, 1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(6272, 256),
            nn.SiLU(),
            nn.Linear(256, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.layers(x).squeeze(1)


Run = Callable[[], Tensor]


def floor(task: Task) -> Run:
    net, noise = task.net, math.sqrt(2 * STEP * task.temperature)

    def run() -> Tensor:
        x = task.start
        for _ in range(task.steps):
            leaf = x.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(net(leaf).sum(), leaf)
            x = x - STEP * gradient + noise * torch.randn_like(x)
        return x

    return run


def lowland_door(task: Task) -> Run:
    generator = torch.Generator().manual_seed(1)
    sampler = lowland.Langevin(STEP, task.temperature)
    energy = lowland.Function(task.net)
    return lambda: lowland.sample(energy, sampler, task.start, task.steps, generator=generator).x


def lowland_loop(task: Task) -> Run:
    from lowland.samplers import run_chains

    generator = torch.Generator().manual_seed(2)
    sampler = lowland.Langevin(STEP, task.temperature)
    energy = lowland.Function(task.net)
    return lambda: run_chains(energy, sampler, task.start, task.steps, generator=generator).x


def ebmkit(task: Task) -> Run:
    from ebm.samplers import LangevinDynamics

    sampler = LangevinDynamics(STEP, task.steps, noise_scale=math.sqrt(2 * STEP * task.temperature))
    return lambda: sampler.sample(task.net, task.start)


def torchebm(task: Task) -> Run:
    from torchebm.core import BaseModel
    from torchebm.samplers import LangevinDynamics

    class Wrapped(BaseModel):
        def __init__(self) -> None:
            super().__init__()
            self.net = task.net

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    model = Wrapped().eval()
    sampler = LangevinDynamics(
        model, step_size=STEP, noise_scale=max(math.sqrt(task.temperature), 1e-12)
    )
    return lambda: sampler.sample(task.start, n_steps=task.steps)


class Proof(NamedTuple):
    """quiet: points after all steps without noise; drift: after one; single: after one with noise;
    calls: of the network in a run, with and without a graph; energy: scores points."""

    start: Tensor
    quiet: Tensor
    drift: Tensor
    single: Tensor
    calls: tuple[int, int]
    energy: Callable[[Tensor], Tensor]


def prove(make: Callable[[Task], Run], task: Task) -> Proof:
    counts = {True: 0, False: 0}

    def count(*_: Any) -> None:
        counts[torch.is_grad_enabled()] += 1

    handle = task.net.register_forward_hook(count)
    quiet = make(task._replace(temperature=0.0))()
    handle.remove()
    drift = make(task._replace(temperature=0.0, steps=1))()
    single = make(task._replace(steps=1))()
    return Proof(
        task.start, quiet, drift, single, (counts[True], counts[False]), torch.no_grad()(task.net)
    )


def welch(a: Tensor, b: Tensor) -> float:
    """z of the difference of two means."""
    return ((a.mean() - b.mean()) / (a.var() / len(a) + b.var() / len(b)).sqrt()).item()


def check(reference: Outcome, other: Outcome) -> str:
    """Raise Disagreement unless both make the same move; see the module docstring."""
    truth, proof = reference.proof, other.proof
    start, way = truth.start, (truth.quiet - truth.start).double().norm()
    error = ((proof.quiet - truth.quiet).double().norm() / way).item()
    if not error < 1e-4 or not way > 0:
        raise Disagreement(f"without noise they part by {error:.2g} of the way of {way:.3g}")
    left = (proof.single - truth.drift).double()
    n = left.numel()
    noise = ((left.square().mean() / (2 * STEP) - 1) / math.sqrt(2 / n)).item()
    if not abs(noise) < 5:
        raise Disagreement(
            f"the noise of one step has {left.var() / (2 * STEP):.4f} of its variance (z = "
            f"{noise:.1f})"
        )
    travelled = [
        (x - start).square().flatten(1).mean(1).double() for x in (other.result, reference.result)
    ]
    energies = [truth.energy(x).double() for x in (other.result, reference.result)]
    same = other.result is reference.result
    zs = {"way": 0.0 if same else welch(*travelled), "energy": 0.0 if same else welch(*energies)}
    if not all(abs(z) < 5 for z in zs.values()):
        raise Disagreement(f"the chains end elsewhere: z = {zs}")
    calls = f"{proof.calls[0]} gradients" + (
        f" + {proof.calls[1]} forwards" if proof.calls[1] else ""
    )
    return (
        f"drift to {error:.0e}, noise z {noise:+.1f}, way z {zs['way']:+.1f}, energy z "
        f"{zs['energy']:+.1f}; {calls}"
    )


def build(batch: int = 128, steps: int = 60) -> Benchmark:
    torch.manual_seed(0)
    net = ImageEnergy().eval().requires_grad_(False)
    task = Task(net, torch.rand(batch, 1, 28, 28), steps)

    def contender(name: str, make: Callable[[Task], Run], how: str, *packages: str) -> Contender:
        return Contender(name, partial(make, task), partial(prove, make, task), packages, how)

    return Benchmark(
        name="langevin",
        title=f"Langevin steps on an MNIST convolutional energy, {batch} chains × {steps} steps, "
        "float32",
        contenders=[
            contender(
                "floor",
                floor,
                "bare loop: forward, autograd.grad, randn_like, out of place; weights frozen",
            ),
            contender(
                "lowland",
                lowland_door,
                "lowland.sample, the public door with all its checks",
                "lowland",
            ),
            contender(
                "lowland loop",
                lowland_loop,
                "run_chains: the same without its checks, for training",
                "lowland",
            ),
            contender(
                "ebmkit", ebmkit, "LangevinDynamics(h, noise_scale=√(2h)).sample(net, x)", "ebmkit"
            ),
            contender(
                "torchebm",
                torchebm,
                "LangevinDynamics(model, h, noise_scale=1).sample(x), Euler–Maruyama, nothing kept",
                "torchebm",
            ),
        ],
        check=check,
        amount=steps,
        unit="steps",
        goals=[
            Goal("lowland", "floor", 1.05),
            Goal("lowland", "ebmkit", 1.0),
            Goal("lowland", "torchebm", 1.0),
        ],
        notes=(
            "One step is x ← x − h ∇E(x) + √(2h) ξ. lowland pays one gradient more than the "
            "others, for the energy and score of the last point, which its trace returns and the "
            "others do not. Its public door looks at the energy before the first step, with one "
            "gradient and 13 evaluations of few points, whatever the number of steps."
        ),
    )


def main(argv: list[str] | None = None) -> int:
    parser = runner.parser("langevin", __doc__)
    parser.add_argument("--batch", type=int, default=128, help="chains (128)")
    parser.add_argument("--steps", type=int, default=60, help="steps a run (60)")
    args = parser.parse_args(argv)
    return runner.main(args, lambda: build(args.batch, args.steps))


if __name__ == "__main__":
    sys.exit(main())
