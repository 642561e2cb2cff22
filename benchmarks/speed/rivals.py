"""ebmkit and torchebm as contenders, in their best configuration: frozen weights, no trajectory, no
diagnostics.

Conventions, so that every contender makes the same move:

    ebmkit LangevinDynamics(ε, noise_scale=σ)      x ← x − ε ∇E(x) + σ ξ so σ = √(2hT), ε = h
    torchebm LangevinDynamics(h, noise_scale=s)    x ← x − h ∇E(x) + s √(2h) ξ so s = √T (it refuses
                                                   0)
    ebmkit MALA(ε)                                 x − ε ∇E(x) + √(2ε) ξ            so ε = h
    HMC(ε, L) of both                              unit mass, L leapfrog steps of ε
"""

import math

import torch
from torch import Tensor

from benchmarks.speed.tasks import Chains, Make, Run, Task


def ebmkit_langevin(task: Task) -> Run:
    from ebm.samplers import LangevinDynamics

    sampler = LangevinDynamics(
        task.step_size, task.steps, noise_scale=math.sqrt(2 * task.step_size * task.temperature)
    )
    return lambda: Chains(sampler.sample(task.net, task.start))


def ebmkit_hmc(task: Task) -> Run:
    from ebm.samplers import HMC

    sampler = HMC(task.step_size, task.leapfrogs, task.steps)
    return lambda: Chains(sampler.sample(task.net, task.start), sampler.last_accept_rate)


def ebmkit_mala(task: Task) -> Run:
    from ebm.samplers import MALA

    sampler = MALA(task.step_size, task.steps)
    return lambda: Chains(sampler.sample(task.net, task.start), sampler.last_accept_rate)


def _torchebm_model(net: torch.nn.Module) -> torch.nn.Module:
    from torchebm.core import BaseModel

    class Wrapped(BaseModel):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    return Wrapped().eval()


def torchebm_langevin(task: Task) -> Run:
    from torchebm.samplers import LangevinDynamics

    noise = max(math.sqrt(task.temperature), 1e-12)
    sampler = LangevinDynamics(
        _torchebm_model(task.net), step_size=task.step_size, noise_scale=noise
    )
    return lambda: Chains(sampler.sample(task.start, n_steps=task.steps))


def torchebm_hmc(task: Task) -> Run:
    from torchebm.samplers import HamiltonianMonteCarlo

    model = _torchebm_model(task.net)
    sampler = HamiltonianMonteCarlo(
        model, step_size=task.step_size, n_leapfrog_steps=task.leapfrogs
    )
    return lambda: Chains(sampler.sample(task.start, n_steps=task.steps))


def ebmkit_tempering(task: Task) -> Run:
    from ebm.samplers import MALA, ParallelTempering

    sampler = ParallelTempering(
        MALA(task.step_size), task.temperatures, swap_every=1, steps=task.steps
    )

    def run() -> Chains:
        x = sampler.sample(task.net, task.start)
        rates = sampler.swap_rates()
        return Chains(x, sum(rates) / len(rates))

    return run


def in_autocast(make: Make) -> Make:
    """The same with the network in bfloat16, as a user of a library without the option could have
    it.
    """

    def maker(task: Task) -> Run:
        run = make(task)

        def work() -> Chains:
            with torch.autocast("cpu", torch.bfloat16):
                return run()

        return work

    return maker
