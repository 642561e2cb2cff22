"""Adapters to other libraries, one file each; a library is imported when its adapter is called.

`lowland.interop.sklearn`, a package of its own, is imported when it is first used.
"""

from importlib import import_module
from types import ModuleType

from lowland.interop.arviz import to_arviz
from lowland.interop.autoattack import AutoAttack
from lowland.interop.deepinv import DeepinvOperator, to_deepinv
from lowland.interop.pyod import to_pyod
from lowland.interop.pytorch_ood import to_pytorch_ood
from lowland.interop.zuko import fit_flow

__all__ = [
    "AutoAttack",
    "DeepinvOperator",
    "fit_flow",
    "to_arviz",
    "to_deepinv",
    "to_pyod",
    "to_pytorch_ood",
]


def __getattr__(name: str) -> ModuleType:
    if name == "sklearn":
        return import_module("lowland.interop.sklearn")
    raise AttributeError(f"module 'lowland.interop' has no attribute {name!r}")
