"""The machine that a benchmark runs on, and how a program is held to one of its cores."""

import os
import platform
import shlex
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
KEPT_HEAP = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
}  # glibc: do not give memory back and refault


def machine() -> dict[str, Any]:
    """Return processor, cores, versions, threads and load as plain values."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    found: dict[str, Any] = {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "pinned_cores": cores,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "malloc": {key: os.environ[key] for key in KEPT_HEAP if key in os.environ} or "default",
        "load_average": [round(load, 2) for load in os.getloadavg()]
        if hasattr(os, "getloadavg")
        else None,
    }
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        found["torch"] = torch.__version__
        found["threads"] = torch.get_num_threads()
        found["interop_threads"] = torch.get_num_interop_threads()
        found["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
    return found


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    values: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        values.setdefault(key.strip(), value.strip())
    name = values.get("model name") or platform.processor() or platform.machine()
    kind = [f"{key} {values[key]}" for key in ("cpu family", "model") if key in values]
    return f"{name} ({', '.join(kind)})" if kind else name


def circumstances(command: str | None = None) -> dict[str, Any]:
    """Return what a record begins with: command (this one by default), date, machine, versions."""
    from lowland.run import versions  # late: a process is pinned before torch starts

    return {
        "command": command or shlex.join(["python", *sys.orig_argv[1:]]),
        "date": str(date.today()),
        "machine": machine(),
        "versions": versions(),
    }


def commit() -> str:
    """Return the commit of lowland, and whether its code was modified; "unknown" without git."""

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        modified = ", modified" if git("status", "--porcelain", "../lowland") else ""
        return git("rev-parse", "--short", "HEAD") + modified
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def pin(core: int | None = None, *, keep_heap: bool = True) -> None:
    """Hold the process to one thread on one core; start it anew if its environment is not the one
    that this needs.

    keep_heap: glibc keeps freed memory. By default it returns the top of the heap to the system and
    takes it back at the next step, at a cost (a fifth of a Langevin step) that depends on what ran
    before, not on the contender.
    """
    if hasattr(os, "sched_setaffinity"):
        allowed = os.sched_getaffinity(0)
        if core is not None and core not in allowed:
            raise SystemExit(
                f"core {core} was asked for; this process may use {sorted(allowed)}; choose one of "
                "those"
            )
        os.sched_setaffinity(0, {max(allowed) if core is None else core})
    needed = ONE_THREAD | (KEPT_HEAP if keep_heap else {})
    if any(os.environ.get(name) != value for name, value in needed.items()):
        os.environ.update(needed)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    import torch

    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
