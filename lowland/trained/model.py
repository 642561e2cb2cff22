"""Trained runs in memory, each read and verified once.

`lowland.load` makes a `Model`. Its methods are short roads into `lowland.tasks`, with the settings
that the run's recipe holds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from lowland.data import Dataset, binarize, materialize
from lowland.data.dataset import center, uncenter
from lowland.data.format import Format, Frame, read_frame
from lowland.devices import AUTO, CPU, pick_device, place
from lowland.energy import Energy, count_classes, energy_values, latent_of
from lowland.energy.checks import check_points
from lowland.metrics import LogLikelihood, LogZ, log_likelihood
from lowland.registry import Plain, build
from lowland.run import Checkpoint, Run, RunError
from lowland.samplers import Sampler
from lowland.scalars import read_number
from lowland.tasks import bind_smallest_sigma, noise_levels
from lowland.trained.detector import fit_detector
from lowland.trained.draws import draw_samples
from lowland.trained.editing import edit_with, interpolate_with, predict_with
from lowland.trained.placement import place_points
from lowland.trained.purification import purify_with
from lowland.trained.rebuilding import read_recipe_of, rebuild_energy
from lowland.trained.restoration import restore_with
from lowland.training import load_recipe_data
from lowland.training.identity import check_identity
from lowland.training.kept_data import read_examples


@dataclass(repr=False)
class Model:
    """A trained run in memory, with `sample`, `energies`, `log_likelihood`, `detector`, `restore`,
    `purify`, `edit`, `interpolate` and `predict`, which take and return points in the units of the
    energy.

    run: the directory; recipe: its plain values; energy: E(x), E(x, y) with labels or E(x, σ) with
    noise levels, in eval mode; marginal: the energy as a function of x alone; sampler: that of the
    recipe's [generation], None for flow; latest: the newest checkpoint, with the chains and the
    partner network of training alone; digest: SHA-256 of the file of weights, which everything that
    is derived from them carries; device: where energy and marginal live and everything is computed.

    Points of any device are taken, and sent to the model's; what comes back lies there. A generator
    of the CPU may be passed whatever the device is: it then seeds one of the device.

    >>> import lowland, torch
    >>> model = lowland.load("mnist")
    >>> model.sample(2, generator=torch.Generator().manual_seed(0)).x.shape
    torch.Size([2, 1, 28, 28])
    """

    run: Run
    recipe: Plain
    energy: Energy
    marginal: Energy
    sampler: Sampler | None
    latest: Checkpoint
    dataset: Dataset | None = None
    digest: str = ""
    device: torch.device = field(default_factory=lambda: torch.device(CPU))

    def __repr__(self) -> str:
        return (
            f"Model({self.name}: {type(self.energy).__name__} over {self.energy.domain}, step "
            f"{self.latest.step} of {self.run.path}, on {self.device})"
        )

    @cached_property
    def data(self) -> Dataset:
        """Return the data set that the run was trained on, loaded when first asked for.

        A training part that is drawn anew in every batch is drawn once here. Raises RunError if the
        data are no longer those that the run was trained on.
        """
        data = self.dataset or read_examples(self.run, self.recipe)
        data = data or load_recipe_data(self.recipe)
        check_identity(self.run, data)
        return materialize(data)

    @cached_property
    def description(self) -> Plain:
        """Return name, classes, sizes, mean and scale of the data, as training wrote them."""
        about = self.run.data
        if about["mean"] and (len(about["mean"]),) != self.shape:
            raise RunError(
                f"{self.run.path / 'data.json'} has {len(about['mean'])} means for events of shape "
                f"{self.shape}; there is one for each column; restore it from a copy"
            )
        return about

    @property
    def name(self) -> str:
        """Return the name of the recipe."""
        return str(self.recipe["name"])

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the event shape."""
        return self.energy.domain.shape

    @property
    def threads(self) -> int:
        """Return the CPU threads that the recipe asks for; 0 for torch's own choice."""
        return int(self.recipe["training"]["threads"])

    @cached_property
    def sigmas(self) -> list[float] | None:
        """Return the falling noise levels along which an energy E(x, σ) is sampled, or None."""
        return noise_levels(self.energy, self.recipe)

    @property
    def classes(self) -> int:
        """Return the number of classes that the energy can be asked for; 0 for none."""
        return count_classes(self.energy)

    @cached_property
    def format(self) -> Format:
        """Return what is known of the points that the run reads: domain, names of columns."""
        return Format.of(self.energy.domain, self.description)

    def transform(self, x: Tensor | Frame) -> Tensor:
        """Bring values as they stand in a file to the units of the energy, float32: made binary as
        the data were, or standardized (in float64). Columns of a DataFrame are taken by name.
        """
        about = self.description
        if isinstance(x, Frame):
            x = read_frame(x, self.format)
        if about.get("binarization"):
            return binarize(x.float(), about["binarization"])
        return center(x, about["mean"], about["scale"]).float()

    def inverse_transform(self, x: Tensor) -> Tensor:
        """Bring points in the units of the energy back to values as they stand in a file: float64
        where columns were standardized.
        """
        return uncenter(x, self.description["mean"], self.description["scale"])

    def to(self, device: str | torch.device) -> Model:
        """Move energy and marginal to a device, as `lowland.load` takes it; return this model.

        Raises ValueError for a device that is not there, or that cannot hold the weights.
        """
        target = pick_device(device)
        for tensor in (*self.marginal.parameters(), *self.marginal.buffers()):
            place(tensor.flatten()[:0], target)  # refuses, before any is moved
        self.energy.to(target)
        self.marginal.to(target)
        self.device = target
        return self

    def energies(self, x: Tensor | Frame) -> Tensor:
        """Compute E(x) (N,) of points x (N, *event), labels and noise levels averaged out.

        A DataFrame is brought to the units of the energy first, by `transform`. Raises ValueError
        for points that the domain cannot hold.
        """
        if isinstance(x, Frame):
            x = self.transform(x)
        check_points(self.marginal, x, sent=True)
        return energy_values(self.marginal, place_points(self, x))

    def log_likelihood(self, x: Tensor, log_z: LogZ | float) -> LogLikelihood:
        """Compute the mean log-likelihood of points x (N, *event), given log Z of the marginal: a
        result of `log_z`, or a number. Raises ValueError for other points and other values.
        """
        known = log_z if isinstance(log_z, LogZ) else read_number("log_z", log_z)
        how = str(self.description.get("binarization_note", ""))
        return log_likelihood(self.marginal, place_points(self, x), known, binarization=how)

    # the functions of this folder that take a model first
    sample = draw_samples
    detector = fit_detector
    restore = restore_with
    purify = purify_with
    edit = edit_with
    interpolate = interpolate_with
    predict = predict_with


