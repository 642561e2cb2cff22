"""Commands that make expressions of trained runs: compose, edit, interpolate, predict."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional


def _numbers(text: str, what: str, kind: type) -> list:
    try:
        return [kind(part) for part in text.split(",")] if text else []
    except ValueError:
        raise ValueError(
            f"--{what} is {text!r}; it takes numbers parted by commas, one per run; write for example 1,1"
        ) from None


@dataclass
class Compose:
    """Draw from a weighted sum of the energies of runs on one domain, or as a TOML file says."""

    runs: Positional[list[Path]]
    """Run directories or names of shipped runs; or one .toml file with runs, weights, labels, ... in it."""
    weights: str = ""
    """One number per run, parted by commas; all 1 unless given. A negative one moves away."""
    labels: str = ""
    """One class per run, parted by commas, -1 for none; beside a run of noise it counts as log p(label | clean picture)."""
    count: int = 64
    """How many draws."""
    steps: int = 400
    """Steps of the chains; with a run of noise, in all down its levels."""
    out: Path = Path("composed.png")
    """File to write: a picture grid (.png) or numbers (.npy, .npz)."""
    seed: int = 0
    """Seed of the draws."""
    quiet: bool = False
    """No progress bar."""

    def main(self) -> None:
        from lowland import verbs

        if len(self.runs) == 1 and self.runs[0].suffix == ".toml":
            print(verbs.compose_file(self.runs[0], progress=not self.quiet))
            return
        labels = [None if y < 0 else y for y in _numbers(self.labels, "labels", int)]
        weights = _numbers(self.weights, "weights", float)
        options = {key: getattr(self, key) for key in ("count", "steps", "out", "seed")}
        print(verbs.compose_runs(self.runs, weights=weights, labels=labels, **options, progress=not self.quiet))


@dataclass
class Edit:
    """Move a picture towards a class; writes a strip: the picture, then draws."""

    run: Positional[Path]
    """Run that says what pictures look like."""
    image: Positional[Path]
    """PNG, JPEG, .npy or .npz."""
    label: int
    """Class to move towards."""
    classifier: Path | None = None
    """Run that knows classes; the run itself unless given."""
    weight: float = 1.0
    """How much the class counts."""
    pull: float | None = None
    """How far an edit may go, per pixel; as far as it likes unless given."""
    noise: float = 0.7
    """With a run of noise: the level to which the picture is buried; higher keeps less."""
    steps: int = 300
    """Steps of the chains."""
    draws: int = 4
    """How many edits."""
    seed: int = 0
    """Seed of the draws."""
    out: Path | None = None
    """Picture to write; beside the image unless given."""
    quiet: bool = False
    """No progress bar."""

    def main(self) -> None:
        from lowland import verbs

        names = ("label", "classifier", "weight", "pull", "noise", "steps", "draws", "seed", "out")
        options = {key: getattr(self, key) for key in names}
        print(verbs.edit_image(self.run, self.image, **options, progress=not self.quiet))


@dataclass
class Interpolate:
    """A path of low energy from one picture to another; writes a strip, the straight line below it."""

    run: Positional[Path]
    """Run that says what pictures look like."""
    a: Positional[Path]
    """Where the path begins."""
    b: Positional[Path]
    """Where it ends."""
    points: int = 9
    """Pictures on the path, both ends included."""
    noise: float = 0.3
    """With a run of noise: the level at which its energy is looked at."""
    steps: int = 300
    """Steps of descent."""
    out: Path | None = None
    """Picture to write; beside the first image unless given."""
    quiet: bool = False
    """No progress bar."""

    def main(self) -> None:
        from lowland import verbs

        options = {key: getattr(self, key) for key in ("points", "noise", "steps", "out")}
        print(verbs.interpolate_images(self.run, self.a, self.b, **options, progress=not self.quiet))


@dataclass
class Predict:
    """Draw the channels of a picture that are not known; writes a strip: mean, spread, draws."""

    run: Positional[Path]
    """Run that was trained on question and answer as channels of one picture."""
    image: Positional[Path]
    """PNG, JPEG, .npy or .npz with all channels, what is not known is ignored; or .npy or .npz of the question's alone."""
    known: Annotated[str, tyro.conf.arg(metavar="0,1")] = ""
    """The channels of the question, parted by commas; unless given, those that the run was trained to be asked."""
    draws: int = 8
    """How many answers."""
    levels: int | None = None
    """With a run of noise: levels on the way down; 20 for a run that was trained to be asked, else 60, unless given."""
    steps: int = 500
    """Steps of the chains, for other runs."""
    seed: int = 0
    """Seed of the draws."""
    out: Path | None = None
    """Picture to write; beside the image unless given."""
    quiet: bool = False
    """No progress bar."""

    def main(self) -> None:
        from lowland import verbs

        options = {key: getattr(self, key) for key in ("draws", "levels", "steps", "seed", "out")}
        known = _numbers(self.known, "known", int)
        print(verbs.predict_image(self.run, self.image, known=known, **options, progress=not self.quiet))
