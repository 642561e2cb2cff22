"""Spin updates per second: block Gibbs on the Ising model, periodic, coupling 0.4, 128 chains, 64²
and 256² sites, one thread.

    python -m benchmarks.speed.ising                 both sizes
    python -m benchmarks.speed.ising 64 --rounds 3   one of them

One update draws one spin of one chain from its distribution given its neighbours; a sweep updates
every spin once, both colours of the checkerboard in turn. All contenders start from the same
points, 128 independent chains in equilibrium, and go on from where they stopped:

    lowland             Ising.sweep(x, sweeps, generator): points in, points out, packing included
    lowland compiled    Ising.sweep(..., compiled=True)
    lowland plain       BlockGibbs by conditionals, one number per spin: what any binary energy with
                        a colouring gets (64² only)
    thrml, hamon        sample_states, jitted, with a bias of 0; chains batched as was fastest here
                        (see RIVALS)

Agreement is checked twice. After every run the mean energy of the chains is held against the exact
one of the finite torus (Kaufman), |z| < 5 with the spread of the middle half of 128 chains; and 3
sweeps from random spins must bring all contenders to the same energy, |z| < 5 by Welch's test,
which no other number of sweeps does.
"""

import importlib
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.speed import runner
from benchmarks.speed.runner import Benchmark, Contender, Disagreement, Goal, Outcome

COUPLING, CHAINS, SWEEPS, FEW = 0.4, 128, {64: 500, 256: 200}, 3
GOALS = {64: (3.0, 30.0), 256: (8.0, 100.0)}
# chains in one batch, the batches one after the other: the fastest of 1, 2, 4, 8, 16, 32 and 128
# for each size
RIVALS = {"thrml": {64: 32, 256: 1}, "hamon": {64: 16, 256: 1}}


class Task(NamedTuple):
    """side: of the lattice; start: where chains are (B, side, side), 0 and 1; sweeps: a run."""

    side: int
    start: Tensor
    sweeps: int


Energies = Callable[
    [], Tensor
]  # of the chains, per spin, in units of the coupling; called outside the clock
Run = Callable[[], Energies]


def model(side: int) -> Any:
    from lowland.targets import Ising

    return Ising((side, side), COUPLING)


def model_by_conditionals(side: int) -> Any:
    """Return the model with its colouring and conditionals alone: no sweep of its own."""
    from lowland.energy import Gibbs
    from lowland.targets import Ising

    class ByConditionals(Ising):
        @property
        def gibbs(self) -> Gibbs:
            known = super().gibbs
            return Gibbs(coloring=known.coloring, conditional=known.conditional)

    return ByConditionals((side, side), COUPLING)


def per_spin(x: Tensor) -> Tensor:
    """Energies Σ −s s' / N of points (B, side, side)."""
    side = x.shape[1]
    return model(side)(x.float()).double() / COUPLING / side**2


def lowland_sweep(task: Task, *, compiled: bool) -> Run:
    energy, generator = model(task.side), torch.Generator().manual_seed(1 + compiled)
    x = [task.start]
    if compiled:
        energy.sweep(x[0], 1, generator, compiled=True)

    def run() -> Energies:
        x[0] = energy.sweep(x[0], task.sweeps, generator, compiled=compiled)
        return partial(per_spin, x[0])

    return run


def lowland_plain(task: Task) -> Run:
    from lowland.samplers import BlockGibbs

    energy, generator = model_by_conditionals(task.side), torch.Generator().manual_seed(3)
    sampler = BlockGibbs(task.sweeps)
    state = [sampler.init(energy, task.start)]

    def run() -> Energies:
        state[0], _ = sampler.step(energy, state[0], generator)
        return partial(per_spin, state[0].x)

    return run


def rival(library: str, task: Task) -> Run:
    """thrml and its descendant hamon, which share their names: nodes and edges, two blocks, one
    jitted call for all sweeps.
    """
    import jax
    import jax.numpy as jnp

    root, models = importlib.import_module(library), importlib.import_module(f"{library}.models")
    side, count = task.side, task.side**2
    nodes = [root.SpinNode() for _ in range(count)]
    here = torch.arange(count).view(side, side)
    pairs = torch.cat(
        [torch.stack([here, here.roll(-1, dim)]).flatten(1) for dim in (0, 1)], 1
    ).T.tolist()
    edges = [(nodes[i], nodes[j]) for i, j in pairs]
    biases, weights = jnp.zeros(count), jnp.full(len(edges), COUPLING)
    ebm = models.IsingEBM(nodes, edges, biases, weights, jnp.array(1.0))
    colour = torch.stack([torch.arange(side) % 2 == c for c in (0, 1)])[torch.arange(side) % 2]
    sites = [here[mask] for mask in (colour, ~colour)]
    blocks = [root.Block([nodes[i] for i in part.tolist()]) for part in sites]
    program = models.IsingSamplingProgram(ebm, blocks, [])
    schedule = root.SamplingSchedule(task.sweeps, 1, 1)
    options = {"device": None} if library == "hamon" else {}

    def chain(both: Any) -> Any:
        key, state = both
        return [
            block[-1]
            for block in root.sample_states(key, program, schedule, state, [], blocks, **options)
        ]

    batch = min(RIVALS[library].get(side, 1), len(task.start))
    mapped = jax.jit(
        lambda keys, state: jax.lax.map(
            chain, (keys, state), batch_size=batch if batch > 1 else None
        )
    )
    state = [[jnp.asarray(task.start.flatten(1)[:, part].numpy() > 0) for part in sites]]
    key = [jax.random.key(0)]

    def energies(parts: Any) -> Tensor:
        x = torch.empty(len(task.start), count)
        for part, values in zip(sites, parts, strict=True):
            x[:, part] = torch.tensor(jax.device_get(values), dtype=torch.float32)
        return per_spin(x.view(-1, side, side))

    def run() -> Energies:
        key[0], now = jax.random.split(key[0])
        state[0] = jax.block_until_ready(mapped(jax.random.split(now, len(task.start)), state[0]))
        return partial(energies, state[0])

    return run


