"""The command that restores."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional


@dataclass
class Restore:
    """Restore an image that was measured badly; writes a picture (observed, mean, spread, draws)
    and its numbers.
    """

    run: Positional[Path]
    """Run directory, or the name of a shipped run."""
    image: Positional[Path]
    """PNG, JPEG or .npy: the measurement, or with --simulate clean images; a folder or an array of
    several too.
    """
    task: Literal[
        "denoise", "inpaint", "superresolve", "strided", "deblur", "compressed", "fourier"
    ] = "denoise"
    """What was done to the image: noise, parts hidden, means of blocks, pixels left out, a blur,
    random combinations, some frequencies."""
    mask: str = "lower"
    """What to fill in: lower, upper, left, right, centre, or a picture whose white pixels are to be
    filled.
    """
    factor: int = 4
    """How much was lost: sides of blocks, pixels for each number kept, twice the width of the blur.
    """
    sigma: float | None = None
    """Noise of the measurement, in units of the data; the recipe's unless given; 0 holds known
    pixels exactly (inpaint).
    """
    draws: int | None = None
    """Posterior draws; the recipe's unless given."""
    method: Literal["sample", "map"] = "sample"
    """Draws of the posterior, or the most likely image alone."""
    simulate: bool = False
    """Measure the image first, with noise: it is clean, and the picture shows it beside."""
    seed: int = 0
    """Seed of the draws."""
    out: Path | None = None
    """Picture to write; beside the image unless given."""
    quiet: bool = False
    """No progress bar."""

    def main(self) -> None:
        from lowland import verbs

        names = ("task", "mask", "factor", "sigma", "draws", "method", "simulate", "seed", "out")
        print(
            verbs.restore(
                self.run,
                self.image,
                **{n: getattr(self, n) for n in names},
                progress=not self.quiet,
            )
        )
