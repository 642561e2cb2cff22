"""How long, how fast, how careful: the settings of a training run, as plain values."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal


@dataclass(frozen=True)
class Training:
    """Settings of `fit`.

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
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
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
        problems = [
            f"{name} is {getattr(self, name)}"
            for name, sound in {
                "steps": self.steps >= 1,
                "batch": self.batch >= 2,
                "learning_rate": self.learning_rate > 0,
                "betas": all(0 <= beta < 1 for beta in self.betas),
                "optimizer": self.optimizer in ("adam", "sgd"),
                "precision": self.precision in ("float32", "bfloat16", "auto"),
                "momentum": 0 <= self.momentum < 1,
                "weight_decay": self.weight_decay >= 0,
                "tail_average_fraction": 0 <= self.tail_average_fraction <= 1,
                "warmup": self.warmup >= 0,
                "decay_fraction": 0 <= self.decay_fraction <= 1,
                "schedule": self.schedule in ("linear", "cosine"),
                "accumulate": self.accumulate >= 1 and self.batch % max(self.accumulate, 1) == 0,
                "grad_clip_norm": self.grad_clip_norm >= 0,
                "ema_decay": 0 <= self.ema_decay < 1,
                "data_noise_std": self.data_noise_std >= 0,
                "box_margin": self.box_margin >= 0,
                "sharding": self.sharding in ("ddp", "fsdp"),
                "progressive_sizes": all(
                    0 < a < b for a, b in pairwise((*self.progressive_sizes, 1 << 30))
                ),
                "log_every": self.log_every >= 1,
                "checkpoint_every": self.checkpoint_every >= 1
                and self.checkpoint_every % self.log_every == 0,
                "keep_checkpoints": self.keep_checkpoints >= 1,
                "max_rollbacks": self.max_rollbacks >= 0,
                "preflight": self.preflight in ("off", "warn", "adjust"),
                "select_by": self.select_by in ("none", "mmd", "frechet", "ksd"),
                "select_every": self.select_every >= 0
                and self.select_every % max(self.checkpoint_every, 1) == 0,
                "select_samples": self.select_samples >= 16,
                "patience": self.patience >= 0,
                "threads": self.threads >= 0,
            }.items()
            if not sound
        ]
        if problems:
            raise ValueError(
                f"{', '.join(problems)}; counts must be positive, rates in [0, 1), "
                "checkpoint_every a multiple of log_every, select_every of checkpoint_every and "
                "batch of accumulate; correct them"
            )

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> "Training":
        """Build settings from the values of a recipe, in which tuples are lists."""
        options: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
        return cls(**options)

    def rate(self, step: int) -> float:
        """The learning rate of an update (counted from 0): linear rise, plateau, fall to zero.

        >>> Training(steps=100, warmup=10, decay_fraction=0.5, learning_rate=1.0).rate(75)
        0.5
        """
        rise = min((step + 1) / self.warmup, 1.0) if self.warmup else 1.0
        left = (
            min((self.steps - step) / (self.decay_fraction * self.steps), 1.0)
            if self.decay_fraction
            else 1.0
        )
        fall = left if self.schedule == "linear" else math.sin(left * math.pi / 2) ** 2
        return self.learning_rate * min(rise, fall)
