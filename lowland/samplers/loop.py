"""The one loop: `sample` runs a sampler. Freezing, recording, progress and counting live here."""

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lowland.devices import to_float64
from lowland.energy import (
    Energy,
    check_gradient,
    check_independent,
    check_normalisable,
    check_points,
    check_values,
    freeze,
    gibbs_of,
    lift,
)
from lowland.energy.placement import wide_dtype
from lowland.samplers.acceleration import accelerate
from lowland.samplers.adaptation import Adaptation
from lowland.samplers.discrete import BlockGibbs
from lowland.samplers.doors import (
    Witness,
    check_arguments,
    check_domain,
    check_resolution,
    check_sampler,
    check_state,
    check_step_sizes,
)
from lowland.samplers.kernel import Info, Sampler
from lowland.samplers.precision import AS_ASKED, PrecisionChoice, resolve_precision
from lowland.samplers.recorders import Recorder, collect_recorders
from lowland.samplers.rescue import collect_errors, raise_at_start
from lowland.samplers.verdict import warn_of_run
from lowland.scalars import read_integer

Recorders = Recorder | Sequence[Recorder]


@dataclass(frozen=True)
class Trace:
    """Result of a run of chains.

    x: final points (B, *event); state: pass it back to go on; acceptance (B,): mean acceptance
    probability per chain; diverged (B,): refused non-finite proposals per chain; steps;
    num_grad_evals: gradients per chain (the mean over chains where they differ); records: results
    of the recorders, by name; precision: that of the network's products in gradients, and what was
    measured before it was chosen.
    """

    state: Any
    acceptance: Tensor
    diverged: Tensor
    steps: int
    num_grad_evals: float
    records: dict[str, Any] = field(default_factory=dict)
    precision: PrecisionChoice = AS_ASKED

    @property
    def x(self) -> Tensor:
        return self.state.x

    @property
    def draws(self) -> Tensor:
        """Return the points recorded by `Draws`: (draws, B, *event)."""
        if "draws" not in self.records:
            raise ValueError(
                "no draws were recorded; only recorders that were asked for run; pass thin=1 to "
                "sample"
            )
        return self.records["draws"]

    def __repr__(self) -> str:
        return (
            f"Trace({len(self.x)} chains of {tuple(self.x.shape[1:])}, {self.steps} steps, "
            f"{self.num_grad_evals:g} gradients, acceptance "
            f"{self.acceptance.mean().item():.3f}{count_refused(self.diverged)})"
        )


def count_refused(diverged: Tensor) -> str:
    """Say how many proposals were refused for not being finite: a clause, empty if none was."""
    refused = int(diverged.sum())
    return f", {refused} non-finite proposals refused" if refused else ""


def sample(
    energy: Energy | Callable[..., Tensor],
    sampler: Sampler,
    x: Tensor,
    steps: int,
    *,
    generator: torch.Generator,
    thin: int | None = None,
    recorders: Recorders = (),
    state: Any = None,
    progress: Callable[[int], object] | None = None,
    precision: str = "auto",
    compile: bool = False,
    chunk: int | None = None,
) -> Trace:
    """Run chains from x (B, *event) for a number of steps.

    Same generator, same bits; five steps and five more (pass `state=trace.state`) equal ten. The
    module is run in eval mode with frozen weights and is afterwards as it was. thin: record the
    points of every thin-th step in `trace.draws`; recorders: what else to record. progress: called
    with 1 after every step. precision ("float32", "bfloat16", "auto"), compile, chunk (chains per
    gradient): cheaper gradients, see `lowland.samplers.acceleration`. By "auto" gradients of a
    network of layers are rounded to bfloat16 where that is clearly faster, and nothing else ever
    is (`trace.precision` says what was done); "float32" gives the same digits on every machine.

    x is copied and cut from its graph. A proposal at which the energy is not finite, or raises an
    error of its numbers (a Cholesky factor that does not exist), is refused and counted. One
    warning at the end says where chains did not move, or met numbers that are not finite.

    Raises ValueError if x does not fit the energy's domain or the sampler does not run there, if
    the energy is not one (see `check_energy`) or not finite at x, if floating point cannot tell its
    values apart, if the state belongs to another energy or sampler, or if the generator lives on
    another device.

    >>> import torch, lowland
    >>> g = torch.Generator().manual_seed(0)
    >>> bowl = lambda x: 0.5 * x.square().sum(1)
    >>> trace = lowland.sample(bowl, lowland.MALA(0.5), torch.zeros(4, 2), 20, generator=g)
    >>> trace.x.shape, trace.num_grad_evals
    (torch.Size([4, 2]), 21)
    """
    energy = lift(energy)
    check_sampler(sampler)
    steps = check_arguments(steps, generator, x)
    check_points(energy, x)
    check_step_sizes(sampler, x)
    check_normalisable(energy, x)
    x = x.detach().clone()
    paid = 0
    with freeze(energy) as energy, collect_errors() as errors:
        chunk = None if chunk is None else read_integer("chunk", chunk, least=1)
        choice = choose_precision(energy, sampler, x[:chunk], precision)
        fast = accelerate(
            energy,
            precision=choice.precision,
            compile=compile,
            chunk=chunk,
            exact=sampler.adjusted or precision == "auto",
        )
        if state is None:
            state = start_chains(energy, fast, sampler, x)
            paid = sampler.num_init_grad_evals
        else:
            state = detach_state(state)
            check_state(energy, sampler, state, x, 1e-3 if fast is energy else 0.05)
        trace = run_chains(
            fast,
            sampler,
            x,
            steps,
            generator=generator,
            thin=thin,
            recorders=recorders,
            state=state,
            progress=progress,
        )
        warn_of_run(
            energy,
            sampler,
            trace.x,
            trace.state.energy,
            trace.acceptance,
            trace.diverged,
            steps,
            errors,
        )
    paid_in_all = trace.num_grad_evals + paid
    return dataclasses.replace(trace, num_grad_evals=paid_in_all, precision=choice)


