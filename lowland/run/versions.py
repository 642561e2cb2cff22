"""Versions that decide the bits of a run."""

import platform
from importlib.metadata import PackageNotFoundError, version

import torch


def versions() -> dict[str, str]:
    """List the versions of Python and of packages whose arithmetic decides the bits of a run, and
    the CPU threads in use.
    """
    found = {"python": platform.python_version()}
    for package in ("lowland", "torch", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found | {"threads": str(torch.get_num_threads())}
