"""Everything that changes during training, in one place: what is stepped is what is saved.

A session holds the weights, their average, the optimiser, the chains, the generators, the position in the data and the
learning-rate factor that health has set. `checkpoint` turns all of it into tensors and plain values, `restore` puts all of
it back; nothing else carries state, which is why a resumed run equals an uninterrupted one bit for bit.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from lowland.chains import ReplayBuffer
from lowland.data import Batches, Dataset, toss
from lowland.domain import Domain
from lowland.energy import Energy, check_energy
from lowland.objectives.contrastive import border_share, completed
from lowland.registry import build
from lowland.run import Checkpoint
from lowland.training.ema import EMA
from lowland.training.settings import Training

COUNTED = ("diverged", "lost")  # terms that add up between log rows; the others are averaged


def pick_device(wanted: str) -> torch.device:
    """The device for "auto", "cpu", "cuda", ... Raises ValueError if it is not there."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device is {wanted!r} and this machine has no CUDA; use 'cpu'; or 'auto' to take what is there")
    return torch.device(wanted)


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Inside: torch uses so many threads (0: as before). After: as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _optimizer(energy: Energy, settings: Training) -> torch.optim.Optimizer:
    """Adam (with the weight decay apart from the moments) or SGD."""
    options: dict[str, Any] = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    if settings.optimizer == "sgd":
        return torch.optim.SGD(energy.parameters(), momentum=settings.momentum, **options)
    kind = torch.optim.AdamW if settings.weight_decay else torch.optim.Adam
    return kind(energy.parameters(), betas=settings.betas, **options)