def choose_precision(
    energy: Energy, sampler: Sampler, x: Tensor, precision: str
) -> PrecisionChoice:
    """Choose the precision of a sampler's gradients at x (B, *event); energies stay float32."""
    if precision == "auto" and not (sampler.num_grad_evals or sampler.num_init_grad_evals):
        return PrecisionChoice("float32", "no gradients")
    return resolve_precision(precision, energy, x, exact=True)


def start_chains(energy: Energy, fast: Energy, sampler: Sampler, x: Tensor) -> Any:
    """Return the state of chains at x (B, *event), once the energy has been checked there; errors
    that it raises are its own. fast: the energy with cheaper gradients, or itself.
    """
    check_domain(sampler, energy)
    with raise_at_start():
        state = sampler.init(fast, x)
        check_values(state.energy, x)
    witness = Witness(energy)
    check_independent(witness, x)
    if sampler.num_grad_evals or sampler.num_init_grad_evals:
        check_gradient(witness, x)
    if compares_energies(sampler, energy):
        check_resolution(energy, x, state.energy)
    return state


def compares_energies(sampler: Sampler, energy: Energy) -> bool:
    """Tell whether a sampler accepts by differences of energies, or draws by them."""
    return sampler.adjusted and not (isinstance(sampler, BlockGibbs) and gibbs_of(energy).draws)


def detach_state(state: Any) -> Any:
    """Return a state whose tensors are cut from their graphs."""
    if isinstance(state, Tensor):
        return state.detach()
    if isinstance(state, tuple):  # a NamedTuple, as states and what they hold are
        return type(state)(*map(detach_state, state))
    return state


def run_chains(
    energy: Energy,
    sampler: Sampler,
    x: Tensor,
    steps: int,
    *,
    generator: torch.Generator,
    thin: int | None = None,
    recorders: Recorders = (),
    state: Any = None,
    adapt: Adaptation | None = None,
    progress: Callable[[int], object] | None = None,
) -> Trace:
    """Run chains as `sample` does, without its checks, for training loops: non-finite starts are
    let through, stay put and are counted. adapt: sets the sampler of the next step.
    """
    check_domain(sampler, energy)
    x = x.detach()
    recorders = collect_recorders(recorders, thin)
    with freeze(energy) as energy:
        num_grad_evals: int | Tensor = steps * sampler.num_grad_evals
        if state is None:
            with raise_at_start():
                state = sampler.init(energy, x)
            num_grad_evals += sampler.num_init_grad_evals
        recordings = [(recorder.name, recorder.start(state, steps)) for recorder in recorders]
        accepted = torch.zeros(len(x), dtype=wide_dtype(x.device), device=x.device)
        diverged = torch.zeros(len(x), dtype=torch.long, device=x.device)
        moves = iterate(energy, sampler, state, steps, generator, adapt)
        for step, (state, info) in enumerate(moves, 1):
            accepted += info.acceptance_prob
            diverged += info.diverged
            if info.num_grad_evals is not None:
                num_grad_evals = num_grad_evals + info.num_grad_evals
            for _, recording in recordings:
                recording.add(step, state, info)
            if progress is not None:
                progress(1)
    records = {name: recording.result() for name, recording in recordings}
    if isinstance(num_grad_evals, Tensor):
        paid = to_float64(num_grad_evals).mean().item()
    else:
        paid = num_grad_evals
    acceptance = (accepted / max(steps, 1)).to(state.energy.dtype)
    return Trace(state, acceptance, diverged, steps, paid, records)


def iterate(
    energy: Energy,
    sampler: Sampler,
    state: Any,
    steps: int,
    generator: torch.Generator,
    adapt: Adaptation | None = None,
) -> Iterator[tuple[Any, Info]]:
    """Move chains by so many steps; yields their state and what happened after each. The energy is
    to be frozen by the caller.

    adapt: called after every step, returns the sampler of the next one.
    """
    for _ in range(steps):
        state, info = sampler.step(energy, state, generator)
        yield state, info
        if adapt is not None:
            sampler = adapt(sampler, state, info)


def last_state(moves: Iterator[tuple[Any, Info]]) -> Any:
    """Run an iteration of at least one step to its end, and return the state there."""
    return deque(moves, maxlen=1)[0][0]