def load(
    path: str | Path,
    *,
    weights: str = "ema",
    step: int | None = None,
    data: Dataset | None = None,
    energy: Energy | Callable[..., Tensor] | None = None,
    code: Callable[..., object] | None = None,
    device: str | torch.device = AUTO,
) -> Model:
    """Read a run: its recipe, energy, sampler and newest checkpoint. Nothing is unpickled.

    path: a run directory, or a name of `lowland.list_pretrained()`; weights: "ema" (averaged; the
    default) or "energy" (the last iterate); step: a checkpoint; unless given the best if training
    selected one, else the newest whole one; data: the data set that was passed to `fit`, in place
    of the one that the recipe names; energy: a network or energy built like the one that was passed
    to `fit`, which takes the weights; code: the class of that network, or a function that builds
    it: one of the two is needed where the class is none of lowland's; device: where the model
    computes, "auto" (the first of CUDA, MPS and XPU that can be used, else the CPU), "cpu", "cuda",
    "cuda:1", "mps", ...

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
    target = pick_device(device)
    run = Run.open(path)
    recipe = read_recipe_of(run)
    latest = run.load_checkpoint(step)
    chosen = latest
    if step is None and run.best_step(latest) != latest.step:
        chosen = run.load_checkpoint(run.best_step(latest))
    energy = rebuild_energy(run, recipe, chosen, weights, energy, code)
    own = latent_of(energy).marginal
    marginal = own() if own else bind_smallest_sigma(energy, noise_levels(energy, recipe))
    sampler = recipe["generation"]["sampler"]
    if sampler:
        sampler = build("sampler", sampler)
    kept = {name: t for name, t in latest.tensors.items() if name in ("chains", "partner")}
    latest = latest._replace(tensors=kept)
    digest = chosen.digests[f"{weights}.safetensors"]
    model = Model(run, recipe, energy, marginal, sampler, latest, data, digest)
    return model.to(target)
