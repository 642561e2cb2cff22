"""A Boltzmann machine looked into: its filters, its chains over time, its hidden units, its
likelihood while it learned.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lowland.data import bernoulli_sample
from lowland.evaluation.findings import Findings
from lowland.metrics import log_likelihood, log_z
from lowland.nets.boltzmann import RBM
from lowland.seeds import make_generator
from lowland.trained import Model, kept_chains, load

FILTERS = 64  # hidden units shown, those with the largest weights
CHAINS = 10  # fantasy particles
SWEEPS = (0, 1, 10, 100, 1000)
MAPPED = 200  # test examples in the activation map
ANNEALED, RUNGS = (
    100,
    1000,
)  # chains and rungs of each log Z over training: quick; the last machine deserves more
STILL = 0.05  # a unit that never gets further than this from off, or from on, is dead or saturated
POINTS = 6  # of the curve, at most
DATA = 2000  # training examples that a base is fitted to


def measure_boltzmann(model: Model, found: Findings, say: Callable[[str], object]) -> None:
    """Pictures of a restricted Boltzmann machine, and a bracket of its test log-likelihood at each
    checkpoint kept.
    """
    machine = model.energy
    assert isinstance(machine, RBM)
    generator = make_generator(model.recipe["seed"], "boltzmann")
    say("looking into the machine")
    with torch.no_grad():
        found.arrays |= _filters(machine) | _fantasies(model, machine, generator)
        activity, figures = _activity(model, machine)
    found.arrays |= activity
    say("bracketing the likelihood over training")
    found.figures["boltzmann"] = figures | {"likelihood": _over_training(model, found, generator)}


def _filters(machine: RBM) -> dict[str, Tensor]:
    """Weights (n, *event) of the hidden units with the largest norms, where each visible unit has
    one weight a hidden unit.
    """
    if machine.domain.kind == "categorical":
        return {}
    order = machine.weight.norm(dim=0).argsort(descending=True)[:FILTERS]
    return {"boltzmann/filters": machine.weight.T[order].reshape(-1, *machine.domain.shape)}


def _fantasies(model: Model, machine: RBM, generator: torch.Generator) -> dict[str, Tensor]:
    """Chains at some numbers of sweeps: what was drawn, and the means p(v | h) that it was drawn
    from (NaN at the start).
    """
    kept = kept_chains(model)
    x = machine.domain.draw(CHAINS, generator) if kept is None else kept.x[:CHAINS]
    labels = None if kept is None or kept.labels is None else kept.labels[:CHAINS]
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


def _activity(model: Model, machine: RBM) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """E[h | x] of some test examples, sorted by class, units sorted by their mean over the test
    part; and these means.
    """
    test = model.data.test
    active = torch.cat([machine.hidden_mean(part) for part in test.x.split(1024)])
    means = active.mean(0)
    shown = torch.arange(min(MAPPED, len(test)))
    if test.y is not None:
        shown = shown[test.y[shown].argsort(stable=True)]
    dead, saturated = _useless(active, machine.units)
    order = means.argsort(descending=True)
    arrays = {"boltzmann/activity": active[shown][:, order], "boltzmann/unit_means": means[order]}
    if test.y is not None:
        arrays["boltzmann/activity_labels"] = test.y[shown]
    return arrays, {
        "hidden": machine.hidden,
        "units": machine.units,
        "count": len(test),
        "dead": dead,
        "saturated": saturated,
    }


def _useless(active: Tensor, units: str) -> tuple[int, int]:
    """How many hidden units say nothing about any example, being off for all, or on for all. active
    (N, hidden).
    """
    low, high = active.amin(0), active.amax(0)
    if units == "relu":
        return int((high - low < STILL).sum()), 0
    return int((high < STILL).sum()), int((low > 1 - STILL).sum())


def settled_part(data: Any) -> Tensor:
    """Some training examples, drawn once where they are drawn anew in training."""
    x = data.train.x[:DATA]
    return (
        bernoulli_sample(x, torch.Generator(x.device).manual_seed(0))
        if data.binarization == "stochastic"
        else x
    )


def _over_training(
    model: Model, found: Findings, generator: torch.Generator
) -> list[dict[str, Any]]:
    """Test log-likelihood between its two ends at the checkpoints that the run kept."""
    steps = model.run.steps()
    chosen = sorted(
        {steps[round(i * (len(steps) - 1) / max(POINTS - 1, 1))] for i in range(POINTS)}
    )
    points = []
    for step in chosen:
        machine = load(model.run.path, step=step).energy
        try:
            z = log_z(
                machine,
                data=settled_part(model.data),
                chains=ANNEALED,
                num_temperatures=RUNGS,
                generator=generator,
            )
        except ValueError as error:
            found.notes.append(f"The likelihood at update {step} was left out: {error}")
            continue
        likelihood = log_likelihood(
            machine,
            model.data.test.x,
            z,
            binarization=model.data.binarization_note or "binary as stored",
        )
        point = likelihood.to_dict()
        points.append(
            {"step": step, "method": z.method, "verdict": z.verdict}
            | {key: point[key] for key in KEPT}
        )
    return points


KEPT = ("value", "error", "lower", "upper", "count", "data", "certified")
