"""Distributions known in closed form, to test samplers and estimators against.

Every target is an energy with `log_z` (a float: log ∫ exp(−E), or log Σ) and `draw(count,
generator)` (independent exact draws). On the real line both are formulas (`continuous`). On
lattices (`lattices`) they come from the exact solution of the Ising model on a torus and from
transfer matrices (`exact`), where the lattice is narrow enough; long chains of large lattices come
from `multispin`, which updates 64 of them at a time. `bases` has the distributions that paths
begin at, fitted to data.
"""

from lowland.targets.bases import Bernoulli, Categorical, Normal, Uniform, fit_base
from lowland.targets.continuous import Banana, Funnel, Gaussian, GaussianMixture
from lowland.targets.exact import ExactSampler, mean_energy
from lowland.targets.graphs import MaxCut
from lowland.targets.lattices import Ising, Potts

__all__ = [
    "Banana",
    "Bernoulli",
    "Categorical",
    "ExactSampler",
    "Funnel",
    "Gaussian",
    "GaussianMixture",
    "Ising",
    "MaxCut",
    "Normal",
    "Potts",
    "Uniform",
    "fit_base",
    "mean_energy",
]
