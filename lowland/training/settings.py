"""Settings of a training run, as plain values."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch

from lowland.objectives.ranges import (
    COUNT,
    POSITIVE,
    SHARE,
    WEIGHT,
    Range,
    at_least,
    check_settings,
    each,
    one_of,
)
from lowland.samplers.precision import PRECISIONS
from lowland.scalars import read_integer, read_number

Plain = Mapping[str, Any]  # values of a recipe, or of a section of it
Row = dict[str, Any]  # one line of the log
MAX_THREADS = 1024  # more end the process without a word


def _names_device(name: object) -> bool:
    """Tell whether a name can be that of a device: of torch's, or of a backend registered there."""
    kinds = f"cuda|xpu|{re.escape(torch._C._get_privateuse1_backend_name())}"
    return re.fullmatch(rf"auto|(cpu|mps)(:0)?|({kinds})(:\d{{1,3}})?", str(name)) is not None


DEVICE = Range("'auto', 'cpu', 'cuda', 'cuda:1' and so on, 'xpu' or 'mps'", _names_device)
BELOW_ONE = Range("in [0, 1)", lambda value: 0 <= value < 1)
RISING = Range(
    "rising sides of images",
    lambda sides: all(0 < a < b for a, b in pairwise((*sides, 1 << 30))),
)


def read_truth(what: str, value: object) -> bool:
    """Return a truth value as a plain bool; NumPy's are taken. Raises ValueError for others."""
    if isinstance(value, bool) or type(value).__name__ in ("bool", "bool_"):
        return bool(value)
    raise ValueError(f"{what} is {value!r:.60}; it is True or False; pass one of these")


def read_fields(settings: "Training") -> None:
    """Read every number of settings as a plain one. Raises ValueError for booleans and text."""
    for one in fields(settings):
        value = vars(settings)[one.name]
        if one.type is int:
            value = read_integer(one.name, value)
        elif one.type is float:
            value = read_number(one.name, value)
        elif one.type is bool:
            value = read_truth(one.name, value)
        elif one.name == "betas":
            value = tuple(read_number("betas", beta) for beta in value)
        elif one.name == "progressive_sizes":
            value = tuple(read_integer("progressive_sizes", side) for side in value)
        object.__setattr__(settings, one.name, value)


