"""Filters, chains and hidden units of a restricted Boltzmann machine, and its likelihood over
training.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from lowland.data import Dataset, bernoulli_sample
from lowland.energy.sizes import parameter_dtype
from lowland.evaluation.findings import Findings
from lowland.metrics import log_likelihood, log_z
from lowland.nets.boltzmann import RBM
from lowland.registry import Plain
from lowland.seeds import make_generator
from lowland.trained import Model, load, saved_chains
from lowland.trained.placement import place_points

MAX_FILTERS = 64  # hidden units shown, those with the largest weights
NUM_PARTICLES = 10  # fantasy particles
SWEEPS = (0, 1, 10, 100, 1000)
MAX_MAPPED = 200  # test examples in the activation map
LOG_Z_CHAINS = 100  # of each log Z over training: quick; the last machine deserves more
LOG_Z_TEMPERATURES = 1000
MIN_ACTIVITY = 0.05  # a unit that stays nearer than this to off, or to on, is dead or saturated
MAX_CHECKPOINTS = 6  # of which the likelihood is bracketed
MAX_BASE_DATA = 2000  # training examples that a base is fitted to
MAX_SECONDS = 300.0  # for all brackets over training; of real data one may take an hour
LIKELIHOOD_KEYS = ("value", "error", "lower", "upper", "count", "data", "certified")


class OutOfTimeError(RuntimeError):
    """Brackets that took longer than they may."""


class Deadline:
    """A moment after which a call raises OutOfTimeError; calls count steps, as progress does."""

    def __init__(self, seconds: float) -> None:
        self.ends = time.monotonic() + seconds

    def __call__(self, steps: int) -> None:
        if time.monotonic() > self.ends:
            raise OutOfTimeError


def measure_boltzmann(model: Model, found: Findings, say: Callable[[str], object]) -> None:
    """Gather pictures of a restricted Boltzmann machine, and bracket its test log-likelihood at the
    checkpoints that the run kept.
    """
    machine = model.energy
    assert isinstance(machine, RBM)
    generator = make_generator(model.recipe["seed"], "boltzmann", device=model.device)
    say("looking into the machine")
    with torch.no_grad():
        found.arrays |= _filters(machine) | _fantasies(model, machine, generator)
        activity, figures = _activity(model, machine)
    found.arrays |= activity
    say("bracketing the likelihood over training")
    found.figures["boltzmann"] = figures | {
        "likelihood": _bracket_over_training(model, found, generator)
    }


def _filters(machine: RBM) -> dict[str, Tensor]:
    """Return the weights (n, *event) of the hidden units with the largest norms; nothing for
    categorical units, which have several weights each.
    """
    if machine.domain.kind == "categorical":
        return {}
    order = machine.weight.norm(dim=0).argsort(descending=True)[:MAX_FILTERS]
    return {"boltzmann/filters": machine.weight.T[order].reshape(-1, *machine.domain.shape)}


def _fantasies(model: Model, machine: RBM, generator: torch.Generator) -> dict[str, Tensor]:
    """Run chains for some numbers of sweeps, from the chains of training if there are any.

    Returns the draws, and the means p(v | h) that they were drawn from (NaN at the start).
    """
    kept, labels = saved_chains(model), None
    if kept is None:
        x = machine.domain.draw(NUM_PARTICLES, generator, dtype=parameter_dtype(machine))
    else:
        x = kept.x[:NUM_PARTICLES]
        labels = None if kept.labels is None else kept.labels[:NUM_PARTICLES]
    h = machine.draw_hidden(x, generator, labels)
    means, draws = [torch.full_like(machine.visible_mean(h), torch.nan)], [x]
    for sweep in range(1, SWEEPS[-1] + 1):
        if sweep in SWEEPS:
            means.append(machine.visible_mean(h))
        x = machine.draw_visible(h, generator)
        if sweep in SWEEPS:
            draws.append(x)
        h = machine.draw_hidden(x, generator, labels)
    return {
        "boltzmann/means": torch.stack(means),
        "boltzmann/draws": torch.stack(draws),
        "boltzmann/sweeps": torch.tensor(SWEEPS),
        "boltzmann/from_chains": torch.tensor(kept is not None),
    }


def _activity(model: Model, machine: RBM) -> tuple[dict[str, Tensor], Plain]:
    """Compute E[h | x] of some test examples sorted by class, units sorted by their mean over the
    test part; returns arrays, and counts of dead and saturated units.
    """
    test = model.data.test
    parts = (place_points(model, part) for part in test.x.split(1024))
    active = torch.cat([machine.hidden_mean(part).cpu() for part in parts])
    means = active.mean(0)
    shown = torch.arange(min(MAX_MAPPED, len(test)))
    if test.y is not None:
        shown = shown[test.y[shown].argsort(stable=True)]
    dead, saturated = _count_unused(active, machine.hidden_type)
    order = means.argsort(descending=True)
    arrays = {"boltzmann/activity": active[shown][:, order], "boltzmann/unit_means": means[order]}
    if test.y is not None:
        arrays["boltzmann/activity_labels"] = test.y[shown]
    return arrays, {
        "hidden": machine.n_hidden,
        "units": machine.hidden_type,
        "count": len(test),
        "dead": dead,
        "saturated": saturated,
    }


def _count_unused(active: Tensor, units: str) -> tuple[int, int]:
    """Count the hidden units that are off for all examples, and those that are on for all.

    active (N, hidden): E[h | x].
    """
    low, high = active.amin(0), active.amax(0)
    if units == "relu":
        return int((high - low < MIN_ACTIVITY).sum()), 0
    return int((high < MIN_ACTIVITY).sum()), int((low > 1 - MIN_ACTIVITY).sum())


def base_data(data: Dataset) -> Tensor:
    """Return training examples for a base, drawn once where training draws them anew."""
    x = data.train.x[:MAX_BASE_DATA]
    if data.binarization == "stochastic":
        return bernoulli_sample(x, torch.Generator(x.device).manual_seed(0))
    return x


def _bracket_over_training(
    model: Model, found: Findings, generator: torch.Generator
) -> list[Plain]:
    """Bracket the test log-likelihood at some of the checkpoints that the run kept."""
    steps = model.run.steps()
    apart = (len(steps) - 1) / (MAX_CHECKPOINTS - 1)
    chosen = sorted({steps[round(i * apart)] for i in range(MAX_CHECKPOINTS)})
    points: list[Plain] = []
    deadline = Deadline(MAX_SECONDS)
    for step in chosen:
        machine = load(model.run.path, step=step, device=model.device).energy
        try:
            z = log_z(
                machine,
                data=place_points(model, base_data(model.data)),
                chains=LOG_Z_CHAINS,
                num_temperatures=LOG_Z_TEMPERATURES,
                generator=generator,
                progress=deadline,
            )
        except OutOfTimeError:
            found.notes.append(
                f"The likelihood from update {step} on was left out: it took over "
                f"{MAX_SECONDS:.0f} seconds; `lowland evaluate RUN --likelihood` takes its time."
            )
            break
        except ValueError as error:
            found.notes.append(f"The likelihood at update {step} was left out: {error}")
            continue
        likelihood = log_likelihood(
            machine,
            place_points(model, model.data.test.x),
            z,
            binarization=model.data.binarization_note or "binary as stored",
        )
        point = likelihood.to_dict()
        points.append(
            {"step": step, "method": z.method, "verdict": z.verdict}
            | {key: point[key] for key in LIKELIHOOD_KEYS}
        )
    return points
