"""Architectures, each an Energy, all without batch norm."""

from lowland.nets.boltzmann import DBM, DBN, RBM
from lowland.nets.images import IGEBM, ConvNet
from lowland.nets.vectors import MLP, NoiseMLP

__all__ = ["DBM", "DBN", "IGEBM", "MLP", "RBM", "ConvNet", "NoiseMLP"]