@dataclass(frozen=True)
class Training:
    """Settings of training.

    *Updates.* steps: how many; batch: examples per update; accumulate: parts into which a batch is
    divided, whose gradients add up, where it does not fit into memory; optimizer: "adam"
    (learning_rate, betas) or "sgd" (learning_rate, momentum); weight_decay: pull of the weights to
    zero, in units of the learning rate; warmup: updates of linear rise; decay_fraction: share of
    the updates, at the end, over which the rate falls to zero, along a line or a cosine (schedule);
    grad_clip_norm: bound on the gradient norm, 0 for none; ema_decay: decay of the averaged
    weights; tail_average_fraction: above 0, the weights used later are the plain mean of those of
    this last share of the updates, and ema_decay is not used; precision: "bfloat16" rounds the
    factors of matrix products; "auto" takes it only where the device runs it faster than float32.

    *Data.* data_noise_std: standard deviation of Gaussian noise added; box_margin: how far the
    energy's box reaches beyond the data's, to hold that noise; dequantise: spread each grey level
    over its width; progressive_sizes: smaller sides of images on which to train first, as many
    updates each, weights carried on (see `grow`).

    *Memory and machines.* checkpoint_activations: residual blocks compute activations again instead
    of keeping them (training.memory); compile: the energy by torch.compile, half a minute the first
    time, for objectives that do not differentiate gradients; sharding: what several processes
    divide besides the batch and the chains: "ddp" nothing, "fsdp" master weights, gradients and
    moments (training.distributed).

    *Health.* on_failure: what a bad verdict does; max_rollbacks: how often at most before stopping;
    preflight: what the probe before the first update does ("off", "warn", or "adjust", which also
    shortens steps and rates that are far too large).

    *Choice.* select_by: criterion that chooses the best checkpoint, on draws of the model against
    held-out data ("none" takes the last; see training.selection); select_every: in updates, a
    multiple of checkpoint_every, 0 for at every checkpoint; select_samples: draws for it; patience:
    selections without a better one after which training ends early, 0 for never.

    *Book-keeping.* log_every, checkpoint_every: in updates, the second a multiple of the first;
    keep_checkpoints: checkpoints kept, besides the first, one about halfway and the best;
    tensorboard: write scalars into RUN/tensorboard too (extra lowland[tensorboard]); device;
    threads: of the CPU, 0 for torch's own choice: small networks are fastest, and a shared machine
    calmest, with 1."""

    steps: int = 2000
    batch: int = 64
    learning_rate: float = 1e-3
    optimizer: Literal["adam", "sgd"] = "adam"
    betas: tuple[float, float] = (0.0, 0.999)
    momentum: float = 0.0
    weight_decay: float = 0.0
    warmup: int = 100
    decay_fraction: float = 0.3
    schedule: Literal["linear", "cosine"] = "linear"
    accumulate: int = 1
    grad_clip_norm: float = 1.0
    ema_decay: float = 0.999
    tail_average_fraction: float = 0.0
    precision: Literal["float32", "bfloat16", "auto"] = "auto"
    data_noise_std: float = 0.0
    box_margin: float = 0.0
    dequantise: bool = False
    progressive_sizes: Sequence[int] = ()
    checkpoint_activations: bool = False
    compile: bool = False
    sharding: Literal["ddp", "fsdp"] = "ddp"
    log_every: int = 10
    checkpoint_every: int = 200
    keep_checkpoints: int = 2
    on_failure: Literal["continue", "warn", "roll-back", "stop"] = "roll-back"
    max_rollbacks: int = 8
    preflight: Literal["off", "warn", "adjust"] = "adjust"
    select_by: Literal["none", "mmd", "frechet", "ksd"] = "none"
    select_every: int = 0
    select_samples: int = 500
    patience: int = 0
    tensorboard: bool = False
    device: str = "auto"
    threads: int = 0
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        read_fields(self)
        parts = Range(
            f"at least 1 and divides batch = {self.batch}",
            lambda value: value >= 1 and self.batch % value == 0,
        )
        check_settings(
            self,
            steps=COUNT,
            batch=at_least(2),
            learning_rate=POSITIVE,
            optimizer=one_of("adam", "sgd"),
            betas=each(BELOW_ONE),
            momentum=BELOW_ONE,
            weight_decay=WEIGHT,
            warmup=WEIGHT,
            decay_fraction=SHARE,
            schedule=one_of("linear", "cosine"),
            accumulate=parts,
            grad_clip_norm=WEIGHT,
            ema_decay=BELOW_ONE,
            tail_average_fraction=SHARE,
            precision=one_of(*PRECISIONS),
            data_noise_std=WEIGHT,
            box_margin=WEIGHT,
            progressive_sizes=RISING,
            sharding=one_of("ddp", "fsdp"),
            log_every=COUNT,
            checkpoint_every=_multiple_of(self.log_every, "log_every", least=1),
            keep_checkpoints=COUNT,
            on_failure=one_of("continue", "warn", "roll-back", "stop"),
            max_rollbacks=WEIGHT,
            preflight=one_of("off", "warn", "adjust"),
            select_by=one_of("none", "mmd", "frechet", "ksd"),
            select_every=_multiple_of(self.checkpoint_every, "checkpoint_every"),
            select_samples=at_least(16),
            patience=WEIGHT,
            threads=Range(
                f"a whole number from 0 to {MAX_THREADS}", lambda n: 0 <= n <= MAX_THREADS
            ),
            device=DEVICE,
        )

    @classmethod
    def from_plain(cls, values: Plain) -> "Training":
        """Build settings from the values of a recipe, in which tuples are lists."""
        options: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
        return cls(**options)

    def rate(self, step: int) -> float:
        """Return the learning rate of an update (counted from 0): linear rise, plateau, fall to
        zero.

        >>> Training(steps=100, warmup=10, decay_fraction=0.5, learning_rate=1.0).rate(75)
        0.5
        """
        rise = left = 1.0
        if self.warmup:
            rise = min((step + 1) / self.warmup, 1.0)
        if self.decay_fraction:
            left = min((self.steps - step) / (self.decay_fraction * self.steps), 1.0)
        fall = left if self.schedule == "linear" else math.sin(left * math.pi / 2) ** 2
        return self.learning_rate * min(rise, fall)


def _multiple_of(part: int, name: str, least: int = 0) -> Range:
    return Range(
        f"at least {least} and a multiple of {name} = {part}",
        lambda value: value >= least and value % max(part, 1) == 0,
    )
