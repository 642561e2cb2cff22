"""The `lowland` command: the six verbs, plus resume, recipes and doctor. torch is imported only by what needs it."""

import io
import os
import sys
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional


@dataclass
class Train:
    """Train a recipe, evaluate it and write its report."""

    recipe: Positional[str]
    """Name of a shipped recipe (see `lowland recipes`), a .toml file, or the recipe.json of a run to repeat."""
    set: Annotated[list[str], tyro.conf.arg(metavar="A.B=C"), tyro.conf.UseAppendAction]
    """Change a value of the recipe, e.g. --set training.steps=100; repeat for more."""
    run: Path | None = None
    """Run directory, new; runs/NAME unless given."""
    data_root: Path | None = None
    """Where to look for data first (else LOWLAND_DATA, the cache, a download)."""
    quiet: bool = False
    """No progress bar."""

    def main(self) -> None:
        from lowland import verbs
        from lowland.config import parse_overrides, read_recipe

        overrides = parse_overrides(self.set)
        if self.data_root is not None:
            overrides["data.root"] = str(self.data_root)
        recipe = read_recipe(self.recipe, overrides)
        print(verbs.train(recipe, self.run or _free(Path("runs") / recipe.name), progress=not self.quiet))


@dataclass
class Resume:
    """Go on with a run that was stopped; the result equals that of a run that was not."""

    run: Positional[Path]
    """Run directory."""
    quiet: bool = False
    """No progress bar."""

    def main(self) -> None:
        from lowland import verbs

        print(verbs.resume(self.run, progress=not self.quiet))


@dataclass
class Sample:
    """Draw samples into a .npy, .npz or .png file."""

    run: Positional[Path]
    """Run directory, or the name of a shipped run."""
    set: Annotated[list[str], tyro.conf.arg(metavar="A.B=C"), tyro.conf.UseAppendAction]
    """Change how samples are made, e.g. --set generation.levels=30; repeat for more."""
    count: int = 64
    """How many."""
    out: Path = Path("samples.png")
    """File to write; the suffix chooses numbers (.npy, .npz) or a picture grid (.png)."""
    label: int | None = None
    """Class to ask for; all evenly unless given."""
    seed: int = 0
    """Seed of the draws."""
    quiet: bool = False
    """No progress bar."""

    def main(self) -> None:
        from lowland import verbs
        from lowland.config import parse_overrides

        options = {key: getattr(self, key) for key in ("label", "seed")}
        changes = parse_overrides(self.set)
        print(verbs.sample(self.run, self.count, self.out, **options, changes=changes, progress=not self.quiet))


@dataclass
class Energy:
    """Energy, p-value and verdict of images, folders of images, .npy or .npz files."""

    run: Positional[Path]
    """Run directory."""
    paths: Positional[list[Path]]
    """Files or folders."""
    format: Literal["csv", "jsonl"] = "csv"
    """Form of the table."""
    out: Path | None = None
    """File to write; standard output unless given."""
    nominal: float | None = None
    """False-alarm rate that the verdict keeps to; the recipe's unless given."""

    def main(self) -> None:
        from lowland import verbs

        if self.out is None:
            sys.stdout.write(verbs.format_rows(verbs.energies(self.run, self.paths, nominal=self.nominal), self.format))
        else:
            print(verbs.score(self.run, self.paths, self.out, form=self.format, nominal=self.nominal))


@dataclass
class Restore:
    """Denoise or inpaint an image; writes a picture (observed, mean, spread, draws) and its numbers."""

    run: Positional[Path]
    """Run directory."""
    image: Positional[Path]
    """PNG, JPEG or .npy."""
    task: Literal["denoise", "inpaint"] = "denoise"
    """What was done to the image."""
    mask: str = "lower"
    """What to fill in: lower, upper, left, right, centre, or a picture whose white pixels are to be filled."""
    sigma: float | None = None
    """Noise of the known pixels, in units of the data; the recipe's unless given."""
    draws: int | None = None
    """Posterior draws; the recipe's unless given."""
    seed: int = 0
    """Seed of the draws."""
    out: Path | None = None
    """Picture to write; beside the image unless given."""
    quiet: bool = False
    """No progress bar."""

    def main(self) -> None:
        from lowland import verbs

        options = {key: getattr(self, key) for key in ("task", "mask", "sigma", "draws", "seed", "out")}
        print(verbs.restore(self.run, self.image, **options, progress=not self.quiet))


