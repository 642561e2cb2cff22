"""Import of an optional library, and conversion of rows to points of an energy."""

from collections.abc import Callable
from importlib import import_module
from types import ModuleType

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from lowland.energy import Energy


def import_library(module: str, library: str, use: str, install: str) -> ModuleType:
    """Import a module of an optional library. Raises ImportError with its use and the command that
    installs it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{library} is not installed; {use}; run pip install {install}"
        ) from error


def to_points(energy: Energy | Callable[[Tensor], Tensor] | None, rows: ArrayLike) -> Tensor:
    """Convert rows (N, D) to float32 points (N, *event): in the shape of the domain for an Energy,
    rows as they are for other functions.
    """
    x = torch.from_numpy(np.asarray(rows, dtype=np.float32))
    return x.view(len(x), *energy.domain.shape) if isinstance(energy, Energy) else x
