"""Commands that make a run and look at it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional


@dataclass
class Train:
    """Train a recipe, evaluate it and write its report."""

    recipe: Positional[str]
    """Name of a shipped recipe (see `lowland recipes`), a .toml file, or the recipe.json of a run
    to repeat.
    """
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
        print(
            verbs.train(
                recipe, self.run or _free(Path("runs") / recipe.name), progress=not self.quiet
            )
        )


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
class Evaluate:
    """Measure samples, detection and restoration of a run on its test part, or its likelihood;
    prints the figures as JSON.
    """

    run: Positional[Path]
    """Run directory."""
    likelihood: bool = False
    """Bracket log Z and the test log-likelihood instead, by annealed importance sampling in both
    directions.
    """
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
            figures = verbs.likelihood(
                self.run, chains=self.chains, rungs=self.rungs, progress=not self.quiet
            )
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
            raise ConfigError(
                "no recipe was named; show takes one; for example `lowland recipes show digits`"
            )


@dataclass
class Doctor:
    """Say what this machine has: versions, devices, data found, what is missing and how to get
    it.
    """

    data_root: Path | None = None
    """Where to look for data first."""

    def main(self) -> None:
        from lowland.doctor import examine

        print(examine(self.data_root))


def _free(path: Path) -> Path:
    """The path, or with -2, -3, ... the first that holds no run yet."""
    candidates = [path, *(path.with_name(f"{path.name}-{i}") for i in range(2, 10_000))]
    return next(candidate for candidate in candidates if not (candidate / "recipe.json").exists())
