"""Four ways to train the same network on the same data by persistent contrastive divergence, for
`benchmarks.proof.survival`.

Every contender gets the same network (same first weights), data, sampler settings, buffer (5 % of
the chains begin anew), batch, number of updates and regulariser, and averages its weights with the
same decay. What differs is what is around it:

    plain      the loop of the published codes (Du & Mordatch 2019; UvA tutorial 8; JEM) in torch;
               no watchdog
    ebmkit     Trainer, ContrastiveDivergence, ReplayBuffer
    torchebm   ContrastiveDivergence(persistent=True) in its documented loop: its trainer cannot be
               constructed. Its sampler has no bound on slopes, so the model's `gradient` has it;
               its buffer starts from our noise in place of a single point
    lowland    fit with its own defaults of health; a constant rate, as the others have, after a
               warm-up of 5 % of the updates

Each returns averaged weights, and the number of updates that were made in all, with those that were
made again.
"""

import copy
import math
import shutil
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lowland import box, real
from lowland.data import Dataset, Split, load_data
from lowland.domain import Domain
from lowland.nets import MLP, ConvNet

DECAY = 0.95  # of averaged weights: over so few updates a longer memory would keep the first ones


@dataclass(frozen=True)
class Case:
    """What is trained on, and how long: step, noise, bound and walls of the sampler are those of a
    published recipe.

    rate: the sane learning rate; l2: weight of the regulariser where there is one; walk: steps that
    make the final samples; samples: how many, and as many held-out points; bound: on the norm of
    the gradient in the weights, as the recipe has it.
    """

    name: str
    domain: Domain
    rate: float
    step_size: float
    noise: float
    clip: float | None
    steps: int
    batch: int
    updates: int
    l2: float
    walk: int
    bound: float | None
    betas: tuple[float, float] = (0.9, 0.999)
    capacity: int = 1000
    samples: int = 500
    source: str = ""

    @property
    def walls(self) -> tuple[float, float] | None:
        return (self.domain.lo, self.domain.hi) if self.domain.kind == "box" else None

    def net(self, seed: int) -> nn.Module:
        """The network, the same for everybody."""
        torch.manual_seed(seed)
        if self.name == "moons":
            return MLP(self.domain, hidden=(64, 64))
        if self.name == "digits":
            return MLP(self.domain, hidden=(128, 128))
        return ConvNet(
            self.domain, channels=(16, 32, 32), kernels=(3, 3, 3), strides=(2, 2, 2), hidden=64
        )

    def data(self) -> Dataset:
        """Without labels; 5,000 training images of MNIST."""
        data = load_data(self.name, limit=5000) if self.name == "mnist" else load_data(self.name)
        bare = {part: Split(split.x) for part, split in data.splits()}
        return replace(data, **bare, classes=0, class_names=())  # type: ignore[arg-type]


SHORT: dict[str, Any] = {
    "step_size": 2.5,
    "noise": 0.0025,
    "clip": 0.06,
    "l2": 0.1,
    "bound": 0.1,
    "betas": (0.0, 0.999),
}
CASES = {
    "moons": Case(
        "moons",
        real(2),
        rate=3e-3,
        step_size=0.01,
        noise=math.sqrt(0.02),
        clip=None,
        steps=15,
        batch=128,
        updates=400,
        l2=0.1,
        walk=200,
        samples=2000,
        bound=None,
        source="ebmkit's train_two_moons.py: Langevin at T = 1, step 0.01, Adam",
    ),
    "digits": Case(
        "digits",
        box(0.0, 1.0, 1, 8, 8),
        rate=2e-3,
        steps=15,
        batch=64,
        updates=300,
        walk=100,
        **SHORT,
    ),
    "mnist": Case(
        "mnist",
        box(0.0, 1.0, 1, 28, 28),
        rate=1e-3,
        steps=10,
        batch=16,
        updates=200,
        walk=60,
        **SHORT,
    ),
}


class Trained(NamedTuple):
    """energy: averaged weights; updates: made in all; notes: what the contender itself has to say
    of the run.
    """

    energy: nn.Module
    updates: int
    notes: dict[str, Any]


