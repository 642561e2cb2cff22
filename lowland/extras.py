"""Libraries that lowland can do without: what each is for, and the command that installs it."""

from importlib import import_module
from types import ModuleType
from typing import NamedTuple


class Extra(NamedTuple):
    """An optional library: its name on the package index, what lowland does with it, and the extra
    of lowland that brings it.
    """

    library: str
    use: str
    extra: str

    @property
    def command(self) -> str:
        """Return the command that installs it."""
        return f"pip install 'lowland[{self.extra}]'"


EXTRAS = {  # by the module that is imported
    "pyarrow": Extra("pyarrow", "Parquet files (cifar10-jpeg) are read with it", "parquet"),
    "zuko": Extra("zuko", "flows are built with it", "zuko"),
    "arviz_base": Extra("arviz-base", "to_arviz hands traces to it", "arviz"),
    "tensorboard": Extra("tensorboard", "training.tensorboard writes for it", "tensorboard"),
    "pytorch_ood": Extra("pytorch-ood", "to_pytorch_ood makes one of its detectors", "ood"),
    "pyod": Extra("pyod", "to_pyod makes one of its detectors", "ood"),
    "deepinv": Extra("deepinv", "to_deepinv makes one of its priors", "inverse"),
    "pyautoattack": Extra("pyautoattack", "AutoAttack runs its attacks", "attacks"),
}


class LibraryError(ImportError, ValueError):
    """An optional library that is missing or broken."""


def import_extra(module: str) -> ModuleType:
    """Import a module of an optional library.

    Raises LibraryError with its use and the command that installs it, or with what went wrong where
    the library is there.
    """
    package = module.partition(".")[0]
    extra = EXTRAS[package]
    try:
        return import_module(module)
    except Exception as error:  # what a broken installation raises is anything
        missing = str(error.name) if isinstance(error, ModuleNotFoundError) else ""
        if package == missing.partition(".")[0]:
            raise LibraryError(
                f"{extra.library} is not installed; {extra.use}; run {extra.command}"
            ) from error
        why = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise LibraryError(
            f"{extra.library} is installed but cannot be imported ({why}); {extra.use}; mend or "
            f"reinstall it: pip install --force-reinstall {extra.library}"
        ) from error
