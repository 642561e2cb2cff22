"""What a contender of the speed benchmarks gets, what it returns, and how two of them are held
against each other.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.speed.runner import Contender, Disagreement, Outcome
from lowland.energy import Energy


class Task(NamedTuple):
    """One run: the plain network for floors and rivals, the same energy for lowland, where chains
    start, the settings.
    """

    net: nn.Module
    energy: Energy
    start: Tensor
    steps: int
    step_size: float
    temperature: float = 1.0
    leapfrogs: int = 10
    temperatures: tuple[float, ...] = ()


class Chains(NamedTuple):
    """What a run leaves: points (B, *event), mean acceptance and gradients per chain where the
    program tells them.
    """

    x: Tensor
    acceptance: float | None = None
    gradients: float | None = None


Run = Callable[[], Chains]
Make = Callable[[Task], Run]


class Proof(NamedTuple):
    """What a step costs per chain: gradients, and forwards without a gradient; None where it cannot
    be counted.

    quiet, drift, single: points after five steps without noise, after one without, after one with
    noise (Langevin only); allowed: the share of the noiseless way by which it may part from the
    reference.
    """

    gradients: float | None = None
    forwards: float | None = None
    quiet: Tensor | None = None
    drift: Tensor | None = None
    single: Tensor | None = None
    allowed: float = 1e-4


class Entry(NamedTuple):
    """A contender to be: its name, its maker, the distribution it needs ('' for none), how it is
    called, its proof.
    """

    name: str
    make: Make
    needs: str
    how: str
    prove: Callable[[Make, Task], Proof] | None = None


def contenders(
    task: Task, entries: Sequence[Entry], prove: Callable[[Make, Task], Proof]
) -> list[Contender]:
    """Entries as contenders of the runner."""
    return [
        Contender(
            e.name,
            partial(e.make, task),
            partial(e.prove or prove, e.make, task),
            (e.needs,) if e.needs else (),
            e.how,
        )
        for e in entries
    ]


def prove_cost(make: Make, task: Task) -> Proof:
    """Count what one more step costs: rows that go through the network, or what the run says where
    there are none.
    """
    make(task._replace(steps=2))()  # once per process, precision is timed
    few, more = (_count(make, task._replace(steps=steps)) for steps in (2, 5))
    gradients, forwards = ((b - a) / 3 for a, b in zip(few, more, strict=True))
    return Proof(gradients or None, forwards)


def prove_said(make: Make, task: Task) -> Proof:
    """What the program says a step costs: for compiled ones, which a counter would make compile
    anew.
    """
    few, more = (make(task._replace(steps=steps))().gradients for steps in (2, 5))
    return Proof(None if few is None or more is None else (more - few) / 3)


def _count(make: Make, task: Task) -> tuple[float, float]:
    rows = {True: 0, False: 0}

    def count(_: nn.Module, given: tuple[Tensor, ...], __: Any) -> None:
        rows[torch.is_grad_enabled()] += len(given[0])

    watched = {task.net} if task.net in set(task.energy.modules()) else {task.net, task.energy}
    handles = [module.register_forward_hook(count) for module in watched]
    try:
        said = make(task)().gradients
    finally:
        for handle in handles:
            handle.remove()
    gradients = rows[True] / len(task.start) if said is None else said
    return gradients, rows[False] / len(task.start)


def prove_moves(make: Make, task: Task) -> Proof:
    """The cost of a step, and the moves of Langevin with the noise switched off and on."""
    return _moves_of(make, task, prove_cost(make, task))


def _moves_of(make: Make, task: Task, cost: Proof) -> Proof:
    few = min(task.steps, 5)
    quiet = make(task._replace(temperature=0.0, steps=few))().x
    drift = make(task._replace(temperature=0.0, steps=1))().x
    single = make(task._replace(steps=1))().x
    return cost._replace(quiet=quiet, drift=drift, single=single)


def prove_compiled(make: Make, task: Task) -> Proof:
    """The moves, and what the program says a step costs."""
    return _moves_of(make, task, prove_said(make, task))


def prove_roughly(make: Make, task: Task) -> Proof:
    """The same for one in bfloat16, which may part by a tenth of the way."""
    return prove_moves(make, task)._replace(allowed=0.1)


def welch(a: Tensor, b: Tensor) -> float:
    """z of the difference of two means."""
    return ((a.mean() - b.mean()) / (a.var() / len(a) + b.var() / len(b)).sqrt()).item()


def summaries(task: Task, x: Tensor) -> dict[str, Tensor]:
    """What is compared, one number per chain: the way, the squared norm, the energy; float64."""
    with torch.no_grad():
        energy = torch.cat([task.net(part) for part in x.split(1000)])
    way = (x - task.start).square().flatten(1).sum(1)
    return {
        "way": way.double(),
        "norm": x.square().flatten(1).sum(1).double(),
        "energy": energy.double(),
    }


def apart(task: Task, reference: Tensor, other: Tensor) -> dict[str, float]:
    """Welch's z over chains of each summary; 0 for the same tensor."""
    if other is reference:
        return {"way": 0.0, "norm": 0.0, "energy": 0.0}
    a, b = summaries(task, other), summaries(task, reference)
    return {name: welch(a[name], b[name]) for name in a}