@dataclass
class Chains:
    """A replay buffer as in the published codes: distinct slots, a share of which begins anew."""

    case: Case
    x: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.x = start(self.case, self.case.capacity)

    def visit(self, count: int) -> tuple[Tensor, Tensor]:
        slots = torch.randperm(len(self.x))[:count]
        fresh = torch.rand(count) < 0.05
        x = self.x[slots]
        x[fresh] = start(self.case, int(fresh.sum()))
        return slots, x


def start(case: Case, count: int) -> Tensor:
    """Noise that chains start from: standard normal, uniform on a box."""
    shape = (count, *case.domain.shape)
    return (
        torch.randn(shape)
        if case.domain.kind == "real"
        else case.domain.lo + (case.domain.hi - case.domain.lo) * torch.rand(shape)
    )


def walk(case: Case, energy: nn.Module, x: Tensor, steps: int) -> Tensor:
    """Langevin steps of the case's sampler, with the weights frozen."""
    wanted = [p.requires_grad for p in energy.parameters()]
    energy.requires_grad_(False)
    for _ in range(steps):
        x = x.detach().requires_grad_(True)
        slope = torch.autograd.grad(energy(x).sum(), x)[0]
        slope = slope if case.clip is None else slope.clamp(-case.clip, case.clip)
        x = x.detach() - case.step_size * slope + case.noise * torch.randn_like(x)
        x = x if case.walls is None else x.clamp(*case.walls)
    for p, before in zip(energy.parameters(), wanted, strict=True):
        p.requires_grad_(before)
    return x.detach()


def averaged(net: nn.Module) -> Any:
    return torch.optim.swa_utils.AveragedModel(
        net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(DECAY)
    )


def plain(case: Case, net: nn.Module, data: Dataset, rate: float, l2: float, seed: int) -> Trained:
    """The published loop."""
    optimizer, mean, chains = (
        torch.optim.Adam(net.parameters(), lr=rate, betas=case.betas),
        averaged(net),
        Chains(case),
    )
    for _ in range(case.updates):
        x = data.train.x[torch.randint(len(data.train), (case.batch,))]
        slots, begun = chains.visit(case.batch)
        made = walk(case, net, begun, case.steps)
        chains.x[slots] = made
        up, down = net(torch.cat([x, made])).chunk(2)
        loss = up.mean() - down.mean() + l2 * (up.square() + down.square()).mean()
        optimizer.zero_grad()
        loss.backward()
        if case.bound is not None:
            torch.nn.utils.clip_grad_norm_(net.parameters(), case.bound)
        optimizer.step()
        mean.update_parameters(net)
    return Trained(mean.module, case.updates, {})


def ebmkit(case: Case, net: nn.Module, data: Dataset, rate: float, l2: float, seed: int) -> Trained:
    import ebm

    sampler = ebm.LangevinDynamics(
        step_size=case.step_size,
        steps=case.steps,
        noise_scale=case.noise,
        grad_clip=case.clip,
        clamp=case.walls,
    )

    def fresh(shape: tuple[int, ...]) -> Tensor:
        return start(case, shape[0])

    buffer = ebm.ReplayBuffer(case.capacity, case.domain.shape, reinit_prob=0.05, init_fn=fresh)
    loss = ebm.ContrastiveDivergence(sampler, buffer=buffer, energy_reg=l2)
    optimizer = torch.optim.Adam(net.parameters(), lr=rate, betas=case.betas)
    trainer = ebm.Trainer(
        net, loss, optimizer=optimizer, device="cpu", ema_decay=DECAY, grad_clip_norm=case.bound
    )
    trainer.fit(data.train.x, steps=case.updates, batch_size=case.batch, verbose=False)
    assert trainer.ema is not None
    return Trained(trainer.ema.module, case.updates, {})


