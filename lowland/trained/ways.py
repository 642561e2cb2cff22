"""How a network of the user's is sampled, restored from and evaluated, where nobody says: sections
of a recipe, chosen by the objective with which it is trained.
"""

import math

from lowland.config.sections import Restoration, list_defaults
from lowland.data import Dataset
from lowland.energy import Energy, noise_of
from lowland.objectives import (
    DSM,
    Cooperative,
    DiffusionRecovery,
    EnergyMatching,
    EquilibriumMatching,
    Objective,
    ShortRunML,
)
from lowland.registry import Plain, spec
from lowland.samplers import Langevin, Sampler, initial_sampler

LONG = 1000  # steps of chains of vectors
FLOW = {"method": "flow", "num_levels": 24}
LEAST_SAMPLES = 16
FAR, NEAR = 10.0, 0.02  # first and last noise level, in standard deviations of the data
DESCENT = Langevin(0.01, temperature=1e-4)  # to where an equilibrium landscape lies still
DESCENT_STEPS = 40
REVISIONS = 30  # steps of chains from what a generator makes


def choose_sections(
    energy: Energy,
    data: Dataset,
    objective: Objective,
    sampler: Sampler | None,
    noise: float = 0.0,
) -> Plain:
    """Return the sections [generation], [restoration] and [evaluation] of a recipe as plain values.

    sampler: the one that chains move by in training, None for an objective without chains; noise:
    standard deviation of that on the data, which samples lose at the end.
    """
    generation = list_defaults()["generation"] | _generate(energy, data, objective, sampler)
    if noise and noise_of(energy) is None:
        generation["denoise_sigma"] = noise
    return {
        "generation": generation,
        "restoration": _restore(energy, generation),
        "evaluation": list_defaults()["evaluation"] | _evaluate(data),
        "purification": None,
    }


def _generate(
    energy: Energy, data: Dataset, objective: Objective, sampler: Sampler | None
) -> Plain:
    """Return how samples are drawn."""
    spread = _spread(data)
    levels = {"sigma_max": FAR * spread, "sigma_min": NEAR * spread}
    own = spec(sampler or initial_sampler(energy, data.train.x))
    chains: Plain = {"method": "chains", "sampler": own}
    if len(energy.domain.shape) == 1:
        chains["steps"] = LONG
    if isinstance(objective, DiffusionRecovery):
        least = min(objective.sigmas)
        steps = objective.steps * (len(objective.sigmas) - 1)
        return chains | {"method": "recovery", "steps": steps, "denoise_sigma": least}
    if isinstance(objective, DSM) and noise_of(energy) is None:
        return chains | {"denoise_sigma": max(objective.sigmas)}
    if noise_of(energy) is not None:
        return FLOW | levels
    if isinstance(objective, EquilibriumMatching):
        return chains | {"sampler": spec(DESCENT), "steps": DESCENT_STEPS}
    if isinstance(objective, Cooperative):
        return chains | {"start": "partner", "steps": REVISIONS}
    if isinstance(objective, EnergyMatching):
        return chains | {"steps": 8 * max(objective.arrival_steps, 1)}
    if isinstance(objective, ShortRunML):
        return chains | {"steps": objective.steps}
    return chains


def _spread(data: Dataset) -> float:
    """Return the standard deviation of all numbers of the training part, to two digits."""
    found = float(data.train.x[:10_000].double().std(correction=0))
    return float(f"{found:.2g}") if math.isfinite(found) and found > 0 else 1.0


def _restore(energy: Energy, generation: Plain) -> Plain | None:
    """Return how images are restored; None for what is no continuous image."""
    if len(energy.domain.shape) != 3 or energy.domain.kind not in ("real", "box"):
        return None
    defaults = {
        name: field.get_default(call_default_factory=True)
        for name, field in Restoration.model_fields.items()
    }
    if noise_of(energy) is not None:
        return defaults | {"method": "split-gibbs"}
    kept = ("sampler", "denoise_sigma")
    return defaults | {"method": "chains"} | {name: generation[name] for name in kept}


def _evaluate(data: Dataset) -> Plain:
    """Return what evaluation can promise and compare with so many held-out examples."""
    alpha = list_defaults()["evaluation"]["alpha"]
    least = math.ceil(1000 / (len(data.calibration) + 1)) / 1000
    return {"alpha": max(alpha, min(least, 0.5))}
