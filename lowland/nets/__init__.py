"""Architectures, each an Energy, all without batch norm."""

from lowland.nets.images import IGEBM, ConvNet
from lowland.nets.vectors import MLP

__all__ = ["IGEBM", "MLP", "ConvNet"]
