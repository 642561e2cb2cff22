"""lowland as a contender: the public door `lowland.sample` with the options of a row; and the bare
loop, the floor.
"""

import math
from collections.abc import Callable
from typing import Any

import torch

import lowland
from benchmarks.speed.tasks import Chains, Make, Run, Task


def floor(task: Task) -> Run:
    """The least code that makes Langevin steps: forward, autograd.grad, randn_like."""
    net, h, noise = task.net, task.step_size, math.sqrt(2 * task.step_size * task.temperature)

    def run() -> Chains:
        x = task.start
        for _ in range(task.steps):
            leaf = x.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(net(leaf).sum(), leaf)
            x = x - h * gradient + noise * torch.randn_like(x)
        return Chains(x)

    return run


def door(sampler: Callable[[Task], Any], **options: Any) -> Make:
    """`lowland.sample` with this sampler and these options, in float32, as the floors compute,
    unless they name a precision.
    """
    how = {"precision": "float32"} | options

    def make(task: Task) -> Run:
        generator = torch.Generator().manual_seed(1)
        made = sampler(task)

        def run() -> Chains:
            trace = lowland.sample(
                task.energy, made, task.start, task.steps, generator=generator, **how
            )
            return Chains(
                trace.x,
                trace.acceptance.mean().item() if made.adjusted else None,
                trace.num_grad_evals,
            )

        return run

    return make


def tempered(task: Task) -> Run:
    """Parallel tempering of MALA with the same step at every temperature; the acceptance is the
    mean swap rate.
    """
    from lowland.samplers import ParallelTempering

    generator, steps = torch.Generator().manual_seed(1), (task.step_size,) * len(task.temperatures)
    sampler = ParallelTempering(lowland.MALA(task.step_size), task.temperatures, steps)

    def run() -> Chains:
        trace = lowland.sample(task.energy, sampler, task.start, task.steps, generator=generator)
        return Chains(trace.x, trace.state.tempering.swap_rates.mean().item(), trace.num_grad_evals)

    return run


def plain(make: Make) -> Make:
    """The same on the module that floors and rivals get, instead of lowland's own energy."""
    return lambda task: make(task._replace(energy=lowland.Function(task.net)))


def langevin(task: Task) -> Any:
    return lowland.Langevin(task.step_size, task.temperature)


def hmc(task: Task) -> Any:
    return lowland.HMC(task.step_size, task.leapfrogs)


def mala(task: Task) -> Any:
    return lowland.MALA(task.step_size)
