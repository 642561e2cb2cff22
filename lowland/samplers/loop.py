"""The one loop: `sample` runs a sampler. Freezing, recording, progress and counting live here."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lowland.energy import (
    Energy,
    check_finite,
    check_independent,
    check_normalisable,
    check_points,
    check_values,
    frozen,
    lift,
)
from lowland.samplers.acceleration import accelerate
from lowland.samplers.kernel import DISCRETE, Sampler
from lowland.samplers.recorders import Draws, Keeper


@dataclass(frozen=True)
class Trace:
    """What a run of chains left behind.

    x: final points (B, *event); state: pass it back to go on; acceptance (B,): mean probability per
    chain that a proposal was to be accepted; diverged (B,): refused non-finite proposals per chain;
    steps; gradients: evaluations per chain (the mean over chains where they differ); kept: by
    keeper name.
    """

    state: Any
    acceptance: Tensor
    diverged: Tensor
    steps: int
    gradients: float
    kept: dict[str, Any] = field(default_factory=dict)

    @property
    def x(self) -> Tensor:
        return self.state.x

    @property
    def draws(self) -> Tensor:
        """What `Draws` kept: (draws, B, *event)."""
        if "draws" not in self.kept:
            raise ValueError(
                "no draws were kept; only keepers that were asked for run; pass keep=1 to sample"
            )
        return self.kept["draws"]

    def __repr__(self) -> str:
        refused = (
            f", {int(self.diverged.sum())} non-finite proposals refused"
            if bool(self.diverged.any())
            else ""
        )
        return (
            f"Trace({len(self.x)} chains of {tuple(self.x.shape[1:])}, {self.steps} steps, "
            f"{self.gradients:g} gradients, acceptance "
            f"{self.acceptance.mean().item():.3f}{refused})"
        )


def sample(
    energy: Energy | Callable[..., Tensor],
    sampler: Sampler,
    x: Tensor,
    steps: int,
    *,
    generator: torch.Generator,
    keep: int | Keeper | Sequence[Keeper] = (),
    state: Any = None,
    progress: Callable[[int], object] | None = None,
    precision: str = "float32",
    compile: bool = False,
    chunk: int | None = None,
) -> Trace:
    """Run chains from x (B, *event) for a number of steps.

    Same generator, same bits; five steps and five more (pass `state=trace.state`) equal ten. The
    module is run in eval mode with frozen weights and is afterwards as it was. progress: called
    with 1 after every step. precision ("float32" or "bfloat16"), compile, chunk (chains per
    gradient): cheaper gradients, see `samplers.engine`.

    Raises ValueError if x does not fit the energy's domain or the sampler does not run there, if
    the energy is not one (see `check_energy`) or not finite at x, or if the generator lives on
    another device.

    >>> import torch, lowland
    >>> g = torch.Generator().manual_seed(0)
    >>> trace = lowland.sample(lambda x: 0.5 * x.square().sum(1), lowland.MALA(0.5), torch.zeros(4, 2), 20, generator=g)
    >>> trace.x.shape, trace.gradients
    (torch.Size([4, 2]), 21)
    """
    energy = lift(energy)
    check_arguments(steps, generator, x)
    check_points(energy, x)
    check_normalisable(energy, x)
    if state is not None and not torch.equal(state.x, x):
        raise ValueError(
            "state and x disagree; they must hold the same points; pass trace.x with trace.state"
        )
    fast = accelerate(
        energy, precision=precision, compile=compile, chunk=chunk, exact=sampler.adjusted
    )
    paid = 0
    with frozen(energy):
        if state is None:
            check_domain(sampler, energy)
            state = sampler.init(fast, x)
            paid = getattr(sampler, "start_gradients", 1)
            check_values(state.energy, x)
            check_independent(energy, x, value=state.energy if fast is energy else None)
        trace = run_chains(
            fast, sampler, x, steps, generator=generator, keep=keep, state=state, progress=progress
        )
    return dataclasses.replace(trace, gradients=trace.gradients + paid)


def run_chains(
    energy: Energy,
    sampler: Sampler,
    x: Tensor,
    steps: int,
    *,
    generator: torch.Generator,
    keep: int | Keeper | Sequence[Keeper] = (),
    state: Any = None,
    progress: Callable[[int], object] | None = None,
) -> Trace:
    """`sample` without its checks, for training loops: non-finite starts are let through, stay put
    and are counted.
    """
    check_domain(sampler, energy)
    with frozen(energy):
        gradients: Any = steps * sampler.gradients
        if state is None:
            state = sampler.init(energy, x)
            gradients += getattr(sampler, "start_gradients", 1)
        recorders = [(keeper.name, keeper.start(state, steps)) for keeper in _keepers(keep)]
        accepted = torch.zeros(len(x), device=x.device)
        diverged = torch.zeros(len(x), dtype=torch.long, device=x.device)
        for step in range(1, steps + 1):
            state, info = sampler.step(energy, state, generator)
            accepted += info.rate
            diverged += info.diverged
            if info.gradients is not None:
                gradients += info.gradients
            for _, recorder in recorders:
                recorder.add(step, state, info)
            if progress is not None:
                progress(1)
    kept = {name: recorder.result() for name, recorder in recorders}
    paid = gradients.double().mean().item() if isinstance(gradients, Tensor) else gradients
    return Trace(state, accepted / max(steps, 1), diverged, steps, paid, kept)


def _keepers(keep: int | Keeper | Sequence[Keeper]) -> list[Keeper]:
    if isinstance(keep, int):
        return [Draws(keep)]
    return list(keep) if isinstance(keep, Sequence) else [keep]


def check_domain(sampler: Sampler, energy: Energy) -> None:
    """Refuse a sampler on a kind of domain for which it was not made."""
    allowed = getattr(sampler, "domains", None)
    own = (
        getattr(sampler, "sweeps", None) is not None and energy.sweep is not None
    )  # Gibbs of its own, as Gaussian units have
    if allowed is not None and not own and energy.domain.kind not in allowed:
        others = (
            "BlockGibbs, GibbsWithGradients or DMALA"
            if energy.domain.kind in DISCRETE
            else "MALA, HMC or NUTS"
        )
        raise ValueError(
            f"{type(sampler).__name__} came to a domain that is {energy.domain.kind}; it moves on "
            f"{' or '.join(allowed)} ones; use {others}"
        )


def check_arguments(steps: int, generator: torch.Generator, x: Tensor) -> None:
    """Refuse a number of steps, a generator or starting points that cannot be meant."""
    if not isinstance(steps, int) or steps < 0:
        raise ValueError(
            f"steps is {steps!r}; it must be a whole number, at least 0; 0 only evaluates the start"
        )
    if not isinstance(generator, torch.Generator):
        raise ValueError(
            f"generator is a {type(generator).__name__}; every draw takes a torch.Generator; "
            f"pass torch.Generator().manual_seed(0)"
        )
    if isinstance(x, Tensor) and generator.device.type != x.device.type:
        raise ValueError(
            f"the generator is on {generator.device} and x on {x.device}; both must be on one "
            f"device; make the generator with torch.Generator({x.device.type!r})"
        )
    if isinstance(x, Tensor):
        check_finite(x, "starting points")
