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


def compare_versions(then: object) -> str:
    """Return which versions a run was begun with that are others now; empty if none are."""
    known, now = then if isinstance(then, dict) else {}, versions()
    return "; ".join(
        f"{name} {known[name]} then, {now[name]} now"
        for name in now
        if known.get(name, now[name]) != now[name]
    )
