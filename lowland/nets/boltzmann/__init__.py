"""Boltzmann machines: restricted ones, with Bernoulli, Gaussian, categorical and rectified units,
and labels; deep ones.
"""

from lowland.nets.boltzmann.dbm import DBM
from lowland.nets.boltzmann.dbn import DBN
from lowland.nets.boltzmann.rbm import RBM

__all__ = ["DBM", "DBN", "RBM"]
