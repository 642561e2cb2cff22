"""Report of versions, devices and data on this machine, and of what is missing."""

import os
import platform
from importlib.util import find_spec
from pathlib import Path

from lowland.extras import EXTRAS
from lowland.run import versions

IDX = tuple(
    f"{part}-{kind}-ubyte*" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
)
FILES = {  # of each set that is read from a folder of its name
    "mnist": IDX,
    "fashion-mnist": IDX,
    "cifar10": ("cifar-10-binary.tar.gz",),
    "cifar10-jpeg": ("train.parquet", "test.parquet"),
}


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
    numbers = versions() | {"system": platform.platform()}
    return [f"  {name:10} {number}" for name, number in numbers.items()]


def _devices() -> list[str]:
    import torch

    cpu = f"  cpu        {os.cpu_count()} cores, {torch.get_num_threads()} threads used by torch"
    if not torch.cuda.is_available():
        return [cpu, "  cuda       not available; everything runs on the CPU"]
    names = map(torch.cuda.get_device_name, range(torch.cuda.device_count()))
    return [cpu, *(f"  cuda:{i}     {name}" for i, name in enumerate(names))]


def _data(root: str | Path | None) -> list[str]:
    from lowland.data import data_roots, list_datasets
    from lowland.data.mnist import FASHION_MNIST, MNIST

    roots = data_roots(root)
    lines = [f"  looks in   {path} ({'found' if path.is_dir() else 'not there'})" for path in roots]
    if not root and not os.environ.get("LOWLAND_DATA"):
        lines.append("             set LOWLAND_DATA or pass --data-root to look elsewhere first")
    fetched = "missing: `lowland train` downloads it, or put its files in ROOT/{}"
    missing = {name: fetched.format(name) for name in ("mnist", "fashion-mnist", "cifar10")}
    missing["cifar10-jpeg"] = "missing: put train.parquet and test.parquet in ROOT/cifar10-jpeg"
    for name, about in list_datasets().items():
        if name in missing:
            about = f"{about}; {missing[name]}"
        also = next((one.also for one in (MNIST, FASHION_MNIST) if one.name == name), ())
        folders = [path / folder for path in roots for folder in (name, *also)]
        states = [_look(folder, FILES.get(name, ())) for folder in folders]
        places = sorted(filter(None, states), key=lambda state: not state.startswith("found"))
        lines.append(f"  {name:16} {[*places, about][0]}")
    return lines


def _look(folder: Path, patterns: tuple[str, ...]) -> str:
    """Say whether a folder holds the files of a set, or which it lacks; empty for no folder."""
    if not folder.is_dir() or not patterns:
        return ""
    lacking = [one for one in patterns if not any(map(_holds_bytes, folder.rglob(one)))]
    if not lacking:
        return f"found in {folder}"
    return f"incomplete in {folder}: it lacks {', '.join(lacking)}"


def _holds_bytes(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _extras() -> list[str]:
    lines = []
    for package, extra in EXTRAS.items():
        state = f"missing: {extra.use}; {extra.command}"
        if find_spec(package):
            state = f"installed: {extra.use}"
        lines.append(f"  {extra.library:12} {state}")
    return lines
