"""Combine energies by AND, OR and NOT, edit and predict with them."""

from lowland.tasks.composition.compose import (
    Constant,
    EnergyStats,
    anneal_composed,
    compose,
    default_sampler,
    energy_stats,
    sample_composed,
    soft_not,
)
from lowland.tasks.composition.conditional import conditional_sample
from lowland.tasks.composition.edit import EditResult, Interpolation, edit, interpolate
from lowland.tasks.composition.guidance import DenoisedGuidance, LabelGuidance

__all__ = [
    "Constant",
    "DenoisedGuidance",
    "EditResult",
    "EnergyStats",
    "Interpolation",
    "LabelGuidance",
    "anneal_composed",
    "compose",
    "conditional_sample",
    "default_sampler",
    "edit",
    "energy_stats",
    "interpolate",
    "sample_composed",
    "soft_not",
]
