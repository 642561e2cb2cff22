"""Architectures, each an Energy, all without batch norm."""

from lowland.nets.images import IGEBM, ConvNet
from lowland.nets.vectors import MLP, NoiseMLP

__all__ = ["IGEBM", "MLP", "ConvNet", "NoiseMLP"]
