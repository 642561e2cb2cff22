"""Compute all cases and write them to record.json, or to another file.

From the root of the repository: `python -m tests.golden.record [FILE]`
"""

import json
import platform
import sys
import time
from pathlib import Path

import torch

from .cases import CASES

RECORD = Path(__file__).parent / "record.json"


def read() -> dict:
    """Return the record: where it was made, and the numbers of every case by name."""
    return json.loads(RECORD.read_text())


def write(path: Path) -> None:
    """Run every case on one thread and write the numbers to a file."""
    torch.set_num_threads(1)
    numbers = {}
    for name, case in sorted(CASES.items()):
        began = time.perf_counter()
        numbers[name] = case.run()
        print(f"{time.perf_counter() - began:6.2f} s  {name}", flush=True)
    made = {
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "torch": torch.__version__,
    }
    path.write_text(
        json.dumps({"made": made, "numbers": numbers}, indent=1, allow_nan=False) + "\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else RECORD)
