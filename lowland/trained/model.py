"""A trained run in memory: read once, verified once, and used from then on.

`lowland.load` makes a `Model`. Its methods are short roads into `lowland.tasks`, with the settings
that the run's recipe holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lowland.data import Dataset, binarize, materialize
from lowland.domain import Domain
from lowland.energy import Energy, count_classes, energy_values, latent_of
from lowland.metrics import LogLikelihood, LogZ, log_likelihood
from lowland.registry import build
from lowland.run import Checkpoint, Run
from lowland.samplers import Sampler
from lowland.tasks import (
    Detector,
    EditResult,
    Interpolation,
    Operator,
    Restoration,
    Samples,
    bind_smallest_sigma,
    noise_levels,
)
from lowland.trained import detector, draws, editing, purification, restoration
from lowland.training import load_recipe_data

Progress = Callable[[int], object] | None


@dataclass
class Model:
    """A trained run in memory. Its methods take and return points in the units of the energy.

    run: the directory; recipe: its plain values; energy: E(x), E(x, y) with labels or E(x, σ) with
    noise levels, in eval mode; marginal: the energy as a function of x alone; sampler: that of the
    recipe's [generation], None for flow; latest: the newest checkpoint, with the chains and the
    partner network of training alone.
    """

    run: Run
    recipe: dict[str, Any]
    energy: Energy
    marginal: Energy
    sampler: Sampler | None
    latest: Checkpoint
    dataset: Dataset | None = None

    @cached_property
    def data(self) -> Dataset:
        """The data set that the run was trained on, loaded when first asked for.

        A training part that is drawn anew in every batch is drawn once here.
        """
        return materialize(self.dataset or load_recipe_data(self.recipe))

    @cached_property
    def description(self) -> dict[str, Any]:
        """The data's name, classes, sizes, mean and scale, as training wrote them down."""
        return self.run.read_json("data.json")

    @property
    def name(self) -> str:
        """The name of the recipe."""
        return str(self.recipe["name"])

    @property
    def shape(self) -> tuple[int, ...]:
        """The event shape."""
        return self.energy.domain.shape

    @property
    def threads(self) -> int:
        """CPU threads that the recipe asks for; 0 for torch's own choice."""
        return int(self.recipe["training"]["threads"])

    @cached_property
    def sigmas(self) -> list[float] | None:
        """Falling noise levels along which an energy E(x, σ) is sampled; None for others."""
        return noise_levels(self.energy, self.recipe)

    @property
    def classes(self) -> int:
        """Number of classes that the energy can be asked for; 0 for none."""
        return count_classes(self.energy)

    def transform(self, x: Tensor) -> Tensor:
        """Bring values as they stand in a file to the units of the energy: made binary as the data
        were, or standardized.
        """
        about = self.description
        if about.get("binarization"):
            return binarize(x, about["binarization"])
        if not about["mean"]:
            return x
        return (x - x.new_tensor(about["mean"])) / x.new_tensor(about["scale"])

    def inverse_transform(self, x: Tensor) -> Tensor:
        """Bring points in the units of the energy back to values as they stand in a file."""
        about = self.description
        if not about["mean"]:
            return x
        return x * x.new_tensor(about["scale"]) + x.new_tensor(about["mean"])

    def sample(
        self,
        count: int,
        *,
        generator: torch.Generator,
        labels: Tensor | None = None,
        frames: int = 0,
        progress: Progress = None,
    ) -> Samples:
        """Draw `count` samples as the recipe's [generation] says.

        labels (count,): classes asked for, all evenly unless given; frames: states of the chains to
        keep as a film; progress: called with the number of steps done.

        >>> import lowland, torch
        >>> model = lowland.load("mnist")
        >>> model.sample(2, generator=torch.Generator().manual_seed(0)).x.shape
        torch.Size([2, 1, 28, 28])
        """
        return draws.draw(self, count, generator, labels=labels, frames=frames, progress=progress)

    def energies(self, x: Tensor) -> Tensor:
        """Compute E(x) (N,) of points x (N, *event), labels and noise levels averaged out."""
        return energy_values(self.marginal, x)

    def log_likelihood(self, x: Tensor, log_z: LogZ | float) -> LogLikelihood:
        """Compute the mean log-likelihood of points x (N, *event), given log Z of the marginal."""
        return log_likelihood(self.marginal, x, log_z)

    def detector(self, score: str = "energy", calibration: Tensor | None = None) -> Detector:
        """Fit a detector of outliers with an outlier score, by name.

        calibration (N, *event): inliers that the run was not trained on; its own calibration part
        unless given. Scores that learn take training points.
        """
        return detector.fit_detector(self, score, calibration)

    def restore(
        self,
        operator: Operator,
        y: Tensor,
        sigma: float,
        *,
        generator: torch.Generator,
        draws: int | None = None,
        method: str = "sample",
        progress: Progress = None,
    ) -> Restoration:
        """Draw from the posterior of x given y = A x + σ ε, with the run as prior.

        y (B, *measured); draws: for each row, the recipe's unless given; method: "sample", or "map"
        for the most likely image alone. Settings come from the recipe's [restoration].
        """
        return restoration.restore_with(
            self,
            operator,
            y,
            sigma,
            generator=generator,
            draws=draws,
            method=method,
            progress=progress,
        )

    def purify(self, x: Tensor, *, generator: torch.Generator, **changes: Any) -> Tensor:
        """Move points x (N, *event) to where data lie, as the recipe's [purification] says.

        changes: settings of `lowland.tasks.purify` to use in place of the recipe's.
        """
        return purification.purify_with(self, x, generator=generator, **changes)

    def edit(
        self, x: Tensor, label: int, *, generator: torch.Generator, **options: Any
    ) -> EditResult:
        """Move points x (N, *event) towards a class. Options: see `trained.editing.edit_with`."""
        return editing.edit_with(self, x, label, generator=generator, **options)

    def interpolate(self, a: Tensor, b: Tensor, points: int = 9, **options: Any) -> Interpolation:
        """Find a path of low energy from a to b (B, *event). Options: see `interpolate_with`."""
        return editing.interpolate_with(self, a, b, points, **options)

    def predict(
        self, x: Tensor, channels: Sequence[int] = (), *, generator: torch.Generator, **options: Any
    ) -> Restoration:
        """Draw the channels of x (B, C, H, W) that are not given. Options: see `predict_with`."""
        return editing.predict_with(self, x, channels, generator=generator, **options)


