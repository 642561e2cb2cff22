"""blackjax and numpyro as contenders: the whole run in one compiled loop, in the fastest form found
here.

Tried on one thread: the default generator (threefry) beats `rbg` by 10 %; for the perceptron,
blocks of 500 chains run to their end one after the other beat one block of 10,000 by 7 % and equal
it for 1,000; for NUTS, blocks of 100 chains under vmap beat chains one by one (by 1.5) and 1,000 at
once (by 2 in blackjax). Compilation is outside the clock. JAX must not be imported before the
process is pinned: it makes a thread for every core that it sees.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.speed.targets import to_jax
from benchmarks.speed.tasks import Chains, Make, Proof, Run, Task, prove_moves

BLOCK, NUTS_BLOCK = 500, 100
HOW = f"vmap over chains, jitted loop over steps, in blocks of {BLOCK} chains one after the other"

Energy = Callable[[Any], Any]  # of one point (d,)
Loop = Callable[[Any, Any], Any]  # (key, points of a block (chains, d)) -> what is kept


def blocks_of(x: Tensor, block: int) -> Any:
    """(chains, d) → (blocks, chains in a block, d)."""
    import jax.numpy as jnp

    block = block if len(x) % block == 0 else len(x)
    return jnp.asarray(x.numpy()).reshape(-1, block, x.shape[1])


def compiled(loop: Loop, x: Any, seed: int) -> Callable[[], Any]:
    """The loop on every block, one after the other, with a fresh key for every call."""
    import jax

    run = jax.jit(
        lambda key, x: jax.lax.map(lambda both: loop(*both), (jax.random.split(key, len(x)), x))
    )
    keys = [jax.random.key(seed)]

    def work() -> Any:
        keys[0], key = jax.random.split(keys[0])
        return jax.block_until_ready(run(key, x))

    return work


def langevin_loop(energy: Energy, task: Task) -> Loop:
    """blackjax.sgld with the full gradient; a block is one position, which spares a generator per
    chain.
    """
    import blackjax
    import jax
    import jax.numpy as jnp

    gradient = jax.grad(lambda x: -jnp.sum(jax.vmap(energy)(x)))
    kernel = blackjax.sgld(lambda x, batch: gradient(x))

    def loop(key: Any, x: Any) -> Any:
        def body(_: Any, carry: tuple[Any, Any]) -> tuple[Any, Any]:
            key, now = jax.random.split(carry[0])
            return key, kernel.step(now, carry[1], (), task.step_size, task.temperature)

        return jax.lax.fori_loop(0, task.steps, body, (key, x))[1]

    return loop


def metropolis_loop(kernel: Any, task: Task) -> Loop:
    """A blackjax sampler under vmap over chains and scan over steps: points and acceptances."""
    import jax
    import jax.numpy as jnp

    def loop(key: Any, x: Any) -> Any:
        def body(carry: tuple[Any, Any], key: Any) -> tuple[Any, None]:
            state, info = jax.vmap(kernel.step)(jax.random.split(key, len(x)), carry[0])
            return (state, carry[1] + info.is_accepted), None

        begin = (jax.vmap(kernel.init)(x), jnp.zeros(len(x)))
        (state, accepted), _ = jax.lax.scan(body, begin, jax.random.split(key, task.steps))
        return state.position, accepted / task.steps

    return loop


def hmc_loop(energy: Energy, task: Task) -> Loop:
    import blackjax
    import jax.numpy as jnp

    ones = jnp.ones(task.start.shape[1])
    return metropolis_loop(
        blackjax.hmc(lambda x: -energy(x), task.step_size, ones, task.leapfrogs), task
    )


def mala_loop(energy: Energy, task: Task) -> Loop:
    import blackjax

    return metropolis_loop(blackjax.mala(lambda x: -energy(x), task.step_size), task)


def blackjax_langevin(task: Task) -> Run:
    work = compiled(langevin_loop(to_jax(task.net), task), blocks_of(task.start, BLOCK), 11)
    return lambda: Chains(_points(work()))


def _metropolis(make: Callable[[Energy, Task], Loop], seed: int) -> Make:
    def maker(task: Task) -> Run:
        work = compiled(make(to_jax(task.net), task), blocks_of(task.start, BLOCK), seed)

        def run() -> Chains:
            x, accepted = work()
            return Chains(_points(x), float(np.mean(accepted)))

        return run

    return maker


blackjax_hmc = _metropolis(hmc_loop, 12)
blackjax_mala = _metropolis(mala_loop, 13)


def _points(x: Any) -> Tensor:
    return torch.from_numpy(np.array(x)).flatten(0, 1)


def gradients_of(make: Callable[[Energy, Task], Loop], task: Task) -> float:
    """Gradients of one more step of one chain: how often the compiled program calls the energy."""
    calls: list[int] = []
    few, more = (_calls(make, task._replace(steps=steps), calls) for steps in (2, 5))
    return (more - few) / 3


def _calls(make: Callable[[Energy, Task], Loop], task: Task, calls: list[int]) -> int:
    import jax

    plain = to_jax(task.net)

    def counting(x: Any) -> Any:
        jax.debug.callback(lambda: calls.append(1))
        return plain(x)

    before = len(calls)
    compiled(make(counting, task), blocks_of(task.start[:1], 1), 0)()
    jax.effects_barrier()
    return len(calls) - before


def check_energies(task: Task) -> None:
    """Raise ValueError unless torch and JAX give the same energies, to 1e-4 of their spread."""
    import jax

    with torch.no_grad():
        ours = task.net(task.start)
    theirs = torch.from_numpy(np.array(jax.vmap(to_jax(task.net))(task.start.numpy())))
    error = ((theirs - ours).abs().max() / ours.std()).item()
    if not error < 1e-4:
        raise ValueError(
            f"the energy for JAX is off by {error:.2g} of its spread; at most 1e-4 is allowed; "
            "copy it anew"
        )


def prove_langevin(make: Make, task: Task) -> Proof:
    check_energies(task)
    moves = prove_moves(make, task)
    return moves._replace(gradients=gradients_of(langevin_loop, task), forwards=0.0)


def prove_hmc(make: Make, task: Task) -> Proof:
    check_energies(task)
    return Proof(gradients_of(hmc_loop, task), 0.0)


def prove_mala(make: Make, task: Task) -> Proof:
    check_energies(task)
    return Proof(gradients_of(mala_loop, task), 0.0)
