"""Restricted Boltzmann machines, 784 visible and 500 hidden units: learning and annealing against
the libraries that have them.

Everybody learns from the same images, in batches of 128, at the same rate, with plain SGD and no
centring, and in the end reconstructs held-out images about as well. Rivals run without what they
compute besides (pseudo-likelihoods, progress).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.speed.runner import Benchmark, Contender, Disagreement, Goal, Outcome
from lowland import binary
from lowland.data import load_data
from lowland.nets import RBM
from lowland.objectives import CD, PCD, Batch, Context
from lowland.samplers import BlockGibbs

HIDDEN, BATCH, RATE = 500, 128, 0.05


class Learned(NamedTuple):
    """Weights (D, H), visible and hidden biases."""

    weight: Tensor
    visible: Tensor
    hidden: Tensor

    def error(self, x: Tensor) -> float:
        """Mean squared error of x reconstructed through hidden probabilities."""
        h = torch.sigmoid(x @ self.weight + self.hidden)
        return (x - torch.sigmoid(h @ self.weight.t() + self.visible)).square().mean().item()


class Work(NamedTuple):
    """Images to learn from and to reconstruct (N, 784), Gibbs steps per update."""

    x: Tensor
    held: Tensor
    steps: int


def images(count: int, steps: int) -> Work:
    data = load_data("mnist", binarize="threshold")
    return Work(data.train.x[:count].flatten(1).contiguous(), data.test.x[:500].flatten(1), steps)


Train = Callable[[Work], Learned]


def lowland_loop(work: Work, precision: str = "float32") -> Learned:
    """The library's objective and torch's SGD, as a user writes it."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    rbm = RBM(binary(784), HIDDEN, centered=False)
    optimizer = torch.optim.SGD(rbm.parameters(), lr=RATE)
    objective, sampler = CD(steps=1), BlockGibbs(work.steps)
    half = precision == "bfloat16"
    for x in work.x[torch.randperm(len(work.x), generator=generator)].split(BATCH):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = objective.loss(rbm, Batch(x), Context(generator, sampler=sampler))
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
    return Learned(rbm.weight.detach(), rbm.visible_bias.detach(), rbm.hidden_bias.detach())


