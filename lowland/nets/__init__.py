"""Architectures, each an Energy, all without batch norm."""

from lowland.nets.boltzmann import DBM, DBN, RBM
from lowland.nets.classifier import ClassifierEnergy, EmbeddingMLP
from lowland.nets.denoising import DenoiserMLP, NoiseUNet
from lowland.nets.images import IGEBM, ConvNet
from lowland.nets.pair_energy import PairEnergy
from lowland.nets.vectors import MLP, NoiseMLP
from lowland.nets.wide_resnet import WideResNet

__all__ = [
    "DBM",
    "DBN",
    "IGEBM",
    "MLP",
    "RBM",
    "ClassifierEnergy",
    "ConvNet",
    "DenoiserMLP",
    "EmbeddingMLP",
    "NoiseMLP",
    "NoiseUNet",
    "PairEnergy",
    "WideResNet",
]
