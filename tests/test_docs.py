"""What is written is run: examples of docstrings, the code and the commands of the README."""

import ast
import doctest
import importlib
import importlib.util
import inspect
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lowland
from lowland import cli
from lowland.registry import registered

ROOT = Path(lowland.__file__).parent.parent
README = ROOT / "README.md"
MODULES = [
    "lowland",
    *sorted(
        m.name
        for m in pkgutil.walk_packages(lowland.__path__, "lowland.")
        if "__main__" not in m.name
    ),
]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def source(name: str) -> str:
    """Return the source of a module of the library."""
    path = ROOT.joinpath(*name.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return file.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [name for name in MODULES if ">>>" in source(name)])
def test_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty directory, so that an example that leaves files behind is seen."""
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        result = doctest.testmod(importlib.import_module(name), optionflags=FLAGS)
    assert result.failed == 0
    assert not list(tmp_path.iterdir()), "an example left files behind"


def test_there_are_examples() -> None:
    assert sum(">>>" in source(name) for name in MODULES) >= 90


def test_a_wrong_example_is_seen() -> None:
    parser, runner = (
        doctest.DocTestParser(),
        doctest.DocTestRunner(verbose=False, optionflags=FLAGS),
    )
    test = parser.get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, None)
    assert runner.run(test, out=lambda _: None).failed == 1


def test_every_module_says_what_it_is() -> None:
    assert not [n for n in MODULES if not (importlib.import_module(n).__doc__ or "").strip()]


def own_docstring(thing: Any) -> str:
    """Return the docstring written for a thing itself: neither inherited nor made by dataclass."""
    text = (vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__) or ""
    return "" if text.startswith(f"{thing.__name__}(") else text


def test_every_public_name_has_a_docstring_of_its_own() -> None:
    things = {name: getattr(lowland, name) for name in lowland.__all__ if name[:2] != "__"}
    assert not [name for name, thing in things.items() if not callable(thing)]
    first_lines = {name: own_docstring(thing).split("\n")[0] for name, thing in things.items()}
    assert not [name for name, line in first_lines.items() if len(line) <= 10]


def test_every_registered_class_explains_its_parameters() -> None:
    classes = [c for kind in ("energy", "sampler", "objective") for c in registered(kind).values()]
    assert not [c.__name__ for c in classes if len(own_docstring(c)) <= 40]


def test_public_functions_and_classes_have_docstrings() -> None:
    bare = [
        f"{name}.{key}"
        for name in MODULES
        for key, thing in vars(importlib.import_module(name)).items()
        if not key.startswith("_")
        and (inspect.isclass(thing) or inspect.isfunction(thing))
        and thing.__module__ == name
        and not (thing.__doc__ or "").strip()
    ]
    assert not bare


def test_sources_are_cited_with_an_address() -> None:
    for path in sorted((ROOT / "lowland").rglob("*.py")):
        for i, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if re.search(r"\bSource: \w.*\(\d{4}\)", line):
                following = "\n".join(path.read_text(encoding="utf-8").splitlines()[i - 1 : i + 2])
                assert "http" in following, f"{path.name}:{i} cites a source without its address"


# ------------------------------------------------------------------------------------------- README


def blocks(text: str, *languages: str) -> list[str]:
    """Fenced code blocks of the given languages."""
    found = re.findall(r"^```(\w*)[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [body for language, body in found if language in languages]


def commands(text: str) -> list[list[str]]:
    """The `lowland ...` command lines in shell blocks and in `code` in the text, comments dropped,
    lines joined.
    """
    shell = "\n".join(blocks(text, "sh", "bash", "shell", "console", "text", "")).replace(
        "\\\n", " "
    )
    lines = [line.strip().removeprefix("$ ") for line in shell.splitlines()]
    lines += re.findall(r"(?<!`)`(lowland [^`\n]+)`(?!`)", text)
    return [shlex.split(line, comments=True) for line in lines if line.startswith("lowland ")]


def unknown_verbs(text: str) -> list[str]:
    verbs = {name.split()[0] for name in cli.COMMANDS} | {"--help", "--version"}
    return [" ".join(words) for words in commands(text) if len(words) < 2 or words[1] not in verbs]


def readme() -> str:
    text = README.read_text(encoding="utf-8") if README.exists() else ""
    if not text.strip():
        pytest.skip("README.md is not written yet")
    return text


def test_commands_of_the_readme_exist() -> None:
    text = readme()
    if not commands(text):
        pytest.skip("README.md has no `lowland ...` command yet")
    assert unknown_verbs(text) == []


def test_options_of_the_readme_exist() -> None:
    """--flags of each command line are among those that its verb knows."""
    for words in commands(readme()):
        if len(words) < 2 or words[1].startswith("-"):
            continue
        name = next(n for n in (" ".join(words[1:3]), words[1]) if n in cli.COMMANDS)
        names = [field.replace("_", "-") for field in signature(cli.COMMANDS[name]).parameters]
        known = {f"--{n}" for n in names} | {f"--no-{n}" for n in names} | {"--help"}
        flags = {word.partition("=")[0] for word in words[2:] if word.startswith("--")}
        assert flags <= known, " ".join(words)


def test_a_wrong_command_is_seen() -> None:
    shell = "```sh\n$ lowland train moons  # fine\nlowland trian \\\n  moons\n```\n"
    text = shell + "or `lowland smaple RUN` or `lowland report RUN`\n"
    assert unknown_verbs(text) == ["lowland trian moons", "lowland smaple RUN"]


def run_readme(folder: Path, seed: int = 0) -> str:
    """What the README's Python prints, in one file, in an empty directory and a fresh process."""
    script = folder / "readme.py"
    code = "\n".join(blocks(readme(), "python"))
    script.write_text(code.replace("manual_seed(0)", f"manual_seed({seed})"), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def exact_answers() -> tuple[float, float, list[float]]:
    """Mean, deviation of x, p-values of the two points under the README's sum, by quadrature."""
    line = np.linspace(-6, 6, 2401)
    x, y = np.meshgrid(line, line, indexing="ij")

    def energy(x: Any, y: Any) -> Any:
        return 8 * (np.hypot(x, y) - 2) ** 2 + 2 * (x - 2) ** 2

    p = np.exp(-energy(x, y))
    p /= p.sum()
    mean = float((p * x).sum())
    beyond = [float(p[energy(x, y) >= energy(*at)].sum()) for at in ((2.0, 0.0), (2.0, -2.0))]
    return mean, float((p * (x - mean) ** 2).sum()) ** 0.5, beyond


@pytest.mark.parametrize("seed", [0, 1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_readme_prints_what_is_true(seed: int, tmp_path: Path) -> None:
    """Whatever the seed: printed numbers are rounded to 0.05; 4,000 draws err by 0.005."""
    printed = run_readme(tmp_path, seed)
    (shown,) = blocks(readme(), "text")
    assert printed == shown
    mean, deviation, beyond = exact_answers()
    numbers = [float(n) for n in re.findall(r"\d\.\d", printed.splitlines()[0])]
    assert np.allclose(numbers, [mean, deviation], atol=0.05 + 5 * deviation / 4000**0.5)
    assert printed.splitlines()[1] == str([p < 0.05 for p in beyond])


def test_exact_answers_in_the_readme_are_exact() -> None:
    mean, deviation, _ = exact_answers()
    assert f"# exact: {mean:.3f} ± {deviation:.3f}\n" in readme()


def test_the_readme_fits_a_screen_and_a_half() -> None:
    assert len(readme().splitlines()) <= 100


def dead_links(page: Path) -> list[str]:
    """Links of a page to files that are not there."""
    found = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    return [to for to in found if "://" not in to and not (page.parent / to).exists()]


@pytest.mark.parametrize(
    "page",
    ["README.md", "CHANGELOG.md", "benchmarks/README.md"]
    + [str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md"))],
)
def test_links_lead_somewhere(page: str) -> None:
    assert dead_links(ROOT / page) == []


def test_a_dead_link_is_seen(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("[a](page.md#there) [b](gone.md) [c](https://example.org)")
    assert dead_links(tmp_path / "page.md") == ["gone.md"]


# ---------------------------------------------------------------------------------------- the pages


def build() -> Any:
    """docs/build.py as a module."""
    spec = importlib.util.spec_from_file_location("build", ROOT / "docs" / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PAGES = [path.name for path in build().pages()]
LONG_PAGES = {"purify.md", "restore.md", "is-this-likelihood-real.md", "compose.md"}


def unresolved(code: str) -> list[str]:
    """Names that a program takes from lowland and that are not there."""
    missing = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lowland"):
            module = importlib.import_module(str(node.module))
            names = [alias.name for alias in node.names if not hasattr(module, alias.name)]
            missing += [f"{node.module}.{name}" for name in names]
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "lowland":
            missing += [] if hasattr(lowland, node.attr) else [f"lowland.{node.attr}"]
    return missing


def test_code_of_every_page_takes_only_names_that_exist() -> None:
    """Every page, those that are executed in the slow suite alone too."""
    assert unresolved("from lowland.nets import MPL") and unresolved("import lowland; lowland.fitt")
    for page in PAGES:
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        assert not unresolved("\n".join(blocks(text, "python"))), page
        assert not unknown_verbs(text), page


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, marks=[pytest.mark.slow] if p in LONG_PAGES else []) for p in PAGES],
)
def test_pages_say_what_their_code_prints(page: str, tmp_path: Path) -> None:
    """In a copy of the folder, in a fresh process; numbers may differ a little from machine to
    machine.
    """
    for name in ("build.py", page):
        (tmp_path / name).write_text(
            (ROOT / "docs" / name).read_text(encoding="utf-8"), encoding="utf-8"
        )
    done = subprocess.run(
        [sys.executable, "build.py", "--check"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_page_that_says_something_else_is_seen() -> None:
    agree = build().agree
    assert agree("log Z 141.5, certified", "log Z 141.4, certified")
    assert not agree("log Z 141.5, certified", "log Z 120.0, certified")
    assert not agree("log Z 141.5, certified", "log Z 141.5, not certified")
