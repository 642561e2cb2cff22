"""Checks at the doors of everything that runs chains: arguments, states that are handed back, the
resolution of energies, the memory of what is kept.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from lowland.energy import Energy, Wrapper, check_finite, freeze
from lowland.energy.capabilities import ConditionLike
from lowland.samplers.kernel import DISCRETE, Sampler, describe_sampler, init, values_of
from lowland.samplers.settings import read_count
from lowland.samplers.tempering import TemperedState, at_temperatures

COARSE = 2.0**-4  # nats between neighbouring energies that an accept step can no longer do with
WIDE = 1000  # steps of the resolution between energies, beyond which it does not matter
SCALES = torch.logspace(0, -7, 8)  # of moves near the starting points, in units of 1 + |x|


def check_sampler(sampler: object) -> None:
    """Refuse what is no instance of a sampler."""
    if isinstance(sampler, Sampler):
        return
    advice = "pass an instance, such as MALA(0.1)"
    if sampler == "auto":
        advice = 'let tune(energy, "auto", x, ...) choose one, and pass what it returns'
    raise ValueError(
        f"the sampler is {describe_sampler(sampler)}; an instance of a sampler is needed; {advice}"
    )


def check_domain(sampler: Sampler, energy: Energy) -> None:
    """Raise ValueError where a sampler meets a kind of domain for which it was not made."""
    check_sampler(sampler)
    if sampler.runs_on(energy):
        return
    continuous = energy.domain.kind not in DISCRETE
    others = "MALA, HMC or NUTS" if continuous else "BlockGibbs, GibbsWithGradients or DMALA"
    raise ValueError(
        f"{type(sampler).__name__} came to a domain that is {energy.domain.kind}; it moves on "
        f"{' or '.join(sampler.domains)} ones; use {others}"
    )


def check_arguments(steps: int, generator: torch.Generator, x: Tensor) -> int:
    """Refuse a number of steps, a generator or starting points that cannot be meant; return the
    steps as a plain int.
    """
    steps = read_count("steps", steps, least=0)
    if not isinstance(generator, torch.Generator):
        raise ValueError(
            f"generator is a {type(generator).__name__}; every draw takes a torch.Generator; "
            f"pass torch.Generator().manual_seed(0)"
        )
    if not isinstance(x, Tensor):
        return steps
    if x.dim() < 2:
        raise ValueError(
            f"points came with shape {tuple(x.shape)}, which leaves an event no dimension; "
            "samplers take (B, *event); pass x.unsqueeze(1), and an energy of points (B, 1)"
        )
    if generator.device.type != x.device.type:
        raise ValueError(
            f"the generator is on {generator.device} and x on {x.device}; both must be on one "
            f"device; make the generator with torch.Generator({x.device.type!r})"
        )
    check_finite(x, "starting points")
    return steps


class Witness(Wrapper):
    """An energy for checks that look at points where no chain is: NaN where it raises an error of
    its numbers, which is a mistake only where chains start.
    """

    def forward(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        return values_of(self.energy if c is None else self.energy.given(c), x)

    def value_and_score(self, x: Tensor, c: ConditionLike = None) -> tuple[Tensor, Tensor]:
        state = init(self.energy if c is None else self.energy.given(c), x)
        return state.energy, state.score


def check_step_sizes(sampler: Sampler, x: Tensor) -> None:
    """Refuse step sizes, one per chain, that are not as many as chains or not above 0."""
    for name, step in vars(sampler).items():
        if not isinstance(step, Tensor):
            continue
        if step.shape != (len(x),) or not bool((step.isfinite() & (step > 0)).all()):
            raise ValueError(
                f"{name} is a tensor {tuple(step.shape)} for {len(x)} chains; it must be one "
                "number, or one finite number above 0 per chain; pass such a number"
            )


# --------------------------------------------------------------------------- states handed back


def check_state(energy: Energy, sampler: Sampler, state: Any, x: Tensor, tolerance: float) -> None:
    """Refuse a state that another kind of sampler, other temperatures or another energy made, or
    this one before its weights changed. Costs one evaluation of the energy.
    """
    name, types = type(sampler).__name__, sampler.state_types
    if types and type(state) not in types:
        raise ValueError(
            f"the state is a {type(state).__name__}; {name} goes on from "
            f"{' or '.join(t.__name__ for t in types)}; pass the state of a trace of {name}, or "
            "leave it out"
        )
    if state.x.shape != x.shape or not torch.equal(state.x, x):
        raise ValueError(
            "state and x disagree; they must hold the same points; pass trace.x with trace.state"
        )
    replicas = state
    if isinstance(state, TemperedState):
        replicas = state.replicas
        if len(replicas.x) != sampler.num_replicas * len(x):
            raise ValueError(
                f"the state has {len(replicas.x) // len(x)} replicas; this sampler has "
                f"{sampler.num_replicas}; go on with the temperatures of its trace, or leave it out"
            )
        betas = 1 / torch.tensor(vars(sampler)["temperatures"], dtype=x.dtype, device=x.device)
        energy = at_temperatures(energy, betas, len(x))
    with freeze(energy) as still, torch.no_grad():
        value = still(replicas.x)
    off = (value - replicas.energy).abs() - tolerance * (1 + value.abs())
    if value.shape != replicas.energy.shape or not bool((off <= 0).all()):
        raise ValueError(
            "the state holds energies that are not those of this energy at its points; another "
            "energy made it, other temperatures, or the weights have changed since; leave it out, "
            "and start from trace.x"
        )


# ------------------------------------------------------------------------ resolution of energies


def check_resolution(energy: Energy, x: Tensor, value: Tensor) -> None:
    """Refuse energies between which floating point leaves gaps that an accept step cannot do with:
    those of a large offset.

    value (B,): at x. On continuous domains, energies near x are looked at too if
    all those at x lie on a grid of 1/16; far out, where energies differ by a thousand gaps, any
    step is right. Costs nothing unless energies at x lie on that grid.
    """
    value = value.detach()[value.isfinite()]
    if len(value) == 0:
        return
    if energy.domain.kind in DISCRETE:
        gap = _gap(value)
        coarse = gap > 0.5 and _span(value) < WIDE * gap
    else:
        coarse = _on_grid(value) and _is_coarse(energy, x, value)
    if coarse:
        size, bits = value.abs().max().item(), 8 * value.dtype.itemsize
        raise ValueError(
            f"energies near {size:.3g} cannot be told apart to {COARSE:g} nats in float{bits}; an "
            "accept step compares them to less; subtract the offset from the energy, or use float64"
        )


def resolves(value: Tensor) -> bool:
    """Tell whether the dtype of energies (B,) tells neighbours apart where they are, or they differ
    by far more than what it cannot tell apart.
    """
    gap = _gap(value)
    return gap < COARSE or _span(value) >= WIDE * gap


def _is_coarse(energy: Energy, x: Tensor, value: Tensor) -> bool:
    found, slopes = [value], False
    for near in _points_near(energy, x):
        with freeze(energy) as still:
            state = init(still, near)
        slopes = slopes or bool((state.score.isfinite() & (state.score != 0)).any())
        again = state.energy[state.energy.isfinite()]
        if not _on_grid(again):
            return False
        found.append(again)
    values = torch.cat(found)
    span, gap = _span(values), COARSE
    if span == 0 and _gap(value) < COARSE:  # constant, or rounded to one value inside
        return slopes
    while gap < 1e30 and _on_grid(values, 2 * gap):
        gap *= 2
    return span < WIDE * gap


def _points_near(energy: Energy, x: Tensor) -> Iterator[Tensor]:
    """Give batches of points near x (B, *event), in all eight times as many moves as scales at
    least; B at a time, for an energy may hold one row each.
    """
    g = torch.Generator().manual_seed(0)
    rounds = -(-8 * len(SCALES) // len(x))
    for k in range(min(rounds, 8 * len(SCALES))):
        scale = SCALES[(torch.arange(len(x)) + k) % len(SCALES)].to(x.device, x.dtype)
        noise = torch.randn(x.shape, generator=g).to(x.device, x.dtype)
        size = (1 + x.abs()) * scale.view(-1, *[1] * (x.dim() - 1))
        yield energy.domain.reflect(x + size * noise)[0]


def _on_grid(value: Tensor, gap: float = COARSE) -> bool:
    return bool((value / gap == (value / gap).round()).all())


def _gap(value: Tensor) -> float:
    """Return the distance between neighbouring numbers at the median size of energies."""
    size = value.abs().median()
    return (torch.nextafter(size, torch.full_like(size, torch.inf)) - size).item()


def _span(value: Tensor) -> float:
    return (value.max() - value.min()).item()
