"""What every test shares: one thread, so that a fixed seed gives the same bits on a busy
machine; what machine that is, at the head of every run; and a second device that is not there, for
the tests that ask for it.
"""

import gc
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from simulated import simulate

from lowland.devices import has_float64

torch.set_num_threads(1)

FLAGS = ("avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "bf16")
"""Features of a CPU, as `/proc/cpuinfo` writes them, that change speed or last digits."""


def pytest_report_header() -> list[str]:
    """Name the CPU, what torch and oneDNN use of it, and the versions that compute."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "none")
    half = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return [
        f"cpu: {read_cpu()}, {os.cpu_count()} cores",
        f"torch uses {torch.backends.cpu.get_cpu_capability()}; limit for oneDNN: {limit};"
        f" bfloat16 there: {'yes' if half else 'no'}",
        f"python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}",
    ]


def read_cpu() -> str:
    """Read the CPU's model and those of `FLAGS` that it has (`platform` names it elsewhere)."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return platform.processor() or platform.machine()
    said: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, value = line.partition(":")
        said.setdefault(name.strip(), value.strip())
    flags = said.get("flags", said.get("Features", "")).split()
    found = " ".join(name for name in FLAGS if name in flags)
    return f"{said.get('model name', platform.machine())} ({found})"


def pytest_collection_finish() -> None:
    """Keep thousands of collected tests out of every later collection of garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def _seed_module() -> None:
    """Seed torch's global generator, so that fixtures draw the same in any order of files."""
    torch.default_generator.manual_seed(0)


@pytest.fixture(autouse=True)
def _seed_test(_seed_module: None) -> None:
    """Seed torch's global generator, so that a test draws the same alone and after others."""
    torch.default_generator.manual_seed(0)


@pytest.fixture
def blank_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write reports without drawing their plots, which takes seconds a page.

    For tests that look at the words of a page, or at what a command did besides; the plots
    themselves are drawn in `test_report.py` and by the runs of `test_commands.py`.
    """
    blank = '<svg viewBox="0 0 1 1" role="img"></svg>'
    monkeypatch.setattr("lowland.report.figures.to_svg", lambda figure, alt: blank)


@pytest.fixture
def sim() -> Iterator[torch.device]:
    """Yield a simulated second device: see `tests/simulated`."""
    with simulate() as device:
        has_float64.cache_clear()
        yield device


@pytest.fixture
def sim32() -> Iterator[torch.device]:
    """Yield a simulated second device that has no float64, like MPS."""
    with simulate(float64=False) as device:
        has_float64.cache_clear()
        yield device
