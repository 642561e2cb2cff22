"""A trained run with everything needed to examine it, and what an examination gathers."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from lowland.data import Dataset, binarize, materialize
from lowland.energy import Energy
from lowland.run import Run, load
from lowland.tasks import bind_smallest_sigma, noise_levels
from lowland.training import load_recipe_data


@dataclass
class Findings:
    """What an evaluation gathers: figures for evaluation.json, arrays for evaluation.safetensors,
    notes.
    """

    figures: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, Tensor] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass
class Subject:
    """A trained run with everything needed to examine it. `energy` may take labels; `marginal` is a
    function of x alone.

    The data set is loaded when first asked for: sampling, scoring and restoring do without it.
    """

    run: Run
    recipe: dict[str, Any]
    energy: Energy
    marginal: Energy
    sampler: Any
    given: Dataset | None = None

    @cached_property
    def data(self) -> Dataset:
        """The data set that the run was trained on; a training part that is drawn anew each time is
        here drawn once.
        """
        return materialize(self.given or load_recipe_data(self.recipe))

    @property
    def shape(self) -> tuple[int, ...]:
        """The event shape."""
        return self.energy.domain.shape

    def standardised(self, x: Tensor) -> Tensor:
        """Values as they stand in a file, as the energy sees them: made binary as the data were, or
        standardized.
        """
        about = self.run.read_json("data.json")
        if about.get("binarization"):
            return binarize(x, about["binarization"])
        return (
            (x - x.new_tensor(about["mean"])) / x.new_tensor(about["scale"]) if about["mean"] else x
        )

    def original(self, x: Tensor) -> Tensor:
        """The inverse of `standardised`."""
        about = self.run.read_json("data.json")
        return (
            x * x.new_tensor(about["scale"]) + x.new_tensor(about["mean"]) if about["mean"] else x
        )

    @property
    def sigmas(self) -> list[float] | None:
        """Falling noise levels along which an energy E(x, σ) is sampled; None for other
        energies.
        """
        return noise_levels(self.energy, self.recipe)

    @property
    def classes(self) -> int:
        """Classes that the energy can be asked for; 0 for none."""
        return getattr(self.energy, "classes", 0)


def subject(run: Run, data: Dataset | None = None) -> Subject:
    """Load a run for examination, with averaged weights."""
    energy, sampler, recipe = load(run.path)
    marginal = getattr(energy, "on_data", None) or bind_smallest_sigma(
        energy, noise_levels(energy, recipe)
    )
    return Subject(run, recipe, energy, marginal, sampler, data)
