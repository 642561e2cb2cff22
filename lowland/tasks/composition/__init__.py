"""Combine energies by AND, OR and NOT, edit and predict with them."""

from lowland.tasks.composition.compose import (
    Level,
    Scale,
    anneal_composed,
    bounded,
    compose,
    corrected,
    sample_composed,
    scale_of,
)
from lowland.tasks.composition.edit import Edited, Interpolation, edit, interpolate
from lowland.tasks.composition.guidance import Attribute, Cleaned
from lowland.tasks.composition.predict import predict

__all__ = [
    "Attribute",
    "Cleaned",
    "Edited",
    "Interpolation",
    "Level",
    "Scale",
    "anneal_composed",
    "bounded",
    "compose",
    "corrected",
    "edit",
    "interpolate",
    "predict",
    "sample_composed",
    "scale_of",
]
