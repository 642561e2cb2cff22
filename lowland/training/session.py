"""Everything that changes during training, in one place: what is stepped is what is saved.

A session holds the weights, their average, the partner, the optimiser, the chains, the generators,
the position in the data and what health has changed: the factors of learning rate and sampler step.
`checkpoint` turns all of it into tensors and plain values, `restore` puts all of it back; nothing
else carries state, which is why a resumed run equals an uninterrupted one bit for bit.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from lowland.data import Batches, Dataset, Split, bernoulli_sample
from lowland.domain import Domain
from lowland.energy import Energy, check_energy
from lowland.objectives.contrastive import border_share, completed
from lowland.objectives.labels import hide_labels
from lowland.objectives.loss import Loss, Objective
from lowland.registry import build
from lowland.replay import ReplayBuffer
from lowland.run import Checkpoint
from lowland.samplers.kernel import HasStepSize, Sampler
from lowland.training.distributed import (
    Team,
    gathering,
    joined,
    load_whole,
    local_rank,
    numbered,
    settle,
    whole,
    whole_state,
    wrapped,
)
from lowland.training.ema import EMA
from lowland.training.memory import recompute
from lowland.training.optimisation import (
    clipped_norm,
    optimizer_of,
    optimizer_tensors,
    restore_optimizer,
    step_if,
)
from lowland.training.settings import Training
from lowland.training.step import Step, diversity

COUNTED = ("diverged", "lost")  # terms that add up between log rows; the others are averaged


def pick_device(wanted: str) -> torch.device:
    """The device for "auto", "cpu", "cuda", ... Raises ValueError if it is not there."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"device is {wanted!r} and this machine has no CUDA; use 'cpu'; or 'auto' to take what "
            "is there"
        )
    return torch.device("cuda", local_rank()) if wanted == "cuda" else torch.device(wanted)


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Inside: torch uses so many threads (0: as before). After: as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Session:
    """One training run in memory. `advance` makes one update.

    team: the processes that train together. Batch, chains and capacity of the recipe are those of
    all of them.
    """

    def __init__(
        self,
        recipe: Mapping[str, Any],
        data: Dataset,
        energy: Energy | None = None,
        team: Team | None = None,
    ) -> None:
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in recipe["training"].items()
        }
        self.settings = settings = Training(**values)
        self.recipe, self.device, self.data, seed = (
            recipe,
            pick_device(settings.device),
            data,
            int(recipe["seed"]),
        )
        self.team = team or Team()
        self.objective = self._objective()
        self.terms = [build("term", values) for values in recipe.get("terms", ())]
        self.sampler: Sampler | None = None
        if recipe.get("sampler"):
            self.sampler = build("sampler", recipe["sampler"])
        self.energy = self._energy(energy, seed).to(self.device).train()
        self.labelled = getattr(self.energy, "classes", 0) > 0
        self._check(recipe)
        self.partner = self._partner(seed)
        self.module = Step(self.energy, self.objective, self.sampler, self.terms, self.partner)
        tail = settings.tail_average_fraction
        start = int((1 - tail) * settings.steps) if tail else None
        self.ema = EMA(self.energy, settings.ema_decay, start)
        if settings.checkpoint_activations:
            recompute(self.energy)
        if settings.compile:
            self.energy.compile()
        self._evaluate = wrapped(self.module, settings.sharding, self.team, self.device)
        self.optimizer = optimizer_of(
            self.energy, self.partner, self.objective.partner_rate, settings
        )
        self.generators = {
            name: self.team.generator(seed, offset, self.device)
            for offset, name in enumerate(("data", "chains"), start=1)
        }
        self.batches = Batches(
            self._learned(data.train, seed), seed=seed, rank=self.team.rank, size=self.team.size
        )
        self.buffer = self._buffer()
        self.step, self.rollbacks, self.health = 0, 0, "good"
        self.rate_factor, self.step_factor = (
            1.0,
            1.0,
        )  # what health has made of the learning rate and of the sampler's step
        self.best: dict[
            str, float
        ] = {}  # step and value of the best checkpoint so far, if one is selected
        self._begin_row()

    def _objective(self) -> Objective:
        """The recipe's objective, with this process's share of the chains. Raises ValueError for
        what cannot be divided.
        """
        self.team.divided(
            "training.batch / training.accumulate", self.settings.batch // self.settings.accumulate
        )
        if self.team.size > 1 and (self.settings.sharding, self.settings.optimizer) == (
            "fsdp",
            "sgd",
        ):
            raise ValueError(
                "training.sharding is 'fsdp' and the optimizer 'sgd'; FSDP2 divides the moments of "
                "Adam; set training.optimizer = 'adam', or sharding = 'ddp'"
            )
        objective: Any = build("objective", self.recipe["objective"])
        chains = objective.num_chains
        return (
            replace(objective, num_chains=self.team.divided("objective.num_chains", chains))
            if chains
            else objective
        )

    def _energy(self, energy: Energy | None, seed: int) -> Energy:
        """The energy that was passed, or a new one as the recipe says, prepared on the data."""
        if energy is not None:
            return energy
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            domain = self.data.domain.widened(self.settings.box_margin)
            made: Any = build("energy", {**self.recipe["energy"], "domain": domain})
        if hasattr(made, "prepare"):
            made.prepare(self.data.train.x)
        return cast(Energy, made)

    def _partner(self, seed: int) -> nn.Module | None:
        """What an objective trains beside the energy."""
        generator = torch.Generator(self.device).manual_seed(seed + 1)
        x = self._seen(self.data.train.x[:10_000].to(self.device), generator)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + 1)
            partner = self.objective.make_partner(self.energy, x)
        return None if partner is None else partner.to(self.device)

    def _learned(self, part: Split, seed: int) -> Split:
        """The training part, its labels told to an objective that learns from a share of them
        only.
        """
        share = self.objective.labelled_fraction
        if share == 1.0 or part.y is None:
            return part
        return Split(part.x, hide_labels(part.y, share, seed))

    def _check(self, recipe: Mapping[str, Any]) -> None:
        classes = getattr(self.energy, "classes", 0)
        spread = [
            name
            for name in ("data_noise_std", "dequantise", "box_margin")
            if getattr(self.settings, name)
        ]
        if self.data.binarization and spread:
            raise ValueError(
                f"{self.data.name} is binary and {' and '.join(spread)} would move it off 0 and 1; "
                "binary data have no grey levels to spread; leave them out"
            )
        if classes and self.data.train.y is None:
            raise ValueError(
                f"the energy has {classes} classes and {self.data.name} no labels; set "
                "energy.classes = 0"
            )
        if classes and classes != self.data.classes:
            raise ValueError(
                f"the energy has {classes} classes and {self.data.name} {self.data.classes}; they "
                f"must agree; set energy.classes = {self.data.classes}, or 0 to train without "
                "labels"
            )
        x = self.data.train.x[:4].to(self.device)
        x = completed(
            self.energy,
            x.round() if self.data.binarization else x,
            torch.Generator(self.device).manual_seed(0),
        )
        x = (
            x.round() if self.energy.domain.kind == "binary" else x
        )  # means may stand for units that no one has seen
        noise_level = (
            torch.full((len(x),), 0.1, device=self.device)
            if getattr(self.energy, "noise", False)
            else None
        )
        check_energy(self.energy, x, noise_level)

    def _buffer(self) -> ReplayBuffer | None:
        if not self.objective.persistent:
            return None
        chains = max(
            self.objective.buffer_size,
            self.objective.num_chains * self.team.size or self.settings.batch,
        )
        rows = self.team.portion(chains)
        return ReplayBuffer(
            rows.stop - rows.start,
            self._chain_domain(),
            generator=self.generators["chains"],
            classes=self.data.classes if self.labelled else 0,
            reinit_prob=self.objective.reinit_prob,
            dtype=next(self.energy.parameters()).dtype,
        )

    def _chain_domain(self) -> Domain:
        """Where the chains live: the energy's domain; with tempering, one copy of it per
        temperature.
        """
        domain = self.energy.domain
        if self.sampler is None or self.sampler.num_replicas == 1:
            return domain
        return replace(domain, shape=(self.sampler.num_replicas, *domain.shape))

    def batch(self) -> tuple[Tensor, Tensor | None]:
        """The next examples as training sees them (`_seen`), with their labels if the energy has
        classes.
        """
        x, y = self.batches.next(self.settings.batch)
        x = self._seen(x.to(self.device), self.generators["data"])
        return x, y.to(self.device) if self.labelled and y is not None else None

    def _seen(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Examples drawn, dequantised and noised as data and settings say, folded back into the
        box.
        """
        if self.data.binarization == "stochastic":
            x = bernoulli_sample(x, generator)
        if self.settings.dequantise and self.data.num_gray_levels:
            u = torch.rand(x.shape, generator=generator, device=x.device)
            x = (x * (self.data.num_gray_levels - 1) + u) / self.data.num_gray_levels
        if self.settings.data_noise_std:
            noise = torch.randn(x.shape, generator=generator, device=x.device)
            x, _ = self.energy.domain.reflect(x + self.settings.data_noise_std * noise)
        return x

    def advance(self) -> None:
        """One update. A loss or gradient that is not finite leaves the weights alone and is
        counted; nothing waits for it.
        """
        rate = self.settings.rate(self.step) * self.rate_factor
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        self.optimizer.zero_grad(set_to_none=True)
        x, labels = self.batch()
        parts, self._losses = self.settings.accumulate, torch.zeros((), device=self.device)
        pieces = [(x, labels)] if parts == 1 else _divided(x, labels, parts)
        for number, (piece, own) in enumerate(pieces, start=1):
            with gathering(self._evaluate, last=number == parts), self._explained():
                self._backward(piece, own, parts)
        settle(self.energy, self._evaluate, self.team)
        if self.settings.optimizer == "sgd" and hasattr(
            self.energy, "precondition"
        ):  # Adam would rescale it, number by number
            cast(Any, self.energy).precondition()
        parts_of: list[nn.Module] = (
            [self.energy] if self.partner is None else [self.energy, self.partner]
        )
        norm = whole(clipped_norm(parts_of, self.settings.grad_clip_norm))
        sound = self.team.every(norm.isfinite() & self._losses.isfinite())
        step_if(self.optimizer, sound)
        self.step += 1
        self.ema.update(self.energy, self.step)
        self._nonfinite += ~sound
        border = (
            {"border_data": border_share(x, self.energy)}
            if self.energy.domain.kind == "box"
            else {}
        )
        self._note({"gradient_norm": norm.detach(), **border})

    def _backward(self, x: Tensor, labels: Tensor | None, parts: int) -> None:
        """Add the gradient of one part of a batch, and its terms to the log."""
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.settings.precision == "bfloat16"
        ):
            loss: Loss = self._evaluate(
                x, labels, self.buffer, self.generators["chains"], self.step / self.settings.steps
            )
        terms = {"loss": loss.value.detach(), **loss.terms}
        if (
            loss.negatives is not None
            and loss.negatives.shape[1:] == x.shape[1:]
            and len(loss.negatives) > 1
        ):
            terms["diversity"] = diversity(loss.negatives, x)
        self._losses = self._losses + loss.value.detach()
        value = loss.value / parts if parts > 1 else loss.value
        del loss  # from here on the graph alone holds the negatives
        value.backward()
        self._note(terms)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """What the compiler cannot do, said in words."""
        try:
            yield
        except RuntimeError as error:
            if not (
                self.settings.compile
                and any(words in str(error) for words in ("double backward", "create_graph"))
            ):
                raise
            raise ValueError(
                f"training.compile is true and {type(self.objective).__name__} differentiates a "
                "gradient; torch.compile has no second derivative; set it to false, or choose an "
                "objective that contrasts energies, such as PCD"
            ) from error

    def _note(self, terms: Mapping[str, Tensor]) -> None:
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, torch.zeros((), device=value.device)) + value
            self._counts[name] = self._counts.get(name, 0) + 1

    def _begin_row(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._nonfinite = torch.zeros((), dtype=torch.long, device=self.device)
        self._losses = torch.zeros((), device=self.device)

    def row(self) -> dict[str, Any]:
        """The means of all terms since the last row over all processes, for the log; begins
        anew.
        """
        row: dict[str, Any] = {"step": self.step}
        totals = (
            self.team.total(torch.stack(list(self._sums.values()))).tolist() if self._sums else []
        )
        for name, total in zip(self._sums, totals, strict=True):
            row[name] = (
                int(total) if name in COUNTED else total / (self._counts[name] * self.team.size)
            )
        row |= {"nonfinite": int(self._nonfinite), "rate": self.optimizer.param_groups[0]["lr"]}
        self._begin_row()
        return row

    # ---- what health may change ------------------------------------------------------------------

    def lower_rate(self, factor: float) -> None:
        """Multiply the learning rate."""
        self.rate_factor *= factor

    def shorten(self, factor: float) -> bool:
        """Multiply the step size of the sampler; False where it has none."""
        if not isinstance(self.sampler, HasStepSize):
            return False
        self.step_factor *= factor
        step = self.sampler.step_size * self.step_factor
        self.module.sampler = self.sampler.replace(step_size=step)
        return True

    def renew(self, share: float) -> int:
        """Begin a share of the chains anew, the oldest first; how many."""
        return 0 if self.buffer is None else self.buffer.reinit(share, self.generators["chains"])

    # ---- saving ----------------------------------------------------------------------------------

    def checkpoint(self, log_size: int) -> Checkpoint:
        """All state as tensors and plain values: that of all processes at the chief, which writes
        it.
        """
        tensors = {
            "energy": whole_state(self.energy),
            "ema": self.ema.module.state_dict(),
            "optimizer": optimizer_tensors(self.optimizer),
            "generators": numbered(
                self.team.gather({name: g.get_state() for name, g in self.generators.items()})
            ),
        }
        if self.buffer is not None:
            own = self.buffer.state_dict()
            tensors["chains"] = (
                joined(self.team.gather({k: v.cpu() for k, v in own.items()}))
                if self.team.size > 1
                else own
            )
        if self.partner is not None:
            tensors["partner"] = whole_state(self.partner)
        state = {
            "processes": self.team.size,
            "domain": (self.energy.data_domain or self.energy.domain).to_dict(),
            "batches": self.batches.state_dict(),
            "rate_factor": self.rate_factor,
            "step_factor": self.step_factor,
            "best": self.best,
            "rollbacks": self.rollbacks,
            "health": self.health,
            "log_size": log_size,
        }
        return Checkpoint(self.step, tensors, state)

    def restore(self, checkpoint: Checkpoint) -> None:
        """The inverse of `checkpoint`."""
        tensors, state = checkpoint.tensors, checkpoint.state
        load_whole(self.energy, tensors["energy"])
        self.ema.module.load_state_dict(tensors["ema"])
        restore_optimizer(self.optimizer, tensors["optimizer"])
        if self.partner is not None:
            load_whole(self.partner, tensors["partner"])
        self._restore_generators(tensors["generators"], state.get("processes", 1), checkpoint.step)
        if self.buffer is not None:
            rows = self.team.portion(len(tensors["chains"]["x"]))
            self.buffer.load_state_dict(
                {k: v[rows].to(self.device) for k, v in tensors["chains"].items()}
            )
        self.batches.load_state_dict(state["batches"])
        self.rate_factor, self.rollbacks, self.best = (
            state["rate_factor"],
            state["rollbacks"],
            state.get("best", {}),
        )
        self.step_factor = 1.0
        self.shorten(state.get("step_factor", 1.0))
        self.health, self.step = state["health"], checkpoint.step
        self._begin_row()

    def _restore_generators(self, states: dict[str, Tensor], processes: int, step: int) -> None:
        """Each process's own, if they are as many as they were; else new ones, a function of seed,
        step, rank and number.
        """
        for offset, (name, generator) in enumerate(self.generators.items(), start=1):
            if processes == self.team.size:
                generator.set_state(states[name if self.team.chief else f"{name}.{self.team.rank}"])
            else:
                anew = self.team.generator(int(self.recipe["seed"]), offset, self.device, step + 1)
                generator.set_state(anew.get_state())


def _divided(x: Tensor, labels: Tensor | None, parts: int) -> list[tuple[Tensor, Tensor | None]]:
    return list(
        zip(x.chunk(parts), [None] * parts if labels is None else labels.chunk(parts), strict=True)
    )
