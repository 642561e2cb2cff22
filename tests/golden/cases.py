"""Every case of the golden record, by name."""

from . import draws, estimates, fits, uses  # noqa: F401 - importing them declares their cases
from .registry import CASES, difference

__all__ = ["CASES", "difference"]
