"""What every test shares: one thread, so that a fixed seed gives the same bits on a busy
machine; and a second device that is not there, for the tests that ask for it.
"""

from collections.abc import Iterator

import pytest
import torch
from simulated import simulate

torch.set_num_threads(1)


@pytest.fixture
def sim() -> Iterator[torch.device]:
    """Yield a simulated second device: see `tests/simulated`."""
    with simulate() as device:
        yield device


@pytest.fixture
def sim32() -> Iterator[torch.device]:
    """Yield a simulated second device that has no float64, like MPS."""
    with simulate(float64=False) as device:
        yield device
