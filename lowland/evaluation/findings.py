"""Figures, arrays and notes that an evaluation gathers."""

from dataclasses import dataclass, field

from torch import Tensor

from lowland.registry import Plain


@dataclass
class Findings:
    """Results of an evaluation: figures for evaluation.json, arrays for evaluation.safetensors,
    notes for the reader.
    """

    figures: Plain = field(default_factory=dict)
    arrays: dict[str, Tensor] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
