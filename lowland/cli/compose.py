"""Commands that make expressions of trained runs: compose, edit, interpolate, predict."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional


def _numbers(text: str, what: str, kind: type) -> list:
    try:
        return [kind(part) for part in text.split(",")] if text else []
    except ValueError:
        raise ValueError(
            f"--{what} is {text!r}; it takes numbers parted by commas, one per run; write for "
            "example 1,1"
        ) from None


def _given(command: Any, *names: str) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name in names if (value := getattr(command, name)) is not None}


@dataclass
class Compose:
    """Draw from a weighted sum of the energies of runs on one domain, or as a TOML file says."""

    runs: Positional[list[Path]]
    """Run directories or names of shipped runs; or one .toml file with runs, weights, labels, ...,
    changed by options.
    """
    weights: str = ""
    """One number per run, parted by commas; all 1 unless given. A negative one moves away."""
    labels: str = ""
    """One class per run, parted by commas, -1 for none; beside a run of noise it counts as log
    p(label | clean picture).
    """
    count: int | None = None
    """How many draws; 64 unless given."""
    steps: int | None = None
    """Steps of the chains, with a run of noise in all down its levels; 400 unless given."""
    out: Path | None = None
    """File to write: a picture grid (.png) or numbers (.npy, .npz); composed.png unless given."""
    seed: int | None = None
    """Seed of the draws; 0 unless given."""
    quiet: bool = False
    """No progress bar."""

    def main(self) -> None:
        from lowland import verbs

        options = _given(self, "count", "steps", "out", "seed")
        if self.weights:
            options["weights"] = _numbers(self.weights, "weights", float)
        if self.labels:
            options["labels"] = [None if y < 0 else y for y in _numbers(self.labels, "labels", int)]
        if len(self.runs) == 1 and self.runs[0].suffix == ".toml":
            print(verbs.compose_file(self.runs[0], **options, progress=not self.quiet))
        else:
            print(verbs.compose_runs(self.runs, **options, progress=not self.quiet))


@dataclass
class Edit:
    """Move a picture towards a class, or as a TOML file says; writes a strip: the picture, then
    draws.
    """

    run: Positional[Path]
    """Run that says what pictures look like; or a .toml file with run, image, label, ..., changed
    by options.
    """
    image: Positional[Path | None] = None
    """PNG, JPEG, .npy or .npz."""
    label: int | None = None
    """Class to move towards."""
    classifier: Path | None = None
    """Run that knows classes; the run itself unless given."""
    weight: float | None = None
    """How much the class counts; 1 unless given."""
    pull: float | None = None
    """How far an edit may go, per pixel; as far as it likes unless given."""
    noise: float | None = None
    """With a run of noise: the level to which the picture is buried; higher keeps less; 0.7 unless
    given.
    """
    steps: int | None = None
    """Steps of the chains; 300 unless given."""
    draws: int | None = None
    """How many edits; 4 unless given."""
    seed: int | None = None
    """Seed of the draws; 0 unless given."""
    out: Path | None = None
    """Picture to write; beside the image unless given."""
    quiet: bool = False
    """No progress bar."""

    def main(self) -> None:
        from lowland import verbs

        names = (
            "image",
            "label",
            "classifier",
            "weight",
            "pull",
            "noise",
            "steps",
            "draws",
            "seed",
            "out",
        )
        options = _given(self, *names)
        if self.run.suffix == ".toml":
            print(verbs.edit_file(self.run, **options, progress=not self.quiet))
            return
        if self.image is None or self.label is None:
            raise ValueError(
                f"image is {self.image} and --label {self.label}; an edit needs both; write for "
                "example lowland edit mnist four.png --label 9 --classifier mnist-jem"
            )
        print(verbs.edit_image(self.run, **options, progress=not self.quiet))


@dataclass
class Interpolate:
    """A path of low energy from one picture to another, or as a TOML file says; writes a strip, the
    straight line below it.
    """

    run: Positional[Path]
    """Run that says what pictures look like; or a .toml file with run, a, b, ..., changed by
    options.
    """
    a: Positional[Path | None] = None
    """Where the path begins."""
    b: Positional[Path | None] = None
    """Where it ends."""
    points: int | None = None
    """Pictures on the path, both ends included; 9 unless given."""
    noise: float | None = None
    """With a run of noise: the level at which its energy is looked at; 0.3 unless given."""
    steps: int | None = None
    """Steps of descent; 300 unless given."""
    out: Path | None = None
    """Picture to write; beside the first image unless given."""
    quiet: bool = False
    """No progress bar."""

    def main(self) -> None:
        from lowland import verbs

        options = _given(self, "a", "b", "points", "noise", "steps", "out")
        if self.run.suffix == ".toml":
            print(verbs.interpolate_file(self.run, **options, progress=not self.quiet))
            return
        if self.a is None or self.b is None:
            raise ValueError(
                f"the ends are {self.a} and {self.b}; a path needs two pictures; write for example "
                "lowland interpolate mnist one.png seven.png"
            )
        print(verbs.interpolate_images(self.run, **options, progress=not self.quiet))


@dataclass
class Predict:
    """Draw the channels of a picture that are not known; writes a strip: mean, spread, draws."""

    run: Positional[Path]
    """Run that was trained on question and answer as channels of one picture."""
    image: Positional[Path]
    """PNG, JPEG, .npy or .npz with all channels, what is not known is ignored; or .npy or .npz of
    the question's alone.
    """
    known: Annotated[str, tyro.conf.arg(metavar="0,1")] = ""
    """The channels of the question, parted by commas; unless given, those that the run was trained
    to be asked.
    """
    draws: int = 8
    """How many answers."""
    levels: int | None = None
    """With a run of noise: levels on the way down; 20 for a run that was trained to be asked, else
    60, unless given.
    """
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
        print(
            verbs.predict_image(
                self.run, self.image, known=known, **options, progress=not self.quiet
            )
        )