def acceptance_z(chains: int, a: float, b: float) -> float:
    """z of two acceptance rates, as if every chain had made one step only (the steps of a chain are
    not independent).
    """
    pooled = min(max((a + b) / 2, 1 / chains), 1 - 1 / chains)
    return (a - b) / math.sqrt(2 * pooled * (1 - pooled) / chains)


def same_chains(task: Task) -> Callable[[Outcome, Outcome], str]:
    """A check for the runner: the chains end alike and, where there are proofs of it, the moves are
    the same.

    Way, norm and energy of the chains and the acceptance: |z| < 5. Without noise the contenders may
    part by no more than the proof allows; the noise of one step has the variance 2hT, |z| < 5.
    """

    def check(reference: Outcome, other: Outcome) -> str:
        zs = apart(task, reference.result.x, other.result.x)
        a, b = other.result.acceptance, reference.result.acceptance
        if a is not None and b is not None:
            zs["acceptance"] = acceptance_z(len(task.start), a, b)
        words = []
        if other.proof.single is not None:
            error, zs["noise"] = _moves(task, reference.proof, other.proof)
            if not error < other.proof.allowed:
                raise Disagreement(
                    f"without noise they part by {error:.2g} of the way; {other.proof.allowed:g} "
                    "is allowed"
                )
            words = [f"drift to {error:.0e}"]
        if not all(abs(z) < 5 for z in zs.values()):
            raise Disagreement(f"the chains differ: z = {zs}")
        words += [f"{name} z {z:+.1f}" for name, z in zs.items()]
        words += [f"accepted {a:.3f}"] if a is not None else []
        return ", ".join(words) + cost_words(other.proof)

    return check


def _moves(task: Task, reference: Proof, other: Proof) -> tuple[float, float]:
    """Share of the noiseless way by which they part; z of the variance of the noise of one step."""
    assert (
        reference.quiet is not None
        and other.quiet is not None
        and reference.drift is not None
        and other.single is not None
    )
    way = (reference.quiet - task.start).double().norm()
    error = ((other.quiet - reference.quiet).double().norm() / way).item()
    left = (other.single - reference.drift).double()
    share = left.square().mean() / (2 * task.step_size * task.temperature) - 1
    return error, (share / math.sqrt(2 / left.numel())).item()


def cost_words(proof: Proof) -> str:
    """What a step costs, for the table."""
    if proof.gradients is None:
        return ""
    forwards = f" + {proof.forwards:g} forwards" if proof.forwards else ""
    return f"; a step: {proof.gradients:g} gradients{forwards}"
