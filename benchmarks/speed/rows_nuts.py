"""NUTS on a Gaussian in 100 dimensions: seconds per effective draw, each library's own draws under
one estimator.

Step size, depth and metric (none) are fixed and the same, chains start from exact draws, so nothing
is warmed up. The number of effective draws is the smallest bulk ESS (arviz-stats) over ten
coordinates, from the widest to the narrowest, and their squares; it is computed outside the clock,
for every round, and the seconds of the round are divided by it.
"""

from collections import defaultdict
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import lowland
from benchmarks.speed import rivals_jax
from benchmarks.speed.ours import plain
from benchmarks.speed.rows_mcmc import OWN, PLAIN, gaussian_task
from benchmarks.speed.runner import Benchmark, Disagreement, Goal, Outcome, Times
from benchmarks.speed.tasks import Entry, Proof, Run, Task, contenders

STEP, DEPTH = 0.1, 10


class Draws(NamedTuple):
    """name: of the contender; x: (draws, chains, d); leapfrogs: per draw."""

    name: str
    x: Tensor
    leapfrogs: float


def ours(task: Task) -> Run:
    generator, sampler = torch.Generator().manual_seed(1), lowland.NUTS(task.step_size, DEPTH)

    def run() -> Any:
        trace = lowland.sample(
            task.energy, sampler, task.start, task.steps, generator=generator, thin=1
        )
        return Draws("lowland", trace.draws, trace.num_grad_evals / task.steps)

    return run


def ours_plain(task: Task) -> Run:
    run: Any = plain(ours)(task)
    return lambda: run()._replace(name="lowland plain")


def ebmkit(task: Task) -> Run:
    from ebm.samplers import NUTS

    sampler = NUTS(task.step_size, task.steps, warmup=0, max_depth=DEPTH)

    def run() -> Any:
        return Draws(
            "ebmkit", sampler.sample(task.net, task.start, return_trajectory=True)[1:], float("nan")
        )

    return run


def _jax(name: str, task: Task, loop: rivals_jax.Loop, seed: int) -> Run:
    """loop(key, x (d,)) → (points (draws, d), leapfrogs (draws,)), for all chains."""
    import jax

    every = jax.vmap(loop)
    work = rivals_jax.compiled(
        lambda key, x: every(jax.random.split(key, len(x)), x),
        rivals_jax.blocks_of(task.start, rivals_jax.NUTS_BLOCK),
        seed,
    )

    def run() -> Any:
        x, leapfrogs = work()
        points = torch.from_numpy(np.array(x)).flatten(0, 1)
        return Draws(name, points.transpose(0, 1), float(np.mean(leapfrogs)))

    return run


def blackjax(task: Task) -> Run:
    import blackjax
    import jax
    import jax.numpy as jnp

    energy = rivals_jax.to_jax(task.net)
    ones = jnp.ones(task.start.shape[1])
    kernel = blackjax.nuts(lambda x: -energy(x), task.step_size, ones, max_num_doublings=DEPTH)

    def loop(key: Any, x: Any) -> Any:
        def body(state: Any, key: Any) -> tuple[Any, Any]:
            state, info = kernel.step(key, state)
            return state, (state.position, info.num_integration_steps)

        return jax.lax.scan(body, kernel.init(x), jax.random.split(key, task.steps))[1]

    return _jax("blackjax", task, loop, 21)


def numpyro(task: Task) -> Run:
    import jax
    import jax.numpy as jnp
    from numpyro.infer import NUTS

    energy = rivals_jax.to_jax(task.net)
    ones = jnp.ones(task.start.shape[1])

    def loop(key: Any, x: Any) -> Any:
        kernel = NUTS(
            potential_fn=energy,
            step_size=task.step_size,
            inverse_mass_matrix=ones,
            adapt_step_size=False,
            adapt_mass_matrix=False,
            max_tree_depth=DEPTH,
        )

        def body(state: Any, _: Any) -> tuple[Any, Any]:
            state = kernel.sample(state, (), {})
            return state, (state.z, state.num_steps)

        return jax.lax.scan(body, kernel.init(key, 0, x, (), {}), None, length=task.steps)[1]

    return _jax("numpyro", task, loop, 22)


