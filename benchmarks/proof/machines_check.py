"""Use lowland as it is installed in the Python that runs this, with warnings of its own as errors.

    python -P benchmarks/proof/machines_check.py import
    python -P benchmarks/proof/machines_check.py use [--float64] [--threads 2]

`import` imports every module; one that wants a package of an extra may say so in an ImportError
that names the command. `use` trains a tiny recipe of two runs (vectors and pictures), goes on from
an early checkpoint, samples, scores, restores, writes the report and asks every command for help.
The last line is a summary, or the failure. Nothing of the benchmarks is imported: the file is
handed to interpreters that know lowland alone.
"""

import argparse
import contextlib
import importlib
import io
import locale
import pkgutil
import shutil
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

TINY = {
    "training.steps": 20,
    "training.checkpoint_every": 10,
    "generation.steps": 10,
    "evaluation.samples": 32,
    "evaluation.classifier_steps": 20,
}
PICTURES = TINY | {
    "restoration.count": 4,
    "restoration.steps": 10,
    "restoration.draws": 2,
    "restoration.prior_samples": 50,
}


def import_everything() -> str:
    """Import every module of lowland; return how many, and which want a package of an extra."""
    import lowland

    names, wanting = ["lowland"], []
    for module in pkgutil.walk_packages(lowland.__path__, "lowland.", onerror=lambda name: None):
        if not module.name.endswith("__main__"):
            names.append(module.name)
    for source in sorted(Path(lowland.__path__[0]).rglob("*.py")):
        compile(source.read_bytes(), source, "exec")  # what pip compiled says no warning again
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as problem:
            if "pip install 'lowland[" not in str(problem):
                raise
            wanting.append(name.removeprefix("lowland."))
    missing = f"; want an extra: {', '.join(wanting)}" if wanting else ""
    return f"{len(names) - len(wanting)} of {len(names)} modules{missing}"


def run(*arguments: object) -> str:
    """Run a command of lowland in this process; return what it printed.

    Raises RuntimeError with its words where it fails.
    """
    from lowland.cli import main as call

    out, err = io.StringIO(), io.StringIO()
    status: object = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            call([str(argument) for argument in arguments])
        except SystemExit as stopped:
            status = stopped.code or 0
    if status != 0:
        said = " ".join(err.getvalue().split())
        raise RuntimeError(f"lowland {' '.join(map(str, arguments))} ended with {status}: {said}")
    return out.getvalue()


def train(recipe: str, folder: Path, values: dict[str, int]) -> Path:
    """Train a recipe, and again from its first checkpoint to the same weights."""
    whole, broken = folder / recipe, folder / f"{recipe}-resumed"
    settings = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
    run("train", recipe, "--run", whole, "--quiet", *settings)
    shutil.copytree(whole, broken)
    shutil.rmtree(broken / "step-00000020")
    for name in ("report.html", "evaluation.json"):
        (broken / name).unlink()
    run("resume", broken, "--quiet")
    for made in sorted((whole / "step-00000020").iterdir()):
        again = broken / "step-00000020" / made.name
        if made.suffix == ".safetensors" and made.read_bytes() != again.read_bytes():
            raise RuntimeError(f"{made.name} of {recipe} is another after a resume")
    return whole


def use(folder: Path) -> str:
    """Train, resume, sample, score, restore and report; return what was done."""
    import numpy as np

    from lowland.cli import COMMANDS

    moons, digits = train("moons", folder, TINY), train("digits", folder, PICTURES)
    for of, shape in ((moons, (8, 2)), (digits, (8, 1, 8, 8))):
        samples = folder / f"{of.name}.npy"
        run("sample", of, "--count", 8, "--seed", 0, "--out", samples)
        drawn = np.load(samples)
        if drawn.shape != shape or not np.isfinite(drawn).all():
            raise RuntimeError(f"samples of {of.name} have shape {drawn.shape} or are not finite")
        run("energy", of, samples, "--out", folder / f"{of.name}-energy.csv")
        run("report", of)
        if "</html>" not in (of / "report.html").read_text(encoding="utf-8"):
            raise RuntimeError(f"the report of {of.name} is cut off")
    run("sample", digits, "--count", 8, "--out", folder / "digits.png")
    run("doctor")
    run("recipes")
    for verb in COMMANDS:
        if "usage" not in run(*verb.split(), "--help").lower():
            raise RuntimeError(f"lowland {verb} --help has no usage")
    return f"moons and digits trained, resumed, sampled; {len(COMMANDS)} helps"


@contextlib.contextmanager
def warnings_as_errors() -> Iterator[None]:
    """Raise deprecations that lowland's own lines cause, and syntax that Python warns about."""
    with warnings.catch_warnings():
        for kind in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
            warnings.filterwarnings("error", category=kind, module=r"lowland(\.|$)")
        warnings.filterwarnings("error", category=SyntaxWarning)
        yield


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("import", "use"))
    parser.add_argument("--float64", action="store_true", help="float64 is torch's default dtype")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--locale", action="store_true", help="take the locale of the environment")
    asked = parser.parse_args()
    said = ""
    try:
        if asked.locale:
            locale.setlocale(locale.LC_ALL, "")
            said = f"; 1.5 is written {locale.str(1.5)}"
        import torch

        torch.set_num_threads(asked.threads)
        if asked.float64:
            torch.set_default_dtype(torch.float64)
        with warnings_as_errors():
            if asked.what == "import":
                said = import_everything() + said
            else:
                with tempfile.TemporaryDirectory() as folder:
                    said = use(Path(folder)) + said
    except Exception as problem:
        traceback.print_exc()
        print(f"{type(problem).__name__}: {problem}")
        sys.exit(1)
    print(said)


if __name__ == "__main__":
    main()