@dataclass
class Evaluate:
    """Measure samples, detection and restoration of a run on its test part, or its likelihood; prints the figures as JSON."""

    run: Positional[Path]
    """Run directory."""
    likelihood: bool = False
    """Bracket log Z and the test log-likelihood instead, by annealed importance sampling in both directions."""
    chains: int = 200
    """Of each direction, with --likelihood."""
    rungs: int = 1000
    """Steps between the base and the energy, with --likelihood; more of them close the bracket."""
    quiet: bool = False
    """Say nothing on the way."""

    def main(self) -> None:
        import json

        from lowland import verbs

        if self.likelihood:
            figures = verbs.likelihood(self.run, chains=self.chains, rungs=self.rungs, progress=not self.quiet)
        else:
            figures = verbs.evaluate(self.run, progress=not self.quiet)
        print(json.dumps(figures, indent=1))


@dataclass
class Report:
    """Write RUN/report.html anew from what the run directory holds."""

    run: Positional[Path]
    """Run directory."""

    def main(self) -> None:
        from lowland import verbs

        print(verbs.report(self.run))


@dataclass
class Recipes:
    """List the shipped recipes, or show one completely: `lowland recipes show digits`."""

    action: Positional[Literal["list", "show"]] = "list"
    """list or show."""
    name: Positional[str] = ""
    """Recipe to show."""

    def main(self) -> None:
        from lowland.config import ConfigError, read_recipe, recipe_names

        if self.action == "list":
            print("\n".join(f"{name:16} {about}" for name, about in recipe_names().items()))
        elif self.name:
            print(read_recipe(self.name).toml())
        else:
            raise ConfigError("no recipe was named; show takes one; for example `lowland recipes show digits`")


@dataclass
class Doctor:
    """Say what this machine has: versions, devices, data found, what is missing and how to get it."""

    data_root: Path | None = None
    """Where to look for data first."""

    def main(self) -> None:
        from lowland.doctor import examine

        print(examine(self.data_root))


def _free(path: Path) -> Path:
    """The path, or with -2, -3, ... the first that holds no run yet."""
    candidates = [path, *(path.with_name(f"{path.name}-{i}") for i in range(2, 10_000))]
    return next(candidate for candidate in candidates if not (candidate / "recipe.json").exists())


VERBS = (Train, Resume, Sample, Energy, Restore, Evaluate, Report, Recipes, Doctor)


def main(arguments: list[str] | None = None) -> None:
    """Entry point. Mistakes of the user end in one message on standard error and exit status 2, without a traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if "--version" in arguments[:1]:
        from lowland import __version__

        print(f"lowland {__version__}")
        return
    rank = int(os.environ.get("RANK", 0))  # of this process, where torchrun started several: the first one speaks
    who = f"lowland (process {rank})" if rank else "lowland"
    verbs: dict[str, Any] = {cls.__name__.lower(): cls for cls in VERBS}
    chosen: Any = tyro.extras.subcommand_cli_from_dict(
        verbs, prog="lowland", description="Energy-based models that people can trust.", args=arguments
    )
    try:
        with redirect_stdout(io.StringIO()) if rank else nullcontext():
            chosen.main()
    except ValueError as error:
        print(f"{who}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("\nlowland: stopped; `lowland resume RUN` goes on from the last checkpoint", file=sys.stderr)
        raise SystemExit(130) from None
    except RuntimeError as error:
        if type(error).__name__ not in ("TrainingStoppedError", "WorkerLostError"):
            raise
        print(f"{who}: {error}", file=sys.stderr)
        raise SystemExit(3) from None


if __name__ == "__main__":
    main()