def lowland_trainer(work: Work) -> Learned:
    """The library's whole trainer: batches, averages, the log, the health report's numbers."""
    import dataclasses

    from lowland.data import Dataset, Split
    from lowland.training import Session

    part = Split(work.x)
    data = Dataset("images", binary(784), part, part, part)
    data = dataclasses.replace(
        data, binarization="threshold", binarization_note="MNIST above one half"
    )
    recipe = {
        "seed": 0,
        "energy": {"name": "RBM", "n_hidden": HIDDEN, "centred": False},
        "objective": {"name": "CD", "steps": 1},
        "sampler": {"name": "BlockGibbs", "sweeps": work.steps},
        "training": {
            "steps": 10**6, "batch": BATCH, "optimizer": "sgd", "learning_rate": RATE, "warmup": 0,
            "decay_fraction": 0.0, "grad_clip_norm": 0.0, "precision": "bfloat16", "threads": 1,
        },
    }  # fmt: skip
    session = Session(recipe, data)
    for _ in range(len(work.x) // BATCH):
        session.advance()
    rbm: Any = session.energy
    return Learned(rbm.weight.detach(), rbm.visible_bias.detach(), rbm.hidden_bias.detach())


def scikit_learn(work: Work) -> Learned:
    from sklearn.neural_network import BernoulliRBM

    model = BernoulliRBM(
        HIDDEN, learning_rate=RATE, batch_size=BATCH, n_iter=1, random_state=0
    ).fit(work.x.numpy())
    parts = (model.components_.T.copy(), model.intercept_visible_, model.intercept_hidden_)
    return Learned(*(torch.as_tensor(p, dtype=torch.float32) for p in parts))


def ebmkit(work: Work) -> Learned:
    from ebm.nets import RBM as Theirs  # noqa: N811

    torch.manual_seed(0)
    rbm = Theirs(784, HIDDEN)
    optimizer = torch.optim.SGD(rbm.parameters(), lr=RATE)
    for x in work.x[torch.randperm(len(work.x))].split(BATCH):
        v = x
        for _ in range(work.steps):
            v = rbm.gibbs_step(v)
        loss = rbm(x).mean() - rbm(v).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return Learned(rbm.W.detach().t().contiguous(), rbm.b.detach(), rbm.c.detach())


def learnergy(work: Work) -> Learned:
    from learnergy.models.bernoulli import RBM as Theirs  # noqa: N811

    torch.manual_seed(0)
    rbm = Theirs(784, HIDDEN, steps=work.steps, learning_rate=RATE, momentum=0.0, decay=0.0)
    for x in work.x[torch.randperm(len(work.x))].split(BATCH):
        with torch.no_grad():
            v = rbm.gibbs_sampling(x)[-1]
        loss = rbm.energy(x).mean() - rbm.energy(v).mean()
        rbm.optimizer.zero_grad()
        loss.backward()
        rbm.optimizer.step()
    return Learned(rbm.W.detach(), rbm.a.detach(), rbm.b.detach())


def rbms(work: Work) -> Learned:
    from rbms.bernoulli_bernoulli.classes import BBRBM

    torch.manual_seed(0)
    params = BBRBM(torch.randn(784, HIDDEN) * 0.01, torch.zeros(784), torch.zeros(HIDDEN))
    optimizer = torch.optim.SGD(params.parameters(), lr=RATE, maximize=True)
    with torch.no_grad():
        for p in params.parameters():
            p.grad = torch.zeros_like(p)
        for x in work.x[torch.randperm(len(work.x))].split(BATCH):
            weights = torch.ones(len(x), 1)
            chains = params.init_chains(len(x), weights=weights, start_v=x)
            moved = params.sample_state(chains=chains, n_steps=work.steps)
            params.compute_gradient(data=chains, chains=moved, centered=False)
            optimizer.step()
    return Learned(params.weight_matrix.detach(), params.vbias.detach(), params.hbias.detach())


def as_good(work: Work) -> Callable[[Outcome, Outcome], str]:
    """Everybody's reconstruction of held-out images within 15 % of the reference's."""

    def check(reference: Outcome, other: Outcome) -> str:
        a, b = other.result.error(work.held), reference.result.error(work.held)
        if not abs(a / b - 1) < 0.15:
            raise Disagreement(
                f"held-out images are reconstructed with an error of {a:.4f} and {b:.4f}"
            )
        return f"reconstruction error {a:.4f}"

    return check


def learning(steps: int, count: int = 6400) -> Benchmark:
    """CD-k, one pass over so many images."""
    work = images(count, steps)

    def contender(name: str, train: Train, packages: tuple[str, ...], how: str) -> Contender:
        return Contender(name, lambda: lambda: train(work), packages=packages, how=how)

    entries = [
        contender(
            "lowland", lowland_loop, ("lowland",), f"CD(), BlockGibbs({steps}), torch.optim.SGD"
        ),
        contender(
            "lowland bf16",
            lambda w: lowland_loop(w, "bfloat16"),
            ("lowland",),
            "the same under torch.autocast(bfloat16)",
        ),
        contender(
            "lowland trainer",
            lowland_trainer,
            ("lowland",),
            "Session.advance: bf16, averages, log and health numbers too",
        ),
        contender("ebmkit", ebmkit, ("ebmkit",), "nets.RBM, gibbs_step k times, SGD by autograd"),
        contender(
            "learnergy",
            learnergy,
            ("learnergy",),
            "RBM.gibbs_sampling without a graph, energy by autograd, no metrics",
        ),
        contender(
            "rbms",
            rbms,
            ("rbms",),
            "init_chains at the data, sample_state, compute_gradient uncentred and not "
            "normalize_weight, SGD",
        ),
    ]
    if steps == 1:
        entries.append(
            contender(
                "scikit-learn", scikit_learn, ("scikit-learn",), "BernoulliRBM.fit (PCD-1), float32"
            )
        )
        goals = [
            Goal("lowland", "scikit-learn", 1 / 1.4),
            Goal("lowland bf16", "scikit-learn", 1 / 2.2),
        ]
    else:
        goals = [
            Goal(name, rival, 1 / factor)
            for rival in ("ebmkit", "learnergy", "rbms")
            for name, factor in (("lowland", 1.4), ("lowland bf16", 2.2))
        ]
    return Benchmark(
        f"rbm-cd{steps}",
        f"RBM 784-500, CD-{steps}, one pass over {len(work.x)} images in batches of {BATCH}",
        entries,
        as_good(work),
        len(work.x),
        "images",
        goals,
        "scikit-learn has persistent chains in place of CD; the products are the same five per "
        "update.",
    )


# ---------------------------------------------------------------------------------------- annealing


class Estimate(NamedTuple):
    """log Z and the spread of the log weights over the chains, where it is told."""

    value: float
    spread: float | None = None


def trained(updates: int) -> RBM:
    """A machine after a short training: no longer independent units, and log Z still known to a few
    hundredths by both.
    """
    torch.manual_seed(0)
    work, generator = images(12_800, 1), torch.Generator().manual_seed(0)
    rbm = RBM(binary(784), HIDDEN)
    rbm.init_from_data(work.x)
    optimizer, objective = (
        torch.optim.SGD(rbm.parameters(), lr=0.1),
        PCD(steps=1, buffer_size=BATCH, num_chains=BATCH, reinit_prob=0.0),
    )
    from lowland.replay import ReplayBuffer

    buffer = ReplayBuffer(BATCH, rbm.domain, generator=generator, reinit_prob=0.0)
    for _ in range(updates):
        x = work.x[torch.randint(len(work.x), (BATCH,), generator=generator)]
        loss = objective.loss(
            rbm, Batch(x), Context(generator, sampler=BlockGibbs(), buffer=buffer)
        )
        optimizer.zero_grad()
        loss.value.backward()
        rbm.center_gradients()
        optimizer.step()
    return rbm.eval()


def annealing(chains: int = 100, num_temperatures: int = 1000, updates: int = 20) -> Benchmark:
    """AIS from independent units, the same temperatures and chains for both; log Z within 0.05
    (and the
    errors of both).
    """
    from lowland.samplers import ais
    from lowland.targets import Bernoulli

    rbm = trained(updates)
    with torch.no_grad():
        share = torch.sigmoid(rbm.visible_bias)
    base, generator = Bernoulli(share.tolist()), torch.Generator().manual_seed(1)
    betas = torch.linspace(0, 1, num_temperatures).tolist()

    def ours() -> Estimate:
        path = rbm.path_from(base, betas)
        found = ais(path, BlockGibbs(), base.draw(chains, generator), generator=generator)
        return Estimate(found.log_ratio + base.log_z, found.error)

    def theirs() -> Estimate:
        from rbms.bernoulli_bernoulli.classes import BBRBM
        from rbms.partition_function.ais import compute_partition_function_ais

        params = BBRBM(
            rbm.weight.detach().clone(),
            rbm.visible_bias.detach().clone(),
            rbm.hidden_bias.detach().clone(),
        )
        with torch.no_grad():
            return Estimate(float(compute_partition_function_ais(chains, num_temperatures, params)))

    def check(reference: Outcome, other: Outcome) -> str:
        a, b, error = other.result.value, reference.result.value, reference.result.spread
        if not abs(a - b) < 0.05 + 5 * math.sqrt(2) * error:
            raise Disagreement(f"log Z is {a:.3f} and {b:.3f} ± {error:.3f}")
        return f"log Z {a:.3f}" + (
            f" ± {other.result.spread:.3f}" if other.result.spread is not None else ""
        )

    return Benchmark(
        "rbm-ais",
        f"AIS of an RBM 784-500, {num_temperatures} temperatures, {chains} chains",
        [
            Contender(
                "lowland",
                lambda: ours,
                packages=("lowland",),
                how="ais(rbm.path_from(base, betas), BlockGibbs(), ...), float32",
            ),
            Contender(
                "rbms",
                lambda: theirs,
                packages=("rbms",),
                how="compute_partition_function_ais, float32",
            ),
        ],
        check,
        num_temperatures,
        "num_temperatures",
        [Goal("lowland", "rbms", 1 / 3.2)],
        "One product v W serves the weight, the temperature's end and the next Gibbs step; rbms "
        "copies W "
        "and multiplies anew.",
    )
