"""Composition of energies by AND, OR and NOT; guidance, editing and conditional sampling."""

from lowland.tasks.composition.compose import anneal_composed, compose, sample_composed, soft_not
from lowland.tasks.composition.conditional import conditional_sample
from lowland.tasks.composition.edit import edit, interpolate
from lowland.tasks.composition.guidance import DenoisedGuidance, LabelGuidance

__all__ = [
    "DenoisedGuidance",
    "LabelGuidance",
    "anneal_composed",
    "compose",
    "conditional_sample",
    "edit",
    "interpolate",
    "sample_composed",
    "soft_not",
]
