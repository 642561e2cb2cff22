"""Everything that changes during training, in one place: what is stepped is what is saved.

A session holds the weights, their average, the partner, the optimiser, the chains, the generators,
the position in the data and what health has changed: the factors of learning rate and sampler step.
`checkpoint` turns all of it into tensors and plain values, `restore` puts all of it back; nothing
else carries state, which is why a resumed run equals an uninterrupted one bit for bit.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lowland.data import Batches, Dataset
from lowland.devices import pick_device
from lowland.energy import Energy, count_classes, data_domain, learner_of
from lowland.objectives.contrastive import bound_share
from lowland.objectives.loss import Batch, Loss
from lowland.registry import build
from lowland.run import Checkpoint
from lowland.samplers.kernel import HasStepSize, Sampler
from lowland.samplers.precision import PrecisionChoice, autocast
from lowland.training.averages import TermAverages
from lowland.training.build import (
    build_buffer,
    build_energy,
    build_objective,
    build_partner,
    check_data,
    choose_precision,
    perturb_examples,
    select_labels,
)
from lowland.training.distributed import Team
from lowland.training.ema import EMA
from lowland.training.memory import recompute
from lowland.training.optimisation import (
    build_optimizer,
    clip_gradients,
    optimizer_tensors,
    restore_optimizer,
    step_if,
)
from lowland.training.settings import Plain, Row, Training
from lowland.training.sharding import (
    accumulate_gradients,
    average_unsynced,
    concatenate_ranks,
    full_state_dict,
    full_tensor,
    load_full_state_dict,
    number_by_rank,
    wrap_step,
)
from lowland.training.step import Step, diversity

STATE_BYTES = {16: "cuda", 5056: "cpu"}  # of a generator


class Session:
    """One training run in memory. `advance` makes one update.

    team: the processes that train together. Batch, num_chains and buffer_size of the recipe are
    those of all of them.
    """

    def __init__(
        self,
        recipe: Plain,
        data: Dataset,
        energy: Energy | None = None,
        team: Team | None = None,
    ) -> None:
        self.recipe, self.data, self.team = recipe, data, team or Team()
        self.settings = settings = Training.from_plain(recipe["training"])
        self.device = device = pick_device(settings.device)
        seed = int(recipe["seed"])
        self.objective = build_objective(recipe["objective"], settings, self.team)
        self.terms = [build("term", values) for values in recipe.get("terms", ())]
        self.sampler: Sampler | None = None
        if recipe.get("sampler"):
            self.sampler = build("sampler", recipe["sampler"])
        if energy is None:
            energy = build_energy(recipe["energy"], settings, data, seed)
        self.energy = energy.to(device).train()
        self.labelled = count_classes(self.energy) > 0
        check_data(self.energy, data, settings, device, recipe["objective"])
        self.precision: PrecisionChoice = self.team.broadcast(
            choose_precision(settings, self.energy, self.sampler, device)
        )
        self.partner = build_partner(self.objective, self.energy, data, settings, device, seed + 1)
        self.module = Step(self.energy, self.objective, self.sampler, self.terms, self.partner)
        tail = settings.tail_average_fraction
        start = int((1 - tail) * settings.steps) if tail else None
        self.ema = EMA(self.energy, settings.ema_decay, start)
        if settings.checkpoint_activations:
            recompute(self.energy)
        if settings.compile:
            self.energy.compile()
        self._evaluate = wrap_step(self.module, settings.sharding, self.team, device)
        self.optimizer = build_optimizer(
            self.energy, self.partner, self.objective.partner_rate, settings
        )
        self.generators = {
            name: self.team.make_generator(seed, offset, device)
            for offset, name in enumerate(("data", "chains"), start=1)
        }
        labelled = select_labels(data.train, self.objective.labelled_fraction, seed)
        own = {"rank": self.team.rank, "size": self.team.size}
        self.batches = Batches(labelled, seed=seed, device=device, **own)
        self.buffer = build_buffer(
            self.objective,
            self.energy,
            self.sampler,
            settings,
            self.team,
            self.generators["chains"],
            classes=data.classes if self.labelled else 0,
        )
        self.step, self.rollbacks, self.health = 0, 0, "good"
        self.rate_factor = self.step_factor = 1.0  # of learning rate and sampler step, by health
        self.best: dict[str, float] = {}  # step and value of the best checkpoint, if one is chosen
        self._begin_row()

    def batch(self) -> Batch:
        """Return the next examples, perturbed as the settings say, with their labels if the energy
        has classes.
        """
        x, y = self.batches.next(self.settings.batch)
        x = perturb_examples(
            x, self.data, self.settings, self.energy.domain, self.generators["data"]
        )
        return Batch(x, y if self.labelled else None)

    def advance(self) -> None:
        """Make one update. A loss or gradient that is not finite leaves the weights alone and is
        counted; nothing waits for it.
        """
        rate = self.settings.rate(self.step) * self.rate_factor
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        self.optimizer.zero_grad(set_to_none=True)
        batch = self.batch()
        parts = _split_batch(batch, self.settings.accumulate)
        self._losses = torch.zeros((), dtype=torch.float32, device=self.device)
        for number, part in enumerate(parts, start=1):
            last = number == len(parts)
            with accumulate_gradients(self._evaluate, last), self._explain_compiler():
                self._backward(part, len(parts))
        average_unsynced(self.energy, self._evaluate, self.team)
        center = learner_of(self.energy).center_gradients
        if self.settings.optimizer == "sgd" and center is not None:  # Adam would rescale it
            center()
        modules = [module for module in (self.energy, self.partner) if module is not None]
        norm = full_tensor(clip_gradients(modules, self.settings.grad_clip_norm))
        sound = self.team.all_true(norm.isfinite() & self._losses.isfinite())
        step_if(self.optimizer, sound)
        self.batches.prepare(self.settings.batch)
        self.step += 1
        self.ema.update(self.energy, self.step)
        self._nonfinite += ~sound
        self._averages.add({"gradient_norm": norm.detach()})
        if self.energy.domain.kind == "box":
            self._averages.add({"data_bound_share": bound_share(batch.x, self.energy)})

    def _backward(self, batch: Batch, parts: int) -> None:
        """Add the gradient of one part of a batch, and its terms to the log."""
        progress = self.step / self.settings.steps
        with autocast(self.precision.precision, self.device):
            loss: Loss = self._evaluate(
                batch.x, batch.labels, self.buffer, self.generators["chains"], progress
            )
        self._averages.add({"loss": loss.value.detach(), **loss.terms})
        if loss.negatives is not None:
            self._averages.add(diversity(loss.negatives, batch.x))
        self._losses = self._losses + loss.value.detach()
        value = loss.value / parts
        del loss  # from here on the graph alone holds the negatives
        value.backward()

    @contextmanager
    def _explain_compiler(self) -> Iterator[None]:
        """Raise ValueError in place of the compiler's errors about second derivatives."""
        try:
            yield
        except RuntimeError as error:
            second = any(words in str(error) for words in ("double backward", "create_graph"))
            if not self.settings.compile:
                raise
            if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise ValueError(
                    "training.compile is true and torch.compile fails on this machine "
                    f"({str(error).splitlines()[0]:.100}); it needs a C++ compiler that works; set "
                    "it to false"
                ) from error
            if not second:
                raise
            raise ValueError(
                f"training.compile is true and {type(self.objective).__name__} differentiates a "
                "gradient; torch.compile has no second derivative; set it to false, or choose an "
                "objective that contrasts energies, such as PCD"
            ) from error

    def _begin_row(self) -> None:
        self._row_began = self.step
        self._averages = TermAverages()
        self._nonfinite = torch.zeros((), dtype=torch.long, device=self.device)
        self._losses = torch.zeros((), dtype=torch.float32, device=self.device)

    def row(self) -> Row:
        """Return the means of all terms since the last row, over all processes, and begin anew."""
        row: Row = {"step": self.step, **self._averages.means(self.team)}
        if row.get("diverged"):
            chains = self.objective.num_chains * self.team.size or self.settings.batch
            proposals = (self.step - self._row_began) * max(self.objective.steps, 1) * chains
            row["refused_share"] = min(row["diverged"] / max(proposals, 1), 1.0)
        row |= {"nonfinite": int(self._nonfinite), "rate": self.optimizer.param_groups[0]["lr"]}
        self._begin_row()
        return row

    # ---- what health may change ------------------------------------------------------------------

    def lower_rate(self, factor: float) -> None:
        """Multiply the learning rate."""
        self.rate_factor *= factor

    def shorten_step(self, factor: float) -> bool:
        """Multiply the step size of the sampler; return False where it has none."""
        if not isinstance(self.sampler, HasStepSize):
            return False
        self.step_factor *= factor
        step = self.sampler.step_size * self.step_factor
        self.module.sampler = self.sampler.replace(step_size=step)
        return True

    def reinit_chains(self, share: float) -> int:
        """Begin a share of the chains anew, the oldest first; return how many."""
        if self.buffer is None:
            return 0
        return self.buffer.reinit(share, self.generators["chains"])

    # ---- saving ----------------------------------------------------------------------------------

    def checkpoint(self, log_size: int) -> Checkpoint:
        """Return all state as tensors and plain values: in the main process, which writes it, that
        of all processes.
        """
        tensors = {
            "energy": full_state_dict(self.energy),
            "ema": self.ema.module.state_dict(),
            "optimizer": optimizer_tensors(self.optimizer),
            "generators": number_by_rank(
                self.team.gather({name: g.get_state() for name, g in self.generators.items()})
            ),
        }
        if self.buffer is not None:
            own = self.buffer.state_dict()
            tensors["chains"] = (
                concatenate_ranks(self.team.gather({k: v.cpu() for k, v in own.items()}))
                if self.team.size > 1
                else own
            )
        if self.partner is not None:
            tensors["partner"] = full_state_dict(self.partner)
        state = {
            "processes": self.team.size,
            "domain": data_domain(self.energy).to_dict(),
            "batches": self.batches.state_dict(),
            "rate_factor": self.rate_factor,
            "step_factor": self.step_factor,
            "best": self.best,
            "precision": self.precision.precision,
            "rollbacks": self.rollbacks,
            "health": self.health,
            "log_size": log_size,
            "device": self.device.type,
            "recipe": dict(self.recipe),
        }
        return Checkpoint(self.step, tensors, state)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Put back the state of a checkpoint."""
        tensors, state = checkpoint.tensors, checkpoint.state
        load_full_state_dict(self.energy, tensors["energy"])
        self.ema.module.load_state_dict(tensors["ema"])
        restore_optimizer(self.optimizer, tensors["optimizer"])
        if self.partner is not None:
            load_full_state_dict(self.partner, tensors["partner"])
        self._restore_generators(checkpoint)
        if self.buffer is not None:
            rows = self.team.shard(len(tensors["chains"]["x"]))
            self.buffer.load_state_dict(
                {k: v[rows].to(self.device) for k, v in tensors["chains"].items()}
            )
        self.batches.load_state_dict(state["batches"])
        self.rate_factor, self.rollbacks = state["rate_factor"], state["rollbacks"]
        self.best = state["best"]
        self.precision = PrecisionChoice(state["precision"], "as the run began")
        self.step_factor = 1.0
        self.shorten_step(state["step_factor"])
        self.health, self.step = state["health"], checkpoint.step
        self._begin_row()

    def continues_draws(self, checkpoint: Checkpoint) -> bool:
        """Tell whether the generators of a checkpoint are those of this session: of as many
        processes, on a device of the same kind.
        """
        made = checkpoint.state.get("device")
        if made is None:  # older versions do not say where; the length of a state tells
            found = checkpoint.tensors["generators"].get("chains", torch.empty(0))
            made = STATE_BYTES.get(found.numel(), self.device.type)
        same_team: bool = checkpoint.state["processes"] == self.team.size
        return same_team and made == self.device.type

    def _restore_generators(self, checkpoint: Checkpoint) -> None:
        """Restore each process's own generators where they go on, else make new ones from seed,
        step, rank and number.
        """
        states, same = checkpoint.tensors["generators"], self.continues_draws(checkpoint)
        for offset, (name, generator) in enumerate(self.generators.items(), start=1):
            if same:
                generator.set_state(
                    states[name if self.team.is_main else f"{name}.{self.team.rank}"]
                )
            else:
                anew = self.team.make_generator(
                    int(self.recipe["seed"]), offset, self.device, checkpoint.step + 1
                )
                generator.set_state(anew.get_state())


def _split_batch(batch: Batch, parts: int) -> list[Batch]:
    if parts == 1:
        return [batch]
    labels = [None] * parts if batch.labels is None else batch.labels.chunk(parts)
    return [Batch(x, own) for x, own in zip(batch.x.chunk(parts), labels, strict=True)]