def torchebm(
    case: Case, net: nn.Module, data: Dataset, rate: float, l2: float, seed: int
) -> Trained:
    from torchebm.core import BaseModel
    from torchebm.losses import ContrastiveDivergence
    from torchebm.samplers import LangevinDynamics

    class Model(BaseModel):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            return net(x)

        def gradient(self, x: Tensor, model_kwargs: Any = None) -> Tensor:
            slope = super().gradient(x)
            return slope if case.clip is None else slope.clamp(-case.clip, case.clip)

    model = Model()
    scale = case.noise / math.sqrt(2 * case.step_size)
    sampler = LangevinDynamics(model, step_size=case.step_size, noise_scale=scale, clamp=case.walls)
    loss_of = ContrastiveDivergence(
        model,
        sampler,
        k_steps=case.steps,
        persistent=True,
        buffer_size=case.capacity,
        init_steps=0,
        new_sample_ratio=0.05,
        energy_reg_weight=l2,
    )
    loss_of.initialize_buffer(case.domain.shape)
    loss_of.replay_buffer.copy_(start(case, case.capacity))
    optimizer, mean = torch.optim.Adam(net.parameters(), lr=rate, betas=case.betas), averaged(net)
    for _ in range(case.updates):
        loss, _ = loss_of(data.train.x[torch.randint(len(data.train), (case.batch,))])
        optimizer.zero_grad()
        loss.backward()
        if case.bound is not None:
            torch.nn.utils.clip_grad_norm_(net.parameters(), case.bound)
        optimizer.step()
        mean.update_parameters(net)
    return Trained(mean.module, case.updates, {})


def recipe_of(case: Case, rate: float, l2: float, seed: int, **training: Any) -> dict[str, Any]:
    """The same as a recipe of lowland, as plain values."""
    if case.clip is None:
        sampler: dict[str, Any] = {"name": "Langevin", "step_size": case.step_size}
    else:
        sampler = {
            "name": "ShortRun",
            "step_size": case.step_size,
            "noise": case.noise,
            "clip": case.clip,
        }
        sampler["clamp"] = case.walls
    return {
        "name": f"survival-{case.name}",
        "seed": seed,
        "data": {"name": case.name},
        "objective": {
            "name": "PCD",
            "steps": case.steps,
            "buffer_size": case.capacity,
            "reinit_prob": 0.05,
            "l2": l2,
        },
        "sampler": sampler,
        "generation": {"steps": case.walk, "sampler": sampler},
        "training": {
            "steps": case.updates,
            "batch": case.batch,
            "learning_rate": rate,
            "betas": case.betas,
            "ema_decay": DECAY,
            "warmup": case.updates // 20,
            "decay_fraction": 0.0,  # a constant rate, as the others have
            "grad_clip_norm": case.bound or 1.0,
            "log_every": 2,
            "checkpoint_every": 20,
            "keep_checkpoints": 1,
            "device": "cpu",
            "threads": 1,
            **training,
        },
    }


def lowland(
    case: Case, net: nn.Module, data: Dataset, rate: float, l2: float, seed: int, **training: Any
) -> Trained:
    from lowland import train_recipe
    from lowland.run import Run
    from lowland.training import TrainingStoppedError

    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").exists() else None))
    try:
        run, stopped = Run.create(folder / "run", recipe_of(case, rate, l2, seed, **training)), ""
        try:
            energy: Any = train_recipe(
                recipe_of(case, rate, l2, seed, **training),
                run,
                data=data,
                energy=copy.deepcopy(net),
                progress=False,
            )
        except TrainingStoppedError as problem:
            stopped, energy = str(problem), copy.deepcopy(net).eval()
            energy.load_state_dict(run.load_checkpoint().tensors["ema"])
        rows = run.rows()
    finally:
        shutil.rmtree(folder)
    events = [row for row in rows if row.get("event") in ("rollback", "preflight")]
    backs = [row for row in events if row["event"] == "rollback"]
    redone = sum(row["step"] - row["to"] for row in backs)
    probed = next((row for row in events if row["event"] == "preflight"), {})
    factors = {name: probed.get(f"{name}_factor", 1.0) for name in ("rate", "step")}
    notes = {
        "stopped": stopped,
        "rollbacks": [
            {"step": row["step"], "to": row["to"], "verdict": row["name"], "did": row["did"]}
            for row in backs
        ],
        "preflight": {name: factor for name, factor in factors.items() if factor != 1.0},
    }
    return Trained(energy, case.updates + redone, notes)


Contender = Callable[..., Trained]
CONTENDERS: dict[str, Contender] = {
    "plain": plain,
    "ebmkit": ebmkit,
    "torchebm": torchebm,
    "lowland": lowland,
}
warnings.filterwarnings("ignore", module="torchebm")