class Proof(NamedTuple):
    """Energies per spin after a few sweeps from random spins; the exact mean in equilibrium."""

    early: Tensor
    exact: float


def prove(make: Callable[[Task], Run], task: Task) -> Proof:
    from lowland.targets import mean_energy

    random = model(task.side).domain.draw(len(task.start), torch.Generator().manual_seed(7))
    early = make(task._replace(start=random, sweeps=FEW))()()
    return Proof(early, mean_energy(model(task.side)) / COUPLING / task.side**2)


def standard(values: Tensor, truth: float) -> float:
    """z of the mean; the spread is that of the middle half, so that a few frozen chains cannot hide
    in it.
    """
    spread = (values.quantile(0.75) - values.quantile(0.25)) / 1.349
    return ((values.mean() - truth) / (spread / len(values) ** 0.5)).item()


def welch(a: Tensor, b: Tensor) -> float:
    return ((a.mean() - b.mean()) / (a.var() / len(a) + b.var() / len(b)).sqrt()).item()


def check(reference: Outcome, other: Outcome) -> str:
    """Raise Disagreement unless the energies are right and those after a few sweeps the same; see
    the module docstring.
    """
    energies, exact = other.result(), other.proof.exact
    late = standard(energies, exact)
    if not abs(late) < 5:
        raise Disagreement(
            f"the mean energy is {energies.mean():.5f} and should be {exact:.5f} (z = {late:.1f})"
        )
    same = other.proof is reference.proof
    early = 0.0 if same else welch(other.proof.early, reference.proof.early)
    if not abs(early) < 5:
        raise Disagreement(f"after {FEW} sweeps from random spins they are apart (z = {early:.1f})")
    return (
        f"energy {energies.mean():.4f}, exact {exact:.4f}, z {late:+.1f}; after {FEW} sweeps z "
        f"{early:+.1f}"
    )


def start_of(side: int, chains: int, sweeps: int) -> Tensor:
    """Independent chains in equilibrium: random spins and many sweeps; the correlation time is
    about 50.
    """
    generator = torch.Generator().manual_seed(0)
    return model(side).sweep(model(side).domain.draw(chains, generator), sweeps, generator)


def build(
    side: int, chains: int = CHAINS, sweeps: int | None = None, burn: int = 1000
) -> Benchmark:
    sweeps = SWEEPS.get(side, 100) if sweeps is None else sweeps
    task = Task(side, start_of(side, chains, burn), sweeps)

    def contender(name: str, make: Callable[[Task], Run], how: str, *packages: str) -> Contender:
        return Contender(name, partial(make, task), partial(prove, make, task), packages, how)

    def batched(library: str) -> str:
        batch = RIVALS[library].get(side, 1)
        chains_at_once = "one chain after the other" if batch == 1 else f"batches of {batch} chains"
        return f"sample_states under jit, {chains_at_once} (lax.map)"

    eager, compiled = GOALS.get(side, (1.0, 1.0))
    goals = [Goal("lowland", name, 1 / eager) for name in RIVALS]
    goals += [Goal("lowland compiled", name, 1 / compiled) for name in RIVALS]
    return Benchmark(
        name=f"ising-{side}",
        title=f"Ising model on a {side} × {side} torus, coupling {COUPLING}, {chains} chains × "
        f"{sweeps} sweeps",
        contenders=[
            contender(
                "lowland",
                partial(lowland_sweep, compiled=False),
                "Ising.sweep(x, sweeps, generator)",
                "lowland",
            ),
            contender(
                "lowland compiled",
                partial(lowland_sweep, compiled=True),
                "the same with compiled=True, once compiled",
                "lowland",
            ),
            *(
                [
                    contender(
                        "lowland plain",
                        lowland_plain,
                        "BlockGibbs, a float32 for each spin",
                        "lowland",
                    )
                ]
                if side < 256
                else []
            ),
            *(contender(name, partial(rival, name), batched(name), name) for name in RIVALS),
        ],
        check=check,
        amount=chains * side**2 * sweeps / 1e6,
        unit="million updates",
        goals=goals,
        notes=(
            "One update draws one spin of one chain given its neighbours. lowland updates 64 "
            "chains with one instruction; its times include packing the points into words and "
            "unpacking them, once a run."
        ),
    )


def main(argv: list[str] | None = None) -> int:
    parser = runner.parser("ising", __doc__)
    parser.add_argument(
        "sides", type=int, nargs="*", default=[64, 256], help="sides of the lattice (64 256)"
    )
    args = parser.parse_args(argv)
    if len(args.sides) == 1:
        return runner.main(args, partial(build, args.sides[0]))
    options = [f"--rounds={args.rounds}", f"--warmups={args.warmups}"]
    options += [f"--core={args.core}"] * (args.core is not None) + [f"--out={args.out}"] * (
        args.out != runner.RESULTS
    )
    options += ["--default-malloc"] * args.default_malloc + ["--list"] * args.list
    command = [sys.executable, "-m", "benchmarks.speed.ising", *options]
    return max(
        subprocess.run([*command, str(side)], check=False).returncode for side in args.sides
    )  # each its own heap


if __name__ == "__main__":
    sys.exit(main())
