"""Thin adapters to other libraries, one file each. The library itself is imported when an adapter is called."""

from lowland.interop.arviz import to_arviz

__all__ = ["to_arviz"]
