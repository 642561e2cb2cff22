"""Energies, their algebra, their gradients, and the checks at the public door.

`algebra` holds the classes, `gradient` evaluates them, `checks` refuses what is not an energy.
"""

from lowland.energy.algebra import Energy, Function, Given, Mixture, Sum, lift, mixture
from lowland.energy.checks import (
    check_energy,
    check_finite,
    check_independent,
    check_normalisable,
    check_points,
    check_values,
)
from lowland.energy.gradient import (
    by_autograd,
    differentiate,
    energy_values,
    frozen,
    score_alone,
    score_with_graph,
    value_and_score,
)

__all__ = [
    "Energy",
    "Function",
    "Given",
    "Mixture",
    "Sum",
    "by_autograd",
    "check_energy",
    "check_finite",
    "check_independent",
    "check_normalisable",
    "check_points",
    "check_values",
    "differentiate",
    "energy_values",
    "frozen",
    "lift",
    "mixture",
    "score_alone",
    "score_with_graph",
    "value_and_score",
]
