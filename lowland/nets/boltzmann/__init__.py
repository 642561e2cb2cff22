"""Boltzmann machines: restricted ones, with Bernoulli, Gaussian, categorical and rectified units, and labels."""

from lowland.nets.boltzmann.rbm import RBM

__all__ = ["RBM"]
