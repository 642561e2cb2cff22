"""Energies, their algebra, capabilities and gradients, and the checks at the public door.

`algebra` holds the classes, `capabilities` what an energy may know beyond its values; `gradient`
and `evaluate` compute; `checks` refuses what is not an energy.
"""

from lowland.energy.algebra import (
    Energy,
    Function,
    Given,
    Sum,
    Wrapper,
    lift,
)
from lowland.energy.capabilities import (
    ConditionLike,
    Gibbs,
    LabelCondition,
    Latent,
    Learner,
    NoiseCondition,
    Paths,
    count_classes,
    data_domain,
    draw_start,
    gibbs_of,
    given_channels,
    labels_of,
    latent_of,
    learner_of,
    noise_of,
)
from lowland.energy.checks import (
    check_energy,
    check_normalisable,
    check_values,
)
from lowland.energy.evaluate import energy_values, value_and_score
from lowland.energy.gradient import (
    by_autograd,
    differentiate,
    score_alone,
    score_with_graph,
)
from lowland.energy.gradient_checks import check_gradient
from lowland.energy.independence import check_independent
from lowland.energy.mixtures import Mixture, mixture
from lowland.energy.points import check_finite, check_points, explain_mismatch
from lowland.energy.views import freeze, freeze_all, source_of, view_module

__all__ = [
    "ConditionLike",
    "Energy",
    "Function",
    "Gibbs",
    "Given",
    "LabelCondition",
    "Latent",
    "Learner",
    "Mixture",
    "NoiseCondition",
    "Paths",
    "Sum",
    "Wrapper",
    "by_autograd",
    "check_energy",
    "check_finite",
    "check_gradient",
    "check_independent",
    "check_normalisable",
    "check_points",
    "check_values",
    "count_classes",
    "data_domain",
    "differentiate",
    "draw_start",
    "energy_values",
    "explain_mismatch",
    "freeze",
    "freeze_all",
    "gibbs_of",
    "given_channels",
    "labels_of",
    "latent_of",
    "learner_of",
    "lift",
    "mixture",
    "noise_of",
    "score_alone",
    "score_with_graph",
    "source_of",
    "value_and_score",
    "view_module",
]
