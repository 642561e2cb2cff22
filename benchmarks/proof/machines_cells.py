"""What `benchmarks.proof.machines` tries: environments, and the ways in which each is used."""

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
RUNNERS = ("pytest", "hypothesis", "pytest-xdist")  # what a test run needs besides lowland
ADAPTERS = ("parquet", "zuko", "arviz", "tensorboard", "ood", "inverse", "attacks")  # extras
GOLDEN = "tests/test_golden.py::test_numbers_are_those_of_the_record"
SUBSET = (  # tests that hold the whole library loosely: some 30 s of one quiet core
    "tests/contract/test_energies.py",
    "tests/test_data_tables.py",
    f"{GOLDEN}[langevin]",
    f"{GOLDEN}[nuts]",
    f"{GOLDEN}[block_gibbs]",
    f"{GOLDEN}[fit_cd]",
    f"{GOLDEN}[fit_dsm]",
    f"{GOLDEN}[samples_of_digits]",
)
LIGHT = ("tests/test_data_tables.py", *SUBSET[2:])
LOOKS = "import", "use"  # the two of machines_check


@dataclass(frozen=True)
class Environment:
    """A fresh virtual environment: an interpreter, and what pip is asked to put into it."""

    python: str
    packages: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """One way to try lowland in an environment.

    variables are set and those of unset removed; flags go to machines_check use; tests are paths
    for pytest. nobody: run as a user who has no name, no home, and no right to write what pip
    installed. without: extras that are taken away for the time of the cell.
    """

    environment: str
    about: str
    variables: dict[str, str] = field(default_factory=dict)
    unset: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    looks: tuple[str, ...] = LOOKS
    nobody: bool = False
    without: tuple[str, ...] = ()
    whole: bool = False  # every quick test


def lowest(requirements: list[str]) -> tuple[str, ...]:
    """Return requirements with their lower bounds as the only versions.

    >>> lowest(["numpy>=1.26", "torch>=2.6"])
    ('numpy==1.26', 'torch==2.6')
    """
    return tuple(re.sub(">=", "==", each) for each in requirements)


def names(requirements: list[str]) -> tuple[str, ...]:
    """Return the names of packages, without their bounds and extras."""
    return tuple(re.split(r"[\[<>=!~ ;]", each)[0] for each in requirements)


DEPENDENCIES: list[str] = PROJECT["dependencies"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
NEWEST = (*DEPENDENCIES, *EXTRAS["zuko"], *RUNNERS)
OLDEST = (
    *lowest(DEPENDENCIES),
    *lowest(EXTRAS["zuko"]),
    *(lowest([each for each in EXTRAS["test"] if names([each])[0] in RUNNERS])),
)


def instead(*packages: str) -> tuple[str, ...]:
    """Return the newest of everything, but for the packages given."""
    taken = names(list(packages))
    kept = (each for each in NEWEST if names([each])[0] not in taken)
    return (*packages, *kept)


ENVIRONMENTS = {
    "oldest": Environment("3.11", OLDEST),
    "newest": Environment("3.11", (*NEWEST, *(p for x in ADAPTERS for p in EXTRAS[x]))),
    "plain": Environment("3.11", (*DEPENDENCIES, *RUNNERS)),
    "python-3.12": Environment("3.12", NEWEST),
    "python-3.13": Environment("3.13", NEWEST),
    "python-3.14": Environment("3.14", NEWEST),
    "numpy-1.26": Environment("3.12", instead("numpy==1.26.4", "scikit-learn==1.5.*")),
    "torch-2.6": Environment("3.13", instead("torch==2.6.0")),
}
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
HOMES = ("HOME", "USER", "LOGNAME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR")

CELLS = {
    "oldest": Cell("oldest", "every lower bound of pyproject.toml at once", tests=SUBSET),
    "newest": Cell("newest", "the newest of everything, with all extras", tests=SUBSET),
    "plain": Cell("plain", "the newest of everything, without any extra", tests=SUBSET),
    "python-3.12": Cell("python-3.12", "the newest of everything", tests=SUBSET),
    "python-3.13": Cell("python-3.13", "the newest of everything", tests=SUBSET),
    "python-3.14": Cell("python-3.14", "the newest of everything", tests=SUBSET),
    "numpy-1.26": Cell("numpy-1.26", "old NumPy and scikit-learn under a new torch", tests=SUBSET),
    "torch-2.6": Cell("torch-2.6", "an old torch under a new Python and NumPy", tests=SUBSET),
    "optimized": Cell("plain", "assertions removed", {"PYTHONOPTIMIZE": "1"}),
    "stripped": Cell("plain", "assertions and docstrings removed", {"PYTHONOPTIMIZE": "2"}),
    "comma": Cell(
        "plain", "a locale that writes 1,5", {"LC_ALL": "de_DE.UTF-8"}, flags=("--locale",)
    ),
    "ascii": Cell(
        "plain",
        "no UTF-8 anywhere",
        {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ),
    "homeless": Cell("plain", "no HOME, and a user without a name", unset=HOMES, nobody=True),
    "read-only": Cell("plain", "site-packages that cannot be written", nobody=True),
    "avx2": Cell("plain", "kernels of AVX2 only", AVX2, tests=SUBSET),
    "baseline": Cell(
        "plain",
        "kernels without AVX2",
        {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"},
        tests=LIGHT,
    ),
    "one-thread": Cell("plain", "one thread", {"OMP_NUM_THREADS": "1"}, flags=("--threads", "1")),
    "two-threads": Cell("plain", "two threads", {"OMP_NUM_THREADS": "2"}, flags=("--threads", "2")),
    "float64": Cell("plain", "float64 as torch's default dtype", flags=("--float64",)),
    **{
        f"without-{extra}": Cell(
            "newest", f"all extras but {extra}", without=(extra,), looks=("import",)
        )
        for extra in ADAPTERS
    },
    "oldest-whole": Cell("oldest", "every quick test", looks=(), whole=True),
    "newest-whole": Cell("newest", "every quick test", looks=(), whole=True),
}