def load(
    path: str | Path,
    *,
    weights: str = "ema",
    step: int | None = None,
    data: Dataset | None = None,
) -> Model:
    """Read a run: its recipe, energy, sampler and newest checkpoint. Nothing is unpickled.

    path: a run directory, or the name of a run that is shipped with lowland (`lowland.shipped()`);
    weights: "ema" (averaged; the default) or "energy" (the last iterate); step: a checkpoint;
    unless given the best if training selected one, else the newest whole one; data: to be used in
    place of the data set that the recipe names.

    Every file of a checkpoint is read and verified once. Raises RunError, a ValueError, if the run
    cannot be read.

    >>> import lowland
    >>> lowland.load("digits").shape
    (1, 8, 8)
    """
    if weights not in ("ema", "energy"):
        raise ValueError(
            f"weights is {weights!r}; it must be 'ema' or 'energy'; 'ema' is the default"
        )
    run = Run.open(path)
    latest = run.load_checkpoint(step)
    best = run.best_step(latest) if step is None else latest.step
    chosen = latest if best == latest.step else run.load_checkpoint(best)
    recipe = run.recipe
    domain = Domain.from_dict(chosen.state["domain"])
    energy = build("energy", {**recipe["energy"], "domain": domain})
    energy.load_state_dict(chosen.tensors[weights])
    energy.eval()
    own = latent_of(energy).marginal
    marginal = (
        own() if own is not None else bind_smallest_sigma(energy, noise_levels(energy, recipe))
    )
    chains = recipe["generation"]["sampler"]
    sampler = build("sampler", chains) if chains else None
    kept = {name: t for name, t in latest.tensors.items() if name in ("chains", "partner")}
    latest = latest._replace(tensors=kept)
    return Model(run, recipe, energy, marginal, sampler, latest, data)
