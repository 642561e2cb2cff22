"""Benchmarks use lowland as a stranger would: by names that its packages export, and no others."""

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "benchmarks"
FILES = sorted(ROOT.rglob("*.py"))


def is_public(module: str, name: str) -> bool:
    """Whether a room of lowland exports the name, or has a package of that name.

    A room is a package, or a file that stands in lowland/ by itself, such as `lowland.run`.
    """
    if name.startswith("_"):
        return name in ("__path__", "__version__")  # which Python gives to packages
    if not is_package(module):
        return module.count(".") == 1 and hasattr(importlib.import_module(module), name)
    return name in importlib.import_module(module).__all__ or is_package(f"{module}.{name}")


def dotted(node: ast.expr) -> str:
    """The name a.b.c of an expression; empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (before := dotted(node.value)):
        return f"{before}.{node.attr}"
    return ""


def private_names(source: str) -> list[str]:
    """Names of lowland that a source uses and that no package exports."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "lowland":
            found |= {(node.module, alias.name) for alias in node.names}
        if isinstance(node, ast.Import):
            found |= {
                tuple(alias.name.rsplit(".", 1))
                for alias in node.names
                if alias.name.startswith("lowland.")
            }
        if isinstance(node, ast.Attribute) and dotted(node).startswith("lowland."):
            module, _, name = dotted(node).rpartition(".")
            if is_package(module):
                found.add((module, name))
    return sorted(f"{module}.{name}" for module, name in found if not is_public(module, name))


def is_package(module: str) -> bool:
    try:
        return hasattr(importlib.import_module(module), "__path__")
    except ImportError:
        return False


@pytest.mark.parametrize("path", FILES, ids=[str(p.relative_to(ROOT)) for p in FILES])
def test_benchmarks_use_public_names(path: Path) -> None:
    assert private_names(path.read_text(encoding="utf-8")) == []


def test_files_import_no_circle() -> None:
    """A file may import files that import others, but never back to itself."""
    imports = {module_of(path): imported(path) for path in FILES}
    done: set[str] = set()
    while left := {name for name in imports if name not in done}:
        free = {name for name in left if imports[name] & left <= {name}}
        assert free, f"a circle among {sorted(left)}"
        done |= free


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path) -> set[str]:
    """Files of benchmarks that a file imports, at its head or later."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("benchmarks"):
            found |= {node.module or ""} | {f"{node.module}.{a.name}" for a in node.names}
    return found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from lowland.samplers.kernel import Info", ["lowland.samplers.kernel.Info"]),
        ("from lowland.energy import _rows", ["lowland.energy._rows"]),
        ("from lowland.run import Run, _hidden", ["lowland.run._hidden"]),
        ("import lowland\nlowland.energy.algebra", ["lowland.energy.algebra"]),
        ("import lowland.samplers.loop", ["lowland.samplers.loop"]),
        (
            "def late():\n    from lowland import nothing_of_the_kind",
            ["lowland.nothing_of_the_kind"],
        ),
        ("import lowland\nfrom lowland.samplers import MALA\nlowland.sample, MALA.step", []),
    ],
)
def test_names_that_are_not_public_are_seen(source: str, found: list[str]) -> None:
    assert private_names(source) == found
