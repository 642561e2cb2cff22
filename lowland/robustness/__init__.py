"""Attacks on classifiers, and accuracy under the worst of them."""

from lowland.robustness.accuracy import Check, Robustness, robust_accuracy, sanity, standard
from lowland.robustness.adaptive import Adaptive
from lowland.robustness.attacks import CW, PGD, Square, Transfer

__all__ = [
    "CW",
    "PGD",
    "Adaptive",
    "Check",
    "Robustness",
    "Square",
    "Transfer",
    "robust_accuracy",
    "sanity",
    "standard",
]
