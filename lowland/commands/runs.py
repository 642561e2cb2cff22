"""Commands train, resume, evaluate, report, recipes and doctor."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from lowland.devices import AUTO, pick_device
from lowland.registry import Plain

if TYPE_CHECKING:
    from lowland.data import Dataset
    from lowland.energy import Energy
    from lowland.run import Run


class RecipeLike(Protocol):
    """A recipe that was read: `lowland.config.Recipe`."""

    def plain(self) -> Plain:
        """Return the recipe as plain values."""


def train(
    recipe: str | Path | Mapping[str, object] | RecipeLike,
    /,
    run: str | Path | None = None,
    *,
    set: list[str] = [],  # noqa: B006
    data_root: str | Path | None = None,
    skip_bad: bool = False,
    evaluate: bool = True,
    device: str | None = None,
    quiet: bool = False,
) -> Path:
    """Train a recipe, evaluate it and write its report; return the path of RUN/report.html.

    Args:
        recipe: Name of a shipped recipe (see `lowland recipes`), a .toml file, or the recipe.json
            of a run to repeat.
        run: Run directory, new; runs/NAME unless given.
        set: Change a value of the recipe, e.g. --set training.steps=100; repeat for more.
        data_root: Where to look for data first (else LOWLAND_DATA, the cache, a download).
        skip_bad: Leave out pictures of a folder that cannot be read, and list them; at most half.
        evaluate: Measure the run when it is trained, which may take longer than training;
            `lowland evaluate RUN` does it later.
        device: Where to train and measure, in place of the recipe's training.device: auto (a GPU if
            there is one, else the CPU), cpu, cuda, cuda:1, mps, xpu.
        quiet: No progress bar.
    """
    from lowland.config import parse_overrides, read_recipe
    from lowland.run import Run
    from lowland.training.distributed import launched_team

    overrides = parse_overrides(set)
    if data_root is not None:
        overrides["data.root"] = str(data_root)
    if skip_bad:
        overrides["data.skip_bad"] = True
    if device is not None:
        overrides["training.device"] = str(device)
    source = recipe if isinstance(recipe, str | Path | Mapping) else recipe.plain()
    values = read_recipe(source, overrides).plain()
    place = _choose_free(Path("runs") / values["name"]) if run is None else Path(run)
    if (place / "recipe.json").exists() and launched_team().is_main:
        Run.create(place, {})  # refuses, in words
    return _train_and_report(values, place, quiet, evaluated=evaluate)


def resume(
    run: str | Path,
    /,
    *,
    allow_changes: bool = False,
    evaluate: bool = True,
    device: str | None = None,
    quiet: bool = False,
) -> Path:
    """Go on with a run that was stopped, then evaluate and report; the result equals that of a run
    that was not stopped.

    In RUN/recipe.json training.steps may have been raised, and data.root, data.name,
    training.device, training.threads, training.tensorboard and about may have been changed: other
    changes make it another run and are refused, as are data that changed.

    Args:
        run: Run directory.
        allow_changes: Go on with a recipe or data that were changed all the same, and name each
            change.
        evaluate: Measure the run when it is trained; `lowland evaluate RUN` does it later.
        device: Where to go on and measure, in place of training.device in RUN/recipe.json.
        quiet: No progress bar.
    """
    from lowland.config import read_recipe
    from lowland.run import Run

    found = Run.open(run)
    named = str(found.recipe.get("energy", {}).get("name"))
    if ":" in named or "kept" in found.recipe.get("data", {}):
        return _resume_own(found, device, quiet, allow_changes, evaluate)
    changes = {} if device is None else {"training.device": str(device)}
    recipe = read_recipe(found.path / "recipe.json", changes).plain()
    return _train_and_report(recipe, found.path, quiet, allow_changes, evaluated=evaluate)


def strip(run: str | Path, /, *, quiet: bool = False) -> Path:
    """Remove what a run no longer needs to sample, score and report; return its directory.

    Of all checkpoints the one in use stays, with averaged weights, and with chains or a partner
    where the recipe's [generation] starts from them. Training cannot go on from it afterwards.

    Args:
        run: Run directory.
        quiet: Say nothing of how much room it made.
    """
    from lowland.run import Run
    from lowland.run.thinning import describe_size, strip_run

    found = Run.open(run)
    before = found.size()
    with found.lock():
        strip_run(found)
    if not quiet:
        sizes = f"{describe_size(before)}, now {describe_size(found.size())}"
        print(f"strip: {found.path} held {sizes}", file=sys.stderr)
    return found.path


def evaluate(
    run: str | Path,
    /,
    *,
    likelihood: bool = False,
    chains: int = 200,
    num_temperatures: int = 1000,
    device: str = AUTO,
    quiet: bool = False,
) -> Plain:
    """Measure samples, detection and restoration of a run on its test part, or its likelihood;
    return the figures.

    Args:
        run: Run directory.
        likelihood: Bracket log Z and the test log-likelihood instead, by annealed importance
            sampling in both directions.
        chains: Of each direction, with --likelihood.
        num_temperatures: Intermediate distributions between the base and the energy, with
            --likelihood; more of them close the bracket.
        device: Where to compute: auto (a GPU if there is one, else the CPU), cpu, cuda, cuda:1,
            mps, xpu.
        quiet: Say nothing on the way.
    """
    from tqdm.auto import tqdm

    from lowland.evaluation import evaluate_model, measure_likelihood
    from lowland.run import Run
    from lowland.trained import load
    from lowland.training import cpu_threads

    def say(text: str) -> None:
        if not quiet:
            tqdm.write(f"evaluate: {text}", file=sys.stderr)

    with Run.open(run).lock():
        model = load(run, device=device)
        with cpu_threads(model.threads):
            say(f"on {model.device}")
            if not likelihood:
                return evaluate_model(model, say)
            # both directions, and the chains between them
            total, place = 4 * num_temperatures, str(model.device)
            with tqdm(total=total, desc=place, unit="step", disable=quiet) as bar:
                return measure_likelihood(
                    model,
                    chains=chains,
                    num_temperatures=num_temperatures,
                    say=say,
                    progress=bar.update,
                )


def report(run: str | Path, /) -> Path:
    """Write RUN/report.html anew from what the run directory holds.

    Args:
        run: Run directory.
    """
    from lowland.report import write_report
    from lowland.run import Run

    return write_report(Run.open(run).path)


def recipes(action: Literal["list", "show"] = "list", name: str = "", /) -> str:
    """List the shipped recipes, or show one completely: `lowland recipes show digits`.

    Args:
        action: list or show.
        name: Recipe to show.
    """
    from lowland.config import ConfigError, read_recipe, recipe_names

    if action == "list":
        return "\n".join(f"{name:16} {about}" for name, about in recipe_names().items())
    if not name:
        raise ConfigError(
            "no recipe was named; show takes one; for example `lowland recipes show digits`"
        )
    return read_recipe(name).toml()


def doctor(*, data_root: str | Path | None = None) -> str:
    """List versions, devices and data of this machine, what is missing and how to get it.

    Args:
        data_root: Where to look for data first.
    """
    from lowland.doctor import examine

    return examine(data_root)


def _resume_own(
    run: "Run", device: str | None, quiet: bool, allow_changes: bool, evaluated: bool
) -> Path:
    """Go on with a run of `lowland.fit`, with the examples that it keeps and the network of a
    module that was imported.
    """
    from lowland.trained.own_network import begin_again

    recipe = run.recipe
    if device is not None:
        recipe = {**recipe, "training": {**recipe["training"], "device": str(device)}}
    energy, data = begin_again(run, recipe)
    return _train_and_report(
        recipe, run.path, quiet, allow_changes, evaluated, energy=energy, data=data
    )


def _train_and_report(
    recipe: Plain,
    run: Path,
    quiet: bool,
    allow_changes: bool = False,
    evaluated: bool = True,
    energy: "Energy | None" = None,
    data: "Dataset | None" = None,
) -> Path:
    """Train, evaluate if asked to, and report; after a stop by health, report what went wrong.

    energy, data: in place of what the recipe names.
    """
    from lowland.training import TrainingStoppedError, train_recipe
    from lowland.training.distributed import launched_team

    device = pick_device(recipe["training"]["device"])
    if not quiet and launched_team().is_main:
        print(f"train: on {device}", file=sys.stderr)
    try:
        train_recipe(
            recipe,
            run,
            data=data,
            energy=energy,
            progress=not quiet,
            allow_changes=allow_changes,
        )
    except TrainingStoppedError:
        if launched_team().is_main:
            report(run)
        raise
    if launched_team().is_main:
        if evaluated:
            evaluate(run, device=str(device), quiet=quiet)
        report(run)
        if not quiet:
            _say_size(run)
    return run / "report.html"


def _say_size(run: Path) -> None:
    """Say how large a run is, and how to make it smaller."""
    from lowland.run import Run
    from lowland.run.thinning import describe_size

    size = describe_size(Run(run).size())
    print(f"{run} takes {size}; `lowland strip {run}` keeps weights alone", file=sys.stderr)


def _choose_free(path: Path) -> Path:
    """Return the path, or with -2, -3, ... the first that holds no run yet."""
    candidates = [path, *(path.with_name(f"{path.name}-{i}") for i in range(2, 10_000))]
    return next(candidate for candidate in candidates if not (candidate / "recipe.json").exists())