def effective_draws(x: Tensor) -> float:
    """x (draws, chains, d): the smallest bulk ESS over ten coordinates and their squares."""
    from arviz_stats.base import array_stats

    some = x[:, :, torch.linspace(0, x.shape[2] - 1, 10).long()].double()
    both = torch.cat([some, some.square()], 2).permute(2, 1, 0).numpy()  # (quantity, chain, draw)
    return float(
        min(array_stats.ess(one, chain_axis=0, draw_axis=1, method="bulk") for one in both)
    )


class SameLaw:
    """The check, which remembers the effective draws of every round: energies have their exact mean
    and variance, |z| < 5.
    """

    def __init__(self, task: Task) -> None:
        self.task, self.found = task, defaultdict[str, list[float]](list)

    def __call__(self, reference: Outcome, other: Outcome) -> str:
        draws, dimension = other.result, self.task.start.shape[1]
        energy = self.task.net(draws.x.reshape(-1, dimension)).reshape(draws.x.shape[:2]).double()
        chains = energy.shape[1]
        zs = {}
        for name, values, truth in (
            ("mean", energy, dimension / 2),
            ("square", energy.square(), dimension**2 / 4 + dimension / 2),
        ):
            per_chain = values.mean(0)
            zs[name] = ((per_chain.mean() - truth) / (per_chain.std() / chains**0.5)).item()
        if not all(abs(z) < 5 for z in zs.values()):
            raise Disagreement(
                f"the energies of {draws.name} do not have the moments of the distribution: z = "
                f"{zs}"
            )
        self.found[draws.name].append(effective_draws(draws.x))
        share = self.found[draws.name][-1] / energy.numel()
        words = [f"energy {name} z {z:+.1f}" for name, z in zs.items()] + [
            f"{share:.2f} effective per draw"
        ]
        return ", ".join(
            [*words, f"{draws.leapfrogs:.1f} leapfrogs a draw"]
            if draws.leapfrogs == draws.leapfrogs
            else words
        )


def nothing(make: Any, task: Task) -> Proof:
    return Proof()


def nuts(chains: int = 1000, steps: int = 50, name: str = "nuts") -> Benchmark:
    task = gaussian_task(chains, steps, STEP)
    blocks = f"vmap over blocks of {rivals_jax.NUTS_BLOCK} chains, jitted scan over draws"
    entries = [
        Entry(
            "lowland",
            ours,
            "lowland",
            f"lowland.sample with NUTS(ε, max_tree_depth={DEPTH}), thin=1, {OWN}",
        ),
        Entry("lowland plain", ours_plain, "lowland", PLAIN),
        Entry(
            "ebmkit",
            ebmkit,
            "ebmkit",
            f"NUTS(ε, warmup=0, max_depth={DEPTH}), return_trajectory=True",
        ),
        Entry(
            "blackjax",
            blackjax,
            "blackjax",
            f"nuts(−E, ε, ones, max_num_doublings={DEPTH}), {blocks}",
        ),
        Entry(
            "numpyro",
            numpyro,
            "numpyro",
            f"NUTS(potential_fn, ε, max_tree_depth={DEPTH}).sample, {blocks}",
        ),
    ]
    return Benchmark(
        name,
        f"NUTS, step {STEP}, 100-d Gaussian with scales 0.1 to 1, {chains} chains × {steps} draws, "
        "float32",
        contenders(task, entries, nothing),
        SameLaw(task),
        1.0,
        "1,000 effective draws",
        [Goal("lowland", "blackjax", 1.0), Goal("lowland", "numpyro", 1.0)],
        "Seconds are those per 1,000 effective draws; see the head of "
        "benchmarks/speed/rows_nuts.py.",
    )


def per_effective_draw(benchmark: Benchmark, times: Times) -> Benchmark:
    """Divide the seconds of every round by the thousands of effective draws of that round."""
    assert isinstance(benchmark.check, SameLaw)
    for name, found in benchmark.check.found.items():
        rounds = found[-len(times.wall[name]) :]
        for seconds in (times.wall, times.cpu):
            seconds[name] = [
                1000 * s / effective for s, effective in zip(seconds[name], rounds, strict=True)
            ]
    return replace(benchmark)
