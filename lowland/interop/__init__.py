"""Adapters to other libraries, one file each; a library is imported when its adapter is called."""

from lowland.interop.arviz import to_arviz
from lowland.interop.autoattack import AutoAttack
from lowland.interop.deepinv import DeepinvOperator, to_deepinv
from lowland.interop.pyod import to_pyod
from lowland.interop.pytorch_ood import to_pytorch_ood

__all__ = [
    "AutoAttack",
    "DeepinvOperator",
    "to_arviz",
    "to_deepinv",
    "to_pyod",
    "to_pytorch_ood",
]
