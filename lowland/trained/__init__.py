"""Trained runs, loaded once: samples, energies, detectors, restorations, edits."""

from lowland.trained.composition import compose_models
from lowland.trained.draws import draw_prior, draw_samples, saved_chains
from lowland.trained.measurement import operator_of
from lowland.trained.model import Model, load
from lowland.trained.training import fit

__all__ = [
    "Model",
    "compose_models",
    "draw_prior",
    "draw_samples",
    "fit",
    "load",
    "operator_of",
    "saved_chains",
]
