"""Commands that use a trained run."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional


@dataclass
class Sample:
    """Draw samples into a .npy, .npz or .png file."""

    run: Positional[Path]
    """Run directory, or the name of a shipped run."""
    set: Annotated[list[str], tyro.conf.arg(metavar="A.B=C"), tyro.conf.UseAppendAction]
    """Change how samples are made, e.g. --set generation.num_levels=30; repeat for more."""
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
        print(
            verbs.sample(
                self.run, self.count, self.out, **options, changes=changes, progress=not self.quiet
            )
        )


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
            sys.stdout.write(
                verbs.format_rows(
                    verbs.energies(self.run, self.paths, nominal=self.nominal), self.format
                )
            )
        else:
            print(
                verbs.score(self.run, self.paths, self.out, form=self.format, nominal=self.nominal)
            )
