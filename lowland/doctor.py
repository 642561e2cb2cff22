"""Report of what this machine has and lacks, in words a newcomer can act on."""

import os
import platform
from importlib.util import find_spec
from pathlib import Path

from lowland.run import versions

EXTRAS = {"pyarrow": ("Parquet files (cifar10-jpeg)", "pip install 'lowland[parquet]'")}


def examine(root: str | Path | None = None) -> str:
    """Report versions, devices, data roots and what is missing, with the command that brings it.

    >>> "torch" in examine()
    True
    """
    parts = {
        "Versions": _versions(),
        "Devices": _devices(),
        "Data": _data(root),
        "Extras": _extras(),
    }
    return "\n\n".join("\n".join([title, *lines]) for title, lines in parts.items())


def _versions() -> list[str]:
    return [f"  {name:10} {number}" for name, number in versions().items()] + [
        f"  {'system':10} {platform.platform()}"
    ]


def _devices() -> list[str]:
    import torch

    lines = [
        f"  cpu        {os.cpu_count()} cores, {torch.get_num_threads()} threads used by torch"
    ]
    if torch.cuda.is_available():
        lines += [
            f"  cuda:{i}     {torch.cuda.get_device_name(i)}"
            for i in range(torch.cuda.device_count())
        ]
    else:
        lines.append("  cuda       not available; everything runs on the CPU")
    return lines


def _data(root: str | Path | None) -> list[str]:
    from lowland.data import data_roots, list_datasets

    roots = data_roots(root)
    lines = [f"  looks in   {path} ({'found' if path.is_dir() else 'not there'})" for path in roots]
    if not root and not os.environ.get("LOWLAND_DATA"):
        lines.append("             set LOWLAND_DATA or pass --data-root to look elsewhere first")
    fetched = "missing: `lowland train` downloads it, or put its files in ROOT/{}"
    missing = {name: fetched.format(name) for name in ("mnist", "fashion-mnist", "cifar10")}
    missing["cifar10-jpeg"] = "missing: put train.parquet and test.parquet in ROOT/cifar10-jpeg"
    for name, about in list_datasets().items():
        places = [path / name for path in roots if (path / name).is_dir()]
        hint = f"; {missing[name]}" if name in missing else ""
        lines.append(f"  {name:16} " + (f"found in {places[0]}" if places else about + hint))
    return lines


def _extras() -> list[str]:
    return [
        f"  {package:10} "
        + (f"installed: {what}" if find_spec(package) else f"missing: {what}; {how}")
        for package, (what, how) in EXTRAS.items()
    ]
