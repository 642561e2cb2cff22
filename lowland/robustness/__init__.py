"""Attacks on classifiers, and accuracy under the worst of them."""

from lowland.robustness.accuracy import (
    Robustness,
    SanityCheck,
    robust_accuracy,
    sanity_checks,
    standard_attacks,
)
from lowland.robustness.adaptive import AdaptivePGD
from lowland.robustness.attacks import CW, PGD, Square, TransferAttack

__all__ = [
    "CW",
    "PGD",
    "AdaptivePGD",
    "Robustness",
    "SanityCheck",
    "Square",
    "TransferAttack",
    "robust_accuracy",
    "sanity_checks",
    "standard_attacks",
]
