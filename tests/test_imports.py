"""Arrows point down: who may import whom (section 4 of the design), and what no file may hold.

`ALLOWED` is the table of docs/design/index.md. A part that is missing from it fails, so a new part
has to be thought about.
"""

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lowland

ROOT = Path(lowland.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

LEAVES = {
    "registry",
    "systems",
    "extras",
    "domain",
    "atomic",
    "memory",
    "reading",
    "seeds",
    "scalars",
    "plain",
    "digests",
    "devices",
    "launch",
    "transfer",
}
LIBRARY = LEAVES | {
    "energy",
    "targets",
    "nets",
    "samplers",
    "replay",
    "objectives",
    "metrics",
    "robustness",
    "tasks",
    "testing",
}
PUBLIC = {
    "registry",
    "systems",
    "extras",
    "domain",
    "atomic",
    "memory",
    "reading",
    "seeds",
    "scalars",
    "plain",
    "devices",
    "run",
    "data",
    "energy",
    "nets",
    "targets",
    "samplers",
    "replay",
    "objectives",
    "metrics",
    "robustness",
    "tasks",
    "training",
    "report",
    "config",
}
ALLOWED: dict[str, set[str]] = {
    "registry": set(),
    "scalars": set(),
    "plain": {"scalars"},
    "domain": {"scalars"},
    "systems": set(),
    "extras": set(),
    "atomic": {"systems"},
    "memory": set(),
    "transfer": set(),
    "digests": set(),
    "devices": {"launch", "transfer"},
    "launch": set(),
    "reading": {"systems"},
    "seeds": {"scalars"},
    "run": {"pretrained"} | LEAVES,
    "pretrained": set(),
    "data": LEAVES,
    "energy": LEAVES,
    "nets": {"energy"} | LEAVES,
    "targets": {"energy"} | LEAVES,
    "samplers": {"energy"} | LEAVES,
    "replay": {"energy"} | LEAVES,
    "objectives": {
        "energy",
        "samplers",
        "replay",
        "nets.generators",
        "nets.noise_models",
        "targets.bases",
        "registry",
        "devices",
        "domain",
        "scalars",
        "transfer",
    },
    "metrics": {"energy", "samplers", "targets", "seeds", "scalars", "plain", "devices"},
    "robustness": {"energy", "metrics"} | LEAVES,
    "tasks": {"energy", "samplers", "metrics", "robustness"} | LEAVES,
    "training": {
        "energy",
        "objectives",
        "replay",
        "samplers",
        "metrics",
        "tasks",
        "data",
        "nets.generators",
        "launch",
        "run",
    }
    | LEAVES,
    "report": {"run"},
    "config": {
        "scalars",
        "reading",
        "registry",
        "training.settings",
        "training.sizes",
        "energy",
        "tasks.detection",
    },
    "trained": PUBLIC - {"report"},
    "evaluation": PUBLIC | {"trained"},
    "commands": PUBLIC | {"trained", "evaluation", "doctor", "pretrained"},
    "doctor": {"extras", "run", "data", "devices", "samplers.precision", "memory"},
    "cli": {"commands", "launch", "registry", "plain", ""},
    "__main__": {"cli"},
    "testing": {"energy", "samplers", "targets"} | LEAVES,
    "interop": PUBLIC | {"commands", "trained", ""},
    "app": PUBLIC | {"commands", "trained", "doctor", ""},
    "": {
        "replay",
        "energy",
    },  # the front door loads names when they are used; a TYPE_CHECKING block is exempt
}
LIBRARIES: dict[str, set[str]] = {  # what only some parts may import, at any depth
    "torch": set(ALLOWED)
    - {
        "registry",
        "atomic",
        "memory",
        "reading",
        "pretrained",
        "config",
        "cli",
        "report",
        "",
        "__main__",
    },
    "matplotlib": {"report"},
    "jinja2": {"report"},
    "pydantic": {"config"},
    "tyro": {"cli", "commands"},
    "sklearn": {"data", "interop"},
    "tensorboard": {"training"},
    "tqdm": {"training", "trained", "commands"},
    "starlette": {"app"},
    "uvicorn": {"app"},
    "torchvision": {"interop"},
    "zuko": {"interop", "nets"},
    "deepinv": {"interop"},
    "pyautoattack": {"interop"},
    "pyod": {"interop"},
    "pytorch_ood": {"interop"},
    "pytest": set(),
}
# imported inside the function that needs them, if at all
LAZY = {
    "sklearn",
    "scipy",
    "torchvision",
    "pyarrow",
    "tensorboard",
    "zuko",
    "deepinv",
    "pyautoattack",
    "pyod",
    "pytorch_ood",
}


def module_of(path: Path) -> str:
    """lowland/nets/images.py -> nets.images; lowland/nets/__init__.py -> nets; lowland/__init__.py
    -> ''.
    """
    return ".".join(
        part for part in path.relative_to(ROOT).with_suffix("").parts if part != "__init__"
    )


MODULES = {module_of(path) for path in FILES}


def statements(
    tree: ast.AST, exempt: bool = False, depth: int = 0
) -> Iterator[tuple[ast.Import | ast.ImportFrom, int]]:
    """All imports with their depth (0 at the top of a module), those under `if TYPE_CHECKING:` left
    out if exempt.
    """
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node, depth
        elif (
            isinstance(node, ast.If) and exempt and ast.unparse(node.test).endswith("TYPE_CHECKING")
        ):
            yield from statements(ast.Module(node.orelse, []), exempt, depth)
        else:
            inside = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from statements(node, exempt, depth + inside)


def imported(
    source: str, module: str, package: bool, exempt: bool = False
) -> Iterator[tuple[str, int]]:
    """Dotted names of the modules that a source imports, with their depth; relative imports are
    resolved; those under `if TYPE_CHECKING:` are left out of the front door, and if exempt.
    """
    for node, depth in statements(ast.parse(source), exempt=exempt or module == ""):
        if isinstance(node, ast.Import):
            yield from ((alias.name, depth) for alias in node.names)
            continue
        base = node.module or ""
        if node.level:
            here = ["lowland", *module.split(".")] if module else ["lowland"]
            here = here[: len(here) - node.level + package]
            base = ".".join([*here, base]).strip(".")
        for alias in node.names:  # `from lowland.nets import images` imports a module too
            full = f"{base}.{alias.name}"
            yield (full if full.removeprefix("lowland.") in MODULES else base), depth


def files_imported(source: str, module: str) -> set[str]:
    """Return the modules, no packages, that the source of a file imports at any depth."""
    names = {
        name.removeprefix("lowland.") for name, _ in imported(source, module, False, exempt=True)
    }
    return {
        name for name in names & MODULES if name and not (ROOT / name.replace(".", "/")).is_dir()
    }


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules of which each imports all others, in some number of steps."""
    beyond: dict[str, set[str]] = {}
    for start in graph:
        found, waiting = set(), list(graph[start])
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting += graph.get(name, ())
        beyond[start] = found
    groups = {
        tuple(sorted(other for other in beyond[name] if name in beyond.get(other, ())))
        for name in graph
        if name in beyond[name]
    }
    return sorted(map(list, groups))


def offences(source: str, module: str, package: bool = False) -> list[str]:
    """Every import that the table does not allow, in words."""
    part = module.split(".")[0]
    if part not in ALLOWED:
        return [f"{module} is of no part in the table"]
    found = []
    for name, depth in imported(source, module, package):
        library, _, inner = name.partition(".")
        target = inner.split(".")[0]
        if library == "lowland" and target != part:
            allowed = ALLOWED[part]
            if (
                not any(inner == name or inner.startswith(f"{name}.") for name in allowed if name)
                and inner not in allowed
            ):
                found.append(f"{module or 'lowland'} imports {name}")
        elif library in LIBRARIES and part not in LIBRARIES[library]:
            found.append(f"{module or 'lowland'} imports {library}")
        elif library in LAZY and not depth and part != "interop":
            found.append(f"{module} imports {library} at its top")
    return found


SOURCES = {path: path.read_text(encoding="utf-8") for path in FILES}


def test_arrows_point_down() -> None:
    found = [offences(s, module_of(p), p.name == "__init__.py") for p, s in SOURCES.items()]
    assert not [sentence for sentences in found for sentence in sentences]


def test_the_library_imports_nothing_of_the_application() -> None:
    for part in LIBRARY:
        assert {name.partition(".")[0] for name in ALLOWED[part]} <= LIBRARY, part


def test_there_is_no_circle_of_files() -> None:
    graph = {
        module_of(path): files_imported(source, module_of(path))
        for path, source in SOURCES.items()
        if path.name != "__init__.py"
    }
    assert sum(map(len, graph.values())) > 300
    assert circles(graph) == []


def test_a_circle_of_files_is_seen() -> None:
    """Through imports inside functions too, but not through those for type checkers alone."""
    later = "def f():\n    from lowland.samplers.nuts import NUTS"
    typed = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    "
    typed += "from lowland.run.directory import Run"
    graph = {
        "samplers.nuts": files_imported("from lowland.energy import gradient", "samplers.nuts"),
        "energy.gradient": files_imported("import lowland.samplers.hmc", "energy.gradient"),
        "samplers.hmc": files_imported(later, "samplers.hmc"),
        "run.directory": files_imported("from lowland.run.checkpoint import x", "run.directory"),
        "run.checkpoint": files_imported(typed, "run.checkpoint"),
    }
    assert circles(graph) == [["energy.gradient", "samplers.hmc", "samplers.nuts"]]
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("from lowland.samplers import MALA", "energy"),
        ("import lowland.training.train", "samplers.loop"),
        ("from ..training import fit", "samplers.loop"),
        ("from lowland import training", "metrics.samples"),
        ("from lowland.nets import MLP", "objectives.score"),
        ("from lowland.evaluation import draw", "training.train"),
        ("from lowland.data import load_data", "tasks.detection"),
        ("from lowland.energy import Energy", "report.page"),
        ("def f():\n    from lowland import commands", "tasks.detection"),
        ("def f():\n    from lowland.evaluation import draw", "config"),
        ("from lowland.training import fit", "config"),
        ("from lowland.cli import main", "commands"),
        ("from lowland import cli", "evaluation"),
        ("from lowland.evaluation import draw", "report.page"),
        ("from lowland.testing import prove", "samplers.loop"),
        ("from lowland import commands", "testing.proof"),
        ("import pytest", "testing.statistical_checks"),
        ("import lowland", "energy"),
        ("from lowland import MALA", "tasks.detection"),
        (
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from lowland.training import "
            "fit",
            "energy",
        ),
        (
            "if True:\n    try:\n        from lowland.run import Run\n    except ImportError:\n    "
            "    pass",
            "energy",
        ),
        ("import matplotlib.pyplot as plt", "metrics.samples"),
        ("def f():\n    import matplotlib", "tasks.detection"),
        ("import torch", "cli"),
        ("def f():\n    import torch", "config"),
        ("from sklearn.datasets import load_digits", "data.load"),
        ("from scipy.stats import binom", "metrics.calibration"),
        ("import torchvision", "data.load"),
        ("x = 1", "helpers"),
    ],
)
def test_the_test_can_fail(source: str, module: str) -> None:
    assert offences(source, module)


@pytest.mark.parametrize(
    ("source", "module", "package"),
    [
        ("from lowland.energy import Energy\nimport torch", "samplers.loop", False),
        ("from .kernel import State", "samplers.loop", False),
        ("from .langevin import MALA", "samplers", True),
        ("from ..energy import Energy", "samplers.loop", False),
        ("from lowland.nets.noise_models import NoiseLaw", "objectives.jem", False),
        ("from lowland.training.settings import Training", "config", False),
        ("def f():\n    from scipy.stats import binom", "metrics.calibration", False),
        (
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from lowland.training import "
            "fit",
            "",
            True,
        ),
    ],
)
def test_the_test_can_pass(source: str, module: str, package: bool) -> None:
    assert offences(source, module, package) == []


def test_config_takes_energy_lazily() -> None:
    for path in (ROOT / "config").glob("*.py"):
        found = imported(path.read_text(encoding="utf-8"), module_of(path), False)
        assert all(depth for name, depth in found if name == "lowland.energy")


def test_nobody_imports_the_command_line() -> None:
    for path in FILES:
        names = [
            name
            for name, _ in imported(
                path.read_text(encoding="utf-8"), module_of(path), path.name == "__init__.py"
            )
        ]
        assert "lowland.cli" not in names or path.name == "__main__.py"


# ----------------------------------------------------------------------------------- what is loaded


def loaded_by(statement: str) -> set[str]:
    code = (
        f"{statement}\nimport sys\nprint(' '.join(sorted({{m.partition('.')[0] for m in "
        "sys.modules})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600
    )
    return set(done.stdout.split())


SERVERS = {"starlette", "uvicorn", "fastapi", "flask", "aiohttp", "tornado", "gradio", "werkzeug"}
HEAVY = {"torch", "matplotlib", "sklearn", "scipy", "numpy", "pydantic", "jinja2"} | SERVERS


def test_import_lowland_is_free() -> None:
    assert not loaded_by("import lowland; lowland.__version__; dir(lowland)") & HEAVY


def test_working_with_energies_needs_no_pictures_and_no_servers() -> None:
    loaded = loaded_by(
        "import lowland; lowland.MALA(0.1); lowland.Detector; lowland.fit; "
        "lowland.read_recipe('moons')"
    )
    assert "torch" in loaded
    assert not loaded & ({"matplotlib", "sklearn", "scipy", "jinja2", "torchvision"} | SERVERS)


def test_the_test_bench_needs_no_pytest_and_no_pictures() -> None:
    statement = "import lowland; from lowland.testing import TARGETS, prove, all_samplers\n"
    statement += "some = {'gaussian': TARGETS['gaussian']}\n"
    statement += "assert prove(lowland.MALA(0.2), targets=some, count=1000, seeds=(0,)).holds"
    assert not loaded_by(statement) & (
        {"pytest", "matplotlib", "sklearn", "scipy", "jinja2", "pydantic"} | SERVERS
    )


def test_every_public_name_resolves() -> None:
    assert len(set(lowland.__all__)) == len(lowland.__all__)
    for name in lowland.__all__:
        assert getattr(lowland, name) is not None
    assert set(lowland.__all__) < set(dir(lowland)) and len(lowland.__all__) <= 52
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = lowland.nonsense


def test_every_name_in_all_resolves() -> None:
    for package in sorted(m for m in MODULES if m and (ROOT / m.replace(".", "/")).is_dir()):
        module = importlib.import_module(f"lowland.{package}")
        assert module.__all__, package
        assert not [name for name in module.__all__ if not hasattr(module, name)], package


# -------------------------------------------------------------------------------------- small files


def test_no_module_is_a_drawer() -> None:
    drawers = {"utils", "util", "base", "core", "common", "misc", "helpers", "helper"}
    assert not [
        path for path in FILES if drawers & set(path.relative_to(ROOT).with_suffix("").parts)
    ]


def long_functions(source: str, limit: int = 60) -> list[str]:
    """Functions whose body, the docstring not counted, has more lines than the limit."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            if body and (body[-1].end_lineno or 0) - body[0].lineno + 1 > limit:
                found.append(node.name)
    return found


def test_no_file_is_longer_than_400_lines() -> None:
    assert not [module_of(p) for p, s in SOURCES.items() if len(s.splitlines()) > 400]


def test_no_function_is_longer_than_60_lines() -> None:
    assert not {module_of(p): f for p, s in SOURCES.items() if (f := long_functions(s))}


def test_a_long_function_is_seen() -> None:
    lines = "\n".join("    x = 1" for _ in range(61))
    assert long_functions(f"def f():\n    '''Doc.'''\n{lines}") == ["f"]
    assert (
        long_functions(f"def f():\n    '''Doc\n\n\n    more.'''\n{lines[: lines.rindex(chr(10))]}")
        == []
    )


def unsafe(source: str) -> list[str]:
    """Ways of reading a file that can run what is written in it: pickle and its kin, torch.load,
    allow_pickle=True, eval.
    """
    pickles, found = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}, []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in pickles]
        elif isinstance(node, ast.ImportFrom):
            found += [str(node.module)] * ((node.module or "").split(".")[0] in pickles)
            found += [
                f"torch.{a.name}"
                for a in node.names
                if node.module == "torch" and a.name in ("load", "save")
            ]
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in (
            "torch.load",
            "torch.save",
            "torch.serialization",
        ):
            found.append(ast.unparse(node))
        elif (
            isinstance(node, ast.keyword)
            and node.arg == "allow_pickle"
            and ast.unparse(node.value) != "False"
        ):
            found.append("allow_pickle")
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("eval", "exec")
        ):
            found.append(node.func.id)
    return found


def test_no_file_is_read_in_a_way_that_runs_it() -> None:
    assert not {module_of(path): f for path, text in SOURCES.items() if (f := unsafe(text))}


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load('x')",
        "from torch import load",
        "import pickle",
        "def f():\n    from joblib import load",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "eval('1')",
    ],
)
def test_an_unsafe_reader_is_seen(source: str) -> None:
    assert unsafe(source)
