"""Report of versions, devices and data on this machine, and of what is missing."""

import os
import platform
import re
import tomllib
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING

from lowland.devices import list_devices, pick_device
from lowland.extras import EXTRAS
from lowland.memory import available_bytes, memory_bound
from lowland.run import versions

if TYPE_CHECKING:
    import torch

IDX = tuple(
    f"{part}-{kind}-ubyte*" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
)
FILES = {  # of each set that is read from a folder of its name
    "mnist": IDX,
    "fashion-mnist": IDX,
    "cifar10": ("cifar-10-binary.tar.gz",),
    "cifar10-jpeg": ("train.parquet", "test.parquet"),
}
REQUIREMENT = re.compile(r"(?P<library>[\w.-]+)\s*(\[[^\]]*\])?(?P<wanted>[^;]*)(;.*)?")
OF_EXTRA = re.compile(r"(?P<requirement>[^;]*);.*\bextra\s*==\s*['\"](?P<extra>[^'\"]+)['\"].*")


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
    """Describe each device with its memory and whether bfloat16 is fast there, and which one "auto"
    takes.
    """
    import torch

    names = list_devices()
    lines = [f"  {name:10} {_describe_device(torch.device(name))}" for name in names]
    if not any(name.startswith("cuda") for name in names):
        built, why = torch.version.cuda or torch.version.hip, "this torch is built without it"
        if built:
            why = f"this torch is built for {built} and finds no GPU with a driver that fits"
        lines.append(f"  cuda       not available: {why}")
    return [*lines, f"  auto       takes {pick_device()}"]


def _describe_device(device: "torch.device") -> str:
    import torch

    words = [device.type]
    if device.type == "cpu":
        threads = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads used by torch"
        memory = f"{available_bytes() / 2**30:.1f} of {memory_bound() / 2**30:.1f} GiB free"
        words = [_name_cpu(), torch.backends.cpu.get_cpu_capability(), threads, memory]
    elif device.type == "mps":
        most = torch.mps.recommended_max_memory() / 2**30
        words = ["Apple GPU", f"{most:.1f} GiB", "no float64: such statistics are the CPU's"]
    elif device.type in ("cuda", "xpu"):
        about = torch.get_device_module(device.type).get_device_properties(device)
        words = [str(about.name), f"{about.total_memory / 2**30:.1f} GiB"]
    try:
        words.append(_describe_bfloat16(device))
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        words.append(f"cannot be used ({str(error).splitlines()[0][:100]})")
    return ", ".join(words)


def _describe_bfloat16(device: "torch.device") -> str:
    from lowland.samplers.precision import slowdown_of_bfloat16

    slowdown = slowdown_of_bfloat16(device)
    if slowdown >= 1.5:
        return f"bfloat16 is {slowdown:.0f} times slower than float32 here"
    return f"bfloat16 is {'faster' if slowdown < 1 else 'no faster'} than float32 here"


def _name_cpu() -> str:
    """Return the model of the CPU, or its architecture where the system does not tell it."""
    with suppress(OSError, UnicodeDecodeError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


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
    """Describe every library of every extra: its version, or the command that installs it."""
    uses = {extra.library: extra.use for extra in EXTRAS.values()}
    lines = []
    for extra, libraries in list_extras().items():
        for library, wanted in libraries.items():
            state = f"missing: pip install 'lowland[{extra}]'"
            with suppress(PackageNotFoundError):
                state = f"{version(library)} installed, {wanted or 'any'} wanted"
            use = f"; {uses[library]}" if library in uses else ""
            lines.append(f"  {extra:12} {library:16} {state}{use}")
    return lines or ["  unknown: lowland is not installed as a package; pip install lowland"]


def list_extras() -> dict[str, dict[str, str]]:
    """List the extras of lowland, as its package says or pyproject.toml beside it: by extra, the
    libraries with the versions that are wanted.

    >>> "pyarrow" in list_extras()["parquet"]
    True
    """
    found: dict[str, dict[str, str]] = {}
    for extra, requirement in _read_requirements():
        parts = REQUIREMENT.fullmatch(requirement.strip())
        if parts:
            found.setdefault(extra, {})[parts["library"].lower()] = parts["wanted"].strip()
    return found


def _read_requirements() -> list[tuple[str, str]]:
    """Read pairs of an extra and a requirement: from pyproject.toml where lowland runs from its
    source, else from what was installed.
    """
    source = Path(__file__).resolve().parents[1] / "pyproject.toml"
    with suppress(OSError, tomllib.TOMLDecodeError, KeyError):
        project = tomllib.loads(source.read_text(encoding="utf-8"))["project"]
        if project["name"] == "lowland":
            extras = project["optional-dependencies"]
            return [(extra, one) for extra, several in extras.items() for one in several]
    with suppress(PackageNotFoundError):
        marked = [OF_EXTRA.fullmatch(one) for one in requires("lowland") or ()]
        return [(one["extra"], one["requirement"]) for one in marked if one]
    return []
