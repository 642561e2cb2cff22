"""A trained run, loaded once: samples, energies, detectors, restorations, edits."""

from lowland.trained.composition import compose_models
from lowland.trained.draws import draw, kept_chains, prior_bank
from lowland.trained.measurement import operator_of
from lowland.trained.model import Model, load

__all__ = [
    "Model",
    "compose_models",
    "draw",
    "kept_chains",
    "load",
    "operator_of",
    "prior_bank",
]