class Session:
    """One training run in memory. `advance` makes one update."""

    def __init__(self, recipe: Mapping[str, Any], data: Dataset, energy: Energy | None = None) -> None:
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in recipe["training"].items()}
        self.settings = Training(**values)
        self.device, self.data, seed = pick_device(self.settings.device), data, int(recipe["seed"])
        self.objective = build("objective", recipe["objective"])
        self.sampler = build("sampler", recipe["sampler"])
        known = energy is not None
        if energy is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                energy = build("energy", {**recipe["energy"], "domain": data.domain.widened(self.settings.margin)})
        self.energy = cast(Energy, energy).to(self.device).train()
        self.labelled = getattr(self.energy, "classes", 0) > 0
        if not known and hasattr(self.energy, "prepare"):
            cast(Any, self.energy).prepare(data.train.x.to(self.device))
        settings = self.settings
        self.ema = EMA(self.energy, settings.ema, int((1 - settings.average) * settings.steps) if settings.average else None)
        self.optimizer = _optimizer(self.energy, settings)
        self.generators = {
            name: torch.Generator(self.device).manual_seed(seed * 1000 + offset)
            for offset, name in enumerate(("data", "chains"), start=1)
        }
        self.batches = Batches(data.train, seed=seed)
        self._check(recipe)
        self.buffer = self._buffer()
        self.step, self.rate_factor, self.rollbacks, self.health = 0, 1.0, 0, "good"
        self.good_step = 0  # of the newest checkpoint in good health
        self._sums: dict[str, Tensor] = {}
        self._counted, self.nonfinite = 0, 0

    def _check(self, recipe: Mapping[str, Any]) -> None:
        classes = getattr(self.energy, "classes", 0)
        spread = [name for name in ("noise", "dequantise", "margin") if getattr(self.settings, name)]
        if self.data.binarisation and spread:
            raise ValueError(
                f"{self.data.name} is binary and {' and '.join(spread)} would move it off 0 and 1; binary data have no grey "
                f"levels to spread; leave them out"
            )
        if classes and self.data.train.y is None:
            raise ValueError(f"the energy has {classes} classes and {self.data.name} no labels; set energy.classes = 0")
        if classes and classes != self.data.classes:
            raise ValueError(
                f"the energy has {classes} classes and {self.data.name} {self.data.classes}; they must agree; "
                f"set energy.classes = {self.data.classes}, or 0 to train without labels"
            )
        x = self.data.train.x[:4].to(self.device)
        x = completed(self.energy, x.round() if self.data.binarisation else x, torch.Generator(self.device).manual_seed(0))
        x = x.round() if self.energy.domain.kind == "binary" else x  # means may stand for units that no one has seen
        noise_level = torch.full((len(x),), 0.1, device=self.device) if getattr(self.energy, "noise", False) else None
        check_energy(self.energy, x, noise_level)

    def _buffer(self) -> ReplayBuffer | None:
        if not self.objective.persistent:
            return None
        return ReplayBuffer(
            max(self.objective.capacity, self.objective.chains or self.settings.batch),
            self._chain_domain(),
            generator=self.generators["chains"],
            classes=self.data.classes if self.labelled else 0,
            restart=self.objective.restart,
            dtype=next(self.energy.parameters()).dtype,
        )

    def _chain_domain(self) -> Domain:
        """Where the chains live: the energy's domain; with tempering, one copy of it per temperature."""
        domain = self.energy.domain
        rungs = getattr(self.sampler, "temperatures", ())
        return replace(domain, shape=(len(rungs), *domain.shape)) if rungs else domain

    def batch(self) -> tuple[Tensor, Tensor | None]:
        """The next examples, drawn, dequantised and noised as data and settings say, folded back into the box."""
        x, y = self.batches.next(self.settings.batch)
        x = x.to(self.device)
        generator = self.generators["data"]
        if self.data.binarisation == "stochastic":
            x = toss(x, generator)
        if self.settings.dequantise and self.data.levels:
            u = torch.rand(x.shape, generator=generator, device=x.device)
            x = (x * (self.data.levels - 1) + u) / self.data.levels
        if self.settings.noise:
            noise = torch.randn(x.shape, generator=generator, device=x.device)
            x, _ = self.energy.domain.reflect(x + self.settings.noise * noise)
        return x, y.to(self.device) if self.labelled and y is not None else None

    def advance(self) -> bool:
        """One update. Returns False, and leaves the weights alone, if the loss or its gradient is not finite."""
        x, labels = self.batch()
        rate = self.settings.rate(self.step) * self.rate_factor
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bfloat16"):
            loss = self.objective.loss(
                self.energy, x, labels, sampler=self.sampler, buffer=self.buffer, generator=self.generators["chains"]
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.value.backward()
        if self.settings.optimizer == "sgd" and hasattr(self.energy, "precondition"):  # Adam would rescale it, number by number
            cast(Any, self.energy).precondition()
        bound = self.settings.clip or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.energy.parameters(), bound)
        sound = bool(norm.isfinite() & loss.value.isfinite())
        if sound:
            self.optimizer.step()
        else:
            self.nonfinite += 1
        self.step += 1
        self.ema.update(self.energy, self.step)
        border = {"border_data": border_share(x, self.energy)} if self.energy.domain.kind == "box" else {}
        self._note({"loss": loss.value.detach(), "gradient_norm": norm.detach(), **loss.terms, **border})
        return sound

    def _note(self, terms: Mapping[str, Tensor]) -> None:
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, torch.zeros((), device=value.device)) + value
        self._counted += 1

    def row(self) -> dict[str, Any]:
        """The means of all terms since the last row, for the log; begins anew."""
        row: dict[str, Any] = {"step": self.step}
        for name, total in self._sums.items():
            row[name] = int(total) if name in COUNTED else float(total) / self._counted
        row |= {"nonfinite": self.nonfinite, "rate": self.optimizer.param_groups[0]["lr"]}
        self._sums, self._counted, self.nonfinite = {}, 0, 0
        return row

    def checkpoint(self, log_size: int) -> Checkpoint:
        """All state as tensors and plain values."""
        self.good_step = self.step if self.health == "good" else self.good_step
        optimiser = self.optimizer.state_dict()
        tensors = {
            "energy": self.energy.state_dict(),
            "ema": self.ema.module.state_dict(),
            "optimizer": {f"{i}.{k}": v for i, state in optimiser["state"].items() for k, v in state.items()},
            "generators": {name: g.get_state() for name, g in self.generators.items()},
        }
        if self.buffer is not None:
            tensors["chains"] = self.buffer.state_dict()
        state = {
            "domain": (self.energy.data_domain or self.energy.domain).to_dict(),
            "batches": self.batches.state_dict(),
            "rate_factor": self.rate_factor,
            "rollbacks": self.rollbacks,
            "health": self.health,
            "good_step": self.good_step,
            "log_size": log_size,
        }
        return Checkpoint(self.step, tensors, state)

    def restore(self, checkpoint: Checkpoint) -> None:
        """The inverse of `checkpoint`."""
        tensors, state = checkpoint.tensors, checkpoint.state
        self.energy.load_state_dict(tensors["energy"])
        self.ema.module.load_state_dict(tensors["ema"])
        self._restore_optimizer(tensors["optimizer"])
        for name, generator in self.generators.items():
            generator.set_state(tensors["generators"][name])
        if self.buffer is not None:
            self.buffer.load_state_dict({k: v.to(self.device) for k, v in tensors["chains"].items()})
        self.batches.load_state_dict(state["batches"])
        self.rate_factor, self.rollbacks = state["rate_factor"], state["rollbacks"]
        self.health, self.good_step, self.step = state["health"], state["good_step"], checkpoint.step
        self._sums, self._counted, self.nonfinite = {}, 0, 0

    def _restore_optimizer(self, tensors: dict[str, Tensor]) -> None:
        parameters = list(self.energy.parameters())
        states: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            index, name = key.split(".", 1)
            like = parameters[int(index)]
            # the memory layout of the weights, as the optimiser itself would have chosen it
            fitted = torch.empty_like(like).copy_(value) if value.shape == like.shape else value.clone()
            states.setdefault(int(index), {})[name] = fitted
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": states, "param_groups": groups})
